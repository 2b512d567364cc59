"""Goodput in closed form, its optimum, and its limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from offramp.train.goodput import (
    Reliability,
    availability,
    best_interval_s,
    break_even_rate,
    checkpoint_goodput,
    goodput,
)

RUN = Reliability(failures_per_s=1 / 11_000.0, restart_s=720.0, stall_s=10.0, lag_s=120.0)


def test_without_failures_only_the_stall_costs() -> None:
    calm = Reliability(failures_per_s=0.0, restart_s=600.0, stall_s=10.0)
    assert float(checkpoint_goodput(calm, 990.0)) == pytest.approx(0.99, rel=1e-6)


def test_equals_dalys_form_without_lag() -> None:
    rate, tau, stall, restart = 1 / 5000.0, 900.0, 20.0, 300.0
    r = Reliability(failures_per_s=rate, restart_s=restart, stall_s=stall)
    wall = math.exp(restart * rate) * (math.exp(rate * (tau + stall)) - 1.0) / rate
    assert float(checkpoint_goodput(r, tau)) == pytest.approx(tau / wall, rel=1e-12)


def test_best_interval_beats_its_neighbours_and_nears_youngs() -> None:
    best = float(best_interval_s(RUN)[0])
    here = float(checkpoint_goodput(RUN, best))
    for factor in (0.7, 0.9, 1.1, 1.4):
        assert float(checkpoint_goodput(RUN, best * factor)) < here
    assert best == pytest.approx(math.sqrt(2 * 10.0 * 11_000.0), rel=0.05)


def test_best_interval_matches_a_dense_grid() -> None:
    grid = np.linspace(50.0, 3000.0, 60_000)
    dense = float(grid[int(np.argmax(checkpoint_goodput(RUN, grid)))])
    assert float(best_interval_s(RUN)[0]) == pytest.approx(dense, rel=2e-4)


def test_a_hazard_too_high_leaves_nothing() -> None:
    mad = Reliability(failures_per_s=0.5, restart_s=900.0, stall_s=10.0)
    assert float(goodput(mad, best_interval_s(mad))[0]) < 1e-3


def test_break_even_rate_gives_the_goodput_asked_for() -> None:
    rate = break_even_rate(RUN, 0.5)
    at = Reliability(failures_per_s=rate, restart_s=720.0, stall_s=10.0, lag_s=120.0)
    assert float(goodput(at, best_interval_s(at))[0]) == pytest.approx(0.5, abs=1e-4)


def test_spares_and_shrinking_help() -> None:
    def speed(spare: int, *, elastic: bool) -> float:
        r = Reliability(
            failures_per_s=2e-5, restart_s=600, stall_s=5, nodes=256, spare_nodes=spare, replicas=64, elastic=elastic
        )
        return availability(r, 2e-5)

    assert speed(0, elastic=False) < speed(2, elastic=False) < speed(6, elastic=False) <= 1.0
    assert speed(0, elastic=True) > speed(0, elastic=False)


def test_waiting_run_has_all_nodes_with_poisson_probability() -> None:
    r = Reliability(failures_per_s=1e-5, restart_s=600, stall_s=5, repair_s=86_400.0, nodes=64, spare_nodes=1)
    mean = 0.864
    assert availability(r, 1e-5) == pytest.approx(math.exp(-mean) * (1 + mean), rel=1e-9)


def test_corruption_and_slow_nodes_cost() -> None:
    base = float(goodput(RUN, 500.0)[0])
    sick = replace(RUN, corruptions_per_s=1e-6, corruption_s=7200.0, slow_per_s=256e-9, slow_notice_s=3600.0,
                   slow_factor=1.3)  # fmt: skip
    void = (1.0 - 1e-6 * (250.0 + 120.0)) / (1.0 + 1e-6 * (7200.0 + 720.0))
    pace = 1.0 - (1.0 - math.exp(-256e-9 * 3600.0)) * (1.0 - 1.0 / 1.3)
    assert float(goodput(sick, 500.0)[0]) == pytest.approx(base * void * pace, rel=1e-9)


def test_always_slow_is_slower_by_the_factor() -> None:
    sick = replace(RUN, slow_per_s=1.0, slow_notice_s=1e6, slow_factor=2.0)
    assert float(goodput(sick, 500.0)[0]) == pytest.approx(0.5 * float(goodput(RUN, 500.0)[0]), rel=1e-9)


def test_a_restart_within_a_wait_costs_nothing_more() -> None:
    few = Reliability(failures_per_s=1e-4, restart_s=1800.0, stall_s=10.0, repair_s=7200.0, nodes=64, spare_nodes=1)
    alone = float(goodput(replace(few, nodes=0), 600.0)[0])
    assert float(goodput(few, 600.0)[0]) > alone * availability(few, 1e-4)


def test_a_shrunken_run_loses_less_work_to_a_failure() -> None:
    r = Reliability(failures_per_s=1e-4, restart_s=1.0, stall_s=0.0, repair_s=86_400.0, nodes=64, spare_nodes=0,
                    replicas=4, elastic=True)  # fmt: skip
    alone = float(goodput(replace(r, nodes=0), 20.0)[0])
    assert float(goodput(r, 20.0)[0]) == pytest.approx(alone * availability(r, 1e-4), rel=0.01)  # little is ever lost
    long = float(goodput(replace(r, nodes=0), 5000.0)[0])
    assert float(goodput(r, 5000.0)[0]) < long * availability(
        r, 1e-4
    )  # an interval takes longer than it does at full speed
