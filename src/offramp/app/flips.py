"""Flips: the assumptions that would overturn a decision, each with the value at which it does."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from offramp.app.breakeven import closed_per_chip
from offramp.app.cells import Job
from offramp.app.economics import Ledger
from offramp.app.rollup import Numbers, Row, short_name
from offramp.app.study import Site
from offramp.core.record import Record
from offramp.core.units import KWH_J, YEAR_S
from offramp.cost import yearly_cost


class Flip(Record):
    """One assumption and the value at which the decision turns.

    Attributes:
        workload, chip: what it is about.
        assumption: short name.
        now, flips_at: values in ``unit``; ``flips_at`` None where no value would do it.
        unit: of both.
        text: the whole sentence.
    """

    workload: str
    chip: str
    assumption: str
    now: float | None
    flips_at: float | None
    unit: str
    text: str


def flips_for(
    job: Job, best: Row | None, baseline: Row | None, rows: list[Row], ledger: Ledger, site: Site
) -> list[Flip]:
    """All flips of one workload's decision.

    Args:
        job: the workload.
        best: the chip that is recommended.
        baseline: the chip in use.
        rows: all chips.
        ledger, site: prices.
    """
    found: list[Flip] = []
    if best is not None and baseline is not None and best.numbers and baseline.numbers:
        found += _price(job, best, baseline, ledger)
        found += _power(job, best, baseline, ledger, site)
    rivals = [row for row in rows if row is not best and row.status == "carries" and not row.is_baseline]
    if best is not None and rivals:
        found += _efficiency(job, best, rivals)
    for row in rows:
        if row.status == "carries" and not row.is_baseline:
            found += _accuracy(job, row)
        if row.status == "blocked" and row.cell.main is not None and row.cell.main.candidate.floor:
            found += _floor(job, row)
    return found


def _fleet_cost(numbers: Numbers, *, chips: float, capital: float, power_price: float) -> float:
    return chips * (capital + numbers.host_per_s) + numbers.power_w[1] * power_price + numbers.extras_per_s


def _price(job: Job, best: Row, baseline: Row, ledger: Ledger) -> list[Flip]:
    """Price of one chip at which the chip in use becomes as cheap."""
    a, b = best.numbers, baseline.numbers
    if not a or not b or a.capital is None or b.capital is None or not best.chips.mid or not baseline.chips.mid:
        return []
    site = ledger.study.site_of("")
    power = ledger.power_price(site)
    target = _fleet_cost(b, chips=baseline.chips.mid, capital=b.capital.mid, power_price=power)
    rest = _fleet_cost(a, chips=best.chips.mid, capital=0.0, power_price=power)
    per_year = yearly_cost(1.0, ledger.terms())
    now = a.capital.mid * YEAR_S / per_year
    at = (target - rest) / best.chips.mid * YEAR_S / per_year
    cheaper = now < at
    unit = f"{ledger.currency}/chip"
    if at <= 0:
        text = (
            f"{job.workload}: no price makes {_name(best)} as cheap as {_name(baseline)}: its hosts and power "
            "alone cost more"
        )
        return [_flip(job, best, "chip price", now, None, unit, text)]
    verb = "stops being cheaper than" if cheaper else "becomes cheaper than"
    word = "above" if cheaper else "below"
    text = (
        f"{job.workload}: {_name(best)} {verb} {_name(baseline)} {word} {at:,.0f} {unit} (now {now:,.0f}, "
        f"a factor of {at / now:.2f})"
    )
    return [_flip(job, best, "chip price", now, at, unit, text)]


def _name(row: Row) -> str:
    return short_name(row.chip.name)


def _flip(job: Job, row: Row, name: str, now: float | None, at: float | None, unit: str, text: str) -> Flip:
    return Flip(workload=job.workload, chip=row.chip.id, assumption=name, now=now, flips_at=at, unit=unit, text=text)


def _power(job: Job, best: Row, baseline: Row, ledger: Ledger, site: Site) -> list[Flip]:
    """Power price at which the order of the two turns, if there is one within a factor of ten."""
    a, b = best.numbers, baseline.numbers
    if not a or not b or a.capital is None or b.capital is None or not best.chips.mid or not baseline.chips.mid:
        return []
    now = ledger.power_price(site)
    fixed_a = _fleet_cost(a, chips=best.chips.mid, capital=a.capital.mid, power_price=0.0)
    fixed_b = _fleet_cost(b, chips=baseline.chips.mid, capital=b.capital.mid, power_price=0.0)
    slope = a.power_w[1] - b.power_w[1]
    at = (fixed_b - fixed_a) / slope if slope else -1.0
    unit = f"{ledger.currency}/kWh"
    if not 0.1 * now < at < 10.0 * now:
        return []
    text = (
        f"{job.workload}: the cheaper of {_name(best)} and {_name(baseline)} changes where power costs "
        f"{at * KWH_J:.2f} {unit} (now {now * KWH_J:.2f})"
    )
    return [_flip(job, best, "power price", now * KWH_J, at * KWH_J, unit, text)]


def _efficiency(job: Job, best: Row, rivals: list[Row]) -> list[Flip]:
    """How much less the recommended chip may carry before the next one is better."""
    costed = [row for row in rivals if row.cost.mid is not None]
    if best.cost.mid is None or not costed:
        return []
    rival = min(costed, key=lambda row: row.cost.mid or 0.0)
    ratio = best.cost.mid / (rival.cost.mid or 1.0)
    if ratio >= 1.0 or best.per_chip.mid is None:
        return []
    at = best.per_chip.mid * ratio
    text = (
        f"{job.workload}: {_name(rival)} becomes the cheaper choice if one {_name(best)} carries less than "
        f"{at:.3g} requests/s (predicted {best.per_chip.mid:.3g}, {100 * (1 - ratio):.0f} % less)"
    )
    return [_flip(job, best, "requests per chip", best.per_chip.mid, at, "req/s", text)]


def _accuracy(job: Job, row: Row) -> list[Flip]:
    """Chips needed where the precision that it falls back to is not accurate enough."""
    case = row.cell.main
    if case is None or not case.candidate.fallback or row.chips.mid is None:
        return []
    now = closed_per_chip(job, row.chip.id, case.values, slo=job.slo)
    limits = msgspec.structs.replace(job.limits, dtypes=("bf16",))
    other = closed_per_chip(replace(job, limits=limits), row.chip.id, case.values, slo=job.slo)
    if now <= 0:
        return []
    if other <= 0:
        text = (
            f"{job.workload}: if accuracy forbids that {_lower(case.candidate.fallback)}, {_name(row)} is out: BF16 "
            "does not fit or is too slow"
        )
        return [_flip(job, row, "accuracy of the fallback precision", row.chips.mid, None, "chips", text)]
    needed = row.chips.mid * now / other
    text = (
        f"{job.workload}: if accuracy forbids that {_lower(case.candidate.fallback)}, BF16 on {_name(row)} takes "
        f"about {needed:,.0f} chips instead of {row.chips.mid:,.0f}"
    )
    return [_flip(job, row, "accuracy of the fallback precision", row.chips.mid, needed, "chips", text)]


def _lower(text: str) -> str:
    return text[:1] + text[1:] if text[:2].isupper() else text[:1].lower() + text[1:]


def _floor(job: Job, row: Row) -> list[Flip]:
    case = row.cell.main
    assert case is not None
    return [
        _flip(job, row, "SLO", None, None, "s", f"{job.workload} on {_name(row)}: {text}")
        for text in case.candidate.floor
    ]
