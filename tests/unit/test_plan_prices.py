"""Prices over time: mixtures of sources, drift, and what the study states."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from offramp import catalog
from offramp.app.economics import Ledger
from offramp.app.plan_prices import bare_prices, prices
from offramp.app.plan_question import Setting
from offramp.app.study import Header, Organisation, Price, Scenario, Study
from offramp.core.figure import Figure
from offramp.core.quarters import parse_quarter
from offramp.core.result import FigureLog
from offramp.supply.price_paths import drift, level

DAY = dt.date(2026, 11, 23)


def _setting(*own: Price, draws: int = 400, future: Scenario | None = None) -> Setting:
    study = Study(
        study=Header(name="x", as_of=DAY, currency="CNY"), organisation=Organisation(headquarters="CN"), price=own
    )
    book = catalog.load(DAY)
    ledger = Ledger(study=study, catalog=book, log=FigureLog(), notices=[])
    chips = [book.chip("huawei/ascend-910b2"), book.chip("nvidia/h200")]
    return Setting(
        study=study, ledger=ledger, chips=chips, origin={"huawei/ascend-910b2": "CN", "nvidia/h200": "US"},
        quarters=[parse_quarter("2026Q4") + i for i in range(6)], futures=[future] * draws,
        weight=np.full(draws, 1.0 / draws),
    )  # fmt: skip


def _figure(value: float, confidence: str = "press") -> Figure:
    return Figure(
        value=value, low=value * 0.95, high=value * 1.05, unit="CNY", source="x", as_of=DAY, confidence=confidence
    )  # pyright: ignore


def test_a_disagreement_between_sources_stays_two_humps():
    values = level("a/b", [_figure(50_000.0), _figure(120_000.0)], 2000, seed=1)
    assert 0.48 < (values < 70_000).mean() < 0.52
    assert ((values > 70_000) & (values < 100_000)).mean() < 0.02
    shy = level("a/b", [_figure(50_000.0, "assumed"), _figure(120_000.0)], 2000, seed=1)
    assert 0.31 < (shy < 70_000).mean() < 0.36


def test_prices_of_a_kind_move_together_up_in_some_futures_and_down_in_others():
    log = FigureLog()
    paths = drift("domestic", 9, 2000, seed=3, log=log)
    assert np.all(paths[:, 0] == 1.0)
    low, mid, high = np.quantile(paths[:, 8], (0.1, 0.5, 0.9))
    assert low < 0.75 and 0.75 < mid < 1.0 and high > 1.1
    assert {figure.confidence for figure in log.figures} == {"assumed"}
    assert np.array_equal(paths, drift("domestic", 9, 2000, seed=3, log=log))
    assert not np.array_equal(paths, drift("domestic", 9, 2000, seed=4, log=log))


def test_the_910b_keeps_the_street_price_and_the_line_that_reads_like_a_cost():
    setting = _setting()
    assert len(bare_prices(setting.ledger.catalog, setting.ids[0], "CNY")) >= 3
    assert all("grey" not in figure.note for figure in bare_prices(setting.ledger.catalog, setting.ids[1], "CNY"))
    bare = prices(setting, [8, 8])[:, 0, 0] - setting.ledger.host_share(8)
    assert 0.2 < (bare < 75_000).mean() < 0.5 < (bare > 95_000).mean() + 0.1


def test_stated_prices_hold_from_their_quarter_on():
    chip = "huawei/ascend-910b2"
    found = prices(_setting(Price(chip=chip, chip_price="90000 CNY"),
                            Price(chip=chip, chip_price="60000 CNY", quarter="2027Q2")), [8, 8])  # fmt: skip
    steps = found[0, :, 0] - found[0, 0, 0]
    assert steps == pytest.approx([0.0, 0.0, -30_000.0, -30_000.0, -30_000.0, -30_000.0])
    assert np.ptp(found[:, :, 0], axis=0) == pytest.approx(0.0)
    later = prices(_setting(Price(chip=chip, server_price="800000 CNY", quarter="2027Q2")), [8, 8])
    assert later[:, 2:, 0] == pytest.approx(100_000.0)
    assert np.ptp(later[:, 0, 0]) > 0


def test_a_scenario_multiplies_prices():
    plain, dear = (
        prices(_setting(), [8, 8]),
        prices(_setting(future=Scenario(id="dear", price={"huawei/*": 2.0})), [8, 8]),
    )
    assert dear[:, :, 0] == pytest.approx(2.0 * plain[:, :, 0])
    assert dear[:, :, 1] == pytest.approx(plain[:, :, 1])
