"""offramp launch: command lines and manifests of the chosen layouts."""

from __future__ import annotations

import click

from offramp.cli._output import console, json_option, print_json, say

_FILE = click.Path(path_type=str)


@click.command("launch")
@click.argument("source", metavar="RUN|STUDY", type=_FILE)
@click.option("--chip", default="", help="Instead of the recommended chip.")
@click.option("--workload", default="", help="Only this workload.")
@click.option("--out", type=_FILE, default=None, metavar="DIR", help="Write scripts and manifests there.")
@click.option("--root", type=_FILE, default=None, help="Folder of runs (else $OFFRAMP_RUNS, else ./runs).")
@json_option
def command(source: str, chip: str, workload: str, out: str | None, root: str | None, as_json: bool) -> None:
    """Command line and manifests for the layout that an assessment chose, each flag with its source."""
    from offramp.app.launch import launch

    result = launch(source, chip=chip, workload=workload, out=out, root=root)
    if as_json:
        print_json(result)
        return
    page = console()
    for item in result.answer["workloads"]:
        nodes = f", {item['nodes']} servers each" if item["nodes"] > 1 else ""
        page.print(
            f"\n{item['workload']} on {item['chip']}: {item['replicas']} replicas of {item['devices']} devices{nodes}; "
            f"{item['engine']} {item['version']}",
            style="bold",
            markup=False,
        )
        for name, value in item["env"].items():
            page.print(f"{name}={value} \\", markup=False)
        click.echo(item["command_line"])
        for flag in item["flags"]:
            mark = " " if flag["confirmed"] else "?"
            page.print(f" {mark} {flag['name']} {flag['value']}: {flag['why']}", style="dim", markup=False)
        page.print(
            f"   flags from: {'; '.join(dict.fromkeys(flag['source'] for flag in item['flags']))}",
            style="dim",
            markup=False,
        )
        page.print(f"   files: {', '.join(item['files'])}", style="dim", markup=False)
    for notice in result.warnings:
        page.print(f"! {notice.where}: {notice.text}", style="yellow", markup=False)
    if out is not None:
        say(f"Written: {out}")
