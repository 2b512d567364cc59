"""What the rules leave open to a plan: which chip may be bought for and used at which site in which quarter, by whom."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.app.chipfacts import chip_facts, resolver
from offramp.app.study import Site, Study
from offramp.core.quarters import first_day, quarter_name
from offramp.core.result import Cell, FigureLog, Notice
from offramp.plan.problem import ShareCap
from offramp.rules import Rulebook, Settings, Verdict, rulebook_of
from offramp.rules import verdict as evaluate
from offramp.rules.cases import case_question

BLOCKED: Final = ("prohibited", "licence-presumption-of-denial")
CASE_BY_CASE: Final = ("licence", "licence-case-by-case", "conditional", "quota", "indeterminate")
QUOTA: Final = "domestic-share"
"""Kind of the condition by which a rule asks for a share of domestic chips."""
_ROUTE: Final = {"direct": "from-us", "re-export": "re-export", "rental-abroad": "from-us", "grey-market": "re-export"}
Bool = npt.NDArray[np.bool_]


@dataclass
class Allowed:
    """Verdicts turned into what a plan may do.

    Attributes:
        buy: whether a chip may be bought for a site. [Q, C, X]
        operate: whether it may be used there by the organisation's own workloads. [Q, C, X]
        operate_state: whether it may be used by state-funded workloads, anywhere. [Q, C]
        caps: quotas of sites: most share of foreign chips among those bought.
        rows: one row for each chip, act and change of verdict; by site where sites differ.
    """

    buy: Bool
    operate: Bool
    operate_state: Bool
    caps: tuple[ShareCap, ...] = ()
    rows: list[dict[str, Cell]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Act:
    """One thing that is asked: an act by a class of buyer."""

    use: str
    buyer: str


def allowed(
    study: Study, chips: Sequence[str], quarters: Sequence[int], log: FigureLog, sites: Sequence[Site]
) -> Allowed:
    """Asks the rulebook for every chip, quarter, site, act and class of buyer; known only what was public on ``as_of``."""
    book = rulebook_of("")
    size = (len(quarters), len(chips), len(sites))
    kind = "military" if study.organisation.military else study.organisation.kind
    found = Allowed(buy=np.ones(size, bool), operate=np.ones(size, bool), operate_state=np.ones(size[:2], bool))
    acts = [(_Act(use="buy", buyer=kind), found.buy), (_Act(use="operate", buyer=kind), found.operate)]
    state = np.ones(size, bool)
    if any(work.state_funded for work in study.workload):
        acts.append((_Act(use="operate", buyer="state-funded"), state))
    quotas: dict[tuple[str, float, int], dict[str, int]] = {}
    for column, chip in enumerate(chips):
        if chip_facts(chip, book=book) is None:
            text = "the rules know nothing of this chip; it is taken as allowed"
            found.notices.append(Notice(kind="rules", text=text, where=chip))
            continue
        for act, target in acts:
            answers = [_over_time(study, site, chip, act, quarters, book) for site in sites]
            for x, row in enumerate(answers):
                target[:, column, x] = [_open(answer) for answer in row]
                if act.use == "buy":
                    _note_quotas(quotas, row, chip, x)
            found.rows += _changes(chip, act, answers, quarters, sites)
    found.operate_state = np.any(state if len(acts) > 2 else found.operate, axis=2)
    found.caps = _caps(quotas, chips, sites)
    log.note_date(book.horizon(study.study.as_of))
    found.notices += [*_case_by_case(found.rows), *_closed(found, chips)]
    return found


def _closed(found: Allowed, chips: Sequence[str]) -> list[Notice]:
    """Chips that the rules let nobody of this kind buy at any site, in any quarter."""
    closed = [chip for chip, buy in zip(chips, np.any(found.buy, axis=(0, 2)).tolist(), strict=True) if not buy]
    if not closed:
        return []
    text = "the rules close the purchase in every quarter and at every site: none is bought"
    if len(closed) == len(chips):
        text = "the rules allow no chip of this study to be bought, in any quarter: the plan can only run what is there"
    return [Notice(kind="rules", text=text, where=", ".join(closed))]


def _over_time(
    study: Study, site: Site, chip: str, act: _Act, quarters: Sequence[int], book: Rulebook
) -> list[Verdict]:
    """The verdict of each quarter at one site."""
    known = study.study.as_of
    days = [max(first_day(quarter), known) if known else first_day(quarter) for quarter in quarters]
    return [_ask(study, site, chip, act, day, known, book) for day in days]


def _ask(
    study: Study, site: Site, chip: str, act: _Act, day: dt.date, known: dt.date | None, book: Rulebook
) -> Verdict:
    organisation = study.organisation
    row: dict[str, Any] = {
        "chip": chip, "as_of": day.isoformat(), "use": act.use, "buyer": act.buyer, "site": site.place or site.id,
        "destination": site.country or organisation.headquarters, "headquarters": organisation.headquarters,
        "route": _ROUTE[organisation.routes[0]],
    }  # fmt: skip
    if site.completion is not None:
        row["project_complete"] = f"{site.completion}"
    if organisation.owners:
        row["parent"] = organisation.owners[0]
    facts, context, asked = case_question(row, resolver(book), "the study")
    return evaluate(facts, context, asked, known=known, rulebook=book, settings=Settings())


def _open(answer: Verdict) -> bool:
    """Whether the act is possible: not blocked whatever is unknown, and not under a quota that leaves nothing."""
    may_be = answer.possible if answer.verdict == "indeterminate" else (answer.verdict,)
    whole = any(item.kind == QUOTA and (item.value or 0.0) >= 1.0 for item in answer.conditions)
    return any(verdict not in BLOCKED for verdict in may_be) and not whole


def _note_quotas(
    quotas: dict[tuple[str, float, int], dict[str, int]], answers: Sequence[Verdict], chip: str, site: int
) -> None:
    """Notes from which quarter a rule's share of domestic chips limits a chip at a site."""
    for t, answer in enumerate(answers):
        for item in answer.conditions:
            if item.kind == QUOTA and item.value is not None and item.value < 1.0:
                quotas.setdefault((item.rule, item.value, site), {}).setdefault(chip, t)


def _caps(
    quotas: dict[tuple[str, float, int], dict[str, int]], chips: Sequence[str], sites: Sequence[Site]
) -> tuple[ShareCap, ...]:
    """Every quota as a cap on what is bought for its site."""
    return tuple(
        ShareCap(
            label=f"{rule} at {sites[site].id} (at most {1.0 - share:.0%} foreign)", most=1.0 - share, site=site,
            chips=np.asarray([chip in starts for chip in chips]), start=min(starts.values()), bought=True,
        )
        for (rule, share, site), starts in quotas.items()
    )  # fmt: skip


def _changes(
    chip: str, act: _Act, answers: Sequence[Sequence[Verdict]], quarters: Sequence[int], sites: Sequence[Site]
) -> list[dict[str, Cell]]:
    """One row for each change of verdict over the quarters, for the sites at which the verdicts are the same."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for x, row in enumerate(answers):
        alike.setdefault(tuple(answer.verdict for answer in row), []).append(x)
    rows: list[dict[str, Cell]] = []
    for verdicts, group in alike.items():
        names = "all" if len(group) == len(sites) else ", ".join(sites[x].id for x in group)
        before = ""
        for t, (quarter, verdict) in enumerate(zip(quarters, verdicts, strict=True)):
            if verdict != before:
                why = ", ".join(dict.fromkeys(rule for x in group for rule in _rules(answers[x][t])))
                said = "; ".join(dict.fromkeys(item.text for x in group for item in answers[x][t].conditions))
                rows.append({"chip": chip, "act": act.use, "buyer": act.buyer, "site": names,
                             "from": quarter_name(quarter), "verdict": verdict, "rules": why, "conditions": said})  # fmt: skip
            before = verdict
    return rows


def _rules(answer: Verdict) -> list[str]:
    """Ids of the rules behind a verdict."""
    return [hit.rule for hit in answer.rules if not hit.relieved_by]


def _case_by_case(rows: list[dict[str, Cell]]) -> list[Notice]:
    """Verdicts that leave a purchase possible but not certain."""
    chips = sorted({str(row["chip"]) for row in rows if row["act"] == "buy" and row["verdict"] in CASE_BY_CASE})
    if not chips:
        return []
    text = "buying needs a licence or an approval: taken as possible, at the share that the route lets through"
    return [Notice(kind="rules", text=text, where=", ".join(chips))]
