"""offramp validate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_notices, say

if TYPE_CHECKING:
    from offramp.core.result import Result


@click.command("validate")
@click.argument("file", type=click.Path())
@click.option("--by", default="chip,engine,metric", show_default=True, help="Columns to group errors by.")
@click.option("--calibration", type=click.Path(), help="Parameter file; the shipped one if absent.")
@click.option("--chip", default="", help="Chip of rows that do not name one.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="What the file does not say; repeatable.")
@click.option("--simulate", is_flag=True, help="Play each run in the serving simulator as well; slower.")
@json_option
def command(
    file: str, by: str, calibration: str | None, chip: str, settings: tuple[str, ...], simulate: bool, as_json: bool
) -> None:
    """Predict every row of a file of measurements and print the errors.

    FILE is a CSV in the serving schema (docs/validation.md) or a file of a known benchmark tool, of which --set says
    what the tool does not record (chips=8, layout="TP8", engine="vllm 0.11.0"). Rows that cannot be predicted are
    listed by reason.
    """
    from offramp.app.validate import validate

    columns = tuple(name.strip() for name in by.split(",") if name.strip())
    result = validate(
        file, by=columns, calibration=calibration, chip=chip, settings=settings, progress=say, simulate=simulate
    )
    if as_json:
        click.echo(json.dumps(result.answer))
        return
    _print(result, columns)


def _print(result: Result, by: tuple[str, ...]) -> None:
    from rich.table import Table

    out = console()
    table = Table(title="Predicted beside measured", title_justify="left", box=None, padding=(0, 1))
    for name in by:
        table.add_column(name, no_wrap=False, overflow="fold")
    for name in ("rows", "median", "p90", "bias", "in 80 %", "roofline", "floors"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in result.answer["groups"]:
        table.add_row(*(str(group[name]) for name in by), *_cells(group))
    out.print(table)
    for entry in result.answer["unpredicted"]:
        out.print(f"not predicted, {entry['rows']:>5}: {entry['reason']}", markup=False)
    rejected = result.answer["rejected"]
    if rejected:
        out.print(f"rejected, {len(rejected)} rows whose own numbers disagree:", markup=False)
        for entry in rejected[:10]:
            out.print(f"  {entry['id']}: {entry['why']}", markup=False)
        if len(rejected) > 10:
            out.print(f"  ... and {len(rejected) - 10} more (--json lists all)", markup=False)
    print_notices(result)


def _cells(group: dict[str, Any]) -> list[str]:
    def share(name: str) -> str:
        return "" if group[name] is None else f"{group[name]:.0%}"

    bias = "" if group["bias"] is None else f"{group['bias']:+.2f}"
    floors = f"{group['floors_hold']}/{group['floors']}" if group["floors"] else ""
    return [
        str(group["rows"]),
        share("median_ape"),
        share("p90_ape"),
        bias,
        share("coverage"),
        share("roofline_ape"),
        floors,
    ]
