"""Rolling re-solve: carry out the first quarter of a plan, look at what happened, solve again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from offramp.core.errors import InputError
from offramp.plan.analysis import short_share, short_shares
from offramp.plan.apart import subset
from offramp.plan.problem import OpenOrder, PlanProblem, ScopedCap, ShareCap, replaced
from offramp.plan.solution import Plan, solve

F8 = npt.NDArray[np.floating[Any]]
_BY_QUARTER = ("survival", "most_order", "rent", "running_cost", "shortage_price", "site_power_w", "site_servers",
               "engineer_months")  # fmt: skip
_BY_SCENARIO_QUARTER = ("demand", "price", "fill", "can_arrive", "can_use", "serviceable", "most_rent")


def advance(plan: Plan, scenario: int) -> PlanProblem:
    """The problem one quarter later, if the first quarter went as in one scenario.

    Orders placed or kept so far become open orders that can be neither cancelled nor deferred without losing their
    price; how much of them arrives stays as uncertain as it was. Workloads ported at least as far as a whole stay so.

    Raises:
        InputError: the plan has one quarter only.
    """
    problem = plan.problem
    q = len(problem.quarters)
    if q < 2:
        raise InputError("the plan has no later quarter", where="plan:quarters")
    changes: dict[str, Any] = {name: getattr(problem, name)[1:] for name in _BY_QUARTER}
    changes |= {name: getattr(problem, name)[:, 1:] for name in _BY_SCENARIO_QUARTER}
    survival = np.where(problem.survival[0] > 0, problem.survival[1:] / np.maximum(problem.survival[0], 1e-12), 0.0)
    had = plan.owned[scenario, 0].sum(axis=1)
    old = (problem.fleet.sum(axis=1) * problem.survival[0]) / np.maximum(had, 1e-12)
    changes["survival"] = np.where(had > 0, old * survival + (1.0 - old), 1.0)
    for name in ("budget", "site_buy", "site_run"):
        if getattr(problem, name).size:
            changes[name] = getattr(problem, name)[1:]
    spent = np.where(
        problem.ported >= 1.0, 0.0, plan.ported[scenario, 0] * np.nan_to_num(problem.port_months, posinf=0.0)
    )
    months = changes["engineer_months"].copy()
    months[0] += max(float(problem.engineer_months[0]) - float(spent.sum()), 0.0)
    return replaced(
        problem, quarters=list(problem.quarters[1:]), fleet=plan.owned[scenario, 0], engineer_months=months,
        ported=np.maximum(problem.ported, np.where(plan.ported[scenario, 0] >= 0.999, 1.0, 0.0)),
        orders=_pending(plan, scenario),
        frozen=tuple((t - 1, *rest) for t, *rest in problem.frozen if t > 0),
        share_caps=tuple(_sooner(cap) for cap in problem.share_caps),
        scoped_caps=tuple(_sooner_scoped(cap) for cap in problem.scoped_caps), **{
            name: value for name, value in changes.items() if name != "engineer_months"
        },
    )  # fmt: skip


def _sooner(cap: ShareCap) -> ShareCap:
    return replace(cap, start=max(cap.start - 1, 0))


def _sooner_scoped(cap: ScopedCap) -> ScopedCap:
    return replace(cap, start=max(cap.start - 1, 0), share=cap.share[1:])


def _pending(plan: Plan, scenario: int) -> tuple[OpenOrder, ...]:
    """What is still to come: open orders as decided, and the orders of the first quarter."""
    problem = plan.problem
    q = len(problem.quarters)
    found: list[OpenOrder] = []
    for number, order in enumerate(problem.orders):
        for due in range(1, q):
            count = float(plan.deliver[number, due])
            if count > 1e-9:
                found.append(_fixed(problem, replace(order, label=f"{order.label} #{due}", count=count, due=due)))
    for chip in range(len(problem.chips)):
        due = int(problem.lead[chip])
        for site in range(len(problem.sites)):
            count = float(plan.order[scenario, 0, chip, site])
            if count > 1e-9 and 1 <= due < q:
                share = np.repeat(problem.fill[:, [0], chip], q, axis=1)
                price = float(plan.mean(problem.price)[due, chip])
                label = f"{problem.chips[chip]} at {problem.sites[site]} ordered {problem.quarters[0]}"
                found.append(_fixed(problem, OpenOrder(label=label, chip=chip, site=site, count=count, due=due, price=price,
                                                       cancel_fee=1.0, defer_fee=1.0, arrives=share)))  # fmt: skip
    return tuple(found)


def _fixed(problem: PlanProblem, order: OpenOrder) -> OpenOrder:
    """An order that can no longer be cancelled or deferred, seen one quarter later."""
    return replace(
        order, label=f"{order.label} ({problem.quarters[0]})", due=order.due - 1, cancel_fee=1.0, defer_fee=1.0,
        arrives=order.arrives[:, 1:],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """A plan carried out quarter by quarter in one scenario, solved again each time.

    Attributes:
        orders: chips ordered each quarter. [Q, C, X]
        short: work not done. [Q, W]
        first_orders: of the plan made at the start, for the same scenario. [Q, C, X]
        cost: of those orders in that scenario, placed as well as can be, discounted to the start.
        planned_cost: of the plan made at the start, whose later orders know the scenario.
        short_share, planned_short: share of the work not done, workloads weighed by their shortage price.
    """

    orders: F8
    short: F8
    first_orders: F8
    cost: float
    planned_cost: float
    short_share: float
    planned_short: float


def roll(problem: PlanProblem, scenario: int, *, start: Plan | None = None) -> Rolled:
    """Solves, carries out one quarter as in the scenario, and repeats to the end: no decision knows the future.

    Futures whose bans differ from what has been seen are left out of the next solution.

    Args:
        problem: the whole question.
        scenario: the future that comes.
        start: the plan of the whole question, where it was solved already.
    """
    first = plan = start or solve(problem)
    here = scenario
    orders, short = [plan.order[here, 0]], [plan.short[here, 0]]
    for _ in range(len(problem.quarters) - 1):
        alike = _alike(plan.problem, here)
        plan = solve(subset(advance(plan, here), alike))
        here = alike.index(here)
        orders.append(plan.order[here, 0])
        short.append(plan.short[here, 0])
    done = _carried_out(first, scenario, np.stack(orders))
    return Rolled(
        orders=np.stack(orders), short=np.stack(short), first_orders=first.order[scenario], cost=done.cost,
        planned_cost=float(first.scenario_cost[scenario]), short_share=short_share(done),
        planned_short=float(short_shares(first)[scenario]),
    )  # fmt: skip


def _alike(problem: PlanProblem, scenario: int) -> list[int]:
    """Futures that cannot be told from one by what may be bought, used and serviced in the first quarter."""
    same = np.ones(len(problem.scenarios), dtype=np.bool_)
    for seen in (problem.can_arrive[:, 0], problem.can_use[:, 0], problem.serviceable[:, 0]):
        same &= (seen == seen[scenario]).reshape(same.size, -1).all(axis=1)
    for cap in problem.scoped_caps:
        if cap.start == 0 and cap.scenarios is not None:
            same &= cap.scenarios == cap.scenarios[scenario]
    return [int(row) for row in np.flatnonzero(same)]


def _carried_out(first: Plan, scenario: int, orders: F8) -> Plan:
    """The given orders, and the first plan's decisions on open orders, in one scenario."""
    alone = replaced(
        subset(first.problem, [scenario]), commit=len(first.problem.quarters), integer=False, cvar_weight=0.0
    )
    return solve(alone, commitments=replace(first, order=orders[None]))


def spread(plan: Plan, most: int) -> list[int]:
    """Futures from cheap to dear, evenly by weight."""
    order = np.argsort(plan.scenario_cost)
    at = np.searchsorted(np.cumsum(plan.problem.weight[order]), (np.arange(most) + 0.5) / most - 1e-12)
    return [int(order[i]) for i in dict.fromkeys(at.clip(0, order.size - 1).tolist())]
