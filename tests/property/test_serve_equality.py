"""The event-jump kernel against the per-step simulation on random deployments and workloads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.core.errors import InfeasibleError
from offramp.cost.table import StepTable
from offramp.serve import PoolSpec, Requests, ServeConfig, ServeMetrics, simulate
from offramp.serve.deploy import plan
from offramp.serve.engine import run_engine
from offramp.serve.sketch import RELATIVE_ERROR

TIME_TOLERANCE_S = 1e-7


@st.composite
def tables(draw: st.DrawFn) -> StepTable:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    budget = draw(st.sampled_from([16, 64, 257, 2048]))
    decode_tokens = draw(st.sampled_from([1, 1, 1, 2, 4]))
    block = draw(st.sampled_from([1, 8, 16, 64]))
    grid = np.array([0.0, 8.0, 100.0, 4000.0])
    base = np.cumsum(rng.uniform(1e-4, 2e-2, 4))
    seqs = np.array([1.0, 4.0, 40.0])
    return StepTable(
        token_grid=grid, base_s=base, shared_s=base * rng.uniform(0.1, 0.9) if draw(st.booleans()) else None,
        prefill_extra_s=rng.uniform(0, 1e-3, 4),
        seq_grid=seqs, decode_base_s=rng.uniform(0, 1e-3, 3), decode_slope_s=rng.uniform(0, 2e-6, 3),
        prefill_base_s=float(rng.uniform(0, 1e-4)), pair_s=float(rng.uniform(0, 1e-7)),
        seq_s=float(rng.uniform(0, 1e-5)),
        kv_capacity_tokens=block * draw(st.integers(max(2, 700 // block), 6000 // block)),
        virtual_engines=draw(st.sampled_from([1, 1, 2, 3])), synchronised=draw(st.booleans()), block_tokens=block,
        max_batch_tokens=budget, max_seqs=draw(st.sampled_from([1, 3, 16, 64])), decode_tokens=decode_tokens,
        accept_tokens=float(rng.uniform(1, decode_tokens)) if draw(st.booleans()) else float(decode_tokens),
        transfer_s_per_token=float(rng.uniform(0, 1e-4)), transfer_base_s=float(rng.uniform(0, 1e-2)),
        first_token_s=draw(st.sampled_from([0.0, 0.003, 0.05])),
        graph_sizes=np.array([1, 2, 4, 8, 16, 32]) if draw(st.booleans()) else None, mixed_steps=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def deployments(draw: st.DrawFn) -> tuple[PoolSpec, ...]:
    kind = draw(st.sampled_from(["one", "two", "split", "classes"]))
    if kind == "one":
        return (PoolSpec(table=draw(tables()), replicas=draw(st.integers(1, 3))),)
    if kind == "two":
        return tuple(PoolSpec(table=draw(tables()), weight=draw(st.sampled_from([1.0, 2.5]))) for _ in range(2))
    if kind == "classes":
        return (PoolSpec(table=draw(tables()), slo_classes=(0,)), PoolSpec(table=draw(tables()), slo_classes=(1,)))
    return (
        PoolSpec(table=draw(tables()), role="prefill", replicas=draw(st.integers(1, 2))),
        PoolSpec(table=draw(tables()), role="decode", replicas=draw(st.integers(1, 2))),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Requests:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 60))
    rate = draw(st.sampled_from([1.0, 10.0, 100.0]))
    arrival = np.cumsum(rng.exponential(1 / rate, n))
    clock = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))  # a coarse one stamps several requests alike
    arrival = np.floor(arrival / clock) * clock if clock else arrival
    isl = rng.integers(1, draw(st.sampled_from([20, 300, 500])), n)
    osl = rng.integers(1, draw(st.sampled_from([2, 30, 150])), n)
    block = draw(st.sampled_from([8, 16, 32]))
    counts = -(-isl // block)
    ids = np.concatenate([prefix_ids(rng, count) for count in counts])
    return Requests(
        arrival_s=arrival, isl_tokens=isl, osl_tokens=osl, hash_ids=ids,
        hash_offsets=np.concatenate([[0], np.cumsum(counts)]), hash_block_tokens=block,
        slo_class=rng.integers(0, 2, n),
    )  # fmt: skip


def prefix_ids(rng: np.random.Generator, count: int) -> np.ndarray:
    """Block ids of a prompt that shares its beginning with one of three stems."""
    stem = int(rng.integers(0, 3)) * 1_000_000
    shared = int(rng.integers(0, count + 1))
    own = int(rng.integers(10_000_000, 2**40))
    return np.concatenate([stem + np.arange(shared), own + np.arange(count - shared)]).astype(np.int64)


@st.composite
def configs(draw: st.DrawFn) -> ServeConfig:
    closed = draw(st.booleans())
    return ServeConfig(
        mode="closed" if closed else "open", concurrency=draw(st.integers(1, 40)),
        ramp_s=draw(st.sampled_from([0.0, 0.7])),
        router=draw(st.sampled_from(["round-robin", "least-requests", "least-tokens", "prefix-aware"])),
        prefix_cache=draw(st.booleans()), preemption=draw(st.sampled_from(["recompute", "recompute", "none"])),
        watermark=draw(st.sampled_from([0.0, 0.05])), reserve_tokens=draw(st.sampled_from([0, 20])),
        serial_link=draw(st.booleans()), balance_abs=draw(st.sampled_from([2, 64])), estimate_capacity=False,
        keep_requests=True,
    )  # fmt: skip


def both(pools: tuple[PoolSpec, ...], requests: Requests, config: ServeConfig) -> tuple[ServeMetrics, ServeMetrics]:
    import msgspec

    return tuple(
        simulate(pools, requests, config=msgspec.structs.replace(config, engine=engine))
        for engine in ("oracle", "kernel")
    )


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(deployments(), workloads(), configs())
def test_kernel_equals_oracle(pools: tuple[PoolSpec, ...], requests: Requests, config: ServeConfig) -> None:
    try:
        slow, fast = both(pools, requests, config)
    except InfeasibleError:
        return
    for name in ("start_s", "first_token_s", "done_s"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-9, atol=TIME_TOLERANCE_S)
    assert fast.pool_by_request == slow.pool_by_request
    assert (fast.steps, fast.preemptions, fast.completed) == (slow.steps, slow.preemptions, slow.completed)
    assert fast.queue_at_end == slow.queue_at_end
    assert fast.stable == slow.stable
    for name in ("utilisation", "mean_batch", "kv_peak", "prefix_hit", "mean_in_flight", "output_tokens_per_s"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), rel=1e-9, abs=1e-9), name
    for spec, quick, exact in zip(pools, fast.pools, slow.pools, strict=True):
        # Linear growth within a jump is off by less than one block per running sequence.
        blocks = spec.table.kv_capacity_tokens // spec.table.block_tokens
        assert abs(quick.kv_mean - exact.kv_mean) <= exact.mean_batch * exact.utilisation / blocks + 1e-9
    if slow.itl_s is None or fast.itl_s is None:
        assert slow.itl_s is fast.itl_s
        return
    assert fast.itl_s.count == slow.itl_s.count
    assert fast.itl_s.mean == pytest.approx(slow.itl_s.mean, rel=1e-9, abs=1e-9)
    assert fast.itl_s.max == pytest.approx(slow.itl_s.max, rel=1e-9, abs=1e-9)
    for name in ("p50", "p90", "p99"):
        assert getattr(fast.itl_s, name) == pytest.approx(getattr(slow.itl_s, name), rel=2.1 * RELATIVE_ERROR)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(deployments(), workloads(), configs())
def test_blocks_are_conserved_and_every_accepted_request_completes(
    pools: tuple[PoolSpec, ...], requests: Requests, config: ServeConfig
) -> None:
    from offramp.serve.deploy import eligible_pools

    _, reasons = eligible_pools(plan(pools, config), requests)
    fits = requests.take(reasons == 0)
    _, outcome = run_engine(pools, fits, config)
    assert outcome.leaked_blocks == 0
    assert np.all(np.isfinite(outcome.done_s))
    assert np.all(outcome.first_s >= outcome.start_s)
    assert np.all(outcome.done_s >= outcome.first_s - 1e-9)
