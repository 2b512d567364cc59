"""Sourced supply, demand and price figures, vendors, parameters and policy regimes: read once from the shipped data."""

from __future__ import annotations

import datetime as dt
import functools
import tomllib
from importlib import resources
from typing import Any, Final, Literal

import msgspec

from offramp.core.errors import CatalogError, near_miss_hint
from offramp.core.figure import Confidence, Figure, check_figure
from offramp.core.record import Record

DATA_VERSION: Final = "supply-2026-11-23"
State = Literal["open", "restricted", "closed"]
STATES: Final[tuple[State, ...]] = ("open", "restricted", "closed")
WEIGHT_BY_CONFIDENCE: Final[dict[Confidence, float]] = {
    "measured-by-vendor": 4.0,
    "measured-by-third-party": 4.0,
    "analyst-estimate": 2.0,
    "vendor-claim": 1.0,
    "press": 1.0,
    "assumed": 0.5,
}
"""Weight of one source in a mixture unless the data give another one with a reason."""


class Fact(Figure, kw_only=True):
    """A figure about supply, demand or price, with what it measures."""

    id: str
    metric: str
    entity: str
    item: str
    period: str
    kind: str


class Total(Record):
    """A published yearly total of one vendor; ``weight`` overrides the default of its confidence and needs ``why``."""

    fact: str
    year: int
    basis: Literal["cards", "dies"] = "cards"
    weight: float | None = None
    why: str = ""


class YearFigure(Figure, kw_only=True):
    """A figure of one year."""

    year: int


class QuarterFigure(Figure, kw_only=True):
    """A figure of one quarter."""

    quarter: str


class Point(Record):
    """A fact placed at a quarter."""

    fact: str
    quarter: str


class Product(Record):
    """A chip and its share of the vendor's cards by year; linear between years, constant outside."""

    chip: str
    share: dict[str, float]


class Vendor(Record):
    """How one vendor's cards are drawn; the fields used depend on ``kind``."""

    id: str
    name: str
    jurisdiction: str
    kind: Literal["foundry", "reported", "imported"]
    products: tuple[Product, ...]
    mix_source: str
    wafer_share: str = ""
    hbm_share: str = ""
    packaging: str = ""
    two_die_share: tuple[str, ...] = ()
    die_bank: tuple[str, ...] = ()
    yields: tuple[Point, ...] = ()
    prior_total: YearFigure | None = None
    totals: tuple[Total, ...] = ()
    regime: str = ""
    open_rate: Figure | None = None
    delivered: tuple[QuarterFigure, ...] = ()


class WaferSource(Record):
    """One source's path of wafers a month; ``ai_share`` when it counts all advanced wafers."""

    source: str
    ai_share: bool
    points: tuple[Point, ...]


class Event(Record, rename={"from_": "from"}):
    """A dated change of a regime."""

    from_: dt.date
    known: dt.date
    state: State
    what: str
    url: str = ""


class Regime(Record):
    """A policy regime with its history."""

    id: str
    name: str
    events: tuple[Event, ...]


class SupplyData(Record):
    """Everything that the supply layer reads, indexed."""

    facts: dict[str, Fact]
    params: dict[str, Figure]
    vendors: tuple[Vendor, ...]
    wafers: tuple[WaferSource, ...]
    hbm_stock: tuple[str, ...]
    regimes: dict[str, Regime]
    regime_factors: dict[State, Figure]
    prior_stay: float
    prior_move: float

    def fact(self, fact_id: str) -> Fact:
        """A fact by id.

        Raises:
            CatalogError: there is none of that id.
        """
        if fact_id not in self.facts:
            raise CatalogError(f'unknown supply fact "{fact_id}"', mend=near_miss_hint(fact_id, self.facts))
        return self.facts[fact_id]

    def known(self, fact_id: str, as_of: dt.date) -> Fact | None:
        """The fact if it was known on that day."""
        fact = self.fact(fact_id)
        return fact if fact.known_since <= as_of else None

    def vendor(self, vendor_id: str) -> Vendor:
        """A vendor by id.

        Raises:
            CatalogError: there is none of that id.
        """
        for vendor in self.vendors:
            if vendor.id == vendor_id:
                return vendor
        ids = [vendor.id for vendor in self.vendors]
        hint = near_miss_hint(vendor_id, ids) or f"Known: {', '.join(ids)}."
        raise CatalogError(f'unknown vendor "{vendor_id}"', where="--vendor", mend=hint)


@functools.cache
def load() -> SupplyData:
    """The shipped supply data, checked.

    Raises:
        CatalogError: a file is broken; the message names the file and what is wrong.
    """
    facts: dict[str, Fact] = {}
    for name in ("supply", "demand", "prices"):
        for fact in _convert(_read(f"facts/{name}.toml")["fact"], list[Fact], f"facts/{name}.toml"):
            if fact.id in facts:
                raise CatalogError(f'fact "{fact.id}" appears twice', where=f"data/supply/facts/{name}.toml")
            check_figure(fact, where=f"data/supply/facts/{name}.toml:{fact.id}")
            facts[fact.id] = fact
    params = _convert(_read("params.toml"), dict[str, Figure], "params.toml")
    for name, figure in params.items():
        check_figure(figure, where=f"data/supply/params.toml:{name}")
    tables, regimes = _read("vendors.toml"), _read("regimes.toml")
    data = SupplyData(
        facts=facts,
        params=params,
        vendors=tuple(_convert(tables["vendor"], list[Vendor], "vendors.toml")),
        wafers=tuple(_convert(tables["wafers"], list[WaferSource], "vendors.toml")),
        hbm_stock=tuple(row["fact"] for row in tables["hbm_stock"]),
        regimes={r.id: r for r in _convert(regimes["regime"], list[Regime], "regimes.toml")},
        regime_factors=_convert(regimes["factor"], dict[State, Figure], "regimes.toml"),
        prior_stay=float(regimes["prior"]["stay"]),
        prior_move=float(regimes["prior"]["move"]),
    )
    _check(data)
    return data


def _read(name: str) -> dict[str, Any]:
    text = resources.files("offramp.data").joinpath("supply", name).read_text("utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"is not TOML: {error}", where=f"data/supply/{name}") from None


def _convert(value: Any, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise CatalogError(str(error), where=f"data/supply/{name}") from None


def _check(data: SupplyData) -> None:
    """Every reference leads somewhere, every yearly mix adds up to one, every override says why."""
    where = "data/supply/vendors.toml"
    for vendor in data.vendors:
        for name in (vendor.wafer_share, vendor.hbm_share, vendor.packaging, *vendor.two_die_share):
            if name and name not in data.params:
                raise CatalogError(f'unknown parameter "{name}"', where=where, mend=near_miss_hint(name, data.params))
        for total in vendor.totals:
            data.fact(total.fact)
            if total.weight is not None and not total.why:
                raise CatalogError(f"weight of {total.fact} is given without a reason", where=where)
        for point in vendor.yields:
            data.fact(point.fact)
        if vendor.regime and vendor.regime not in data.regimes:
            raise CatalogError(f'unknown regime "{vendor.regime}"', where=where)
        for figure in (vendor.prior_total, vendor.open_rate, *vendor.delivered):
            if figure is not None:
                check_figure(figure, where=f"{where}:{vendor.id}")
    for source in data.wafers:
        for point in source.points:
            data.fact(point.fact)


def wanted_weight(figure: Figure, weight: float | None) -> float:
    """The weight of a source in a mixture."""
    return WEIGHT_BY_CONFIDENCE[figure.confidence] if weight is None else weight
