"""The language of conditions: reading, Kleene values, and errors that say where."""

from __future__ import annotations

import datetime as dt

import pytest

from offramp.rules.environment import ATTRIBUTES, truth
from offramp.rules.expr import ExpressionError, Vocabulary, attributes, compares, parse
from offramp.rules.span import UNKNOWN, Span, exactly

WORDS = Vocabulary(
    kinds={name: item.kind for name, item in ATTRIBUTES.items()},
    words={name: item.words for name, item in ATTRIBUTES.items() if item.words},
    lists={"china": ("CN", "HK", "MO"), "h20": ("nvidia/h20", "nvidia/h20-*")},
    limits={"tpp": 4800.0},
)


def value(text: str, **values: object) -> bool | None:
    return truth(parse(text, WORDS), values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tpp >= limit.tpp", True),
        ("tpp > 5000", False),
        ("tpp < 5000 and tpp > 4800", False),
        ("tpp <= 4800", True),
        ("datacenter and pd >= 5.92", None),
        ("datacenter or pd >= 5.92", True),
        ("not datacenter and pd >= 5.92", False),
        ("not (datacenter and tpp >= 4800)", False),
        ("destination in china", True),
        ("destination not in china", False),
        ("countries in [DE, SG]", True),
        ("chip in h20", True),
        ("buyer is private or buyer is platform", True),
        ("buyer is not private", False),
        ("launched > 2026-01-15", False),
        ("as_of >= 2024-04-04", True),
        ("tpp >= 9000 or datacenter and tpp >= 1", True),
        ("", True),
    ],
)
def test_conditions_have_kleene_values(text: str, expected: bool | None) -> None:
    found = value(
        text, tpp=exactly(4800), pd=UNKNOWN, datacenter=True, destination="HK", countries=("CN", "SG"),
        chip="nvidia/h20-141gb", buyer="private", launched=None, as_of=dt.date(2024, 4, 4),
    )  # fmt: skip
    assert found is expected


def test_a_glob_of_the_h20_does_not_catch_the_h200() -> None:
    assert value("chip in h20", chip="nvidia/h200") is False


def test_bounds_decide_where_they_can() -> None:
    below = Span(high=2400, open_high=True)
    assert value("tpp >= 2400", tpp=below) is False
    assert value("tpp < 2400", tpp=below) is True
    assert value("tpp >= 1600", tpp=below) is None
    assert value("tpp > 2400", tpp=Span(high=2400)) is False
    assert value("tpp >= 2400", tpp=Span(high=2400)) is None


@pytest.mark.parametrize(
    ("text", "offset", "part"),
    [
        ("datacentre and tpp >= 1", 0, 'unknown attribute "datacentre"'),
        ("datacenter and tpp => 1", 19, "cannot read"),
        ("tpp >= limit.tppp", 7, 'unknown limit "tppp"'),
        ("destination in chine", 15, 'unknown list "chine"'),
        ("buyer is statefunded", 9, 'is never "statefunded"'),
        ("tpp >= big", 7, "expected a number"),
        ("datacenter >= 3", 0, "cannot be compared"),
        ("tpp", 0, "not yes or no"),
        ("tpp is 3", 0, "are for words"),
        ("(tpp >= 3", 9, "ends too early"),
        ("tpp >= 3 datacenter", 9, "is not expected here"),
        ("as_of >= 2026-13-40", 9, "is not a date"),
        ("and tpp >= 3", 0, "expected the name of an attribute"),
    ],
)
def test_errors_say_where_and_what(text: str, offset: int, part: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, WORDS)
    assert caught.value.offset == offset
    assert part in caught.value.what


def test_near_misses_help() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse("datacentre", WORDS)
    assert "datacenter" in caught.value.mend


def test_a_tree_names_what_it_reads() -> None:
    node = parse("datacenter and not (tpp >= limit.tpp or pd < 3)", WORDS)
    assert attributes(node) == {"datacenter", "tpp", "pd"}
    assert [(item.attribute, item.limit, item.limit_name) for item in compares(node)] == [
        ("tpp", 4800.0, "tpp"),
        ("pd", 3.0, ""),
    ]
