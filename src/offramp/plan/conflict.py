"""Why a strict plan is impossible: an irreducible conflict of rows, and what closes each chip to the work in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from offramp.plan import builder
from offramp.plan.lp import Program
from offramp.plan.problem import PlanProblem

MOST: Final = 12
"""Most rows that are named."""
_INSIDE: Final = frozenset({"stock", "capacity", "owned", "run", "place", "short", "rent", "order now", "order later"})


def explain(program: Program, highs: Any) -> list[str]:
    """The rows and bounds of an irreducible conflict, named; those that differ only by scenario or quarter together."""
    problem = program.problem
    rows, columns = builder.conflict(highs)
    named = [program.model.name_of_row(i) for i in rows] + [program.model.name_of_column(i) for i in columns]
    scenarios = set(problem.scenarios)
    names: dict[str, list[str]] = {}
    for name, labels in named:
        names.setdefault(name, []).append(" ".join(label for label in labels if label not in scenarios))
    said = {
        name: texts for name, texts in names.items() if name not in _INSIDE and not name.startswith("over ")
    } or names
    found = [
        f"{name} ({', '.join(sorted(set(texts))[:4])})" if any(texts) else name
        for name, texts in list(said.items())[:MOST]
    ]
    return [*found, *_frozen(problem, names.get("order now", ())), *_closed(problem, named)]


def _frozen(problem: PlanProblem, orders: Sequence[str]) -> list[str]:
    """Decided orders that take part in the conflict."""
    return [
        f"frozen order of {count:,.0f} {problem.chips[chip]} in {problem.quarters[quarter]}"
        for quarter, chip, site, count in problem.frozen
        if f"{problem.quarters[quarter]} {problem.chips[chip]} {problem.sites[site]}" in orders
    ]


def _closed(problem: PlanProblem, named: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """For the first piece of work in the conflict: what each chip can do for it by then, and what forbids more."""
    for name, labels in named:
        if name == "work":
            scenario, quarter, work = labels
            at = (problem.scenarios.index(scenario), problem.quarters.index(quarter), problem.workloads.index(work))
            return [_chip_words(problem, at, k) for k in range(len(problem.chips))]
    return []


def _chip_words(problem: PlanProblem, at: tuple[int, int, int], k: int) -> str:
    """One chip beside one piece of work."""
    s, t, w = at
    chip, work, quarter = problem.chips[k], problem.workloads[w], problem.quarters[t]
    because = f" ({problem.because[chip]})" if chip in problem.because else ""
    if problem.productivity[s, k, w] <= 0:
        return f"{chip} does not run {work}"
    if not problem.can_use[s, t, k, w]:
        return f"a rule or ban forbids {chip} for {work} in {quarter}{because}"
    if np.isinf(problem.port_months[w, problem.family[k]]) and problem.ported[w, problem.family[k]] < 1.0:
        return f"{work} cannot be ported to {chip}"
    owned = float((problem.fleet[k] * problem.survival[t, k]).sum())
    lead = int(problem.lead[k])
    placed = np.arange(0, t - lead + 1)
    if placed.size == 0:
        return f"{chip}: {owned:,.0f} owned, an order takes {lead} quarter{'s' if lead > 1 else ''}"
    lands = problem.can_arrive[s, placed + lead, k]
    if not lands.any():
        return f"{chip}: {owned:,.0f} owned, a rule or ban lets no more in by {quarter}{because}"
    more = float(
        np.where(lands, np.where(problem.fill[s, placed, k] > 0, problem.most_order[placed, k], 0.0), 0.0).sum()
    )
    much = f"at most {more:,.0f} more can be ordered" if more > 0 else "none can be ordered"
    much = "no limit on orders" if np.isinf(more) else much
    return f"{chip}: {owned:,.0f} owned, {much} by {quarter}"
