"""What things cost in a study: the study's own prices first, then the catalogue's, each marked with its source."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.app.study import Site, Study
from offramp.catalog import Catalog, Chip, System
from offramp.core import units
from offramp.core.errors import CatalogError, InputError
from offramp.core.figure import Figure
from offramp.core.result import FigureLog, Notice
from offramp.core.seeds import derive_seed
from offramp.cost import CapitalTerms, yearly_cost

F8 = npt.NDArray[np.float64]
Z90: Final = 1.2815515594
MAINTENANCE: Final = Figure(
    value=3.0, unit="%", source="assumed: yearly support and repair over the purchase price", confidence="assumed",
    as_of=dt.date(2026, 11, 23), known=dt.date(2020, 1, 1), low=0.0, high=8.0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Money:
    """An amount in the study's currency with its range (10th to 90th percentile).

    Attributes:
        origin: id of the figure, or "study".
    """

    low: float
    mid: float
    high: float
    origin: str

    def draws(self, count: int, seed: int, name: str) -> F8:
        """Lognormal draws that match mid and range; antithetic, so that their median is mid. [count]"""
        if self.mid <= 0 or self.high <= self.low:
            return np.full(count, self.mid)
        low = max(self.low, 0.05 * self.mid)
        sd = (np.log(self.high) - np.log(low)) / (2.0 * Z90)
        rng = np.random.default_rng(derive_seed(seed, "price", name))
        half = rng.standard_normal((count + 1) // 2)
        both = rng.permutation(np.concatenate([half, -half]))[:count]
        return self.mid * np.exp(sd * both)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Prices and terms of one study.

    Attributes:
        study, catalog: where they come from.
        log: collects figures used.
        notices: collects what the reader must know.
    """

    study: Study
    catalog: Catalog
    log: FigureLog
    notices: list[Notice]

    @property
    def currency(self) -> str:
        """The study's currency."""
        return self.study.study.currency

    def rate(self, base: str) -> float:
        """Units of the study's currency for one ``base``."""
        if base == self.currency:
            return 1.0
        own = self.study.economics.fx.get(base)
        if own is not None:
            return own
        return self.log.use(f"rates/{base}-{self.currency}", self.catalog.exchange_rate(base, self.currency)).value

    def amount(self, text: str, dimension: units.Dimension) -> float:
        """A money quantity of the study in its currency and SI units."""
        return units.parse(text, dimension) * self.rate(units.currency_of(text))

    def market(self, name: str) -> Figure:
        """A market figure, noted."""
        return self.log.use(f"market/{name}", self.catalog.prices.market_figure(name))

    def _knows(self, name: str) -> bool:
        """Whether a market figure was known on the study's date."""
        return any(entry.id == name for entry in self.catalog.prices.market)

    def terms(self) -> CapitalTerms:
        """How a purchase becomes a yearly cost."""
        own = self.study.economics
        life_s = own.life_s if own.life_s is not None else self.market("finance/life").si
        interest = own.interest if own.interest is not None else self.market("finance/interest").si
        residual = own.residual if own.residual is not None else self.market("finance/residual").si
        return CapitalTerms(
            life_years=life_s / units.YEAR_S, residual_share=residual, interest=interest,
            maintenance_share=self.log.use("economics/maintenance", MAINTENANCE).si,
        )  # fmt: skip

    def power_price(self, site: Site) -> float:
        """Price of a joule at a site."""
        if site.power_price is not None:
            return self.amount(site.power_price, "money/J")
        home = (site.country or self.study.organisation.headquarters) == "CN"
        name = "power/cn-west" if home else "power/us-industrial"
        if not self._knows(name):
            what = f"no power price was known on {self.study.study.as_of}"
            raise InputError(
                what, where=f"$.site.{site.id}.power_price", mend='Give one, as power_price = "0.5 CNY/kWh".'
            )
        figure = self.market(name)
        return figure.si * self.rate(units.currency_of(figure.unit))

    def pue(self, site: Site) -> float:
        """Facility power over IT power."""
        return site.pue if site.pue is not None else self.market("site/pue").value

    def chip_price(self, chip: Chip) -> Money | None:
        """Purchase price of one package with duty and tax; None where no source gives one."""
        extra = (1.0 + (self.study.economics.duty or 0.0)) * (1.0 + (self.study.economics.tax or 0.0))
        for price in self.study.price:
            if self.catalog.chip(price.chip).id == chip.id and price.chip_price:
                value = self.amount(price.chip_price, "money") * extra
                return Money(low=value, mid=value, high=value, origin="study")
        found = self._catalog_price(chip)
        if found is None:
            return None
        low, high = found.low or found.value, found.high or found.value
        scale = units.unit_factor(found.unit)[0] * extra
        return Money(low=low * scale, mid=found.value * scale, high=high * scale, origin=f"prices/{chip.id}")

    def _catalog_price(self, chip: Chip) -> Figure | None:
        for chip_id, note in [(chip.id, ""), *self._stand_ins(chip)]:
            found = self.catalog.price(chip_id, self.currency)
            if found:
                if note:
                    self.notices.append(Notice(kind="price-stands-in", text=note, where=chip.id))
                return self.log.use(f"prices/{chip_id}", found[0])
        if chip.vendor in _DOMESTIC and self._knows(_DOMESTIC_CARD):
            figure = self.market(_DOMESTIC_CARD)
            text = "no price is sourced; the printed range of domestic inference cards stands in"
            self.notices.append(Notice(kind="price-stands-in", text=text, where=chip.id))
            factor = self.rate(units.currency_of(figure.unit))
            return _scaled(figure, factor, self.currency)
        return None

    def _stand_ins(self, chip: Chip) -> list[tuple[str, str]]:
        """Names that may stand for the chip in price lists: mixtures that contain it, and its close variants."""
        found = [
            (other.id, f"no price is sourced for this variant; that of {other.name} stands in")
            for other in self.catalog.chips.values()
            if any(bin_.chip == chip.id for bin_ in other.mixture)
        ]
        stem = chip.id.rsplit("-", 1)[0]
        if "-" in chip.id.split("/")[-1] and stem in self.catalog.chips:
            found.append((stem, f"no price is sourced for this variant; that of {stem} stands in"))
        return found

    def server_price(self, chip: Chip) -> float | None:
        """Price of a whole server with its chips, where the study gives one."""
        for price in self.study.price:
            if self.catalog.chip(price.chip).id == chip.id and price.server_price:
                return self.amount(price.server_price, "money")
        return None

    def rent(self, chip: Chip) -> float | None:
        """Rent of one package per second, where the study gives one."""
        for price in self.study.price:
            if self.catalog.chip(price.chip).id == chip.id and price.rent:
                return self.amount(price.rent, "money/s")
        return None

    def host_share(self, per_server: int) -> float:
        """Price of host and network for one chip."""
        host = self.market("host/price")
        host_price = host.si * self.rate(units.currency_of(host.unit)) / max(per_server, 1)
        own = self.study.economics.network_share
        if own is not None:
            return host_price * (1.0 + own)
        network = self.market("network/price")
        return host_price + network.si * self.rate(units.currency_of(network.unit))

    def capital_per_s(self, chip: Chip, system: System | None) -> tuple[Money | None, float]:
        """Cost of having one chip for a second: as a range from its price; and the part that is not the chip's."""
        rent = self.rent(chip)
        if rent is not None:
            return Money(low=rent, mid=rent, high=rent, origin="study"), 0.0
        per_server = system.packages_per_node if system else 8
        terms = self.terms()
        whole = self.server_price(chip)
        if whole is not None:
            value = yearly_cost(whole / per_server, terms) / units.YEAR_S
            return Money(low=value, mid=value, high=value, origin="study"), 0.0
        price = self.chip_price(chip)
        host = yearly_cost(self.host_share(per_server), terms) / units.YEAR_S
        if price is None:
            text = "no price is sourced, so cost is left open; give one under [[price]]"
            self.notices.append(Notice(kind="no-price", text=text, where=chip.id))
            return None, host
        one = yearly_cost(1.0, terms) / units.YEAR_S
        return Money(low=price.low * one, mid=price.mid * one, high=price.high * one, origin=price.origin), host

    def extras_per_s(self, chips: int, servers: int, site: Site) -> float:
        """Space and staff for so many chips, where the study gives prices."""
        space = self.amount(site.space_price, "money/s") * servers if site.space_price else 0.0
        fleet = sum(entry.count for entry in self.study.fleet) or chips or 1
        staff = self.study.economics.staff
        return space + (self.amount(staff, "money/s") * chips / fleet if staff else 0.0)


_DOMESTIC_CARD: Final = "price/cn-domestic-card"
_DOMESTIC: Final = frozenset(
    {"Huawei", "Cambricon", "Hygon", "Moore Threads", "MetaX", "Kunlunxin", "Iluvatar", "Enflame", "Biren", "T-Head"}
)


def _scaled(figure: Figure, factor: float, currency: str) -> Figure:
    import msgspec

    own = units.currency_of(figure.unit)
    low = None if figure.low is None else figure.low * factor
    high = None if figure.high is None else figure.high * factor
    return msgspec.structs.replace(
        figure, value=figure.value * factor, low=low, high=high, unit=figure.unit.replace(own, currency)
    )


def check_currency(study: Study, catalog: Catalog) -> None:
    """Raises early when prices in the study cannot be brought to its currency.

    Raises:
        CatalogError: no exchange rate.
    """
    for base in ("CNY", "USD"):
        if base != study.study.currency and base not in study.economics.fx:
            try:
                catalog.exchange_rate(base, study.study.currency)
            except CatalogError as error:
                mend = f"Give economics.fx = {{ {base} = ... }}."
                raise CatalogError(error.what, where="study.economics.fx", mend=mend) from None
