"""What one card does and costs in the national question: exchange rates by mix of work, training, prices, readiness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp import catalog
from offramp.app.national_facts import Chip, Question, Rate
from offramp.app.plan_prices import bare_prices
from offramp.app.plan_work import GOODPUT, MFU
from offramp.core.errors import InputError
from offramp.core.figure import Figure
from offramp.core.quarters import parse_quarter
from offramp.core.result import FigureLog
from offramp.core.seeds import derive_seed
from offramp.supply.price_paths import drift, level
from offramp.supply.sample import Z90, draw

F8 = npt.NDArray[np.floating[Any]]
SHARED_LUCK: Final = 0.5
"""Share of the variance of exchange rates that all domestic chips have in common (software, engines, habits)."""
OPEN_END: Final = 100.0
"""How far above its low end a range is cut off that has no high end."""


def rng_of(question: Question, *names: str) -> np.random.Generator:
    """The random stream of one input."""
    return np.random.default_rng(derive_seed(question.header.seed, "national", *names))


def use(question: Question, log: FigureLog, name: str, figure: Figure) -> F8:
    """Draws of a figure of the file in its own unit."""
    log.use(f"national/{question.header.facts}#{name}", figure)
    return draw(figure, rng_of(question, name), question.header.draws)


def inference(question: Question, domestic: npt.NDArray[np.bool_], log: FigureLog) -> tuple[F8, F8]:
    """H20-equivalents of inference of one card: as drawn, and with software at the better tenth. [S, C] each

    A card takes the mix as it comes, so its rate is the harmonic mean over kinds of work. A kind that a card cannot do
    is left out of its mix.
    """
    s, facts = question.header.draws, question.facts
    weights = np.stack([use(question, log, f"mix.{item.workload}", item.share) for item in facts.mix], axis=1)
    common = software_luck(question)
    rate, best = np.ones((s, len(facts.chip))), np.ones((s, len(facts.chip)))
    for column, chip in enumerate(facts.chip):
        own = rng_of(question, "exchange", chip.id).standard_normal(s)
        shared = SHARED_LUCK if domestic[column] else 0.0
        z = np.clip(np.sqrt(shared) * common + np.sqrt(1.0 - shared) * own, -2.5, 2.5)
        if chip.exchange is not None:
            figure = log.use(f"national/{question.header.facts}#exchange.{chip.id}", chip.exchange)
            rate[:, column] = 1.0 / _two_piece(figure.value, *figure.si_range, z)
            best[:, column] = 1.0 / figure.si_range[0]
        elif chip.id != question.header.baseline:
            rate[:, column], best[:, column] = _over_mix(question, chip, weights, z, log)
    return rate, best


def software_luck(question: Question) -> F8:
    """What the exchange rates of all domestic chips have in common, in standard deviations; high is bad. [S]"""
    return rng_of(question, "software").standard_normal(question.header.draws)


def _over_mix(question: Question, chip: Chip, weights: F8, z: F8, log: FigureLog) -> tuple[F8, F8]:
    """H20-equivalents of a chip over the mix of work: as drawn and with software at the better tenth. [S] each"""
    rows, limits = _rows(question, chip.id, "computed"), _rows(question, chip.id, "bounds")
    times = np.ones(z.size)
    if not rows and chip.factor is not None:
        rows = _rows(question, chip.like, "computed")
        times = use(question, log, f"factor.{chip.id}", chip.factor)
    mix = [number for number, item in enumerate(question.facts.mix) if item.workload in rows]
    share = weights[:, mix] / weights[:, mix].sum(axis=1, keepdims=True)
    drawn, good = np.zeros((z.size, len(mix))), np.zeros((z.size, len(mix)))
    for place, number in enumerate(mix):
        row = rows[question.facts.mix[number].workload]
        figure = log.use(f"national/{question.facts.exchange}#{row.chip}.{row.workload}", figure_of(question, row))
        drawn[:, place] = times * _two_piece(figure.value, *figure.si_range, z)
        good[:, place] = times * figure.si_range[0]
        limit = limits.get(row.workload)
        if limit is not None:
            log.use(f"national/{question.facts.exchange}#{limit.chip}.{limit.workload}", figure_of(question, limit))
            drawn[:, place] = np.clip(drawn[:, place], limit.low, limit.high)
            good[:, place] = np.clip(good[:, place], limit.low, limit.high)
    return 1.0 / (share * drawn).sum(axis=1), 1.0 / (share * good).sum(axis=1)


def _two_piece(mid: float, low: float, high: float, z: F8) -> F8:
    """Log-normal draws with the 10 %, 50 % and 90 % quantiles given. [S]"""
    return mid * np.exp(np.where(z < 0, np.log(mid / low), np.log(high / mid)) / Z90 * z)


def _rows(question: Question, chip: str, mode: str) -> dict[str, Rate]:
    """The exchange file's rates of a chip by kind of work."""
    dated = question.exchange.on(question.header.as_of) if question.exchange else None
    return {rate.workload: rate for rate in (dated.rate if dated else ()) if rate.chip == chip and rate.mode == mode}


def figure_of(question: Question, row: Rate) -> Figure:
    """A generated rate as a figure: where it comes from, and how much it is worth."""
    assert question.exchange is not None
    dated = question.exchange.on(question.header.as_of)
    made = f"{question.exchange.tool}, parameters {question.exchange.parameters}, made {question.exchange.made}"
    text = f"chips per H20 for {row.workload} by the cost model ({made})"
    if row.mode == "bounds":
        text += "; facts of the chip are missing: a range over what they may be"
    high = row.high if row.high is not None else OPEN_END * row.low
    return Figure(
        value=row.mid or float(np.sqrt(row.low * high)), low=row.low, high=high, unit="ratio", source=text,
        as_of=dated.as_of if dated else question.header.as_of,
        confidence="assumed" if row.mode == "bounds" else "analyst-estimate",
    )  # fmt: skip


def training(question: Question, domestic: npt.NDArray[np.bool_], rate: F8, log: FigureLog) -> F8:
    """H20-equivalents of training of one card: peak x utilisation x goodput; as in inference without a peak. [S, C]"""
    book = catalog.load(question.header.as_of)
    baseline = book.chip(question.header.baseline).require("peak_bf16").si
    unit = MFU["foreign"].value * GOODPUT["foreign"].value
    s = question.header.draws
    kept: dict[str, F8] = {}
    for kind in ("domestic", "foreign"):
        mfu = draw(log.use(f"plan/mfu-{kind}", MFU[kind]), rng_of(question, "mfu", kind), s)
        kept[kind] = mfu * draw(log.use(f"plan/goodput-{kind}", GOODPUT[kind]), rng_of(question, "goodput", kind), s)
    found = rate.copy()
    for column, chip in enumerate(question.facts.chip):
        entry = book.chips.get(chip.id)
        figures = (
            [entry.figure(name, question.header.as_of, log) for name in ("peak_bf16", "peak_fp16")] if entry else []
        )
        figure = next((item for item in figures if item is not None), None)
        if figure is not None:
            low, high = figure.si_range
            peak = low * (high / low) ** rng_of(question, "peak", chip.id).random(s)
            found[:, column] = peak / baseline * kept["domestic" if domestic[column] else "foreign"] / unit
    return found


def prices(question: Question, quarters: Sequence[str], domestic: npt.NDArray[np.bool_], log: FigureLog) -> F8:
    """USD of one card by quarter: what revenue implies, else a mixture of the catalogue's sources; with a drift. [S, Q, C]

    Raises:
        InputError: a chip has no price.
    """
    s, seed = question.header.draws, question.header.seed
    book = catalog.load(question.header.as_of)
    moves: Mapping[bool, F8] = {
        True: drift("domestic", len(quarters), s, seed=seed, log=log),
        False: drift("foreign", len(quarters), s, seed=seed, log=log),
    }
    found = np.zeros((s, len(quarters), len(question.facts.chip)))
    for column, chip in enumerate(question.facts.chip):
        known = [item for item in chip.price if item.known_since <= question.header.as_of]
        implied = [item for item in known if item.confidence != "assumed"]
        sources = bare_prices(book, chip.id, "USD") if chip.id in book.chips and not implied else []
        if sources:
            for number, figure in enumerate(sources):
                log.use(f"prices/{chip.id}.{number}", figure)
            values = level(chip.id, sources, s, seed=seed)
        elif known:
            newest = max(implied or known, key=lambda item: item.known_since)
            values = use(question, log, f"price.{chip.id}", newest)
        else:
            raise InputError(f"{chip.id} has no price known on {question.header.as_of}", where=question.header.facts,
                             mend="Give [[chip.price]].")  # fmt: skip
        found[:, :, column] = values[:, None] * moves[bool(domestic[column])]
    return found


def ready(question: Question, quarters: Sequence[str], log: FigureLog) -> npt.NDArray[np.bool_]:
    """Whether software and fabric carry fine-tuning and pre-training: one luck a vendor and draw. [S, Q, C, 2]"""
    growth = use(question, log, "software_ready_growth", question.facts.software_ready_growth)
    years = np.asarray([(parse_quarter(name) - parse_quarter(quarters[0])) / 4.0 for name in quarters])
    found = np.zeros((question.header.draws, len(quarters), len(question.facts.chip), 2), dtype=np.bool_)
    for column, chip in enumerate(question.facts.chip):
        luck = rng_of(question, "ready", chip.id.split("/")[0]).random(question.header.draws)
        pair = question.facts.readiness[chip.ready]
        for kind, (name, figure) in enumerate((("fine_tune", pair.fine_tune), ("pretrain", pair.pretrain))):
            share = use(question, log, f"readiness.{chip.ready}.{name}", figure)
            open_ = (share > 0.0) & (share < 1.0)
            now = share[:, None] + np.where(open_[:, None], growth[:, None] * years[None, :], 0.0)
            found[:, :, column, kind] = luck[:, None] < now
    found[..., 0] |= found[..., 1]  # what pre-trains also fine-tunes
    return found
