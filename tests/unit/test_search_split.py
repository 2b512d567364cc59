"""Prefill and decode on separate pools."""

from __future__ import annotations

import numpy as np
import pytest

from offramp import arch, catalog, cost
from offramp.search import Question, Stream, find_split, mix_of
from offramp.search.split import _ratio
from offramp.serve import Requests

FACTS, CALIBRATION = catalog.load(), cost.load_calibration()


def question(**slo: float) -> Question:
    rng = np.random.default_rng(3)
    n = 2000
    requests = Requests(
        arrival_s=np.cumsum(rng.exponential(0.05, n)), isl_tokens=rng.integers(500, 3000, n),
        osl_tokens=rng.integers(50, 400, n),
    )  # fmt: skip
    return Question(
        model=arch.load("Qwen/Qwen3-32B"), mix=mix_of(requests), most_requests=1500,
        stream=Stream(requests=requests, seed=1, demand=100.0), slo=slo or {"ttft_p90": 2.0, "tpot_p90": 0.06},
    )  # fmt: skip


@pytest.mark.parametrize("pair", [("nvidia/h200", "nvidia/h200"), ("huawei/ascend-910b2", "nvidia/h20")])
def test_a_split_keeps_the_slo_with_each_side_on_its_chip(pair: tuple[str, str]) -> None:
    asked = question()
    found = find_split(asked, *pair, catalog=FACTS, calibration=CALIBRATION)
    assert found is not None
    assert (found.prefill.pool.chip, found.decode.pool.chip) == pair
    assert (found.prefill.pool.role, found.decode.pool.role) == ("prefill", "decode")
    assert found.felt.meets(asked.slo)
    assert found.rate > 0
    assert found.transfer.mean_s > 0
    assert found.packages_per_rate == pytest.approx(found.packages_of(found.prefill) + found.packages_of(found.decode))
    # decode has no queue of its own, so its closed form is a bound; that of prefill also holds a guess of the wait
    assert found.rate <= 1.2 * found.decode.replicas * found.decode.closed_rate


def test_an_slo_below_the_floor_has_no_split() -> None:
    assert (
        find_split(question(tpot_p90=0.0005), "nvidia/h20", "nvidia/h20", catalog=FACTS, calibration=CALIBRATION)
        is None
    )


@pytest.mark.parametrize(("first", "second", "ratio"), [(1.0, 1.0, (1, 1)), (1.0, 3.0, (3, 1)), (10.0, 5.0, (1, 2))])
def test_ratios_match_the_rates(first: float, second: float, ratio: tuple[int, int]) -> None:
    assert _ratio(first, second) == ratio


def test_each_side_has_joint_draws_and_is_bought_by_itself() -> None:
    found = find_split(question(), "huawei/ascend-910b2", "nvidia/h20", catalog=FACTS, calibration=CALIBRATION)
    assert found is not None
    for side in (found.prefill, found.decode):
        assert len(side.closed_draws) == CALIBRATION.draws
        units = found.units_by_draw(side, 100.0)
        slow, fast = int(np.argmin(side.closed_draws)), int(np.argmax(side.closed_draws))
        assert units[slow] > units[fast] > 0
        at_middle = 100.0 / found.rate  # a draw as fast as the middle takes as many units as the middle
        serves = np.array(side.closed_draws) > 0
        assert np.isinf(units[~serves]).all()
        np.testing.assert_allclose((units * side.closed_draws)[serves], at_middle * side.closed_rate)
    again = find_split(question(), "nvidia/h20", "huawei/ascend-910b2", catalog=FACTS, calibration=CALIBRATION)
    assert again is not None
    assert np.corrcoef(found.prefill.closed_draws, again.decode.closed_draws)[0, 1] > 0.2  # draws of one chip


def test_a_cache_is_converted_between_unlike_chips_only_and_longer_ones_take_longer() -> None:
    same = find_split(question(), "nvidia/h20", "nvidia/h20", catalog=FACTS, calibration=CALIBRATION)
    mixed = find_split(question(), "huawei/ascend-910b2", "nvidia/h20", catalog=FACTS, calibration=CALIBRATION)
    assert same is not None
    assert mixed is not None
    assert not same.transfer.converts
    assert same.transfer.conversion_s == 0.0
    assert mixed.transfer.converts
    # 64 layers x 8 heads x 128 x 2 x 2 bytes, once
    assert mixed.transfer.bytes_per_token == pytest.approx(64 * 8 * 128 * 2 * 2)
    isl = question().mix.isl
    smaller = min(mixed.prefill.packages, mixed.decode.packages) / 8
    assert mixed.transfer.conversion_s == pytest.approx(isl * mixed.transfer.bytes_per_token / 20e9 / smaller)
    assert mixed.transfer.mean_s > mixed.transfer.conversion_s + mixed.transfer.base_s
