"""examples/toy/plan.toml and changes of it, each solved by hand: the whole way from a study file to the answer.

Ten old chips do one unit of work a quarter each; a new chip does half a unit, costs 100, comes a quarter after its order
and loses half its value a quarter. Work not done costs 400 a unit. "Certain" is the toy with demand 10, 12, 14.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offramp.app.plan import Options, plan
from offramp.core.errors import InfeasibleError

TOY = Path(__file__).resolve().parents[2] / "examples" / "toy" / "plan.toml"
CERTAIN = (
    "scenario=[]",
    "plan.scenarios=1",
    'workload.chat.demand=[{quarter="2026Q4",mean_requests_per_s=10},{quarter="2027Q1",mean_requests_per_s=12},'
    '{quarter="2027Q2",mean_requests_per_s=14}]',
)
NEW = "huawei/ascend-910c"


def solved(*changes: str, **options: Any) -> dict[str, Any]:
    """The answer of the toy with some settings changed."""
    answer = plan(TOY, options=Options(**options), overrides=changes, keep=False).answer
    assert answer["solver"]["gap"] < 1e-9 and answer["solver"]["largest_residual"] < 1e-9
    return answer


def certain(*changes: str, **options: Any) -> dict[str, Any]:
    """The same with demand 10, 12, 14 in the only future."""
    return solved(*CERTAIN, *changes, **options)


def cost(answer: dict[str, Any]) -> float:
    return float(answer["cost"]["mean"])


def first_order(answer: dict[str, Any]) -> float:
    return sum(item["chips"] for item in answer["order_now"] if item["quarter"] == "2026Q4")


def supply(**keys: Any) -> str:
    """The toy's supply with other terms for the new chip."""
    said = ",".join(f"{name}={value}" for name, value in ({"lead_quarters": 1} | keys).items())
    return f'supply=[{{chip="nvidia/h20",most=0}},{{chip="{NEW}",{said}}}]'


def price(extra: str) -> str:
    return f'price=[{{chip="nvidia/h20",server_price="800 CNY"}},{{chip="{NEW}",server_price="800 CNY",{extra}}}]'


def test_the_toy_of_the_docs():
    answer = solved()
    assert (cost(answer), first_order(answer)) == (pytest.approx(500), pytest.approx(4))
    assert (answer["cost"]["p10"], answer["cost"]["p90"]) == (pytest.approx(400), pytest.approx(600))
    assert answer["waiting"]["ordering_now_saves"] == pytest.approx(100)
    cheap = solved("workload.chat.shortage_price=4")
    assert (cost(cheap), first_order(cheap)) == (pytest.approx(400), 0)


def test_certain_demand():
    """4 at 100 for the second quarter, 4 more at a net 50 for the third."""
    assert cost(certain()) == pytest.approx(600)


def test_budget():
    """200 in the second quarter buy 2 chips: one unit short (400), and 6 chips at 50 in the third."""
    answer = certain('plan.budget=[{quarter="2027Q1",amount="200 CNY"}]')
    assert cost(answer) == pytest.approx(200 + 400 + 300)


def test_lead_time():
    """Nothing comes before the third quarter: two units short in the second, 8 chips at 50 in the third."""
    assert cost(certain(supply(lead_quarters=2))) == pytest.approx(800 + 400)


@pytest.mark.parametrize(
    ("lot", "order", "total"),
    [
        (3, 6, 600 + 100),  # 6 now and 2 at 50; 3 now leave half a unit short: 300 + 200 + 250
        (8, 8, 800),  # none now: 800 + 400
    ],
)
def test_whole_lots(lot: int, order: float, total: float):
    answer = certain(supply(lot=lot), "plan.integer=true")
    assert (first_order(answer), cost(answer)) == (pytest.approx(order), pytest.approx(total))


def test_most_per_quarter():
    """3 a quarter: half a unit short in the second (200), 5 on hand would be needed more: 6 in the third, one unit short."""
    assert cost(certain(supply(most=3))) == pytest.approx(300 + 200 + 150 + 400)


def test_a_share_of_the_orders_arrives():
    """Half arrives and only what arrives is paid: twice the order, the same cost."""
    answer = certain(supply(probability=0.5))
    assert (first_order(answer), cost(answer)) == (pytest.approx(8), pytest.approx(600))


def test_porting():
    """One engineer-month a quarter of ten: a tenth of 12, then a fifth of 14, may lie on the new chip."""
    answer = certain(
        'workload.chat.port_engineer_months={"huawei/*"=10}',
        "plan.engineers=0.3333333333",
        'plan.engineer_month="0 CNY"',
    )
    assert cost(answer) == pytest.approx(2.4 * 100 + 0.8 * 400 + 3.2 * 50 + 1.2 * 400)


def test_engineers_are_paid():
    """14 units in the third quarter, 4 of them on the new chip: 2/7 of ten months at 7 CNY."""
    answer = certain('workload.chat.port_engineer_months={"huawei/*"=10}', 'plan.engineer_month="7 CNY"')
    assert cost(answer) == pytest.approx(600 + 7 * 10 * 4 / 14)


def test_space():
    """One server of eight: 8 old chips run, and buying does not help."""
    assert cost(certain("site.here.servers=1")) == pytest.approx(400 * (2 + 4 + 6))


@pytest.mark.parametrize(
    ("ban", "total"),
    [
        ("use:2027Q2", 400 + 24 * 50),  # 28 new chips carry all 14 units
        ("use:2027Q1", 24 * 100 + 4 * 50),
        ("2027Q1", 600),  # the old chip cannot be bought anyway
    ],
)
def test_bans(ban: str, total: float):
    assert cost(certain(ban=ban)) == pytest.approx(total)


@pytest.mark.parametrize(("scope", "total"), [("serve", 400 + 24 * 50), ("pretrain", 600)])
def test_scope_of_a_ban(scope: str, total: float):
    ban = f'scenario=[{{id="ban",probability=1,ban={{from="2027Q2",what="use",scope=["{scope}"]}}}}]'
    assert cost(certain(ban)) == pytest.approx(total)


@pytest.mark.parametrize(
    ("flat", "parts", "total"),
    [
        (False, {"keep": 4, "defer": 4, "cancel": 0}, 4 * 100 + 4 * 51),  # deferring costs 51, cancelling and buying 60
        (True, {"keep": 0, "defer": 0, "cancel": 8}, 8 * 9),
    ],
)
def test_open_orders(flat: bool, parts: dict[str, float], total: float):
    changes = ['workload.chat.demand=[{quarter="2026Q4",mean_requests_per_s=10}]'] if flat else []
    fee = 9 if flat else 10
    order = f'order=[{{chip="{NEW}",count=8,due="2027Q1",price="100 CNY",cancel_fee="{fee} %",defer_fee="1 %",site="here"}}]'
    answer = certain(*changes, order)
    assert {name: answer["open_orders"][0][name] for name in parts} == pytest.approx(parts, abs=1e-9)
    assert cost(answer) == pytest.approx(total)


def test_an_open_order_arrives_whole_or_not_at_all():
    """In half of the futures 4 chips come; in the others they do not, and it is too late to buy: two units short."""
    order = f'order=[{{chip="{NEW}",count=4,due="2027Q1",cancel_fee=1,delivery_probability=0.5}}]'
    answer = plan(TOY, overrides=[*CERTAIN, "plan.scenarios=2", supply(most=0), order], keep=False)
    arrives = [row for row in answer.tables["purchases"].dicts() if row["what"] == "arrives"]
    assert [(row["mean"], row["p10"], row["p90"]) for row in arrives] == [(pytest.approx(2), 0, pytest.approx(4))]


def test_vendor_cap():
    """In the third quarter at most half of what runs is old: 9 1/3 of each."""
    assert cost(certain("plan.vendor_caps={nvidia=0.5}")) == pytest.approx(400 + 50 * (28 / 3 - 4))


def test_tail():
    """Only the worse half counts: in the high future a chip now saves 0.5 x 200 and a net 50, so 4 are ordered."""
    answer = solved("workload.chat.shortage_price=4", "plan.cvar_weight=1", "plan.cvar_tail=0.5")
    assert first_order(answer) == pytest.approx(4)
    assert (answer["solver"]["objective"], cost(answer)) == (pytest.approx(600), pytest.approx(500))


def test_rent():
    """2191.5 hours a quarter at 0.01: 4 rented in the second; 4 rented and 4 bought at 50 in the third."""
    each = 2191.5 * 0.01
    answer = certain(price('rent="0.01 CNY/h",rent_most=4'))
    assert cost(answer) == pytest.approx(4 * each + 4 * each + 4 * 50)


def test_frozen():
    assert cost(certain(f'plan.frozen=[{{chip="{NEW}",quarter="2026Q4",count=6}}]')) == pytest.approx(600 + 2 * 50)


def test_retire():
    falls = 'workload.chat.demand=[{quarter="2026Q4",mean_requests_per_s=10},{quarter="2027Q1",mean_requests_per_s=5}]'
    answer = solved("scenario=[]", "plan.scenarios=1", falls, 'site.here.power_price="0.1 CNY/kWh"')
    assert [(item["quarter"], item["chips"]) for item in answer["retire"]] == [("2027Q1", pytest.approx(5))]


def test_solved_again_each_quarter():
    """Without knowing the future, a chip for the third quarter is worth 0.5 x 0.5 x 400 = 100 > 50: 4 are ordered, which
    the low future does not need: 600 in both, not 600 and 400."""
    found = solved("plan.rolling=2")["rolling"]
    assert (found["cost_planned"], found["cost_rolled"]) == (pytest.approx(500), pytest.approx(600))
    assert found["short_rolled"] == pytest.approx(0)


GROWS = 'workload.chat.demand=[{quarter="2026Q4",mean_requests_per_s=10},{quarter="2027Q2",mean_requests_per_s=40}]'


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((GROWS, supply(most=3)), r"work \(2027Q2 chat\); nvidia/h20: 10 owned, none can be ordered.*at most 6 more can be"),
        (
            (GROWS, 'candidates.chips=["nvidia/h200"]', 'plan.rates.chat={"nvidia/*"=1}'),
            r"h200: 0 owned, a rule or ban lets no more in by 2027Q2 \(buy: prohibited by CN-H200-CUSTOMS-2026",
        ),
        ((supply(lead_quarters=2),), r"910c: 0 owned, an order takes 2 quarters"),
        (
            ('plan.budget=[{quarter="2027Q1",amount="200 CNY"}]',
             f'plan.frozen=[{{chip="{NEW}",quarter="2026Q4",count=9}}]'),
            r"budget \(2027Q1\); frozen order of 9 huawei/ascend-910c in 2026Q4",
        ),
    ],
)  # fmt: skip
def test_strict_names_rules_and_rows(changes: tuple[str, ...], words: str):
    with pytest.raises(InfeasibleError, match=words):
        certain(*changes, strict=True)


def test_the_past_and_unknown_names():
    order = f'order=[{{chip="{NEW}",count=4,due="2026Q1",cancel_fee=1,defer_fee=1}}]'
    answer = certain(order)
    assert answer["open_orders"][0]["keep"] == pytest.approx(4)
    with pytest.raises(Exception, match='unknown workload "chta"'):
        certain('plan.rates.chta={"nvidia/*"=1}')
