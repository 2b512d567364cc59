"""Statistics that add up: what one shard of a run contributes, and the metrics of all shards together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from offramp.serve.deploy import Deployment
from offramp.serve.records import (
    F8,
    I8,
    ClassMetrics,
    Outcome,
    Percentiles,
    PoolMetrics,
    Requests,
    ServeConfig,
    ServeMetrics,
    Slo,
)
from offramp.serve.sketch import Sketch, exact_percentiles

EXACT_LIMIT = 200_000
"""Up to so many requests, percentiles of TTFT, TPOT and E2E come from all samples; beyond, from sketches."""


class Latency:
    """Samples of one latency: kept in full, or sketched."""

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self.parts: list[F8] = []
        self.sketch = Sketch()

    def add(self, values_s: F8) -> None:
        """Adds samples, in seconds."""
        if self.exact:
            self.parts.append(values_s)
        else:
            self.sketch.add(values_s)

    def merge(self, other: Latency) -> None:
        """Adds the samples of another shard."""
        self.parts.extend(other.parts)
        self.sketch.merge(other.sketch)

    def percentiles(self) -> Percentiles | None:
        """The distribution, or None where there are no samples."""
        if self.exact:
            return exact_percentiles(np.concatenate(self.parts)) if self.parts else None
        return self.sketch.percentiles()


class ClassTally:
    """The latencies of one SLO class."""

    def __init__(self, *, exact: bool) -> None:
        self.ttft, self.tpot, self.e2e = (Latency(exact=exact) for _ in range(3))
        self.completed = 0
        self.good = 0

    def merge(self, other: ClassTally) -> None:
        """Adds another shard's."""
        for name in ("ttft", "tpot", "e2e"):
            getattr(self, name).merge(getattr(other, name))
        self.completed += other.completed
        self.good += other.good


class Tally:
    """Everything that the metrics need, in a form that adds."""

    def __init__(self, pools: int, *, exact: bool) -> None:
        self.exact = exact
        self.classes: dict[int, ClassTally] = {}
        self.all = ClassTally(exact=exact)
        self.itl = Sketch()
        self.input_tokens = 0
        self.output_tokens = 0
        self.flight_s = 0.0
        self.first_start_s = math.inf
        self.last_done_s = -math.inf
        self.run_start_s = math.inf
        self.run_done_s = -math.inf
        self.growth = 0.0
        self.queue_at_end = 0
        self.leaked_blocks = 0
        self.busy_s, self.batch_s, self.kv_block_s = (np.zeros(pools) for _ in range(3))
        self.kv_peak, self.preemptions, self.hit, self.lookup, self.steps = (np.zeros(pools, np.int64) for _ in "12345")

    def add_requests(self, lengths: tuple[I8, I8, I8], times: tuple[F8, F8, F8], slo: Sequence[Slo]) -> None:
        """Adds completed, measured requests: (isl, osl, SLO class) and (sent, first token, done) times. all [n]"""
        start, first, done = times
        if len(start) == 0:
            return
        isl, osl, which = lengths
        ttft, e2e = first - start, done - start
        many = osl > 1
        tpot = np.where(many, (done - first) / np.maximum(osl - 1, 1), 0.0)
        self.input_tokens += int(isl.sum())
        self.output_tokens += int(osl.sum())
        self.flight_s += float(e2e.sum())
        self.first_start_s = min(self.first_start_s, float(start.min()))
        self.last_done_s = max(self.last_done_s, float(done.max()))
        for key in np.unique(which):
            mine = which == key
            limit = slo[min(int(key), len(slo) - 1)] if slo else Slo()
            good = (ttft <= limit.ttft_s) & (tpot <= limit.tpot_s) & (e2e <= limit.e2e_s) & mine
            part = self.classes.setdefault(int(key), ClassTally(exact=self.exact))
            for tally in (part, self.all):
                tally.ttft.add(ttft[mine])
                tally.tpot.add(tpot[mine & many])
                tally.e2e.add(e2e[mine])
                tally.completed += int(mine.sum())
                tally.good += int(good.sum())

    def add_sums(self, outcome: Outcome) -> None:
        """Adds an engine's sums by pool, its gaps and its queue trend."""
        itl = Sketch()
        itl.counts, itl.total_s = outcome.itl_counts, outcome.itl_sum_s
        itl.max_s, itl.count = outcome.itl_max_s, outcome.itl_count
        self.itl.merge(itl)
        self.growth += slope(outcome.trend)
        if len(outcome.start_s):
            self.run_start_s = min(self.run_start_s, float(np.nanmin(outcome.start_s)))
            until = float(np.nanmax(outcome.done_s)) if outcome.until_s is None else outcome.until_s
            self.run_done_s = max(self.run_done_s, until)
        self.queue_at_end += outcome.queue_at_end
        self.leaked_blocks += outcome.leaked_blocks
        self.busy_s += outcome.busy_s
        self.batch_s += outcome.batch_s
        self.kv_block_s += outcome.kv_block_s
        self.kv_peak = np.maximum(self.kv_peak, outcome.kv_peak_blocks)
        self.preemptions += outcome.preemptions
        self.hit += outcome.hit_tokens
        self.lookup += outcome.lookup_tokens
        self.steps += outcome.steps

    def spread(self, pool_index: Sequence[int], pools: int) -> Tally:
        """The same statistics with its pools at their places among all pools."""
        for name in ("busy_s", "batch_s", "kv_block_s", "kv_peak", "preemptions", "hit", "lookup", "steps"):
            mine = getattr(self, name)
            full = np.zeros(pools, mine.dtype)
            full[list(pool_index)] = mine
            setattr(self, name, full)
        return self

    def merge(self, other: Tally) -> None:
        """Adds another shard."""
        for key, part in other.classes.items():
            self.classes.setdefault(key, ClassTally(exact=self.exact)).merge(part)
        self.all.merge(other.all)
        self.itl.merge(other.itl)
        for name in ("input_tokens", "output_tokens", "flight_s", "growth", "queue_at_end", "leaked_blocks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("first_start_s", "run_start_s"):
            setattr(self, name, min(getattr(self, name), getattr(other, name)))
        for name in ("last_done_s", "run_done_s"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        for name in ("busy_s", "batch_s", "kv_block_s", "preemptions", "hit", "lookup", "steps"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.kv_peak = np.maximum(self.kv_peak, other.kv_peak)


def slope(trend: F8) -> float:
    """Least-squares slope of waiting requests over time, in requests per second."""
    n, t, w, tw, tt = (float(x) for x in trend)
    spread = n * tt - t * t
    return (n * tw - t * w) / spread if n > 1 and spread > 0 else 0.0


def tally(
    deployment: Deployment, requests: Requests, outcome: Outcome, *, config: ServeConfig, measured: I8, exact: bool
) -> Tally:
    """The statistics of one engine run.

    Args:
        deployment: the pools.
        requests: the requests that it ran.
        outcome: what the engine handed back.
        config: limits.
        measured: 1 for requests that count, 0 for warm-up. [n]
        exact: whether samples are kept in full.
    """
    out = Tally(len(deployment.pools), exact=exact)
    late = np.array([pool.delay_s - deployment.entry_delay_s for pool in deployment.pools])[outcome.pool]
    keep = np.isfinite(outcome.done_s) & (measured > 0)
    times = (outcome.start_s[keep], (outcome.first_s + late)[keep], (outcome.done_s + late)[keep])
    slo = np.zeros(len(keep), np.int64) if requests.slo_class is None else requests.slo_class
    out.add_requests((requests.isl_tokens[keep], requests.osl_tokens[keep], slo[keep]), times, config.slo)
    out.add_sums(outcome)
    return out


def pool_metrics(deployment: Deployment, total: Tally, duration_s: float) -> tuple[PoolMetrics, ...]:
    """Each pool's share of the work."""
    out: list[PoolMetrics] = []
    for p, pool in enumerate(deployment.pools):
        groups = int(np.sum(deployment.group_pool == p))
        lanes = int(np.sum(deployment.lane_pool == p))
        busy = float(total.busy_s[p])
        lane_busy = busy * lanes / groups
        span = duration_s * lanes * pool.capacity_blocks
        out.append(
            PoolMetrics(
                name=pool.spec.name or pool.spec.role,
                role=pool.spec.role,
                utilisation=min(1.0, busy / (duration_s * groups)) if duration_s > 0 else 0.0,
                mean_batch=float(total.batch_s[p]) / lane_busy if busy > 0 else 0.0,
                kv_mean=float(total.kv_block_s[p]) / span if span > 0 else 0.0,
                kv_peak=float(total.kv_peak[p]) / max(1, pool.capacity_blocks),
                preemptions=int(total.preemptions[p]),
                prefix_hit=float(total.hit[p]) / float(total.lookup[p]) if total.lookup[p] else 0.0,
                steps=int(total.steps[p]),
            )
        )
    return tuple(out)


def class_metrics(total: Tally, *, stable: bool) -> tuple[ClassMetrics, ...]:
    """Each SLO class, where there is more than one."""
    if len(total.classes) < 2:
        return ()
    return tuple(
        ClassMetrics(
            slo_class=key,
            completed=part.completed,
            ttft_s=part.ttft.percentiles() if stable else None,
            tpot_s=part.tpot.percentiles() if stable else None,
            e2e_s=part.e2e.percentiles() if stable else None,
            goodput_share=part.good / part.completed if stable and part.completed else None,
        )
        for key, part in sorted(total.classes.items())
    )


def metrics(
    deployment: Deployment, total: Tally, *, rejected: dict[str, int], offered: float | None, capacity: float | None,
    stable: bool,
) -> ServeMetrics:  # fmt: skip
    """The metrics of a whole run.

    Args:
        deployment: the pools.
        total: merged statistics.
        rejected: refused requests by reason.
        offered: arrival rate, None in closed loop or for one batch.
        capacity: request rate of the saturated deployment, None where not estimated.
        stable: whether latencies mean anything.
    """
    done = total.all.completed
    duration = total.last_done_s - total.first_start_s if done else 0.0
    run = max(0.0, total.run_done_s - total.run_start_s)
    pools = pool_metrics(deployment, total, run)
    groups = np.bincount(deployment.group_pool, minlength=len(pools)).astype(np.float64)
    lanes = np.bincount(deployment.lane_pool, minlength=len(pools)).astype(np.float64)
    busy_lanes = float(np.sum(total.busy_s * lanes / groups))
    blocks = np.array([pool.capacity_blocks for pool in deployment.pools]) * lanes
    share = total.all.good / done if done else 0.0
    rate = 1 / duration if duration > 0 else 0.0
    run_rate = 1 / run if run > 0 else 0.0
    return ServeMetrics(
        stable=stable, requests=done + sum(rejected.values()), completed=done, rejected=rejected, duration_s=duration,
        offered_req_per_s=offered, capacity_req_per_s=capacity,
        headroom=capacity / offered if capacity is not None and offered else None,
        ttft_s=total.all.ttft.percentiles() if stable else None,
        tpot_s=total.all.tpot.percentiles() if stable else None,
        itl_s=total.itl.percentiles() if stable else None,
        e2e_s=total.all.e2e.percentiles() if stable else None,
        request_req_per_s=done * rate, output_tokens_per_s=total.output_tokens * rate,
        total_tokens_per_s=(total.output_tokens + total.input_tokens) * rate,
        output_tokens=total.output_tokens, input_tokens=total.input_tokens,
        goodput_share=share if stable and done else None,
        goodput_req_per_s=share * done * rate if stable and done else None,
        queue_growth_req_per_s=total.growth, queue_at_end=total.queue_at_end,
        utilisation=min(1.0, float(total.busy_s.sum()) * run_rate / float(groups.sum())),
        mean_batch=float(total.batch_s.sum()) / busy_lanes if busy_lanes > 0 else 0.0,
        kv_mean=float(total.kv_block_s.sum()) * run_rate / max(1.0, float(blocks.sum())),
        kv_peak=max(pool.kv_peak for pool in pools), preemptions=int(total.preemptions.sum()),
        prefix_hit=float(total.hit.sum()) / float(total.lookup.sum()) if total.lookup.sum() else 0.0,
        steps=int(total.steps.sum()), mean_in_flight=total.flight_s * rate, pools=pools,
        by_class=class_metrics(total, stable=stable),
    )  # fmt: skip
