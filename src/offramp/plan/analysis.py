"""What a plan means: value of waiting, regret, alternatives, concentration, the ban frontier. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from offramp.plan.again import Again
from offramp.plan.problem import PlanProblem, ScopedCap, replaced
from offramp.plan.solution import Plan, committed, solve

F8 = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]
BanKind = Literal["buy", "use", "support"]
MET: Final = 0.99
"""A ban counts as met when of every workload at least this share is done after it that would be done without it."""
CARE: Final = 0.1
"""The frontier buys whatever at least this share of the futures needs: what can be met with 90 % probability."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What it costs to order nothing in the first quarter; negative means that waiting is better."""

    cost_now: float
    cost_waiting: float

    @property
    def ordering_now_saves(self) -> float:
        """Money."""
        return self.cost_waiting - self.cost_now


def value_of_waiting(plan: Plan, *, again: Again | None = None) -> Waiting:
    """The plan against the best plan that orders nothing new in its first quarter."""
    again = again or Again(plan)
    columns = again.program.cols["order_now"][0]
    nil = np.zeros(columns.size)
    return Waiting(cost_now=plan.cost, cost_waiting=again.bounded(columns, nil, nil).cost)


def regret(plan: Plan, blind: PlanProblem, *, again: Again | None = None) -> float:
    """Extra cost, in the plan's scenarios, of first orders chosen for ``blind`` (the question without its bans)."""
    again = again or Again(plan)
    columns, values = committed(again.program, solve(blind))
    return again.bounded(columns, values, values).cost - plan.cost


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A plan that leaves one vendor out, or takes as little of it as a small extra cost allows.

    Attributes:
        family: the vendor.
        bought: chips of it in the cheapest plan (mean over scenarios).
        extra_without: share by which the cost rises when none is bought.
        short_without: mean share of work not done then.
        least_bought: fewest chips of it within ``gap`` of the cost.
        gap: share.
    """

    family: str
    bought: float
    extra_without: float
    short_without: float
    least_bought: float
    gap: float


def alternatives(plan: Plan, *, gap: float, again: Again | None = None) -> list[Alternative]:
    """One alternative for each vendor that the plan buys from."""
    problem, again = plan.problem, again or Again(plan)
    bought = plan.mean(plan.order).sum(axis=(0, 2))
    found: list[Alternative] = []
    for number, family in enumerate(problem.families):
        inside = problem.family == number
        amount = float(bought[inside].sum())
        if amount < 0.5:
            continue
        columns, weight = _purchases(again, inside)
        nil = np.zeros(columns.size)
        without = again.bounded(columns, nil, nil)
        fixed = any(inside[item[1]] for item in problem.frozen)
        found.append(
            Alternative(
                family=family,
                bought=amount,
                extra_without=(without.cost - plan.cost) / max(abs(plan.cost), 1e-9),
                short_without=short_share(without),
                least_bought=again.fewest(columns, weight, gap, without=None if fixed else without),
                gap=gap,
            )
        )
    return found


def _purchases(again: Again, inside: Bool) -> tuple[npt.NDArray[np.int64], F8]:
    """Columns of the orders of some chips, and the share of the futures in which each is placed."""
    cols, problem = again.program.cols, again.plan.problem
    now, later = cols["order_now"][:, inside], cols["order_later"][:, :, inside]
    share = np.broadcast_to(problem.weight[:, None, None, None], later.shape)
    return np.concatenate([now.ravel(), later.ravel()]), np.concatenate([np.ones(now.size), share.ravel()])


def short_share(plan: Plan, *, workloads: Bool | None = None, start: int = 0) -> float:
    """Mean over scenarios of the share of work not done from a quarter on."""
    return float(plan.problem.weight @ short_shares(plan, workloads=workloads, start=start))


def short_shares(plan: Plan, *, workloads: Bool | None = None, start: int = 0) -> F8:
    """Share of work not done from a quarter on, workloads weighed by their shortage price. [S]"""
    problem = plan.problem
    mask = np.ones(len(problem.workloads), dtype=np.bool_) if workloads is None else workloads
    price = problem.shortage_price[None, start:] * mask
    wanted = (problem.demand[:, start:] * price).sum(axis=(1, 2))
    missing = (plan.short[:, start:] * price).sum(axis=(1, 2))
    return np.where(wanted > 0, missing / np.maximum(wanted, 1e-300), 0.0)


def done_by_work(plan: Plan, start: int) -> F8:
    """Share of each workload's demand that is done from a quarter on; 1 where none is wanted. [S, W]"""
    wanted = plan.problem.demand[:, start:].sum(axis=1)
    return np.where(wanted > 0, 1.0 - plan.short[:, start:].sum(axis=1) / np.maximum(wanted, 1e-300), 1.0)


def concentration(plan: Plan, jurisdiction: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Shares by vendor and by jurisdiction of today's fleet, of the last quarter's fleet, of spend and of work done.

    Work done on chips of another jurisdiction than the majority's is what a ban puts at risk. ``hhi`` is the sum of
    squared vendor shares (1 = one vendor).
    """
    problem = plan.problem
    price = plan.mean(problem.price)
    spend = (plan.mean(plan.arrive).sum(axis=2) * price).sum(axis=0)
    work = np.einsum("sqcw,scw,qw,s->c", plan.place, problem.productivity, problem.shortage_price, problem.weight)
    parts = {
        "fleet at the start": problem.fleet.sum(axis=1),
        "fleet at the end": plan.mean(plan.owned)[-1].sum(axis=1),
        "spend": spend,
        "work done": work,
    }
    found: dict[str, dict[str, float]] = {}
    for name, by_chip in parts.items():
        whole = float(by_chip.sum())
        shares: dict[str, float] = {}
        for chip, amount in enumerate(by_chip):
            vendor = problem.families[int(problem.family[chip])]
            share = float(amount) / whole if whole > 0 else 0.0
            shares[vendor] = shares.get(vendor, 0.0) + share
            country = f"jurisdiction {jurisdiction.get(vendor, 'unknown')}"
            shares[country] = shares.get(country, 0.0) + share
        shares["hhi"] = sum(share**2 for key, share in shares.items() if not key.startswith("jurisdiction"))
        found[name] = shares
    return found


@dataclass(frozen=True, kw_only=True)
class Ban:
    """A ban of some chips for some workloads from a quarter on.

    Attributes:
        kind: of buying, of using, or of support (drivers, repairs).
        scope: name of the group of workloads.
        workloads: which workloads. [W]
        chips: which chips. [C]
        start: first quarter index.
        support_quarters: how long unsupported chips go on running on average.
    """

    kind: BanKind
    scope: str
    workloads: Bool
    chips: Bool
    start: int
    support_quarters: float = 12.0


def banned(problem: PlanProblem, ban: Ban, *, scenarios: Bool | None = None) -> PlanProblem:
    """The problem under a ban, in all scenarios or in some of them."""
    inside = np.ones(len(problem.scenarios), dtype=np.bool_) if scenarios is None else scenarios
    q = len(problem.quarters)
    after = np.arange(q) >= ban.start
    hit = inside[:, None, None] & after[None, :, None] & ban.chips[None, None, :]
    everything = bool(ban.workloads.all())
    if ban.kind == "use":
        return replaced(problem, can_use=problem.can_use & ~(hit[..., None] & ban.workloads))
    attrition = np.where(
        after, np.maximum(0.0, 1.0 - (np.arange(q) - ban.start + 0.5) / max(ban.support_quarters, 1.0)), 1.0
    )
    if ban.kind == "buy" and everything:
        return replaced(problem, can_arrive=problem.can_arrive & ~hit)
    if ban.kind == "support" and everything:
        factor = np.where(hit, attrition[None, :, None], 1.0)
        return replaced(problem, serviceable=problem.serviceable * factor)
    cap = ScopedCap(
        label=f"{ban.kind} ban for {ban.scope}", chips=ban.chips, workloads=ban.workloads, start=ban.start,
        share=np.ones(q) if ban.kind == "buy" else attrition, freeze=ban.kind == "buy",
        scenarios=scenarios,
    )  # fmt: skip
    return replaced(problem, scoped_caps=(*problem.scoped_caps, cap))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the frontier.

    Attributes:
        probability_met: share of scenarios in which, from the ban on, of every workload of the scope at least 99 % of the
            work is done that would be done without the ban. So a ban that is met is met for every part of its scope.
        met_p10, met_p50: share of that work done: 10 % quantile (reached with 90 % probability) and median.
        kept_p10: share kept, with 90 % probability, of the work that would be done without the ban.
        extra_cost: over the same plan without the ban, mean; shortage not counted.
        baseline_met_p10: met_p10 without the ban.
    """

    kind: BanKind
    scope: str
    quarter: str
    probability_met: float
    met_p10: float
    met_p50: float
    kept_p10: float
    extra_cost: float
    baseline_met_p10: float


def frontier(problem: PlanProblem, bans: Sequence[Ban]) -> list[Cell]:
    """Every ban, prepared for as well as the commitments, supply and engineers allow.

    Work that one future in ten needs is worth any chip here (the shortage price is raised), so that what is not done
    could not be done, or was needed in the rarest futures only.
    """
    insistent = replaced(problem, shortage_price=_insistent_price(problem), cvar_weight=0.0, integer=False)
    free = solve(insistent)
    cells: list[Cell] = []
    for ban in bans:
        plan = solve(banned(insistent, ban))
        met = 1.0 - short_shares(plan, workloads=ban.workloads, start=ban.start)
        before = 1.0 - short_shares(free, workloads=ban.workloads, start=ban.start)
        each, was = (done_by_work(one, ban.start)[:, ban.workloads] for one in (plan, free))
        cells.append(
            Cell(
                kind=ban.kind,
                scope=ban.scope,
                quarter=problem.quarters[ban.start],
                probability_met=round(float(problem.weight @ (each >= MET * was).all(axis=1)), 9),
                met_p10=_quantile(met, problem.weight, 0.1),
                met_p50=_quantile(met, problem.weight, 0.5),
                kept_p10=_quantile(np.minimum(met / np.maximum(before, 1e-12), 1.0), problem.weight, 0.1),
                extra_cost=cost_of_doing(plan) - cost_of_doing(free),
                baseline_met_p10=_quantile(before, problem.weight, 0.1),
            )
        )
    return cells


def _quantile(values: F8, weight: F8, at: float) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weight[order]), at - 1e-9)])


def cost_of_doing(plan: Plan) -> float:
    """Mean discounted cost without the price of work not done."""
    problem = plan.problem
    discount = (1.0 + problem.discount) ** -np.arange(len(problem.quarters))
    short = (plan.mean(plan.short) * problem.shortage_price * discount[:, None]).sum()
    return plan.cost - float(short)


def _insistent_price(problem: PlanProblem) -> F8:
    """A price at which the worst chip is bought even if only one future in ten needs it for one quarter. [Q, W]"""
    able = problem.productivity > 0
    rate = np.where(able, problem.productivity, np.inf).min(axis=(0, 1))
    dear = float(problem.price.max(initial=0.0)) + float(problem.running_cost.max(initial=0.0))
    return np.maximum(problem.shortage_price, 1.2 * dear / CARE / np.where(np.isfinite(rate), rate, 1.0)[None, :])


def first_quarter_met(cells: Sequence[Cell], *, kind: str, scope: str, probability: float = 0.9) -> str:
    """The earliest quarter from which such a ban can be met with that probability, then and later; "" if none."""
    mine = [cell for cell in cells if cell.kind == kind and cell.scope == scope]
    mine.sort(key=lambda cell: cell.quarter)
    found = ""
    for cell in reversed(mine):
        if cell.probability_met < probability:
            break
        found = cell.quarter
    return found
