"""offramp diff: what changed between two runs, and why."""

from __future__ import annotations

import click

from offramp.cli._output import console, json_option, print_json, print_notices


@click.command("diff")
@click.argument("before")
@click.argument("after")
@click.option("--root", type=click.Path(path_type=str), help="Folder of runs (else $OFFRAMP_RUNS, else ./runs).")
@click.option("--most", default=25, show_default=True, help="Changes shown.")
@json_option
def command(before: str, after: str, root: str | None, most: int, as_json: bool) -> None:
    """What changed from run BEFORE to run AFTER (ids, folders, or files written by --json), and what they rest on."""
    from rich.table import Table
    from rich.text import Text

    from offramp.app.diff import diff

    result = diff(before, after, root=root)
    if as_json:
        print_json(result)
        return
    out, answer = console(), result.answer
    out.print(answer["headline"] + ".", style="bold", markup=False)
    for reason in answer["reasons"]:
        out.print(f"- {reason}", markup=False)
    table = Table(box=None, header_style="dim")
    for name in ("where", "before", "after", "change"):
        table.add_column(name, justify="left" if name == "where" else "right", overflow="fold")
    for row in answer["changes"][:most]:
        change = "" if row["change"] is None else f"{row['change']:.0%}"
        table.add_row(Text(row["where"]), _show(row["before"]), _show(row["after"]), change)
    out.print(table)
    left = len(answer["changes"]) - most
    if left > 0:
        out.print(f"... and {left} more; --json lists all.", style="dim")
    for row in answer["figures"][:10]:
        if row["before"] is not None and row["after"] is not None:
            out.print(f"- {row['figure']}: {row['before']:g} became {row['after']:g} {row['unit']}", markup=False)
    print_notices(result)


def _show(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:,.4g}"
    return str(value)
