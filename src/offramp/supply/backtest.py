"""Replays: forecasts with the facts of a past day, scored against what was reported later."""

from __future__ import annotations

import datetime as dt
import functools
import math
import tomllib
from importlib import resources

import msgspec
import numpy as np

from offramp.core.errors import CatalogError
from offramp.core.record import Record
from offramp.core.result import Cell, FigureLog
from offramp.supply.facts import SupplyData, load
from offramp.supply.model import SupplyDraws, simulate
from offramp.supply.sample import F8
from offramp.supply.summary import GROUPS, domestic, members

REPLAYS = (dt.date(2025, 6, 30), dt.date(2025, 9, 30), dt.date(2025, 12, 31))


class Outcome(Record):
    """Something reported later: a fact by id, or a value of its own with the date it became known."""

    id: str
    title: str
    of: str
    year: int = 0
    quarter: str = ""
    members: tuple[str, ...] = ()
    fact: str = ""
    value: float = 0.0
    known: dt.date | None = None


class Score(Record):
    """One forecast against one outcome.

    Attributes:
        quantile: share of the draws below the outcome (ties half); 0.1 to 0.9 is inside the 80 % band.
        inside: whether the outcome lies in the 80 % band.
        log_ratio: log10 of the median over the outcome; NaN for an outcome of zero.
        crps: continuous ranked probability score, in the outcome's unit.
    """

    as_of: dt.date
    outcome: str
    title: str
    reported: float
    p10: float
    p50: float
    p90: float
    quantile: float
    inside: bool
    log_ratio: float
    crps: float


@functools.cache
def outcomes() -> tuple[Outcome, ...]:
    """The shipped outcomes, checked.

    Raises:
        CatalogError: the file is broken.
    """
    text = resources.files("offramp.data").joinpath("supply", "outcomes.toml").read_text("utf-8")
    try:
        return tuple(msgspec.convert(tomllib.loads(text)["outcome"], list[Outcome]))
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(str(error), where="data/supply/outcomes.toml") from None


def reported(data: SupplyData, outcome: Outcome) -> tuple[float, dt.date]:
    """The outcome's value and the day it became known."""
    if outcome.fact:
        fact = data.fact(outcome.fact)
        return fact.value, fact.known_since
    if outcome.known is None:
        raise CatalogError(f"outcome {outcome.id} has neither fact nor known date", where="data/supply/outcomes.toml")
    return outcome.value, outcome.known


def forecast(data: SupplyData, supply: SupplyDraws, outcome: Outcome) -> F8:
    """Draws of what the outcome measures. [draws]"""
    if outcome.of == "domestic share":
        inside = supply.year(domestic(data), outcome.year)
        return inside / np.maximum(supply.year(supply.vendors, outcome.year), 1e-9)
    vendors = list(outcome.members) or members(data, outcome.of)
    if outcome.year:
        return supply.year(vendors, outcome.year)
    column = supply.quarters.index(outcome.quarter)
    rows = [supply.vendors.index(vendor) for vendor in vendors]
    return supply.cards[:, column][:, rows].sum(axis=1)


def crps(draws: F8, value: float) -> float:
    """Continuous ranked probability score of an ensemble: mean |x - y| - half the mean |x - x'|."""
    ordered = np.sort(draws)
    n = ordered.size
    weights = 2.0 * np.arange(1, n + 1) - n - 1.0
    return float(np.abs(ordered - value).mean() - (weights * ordered).sum() / n**2)


def score(draws: F8, value: float, *, as_of: dt.date, outcome: Outcome) -> Score:
    """How well draws foresaw a value."""
    p10, p50, p90 = (float(x) for x in np.quantile(draws, (0.1, 0.5, 0.9)))
    return Score(
        as_of=as_of,
        outcome=outcome.id,
        title=outcome.title,
        reported=value,
        p10=p10,
        p50=p50,
        p90=p90,
        quantile=float((draws < value).mean() + 0.5 * (draws == value).mean()),
        inside=p10 <= value <= p90,
        log_ratio=math.log10(p50 / value) if value > 0 and p50 > 0 else math.nan,
        crps=crps(draws, value),
    )


def replay(*, draws: int = 4000, seed: int = 0, as_ofs: tuple[dt.date, ...] = REPLAYS) -> list[Score]:
    """Every outcome scored against the forecast of each past day on which it was not yet known."""
    data = load()
    scores: list[Score] = []
    for as_of in as_ofs:
        supply = simulate(data, as_of, draws=draws, seed=seed, last="2026Q4", log=FigureLog())
        for outcome in outcomes():
            value, known = reported(data, outcome)
            if known > as_of:
                scores.append(score(forecast(data, supply, outcome), value, as_of=as_of, outcome=outcome))
    return scores


def single_sources(data: SupplyData) -> list[dict[str, Cell]]:
    """Every published forecast of an outcome, beside it: what trusting one source would have given."""
    rows: list[dict[str, Cell]] = []
    for outcome in outcomes():
        vendors = [vendor for vendor in data.vendors if vendor.id == outcome.of]
        for total in vendors[0].totals if vendors and outcome.year else ():
            fact = data.fact(total.fact)
            if total.year != outcome.year or fact.as_of.year > outcome.year:
                continue
            value, _ = reported(data, outcome)
            share = data.params[f"two_die_share_{total.year}"].value if total.basis == "dies" else 0.0
            cards = fact.value * (1.0 - share / 2.0)
            rows.append(
                {"outcome": outcome.title, "source": fact.source, "as_of": fact.as_of.isoformat(),
                 "forecast": cards, "reported": value, "ratio": cards / value}
            )  # fmt: skip
    return rows


def coverage(scores: list[Score]) -> tuple[int, int]:
    """How many outcomes lay in their 80 % band, of how many."""
    return sum(1 for item in scores if item.inside), len(scores)


__all__ = ["GROUPS", "REPLAYS", "Outcome", "Score", "coverage", "forecast", "outcomes", "replay", "reported", "score"]
