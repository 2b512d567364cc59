"""Quarters as names and numbers."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.errors import InputError
from offramp.core.quarters import first_day, last_day, parse_quarter, quarter_name, quarter_of, quarter_range


@given(st.integers(2000 * 4, 2100 * 4 + 3))
def test_names_and_numbers_are_inverse_and_days_lie_inside(index: int):
    assert parse_quarter(quarter_name(index)) == index
    assert quarter_of(first_day(index)) == quarter_of(last_day(index)) == index
    assert last_day(index) + dt.timedelta(days=1) == first_day(index + 1)


def test_a_range_crosses_the_year():
    assert quarter_range(parse_quarter("2026Q3"), parse_quarter("2027Q1")) == ["2026Q3", "2026Q4", "2027Q1"]


@pytest.mark.parametrize("text", ["2026", "2026Q5", "Q1 2026", "1999Q1", ""])
def test_anything_else_is_refused(text: str):
    with pytest.raises(InputError, match="not a quarter"):
        parse_quarter(text, where="x")
