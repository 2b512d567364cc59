"""PlanProblem: everything that a plan is decided from, as labelled arrays. No files, no clock, no catalogue."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.core.errors import InputError
from offramp.core.quarters import parse_quarter

F8 = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]
QUARTER_S: Final = 365.25 * 86400.0 / 4.0


@dataclass(frozen=True, kw_only=True)
class OpenOrder:
    """An order placed before the plan starts.

    Attributes:
        label: how answers name it.
        chip, site: indices.
        count: chips.
        due: quarter index of delivery.
        price: of one chip.
        cancel_fee, defer_fee: share of the price; defer per quarter of delay.
        arrives: share that arrives in each scenario, by quarter of delivery. [scenarios, quarters]
    """

    label: str
    chip: int
    site: int
    count: float
    due: int
    price: float
    cancel_fee: float
    defer_fee: float
    arrives: F8


@dataclass(frozen=True, kw_only=True)
class ShareCap:
    """Most share of the fleet that some chips may have from a quarter on ("at most half NVIDIA").

    Attributes:
        label: what the cap is called, a rule id or a vendor.
        chips: which chips count. [chips]
        most: share, 0 to 1.
        start: first quarter index in which it binds.
        site: index of the site, -1 for the whole fleet.
        bought: a quota of buying: chips bought count, not those that run. The fleet of the start leaves room where
            it stays below the share, and no debt where it lies above.
    """

    label: str
    chips: Bool
    most: float
    start: int
    site: int = -1
    bought: bool = False


@dataclass(frozen=True, kw_only=True)
class ScopedCap:
    """What a ban of part of the uses leaves: some workloads may use of some chips only a share of those owned.

    Attributes:
        label: what it is called.
        chips: which chips. [C]
        workloads: which workloads. [W]
        start: first quarter index in which it binds.
        share: of the owned chips that those workloads may use. [Q]
        freeze: count what was owned when the quarter before ``start`` ended (a ban of buying), not what is owned now.
        scenarios: in which it holds; None is all. [S]
    """

    label: str
    chips: Bool
    workloads: Bool
    start: int
    share: F8
    freeze: bool = False
    scenarios: Bool | None = None


@dataclass(frozen=True, kw_only=True)
class PlanProblem:
    """Arrays over quarters Q, chips C, workloads W, sites X, scenarios S, vendors F (families that share a port).

    Attributes:
        quarters, chips, workloads, sites, scenarios, families: labels.
        weight: of the scenarios; adds up to 1. [S]
        productivity: work per chip and quarter, in the workload's own unit; 0 cannot run. [S, C, W]
        demand: work wanted, same unit. [S, Q, W]
        shortage_price: money per unit of work not done. [Q, W]
        fleet: chips owned at the start. [C, X]
        survival: share of the starting fleet still within its life. [Q, C]
        life_quarters: straight-line life, for the value left at the end. [C]
        price: of one chip with its share of server, network and duty, on arrival. [S, Q, C]
        lead: quarters from order to arrival. [C]
        lot: chips come in multiples of this (used when integer). [C]
        fill: share of an order placed in a quarter that arrives. [S, Q, C]
        most_order: most chips ordered in a quarter. [Q, C]
        can_arrive: whether a chip may be delivered in a quarter; false after a buying ban. [S, Q, C]
        can_use: whether a chip may run a workload in a quarter. [S, Q, C, W]
        serviceable: share of owned chips that still run, below 1 once support has ended. [S, Q, C]
        rent: money per chip and quarter. [Q, C]
        most_rent: most chips rented. [S, Q, C]
        running_cost: of a chip that runs: power, space, staff. [Q, C, X]
        power_w: facility power of one running chip with its share of server and network. [C, X]
        site_power_w: most facility power. [Q, X]
        chips_per_server: for space. [C]
        site_servers: most servers. [Q, X]
        family: vendor index of each chip. [C]
        ported: share of a workload that already runs on a family. [W, F]
        port_months: engineer-months to port a workload wholly to a family. [W, F]
        engineer_months: engineers' time available per quarter. [Q]
        engineer_month_price: money.
        orders: open orders.
        share_caps: quotas and vendor caps.
        scoped_caps: bans that touch part of the workloads.
        frozen: orders already decided: (quarter, chip, site, count).
        site_buy, site_run: whether a chip may be delivered to, or run at, a site; empty is everywhere. [Q, C, X]
        budget: most money spent on chips in a quarter. [Q]
        discount: per quarter.
        cvar_weight, cvar_tail: weight of the mean of the worst tail; share of scenarios in the tail.
        commit: quarters whose orders are the same in every scenario (decided before knowing which one comes).
        integer: whole lots in the committed orders.
        penalty: price of breaking a limit, as a multiple of the dearest chip, per chip or its worth.
        strict: limits are hard and work must be done; may be infeasible.
        because: in words, what closes the purchase or use of a chip; for messages only.
    """

    quarters: Sequence[str]
    chips: Sequence[str]
    workloads: Sequence[str]
    sites: Sequence[str]
    scenarios: Sequence[str]
    families: Sequence[str]
    weight: F8
    productivity: F8
    demand: F8
    shortage_price: F8
    fleet: F8
    survival: F8
    life_quarters: F8
    price: F8
    lead: npt.NDArray[np.int64]
    lot: F8
    fill: F8
    most_order: F8
    can_arrive: Bool
    can_use: Bool
    serviceable: F8
    rent: F8
    most_rent: F8
    running_cost: F8
    power_w: F8
    site_power_w: F8
    chips_per_server: F8
    site_servers: F8
    family: npt.NDArray[np.int64]
    ported: F8
    port_months: F8
    engineer_months: F8
    engineer_month_price: float = 0.0
    orders: tuple[OpenOrder, ...] = ()
    share_caps: tuple[ShareCap, ...] = ()
    scoped_caps: tuple[ScopedCap, ...] = ()
    frozen: tuple[tuple[int, int, int, float], ...] = ()
    site_buy: Bool = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    site_run: Bool = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    budget: F8 = field(default_factory=lambda: np.empty(0))
    discount: float = 0.0
    cvar_weight: float = 0.0
    cvar_tail: float = 0.1
    commit: int = 2
    integer: bool = False
    penalty: float = 20.0
    strict: bool = False
    because: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """Numbers of scenarios, quarters, chips, workloads, sites, families."""
        return (len(self.scenarios), len(self.quarters), len(self.chips), len(self.workloads), len(self.sites),
                len(self.families))  # fmt: skip


_SHAPES: Final[dict[str, str]] = {
    "weight": "S", "productivity": "SCW", "demand": "SQW", "shortage_price": "QW", "fleet": "CX", "survival": "QC",
    "life_quarters": "C", "price": "SQC", "lead": "C", "lot": "C", "fill": "SQC", "most_order": "QC",
    "can_arrive": "SQC", "can_use": "SQCW", "serviceable": "SQC", "rent": "QC", "most_rent": "SQC",
    "running_cost": "QCX", "power_w": "CX", "site_power_w": "QX", "chips_per_server": "C", "site_servers": "QX",
    "family": "C", "ported": "WF", "port_months": "WF", "engineer_months": "Q", "budget": "Q",
    "site_buy": "QCX", "site_run": "QCX",
}  # fmt: skip
_MAY_BE_EMPTY: Final = {"budget", "site_buy", "site_run"}
_MAY_BE_INFINITE: Final = {
    "most_order", "rent", "most_rent", "site_power_w", "site_servers", "engineer_months", "budget", "port_months",
}  # fmt: skip


def check(problem: PlanProblem) -> PlanProblem:
    """The problem itself, if its arrays fit together and make sense.

    Raises:
        InputError: a wrong shape, a negative or not-a-number value, quarters out of order, no chip, no workload.
    """
    s, q, c, w, x, f = problem.sizes
    size = {"S": s, "Q": q, "C": c, "W": w, "X": x, "F": f}
    for name, axes in (("quarters", q), ("chips", c), ("workloads", w), ("sites", x), ("scenarios", s)):
        if axes == 0:
            raise InputError(f"a plan needs {name}", where=f"$.{name}", mend=_MISSING[name])
    _check_order(problem.quarters)
    for name, axes in _SHAPES.items():
        value = np.asarray(getattr(problem, name))
        wanted = tuple(size[axis] for axis in axes)
        if name in _MAY_BE_EMPTY and value.size == 0:
            continue
        if value.shape != wanted:
            raise InputError(f"{name} has shape {value.shape}, needs {wanted}", where=f"plan:{name}")
        _check_values(name, value)
    if abs(float(problem.weight.sum()) - 1.0) > 1e-6:
        raise InputError("scenario weights do not add up to 1", where="plan:weight")
    for order in problem.orders:
        if order.count < 0 or not 0 <= order.due < q:
            raise InputError(f"open order {order.label} has a negative count or lies outside the plan", where="$.order")
    return problem


_MISSING: Final = {
    "quarters": "Set [plan] quarters to at least 1.",
    "chips": "No candidate chip is left: the rules allow none, or [candidates] lists none.",
    "workloads": "List a [[workload]].",
    "sites": "List a [[site]].",
    "scenarios": "Set [plan] scenarios to at least 1.",
}


def _check_order(quarters: Sequence[str]) -> None:
    numbers = [parse_quarter(name, where="plan:quarters") for name in quarters]
    for before, after in itertools.pairwise(numbers):
        if after != before + 1:
            raise InputError(f"quarters are out of order at {quarters[numbers.index(after)]}", where="plan:quarters")


def _check_values(name: str, value: npt.NDArray[np.generic]) -> None:
    if value.dtype == np.bool_:
        return
    number = value.astype(np.float64)
    if np.isnan(number).any():
        raise InputError(f"{name} holds a value that is not a number", where=f"plan:{name}")
    if (number < 0).any():
        raise InputError(f"{name} is negative", where=f"plan:{name}", mend="Stocks, prices and demand are 0 or more.")
    if np.isinf(number).any() and name not in _MAY_BE_INFINITE:
        raise InputError(f"{name} is infinite", where=f"plan:{name}")


@dataclass(frozen=True)
class Scale:
    """Units in which the programme is solved, so that coefficients stay near one.

    Attributes:
        money: one unit of money in the programme.
        work: one unit of work of each workload, the most that one chip does. [W]
        chips: one unit of chips.
    """

    money: float
    work: F8
    chips: float


def scale_of(problem: PlanProblem) -> Scale:
    """Powers of two near the dearest chip, the best chip of each workload and the size of the fleet."""
    price = float(np.max(problem.price, initial=0.0)) or 1.0
    work = problem.productivity.max(axis=(0, 1))
    need = float((problem.demand / np.where(work > 0, work, 1.0)).max(initial=0.0))
    chips = max(float(problem.fleet.sum()), need, 1.0) / 1000.0
    return Scale(money=_power(price), work=np.asarray([_power(v) for v in work]), chips=_power(max(chips, 1.0)))


def _power(value: float) -> float:
    return 2.0 ** round(math.log2(value)) if value > 0 and math.isfinite(value) else 1.0


def replaced(problem: PlanProblem, **changes: Any) -> PlanProblem:
    """A copy with some fields replaced."""
    return replace(problem, **changes)
