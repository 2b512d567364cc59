"""What chips cost a plan, by future and quarter: the study's own prices, else a mixture of sources that drifts."""

from __future__ import annotations

import datetime as dt
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from offramp.catalog import Catalog, Chip
from offramp.core import units
from offramp.core.errors import InputError
from offramp.core.figure import Figure
from offramp.core.quarters import parse_quarter
from offramp.core.seeds import derive_seed
from offramp.supply.buyer import price_range
from offramp.supply.price_paths import drift, level
from offramp.supply.sample import draw

if TYPE_CHECKING:
    from offramp.app.plan_question import Setting

F8 = npt.NDArray[np.floating[Any]]
BARE: Final = ("chip", "card", "module")
"""Kinds of prices without a server around the chip."""


def prices(setting: Setting, per_server: list[int]) -> F8:
    """Price of one chip with its share of host and network. [S, Q, C]

    Raises:
        InputError: a chip has no price.
    """
    s, q = len(setting.futures), len(setting.quarters)
    found = np.zeros((s, q, len(setting.chips)))
    seed, log = setting.study.study.seed, setting.ledger.log
    home = setting.study.organisation.headquarters
    moves = {kind: drift(kind, q, s, seed=seed, log=log) for kind in ("domestic", "foreign")}
    for column, chip in enumerate(setting.chips):
        host = setting.ledger.host_share(per_server[column])
        known = _stated(setting, chip, per_server[column], host)
        if np.isnan(known).any():
            kind = "domestic" if setting.origin[chip.id] == home else "foreign"
            market = _market(setting, chip, s)[:, None] * moves[kind] + host
            found[:, :, column] = np.where(np.isnan(known), market, known)
        else:
            found[:, :, column] = known
    for row, future in enumerate(setting.futures):
        for pattern, times in (future.price if future else {}).items():
            hit = [i for i, chip in enumerate(setting.ids) if fnmatchcase(chip, pattern)]
            found[row][:, hit] *= times
    return found


def _stated(setting: Setting, chip: Chip, per_server: int, host: float) -> F8:
    """What the study itself says a chip costs, from each stated quarter on; NaN before and where it says nothing. [Q]"""
    ledger = setting.ledger
    own = setting.study.economics
    extra = (1.0 + (own.duty or 0.0)) * (1.0 + (own.tax or 0.0))
    found = np.full(len(setting.quarters), np.nan)
    entries = [price for price in setting.study.price if ledger.catalog.chip(price.chip).id == chip.id]
    for price in sorted(entries, key=lambda item: item.quarter or ""):
        after = np.asarray(setting.quarters) >= (parse_quarter(price.quarter) if price.quarter else 0)
        if price.server_price:
            found[after] = ledger.amount(price.server_price, "money") / per_server
        elif price.chip_price:
            found[after] = ledger.amount(price.chip_price, "money") * extra + host
    return found


def _market(setting: Setting, chip: Chip, draws: int) -> F8:
    """Prices of a bare chip today, with duty and tax, from every source that names one. [S]"""
    ledger, seed = setting.ledger, setting.study.study.seed
    own = setting.study.economics
    extra = (1.0 + (own.duty or 0.0)) * (1.0 + (own.tax or 0.0))
    sources = bare_prices(ledger.catalog, chip.id, ledger.currency)
    if sources:
        values = level(chip.id, sources, draws, seed=seed)
        for number, figure in enumerate(sources):
            ledger.log.use(f"prices/{chip.id}.{number}", figure)
        return values * extra
    money = ledger.chip_price(chip)
    if money is not None and money.origin != "study":
        return money.draws(draws, seed, chip.id)
    return _judged(setting, chip, draws) * extra


def bare_prices(catalog: Catalog, chip: str, currency: str) -> list[Figure]:
    """Every sourced price of a chip without a server around it, outside the grey market."""
    found = catalog.price(chip, currency)
    return [figure for figure in found if figure.note.startswith(BARE) and "grey" not in figure.note.split(";")[0]]


def _judged(setting: Setting, chip: Chip, draws: int) -> F8:
    figure = price_range(chip.id, setting.study.study.as_of or dt.date(2026, 11, 23), setting.ledger.log)
    if figure is None:
        raise InputError(
            f"{chip.id} has no price",
            where="$.price",
            mend=f'Add [[price]] chip = "{chip.id}", chip_price = "... CNY".',
        )
    rate = setting.ledger.rate(units.currency_of(figure.unit))
    setting.note("assumed-figure", f"its price is a judged range around {figure.value:,.0f} {figure.unit}", chip.id)
    rng = np.random.default_rng(derive_seed(setting.study.study.seed, "price", chip.id))
    return draw(figure, rng, draws) * figure.si / figure.value * rate
