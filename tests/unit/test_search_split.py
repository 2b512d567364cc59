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
    assert found.transfer_s > 0
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
