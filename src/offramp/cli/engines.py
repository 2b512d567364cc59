"""offramp engines: serving software by chip, model, data type and feature, since which version."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_json

if TYPE_CHECKING:
    from offramp.core.result import Result

KINDS = {"chip": "runs on", "model": "models", "dtype": "weights", "kv-dtype": "KV cache", "feature": "features"}
MARK = {"yes": "[green]yes[/]", "no": "[red]no[/]", "unknown": "[yellow]?[/]"}


@click.command("engines")
@click.argument("engine", required=False)
@click.option("--chip", help="Only engines, or statements, that concern this chip.")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="Only releases up to that day.")
@json_option
def command(engine: str | None, chip: str | None, as_of: dt.datetime | None, as_json: bool) -> None:
    """Lists engines, or shows ENGINE with its releases and every support statement and source."""
    from offramp.app.engines import engines

    result = engines(engine, chip_id=chip, as_of=as_of.date() if as_of else None)
    if as_json:
        print_json(result)
    elif engine:
        _show_one(result)
    else:
        _show_list(result, chip)


def _show_list(result: Result, chip: str | None) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for title in ("engine", "version", "date"):
        table.add_column(title, no_wrap=True)
    table.add_column(f"on {chip}" if chip else "runs on")
    for row in result.answer["engines"]:
        last = f"{MARK[row['on_chip']]}: {row['why']}" if chip else row["chips"]
        table.add_row(row["id"], row["version"] or "not known", row["date"], last)
    console().print(table)


def _show_one(result: Result) -> None:
    from rich.markup import escape
    from rich.table import Table

    out, answer = console(), result.answer
    row = answer["engines"][0]
    out.print(row["name"], style="bold", end="", markup=False)
    out.print(f"   {row['id']} · {row['vendor']} · {row['kind']} · {row['url']}", style="dim", markup=False)
    if row["version"]:
        out.print(f"current: {row['version']} of {row['date']}", markup=False)
    for note in answer["notes"]:
        out.print(f"- {note}", markup=False)
    urls: dict[str, int] = {}
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("what")
    table.add_column("", no_wrap=True)
    table.add_column("version", no_wrap=True)
    table.add_column("where; source")
    shown = ""
    for fact in sorted(answer["facts"], key=lambda fact: list(KINDS).index(fact["kind"])):
        head = "" if fact["kind"] == shown else KINDS[fact["kind"]]
        if head and shown:
            table.add_row("")
        shown = fact["kind"]
        table.add_row(head, _what(fact), MARK[fact["answer"]], _version(fact), escape(_where(fact, urls)))
    out.print()
    out.print(table)
    out.print(
        "\nWhere two statements meet, the later one decides. since: first version; in: seen in that version.",
        style="dim",
    )
    releases = ", ".join(f"{v['version']} ({v['date']})" for v in answer["versions"])
    if releases:
        out.print(f"Releases: {releases}.", markup=False)
    for url, number in urls.items():
        out.print(f"[{number}] {url}", style="dim", markup=False, soft_wrap=True)


def _what(fact: dict[str, Any]) -> str:
    names = fact["chips"] if fact["kind"] == "chip" else fact["names"]
    return "all" if names == "*" else names.replace("ForCausalLM", "").replace("ForConditionalGeneration", "")


def _version(fact: dict[str, Any]) -> str:
    return f"since {fact['since']}" if fact["since"] else f"in {fact['seen']}" if fact["seen"] else ""


def _where(fact: dict[str, Any], urls: dict[str, int]) -> str:
    parts: list[str] = []
    if fact["kind"] != "chip" and fact["chips"] != "*":
        parts.append(f"on {fact['chips']}")
    if fact["architectures"] != "*":
        parts.append(f"for {fact['architectures']}")
    if fact["note"]:
        parts.append(fact["note"])
    number = urls.setdefault(fact["url"], len(urls) + 1)
    return "; ".join([*parts, f"{fact['source']} [{number}], {fact['as_of']}"])
