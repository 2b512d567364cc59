"""Replayed forecasts against later reports: the table in the docs is the one the command prints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from offramp.app.supply import backtest
from offramp.cli.supply import backtest_markdown
from offramp.supply.backtest import coverage, crps, outcomes, replay, reported
from offramp.supply.facts import load

DOCS = Path(__file__).resolve().parents[2] / "docs" / "backtest.md"


def test_the_table_in_the_docs_is_the_one_the_command_prints():
    printed = backtest_markdown(backtest(draws=4000, seed=0)).strip()
    assert printed in DOCS.read_text("utf-8"), "run: offramp supply --backtest --draws 4000"


def test_every_outcome_was_unknown_at_its_replay():
    data = load()
    known = {item.id: reported(data, item)[1] for item in outcomes()}
    for item in replay(draws=200):
        assert known[item.outcome] > item.as_of


def test_the_ascend_total_of_2025_lies_inside_every_band_and_the_misses_are_named():
    scores = replay(draws=2000)
    ascend = [item for item in scores if item.outcome == "ascend-2025"]
    assert len(ascend) == 3 and all(item.inside for item in ascend)
    inside, total = coverage(scores)
    assert 0 < inside < total
    text = DOCS.read_text("utf-8")
    for item in scores:
        if not item.inside:
            assert item.title in text


def test_crps_of_a_certain_forecast_is_its_error_and_spread_costs():
    assert crps(np.full(100, 3.0), 5.0) == pytest.approx(2.0)
    assert crps(np.array([0.0, 2.0]), 1.0) == pytest.approx(0.5)
    assert not math.isnan(crps(np.linspace(0, 1, 50), 0.5))
