"""Tune: simulate one replica on the traffic, and bisect the rate to the highest that meets the SLO."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from offramp.core.errors import InfeasibleError
from offramp.core.record import Record
from offramp.cost import Pool, Setting, StepTable, step_table
from offramp.search.mix import Mix, Stream
from offramp.serve import PoolSpec, ServeConfig, ServeMetrics, simulate

STEPS = 7
"""Halvings of the bracket; the answer is good to about one percent."""
REFUSED_SHARE = 0.001
"""A layout that must refuse more of the requests than this, for want of cache, does not carry the workload."""
HOPELESS = 1 / 400
"""A layout that does not keep its limits at this share of its closed-form rate counts as one that never does."""
WARMUP_SHARE = 0.05


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

    def meets(self, slo: Mapping[str, float]) -> bool:
        """Whether every limit is kept."""
        return self.stable and all(self.latency.get(key, math.inf) <= limit for key, limit in slo.items())


STATS = ("mean", "p50", "p90", "p95", "p99")


def felt_of(metrics: ServeMetrics, rate: float) -> Felt:
    """The part of the simulator's metrics that an assessment keeps."""
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
        output_tokens_per_s=metrics.output_tokens_per_s, prefix_hit=metrics.prefix_hit,
        input_tokens_per_s=metrics.total_tokens_per_s - metrics.output_tokens_per_s,
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


def feel(table: Served, stream: Stream, rate: float, *, most: int, prefix: bool = False) -> Felt:
    """What users of one replica (or of a few pools together) feel at a rate.

    Args:
        table: step costs of a replica, or pools that serve together.
        stream: where requests come from.
        rate: requests per second.
        most: how many requests are simulated.
        prefix: whether prompts share cached prefixes.
    """
    requests = stream.at(rate, most=most)
    specs = [PoolSpec(table=table)] if isinstance(table, StepTable) else list(table)
    several = sum(spec.replicas for spec in specs) > len(specs) or any(spec.table.virtual_engines > 1 for spec in specs)
    config = ServeConfig(
        warmup=int(WARMUP_SHARE * len(requests)), prefix_cache=prefix, estimate_capacity=False,
        router="prefix-aware" if prefix and several else "round-robin",
    )  # fmt: skip
    return felt_of(simulate(specs, requests, config=config), rate)


def highest_rate(
    table: Served, stream: Stream, slo: Mapping[str, float], *, guess: float, most: int, prefix: bool = False,
    steps: int = STEPS, tolerance: float = 1.015, give_up: float = 0.0,
) -> tuple[float, Felt | None]:  # fmt: skip
    """The highest rate at which one replica keeps the SLO, and what users feel there; 0 and None where there is none.

    Without an SLO the highest stable rate is taken.

    Args:
        table, stream, most, prefix: as of :func:`feel`.
        slo: limits by "ttft_p90" ...
        guess: where to begin.
        steps: most halvings after the bracket is found.
        tolerance: ratio of the bracket's ends that is good enough.
        give_up: rates below this are of no interest.
    """

    def good(rate: float) -> Felt | None:
        try:
            found = feel(table, stream, rate, most=most, prefix=prefix)
        except InfeasibleError:
            return None
        total = max(min(most, len(stream.requests)), 1)
        kept = found.refused <= REFUSED_SHARE * total
        return found if kept and found.meets(slo) else None

    low, best = 0.0, None
    high = math.inf
    rate = max(guess, 1e-6)
    for _ in range(12):
        found = good(rate)
        if found is not None:
            low, best = rate, found
            if high < math.inf:
                break
            rate *= 1.35
        else:
            high = rate
            if low > 0.0 or rate <= give_up:
                break
            rate *= 0.6 if rate > guess * 0.2 else 0.25
            if rate < guess * HOPELESS:
                break
    if best is None:
        return 0.0, None
    for _ in range(steps):
        if high / low < tolerance or high == math.inf:
            break
        middle = math.sqrt(low * high)
        found = good(middle)
        if found is not None:
            low, best = middle, found
        else:
            high = middle
    return low, best


def with_limits(pool: Pool, batch: float) -> Pool:
    """The pool with room for half as many sequences again as the closed form found best."""
    seqs = 2 ** math.ceil(math.log2(max(batch * 1.5, 8.0)))
    return msgspec.structs.replace(pool, max_seqs=int(min(max(seqs, 16), 1024)))
