"""What no single rule shows: circles, references to nothing, states out of order, contradictions."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from offramp.core.errors import CatalogError, near_miss_hint
from offramp.rules.fire import ParsedClause
from offramp.rules.places import key_line, shown
from offramp.rules.records import Rule, State

Place = Mapping[str, tuple[Path, str, int]]


def check_consistency(rules: Mapping[str, Rule], tests: Sequence[ParsedClause], place: Place) -> None:
    """Raises if the rules contradict themselves or one another.

    Raises:
        CatalogError: with the file and line of the rule at fault.
    """
    for rule in rules.values():
        _check_references(rule, rules, place)
        _check_states(rule, place)
        _check_ended(rule, rules, place)
    _check_circles(rules, lambda rule: rule.supersedes, "supersede", place)
    _check_circles(rules, _yields, "relieve or displace", place)
    _check_contradictions(tests, place)


def _where(rule_id: str, key: str, place: Place) -> str:
    path, text, index = place[rule_id]
    return f"{shown(path)}:{key_line(text, index, key)}"


def _yields(rule: Rule) -> tuple[str, ...]:
    return (*rule.displaces, *(name for clause in rule.clause for name in clause.relieves))


def _check_references(rule: Rule, rules: Mapping[str, Rule], place: Place) -> None:
    required = tuple(name for clause in rule.clause for name in clause.requires)
    relieved = tuple(name for clause in rule.clause for name in clause.relieves)
    named = (
        ("supersedes", rule.supersedes),
        ("displaces", rule.displaces),
        ("relieves", relieved),
        ("requires", required),
    )
    for key, names in named:
        for name in names:
            if name not in rules:
                hint = near_miss_hint(name, rules)
                raise CatalogError(f'{rule.id} names unknown rule "{name}"', where=_where(rule.id, key, place),
                                   mend=hint)  # fmt: skip
            if rules[name].jurisdiction != rule.jurisdiction:
                raise CatalogError(
                    f'{rule.id} reaches into the other jurisdiction ("{name}")', where=_where(rule.id, key, place)
                )


def _check_states(rule: Rule, place: Place) -> None:
    wrong = _disorder(rule.states)
    if wrong:
        raise CatalogError(f"{rule.id} {wrong}", where=_where(rule.id, "states", place), mend="Order them by date.")


def _disorder(states: Sequence[State]) -> str:
    """What is wrong with the order of states; "" when nothing is."""
    if not states:
        return "has no states"
    for before, after in itertools.pairwise(states):
        if after.since < before.since:
            return f"has state {after.state} of {after.since} after {before.state} of {before.since}"
    return ""


def _check_ended(rule: Rule, rules: Mapping[str, Rule], place: Place) -> None:
    """A rule that was superseded must not be in force once its successor is."""
    start = next((state.since for state in rule.states if state.state == "in-force"), None)
    for name in rule.supersedes if start else ():
        old = rules[name].state_on(start) if start else None
        if old is not None and old.state == "in-force":
            raise CatalogError(
                f"{name} is still in force on {start} although {rule.id} supersedes it",
                where=_where(name, "states", place),
                mend=f'Give it a state "superseded" from {start} or earlier.',
            )


def _check_circles(rules: Mapping[str, Rule], edges: Callable[[Rule], Sequence[str]], verb: str, place: Place) -> None:
    done: set[str] = set()

    def visit(rule_id: str, chain: tuple[str, ...]) -> None:
        if rule_id in chain:
            circle = " -> ".join((*chain[chain.index(rule_id) :], rule_id))
            key = "supersedes" if verb == "supersede" else "displaces" if rules[rule_id].displaces else "relieves"
            raise CatalogError(
                f"rules {verb} one another in a circle: {circle}", where=_where(rule_id, key, place),
                mend="Remove one of the references.",
            )  # fmt: skip
        if rule_id not in done:
            for name in edges(rules[rule_id]):
                visit(name, (*chain, rule_id))
            done.add(rule_id)

    for rule_id in rules:
        visit(rule_id, ())


def _periods(rule: Rule) -> list[tuple[dt.date, dt.date]]:
    ends = [state.since for state in rule.states[1:]] + [dt.date.max]
    return [(state.since, end) for state, end in zip(rule.states, ends, strict=True) if state.state == "in-force"]


def _check_contradictions(tests: Sequence[ParsedClause], place: Place) -> None:
    """Two base clauses with the same condition, in force on one day, must not say different things."""
    seen: dict[str, ParsedClause] = {}
    for test in tests:
        if not test.is_base or not test.clause.verdict:
            continue
        key = f"{test.rule.jurisdiction}|{test.applies!r}|{test.when!r}"
        other = seen.setdefault(key, test)
        if other is test or other.clause.verdict == test.clause.verdict:
            continue
        if test.rule.id in other.rule.displaces or other.rule.id in test.rule.displaces:
            continue
        for start, end in _periods(test.rule):
            for low, high in _periods(other.rule):
                if start < high and low < end:
                    raise CatalogError(
                        f"{test.rule.id} says {test.clause.verdict} where {other.rule.id} says "
                        f"{other.clause.verdict}, for the same condition from {max(start, low)}",
                        where=_where(test.rule.id, "when", place),
                        mend="Let one displace or supersede the other, or narrow a condition.",
                    )
