"""offramp sources: where every figure behind one id comes from."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from offramp.cli._output import console, json_option, print_json, print_notices

if TYPE_CHECKING:
    from offramp.core.result import Result


@click.command("sources")
@click.argument("item")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="Only what was known on that day.")
@json_option
def command(item: str, as_of: dt.datetime | None, as_json: bool) -> None:
    """Shows the sources of ITEM: a chip, system, engine, market figure, or one figure ("nvidia/h20#tdp")."""
    from offramp.app.sources import sources

    result = sources(item, as_of=as_of.date() if as_of else None)
    if as_json:
        print_json(result)
        return
    _show(result)


def _show(result: Result) -> None:
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    for number, source in enumerate(result.answer["sources"], start=1):
        out.print(Text(f"{number}. {source['source']}", style="bold"))
        where = source["url"] or "no address"
        out.print(Padding(Text(f"{source['confidence']} · {source['as_of']} · {where}", style="dim"), (0, 0, 0, 3)))
        used = [statement for statement in result.answer["statements"] if statement["id"] in source["used_for"]]
        for row in used:
            name = row["id"].rpartition("#")[2] if "#" in row["id"] else row["id"]
            value = "" if row["value"] is None else f" = {row['value']:.6g} {row['unit']}"
            if row["low"] is not None and row["low"] != row["high"]:
                value += f" ({row['low']:.6g} to {row['high']:.6g})"
            note = f": {row['note']}" if row["note"] else ""
            out.print(Padding(Text(f"{name}{value}{note}"), (0, 0, 0, 3)))
        out.print()
    print_notices(result)
