"""``offramp scan``: what in the code ties it to CUDA."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, print_notices, say

if TYPE_CHECKING:
    from offramp.core.result import Result

EXIT_NEW = 1
"""Exit code of a scan with --baseline that finds something new."""


@click.command("scan")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--target", required=True, metavar="CHIP", help='Chip to move to ("huawei/ascend-910b2").')
@click.option(
    "--torch",
    "torch",
    default="2.9",
    show_default=True,
    metavar="VERSION",
    help="torch version that the port may rely on.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "sarif", "html"]),
    default="table",
    show_default=True,
    help="What to print.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="Known findings; only new ones are shown. Written when missing. Exit code 1 on new ones.",
)
@click.option("--fix", is_flag=True, help="Print the mechanical fixes as a patch.")
@click.option("--write", is_flag=True, help="With --fix: change the files.")
@click.option("--out", type=click.Path(path_type=Path), help="Write there, not to stdout.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that remembers unchanged files between scans.")
def command(
    path: Path,
    target: str,
    torch: str,
    form: str,
    baseline: Path | None,
    fix: bool,
    write: bool,
    out: Path | None,
    cache: Path | None,
) -> None:
    """What in the code at PATH ties it to CUDA, what replaces it on a chip, and how much work that is.

    Reads Python, C++, CUDA, Triton, Docker, Kubernetes, Slurm, CI, build and configuration files; runs none of them.
    """
    if fix or write:
        _fix(path, target=target, torch=torch, write=write, out=out)
        return
    from offramp.app.scan import scan

    new = baseline is not None and baseline.exists()
    result = scan(path, target=target, torch=torch, baseline=baseline, cache=cache)
    text = _render(result, form)
    if out is not None:
        _save(out, text)
        say(f"Wrote {out}.")
    elif form == "table":
        _print_table(result)
    else:
        click.echo(text)
    if new and result.answer["findings"]:
        sys.exit(EXIT_NEW)


def _render(result: Result, form: str) -> str:
    """The Result in one of the text formats; "" for the table, which prints itself."""
    import json

    if form == "json":
        from offramp.app.scan import to_json

        return to_json(result)
    if form == "sarif":
        from offramp.app.scan import to_sarif

        return json.dumps(to_sarif(result), indent=1)
    if form == "html":
        from offramp.report.scan import scan_html

        return scan_html(result)
    return _table_text(result)


def _save(out: Path, text: str) -> None:
    from offramp.core.errors import BackendError

    try:
        out.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    except OSError as error:
        raise BackendError(f"cannot be written: {error.strerror}", where=str(out)) from None


def _fix(path: Path, *, target: str, torch: str, write: bool, out: Path | None) -> None:
    from offramp.app.scan import fix

    fixed = fix(path, target=target, torch=torch, write=write)
    if out is not None:
        _save(out, fixed.answer["patch"])
        say(f"Wrote {out}.")
    elif not write:
        click.echo(fixed.answer["patch"], nl=False)
    verb = "Changed" if write else "Would change"
    say(f"{verb} {fixed.answer['replacements']} places in {fixed.answer['files']} files.")


def _table_text(result: Result) -> str:
    import io

    from rich.console import Console

    buffer = io.StringIO()
    _print_answer(Console(file=buffer, width=140, highlight=False), result)
    return buffer.getvalue()


def _print_table(result: Result) -> None:
    _print_answer(console(), result)
    print_notices(result)


def _print_answer(out: Any, result: Result) -> None:
    answer = result.answer
    days = answer["engineer_days"]
    out.print(answer["verdict"], markup=False, style="bold")
    out.print(
        f"{answer['files']} files, {answer['lines']} lines: {answer['findings_count']} findings with "
        f"{answer['places_count']} places in {answer['groups_count']} groups; "
        f"{answer['guarded']} places are guarded already.",
        markup=False,
    )
    if not answer["findings_count"]:
        _print_files(out, answer)
        return
    out.print(
        f"Work: about {days['mid']:g} engineer-days ({days['low']:g} to {days['high']:g}); "
        f"{answer['engineer_days_basis']}.",
        markup=False,
    )
    for title, key in (
        ("Before the first run", "before_first_run"),
        ("For full speed", "for_full_speed"),
        ("Later", "later"),
    ):
        part = answer[key]
        spent = part["engineer_days"]
        out.print(
            f"{title}: {part['places']} places in {part['groups']} groups, "
            f"{spent['mid']:g} days ({spent['low']:g} to {spent['high']:g})",
            markup=False,
        )
    _print_groups(out, answer["groups"][:20])
    if len(answer["groups"]) > 20:
        out.print(f"... and {len(answer['groups']) - 20} more groups; --format json or html lists all.", style="dim")
    _print_entries(out, answer)
    _print_files(out, answer)


NARROW = 120
"""Terminals narrower than this get a list: a table of eight columns would break every word."""


def _print_groups(out: Any, groups: list[dict[str, Any]]) -> None:
    from textwrap import fill

    from rich.table import Table as RichTable

    title = "What a porter does first"
    if out.width < NARROW:
        out.print(title, style="italic")
        for group in groups:
            count = group["occurrences"]
            head = f"{group['rank']:>3}. {group['effort']} {group['class']}: {group['symbol']}"
            tail = f"{count} place{'s' if count > 1 else ''}, {group['days']:.1f} days, first {group['first'][0]}"
            out.print(head, markup=False, style="bold")
            out.print(f"     {tail}", markup=False, soft_wrap=True)
            out.print(
                fill(
                    f"instead: {group['replacement']}",
                    out.width - 1,
                    initial_indent=" " * 5,
                    subsequent_indent=" " * 14,
                ),
                markup=False,
            )
        return
    table = RichTable(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for name in ("#", "effort", "class", "symbol", "places", "days", "instead", "first"):
        table.add_column(name, overflow="fold", justify="right" if name in ("#", "places", "days") else "left")
    for group in groups:
        cells = (
            group["rank"],
            group["effort"],
            group["class"],
            group["symbol"],
            group["occurrences"],
            f"{group['days']:.1f}",
            group["replacement"],
            group["first"][0],
        )
        table.add_row(*(_plain(str(cell)) for cell in cells))
    out.print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _print_entries(out: Any, answer: dict[str, Any]) -> None:
    from rich.table import Table as RichTable

    if not answer["entry_points"]:
        return
    table = RichTable(
        title="By entry point (what its imports reach)", title_justify="left", show_edge=False, pad_edge=False
    )
    for name in ("entry", "files", "places", "before first run", "hardest", "days"):
        table.add_column(name, overflow="fold", justify="left" if name in ("entry", "hardest") else "right")
    for row in answer["entry_points"][:10]:
        cells = (
            row["entry"],
            row["files"],
            row["places"],
            row["before_first_run"],
            row["hardest"],
            f"{row['engineer_days']:g}",
        )
        table.add_row(*(_plain(str(cell)) for cell in cells))
    out.print(table)


def _print_files(out: Any, answer: dict[str, Any]) -> None:
    for note in answer["files_noted"][:10]:
        out.print(f"! {note['path']}: {note['text']}", style="yellow", markup=False)
    if len(answer["files_noted"]) > 10:
        out.print(f"! ... and {len(answer['files_noted']) - 10} more files with notes", style="yellow")
