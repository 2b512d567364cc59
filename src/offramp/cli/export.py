"""offramp export: tables, the one-page decision, the report and the exit plan of a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from offramp.cli._output import json_option, print_json

_TABLES = ("csv", "parquet", "xlsx")
_PAGES = ("decision", "report", "exit-plan")


@click.command("export")
@click.argument("source", metavar="RUN|STUDY|RESULT.json", type=click.Path(path_type=str))
@click.option("--out", type=click.Path(path_type=str), required=True, metavar="DIR", help="Folder to write to.")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice([*_TABLES, *_PAGES]), help="Repeatable; all where absent."
)
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Language of documents.")
@click.option(
    "--root", type=click.Path(path_type=str), default=None, help="Folder of runs (else $OFFRAMP_RUNS, else ./runs)."
)
@json_option
def command(source: str, out: str, formats: tuple[str, ...], lang: str, root: str | None, as_json: bool) -> None:
    """Tables with their sources (CSV, Parquet, XLSX) and documents for print, in English or Chinese."""
    from offramp.app.export import export
    from offramp.app.launch import result_of, write_files

    result = result_of(source, root)
    chosen = formats or (_TABLES + _PAGES if result.command == "assess" else (*_TABLES, "report"))
    pages = _documents(result, [name for name in chosen if name in _PAGES], lang)
    made = export(result, out, [name for name in chosen if name in _TABLES])
    write_files(Path(out), pages)
    made.answer["files"] += list(pages)
    if as_json:
        print_json(made)
        return
    for name in made.answer["files"]:
        click.echo(str(Path(out) / name))


def _documents(result: object, names: list[str], lang: str) -> dict[str, str]:
    """The documents that were asked for, by file name."""
    from offramp.core.result import Result
    from offramp.report import decision, exitplan, of_this_release, render

    assert isinstance(result, Result)
    suffix = "" if lang == "en" else f".{lang}"
    out: dict[str, str] = {}
    for name in names:
        if name == "report":
            out[f"report{suffix}.html"] = render(result, lang=lang)
        else:
            with of_this_release(result):
                out[f"{name}{suffix}.html"] = (decision if name == "decision" else exitplan).page(result, lang=lang)
    return out
