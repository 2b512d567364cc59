"""Figure: a number that says where it comes from."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from offramp.core import units
from offramp.core.errors import CatalogError, InputError
from offramp.core.record import Record

Confidence = Literal[
    "measured-by-vendor", "measured-by-third-party", "vendor-claim", "analyst-estimate", "press", "assumed"
]
NEEDS_RANGE = ("analyst-estimate", "press", "assumed")


class Figure(Record):
    """A sourced number.

    Attributes:
        value: as printed by the source, in ``unit``.
        unit: as printed ("TB/s"); :attr:`si` converts.
        source: title of the page, paper or data sheet; how it was derived when it is a derivation.
        url: address, repo:path@commit or arXiv id; empty only when confidence is "assumed".
        as_of: date of the source.
        known: date from which anyone could know it; ``as_of`` when absent.
        confidence: what kind of evidence it is.
        low, high: range in ``unit``; required for analyst-estimate, press and assumed.
        note: disagreements, conventions, direction of a bandwidth, package or die.
    """

    value: float
    unit: str
    source: str
    as_of: dt.date
    confidence: Confidence
    url: str = ""
    known: dt.date | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def si(self) -> float:
        """The value in SI units (shares 0-1, money in its own currency)."""
        return self.value * units.unit_factor(self.unit)[0]

    @property
    def si_range(self) -> tuple[float, float]:
        """Low and high in SI units; both equal the value where no range is given."""
        factor = units.unit_factor(self.unit)[0]
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        return low * factor, high * factor

    @property
    def known_since(self) -> dt.date:
        """The date from which a study may use it."""
        return self.known or self.as_of


def check_figure(figure: Figure, *, where: str) -> Figure:
    """The figure itself, if it obeys the rules of the catalogue.

    Raises:
        CatalogError: unknown unit, no source, a range missing or not around the value.
    """
    try:
        units.unit_factor(figure.unit)
    except InputError as error:
        raise CatalogError(error.what, where=where, mend=error.mend) from None
    if not figure.source.strip():
        raise CatalogError("figure has no source", where=where, mend="Name the page, paper or data sheet.")
    if not figure.url and figure.confidence != "assumed":
        raise CatalogError(
            "figure has no url", where=where, mend='Give the address, or mark it confidence = "assumed".'
        )
    if figure.confidence in NEEDS_RANGE and (figure.low is None or figure.high is None):
        raise CatalogError(f"a figure of confidence {figure.confidence} needs low and high", where=where)
    if figure.low is not None and figure.high is not None and not figure.low <= figure.value <= figure.high:
        raise CatalogError(f"{figure.value:g} is not within {figure.low:g} to {figure.high:g}", where=where)
    return figure
