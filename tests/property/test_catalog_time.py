"""What the catalogue says of a past day: a subset of what it says later, and never anything dated after that day."""

from __future__ import annotations

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from offramp import catalog
from offramp.catalog import Catalog

DAYS = st.dates(dt.date(2021, 1, 1), dt.date(2027, 1, 1))


def statements(facts: Catalog) -> set[tuple[str, str, str, float]]:
    things = [*facts.chips.values(), *facts.systems.values()]
    return {
        (thing.id, name, figure.source, figure.value)
        for thing in things
        for name, sources in thing.figures.items()
        if not getattr(thing, "mixture", ())
        for figure in sources
    }


@settings(max_examples=8, deadline=None)
@given(days=st.tuples(DAYS, DAYS))
def test_knowledge_only_grows(days: tuple[dt.date, dt.date]):
    early, late = (catalog.load(as_of=day) for day in sorted(days))
    assert set(early.chips) <= set(late.chips) and set(early.engines) <= set(late.engines)
    assert statements(early) <= statements(late)


@settings(max_examples=8, deadline=None)
@given(day=DAYS)
def test_nothing_is_dated_after_the_day(day: dt.date):
    facts = catalog.load(as_of=day)
    for thing in (*facts.chips.values(), *facts.systems.values()):
        for sources in thing.figures.values():
            assert all(figure.known_since <= day for figure in sources)
    for engine in facts.engines.values():
        assert all(version.date is None or version.date <= day for version in engine.versions)
