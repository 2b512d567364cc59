"""offramp init: a study file from a cluster, its metrics and benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from offramp.cli._output import console, json_option, print_json, say

if TYPE_CHECKING:
    from offramp.core.result import Result

_FILE = click.Path(path_type=str)


@click.command("init")
@click.option(
    "--kubectl", type=_FILE, default="", metavar="FILE", help='Output of "kubectl get nodes,deploy -A -o json".'
)
@click.option(
    "--deployments", type=_FILE, default="", metavar="FILE", help="Deployments, where they are in a file of their own."
)
@click.option(
    "--prometheus",
    default="",
    metavar="DUMP|URL",
    help="A dump, a /metrics page, or a server (?hours=24 sets the span).",
)
@click.option(
    "--bench", multiple=True, type=_FILE, metavar="FILE", help="Benchmark file of any known tool; repeatable."
)
@click.argument("more", nargs=-1, type=_FILE, metavar="[FILE]...")
@click.option(
    "--prices", type=_FILE, default="", metavar="FILE", help="Price list (CSV, XLSX) or OpenCost export (JSON)."
)
@click.option("--orders", type=_FILE, default="", metavar="FILE", help="Open orders (CSV, XLSX).")
@click.option("--out", type=_FILE, default=None, metavar="FILE", help="Study file to write; printed where absent.")
@json_option
def command(
    kubectl: str, deployments: str, prometheus: str, bench: tuple[str, ...], more: tuple[str, ...], prices: str, orders: str,
    out: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Drafts a commented study from what your cluster already knows; marks what it could not know.

    Further FILEs are benchmark files too: --bench a.json b.json.
    """
    from offramp.app.init import Sources, init

    sources = Sources(
        kubectl=kubectl, deployments=deployments, prometheus=prometheus, bench=(*bench, *more), prices=prices,
        orders=orders,
    )  # fmt: skip
    result = init(sources, out=out)
    if as_json:
        print_json(result)
    elif out is None:
        click.echo(result.answer["text"], nl=False)
    else:
        _show(result, out)


def _show(result: Result, path: str) -> None:
    out = console()
    answer = result.answer
    for part in answer["fleet"]:
        count = part["count"] if part["count"] is not None else "?"
        out.print(
            f"fleet     {count} x {part['chip'] or part['product'] + ' (unknown)'} at {part['site']}", markup=False
        )
    for work in answer["workloads"]:
        seen = work["traffic"] or {}
        rate = f"{seen['requests_per_s']:.3g} requests/s" if seen.get("requests_per_s") else "demand unknown"
        state = "" if work["complete"] else f"; left out until known: {', '.join(work['missing'])}"
        out.print(
            f"workload  {work['id']}: {work['model'] or work['published'] or 'unknown model'}, {rate}{state}",
            markup=False,
        )
    out.print(
        f"unknown   {len(answer['unknown'])} things that no source said, marked UNKNOWN in the file", markup=False
    )
    for notice in result.warnings:
        out.print(f"! {notice.text}", style="yellow", markup=False)
    say(f"Written: {path}. Next: offramp check {path}")
