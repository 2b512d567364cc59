"""Drives the compiled kernel: builds its memory, feeds it requests, collects what it reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from offramp.cost.table import StepTable
from offramp.serve import deploy, state
from offramp.serve.deploy import Blocks, Deployment
from offramp.serve.kernel import FINISHED, NEEDS_REQUESTS, NEEDS_SLOTS, run
from offramp.serve.records import F8, I8, Outcome, PoolSpec, Requests, ServeConfig
from offramp.serve.state import Batch, Memory

FIRST_SLOTS = 4096


def is_compiled() -> bool:
    """Whether the kernel runs without compiling: it did so in this process, or lies in numba's cache on disk."""
    if run.signatures:
        return True
    cache: Any = getattr(run, "_cache", None)
    try:
        index = cache._cache_file._load_index()
        target = cache._impl and run.targetctx.codegen().magic_tuple()
    except (AttributeError, OSError):
        return False
    digest = cache._index_key((), run.targetctx.codegen())[2]
    return any(key[1] == target and key[2] == digest for key in index)


def warm_up(announce: Callable[[str], None] | None = None) -> None:
    """Compiles the kernel, or loads it from numba's cache.

    Args:
        announce: called with one sentence before a compilation, which takes about half a minute, once per machine.
    """
    if announce is not None and not is_compiled():
        announce("Compiling the serving kernel (once on this machine, about half a minute).")
    table = StepTable(
        token_grid=np.array([0.0, 1.0]), base_s=np.ones(2), prefill_extra_s=np.zeros(2), seq_grid=np.ones(1),
        decode_base_s=np.zeros(1), decode_slope_s=np.zeros(1), prefill_base_s=0.0, pair_s=0.0, seq_s=0.0,
        kv_capacity_tokens=64,
    )  # fmt: skip
    config = ServeConfig()
    one = np.ones(1, np.int64)
    requests = Requests(arrival_s=np.zeros(1), isl_tokens=one, osl_tokens=one)
    pools = deploy.plan((PoolSpec(table=table),), config)
    blocks = deploy.prefix_blocks(pools, requests, config)
    run_kernel(pools, requests, config, blocks=blocks, masks=(one, one))


def starts(requests: Requests, config: ServeConfig) -> tuple[F8, int]:
    """When requests are sent, and for how many of them that is known at the beginning. [n]"""
    n = len(requests)
    if config.mode == "open":
        return np.ascontiguousarray(requests.arrival_s, dtype=np.float64), n
    known = min(n, config.concurrency)
    out = np.zeros(n)
    out[:known] = np.arange(known) * (config.ramp_s / max(1, config.concurrency))
    return out, known


def batch_of(requests: Requests, times: F8, blocks: Blocks, masks: tuple[I8, I8]) -> Batch:
    """The requests as the kernel reads them."""
    slo = np.zeros(len(requests), np.int64) if requests.slo_class is None else requests.slo_class
    return Batch(
        start_s=times, isl=np.ascontiguousarray(requests.isl_tokens, np.int64),
        osl=np.ascontiguousarray(requests.osl_tokens, np.int64), slo=np.ascontiguousarray(slo, np.int64),
        entry_mask=np.ascontiguousarray(masks[0]), decode_mask=np.ascontiguousarray(masks[1]),
        hash_ids=blocks.ids, hash_offsets=blocks.offsets,
    )  # fmt: skip


def run_kernel(
    deployment: Deployment, requests: Requests, config: ServeConfig, *, blocks: Blocks, masks: tuple[I8, I8]
) -> Outcome:
    """Jumps through the deployment serving these (accepted) requests; see :func:`offramp.serve.oracle.run_oracle`."""
    n = len(requests)
    times, known = starts(requests, config)
    memory = state.build(deployment, config, blocks=blocks, slots=min(n, FIRST_SLOTS) + 1, done=n)
    control = memory.control[0]
    split = config.cooldown > 0 and config.mode == "open" and n > 0
    control["count"], control["sent"], control["final"], control["last_index"] = n, known, int(not split), n - 1
    if n:
        arrival = requests.arrival_s
        control["middle_s"] = float(arrival[0] + arrival[-1]) / 2 + deployment.entry_delay_s
    batch = batch_of(requests, times, blocks, masks)
    sums: Any = None
    while (code := run(memory, batch)) != FINISHED:
        if code == NEEDS_REQUESTS:  # the last one has arrived: what follows is the deployment running empty
            sums = memory.pools.copy()
            memory.control[0]["final"] = 1
            continue
        assert code == NEEDS_SLOTS
        memory = state.grown(memory, slots=2 * len(memory.slots), done=n)
    outcome = collect(memory, deployment, n)
    if sums is not None:
        outcome.busy_s, outcome.batch_s, outcome.kv_block_s = (
            sums[name] for name in ("busy_s", "batch_s", "kv_block_s")
        )
        outcome.until_s = float(times[-1]) + deployment.entry_delay_s
    return outcome


def collect(memory: Memory, deployment: Deployment, n: int) -> Outcome:
    """The kernel's reports by request, and its sums."""
    control, pools, lanes = memory.control[0], memory.pools, memory.lanes
    done = memory.done[: control["n_done"]]
    out: dict[str, F8] = {}
    for name in ("start_s", "first_s", "done_s"):
        out[name] = np.full(n, np.nan)
        out[name][done["index"]] = done[name]
    pool = np.zeros(n, np.int64)
    pool[done["index"]] = done["pool"]
    capacity = np.array([deployment.pools[p].capacity_blocks for p in deployment.lane_pool])
    free = lanes["free"] + lanes["unused"] * lanes["hash_blocks"]
    trend = np.array([float(control[name]) for name in ("trend_n", "trend_t", "trend_w", "trend_tw", "trend_tt")])
    return Outcome(
        start_s=out["start_s"], first_s=out["first_s"], done_s=out["done_s"], pool=pool,
        itl_counts=memory.itl_counts, itl_sum_s=float(control["itl_sum_s"]), itl_max_s=float(control["itl_max_s"]),
        itl_count=int(control["itl_count"]), busy_s=pools["busy_s"].copy(), batch_s=pools["batch_s"].copy(),
        kv_block_s=pools["kv_block_s"].copy(), kv_peak_blocks=pools["kv_peak"].copy(),
        preemptions=pools["preemptions"].copy(), hit_tokens=pools["hit"].copy(), lookup_tokens=pools["lookup"].copy(),
        steps=pools["steps"].copy(), trend=trend, queue_at_end=int(control["queue_at_end"]),
        leaked_blocks=int(lanes["held"].sum() + np.abs(capacity - free).sum()),
    )  # fmt: skip
