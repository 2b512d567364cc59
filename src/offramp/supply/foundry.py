"""Cards from wafers: wafers x dies x yield x share, a die bank, HBM stacks, packaging, lag. Vectorised over draws."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np

from offramp.core.figure import Figure
from offramp.core.quarters import parse_quarter
from offramp.core.result import FigureLog
from offramp.supply.facts import SupplyData, Vendor, wanted_weight
from offramp.supply.sample import F8, I8, draw, mixture, path

MONTHS_PER_QUARTER: Final = 3.0
MOST_YIELD: Final = 0.8
BINDING: Final = ("dies", "HBM", "packaging")
BANK_START: Final = parse_quarter("2025Q1")
"""Stocks of TSMC dies and HBM are given for the end of 2024."""


@dataclass
class Inputs:
    """One run's draws: the stream, what was known, and every scalar input by name (for the tornado)."""

    data: SupplyData
    as_of: dt.date
    draws: int
    rng: np.random.Generator
    log: FigureLog
    named: dict[str, F8]

    def param(self, name: str, *, label: str = "") -> F8:
        """Draws of a parameter, recorded under its label. [draws]"""
        figure = self.data.params[name]
        return self.figure(f"supply/params#{name}", figure, label or name)

    def figure(self, figure_id: str, figure: Figure, label: str = "") -> F8:
        """Draws of any figure; logged as used, and recorded when it has a label. [draws]"""
        self.log.use(figure_id, figure)
        values = draw(figure, self.rng, self.draws)
        if label:
            self.named[label] = values
        return values

    def fact(self, fact_id: str) -> F8 | None:
        """Draws of a fact, or None where it was not known yet. [draws]"""
        found = self.data.known(fact_id, self.as_of)
        return None if found is None else self.figure(f"supply/facts#{fact_id}", found)


@dataclass(frozen=True)
class Common:
    """What all foundry vendors share. Wafers a month and stacks a quarter. [draws, quarters] unless said otherwise."""

    quarters: I8
    wafers: F8
    lag: F8
    dies_per_wafer: F8
    conversion: F8
    hbm_stock: F8
    hbm_flow: F8
    stacks_per_die: F8


def common_inputs(inputs: Inputs, quarters: I8) -> Common:
    """The wafer, lag and HBM draws."""
    stock, _ = mixture(*_known_stock(inputs), inputs.rng.random(inputs.draws))
    left = stock * (1.0 - inputs.param("hbm_used_before", label="HBM used before 2025"))
    inputs.named["HBM stock at the end of 2024"] = left
    lag = inputs.fact("industry-lag-foundry-output-to-ai-chip-sale-any")
    months = inputs.param("lag_prior") if lag is None else lag
    dies = inputs.fact("smic-dies-per-wafer-ascend-910b-any")
    return Common(
        quarters=quarters,
        wafers=_wafers(inputs, quarters),
        lag=months / MONTHS_PER_QUARTER,
        dies_per_wafer=inputs.param("dies_per_wafer_prior") if dies is None else dies,
        conversion=inputs.param("conversion", label="good dies that become sold dies"),
        hbm_stock=left,
        hbm_flow=_hbm_flow(inputs, quarters),
        stacks_per_die=inputs.param("stacks_per_die"),
    )


def _known_stock(inputs: Inputs) -> tuple[list[F8], list[float]]:
    found = [(fact_id, inputs.fact(fact_id)) for fact_id in inputs.data.hbm_stock]
    known = [
        (values, wanted_weight(inputs.data.fact(fact_id), None)) for fact_id, values in found if values is not None
    ]
    if not known:
        known = [(inputs.param("hbm_prior"), 1.0)]
    return [values for values, _ in known], [weight for _, weight in known]


def _wafers(inputs: Inputs, quarters: I8) -> F8:
    """AI wafers a month at the foundry: one path a source, one source a draw. [draws, quarters]"""
    growth = inputs.param("wafer_growth", label="growth of AI wafers beyond the sources' years")
    share = inputs.param("ai_share_of_advanced", label="AI share of advanced wafers")
    paths: list[F8] = []
    for source in inputs.data.wafers:
        points = [(parse_quarter(p.quarter), inputs.fact(p.fact)) for p in source.points]
        known = [(at, values) for at, values in points if values is not None]
        if known:
            found = path([at for at, _ in known], [values for _, values in known], quarters, growth)
            paths.append(found * share[:, None] if source.ai_share else found)
    if not paths:
        paths = [path([parse_quarter("2025Q3")], [inputs.param("ai_wafers_prior")], quarters, growth)]
    u = inputs.rng.random(inputs.draws)
    column = int(np.searchsorted(quarters, parse_quarter("2026Q4")))
    _, index = mixture([found[:, column] for found in paths], [2.0] * len(paths), u)
    chosen = np.stack(paths)[index, np.arange(inputs.draws)]
    inputs.named["AI wafers a month, end of 2026"] = chosen[:, column]
    return chosen


def _hbm_flow(inputs: Inputs, quarters: I8) -> F8:
    """HBM stacks a quarter after 2024: leakage plus the domestic ramp. [draws, quarters]"""
    planned = inputs.data.params["domestic_hbm_wafers"].known_since <= inputs.as_of
    name = "domestic_hbm_wafers" if planned else "domestic_hbm_wafers_prior"
    full = inputs.param(name, label="DRAM wafers planned for HBM")
    start = _hbm_start(inputs)
    ramp = inputs.param("domestic_hbm_ramp_quarters", label="length of the domestic HBM ramp")
    per_wafer = inputs.param("domestic_hbm_stacks_per_wafer", label="good HBM stacks per DRAM wafer")
    leak = inputs.param("hbm_import_after", label="HBM that still leaks in")
    years = quarters[None, :] / 4.0
    share = np.clip((years - start[:, None]) * 4.0 / ramp[:, None], 0.0, 1.0)
    flow = leak[:, None] + share * (full * per_wafer * MONTHS_PER_QUARTER)[:, None]
    return np.where(quarters[None, :] >= BANK_START, flow, 0.0)


def _hbm_start(inputs: Inputs) -> F8:
    """Start of domestic HBM volume in calendar years: accounts that disagree stay two humps. [draws]"""
    known = [
        name for name in ("domestic_hbm_start_early", "domestic_hbm_start_late")
        if inputs.data.params[name].known_since <= inputs.as_of
    ]  # fmt: skip
    names = known if len(known) == 2 else [*known, "domestic_hbm_start"]
    values, _ = mixture([inputs.param(name) for name in names], [1.0] * len(names), inputs.rng.random(inputs.draws))
    inputs.named["start of domestic HBM volume"] = values
    return values


class FoundryPath:
    """One vendor's assembly, run year by year: what published totals say about a year moves the next one's stocks.

    Attributes:
        binding: index into BINDING of the tightest limit. [draws, quarters]
    """

    def __init__(self, inputs: Inputs, common: Common, vendor: Vendor) -> None:
        self._common = common
        self._dies = _good_dies(inputs, common, vendor) + _bank_dies(inputs, common, vendor)
        self._share = inputs.param(vendor.hbm_share, label=f"{vendor.id}: share of HBM")
        self._pack = inputs.param(vendor.packaging, label=f"{vendor.id}: packaging in 2025")
        self._growth = inputs.param("packaging_growth", label=f"{vendor.id}: growth of packaging")
        self._cards_per_die = 1.0 - two_die_share(inputs, common.quarters, vendor) / 2.0
        self._waiting = np.zeros(inputs.draws)
        self._stacks = common.hbm_stock * self._share
        self.binding = np.zeros(self._dies.shape, dtype=np.int8)

    def year(self, columns: I8, carry: F8) -> F8:
        """Cards of the given quarters if nothing is published about them.

        Args:
            columns: consecutive columns of the grid.
            carry: factor on the dies, from earlier years' published totals. [draws]

        Returns:
            [draws, columns]
        """
        made, _, _ = self._run(columns, carry, np.ones_like(carry))
        return made * self._cards_per_die[:, columns]

    def settle(self, columns: I8, carry: F8, scale: F8) -> None:
        """Moves the stocks on, with the year's output scaled to what it was taken to be. [draws]"""
        _, self._waiting, self._stacks = self._run(columns, carry, scale)

    def _run(self, columns: I8, carry: F8, scale: F8) -> tuple[F8, F8, F8]:
        """Packages made (unscaled), and the dies and stacks left when the scaled number was made."""
        common, waiting, stacks = self._common, self._waiting, self._stacks
        out = np.empty((carry.size, columns.size))
        for slot, column in enumerate(columns):
            years = (int(common.quarters[column]) - BANK_START) / 4.0
            waiting = waiting + self._dies[:, column] * carry
            stacks = stacks + common.hbm_flow[:, column] * self._share
            limits = np.stack([waiting, stacks / common.stacks_per_die, self._pack * self._growth**years])
            self.binding[:, column] = limits.argmin(axis=0)
            made = limits.min(axis=0)
            waiting = np.maximum(waiting - made * scale, 0.0)
            stacks = np.maximum(stacks - made * scale * common.stacks_per_die, 0.0)
            out[:, slot] = made
        return out, waiting, stacks


def _good_dies(inputs: Inputs, common: Common, vendor: Vendor) -> F8:
    """Good, sellable dies a quarter at the time of sale (the lag is in). [draws, quarters]"""
    growth = inputs.param("yield_growth", label=f"{vendor.id}: growth of the yield")
    by_quarter: dict[int, list[tuple[F8, float]]] = {}
    for point in vendor.yields:
        values = inputs.fact(point.fact)
        if values is not None:
            weight = wanted_weight(inputs.data.fact(point.fact), None)
            by_quarter.setdefault(parse_quarter(point.quarter), []).append((values, weight))
    u = inputs.rng.random(inputs.draws)
    at = sorted(by_quarter)
    values = [mixture([v for v, _ in by_quarter[q]], [w for _, w in by_quarter[q]], u)[0] for q in at]
    if not at:
        at, values = [parse_quarter("2024Q4")], [inputs.param("yield_prior")]
    yields = np.minimum(path(at, values, common.quarters, growth), MOST_YIELD)
    column = int(np.searchsorted(common.quarters, parse_quarter("2026Q4")))
    inputs.named[f"{vendor.id}: yield at the end of 2026"] = yields[:, column]
    share = inputs.param(vendor.wafer_share, label=f"{vendor.id}: share of AI wafers")
    rate = common.wafers * MONTHS_PER_QUARTER * yields
    return _lagged(rate, common.lag) * (share * common.dies_per_wafer * common.conversion)[:, None]


def _lagged(rate: F8, lag: F8) -> F8:
    """A path read ``lag`` quarters earlier, linear between quarters, constant before its start. [draws, quarters]"""
    columns = np.arange(rate.shape[1])[None, :] - lag[:, None]
    low = np.floor(columns).astype(np.int64)
    part = columns - low
    rows = np.arange(rate.shape[0])[:, None]
    last = rate.shape[1] - 1
    return rate[rows, low.clip(0, last)] * (1 - part) + rate[rows, (low + 1).clip(0, last)] * part


def _bank_dies(inputs: Inputs, common: Common, vendor: Vendor) -> F8:
    """Stocked dies used a quarter, evenly until the bank is empty. [draws, quarters]"""
    if not vendor.die_bank:
        return np.zeros_like(common.wafers)
    known = [values for values in map(inputs.fact, vendor.die_bank) if values is not None]
    total = known[0] if known else inputs.param("die_bank_prior")
    left = total * (1.0 - inputs.param("die_bank_used_before", label=f"{vendor.id}: die bank used before 2025"))
    inputs.named[f"{vendor.id}: die bank at the end of 2024"] = left
    spread = inputs.param("die_bank_quarters", label=f"{vendor.id}: quarters until the die bank is empty")
    done = np.clip((common.quarters[None, :] - BANK_START + 1) / spread[:, None], 0.0, 1.0)
    before = np.clip((common.quarters[None, :] - BANK_START) / spread[:, None], 0.0, 1.0)
    return left[:, None] * (done - before)


def two_die_share(inputs: Inputs, quarters: I8, vendor: Vendor) -> F8:
    """Share of dies that go into two-die packages (two dies make one card). [draws, quarters]"""
    if not vendor.two_die_share:
        return np.zeros((inputs.draws, quarters.size))
    at = [parse_quarter(f"{name.rsplit('_', 1)[1]}Q3") for name in vendor.two_die_share]
    values = [inputs.param(name, label=f"{vendor.id}: {name.replace('_', ' ')}") for name in vendor.two_die_share]
    return np.clip(path(at, values, quarters, np.ones(inputs.draws)), 0.0, 1.0)
