"""Plan: the solved programme in the problem's own units, and the checks that it must pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offramp.core.errors import BackendError, InfeasibleError
from offramp.plan import builder
from offramp.plan.builder import Solution
from offramp.plan.conflict import explain
from offramp.plan.lp import Program, arrivals, build, money_unit, orderable
from offramp.plan.problem import PlanProblem, check

F8 = npt.NDArray[np.floating[Any]]
I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, scenario by scenario. Money is discounted to the first quarter.

    Attributes:
        problem: what was asked.
        status: "optimal" or "time-limit".
        cost: weighted mean over scenarios, value of chips left at the end taken off.
        objective, bound: of the programme (mean or mean and tail), and the best proven bound, in money.
        scenario_cost: [S]
        order: chips ordered. [S, Q, C, X]; equal over scenarios in committed quarters
        arrive: chips that arrive, open orders included. [S, Q, C, X]
        owned: chips owned. [S, Q, C, X]
        run: chips that run. [S, Q, C, X]
        rent: chips rented. [S, Q, C]
        place: chips on each workload. [S, Q, C, W]
        short: work not done. [S, Q, W]
        spend: money for chips, as paid on arrival, not discounted. [S, Q]
        power_w: facility power. [S, Q, X]
        ported: largest share of each workload that has run on each family so far. [S, Q, W, F]
        deliver: chips of each open order taken in each quarter. [O, Q]
        cancel: chips of each open order cancelled. [O]
        broken: how far soft limits are broken, by name: money or chips. [S, Q]
        duals: change of the objective per unit of the right-hand side, in the problem's units, by row block.
        seconds: solver time.
        basis: of the solver, for solving the same programme again with other numbers.
    """

    problem: PlanProblem
    status: str
    cost: float
    objective: float
    bound: float
    scenario_cost: F8
    order: F8
    arrive: F8
    owned: F8
    run: F8
    rent: F8
    place: F8
    short: F8
    spend: F8
    power_w: F8
    ported: F8
    deliver: F8
    cancel: F8
    broken: dict[str, F8]
    duals: dict[str, F8]
    seconds: float
    basis: Any = None

    @property
    def gap(self) -> float:
        """Relative distance between the objective and its proven bound."""
        return abs(self.objective - self.bound) / max(abs(self.objective), 1e-9)

    def mean(self, values: F8) -> F8:
        """Weighted mean over scenarios (the first axis)."""
        return np.tensordot(self.problem.weight, values, axes=(0, 0))


def solve(
    problem: PlanProblem, *, time_limit_s: float | None = None, solver: str = "choose", commitments: Plan | None = None
) -> Plan:
    """The cheapest plan.

    Args:
        problem: arrays that fit together.
        commitments: a plan whose committed orders and open-order decisions are taken as given.
        time_limit_s: of the solver; a plan found by then is returned with its best bound.
        solver: "choose", "simplex", "ipm" (of HiGHS).

    Raises:
        InputError: the arrays do not fit.
        InfeasibleError: ``strict`` and the limits contradict each other; the message names the rows in conflict.
        BackendError: no plan within the time limit.
    """
    program, found = attempt(problem, time_limit_s=time_limit_s, solver=solver, commitments=commitments)
    if not found.has_point:
        raise BackendError(
            f"no plan within {time_limit_s:g} s" if found.status == "time-limit" else f"the solver says {found.status}",
            mend="Raise [plan] time_limit, or lower [plan] scenarios or quarters.",
        )
    return read(program, found)


def attempt(
    problem: PlanProblem, *, time_limit_s: float | None = None, solver: str = "choose", commitments: Plan | None = None
) -> tuple[Program, Solution]:
    """The programme and what the solver found, which may hold no plan when its time was up.

    Args and raises as :func:`solve`, other than for the time.
    """
    program = build(check(problem))
    if commitments is not None:
        _fix(program, commitments)
    found, highs = builder.solve(program.arrays, time_limit_s=time_limit_s, solver=solver)
    if found.status == "infeasible":
        raise InfeasibleError(
            "the limits contradict each other: " + "; ".join(explain(program, highs)),
            mend="Leave out --strict to see what breaking each would cost.",
        )
    return program, found


def _fix(program: Program, plan: Plan) -> None:
    """Holds the committed decisions at those of another plan of the same chips, sites and orders."""
    columns, values = committed(program, plan)
    program.model.bound(columns, lower=values, upper=values)


def committed(program: Program, plan: Plan) -> tuple[I8, F8]:
    """Columns of the committed decisions, and their values in a plan of the same chips, sites and orders."""
    k = program.scale.chips
    now = program.cols["order_now"]
    columns = [now.ravel()]
    # what a ban voids is not ordered
    values = [(np.minimum(plan.order[0, : now.shape[0]], orderable(program)) / k).ravel()]
    if "delivery" in program.cols:
        for name, taken in (("delivery", plan.deliver), ("cancel", plan.cancel)):
            columns.append(program.cols[name].ravel())
            values.append(np.maximum(taken / k, 0.0).ravel())
    return np.concatenate(columns), np.concatenate(values)


def read(program: Program, found: Solution) -> Plan:
    """The plan in a solved programme."""
    problem, scale, x = program.problem, program.scale, found.columns
    s, q, c, _, sites, _ = problem.sizes
    k, money = scale.chips, money_unit(scale)
    cols = program.cols
    order = np.zeros((s, q, c, sites))
    now = cols["order_now"].shape[0]
    order[:, :now] = x[cols["order_now"]][None] * k
    order[:, now:] = x[cols["order_later"]] * k
    arrive, spend = _arrived(program, x)
    scenario_cost = np.zeros(s)
    for scenario, columns, each in program.cost_terms:
        np.add.at(scenario_cost, scenario, each * x[columns])
    base = problem.fleet[None, None] * problem.survival[None, :, :, None]
    run = x[cols["run"]] * k
    empty = np.zeros((0, q))
    return Plan(
        problem=problem,
        status=found.status,
        cost=float(problem.weight @ scenario_cost) * money,
        objective=found.objective * money,
        bound=found.bound * money,
        scenario_cost=scenario_cost * money,
        order=order,
        arrive=arrive,
        owned=base + x[cols["stock"]] * k,
        run=run,
        rent=x[cols["rent"]] * k,
        place=x[cols["place"]] * k,
        short=x[cols["short"]] * scale.work * k,
        spend=spend,
        power_w=np.einsum("sqcx,cx->sqx", run, problem.power_w),
        ported=_ported(problem, x[cols["place"]] * k),
        deliver=x[cols["delivery"]] * k if "delivery" in cols else empty,
        cancel=x[cols["cancel"]] * k if "cancel" in cols else np.zeros(0),
        broken=_broken(program, x),
        duals=_duals(program, found),
        seconds=found.seconds,
        basis=found.basis,
    )


def _arrived(program: Program, x: F8) -> tuple[F8, F8]:
    """Chips that arrive [S, Q, C, X] and what is paid for them [S, Q]."""
    problem, scale = program.problem, program.scale
    s, q, c, _, sites, _ = problem.sizes
    arrive, spend = np.zeros((s, q, c, sites)), np.zeros((s, q))
    for item in arrivals(program):
        chips = np.broadcast_to(x[item.columns] * item.share, (s, item.site.size)) * scale.chips
        arrive[item.scenario, item.quarter, item.chip, item.site] += chips
        spend[:, item.quarter] += (chips * item.price).sum(axis=1) * scale.money
    return arrive, spend


def _ported(problem: PlanProblem, place: F8) -> F8:
    """Largest share of each workload that has run on each family so far. [S, Q, W, F]"""
    s, q, _, w, _, f = problem.sizes
    work = place * problem.productivity[:, None] / np.maximum(problem.demand, 1e-12)[:, :, None, :]
    share = np.zeros((s, q, w, f))
    for chip, family in enumerate(problem.family):
        share[..., family] += work[:, :, chip]
    return np.maximum.accumulate(np.clip(share, 0.0, 1.0), axis=1)


def _broken(program: Program, x: F8) -> dict[str, F8]:
    """Soft limits that are broken anywhere."""
    problem, scale = program.problem, program.scale
    s, q, *_ = problem.sizes
    found: dict[str, F8] = {}
    for name, columns in program.cols.items():
        if name == "over_budget":
            found["budget"] = x[columns] * money_unit(scale)
        elif name.startswith("over_cap"):
            cap = problem.share_caps[int(name.split()[1])]
            over = np.zeros((s, q))
            over[:, cap.start :] = x[columns] * scale.chips
            found[f"share cap: {cap.label}"] = over
    return {name: values for name, values in found.items() if values.max(initial=0.0) > 1e-6 * scale.chips}


def _duals(program: Program, found: Solution) -> dict[str, F8]:
    """Row duals in money per natural unit: per chip, per watt, per unit of work, per engineer-month."""
    problem, scale = program.problem, program.scale
    if found.row_duals.size == 0 or program.arrays.integer.size:
        return {}
    money = money_unit(scale)
    unit_of: dict[str, F8 | float] = {
        "work": scale.work * scale.chips, "owned": scale.chips, "capacity": scale.chips,
        "power": (float(problem.power_w.max()) or 1.0) * scale.chips, "budget": money,
        "space": (float((1.0 / problem.chips_per_server).max()) or 1.0) * scale.chips,
    }  # fmt: skip
    duals = {
        name: found.row_duals[rows] * money / unit_of[name] for name, rows in program.rows.items() if name in unit_of
    }
    caps = {name: rows for name, rows in program.rows.items() if name.startswith("cap ")}
    duals |= {name: found.row_duals[rows] * money / scale.chips for name, rows in caps.items()}
    if "spent" in program.cols:
        duals["engineers"] = found.reduced_costs[program.cols["spent"]] * money / _months_unit(problem)
    return duals


def _months_unit(problem: PlanProblem) -> float:
    """Engineer-months per unit of the porting rows."""
    months = np.where((problem.ported < 1.0) & np.isfinite(problem.port_months), problem.port_months, 0.0)
    return float(months.max()) or 1.0


def residuals(plan: Plan) -> dict[str, float]:
    """Largest violation of each law that any plan must obey, relative to the size of what it is about.

    Conservation of stock, of demand and of capacity, recomputed from the plan's arrays alone.
    """
    problem = plan.problem
    size = max(float(plan.owned.max(initial=1.0)), 1.0)
    base = problem.fleet[None, None] * problem.survival[None, :, :, None]
    bought = plan.owned - base
    q = len(problem.quarters)
    flow = np.zeros_like(bought)
    for t in range(q):
        flow[:, t] = bought[:, t] - (bought[:, t - 1] if t else 0.0) - plan.arrive[:, t]
        for chip, life in enumerate(problem.life_quarters):
            born = t - round(float(life))
            if born >= 0:
                flow[:, t, chip] += plan.arrive[:, born, chip]
    done = np.einsum("sqcw,scw->sqw", plan.place, problem.productivity) + plan.short
    capacity = plan.place.sum(axis=3) - plan.run.sum(axis=3) - plan.rent
    owned = plan.run - problem.serviceable[..., None] * plan.owned
    unit = np.maximum(problem.demand.max(axis=(0, 1)), 1e-12)
    used = np.where(problem.can_use, 0.0, plan.place)
    power = (plan.power_w - problem.site_power_w) / np.where(
        np.isfinite(problem.site_power_w), np.maximum(problem.site_power_w, 1.0), 1.0
    )
    return {
        "stock": float(np.abs(flow).max() / size),
        "demand": float(((problem.demand - done) / unit).max()),
        "capacity": float(capacity.max() / size),
        "owned": float(owned.max() / size),
        "forbidden use": float(used.max(initial=0.0) / size),
        "power": float(power.max(initial=0.0)),
        "negative": float(max(-plan.place.min(), -plan.short.min(), -plan.order.min(), 0.0) / size),
    }
