"""From a study to the arrays of a plan: chips, sites, orders, prices, supply, rules and scenarios."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.app.economics import Ledger
from offramp.app.plan_prices import prices
from offramp.app.plan_rules import BLOCKED, Allowed, allowed
from offramp.app.plan_work import QUARTER_S, Work
from offramp.app.rollup import host_power
from offramp.app.study import Scenario, Site, Study, Workload
from offramp.catalog import Chip
from offramp.core.errors import InputError
from offramp.core.figure import Figure
from offramp.core.quarters import parse_quarter, quarter_name, quarter_of
from offramp.core.result import Notice
from offramp.core.seeds import derive_seed
from offramp.cost.hardware import system_of
from offramp.plan.problem import OpenOrder, PlanProblem, ShareCap
from offramp.supply.buyer import Buyer, Obtainable, buyer_figures, obtainable
from offramp.supply.facts import load as load_supply
from offramp.supply.model import SupplyDraws, simulate

F8 = npt.NDArray[np.floating[Any]]
FIRST_SUPPLY: Final = dt.date(2025, 6, 1)
FOREIGN: Final = ("nvidia/*", "amd/*", "intel/*", "google/*", "aws/*")
RENTAL_MOST: Final = 10_000.0
"""Most chips of a kind that can be rented at home; abroad, the share that the route lets through of it."""


@dataclass
class Setting:
    """Everything that is looked up once for a plan.

    Attributes:
        origin: country of each chip's designer.
        futures: scenario of the study behind each drawn scenario; None is "nothing changes". [S]
    """

    study: Study
    ledger: Ledger
    chips: list[Chip]
    origin: dict[str, str]
    quarters: list[int]
    futures: list[Scenario | None]
    weight: F8
    works: list[Work] = field(default_factory=list)
    allowed: Allowed | None = None
    obtained: Obtainable | None = None

    @property
    def ids(self) -> list[str]:
        """Chip ids."""
        return [chip.id for chip in self.chips]

    @property
    def names(self) -> list[str]:
        """Quarter names."""
        return [quarter_name(index) for index in self.quarters]

    def note(self, kind: str, text: str, where: str = "") -> None:
        """Adds a notice."""
        self.ledger.notices.append(Notice(kind=kind, text=text, where=where))

    def judged(self, name: str) -> Figure:
        """A judgement about the buyer, noted as used."""
        return self.ledger.log.use(f"supply/buyer#{name}", buyer_figures()[name])


def horizon(study: Study) -> list[int]:
    """Quarter indices of the plan.

    Raises:
        InputError: it starts before the study's own date.
    """
    day = study.study.as_of
    start = parse_quarter(study.plan.start) if study.plan.start else quarter_of(day) if day else None
    if start is None:
        points = [parse_quarter(point.quarter) for work in study.workload for point in work.demand]
        if not points:
            raise InputError("the plan has no start", where="$.plan.start", mend='Give it, or as_of, as "2026Q4".')
        start = min(points)
    if day and start < quarter_of(day):
        raise InputError(f"the plan starts before as_of {day}", where="$.plan.start")
    return list(range(start, start + study.plan.quarters))


def futures(study: Study, draws: int) -> tuple[list[Scenario | None], F8]:
    """The study's scenario of each draw and the draws' weights.

    Scenarios with probabilities leave the rest to "nothing changes"; without any, they and "nothing changes" are
    equally likely.
    """
    listed: list[tuple[Scenario | None, float]] = []
    stated = [s.probability for s in study.scenario if s.probability is not None]
    rest = max(0.0, 1.0 - sum(stated))
    unstated = [s for s in study.scenario if s.probability is None]
    share = rest / (len(unstated) + (0 if stated and not unstated else 1)) if unstated else 0.0
    listed += [(s, share if s.probability is None else s.probability) for s in study.scenario]
    left = rest - share * len(unstated)
    if left > 1e-9 or not listed:
        listed.append((None, left if listed else 1.0))
    listed = [(scenario, p) for scenario, p in listed if p > 0]
    if draws < len(listed):
        raise InputError(f"{draws} scenarios for {len(listed)} futures", where="--scenarios", mend="Ask for more.")
    counts = [max(1, round(p * draws)) for _, p in listed]
    while sum(counts) > draws:
        counts[counts.index(max(counts))] -= 1
    while sum(counts) < draws:
        counts[max(range(len(counts)), key=lambda i: listed[i][1] / counts[i])] += 1
    total = sum(p for _, p in listed)
    picked = [scenario for (scenario, _), count in zip(listed, counts, strict=True) for _ in range(count)]
    weight = np.concatenate([np.full(n, p / total / n) for (_, p), n in zip(listed, counts, strict=True)])
    return picked, weight


def chip_ids(study: Study, ledger: Ledger) -> list[Chip]:
    """Every chip of the fleet, the orders and the candidates, once, the baseline first."""
    candidates = study.candidates
    named = [candidates.baseline, *candidates.chips] if candidates else []
    named += [entry.chip for entry in (*study.fleet, *study.order)]
    return list({chip.id: chip for chip in map(ledger.catalog.chip, named)}.values())


def build(setting: Setting, *, strict: bool = False) -> PlanProblem:
    """The plan's arrays, before the bans of the study's scenarios.

    Raises:
        InputError: a chip has no price, a pattern or quarter is wrong.
    """
    study, chips = setting.study, setting.chips
    s, q, c, w = len(setting.futures), len(setting.quarters), len(chips), len(setting.works)
    sites = list(study.site) or [Site(id="default")]
    setting.allowed = allowed(study, setting.ids, setting.quarters, setting.ledger.log, sites)
    setting.ledger.notices.extend(setting.allowed.notices)
    lead, lot, most, fill, factor = _supply(setting)
    listed = prices(setting, [_per_server(setting, chip) for chip in chips])
    price = listed * factor
    power, running = _running(setting, sites)
    anywhere = setting.allowed.operate.any(axis=2)
    operate = np.stack([
        setting.allowed.operate_state if work.state_funded else anywhere for work in _ordered(setting)
    ], axis=2)  # fmt: skip
    works = _ordered(setting)
    families = list(dict.fromkeys(chip.id.split("/")[0] for chip in chips))
    family = np.asarray([families.index(chip.id.split("/")[0]) for chip in chips])
    months, ported = _porting(setting, works, families)
    engineers = study.plan.engineers
    fleet, survival = _fleet(setting, sites)
    rent, most_rent = _rent(setting)
    life = setting.ledger.terms().life_years * 4.0
    return PlanProblem(
        quarters=setting.names, chips=setting.ids, workloads=[work.id for work in works],
        sites=[site.id for site in sites], scenarios=_scenario_names(setting), families=families,
        weight=setting.weight, productivity=np.stack([work.productivity for work in setting.works], axis=2),
        demand=np.stack([work.demand for work in setting.works], axis=2) * _demand_factor(setting)[:, :, None],
        shortage_price=_shortage(setting, works, price, running, life), fleet=fleet, survival=survival,
        life_quarters=np.full(c, life), price=price, lead=lead, lot=lot, fill=fill, most_order=most,
        can_arrive=np.broadcast_to(setting.allowed.buy.any(axis=2), (s, q, c)).copy(),
        site_buy=setting.allowed.buy, site_run=setting.allowed.operate | setting.allowed.operate_state[:, :, None],
        can_use=np.broadcast_to(operate, (s, q, c, w)).copy() & _may_move(setting, works),
        serviceable=np.ones((s, q, c)), rent=rent, most_rent=most_rent, running_cost=running, power_w=power,
        site_power_w=_site_limit(setting, sites, "power_w"), site_servers=_site_limit(setting, sites, "servers"),
        chips_per_server=np.asarray([_per_server(setting, chip) for chip in chips], dtype=np.float64), family=family,
        ported=ported, port_months=months,
        engineer_months=np.full(q, np.inf if engineers is None else 3.0 * engineers),
        engineer_month_price=_engineer_price(setting), orders=_open_orders(setting, sites, listed),
        share_caps=(*_vendor_caps(setting, families, family), *setting.allowed.caps), frozen=_frozen(setting),
        budget=_budget(setting), discount=(1.0 + study.plan.discount) ** 0.25 - 1.0,
        commit=study.plan.committed,
        cvar_weight=study.plan.cvar_weight, cvar_tail=study.plan.cvar_tail, integer=study.plan.integer, strict=strict,
        because=_because(setting),
    )  # fmt: skip


def _because(setting: Setting) -> dict[str, str]:
    """Rules that close each chip's purchase or use at some time."""
    found: dict[str, str] = {}
    for row in setting.allowed.rows if setting.allowed else ():
        if row["verdict"] in BLOCKED:
            found[str(row["chip"])] = (
                f"{row['act']}: {row['verdict']} by {str(row['rules']).split(', ')[0]} from {row['from']}"
            )
    return found


def _ordered(setting: Setting) -> list[Workload]:
    by_id = {work.id: work for work in setting.study.workload}
    return [by_id[work.id] for work in setting.works]


def _scenario_names(setting: Setting) -> list[str]:
    return [f"{future.id if future else 'as-is'}#{i}" for i, future in enumerate(setting.futures)]


def _demand_factor(setting: Setting) -> F8:
    """Factor on all demand. [S, Q]"""
    found = np.ones((len(setting.futures), len(setting.quarters)))
    for row, future in enumerate(setting.futures):
        stated = 1.0 if future is None else future.demand
        if isinstance(stated, dict):
            for quarter, times in sorted(stated.items()):
                found[row, np.asarray(setting.quarters) >= parse_quarter(quarter)] = times
        else:
            found[row] = stated
    return found


def _per_server(setting: Setting, chip: Chip) -> int:
    system = system_of(setting.ledger.catalog, chip)
    return system.packages_per_node if system else 8


def _supply(setting: Setting) -> tuple[npt.NDArray[np.int64], F8, F8, F8, F8]:
    """Lead [C], lot [C], most per quarter [Q, C], share that arrives [S, Q, C] by quarter of order, price factor."""
    study, ids = setting.study, setting.ids
    s, q, c = len(setting.futures), len(setting.quarters), len(ids)
    home = study.organisation.headquarters
    lead = np.asarray([
        math.ceil(setting.judged("lead_domestic" if setting.origin[chip] == "CN" else "lead_foreign").value / 3.0)
        for chip in ids
    ])  # fmt: skip
    lot = np.asarray([float(_per_server(setting, chip)) for chip in setting.chips])
    most = np.full((q, c), np.inf)
    fill, factor = np.ones((s, q, c)), np.ones((s, q, c))
    day = study.study.as_of or dt.date(2026, 11, 23)
    if day >= FIRST_SUPPLY and home == "CN":
        found = _market(setting, day)
        setting.obtained = found
        share = setting.judged("market_share").value
        market = np.median(found.market, axis=0) * share
        most = np.where(np.isnan(market), np.inf, market)
        fill, factor = found.fill.copy(), found.price_factor
    else:
        setting.note("supply", "supply is not rationed here: only China from June 2025 is modelled")
    for entry in study.supply:
        hit = [i for i, chip in enumerate(ids) if fnmatchcase(chip, entry.chip)]
        after = np.asarray(setting.quarters) >= (parse_quarter(entry.quarter) if entry.quarter else 0)
        for i in hit:
            lead[i] = entry.lead_quarters
            lot[i] = entry.lot or lot[i]
            most[after, i] = np.inf if entry.most is None else entry.most
            fill[:, after, i] = entry.probability
    arrival = np.minimum(np.arange(q)[:, None] + lead[None, :], q - 1)
    fill = fill[:, arrival, np.arange(c)[None, :]]
    for row, future in enumerate(setting.futures):
        for pattern, times in (future.supply if future else {}).items():
            for i, chip in enumerate(ids):
                if fnmatchcase(chip, pattern):
                    fill[row, :, i] = np.minimum(fill[row, :, i] * times, 1.0)
    return lead, lot, most, fill, factor


def _market(setting: Setting, day: dt.date) -> Obtainable:
    data, log = load_supply(), setting.ledger.log
    seed, draws = setting.study.study.seed, len(setting.futures)
    last = quarter_name(max(setting.quarters[-1] // 4 * 4 + 3, parse_quarter("2027Q4")))
    drawn: SupplyDraws = simulate(data, day, draws=max(draws, 10), seed=seed, last=last, log=log)
    grey = "grey-market" in setting.study.organisation.routes
    found = obtainable(data, drawn, setting.ids, setting.names, buyer=Buyer(grey=grey, seed=seed), log=log)
    keep = slice(0, draws)
    for chip in found.unknown:
        setting.note("supply", "no supply figures: every order is taken to arrive", chip)
    return Obtainable(
        quarters=found.quarters, chips=found.chips, fill=found.fill[keep], price_factor=found.price_factor[keep],
        market=found.market[keep], unknown=found.unknown,
    )  # fmt: skip


def _running(setting: Setting, sites: Sequence[Site]) -> tuple[F8, F8]:
    """Nameplate facility power of a chip [C, X]; money for a chip that runs a quarter [Q, C, X]."""
    ledger = setting.ledger
    q, c = len(setting.quarters), len(setting.chips)
    power, cost = np.zeros((c, len(sites))), np.zeros((q, c, len(sites)))
    typical = np.full(c, np.nan)
    for work in setting.works:
        typical = np.fmax(typical, work.power_w)
    for k, chip in enumerate(setting.chips):
        system = system_of(ledger.catalog, chip)
        span = chip.admissible("tdp", ledger.log)
        found = chip.figure("tdp", setting.study.study.as_of, ledger.log)
        tdp = found.si if found else float(np.sqrt(span[0] * span[1])) if span else 500.0
        if not found:
            setting.note("assumed-figure", f"no sourced power: {tdp:.0f} W a chip is taken", chip.id)
        host = host_power(system, ledger) / max(_per_server(setting, chip), 1)
        for x, site in enumerate(sites):
            power[k, x] = (tdp + host) * ledger.pue(site)
            mean = typical[k] if np.isfinite(typical[k]) else 0.6 * power[k, x]
            energy = min(mean, power[k, x]) * ledger.power_price(site) * QUARTER_S
            extras = ledger.extras_per_s(1, 0, site) + _space(ledger, site) / max(_per_server(setting, chip), 1)
            cost[:, k, x] = energy + extras * QUARTER_S
    return power, cost


def _space(ledger: Ledger, site: Site) -> float:
    return ledger.amount(site.space_price, "money/s") if site.space_price else 0.0


def _site_limit(setting: Setting, sites: Sequence[Site], name: str) -> F8:
    rows = np.full((len(setting.quarters), len(sites)), np.inf)
    for x, site in enumerate(sites):
        value = getattr(site, name)
        if value is not None:
            rows[:, x] = float(value)
        if site.opened:
            rows[np.asarray(setting.quarters) < parse_quarter(site.opened), x] = 0.0
    return rows


def _fleet(setting: Setting, sites: Sequence[Site]) -> tuple[F8, F8]:
    """Chips at the start [C, X] and the share of them still within life [Q, C]."""
    fleet = np.zeros((len(setting.chips), len(sites)))
    names = [site.id for site in sites]
    left = np.zeros((len(setting.quarters), len(setting.chips)))
    life = setting.ledger.terms().life_years * 4.0
    for entry in setting.study.fleet:
        k = setting.ids.index(setting.ledger.catalog.chip(entry.chip).id)
        fleet[k, names.index(entry.site) if entry.site in names else 0] += entry.count
        ends = parse_quarter(entry.bought) + life if entry.bought else math.inf
        left[:, k] += entry.count * (np.asarray(setting.quarters) < ends)
    return fleet, np.where(fleet.sum(axis=1) > 0, left / np.maximum(fleet.sum(axis=1), 1e-9), 1.0)


def _rent(setting: Setting) -> tuple[F8, F8]:
    """Rent of a chip for a quarter [Q, C] and most that can be rented [S, Q, C]: only where the study prices it."""
    s, q, c = len(setting.futures), len(setting.quarters), len(setting.chips)
    rent, most = np.full((q, c), np.inf), np.zeros((s, q, c))
    for price in setting.study.price:
        if price.rent:
            k = setting.ids.index(setting.ledger.catalog.chip(price.chip).id)
            after = np.asarray(setting.quarters) >= (parse_quarter(price.quarter) if price.quarter else 0)
            rent[after, k] = setting.ledger.amount(price.rent, "money/s") * QUARTER_S
            share = np.ones(s)
            if price.rent_route == "abroad":
                share = _share_abroad(setting, s)
            limit = RENTAL_MOST if price.rent_most is None else float(price.rent_most)
            most[:, after, k] = (limit * share)[:, None]
    return rent, most


def _share_abroad(setting: Setting, draws: int) -> F8:
    """Share of wanted capacity that can be rented outside the country. [S]"""
    from offramp.supply.buyer import rental_abroad
    from offramp.supply.sample import draw

    rng = np.random.default_rng(derive_seed(setting.study.study.seed, "rental abroad"))
    return draw(rental_abroad(setting.ledger.log), rng, draws)


def _porting(setting: Setting, works: list[Workload], families: list[str]) -> tuple[F8, F8]:
    """Engineer-months to move each workload to each vendor, and where it runs already. [W, F] each"""
    months, ported = np.zeros((len(works), len(families))), np.zeros((len(works), len(families)))
    candidates = setting.study.candidates
    home = setting.ledger.catalog.chip(candidates.baseline).id.split("/")[0] if candidates else families[0]
    judged: list[str] = []
    for row, work in enumerate(works):
        for column, family in enumerate(families):
            ported[row, column] = 1.0 if family == home else 0.0
            stated = [v for pattern, v in work.port_engineer_months.items() if fnmatchcase(f"{family}/x", pattern)]
            if stated:
                months[row, column] = stated[0]
            elif family != home:
                months[row, column] = setting.judged("port_serve" if work.kind == "serve" else "port_train").value
                judged.append(work.id)
    if judged and setting.study.plan.engineers is not None:
        names = ", ".join(dict.fromkeys(judged))
        setting.note("assumed-figure", "no port_engineer_months is given: assumed ones are used", names)
    if setting.study.plan.engineers is None:
        setting.note("porting", "[plan] engineers is not given: porting takes time only through its cost")
    return np.where(ported >= 1.0, 0.0, months), ported


def _may_move(setting: Setting, works: list[Workload]) -> npt.NDArray[np.bool_]:
    home = setting.ids[0].split("/")[0]
    stays = np.asarray([chip.split("/")[0] == home for chip in setting.ids])
    return np.stack([np.ones_like(stays) if work.may_move else stays for work in works], axis=1)[None, None]


def _engineer_price(setting: Setting) -> float:
    stated = setting.study.plan.engineer_month
    if stated is not None:
        return setting.ledger.amount(stated, "money")
    figure = setting.judged("engineer_month")
    return figure.value * setting.ledger.rate("CNY")


def _shortage(setting: Setting, works: list[Workload], price: F8, running: F8, life: float) -> F8:
    """Money per unit of work not done in a quarter: a multiple of doing it on the baseline chip. [Q, W]"""
    found = np.zeros((len(setting.quarters), len(works)))
    for column, work in enumerate(works):
        times = work.shortage_price if work.shortage_price is not None else setting.judged("shortage").value
        rate = np.median(setting.works[column].productivity, axis=0)
        k = 0 if rate[0] > 0 else int(rate.argmax())
        one = float(np.median(price[:, 0, k])) / life + float(running[0, k].mean())
        found[:, column] = times * one / rate[k] if rate[k] > 0 else times * one
    return found


def _open_orders(setting: Setting, sites: Sequence[Site], listed: F8) -> tuple[OpenOrder, ...]:
    """Open orders at their stated price, else at today's; ``listed`` is the price of a chip. [S, Q, C]"""
    q = len(setting.quarters)
    found: list[OpenOrder] = []
    for number, order in enumerate(setting.study.order):
        chip = setting.ledger.catalog.chip(order.chip)
        due = max(parse_quarter(order.due) - setting.quarters[0], 0)
        if due >= q:
            setting.note("order", "it is due after the plan and left out", f"$.order[{number}]")
            continue
        k = setting.ids.index(chip.id)
        price = setting.ledger.amount(order.price, "money") if order.price else float(np.median(listed[:, 0, k]))
        names = [site.id for site in sites]
        found.append(OpenOrder(
            label=f"{order.count} {chip.id} due {order.due}", chip=k,
            site=names.index(order.site) if order.site in names else 0, count=float(order.count), due=due,
            price=price, cancel_fee=order.cancel_fee, defer_fee=order.defer_fee,
            arrives=np.repeat(_delivered(setting, number)[:, None], q, axis=1),
        ))  # fmt: skip
    return tuple(found)


def _delivered(setting: Setting, number: int) -> F8:
    """Whether an open order arrives, by future: whole or not at all, in its probability's share of every scenario. [S]

    Where a scenario's draws cannot show the share exactly, one of them takes the fraction that is left.
    """
    chance = setting.study.order[number].delivery_probability
    rng = np.random.default_rng(derive_seed(setting.study.study.seed, "delivery", str(number)))
    found = np.zeros(len(setting.futures))
    names = [future.id if future else "" for future in setting.futures]
    for name in dict.fromkeys(names):
        rows = rng.permutation([i for i, other in enumerate(names) if other == name])
        found[rows] = np.clip(chance * rows.size - np.arange(rows.size), 0.0, 1.0)
    return found


def _vendor_caps(setting: Setting, families: list[str], family: npt.NDArray[np.int64]) -> tuple[ShareCap, ...]:
    caps: list[ShareCap] = []
    for vendor, most in setting.study.plan.vendor_caps.items():
        if vendor not in families:
            setting.note("vendor-cap", "no chip of this vendor is in the plan", vendor)
            continue
        start = len(setting.quarters) - 1
        caps.append(ShareCap(label=vendor, chips=family == families.index(vendor), most=most, start=start))
    return tuple(caps)


def _frozen(setting: Setting) -> tuple[tuple[int, int, int, float], ...]:
    found: list[tuple[int, int, int, float]] = []
    for number, item in enumerate(setting.study.plan.frozen):
        quarter = parse_quarter(item.quarter) - setting.quarters[0]
        chip = setting.ledger.catalog.chip(item.chip).id
        if not 0 <= quarter < len(setting.quarters) or chip not in setting.ids:
            raise InputError("lies outside the plan", where=f"$.plan.frozen[{number}]")
        names = [site.id for site in setting.study.site]
        if item.site and item.site not in names:
            raise InputError(f'unknown site "{item.site}"', where=f"$.plan.frozen[{number}].site")
        found.append((quarter, setting.ids.index(chip), names.index(item.site) if item.site else 0, float(item.count)))
    return tuple(found)


def _budget(setting: Setting) -> F8:
    found = np.full(len(setting.quarters), np.inf)
    for point in setting.study.plan.budget:
        at = parse_quarter(point.quarter) - setting.quarters[0]
        if 0 <= at < found.size:
            found[at] = setting.ledger.amount(point.amount, "money")
    return found
