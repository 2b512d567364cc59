"""A plan when time is up: every future solved apart bounds the cost from below, their mean first orders give a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.plan.problem import PlanProblem, replaced
from offramp.plan.solution import Plan, attempt, read, solve

F8 = npt.NDArray[np.floating[Any]]
_BY_SCENARIO: Final = ("productivity", "demand", "price", "fill", "can_arrive", "can_use", "serviceable", "most_rent")
FEW: Final = 12
"""Futures of the smaller programme whose first decisions are tried as well."""
_PARTS: Final = (
    "scenario_cost",
    "order",
    "arrive",
    "owned",
    "run",
    "rent",
    "place",
    "short",
    "spend",
    "power_w",
    "ported",
)


def solve_in_time(problem: PlanProblem, time_limit_s: float | None) -> Plan:
    """The cheapest plan, or the best one found when the solver's time is up, with a proven bound.

    A strict problem has no plan to fall back on: then the solver's error stands.

    Raises:
        InputError, InfeasibleError, BackendError: as :func:`offramp.plan.solution.solve`.
    """
    if time_limit_s is None or problem.strict:
        return solve(problem, time_limit_s=time_limit_s)
    program, found = attempt(problem, time_limit_s=time_limit_s)
    if found.has_point and np.isfinite(found.bound):
        return read(program, found)
    return solve_apart(problem, spent_s=found.seconds)


def solve_apart(problem: PlanProblem, *, spent_s: float = 0.0) -> Plan:
    """A plan and a bound from programmes of one future each.

    Knowing the future can only make a plan cheaper, so the weighted mean of the futures' own optima is a lower bound
    (of the mean, hence of any mixture of mean and tail). The weighted mean of their first decisions is allowed in every
    future, because first decisions have linear limits of their own and all others can be broken at a price; so are
    the first decisions of a programme of few futures. The better of the two is the plan.

    Args:
        problem: not strict.
        spent_s: solver time before this, added to the plan's.
    """
    relaxed = replaced(problem, integer=False, cvar_weight=0.0)
    singles = [subset(relaxed, [row]) for row in range(len(problem.scenarios))]
    known = [solve(single) for single in singles]
    few = solve(replaced(thinned(problem, FEW), integer=False))
    tried = [_carried_out(singles, first) for first in (_mean_decisions(problem, known), _whole_lots(problem, few))]
    first, plans = min(tried, key=lambda item: _objective(problem, _costs(item[1])))
    cost = _costs(plans)
    parts: dict[str, Any] = {name: np.concatenate([getattr(plan, name) for plan in plans]) for name in _PARTS}
    broken = sorted({name for plan in plans for name in plan.broken})
    blank = np.zeros((1, len(problem.quarters)))
    return Plan(
        problem=problem, status="time-limit", cost=float(problem.weight @ cost), objective=_objective(problem, cost),
        bound=float(problem.weight @ [plan.cost for plan in known]), **parts,
        deliver=first.deliver, cancel=first.cancel, duals={},
        broken={name: np.concatenate([plan.broken.get(name, blank) for plan in plans]) for name in broken},
        seconds=spent_s + few.seconds + sum(plan.seconds for plan in [*known, *tried[0][1], *tried[1][1]]),
    )  # fmt: skip


def _carried_out(singles: Sequence[PlanProblem], first: Plan) -> tuple[Plan, list[Plan]]:
    """First decisions, and the best that every future makes of them."""
    return first, [solve(single, commitments=first) for single in singles]


def _costs(plans: Sequence[Plan]) -> F8:
    """Cost of each future. [S]"""
    return np.concatenate([plan.scenario_cost for plan in plans])


def _mean_decisions(problem: PlanProblem, plans: Sequence[Plan]) -> Plan:
    """The first of the plans, with the weighted mean of all their committed decisions."""
    order = plans[0].order.copy()
    now = min(problem.commit, len(problem.quarters))
    order[0, :now] = sum(weight * plan.order[0, :now] for weight, plan in zip(problem.weight, plans, strict=True))
    deliver, cancel = (
        sum(w * getattr(plan, name) for w, plan in zip(problem.weight, plans, strict=True))
        for name in ("deliver", "cancel")
    )
    return _whole_lots(problem, replace(plans[0], order=order, deliver=deliver, cancel=cancel))


def _whole_lots(problem: PlanProblem, plan: Plan) -> Plan:
    """The plan with its committed orders in whole lots, where the problem asks for them."""
    if not problem.integer:
        return plan
    order, now = plan.order.copy(), min(problem.commit, len(problem.quarters))
    order[0, :now] = np.round(order[0, :now] / problem.lot[None, :, None]) * problem.lot[None, :, None]
    order[0, :now] = np.minimum(order[0, :now], problem.most_order[:now, :, None])
    return replace(plan, order=order)


def _objective(problem: PlanProblem, cost: F8) -> float:
    """Mean, or the mixture of the mean and of the mean of the worst tail."""
    mean = float(problem.weight @ cost)
    if problem.cvar_weight <= 0:
        return mean
    order = np.argsort(-cost)
    left = np.clip(problem.cvar_tail - (np.cumsum(problem.weight[order]) - problem.weight[order]), 0.0, None)
    tail = float(np.minimum(problem.weight[order], left) @ cost[order]) / problem.cvar_tail
    return (1.0 - problem.cvar_weight) * mean + problem.cvar_weight * tail


def subset(problem: PlanProblem, keep: Sequence[int] | npt.NDArray[np.int64]) -> PlanProblem:
    """The problem with some of its futures, their weights in proportion."""
    at = np.asarray(keep, dtype=np.int64)
    weight = problem.weight[at]
    caps = tuple(
        cap if cap.scenarios is None else replace(cap, scenarios=cap.scenarios[at]) for cap in problem.scoped_caps
    )
    return replaced(
        problem, scenarios=[problem.scenarios[int(i)] for i in at], weight=weight / weight.sum(), scoped_caps=caps,
        orders=tuple(replace(order, arrives=order.arrives[at]) for order in problem.orders),
        **{name: getattr(problem, name)[at] for name in _BY_SCENARIO},
    )  # fmt: skip


def thinned(problem: PlanProblem, most: int) -> PlanProblem:
    """Every n-th future, at most ``most``; weights kept in proportion."""
    s = len(problem.scenarios)
    return problem if s <= most else subset(problem, np.unique(np.linspace(0, s - 1, most).round().astype(np.int64)))
