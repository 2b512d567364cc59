"""Which clauses fire where every fact is settled, and what they come to. No order of rules matters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

from offramp.core.record import Record
from offramp.rules.environment import Values, truth
from offramp.rules.expr import ALWAYS, Node
from offramp.rules.records import RANK, VERDICTS, Clause, Condition, Rule
from offramp.rules.span import Truth, all_of


class ParsedClause(Record):
    """One clause of one rule, ready to evaluate.

    Attributes:
        key: address of the clause ("US-NAC#0").
    """

    key: str
    rule: Rule
    clause: Clause
    applies: Node = ALWAYS
    when: Node = ALWAYS

    @property
    def is_base(self) -> bool:
        """Whether it fires by itself, neither as an exception nor as an attachment."""
        return not self.clause.relieves and not self.clause.requires

    def truth(self, values: Values, unsure: set[str] | None = None) -> Truth:
        """Kleene value, with the clause's own say on missing facts."""
        own: set[str] = set()
        found = all_of([truth(self.applies, values, own), truth(self.when, values, own)])
        if found is not None:
            return found
        if self.clause.when_unknown != "ask":
            return self.clause.when_unknown == "applies"
        if unsure is not None:
            unsure |= own
        return None

    def is_impossible(self, values: Values) -> bool:
        """Whether it is false however the missing facts turn out."""
        return all_of([truth(self.applies, values), truth(self.when, values)]) is False

    def is_open(self, values: Values) -> bool:
        """Whether a missing fact was waved through by ``when_unknown = "condition"``."""
        if self.clause.when_unknown != "condition":
            return False
        return all_of([truth(self.applies, values), truth(self.when, values)]) is None


class Fired(Record):
    """What came out where every fact is settled.

    Attributes:
        verdict: the strictest unrelieved outcome.
        by_key: verdict of each clause that fired ("" for conditions only).
        relieved_by: key of the relieving clause, by key of the clause that it relieved.
    """

    verdict: str
    by_key: dict[str, str]
    relieved_by: dict[str, str]


def is_active(rule: Rule, day: dt.date, known: dt.date | None, *, include_drafts: bool) -> Truth:
    """Whether a rule is in force on a day; None where no source says so."""
    state = rule.state_on(day, known)
    if state is None:
        return False
    if state.state == "draft" and include_drafts:
        return day >= (rule.if_adopted or state.since)
    return None if state.state == "unknown" else state.state == "in-force"


def fire(tests: Sequence[ParsedClause], values: Values, forced: Mapping[str, bool]) -> Fired:
    """The outcome; ``forced`` says for rules of unknown standing whether they are taken to be in force."""
    true = [test for test in tests if forced.get(test.rule.id, True) and test.truth(values) is True]
    base = _without_displaced([test for test in true if test.is_base], true)
    fired = {test.key: test.clause.verdict for test in base}
    rules = {test.rule.id for test in base}
    relieved: dict[str, str] = {}
    for test in _reliefs(true):
        if rules & set(test.clause.relieves):
            _relieve(test, base, fired, relieved)
    gone = set(relieved)
    rules |= {key.split("#")[0] for key in relieved.values()}
    for test in true:
        if test.clause.requires and rules & set(test.clause.requires):
            fired[test.key] = test.clause.verdict
    standing = [RANK[verdict] for key, verdict in fired.items() if verdict and key not in gone]
    return Fired(verdict=VERDICTS[max(standing, default=0)], by_key=fired, relieved_by=relieved)


def _without_displaced(base: list[ParsedClause], true: Iterable[ParsedClause]) -> list[ParsedClause]:
    """Base clauses whose rule no standing rule takes the place of."""
    by_rule: dict[str, set[str]] = {}
    for test in true:
        if test.rule.displaces:
            by_rule[test.rule.id] = set(test.rule.displaces)
    gone: set[str] = set()
    for _ in range(len(by_rule) + 1):
        gone = {name for rule, names in by_rule.items() if rule not in gone for name in names}
    return [test for test in base if test.rule.id not in gone]


def _reliefs(true: Iterable[ParsedClause]) -> list[ParsedClause]:
    """Relieving clauses, the most favourable first: where several hold, the exporter takes the best."""
    found = [test for test in true if test.clause.relieves]
    return sorted(found, key=lambda test: (RANK.get(test.clause.verdict, 0), test.key))


def _relieve(test: ParsedClause, base: Iterable[ParsedClause], fired: dict[str, str], relieved: dict[str, str]) -> None:
    rank = RANK[test.clause.verdict]
    for other in base:
        worse = other.clause.verdict and RANK[other.clause.verdict] > rank
        if other.rule.id in test.clause.relieves and other.key not in relieved and worse:
            relieved[other.key] = test.key
            fired[test.key] = test.clause.verdict


def conditions_of(tests: Iterable[ParsedClause], keys: Iterable[str]) -> tuple[Condition, ...]:
    """Conditions that the named clauses attach, each with its rule."""
    wanted = set(keys)
    out: list[Condition] = []
    for test in tests:
        if test.key in wanted:
            out += [
                Condition(kind=item.kind, text=item.text, value=item.value, unit=item.unit, rule=test.rule.id)
                for item in test.clause.condition
            ]
    return tuple(out)
