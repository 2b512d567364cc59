"""offramp chips: the accelerators of the catalogue, with every figure and its source."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices

if TYPE_CHECKING:
    from rich.console import Console

    from offramp.core.result import Result

SHORT = {
    "measured-by-vendor": "measured (vendor)", "measured-by-third-party": "measured", "vendor-claim": "vendor",
    "analyst-estimate": "analyst", "press": "press", "assumed": "assumed",
}  # fmt: skip
Cited = dict[tuple[str, str, str], int]
"""Number of each source (title, address, date) in the list below the tables."""
SOLID = ("measured-by-vendor", "measured-by-third-party", "vendor-claim")


@click.command("chips")
@click.argument("chip", required=False)
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="Only what was known on that day.")
@click.option("--computable", is_flag=True, help="List only chips that need no bounds mode.")
@json_option
def command(chip: str | None, as_of: dt.datetime | None, computable: bool, as_json: bool) -> None:
    """Lists chips, or shows CHIP (id or alias) with every figure, source, disagreement and gap."""
    from offramp.app.chips import chips

    result = chips(chip, as_of=as_of.date() if as_of else None)
    if as_json:
        print_json(result)
    elif chip:
        _show_one(result)
    else:
        _show_list(result, only_computable=computable)


def _show_list(result: Result, *, only_computable: bool) -> None:
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("chip", no_wrap=True)
    for title in ("BF16\nTF/s", "FP8\nTF/s", "INT8\nTOPS", "mem\nGB", "mem\nTB/s", "link\nGB/s", "power\nW"):
        table.add_column(title, justify="right", no_wrap=True)
    shown = ""
    for row in result.answer["chips"]:
        if only_computable and not row["computable"]:
            continue
        vendor, _, name = row["id"].partition("/")
        if vendor != shown:
            table.add_row(*([""] if shown else []))
            table.add_row(f"{vendor}/", style="bold")
            shown = vendor
        cells = (_cell(row[key], scale) for key, scale in _scales())
        table.add_row(f" {name}", *cells, style="" if row["computable"] else "dim")
    out.print(table)
    out.print(
        "\nDense peaks; link is one direction; all per package. Plain: data sheet or measurement; ~ press, analyst or "
        "assumed; ? no source; a-b no source, admissible range. Dim: bounds mode only, or not at all. "
        '"offramp chips VENDOR/CHIP" shows every source.',
        style="dim",
    )
    out.print(f"{result.answer['computable']} of {result.answer['count']} chips are computable.")


def _scales() -> tuple[tuple[str, float], ...]:
    from offramp.core.units import GIGA, TERA

    return (
        ("peak_bf16", TERA), ("peak_fp8", TERA), ("peak_int8", TERA), ("memory_capacity", GIGA),
        ("memory_bandwidth", TERA), ("scaleup_bandwidth", GIGA), ("tdp", 1.0),
    )  # fmt: skip


def _cell(figure: dict[str, Any] | None, scale: float) -> str:
    if figure is None:
        return "?"
    if "si" in figure:
        mark = "" if figure["confidence"] in SOLID else "~"
        printed = figure["unit"] in ("GB", "GiB")  # memory is shown as it is sold: 64, not 68.7
        return mark + _short(figure["value"] if printed else figure["si"] / scale)
    low, high = figure["low_si"] / scale, figure["high_si"] / scale
    if high >= 1000:
        return f"{low / 1000:.2g}-{high / 1000:.2g}k"
    return f"{_short(low)}-{_short(high)}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2g}"


def _show_one(result: Result) -> None:
    out, answer = console(), result.answer
    out.print(f"{answer['name']}", style="bold", end="", markup=False)
    out.print(f"   {answer['id']} · {answer['vendor']} · {answer['family']}", style="dim", markup=False)
    unit = f"one {answer['package']}"
    if answer["devices"] > 1:
        unit += f" = {answer['devices']} torch devices"
    facts = [unit, answer["process"], answer["launched"], answer["status"], answer["stack"]]
    out.print(" · ".join(fact for fact in facts if fact), markup=False)
    for label, key in (("takes", "dtypes"), ("engines", "engines"), ("systems", "systems"), ("also", "aliases")):
        if answer[key]:
            out.print(f"{label}: {', '.join(answer[key])}", markup=False)
    for entry in answer["mixture"]:
        weight = entry["weight"]
        out.print(
            f"may mean {entry['chip']} ({weight['value']:.0%}, assumed {weight['low']:.0%} to {weight['high']:.0%})",
            markup=False,
        )
    for note in answer["notes"]:
        out.print(f"- {note}", markup=False)
    cited: Cited = {}
    _figure_table(out, answer, cited)
    _price_table(out, answer, cited)
    if cited:
        out.print()
        for (source, url, day), number in cited.items():
            out.print(f"[{number}] {source}, {day}", markup=False)
            out.print(f"    {url}", style="dim", markup=False, soft_wrap=True)
    print_notices(result)


def _figure_table(out: Console, answer: dict[str, Any], cited: Cited) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for title in ("figure", "value", "range", "evidence"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("value", "range") else "left")
    table.add_column("source, note")
    rows = [(name, index, fig) for name, figs in answer["figures"].items() for index, fig in enumerate(figs)]
    for name, index, figure in rows:
        table.add_row("  or" if index else name, *_figure_cells(figure, cited), style="dim" if index else "")
    for name, figure in answer["bounds"].items():
        table.add_row(name, "no source", *_figure_cells(figure, cited)[1:], style="yellow")
    if rows or answer["bounds"]:
        out.print()
        out.print(table)


def _price_table(out: Console, answer: dict[str, Any], cited: Cited) -> None:
    from rich.table import Table

    entries = [("price", price) for price in answer["prices"]] + [("rent", rent) for rent in answer["rents"]]
    if not entries:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for title in ("per package", "value", "range", "evidence"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("value", "range") else "left")
    table.add_column("source, note")
    for kind, figure in entries:
        table.add_row(kind, *_figure_cells(figure, cited))
    out.print()
    out.print(table)


def _figure_cells(figure: dict[str, Any], cited: Cited) -> tuple[str, ...]:
    from rich.markup import escape

    low, high = figure["low"], figure["high"]
    ranged = f"{_plain(low)}-{_plain(high)}" if low is not None and high is not None and low != high else ""
    note = figure["note"]
    if figure["url"]:
        key = (figure["source"], figure["url"], figure["as_of"])
        text = f"[{cited.setdefault(key, len(cited) + 1)}]" + (f" {note}" if note else "")
    else:
        text = figure["source"].removeprefix("assumed: ") + (f"; {note}" if note else "")
    return f"{_plain(figure['value'])} {figure['unit']}", ranged, SHORT[figure["confidence"]], escape(text)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10000 else f"{value:.5g}"
