"""``offramp supply``: cards by vendor and quarter."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices, say

if TYPE_CHECKING:
    from offramp.core.result import Result


@click.command("supply")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="Use only what was known on that day.")
@click.option("--vendor", default="", help='A vendor id, "all-domestic" or "all-foreign".')
@click.option("--draws", default=1000, show_default=True, help="Joint draws.")
@click.option("--to", "last", default="2028Q4", show_default=True, help="Last quarter.")
@click.option("--seed", default=0, show_default=True, help="Master seed.")
@click.option("--backtest", is_flag=True, help="Score replayed forecasts against later reports (Markdown).")
@click.option("--out", type=click.Path(path_type=str), metavar="DIR", help="Also write report.html there.")
@json_option
def command(
    as_of: datetime | None, vendor: str, draws: int, last: str, seed: int, backtest: bool, out: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """How many accelerators reach the Chinese market each quarter, and what drives it."""
    from offramp.app import supply as app

    if backtest:
        result = app.backtest(draws=draws, seed=seed)
    else:
        result = app.supply(as_of.date() if as_of else None, vendor=vendor, draws=draws, seed=seed, last=last)
    where = None
    if out is not None:
        from offramp.report import write

        where = write(result, out)
    if as_json:
        print_json(result)
    elif backtest:
        click.echo(backtest_markdown(result))
    else:
        _show(result, vendor)
        print_notices(result)
    if where is not None:
        say(f"Report: {where}")


def backtest_markdown(result: Result) -> str:
    """The tables of a back-test as Markdown."""
    head = ("as of", "outcome", "reported", "forecast: median (10 % to 90 %)", "quantile", "in the 80 % band")
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|---|"]
    for row in result.tables["scores"].dicts():
        share = "share" in str(row["outcome"])
        p10, p50, p90, value = (_number(row[name], share) for name in ("p10", "p50", "p90", "reported"))
        inside = "yes" if row["inside"] else "**no**"
        cells = (row["as_of"], row["outcome"], value, f"{p50} ({p10} to {p90})", f"{row['quantile']:.2f}", inside)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    answer = result.answer
    lines += ["", f"{answer['inside_80_percent_band']} of {answer['forecasts']} outcomes lie in their 80 % band.", ""]
    lines += ["| outcome | source | said on | forecast | reported | ratio |", "|---|---|---|---|---|---|"]
    for row in result.tables["sources"].dicts():
        cards, value = _number(row["forecast"], False), _number(row["reported"], False)
        lines.append(
            f"| {row['outcome']} | {row['source']} | {row['as_of']} | {cards} | {value} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def _number(value: object, share: bool) -> str:
    number = float(value) if isinstance(value, (int, float)) else 0.0
    return f"{number:.0%}".replace("%", " %") if share else f"{_k(number)} k" if number >= 10_000 else f"{number:,.0f}"


def _show(result: Result, vendor: str) -> None:
    from rich.table import Table

    out = console()
    answer = result.answer
    years = sorted({year for band in answer["cards_by_year"].values() for year in band})
    style: dict[str, Any] = {"box": None, "header_style": "dim", "title_justify": "left", "title_style": "bold"}
    title = f"Thousand cards a year as of {answer['as_of']}: median (10 % to 90 %)"
    table = Table(title=title, **style)
    table.add_column("vendor", no_wrap=True)
    for year in years:
        table.add_column(year, justify="right", no_wrap=True)
    for name, bands in answer["cards_by_year"].items():
        table.add_row(name, *(_band(bands[year]) for year in years))
    out.print(table)
    if vendor:
        _show_ramp(result, vendor)
    tornado = Table(title=result.tables["tornado"].title, **style)
    for title in ("input", "rank", "k at low fifth", "k at high"):
        tornado.add_column(title, justify="left" if title == "input" else "right")
    for row in answer["tornado"]["inputs"]:
        tornado.add_row(
            row["input"], f"{row['rank_correlation']:+.2f}", _k(row["cards_at_low"]), _k(row["cards_at_high"])
        )
    out.print(tornado)


def _show_ramp(result: Result, vendor: str) -> None:
    from rich.table import Table

    ramp = Table(title=f"Thousand cards a quarter, {vendor}", box=None, header_style="dim", title_justify="left")
    for title in ("quarter", "10 %", "median", "90 %"):
        ramp.add_column(title, justify="right")
    for row in result.tables["ramps"].dicts():
        ramp.add_row(str(row["quarter"]), *(_k(float(row[name] or 0.0)) for name in ("p10", "p50", "p90")))
    console().print(ramp)


def _band(band: dict[str, float]) -> str:
    return f"{_k(band['p50'])} ({_k(band['p10'])}-{_k(band['p90'])})"


def _k(cards: float) -> str:
    return f"{cards / 1000:,.0f}"
