"""What one buyer can obtain: the share of an order that arrives, and prices where the catalogue has none."""

from __future__ import annotations

import datetime as dt
import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Final

import msgspec
import numpy as np

from offramp.core.errors import CatalogError
from offramp.core.figure import Figure, check_figure
from offramp.core.quarters import parse_quarter
from offramp.core.record import Record
from offramp.core.result import FigureLog
from offramp.core.seeds import derive_seed
from offramp.supply.facts import STATES, State, SupplyData, Vendor
from offramp.supply.model import SupplyDraws
from offramp.supply.sample import F8, draw


class Route(Record):
    """One way to obtain a chip, in one policy regime."""

    id: str
    state: State
    probability: Figure
    extra_quarters: int = 0
    rental: bool = False
    price_factor: Figure | None = None


@dataclass(frozen=True, kw_only=True)
class Obtainable:
    """What a buyer can count on.

    Attributes:
        fill: share of an order that arrives. [draws, quarters, chips]
        price_factor: on the price. [draws, quarters, chips]
        market: cards that the vendor brings to the market; NaN where no vendor is modelled. [draws, quarters, chips]
        unknown: chips for which no vendor is modelled: every order arrives, and a warning is due.
    """

    quarters: list[str]
    chips: list[str]
    fill: F8
    price_factor: F8
    market: F8
    unknown: list[str]


@functools.cache
def routes() -> tuple[Route, ...]:
    """The shipped routes, checked.

    Raises:
        CatalogError: the file is broken.
    """
    found = msgspec.convert(_toml("routes.toml")["route"], list[Route])
    for route in found:
        check_figure(route.probability, where=f"data/supply/routes.toml:{route.id}")
    return tuple(found)


@functools.cache
def chip_prices() -> dict[str, Figure]:
    """Price of a chip by id, where a source or a stated judgement exists."""
    found = msgspec.convert(_toml("chip_prices.toml"), dict[str, Figure])
    for chip, figure in found.items():
        check_figure(figure, where=f"data/supply/chip_prices.toml:{chip}")
    return found


@functools.cache
def buyer_figures() -> dict[str, Figure]:
    """Judgements about one buyer by name: market share, lead times, porting effort, price of missing work."""
    found = msgspec.convert(_toml("buyer.toml"), dict[str, Figure])
    for name, figure in found.items():
        check_figure(figure, where=f"data/supply/buyer.toml:{name}")
    return found


def _toml(name: str) -> dict[str, object]:
    text = resources.files("offramp.data").joinpath("supply", name).read_text("utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"is not TOML: {error}", where=f"data/supply/{name}") from None


def vendor_of(data: SupplyData, chip: str) -> Vendor | None:
    """The modelled vendor of a chip: by product, else by the maker's name before the slash."""
    for vendor in data.vendors:
        if any(product.chip == chip for product in vendor.products):
            return vendor
    maker = chip.split("/")[0]
    for vendor in data.vendors:
        if any(product.chip.split("/")[0] == maker for product in vendor.products):
            return vendor
    return None


class Buyer(Record):
    """Who orders.

    Attributes:
        home: country of the headquarters.
        grey: uses the grey market; without it nothing arrives under a closed regime.
        seed: master seed of this buyer's luck.
    """

    home: str = "CN"
    grey: bool = False
    seed: int = 0


PLAIN_BUYER: Final = Buyer()


def obtainable(
    data: SupplyData, supply: SupplyDraws, chips: list[str], quarters: list[str], *, buyer: Buyer = PLAIN_BUYER,
    log: FigureLog,
) -> Obtainable:  # fmt: skip
    """The share of an order placed by one buyer that arrives, by draw, quarter and chip.

    A domestic chip arrives at the fill rate, more in draws in which the vendor brings more than its median. A
    foreign chip arrives by the route that its policy regime leaves open. Outside the home country of the model nothing
    is rationed.

    Args:
        data: shipped figures.
        supply: draws of the market.
        chips: chip ids.
        quarters: quarter names; the last modelled quarter stands for later ones.
        buyer: who orders.
        log: collects the figures used.
    """
    draws = supply.cards.shape[0]
    rng = np.random.default_rng(derive_seed(buyer.seed, "buyer"))
    at = np.asarray([min(supply.quarters.index(q) if q in supply.quarters else len(supply.quarters) - 1,
                         len(supply.quarters) - 1) for q in quarters], dtype=np.int64)  # fmt: skip
    fill = np.ones((draws, at.size, len(chips)))
    factor = np.ones_like(fill)
    market = np.full_like(fill, np.nan)
    unknown: list[str] = []
    base = draw(log.use("supply/params#fill_rate", data.params["fill_rate"]), rng, draws)
    growth = draw(log.use("supply/params#fill_rate_growth", data.params["fill_rate_growth"]), rng, draws)
    for column, chip in enumerate(chips):
        vendor = vendor_of(data, chip)
        if vendor is None or buyer.home != "CN":
            unknown.append(chip)
            continue
        cards = supply.of(vendor.id)[:, at]
        market[:, :, column] = cards
        if vendor.kind == "imported":
            states = supply.states[vendor.regime][:, at]
            fill[:, :, column], factor[:, :, column] = _by_route(states, rng, log, grey=buyer.grey)
        else:
            years = np.asarray([(parse_quarter(q) - parse_quarter("2025Q1")) / 4.0 for q in quarters])
            plenty = cards / np.maximum(np.median(cards, axis=0), 1e-9)[None, :]
            rate = base[:, None] * growth[:, None] ** years[None, :]
            fill[:, :, column] = np.clip(rate * np.sqrt(plenty), 0.0, 1.0)
    return Obtainable(quarters=quarters, chips=chips, fill=fill, price_factor=factor, market=market, unknown=unknown)


def _by_route(states: np.ndarray, rng: np.random.Generator, log: FigureLog, *, grey: bool) -> tuple[F8, F8]:
    """Share that arrives and price factor in each regime state, by purchase. [draws, quarters] each"""
    draws = states.shape[0]
    share = np.zeros((draws, len(STATES)))
    price = np.ones((draws, len(STATES)))
    for route in routes():
        if route.rental or (route.state == "closed" and not grey):
            continue
        index = STATES.index(route.state)
        share[:, index] = draw(log.use(f"supply/routes#{route.id}", route.probability), rng, draws)
        if route.price_factor is not None:
            price[:, index] = draw(log.use(f"supply/routes#{route.id}.price", route.price_factor), rng, draws)
    return np.take_along_axis(share, states, axis=1), np.take_along_axis(price, states, axis=1)


def rental_abroad(log: FigureLog) -> Figure:
    """Share of wanted capacity that can be rented outside the country."""
    for route in routes():
        if route.rental:
            return log.use(f"supply/routes#{route.id}", route.probability)
    raise CatalogError("no rental route", where="data/supply/routes.toml")


def price_range(chip: str, as_of: dt.date, log: FigureLog) -> Figure | None:
    """The sourced or assumed price of a chip that was known on that day, or None."""
    figure = chip_prices().get(chip)
    if figure is None or figure.known_since > as_of:
        return None
    return log.use(f"supply/chip_prices#{chip}", figure)
