"""Tune: simulate one replica on the traffic, and bisect the rate to the highest that meets the SLO."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import msgspec
import numpy as np

from offramp.core.errors import InfeasibleError
from offramp.core.record import Record
from offramp.cost import Pool, Setting, StepTable, step_table
from offramp.search.busy import load_at
from offramp.search.mix import Mix, Stream
from offramp.serve import PoolSpec, ServeConfig, ServeMetrics, simulate

RUNG: Final = 1.02
"""Rates that are tried are whole powers of this, so that neighbouring questions try the same ones. An answer is good to
two percent, which is less than the sampling error of a simulated percentile."""
STRIDE: Final = 4
"""Rungs between the first rates tried, all of them multiples of it; the stride doubles until limits are kept and broken."""
REFUSED_SHARE: Final = 0.001
"""A layout that must refuse more of the requests than this, for want of cache, does not carry the workload."""
NEAR: Final = 1.15
"""Latencies within this factor of their limit are near it: the first stride is a short one."""
HOPELESS: Final = 1 / 400
"""A layout that does not keep its limits at this share of its closed-form rate counts as one that never does."""


class Felt(Record):
    """What users feel at one rate; seconds. None where the deployment is unstable.

    Attributes:
        rate: requests per second of one replica.
        stable: whether the queue stays bounded.
        headroom: saturated rate over this rate.
        latency: by "ttft_p90", "tpot_mean" ...
        batch, kv_share, busy: means of the busiest pool.
        preemptions, refused: counts.
        output_tokens_per_s: of one replica.
    """

    rate: float
    stable: bool
    headroom: float | None
    latency: dict[str, float]
    batch: float
    kv_share: float
    busy: float
    preemptions: int
    refused: int
    refused_context: int
    output_tokens_per_s: float
    input_tokens_per_s: float
    prefix_hit: float

    def strain(self, slo: Mapping[str, float]) -> float:
        """The largest latency over its limit; infinite where the queue grows, 0 without limits."""
        if not self.stable:
            return math.inf
        return max((self.latency.get(key, math.inf) / limit for key, limit in slo.items()), default=0.0)

    def meets(self, slo: Mapping[str, float]) -> bool:
        """Whether every limit is kept."""
        return self.strain(slo) <= 1.0


STATS = ("mean", "p50", "p90", "p95", "p99")


def felt_of(metrics: ServeMetrics, rate: float, copies: int = 1) -> Felt:
    """The part of the simulator's metrics that an assessment keeps, for one of several replicas."""
    latency: dict[str, float] = {}
    for name in ("ttft", "tpot", "itl", "e2e"):
        values = getattr(metrics, f"{name}_s")
        if values is not None:
            latency |= {f"{name}_{stat}": float(getattr(values, stat)) for stat in STATS}
    return Felt(
        rate=rate, stable=metrics.stable, headroom=metrics.headroom, latency=latency, batch=metrics.mean_batch,
        kv_share=metrics.kv_mean, busy=metrics.utilisation, preemptions=metrics.preemptions,
        refused=metrics.rejected.get("kv-capacity", 0) + metrics.rejected.get("no-pool", 0),
        refused_context=metrics.rejected.get("context", 0),
        output_tokens_per_s=metrics.output_tokens_per_s / copies, prefix_hit=metrics.prefix_hit,
        input_tokens_per_s=(metrics.total_tokens_per_s - metrics.output_tokens_per_s) / copies,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One replica of a layout at one set of parameters, ready to be loaded.

    Attributes:
        setting: with exactly one draw.
        pool: layout.
        mix: lengths.
        context_limit: longest context that the model takes; 0 is no limit.
        decode_tokens, accept_tokens: speculation.
    """

    setting: Setting
    pool: Pool
    mix: Mix
    context_limit: int = 0
    decode_tokens: int = 1
    accept_tokens: float = 1.0

    def table(self) -> StepTable:
        """Step costs for the simulator."""
        made = step_table(
            self.setting, self.pool, draw=0, mean_context=max(self.mix.context, 16.0),
            decode_tokens=self.decode_tokens, accept_tokens=self.accept_tokens,
        )  # fmt: skip
        return replace(made, context_tokens=self.context_limit)


def unserved(rate: float) -> Felt:
    """What users feel of a layout that cannot hold their requests."""
    return Felt(
        rate=rate, stable=False, headroom=0.0, latency={}, batch=0.0, kv_share=0.0, busy=0.0, preemptions=0, refused=0,
        refused_context=0, output_tokens_per_s=0.0, input_tokens_per_s=0.0, prefix_hit=0.0,
    )  # fmt: skip


Served = StepTable | Sequence[PoolSpec]


def feel(table: Served, stream: Stream, rate: float, *, most: int, prefix: bool = False, copies: int = 1) -> Felt:
    """What users of one replica (or of a few pools together) feel at a rate.

    Args:
        table: step costs of a replica, or pools that serve together.
        stream: where requests come from.
        rate: requests per second.
        most: how many requests are measured.
        prefix: whether prompts share cached prefixes.
        copies: replicas side by side, to which requests are dealt in turn; the rate is that of one.
    """
    specs = [PoolSpec(table=table, replicas=copies)] if isinstance(table, StepTable) else list(table)
    load = load_at(stream, specs, rate * copies, measured=most)
    several = sum(spec.replicas for spec in specs) > len(specs) or any(spec.table.virtual_engines > 1 for spec in specs)
    config = ServeConfig(
        warmup=load.warmup, cooldown=load.cooldown, prefix_cache=prefix, estimate_capacity=False,
        router="prefix-aware" if prefix and several else "round-robin",
    )  # fmt: skip
    return felt_of(simulate(specs, load.requests, config=config), rate, copies)


@dataclass(frozen=True)
class Points:
    """What was simulated before, by step table and rung: an edited question computes only what it has not seen.

    Attributes:
        known: by :meth:`key` and rung; None where the deployment serves nothing.
        seen: those that were asked for.
    """

    known: dict[str, dict[int, Felt | None]] = field(default_factory=dict)
    seen: dict[str, dict[int, Felt | None]] = field(default_factory=dict)

    @staticmethod
    def key(table: Served, *, most: int, prefix: bool, copies: int) -> str:
        """The address of a curve; the stream of requests is that of all points together."""
        digest = hashlib.blake2b(f"{most} {prefix} {copies}".encode(), digest_size=12)
        _feed(digest, table)
        return digest.hexdigest()

    def at(self, key: str, rung: int, compute: Callable[[], Felt | None]) -> Felt | None:
        """The point, found or computed."""
        curve = self.known.setdefault(key, {})
        if rung not in curve:
            curve[rung] = compute()
        self.seen.setdefault(key, {})[rung] = curve[rung]
        return curve[rung]


def _feed(digest: Any, value: object) -> None:
    """Feeds a step table, or pools of them, to a digest: every field by name."""
    if isinstance(value, np.ndarray):
        digest.update(value.tobytes())
    elif isinstance(value, (StepTable, PoolSpec)):
        for item in fields(value):
            digest.update(f"\x1f{item.name}=".encode())
            _feed(digest, getattr(value, item.name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            digest.update(b"\x1e")
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


def rung_of(rate: float) -> int:
    """The rung nearest to a rate, on the coarse ladder where a search begins."""
    return STRIDE * round(math.log(rate) / math.log(RUNG) / STRIDE)


def highest_rate(
    table: Served, stream: Stream, slo: Mapping[str, float], *, guess: float, most: int, prefix: bool = False,
    copies: int = 1, points: Points | None = None, fine: int = 1, give_up: float = 0.0,
) -> tuple[float, Felt | None]:  # fmt: skip
    """The highest rate at which one replica keeps the SLO, and what users feel there; 0 and None where there is none.

    Without an SLO the highest stable rate is taken. Rates are rungs of a ladder: from the guess the search strides up or
    down, doubling, until limits are kept at one rung and broken at another; then it closes in from how far each is off.

    Args:
        table, stream, most, prefix, copies: as of :func:`feel`.
        slo: limits by "ttft_p90" ...
        guess: where to begin.
        points: what was simulated before with this stream.
        fine: rungs between the ends of a bracket that is good enough.
        give_up: rates up to this are of no interest: the search begins above it, and ends there where limits break.
    """
    seen = points or Points()
    key = Points.key(table, most=most, prefix=prefix, copies=copies)
    allowed = REFUSED_SHARE * max(min(most, len(stream.requests)), 1)

    def compute(rung: int) -> Felt | None:
        try:
            return feel(table, stream, RUNG**rung, most=most, prefix=prefix, copies=copies)
        except InfeasibleError:
            return None

    def strain(rung: int) -> tuple[float, Felt | None]:
        found = seen.at(key, rung, lambda: compute(rung))
        if found is None or found.refused > allowed:
            return math.inf, None
        return found.strain(slo), found

    first = rung_of(max(guess, 1e-6))
    if give_up > 0.0:
        first = math.floor(math.log(give_up) / math.log(RUNG) + 1e-6) + 1
    low, high = _bracket(strain, first, least=first + math.log(HOPELESS) / math.log(RUNG), give_up=give_up)
    if low is None:
        return 0.0, None
    while high.rung - low.rung > fine:
        middle = _between(low, high)
        value, felt = strain(middle)
        if value <= 1.0:
            low = _Tried(middle, value, felt)
        else:
            high = _Tried(middle, value, felt)
    return RUNG**low.rung, low.felt


@dataclass(frozen=True)
class _Tried:
    """A rung, the largest of its latencies over their limits (infinite where unstable), and what users feel."""

    rung: int
    strain: float
    felt: Felt | None


def _between(low: _Tried, high: _Tried) -> int:
    """The rung to try next: where the limit lies if strain grows as a power of the rate, else the middle."""
    width = high.rung - low.rung
    if width <= 2 or low.strain <= 0.0 or not math.isfinite(high.strain):
        return low.rung + width // 2
    share = -math.log(low.strain) / (math.log(high.strain) - math.log(low.strain))
    return low.rung + min(max(round(share * width), 1), width - 1)


def _bracket(
    strain: Callable[[int], tuple[float, Felt | None]], first: int, *, least: float, give_up: float
) -> tuple[_Tried | None, _Tried]:
    """A rung that keeps the limits (None: there is none) and a higher one that does not."""
    here = _Tried(first, *strain(first))
    stride = STRIDE if 1.0 / NEAR < here.strain < NEAR else 2 * STRIDE
    if here.strain <= 1.0:
        while True:
            there = _Tried(here.rung + stride, *strain(here.rung + stride))
            if there.strain > 1.0:
                return here, there
            here, stride = there, 2 * stride
    while RUNG**here.rung > give_up and here.rung - stride >= least:
        there = _Tried(here.rung - stride, *strain(here.rung - stride))
        if there.strain <= 1.0:
            return there, here
        here, stride = there, 2 * stride
    return None, here


def with_limits(pool: Pool, batch: float) -> Pool:
    """The pool with room for half as many sequences again as the closed form found best."""
    seqs = 2 ** math.ceil(math.log2(max(batch * 1.5, 8.0)))
    return msgspec.structs.replace(pool, max_seqs=int(min(max(seqs, 16), 1024)))
