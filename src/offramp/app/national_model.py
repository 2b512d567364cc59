"""The national question in arrays: work wanted, cards supplied, what each card does, what a ban leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp import catalog
from offramp.app.national_facts import Question
from offramp.app.plan_work import GOODPUT, MFU
from offramp.core.figure import Figure
from offramp.core.quarters import parse_quarter, quarter_name, quarter_of
from offramp.core.result import FigureLog
from offramp.core.seeds import derive_seed
from offramp.core.units import unit_factor
from offramp.supply import facts as supply_facts
from offramp.supply.facts import SupplyData
from offramp.supply.model import SupplyDraws, simulate
from offramp.supply.sample import Z90, draw, mixture
from offramp.supply.summary import chip_cards

F8 = npt.NDArray[np.floating[Any]]
Real = npt.NDArray[np.float64]
SHARED_LUCK: Final = 0.5
"""Share of the variance of exchange rates that all domestic chips have in common (software, engines, habits)."""


@dataclass
class National:
    """One run's draws.

    Attributes:
        cards: cards that reach the country by chip. [S, Q] each
        wanted: H20-equivalents in use that the country wants. [S, Q]
        new: H20-equivalents wanted in addition each quarter. [S, Q]
        money: money wanted each quarter. [S, Q]
        rate: H20-equivalents of inference of one card. [S, C]
        train: H20-equivalents of training of one card. [S, C]
        ready: whether a card carries fine-tuning and pre-training. [S, Q, C, 2]
        shares: of the wanted work by workload. [S, W]
        price: USD of one card. [S, C]
    """

    question: Question
    log: FigureLog
    quarters: list[str]
    chips: list[str]
    domestic: npt.NDArray[np.bool_]
    supply: SupplyDraws
    cards: dict[str, F8]
    wanted: F8
    new: F8
    money: F8
    rate: F8
    train: F8
    ready: npt.NDArray[np.bool_]
    shares: F8
    price: F8
    stock: F8


def draw_all(question: Question, *, data: SupplyData | None = None, log: FigureLog | None = None) -> National:
    """All draws of a national question; ``data`` replaces the shipped supply figures (counterfactuals)."""
    header, log = question.header, log or FigureLog()
    base = data or supply_facts.load()
    supply = simulate(base, header.as_of, draws=header.draws, seed=header.seed, last=header.last, log=log)
    first = parse_quarter(header.first) if header.first else quarter_of(header.as_of)
    quarters = [quarter_name(i) for i in range(first, parse_quarter(header.last) + 1)]
    chips = [chip.id for chip in question.facts.chip]
    origin = {product.chip: vendor.jurisdiction for vendor in base.vendors for product in vendor.products}
    domestic = np.asarray([origin.get(chip, "US") == header.country for chip in chips])
    by_chip = chip_cards(base, supply)
    at = [supply.quarters.index(quarter) for quarter in quarters]
    before = list(range(at[0]))
    rate, train = _rates(question, chips, domestic, log)
    stock = _stock(question, chips, by_chip, before, log)
    new, money = _demand(question, quarters, log)
    in_use = (stock.mean(axis=0)[None] * rate).sum(axis=1)
    return National(
        question=question, log=log, quarters=quarters, chips=chips, domestic=domestic, supply=supply,
        cards={chip: by_chip[chip][:, at] if chip in by_chip else np.zeros((header.draws, len(at))) for chip in chips},
        wanted=in_use[:, None] + np.cumsum(new, axis=1), new=new, money=money, rate=rate, train=train,
        ready=_ready(question, quarters, chips, log), shares=_shares(question, log), price=_prices(question, log),
        stock=stock,
    )  # fmt: skip


def _rng(question: Question, *names: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(question.header.seed, "national", *names))


def _use(question: Question, log: FigureLog, name: str, figure: Figure) -> F8:
    """Draws of a figure of the file in its own unit."""
    log.use(f"national/{question.header.facts}#{name}", figure)
    return draw(figure, _rng(question, name), question.header.draws)


def _rates(question: Question, chips: list[str], domestic: npt.NDArray[np.bool_], log: FigureLog) -> tuple[F8, F8]:
    """H20-equivalents of one card, for inference and for training. [S, C] each"""
    s = question.header.draws
    common = _rng(question, "software").standard_normal(s)
    rate, train = np.zeros((s, len(chips))), np.zeros((s, len(chips)))
    book = catalog.load(question.header.as_of)
    baseline = book.chip("nvidia/h20").require("peak_bf16").si
    for column, chip in enumerate(question.facts.chip):
        figure = log.use(f"national/{question.header.facts}#exchange.{chip.id}", chip.exchange)
        own = _rng(question, "exchange", chip.id).standard_normal(s)
        shared = SHARED_LUCK if domestic[column] else 0.0
        z = np.clip(np.sqrt(shared) * common + np.sqrt(1.0 - shared) * own, -2.5, 2.5)
        low, high = figure.si_range
        sides = np.where(z < 0, np.log(figure.value / low), np.log(high / figure.value)) / Z90
        rate[:, column] = 1.0 / (figure.value * np.exp(sides * z))
        train[:, column] = _train(question, chip.id, domestic[column], baseline, log, rate[:, column])
    return rate, train


def _train(question: Question, chip: str, home: bool, baseline: float, log: FigureLog, inference: F8) -> F8:
    """H20-equivalents of training of one card, from its peak, utilisation and goodput; as in inference without one."""
    entry = catalog.load(question.header.as_of).chips.get(chip)
    figure = None
    for name in ("peak_bf16", "peak_fp16"):
        if entry is not None and figure is None:
            figure = entry.figure(name, question.header.as_of, log)
    if figure is None:
        return inference
    low, high = figure.si_range
    peak = low * (high / low) ** _rng(question, "peak", chip).random(inference.size)
    kind = "domestic" if home else "foreign"
    own = draw(log.use(f"plan/mfu-{kind}", MFU[kind]), _rng(question, "mfu", kind), inference.size)
    own = own * draw(log.use(f"plan/goodput-{kind}", GOODPUT[kind]), _rng(question, "goodput", kind), inference.size)
    unit = MFU["foreign"].value * GOODPUT["foreign"].value
    return peak / baseline * own / unit


def _stock(
    question: Question, chips: list[str], by_chip: dict[str, Real], before: list[int], log: FigureLog
) -> F8:  # fmt: skip
    """Cards installed when the study starts: the stated stock plus what was supplied since. [S, C]"""
    found = np.zeros((question.header.draws, len(chips)))
    for entry in question.facts.stock:
        found[:, chips.index(entry.chip)] += _use(question, log, f"stock.{entry.chip}", entry)
    for column, chip in enumerate(chips):
        if chip in by_chip and before:
            found[:, column] += by_chip[chip][:, before].sum(axis=1)
    return found


def _demand(question: Question, quarters: list[str], log: FigureLog) -> tuple[F8, F8]:
    """H20-equivalents wanted anew and money wanted. [S, Q] each"""
    header, facts = question.header, question.facts
    growth = _use(question, log, "demand_growth", facts.demand_growth)
    years = sorted({int(name[:4]) for name in quarters})
    paths, weights = [], []
    for source in facts.demand:
        known = [point for point in source.point if point.known_since <= header.as_of]
        if not known:
            continue
        points = {
            p.year: _use(question, log, f"demand.{source.name}.{p.year}", p) * unit_factor(p.unit)[0] for p in known
        }
        paths.append(_by_year(points, years, growth))
        weights.append(source.weight)
    u = _rng(question, "demand source").random(header.draws)
    levels = [path[:, -1] for path in paths]
    _, index = mixture(levels, weights, u)
    money_by_year = np.stack(paths)[index, np.arange(header.draws)]
    money = np.stack([money_by_year[:, years.index(int(name[:4]))] / 4.0 for name in quarters], axis=1)
    fall = _use(question, log, "equivalent_growth", facts.equivalent_growth)
    middle = np.asarray([int(name[:4]) + (int(name[5]) - 0.5) / 4.0 - 2025.5 for name in quarters])
    price = _use(question, log, "equivalent", facts.equivalent)[:, None] * fall[:, None] ** middle[None, :]
    return money / price, money


def _by_year(points: dict[int, F8], years: list[int], growth: F8) -> F8:
    """Log-linear between the years of a source, growing outside them. [S, years]"""
    at = sorted(points)
    logs = {year: np.log(points[year]) for year in at}
    rows: list[F8] = []
    for year in years:
        low = max((y for y in at if y <= year), default=None)
        high = min((y for y in at if y >= year), default=None)
        if low is None and high is not None:
            rows.append(logs[high] - np.log(growth) * (high - year))
        elif high is None and low is not None:
            rows.append(logs[low] + np.log(growth) * (year - low))
        elif low is not None and high is not None:
            share = 0.0 if low == high else (year - low) / (high - low)
            rows.append(logs[low] * (1 - share) + logs[high] * share)
    return np.exp(np.stack(rows, axis=1))


def _ready(question: Question, quarters: list[str], chips: list[str], log: FigureLog) -> npt.NDArray[np.bool_]:
    """Whether software and fabric carry fine-tuning and pre-training: one luck a vendor and draw. [S, Q, C, 2]"""
    growth = _use(question, log, "software_ready_growth", question.facts.software_ready_growth)
    years = np.asarray([(parse_quarter(name) - parse_quarter(quarters[0])) / 4.0 for name in quarters])
    found = np.zeros((question.header.draws, len(quarters), len(chips), 2), dtype=np.bool_)
    for column, chip in enumerate(question.facts.chip):
        luck = _rng(question, "ready", chip.id.split("/")[0]).random(question.header.draws)
        for kind, share in enumerate((chip.fine_tune_ready, chip.pretrain_ready)):
            now = share + (growth[:, None] * years[None, :] if 0.0 < share < 1.0 else 0.0)
            found[:, :, column, kind] = luck[:, None] < now
    return found


def _shares(question: Question, log: FigureLog) -> F8:
    raw = np.stack([_use(question, log, f"share.{work.id}", work.share) for work in question.facts.workload], axis=1)
    return raw / raw.sum(axis=1, keepdims=True)


def _prices(question: Question, log: FigureLog) -> F8:
    return np.stack([_use(question, log, f"price.{chip.id}", chip.price) for chip in question.facts.chip], axis=1)


def capacity(run: National, *, foreign_from: int | None = None, left: F8 | None = None, step: int = 1) -> F8:
    """Cards in the country by quarter, with foreign cards as a ban leaves them. [S, Q/step, C]

    Args:
        run: the draws.
        foreign_from: column from which no foreign card arrives; None is never.
        left: share of the foreign cards that still run. [Q]
        step: every so many quarters, the last one always included.
    """
    arrive = np.stack([run.cards[chip] for chip in run.chips], axis=2)
    if foreign_from is not None:
        arrive[:, foreign_from:, ~run.domestic] = 0.0
    total = run.stock.mean(axis=0)[None, None, :] + np.cumsum(arrive, axis=1)
    if left is not None:
        total = total * np.where(run.domestic[None, None, :], 1.0, left[None, :, None])
    return total[:, grid(run, step)]


def grid(run: National, step: int) -> npt.NDArray[np.int64]:
    """Columns of every ``step``-th quarter, counted back from the last."""
    q = len(run.quarters)
    return np.asarray(sorted(range(q - 1, -1, -step)), dtype=np.int64)


def rates(run: National) -> F8:
    """H20-equivalents of one card by workload. [S, C, W]"""
    works = run.question.facts.workload
    return np.stack([run.rate if work.kind == "serve" else run.train for work in works], axis=2)


def usable(run: National, *, step: int = 1) -> npt.NDArray[np.bool_]:
    """Whether a card carries a workload. [S, Q, C, W]"""
    works = run.question.facts.workload
    s, c = run.rate.shape
    found = np.ones((s, len(run.quarters), c, len(works)), dtype=np.bool_)
    for column, work in enumerate(works):
        if work.kind != "serve":
            found[..., column] = run.ready[..., 0 if work.kind == "fine-tune" else 1]
    return found[:, grid(run, step)]


def demand(run: National, *, step: int = 1) -> F8:
    """H20-equivalents wanted by workload. [S, Q, W]"""
    return (run.wanted[:, :, None] * run.shares[:, None, :])[:, grid(run, step)]


def structure_only(data: SupplyData) -> SupplyData:
    """The supply figures without published totals of unfinished years, so that what limits the wafers and HBM shows."""

    def outcome(fact_id: str, year: int) -> bool:
        fact = data.fact(fact_id)
        return fact.kind.startswith("actual") and fact.as_of.year > year

    vendors = tuple(
        msgspec.structs.replace(vendor, totals=tuple(t for t in vendor.totals if outcome(t.fact, t.year)))
        if vendor.kind == "foundry" else vendor for vendor in data.vendors
    )  # fmt: skip
    return msgspec.structs.replace(data, vendors=vendors)


def relieved(data: SupplyData, name: str) -> SupplyData:
    """The supply figures with one limit lifted: "HBM", "packaging", "yield" or "wafers"."""
    params, facts = dict(data.params), dict(data.facts)

    def scale_param(key: str, times: float) -> None:
        params[key] = _scaled(params[key], times)

    if name == "HBM":
        scale_param("hbm_import_after", 100.0)
    elif name == "packaging":
        scale_param("packaging_dies", 100.0)
        scale_param("cambricon_packaging", 100.0)
    elif name == "yield":
        for key in ("yield_prior",):
            scale_param(key, 2.0)
        for key, fact in facts.items():
            if fact.metric == "yield":
                facts[key] = _scaled(fact, 2.0)
    elif name == "wafers":
        scale_param("ai_wafers_prior", 2.0)
        for key, fact in facts.items():
            if fact.metric in ("wafer_starts_ai", "wafer_capacity_advanced"):
                facts[key] = _scaled(fact, 2.0)
    return msgspec.structs.replace(data, params=params, facts=facts)


def _scaled(figure: Any, times: float) -> Any:
    low = None if figure.low is None else figure.low * times
    high = None if figure.high is None else figure.high * times
    return msgspec.structs.replace(figure, value=figure.value * times, low=low, high=high)
