"""Permits: what the dated rules say of buying each chip of a study, short enough for a column."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

from offramp.app.rules import verdict
from offramp.app.study import Study
from offramp.core.errors import OfframpError
from offramp.core.record import Record
from offramp.core.result import FigureLog

FREE: Final = frozenset({"allowed", "discouraged", "notification", "conditional", "quota"})
"""Verdicts under which a chip can be bought without a licence."""
NO_HEADQUARTERS: Final = "no headquarters given, so no rule was applied"


class Permit(Record):
    """Whether a chip may be bought for the study's first site.

    Attributes:
        verdict: of the rules engine, or "unknown" where it cannot answer.
        by_jurisdiction: the same by jurisdiction.
        rules: ids of the rules that decide, strictest first.
        why: reason where it is unknown.
    """

    verdict: str
    by_jurisdiction: dict[str, str] = {}
    rules: tuple[str, ...] = ()
    why: str = ""

    @property
    def free(self) -> bool:
        """Whether it can be bought without a licence, as far as is known."""
        return self.verdict in FREE


def permits_of(study: Study, chips: Iterable[str], day: dt.date, log: FigureLog) -> dict[str, Permit]:
    """The verdict for each chip, for this organisation, on a day."""
    own = study.organisation
    if not own.headquarters:
        return {chip: Permit(verdict="unknown", why=NO_HEADQUARTERS) for chip in chips}
    question = {
        "headquarters": own.headquarters, "buyer": "military" if own.military else own.kind,
        "destination": next((site.country for site in study.site if site.country), own.headquarters),
    }  # fmt: skip
    if study.study.as_of is not None:
        question["known"] = day.isoformat()
    if own.owners:
        question["parent"] = own.owners[0]
    found: dict[str, Permit] = {}
    for chip in chips:
        try:
            result = verdict(chip, as_of=day.isoformat(), **question)
        except OfframpError as error:
            found[chip] = Permit(verdict="unknown", why=str(error))
            continue
        if result.knowledge_horizon is not None and result.knowledge_horizon <= day:
            log.note_date(result.knowledge_horizon)
        answer = result.answer
        found[chip] = Permit(
            verdict=answer["verdict"], by_jurisdiction=answer["by_jurisdiction"],
            rules=tuple(hit["rule"] for hit in answer["rules"] if hit["verdict"] not in ("", "allowed"))[:4],
        )  # fmt: skip
    return found
