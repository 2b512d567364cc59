"""offramp check: every problem of a study file."""

from __future__ import annotations

import sys

import click

from offramp.cli._output import json_option, print_json, say


@click.command("check")
@click.argument("study", type=click.Path(path_type=str))
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a setting; repeatable.")
@json_option
def command(study: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Names every problem of STUDY.toml at once: path, reason, near miss. Solves nothing.

    Exit code 2 when there is an error; warnings alone exit 0.
    """
    from offramp.app.check import check

    result = check(study, overrides=overrides)
    if as_json:
        print_json(result)
    else:
        for row in result.answer["problems"]:
            click.echo(f"{row['level']}: {study}:{row['path']}: {row['what']}. {row['mend']}".rstrip())
        count = ", ".join(
            f"{result.answer[f'{what}s']} {what}{'s' * (result.answer[f'{what}s'] != 1)}"
            for what in ("error", "warning")
        )
        say(f"{study}: sound ({count})." if result.answer["ok"] else f"{study}: {count}.")
    if not result.answer["ok"]:
        sys.exit(2)
