"""Money: what a chip costs per second of being there, and what a million tokens cost at the demand's utilisation."""

from __future__ import annotations

from offramp.core.record import Record
from offramp.core.units import KWH_J, MEGA, YEAR_S


class CapitalTerms(Record):
    """How a purchase becomes a yearly cost.

    Attributes:
        life_years: straight-line life.
        residual_share: of the price, at the end of life.
        interest: per year, on the mean capital bound.
        maintenance_share: of the price, per year.
    """

    life_years: float = 4.0
    residual_share: float = 0.1
    interest: float = 0.06
    maintenance_share: float = 0.03


def yearly_cost(price: float, terms: CapitalTerms) -> float:
    """Yearly cost of an asset: depreciation, interest on the mean capital bound, maintenance. In the price's currency.

    Source: straight-line depreciation; mean capital is (price + residual) / 2.
    """
    residual = price * terms.residual_share
    depreciation = (price - residual) / terms.life_years
    return depreciation + terms.interest * (price + residual) / 2.0 + terms.maintenance_share * price


def cost_per_second(
    *, price: float, host_price: float, terms: CapitalTerms, power_w: float, power_price_per_j: float, devices: float
) -> float:
    """Cost of ``devices`` chips per second: capital of chip and its host share, and power at the meter.

    Args:
        price, host_price: per chip, in one currency.
        terms: depreciation and interest.
        power_w: of all devices, at the meter.
        power_price_per_j: same currency per joule.
        devices: number of chips.
    """
    return devices * yearly_cost(price + host_price, terms) / YEAR_S + power_w * power_price_per_j


def per_million_tokens(cost_per_s: float, tokens_per_s: float) -> float:
    """Cost of a million tokens; infinite where nothing is served."""
    return cost_per_s / tokens_per_s * MEGA if tokens_per_s > 0 else float("inf")


def kwh_price_to_joule(price_per_kwh: float) -> float:
    """Price per joule of a price per kWh."""
    return price_per_kwh / KWH_J
