"""Chip prices over time: a level from a mixture of sources, a yearly drift from a mixture of accounts, shocks."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Final, Literal

import msgspec
import numpy as np

from offramp.core.errors import CatalogError
from offramp.core.figure import Figure, check_figure
from offramp.core.record import Record
from offramp.core.result import FigureLog
from offramp.core.seeds import derive_seed
from offramp.supply.sample import F8, draw, mixture

Kind = Literal["foreign", "domestic"]
MEMORY: Final = 0.5
"""Share of a quarter's shock that is left a quarter later."""
_FILE: Final = "data/supply/price_paths.toml"


class Account(Record):
    """One account of how prices move."""

    kind: Kind
    name: str
    weight: float
    growth: Figure


class PricePaths(Record):
    """The file: accounts and the size of quarterly shocks."""

    shock: Figure
    account: tuple[Account, ...]


@functools.cache
def price_paths() -> PricePaths:
    """The shipped accounts, checked.

    Raises:
        CatalogError: the file is broken.
    """
    text = resources.files("offramp.data").joinpath("supply", "price_paths.toml").read_text("utf-8")
    try:
        found = msgspec.convert(tomllib.loads(text), PricePaths)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(str(error), where=_FILE) from None
    check_figure(found.shock, where=f"{_FILE}:shock")
    for account in found.account:
        check_figure(account.growth, where=f"{_FILE}:{account.kind} {account.name}")
    return found


def level(chip: str, sources: Sequence[Figure], draws: int, *, seed: int) -> F8:
    """Prices of a chip, each draw from one of the sources; an assumed one counts half. In the figures' unit. [draws]"""
    rng = np.random.default_rng(derive_seed(seed, "price level", chip))
    parts = [draw(figure, rng, draws) for figure in sources]
    weights = [0.5 if figure.confidence == "assumed" else 1.0 for figure in sources]
    return mixture(parts, weights, rng.permutation((np.arange(draws) + 0.5) / draws))[0]


def drift(kind: Kind, quarters: int, draws: int, *, seed: int, log: FigureLog) -> F8:
    """Factor on a price by quarter, 1 in the first: one drift a draw for all chips of a kind. [draws, quarters]"""
    paths = price_paths()
    rng = np.random.default_rng(derive_seed(seed, "price drift", kind))
    accounts = [account for account in paths.account if account.kind == kind]
    parts = [draw(log.use(f"supply/price_paths#{kind}.{a.name}", a.growth), rng, draws) for a in accounts]
    growth, _ = mixture(parts, [a.weight for a in accounts], rng.permutation((np.arange(draws) + 0.5) / draws))
    size = draw(log.use("supply/price_paths#shock", paths.shock), rng, draws)
    shock = np.zeros((draws, quarters))
    for t in range(1, quarters):
        shock[:, t] = MEMORY * shock[:, t - 1] + size * rng.standard_normal(draws).clip(-2.5, 2.5)
    return growth[:, None] ** (np.arange(quarters) / 4.0)[None, :] * np.exp(shock)
