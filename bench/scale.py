"""Measures how work grows with requests, replicas, layouts and scenarios, and writes docs/scale.md.

    python bench/scale.py [--out docs/scale.md] [--rounds 3] [--most 100000000]

Each point runs in a process of its own, so that its peak memory is its own; the median of the rounds is kept. CPU seconds
are user plus system time of the process and its children: other work on the machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

HERE: Final = Path(__file__).resolve()
SWEEPS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "requests": ("one replica, Azure conversation lengths, 15 requests/s", (10_000, 100_000, 1_000_000, 4_000_000)),
    "streamed": ("requests made and served in chunks of 1 M, 4 replicas, 60 requests/s",
                 (1_000_000, 4_000_000, 16_000_000)),
    "replicas": ("2 M requests dealt in turn, 15 requests/s each, one process", (1, 4, 16, 64, 256, 1024)),
    "coupled": ("2 M requests to the replica with the fewest, 15 requests/s each, one event loop", (1, 4, 16, 64, 256)),
    "layouts": ("closed form: layouts x 18 batches of Qwen3-32B on the H20", (100, 1_000, 10_000, 50_000)),
    "draws": ("closed form: 100 layouts x 18 batches, by parameter draws", (1, 4, 16, 64)),
    "cells": ("assess: workload-chip pairs, Qwen3-8B, one process", (1, 2, 4, 8)),
    "scenarios": ("plan: 8 quarters x 4 chips x 5 workloads, by scenarios", (5, 10, 20, 40)),
}  # fmt: skip
EXAMPLE: Final = HERE.parents[1] / "examples" / "leave-h20" / "study.toml"
EXAMPLE_TITLE: Final = "## The example, whole command"
EDITS: Final = (
    ("a limit that binds the first workload", "workload.chat.slo.tpot_p90=50 ms"),
    ("a limit that hardly binds it", "workload.chat.slo.ttft_p90=3.5 s"),
    ("a limit of the second workload", "workload.code.slo.ttft_p90=1.2 s"),
    ("a price", "site.guizhou.power_price=0.5 CNY/kWh"),
)
REPLICAS: Final = 1e5
YEAR_S: Final = 365 * 86_400.0
CHIPS: Final = 60
REQUESTS_PER_S: Final = 1.0


def lengths(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    from test_serve_bench import conversation_lengths

    return conversation_lengths(rng, n)


def run_requests(n: int, replicas: int, router: str) -> Callable[[], object]:
    from test_serve_bench import conversations, table

    from offramp.serve import PoolSpec, ServeConfig, simulate, warm_up

    warm_up()
    what = conversations(n, 15.0 * replicas)
    config = ServeConfig(estimate_capacity=False, router=router)  # pyright: ignore[reportArgumentType]
    return lambda: simulate((PoolSpec(table=table(), replicas=replicas),), what, config=config)


def run_streamed(n: int) -> Callable[[], object]:
    from test_serve_bench import conversations, table

    from offramp.serve import PoolSpec, Requests, ServeConfig, simulate_stream, warm_up

    warm_up()

    def chunks() -> Iterator[Requests]:
        start = 0.0
        for i in range(max(1, n // 1_000_000)):
            part = conversations(1_000_000, 60.0, start_s=start, seed=i)
            start = float(part.arrival_s[-1])
            yield part

    pools = (PoolSpec(table=table(), replicas=4),)
    return lambda: simulate_stream(pools, chunks(), config=ServeConfig(estimate_capacity=False))


def run_layouts(n: int, draws: int) -> Callable[[], object]:
    from offramp import arch, catalog, cost
    from offramp.search import Limits, evaluate, middle, mix_of
    from offramp.search.grid import pools
    from offramp.serve import Requests

    facts = catalog.load()
    isl, osl = lengths(np.random.default_rng(0), 4000)
    mix = mix_of(Requests(arrival_s=np.arange(4000.0), isl_tokens=isl, osl_tokens=osl))
    model, chip = arch.load("Qwen/Qwen3-32B"), facts.chip("nvidia/h20")
    listed = pools(model, chip, facts, Limits(chunks=tuple(range(256, 16_384, 16))), engine="vllm", dtype="")
    listed = (listed * (n // len(listed) + 1))[:n]
    setting = cost.build_setting(model, listed[0], catalog=facts, calibration=cost.load_calibration())
    if draws == 1:
        setting = middle(setting)
    else:
        from dataclasses import replace

        setting = replace(setting, parameters=setting.parameters.take(list(range(draws))))
    return lambda: [evaluate(setting, listed[at : at + 200], mix) for at in range(0, n, 200)]


CELLS_STUDY: Final = """
[study]
name = "Cells"
as_of = 2026-11-23
currency = "CNY"
[[site]]
id = "one"
power_price = "0.40 CNY/kWh"
[[workload]]
id = "chat"
kind = "serve"
model = "Qwen/Qwen3-8B"
synthetic = { preset = "azure-2023-chat" }
demand = [{ quarter = "2026Q4", mean_requests_per_s = 100 }]
peak_to_mean = 2.0
slo = { ttft_p90 = "2 s", tpot_p90 = "60 ms" }
[candidates]
baseline = "nvidia/h20"
chips = [CHIPS]
"""
CELL_CHIPS: Final = ("nvidia/h200", "huawei/ascend-910b2", "huawei/ascend-910c", "amd/mi300x", "nvidia/h100",
                     "nvidia/h800", "amd/mi325x")  # fmt: skip


def run_cells(n: int) -> Callable[[], object]:
    from offramp.app.assess import assess
    from offramp.serve import warm_up

    warm_up()
    folder = Path(tempfile.mkdtemp())
    path = folder / "study.toml"
    path.write_text(CELLS_STUDY.replace("CHIPS", ", ".join(f'"{chip}"' for chip in CELL_CHIPS[: n - 1])))
    return lambda: assess(path, jobs=1, keep=False)


def run_scenarios(n: int) -> Callable[[], object]:
    from test_plan_bench import large_problem

    from offramp.plan.solution import solve

    made = large_problem(q=8, c=4, w=5, s=n)
    return lambda: solve(made)


def job_of(sweep: str, size: int) -> Callable[[], object]:
    """What one point runs, with everything that is not measured done."""
    jobs: dict[str, Callable[[], Callable[[], object]]] = {
        "requests": lambda: run_requests(size, 1, "round-robin"), "streamed": lambda: run_streamed(size),
        "replicas": lambda: run_requests(2_000_000, size, "round-robin"),
        "coupled": lambda: run_requests(2_000_000, size, "least-requests"), "layouts": lambda: run_layouts(size, 1),
        "draws": lambda: run_layouts(100, size), "cells": lambda: run_cells(size),
        "scenarios": lambda: run_scenarios(size),
    }  # fmt: skip
    return jobs[sweep]()


def cpu_s() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def one(sweep: str, size: int) -> dict[str, float]:
    """One point, in this process."""
    job = job_of(sweep, size)
    base = memory_mb()
    began, spent = time.perf_counter(), cpu_s()
    job()
    return {"wall_s": time.perf_counter() - began, "cpu_s": cpu_s() - spent, "base_mb": base, "peak_mb": memory_mb()}


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def measure(sweep: str, size: int, rounds: int) -> dict[str, float]:
    """The median of a few processes."""
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, str(HERE), "--one", sweep, str(size)], capture_output=True, text=True, check=False,
            cwd=HERE.parent,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{sweep} {size}: {done.stderr[-2000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: median(row[name] for row in found) for name in found[0]}


def exponent(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Exponents of cost = size ** e: over all points, and between the last two."""
    x, y = np.log(sizes), np.log(np.maximum(seconds, 1e-4))
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def assessed(folder: Path, *more: str, **environment: str) -> dict[str, float]:
    """Wall and CPU seconds of the command, from the shell's start of it to its end, on all processors."""
    began, spent = time.perf_counter(), cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "offramp", "assess", str(EXAMPLE), "--root", str(folder), "--json", *more],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"assess {' '.join(more)}: {done.stderr[-2000:]}")
    return {"wall_s": time.perf_counter() - began, "cpu_s": cpu_s() - spent}


def example(rounds: int) -> list[str]:
    """The shipped example as a whole command: first run ever, cold, after edits, again."""
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assessed(folder / "bytecode")  # what an installation compiles
        rows = [("the first run ever, which compiles the kernel", 60,
                 [assessed(folder / "first", NUMBA_CACHE_DIR=str(folder / "numba"))])]  # fmt: skip
        cold = [assessed(folder / f"cold{i}") for i in range(rounds)]
        rows.append(("cold: nothing kept", 20, cold))
        for words, edit in EDITS:
            found: list[dict[str, float]] = []
            for _ in range(rounds):
                shutil.rmtree(folder / "edited", ignore_errors=True)
                shutil.copytree(folder / "cold0", folder / "edited")
                found.append(assessed(folder / "edited", "--set", edit))
            rows.append((f"after an edit of {words} (`{edit}`)", 3, found))
        rows.append(("the same study again", 3, [assessed(folder / "cold0") for _ in range(rounds)]))
    text = [EXAMPLE_TITLE, "", "`offramp assess examples/leave-h20/study.toml --json`: 2 workloads x 7 chips, 32 splits of chip pairs;"
            " every run a process of its own, from start to end, on all processors, against a folder of runs that holds what the first"
            f" column says. Median of {rounds} (of one for the first run ever); the load was {before:.1f} before it began and"
            f" {os.getloadavg()[0]:.1f} at its end, so that a wall time is the longer for it.", "",
            "| what is kept | wall s | CPU s | budget, wall s |", "|---|---|---|---|"]  # fmt: skip
    for words, budget, found in rows:
        wall, cpu = (median(one[name] for one in found) for name in ("wall_s", "cpu_s"))
        text.append(f"| {words} | {wall:.1f} | {cpu:.1f} | {budget} |")
    return [*text, ""]


def page(
    shown: list[str], rows: dict[str, list[tuple[int, dict[str, float]]]], long: tuple[int, dict[str, float]] | None
) -> str:
    """docs/scale.md."""
    loads = os.getloadavg()
    text = [
        "# Scale: how the work grows", "",
        "Measured, then fitted: CPU seconds grow as size to the power of the exponent. This page is written by one command,",
        "`make scale` (`bench/scale.py`); each point is the median of processes of its own, with everything that is not",
        f"measured (imports, the compiled kernel, the input) done before. {platform.machine()}, Python "
        f"{platform.python_version()}, {os.cpu_count()} processors of a shared virtual machine (load {loads[0]:.1f} while it"
        " ran, so that wall times are up to that much too long); CPU seconds count.", "",
        "| sweep | what | exponent over all | between the last two | last point |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for sweep, points in rows.items():
        sizes, seconds = [size for size, _ in points], [found["cpu_s"] for _, found in points]
        over, last = exponent(sizes, seconds)
        text.append(
            f"| {sweep} | {SWEEPS[sweep][0]} | {over:.2f} | {last:.2f} | {sizes[-1]:,}: {seconds[-1]:.2g} CPU s |"
        )
    text += [
        "",
        "An exponent of 1 is proportional, 0 is free; below 1 there is a fixed part that large sizes outgrow.",
        "",
    ]
    for sweep, points in rows.items():
        text += [f"## {sweep}", "", SWEEPS[sweep][0][:1].upper() + SWEEPS[sweep][0][1:] + ".", ""]
        text += ["| size | CPU s | per second of CPU | wall s | peak memory, MB | of that before it began |",
                 "|---|---|---|---|---|---|"]  # fmt: skip
        for size, found in points:
            text.append(
                f"| {size:,} | {found['cpu_s']:.3g} | {rate(sweep, size, found)} | {found['wall_s']:.3g} | "
                f"{found['peak_mb']:.0f} | {found['base_mb']:.0f} |"
            )
        text.append("")
    if long is not None:
        size, found = long
        text += [
            f"## {size / 1e6:.0f} M requests", "",
            f"Made and served in chunks by 4 replicas: {found['cpu_s']:.0f} CPU s, {found['wall_s']:.0f} s, peak memory "
            f"{found['peak_mb']:.0f} MB. Memory is that of a chunk, whatever the number.", "",
        ]  # fmt: skip
    return "\n".join([*text, *shown, *on_paper(rows)]) + "\n"


def rate(sweep: str, size: int, found: dict[str, float]) -> str:
    """Size over CPU time, in the sweep's own unit."""
    unit = {"requests": "requests", "streamed": "requests", "layouts": "layouts", "draws": "layout draws",
            "cells": "pairs", "scenarios": "scenarios"}.get(sweep, "requests")  # fmt: skip
    amount = {"replicas": 2e6, "coupled": 2e6, "draws": 100.0 * size}.get(sweep, float(size))
    value = amount / max(found["cpu_s"], 1e-4)
    return f"{value:,.3g} {unit}" if value < 1e4 else f"{value / 1e3:,.0f} k {unit}"


def on_paper(rows: dict[str, list[tuple[int, dict[str, float]]]]) -> list[str]:
    """What a national study costs."""
    size, found = rows["requests"][-1]
    per_s = size / found["cpu_s"]
    total = REPLICAS * YEAR_S * CHIPS * REQUESTS_PER_S
    core_s = total / per_s
    cells = rows["cells"]
    pair_s = (cells[-1][1]["cpu_s"] - cells[0][1]["cpu_s"]) / (cells[-1][0] - cells[0][0])
    cores, node = 64, 64
    many, few = rows["replicas"][-1], rows["replicas"][0]
    replica_mb = (many[1]["peak_mb"] - few[1]["peak_mb"]) / (many[0] - few[0])
    return [
        "## On paper: 10^5 replicas, a year, 60 chips", "",
        f"Every request simulated: 10^5 replicas x {YEAR_S:.3g} s x {REQUESTS_PER_S:g} request/s each x {CHIPS} chips are "
        f"{total:.2g} requests. At the measured {per_s / 1e6:.2g} M requests per CPU second that is {core_s:.2g} core seconds: "
        f"{core_s / node / 86_400:,.0f} days on one node of {node} cores, {core_s / node / 86_400 / 100:,.1f} days on 100 "
        "nodes. Replicas that a router deals to in turn are independent, so this divides without communication; a replica "
        f"in flight takes {replica_mb:.1f} MB (measured above), so a process takes a thousand at a time; what crosses the network "
        "is a sketch of a few kilobytes per replica.", "",
        f"Nobody needs that. Replicas of one layout under one traffic are alike, so an assessment simulates a few of them "
        f"at a few dozen rates: {pair_s:.2g} CPU s per workload-chip pair measured above. {CHIPS} chips x 20 workloads are "
        f"{CHIPS * 20:,} pairs, {CHIPS * 20 * pair_s / 60:,.0f} CPU minutes: about {math.ceil(CHIPS * 20 * pair_s / cores)} s "
        f"on one node of {cores} cores, and `offramp assess --ray ADDRESS` spreads the same pairs over a cluster with the same "
        "numbers. A quarter-by-quarter year costs nothing more: demand scales chips, not latencies.", "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "scale.md")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=0, help="also stream so many requests, once")
    parser.add_argument("--example", action="store_true", help="measure the example alone, into the page that is there")
    parser.add_argument("--one", nargs=2, metavar=("SWEEP", "SIZE"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], int(given.one[1]))))
        return
    if given.example:
        there = given.out.read_text(encoding="utf-8")
        start = there.index(EXAMPLE_TITLE)
        end = there.index("\n## ", start + 1) + 1
        given.out.write_text(there[:start] + "\n".join([*example(given.rounds), ""]) + there[end:], encoding="utf-8")
        return
    rows: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for sweep, (_, sizes) in SWEEPS.items():
        rows[sweep] = []
        for size in sizes:
            found: dict[str, Any] = measure(sweep, size, given.rounds)
            rows[sweep].append((size, found))
            print(f"{sweep} {size:,}: {found['cpu_s']:.3g} CPU s, {found['peak_mb']:.0f} MB", file=sys.stderr)
    shown = example(given.rounds)
    long = (given.most, measure("streamed", given.most, 1)) if given.most else None
    given.out.write_text(page(shown, rows, long), encoding="utf-8")


if __name__ == "__main__":
    main()
