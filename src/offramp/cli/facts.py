"""offramp facts: check proposed facts, list stale ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from offramp.cli._output import json_option, print_json

if TYPE_CHECKING:
    from offramp.core.result import Result


@click.group("facts")
def command() -> None:
    """Propose facts to the catalogue, and see which have grown old."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=str))
@json_option
def check(file: str, as_json: bool) -> None:
    """Names every problem of the figures in FILE.toml, and where they disagree with the catalogue."""
    from offramp.app.facts import facts_check

    result = facts_check(file)
    _show(result, as_json)
    if not result.answer["ok"]:
        raise SystemExit(2)


@command.command("stale")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), default=None, help="The day to judge by (today).")
@json_option
def stale(as_of: object, as_json: bool) -> None:
    """Lists figures older than their shelf life, oldest first."""
    import datetime as dt

    from offramp.app.facts import facts_stale

    _show(facts_stale(today=as_of.date() if isinstance(as_of, dt.datetime) else None), as_json)


def _show(result: Result, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    answer = result.answer
    if "problems" in answer:
        for row in answer["problems"]:
            click.echo(f"{row['level']}: {answer['file']}:{row['path']}: {row['what']}. {row['mend']}".rstrip())
        click.echo(f"{answer['sound']} of {answer['figures']} figures are sound.")
        return
    for row in answer["stale"]:
        click.echo(
            f"{row['age_days']:>5} days (fresh for {row['shelf_life_days']}): {row['id']}, {row['as_of']}, "
            f"{row['source']}"
        )
    click.echo(f"{len(answer['stale'])} of {answer['checked']} figures are older than their shelf life.")
