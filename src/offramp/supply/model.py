"""Cards that each vendor brings to the market, by quarter, with every source of disagreement drawn."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from offramp.core.errors import CatalogError, InputError
from offramp.core.quarters import parse_quarter, quarter_name, quarter_of
from offramp.core.result import FigureLog
from offramp.core.seeds import derive_seed
from offramp.supply.facts import STATES, Fact, SupplyData, Vendor, wanted_weight
from offramp.supply.foundry import FoundryPath, Inputs, common_inputs
from offramp.supply.regimes import draw_states
from offramp.supply.sample import F8, I8, draw, mixture

GRID_START: Final = parse_quarter("2023Q1")
FIRST: Final = parse_quarter("2025Q1")
"""First quarter of the output: the first whole year for which the sources can be compared."""
BETWEEN_WEIGHT: Final = 2.0
"""Weight of the way between two published totals in a year that has none: that of one analyst's estimate."""
STRUCTURE_WEIGHT: Final = 2.0
"""Weight of the structural path beside published totals: that of one analyst's estimate."""


@dataclass(frozen=True, kw_only=True)
class SupplyDraws:
    """Draws of what every vendor delivers to the market.

    Attributes:
        quarters: names of the quarters. [quarters]
        vendors: ids. [vendors]
        cards: cards a quarter (a two-die package is one card). [draws, quarters, vendors]
        states: regime states by regime id, index into facts.STATES. [draws, quarters]
        binding: what bound a foundry vendor, index into foundry.BINDING. [draws, quarters]
        named: every scalar input of a draw, for the tornado. [draws]
        components: for each (vendor, year) the name of each source in the mixture and its share of the draws.
    """

    quarters: list[str]
    vendors: list[str]
    cards: F8
    states: dict[str, I8]
    binding: dict[str, npt.NDArray[np.int8]]
    named: dict[str, F8]
    components: dict[tuple[str, int], list[tuple[str, float]]] = field(default_factory=dict)

    def of(self, vendor: str) -> F8:
        """One vendor's cards. [draws, quarters]"""
        return self.cards[:, :, self.vendors.index(vendor)]

    def year(self, vendors: Sequence[str], year: int) -> F8:
        """Cards of some vendors together in one year. [draws]"""
        columns = [i for i, name in enumerate(self.quarters) if name.startswith(str(year))]
        rows = [self.vendors.index(vendor) for vendor in vendors]
        return self.cards[:, columns][:, :, rows].sum(axis=(1, 2))


def simulate(
    data: SupplyData, as_of: dt.date, *, draws: int = 1000, seed: int = 0, last: str = "2028Q4", log: FigureLog
) -> SupplyDraws:
    """Supply by vendor and quarter as it could be judged on ``as_of``.

    Args:
        data: the shipped figures.
        as_of: nothing known later is used.
        draws: how many joint draws.
        seed: master seed.
        last: last quarter.
        log: collects the figures used.

    Raises:
        InputError: too few draws, a horizon before 2025, or a date before the first figure.
    """
    _check_request(as_of, draws, last)
    grid = np.arange(GRID_START, parse_quarter(last) + 1)
    inputs = Inputs(
        data=data, as_of=as_of, draws=draws, log=log, named={}, rng=np.random.default_rng(derive_seed(seed, "supply"))
    )
    states = {
        regime.id: draw_states(data, regime, grid, as_of=as_of, draws=draws,
                               rng=np.random.default_rng(derive_seed(seed, "regime", regime.id)))
        for regime in data.regimes.values()
    }  # fmt: skip
    common = common_inputs(inputs, grid)
    cards: list[F8] = []
    binding: dict[str, npt.NDArray[np.int8]] = {}
    components: dict[tuple[str, int], list[tuple[str, float]]] = {}
    for vendor in data.vendors:
        if vendor.kind == "foundry":
            path: _Shape = FoundryPath(inputs, common, vendor)
        elif vendor.kind == "reported":
            path = _FixedPath(_growing(inputs, vendor, grid))
        else:
            path = _FixedPath(_imported(inputs, vendor, states[vendor.regime], grid))
        cards.append(_levelled(inputs, vendor, path, grid, components))
        if isinstance(path, FoundryPath):
            binding[vendor.id] = path.binding[:, grid >= FIRST]
    keep = grid >= FIRST
    for regime, found in states.items():
        inputs.named[f"policy: quarters in which {data.regimes[regime].name} is open"] = (
            (found[:, keep] == STATES.index("open")).mean(axis=1)
        )  # fmt: skip
    return SupplyDraws(
        quarters=[quarter_name(int(q)) for q in grid[keep]],
        vendors=[vendor.id for vendor in data.vendors],
        cards=np.stack(cards, axis=2)[:, keep],
        states={name: found[:, keep] for name, found in states.items()},
        binding=binding,
        named=inputs.named,
        components=components,
    )


def _check_request(as_of: dt.date, draws: int, last: str) -> None:
    if not 10 <= draws <= 1_000_000:
        raise InputError(f"{draws} draws", where="draws", mend="Ask for 10 to 1,000,000.")
    if parse_quarter(last, where="last quarter") < max(FIRST, quarter_of(as_of)):
        raise InputError(f"{last} lies before the study's date or before 2025", where="last quarter")
    if as_of < dt.date(2025, 6, 1):
        raise InputError(
            f"supply is not modelled as of {as_of}", where="as_of", mend="The first figures date from 2025-06-01."
        )


class _Shape(Protocol):
    """A vendor's path before published totals scale it."""

    def year(self, columns: I8, carry: F8) -> F8: ...

    def settle(self, columns: I8, carry: F8, scale: F8) -> None: ...


class _FixedPath:
    """A path whose later years do not depend on what earlier years were taken to be, other than by their level."""

    def __init__(self, cards: F8) -> None:
        self._cards = cards

    def year(self, columns: I8, carry: F8) -> F8:
        """The path times the carried level. [draws, columns]"""
        return self._cards[:, columns] * carry[:, None]

    def settle(self, columns: I8, carry: F8, scale: F8) -> None:
        """Nothing to move on."""


def _growing(inputs: Inputs, vendor: Vendor, grid: I8) -> F8:
    """Cards a quarter around the prior total, growing at a drawn rate. [draws, quarters]"""
    growth = inputs.param("other_growth", label=f"{vendor.id}: growth")
    prior = vendor.prior_total
    if prior is None:
        raise CatalogError(f"vendor {vendor.id} has no prior_total", where="data/supply/vendors.toml")
    level = inputs.figure(f"supply/vendors#{vendor.id}.prior_total", prior) / 4.0
    middle = prior.year * 4 + 1.5
    return level[:, None] * growth[:, None] ** ((grid[None, :] - middle) / 4.0)


def _imported(inputs: Inputs, vendor: Vendor, states: I8, grid: I8) -> F8:
    """Open rate x regime factor, with reported deliveries where they were known. [draws, quarters]"""
    if vendor.open_rate is None:
        raise CatalogError(f"vendor {vendor.id} has no open_rate", where="data/supply/vendors.toml")
    rate = inputs.figure(f"supply/vendors#{vendor.id}.open_rate", vendor.open_rate, f"{vendor.id}: open rate") / 4.0
    factors = np.stack(
        [inputs.figure(f"supply/regimes#{state}", inputs.data.regime_factors[state]) for state in STATES], axis=1
    )
    inputs.named[f"{vendor.id}: deliveries under restriction"] = factors[:, STATES.index("restricted")]
    cards = rate[:, None] * np.take_along_axis(factors, states, axis=1)
    for figure in vendor.delivered:
        column = parse_quarter(figure.quarter) - GRID_START
        if figure.known_since <= inputs.as_of and 0 <= column < grid.size:
            cards[:, column] = inputs.figure(f"supply/vendors#{vendor.id}.{figure.quarter}", figure)
    return cards


def _levelled(
    inputs: Inputs, vendor: Vendor, path: _Shape, grid: I8, components: dict[tuple[str, int], list[tuple[str, float]]]
) -> F8:
    """The path scaled year by year to a mixture of published totals and of itself. [draws, quarters]"""
    u = inputs.rng.random(inputs.draws)
    if vendor.totals:
        inputs.named[f"{vendor.id}: which source is right"] = u
    memory = np.ones(inputs.draws)
    if vendor.kind == "foundry":
        memory = inputs.param("calibration_memory", label=f"{vendor.id}: memory of a published total")
    carry = np.ones(inputs.draws)
    before: F8 | None = None
    out = np.zeros((inputs.draws, grid.size))
    for year in range(FIRST // 4, int(grid[-1]) // 4 + 1):
        columns = np.flatnonzero(grid // 4 == year)
        shape = path.year(columns, carry)
        base = shape.sum(axis=1)
        names, values, weights = _components(inputs, vendor, year, base if columns.size == 4 else None)
        between = _between(inputs, vendor, year, before, u) if names == ["structure"] else None
        if between is not None:
            names, values, weights = (
                [*names, "between published totals"],
                [*values, between],
                [*weights, BETWEEN_WEIGHT],
            )
        level, index = mixture(values, weights, u) if values else (base, np.zeros(u.size, dtype=np.int64))
        scale = level / np.maximum(base, 1e-9)
        # neither a published total nor stocks that are used up say when within the year: quarters are even
        even = np.asarray([name != "structure" for name in names] or [False])[index] | (vendor.kind == "foundry")
        out[:, columns] = np.where(even[:, None], level[:, None] / columns.size, shape * scale[:, None])
        before = level
        path.settle(columns, carry, scale)
        carry = np.clip(carry * scale, 1e-3, 1e3) ** memory
        components[vendor.id, year] = [(name, float((index == i).mean())) for i, name in enumerate(names)]
    return out


def _between(inputs: Inputs, vendor: Vendor, year: int, before: F8 | None, u: F8) -> F8 | None:
    """A year without a published total, on the way from the year before to the next year that has one. [draws]"""
    later = next((y for y in range(year + 1, year + 3) if _published(inputs, vendor, y)), None)
    if before is None or later is None:
        return None
    rows = _published(inputs, vendor, later)
    level, _ = mixture([drawn for _, drawn, _ in rows], [weight for _, _, weight in rows], u)
    share = 1.0 / (later - year + 1)
    return np.exp((1.0 - share) * np.log(np.maximum(before, 1.0)) + share * np.log(np.maximum(level, 1.0)))


def _components(inputs: Inputs, vendor: Vendor, year: int, base: F8 | None) -> tuple[list[str], list[F8], list[float]]:
    """Names, draws and weights of what is believed about a year; nothing for a year that is not whole."""
    if base is None:
        return [], [], []
    published = _published(inputs, vendor, year)
    rows = [(fact.source, drawn, weight) for fact, drawn, weight in published]
    outcome = any(_is_outcome(fact, year) for fact, _, _ in published)
    if not outcome and (vendor.kind != "reported" or not rows):
        rows.append(("structure", base, STRUCTURE_WEIGHT))
    prior = vendor.prior_total
    if vendor.kind == "foundry" and prior is not None and prior.year == year and not published:
        drawn = inputs.figure(f"supply/vendors#{vendor.id}.prior_total", prior)
        rows.append(("prior", drawn, wanted_weight(prior, None)))
    return [name for name, _, _ in rows], [drawn for _, drawn, _ in rows], [weight for _, _, weight in rows]


def _is_outcome(fact: Fact, year: int) -> bool:
    """Whether a total reports a finished year (an estimate made during the year is a forecast)."""
    return fact.kind.startswith("actual") and fact.as_of.year > year


def _published(inputs: Inputs, vendor: Vendor, year: int) -> list[tuple[Fact, F8, float]]:
    """Published totals of a year known on the study's date, in cards; outcomes replace forecasts."""
    known: list[tuple[Fact, F8, float]] = []
    for total in vendor.totals:
        fact = inputs.data.known(total.fact, inputs.as_of)
        if total.year != year or fact is None:
            continue
        values = inputs.figure(f"supply/facts#{fact.id}", fact)
        if total.basis == "dies":
            name = f"two_die_share_{year}"
            values = values * (1.0 - draw(inputs.data.params[name], inputs.rng, inputs.draws) / 2.0)
        known.append((fact, values, wanted_weight(fact, total.weight)))
    outcomes = [row for row in known if _is_outcome(row[0], year)]
    return outcomes or known
