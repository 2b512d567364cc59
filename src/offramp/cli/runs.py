"""offramp runs: what was answered before."""

from __future__ import annotations

import click

from offramp.cli._output import console, json_option, print_json, say


@click.command("runs")
@click.argument("run", required=False)
@click.option("--root", type=click.Path(path_type=str), help="Folder of runs (else $OFFRAMP_RUNS, else ./runs).")
@click.option("--remove", is_flag=True, help="Delete the named run; finished parts that others may use stay.")
@json_option
def command(run: str | None, root: str | None, remove: bool, as_json: bool) -> None:
    """Lists runs, newest first; with RUN (an id or its beginning) prints that run's Result as JSON."""
    from offramp.app import runs as store

    if run and remove:
        say(f"removed {store.remove_run(root, run)}")
        return
    if run:
        print_json(store.read_result(root, run))
        return
    result = store.runs(root)
    if as_json:
        print_json(result)
        return
    _show(result)


def _show(result: object) -> None:
    from rich.table import Table

    from offramp.core.result import Result

    assert isinstance(result, Result)
    rows = result.answer["runs"]
    if not rows:
        say(f"No runs below {result.answer['root']}.")
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("run", "study", "status", "updated (UTC)", "size"):
            table.add_column(name, overflow="fold")
        for row in rows:
            size = f"{row['size_bytes'] / 1000:.0f} kB"
            table.add_row(row["id"], row["title"], row["status"], str(row["updated"])[:16], size)
        console().print(table)
    for name in result.answer["unreadable"]:
        say(f"{name}: no readable manifest; not a run, or damaged.")
