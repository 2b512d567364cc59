"""Solving a plan's programme again with other bounds or prices, from where the last solution stood.

A cold start costs ten times as much, and an added row over all costs makes the programme a hundred times slower.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.core.errors import BackendError
from offramp.plan import builder
from offramp.plan.builder import Solution
from offramp.plan.lp import build, money_unit
from offramp.plan.solution import Plan, read

F8 = npt.NDArray[np.floating[Any]]
I8 = npt.NDArray[np.int64]
ROUNDS: Final = 12
"""Most solutions on the way to the fewest chips within a cost; what is left is an upper bound."""
TOLERANCE: Final = 0.005
_CLOSE: Final = 1e-7
_DEAR: Final = 1e3
"""A price per chip, in units of the dearest chip, at which nothing is bought that can be left out."""


class Again:
    """One programme, kept in the solver."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.program = build(plan.problem)
        self.arrays = self.program.arrays
        self._highs = builder.load(self.arrays)
        if plan.basis is not None:
            self._highs.setBasis(plan.basis)

    def bounded(self, columns: I8, lower: F8, upper: F8) -> Plan:
        """The best plan with other bounds on some columns.

        Raises:
            BackendError: there is none.
        """
        at = columns.ravel().astype(np.int32)
        self._highs.changeColsBounds(at.size, at, lower.ravel().astype(np.float64), upper.ravel().astype(np.float64))
        found = builder.run(self._highs, self.arrays)
        self._highs.changeColsBounds(at.size, at, self.arrays.lower[at], self.arrays.upper[at])
        if not found.has_point:
            raise BackendError(f"the solver says {found.status}", mend="Report the study; this is a defect.")
        return read(self.program, found)

    def fewest(self, columns: I8, weight: F8, gap: float, *, without: Plan | None = None) -> float:
        """Fewest of some columns' chips, each counted by its weight, within a share of the objective.

        Found from above, to TOLERANCE of what the plan has. The pairs of cost and count that are worth having form a
        convex chain; it is walked by pricing the count at the slope of the chord around the limit until no plan lies
        below the chord.

        Args:
            columns: column numbers.
            weight: of each.
            gap: share that the objective may rise by.
            without: a plan of the same programme that has none of them, if one is known.
        """
        at = columns.ravel().astype(np.int32)
        each = weight.ravel()
        unit = money_unit(self.program.scale)
        start = self.plan.objective / unit
        limit = start + gap * abs(start)
        low = (start, self._count_of_plan(columns, each))
        high = (without.objective / unit, 0.0) if without is not None else self._priced(at, each, _DEAR)
        enough = TOLERANCE * low[1]
        for _ in range(ROUNDS):
            if high[0] <= limit or low[1] - high[1] <= _CLOSE * max(low[1], 1.0):
                break
            slope = (high[0] - low[0]) / (low[1] - high[1])
            cost, count = self._priced(at, each, slope)
            if cost + slope * count >= low[0] + slope * low[1] - _CLOSE * max(abs(low[0]), 1e-9):
                break
            if cost <= limit:
                low = (cost, count)
            else:
                high = (cost, count)
            if (
                _on_chord(low, high, limit) - (cost + slope * count - limit) / slope <= enough
            ):  # no plan has fewer than that
                break
        self._highs.changeColsCost(at.size, at, self.arrays.cost[at])
        return _on_chord(low, high, limit) * self.program.scale.chips

    def _priced(self, at: npt.NDArray[np.int32], weight: F8, price: float) -> tuple[float, float]:
        """Cost and count of the best plan when each counted chip costs so much more."""
        self._highs.changeColsCost(at.size, at, self.arrays.cost[at] + price * weight)
        x = self._point(builder.run(self._highs, self.arrays))
        return float(self.arrays.cost @ x), float(weight @ x[at])

    @staticmethod
    def _point(found: Solution) -> F8:
        if not found.has_point:
            raise BackendError(f"the solver says {found.status}", mend="Report the study; this is a defect.")
        return found.columns

    def _count_of_plan(self, columns: I8, weight: F8) -> float:
        """Count of the columns in the plan itself, read from its orders."""
        problem, scale, cols = self.plan.problem, self.program.scale, self.program.cols
        x = np.zeros(self.arrays.cost.size)
        now = cols["order_now"].shape[0]
        x[cols["order_now"]] = self.plan.order[0, :now] / scale.chips
        if now < len(problem.quarters):
            x[cols["order_later"]] = self.plan.order[:, now:] / scale.chips
        return float(weight @ x[columns.ravel()])


def _on_chord(low: tuple[float, float], high: tuple[float, float], limit: float) -> float:
    """Count at the limit between a plan that costs less and one that costs more."""
    if high[0] <= limit:
        return high[1]
    share = (limit - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
    return low[1] + (high[1] - low[1]) * min(max(share, 0.0), 1.0)
