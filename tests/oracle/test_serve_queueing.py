"""The simulator against queueing theory, and the closed-form steady state against the simulator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offramp.cost.table import StepTable
from offramp.serve import PoolSpec, Requests, ServeConfig, simulate, steady_state


def single_server(per_token_s: float) -> StepTable:
    """One request at a time, served in one step of ``per_token_s`` a prompt token."""
    return StepTable(
        token_grid=np.array([0.0, 2048.0]), base_s=np.array([1e-9, 1e-9 + 2048 * per_token_s]),
        prefill_extra_s=np.zeros(2), seq_grid=np.ones(1), decode_base_s=np.zeros(1), decode_slope_s=np.zeros(1),
        prefill_base_s=0.0, pair_s=0.0, seq_s=0.0, kv_capacity_tokens=4096, max_seqs=1, max_batch_tokens=2048,
    )  # fmt: skip


@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("lengths", ["fixed", "uniform"])
def test_mean_wait_is_pollaczek_khinchine(load: float, lengths: str) -> None:
    """M/D/1 and M/G/1: mean wait = rate E[s^2] / (2 (1 - load))."""
    rng = np.random.default_rng(11)
    n = 400_000
    isl = np.full(n, 1000) if lengths == "fixed" else rng.integers(1, 2000, n)
    service = isl * 1e-5
    rate = load / service.mean()
    what = Requests(arrival_s=np.cumsum(rng.exponential(1 / rate, n)), isl_tokens=isl, osl_tokens=np.ones(n, np.int64))
    answer = simulate((PoolSpec(table=single_server(1e-5)),), what, config=ServeConfig())
    assert answer.stable and answer.ttft_s is not None
    expected = rate * np.mean(service**2) / (2 * (1 - load)) + service.mean()
    assert answer.ttft_s.mean == pytest.approx(expected, rel=0.03)
    assert answer.utilisation == pytest.approx(load, rel=0.01)
    assert answer.headroom == pytest.approx(1 / load, rel=0.03)


@pytest.mark.parametrize("load", [0.5, 0.8, 1.03, 1.6])
@pytest.mark.parametrize("n", [20_000, 220_000])
def test_a_link_that_carries_one_cache_at_a_time_is_a_queue(load: float, n: int) -> None:
    """M/D/1 of transfers behind a prefill that takes next to no time; more than the link carries is unstable."""
    rng = np.random.default_rng(12)
    per_token, isl = 1e-5, 1000
    arrival = np.cumsum(rng.exponential(isl * per_token / load, n))
    what = Requests(arrival_s=arrival, isl_tokens=np.full(n, isl), osl_tokens=np.full(n, 2))
    quick = replace(single_server(1e-9), max_seqs=64, kv_capacity_tokens=10**9)
    pools = (
        PoolSpec(table=quick, role="prefill", transfer_s_per_token=per_token),
        PoolSpec(table=quick, role="decode"),
    )
    answer = simulate(pools, what, config=ServeConfig(serial_link=True))
    assert answer.headroom == pytest.approx(1 / load, rel=0.02)
    assert answer.stable == (load < 1)
    if load < 1:
        service = isl * per_token
        assert answer.ttft_s is not None
        assert answer.ttft_s.mean == pytest.approx(service + load * service / (2 * (1 - load)), rel=0.05)


def engine(kind: int, budget: int, *, mixed: bool) -> StepTable:
    """Memory-bound, stepped and compute-bound tables."""
    grid = np.unique(np.concatenate([np.arange(0, 64, 8), 2 ** np.arange(6, 15)])).astype(float)
    base = [0.008 + grid * 1.5e-5 + np.maximum(0, grid - 256) * 1e-5, np.maximum(0.02 + grid * 2e-6, grid * 6e-5),
            0.012 + grid * 8e-5][kind]  # fmt: skip
    return StepTable(
        token_grid=grid, base_s=base, prefill_extra_s=np.full(len(grid), 0.002 if kind else 0.0),
        seq_grid=np.array([1.0, 8, 64, 256, 1024]), decode_base_s=np.array([2e-4, 2e-4, 4e-4, 1e-3, 3e-3]),
        decode_slope_s=np.full(5, [3e-9, 2e-8, 8e-9][kind]), prefill_base_s=1e-4, pair_s=[2e-11, 1e-10, 5e-11][kind],
        seq_s=5e-6, kv_capacity_tokens=3_000_000, max_batch_tokens=budget, max_seqs=512, mixed_steps=mixed,
    )  # fmt: skip


def closed_error(table: StepTable, concurrency: int, shape: tuple[int, int], equal: bool) -> tuple[float, float, float]:
    """Relative errors of throughput, TPOT and TTFT of the closed form, in the middle of a closed-loop run."""
    rng = np.random.default_rng(5)
    n = max(60, 10 * concurrency)
    spread: Any = (lambda mean: np.full(n, mean)) if equal else (lambda m: rng.integers(m // 2, 3 * m // 2 + 1, n))
    isl, osl = (spread(mean) for mean in shape)
    what = Requests(arrival_s=np.zeros(n), isl_tokens=isl, osl_tokens=osl)
    config = ServeConfig(mode="closed", concurrency=concurrency, keep_requests=True)
    answer = simulate((PoolSpec(table=table),), what, config=config)
    start, first, done = (np.array(column) for column in (answer.start_s, answer.first_token_s, answer.done_s))
    waves = n // concurrency - 2
    sent = np.sort(start)
    rate = concurrency * waves / (sent[concurrency * (waves + 1)] - sent[concurrency])
    middle = slice(2 * concurrency, n - concurrency)
    tpot = float(np.mean(((done - first) / (osl - 1))[middle]))
    ttft = float(np.mean((first - start)[middle]))
    form = steady_state(table, isl.mean(), osl.mean(), concurrency=concurrency, lengths="equal" if equal else "varied")
    return float(form.req_per_s[0]) / rate - 1, float(form.tpot_s[0]) / tpot - 1, float(form.ttft_s[0]) / ttft - 1


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("equal", [True, False])
def test_closed_form_agrees_with_the_simulation(mixed: bool, equal: bool) -> None:
    errors = np.array(
        [
            closed_error(engine(kind, budget, mixed=mixed), concurrency, shape, equal)
            for kind in range(3)
            for budget in (2048, 8192)
            for concurrency in (1, 4, 16, 64, 256)
            for shape in ((128, 128), (1024, 1024), (1024, 128), (8192, 1024), (512, 2000))
        ]
    )
    median, tail = np.median(np.abs(errors), axis=0), np.percentile(np.abs(errors), 90, axis=0)
    print(f"mixed={mixed} equal={equal}: throughput, TPOT, TTFT median {median}, p90 {tail}")
    assert np.all(median < [0.03, 0.05, 0.15])
    assert np.all(tail < [0.06, 0.05, 0.25])


def test_closed_form_of_an_open_loop_agrees_at_moderate_load() -> None:
    rng = np.random.default_rng(6)
    errors: list[tuple[float, float]] = []
    for kind in range(3):
        for budget in (2048, 8192):
            table = engine(kind, budget, mixed=True)
            top = float(steady_state(table, 1024, 256, concurrency=512).req_per_s[0])
            for load in (0.2, 0.5):
                n = 3000
                isl, osl = rng.integers(512, 1537, n), rng.integers(128, 385, n)
                arrival = np.cumsum(rng.exponential(1 / (load * top), n))
                what = Requests(arrival_s=arrival, isl_tokens=isl, osl_tokens=osl)
                answer = simulate((PoolSpec(table=table),), what, config=ServeConfig(warmup=n // 4))
                form = steady_state(table, isl.mean(), osl.mean(), rate=load * top)
                assert answer.tpot_s is not None and answer.ttft_s is not None
                errors.append((form.tpot_s[0] / answer.tpot_s.mean - 1, form.ttft_s[0] / answer.ttft_s.mean - 1))
    assert np.all(np.median(np.abs(errors), axis=0) < [0.05, 0.15])


def test_closed_form_marks_rates_beyond_capacity() -> None:
    table = engine(1, 2048, mixed=True)
    top = float(steady_state(table, 1024, 256, concurrency=512).req_per_s[0])
    answer = steady_state([table, table], 1024, 256, rate=[0.9 * top, 1.1 * top])
    assert answer.stable.tolist() == [True, False]
    assert np.isinf(answer.ttft_s[1])
