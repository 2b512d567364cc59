"""offramp assess: which chips carry the workloads of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices, say
from offramp.cli.train import show_run

if TYPE_CHECKING:
    from rich.table import Table

    from offramp.core.result import Result


@click.command("assess")
@click.argument("study", type=click.Path(path_type=str))
@click.option("--out", type=click.Path(path_type=str), metavar="DIR", help="Also write report.html there.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a setting; repeatable.")
@click.option("--calibration", type=click.Path(path_type=str), default="", metavar="FILE", help="Parameter file.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes (all processors).")
@click.option("--ray", metavar="ADDRESS", help='Compute on a Ray cluster instead: "auto", or its address.')
@click.option("--root", type=click.Path(path_type=str), help="Folder of runs (else $OFFRAMP_RUNS, else ./runs).")
@click.option("--no-keep", is_flag=True, help="Keep nothing, compute everything.")
@json_option
def command(
    study: str, out: str | None, overrides: tuple[str, ...], calibration: str, jobs: int | None, ray: str | None,
    root: str | None, no_keep: bool, as_json: bool,
) -> None:  # fmt: skip
    """For each workload of STUDY.toml and each chip: does it fit, how many, at what cost, how sure; what blocks it."""
    from offramp.app.assess import assess

    if ray is not None and jobs is not None:
        raise click.UsageError("--jobs is for this machine, --ray for a cluster: give one of them.")
    result = assess(
        study, overrides=overrides, jobs=ray or jobs, root=root, calibration=calibration, progress=say, keep=not no_keep
    )
    where = None
    if out is not None:
        from offramp.report import write

        where = write(result, out)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if where is not None:
        say(f"Report: {where}")


def _show(result: Result) -> None:
    out = console()
    answer = result.answer
    out.print(answer["decision"]["headline"] + ".", style="bold", markup=False)
    for item in [*answer["decision"]["moves"], *answer["decision"]["stays"]]:
        out.print(f"- {item['text']}", markup=False)
        if item.get("instead"):
            out.print(f"- {item['instead']}", markup=False)
    for text in answer["decision"].get("training", ()):
        out.print(f"- {text}", markup=False)
    for work in answer["workloads"]:
        _show_workload(work, answer["currency"])
    for item in answer["together"]:
        if item["chips_shared"] < item["chips_apart"]:
            out.print(f"{item['text']}", markup=False)
    for run in (answer["training"] or {}).get("runs", ()):
        show_run(run, answer["currency"])
    if answer["flips"]:
        out.print("\nWhat would flip this", style="bold")
        for flip in answer["flips"]:
            out.print(f"- {flip['text']}", markup=False)
    out.print()
    print_notices(result)


def _show_workload(work: dict[str, Any], currency: str) -> None:
    out = console()
    demand = work["demand"]
    limits = ", ".join(f"{key.replace('_', ' ')} {_time(value)}" for key, value in work["slo_s"].items())
    title = (
        f"\n{work['id']}: {work['model'].split('/')[-1]}, {demand['mean_requests_per_s']:g} requests/s mean, "
        f"{demand['peak_requests_per_s']:g} peak in {work['quarter']}; {limits or 'no SLO'}"
    )
    out.print(title, style="bold", markup=False)
    out.print(_table(work, currency))
    if line := _front(work):
        out.print(f"  {line}", markup=False)
    for item in work["splits"][:3]:
        cost = item["cost_per_million_output_tokens"]
        price = f", {_short(cost)} {currency}/Mtok" if cost else ""
        span = item["interval"]["chips_total"]
        high = f"{span['high']:,.0f}" if span["high"] is not None else "no limit"
        out.print(f"  split: {item['words']} (in all {span['low']:,.0f} to {high}){price}", markup=False)
    if work["first_step"]:
        out.print(f"  {work['first_step']} {work['first_step_why']}", markup=False)
    for line in _remarks(work["chips"]):
        out.print(f"  {line}", markup=False)


def _front(work: dict[str, Any]) -> str:
    """What a tighter or looser time per output token does to the recommended chip (else the first), in a line."""
    chips = [item for item in work["chips"] if item["pareto"]]
    item = next((one for one in chips if one["chip"] == work["recommended"]), chips[0] if chips else None)
    if item is None:
        return ""
    points = item["pareto"]
    some = [points[round(i * (len(points) - 1) / 4)] for i in range(5)] if len(points) > 5 else points
    words = ", ".join(f"{_short(one['output_tokens_per_s_per_chip'])} at {_time(one['tpot_s'])}" for one in some)
    return f"{item['short_name']}, output tokens/s per chip by TPOT (closed form): {words}."


def _table(work: dict[str, Any], currency: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("chip", no_wrap=True)
    for name in ("chips", "for one in use", f"{currency}/Mtok", "TTFT", "TPOT"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in work["chips"]:
        latency = item["latency_s"]
        mark = " *" if item["chip"] == work["recommended"] else ""
        state = {"blocked": "cannot", "refused": "not computable"}.get(item["status"])
        table.add_row(
            item["chip"].split("/")[-1] + mark, state or _span(item["chips"]), _span(item["exchange_rate"]),
            _span(item["cost_per_million_output_tokens"]),
            _time(latency.get("ttft_p90", {}).get("p50")), _time(latency.get("tpot_p90", {}).get("p50")),
        )  # fmt: skip
    return table


def _remarks(chips: list[dict[str, Any]]) -> list[str]:
    """Obstacles, each once with all the chips that it is about; then what is missing and the break-evens."""
    about: dict[str, list[str]] = {}
    for item in chips:
        name = item["chip"].split("/")[-1]
        for blocker in item["blockers"]:
            if blocker["kind"] != "unproven":
                about.setdefault(blocker["text"], []).append(name)
        if item["missing_facts"]:
            facts = ", ".join(item["missing_facts"]).replace("_", " ")
            about.setdefault(f"a range, because no source gives {facts}", []).append(name)
        said = item["rules"]["verdict"]
        if said not in ("allowed", "unknown") and not item["is_baseline"]:
            about.setdefault(f"rules: {said.replace('-', ' ')}", []).append(name)
        for even in item["break_even"]:
            what = even["figure"].replace("_", " ")
            unit = "TB/s" if "bandwidth" in even["figure"] else "TFLOP/s"
            text = f"no {what} within a factor of eight lets one replace one chip in use"
            if even["value"]:
                text = f"one replaces one chip in use from a {what} of {even['value'] / 1e12:.3g} {unit} on"
            about.setdefault(text, []).append(name)
    return [f"{', '.join(dict.fromkeys(names))}: {text}." for text, names in about.items()]


def _span(span: dict[str, float | None]) -> str:
    low, mid, high = span["low"], span["mid"], span["high"]
    if low is None and high is None:
        return "-"
    if mid is None:
        return f"{_short(low)}..{_short(high)}"
    if low == mid == high:
        return _short(mid)
    return f"{_short(mid)} ({_short(low)}..{_short(high)})"


def _short(value: float | None) -> str:
    if value is None:
        return "∞"
    if value >= 9999.5:
        return f"{value / 1e3:.3g}k" if value < 1e6 else f"{value / 1e6:.3g}M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _time(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g} s" if value >= 1 else f"{value * 1e3:.0f} ms"
