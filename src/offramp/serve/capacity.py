"""The request rate of a deployment that never runs dry: its capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from offramp.core.seeds import derive_seed
from offramp.serve import deploy
from offramp.serve.engine import run_engine
from offramp.serve.records import I8, PoolSpec, Requests, ServeConfig

GENERATIONS = 6
"""How often every running sequence is replaced while the rate is taken."""
LEAST_REQUESTS = {"kernel": 4000, "oracle": 800}
"""Requests over which the rate is taken at least, so that chance in their lengths stays within a percent or two."""
MOST_REQUESTS = 60_000
"""Bound on the sample; beyond it fewer generations are taken."""


def resident(spec: PoolSpec, requests: Requests) -> int:
    """Sequences that one replica can run at once, by its limit and by its KV at half the output."""
    table = spec.table
    tokens = float(np.mean(requests.isl_tokens)) + (0.5 * float(np.mean(requests.osl_tokens)))
    by_kv = table.kv_capacity_tokens / max(1.0, tokens)
    by_budget = table.max_batch_tokens // table.decode_tokens
    return max(1, int(min(table.max_seqs, by_budget, by_kv))) * table.virtual_engines


def sample(requests: Requests, count: int, *, seed: int, ordered: bool) -> Requests:
    """So many requests: shuffled and repeated as needed, or as they come (shared prefixes must not repeat)."""
    n = len(requests)
    if ordered:
        return requests.take(np.arange(min(n, count)))
    rng = np.random.default_rng(derive_seed(seed, "capacity"))
    rounds = [rng.permutation(n) for _ in range(-(-count // n))]
    index = np.concatenate(rounds)[:count].astype(np.int64)
    return replace(requests, arrival_s=np.zeros(n)).take(index)


def saturated_rate(spec: PoolSpec, requests: Requests, config: ServeConfig, *, seed: int) -> float:
    """Requests per second of one replica that always has a queue.

    A closed loop holds a quarter more requests than can run; completions are counted over whole generations, after
    two of them.
    """
    running = resident(spec, requests)
    extra = running // 4 + 1
    least = LEAST_REQUESTS[config.engine] // running
    generations = max(1, min(max(GENERATIONS, least), MOST_REQUESTS // running - 4))
    alone = replace(spec, replicas=1, slo_classes=(), role="decode" if spec.role == "decode" else "both")
    drive = msgspec.structs.replace(
        config, mode="closed", concurrency=running + extra, ramp_s=0.0, warmup=0, router="least-requests",
        keep_requests=False, jobs=1,
    )  # fmt: skip
    ordered = config.prefix_cache and requests.hash_ids is not None
    chosen = sample(requests, running * (generations + 3) + extra, seed=seed, ordered=ordered)
    if spec.role == "prefill":
        chosen = replace(chosen, osl_tokens=np.ones_like(chosen.osl_tokens))
    _, outcome = run_engine((alone,), replace(chosen, slo_class=None), drive)
    done = np.sort(outcome.done_s)
    first, last = 2 * running - 1, len(done) - running - 1  # later completions come from a batch that shrinks
    if last - first < running or done[last] <= done[first]:
        return len(done) / float(done[-1]) if done[-1] > 0 else float("inf")
    return (last - first) / float(done[last] - done[first])


def fitting(spec: PoolSpec, requests: Requests, config: ServeConfig, *, role: str) -> Requests:
    """The requests that this pool may be sent."""
    alone = replace(spec, role="decode" if role == "decode" else "both")
    chosen = requests
    if role == "prefill":
        chosen = replace(requests, osl_tokens=np.ones_like(requests.osl_tokens))
    if role == "decode":
        chosen = requests.take(requests.osl_tokens > 1)
    _, reasons = deploy.eligible_pools(deploy.plan((alone,), config), chosen)
    return chosen.take(reasons == 0)


def capacity(pools: Sequence[PoolSpec], requests: Requests, config: ServeConfig, *, seed: int) -> float | None:
    """Largest sustainable rate of all requests together, in requests/s; None where it cannot be estimated.

    Pools that share the same classes carry their classes' traffic together: in proportion to what they can do under a
    router that looks at load, in proportion to weight under round robin. The tightest stage decides.
    """
    n = len(requests)
    slo = np.zeros(n, np.int64) if requests.slo_class is None else requests.slo_class
    best = float("inf")
    for stage in (("both", "prefill"), ("decode",)):
        by_class: dict[tuple[int, ...], list[PoolSpec]] = {}
        for spec in pools:
            if spec.role in stage:
                by_class.setdefault(tuple(sorted(spec.slo_classes)), []).append(spec)
        for classes, specs in by_class.items():
            share = float(np.mean(np.isin(slo, classes))) if classes else 1.0
            rates = [one_pool(spec, requests, config, seed=seed) for spec in specs]
            weights = [spec.replicas * spec.weight for spec in specs]
            if config.router == "round-robin":
                total = min(rate / weight for rate, weight in zip(rates, weights, strict=True)) * sum(weights)
            else:
                total = sum(rates)
            if share > 0:
                best = min(best, total / share)
    return best if np.isfinite(best) else None


def link_rate(pools: Sequence[PoolSpec], requests: Requests, config: ServeConfig) -> float:
    """Largest rate of all requests, in requests/s, whose KV the links of the prefill replicas carry one after another.

    Infinite where transfers do not queue (``config.serial_link``) or nothing is transferred.
    """
    fed = [spec for spec in pools if spec.role == "prefill"]
    if not fed or not config.serial_link:
        return float("inf")
    slo: I8 = np.zeros(len(requests), np.int64) if requests.slo_class is None else requests.slo_class
    best = float("inf")
    for classes in {tuple(sorted(spec.slo_classes)) for spec in fed}:
        mine = np.isin(slo, classes) if classes else np.ones(len(requests), dtype=bool)
        moved = requests.isl_tokens[mine & (requests.osl_tokens > 1)]
        if len(moved) == 0:
            continue
        same = [spec for spec in fed if tuple(sorted(spec.slo_classes)) == classes]
        plans = [deploy.plan_pool(spec, config) for spec in same]
        each = [plan.transfer_base_s + plan.transfer_s_per_token * float(np.mean(moved)) for plan in plans]
        rates = [spec.replicas / s if s > 0 else float("inf") for spec, s in zip(same, each, strict=True)]
        weights = [spec.replicas * spec.weight for spec in same]
        if config.router == "round-robin":
            total = min(rate / weight for rate, weight in zip(rates, weights, strict=True)) * sum(weights)
        else:
            total = sum(rates)
        best = min(best, total * len(requests) / len(moved))
    return best


def one_pool(spec: PoolSpec, requests: Requests, config: ServeConfig, *, seed: int) -> float:
    """Saturated rate of a whole pool, in requests/s of those that pass through it."""
    slo: I8 = np.zeros(len(requests), np.int64) if requests.slo_class is None else requests.slo_class
    mine = requests.take(np.isin(slo, spec.slo_classes)) if spec.slo_classes else requests
    fits = fitting(spec, mine, config, role=spec.role)
    if len(fits) == 0:
        return float("inf") if len(mine) == 0 or spec.role == "decode" else 0.0
    passing = len(fits) / len(mine) if spec.role == "decode" else 1.0
    return saturated_rate(spec, fits, config, seed=seed) * spec.replicas / passing
