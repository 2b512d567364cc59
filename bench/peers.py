"""The same job on a public peer and here, as a ratio in one run: writes bench/peers.md.

    python bench/peers.py PYTHON_OF_THE_PEER [--rounds 5] [--out bench/peers.md]

PYTHON_OF_THE_PEER is the interpreter of an environment of its own with aiconfigurator 0.12.0 in it (never a dependency):

    python3.11 -m venv DIR && DIR/bin/pip install aiconfigurator==0.12.0
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

HERE: Final = Path(__file__).resolve()
GRID: Final[dict[str, Any]] = {
    "model": "Qwen/Qwen3-32B", "system": "h200_sxm", "backend": "vllm", "isl": 4000, "osl": 500, "budget": 8192,
    "tps": [1, 2, 4, 8], "batches": [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256],
}  # fmt: skip
SEARCHES: Final = (
    ("Qwen3-32B, 16 chips, TTFT 2 s, TPOT 30 ms", "Qwen/Qwen3-32B", 16, 2.0, 0.03, 2000, 500),
    ("DeepSeek-V3, 32 chips, TTFT 2 s, TPOT 30 ms, expert parallel, aggregated and disaggregated",
     "deepseek-ai/DeepSeek-V3", 32, 2.0, 0.03, 2000, 500),
)  # fmt: skip
PEER_SEARCH: Final = 600.0


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def started(words: list[str], given: str = "", limit_s: float = PEER_SEARCH) -> tuple[str, dict[str, float]]:
    """Output, wall and CPU seconds of a process."""
    began, spent = time.perf_counter(), cpu_s()
    done = subprocess.run(
        words, input=given, capture_output=True, text=True, check=False, timeout=limit_s, cwd=HERE.parent
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-3000:]}")
    return done.stdout, {"wall_s": time.perf_counter() - began, "cpu_s": cpu_s() - spent}


def own_grid(rounds: int) -> dict[str, Any]:
    """The grid here, in this process."""
    began, spent = time.perf_counter(), time.process_time()
    from offramp import arch, catalog, cost
    from offramp.cost import Pool
    from offramp.search import evaluate, middle, mix_of
    from offramp.serve import Requests

    facts = catalog.load()
    ones = np.ones(2, np.int64)

    def mix(more: int) -> Any:
        lengths = ones * (GRID["isl"] + more)
        return mix_of(Requests(arrival_s=np.arange(2.0), isl_tokens=lengths, osl_tokens=ones * GRID["osl"]))

    pools = [
        Pool(chip="nvidia/h200", system="hgx-h200", engine="vllm", tp=tp, max_batch_tokens=GRID["budget"])
        for tp in GRID["tps"]
    ]  # fmt: skip
    model = arch.load(GRID["model"])
    setting = middle(cost.build_setting(model, pools[0], catalog=facts, calibration=cost.load_calibration()))
    batches = np.array(GRID["batches"], dtype=np.float64)
    evaluate(setting, pools, mix(0), batches=batches)
    ready = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - spent}
    times: list[dict[str, float]] = []
    for number in range(rounds):
        asked = mix(1 + number)
        began, spent = time.perf_counter(), time.process_time()
        for _ in range(20):  # one pass is too short for the clock of CPU time
            grid = evaluate(setting, pools, asked, batches=batches)
        times.append({"wall_s": (time.perf_counter() - began) / 20, "cpu_s": (time.process_time() - spent) / 20})
    values = [
        {"tp": GRID["tps"][int(grid.pool_index[i])], "batch": float(grid.batch[i]), "tpot_ms": 1e3 * grid.tpot_s[0][i],
         "tokens_per_s_per_chip": grid.rate[0][i] * GRID["osl"] / grid.devices[i]}
        for i in np.flatnonzero(grid.fits)
    ]  # fmt: skip
    return {
        "ready": ready, "grid": {name: median(row[name] for row in times) for name in ("wall_s", "cpu_s")},
        "values": values,
    }  # fmt: skip


def own_search(index: int) -> None:
    """One search here, in a process of its own: closed form, simulation, bisection; prints its seconds."""
    _, name, chips, ttft, tpot, isl, osl = SEARCHES[index]
    from offramp import arch, catalog, cost
    from offramp.search import Limits, Question, Stream, find, find_split, mix_of
    from offramp.serve import Requests, warm_up

    facts, calibration = catalog.load(), cost.load_calibration()
    warm_up()
    rng = np.random.default_rng(0)
    requests = Requests(
        arrival_s=np.cumsum(rng.exponential(0.05, 4000)), isl_tokens=np.full(4000, isl), osl_tokens=np.full(4000, osl)
    )
    question = Question(
        model=arch.load(name), mix=mix_of(requests), stream=Stream(requests=requests, seed=1, demand=100.0),
        slo={"ttft_p90": ttft, "tpot_p90": tpot}, limits=Limits(most_devices=chips),
    )  # fmt: skip
    began, spent = time.perf_counter(), time.process_time()
    found = find(question, "nvidia/h200", catalog=facts, calibration=calibration)
    one = time.process_time() - spent
    split = find_split(question, "nvidia/h200", "nvidia/h200", catalog=facts, calibration=calibration)
    seconds = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - spent, "aggregated_cpu_s": one}
    pool = found.pool
    print(json.dumps({
        **seconds, "points": found.layouts, "per_chip": found.per_chip * osl,
        "layout": "none" if pool is None else f"TP{pool.tp} PP{pool.pp} DP{pool.dp} EP{pool.ep}",
        "split_per_chip": osl / split.packages_per_rate if split else None,
    }))  # fmt: skip


def searches(peer: str, rounds: int) -> list[str]:
    """Rows of the table of whole searches."""
    rows: list[str] = []
    program = str(Path(peer).with_name("aiconfigurator"))
    for index, (words, name, chips, ttft, tpot, isl, osl) in enumerate(SEARCHES):
        own_whole, own_parts, theirs = [], [], []
        for _ in range(rounds):
            out, spent = started([sys.executable, str(HERE), "--search", str(index)])
            own_whole.append(spent)
            own_parts.append(json.loads(out.splitlines()[-1]))
            with tempfile.TemporaryDirectory() as folder:
                _, spent = started([
                    program, "cli", "default", "--model", name, "--backend", "vllm", "--total-gpus", str(chips),
                    "--system", "h200_sxm", "--ttft", str(ttft * 1e3), "--tpot", str(tpot * 1e3), "--isl", str(isl),
                    "--osl", str(osl), "--save-dir", folder,
                ])  # fmt: skip
            theirs.append(spent)
        mine, other = middle_of(own_whole), middle_of(theirs)
        inner = median(part["cpu_s"] for part in own_parts)
        rows.append(
            f"| {words} | {other['cpu_s']:.1f} | {mine['cpu_s']:.1f} | {inner:.2f} ({own_parts[0]['aggregated_cpu_s']:.2f} "
            f"aggregated) | {other['cpu_s'] / mine['cpu_s']:.0f}x | {other['wall_s'] / mine['wall_s']:.0f}x |"
        )
    return rows


def middle_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(row[name] for row in rows) for name in rows[0]}


def page(own: dict[str, Any], peer: dict[str, Any], rows: list[str], rounds: int) -> str:
    theirs = {(row["tp"], row["batch"]): row for row in peer["values"]}
    both = [(row, theirs[row["tp"], row["batch"]]) for row in own["values"] if (row["tp"], row["batch"]) in theirs]
    tpot = [a["tpot_ms"] / b["tpot_ms"] for a, b in both]
    rate = [a["tokens_per_s_per_chip"] / b["tokens_per_s_per_chip"] for a, b in both]
    points = len(GRID["tps"]) * len(GRID["batches"])
    mine, other = own["grid"]["cpu_s"], peer["grid"]["cpu_s"]
    lines = [
        "# The same job on public peers", "",
        "Made by `python bench/peers.py PYTHON_OF_THE_PEER` in one run on one machine (medians of "
        f"{rounds} rounds; the load was {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, so CPU seconds count). The peer"
        " is aiconfigurator 0.12.0 from PyPI, in an environment of its own.", "",
        "## An identical grid", "",
        f"{GRID['model']} (BF16) on the H200, vLLM, {GRID['isl']} tokens in, {GRID['osl']} out, a budget of {GRID['budget']} "
        f"tokens a step; TP {', '.join(map(str, GRID['tps']))} x batch {', '.join(map(str, GRID['batches']))}: {points} points."
        " Tables and models are loaded before the clock starts; what is timed is pricing the points. Each round takes prompts one"
        " token longer, because the peer keeps what it has priced (the same points again take it 7 us each).", "",
        "| | aiconfigurator | offramp | ratio |", "|---|---|---|---|",
        f"| CPU s for the grid | {other:.3g} | {mine:.3g} | {other / mine:,.0f}x |",
        f"| points per CPU second | {points / other:,.0f} | {points / mine:,.0f} | |",
        f"| CPU s until ready (imports, tables) | {peer['ready']['cpu_s']:.2g} | {own['ready']['cpu_s']:.2g} "
        f"| {peer['ready']['cpu_s'] / own['ready']['cpu_s']:.1f}x |",
        f"| points that fit | {len(peer['values'])} | {len(own['values'])} | |",
        f"| time per output token, offramp over peer | | | median {median(tpot):.2f}, {min(tpot):.2f} to {max(tpot):.2f} |",
        f"| tokens/s per chip, offramp over peer | | | median {median(rate):.2f}, {min(rate):.2f} to {max(rate):.2f} |", "",
        "What differs: the peer interpolates measured operator tables of this very chip and engine, one Python call per point;"
        " offramp prices all points in one vectorised call of a model fitted over many chips. The peer's batch is that of the"
        " whole replica with prefill mixed in by its own schedule; offramp's is the number of decoding sequences. So the two"
        " rows of predictions are not errors of either.", "",
        "## Whole searches", "",
        "Each tool's own search, process start to end, so the grids are *not* the same: the peer prices every layout at fixed"
        " lengths and means and does not simulate; offramp prices its layouts in closed form, simulates the best on a stream of"
        " requests, bisects the rate within p90 limits and adds an interval from 64 parameter draws.", "",
        "| search | aiconfigurator, CPU s | offramp, CPU s | of that searching | ratio, CPU | ratio, wall |",
        "|---|---|---|---|---|---|", *rows, "",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE.with_name("peers.md"))
    parser.add_argument("--search", type=int)
    given = parser.parse_args()
    if given.search is not None:
        own_search(given.search)
        return
    if not given.peer:
        parser.error("name the interpreter of the peer's environment")
    out, _ = started(
        [given.peer, str(HERE.with_name("peer_aiconfigurator.py"))], json.dumps({**GRID, "rounds": given.rounds})
    )
    peer = json.loads(out.splitlines()[-1])
    own = own_grid(given.rounds)
    given.out.write_text(
        page(own, peer, searches(given.peer, max(1, given.rounds // 2)), given.rounds), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
