"""simulate: validate, split into independent shards, run them, add them up, and say whether it is stable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from offramp.core.errors import InputError
from offramp.core.workers import Workers
from offramp.serve import deploy
from offramp.serve.capacity import capacity, link_rate
from offramp.serve.deploy import Deployment
from offramp.serve.engine import run_engine
from offramp.serve.records import I8, REJECT_REASONS, Outcome, PoolSpec, Requests, ServeConfig, ServeMetrics
from offramp.serve.tally import EXACT_LIMIT, Tally, metrics, tally

STABILITY_BAND = 0.05
"""Headroom this close to 1 is decided by the queue's trend; the capacity estimate is not better than that."""


ONE_SHARD = 20_000
"""So few requests are run together, because setting up a shard costs as much as running a thousand requests."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Requests and pools that nothing else in the run touches.

    Attributes:
        pools: the pools of the shard.
        index: positions of its requests in the whole run. [n]
        pool_index: position of each of its pools in the whole run.
    """

    pools: tuple[PoolSpec, ...]
    requests: Requests
    index: I8
    pool_index: tuple[int, ...]
    measured: I8


def check_config(config: ServeConfig) -> None:
    """Refuses settings that contradict one another.

    Raises:
        InputError: closed loop without concurrency, negative counts, or a watermark outside 0 to 1.
    """
    if config.mode == "closed" and config.concurrency < 1:
        raise InputError("closed loop needs a concurrency of at least 1", where="config.concurrency")
    if config.warmup < 0 or config.cooldown < 0 or config.ramp_s < 0 or config.reserve_tokens < 0 or config.jobs < 1:
        raise InputError(
            "warmup, cooldown, ramp_s and reserve_tokens are not negative; jobs is at least 1", where="config"
        )
    if not 0 <= config.watermark < 1:
        raise InputError("watermark is a share below 1", where="config.watermark")


def run_shard(shard: Shard, config: ServeConfig, exact: bool) -> tuple[Tally, Outcome | None]:
    """Runs one shard; its statistics, and its times by request where they were asked for."""
    deployment, outcome = run_engine(shard.pools, shard.requests, config)
    result = tally(deployment, shard.requests, outcome, config=config, measured=shard.measured, exact=exact)
    return result, outcome if config.keep_requests else None


def are_independent(pools: Sequence[PoolSpec], config: ServeConfig) -> bool:
    """Whether each request's replica is known in advance, so that replicas can run apart.

    So it is with round robin and open-loop arrivals, if no two pools share a class.
    """
    if config.mode != "open" or config.router != "round-robin" or any(spec.role != "both" for spec in pools):
        return False
    if sum(spec.replicas for spec in pools) == 1:
        return False
    keys = [key for spec in pools for key in spec.slo_classes]
    return len(pools) == 1 or (all(spec.slo_classes for spec in pools) and len(keys) == len(set(keys)))


def shards_of(pools: Sequence[PoolSpec], requests: Requests, config: ServeConfig, measured: I8) -> list[Shard]:
    """Splits a run where replicas do not influence each other; one shard where they do."""
    whole = Shard(
        pools=tuple(pools), requests=requests, index=np.arange(len(requests)), measured=measured,
        pool_index=tuple(range(len(pools))),
    )  # fmt: skip
    if len(requests) <= ONE_SHARD or not are_independent(pools, config):
        return [whole]
    out: list[Shard] = []
    slo = np.zeros(len(requests), np.int64) if requests.slo_class is None else requests.slo_class
    for p, spec in enumerate(pools):
        mine = np.flatnonzero(np.isin(slo, spec.slo_classes)) if spec.slo_classes else np.arange(len(requests))
        one = (replace(spec, replicas=1),)
        for r in range(spec.replicas):
            index = mine[r :: spec.replicas]
            if len(index):
                part = requests.take(index)
                out.append(Shard(pools=one, requests=part, index=index, pool_index=(p,), measured=measured[index]))
    return out


def _beside(shards: Sequence[Shard], config: ServeConfig, *, exact: bool) -> list[tuple[Tally, Outcome | None]]:
    """Runs the shards in processes beside this one."""
    units = [(i, (shard, config, exact)) for i, shard in enumerate(shards)]
    with Workers(min(config.jobs, len(shards))) as workers:
        done = {unit.i: unit.value for unit in workers.surely(run_shard, units)}
    return [done[i] for i in range(len(shards))]


def run_shards(
    shards: Sequence[Shard], config: ServeConfig, *, exact: bool, pools: int
) -> tuple[Tally, Outcome | None]:
    """Runs all shards and adds them up in their own order, so that the answer does not depend on the jobs."""
    total = Tally(pools, exact=exact)
    if config.jobs > 1 and len(shards) > 1:
        results = _beside(shards, config, exact=exact)
    else:
        results = [run_shard(shard, config, exact) for shard in shards]
    for shard, (part, _) in zip(shards, results, strict=True):
        total.merge(part.spread(shard.pool_index, pools))
    if not config.keep_requests:
        return total, None
    n = sum(len(shard.index) for shard in shards)
    times = {name: np.full(n, np.nan) for name in ("start_s", "first_s", "done_s")}
    pool = np.zeros(n, np.int64)
    for shard, (_, outcome) in zip(shards, results, strict=True):
        assert outcome is not None
        for name, column in times.items():
            column[shard.index] = getattr(outcome, name)
        pool[shard.index] = np.array(shard.pool_index)[outcome.pool]
    first = results[0][1]
    assert first is not None
    return total, replace(first, pool=pool, **times)


def is_streamed(requests: Requests, config: ServeConfig) -> bool:
    """Whether so many requests are run chunk by chunk, which keeps memory small."""
    return (
        len(requests) > EXACT_LIMIT
        and config.mode == "open"
        and config.engine == "kernel"
        and not (config.prefix_cache or config.keep_requests or config.cooldown)
    )


def offered_rate(requests: Requests, config: ServeConfig) -> float | None:
    """Arrival rate in requests/s; None in closed loop, and where all arrive at once."""
    if config.mode == "closed" or len(requests) < 2:
        return None
    span = float(requests.arrival_s[-1] - requests.arrival_s[0])
    return (len(requests) - 1) / span if span > 0 else None


def is_stable(total: Tally, *, offered: float | None, served: float | None, requests: int) -> bool:
    """Whether the queue does not grow without end at this rate.

    By the saturation rule a work-conserving deployment is stable exactly if requests arrive slower than it serves
    them when it never runs dry. Near that point, and where no capacity was estimated, the queue decides: it grows
    if over the second half of the arrivals it gained more than 5 % of them, and what waited at the end is more than
    chance leaves (four standard deviations of a Poisson count, and 5 % of all requests).

    Source: F. Baccelli, S. Foss, "On the saturation rule for the stability of queues", J. Appl. Prob. 32 (1995).
    """
    if offered is None:
        return True
    noise = max(0.05 * requests, 4 * requests**0.5)
    grows = total.growth > 0.05 * offered and total.queue_at_end > noise
    if served is None:
        return not grows
    headroom = served / offered
    if abs(headroom - 1) <= STABILITY_BAND:
        return not grows
    return headroom > 1


def judged(
    total: Tally, pools: Sequence[PoolSpec], sent: Requests, config: ServeConfig, *, offered: float | None, requests: int,
    seed: int,
) -> tuple[float | None, bool]:  # fmt: skip
    """Capacity in requests/s, where it is estimated, and whether the deployment is stable.

    Args:
        total: statistics of the run.
        pools: its pools.
        sent: requests that it was sent, or a sample of them.
        config: its settings.
        offered: arrival rate in requests/s.
        requests: how many were sent.
        seed: of the estimate's sample.
    """
    if not offered or not config.estimate_capacity:
        return None, is_stable(total, offered=offered, served=None, requests=requests)
    served, links = capacity(pools, sent, config, seed=seed), link_rate(pools, sent, config)
    stable = is_stable(total, offered=offered, served=served, requests=requests)
    # what waits for a link waits in no engine's queue, but how fast a link is needs no estimate
    tightest = min(links, float("inf") if served is None else served)
    return (tightest if tightest < float("inf") else None), stable and links > offered


def simulate(pools: Sequence[PoolSpec], requests: Requests, *, config: ServeConfig, seed: int = 0) -> ServeMetrics:
    """What users feel when these pools serve these requests.

    Args:
        pools: one or more pools of replicas.
        requests: in order of arrival; those that no pool can hold are refused and counted by reason.
        config: arrivals, router, scheduler settings, limits.
        seed: of the capacity estimate's sample; the run itself draws nothing.

    Raises:
        InputError: settings or tables that contradict one another.
        InfeasibleError: no request fits.
    """
    check_config(config)
    if is_streamed(requests, config):
        from offramp.serve.stream import simulate_long

        return simulate_long(pools, requests, config=config, seed=seed)
    deployment = deploy.plan(pools, config)
    masks, reasons = deploy.eligible_pools(deployment, requests)
    del masks
    deploy.refuse_if_nothing_fits(reasons)
    accepted = np.flatnonzero(reasons == 0)
    counts = np.bincount(reasons, minlength=len(REJECT_REASONS))
    rejected = {REJECT_REASONS[i]: int(counts[i]) for i in range(1, len(counts)) if counts[i]}
    taken = requests if len(accepted) == len(requests) else requests.take(accepted)
    at = np.arange(len(taken))
    measured = ((at >= config.warmup) & (at < len(taken) - config.cooldown)).astype(np.int64)
    exact = len(taken) <= EXACT_LIMIT
    total, outcome = run_shards(
        shards_of(pools, taken, config, measured), config, exact=exact, pools=len(deployment.pools)
    )
    offered = offered_rate(taken, config)
    served, stable = judged(total, pools, taken, config, offered=offered, requests=len(taken), seed=seed)
    answer = metrics(deployment, total, rejected=rejected, offered=offered, capacity=served, stable=stable)
    return answer if outcome is None else with_times(answer, deployment, outcome, accepted=accepted, n=len(requests))


def with_times(answer: ServeMetrics, deployment: Deployment, outcome: Outcome, *, accepted: I8, n: int) -> ServeMetrics:
    """The metrics with times by request (NaN and -1 for refused ones)."""
    late = np.array([pool.delay_s - deployment.entry_delay_s for pool in deployment.pools])[outcome.pool]
    columns: dict[str, list[float]] = {}
    values = {"start_s": outcome.start_s, "first_token_s": outcome.first_s + late, "done_s": outcome.done_s + late}
    for name, value in values.items():
        full = np.full(n, np.nan)
        full[accepted] = value
        columns[name] = full.tolist()
    pool = np.full(n, -1, dtype=np.int64)
    pool[accepted] = outcome.pool
    return msgspec.structs.replace(answer, pool_by_request=pool.tolist(), **columns)
