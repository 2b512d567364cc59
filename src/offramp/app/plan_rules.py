"""What the rules leave open to a plan: which chip may be bought and used in which quarter, by whom."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.app.chipfacts import chip_facts, resolver
from offramp.app.study import Study
from offramp.core.quarters import first_day, quarter_name
from offramp.core.result import Cell, FigureLog, Notice
from offramp.rules import Rulebook, Settings, rulebook_of
from offramp.rules import verdict as evaluate
from offramp.rules.cases import case_question

BLOCKED: Final = ("prohibited", "licence-presumption-of-denial")
CASE_BY_CASE: Final = ("licence", "licence-case-by-case", "conditional", "quota", "indeterminate")
_ROUTE: Final = {"direct": "from-us", "re-export": "re-export", "rental-abroad": "from-us", "grey-market": "re-export"}
Bool = npt.NDArray[np.bool_]


@dataclass
class Allowed:
    """Verdicts turned into what a plan may do.

    Attributes:
        buy: whether a chip may be bought. [Q, C]
        operate: whether it may be used by the organisation's own workloads. [Q, C]
        operate_state: whether it may be used by state-funded workloads. [Q, C]
        rows: one row for each chip and change of verdict.
    """

    buy: Bool
    operate: Bool
    operate_state: Bool
    rows: list[dict[str, Cell]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def allowed(study: Study, chips: Sequence[str], quarters: Sequence[int], log: FigureLog) -> Allowed:
    """Asks the rulebook for every chip, quarter, act and class of buyer; known only what was public on ``as_of``."""
    book, known = rulebook_of(""), study.study.as_of
    q, c = len(quarters), len(chips)
    found = Allowed(buy=np.ones((q, c), bool), operate=np.ones((q, c), bool), operate_state=np.ones((q, c), bool))
    kind = "military" if study.organisation.military else study.organisation.kind
    state = any(work.state_funded for work in study.workload)
    acts = [("buy", kind, found.buy), ("operate", kind, found.operate)]
    acts += [("operate", "state-funded", found.operate_state)] if state else []
    for column, chip in enumerate(chips):
        if chip_facts(chip, book=book) is None:
            text = "the rules know nothing of this chip; it is taken as allowed"
            found.notices.append(Notice(kind="rules", text=text, where=chip))
            continue
        for use, buyer, target in acts:
            before = ""
            for row, quarter in enumerate(quarters):
                day = max(first_day(quarter), known) if known else first_day(quarter)
                verdict, why = _ask(study, chip, use, buyer, day, known, book)
                target[row, column] = verdict not in BLOCKED
                if verdict != before:
                    found.rows.append({"chip": chip, "act": use, "buyer": buyer, "from": quarter_name(quarter),
                                       "verdict": verdict, "rules": why})  # fmt: skip
                before = verdict
    if not state:
        found.operate_state = found.operate
    log.note_date(book.horizon(known))
    found.notices += _case_by_case(found.rows)
    return found


def _ask(
    study: Study, chip: str, use: str, buyer: str, day: dt.date, known: dt.date | None, book: Rulebook
) -> tuple[str, str]:
    """Verdict and the ids of the rules behind it."""
    organisation = study.organisation
    country = next((site.country for site in study.site if site.country), organisation.headquarters)
    row: dict[str, Any] = {
        "chip": chip, "as_of": day.isoformat(), "use": use, "buyer": buyer, "destination": country,
        "headquarters": organisation.headquarters, "route": _ROUTE[organisation.routes[0]],
    }  # fmt: skip
    if organisation.owners:
        row["parent"] = organisation.owners[0]
    facts, context, asked = case_question(row, resolver(book), "the study")
    answer = evaluate(facts, context, asked, known=known, rulebook=book, settings=Settings())
    return answer.verdict, ", ".join(dict.fromkeys(hit.rule for hit in answer.rules if not hit.relieved_by))


def _case_by_case(rows: list[dict[str, Cell]]) -> list[Notice]:
    """Verdicts that leave a purchase possible but not certain."""
    chips = sorted({str(row["chip"]) for row in rows if row["act"] == "buy" and row["verdict"] in CASE_BY_CASE})
    if not chips:
        return []
    text = "buying needs a licence or an approval: taken as possible, at the share that the route lets through"
    return [Notice(kind="rules", text=text, where=", ".join(chips))]
