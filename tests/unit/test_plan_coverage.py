"""Coverage by hand: the largest even share of the work that given chips can do."""

from __future__ import annotations

import numpy as np
import pytest

from offramp.plan.coverage import coverage, most_work


def _one(capacity: list[float], rate: list[list[float]], demand: list[float], **options: object):
    c, w = len(capacity), len(demand)
    usable = options.pop("usable", np.ones((1, 1, c, w), dtype=bool))
    theta, place = coverage(
        np.array([[capacity]]), np.array([rate]), np.array([[demand]]), usable=np.asarray(usable), **options
    )
    return float(theta[0, 0]), place[0, 0]


def test_two_chips_each_good_at_one_thing():
    """10 chips of A do 1 inference or 0.5 training, 10 of B the reverse; 20 of each are wanted: half of both."""
    theta, place = _one([10, 10], [[1.0, 0.5], [0.5, 1.0]], [20, 20])
    assert theta == pytest.approx(0.5)
    assert place[0, 0] == pytest.approx(10) and place[1, 1] == pytest.approx(10)


def test_a_chip_that_cannot_train_leaves_training_to_the_others():
    """Only B trains: training needs 20 theta of B; A's 10 and B's rest (at 0.5) do inference: theta = 0.5."""
    theta, _ = _one([10, 10], [[1.0, 0.0], [0.5, 1.0]], [20, 20])
    assert theta == pytest.approx(0.5)
    theta, _ = _one([20, 10], [[1.0, 0.0], [0.5, 1.0]], [20, 20])
    assert theta == pytest.approx(0.5)


def test_it_never_exceeds_all_of_the_work():
    theta, _ = _one([100], [[1.0]], [10])
    assert theta == pytest.approx(1.0)


def test_a_scope_gets_what_the_required_share_of_the_rest_leaves():
    """10 chips, 10 units of each of two works: if the other must get 0.8, 2 chips are left for this one."""
    theta, _ = _one([10], [[1.0, 1.0]], [10, 10], scope=np.array([True, False]), required=0.8)
    assert theta == pytest.approx(0.2)


def test_an_impossible_requirement_is_told():
    theta, _ = _one([1], [[1.0, 1.0]], [10, 10], scope=np.array([True, False]), required=0.8)
    assert np.isnan(theta)


def test_forbidden_chips_do_nothing():
    usable = np.array([[[[False, True]]]])
    theta, place = _one([10], [[1.0, 1.0]], [10, 10], usable=usable, scope=np.array([True, False]))
    assert theta == pytest.approx(0.0) and place[0, 0] == 0.0


def test_most_work_does_what_pays_and_even_work_what_is_fair():
    """Ten cards that infer and train alike, ten that only infer. 20 units of each kind are wanted."""
    capacity, rate = np.full((1, 1, 2), 10.0), np.ones((1, 2, 2))
    wanted = np.array([[[20.0, 20.0]]])
    usable = np.array([[[[True, True], [True, False]]]])
    assert most_work(capacity, rate, wanted, usable=usable) == pytest.approx(0.5)
    assert coverage(capacity, rate, wanted, usable=usable)[0] == pytest.approx(0.5)
    none_trains = np.array([[[[True, False], [True, False]]]])
    assert most_work(capacity, rate, wanted, usable=none_trains) == pytest.approx(0.5)
    assert coverage(capacity, rate, wanted, usable=none_trains)[0] == pytest.approx(0.0, abs=1e-9)
    assert most_work(5 * capacity, rate, wanted, usable=none_trains) == pytest.approx(
        0.5
    )  # a surplus helps no other kind
    assert most_work(5 * capacity, rate, wanted, usable=usable) == pytest.approx(1.0)


def test_a_small_scope_never_takes_what_others_require():
    """1,000 chips do a unit each; others require 999.5 of their 1,000, so a scope of one unit gets half of it. A price on
    the others' missing work was once too low for so small a scope, and the answer was "cannot be done"."""
    theta, _ = _one([1000], [[1.0, 1.0]], [1000, 1], scope=np.array([False, True]), required=0.9995)
    assert theta == pytest.approx(0.5, abs=1e-3)


def test_what_cannot_be_kept_anyhow_is_not_a_number():
    theta, _ = _one([100], [[1.0, 1.0]], [1000, 1], scope=np.array([False, True]), required=0.5)
    assert np.isnan(theta)
