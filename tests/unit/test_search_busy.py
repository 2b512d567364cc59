"""Runs that begin and end in a full house; ranks that share their experts; replicas that a router deals to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offramp.cost.table import StepTable
from offramp.search import Stream, feel
from offramp.search.busy import load_at, resident_at
from offramp.search.tune import Curve, Points, highest_rate
from offramp.serve import PoolSpec, Requests, ServeConfig, simulate

TABLE = StepTable(
    token_grid=np.array([0.0, 8192.0]), base_s=np.array([0.02, 0.32]), prefill_extra_s=np.zeros(2),
    seq_grid=np.array([1.0, 512.0]), decode_base_s=np.array([1e-4, 2e-2]), decode_slope_s=np.full(2, 2e-9),
    prefill_base_s=1e-5, pair_s=1e-12, seq_s=1e-6, kv_capacity_tokens=4_000_000, max_seqs=512, max_batch_tokens=2048,
)  # fmt: skip


def long_answers(n: int = 4000, *, osl: int = 1500, cv: float = 1.0) -> Requests:
    """Requests whose answers take about half a minute."""
    rng = np.random.default_rng(7)
    shape = 1.0 / cv**2
    return Requests(
        arrival_s=np.cumsum(rng.exponential(0.1, n)), isl_tokens=rng.integers(100, 600, n),
        osl_tokens=np.maximum(rng.gamma(shape, osl / shape, n).astype(np.int64), 2),
    )  # fmt: skip


def test_residents_obey_littles_law() -> None:
    source = long_answers()
    spec = (PoolSpec(table=TABLE, replicas=2),)
    resident, stay_s = resident_at(spec, source, 6.0)
    assert resident == pytest.approx(6.0 * stay_s, rel=0.05)
    assert resident_at(spec, source, 1e6)[0] == 2 * TABLE.max_seqs
    assert resident_at(spec, source, 1e-6)[0] == 0


def test_short_runs_feel_what_a_very_long_one_does() -> None:
    rate = 4.0
    streams = [Stream(requests=long_answers(), seed=seed, demand=400.0) for seed in range(5)]
    short = [feel(TABLE, stream, rate, most=1500) for stream in streams]
    config = ServeConfig(warmup=5000, cooldown=5000, estimate_capacity=False)
    truth = simulate([PoolSpec(table=TABLE)], streams[0].at(rate, most=25_000), config=config)
    assert truth.tpot_s is not None
    assert np.mean([felt.latency["tpot_mean"] for felt in short]) == pytest.approx(truth.tpot_s.mean, rel=0.04)
    assert np.mean([felt.latency["tpot_p90"] for felt in short]) == pytest.approx(truth.tpot_s.p90, rel=0.05)
    assert np.mean([felt.batch for felt in short]) == pytest.approx(truth.mean_batch, rel=0.08)
    # as many requests from empty to empty are too kind, which is why it is not done
    alone = ServeConfig(estimate_capacity=False)
    naive = [simulate([PoolSpec(table=TABLE)], stream.at(rate, most=1500), config=alone).tpot_s for stream in streams]
    assert np.mean([found.mean for found in naive if found is not None]) < 0.93 * truth.tpot_s.mean


def test_measured_requests_are_those_asked_for() -> None:
    stream = Stream(requests=long_answers(), seed=1, demand=400.0)
    load = load_at(stream, (PoolSpec(table=TABLE),), 5.0, measured=800)
    assert len(load.requests) - load.warmup - load.cooldown == 800
    assert load.cooldown > 0
    assert np.all(np.diff(load.requests.arrival_s) >= 0)
    answer = simulate(
        [PoolSpec(table=TABLE)], load.requests, config=ServeConfig(warmup=load.warmup, cooldown=load.cooldown)
    )
    assert answer.completed == 800


@pytest.mark.parametrize("engine", ["kernel", "oracle"])
def test_sums_stop_at_the_last_arrival(engine: str) -> None:
    requests = long_answers(60, osl=300)
    pool = [PoolSpec(table=TABLE)]
    config = {"estimate_capacity": False, "engine": engine}
    whole = simulate(pool, requests, config=ServeConfig(**config))  # pyright: ignore[reportArgumentType]
    part = simulate(pool, requests, config=ServeConfig(cooldown=1, **config))  # pyright: ignore[reportArgumentType]
    assert part.mean_batch > 1.1 * whole.mean_batch  # the end, where few are left, does not count
    assert part.kv_mean > 1.1 * whole.kv_mean


def ranks(shared_share: float | None) -> StepTable:
    """Eight ranks that step together; a share of their work is that of experts common to all."""
    shared = None if shared_share is None else TABLE.base_s * shared_share
    return replace(TABLE, virtual_engines=8, synchronised=True, shared_s=shared)


@pytest.mark.parametrize("engine", ["kernel", "oracle"])
def test_one_rank_with_work_pays_its_share_of_the_experts(engine: str) -> None:
    one = Requests(arrival_s=np.zeros(1), isl_tokens=np.array([1000]), osl_tokens=np.array([1]))
    config = ServeConfig(estimate_capacity=False, engine=engine)  # pyright: ignore[reportArgumentType]

    def ttft(table: StepTable) -> float:
        found = simulate([PoolSpec(table=table)], one, config=config).ttft_s
        assert found is not None
        return found.mean

    def base(tokens: float) -> float:
        return float(np.interp(tokens, TABLE.token_grid, TABLE.base_s))

    alone = ttft(ranks(None))
    assert alone - ttft(ranks(0.5)) == pytest.approx(0.5 * (base(1000.0) - base(125.0)), rel=1e-9)
    assert ttft(ranks(0.0)) == pytest.approx(alone, rel=1e-12)


def test_equal_ranks_take_what_the_table_says() -> None:
    eight = Requests(arrival_s=np.zeros(8), isl_tokens=np.full(8, 512), osl_tokens=np.full(8, 20))
    config = ServeConfig(estimate_capacity=False)
    times = [simulate([PoolSpec(table=ranks(share))], eight, config=config).e2e_s for share in (None, 0.7)]
    assert times[0] is not None
    assert times[1] is not None
    assert times[0].mean == pytest.approx(times[1].mean, rel=1e-9)


def test_small_replicas_are_not_burstier_than_their_router_makes_them() -> None:
    stream = Stream(requests=long_answers(osl=30), seed=1, demand=400.0)
    slo = {"ttft_p90": 0.1}
    alone, _ = highest_rate(Curve(served=TABLE, stream=stream, most=2000), slo, guess=20.0)
    dealt, _ = highest_rate(Curve(served=TABLE, stream=stream, most=2000, copies=4), slo, guess=20.0)
    assert dealt > alone
    assert (stream.copies(500.0), stream.copies(200.0), stream.copies(1.0)) == (1, 2, 4)


def test_points_are_found_again_and_change_nothing() -> None:
    stream = Stream(requests=long_answers(osl=200), seed=1, demand=400.0)
    points = Points()
    tight, loose = {"tpot_p90": 0.035}, {"tpot_p90": 0.04}
    fresh = [highest_rate(Curve(served=TABLE, stream=stream, most=600), slo, guess=10.0) for slo in (tight, loose)]
    first = highest_rate(Curve(served=TABLE, stream=stream, most=600, points=points), tight, guess=10.0)
    known = {rung for curve in points.known.values() for rung in curve}
    second = highest_rate(Curve(served=TABLE, stream=stream, most=600, points=points), loose, guess=10.0)
    assert [first, second] == fresh
    assert fresh[1][0] > fresh[0][0] > 0
    assert len(known) < len({rung for curve in points.known.values() for rung in curve}) < 2 * len(known)
