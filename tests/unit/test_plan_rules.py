"""Rules as a plan sees them: by site, by quarter, quotas as caps."""

from __future__ import annotations

import datetime as dt

import numpy as np

from offramp.app.plan_rules import allowed
from offramp.app.study import Header, Organisation, Site, Study
from offramp.core.quarters import parse_quarter
from offramp.core.result import FigureLog

QUARTERS = [parse_quarter(name) for name in ("2026Q4", "2027Q1", "2027Q2", "2027Q3", "2027Q4", "2028Q1")]
CHIPS = ["nvidia/l20", "huawei/ascend-910b2"]
SITES = (Site(id="one", place="guiyang"), Site(id="shanghai"), Site(id="beijing"), Site(id="lanzhou"))


def _ask(headquarters: str, sites: tuple[Site, ...] = SITES):
    study = Study(study=Header(name="x", as_of=dt.date(2026, 11, 23)), site=sites,
                  organisation=Organisation(headquarters=headquarters))  # fmt: skip
    return allowed(study, CHIPS, QUARTERS, FigureLog(), list(study.site))


def test_quotas_of_cities_become_caps_from_their_quarter_on():
    found = _ask(headquarters="CN")
    caps = {SITES[cap.site].id: cap for cap in found.caps}
    assert set(caps) == {"one", "shanghai"}
    assert abs(caps["one"].most - 0.1) < 1e-9 and caps["one"].start == 0
    assert abs(caps["shanghai"].most - 0.3) < 1e-9 and caps["shanghai"].start == 5
    assert all(cap.bought and cap.chips.tolist() == [True, False] for cap in found.caps)


def test_a_quota_that_leaves_nothing_closes_the_site():
    found = _ask(headquarters="CN")
    assert found.buy[:, 0, 2].tolist() == [True, True, True, True, True, False]
    assert found.buy[:, 1].all()
    sites = {row["site"] for row in found.rows if row["chip"] == "nvidia/l20" and row["act"] == "buy"}
    assert sites == {"one", "shanghai, beijing", "lanzhou"}
    assert {row["site"] for row in found.rows if row["chip"] == "huawei/ascend-910b2"} == {"all"}


def test_state_funded_sites_are_judged_by_their_completion():
    sites = (Site(id="new", completion=0.1), Site(id="late", completion=0.8))
    study = Study(study=Header(name="x", as_of=dt.date(2026, 11, 23)), site=sites,
                  organisation=Organisation(headquarters="CN", kind="state-funded"))  # fmt: skip
    found = allowed(study, CHIPS, QUARTERS, FigureLog(), sites)
    assert not found.buy[:, 0, 0].any() and not found.operate[:, 0, 0].any()
    assert found.buy[:, 0, 1].all() and found.operate[:, 0, 1].all()
    assert np.all(found.buy[:, 1])


def test_an_organisation_outside_both_jurisdictions_has_no_quota():
    found = _ask(headquarters="DE", sites=(Site(id="shanghai", country="DE"),))
    assert not found.caps and found.buy[:, 0].all()


def test_chips_that_may_never_be_bought_are_named():
    study = Study(study=Header(name="x", as_of=dt.date(2026, 11, 23)), site=SITES[-1:],
                  organisation=Organisation(headquarters="CN", military=True))  # fmt: skip
    found = allowed(study, ["nvidia/h100"], QUARTERS, FigureLog(), list(study.site))
    assert not found.buy.any()
    assert any("no chip of this study" in notice.text and notice.where == "nvidia/h100" for notice in found.notices)
