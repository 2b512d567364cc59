"""The national question in arrays: work wanted, cards supplied, what each card does, what a ban leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.app.national_facts import Question
from offramp.app.national_rates import inference, prices, ready, rng_of, software_luck, training, use
from offramp.core.quarters import parse_quarter, quarter_name, quarter_of
from offramp.core.result import FigureLog
from offramp.core.units import unit_factor
from offramp.supply import facts as supply_facts
from offramp.supply.facts import SupplyData
from offramp.supply.model import SupplyDraws, simulate
from offramp.supply.sample import mixture
from offramp.supply.summary import chip_cards

F8 = npt.NDArray[np.floating[Any]]


@dataclass
class National:
    """One run's draws.

    Attributes:
        cards: cards that reach the country by chip. [S, Q] each
        wanted: H20-equivalents in use that the country wants. [S, Q]
        new: H20-equivalents wanted in addition each quarter. [S, Q]
        rate: H20-equivalents of inference of one card. [S, C]
        best: the same at the better tenth of what each card may be. [S, C]
        train: H20-equivalents of training of one card. [S, C]
        ready: whether a card carries fine-tuning and pre-training. [S, Q, C, 2]
        shares: of the wanted work by workload. [S, W]
        stock: cards installed when the study starts. [S, C]
        span: every modelled quarter from 2025 on, of which ``quarters`` are the last.
        span_cards, span_new, span_money, span_price: cards, work and money wanted, USD of one card over the span.
            [S, T, C], [S, T], [S, T], [S, T, C]
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
    rate: F8
    best: F8
    train: F8
    ready: npt.NDArray[np.bool_]
    shares: F8
    stock: F8
    span: list[str]
    span_cards: F8
    span_new: F8
    span_money: F8
    span_price: F8


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
    nil = np.zeros((header.draws, len(supply.quarters)))
    span_cards = np.stack([by_chip.get(chip, nil) for chip in chips], axis=2)
    at = [supply.quarters.index(quarter) for quarter in quarters]
    rate, best = inference(question, domestic, log)
    train = training(question, domestic, rate, log)
    stock = _stock(question, chips, log) + span_cards[:, : at[0]].sum(axis=1)
    new, money = _demand(question, supply.quarters, log)
    in_use = (stock * rate).sum(axis=1)
    return National(
        question=question, log=log, quarters=quarters, chips=chips, domestic=domestic, supply=supply,
        cards={chip: span_cards[:, at, column] for column, chip in enumerate(chips)},
        wanted=in_use[:, None] + np.cumsum(new[:, at], axis=1), new=new[:, at], rate=rate, best=best, train=train,
        ready=ready(question, quarters, log), shares=_shares(question, log), stock=stock, span=supply.quarters,
        span_cards=span_cards, span_new=new, span_money=money,
        span_price=prices(question, supply.quarters, domestic, log),
    )  # fmt: skip


def inputs_of(run: National) -> dict[str, F8]:
    """Scalar inputs by name, for the ranking of what drives the answer. [S] each"""
    question, facts = run.question, run.question.facts
    silent = FigureLog()
    found: dict[str, F8] = {f"supply: {name}": values for name, values in run.supply.named.items()}
    for name, label, figure in (
        ("equivalent_growth", "yearly fall of the price of an H20's worth of work", facts.equivalent_growth),
        ("equivalent", "price of an H20's worth of work today", facts.equivalent),
        ("demand_growth", "growth of demand outside the sources' years", facts.demand_growth),
        ("software_ready_growth", "growth of readiness for training", facts.software_ready_growth),
    ):
        found[f"demand: {label}" if "demand" in name or "equivalent" in name else label] = use(
            question, silent, name, figure
        )
    found["demand: money wanted over the plan"] = run.span_money.sum(axis=1)
    found["software of domestic chips, what they have in common"] = -software_luck(question)
    for column, chip in enumerate(run.chips):
        if chip.startswith("huawei/"):
            found[f"H20-equivalents of one {chip}"] = run.rate[:, column]
    for work, values in zip(facts.workload, run.shares.T, strict=True):
        found[f"share of {work.id}"] = values
    return found


def thinned(run: National, most: int) -> National:
    """The first draws, at most ``most``: draws are exchangeable."""
    s = min(most, run.rate.shape[0])
    keep: dict[str, Any] = {
        name: getattr(run, name)[:s]
        for name in ("wanted", "new", "rate", "best", "train", "ready", "shares", "stock", "span_cards", "span_new",
                     "span_money", "span_price")
    }  # fmt: skip
    return replace(run, cards={chip: values[:s] for chip, values in run.cards.items()}, **keep)


def _stock(question: Question, chips: list[str], log: FigureLog) -> F8:
    """Cards installed at the beginning of 2025. [S, C]"""
    found = np.zeros((question.header.draws, len(chips)))
    for entry in question.facts.stock:
        found[:, chips.index(entry.chip)] += use(question, log, f"stock.{entry.chip}", entry)
    return found


def _demand(question: Question, quarters: Sequence[str], log: FigureLog) -> tuple[F8, F8]:
    """H20-equivalents wanted anew and money wanted. [S, Q] each"""
    header, facts = question.header, question.facts
    growth = use(question, log, "demand_growth", facts.demand_growth)
    years = sorted({int(name[:4]) for name in quarters})
    paths, weights = [], []
    for source in facts.demand:
        known = [point for point in source.point if point.known_since <= header.as_of]
        if not known:
            continue
        points = {
            p.year: use(question, log, f"demand.{source.name}.{p.year}", p) * unit_factor(p.unit)[0] for p in known
        }
        paths.append(_by_year(points, years, growth))
        weights.append(source.weight)
    u = rng_of(question, "demand source").random(header.draws)
    levels = [path[:, -1] for path in paths]
    _, index = mixture(levels, weights, u)
    money_by_year = np.stack(paths)[index, np.arange(header.draws)]
    money = np.stack([money_by_year[:, years.index(int(name[:4]))] / 4.0 for name in quarters], axis=1)
    fall = use(question, log, "equivalent_growth", facts.equivalent_growth)
    middle = np.asarray([int(name[:4]) + (int(name[5]) - 0.5) / 4.0 - 2025.5 for name in quarters])
    price = use(question, log, "equivalent", facts.equivalent)[:, None] * fall[:, None] ** middle[None, :]
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


def _shares(question: Question, log: FigureLog) -> F8:
    raw = np.stack([use(question, log, f"share.{work.id}", work.share) for work in question.facts.workload], axis=1)
    return raw / raw.sum(axis=1, keepdims=True)


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
    total = run.stock[:, None, :] + np.cumsum(arrive, axis=1)
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
