"""The supply Monte-Carlo: sampling, regimes, what is known when, and the sums behind each vendor."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from offramp.core.errors import CatalogError, InputError
from offramp.core.figure import Figure
from offramp.core.result import FigureLog
from offramp.supply import facts, model, regimes, sample, summary
from offramp.supply.buyer import Buyer, obtainable, vendor_of

LATEST = dt.date(2026, 11, 23)


def _simulate(as_of: dt.date = LATEST, **options: object) -> model.SupplyDraws:
    settings = {"draws": 400, "seed": 3, "log": FigureLog(), **options}
    return model.simulate(facts.load(), as_of, **settings)


def test_draw_puts_low_and_high_at_the_10_and_90_percent_quantiles():
    figure = Figure(value=100, low=40, high=400, unit="cards", source="s", as_of=LATEST, confidence="assumed")
    values = sample.draw(figure, np.random.default_rng(0), 40_000)
    assert np.quantile(values, [0.1, 0.5, 0.9]) == pytest.approx([40, 100, 400], rel=0.05)


def test_draw_of_a_share_stays_inside_zero_and_one():
    figure = Figure(value=0.9, low=0.5, high=0.99, unit="share", source="s", as_of=LATEST, confidence="assumed")
    values = sample.draw(figure, np.random.default_rng(0), 10_000)
    assert values.min() > 0 and values.max() < 1


def test_a_tenfold_disagreement_stays_two_humps():
    low, high = np.full(1000, 200.0), np.full(1000, 2000.0)
    values, index = sample.mixture([high, low], [1.0, 3.0], np.linspace(0, 0.9999, 1000))
    assert set(values) == {200.0, 2000.0}
    assert (values == 200.0).mean() == pytest.approx(0.75, abs=0.01)
    assert (index[values == 200.0] == 1).all()


def test_rank_correlation_by_hand():
    assert sample.rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 400, 5000])) == pytest.approx(1.0)
    assert sample.rank_correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(0.8)
    assert sample.rank_correlation(np.ones(5), np.arange(5.0)) == 0.0


def test_path_is_exact_at_its_points_and_grows_outside():
    one, two = np.array([100.0]), np.array([400.0])
    found = sample.path([4, 8], [one, two], np.array([0, 4, 6, 8, 12]), np.array([2.0]))
    assert found[0] == pytest.approx([50, 100, 200, 400, 800])


def test_same_seed_same_answer_and_another_seed_another():
    first, again, other = _simulate(), _simulate(), _simulate(seed=4)
    assert np.array_equal(first.cards, again.cards)
    assert not np.array_equal(first.cards, other.cards)


@pytest.mark.parametrize("as_of", [dt.date(2025, 6, 30), dt.date(2025, 8, 20), dt.date(2025, 12, 31), LATEST])
def test_nothing_known_later_is_used(as_of: dt.date):
    log = FigureLog()
    _simulate(as_of, log=log)
    assert log.horizon is not None and log.horizon <= as_of


def test_reported_2025_totals_pin_the_year_once_they_are_known():
    before = _simulate(dt.date(2025, 6, 30)).year(["huawei"], 2025)
    after = _simulate().year(["huawei"], 2025)
    assert np.quantile(before, 0.9) / np.quantile(before, 0.1) > 4
    assert np.median(after) == pytest.approx(812_000, rel=0.02)


def test_regime_history_is_what_happened_and_the_future_varies():
    drawn = _simulate(dt.date(2025, 12, 31))
    states = drawn.states["h20"]
    quarter = {name: i for i, name in enumerate(drawn.quarters)}
    names = [facts.STATES[k] for k in states[0, [quarter["2025Q1"], quarter["2025Q2"], quarter["2025Q4"]]]]
    assert names == ["open", "closed", "closed"]
    assert (states[:, quarter["2025Q4"]] == states[0, quarter["2025Q4"]]).all()
    assert len(np.unique(states[:, quarter["2027Q4"]])) == 3


def test_regime_does_not_know_the_future():
    regime = facts.load().regimes["h20"]
    day = dt.date(2025, 5, 1)
    assert facts.STATES[regimes.state_on(regime, dt.date(2025, 9, 1), day)] == "closed"
    assert facts.STATES[regimes.state_on(regime, dt.date(2025, 9, 1), dt.date(2025, 9, 1))] == "restricted"


def test_transition_rows_are_probabilities():
    past = np.array([0, 0, 0, 2, 1, 2])
    drawn = regimes.transition_draws(facts.load(), past, np.random.default_rng(0), 500)
    assert np.allclose(drawn.sum(axis=2), 1.0)
    assert drawn[:, 0, 0].mean() == pytest.approx(5.0 / 7.0, abs=0.02)  # 3 prior + 2 counted of 4 prior + 3 counted


def test_no_vendor_is_negative_and_groups_add_up():
    data, drawn = facts.load(), _simulate()
    assert (drawn.cards >= 0).all()
    both = summary.total(drawn, summary.members(data, "all-domestic")) + summary.total(
        drawn, summary.members(data, "all-foreign")
    )
    assert np.allclose(both, drawn.cards.sum(axis=2))


def test_chips_add_up_to_their_vendors():
    data, drawn = facts.load(), _simulate()
    by_chip = summary.chip_cards(data, drawn)
    assert np.allclose(sum(by_chip.values()), drawn.cards.sum(axis=2))


def test_the_tornado_finds_the_source_choice_for_huawei():
    rows = summary.tornado_rows(facts.load(), _simulate(), "huawei", year=2027)
    assert rows[0]["input"] == "huawei: which source is right"
    assert float(rows[0]["cards_at_high"]) > float(rows[0]["cards_at_low"])


def test_bad_requests_are_refused_with_a_mend():
    with pytest.raises(InputError, match="draws"):
        _simulate(draws=1)
    with pytest.raises(InputError, match="before the study's date"):
        _simulate(last="2025Q4")
    with pytest.raises(InputError, match="2025-06-01"):
        _simulate(dt.date(2020, 1, 1))
    with pytest.raises(CatalogError, match="huawei"):
        summary.members(facts.load(), "huawai")


def test_fill_is_a_share_and_closed_chips_arrive_less():
    data, drawn = facts.load(), _simulate()
    chips = ["huawei/ascend-910c-752", "nvidia/h20", "acme/x1"]
    found = obtainable(data, drawn, chips, ["2026Q4", "2027Q4"], buyer=Buyer(grey=True), log=FigureLog())
    assert (found.fill >= 0).all() and (found.fill <= 1).all()
    assert found.unknown == ["acme/x1"] and (found.fill[:, :, 2] == 1).all()
    assert np.median(found.fill[:, 0, 1]) < np.median(found.fill[:, 0, 0])
    assert found.price_factor[:, 0, 1].max() > 1.2


def test_without_the_grey_market_nothing_arrives_under_a_closed_regime():
    data, drawn = facts.load(), _simulate()
    found = obtainable(data, drawn, ["nvidia/h20"], ["2026Q4"], log=FigureLog())
    closed = drawn.states["h20"][:, drawn.quarters.index("2026Q4")] == facts.STATES.index("closed")
    assert closed.any() and (found.fill[closed, 0, 0] == 0.0).all() and (found.price_factor == 1.0).all()


def test_a_chip_without_a_product_row_falls_to_its_maker():
    vendor = vendor_of(facts.load(), "huawei/ascend-910b3")
    assert vendor is not None and vendor.id == "huawei"


def test_a_year_between_two_published_totals_lies_between_them_in_part_of_the_draws():
    """Cambricon: half a million planned for 2026, a million forecast for 2028; nobody published 2027."""
    drawn = model.simulate(facts.load(), dt.date(2026, 11, 23), draws=2000, seed=0, last="2028Q4", log=FigureLog())
    parts = dict(drawn.components["cambricon", 2027])
    assert set(parts) == {"structure", "between published totals"}
    assert parts["between published totals"] == pytest.approx(0.5, abs=0.05)
    early = model.simulate(facts.load(), dt.date(2025, 6, 30), draws=200, seed=0, last="2028Q4", log=FigureLog())
    assert "between published totals" not in dict(early.components["cambricon", 2027])
