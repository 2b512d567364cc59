"""offramp simulate: what users feel of one layout."""

from __future__ import annotations

from typing import Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices


@click.command("simulate")
@click.option("--model", required=True, metavar="M", help="Preset id, or a config.json.")
@click.option("--chip", required=True, metavar="C", help='Catalogue id ("offramp chips").')
@click.option("--trace", type=click.Path(path_type=str), default="", metavar="FILE", help="Requests to replay.")
@click.option("--requests", type=click.IntRange(min=0), default=0, metavar="N", help="How many requests.")
@click.option("--rate", type=float, default=0.0, metavar="R", help="Mean requests per second.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE",
              help="layout.tp=2, load.concurrency=64, traffic.isl_mean=1024, slo.ttft_p90='2 s' ...")  # fmt: skip
@click.option("--calibration", type=click.Path(path_type=str), default="", metavar="FILE", help="Parameter file.")
@json_option
def command(
    model: str, chip: str, trace: str, requests: int, rate: float, overrides: tuple[str, ...], calibration: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Simulates one layout of a model on a chip: latencies, throughput, head-room.

    Without a trace, requests come at --rate with the lengths of a published chat trace; without layout.tp, the
    smallest replica that fits is taken. The run goes from empty to empty, as a benchmark does; load.warmup=N
    leaves the first N requests out of the statistics.
    """
    from offramp.app.simulate import simulate

    result = simulate(
        model, chip, trace=trace, requests=requests, rate=rate, overrides=overrides, calibration=calibration
    )  # fmt: skip
    if as_json:
        print_json(result)
        return
    _show(result.answer)
    print_notices(result)


def _show(answer: dict[str, Any]) -> None:
    from rich.table import Table

    out = console()
    out.print(
        f"{answer['model']} on {answer['chip']}: {answer['layout_words']}, {answer['chips']:g} chips, "
        f"{answer['requests']:,} requests", style="bold", markup=False,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "slow", "mid", "fast"):
        table.add_column(name, justify="left" if not name else "right")
    cases = [answer[name] for name in ("low", "mid", "high")]
    table.add_row("stable", *("yes" if case["stable"] else "no" for case in cases))
    for label, key in (("requests/s served", "request_req_per_s"), ("output tokens/s", "output_tokens_per_s"),
                       ("capacity, requests/s", "capacity_req_per_s"), ("headroom", "headroom"),
                       ("good requests/s", "goodput_req_per_s"), ("mean batch", "mean_batch")):  # fmt: skip
        table.add_row(label, *(_number(case[key]) for case in cases))
    for metric in ("ttft", "tpot", "itl", "e2e"):
        for stat in ("p50", "p90", "p99"):
            values = [(case[f"{metric}_s"] or {}).get(stat) for case in cases]
            table.add_row(f"{metric.upper()} {stat}", *(_seconds(value) for value in values))
    table.add_row("KV cache in use", *(f"{case['kv_mean']:.0%}" for case in cases))
    table.add_row("preemptions", *(f"{case['preemptions']:,}" for case in cases))
    out.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
