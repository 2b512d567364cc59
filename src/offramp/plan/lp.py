"""The programme: columns and rows of a PlanProblem, in scaled units, with the cost of every scenario kept apart.

Units inside: chips in ``scale.chips``, work in ``scale.work * scale.chips``, money in ``scale.money * scale.chips``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from offramp.plan.builder import F8, I8, INF, Arrays, Model
from offramp.plan.problem import PlanProblem, Scale, scale_of

CAP_PENALTY: Final = 3.0
"""A share cap is broken at this multiple of a chip's straight-line cost per quarter: dear enough to buy other chips,
too cheap to switch service off."""


@dataclass
class Program:
    """A built programme and where everything lies in it (column and row numbers in the shape of their labels).

    Attributes:
        cost_terms: (scenario, column, money) triplets of each scenario's cost, before weights.
    """

    problem: PlanProblem
    scale: Scale
    model: Model
    cols: dict[str, I8] = field(default_factory=dict)
    rows: dict[str, I8] = field(default_factory=dict)
    cost_terms: list[tuple[I8, I8, F8]] = field(default_factory=list)

    @functools.cached_property
    def arrays(self) -> Arrays:
        """The programme as plain arrays."""
        return self.model.arrays()

    def charge(self, columns: I8, money: F8 | float, scenario: I8) -> None:
        """Adds money per unit of the columns to the cost of the scenarios; the arrays are broadcast together."""
        values = np.asarray(money, dtype=np.float64)
        shape = np.broadcast_shapes(columns.shape, values.shape, scenario.shape)
        flat = np.broadcast_to(values, shape).ravel()
        keep = flat != 0.0
        at = [np.broadcast_to(part, shape).ravel()[keep] for part in (scenario, columns)]
        self.cost_terms.append((at[0], at[1], flat[keep]))

    def charge_all(self, columns: I8, money: F8 | float) -> None:
        """Adds the same cost to every scenario."""
        s = len(self.problem.scenarios)
        trailing = (1,) * columns.ndim
        self.charge(columns[None], np.asarray(money, dtype=np.float64)[None], np.arange(s).reshape(s, *trailing))


def build(problem: PlanProblem) -> Program:
    """The programme of a checked problem."""
    program = Program(problem=problem, scale=scale_of(problem), model=Model())
    _orders(program)
    _open_orders(program)
    _stock(program)
    _operation(program)
    _placement(program)
    _porting(program)
    _limits(program)
    _scoped_caps(program)
    _objective(program)
    return program


def money_unit(scale: Scale) -> float:
    """Money per unit of the programme's objective."""
    return scale.money * scale.chips


def _order_bounds(problem: PlanProblem, scale: Scale) -> tuple[F8, F8]:
    """Most chips that may be ordered: [Q, C] in committed quarters (any scenario may deliver) and [S, Q, C]."""
    s, q, c, _, _, _ = problem.sizes
    arrival, chips = np.arange(q)[:, None] + problem.lead[None, :], np.arange(c)[None, :]
    inside = arrival < q
    lands = problem.can_arrive[:, np.minimum(arrival, q - 1), chips]
    useful = inside[None] & lands & (problem.fill > 0)
    most = problem.most_order / scale.chips
    each = np.where(useful, most[None], 0.0)
    return np.where(useful.any(axis=0), most, 0.0), each.reshape(s, q, c)


def orderable(program: Program) -> F8:
    """Most chips of each kind that may be ordered for a site in the committed quarters, in chips. [Q now, C, X]"""
    problem = program.problem
    first, _ = _order_bounds(problem, program.scale)
    now = min(problem.commit, len(problem.quarters))
    return np.where(_open_sites(problem) > 0, first[..., None] * program.scale.chips, 0.0)[:now]


def _open_sites(problem: PlanProblem) -> F8:
    """1 where a chip ordered in a quarter may be delivered to a site, else 0. [Q, C, X]"""
    _, q, c, _, x, _ = problem.sizes
    if problem.site_buy.size == 0:
        return np.ones((q, c, x))
    arrival = np.minimum(np.arange(q)[:, None] + problem.lead[None, :], q - 1)
    return problem.site_buy[arrival, np.arange(c)[None, :]].astype(np.float64)


def _orders(program: Program) -> None:
    problem, model, scale = program.problem, program.model, program.scale
    _, q, _, _, x, _ = problem.sizes
    now = min(problem.commit, q)
    first, later = _order_bounds(problem, scale)
    per_site = _open_sites(problem) > 0
    quarters, labels = list(problem.quarters), (list(problem.chips), list(problem.sites))
    program.cols["order_now"] = model.columns(
        "order now", (quarters[:now], *labels), upper=np.where(per_site[:now], first[:now, :, None], 0.0)
    )
    program.cols["order_later"] = model.columns(
        "order later",
        (problem.scenarios, quarters[now:], *labels),
        upper=np.where(per_site[now:], later[:, now:, :, None], 0.0),
    )
    if x > 1:
        limited = np.isfinite(problem.most_order)
        rows = model.rows("most orders now", (quarters[:now], labels[0]), upper=np.where(limited, first, INF)[:now])
        model.entries(rows[..., None], program.cols["order_now"], 1.0)
        each = np.where(limited[None], later, INF)[:, now:]
        rows = model.rows("most orders later", (problem.scenarios, quarters[now:], labels[0]), upper=each)
        model.entries(rows[..., None], program.cols["order_later"], 1.0)
    for quarter, chip, site, count in problem.frozen:
        fixed = count / scale.chips
        at = program.cols["order_now"][quarter, chip, site] if quarter < now else None
        where = np.atleast_1d(at if at is not None else program.cols["order_later"][:, quarter - now, chip, site])
        model.bound(where, lower=fixed, upper=fixed)
    if problem.integer and now:
        lots = model.columns("lots now", (quarters[:now], *labels), integer=True)
        rows = model.rows("whole lots", (quarters[:now], *labels), lower=0.0, upper=0.0)
        model.entries(rows, program.cols["order_now"], 1.0)
        model.entries(rows, lots, -problem.lot[None, :, None] / scale.chips)
        program.cols["lots_now"] = lots


@dataclass(frozen=True)
class Arrival:
    """Columns whose chips arrive in one quarter; the arrays broadcast to [scenarios, sites].

    Attributes:
        quarter, chip: indices.
        scenario, site: index arrays.
        columns: orders or deliveries.
        share: of the column that arrives.
        price: of one chip, in the programme's money.
    """

    quarter: int
    chip: int
    scenario: I8
    site: I8
    columns: I8
    share: F8
    price: F8


def arrivals(program: Program) -> list[Arrival]:
    """Every way in which chips arrive: orders of the plan and open orders."""
    problem = program.problem
    price = problem.price / program.scale.money
    s, q, c, _, x, _ = problem.sizes
    now = min(problem.commit, q)
    found: list[Arrival] = []
    scenario, site = np.arange(s)[:, None], np.arange(x)[None, :]
    for chip in range(c):
        for placed in range(q - int(problem.lead[chip])):
            lands = placed + int(problem.lead[chip])
            share = (problem.fill[:, placed, chip] * problem.can_arrive[:, lands, chip])[:, None]
            if not share.any():
                continue
            if placed < now:
                columns = program.cols["order_now"][placed, chip][None, :]
            else:
                columns = program.cols["order_later"][:, placed - now, chip, :]
            found.append(Arrival(lands, chip, scenario, site, columns, share, price[:, lands, chip][:, None]))
    for number, order in enumerate(problem.orders):
        for delay in range(q - order.due):
            lands = order.due + delay
            open_ = problem.site_buy[lands, order.chip, order.site] if problem.site_buy.size else True
            share = (order.arrives[:, lands] * problem.can_arrive[:, lands, order.chip] * open_)[:, None]
            column = program.cols["delivery"][number, lands].reshape(1, 1)
            paid = np.full((s, 1), order.price / program.scale.money)
            found.append(Arrival(lands, order.chip, scenario, np.asarray([[order.site]]), column, share, paid))
    return found


def _open_orders(program: Program) -> None:
    """Deliver in a quarter (kept or deferred) or cancel; decided now, the same in every scenario."""
    problem, model, scale = program.problem, program.model, program.scale
    if not problem.orders:
        return
    q = len(problem.quarters)
    names = [order.label for order in problem.orders]
    due = np.asarray([order.due for order in problem.orders])
    counts = np.asarray([order.count for order in problem.orders]) / scale.chips
    price = np.asarray([order.price for order in problem.orders]) / scale.money
    late = np.arange(q)[None, :] - due[:, None]
    delivery = model.columns("delivery of open order", (names, problem.quarters), upper=np.where(late >= 0, INF, 0.0))
    cancel = model.columns("cancel open order", (names,))
    rows = model.rows("open order", (names,), lower=counts, upper=counts)
    model.entries(rows[:, None], delivery, 1.0)
    model.entries(rows, cancel, 1.0)
    program.cols["delivery"], program.cols["cancel"] = delivery, cancel
    fee = np.asarray([order.defer_fee for order in problem.orders])[:, None] * price[:, None] * np.maximum(late, 0)
    program.charge_all(delivery, fee)
    program.charge_all(cancel, np.asarray([order.cancel_fee for order in problem.orders]) * price)


def _stock(program: Program) -> None:
    """Chips bought since the start: what was there, plus arrivals, less those past their life. [S, Q, C, X]"""
    problem, model = program.problem, program.model
    q = len(problem.quarters)
    labels = (problem.scenarios, problem.quarters, problem.chips, problem.sites)
    stock = model.columns("stock", labels)
    rows = model.rows("stock", labels, lower=0.0, upper=0.0)
    model.entries(rows, stock, 1.0)
    model.entries(rows[:, 1:], stock[:, :-1], -1.0)
    discount = (1.0 + problem.discount) ** -np.arange(q + 1)
    for item in arrivals(program):
        t, k = item.quarter, item.chip
        model.entries(rows[item.scenario, t, k, item.site], item.columns, -item.share)
        dies = t + round(float(problem.life_quarters[k]))
        if dies < q:
            model.entries(rows[item.scenario, dies, k, item.site], item.columns, item.share)
        left = max(0.0, 1.0 - (q - t) / max(float(problem.life_quarters[k]), 1.0)) * discount[q]
        program.charge(item.columns, item.share * item.price * (discount[t] - left), item.scenario)
    program.cols["stock"], program.rows["stock"] = stock, rows


def _operation(program: Program) -> None:
    """Chips that run are owned and serviceable; power, space and running cost follow them. [S, Q, C, X]"""
    problem, model, scale = program.problem, program.model, program.scale
    s, q, c, _, x, _ = problem.sizes
    labels = (problem.scenarios, problem.quarters, problem.chips, problem.sites)
    may = problem.site_run if problem.site_run.size else np.ones((q, c, x), dtype=np.bool_)
    run = model.columns("run", labels, upper=np.where(may, INF, 0.0))
    owned = problem.fleet[None, :, :] * problem.survival[:, :, None] / scale.chips
    able = problem.serviceable[..., None]
    rows = model.rows("owned", labels, upper=np.broadcast_to(able * owned[None], (s, q, c, x)))
    model.entries(rows, run, 1.0)
    model.entries(rows, program.cols["stock"], -np.broadcast_to(able, (s, q, c, x)))
    program.cols["run"], program.rows["owned"] = run, rows
    discount = (1.0 + problem.discount) ** -np.arange(q)
    cost = problem.running_cost * discount[:, None, None] / scale.money
    program.charge(run, cost[None], np.arange(s)[:, None, None, None])
    rent = model.columns(
        "rent", labels[:3], upper=np.where(np.isfinite(problem.rent), problem.most_rent, 0.0) / scale.chips
    )
    price = np.where(np.isfinite(problem.rent), problem.rent, 0.0) * discount[:, None] / scale.money
    program.charge(rent, price[None], np.arange(s)[:, None, None])
    program.cols["rent"] = rent
    site_axes = (problem.scenarios, problem.quarters, problem.sites)
    for name, use, most in (
        ("power", problem.power_w, problem.site_power_w),
        ("space", np.repeat(1.0 / problem.chips_per_server[:, None], x, axis=1), problem.site_servers),
    ):
        if np.isfinite(most).any():
            unit = float(use.max()) or 1.0
            limit = np.broadcast_to(most / (unit * scale.chips), (s, q, x))
            program.rows[name] = model.rows(name, site_axes, upper=limit)
            model.entries(program.rows[name][:, :, None, :], run, (use / unit)[None, None])


def _placement(program: Program) -> None:
    """Work placed on chips that run; what is not done is short. [S, Q, C, W]"""
    problem, model, scale = program.problem, program.model, program.scale
    s, q, _, _, _, _ = problem.sizes
    labels = (problem.scenarios, problem.quarters, problem.chips, problem.workloads)
    rate = problem.productivity[:, None] / scale.work
    able = problem.can_use & (rate > 0)
    place = model.columns("place", labels, upper=np.where(able, INF, 0.0))
    rows = model.rows("capacity", labels[:3], upper=0.0)
    model.entries(rows[..., None], place, able.astype(np.float64))
    model.entries(rows[..., None], program.cols["run"], -1.0)
    model.entries(rows, program.cols["rent"], -1.0)
    program.rows["capacity"] = rows
    wanted = problem.demand / (scale.work * scale.chips)
    short = model.columns("short", (*labels[:2], labels[3]), upper=np.where(problem.strict, 0.0, INF))
    work = model.rows("work", (*labels[:2], labels[3]), lower=wanted)
    model.entries(work[:, :, None, :], place, np.where(able, rate, 0.0))
    model.entries(work, short, 1.0)
    program.cols["place"], program.cols["short"], program.rows["work"] = place, short, work
    discount = (1.0 + problem.discount) ** -np.arange(q)
    price = problem.shortage_price * discount[:, None] * scale.work / scale.money
    program.charge(short, price[None], np.arange(s)[:, None, None])


def _porting(program: Program) -> None:
    """Engineers' time spent on porting by the quarter before bounds how much work may lie on other families. [S, Q]

    Putting a share of a workload on a family takes that share of the months of porting it wholly; one row a scenario
    and quarter, with the shares projected out (a column per share makes the programme fifty times slower).
    """
    problem, model, scale = program.problem, program.model, program.scale
    s, q, _, _, _, _ = problem.sizes
    months = np.where(problem.ported >= 1.0, 0.0, problem.port_months)[:, problem.family].T
    possible = np.isfinite(months)
    place = program.cols["place"]
    if not possible.all():
        blocked = np.broadcast_to(~possible[None, None], place.shape)
        model.bound(place[blocked], upper=0.0)
    months = np.where(possible, months, 0.0)
    if not (months > 0).any():
        return
    available = np.cumsum(problem.engineer_months)
    unit = float(months.max())
    labels = (problem.scenarios, problem.quarters)
    spent = model.columns("porting done", labels, upper=np.broadcast_to(available / unit, (s, q)))
    goes_on = model.rows("porting goes on", labels, lower=0.0)
    model.entries(goes_on, spent, 1.0)
    model.entries(goes_on[:, 1:], spent[:, :-1], -1.0)
    wanted = problem.demand / scale.chips
    share = problem.productivity[:, None] / np.maximum(wanted, 1e-12)[:, :, None, :]
    able = problem.can_use & (problem.productivity > 0)[:, None] & (wanted > 0)[:, :, None, :]
    effort = np.where(able, months[None, None] / unit * share, 0.0)
    rows = model.rows("porting", labels, upper=0.0)
    model.entries(rows[..., None, None], place, effort)
    model.entries(rows[:, 1:], spent[:, :-1], -1.0)
    discount = (1.0 + problem.discount) ** -np.arange(q)
    step = discount - np.append(discount[1:], 0.0)
    price = unit * problem.engineer_month_price / (scale.money * scale.chips)
    program.charge(spent, (step * price)[None], np.arange(s)[:, None])
    program.cols["spent"], program.rows["engineers"] = spent, rows


def _limits(program: Program) -> None:
    """Budgets and share caps; both may be broken at a price, unless strict."""
    problem, model, scale = program.problem, program.model, program.scale
    s, q, _, _, _, _ = problem.sizes
    most_over = 0.0 if problem.strict else INF
    discount = (1.0 + problem.discount) ** -np.arange(q)
    if problem.budget.size and np.isfinite(problem.budget).any():
        limit = np.broadcast_to(problem.budget / (scale.money * scale.chips), (s, q))
        rows = model.rows("budget", (problem.scenarios, problem.quarters), upper=limit)
        over = model.columns("over budget", (problem.scenarios, problem.quarters), upper=most_over)
        model.entries(rows, over, -1.0)
        for item in arrivals(program):
            model.entries(rows[item.scenario, item.quarter], item.columns, item.share * item.price)
        program.charge(over, problem.penalty * discount[None], np.arange(s)[:, None])
        program.cols["over_budget"], program.rows["budget"] = over, rows
    for number, cap in enumerate(problem.share_caps):
        sites = slice(None) if cap.site < 0 else slice(cap.site, cap.site + 1)
        quarters = problem.quarters[cap.start :]
        if not quarters:
            continue
        beyond = cap.chips.astype(np.float64) - cap.most
        room = max(0.0, -float((problem.fleet[:, sites].sum(axis=1) * beyond).sum())) if cap.bought else 0.0
        rows = model.rows(f"share cap: {cap.label}", (problem.scenarios, quarters), upper=room / scale.chips)
        over = model.columns(f"over share cap: {cap.label}", (problem.scenarios, quarters), upper=most_over)
        counted = program.cols["stock" if cap.bought else "run"][:, cap.start :, :, sites]
        model.entries(rows[..., None, None], counted, beyond[None, None, :, None])
        model.entries(rows, over, -1.0)
        each = float(np.max(problem.price) / max(float(problem.life_quarters.min()), 1.0)) / scale.money
        times = problem.penalty if cap.bought else CAP_PENALTY
        program.charge(over, times * each * discount[None, cap.start :], np.arange(s)[:, None])
        program.cols[f"over_cap {number}"], program.rows[f"cap {number}"] = over, rows


def _scoped_caps(program: Program) -> None:
    """Chips that banned uses may still have: a share of those owned, or owned when the ban fell. [S, Q, C]"""
    problem, model, scale = program.problem, program.model, program.scale
    s, q, _, _, _, _ = problem.sizes
    for number, cap in enumerate(problem.scoped_caps):
        chips, work = np.flatnonzero(cap.chips), np.flatnonzero(cap.workloads)
        after = np.arange(cap.start, q)
        if not (chips.size and work.size and after.size):
            continue
        names = [problem.chips[int(k)] for k in chips]
        share = cap.share[after][None, :, None] * problem.serviceable[:, after][:, :, chips]
        owned = (problem.fleet.sum(axis=1)[None] * problem.survival)[after][:, chips] / scale.chips
        inside = np.ones(s, dtype=np.bool_) if cap.scenarios is None else cap.scenarios
        limit = np.where(inside[:, None, None], share * owned[None], INF)
        rows = model.rows(f"ban: {cap.label}", (problem.scenarios, problem.quarters[cap.start :], names), upper=limit)
        place = program.cols["place"][:, cap.start :][:, :, chips][..., work]
        model.entries(rows[..., None], place, 1.0)
        stock = program.cols["stock"]
        if cap.freeze and cap.start > 0:
            then = np.broadcast_to(stock[:, [cap.start - 1]][:, :, chips], (s, after.size, chips.size, stock.shape[3]))
            model.entries(rows[..., None], then, -share[..., None])
        elif not cap.freeze:
            model.entries(rows[..., None], stock[:, after][:, :, chips], -share[..., None])
        program.rows[f"ban {number}"] = rows


def _objective(program: Program) -> None:
    """Mean cost, or a mixture of the mean and of the mean of the worst tail."""
    problem, model = program.problem, program.model
    tail = problem.cvar_weight
    if tail > 0:
        level = model.columns("value at risk", (), lower=-INF)
        excess = model.columns("cost above it", (problem.scenarios,))
        rows = model.rows("tail", (problem.scenarios,), upper=0.0)
        for scenario, columns, money in program.cost_terms:
            model.entries(rows[scenario], columns, money)
        model.entries(rows, level.reshape(1), -1.0)
        model.entries(rows, excess, -1.0)
        program.cols["value_at_risk"], program.cols["excess"] = level.reshape(1), excess
    cost = np.zeros(model.n_columns)
    for scenario, columns, money in program.cost_terms:
        np.add.at(cost, columns, (1.0 - tail) * problem.weight[scenario] * money)
    if tail > 0:
        cost[program.cols["value_at_risk"]] = tail
        cost[program.cols["excess"]] = tail * problem.weight / problem.cvar_tail
    model.set_cost(cost)
