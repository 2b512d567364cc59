"""The same programme written a second time, in linopy, from the problem's arrays: both must agree."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from offramp.plan.problem import OpenOrder, PlanProblem, ScopedCap, ShareCap
from offramp.plan.solution import residuals, solve


def random_problem(seed: int) -> PlanProblem:
    """Three scenarios, five quarters, four chips of three vendors, three workloads, two sites, every kind of limit."""
    rng = np.random.default_rng(seed)
    s, q, c, w, x = 3, 5, 4, 3, 2
    quarters = ["2026Q4", "2027Q1", "2027Q2", "2027Q3", "2027Q4"]
    weight = rng.dirichlet(np.ones(s))
    can_arrive = np.ones((s, q, c), dtype=bool)
    can_arrive[1, 2:, 0] = False
    can_use = np.ones((s, q, c, w), dtype=bool)
    can_use[2, 3:, 0, 1] = False
    serviceable = np.ones((s, q, c))
    serviceable[1, 3:, 0] = 0.5
    productivity = rng.uniform(0.3, 1.5, (s, c, w))
    productivity[:, 3, 2] = 0.0
    rent = np.full((q, c), np.inf)
    rent[:, 2] = 2500.0
    most_rent = np.zeros((s, q, c))
    most_rent[:, :, 2] = 15.0
    site_buy, site_run = np.ones((q, c, x), dtype=bool), np.ones((q, c, x), dtype=bool)
    site_buy[2:, 1, 0] = False
    site_buy[1:, 0, 1] = False
    site_run[4:, 0, 1] = False
    fleet = np.zeros((c, x))
    fleet[0] = [120.0, 60.0]
    survival = np.ones((q, c))
    survival[4, 0] = 0.7
    order = OpenOrder(label="old", chip=0, site=1, count=30.0, due=1, price=9e4, cancel_fee=0.1, defer_fee=0.02,
                      arrives=rng.uniform(0.2, 1.0, (s, q)))  # fmt: skip
    return PlanProblem(
        quarters=quarters, chips=["n/a", "h/b", "h/c", "k/d"], workloads=["chat", "tune", "train"],
        sites=["east", "west"], scenarios=["s0", "s1", "s2"], families=["n", "h", "k"], weight=weight,
        productivity=productivity, demand=rng.uniform(30, 120, (s, q, w)), shortage_price=np.full((q, w), 30_000.0),
        fleet=fleet, survival=survival, life_quarters=np.array([16.0, 3.0, 14.0, 12.0]),
        price=rng.uniform(5e4, 1.5e5, (s, q, c)), lead=np.array([1, 1, 2, 0]), lot=np.full(c, 8.0),
        fill=rng.uniform(0.3, 1.0, (s, q, c)), most_order=np.full((q, c), 90.0), can_arrive=can_arrive,
        can_use=can_use, serviceable=serviceable, rent=rent, most_rent=most_rent,
        running_cost=rng.uniform(500, 1500, (q, c, x)), power_w=rng.uniform(300, 900, (c, x)),
        site_power_w=np.broadcast_to(np.array([9e4, 6e4]), (q, x)), chips_per_server=np.full(c, 8.0),
        site_servers=np.broadcast_to(np.array([30.0, np.inf]), (q, x)),
        family=np.array([0, 1, 1, 2]), ported=np.array([[1.0, 0, 0], [1, 0, 0], [1, 1, 0]]),
        port_months=np.array([[0.0, 9, 14], [0, 5, 8], [0, 0, 20]]), engineer_months=np.full(q, 4.0),
        engineer_month_price=4e4, orders=(order,),
        share_caps=(
            ShareCap(label="n", chips=np.array([True, False, False, False]), most=0.6, start=3),
            ShareCap(label="quota", chips=np.array([False, True, True, False]), most=0.7, start=1, site=1, bought=True),
        ),
        site_buy=site_buy, site_run=site_run,
        scoped_caps=(
            ScopedCap(label="buy", chips=np.array([True, False, False, False]),
                      workloads=np.array([True, False, False]), start=2, share=np.ones(q), freeze=True),
            ScopedCap(label="support", chips=np.array([False, True, False, False]),
                      workloads=np.array([False, True, False]), start=3, share=np.linspace(1.0, 0.4, q)),
        ),
        budget=np.array([np.inf, 4e6, 5e6, 6e6, 6e6]), discount=0.02, cvar_weight=0.3, cvar_tail=0.4, commit=2,
    )  # fmt: skip


def linopy_objective(p: PlanProblem) -> float:
    """Minimum of the programme written in linopy, in money."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _linopy(p)


def _plus(before: Any, term: Any) -> Any:
    return term if before is None else before + term


def _linopy(p: PlanProblem) -> float:
    import linopy
    import xarray as xr

    s, q, c, w, x = (len(v) for v in (p.scenarios, p.quarters, p.chips, p.workloads, p.sites))
    money = 1e5
    dims: dict[str, int] = {"s": s, "q": q, "c": c, "w": w, "x": x}

    def da(values: Any, names: str) -> xr.DataArray:
        return xr.DataArray(
            np.asarray(values, dtype=float), dims=list(names), coords={n: range(dims[n]) for n in names}
        )

    m = linopy.Model()

    def var(name: str, names: str, upper: Any = np.inf) -> Any:
        return m.add_variables(
            lower=0, upper=upper, coords=[range(dims[n]) for n in names], dims=list(names), name=name
        )

    order = var("order", "sqcx")
    stock = var("stock", "sqcx")
    run = var("run", "sqcx", upper=da(np.where(np.broadcast_to(p.site_run, (s, q, c, x)), np.inf, 0.0), "sqcx"))
    usable = da(p.can_use & (p.productivity > 0)[:, None], "sqcw")
    place = var("place", "sqcw", upper=xr.where(usable > 0, np.inf, 0.0))
    short, over = var("short", "sqw"), var("over", "sq")
    rent = var("rent", "sqc", upper=da(np.where(np.isfinite(p.rent)[None], p.most_rent, 0.0), "sqc"))
    effort = var("effort", "sq", upper=da(np.broadcast_to(np.cumsum(p.engineer_months), (s, q)), "sq"))
    keep = [m.add_variables(lower=0, upper=np.inf if t >= p.orders[0].due else 0.0, name=f"keep{t}") for t in range(q)]
    cancel = m.add_variables(lower=0, name="cancel")
    m.add_constraints(sum(keep[1:], start=keep[0]) + cancel == p.orders[0].count)
    for t in range(p.commit):
        for i in range(1, s):
            m.add_constraints(order.isel(s=i, q=t) == order.isel(s=0, q=t))
    m.add_constraints(order.sum("x") <= da(np.broadcast_to(p.most_order, (s, q, c)), "sqc"))
    delta = (1 + p.discount) ** -np.arange(q + 1)
    cost: list[Any] = [None] * s
    paid: list[list[Any]] = [[None] * q for _ in range(s)]
    for i in range(s):
        for k in range(c):
            for t in range(q):
                here: list[Any] = [None, None]
                back = t - int(p.lead[k])
                for site in range(x):
                    if back >= 0 and not p.site_buy[t, k, site]:
                        m.add_constraints(order.isel(s=i, q=back, c=k, x=site) == 0)
                    if back >= 0 and p.can_arrive[i, t, k]:
                        term = order.isel(s=i, q=back, c=k, x=site) * (p.fill[i, back, k])
                        here[site] = term
                        left = max(0.0, 1 - (q - t) / p.life_quarters[k]) * delta[q]
                        cost[i] = _plus(cost[i], term * (p.price[i, t, k] * (delta[t] - left) / money))
                        paid[i][t] = _plus(paid[i][t], term * (p.price[i, t, k] / money))
                o = p.orders[0]
                if k == o.chip and p.can_arrive[i, t, k] and p.site_buy[t, k, o.site] and t >= o.due:
                    term = keep[t] * o.arrives[i, t]
                    here[o.site] = term if here[o.site] is None else here[o.site] + term
                    left = max(0.0, 1 - (q - t) / p.life_quarters[k]) * delta[q]
                    cost[i] = _plus(cost[i], term * (o.price * (delta[t] - left) / money))
                    paid[i][t] = _plus(paid[i][t], term * (o.price / money))
                for site in range(x):
                    lhs = 1 * stock.isel(s=i, q=t, c=k, x=site)
                    if here[site] is not None:
                        lhs = lhs - here[site]
                    if t:
                        lhs = lhs - stock.isel(s=i, q=t - 1, c=k, x=site)
                    born = t - round(p.life_quarters[k])
                    if born >= 0 and born - int(p.lead[k]) >= 0 and p.can_arrive[i, born, k]:
                        gone = born - int(p.lead[k])
                        lhs = lhs + order.isel(s=i, q=gone, c=k, x=site) * p.fill[i, gone, k]
                    m.add_constraints(lhs == 0)
                if not any(p.can_arrive[j, min(t + p.lead[k], q - 1), k] for j in range(s)) or t + p.lead[k] >= q:
                    m.add_constraints(order.isel(s=i, q=t, c=k) == 0)
        for t in range(p.orders[0].due, q):
            fee = p.orders[0].defer_fee * p.orders[0].price * (t - p.orders[0].due) / money
            cost[i] = _plus(cost[i], keep[t] * fee)
        cost[i] = _plus(cost[i], cancel * (p.orders[0].cancel_fee * p.orders[0].price / money))
    base = p.fleet[None, None] * p.survival[None, :, :, None] * np.ones((s, 1, 1, 1))
    able = da(np.broadcast_to(p.serviceable[..., None], (s, q, c, x)), "sqcx")
    m.add_constraints(run - able * stock <= able * da(base, "sqcx"))
    m.add_constraints(place.sum("w") - run.sum("x") - rent <= 0)
    work = place * da(np.broadcast_to(p.productivity[:, None], (s, q, c, w)), "sqcw")
    m.add_constraints(work.sum("c") + short >= da(p.demand, "sqw"))
    m.add_constraints(
        (run * da(p.power_w, "cx")).sum("c") <= da(np.broadcast_to(p.site_power_w[None], (s, q, x)), "sqx")
    )
    m.add_constraints((run.isel(x=0) * (1 / 8)).sum("c") <= p.site_servers[0, 0])
    months = np.where(p.ported >= 1, 0.0, p.port_months)[:, p.family].T
    spent = (place * da(months[None, None] * p.productivity[:, None] / p.demand[:, :, None, :], "sqcw")).sum(["c", "w"])
    m.add_constraints(spent.isel(q=0) <= 0)
    for t in range(1, q):
        m.add_constraints(spent.isel(q=t) - effort.isel(q=t - 1) <= 0)
        m.add_constraints(effort.isel(q=t) - effort.isel(q=t - 1) >= 0)
    cap = p.share_caps[0]
    excess = m.add_variables(lower=0, coords=[range(s), range(cap.start, q)], dims=["s", "q"], name="excess")
    coefficient = da((cap.chips - cap.most)[:, None] * np.ones((1, x)), "cx")
    m.add_constraints((run.isel(q=slice(cap.start, q)) * coefficient).sum(["c", "x"]) - excess <= 0)
    quota = p.share_caps[1]
    beyond = m.add_variables(lower=0, coords=[range(s), range(quota.start, q)], dims=["s", "q"], name="beyond")
    counted = stock.isel(x=quota.site, q=slice(quota.start, q)) * da(quota.chips - quota.most, "c")
    m.add_constraints(counted.sum("c") - beyond <= max(0.0, float((p.fleet[:, 1] * (quota.most - quota.chips)).sum())))
    each = 3.0 * p.price.max() / p.life_quarters.min() / money
    for ban in p.scoped_caps:
        k, ww = int(np.flatnonzero(ban.chips)[0]), int(np.flatnonzero(ban.workloads)[0])
        for i in range(s):
            for t in range(ban.start, q):
                share = ban.share[t] * p.serviceable[i, t, k]
                then = ban.start - 1 if ban.freeze else t
                limit = share * p.fleet[k].sum() * p.survival[t, k]
                m.add_constraints(
                    place.isel(s=i, q=t, c=k, w=ww) - stock.isel(s=i, q=then, c=k).sum("x") * share <= limit
                )
    for i in range(s):
        for t in range(q):
            if np.isfinite(p.budget[t]) and paid[i][t] is not None:
                m.add_constraints(paid[i][t] - over.isel(s=i, q=t) <= p.budget[t] / money)
        flat = da(delta[:q], "q")
        cost[i] = _plus(cost[i], (run.isel(s=i) * (da(p.running_cost, "qcx") * flat / money)).sum())
        cost[i] = _plus(
            cost[i], (rent.isel(s=i) * (da(np.where(np.isfinite(p.rent), p.rent, 0), "qc") * flat / money)).sum()
        )
        cost[i] = _plus(cost[i], (short.isel(s=i) * (da(p.shortage_price, "qw") * flat / money)).sum())
        step = delta[:q] - np.append(delta[1:q], 0.0)
        cost[i] = _plus(cost[i], (effort.isel(s=i) * (da(step, "q") * p.engineer_month_price / money)).sum())
        cost[i] = _plus(cost[i], (over.isel(s=i) * flat).sum() * p.penalty)
        late = xr.DataArray(delta[cap.start : q], dims=["q"], coords={"q": range(cap.start, q)})
        cost[i] = _plus(cost[i], (excess.isel(s=i) * late).sum() * each)
        late = xr.DataArray(delta[quota.start : q], dims=["q"], coords={"q": range(quota.start, q)})
        cost[i] = _plus(cost[i], (beyond.isel(s=i) * late).sum() * (each / 3.0 * p.penalty))
    level = m.add_variables(name="level")
    tail = [m.add_variables(lower=0, name=f"tail{i}") for i in range(s)]
    objective: Any = level * p.cvar_weight
    for i in range(s):
        m.add_constraints(cost[i] - level - tail[i] <= 0)
        objective = objective + cost[i] * ((1 - p.cvar_weight) * p.weight[i])
        objective = objective + tail[i] * (p.cvar_weight * p.weight[i] / p.cvar_tail)
    m.add_objective(objective)
    m.solve("highs", io_api="direct", output_flag=False)
    return float(m.objective.value) * money


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_linopy_finds_the_same_optimum(seed: int):
    problem = random_problem(seed)
    plan = solve(problem)
    assert plan.objective == pytest.approx(linopy_objective(problem), rel=1e-6)
    for law, value in residuals(plan).items():
        assert value <= 1e-7, law


def test_duality_gap_is_nil():
    """The dual objective, from row duals and reduced costs alone, equals the primal one."""
    from offramp.plan import builder, lp

    program = lp.build(random_problem(4))
    found, _ = builder.solve(program.arrays)
    a = program.arrays
    row_side = np.where(found.row_duals > 0, a.row_lower, a.row_upper)
    col_side = np.where(found.reduced_costs > 0, a.lower, a.upper)
    rows = np.where(np.abs(found.row_duals) > 1e-11, found.row_duals * np.where(np.isfinite(row_side), row_side, 0), 0)
    cols = np.where(
        np.abs(found.reduced_costs) > 1e-11, found.reduced_costs * np.where(np.isfinite(col_side), col_side, 0), 0
    )
    assert rows.sum() + cols.sum() == pytest.approx(found.objective, rel=1e-8)
    assert np.allclose(a.cost - a.matrix.T @ found.row_duals, found.reduced_costs, atol=1e-8)


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_fewest_chips_within_a_cost_equals_the_programme_with_a_row_for_the_cost(seed: int):
    """Walking the chain of prices against minimising the count under one row over all costs; also warm against cold."""
    from offramp.plan import analysis, builder, lp
    from offramp.plan.problem import replaced

    problem = random_problem(seed)
    plan, gap = solve(problem), 0.05
    for item in analysis.alternatives(plan, gap=gap):
        inside = problem.family == list(problem.families).index(item.family)
        program = lp.build(problem)
        arrays, model = program.arrays, program.model
        limit = (plan.objective + gap * abs(plan.objective)) / lp.money_unit(program.scale)
        row = model.rows("near the cheapest cost", (), upper=limit).reshape(1)
        used = np.flatnonzero(arrays.cost)
        model.entries(np.broadcast_to(row, used.shape), used, arrays.cost[used])
        cost = np.zeros(model.n_columns)
        cost[program.cols["order_now"][:, inside]] = 1.0
        later = program.cols["order_later"][:, :, inside]
        cost[later] = np.broadcast_to(problem.weight[:, None, None, None], later.shape)
        model.set_cost(cost)
        found, _ = builder.solve(model.arrays())
        least = found.objective * program.scale.chips
        assert least - 1e-6 * item.bought <= item.least_bought <= least + 0.005 * item.bought + 1e-6
        cold = solve(replaced(problem, most_order=np.where(inside[None, :], 0.0, problem.most_order)))
        assert item.extra_without == pytest.approx((cold.cost - plan.cost) / abs(plan.cost), abs=1e-7)
