"""Permits of a study: no rule without headquarters, and nothing that was not yet public."""

from __future__ import annotations

import datetime as dt

from offramp.app.permits import NO_HEADQUARTERS, permits_of
from offramp.app.study import Header, Organisation, Study
from offramp.core.result import FigureLog

DAY = dt.date(2026, 1, 20)


def _study(headquarters: str, as_of: dt.date | None = DAY) -> Study:
    return Study(study=Header(name="x", as_of=as_of), organisation=Organisation(headquarters=headquarters))


def test_without_headquarters_no_rule_is_applied_and_it_is_said():
    found = permits_of(_study(""), ["nvidia/h20"], DAY, FigureLog())["nvidia/h20"]
    assert (found.verdict, found.why, found.rules) == ("unknown", NO_HEADQUARTERS, ())
    assert not found.free


def test_headquarters_decide():
    chinese = permits_of(_study("CN"), ["nvidia/h20"], DAY, FigureLog())["nvidia/h20"]
    german = permits_of(_study("DE"), ["nvidia/h20"], DAY, FigureLog())["nvidia/h20"]
    assert chinese.verdict == "licence" and not chinese.free
    assert german.verdict == "allowed" and german.free


def test_a_rule_that_became_public_later_is_not_used():
    """The rule of 2026-01-15 was announced on 2026-01-13: a study of the twelfth knows nothing of it."""
    day = dt.date(2026, 1, 12)
    before = permits_of(_study("CN", day), ["nvidia/h200"], dt.date(2026, 1, 12), FigureLog())["nvidia/h200"]
    after = permits_of(_study("CN"), ["nvidia/h200"], DAY, FigureLog())["nvidia/h200"]
    assert "US-H200-CBC-2026" not in before.rules
    assert "US-H200-CBC-2026" in after.rules
