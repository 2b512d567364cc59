"""The Pareto front is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import arch, catalog, cost
from offramp.search import Limits, Question, Stream, front_of, mix_of, pareto
from offramp.search.candidate import stacks_of
from offramp.search.closed import TTFT_WAIT
from offramp.serve import Requests

FACTS, CALIBRATION = catalog.load(), cost.load_calibration()


def brute_force(values: np.ndarray) -> np.ndarray:
    """By definition: nobody is as good everywhere and better somewhere; the first of equals."""
    keep = []
    for i, row in enumerate(values):
        beaten = any((other >= row).all() and (other > row).any() for other in values)
        keep.append(not beaten and not any((other == row).all() for other in values[:i]))
    return np.array(keep, dtype=bool)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_front_equals_brute_force(n: int, columns: int, levels: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, (n, columns)).astype(float)
    assert np.array_equal(pareto(values), brute_force(values))


def question() -> Question:
    rng = np.random.default_rng(2)
    requests = Requests(
        arrival_s=np.cumsum(rng.exponential(0.05, 500)), isl_tokens=rng.integers(200, 2000, 500),
        osl_tokens=rng.integers(50, 400, 500),
    )  # fmt: skip
    return Question(
        model=arch.load("Qwen/Qwen3-32B"), mix=mix_of(requests), stream=Stream(requests=requests, seed=1),
        slo={"ttft_p90": 1.5, "tpot_p90": 0.03}, limits=Limits(tps=(1, 2, 4, 8), pps=(1, 2), chunks=(1024, 8192)),
    )  # fmt: skip


@pytest.mark.parametrize("chip", ["nvidia/h20", "huawei/ascend-910c"])
def test_front_of_layouts_equals_brute_force(chip: str) -> None:
    asked = question()
    stacks = stacks_of(asked, FACTS, CALIBRATION, chip, overrides={})
    found = front_of([(stack.grid, stack.pools) for stack in stacks], asked.slo)
    rows = []
    for stack in stacks:
        grid = stack.grid
        for i in range(len(grid.batch)):
            ttft = grid.ttft_base_s[0][i] + TTFT_WAIT["p90"] * grid.ttft_wait_s[0][i]
            if grid.fits[i] and ttft <= 1.5:
                rows.append((grid.rate[0][i] / grid.devices[i], -grid.tpot_at("p90")[0][i]))
    keep = brute_force(np.array(rows))
    expected = sorted(row for row, on in zip(rows, keep, strict=True) if on)
    assert len(found) > 4
    assert sorted((choice.per_device, -choice.tpot_s) for choice in found) == expected
    within = [choice.per_device for choice in found if choice.tpot_s <= 0.03]
    best = max(float((stack.rates / [pool.devices for pool in stack.pools]).max()) for stack in stacks)
    assert max(within) == pytest.approx(best)  # the ranking's first is the front's last within the limit
