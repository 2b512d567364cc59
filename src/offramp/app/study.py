"""Study: the one TOML file that holds the question. Records only; :mod:`offramp.app.studyfile` reads them.

Quantities are text with a unit in the file ("20 MW") and SI floats in the record (``power_w``); money keeps its
text, because its currency must survive. Every table refuses unknown keys.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from offramp.app.study_settings import (
    Count,
    Economics,
    Id,
    Money,
    MoneyPerEnergy,
    MoneyPerTime,
    PlanSettings,
    Positive,
    Quarter,
    Rate,
    SearchSettings,
    Seconds,
    Share,
    SloKey,
    TrainSettings,
    Use,
    Watts,
)  # fmt: skip
from offramp.core.record import Record


class Header(Record):
    """[study]: what the question is called and from when it is asked.

    Attributes:
        name: shown at the top of every answer.
        as_of: facts dated or known later are not used; today's knowledge where absent.
        currency: money is shown in it.
        seed: master seed of every random stream.
        include: other TOML files that this one builds on; its own keys win over theirs.
        notes: free text, carried into the report.
    """

    name: Annotated[str, Meta(min_length=1)]
    as_of: dt.date | None = None
    currency: Literal["USD", "CNY", "EUR", "GBP", "JPY", "HKD", "KRW", "TWD", "INR", "SGD"] = "USD"
    seed: Annotated[int, Meta(ge=0)] = 0
    include: tuple[str, ...] | str = ()
    notes: str = ""


class Organisation(Record):
    """[organisation]: decides which rules bind.

    Attributes:
        headquarters: ISO country code of the ultimate parent; rules, supply and routes depend on it, so none is taken
            where it is absent: a plan asks for it, other commands say that no rule was applied.
        kind: who owns or funds it.
        owners: country codes of owners of half or more, where they differ from the headquarters.
        military: a military end user, or listed as one.
        routes: how chips can be bought, best first.
    """

    headquarters: Annotated[str, Meta(pattern=r"^[A-Z]{2}$")] = ""
    kind: Literal["private", "state-owned", "state-funded", "university"] = "private"
    owners: tuple[Annotated[str, Meta(pattern=r"^[A-Z]{2}$")], ...] = ()
    military: bool = False
    routes: tuple[Literal["direct", "re-export", "rental-abroad", "grey-market"], ...] = ("direct",)


class Site(Record):
    """[[site]]: a place with power.

    Attributes:
        id: name that fleets and orders refer to.
        country: ISO code; the headquarters' where absent.
        power_price: of electricity, money per energy; an assumed one, marked so, where absent.
        pue: facility power over IT power; an assumed one, marked so, where absent.
        power_w: (key "power") most facility power that accelerators with their servers may draw; None is no limit.
        servers: most servers that there is space for; None is no limit.
        space_price: rent of one server's place, money per time.
        place: province or city in lower case, for local rules ("shanghai"); the id where absent.
        completion: share of a project built when a rule asks for it (0-1).
        opened: date from which it can be used.
    """

    id: Id
    country: Annotated[str, Meta(pattern=r"^[A-Z]{2}$")] = ""
    power_price: MoneyPerEnergy | None = None
    pue: Annotated[float, Meta(ge=1.0, le=5.0)] | None = None
    power_w: Watts | None = field(name="power", default=None)
    servers: Count | None = None
    space_price: MoneyPerTime | None = None
    place: str = ""
    completion: Share | None = None
    opened: Quarter | None = None


class Fleet(Record):
    """[[fleet]]: chips that are there today.

    Attributes:
        chip: catalogue id.
        count: chips (packages as sold), not servers.
        site: id of a site; the first one where absent.
        bought: quarter in which it was bought, for what is left of its value.
        use: what it may be used for.
        state_funded: bought with public money.
    """

    chip: Id
    count: Count
    site: str = ""
    bought: Quarter | None = None
    use: Use = "all"
    state_funded: bool = False


class DemandPoint(Record):
    """Demand in one quarter; between stated quarters it is interpolated geometrically, after the last it stays.

    Attributes:
        quarter: "2026Q4".
        mean_requests_per_s: mean over the quarter.
        low, high: 10th and 90th percentile of that mean, for plans under uncertainty.
    """

    quarter: Quarter
    mean_requests_per_s: Rate
    low: Rate | None = None
    high: Rate | None = None


class Synthetic(Record):
    """[workload.synthetic]: traffic made from published statistics instead of a trace.

    Attributes:
        preset: named set of lengths and arrivals (an unknown name lists those that exist); keys below override it.
        requests: how many to generate.
        arrivals: poisson, gamma bursts, or uniform.
        cv: coefficient of variation of gaps between arrivals (gamma).
        isl_mean, osl_mean: mean input and output tokens.
        isl_cv, osl_cv: standard deviation over mean (lognormal).
        prefix_share: share of input tokens that are a prefix shared with earlier requests.
    """

    preset: str = ""
    requests: Annotated[int, Meta(ge=1, le=50_000_000)] = 8000
    arrivals: Literal["poisson", "gamma", "uniform"] | None = None
    cv: Annotated[float, Meta(gt=0.0, le=20.0)] | None = None
    isl_mean: Annotated[float, Meta(ge=1.0)] | None = None
    osl_mean: Annotated[float, Meta(ge=1.0)] | None = None
    isl_cv: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    osl_cv: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    prefix_share: Share | None = None


class Availability(Record):
    """Head-room that is bought on purpose.

    Attributes:
        spare_replicas: replicas beyond those that carry the peak.
        min_replicas: never fewer than this, spares included.
    """

    spare_replicas: Count = 0
    min_replicas: Positive = 1


class Workload(Record):
    """[[workload]]: one model served, or one training run.

    Attributes:
        id: name, unique in the study.
        kind: serve, or train.
        model: preset id, or path of a config.json or its folder.
        stage: for rules and plans; "serve" for serving, else what kind of training.
        trace: (serve) file of requests.
        synthetic: (serve) generated requests; give this or ``trace``.
        demand: (serve) mean requests per second by quarter.
        peak_to_mean: (serve) peak of the rate that must be carried, over its mean; from the trace where absent.
        availability: (serve) spares and minimum replicas.
        slo: (serve) limits on mean or percentile of ttft, tpot, itl, e2e.
        spec_accept: (serve) mean accepted draft tokens per step of speculative decoding; 0 is off.
        dtypes: weight precisions that are acceptable; all that a chip supports where empty.
        tokens: (train) training tokens.
        deadline_s: (train; key "deadline") time to finish in.
        sequence_tokens, batch_tokens: (train) sequence length and global batch.
        chips: (train) cluster size to judge; searched where absent.
        start: (train) quarter in which the run starts.
        dtype: (train) "bf16" or "fp8"; the best supported where absent.
        shortage_price: what unserved demand costs, as a multiple of the baseline's cost of serving it.
        port_engineer_months: work to move it to another vendor's chips, by chip pattern ("huawei/*").
        state_funded: runs for a state-funded project, which rules may single out.
        may_move: false pins it to the chips that it runs on today.
    """

    id: Id
    kind: Literal["serve", "train"]
    model: Annotated[str, Meta(min_length=1)]
    stage: Use | None = None
    trace: str = ""
    synthetic: Synthetic | None = None
    demand: tuple[DemandPoint, ...] = ()
    peak_to_mean: Annotated[float, Meta(ge=1.0, le=1000.0)] | None = None
    availability: Availability = Availability()
    slo: dict[SloKey, Seconds] = {}
    spec_accept: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    dtypes: tuple[Literal["bf16", "fp16", "fp8", "int8", "int4", "fp4", "mxfp4", "nvfp4"], ...] = ()
    tokens: Annotated[float, Meta(gt=0.0)] | None = None
    deadline_s: Seconds | None = field(name="deadline", default=None)
    sequence_tokens: Positive | None = None
    batch_tokens: Positive | None = None
    chips: Positive | None = None
    start: Quarter | None = None
    dtype: Literal["bf16", "fp8"] | None = None
    shortage_price: Annotated[float, Meta(ge=0.0)] | None = None
    port_engineer_months: dict[str, Annotated[float, Meta(ge=0.0)]] = {}
    state_funded: bool = False
    may_move: bool = True


class Order(Record):
    """[[order]]: an open order, which can be kept, deferred or cancelled.

    Attributes:
        chip, count: what was ordered.
        due: quarter of delivery.
        cancel_fee: share of the price lost on cancelling.
        defer_fee: share of the price paid per quarter of delay.
        delivery_probability: chance that it arrives at all: whole in so many of the futures, not at all in the others.
        site: where it goes.
        price: of one chip with its share of the server; today's price of the plan where absent.
    """

    chip: Id
    count: Positive
    due: Quarter
    cancel_fee: Share = 0.0
    defer_fee: Share = 0.0
    delivery_probability: Share = 1.0
    site: str = ""
    price: Money | None = None


class Candidates(Record):
    """[candidates]: what is compared.

    Attributes:
        baseline: the chip in use.
        chips: chips that could replace it.
        quarter: demand of this quarter heads the answer; the first stated one where absent.
    """

    baseline: Id
    chips: tuple[Id, ...] = ()
    quarter: Quarter | None = None


class Ban(Record):
    """One ban of a scenario; hypothetical, and marked so wherever it shows.

    Attributes:
        from_quarter: (key "from") first quarter in which it holds.
        until: first quarter in which it no longer holds.
        what: buy, use, or support (drivers, repairs).
        scope: which stages it touches.
        chips: catalogue id patterns.
        state_funded_only: touches only state-funded workloads and fleets.
    """

    from_quarter: Quarter = field(name="from")
    until: Quarter | None = None
    what: Literal["buy", "use", "support"] = "buy"
    scope: tuple[Use, ...] = ("all",)
    chips: tuple[str, ...] = ("nvidia/*",)
    state_funded_only: bool = False


class Scenario(Record):
    """[[scenario]]: a future to plan for.

    Attributes:
        id: name.
        probability: weight beside the other scenarios; equal where none has one.
        ban: one ban or several.
        supply: factor on the supply of chips, by pattern.
        demand: factor on the demand of every workload, from the start or from stated quarters on ({ 2027Q1 = 1.2 }).
        price: factor on chip prices, by pattern.
    """

    id: Id
    probability: Share | None = None
    ban: tuple[Ban, ...] | Ban = ()
    supply: dict[str, Annotated[float, Meta(ge=0.0)]] = {}
    demand: Annotated[float, Meta(ge=0.0)] | dict[Quarter, Rate] = 1.0
    price: dict[str, Annotated[float, Meta(ge=0.0)]] = {}

    @property
    def bans(self) -> tuple[Ban, ...]:
        """All bans of the scenario."""
        return (self.ban,) if isinstance(self.ban, Ban) else self.ban


class Price(Record):
    """[[price]]: what this organisation pays; wins over the catalogue.

    Attributes:
        chip: catalogue id.
        chip_price: of one chip (package).
        server_price: of a whole server with its chips; wins over ``chip_price``.
        rent: of one chip.
        rent_route: whether the rent is at home or abroad.
        rent_most: most chips that can be rented at a time; an assumed number where absent.
        quarter: from when it holds.
    """

    chip: Id
    chip_price: Money | None = None
    server_price: Money | None = None
    rent: MoneyPerTime | None = None
    rent_route: Literal["home", "abroad"] = "home"
    rent_most: Count | None = None
    quarter: Quarter | None = None


class Supply(Record):
    """[[supply]]: what this organisation can get; wins over the modelled supply.

    Attributes:
        chip: catalogue id or pattern.
        quarter: from when it holds.
        most: most chips per quarter; None is no limit.
        lead_quarters: from order to delivery.
        lot: chips come in multiples of this (servers).
        probability: share of what is ordered that arrives.
        route: by which route.
    """

    chip: str
    quarter: Quarter | None = None
    most: Count | None = None
    lead_quarters: Count = 1
    lot: Positive | None = None
    probability: Share = 1.0
    route: Literal["direct", "re-export", "rental-abroad", "grey-market"] = "direct"


class Study(Record):
    """A whole study file."""

    study: Header
    organisation: Organisation = Organisation()
    site: tuple[Site, ...] = ()
    fleet: tuple[Fleet, ...] = ()
    workload: tuple[Workload, ...] = ()
    order: tuple[Order, ...] = ()
    candidates: Candidates | None = None
    scenario: tuple[Scenario, ...] = ()
    price: tuple[Price, ...] = ()
    supply: tuple[Supply, ...] = ()
    economics: Economics = Economics()
    search: SearchSettings = SearchSettings()
    plan: PlanSettings = PlanSettings()
    train: TrainSettings = TrainSettings()

    def workloads_of(self, kind: Literal["serve", "train"]) -> tuple[Workload, ...]:
        """The workloads of one kind, in the order of the file."""
        return tuple(work for work in self.workload if work.kind == kind)

    def site_of(self, name: str) -> Site:
        """The site of that id; the first one, or a default one, where ``name`` is empty."""
        for site in self.site:
            if site.id == name or not name:
                return site
        return Site(id=name or "default")


class StudyFile(msgspec.Struct, frozen=True, kw_only=True):
    """A study and the files it came from.

    Attributes:
        study: the record.
        path: the file that the user named.
        inputs: content of every file read, by path as shown; hashed into the Result.
    """

    study: Study
    path: Path
    inputs: dict[str, bytes]
