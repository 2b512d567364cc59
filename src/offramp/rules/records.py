"""Rules, verdicts and what they are made of."""

from __future__ import annotations

import datetime as dt
from typing import Final, Literal

from offramp.core.record import Record

VERDICTS: Final = (
    "allowed", "discouraged", "notification", "conditional", "quota", "licence", "licence-case-by-case",
    "licence-presumption-of-denial", "prohibited",
)  # fmt: skip
"""From free to forbidden; the strictest rule that applies decides. "indeterminate" stands outside the order."""
RANK: Final = {name: rank for rank, name in enumerate(VERDICTS)}
VerdictName = Literal[
    "allowed", "discouraged", "notification", "conditional", "quota", "licence", "licence-case-by-case",
    "licence-presumption-of-denial", "prohibited", "indeterminate",
]  # fmt: skip
Jurisdiction = Literal["US", "CN"]
JurisdictionChoice = Literal["US", "CN", "both"]
StateName = Literal[
    "announced", "in-force", "suspended", "draft", "never-enforced", "superseded", "withdrawn", "unknown"
]
RuleConfidence = Literal["official", "third-party-quoting-official", "law-firm", "press", "weak"]
DISCLAIMER: Final = "Not legal advice: a reading of dated public sources, most of them secondary; ask counsel."


class State(Record):
    """A dated change of a rule's standing.

    Attributes:
        since: first day of the state.
        known: day it became public; ``since`` when absent.
        state: "unknown" means that no source says which state holds; the engine then answers for both.
    """

    state: StateName
    since: dt.date
    known: dt.date | None = None
    note: str = ""

    @property
    def known_since(self) -> dt.date:
        """Day from which anyone could know of it."""
        return self.known or self.since


class Condition(Record):
    """Something to fulfil, to pay or to mind: "revenue-share" 15 %, "duty" 25 %, "volume-cap" 75,000 units.

    Attributes:
        kind: machine-readable class.
        value: number in ``unit``; None where there is none.
    """

    kind: str
    text: str
    value: float | None = None
    unit: str = ""
    rule: str = ""


class Clause(Record):
    """One consequence of a rule.

    Attributes:
        when: the condition in words; parsed into ``node`` by the loader.
        verdict: the outcome; empty for a clause that only attaches conditions or a remark.
        control: classification that it gives ("3A090.a").
        relieves: ids of rules whose verdict this one replaces where it holds (an exception, a review policy).
        requires: ids of rules of which one must have fired.
        when_unknown: "ask" makes the verdict indeterminate where a fact is missing; "condition" keeps the verdict
            and attaches the clause's text; "applies" assumes that the clause holds.
        conditions: attached when the clause fires.
    """

    when: str = ""
    verdict: VerdictName | Literal[""] = ""
    control: str = ""
    text: str = ""
    relieves: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    when_unknown: Literal["ask", "condition", "applies"] = "ask"
    condition: tuple[Condition, ...] = ()


class Rule(Record):
    """A dated rule with its source. Texts are for people; ``applies`` and the clauses decide.

    Attributes:
        kind: what sort of instrument it is.
        states: every dated state, in order.
        applies: who and what it binds, in words; holds for all clauses.
        limits: thresholds that conditions name as ``limit.<name>``.
        displaces: ids of rules that step back where this one applies.
        supersedes: ids of rules that this one ended.
        if_adopted: for drafts: the day from which a study that includes drafts takes it to hold.
    """

    id: str
    title: str
    jurisdiction: Jurisdiction
    issuer: str
    instrument: str
    kind: Literal["control", "exception", "review-policy", "condition", "guidance", "quota", "supply-side", "bill"]
    binds: str
    scope: str
    outcome: str
    source: str
    url: str
    confidence: RuleConfidence
    states: tuple[State, ...]
    note: str = ""
    applies: str = ""
    limits: dict[str, float] = {}
    displaces: tuple[str, ...] = ()
    supersedes: tuple[str, ...] = ()
    if_adopted: dt.date | None = None
    clause: tuple[Clause, ...] = ()

    @property
    def announced(self) -> dt.date:
        """First day on which anyone could know of it."""
        return min(state.known_since for state in self.states)

    def state_on(self, day: dt.date, known: dt.date | None = None) -> State | None:
        """The state on ``day`` by what was known on ``known`` (None = all that is shipped); None before the first."""
        found = None
        for state in self.states:
            if state.since <= day and (known is None or state.known_since <= known):
                found = state
        return found


class Margin(Record):
    """How far a quantity is from a threshold.

    Attributes:
        margin: value - threshold, in ``unit``; positive means above. None where the value is unknown.
        holds: whether the comparison is true; None = unknown.
    """

    rule: str
    quantity: str
    unit: str
    sign: str
    threshold: float
    value: float | None
    margin: float | None
    relative: float | None
    holds: bool | None


class Input(Record):
    """A fact that the verdict rests on, with its source."""

    name: str
    value: str
    unit: str = ""
    source: str = ""
    url: str = ""
    confidence: str = ""
    note: str = ""


class Switch(Record):
    """Where a missing fact would change the verdict.

    Attributes:
        fact: the missing fact.
        at: value at which it switches; None for a yes/no fact.
        below: possible verdicts under it (or for "no").
        above: possible verdicts over it (or for "yes").
        included: whether the value itself belongs to ``above``.
    """

    fact: str
    unit: str
    at: float | None
    below: tuple[str, ...]
    above: tuple[str, ...]
    included: bool = True


class Hit(Record):
    """A rule that fired.

    Attributes:
        verdict: what it says by itself; empty when it only attaches conditions.
        relieved_by: the exception or review policy that replaced its verdict.
        state: its standing on the day.
        public_since: the day the rule became public.
    """

    rule: str
    jurisdiction: str
    verdict: str
    text: str
    state: str
    title: str
    source: str
    url: str
    confidence: str
    public_since: dt.date
    control: str = ""
    relieved_by: str = ""


class Verdict(Record):
    """The answer for one chip, one act, one day.

    Attributes:
        verdict: the strictest outcome, or "indeterminate".
        possible: all verdicts that the missing facts leave open (one when determinate).
        by_jurisdiction: verdict of each jurisdiction by itself.
        control: classification under the US list, where one was found ("3A090.a").
        tpp, pd: as computed; None where a fact is missing.
        rules: what fired. ``watch``: rules that would fire but are not in force on the day.
        switches: for an indeterminate verdict, where each missing fact decides.
        horizon: newest source of the rulebook that was used.
        notes: what the reader must know.
    """

    chip: str
    as_of: dt.date
    verdict: str
    possible: tuple[str, ...]
    by_jurisdiction: dict[str, str]
    control: str
    tpp: float | None
    pd: float | None
    rules: tuple[Hit, ...]
    watch: tuple[Hit, ...]
    conditions: tuple[Condition, ...]
    margins: tuple[Margin, ...]
    inputs: tuple[Input, ...]
    missing: tuple[str, ...]
    switches: tuple[Switch, ...]
    horizon: dt.date
    notes: tuple[str, ...]
    disclaimer: str = DISCLAIMER
