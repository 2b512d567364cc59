"""A run on a chip with missing facts: the range over admissible values; and a run over cluster sizes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from offramp.app.study import Workload
from offramp.app.train_cells import Setting, cell, quantiles, question_of
from offramp.arch.record import Model
from offramp.catalog import Chip
from offramp.core.errors import CatalogError, InfeasibleError
from offramp.core.units import DAY_S
from offramp.train.outlook import Outlook, Question, outlook

SPANS: Final = (
    "step_s", "mfu", "mfu_bf16", "goodput", "tokens_per_s", "failures", "days", "chip_hours", "energy_kwh", "cost",
)  # fmt: skip
"""Parts of a cell that are intervals."""
SIZES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Cluster sizes of the curve, over the one that was judged."""


def any_cell(
    setting: Setting, work: Workload, model: Model, chip: Chip, count: int
) -> tuple[dict[str, Any], Question, Outlook]:
    """A cell of a chip whose facts are known, or the range over admissible values where some are missing.

    Raises:
        CatalogError: a fact is missing that nothing bounds. InfeasibleError: nothing divides or fits.
    """
    if chip.computable:
        question = question_of(setting, work, model, chip)
        answer, out = cell(setting, question, chip, count, work.deadline_s)
        return {**answer, "mode": "sourced", "missing": []}, question, out
    if not chip.boundable:
        missing = ", ".join(chip.missing).replace("_", " ")
        raise CatalogError(
            f"{chip.id} cannot be computed: no source gives {missing}, and nothing bounds all of them", where=chip.id,
            mend="Take it out, or add a figure or a bound with its source to the catalogue.",
        )  # fmt: skip
    for name in chip.missing:
        chip.admissible(name, setting.log)
    question = question_of(setting, work, model, chip.at_bounds("mid"))
    answer, out = cell(setting, question, chip, count, work.deadline_s)
    ends = [_end(setting, work, model, chip, count, case) for case in ("low", "high")]
    return _merged(answer, ends, chip), question, out


def _end(setting: Setting, work: Workload, model: Model, chip: Chip, count: int, case: Any) -> dict[str, Any] | None:
    """The cell at the worst or best admissible values; None where the run does not fit."""
    try:
        question = question_of(setting, work, model, chip.at_bounds(case))
        answer, _ = cell(setting, question, chip, count, work.deadline_s)
    except InfeasibleError:
        return None
    return answer if answer["status"] == "ok" else None


def _merged(mid: dict[str, Any], ends: list[dict[str, Any] | None], chip: Chip) -> dict[str, Any]:
    """The middle cell with intervals from the lowest to the highest end; an end that cannot run is named."""
    found = {**mid, "mode": "bounds", "missing": list(chip.missing)}
    if mid["status"] != "ok":
        return found
    known = [mid, *(end for end in ends if end is not None)]
    for name in SPANS:
        if mid[name] is not None:
            spans = [end[name] for end in known if end[name] is not None]
            found[name] = {"p10": min(s["p10"] for s in spans), "p50": mid[name]["p50"],
                           "p90": max(s["p90"] for s in spans)}  # fmt: skip
    if mid["p_deadline"] is not None:
        found["p_deadline_range"] = [0.0 if ends[0] is None else ends[0]["p_deadline"],
                                     max(end["p_deadline"] for end in known)]  # fmt: skip
    if ends[0] is None:
        found["why"] = "at the worst admissible values it does not run"
    return found


def scaling(setting: Setting, question: Question, chips: int, deadline_s: float | None) -> list[dict[str, Any]]:
    """Days over cluster sizes around the one that was judged; sizes that divide or hold nothing are left out."""
    found: list[dict[str, Any]] = []
    node = max(question.packages_per_node, 1)
    for factor in SIZES:
        size = max(round(chips * factor / node), 1) * node
        try:
            out = outlook(question, setting.posterior, size, draws=200)
        except InfeasibleError:
            continue
        late = None if deadline_s is None else float(np.mean(out.days * DAY_S <= deadline_s))
        found.append({"chips": out.active, "days": quantiles(out.days), "mfu": quantiles(out.mfu), "p_deadline": late,
                      "goodput": quantiles(out.goodput)})  # fmt: skip
    return found
