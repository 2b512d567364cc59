"""verdict: what the rules say of one chip, one act and one day, with everything that it rests on."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from offramp.core.errors import InputError
from offramp.core.figure import NEEDS_RANGE, Figure
from offramp.rules.book import Rulebook, load
from offramp.rules.environment import Value, density, environment, shares_in_range, tpp_span
from offramp.rules.evidence import inputs_of, margins_of
from offramp.rules.facts import ChipFacts, Context, Settings
from offramp.rules.fire import Test, conditions_of, is_active
from offramp.rules.records import RANK, Condition, Hit, Rule, Switch, Verdict
from offramp.rules.unknowns import IN_FORCE, Explored, explore, ordered

THIN_AFTER: Final = dt.date(2026, 6, 30)
"""Sources on rules thin out after this day: later changes may be missing from the shipped rules."""
_NUMBERS: Final = ("die_area", "io_die_area", "dram_bandwidth", "io_bandwidth", "tpp")
_DEFAULTS: Final = Settings()


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
    book = rulebook or load()
    facts = known_facts(facts, known)
    values = environment(facts, context, as_of, settings)
    sides = ("US", "CN") if context.jurisdiction == "both" else (context.jurisdiction,)
    tests: dict[str, list[Test]] = {}
    explored: dict[str, Explored] = {}
    for side in sides:
        tests[side], doubtful = _active(book, side, as_of, known, context)
        explored[side] = explore(tests[side], values, doubtful)
    possible = ordered(
        max(combination, key=RANK.__getitem__) for combination in itertools.product(*(e.possible for e in explored.values()))
    )
    every = [test for side in sides for test in tests[side]]
    hits, conditions = _hits(book, every, explored, as_of, known)
    watch = _watch(book, sides, values, as_of, known, context)
    notes = _notes(book, facts, context, as_of, known, settings, hits, possible)
    span = tpp_span(facts, settings)
    return Verdict(
        chip=facts.id or facts.name, as_of=as_of, verdict=possible[0] if len(possible) == 1 else "indeterminate",
        possible=possible,
        by_jurisdiction={side: e.possible[0] if len(e.possible) == 1 else "indeterminate" for side, e in explored.items()},
        control=_control(hits), tpp=span.low if span.known else None, pd=density(facts, settings), rules=hits,
        watch=watch, conditions=conditions + _open_conditions(every, values), margins=margins_of(every, values),
        inputs=inputs_of(every, values, facts, context, settings),
        missing=_missing(explored, possible), switches=_switches(explored, possible), horizon=book.horizon(known),
        notes=notes,
    )  # fmt: skip


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


def _active(
    book: Rulebook, side: str, as_of: dt.date, known: dt.date | None, context: Context
) -> tuple[list[Test], frozenset[str]]:
    """Clauses of the rules that are, or may be, in force; ids of the rules of which nobody knows."""
    standing = {
        rule.id: is_active(rule, as_of, known, include_drafts=context.include_drafts)
        for rule in book.rules.values()
        if rule.jurisdiction == side
    }
    tests = [test for test in book.tests if standing.get(test.rule.id, False) is not False]
    return tests, frozenset(name for name, state in standing.items() if state is None)


def _hit(rule: Rule, as_of: dt.date, known: dt.date | None, **parts: str) -> Hit:
    state = rule.state_on(as_of, known)
    return Hit(
        rule=rule.id, jurisdiction=rule.jurisdiction, state=state.state if state else "", title=rule.title,
        source=rule.source, url=rule.url, confidence=rule.confidence, public_since=rule.announced, **parts,
    )  # fmt: skip


def _hits(
    book: Rulebook, tests: Sequence[Test], explored: dict[str, Explored], as_of: dt.date, known: dt.date | None
) -> tuple[tuple[Hit, ...], tuple[Condition, ...]]:
    """Rules that fire in some way the missing facts may turn out, strictest first, and their conditions."""
    keys: dict[str, str] = {}
    relieved: dict[str, str] = {}
    for part in explored.values():
        for leaf in part.leaves:
            keys |= leaf.fired.by_key
            relieved |= leaf.fired.relieved_by
    hits = [
        _hit(
            test.rule, as_of, known, verdict=test.clause.verdict, control=test.clause.control,
            text=test.clause.text or test.rule.outcome,
            relieved_by=relieved[test.key].split("#")[0] if test.key in relieved else "",
        )
        for test in tests
        if test.key in keys
    ]  # fmt: skip
    hits.sort(key=lambda hit: (bool(hit.relieved_by), -RANK.get(hit.verdict, -1), hit.rule))
    return tuple(hits), conditions_of(tests, keys)


def _open_conditions(tests: Sequence[Test], values: dict[str, Value]) -> tuple[Condition, ...]:
    """What clauses that wave a missing fact through ask the reader to mind."""
    out: list[Condition] = []
    for test in tests:
        if test.is_open(values):
            out.append(Condition(kind=f"unless-{test.clause.verdict}", text=test.clause.text, rule=test.rule.id))
            out += conditions_of([test], [test.key])
    return tuple(out)


def _control(hits: Sequence[Hit]) -> str:
    """The classification that the strictest rule gives."""
    found = [hit for hit in hits if hit.control]
    return max(found, key=lambda hit: RANK.get(hit.verdict, 0)).control if found else ""


def _watch(
    book: Rulebook, sides: Sequence[str], values: dict[str, Value], as_of: dt.date, known: dt.date | None,
    context: Context,
) -> tuple[Hit, ...]:  # fmt: skip
    """Rules that speak to this act but are announced, suspended, draft or never enforced."""
    out: list[Hit] = []
    for test in book.tests:
        state = test.rule.state_on(as_of, known)
        if test.rule.jurisdiction not in sides or state is None or not test.is_base or not test.clause.verdict:
            continue
        idle = state.state in ("announced", "suspended", "draft", "never-enforced")
        if idle and is_active(test.rule, as_of, known, include_drafts=context.include_drafts) is False:
            if test.truth(values) is True:
                out.append(_hit(test.rule, as_of, known, verdict=test.clause.verdict, control=test.clause.control,
                                text=test.clause.text or test.rule.outcome))  # fmt: skip
    return tuple(out)


def _deciding(explored: dict[str, Explored], possible: Sequence[str]) -> list[Explored]:
    return list(explored.values()) if len(possible) > 1 else []


def _missing(explored: dict[str, Explored], possible: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in _deciding(explored, possible) for name in part.missing))


def _switches(explored: dict[str, Explored], possible: Sequence[str]) -> tuple[Switch, ...]:
    return tuple(item for part in _deciding(explored, possible) for item in part.switches)


def _notes(
    book: Rulebook, facts: ChipFacts, context: Context, as_of: dt.date, known: dt.date | None, settings: Settings,
    hits: Sequence[Hit], possible: Sequence[str],
) -> tuple[str, ...]:  # fmt: skip
    notes = list(facts.notes)
    horizon = min(known, THIN_AFTER) if known else THIN_AFTER
    if as_of > horizon:
        notes.append(
            f"Sources on rules thin out after {horizon}; in force on {as_of} means that no source found says otherwise."
        )
    late = sorted({hit.rule for hit in hits if hit.public_since > as_of})
    notes += [f"{name} became public on {book.rules[name].announced}, after the day asked about." for name in late]
    doubtful = [
        rule.id
        for rule in book.rules.values()
        if (state := rule.state_on(as_of, known)) and state.state == "unknown"
        and context.jurisdiction in ("both", rule.jurisdiction)
    ]  # fmt: skip
    notes += [f"No source says whether {name} is in force on {as_of}: {book.rules[name].note}" for name in doubtful]
    if not hits:
        notes.append(_outside(context))
    return (*notes, *_fragile(facts, context, as_of, known, book, settings, possible))


def _outside(context: Context) -> str:
    sides = "Neither jurisdiction's rules" if context.jurisdiction == "both" else f"No {context.jurisdiction} rule"
    verb = "bind" if context.jurisdiction == "both" else "binds"
    return (
        f"{sides} in this rulebook {verb} this act (headquarters {context.headquarters}, destination "
        f"{context.destination_country}, {context.use}): no licence, quota or ban was found."
    )


def _fragile(
    facts: ChipFacts, context: Context, as_of: dt.date, known: dt.date | None, book: Rulebook, settings: Settings,
    possible: Sequence[str],
) -> list[str]:  # fmt: skip
    """Figures given as a range within which the verdict changes."""
    out: list[str] = []
    side_names = ("US", "CN") if context.jurisdiction == "both" else (context.jurisdiction,)
    for name in _NUMBERS:
        figure: Figure | None = getattr(facts, name)
        if figure is None or figure.confidence not in NEEDS_RANGE or figure.low is None or figure.high is None:
            continue
        for end in {figure.low, figure.high} - {figure.value}:
            moved = msgspec.structs.replace(facts, **{name: msgspec.structs.replace(figure, value=end)})
            values = environment(moved, context, as_of, settings)
            found: set[str] = set()
            parts = [explore(*_first(_active(book, side, as_of, known, context), values)) for side in side_names]
            for combination in itertools.product(*(part.possible for part in parts)):
                found.add(max(combination, key=RANK.__getitem__))
            if found != set(possible):
                out.append(f"{name} is {figure.confidence}, {figure.low:g} to {figure.high:g} {figure.unit}: at "
                           f"{end:g} the verdict would be {' or '.join(ordered(found))}.")  # fmt: skip
    return out


def _first(active: tuple[list[Test], frozenset[str]], values: dict[str, Value]) -> tuple[Any, Any, Any]:
    return active[0], values, active[1]


def in_force_fact(rule_id: str) -> str:
    """Name of the missing fact "is this rule in force"."""
    return IN_FORCE + rule_id
