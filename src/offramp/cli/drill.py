"""offramp drill: does the stack phone home, or stop, when it is cut off."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices, say

if TYPE_CHECKING:
    from offramp.core.result import Result


@click.command("drill")
@click.argument("target", nargs=-1, type=click.UNPROCESSED)
@click.option("--profile", type=click.Choice(["quick", "standard", "soak"]), default="quick", show_default=True,
              help="How long and how often to look.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=str), metavar="DIR", help="Evidence bundle and report.html.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="A setting of the workload file.")
@click.option("--advisories", multiple=True, metavar="PATH", help="OSV or CSAF documents; repeatable.")
@click.option("--pcap", default="", metavar="FILE", help="Capture of an upstream tap, to correlate.")
@click.option("--previous", default="", metavar="DIR", help="Earlier bundle: what changed since.")
@click.option("--seed", type=int, default=0, show_default=True, help="Order of runs and canaries.")
@json_option
def command(
    target: tuple[str, ...], profile: str, out: str | None, overrides: tuple[str, ...], advisories: tuple[str, ...],
    pcap: str, previous: str, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Run a workload cut off from the world: what tries to leave, what stops, what a moved clock changes.

    TARGET is a command after --, a WORKLOAD.toml, or the folder of an earlier drill (checked and judged anew). Exit
    code 6 when a planted canary was missed: its class is then NOT ASSESSED.
    """
    from offramp.app.drill import drill, exit_code

    result = drill(
        target, profile=profile, out=out, seed=seed, overrides=overrides, advisory_paths=advisories, pcap=pcap,
        previous=previous, progress=say,
    )  # fmt: skip
    folder = result.answer["bundle"]["folder"]
    if "replay" not in result.answer:
        _write_report(result, folder)
    if as_json:
        print_json(result)
    else:
        _show(result)
    sys.exit(exit_code(result))


def _write_report(result: Result, folder: str) -> None:
    """The page beside the evidence; a drill without the report extra still has its result.json."""
    from offramp.core.errors import BackendError
    from offramp.report import write

    try:
        say(f"Report: {write(result, folder)}")
    except BackendError as error:
        say(f"No report page: {error}")


def _show(result: Result) -> None:
    from rich.table import Table

    out, answer = console(), result.answer
    out.print(answer["headline"] + ".", style="bold", markup=False)
    for finding in answer["findings"]:
        _show_finding(finding)
    table = Table("class", "verdict", "canaries caught", "process named", "note", title="Classes of senders")
    for item in answer["classes"]:
        table.add_row(item["class"], item["verdict"], item["canaries"], item["named"], item["reason"])
    out.print(table)
    table = Table("condition", "verdict", "why", title="What being cut off, or another date, does")
    for effect in answer["effects"]:
        table.add_row(effect["condition"], ", ".join(effect["verdicts"]), effect["reason"])
    out.print(table)
    for item in answer["dependencies"]:
        switch = " ".join(f"{k}={v}" for k, v in item["switch"].items()) or "no documented switch"
        out.print(f"DEPENDENCY on {', '.join(item['endpoints'])}: {item['reason']}; {switch}", markup=False)
    _show_rest(result)


def _show_finding(finding: dict[str, Any]) -> None:
    out = console()
    process = finding["process"] or {}
    known = finding["endpoint"] or (f"accepted: {finding['accepted']}" if finding["accepted"] else "undocumented")
    command_line = " ".join(process.get("command", ()))[:120]
    out.print(f"OBSERVED {finding['class']}: {finding['destination']} ({known})", markup=False)
    out.print(
        f"  by {process.get('exe', 'an unknown process')}: {command_line} {process.get('owner', '')}", markup=False
    )
    out.print(f"  under {', '.join(finding['conditions'])}; {finding['flows']} flows", markup=False, style="dim")
    if finding["switch"]:
        out.print(f"  off switch: {finding['switch']}", markup=False)


def _show_rest(result: Result) -> None:
    out, answer = console(), result.answer
    again = answer.get("replay")
    if again:
        state = "as recorded" if not (again["files_wrong"] or again["parts_different"]) else "NOT as recorded"
        out.print(f"Replay: {state}; {len(again['files_wrong'])} files wrong.", markup=False)
    covered = answer["timers"]["longest_covered_s"]
    late = [timer["name"] for timer in answer["timers"]["known"] if not timer["covered"]]
    out.print(
        f"Timers up to {covered / 60:.0f} min would have gone off; not: {', '.join(late) or 'none known'}.",
        markup=False,
    )
    print_notices(result)
    where = answer["bundle"]
    out.print(f"Evidence: {where['folder']} (manifest {where['manifest_sha256'][:16]})", markup=False)
