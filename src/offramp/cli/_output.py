"""How commands print: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from offramp.core.result import Result

json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print the Result as JSON.")


def console(*, stderr: bool = False) -> Console:
    """A console that colours only a terminal and honours NO_COLOR; 100 columns where there is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "100"))
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def say(text: str) -> None:
    """One line of progress on stderr."""
    click.echo(text, err=True)


def print_json(result: Result) -> None:
    """The Result as JSON on stdout."""
    click.echo(result.to_json())


def print_notices(result: Result) -> None:
    """Warnings, horizon and evidence of a Result, after its tables, on stdout."""
    out = console()
    places: dict[str, list[str]] = {}
    for notice in result.warnings:
        places.setdefault(notice.text, []).append(notice.where)
    for text, found in places.items():
        where = ", ".join(place for place in dict.fromkeys(found) if place)
        out.print(f"! {where}: {text}" if where else f"! {text}", style="yellow", markup=False)
    kinds: dict[str, int] = {}
    for figure in result.figures:
        kinds[figure.confidence] = kinds.get(figure.confidence, 0) + 1
    evidence = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    horizon = result.knowledge_horizon.isoformat() if result.knowledge_horizon else "none"
    if evidence:
        out.print(f"Rests on {len(result.figures)} figures ({evidence}); newest fact {horizon}.", style="dim")
    if result.disclaimer:
        out.print(result.disclaimer, style="dim")
