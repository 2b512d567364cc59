"""verdict: what the rules say of one chip, one act and one day, with everything that it rests on."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from offramp.core.errors import InputError
from offramp.core.figure import NEEDS_RANGE, Figure
from offramp.core.record import Record
from offramp.rules.book import Rulebook, load
from offramp.rules.environment import Value, density, environment, shares_in_range, tpp_span
from offramp.rules.evidence import inputs_of, margins_of
from offramp.rules.facts import ChipFacts, Context, Settings
from offramp.rules.fire import ParsedClause, conditions_of, is_active
from offramp.rules.records import RANK, Condition, Hit, Rule, Verdict
from offramp.rules.unknowns import Explored, explore, ordered

THIN_AFTER: Final = dt.date(2026, 6, 30)
"""Sources on rules thin out after this day: later changes may be missing from the shipped rules."""
_NUMBERS: Final = ("die_area", "io_die_area", "dram_bandwidth", "io_bandwidth", "tpp")
_IDLE: Final = ("announced", "suspended", "draft", "never-enforced")
_DEFAULTS: Final = Settings()


class _Question(Record):
    """One question to one rulebook."""

    book: Rulebook
    facts: ChipFacts
    context: Context
    as_of: dt.date
    known: dt.date | None
    settings: Settings

    @property
    def sides(self) -> tuple[str, ...]:
        """The jurisdictions asked."""
        return ("US", "CN") if self.context.jurisdiction == "both" else (self.context.jurisdiction,)

    def values(self) -> dict[str, Value]:
        """Every attribute's value."""
        return environment(self.facts, self.context, self.as_of, self.settings)

    def is_active(self, rule: Rule) -> bool | None:
        """Whether a rule is in force on the day, by what was known."""
        return is_active(rule, self.as_of, self.known, include_drafts=self.context.include_drafts)

    def active(self, side: str) -> tuple[list[ParsedClause], frozenset[str]]:
        """Clauses that are, or may be, in force; ids of the rules of which no source says."""
        standing = {rule.id: self.is_active(rule) for rule in self.book.rules.values() if rule.jurisdiction == side}
        tests = [test for test in self.book.tests if standing.get(test.rule.id, False) is not False]
        return tests, frozenset(name for name, state in standing.items() if state is None)

    def possible(self) -> tuple[str, ...]:
        """Verdicts that remain possible over all jurisdictions asked."""
        values = self.values()
        return _combined(explore(tests, values, doubtful) for tests, doubtful in map(self.active, self.sides))


def verdict(
    facts: ChipFacts,
    context: Context,
    as_of: dt.date,
    *,
    known: dt.date | None = None,
    rulebook: Rulebook | None = None,
    settings: Settings = _DEFAULTS,
) -> Verdict:
    """What the rules say.

    Args:
        facts: the chip.
        context: who does what, where, by which way.
        as_of: day of the act; rules in force on that day count.
        known: only what was public on that day is used (rules, their states, figures); None uses all that is shipped.
        rulebook: None takes the shipped rules.
        settings: points of interpretation.

    Raises:
        InputError: a share outside 0 to 1.
    """
    bad = shares_in_range(context)
    if bad:
        raise InputError(f"{getattr(context, bad):g} is not a share between 0 and 1", where=bad)
    asked = _Question(
        book=rulebook or load(), facts=known_facts(facts, known), context=context, as_of=as_of, known=known,
        settings=settings,
    )  # fmt: skip
    values = asked.values()
    tests: list[ParsedClause] = []
    explored: dict[str, Explored] = {}
    for side in asked.sides:
        active, doubtful = asked.active(side)
        tests += active
        explored[side] = explore(active, values, doubtful)
    possible = _combined(explored.values())
    deciding = explored.values() if len(possible) > 1 else ()
    hits, conditions = _hits(asked, tests, explored.values())
    span = tpp_span(asked.facts, settings)
    return Verdict(
        chip=facts.id or facts.name, as_of=as_of, verdict=_one(possible), possible=possible,
        by_jurisdiction={side: _one(part.possible) for side, part in explored.items()},
        control=_control(tests, explored.values()),
        tpp=span.low if span.known else None, pd=density(asked.facts, settings), rules=hits,
        watch=_watch(asked, values), conditions=conditions + _open_conditions(tests, values),
        margins=margins_of(tests, values), inputs=inputs_of(tests, values, asked.facts, context, settings),
        missing=tuple(dict.fromkeys(name for part in deciding for name in part.missing)),
        switches=tuple(item for part in deciding for item in part.switches), horizon=asked.book.horizon(known),
        notes=_notes(asked, hits, possible),
    )  # fmt: skip


def _one(possible: Sequence[str]) -> str:
    return possible[0] if len(possible) == 1 else "indeterminate"


def _combined(parts: Iterable[Explored]) -> tuple[str, ...]:
    """The strictest of each way in which the jurisdictions may turn out."""
    ways = itertools.product(*(part.possible for part in parts))
    return ordered(max(way, key=RANK.__getitem__) for way in ways)


def known_facts(facts: ChipFacts, known: dt.date | None) -> ChipFacts:
    """The facts without what became public after ``known``."""
    if known is None:
        return facts
    changes: dict[str, Any] = {}
    for name in _NUMBERS:
        figure: Figure | None = getattr(facts, name)
        if figure is not None and figure.known_since > known:
            changes[name] = None
    changes["peaks"] = tuple(peak for peak in facts.peaks if peak.figure.known_since <= known)
    if facts.statement is not None and facts.statement.as_of > known:
        changes["statement"] = None
    return msgspec.structs.replace(facts, **changes)


def _hit(asked: _Question, test: ParsedClause, relieved_by: str = "") -> Hit:
    rule, clause = test.rule, test.clause
    state = rule.state_on(asked.as_of, asked.known)
    return Hit(
        rule=rule.id, jurisdiction=rule.jurisdiction, verdict=clause.verdict, text=clause.text or rule.outcome,
        state=state.state if state else "", title=rule.title, source=rule.source, url=rule.url,
        confidence=rule.confidence, public_since=rule.announced, control=clause.control, relieved_by=relieved_by,
    )  # fmt: skip


def _hits(
    asked: _Question, tests: Sequence[ParsedClause], explored: Iterable[Explored]
) -> tuple[tuple[Hit, ...], tuple[Condition, ...]]:
    """Rules that fire in some way the missing facts may turn out, strictest first, and their conditions."""
    keys: dict[str, str] = {}
    relieved: dict[str, str] = {}
    for leaf in (leaf for part in explored for leaf in part.leaves):
        keys |= leaf.fired.by_key
        relieved |= leaf.fired.relieved_by
    hits = [_hit(asked, test, relieved.get(test.key, "").split("#")[0]) for test in tests if test.key in keys]
    hits.sort(key=lambda hit: (bool(hit.relieved_by), -RANK.get(hit.verdict, -1), hit.rule))
    return tuple(hits), conditions_of(tests, keys)


def _open_conditions(tests: Sequence[ParsedClause], values: dict[str, Value]) -> tuple[Condition, ...]:
    """What clauses that wave a missing fact through ask the reader to mind."""
    out: list[Condition] = []
    for test in tests:
        if test.is_open(values):
            if test.clause.verdict:
                kind = f"unless-{test.clause.verdict}"
                out.append(Condition(kind=kind, text=test.clause.text, rule=test.rule.id))
            out += conditions_of([test], [test.key])
    return tuple(out)


def _control(tests: Sequence[ParsedClause], explored: Iterable[Explored]) -> str:
    """The classification that the strictest rule gives; "" where missing facts leave it open."""
    by_key = {test.key: test.clause for test in tests if test.clause.control}
    found: set[str] = set()
    for part in explored:
        for leaf in part.leaves:
            clauses = [by_key[key] for key in leaf.fired.by_key if key in by_key]
            best = max(clauses, key=lambda clause: RANK.get(clause.verdict, 0), default=None)
            if best is not None or any(test.clause.control for test in tests):
                found.add(best.control if best else "")
    return found.pop() if len(found) == 1 else ""


def _watch(asked: _Question, values: dict[str, Value]) -> tuple[Hit, ...]:
    """Rules that speak to this act but are announced, suspended, draft or never enforced."""
    out: list[Hit] = []
    for test in asked.book.tests:
        state = test.rule.state_on(asked.as_of, asked.known)
        if state is None or state.state not in _IDLE or test.rule.jurisdiction not in asked.sides:
            continue
        speaks = test.is_base and test.clause.verdict and asked.is_active(test.rule) is False
        if speaks and test.truth(values) is True:
            out.append(_hit(asked, test))
    return tuple(out)


def _notes(asked: _Question, hits: Sequence[Hit], possible: Sequence[str]) -> tuple[str, ...]:
    as_of, rules = asked.as_of, asked.book.rules
    notes = list(asked.facts.notes)
    stated = asked.facts.statement
    if stated is not None:
        notes.append(f"Classified {stated.value} by {stated.by}; a stated classification stands before the formulas.")
    horizon = min(asked.known, THIN_AFTER) if asked.known else THIN_AFTER
    if as_of > horizon:
        notes.append(
            f"Sources on rules thin out after {horizon}; in force on {as_of} means that no source found says otherwise."
        )
    late = sorted({hit.rule for hit in hits if hit.public_since > as_of})
    notes += [f"{name} became public on {rules[name].announced}, after the day asked about." for name in late]
    for rule in rules.values():
        if rule.jurisdiction in asked.sides and asked.is_active(rule) is None:
            notes.append(f"No source says whether {rule.id} is in force on {as_of}: {rule.note}")
    weak = sorted({hit.rule for hit in hits if hit.confidence == "weak"})
    notes += [f"{name} rests on a weak source: {rules[name].note or rules[name].source}" for name in weak]
    if not hits:
        notes.append(_outside(asked.context))
    return (*notes, *_fragile(asked, possible))


def _outside(context: Context) -> str:
    both = context.jurisdiction == "both"
    who = "Neither jurisdiction's rules" if both else f"No {context.jurisdiction} rule"
    return (
        f"{who} in this rulebook {'bind' if both else 'binds'} this act (headquarters {context.headquarters}, "
        f"destination {context.destination_country}, {context.use}): no licence, quota or ban was found."
    )


def _ends(figure: Figure | None) -> list[Figure]:
    """The figure at either end of its range, where it is an estimate, press or an assumption."""
    if figure is None or figure.confidence not in NEEDS_RANGE or figure.low is None or figure.high is None:
        return []
    return [msgspec.structs.replace(figure, value=end) for end in sorted({figure.low, figure.high} - {figure.value})]


def _variants(facts: ChipFacts) -> Iterator[tuple[str, Figure, ChipFacts]]:
    """The facts with one uncertain figure moved to an end of its range."""
    for name in _NUMBERS:
        for moved in _ends(getattr(facts, name)):
            yield name, moved, msgspec.structs.replace(facts, **{name: moved})
    for i, peak in enumerate(facts.peaks):
        for moved in _ends(peak.figure):
            peaks = (*facts.peaks[:i], msgspec.structs.replace(peak, figure=moved), *facts.peaks[i + 1 :])
            yield f"peak_{peak.dtype}", moved, msgspec.structs.replace(facts, peaks=peaks)


def _fragile(asked: _Question, possible: Sequence[str]) -> list[str]:
    """Figures given as a range within which the verdict changes."""
    out: list[str] = []
    for name, figure, facts in _variants(asked.facts):
        found = msgspec.structs.replace(asked, facts=facts).possible()
        if found != tuple(possible):
            out.append(
                f"{name} is {figure.confidence}, {figure.low:g} to {figure.high:g} {figure.unit}: at "
                f"{figure.value:g} the verdict would be {' or '.join(found)}."
            )
    return out
