"""Missing facts: every threshold is solved for them, and the outcome is taken on each side and at the threshold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

from offramp.core.errors import ModelRangeError
from offramp.core.record import Record
from offramp.rules.environment import ATTRIBUTES, Value, Values, number, with_derived
from offramp.rules.expr import Compare, compares
from offramp.rules.fire import Fired, ParsedClause, fire
from offramp.rules.formulas import DERIVED, solve
from offramp.rules.records import RANK, Switch
from offramp.rules.span import UNKNOWN, Span, exactly

IN_FORCE: Final = "in-force:"
_ORDER: Final = ("datacenter", "tpp", "dram_bw", "io_bw", "die_mm2")
_MOST_LEAVES: Final = 20_000
_DISTINCT: Final = 1e-9


class Leaf(Record):
    """One way in which the missing facts may turn out, and the outcome."""

    settled: dict[str, float]
    fired: Fired
    values: dict[str, Value]


class Explored(Record):
    """All leaves, and where each missing fact decides."""

    leaves: tuple[Leaf, ...]
    missing: tuple[str, ...]
    switches: tuple[Switch, ...]

    @property
    def possible(self) -> tuple[str, ...]:
        """Verdicts that remain possible, mildest first."""
        return ordered({leaf.fired.verdict for leaf in self.leaves})


def ordered(verdicts: Iterable[str]) -> tuple[str, ...]:
    """Verdicts from mild to strict, each once."""
    return tuple(sorted(set(verdicts), key=RANK.__getitem__))


class _Search:
    def __init__(self, tests: Sequence[ParsedClause], doubtful: frozenset[str]) -> None:
        self.tests = tests
        self.doubtful = doubtful
        self.leaves: list[Leaf] = []
        self.nodes: dict[str, list[tuple[Switch, ...]]] = {}

    def walk(self, values: dict[str, Value], settled: dict[str, float], forced: dict[str, bool]) -> set[str]:
        """Verdicts possible from here on; leaves and switches are collected on the way."""
        fact = self.next_fact(values, forced)
        if fact is None:
            if len(self.leaves) >= _MOST_LEAVES:
                raise ModelRangeError("too many facts are missing", mend="Give TPP or the die area.")
            leaf = Leaf(settled=settled, fired=fire(self.tests, values, forced), values=values)
            self.leaves.append(leaf)
            return {leaf.fired.verdict}
        samples: list[tuple[float, set[str]]] = []
        points = self.points(fact, values)
        for value in _around(fact, number(values, fact) if fact in values else UNKNOWN, points):
            below = {**settled, fact: value}
            if fact.startswith(IN_FORCE):
                rule = fact.removeprefix(IN_FORCE)
                samples.append((value, self.walk(values, below, {**forced, rule: bool(value)})))
            else:
                settled_value = bool(value) if ATTRIBUTES[fact].kind == "flag" else exactly(value)
                samples.append((value, self.walk(with_derived({**values, fact: settled_value}), below, forced)))
        self.nodes.setdefault(fact, []).append(_switches(fact, samples, set(points)))
        return set().union(*(found for _, found in samples))

    def next_fact(self, values: Values, forced: dict[str, bool]) -> str | None:
        """The first missing fact that some rule asks for, or None."""
        unsure: set[str] = set()
        for test in self.tests:
            if not forced.get(test.rule.id, True):
                continue
            found = test.truth(values, unsure)
            if found is True and test.rule.id in self.doubtful and test.rule.id not in forced:
                unsure.add(IN_FORCE + test.rule.id)
        facts: set[str] = set()
        for name in unsure:
            parts = DERIVED.get(name, (name,))
            facts |= {part for part in parts if name not in DERIVED or not number(values, part).known}
        return min(facts, key=_place, default=None)

    def points(self, fact: str, values: Values) -> list[float]:
        """Every threshold that still matters to the fact and that the fact may take, ascending."""
        if _is_yes_no(fact):
            return []
        span = number(values, fact)
        points = sorted({point for point in self.thresholds(fact, values) if span.holds(point)})
        return [p for i, p in enumerate(points) if i == 0 or p - points[i - 1] > _DISTINCT * max(1.0, p)]

    def thresholds(self, fact: str, values: Values) -> list[float]:
        """Thresholds on the fact itself, and on quantities derived from it, solved for it."""
        out: list[float] = []
        for test in self.tests:
            if test.truth(values) is not None:
                continue
            for item in (*compares(test.applies), *compares(test.when)):
                point = _threshold(item, fact, values)
                if point is not None and math.isfinite(point):
                    out.append(point)
        return out


def _threshold(item: Compare, fact: str, values: Values) -> float | None:
    if not isinstance(item.limit, float):
        return None
    if item.attribute == fact:
        return item.limit
    if item.attribute not in DERIVED or fact not in DERIVED[item.attribute]:
        return None
    first, second = DERIVED[item.attribute]
    other = number(values, second if fact == first else first)
    return solve(item.attribute, fact, item.limit, other.low) if other.known and item.limit > 0 else None


def _is_yes_no(fact: str) -> bool:
    return fact.startswith(IN_FORCE) or ATTRIBUTES[fact].kind == "flag"


def _around(fact: str, span: Span, points: Sequence[float]) -> list[float]:
    """Values of the fact at every threshold and between them."""
    if _is_yes_no(fact):
        return [0.0, 1.0]
    if not points:
        return [_inside(span)]
    top = span.high if math.isfinite(span.high) else 2 * points[-1] + 1
    between = [(a + b) / 2 for a, b in itertools.pairwise([span.low, *points, top]) if b > a]
    return sorted({*points, *between})


def _inside(span: Span) -> float:
    if span == UNKNOWN:
        return 1.0
    return (span.low + span.high) / 2 if math.isfinite(span.high) else span.low + 1.0


def _place(fact: str) -> tuple[int, str]:
    return (_ORDER.index(fact) if fact in _ORDER else len(_ORDER) - 1, fact)


def _switches(fact: str, samples: Sequence[tuple[float, set[str]]], thresholds: set[float]) -> tuple[Switch, ...]:
    """Places at which the possible verdicts change along one fact."""
    if _is_yes_no(fact):
        (_, no), (_, yes) = samples
        return () if no == yes else (Switch(fact=fact, unit="", at=None, below=ordered(no), above=ordered(yes)),)
    out: list[Switch] = []
    for i, (value, here) in enumerate(samples):
        if value not in thresholds:
            continue
        before = samples[i - 1][1] if i else here
        after = samples[i + 1][1] if i + 1 < len(samples) else here
        if before == after == here:
            continue
        included = here != before
        above = here if included else after
        out.append(
            Switch(fact=fact, unit=ATTRIBUTES[fact].unit, at=value, below=ordered(before), above=ordered(above),
                   included=included)
        )  # fmt: skip
    return tuple(out)


def explore(tests: Sequence[ParsedClause], values: dict[str, Value], doubtful: frozenset[str]) -> Explored:
    """Every outcome that the missing facts leave open.

    Args:
        tests: clauses of the rules that are, or may be, in force.
        values: attributes of the question.
        doubtful: ids of rules of which no source says whether they are in force.
    """
    live = [test for test in tests if not test.is_impossible(values)]
    search = _Search(live, doubtful)
    search.walk(values, {}, {})
    missing = [fact for fact, found in search.nodes.items() if any(found)]
    switches: list[Switch] = []
    for fact in missing:
        found = {item for item in search.nodes[fact] if item}
        if len(found) == 1:
            switches += next(iter(found))
    order = sorted(missing, key=_place)
    return Explored(
        leaves=tuple(search.leaves),
        missing=tuple(order),
        switches=tuple(sorted(switches, key=lambda item: (_place(item.fact), item.at or 0.0))),
    )
