"""The event simulation and the closed form agree within 1 % where both apply."""

from __future__ import annotations

import pytest

from offramp.train.goodput import Reliability, best_interval_s, goodput
from offramp.train.simulate import simulate

CASES = {
    "calm": Reliability(failures_per_s=1 / 40_000.0, restart_s=720.0, stall_s=5.0),
    "lag": Reliability(failures_per_s=1 / 11_000.0, restart_s=720.0, stall_s=10.0, lag_s=300.0),
    "storm": Reliability(failures_per_s=1 / 3_600.0, restart_s=900.0, stall_s=10.0, lag_s=120.0),
    "shrinks": Reliability(failures_per_s=2.5e-5, restart_s=900.0, stall_s=10.0, lag_s=180.0, nodes=256, spare_nodes=2,
                           replicas=64, elastic=True),
    "spares": Reliability(failures_per_s=2.5e-5, restart_s=900.0, stall_s=10.0, lag_s=180.0, nodes=256, spare_nodes=9,
                          replicas=64),
    "waits": Reliability(failures_per_s=2.3e-4, restart_s=976.0, stall_s=42.0, repair_s=3600.0, nodes=64, spare_nodes=2,
                         replicas=64),
    "few": Reliability(failures_per_s=1.2e-4, restart_s=300.0, stall_s=6.0, repair_s=43_200.0, nodes=256, spare_nodes=4,
                       replicas=8, elastic=True),
    "slow": Reliability(failures_per_s=1 / 11_000.0, restart_s=720.0, stall_s=10.0, lag_s=120.0, slow_per_s=2e-5,
                        slow_notice_s=7200.0, slow_factor=1.34),
    "corrupt": Reliability(failures_per_s=1 / 11_000.0, restart_s=720.0, stall_s=10.0, lag_s=180.0,
                           corruptions_per_s=1 / 90_000.0, corruption_s=7200.0),
    "all": Reliability(failures_per_s=2.5e-5, restart_s=900.0, stall_s=10.0, lag_s=180.0, nodes=256, spare_nodes=3,
                       replicas=64, elastic=True, slow_per_s=1e-5, slow_notice_s=3600.0, slow_factor=1.5,
                       corruptions_per_s=1 / 400_000.0, corruption_s=14_400.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_simulated_goodput_is_the_closed_form(name: str) -> None:
    r = CASES[name]
    interval = float(best_interval_s(r)[0])
    closed = float(goodput(r, interval)[0])
    run = simulate(r, interval_s=interval, useful_s=12_000.0 / float(r.failures_per_s) * closed, seed=3)
    assert run.failures > 5_000
    assert run.goodput == pytest.approx(closed, rel=0.01)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_agrees_away_from_the_best_interval(factor: float) -> None:
    r = CASES["lag"]
    interval = factor * float(best_interval_s(r)[0])
    closed = float(goodput(r, interval)[0])
    run = simulate(r, interval_s=interval, useful_s=12_000.0 / float(r.failures_per_s) * closed, seed=5)
    assert run.goodput == pytest.approx(closed, rel=0.01)


def test_time_is_conserved() -> None:
    r = CASES["storm"]
    run = simulate(r, interval_s=300.0, useful_s=2e6, seed=1)
    spent = run.useful_s + run.lost_s + run.down_s + run.waiting_s + run.stall_s
    assert run.wall_s == pytest.approx(spent, rel=0.002)


def test_same_seed_same_run() -> None:
    r = CASES["shrinks"]
    assert simulate(r, interval_s=500.0, useful_s=1e6, seed=7) == simulate(r, interval_s=500.0, useful_s=1e6, seed=7)
