"""The toy of docs/plan.md, solved by hand there, and what the plan says about it."""

from __future__ import annotations

import numpy as np
import pytest

from offramp.core.errors import BackendError, InfeasibleError, InputError
from offramp.plan import analysis, rolling, words
from offramp.plan.analysis import Ban, banned
from offramp.plan.apart import solve_apart, solve_in_time, subset
from offramp.plan.problem import OpenOrder, PlanProblem, ShareCap, check, replaced
from offramp.plan.solution import residuals, solve


def toy(shortage_price: float = 400.0, **changes: object) -> PlanProblem:
    """Ten old chips that cannot be bought again; a new chip does half the work, costs 100, takes a quarter to come."""
    quarters = ["2026Q4", "2027Q1", "2027Q2"]
    demand = np.array([[[10.0], [12.0], [14.0]], [[10.0], [10.0], [10.0]]])
    can_arrive = np.ones((2, 3, 2), dtype=bool)
    can_arrive[:, :, 0] = False
    fields: dict[str, object] = {
        "quarters": quarters, "chips": ["old/n", "new/h"], "workloads": ["chat"], "sites": ["here"],
        "scenarios": ["high", "low"], "families": ["old", "new"], "weight": np.array([0.5, 0.5]),
        "productivity": np.broadcast_to(np.array([[1.0], [0.5]]), (2, 2, 1)).copy(), "demand": demand,
        "shortage_price": np.full((3, 1), shortage_price), "fleet": np.array([[10.0], [0.0]]),
        "survival": np.ones((3, 2)), "life_quarters": np.array([40.0, 2.0]), "price": np.full((2, 3, 2), 100.0),
        "lead": np.array([1, 1]), "lot": np.array([1.0, 1.0]), "fill": np.ones((2, 3, 2)),
        "most_order": np.full((3, 2), np.inf), "can_arrive": can_arrive, "can_use": np.ones((2, 3, 2, 1), dtype=bool),
        "serviceable": np.ones((2, 3, 2)), "rent": np.full((3, 2), np.inf), "most_rent": np.zeros((2, 3, 2)),
        "running_cost": np.zeros((3, 2, 1)), "power_w": np.array([[400.0], [350.0]]),
        "site_power_w": np.full((3, 1), np.inf),
        "chips_per_server": np.array([8.0, 8.0]), "site_servers": np.full((3, 1), np.inf), "family": np.array([0, 1]),
        "ported": np.array([[1.0, 0.0]]), "port_months": np.array([[0.0, 0.0]]), "engineer_months": np.zeros(3),
        "commit": 1,
    }  # fmt: skip
    return PlanProblem(**{**fields, **changes})


def test_the_answer_worked_by_hand():
    plan = solve(toy(400.0))
    assert plan.cost == pytest.approx(500.0)
    assert plan.order[:, 0, 1, 0] == pytest.approx([4.0, 4.0])
    assert plan.order[:, 1, 1, 0] == pytest.approx([4.0, 0.0], abs=1e-9)
    assert plan.short.sum() == pytest.approx(0.0, abs=1e-9)
    assert plan.scenario_cost == pytest.approx([600.0, 400.0])


def test_cheap_shortage_makes_waiting_right():
    plan = solve(toy(200.0))
    assert plan.cost == pytest.approx(400.0)
    assert plan.order[:, 0, 1, 0] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert plan.short[0, 1, 0] == pytest.approx(2.0)


def test_value_of_ordering_now():
    assert analysis.value_of_waiting(solve(toy(400.0))).ordering_now_saves == pytest.approx(100.0)
    assert analysis.value_of_waiting(solve(toy(200.0))).ordering_now_saves == pytest.approx(0.0, abs=1e-9)


def test_shadow_price_of_one_more_chip_in_one_quarter():
    plan = solve(toy(400.0))
    assert plan.duals["owned"][0, 1, 1, 0] == pytest.approx(-75.0)


def test_regret_of_not_seeing_the_ban():
    """Without a ban the old chip, as cheap and twice as fast, would be bought; with it nothing arrives."""
    problem = toy(400.0)
    blind = replaced(problem, can_arrive=np.ones_like(problem.can_arrive))
    plan = solve(problem)
    assert analysis.regret(plan, blind) == pytest.approx(100.0)


def test_porting_waits_for_engineers():
    slow = toy(400.0, port_months=np.array([[0.0, 10.0]]), engineer_months=np.array([1.0, 1.0, 1.0]))
    plan = solve(slow)
    share = plan.place[0, 1, 1, 0] * 0.5 / 12.0
    assert share == pytest.approx(0.1)
    assert plan.short[0, 1, 0] == pytest.approx(0.8)
    assert plan.duals["engineers"].sum() < 0


def test_a_port_that_nobody_can_do_is_not_done():
    plan = solve(toy(400.0, port_months=np.array([[0.0, np.inf]])))
    assert plan.place[:, :, 1].sum() == pytest.approx(0.0)
    assert plan.cost == pytest.approx(0.5 * 400.0 * (2 + 4))


def test_open_order_is_cancelled_when_the_fee_is_small_and_kept_when_it_is_large():
    def order(fee: float) -> OpenOrder:
        arrives = np.ones((2, 3))
        return OpenOrder(label="h", chip=1, site=0, count=20.0, due=1, price=100.0, cancel_fee=fee, defer_fee=0.0,
                         arrives=arrives)  # fmt: skip

    cheap, dear = solve(toy(400.0, orders=(order(0.01),))), solve(toy(400.0, orders=(order(0.99),)))
    assert cheap.cancel[0] > 0 and dear.cancel[0] == pytest.approx(0.0, abs=1e-9)
    for plan in (cheap, dear):
        assert plan.cancel[0] + plan.deliver[0].sum() == pytest.approx(20.0)


def test_deferring_an_order_pays_its_fee():
    arrives = np.ones((2, 3))
    order = OpenOrder(label="h", chip=1, site=0, count=8.0, due=1, price=100.0, cancel_fee=1.0, defer_fee=0.05,
                      arrives=arrives)  # fmt: skip
    plan = solve(toy(10.0, orders=(order,)))
    assert plan.deliver[0, 2] == pytest.approx(8.0)
    assert plan.cost == pytest.approx(8 * (100 * 0.5 + 5) + 0.5 * 10 * 2)


def test_budget_is_kept_and_a_frozen_order_breaks_it_at_a_price_that_is_told():
    tight = np.array([np.inf, 200.0, np.inf])
    plan = solve(toy(400.0, budget=tight))
    assert plan.spend[:, 1].max() <= 200.0 + 1e-6
    broken = solve(toy(400.0, budget=tight, frozen=((0, 1, 0, 5.0),)))
    assert broken.broken["budget"][:, 1] == pytest.approx([300.0, 300.0])


def test_strict_names_the_rows_in_conflict():
    tight = np.array([np.inf, 200.0, np.inf])
    with pytest.raises(InfeasibleError, match=r"budget.*2027Q1"):
        solve(toy(400.0, budget=tight, strict=True))
    assert solve(toy(400.0, strict=True)).cost == pytest.approx(500.0)


def test_whole_lots():
    plan = solve(toy(400.0, lot=np.array([1.0, 3.0]), integer=True))
    assert plan.order[0, 0, 1, 0] in (pytest.approx(3.0), pytest.approx(6.0))
    assert plan.cost >= 500.0


def test_tail_weight_never_lowers_the_mean_and_never_raises_the_worst():
    mean, tail = solve(toy(200.0)), solve(toy(200.0, cvar_weight=1.0, cvar_tail=0.5))
    assert tail.cost >= mean.cost - 1e-9
    assert tail.scenario_cost.max() <= mean.scenario_cost.max() + 1e-9
    assert tail.objective == pytest.approx(tail.scenario_cost.max())


def test_share_cap_buys_the_other_vendor():
    cap = ShareCap(label="vendor old", chips=np.array([True, False]), most=0.5, start=2)
    plan = solve(toy(400.0, share_caps=(cap,)))
    ran = plan.run[:, 2, :, 0]
    assert (ran[:, 0] <= ran.sum(axis=1) * 0.5 + 1e-6).all() or "share cap: vendor old" in plan.broken
    assert plan.run[:, 2, 1].sum() > solve(toy(400.0)).run[:, 2, 1].sum()


def test_a_site_without_power_runs_nothing():
    plan = solve(toy(400.0, site_power_w=np.full((3, 1), 2000.0)))
    assert plan.power_w.max() <= 2000.0 + 1e-6
    assert plan.short.min() > 0


@pytest.mark.parametrize("kind", ["buy", "use", "support"])
def test_bans_of_part_of_the_work_bite_only_there(kind: str):
    two = toy(400.0)
    both = replaced(
        two, workloads=["chat", "train"], productivity=np.repeat(two.productivity, 2, axis=2),
        demand=np.repeat(two.demand, 2, axis=2) / 2, shortage_price=np.repeat(two.shortage_price, 2, axis=1),
        can_use=np.ones((2, 3, 2, 2), dtype=bool), ported=np.array([[1.0, 0.0]] * 2), port_months=np.zeros((2, 2)),
    )  # fmt: skip
    ban = analysis.Ban(kind=kind, scope="chat", workloads=np.array([True, False]), chips=np.array([True, False]),
                       start=0, support_quarters=2.0)  # fmt: skip
    plan = solve(analysis.banned(both, ban))
    if kind == "use":
        assert plan.place[:, :, 0, 0].sum() == pytest.approx(0.0)
    if kind == "support":
        assert plan.place[:, 1, 0, 0].max() <= 2.5 + 1e-9 and plan.place[:, 2, 0, 0].max() <= 1e-9
    if kind == "buy":
        assert plan.cost == pytest.approx(500.0)
    assert plan.place[:, :, 0, 1].sum() > 0


def test_frontier_says_what_can_be_met():
    bans = [
        analysis.Ban(kind="use", scope="all", workloads=np.array([True]), chips=np.array([True, False]), start=start)
        for start in (0, 1, 2)
    ]
    cells = analysis.frontier(toy(10.0), bans)
    assert [cell.probability_met for cell in cells] == [0.0, 1.0, 1.0]
    assert cells[0].met_p10 < cells[1].met_p10
    assert analysis.first_quarter_met(cells, kind="use", scope="all") == "2027Q1"
    assert all(cell.extra_cost > 0 for cell in cells[1:])


def test_concentration_adds_up():
    shares = analysis.concentration(solve(toy(400.0)), {"old": "US", "new": "CN"})
    assert shares["fleet at the start"]["old"] == 1.0 and shares["fleet at the start"]["hhi"] == 1.0
    assert shares["spend"]["jurisdiction CN"] == pytest.approx(1.0)
    assert shares["work done"]["old"] + shares["work done"]["new"] == pytest.approx(1.0)


def test_alternative_without_the_only_vendor_leaves_work_undone():
    (found,) = analysis.alternatives(solve(toy(400.0)), gap=0.03)
    assert found.family == "new" and found.extra_without > 0 and found.short_without > 0
    assert found.least_bought <= found.bought + 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fleet": np.array([[-1.0], [0.0]])}, "negative"),
        ({"quarters": ["2026Q4", "2027Q2", "2027Q1"]}, "out of order"),
        ({"chips": []}, "candidate"),
        ({"weight": np.array([0.5, 0.4])}, "add up to 1"),
        ({"demand": np.full((2, 3, 1), np.nan)}, "not a number"),
        ({"price": np.full((2, 3, 2), np.inf)}, "infinite"),
        ({"price": np.full((2, 3, 3), 1.0)}, "shape"),
    ],
)
def test_bad_problems_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        check(toy(400.0, **changes))


def test_a_time_limit_that_is_too_short_says_so():
    with pytest.raises(BackendError, match="time_limit"):
        solve(toy(400.0), time_limit_s=0.0)


@pytest.mark.parametrize(
    "changes", [{}, {"cvar_weight": 0.5, "cvar_tail": 0.5}, {"integer": True, "lot": np.array([1.0, 2.0])}]
)
def test_when_time_is_up_there_is_a_plan_and_a_bound_around_the_best_one(changes: dict[str, object]):
    best, cut = solve(toy(400.0, **changes)), solve_apart(toy(400.0, **changes))
    assert cut.status == "time-limit"
    assert cut.bound <= best.objective * (1 + 1e-9)
    assert cut.objective >= best.objective * (1 - 1e-9)
    assert max(residuals(cut).values()) < 1e-9
    # by hand: knowing the future, the low one costs nothing; the high one buys 4 chips at 100 and 4 at a net 50
    assert cut.bound == pytest.approx(0.5 * 0.0 + 0.5 * 600.0)


def test_a_time_limit_gives_that_plan_and_no_limit_the_best_one():
    assert solve_in_time(toy(400.0), 0.0).bound == pytest.approx(300.0)
    assert solve_in_time(toy(400.0), None).objective == pytest.approx(500.0)


def test_a_future_apart_keeps_its_own_bans_and_weights():
    ban = Ban(kind="use", scope="all", workloads=np.array([True]), chips=np.array([True, False]), start=1)
    part = subset(banned(toy(400.0), ban, scenarios=np.array([True, False])), [0])
    assert part.weight.tolist() == [1.0]
    assert not part.can_use[0, 1:, 0].any()


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e6, 1e12])
def test_nasty_scales_do_not_change_the_decision(factor: float):
    plain = toy(400.0)
    money = solve(replaced(plain, price=plain.price * factor, shortage_price=plain.shortage_price * factor))
    assert money.cost == pytest.approx(500.0 * factor, rel=1e-6)
    work = solve(
        replaced(
            plain,
            productivity=plain.productivity * factor,
            demand=plain.demand * factor,
            shortage_price=plain.shortage_price / factor,
        )
    )
    assert work.order[:, 0, 1, 0] == pytest.approx([4.0, 4.0])


def test_conservation():
    for value in residuals(solve(toy(400.0))).values():
        assert value <= 1e-9


def test_solving_again_each_quarter_changes_nothing_where_the_future_is_certain():
    certain = toy(400.0, weight=np.array([1.0, 0.0]), demand=np.repeat(toy().demand[:1], 2, axis=0))
    rolled = rolling.roll(certain, 0)
    assert rolled.orders == pytest.approx(rolled.first_orders, abs=1e-6)
    assert rolled.short.sum() == pytest.approx(0.0, abs=1e-6)


def test_solving_again_adapts_to_what_happened():
    high, low = rolling.roll(toy(400.0), 0), rolling.roll(toy(400.0), 1)
    assert high.orders[0] == pytest.approx(low.orders[0])
    assert high.orders[0, 1, 0] == pytest.approx(4.0)


def test_porting_goes_on_where_it_stood():
    slow = toy(400.0, port_months=np.array([[0.0, 10.0]]), engineer_months=np.array([1.0, 1.0, 1.0]))
    later = rolling.advance(solve(slow), 0)
    assert later.engineer_months[0] == pytest.approx(2.0)
    assert later.quarters == ["2027Q1", "2027Q2"]
    assert later.orders[0].count == pytest.approx(solve(slow).order[0, 0, 1, 0])


def test_a_quota_of_buying_leaves_the_old_fleet_alone():
    """Both chips may be bought: the old one does twice the work at the same price, so without a quota only it is."""
    free = toy(400.0, can_arrive=np.ones((2, 3, 2), dtype=bool))
    assert solve(free).order[:, :, 1].sum() == pytest.approx(0.0, abs=1e-9)
    cap = ShareCap(label="quota", chips=np.array([True, False]), most=0.25, start=0, site=0, bought=True)
    plan = solve(replaced(free, share_caps=(cap,)))
    bought = plan.owned[0, -1, :, 0] - free.fleet[:, 0]
    assert bought[0] == pytest.approx(0.25 * bought.sum())
    assert bought[0] > 0 and not plan.broken
    assert plan.run[0, 0, 0, 0] == pytest.approx(10.0)  # the ten that were there go on
    assert any("quota" in item.text for item in words.bindings(plan, "CNY"))


def test_a_closed_site_receives_and_runs_nothing():
    two = toy(
        400.0, sites=["here", "there"], fleet=np.array([[10.0, 0.0], [0.0, 0.0]]), running_cost=np.zeros((3, 2, 2)),
        power_w=np.array([[400.0] * 2, [350.0] * 2]), site_power_w=np.full((3, 2), np.inf),
        site_servers=np.full((3, 2), np.inf), site_buy=np.stack([np.zeros((3, 2), bool), np.ones((3, 2), bool)], axis=2),
        site_run=np.ones((3, 2, 2), dtype=bool),
    )  # fmt: skip
    plan = solve(two)
    assert plan.cost == pytest.approx(500.0)
    assert plan.order[..., 0].sum() == pytest.approx(0.0, abs=1e-9)
    shut = two.site_run.copy()
    shut[1:, :, 1] = False
    assert solve(replaced(two, site_run=shut)).run[:, 1:, :, 1].max() == pytest.approx(0.0, abs=1e-9)


def test_regret_of_orders_that_the_ban_voids_with_two_sites():
    """Orders of a chip that may no longer arrive are void; with two sites the programme once had no solution."""
    sites = {
        "sites": ["here", "there"], "fleet": np.array([[10.0, 0.0], [0.0, 0.0]]), "running_cost": np.zeros((3, 2, 2)),
        "power_w": np.array([[400.0] * 2, [350.0] * 2]), "site_power_w": np.full((3, 2), np.inf),
        "site_servers": np.full((3, 2), np.inf), "most_order": np.full((3, 2), 50.0),
    }  # fmt: skip
    blind = toy(400.0, **sites)
    closed = blind.can_arrive.copy()
    closed[:, 1:, 1] = False
    assert analysis.regret(solve(replaced(blind, can_arrive=closed)), blind) == pytest.approx(0.0, abs=1e-6)
