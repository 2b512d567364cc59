"""Closed form, layouts, streams and fleets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offramp import arch, catalog, cost
from offramp.search import Limits, Question, Stream, evaluate, find, fleet_for, middle, mix_of, peak_to_mean
from offramp.search.grid import degrees, pools
from offramp.serve import Requests

FACTS = catalog.load()
CALIBRATION = cost.load_calibration()


def poisson(n: int = 3000, *, rate: float = 20.0, isl: int = 1000, osl: int = 200) -> Requests:
    rng = np.random.default_rng(5)
    return Requests(
        arrival_s=np.cumsum(rng.exponential(1 / rate, n)),
        isl_tokens=np.maximum(rng.exponential(isl, n).astype(np.int64), 1),
        osl_tokens=np.maximum(rng.exponential(osl, n).astype(np.int64), 1),
    )


def question(model: str = "Qwen/Qwen3-32B", **slo: float) -> Question:
    requests = poisson()
    loaded = arch.load(model)
    return Question(
        model=loaded, mix=mix_of(requests), stream=Stream(requests=requests, seed=1, demand=100.0),
        slo=slo or {"ttft_p90": 2.0, "tpot_p90": 0.05}, simulate=2, most_requests=1500,
    )  # fmt: skip


def grid_of(chip: str, *, slo: dict[str, float] | None = None):
    asked = question()
    listed = pools(asked.model, FACTS.chip(chip), FACTS, Limits(), engine=FACTS.chip(chip).engines[0], dtype="")
    setting = middle(cost.build_setting(asked.model, listed[0], catalog=FACTS, calibration=CALIBRATION))
    return listed, evaluate(setting, listed, asked.mix), asked


@pytest.mark.parametrize("chip", ["nvidia/h20", "huawei/ascend-910c"])
@pytest.mark.parametrize("model", ["Qwen/Qwen3-32B", "deepseek-ai/DeepSeek-R1"])
def test_layouts_divide_heads_experts_and_servers(chip: str, model: str) -> None:
    made, part = arch.load(model), FACTS.chip(chip)
    system = FACTS.system(part.systems[0])
    node = system.packages_per_node * part.devices
    found = degrees(made, part, system, Limits())
    assert found
    assert len(found) == len(set(found))
    for tp, pp, dp, ep in found:
        devices = tp * pp * dp
        assert all(group.attention.heads % tp == 0 for group in made.layers if group.attention.heads)
        assert node % devices == 0 if devices <= node else devices % node == 0
        assert (tp * dp) % ep == 0


def test_a_looser_limit_never_lowers_the_rate() -> None:
    listed, grid, _ = grid_of("nvidia/h20")
    tight = grid.best_rates({"tpot_p90": 0.03, "ttft_p90": 1.0}, len(listed))
    loose = grid.best_rates({"tpot_p90": 0.06, "ttft_p90": 2.0}, len(listed))
    free = grid.best_rates({}, len(listed))
    assert np.all(loose >= tight)
    assert np.all(free >= loose)
    assert free.max() > 0


def test_best_rate_is_that_of_brute_force() -> None:
    listed, grid, asked = grid_of("nvidia/h200")
    best = grid.best_rates(asked.slo, len(listed))[0]
    good = grid.meets(asked.slo)[0]
    for index in range(len(listed)):
        mine = (grid.pool_index == index) & good
        assert best[index] == pytest.approx(grid.rate[0][mine].max(initial=0.0))


def test_small_batches_obey_littles_law() -> None:
    _, grid, asked = grid_of("nvidia/h200")
    below = grid.tpot_s[0] < grid.mixed_s[0] * (1 - 1e-9)  # beyond, prefill takes every step
    in_decode = grid.rate[0] / grid.engines * (asked.mix.osl - 1) * grid.tpot_s[0]
    assert below.mean() > 0.3
    np.testing.assert_allclose(in_decode[below], grid.batch[below], rtol=1e-6)


def test_fleet_counts_whole_servers_spares_and_minimum() -> None:
    fleet = fleet_for(2.0, packages=2, per_server=8, mean=10.0, peak=21.0, spares=1, least=2)
    assert fleet is not None
    assert (fleet.carrying, fleet.replicas, fleet.servers, fleet.chips) == (11, 12, 3, 24)
    wide = fleet_for(5.0, packages=16, per_server=8, mean=1.0, peak=4.0, least=2)
    assert wide is not None
    assert (wide.replicas, wide.servers, wide.chips) == (2, 4, 32)
    idle = fleet_for(5.0, packages=1, per_server=8, mean=0.0, peak=0.0, spares=3, least=2)
    assert idle is not None
    assert (idle.replicas, idle.chips) == (2, 8)
    assert fleet_for(0.0, packages=1, per_server=8, mean=1.0, peak=1.0) is None
    half = fleet_for(1.0, packages=0.5, per_server=8, mean=9.0, peak=17.0)
    assert half is not None
    assert half.servers == 2


@pytest.mark.parametrize("demand", [0.0, 5.0, 400.0])
@pytest.mark.parametrize("rate", [0.3, 4.0, 30.0])
def test_streams_have_the_rate_that_is_asked_for(rate: float, demand: float) -> None:
    stream = Stream(requests=poisson(), seed=2, demand=demand)
    made = stream.at(rate, most=3000)
    assert len(made) == 3000
    assert (len(made) - 1) / made.arrival_s[-1] == pytest.approx(rate, rel=0.08)
    assert np.all(np.diff(made.arrival_s) >= 0)
    assert made.isl_tokens.mean() == pytest.approx(stream.requests.isl_tokens.mean(), rel=0.1)
    again = stream.at(rate, most=3000)
    assert np.array_equal(made.arrival_s, again.arrival_s)


def test_a_higher_rate_only_adds_requests() -> None:
    stream = Stream(requests=poisson(), seed=2, demand=400.0)
    few, many = stream.at(2.0, most=250), stream.at(2.4, most=300)
    until = min(few.arrival_s[-1], many.arrival_s[-1]) * 0.9
    absolute_few = few.arrival_s[few.arrival_s < until]
    assert len(absolute_few) <= (many.arrival_s < until).sum() + 2


def test_prefix_traces_keep_their_order() -> None:
    base = poisson(200)
    offsets = np.arange(201)
    requests = Requests(arrival_s=base.arrival_s, isl_tokens=base.isl_tokens, osl_tokens=base.osl_tokens,
                        hash_ids=np.arange(200), hash_offsets=offsets)  # fmt: skip
    made = Stream(requests=requests, seed=0).at(2.0, most=150)
    assert made.hash_ids is not None
    assert np.array_equal(made.hash_ids, np.arange(150))
    assert (len(made) - 1) / made.arrival_s[-1] == pytest.approx(2.0, rel=1e-6)


def test_peak_to_mean_of_a_burst() -> None:
    arrival = np.sort(np.concatenate([np.arange(0, 3600, 1.0), 1800 + np.arange(0, 60, 0.1)]))
    ones = np.ones(len(arrival), dtype=np.int64)
    found = peak_to_mean(Requests(arrival_s=arrival, isl_tokens=ones, osl_tokens=ones))
    assert 3.0 < found < 11.0
    assert peak_to_mean(Requests(arrival_s=arrival[:1], isl_tokens=ones[:1], osl_tokens=ones[:1])) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["nvidia/h20", "huawei/ascend-910b2"])
def test_a_candidate_keeps_its_slo_and_its_draws_spread(chip: str) -> None:
    asked = question()
    found = find(asked, chip, catalog=FACTS, calibration=CALIBRATION)
    assert found.rate > 0
    assert found.felt is not None
    assert found.felt.meets(asked.slo)
    assert len(found.rates) == CALIBRATION.draws
    low, mid, high = np.quantile(found.rates, [0.1, 0.5, 0.9])
    assert 0 <= low < mid < high
    assert 0.4 < mid / found.rate < 2.5
    assert math.isclose(sum(getattr(found.shares, name) for name in found.shares.__struct_fields__), 1.0, rel_tol=1e-9)
    assert found == find(asked, chip, catalog=FACTS, calibration=CALIBRATION)


@pytest.mark.slow
def test_rates_of_draws_are_those_of_simulating_each_of_them() -> None:
    """The interval rests on a few simulated draws and the closed form of all: held against all of them simulated."""
    from offramp.search import candidate, uncertain

    asked = question(ttft_p90=2.0, tpot_p90=0.06)
    seen: list[uncertain._Draws] = []

    class Spy(uncertain._Draws):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uncertain, "_Draws", Spy)
        found = candidate.find(asked, "huawei/ascend-910b2", catalog=FACTS, calibration=CALIBRATION)
    assert found.pool is not None
    some = range(0, len(found.rates), 3)
    true = np.array([seen[0].simulate(draw)[0].each * found.pool.devices for draw in some])
    rates = np.array(found.rates)[list(some)]
    assert ((true > 0) != (rates > 0)).mean() <= 0.1
    both = (true > 0) & (rates > 0)
    off = np.log(rates[both] / true[both])
    assert abs(off.mean()) < 0.06
    assert off.std() < 0.2
    assert found.kept <= found.reached
    assert found.safest is None or found.safest_kept > found.kept


def test_memory_that_never_fits_is_told_in_bytes() -> None:
    asked = question("deepseek-ai/DeepSeek-R1")
    from dataclasses import replace

    small = replace(asked, limits=Limits(most_devices=4))
    found = find(small, "nvidia/l20", catalog=FACTS, calibration=CALIBRATION)
    assert found.rate == 0
    assert any(item.kind == "memory" and "exceed" in item.text for item in found.blockers)


def test_an_slo_below_the_floor_names_what_binds() -> None:
    found = find(question(tpot_p90=0.0005), "nvidia/h20", catalog=FACTS, calibration=CALIBRATION)
    assert found.rate == 0
    assert "out of reach" in found.floor[0]
    assert "TPOT P90 of 0.5 ms" in found.floor[0]
    assert "% of it" in found.floor[0]


def test_more_bandwidth_never_carries_less() -> None:
    from offramp.search.candidate import stacks_of

    asked = question()
    best = []
    for factor in (0.5, 1.0, 2.0):
        value = FACTS.chip("nvidia/h20").require("memory_bandwidth").si * factor
        stacks = stacks_of(asked, FACTS, CALIBRATION, "nvidia/h20", overrides={"memory_bandwidth": value})
        best.append(max(float((s.rates / [p.devices for p in s.pools]).max()) for s in stacks))
    assert best == sorted(best)


def test_the_residual_of_unseen_deployments_widens_the_interval() -> None:
    import msgspec

    from offramp.cost.calibration import Residual

    asked = question()
    none = msgspec.structs.replace(CALIBRATION, residuals={})
    wide = msgspec.structs.replace(CALIBRATION, residuals={"output": Residual(group_sd=0.6, row_sd=0.1)})
    spread = [
        np.ptp(np.log(np.quantile(find(asked, "nvidia/h20", catalog=FACTS, calibration=one).rates, [0.1, 0.9])))
        for one in (none, wide)
    ]
    assert spread[1] > spread[0] + 0.3


def test_speculation_is_tried_beside_none_where_the_engine_can() -> None:
    from dataclasses import replace

    from offramp.search.candidate import stacks_of
    from offramp.search.grid import speculations

    asked = replace(question("deepseek-ai/DeepSeek-R1", ttft_p90=4.0, tpot_p90=0.06), accept=0.85)
    stacks = stacks_of(asked, FACTS, CALIBRATION, "nvidia/h20", overrides={})
    assert {stack.asked.accept for stack in stacks} == {0.0, 0.85}
    plain, drafting = (
        max(float((s.rates / [p.devices for p in s.pools]).max()) for s in stacks if s.asked.accept == accept)
        for accept in (0.0, 0.85)
    )
    assert plain < drafting < 1.85 * plain  # never more than the tokens that it gains
    chip = FACTS.chip("nvidia/h20")
    model = asked.model
    assert speculations(model, chip, FACTS, "vllm", 0.0) == (0.0,)
    refusing = [
        name for name in FACTS.engines
        if FACTS.engine(name).supports(chip, feature="mtp").parts[-1].answer == "no"
    ]  # fmt: skip
    for name in refusing:
        assert speculations(model, chip, FACTS, name, 0.85) == (0.0,)


def test_requests_of_one_tick_are_spread_over_it() -> None:
    from offramp.search.mix import spread, tick_of

    ticks = np.repeat(np.array([0.0, 3.0, 6.0, 12.0, 15.0]), [4, 1, 3, 6, 2])
    assert tick_of(ticks) == 3.0
    fine = spread(ticks)
    assert np.all(np.diff(fine) > 0)
    assert np.all((fine - ticks >= 0) & (fine - ticks < 3.0))  # never into the pause between 6 and 12
    np.testing.assert_allclose(fine[:4], [0.0, 0.75, 1.5, 2.25])
    exact = np.array([0.0, 0.4, 0.4, 1.1, 1.9])
    assert spread(exact) is exact  # two that happen to coincide are no tick
    assert len(spread(np.zeros(0))) == 0
