"""Closed form: what a benchmark harness measures of a case, for all parameter draws, without a simulation.

One virtual engine (a data-parallel rank, a pipeline slot) holds ``n`` decoding sequences. Prefill of one request
costs ``w`` seconds of extra step time, a decode step ``d(n)``. In steady state the device is always busy, so requests
complete at ``X = 1 / (w + steps * d / n)``; a token takes ``d / (1 - X w)``; and Little's law ties ``n`` to the
concurrency, ``n = c - X * TTFT``. The harness starts all requests at once, which is what the mean TTFT remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from offramp.cost.features import Features, StepTime, seconds, stack, take
from offramp.cost.operators import Shard, Steps, Traffic
from offramp.cost.parameters import Parameters
from offramp.cost.step import step_features
from offramp.validate.cases import BATCH_TOKENS, MAX_SEQS, Case, Variant, batch_of
from offramp.validate.rows import names

F8 = npt.NDArray[np.float64]

ROUTING = Traffic()
OFFLINE_REQUESTS = 4000.0
"""Requests of an offline run whose size is not stated. Assumed; only its ramp-down (1 to 3 %) depends on it."""
OPEN_STEP_S = 0.02
"""Decode step from which the running batch of an open-loop row is first guessed."""
ROUNDS = 16
"""Rounds of the fixed point of batch, rate and waiting; halved steps settle within 0.1 %."""
BALANCE_STEPS = 50.0
"""Decode steps that TensorRT-LLM holds prompts back at most so that all attention ranks prefill together. Source: default of
its AttentionDpConfig.timeout_iters; blog "ADP Balance Strategy" (nvidia.github.io/TensorRT-LLM)."""
BALANCED = frozenset({"tensorrt-llm"})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Cases and variants side by side: one entry per (case, variant). All arrays ``[n]``.

    Attributes:
        case: index of the case of each entry.
        weight: probability of the variant.
        seqs: decoding sequences of a virtual engine at which the features were taken.
        inflight: requests in flight per virtual engine; infinite where unlimited.
        isl, osl: mean lengths; ``isl`` without what the prefix cache holds.
        prompt: mean length of whole prompts.
        engines: virtual engines of the decode (or only) pool.
        chunk: tokens of the representative prefill step.
        decode, mixed, prefill: features of a decode step, a step with a chunk, a prefill-only step (of the prefill pool
            where there is one).
        prefill_engines: virtual engines that prefill.
        separate: whether those are a pool of their own; ``crowd`` prompts then fit one of its steps.
        alone: features of the step that prefills where no other attention rank prefills at the same time.
        many: features of a step of that pool with so many prompts; elsewhere of a decode step with every slot taken.
        accept: tokens gained per step, low, mid, high. [n, 3]
        requests: of the whole run, per virtual engine.
        is_mixed: prefill chunks ride along with decode.
        mode: 0 closed, 1 offline, 2 static, 3 decode, 4 prefill, 5 open.
        rate: requests per second per virtual engine of open-loop rows; infinite where the row tells the highest rate that
            it could keep.
        slots: most sequences a virtual engine can hold.
        peers: attention ranks that wait for one another's prompts; 1 where they do not.
        loop: log corrections by a simulated run of the harness (:mod:`offramp.validate.loop`): request rate, mean, median
            and 99th percentile of TTFT, TPOT. [5, n] or 0
    """

    case: npt.NDArray[np.int64]
    weight: F8
    seqs: F8
    inflight: F8
    isl: F8
    osl: F8
    prompt: F8
    engines: F8
    chunk: F8
    decode: Features
    mixed: Features
    prefill: Features
    alone: Features
    many: Features
    prefill_engines: F8
    separate: npt.NDArray[np.bool_]
    crowd: F8
    accept: F8
    requests: F8
    is_mixed: npt.NDArray[np.bool_]
    mode: npt.NDArray[np.int64]
    rate: F8
    slots: F8
    peers: F8
    loop: F8 = field(default_factory=lambda: np.zeros((5, 1)))


MODES = {"closed": 0, "offline": 1, "static": 2, "decode": 3, "prefill": 4, "open": 5}


def make_batch(cases: Sequence[Case], *, seqs: F8 | None = None) -> Batch:
    """Features of cases at a guess of their running batch.

    Args:
        cases: what to price.
        seqs: running batch of each entry, from an earlier solution; None takes the concurrency.
    """
    entries: list[_Entry] = []
    for number, case in enumerate(cases):
        for variant, tokens in zip(case.variants, case.kv_tokens, strict=True):
            numbers = _numbers(case, variant, tokens)
            guess = min(numbers["inflight"], numbers["slots"])
            n = float(seqs[len(entries)]) if seqs is not None else guess
            if seqs is None and numbers["mode"] == MODES["open"] and np.isfinite(numbers["rate"]):
                n = numbers["rate"] * numbers["osl"] * OPEN_STEP_S
            n = float(np.clip(n, min(1.0, guess), max(guess, 1e-3)))
            numbers["chunk"] = _chunk(numbers, variant, seqs=n)
            entries.append(_Entry(number=number, case=case, variant=variant, seqs=n, numbers=numbers))
    table = np.array(
        [(e.number, e.variant.weight, e.seqs, *(e.numbers[key] for key in _FIELDS), *e.variant.accept) for e in entries]
    )
    columns = dict(zip(("case", "weight", "seqs", *_FIELDS), table.T, strict=False))
    return Batch(
        case=columns.pop("case").astype(np.int64), is_mixed=columns.pop("is_mixed") > 0,
        separate=columns.pop("separate") > 0, many=_grouped(entries, chunked=True, pool="crowd"),
        mode=columns.pop("mode").astype(np.int64), accept=table[:, -3:],
        decode=_grouped(entries, chunked=False, pool="decode"), mixed=_grouped(entries, chunked=True, pool="decode"),
        prefill=_grouped(entries, chunked=True, pool="prefill"), alone=_grouped(entries, chunked=True, pool="alone"), **columns,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One (case, variant) pair and its numbers."""

    number: int
    case: Case
    variant: Variant
    seqs: float
    numbers: dict[str, float]


def _grouped(entries: Sequence[_Entry], *, chunked: bool, pool: str) -> Features:
    """Features of one step of every entry; entries of one model on one device are priced in one call."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, entry in enumerate(entries):
        case = entry.case
        key = (
            case.model.id, case.device.chip, case.precision, entry.variant.draft, case.graph and not chunked,
        )  # fmt: skip
        groups.setdefault(key, []).append(i)
    order = np.concatenate([np.array(members) for members in groups.values()])
    parts = [_features([entries[i] for i in members], chunked=chunked, pool=pool) for members in groups.values()]
    return take(stack(parts), np.argsort(order))


_FIELDS = (
    "inflight", "isl", "osl", "prompt", "engines", "chunk", "prefill_engines", "requests", "is_mixed", "mode", "rate", "slots",
    "peers", "separate", "crowd",
)  # fmt: skip


def _numbers(case: Case, variant: Variant, kv_tokens: float) -> dict[str, float]:
    row = case.row
    engines = variant.replicas * variant.dp * variant.pp
    inflight = batch_of(row, variant)
    isl = row.isl * (1.0 - row.prefix_hit)
    slots = min(kv_tokens / (row.isl + row.osl * 0.6), MAX_SEQS.get(row.engine, 1024.0))
    requests = row.requests / engines
    if row.mode == "offline" and row.requests == 0:
        requests = OFFLINE_REQUESTS / engines
    elif not requests:
        requests = max(inflight * names()["requests"]["per_concurrency"], 1.0) if np.isfinite(inflight) else 1000.0
    if row.mode in ("static", "decode", "prefill") and np.isfinite(inflight):
        slots = max(slots, inflight)
    prefill_engines = variant.prefill_replicas * variant.prefill_dp if variant.prefill_replicas else engines
    return {
        "inflight": inflight, "isl": max(isl, 1.0), "osl": row.osl, "prompt": row.isl, "engines": engines,
        "chunk": min(BATCH_TOKENS, max(isl, 1.0)), "prefill_engines": prefill_engines, "requests": max(requests, 1.0),
        "is_mixed": float(case.mixed), "mode": float(MODES[row.mode]), "slots": max(slots, 1.0),
        "rate": row.rate / engines if row.rate > 0 else np.inf,
        "separate": float(variant.prefill_replicas > 0), "crowd": max(np.floor(BATCH_TOKENS / max(isl, 1.0)), 1.0),
        "peers": float(variant.dp) if row.engine in BALANCED and not variant.prefill_replicas else 1.0,
    }  # fmt: skip


def _chunk(numbers: dict[str, float], variant: Variant, *, seqs: float) -> float:
    """Prompt tokens of a step that prefills: a whole prompt, or all prompts that come free within one step.

    ``seqs`` sequences of ``osl`` tokens finish ``seqs / osl`` a step, and as many prompts follow them; what a step costs
    beside its tokens (launches, weights) is then paid once for all of them.
    """
    per_step = max(seqs * variant.accept[1] / max(numbers["osl"], 1.0), 1.0)
    return min(BATCH_TOKENS, numbers["isl"] * (1.0 if variant.prefill_replicas else per_step))


def _features(entries: Sequence[_Entry], *, chunked: bool, pool: str) -> Features:
    """One step of each entry: ``n`` sequences decoding in mid-answer and, if ``chunked``, a chunk of a prompt."""
    case = entries[0].case
    queries = 1.0 + entries[0].variant.draft
    rows = [entry.case.row for entry in entries]
    shards = [
        e.variant.prefill_shard() if pool != "decode" and e.variant.prefill_replicas > 0 else e.variant.shard()
        for e in entries
    ]
    shard = Shard(**{name: np.concatenate([getattr(s, name) for s in shards]) for name in ("tp", "pp", "dp", "ep")})
    n = np.array([entry.seqs for entry in entries]) * (pool == "decode")
    if pool == "alone":
        beside = np.array([e.case.mixed and not e.variant.prefill_replicas for e in entries])
        n = np.where(beside, np.array([entry.seqs for entry in entries]), 0.0)
    chunk = np.array([entry.numbers["chunk"] for entry in entries]) * chunked
    if pool == "crowd":
        apart = np.array([entry.numbers["separate"] > 0 for entry in entries])
        chunk = np.where(apart, chunk * np.array([entry.numbers["crowd"] for entry in entries]), 0.0)
        n = np.where(apart, 0.0, np.array([entry.numbers["slots"] for entry in entries]))
    isl, osl = np.array([row.isl for row in rows]), np.array([row.osl for row in rows])
    cached = isl * np.array([row.prefix_hit for row in rows])
    fresh = np.maximum(isl - cached, 1.0)
    steps = Steps(
        tokens=n * queries + chunk, decode_seqs=n, decode_context=n * (isl + osl / 2.0),
        prefill_pairs=chunk * (cached + fresh / 2.0), chunks=np.where(chunk > 0, np.maximum(chunk / fresh, 1.0), 0.0),
        decode_tokens=queries, peer_tokens=n * queries if pool == "alone" else None,
    )  # fmt: skip
    return step_features(
        case.model, case.device, case.precision, ROUTING, shard=shard, steps=steps, graph=case.graph and not chunked
    )


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What a harness would measure, per entry. All ``[draws, n]``.

    Attributes:
        rate: completed requests per second of one virtual engine.
        most: the same if requests never ran out: its capacity.
        ttft_s, ttft_median_s, ttft_p99_s, tpot_s: latencies.
        seqs: decoding sequences.
        prefill_rate: prompt tokens per second of one prefilling engine that does nothing else.
        decode_s: one decode step.
    """

    rate: F8
    most: F8
    ttft_s: F8
    ttft_median_s: F8
    ttft_p99_s: F8
    tpot_s: F8
    seqs: F8
    prefill_rate: F8
    decode_s: F8
    busy_compute: F8
    busy_memory: F8


def solve(batch: Batch, parameters: Parameters, *, accept: F8 | None = None) -> Solution:
    """The steady state of every entry.

    Args:
        batch: cases.
        parameters: ``[draws, 1]`` or ``[1, n]`` each.
        accept: tokens gained per step ``[draws, n]``; None takes the middle.
    """
    gain = batch.accept[:, 1][None, :] if accept is None else accept
    decode, mixed, prefill, many = (
        seconds(f, parameters) for f in (batch.decode, batch.mixed, batch.prefill, batch.many)
    )
    d_at, m_at, p_at = decode.total, mixed.total, prefill.total
    a_at = seconds(batch.alone, parameters).total
    # prefill work of one request, in seconds of the engine that does it
    extra = np.where(batch.is_mixed & ~batch.separate, np.maximum(m_at - d_at, 0.02 * m_at), p_at)
    w = extra * batch.isl / batch.chunk
    steps = np.maximum(batch.osl - 1.0, 0.0) / gain + 1e-9
    slots = np.minimum(batch.inflight, batch.slots)
    fixed = _fixed_share(decode, batch)
    n = np.broadcast_to(np.minimum(batch.seqs, slots), d_at.shape).copy()
    rate, ttft = np.zeros_like(n), np.zeros_like(n)
    # static and prefill-only runs are scripts around the engine: no server stands before it
    in_process = (batch.mode == MODES["static"]) | (batch.mode == MODES["prefill"])
    first = np.where(in_process, 0.0, parameters.first_token_s + parameters.prompt_token_s * batch.prompt)
    pool = _PrefillPool(
        one=w,
        alone=a_at * batch.isl / batch.chunk,
        all=np.maximum(many.total * batch.isl / batch.chunk, w),
        batch=batch,
    )
    is_open = batch.mode == MODES["open"]
    most = np.where(
        batch.separate,
        np.minimum(pool.most, batch.slots / (steps * d_at)),
        1.0 / (w + steps * many.total / batch.slots),
    )
    for _ in range(ROUNDS):
        d = d_at * (fixed + (1.0 - fixed) * n / np.maximum(batch.seqs, 1e-9))
        rate = 1.0 / (
            np.where(batch.separate | (batch.mode == MODES["decode"]), 0.0, w) + steps * d / np.maximum(n, 1e-9)
        )
        rate = np.where(batch.separate, np.minimum(rate, pool.most), rate)
        rate = np.where(is_open, np.minimum(0.97 * most, batch.rate), rate)
        load = np.minimum(rate * w, 0.97)
        together = np.where(batch.is_mixed, m_at, p_at)
        own = (a_at + (together - a_at) * load) * np.ceil(batch.isl / batch.chunk)
        step, behind = pool.times(rate)
        own = np.where(batch.separate, step, own)
        queue = np.where(batch.separate, behind, load / (2.0 * (1.0 - load)) * w)
        admit = np.where(batch.separate, 1.0, parameters.admit_steps) * d + _balance_wait(batch, rate=rate, step_s=d)
        ttft = first + np.where(in_process, own, admit + own + parameters.queue_factor * queue)
        full = batch.separate & (rate >= 0.999 * pool.most) & (batch.mode == MODES["closed"])
        ttft = np.where(full, np.maximum(batch.inflight / np.maximum(rate, 1e-12) - steps * d, ttft), ttft)
        busy = np.where(batch.separate, 0.0, np.minimum(rate * w, 0.97))
        target = np.where(is_open, rate * steps * d / (1.0 - busy), batch.inflight - rate * ttft)
        target = np.where(full, np.minimum(rate * steps * d, slots), target)
        target = np.where(batch.mode <= MODES["open"], target, n)
        target = np.clip(np.where(np.isfinite(target), target, slots), np.minimum(0.3, 0.3 * slots), slots)
        static = (batch.mode == MODES["static"]) | (batch.mode == MODES["decode"])
        n = np.where(static, slots, 0.5 * n + 0.5 * target)
    d = d_at * (fixed + (1.0 - fixed) * n / np.maximum(batch.seqs, 1e-9))
    stalls = ~batch.separate & (batch.mode != MODES["static"]) & (batch.mode != MODES["decode"])
    tpot = d / gain / np.where(stalls, 1.0 - np.minimum(rate * w, 0.97), 1.0)
    behind = np.where(is_open, 0.0, batch.inflight - batch.slots)
    wait = np.maximum(behind, 0.0) / np.maximum(rate, 1e-12)
    beyond = np.where(np.isfinite(batch.rate), np.maximum(1.0 / most - 1.0 / batch.rate, 0.0), 0.0)
    backlog = batch.requests * beyond / 2.0
    ttft = ttft + np.where(is_open, backlog, np.where(np.isfinite(wait), wait, 0.0))
    rate = np.where(is_open, np.minimum(most, batch.rate), rate)
    most = np.where(is_open, most, rate)
    feed = np.where(batch.separate, 1.0 / pool.most, w)
    steady = _Steady(w=feed, prefill_s=p_at, d=d, n=n, rate=rate, most=most, tpot=tpot, ttft=ttft, first=first)
    return _finish(batch, steady, decode)


@dataclass(frozen=True)
class _PrefillPool:
    """A pool that only prefills: a step takes one prompt, or as many as wait and fit.

    Attributes:
        one, all: seconds of a step with one prompt on each rank, and with ``crowd`` prompts. [draws, n]
        alone: seconds of a step with one prompt on one rank only. [draws, n]
        batch: entries.
    """

    one: F8
    alone: F8
    all: F8
    batch: Batch

    @property
    def most(self) -> F8:
        """Highest request rate of one decoding engine that the pool can feed. [draws, n]"""
        share = self.batch.prefill_engines / self.batch.engines
        return np.maximum(1.0 / self.one, self.batch.crowd / self.all) * share

    def times(self, rate: F8) -> tuple[F8, F8]:
        """Step that a prompt is in, and how long it waits for it, at a request rate of one decoding engine. [draws, n]

        Of ``k`` prompts that came during a step the next takes all; a step of ``k`` costs ``fixed + each * k``.
        """
        crowd = self.batch.crowd
        each = np.where(crowd > 1.0, (self.all - self.one) / np.maximum(crowd - 1.0, 1.0), self.one)
        fixed = np.maximum(self.one - each, 0.0)
        arrivals = rate * self.batch.engines / self.batch.prefill_engines
        room = np.maximum(1.0 - arrivals * each, 1e-6)
        together = np.clip(arrivals * fixed / room, 1.0, crowd)
        step = fixed + each * together
        load = np.minimum(arrivals * step / together, 0.97)
        wait = load / (2.0 * (1.0 - load)) * step / together + 0.5 * np.where(together > 1.0, step, 0.0)
        return step - (self.one - self.alone) * (1.0 - load), wait


def _balance_wait(batch: Batch, *, rate: F8, step_s: F8) -> F8:
    """How long a prompt waits until the other attention ranks have one too, or the engine gives up waiting. [draws, n]

    With ``r`` ranks and ``rate`` prompts per second on each, the last of the other ranks gets one after H(r - 1) / rate on
    average; the first prompt of a round waits all of it, the later ones less, half of it on average when they are many.
    """
    others = np.maximum(batch.peers - 1.0, 0.0)
    harmonic = np.log(np.maximum(others, 1.0)) + 0.5772 + 0.5 / np.maximum(others, 1.0)
    limit = BALANCE_STEPS * step_s
    whole = np.minimum(limit, harmonic / np.maximum(rate, 1e-12))
    wait: F8 = np.where(others > 0.0, whole * (0.5 + 0.5 * np.exp(-rate * limit)), 0.0)
    return wait


def _fixed_share(decode: StepTime, batch: Batch) -> F8:
    """Share of a decode step that does not shrink with the batch: weights' traffic, floors, messages' latency."""
    del batch
    total = decode.total
    return np.clip(
        (decode.floors + 0.7 * decode.memory + 0.7 * decode.messages + 0.3 * decode.compute) / total, 0.2, 1.0
    )


@dataclass(frozen=True)
class _Steady:
    """The fixed point, before start, end and static batches. All ``[draws, n]``.

    Attributes:
        w: seconds that a prompt costs the engine that prefills it.
        prefill_s: a step that only prefills.
        d: a decode step.
        n: decoding sequences.
        rate, most: requests per second as offered, and at capacity.
        tpot, ttft: latencies in seconds; ``first`` is what of TTFT no engine step is.
    """

    w: F8
    prefill_s: F8
    d: F8
    n: F8
    rate: F8
    most: F8
    tpot: F8
    ttft: F8
    first: F8


def _finish(batch: Batch, steady: _Steady, time: StepTime) -> Solution:
    """The start burst, the ramp-down and static batches; ``time`` is a decode step by cause."""
    w, rate, tpot, ttft, first = steady.w, steady.rate, steady.tpot, steady.ttft, steady.first
    waves = np.maximum(batch.requests / np.maximum(np.minimum(batch.inflight, batch.requests), 1e-9), 1.0)
    burst = np.minimum(batch.inflight, batch.slots)
    burst = np.where(np.isfinite(burst), burst, batch.slots)
    start = first + w * np.maximum((burst + 1.0) / 2.0, 1.0)
    is_open = batch.mode == MODES["open"]
    mean = np.where(is_open, ttft, ttft + (np.maximum(start, ttft) - ttft) / waves)
    backlog = np.where(batch.mode == MODES["offline"], np.maximum(batch.requests - burst, 0.0), 0.0)
    mean = np.where(batch.mode == MODES["offline"], backlog / np.maximum(rate, 1e-12) / 2.0 + start, mean)
    median = np.where(waves > 2.0, ttft, mean)
    late = np.where((waves < 100.0) & ~is_open, first + w * burst, 2.0 * ttft)
    ramp = 1.0 + 0.25 / waves
    static = batch.mode == MODES["static"]
    whole = w * burst + np.maximum(batch.osl - 1.0, 0.0) * tpot
    answer = np.maximum(batch.osl - 1.0, 0.0) * tpot
    slowed = np.where(batch.mode == MODES["closed"], (ttft + answer) / (np.maximum(mean, 1e-9) + answer), 1.0)
    done = np.where(static, burst / whole, rate * slowed / np.where(is_open, 1.0, ramp))
    mean = np.where(static, first + w * burst, mean)
    played = np.exp(batch.loop)
    middle = np.where(static, mean, median) * played[2]
    return Solution(
        rate=done * played[0], most=np.where(is_open, steady.most, done) * played[0], ttft_s=mean * played[1],
        ttft_median_s=middle, ttft_p99_s=np.maximum(late, 1.3 * median) * played[3], tpot_s=tpot * played[4], seqs=steady.n,
        prefill_rate=batch.chunk / steady.prefill_s, decode_s=steady.d, busy_compute=time.compute / time.total,
        busy_memory=time.memory / time.total,
    )  # fmt: skip
