"""Budgets of the plan and the supply model: 16 quarters x 10 chips x 20 workloads x 50 scenarios; 1,000 draws."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from offramp.core.result import FigureLog
from offramp.plan import analysis
from offramp.plan.again import Again
from offramp.plan.apart import thinned
from offramp.plan.problem import PlanProblem
from offramp.plan.solution import residuals, solve
from offramp.supply import facts, model


def large_problem(q: int = 16, c: int = 10, w: int = 20, s: int = 50) -> PlanProblem:
    """A random question of the size that the budget names, with porting, power, bans and rationing."""
    rng = np.random.default_rng(0)
    families = 4
    can_arrive = np.ones((s, q, c), dtype=bool)
    for scenario, start in enumerate(rng.integers(4, q, s)):
        can_arrive[scenario, start:, 0] = False
    ported, months = np.zeros((w, families)), np.full((w, families), 12.0)
    ported[:, 0], months[:, 0] = 1.0, 0.0
    fleet = np.zeros((c, 1))
    fleet[0] = 4000.0
    productivity = rng.uniform(0.2, 1.2, (c, w))[None] * np.exp(0.2 * rng.standard_normal((s, c, w)))
    growth = np.exp(rng.normal(0.06, 0.05, (s, w))[:, None, :] * np.arange(q)[None, :, None])
    return PlanProblem(
        quarters=[f"{2026 + (i + 3) // 4}Q{(i + 3) % 4 + 1}" for i in range(q)],
        chips=[f"v{i % families}/c{i}" for i in range(c)], workloads=[f"w{i}" for i in range(w)], sites=["here"],
        scenarios=[f"s{i}" for i in range(s)], families=[f"v{i}" for i in range(families)],
        weight=np.full(s, 1.0 / s), productivity=productivity, demand=rng.uniform(50, 500, w)[None, None] * growth,
        shortage_price=np.full((q, w), 60_000.0), fleet=fleet, survival=np.ones((q, c)),
        life_quarters=np.full(c, 20.0), price=rng.uniform(5e4, 2e5, c) * np.exp(0.1 * rng.standard_normal((s, q, c))),
        lead=rng.integers(1, 3, c), lot=np.full(c, 8.0), fill=rng.uniform(0.3, 1.0, (s, q, c)),
        most_order=np.full((q, c), 3000.0), can_arrive=can_arrive, can_use=np.ones((s, q, c, w), dtype=bool),
        serviceable=np.ones((s, q, c)), rent=np.full((q, c), np.inf), most_rent=np.zeros((s, q, c)),
        running_cost=np.full((q, c, 1), 900.0), power_w=np.full((c, 1), 800.0), site_power_w=np.full((q, 1), 12e6),
        chips_per_server=np.full(c, 8.0), site_servers=np.full((q, 1), np.inf), family=np.arange(c) % families,
        ported=ported, port_months=months, engineer_months=np.full(q, 30.0), engineer_month_price=5e4, discount=0.02,
    )  # fmt: skip


@pytest.mark.benchmark(group="plan: build and solve (budget 10 s)", max_time=1, min_rounds=1)
def test_plan_of_the_size_in_the_budget(benchmark):
    problem = large_problem()
    plan = benchmark.pedantic(solve, args=(problem,), rounds=1)
    assert plan.status == "optimal"
    assert max(residuals(plan).values()) < 1e-6


@pytest.mark.benchmark(group="supply: 1,000 draws (budget 1 s)")
def test_thousand_supply_draws(benchmark):
    data = facts.load()
    drawn = benchmark(model.simulate, data, dt.date(2026, 11, 23), draws=1000, seed=0, log=FigureLog())
    assert drawn.cards.shape[0] == 1000


@pytest.mark.benchmark(group="plan: waiting and plans without each vendor, from the solved plan")
def test_comparisons_of_the_large_plan(benchmark):
    plan = solve(thinned(large_problem(), 12))  # as offramp plan does with a plan of this size

    def compare() -> int:
        again = Again(plan)
        analysis.value_of_waiting(plan, again=again)
        return len(analysis.alternatives(plan, gap=0.03, again=again))

    assert benchmark.pedantic(compare, rounds=1) > 0
