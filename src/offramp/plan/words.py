"""A plan in sentences: what binds, what one more chip, megawatt or engineer is worth, what is short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.core.units import MEGA
from offramp.plan.solution import Plan

F8 = npt.NDArray[np.floating[Any]]
MOST: Final = 12


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A limit that costs money.

    Attributes:
        kind: "chip", "power", "space", "engineers", "budget" or "share cap".
        name: chip, site, or "" .
        quarter: from when one more would help.
        saves: money that one more unit saves, mean over scenarios.
        unit: of one more.
        text: a sentence.
    """

    kind: str
    name: str
    quarter: str
    saves: float
    unit: str
    text: str


def money(value: float, currency: str) -> str:
    """An amount as people say it."""
    size = abs(value)
    for factor, word in ((1e9, "bn "), (1e6, "m "), (1e3, "k ")):
        if size >= factor:
            return f"{value / factor:,.3g} {word}{currency}"
    return f"{value:,.0f} {currency}"


def count(value: float) -> str:
    """A number of chips: whole from ten on."""
    return f"{value:,.0f}" if value >= 10 or value < 0.05 else f"{value:.1f}"


def bindings(plan: Plan, currency: str) -> list[Binding]:
    """The limits whose easing saves most, one for each kind and name at its best quarter."""
    found = [*_chips(plan, currency), *_sites(plan, currency), *_engineers(plan, currency), *_budget(plan, currency),
             *_caps(plan, currency)]  # fmt: skip
    found = [item for item in found if item.saves > 1e-6 * max(abs(plan.cost), 1.0) * 1e-3]
    best: dict[tuple[str, str], Binding] = {}
    for item in found:
        key = (item.kind, item.name)
        if key not in best or item.saves > best[key].saves:
            best[key] = item
    return sorted(best.values(), key=lambda item: -item.saves)[:MOST]


def _chips(plan: Plan, currency: str) -> list[Binding]:
    """One more chip that is there from a quarter on: the sum of what it saves in every later quarter."""
    if "owned" not in plan.duals:
        return []
    problem = plan.problem
    each = (plan.duals["owned"] * problem.serviceable[..., None]).sum(axis=0)
    onward = -np.flip(np.cumsum(np.flip(each, axis=0), axis=0), axis=0)
    usable = np.any(problem.can_use, axis=(0, 3))
    works = np.any(problem.productivity > 0, axis=(0, 2))
    rows: list[Binding] = []
    for t, quarter in enumerate(problem.quarters):
        for k, chip in enumerate(problem.chips):
            saves = float(onward[t, k].max())
            if usable[t, k] and works[k]:
                text = f"One more {chip} from {quarter} on saves {money(saves, currency)} over the plan."
                rows.append(Binding(kind="chip", name=chip, quarter=quarter, saves=saves, unit="chip", text=text))
    return rows


def _sites(plan: Plan, currency: str) -> list[Binding]:
    rows: list[Binding] = []
    for kind, unit, factor in (("power", "MW", MEGA), ("space", "server", 1.0)):
        if kind not in plan.duals:
            continue
        saved = -plan.duals[kind].sum(axis=0) * factor
        for t, quarter in enumerate(plan.problem.quarters):
            for x, site in enumerate(plan.problem.sites):
                value = float(saved[t, x])
                one = f"One more {unit} at" if kind == "power" else "Room for one more server at"
                what = f"{one} {site} in {quarter}"
                rows.append(Binding(kind=kind, name=site, quarter=quarter, saves=value, unit=unit,
                                    text=f"{what} saves {money(value, currency)}."))  # fmt: skip
    return rows


def _engineers(plan: Plan, currency: str) -> list[Binding]:
    if "engineers" not in plan.duals:
        return []
    each = plan.duals["engineers"].sum(axis=0)
    onward = -np.flip(np.cumsum(np.flip(each)))
    return [
        Binding(kind="engineers", name="", quarter=quarter, saves=float(onward[t]), unit="engineer-month",
                text=f"One more engineer-month for porting in {quarter} saves {money(float(onward[t]), currency)}.")
        for t, quarter in enumerate(plan.problem.quarters)
    ]  # fmt: skip


def _budget(plan: Plan, currency: str) -> list[Binding]:
    if "budget" not in plan.duals:
        return []
    saved = -plan.duals["budget"].sum(axis=0)
    return [
        Binding(kind="budget", name="", quarter=quarter, saves=float(saved[t]), unit=currency,
                text=f"One more {currency} of budget in {quarter} saves {saved[t]:.2f} {currency}.")
        for t, quarter in enumerate(plan.problem.quarters)
    ]  # fmt: skip


def _caps(plan: Plan, currency: str) -> list[Binding]:
    """Quotas and vendor caps: room for one more of the chips that they limit."""
    rows: list[Binding] = []
    for number, cap in enumerate(plan.problem.share_caps):
        saved = -plan.duals[f"cap {number}"].sum(axis=0) if f"cap {number}" in plan.duals else np.zeros(0)
        for t, value in enumerate(saved):
            quarter = plan.problem.quarters[cap.start + t]
            text = f"Room for one more chip beyond the share cap {cap.label} in {quarter} saves "
            rows.append(Binding(kind="share cap", name=cap.label, quarter=quarter, saves=float(value), unit="chip",
                                text=f"{text}{money(float(value), currency)}."))  # fmt: skip
    return rows


def orders_now(plan: Plan) -> list[tuple[str, str, str, float]]:
    """What to order in the committed quarters: (quarter, chip, site, chips)."""
    problem = plan.problem
    rows: list[tuple[str, str, str, float]] = []
    for t in range(min(problem.commit, len(problem.quarters))):
        for k, chip in enumerate(problem.chips):
            for x, site in enumerate(problem.sites):
                amount = float(plan.order[0, t, k, x])
                if amount > 0.5:
                    rows.append((problem.quarters[t], chip, site, amount))
    return rows


def retirements(plan: Plan) -> list[tuple[str, str, float]]:
    """Chips that no future needs from a quarter on: (quarter, chip, chips), each counted once, at its first quarter."""
    problem = plan.problem
    needed = np.maximum(plan.place.sum(axis=3) - plan.rent, 0.0)  # a chip that costs nothing to run may idle in ``run``
    idle = (problem.serviceable * plan.owned.sum(axis=3) - needed).min(axis=0)
    lasting = np.flip(np.minimum.accumulate(np.flip(idle, axis=0), axis=0), axis=0)
    rows: list[tuple[str, str, float]] = []
    for k, chip in enumerate(problem.chips):
        before = 0.0
        for t, quarter in enumerate(problem.quarters):
            more = float(lasting[t, k]) - before
            if more > 0.5:
                rows.append((quarter, chip, more))
                before += more
    return rows


def headline(plan: Plan, currency: str) -> str:
    """The plan in one sentence."""
    first = plan.problem.quarters[0]
    rows = [row for row in orders_now(plan) if row[0] == first]
    by_chip: dict[str, float] = {}
    for _, chip, _, amount in rows:
        by_chip[chip] = by_chip.get(chip, 0.0) + amount
    what = " and ".join(f"{count(amount)} {chip}" for chip, amount in by_chip.items()) or "nothing"
    short, ever = worst_shortfall(plan), float(shortfall_quantiles(plan, [1.0])[0].max(initial=0.0))
    left = f"in the worst tenth of the futures {short:.0%} of a workload or more stays undone in a quarter"
    if short <= 0.005:
        left = "all work is done in every future" if ever <= 0.005 else "all work is done with 90 % probability"
    return f"Order {what} in {first}; expected cost {money(plan.cost, currency)}; {left}"


def worst_shortfall(plan: Plan) -> float:
    """Largest share of a workload's demand not done in a quarter, at the 90 % quantile of the scenarios."""
    return float(shortfall_quantiles(plan, [0.9])[0].max(initial=0.0))


def shortfall_quantiles(plan: Plan, at: Sequence[float]) -> list[F8]:
    """Quantiles over scenarios of the share of demand not done. [Q, W] each"""
    wanted = plan.problem.demand
    share = np.where(wanted > 0, plan.short / np.maximum(wanted, 1e-300), 0.0)
    return [weighted_quantile(share, plan.problem.weight, level) for level in at]


def weighted_quantile(values: F8, weight: F8, at: float) -> F8:
    """Quantile over the first axis with weights: the smallest value that at least that share does not exceed."""
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, axis=0)
    mass = np.cumsum(weight[order], axis=0)
    index = (mass < at - 1e-9).sum(axis=0).clip(0, values.shape[0] - 1)
    return np.take_along_axis(ranked, index[None], axis=0)[0]
