"""The closed-form steady state: throughput and mean latencies of many tables at once, without simulation.

One virtual engine holds N requests. Each passes w steps of prefill and D = (osl - 1) / accepted tokens decode steps, so
r = N / (D + w) requests come and go per step (Little's law in steps), n = r D sequences decode in it, and it holds
r isl prefill tokens on average. They do not spread evenly: a share f of the steps holds prefill, and those steps are
longer. f follows from how arrivals merge. Where all lengths are equal and the load began with a burst, requests stay
grouped as their prefills were packed, and f is the number of full chunks. Where lengths vary, arrivals per step
are nearly Poisson: 1 - exp(-r) of the steps for prompts shorter than the budget, more for longer ones, and
never less than the prefill tokens need. All of this is counted in steps; times come in at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from offramp.core.errors import InputError
from offramp.cost.table import StepTable
from offramp.serve.records import F8

ROUNDS = 24
"""Damped iterations; the relative change is below 1e-4 after about 12 on all tested tables."""
Lengths = Literal["equal", "varied"]


@dataclass(frozen=True, kw_only=True)
class StepArrays:
    """Many step tables side by side; the fields of :class:`offramp.cost.table.StepTable` with a leading axis. [k, ...]

    Grids of different length are padded by repeating the last point.
    """

    token_grid: F8
    base_s: F8
    prefill_extra_s: F8
    seq_grid: F8
    decode_base_s: F8
    decode_slope_s: F8
    prefill_base_s: F8
    pair_s: F8
    seq_s: F8
    kv_capacity_tokens: F8
    virtual_engines: F8
    max_batch_tokens: F8
    max_seqs: F8
    decode_tokens: F8
    accept_tokens: F8
    first_token_s: F8
    mixed_steps: F8
    graph_sizes: F8
    """Captured sizes, padded with infinity; all infinite where there are none. [k, s]"""

    def __len__(self) -> int:
        return len(self.token_grid)

    def take(self, index: Any) -> StepArrays:
        """The tables at these positions; a table may be taken more than once."""
        return StepArrays(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


GRIDS = ("token_grid", "base_s", "prefill_extra_s", "seq_grid", "decode_base_s", "decode_slope_s")


def stack(tables: Sequence[StepTable]) -> StepArrays:
    """Tables side by side."""
    columns: dict[str, F8] = {}
    for name in GRIDS:
        rows = [np.asarray(getattr(table, name), dtype=np.float64) for table in tables]
        longest = max(len(row) for row in rows)
        columns[name] = np.stack([np.concatenate([row, np.repeat(row[-1:], longest - len(row))]) for row in rows])
    sizes = [np.zeros(0) if table.graph_sizes is None else np.asarray(table.graph_sizes, float) for table in tables]
    longest = max(1, max(len(row) for row in sizes))
    columns["graph_sizes"] = np.stack([np.concatenate([r, np.full(longest - len(r), np.inf)]) for r in sizes])
    for field in fields(StepArrays):
        if field.name not in columns:
            columns[field.name] = np.array([float(getattr(table, field.name)) for table in tables])
    return StepArrays(**columns)


@dataclass(frozen=True, kw_only=True)
class SteadyState:
    """Means of one replica in steady state; one element per table. [k]

    Attributes:
        req_per_s, output_tokens_per_s: throughput of the replica.
        tpot_s: mean time per output token after the first.
        ttft_s: mean time to first token once the start is forgotten, queueing included.
        burst_ttft_s: mean time to first token of the first requests, all sent at once (closed loop).
        e2e_s: ttft_s + (osl - 1) tpot_s.
        decoding: sequences that decode in a step, of one virtual engine.
        resident: requests that one virtual engine holds (decoding, in prefill); the rest queues.
        step_s: mean step time.
        prefill_share: share of the steps that hold prefill.
        kv_share: KV tokens of the resident requests over capacity.
        stable: whether the rate can be served (always true in closed loop).
    """

    req_per_s: F8
    output_tokens_per_s: F8
    tpot_s: F8
    ttft_s: F8
    burst_ttft_s: F8
    e2e_s: F8
    decoding: F8
    resident: F8
    step_s: F8
    prefill_share: F8
    kv_share: F8
    stable: np.ndarray[Any, np.dtype[np.bool_]]


def _lookup(grid: F8, values: Sequence[F8], x: F8) -> list[F8]:
    """Linear between grid points of each row, and on beyond the last with the slope before it. [k]"""
    last = grid.shape[1] - 1
    if last == 0:
        return [v[:, 0] for v in values]
    distinct = np.maximum(1, np.sum(np.diff(grid, axis=1) > 0, axis=1))
    at = np.clip(np.sum(grid <= x[:, None], axis=1) - 1, 0, distinct - 1)
    rows = np.arange(len(grid))
    left, right = grid[rows, at], grid[rows, at + 1]
    share = (np.maximum(x, grid[:, 0]) - left) / np.where(right > left, right - left, 1.0)
    return [v[rows, at] + share * (v[rows, at + 1] - v[rows, at]) for v in values]


@dataclass(frozen=True, kw_only=True)
class _Load:
    """What is asked of each table."""

    isl: F8
    osl: F8
    steps: F8  # decode steps of a request


def _decode_step(t: StepArrays, n: F8, context: F8) -> F8:
    """Seconds of a decode-only step of n sequences with this mean context."""
    tokens = n * t.decode_tokens
    # Padding acts on whole sequences: their number varies around n, so the step is between the sizes below and above.
    padded = np.min(np.where(t.graph_sizes >= tokens[:, None] - 1e-9, t.graph_sizes, np.inf), axis=1)
    (base,) = _lookup(t.token_grid, [t.base_s], np.where(np.isfinite(padded), padded, tokens))
    return base + _attention(t, n, context) + t.seq_s * n


def _attention(t: StepArrays, n: F8, context: F8) -> F8:
    fixed, slope = _lookup(t.seq_grid, [t.decode_base_s, t.decode_slope_s], n)
    present = np.minimum(n, 1.0)  # a fraction below one sequence is one sequence for a fraction of the steps
    return present * fixed + slope * n * context


def _prefill_step(t: StepArrays, n: F8, context: F8, *, tokens: F8, chunks: F8, pairs: F8) -> F8:
    """Seconds of a step with so many prefill tokens beside n decodes (alone where steps are not mixed)."""
    n = np.where(t.mixed_steps > 0, n, 0.0)
    base, extra = _lookup(t.token_grid, [t.base_s, t.prefill_extra_s], tokens + n * t.decode_tokens)
    with_decodes = np.where(n > 0, _attention(t, n, context), 0.0)
    return base + extra + with_decodes + t.seq_s * (n + chunks) + t.prefill_base_s * chunks + t.pair_s * pairs


@dataclass(frozen=True, kw_only=True)
class _Mix:
    """How requests meet in steps; times play no part in it."""

    arrivals: F8  # requests per step (per decode step where steps are not mixed)
    share: F8  # steps with prefill, per step
    wait: F8  # prefill steps from arrival to first token
    most: F8  # arrivals per step whose prefill fits the budget
    own: F8  # chunks of a prompt alone


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Step times."""

    mean_s: F8  # per decode step, prefill included
    prefill_s: F8  # a step that holds prefill
    decode_s: F8  # a step that holds none


def _mix(t: StepArrays, load: _Load, arrivals: F8, resident: F8, lengths: Lengths) -> _Mix:
    """How so many arrivals per step merge. [k]"""
    mixed = t.mixed_steps > 0
    n = np.where(mixed, np.minimum(resident, arrivals * load.steps), 0.0)
    budget = np.maximum(1.0, t.max_batch_tokens - n * t.decode_tokens)
    own = np.ceil(load.isl / budget)
    used = arrivals * load.isl / budget
    packed = resident * load.isl / t.max_batch_tokens
    groups = np.maximum(1.0, np.ceil(packed + mixed * np.maximum(0, packed * (packed - 1)) / (2 * load.isl) - 1e-9))
    if lengths == "equal":
        share = groups * arrivals / resident
    else:
        full = np.minimum(used, 0.999)
        share = 1 - (1 - full) * np.exp(-np.maximum(0.0, arrivals * own - full) / (1 - full))
    share = np.minimum(np.maximum(share, used), np.where(mixed, 1.0, np.inf))
    wait = _wait(load, budget=budget, groups=groups, arrivals=arrivals, mixed=mixed, lengths=lengths)
    return _Mix(
        arrivals=arrivals, share=np.maximum(share, 1e-12), wait=wait, most=budget / load.isl, own=own
    )  # fmt: skip


def _price(t: StepArrays, load: _Load, mix: _Mix, resident: F8, others: float) -> _Step:
    """Step times of a mix, as a request sees them. [k]

    In a closed loop it sees all residents, and at least itself; where arrivals are Poisson it sees the mean and itself.
    """
    mixed = t.mixed_steps > 0
    ratio = np.where(resident > 0, mix.arrivals / np.maximum(resident, 1e-30), 0.0)
    resident = np.maximum(1.0, np.minimum(resident + others, np.maximum(resident, _limit(t, load))))
    sharing = np.minimum(ratio * resident * load.steps, resident)
    context = load.isl + 0.5 * load.osl
    per_step = np.maximum(mix.arrivals / mix.share, 1 / mix.own)
    # Where no request is in prefill, all residents decode; beside a prefill step the others do.
    beside = np.clip(resident - (resident - sharing) / mix.share, 0.0, resident)
    chunks = np.maximum(1.0, per_step * mix.own)
    pairs = per_step * load.isl * (load.isl + 1) / 2
    prefill = _prefill_step(t, beside, context, tokens=per_step * load.isl, chunks=chunks, pairs=pairs)
    decode = _decode_step(t, resident, context)
    mean = np.where(mixed, mix.share * prefill + (1 - mix.share) * decode, decode + mix.share * prefill)
    return _Step(mean_s=mean, prefill_s=prefill, decode_s=decode)


def _wait(load: _Load, *, budget: F8, groups: F8, arrivals: F8, mixed: Any, lengths: Lengths) -> F8:
    """Prefill steps from a request's arrival to its first token. [k]"""
    if lengths == "equal":  # a stream of prompts cut into chunks: every cut adds a step to one of them
        return np.minimum(1 + load.isl / budget, groups)
    own = np.ceil(load.isl / budget)
    busy = np.minimum(arrivals * load.isl / budget, 0.95)
    behind = own + 0.5 * own * busy / (1 - busy)
    # Unmixed, requests come in batches at decode steps; one sees half of its batch, which is larger than the mean.
    batch = 0.5 * (np.maximum((arrivals + 1) * load.isl / budget, own) + own)
    return np.where(mixed, behind, batch)


def _limit(t: StepArrays, load: _Load) -> F8:
    """Requests that one virtual engine can hold, by its sequence limit and its KV at half the output."""
    by_kv = t.kv_capacity_tokens / (load.isl + 0.5 * load.osl)
    by_budget = np.floor(t.max_batch_tokens / t.decode_tokens)
    return np.maximum(1.0, np.minimum(np.minimum(t.max_seqs, by_budget), by_kv))


def _columns(t: StepArrays, *values: Any) -> list[F8]:
    return [np.broadcast_to(np.asarray(value, dtype=np.float64), (len(t),)).copy() for value in values]


def steady_state(
    tables: StepTable | Sequence[StepTable] | StepArrays, isl: Any, osl: Any, *, concurrency: Any = None,
    rate: Any = None, lengths: Lengths = "varied",
) -> SteadyState:  # fmt: skip
    """Means of one replica of each table in steady state.

    Args:
        tables: one table, several, or :class:`StepArrays`. [k]
        isl, osl: mean prompt and output tokens. scalar or [k]
        concurrency: requests in flight on the replica (closed loop). scalar or [k]
        rate: requests per second sent to the replica (open loop); exactly one of the two is given. scalar or [k]
        lengths: "equal" if all requests have these lengths and begin together, "varied" otherwise.

    Raises:
        InputError: neither or both of concurrency and rate, or values that are not positive.
    """
    t = tables if isinstance(tables, StepArrays) else stack([tables] if isinstance(tables, StepTable) else tables)
    if (concurrency is None) == (rate is None):
        raise InputError("give either a concurrency or a rate", where="steady_state")
    mean_isl, mean_osl, drive = _columns(t, isl, osl, concurrency if rate is None else rate)
    if np.any(mean_isl <= 0) or np.any(mean_osl < 1) or np.any(drive <= 0):
        raise InputError("lengths and load must be positive", where="steady_state")
    load = _Load(isl=mean_isl, osl=mean_osl, steps=(mean_osl - 1) / t.accept_tokens)
    per_engine = drive / t.virtual_engines
    if rate is None:
        return _closed(t, load, per_engine, lengths)
    return _open(t, load, per_engine)


def _solve(t: StepArrays, load: _Load, resident: F8, lengths: Lengths, others: float = 0.0) -> tuple[_Step, _Mix]:
    """Step times and mix with so many requests resident; the mix's wait is that of the whole stay."""
    mixed = t.mixed_steps > 0
    decodes = np.maximum(load.steps, 1e-3)
    wait = np.ones(len(t))
    mix = _mix(t, load, resident / (decodes + wait * mixed), resident, lengths)
    for _ in range(ROUNDS):
        wait = 0.5 * (wait + mix.wait)
        wanted = resident / (decodes + wait * mixed)
        arrivals = 0.5 * (mix.arrivals + np.where(mixed, np.minimum(wanted, mix.most), wanted))
        mix = _mix(t, load, arrivals, resident, lengths)
    stay = np.where(mixed, np.maximum(resident / mix.arrivals - decodes, 1.0), mix.wait)
    return _price(t, load, mix, resident, others), replace(mix, wait=stay)


def _tpot(t: StepArrays, load: _Load, step: _Step, mix: _Mix) -> F8:
    """Mean time per output token: the steps of a request's stay without those that hold its own prefill. [k]"""
    mixed = t.mixed_steps > 0
    stay = np.where(mixed, load.steps + mix.wait, load.steps) * step.mean_s
    own = mix.wait * step.prefill_s
    return np.where(load.osl > 1, np.maximum(stay - own, load.steps * step.decode_s) / np.maximum(load.osl - 1, 1), 0.0)


def _closed(t: StepArrays, load: _Load, per_engine: F8, lengths: Lengths) -> SteadyState:
    """Closed loop: the sequences beyond the limit queue."""
    limit = _limit(t, load)
    resident = np.minimum(per_engine, limit)
    step, mix = _solve(t, load, resident, lengths)
    for _ in range(4 if np.any(t.first_token_s > 0) else 0):  # host delay takes requests out of the engine for a while
        stay = resident * step.mean_s / mix.arrivals
        resident = np.minimum(per_engine * stay / (stay + t.first_token_s), limit)
        step, mix = _solve(t, load, resident, lengths)
    rate = mix.arrivals / step.mean_s
    tpot = _tpot(t, load, step, mix)
    queued = np.maximum(0.0, per_engine / rate - t.first_token_s - resident / rate)
    ttft = t.first_token_s + mix.wait * step.prefill_s + queued
    burst_steps = np.maximum(1.0, np.ceil(resident * load.isl / t.max_batch_tokens))
    if lengths == "equal":
        rate, tpot, ttft = _lockstep(t, load, resident, per_engine, (rate, tpot, ttft))
    burst = t.first_token_s + 0.5 * (burst_steps + 1) * _burst_step(t, load, per_engine)
    state = (step, mix, resident)
    return _answer(t, load, state, rate=rate, latencies=(tpot, ttft, burst), stable=np.ones(len(t), bool))


def _lockstep(
    t: StepArrays, load: _Load, resident: F8, per_engine: F8, otherwise: tuple[F8, F8, F8]
) -> tuple[F8, F8, F8]:
    """Rate, TPOT and TTFT where steps are not mixed and all requests are equal: they prefill and decode together."""
    packed = np.maximum(1.0, np.ceil(resident * load.isl / t.max_batch_tokens - 1e-9))
    tokens = resident * load.isl / packed
    chunks = np.maximum(1.0, resident / packed)
    pairs = resident / packed * load.isl * (load.isl + 1) / 2
    prefill = _prefill_step(t, 0.0 * resident, load.isl, tokens=tokens, chunks=chunks, pairs=pairs)
    decode = load.steps * _decode_step(t, resident, load.isl + 0.5 * load.osl)
    rate = resident / (packed * prefill + decode + t.first_token_s)
    own = np.ceil(load.isl / t.max_batch_tokens)
    mean_end = np.maximum(0.5 * (packed + np.minimum(packed, own)), 1.0)
    ttft = np.maximum(t.first_token_s + mean_end * prefill, per_engine / rate - decode - (packed - mean_end) * prefill)
    tpot = np.where(load.osl > 1, (decode + (packed - mean_end) * prefill) / np.maximum(load.osl - 1, 1), 0.0)
    apart = t.mixed_steps > 0
    ours = (rate, tpot, ttft)
    out = [np.where(apart, other, mine) for mine, other in zip(ours, otherwise, strict=True)]
    return out[0], out[1], out[2]


def _burst_step(t: StepArrays, load: _Load, per_engine: F8) -> F8:
    """Seconds of a step full of prefill at the start."""
    tokens = np.minimum(t.max_batch_tokens, per_engine * load.isl)
    per_step = tokens / load.isl
    chunks = np.maximum(1.0, per_step)
    half = np.where(t.mixed_steps > 0, 0.25 * np.minimum(per_engine, t.max_seqs), 0.0)
    pairs = per_step * load.isl * (load.isl + 1) / 2
    return _prefill_step(t, half, load.isl, tokens=tokens - half * t.decode_tokens, chunks=chunks, pairs=pairs)


def _open(t: StepArrays, load: _Load, per_engine: F8) -> SteadyState:
    """Open loop: as many requests are resident as the rate keeps busy; more than fit is unstable."""
    limit = _limit(t, load)
    top = _closed(t, load, limit, "varied")
    capacity = top.req_per_s / t.virtual_engines
    stable = per_engine < capacity
    low, high = np.zeros(len(t)), limit
    target = np.minimum(per_engine, capacity)
    for _ in range(18):  # the rate grows with the number of resident requests
        middle = 0.5 * (low + high)
        step, mix = _solve(t, load, np.maximum(middle, 1e-6), "varied", 1.0)
        short = mix.arrivals / step.mean_s < target
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    resident = np.maximum(0.5 * (low + high), 1e-6)
    step, mix = _solve(t, load, resident, "varied", 1.0)
    tpot = _tpot(t, load, step, mix)
    ttft = t.first_token_s + _open_wait(t, load, step, mix, resident)
    latencies = (tpot, np.where(stable, ttft, np.inf), ttft)
    return _answer(t, load, (step, mix, resident), rate=target, latencies=latencies, stable=stable)


def _open_wait(t: StepArrays, load: _Load, step: _Step, mix: _Mix, resident: F8) -> F8:
    """Seconds from arrival to first token: the rest of the step that runs, then own prefill with its company. [k]

    A random moment falls into long steps more often (inspection paradox), and as many others arrive in that step.
    """
    mixed = t.mixed_steps > 0
    steps = np.where(mixed, 1.0, 1.0 + mix.share)
    weight = np.minimum(1.0, mix.share / steps)
    mean = weight * step.prefill_s + (1 - weight) * step.decode_s
    biased = (weight * step.prefill_s**2 + (1 - weight) * step.decode_s**2) / mean
    running = np.minimum(1.0, np.maximum(resident, weight))
    company = mix.arrivals / step.mean_s * biased * running
    beside = np.where(mixed, np.maximum(0.0, resident - 1 - company), 0.0)
    budget = np.maximum(1.0, t.max_batch_tokens - beside * t.decode_tokens)
    tokens = np.minimum(budget, (1 + company) * load.isl)
    there = tokens / load.isl
    prefill = _prefill_step(
        t, beside, load.isl + 0.5 * load.osl, tokens=tokens, chunks=np.maximum(1.0, there),
        pairs=there * load.isl * (load.isl + 1) / 2,
    )  # fmt: skip
    return 0.5 * biased * running + np.maximum(mix.wait, 1.0) * prefill


def _answer(
    t: StepArrays, load: _Load, state: tuple[_Step, _Mix, F8], *, rate: F8, latencies: tuple[F8, F8, F8], stable: Any
) -> SteadyState:
    """Per engine to per replica."""
    step, mix, resident = state
    tpot, ttft, burst = latencies
    requests = rate * t.virtual_engines
    held = resident * (load.isl + 0.5 * load.osl)
    return SteadyState(
        req_per_s=requests, output_tokens_per_s=requests * load.osl, tpot_s=tpot, ttft_s=ttft, burst_ttft_s=burst,
        e2e_s=ttft + (load.osl - 1) * tpot, decoding=np.minimum(resident, mix.arrivals * load.steps),
        resident=resident, step_s=step.mean_s, prefill_share=np.minimum(mix.share, 1.0),
        kv_share=held / t.kv_capacity_tokens, stable=stable,
    )  # fmt: skip
