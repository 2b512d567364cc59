"""Rollup: from cells to chips, cost, power and exchange rates with their intervals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from offramp.app.cells import CaseAnswer, Cell, Job
from offramp.app.economics import Ledger, Money
from offramp.app.study import Site
from offramp.catalog import Chip, System
from offramp.core.record import Record
from offramp.core.units import MEGA
from offramp.cost import device_power_w, per_million_tokens, site_power_w
from offramp.cost.hardware import device_of, system_of
from offramp.search import Candidate, fleet_for

F8 = npt.NDArray[np.float64]
QUANTILES: Final = (0.1, 0.5, 0.9)
POWER_CASES: Final = (0, 1, 2)


class Span(Record):
    """A value with its interval: p10, p50, p90 of joint draws; or a range without a middle (bounds mode)."""

    low: float | None = None
    mid: float | None = None
    high: float | None = None

    def plain(self) -> dict[str, float | None]:
        """As a dict."""
        return {"low": self.low, "mid": self.mid, "high": self.high}


def span_of(draws: F8) -> Span:
    """p10, p50 and p90 of draws; draws that are infinite or not a number count as the worst."""
    values = np.where(np.isfinite(draws), draws, np.inf)
    low, mid, high = (float(np.quantile(values, q, method="nearest")) for q in QUANTILES)
    return Span(low=_finite(low), mid=_finite(mid), high=_finite(high))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def hull(first: Span, second: Span) -> Span:
    """The range that covers both, without a middle; open where one of them is."""
    lows = [value for value in (first.low, second.low) if value is not None]
    open_ended = first.high is None or second.high is None
    highs = [value for value in (first.high, second.high) if value is not None]
    return Span(low=min(lows, default=None), high=None if open_ended else max(highs, default=None))


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """One case in numbers; draws ``[draws]`` where they exist.

    Attributes:
        per_chip: requests per second of one chip as sold.
        chips: whole servers' chips for the demand, spares and minimum included.
        cost_per_s: of that fleet, in the study's currency; None without a price.
        capital: of one chip for a second.
        host_per_s: what host and network of one chip cost per second.
        power_w: at the meter at mean demand: low, mid, high.
    """

    per_chip: F8
    chips: F8
    cost_per_s: F8 | None
    capital: Money | None
    host_per_s: float
    power_w: tuple[float, float, float]
    extras_per_s: float


def numbers(case: CaseAnswer, job: Job, chip: Chip, ledger: Ledger, site: Site) -> Numbers | None:
    """A case in numbers; None where nothing is served."""
    found = case.candidate
    if found.rate <= 0.0 or found.pool is None or case.loaded is None:
        return None
    system = system_of(ledger.catalog, chip, found.pool.system)
    chips = chips_for(found, job, system, mean=job.demand.mean, peak=job.demand.peak)
    power = power_range(case, chip, system, ledger, site)
    capital, host = ledger.capital_per_s(chip, system)
    per_server = system.packages_per_node if system else 1
    mid_chips = case.loaded.fleet.chips
    extras = ledger.extras_per_s(mid_chips, mid_chips // max(per_server, 1), site)
    cost = None
    if capital is not None:
        each = capital.draws(len(chips), ledger.study.study.seed, chip.id) + host
        energy = power[1] / max(mid_chips, 1) * ledger.power_price(site)
        cost = chips * (each + energy) + extras
    return Numbers(
        per_chip=found.per_chip_draws, chips=chips, cost_per_s=cost, capital=capital, host_per_s=host, power_w=power,
        extras_per_s=extras,
    )  # fmt: skip


def chips_for(found: Candidate, job: Job, system: System | None, *, mean: float, peak: float) -> F8:
    """Chips for a demand by draw; infinite where a draw serves nothing. [draws]"""
    per_server = system.packages_per_node if system else 1
    sized = [
        fleet_for(
            rate, packages=found.packages, per_server=per_server, mean=mean, peak=peak, spares=job.demand.spares,
            least=job.demand.least,
        )
        for rate in found.rates
    ]  # fmt: skip
    return np.array([float(fleet.chips) if fleet else np.inf for fleet in sized])


def power_range(
    case: CaseAnswer, chip: Chip, system: System | None, ledger: Ledger, site: Site
) -> tuple[float, float, float]:  # fmt: skip
    """Power at the meter of the middle fleet at mean demand, in W: low, mid, high coefficients."""
    loaded = case.loaded
    if loaded is None:
        return 0.0, 0.0, 0.0
    device = device_of(chip, system, as_of=ledger.study.study.as_of, overrides=dict(case.values) or None)
    shares = loaded.mean_shares or case.candidate.shares
    busy = loaded.mean.busy if loaded.mean else 0.0
    compute = np.array([busy * shares.compute if shares else 0.0])
    memory = np.array([busy * shares.memory if shares else 0.0])
    devices = loaded.fleet.chips * chip.devices
    host = host_power(system, ledger) / max((system.packages_per_node if system else 1) * chip.devices, 1)
    pue = ledger.pue(site)
    low, mid, high = (
        float(site_power_w(device_power_w(device, compute_share=compute, memory_share=memory, case=i),
                           devices=devices, host_w_per_device=host, pue=pue)[0]) for i in POWER_CASES
    )  # fmt: skip
    return low, mid, high


def host_power(system: System | None, ledger: Ledger) -> float:
    """Power of one server without its accelerators, network share included."""
    if system is None:
        return 0.0
    found = [system.figure(name, ledger.study.study.as_of, ledger.log) for name in ("host_power", "network_power")]
    return sum(figure.si for figure in found if figure is not None)


def exchange(baseline: Numbers | None, other: Numbers | None) -> F8 | None:
    """Chips of the other that replace one baseline chip, by joint draw; None where one side serves nothing."""
    if baseline is None or other is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        both = (baseline.per_chip > 0) | (other.per_chip > 0)
        ratio = np.where(other.per_chip > 0, baseline.per_chip / other.per_chip, np.inf)
    return ratio[both] if both.any() else None  # a draw in which neither serves says nothing about their ratio


Kind = Literal["carries", "range", "blocked", "refused", "fallback"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One workload on one chip, rolled up.

    Attributes:
        status: carries (an interval), range (bounds mode), blocked (cannot), refused (not computable).
        per_chip, chips, exchange, cost, energy, power: with intervals. Cost per million output tokens, energy in J per
            output token, power in W at the meter.
        numbers: of the main case.
    """

    cell: Cell
    chip: Chip
    status: Literal["carries", "range", "blocked", "refused"]
    per_chip: Span
    chips: Span
    exchange: Span
    cost: Span
    energy: Span
    power: Span
    numbers: Numbers | None
    is_baseline: bool


def row_of(cell: Cell, job: Job, chip: Chip, ledger: Ledger, site: Site, baseline: Numbers | None) -> Row:
    """A cell rolled up; ``baseline`` is the baseline chip's main case (None for the baseline itself)."""
    cases = {case.case: numbers(case, job, chip, ledger, site) for case in cell.cases}
    spans = {name: _spans(found, job, baseline or found) for name, found in cases.items() if found is not None}
    if cell.mode == "bounds":
        main = cases.get("mid")
        ends = [spans.get("low"), spans.get("high")]
        merged = _merge(ends)
        status = "range" if any(end is not None for end in ends) else "blocked"
        return Row(
            cell=cell, chip=chip, status=status, numbers=main, is_baseline=baseline is None, **merged
        )  # fmt: skip
    main = cases.get("sourced")
    status = "refused" if cell.mode == "refused" else "carries" if main is not None else "blocked"
    empty = {name: Span() for name in ("per_chip", "chips", "exchange", "cost", "energy", "power")}
    return Row(
        cell=cell, chip=chip, status=status, numbers=main, is_baseline=baseline is None,
        **spans.get("sourced", empty),
    )  # fmt: skip


def _spans(found: Numbers, job: Job, baseline: Numbers) -> dict[str, Span]:
    tokens_per_s = job.demand.mean * job.mix.osl
    rate = exchange(baseline, found)
    cost = Span()
    if found.cost_per_s is not None and tokens_per_s > 0:
        cost = span_of(np.array([per_million_tokens(float(value), tokens_per_s) for value in found.cost_per_s]))
    chips = span_of(found.chips)
    low, mid, high = found.power_w
    middle = chips.mid or 1.0
    ratio_low, ratio_high = (chips.low or middle) / middle, (chips.high or middle) / middle
    power = Span(low=low * ratio_low, mid=mid, high=high * ratio_high)
    energy = Span()
    if tokens_per_s > 0:
        energy = Span(**{key: value / tokens_per_s for key, value in power.plain().items() if value is not None})
    return {
        "per_chip": span_of(found.per_chip), "chips": chips, "cost": cost, "energy": energy, "power": power,
        "exchange": span_of(rate) if rate is not None else Span(),
    }  # fmt: skip


def _merge(ends: list[dict[str, Span] | None]) -> dict[str, Span]:
    names = ("per_chip", "chips", "exchange", "cost", "energy", "power")
    low, high = ends
    if low is None and high is None:
        return {name: Span() for name in names}
    if low is None or high is None:
        known = low or high or {}
        # the worst admissible values carry nothing: the range is open towards "never"
        return {
            name: Span(low=0.0 if name == "per_chip" else known[name].low,
                       high=known[name].high if name == "per_chip" else None) for name in names
        }  # fmt: skip
    return {name: hull(low[name], high[name]) for name in names}


def short_name(name: str) -> str:
    """A chip's name without its variants in brackets, capacities and aliases."""
    return re.sub(r"( \(.*|,.*| / .*| \d+ ?GB.*)$", "", name)


def as_dict(row: Row) -> dict[str, Any]:
    """The numbers of a row as plain data, units in the names."""
    return {
        "requests_per_s_per_chip": row.per_chip.plain(), "chips": row.chips.plain(),
        "exchange_rate": row.exchange.plain(), "cost_per_million_output_tokens": row.cost.plain(),
        "energy_j_per_output_token": row.energy.plain(),
        "energy_kwh_per_million_output_tokens": _scaled(row.energy, MEGA / 3.6e6), "power_w": row.power.plain(),
    }  # fmt: skip


def _scaled(span: Span, factor: float) -> dict[str, float | None]:
    return {key: None if value is None else value * factor for key, value in span.plain().items()}
