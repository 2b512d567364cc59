"""How a study is answered: keys with units, economics, search, plan and training settings. Part of :mod:`offramp.app.study`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from offramp.core.document import quantity
from offramp.core.record import Record

Seconds = Annotated[float, quantity("s", "50 ms", gt=0.0)]
Watts = Annotated[float, quantity("W", "20 MW", gt=0.0)]
Share = Annotated[float, quantity("share", "10 %", ge=0.0, le=1.0)]
Money = Annotated[str, quantity("money", "110000 CNY", keep_text=True, ge=0.0)]
MoneyPerEnergy = Annotated[str, quantity("money/J", "0.40 CNY/kWh", keep_text=True, ge=0.0)]
MoneyPerTime = Annotated[str, quantity("money/s", "2.10 USD/h", keep_text=True, ge=0.0)]
Quarter = Annotated[str, Meta(pattern=r"^(19|20)\d\dQ[1-4]$", description="calendar quarter", examples=["2026Q4"])]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", description="letters, digits, . _ - /")]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(ge=0.0)]
Use = Literal["serve", "fine-tune", "pretrain", "all"]
SloKey = Literal[
    "ttft_mean", "ttft_p50", "ttft_p90", "ttft_p95", "ttft_p99",
    "tpot_mean", "tpot_p50", "tpot_p90", "tpot_p95", "tpot_p99",
    "itl_mean", "itl_p50", "itl_p90", "itl_p95", "itl_p99",
    "e2e_mean", "e2e_p50", "e2e_p90", "e2e_p95", "e2e_p99",
]  # fmt: skip


class Economics(Record):
    """[economics]: how cost is counted.

    Attributes:
        life_s: (key "life") straight-line amortisation.
        interest: per year, on the mean value still bound.
        residual: share of the price left at the end.
        duty: on imported chips, share of the price.
        tax: added to prices, share.
        network_share: price of switches, cables and storage over the price of servers.
        staff: money per time for the whole fleet.
        fx: units of the study's currency per unit of another ({ USD = 7.1 }); the catalogue's rate where absent.
        price_year: money of which year.
    """

    life_s: Seconds | None = field(name="life", default=None)
    interest: Share | None = None
    residual: Share | None = None
    duty: Share | None = None
    tax: Share | None = None
    network_share: Annotated[float, quantity("share", "15 %", ge=0.0)] | None = None
    staff: MoneyPerTime | None = None
    fx: dict[Annotated[str, Meta(pattern="^[A-Z]{3}$")], Annotated[float, Meta(gt=0.0)]] = {}
    price_year: Annotated[int, Meta(ge=2000, le=2100)] | None = None


class SearchSettings(Record):
    """[search]: how far layouts are looked for.

    Attributes:
        most_devices: largest replica, in torch devices; None takes what the system offers.
        simulate: how many of the best layouts are simulated on the trace.
        trace_requests: most requests of a trace that one simulation uses.
        engines: engine ids to consider; all that run on the chip where empty.
        disaggregate: also try prefill and decode on separate pools.
        speculate: also try the multi-token prediction that a checkpoint brings, with a published acceptance, where
            a workload states none.
        tps, pps, eps: degrees to try; powers of two where empty.
    """

    most_devices: Positive | None = None
    simulate: Annotated[int, Meta(ge=1, le=100)] = 3
    trace_requests: Annotated[int, Meta(ge=100)] = 20_000
    engines: tuple[str, ...] = ()
    disaggregate: bool = False
    speculate: bool = False
    tps: tuple[Positive, ...] = ()
    pps: tuple[Positive, ...] = ()
    eps: tuple[Positive, ...] = ()


class BudgetPoint(Record):
    """Most money in one quarter.

    Attributes:
        quarter: in which it can be spent.
        amount: money.
    """

    quarter: Quarter
    amount: Money


class Frozen(Record):
    """A purchase already decided.

    Attributes:
        chip: catalogue id.
        quarter: in which it is bought.
        count: chips (packages as sold).
        site: where to; the first one where absent.
    """

    chip: Id
    quarter: Quarter
    count: Count
    site: str = ""


class PlanSettings(Record):
    """[plan]: horizon and preferences of the plan.

    Attributes:
        start: first quarter; the one of ``as_of`` where absent.
        quarters: length of the horizon.
        scenarios: how many futures are drawn.
        discount: per year.
        cvar_weight: 0 looks at the mean, 1 at the tail only.
        cvar_tail: share of the worst futures that the tail holds.
        budget: most money by quarter.
        vendor_caps: most share of the fleet by vendor ({ nvidia = 0.5 }).
        engineers: how many port workloads at the same time.
        engineer_month: what a month of one of them costs; an assumed price where absent.
        rates: work that one chip does, measured by yourself, by workload and chip pattern: mean requests per second of a
            served model with peak and spares in it, tokens per second of a training run. It stands before the cost
            model, which prices the chips that are not named.
        committed: quarters whose orders are decided before knowing which future comes.
        rolling: futures in which the plan is carried out and solved again each quarter, so that no order knows them.
        support_life_s: (key "support_life") how long a chip keeps running after support ends.
        gap: near-optimal alternatives may cost this share more.
        frozen: purchases already decided.
        integer: buy whole lots instead of fractions.
        time_limit_s: (key "time_limit") of the solver.
    """

    start: Quarter | None = None
    quarters: Annotated[int, Meta(ge=1, le=60)] = 8
    scenarios: Annotated[int, Meta(ge=1, le=5000)] = 50
    discount: Share = 0.08
    cvar_weight: Share = 0.0
    cvar_tail: Annotated[float, quantity("share", "10 %", gt=0.0, le=1.0)] = 0.1
    budget: tuple[BudgetPoint, ...] = ()
    vendor_caps: dict[str, Share] = {}
    engineers: Annotated[float, Meta(ge=0.0)] | None = None
    engineer_month: Money | None = None
    rates: dict[Id, dict[str, Annotated[float, Meta(ge=0.0)]]] = {}
    committed: Annotated[int, Meta(ge=1, le=60)] = 2
    rolling: Annotated[int, Meta(ge=0, le=100)] = 0
    support_life_s: Seconds | None = field(name="support_life", default=None)
    gap: Share = 0.03
    frozen: tuple[Frozen, ...] = ()
    integer: bool = False
    time_limit_s: Seconds | None = field(name="time_limit", default=None)


class TrainSettings(Record):
    """[train]: reliability of training clusters, and what trying a chip is worth.

    Attributes:
        hazard_per_device_hour: unexpected stops; the catalogue's prior for the chip where absent.
        checkpoint_s: (key "checkpoint_interval"); the best one where absent.
        stall_s, lag_s: (keys "checkpoint_stall", "checkpoint_lag") training stands still for a checkpoint, and time until
            it is safe in storage while training goes on; assumed ones where absent.
        restart_s: (key "restart") from failure to training again.
        repair_s: (key "repair") until a failed node is back; an assumed one where absent.
        spares: share of the cluster kept as hot spares.
        elastic: goes on with fewer replicas when spares run out; otherwise it waits.
        slow_per_node_hour: nodes that turn slow without failing; 0 leaves them out.
        slow_factor, slow_notice_s: (key "slow_notice") step time while one is slow, and how long it goes unnoticed.
        corruption_per_device_hour: silent data corruption that reaches the weights; 0 leaves it out.
        corruption_notice_s: (key "corruption_notice") until it is noticed and training rolls back.
        framework: "megatron-bridge", "mindspeed" ...; the chip's usual one where absent.
        port_success, port_time_s: (key "port_time") chance that the run works there in the end, and work before it can
            start, by chip pattern ("huawei/*"); assumed ones by stage where absent.
        delay_cost: of the result, money per time; an assumed share of the cluster's cost where absent.
        option_value: what being able to train there afterwards is worth.
    """

    hazard_per_device_hour: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    checkpoint_s: Seconds | None = field(name="checkpoint_interval", default=None)
    stall_s: Seconds | None = field(name="checkpoint_stall", default=None)
    lag_s: Seconds | None = field(name="checkpoint_lag", default=None)
    restart_s: Seconds | None = field(name="restart", default=None)
    repair_s: Seconds | None = field(name="repair", default=None)
    spares: Share | None = None
    elastic: bool = True
    slow_per_node_hour: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    slow_factor: Annotated[float, Meta(ge=1.0, le=100.0)] | None = None
    slow_notice_s: Seconds | None = field(name="slow_notice", default=None)
    corruption_per_device_hour: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    corruption_notice_s: Seconds | None = field(name="corruption_notice", default=None)
    framework: str = ""
    port_success: dict[str, Share] = {}
    port_time_s: dict[str, Seconds] = field(name="port_time", default_factory=dict)
    delay_cost: MoneyPerTime | None = None
    option_value: Money | None = None
