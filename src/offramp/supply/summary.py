"""What a supply run says: quantile ramps, yearly totals, the tornado, what binds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offramp.core.result import Cell
from offramp.supply.facts import STATES, SupplyData
from offramp.supply.foundry import BINDING
from offramp.supply.model import SupplyDraws
from offramp.supply.sample import F8, quantiles, rank_correlation

GROUPS = ("all-domestic", "all-foreign")


def domestic(data: SupplyData, jurisdiction: str = "CN") -> list[str]:
    """Ids of the vendors of a jurisdiction."""
    return [vendor.id for vendor in data.vendors if vendor.jurisdiction == jurisdiction]


def members(data: SupplyData, name: str) -> list[str]:
    """The vendors behind a vendor id or a group name.

    Raises:
        CatalogError: neither.
    """
    if name in GROUPS:
        inside = domestic(data)
        return inside if name == "all-domestic" else [v.id for v in data.vendors if v.id not in inside]
    return [data.vendor(name).id]


def total(supply: SupplyDraws, vendors: Sequence[str]) -> F8:
    """Cards a quarter of some vendors together. [draws, quarters]"""
    return supply.cards[:, :, [supply.vendors.index(vendor) for vendor in vendors]].sum(axis=2)


def chip_cards(data: SupplyData, supply: SupplyDraws) -> dict[str, F8]:
    """Cards a quarter by chip, from each vendor's product mix. [draws, quarters] each"""
    found: dict[str, F8] = {}
    middles = np.asarray([int(name[:4]) + (int(name[5]) - 0.5) / 4.0 for name in supply.quarters])
    for vendor in data.vendors:
        rows = []
        for product in vendor.products:
            years = sorted(product.share, key=int)
            at = [int(year) + 0.5 for year in years]
            rows.append(np.interp(middles, at, [product.share[year] for year in years]))
        shares = np.stack(rows)
        shares = shares / np.maximum(shares.sum(axis=0), 1e-9)
        for product, share in zip(vendor.products, shares, strict=True):
            found[product.chip] = found.get(product.chip, 0.0) + supply.of(vendor.id) * share[None, :]
    return found


def ramp_rows(data: SupplyData, supply: SupplyDraws, names: Sequence[str]) -> list[dict[str, Cell]]:
    """Quarterly quantiles of vendors and groups."""
    rows: list[dict[str, Cell]] = []
    for name in names:
        values = total(supply, members(data, name))
        for column, quarter in enumerate(supply.quarters):
            p10, p50, p90 = quantiles(values[:, column])
            rows.append({"vendor": name, "quarter": quarter, "p10": p10, "p50": p50, "p90": p90})
    return rows


def year_rows(data: SupplyData, supply: SupplyDraws, names: Sequence[str]) -> list[dict[str, Cell]]:
    """Yearly quantiles of vendors and groups; only whole years."""
    rows: list[dict[str, Cell]] = []
    years = sorted({int(name[:4]) for name in supply.quarters if f"{name[:4]}Q4" in supply.quarters})
    for name in names:
        for year in years:
            p10, p50, p90 = quantiles(supply.year(members(data, name), year))
            rows.append({"vendor": name, "year": year, "p10": p10, "p50": p50, "p90": p90})
    return rows


def tornado_rows(
    data: SupplyData, supply: SupplyDraws, name: str, year: int, *, most: int = 12
) -> list[dict[str, Cell]]:
    """The inputs whose ranks move a year's cards most, with the cards at their low and high fifth.

    Beyond the first three, correlations that chance alone gives to so many draws are left out.
    """
    vendors = members(data, name)
    output = supply.year(vendors, year)
    rows: list[dict[str, Cell]] = []
    for label, values in supply.named.items():
        owner = label.split(":")[0]
        if owner in supply.vendors and owner not in vendors:
            continue
        rho = rank_correlation(values, output)
        low, high = np.quantile(values, (0.2, 0.8))
        rows.append(
            {
                "input": label, "rank_correlation": rho,
                "input_p20": float(low), "input_p80": float(high),
                "cards_at_low": float(np.median(output[values <= low])),
                "cards_at_high": float(np.median(output[values >= high])),
            }
        )  # fmt: skip
    rows.sort(key=lambda row: -abs(float(row["rank_correlation"] or 0.0)))
    chance = 2.0 / np.sqrt(output.size)
    return [row for i, row in enumerate(rows[:most]) if i < 3 or abs(float(row["rank_correlation"] or 0.0)) > chance]


def binding_rows(supply: SupplyDraws) -> list[dict[str, Cell]]:
    """Share of the draws in which dies, HBM or packaging limit a foundry vendor, by quarter."""
    return [
        {
            "vendor": vendor,
            "quarter": quarter,
            **{name: float((found[:, i] == k).mean()) for k, name in enumerate(BINDING)},
        }
        for vendor, found in supply.binding.items()
        for i, quarter in enumerate(supply.quarters)
    ]


def regime_rows(supply: SupplyDraws) -> list[dict[str, Cell]]:
    """Probability of each state of each policy regime, by quarter."""
    return [
        {
            "regime": regime,
            "quarter": quarter,
            **{name: float((found[:, i] == k).mean()) for k, name in enumerate(STATES)},
        }
        for regime, found in supply.states.items()
        for i, quarter in enumerate(supply.quarters)
    ]


def source_rows(supply: SupplyDraws, names: Sequence[str]) -> list[dict[str, Cell]]:
    """Which sources the mixture of each vendor and year is made of."""
    return [
        {"vendor": vendor, "year": year, "source": source, "share_of_draws": share}
        for (vendor, year), parts in supply.components.items()
        if vendor in names and len(parts) > 1
        for source, share in parts
    ]
