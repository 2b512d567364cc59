"""Prices: what chips cost to buy or rent, exchange rates, and the figures of the market around them."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

from offramp.core import units
from offramp.core.errors import CatalogError, InputError
from offramp.core.figure import Figure
from offramp.core.record import Record

PriceKind = Literal["chip", "card", "module", "server", "pod", "rental"]


class Price(Record):
    """One price of one thing.

    Attributes:
        chip: catalogue id.
        kind: what is bought. "module" is a baseboard with its chips, "server" adds the host, "pod" adds the network.
        packages: accelerator packages in it.
        market: where ("CN", "CN grey", "US", "world").
        period: when the price held, in words.
        figure: the price as printed, for the whole thing (rentals: per package and hour).
    """

    chip: str
    kind: PriceKind
    figure: Figure
    packages: int = 1
    market: str = "world"
    period: str = ""


class ExchangeRate(Record):
    """Units of ``quote`` for one unit of ``base``; the figure's unit is "QUOTE/BASE"."""

    base: str
    quote: str
    figure: Figure


class MarketFigure(Record):
    """A figure of the market: electricity, duty, revenue share, life, interest.

    Attributes:
        id: "power/cn-subsidised".
        scope: what it holds for, in words.
    """

    id: str
    scope: str
    figure: Figure


class Prices(Record):
    """All prices, rates and market figures."""

    price: tuple[Price, ...] = ()
    rate: tuple[ExchangeRate, ...] = ()
    market: tuple[MarketFigure, ...] = ()

    def known(self, as_of: dt.date | None) -> Prices:
        """Only what was known on ``as_of``."""
        if as_of is None:
            return self
        return Prices(
            price=tuple(p for p in self.price if p.figure.known_since <= as_of),
            rate=tuple(r for r in self.rate if r.figure.known_since <= as_of),
            market=tuple(m for m in self.market if m.figure.known_since <= as_of),
        )

    def market_figure(self, figure_id: str) -> Figure:
        """A market figure by id.

        Raises:
            CatalogError: unknown id.
        """
        for entry in self.market:
            if entry.id == figure_id:
                return entry.figure
        known = ", ".join(sorted(entry.id for entry in self.market))
        raise CatalogError(f'unknown market figure "{figure_id}"', where=figure_id, mend=f"Known: {known}.")

    def exchange_rate(self, base: str, quote: str, as_of: dt.date | None = None) -> Figure:
        """Units of ``quote`` for one ``base``: the newest rate known on ``as_of``, inverted or crossed if need be.

        Raises:
            CatalogError: no rate leads from one to the other.
        """
        for currency in (base, quote):
            if currency not in units.CURRENCIES:
                raise CatalogError(
                    f'unknown currency "{currency}"',
                    where="exchange rate",
                    mend=f"Known: {', '.join(units.CURRENCIES)}.",
                )
        if base == quote:
            day = as_of or dt.date(2000, 1, 1)
            return Figure(
                value=1.0, unit=f"{quote}/{base}", source="identity", as_of=day, confidence="assumed", low=1.0, high=1.0
            )
        direct = self._direct(base, quote, as_of)
        if direct is not None:
            return direct
        first, second = self._direct(base, "USD", as_of), self._direct("USD", quote, as_of)
        if first is None or second is None:
            raise CatalogError(
                f"no exchange rate from {base} to {quote}", where="exchange rate", mend="Give prices in one currency."
            )
        return _product(first, second, unit=f"{quote}/{base}")

    def _direct(self, base: str, quote: str, as_of: dt.date | None) -> Figure | None:
        known = [r for r in self.rate if as_of is None or r.figure.known_since <= as_of]
        for rate in sorted(known, key=lambda r: r.figure.as_of, reverse=True):
            if (rate.base, rate.quote) == (base, quote):
                return rate.figure
            if (rate.base, rate.quote) == (quote, base):
                return _inverse(rate.figure, unit=f"{quote}/{base}")
        return None

    def purchase(self, chip_ids: tuple[str, ...], currency: str, as_of: dt.date | None = None) -> list[Figure]:
        """Prices of one package in ``currency``, in the order of the file: the one to use first comes first."""
        found = [
            p for p in self.price
            if p.chip in chip_ids and p.kind != "rental" and (as_of is None or p.figure.known_since <= as_of)
        ]  # fmt: skip
        return [self._per_package(price, currency, as_of) for price in found]

    def rental(self, chip_ids: tuple[str, ...], currency: str, as_of: dt.date | None = None) -> list[Figure]:
        """Rents of one package in ``currency``/h, in the order of the file."""
        found = [
            p for p in self.price
            if p.chip in chip_ids and p.kind == "rental" and (as_of is None or p.figure.known_since <= as_of)
        ]  # fmt: skip
        return [self._per_package(price, currency, as_of) for price in found]

    def _per_package(self, price: Price, currency: str, as_of: dt.date | None) -> Figure:
        figure = price.figure
        try:
            own = units.currency_of(figure.unit)
        except InputError as error:
            raise CatalogError(error.what, where=f"price of {price.chip}", mend=error.mend) from None
        rate = self.exchange_rate(own, currency, as_of) if own != currency else None
        factor = (rate.value if rate else 1.0) / price.packages
        notes = [f"{price.kind} price, {price.market}" + (f", {price.period}" if price.period else "")]
        if price.packages > 1:
            notes.append(f"{figure.value:,.0f} {figure.unit} for {price.packages} packages")
        if rate:
            notes.append(f"converted at {rate.value:.4g} {rate.unit} of {rate.as_of.isoformat()}")
        notes += [figure.note] if figure.note else []
        return msgspec.structs.replace(
            figure,
            value=figure.value * factor,
            low=None if figure.low is None else figure.low * factor,
            high=None if figure.high is None else figure.high * factor,
            unit=figure.unit.replace(own, currency),
            note="; ".join(notes),
        )


def _inverse(rate: Figure, *, unit: str) -> Figure:
    low = None if rate.high is None else 1.0 / rate.high
    high = None if rate.low is None else 1.0 / rate.low
    return msgspec.structs.replace(rate, value=1.0 / rate.value, low=low, high=high, unit=unit)


def _product(first: Figure, second: Figure, *, unit: str) -> Figure:
    (low_a, high_a), (low_b, high_b) = first.si_range, second.si_range
    return msgspec.structs.replace(
        first, value=first.value * second.value, low=low_a * low_b, high=high_a * high_b, unit=unit,
        source=f"{first.source}; {second.source}", as_of=max(first.as_of, second.as_of), confidence="assumed",
    )  # fmt: skip
