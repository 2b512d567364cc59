"""Price lists, OpenCost exports and open orders, as rows of a study."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from offramp.core import units
from offramp.core.errors import InputError, near_miss_hint
from offramp.core.record import Record
from offramp.intake.files import json_objects, number, read_text, shaped, table_rows

PRICE_COLUMNS: Final = ("chip", "chip_price", "server_price", "rent", "rent_route", "quarter", "currency")
ORDER_COLUMNS: Final = (
    "chip",
    "count",
    "due",
    "cancel_fee",
    "defer_fee",
    "delivery_probability",
    "site",
    "price",
    "currency",
)
MOST_CHIPS: Final = 10_000_000
"""More than any vendor ships in a year: a larger order is a slip of the pen."""
_QUARTER: Final = re.compile(r"(20\d\d)[ -]?Q([1-4])", re.IGNORECASE)
_DAY: Final = re.compile(r"(20\d\d)[-/.](\d\d?)(?:[-/.]\d\d?)?(?!\d)")


class Listed(Record):
    """Rows for the study, where each stands, and what was doubtful about them."""

    rows: tuple[dict[str, str], ...]
    notes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


def price_rows(path: str | Path) -> Listed:
    """Prices of a CSV or XLSX list with the columns of [[price]], or rents from an OpenCost export (JSON).

    Raises:
        InputError: unreadable, unknown columns, a price without currency, or several currencies in one cell.
    """
    if Path(path).suffix.lower() == ".json":
        with shaped(str(path), "an OpenCost export"):
            return _opencost(path)
    rows = table_rows(path)
    _columns(rows, PRICE_COLUMNS, ("chip",), path)
    out: list[dict[str, str]] = []
    places: list[str] = []
    for line, row in enumerate(rows, 2):
        where = f"{path}:{line}"
        kept = {key: value for key, value in row.items() if key in PRICE_COLUMNS and value and key != "currency"}
        for key, dimension in (("chip_price", "money"), ("server_price", "money"), ("rent", "money/s")):
            if key in kept:
                kept[key] = _money(kept[key], row.get("currency", ""), dimension, f"{where} {key}")
        if len(kept.keys() & {"chip_price", "server_price", "rent"}) == 0:
            raise InputError("the row has no price", where=where, mend="Fill chip_price, server_price or rent.")
        if "quarter" in kept:
            kept["quarter"] = quarter(kept["quarter"], f"{where} quarter")
        out.append(kept)
        places.append(where)
    return Listed(rows=tuple(out), places=tuple(places))


def order_rows(path: str | Path) -> Listed:
    """Open orders of a CSV or XLSX list with the columns of [[order]].

    Raises:
        InputError: unreadable, unknown columns, or a cell that cannot be read.
    """
    rows = table_rows(path)
    _columns(rows, ORDER_COLUMNS, ("chip", "count", "due"), path)
    out: list[dict[str, str]] = []
    places: list[str] = []
    for line, row in enumerate(rows, 2):
        where = f"{path}:{line}"
        kept = {key: value for key, value in row.items() if key in ORDER_COLUMNS and value and key != "currency"}
        missing = [name for name in ("chip", "count", "due") if name not in kept]
        if missing:
            raise InputError(f"the row has no {missing[0]}", where=where)
        count = units.decimal(kept["count"], where=f"{where} count")
        if not math.isfinite(count) or not 1 <= count <= MOST_CHIPS or count != int(count):
            raise InputError(f'"{kept["count"]}" is no number of chips', where=f"{where} count")
        kept["count"] = str(int(count))
        kept["due"] = quarter(kept["due"], f"{where} due")
        if "price" in kept:
            kept["price"] = _money(kept["price"], row.get("currency", ""), "money", f"{where} price")
        out.append(kept)
        places.append(where)
    return Listed(rows=tuple(out), places=tuple(places))


def quarter(text: str, where: str) -> str:
    """The quarter of "2026Q4", "2026-Q4" or a date.

    Raises:
        InputError: neither.
    """
    found = _QUARTER.fullmatch(text.strip())
    if found:
        return f"{found.group(1)}Q{found.group(2)}"
    day = _DAY.match(text.strip())
    if day and 1 <= int(day.group(2)) <= 12:
        return f"{day.group(1)}Q{(int(day.group(2)) - 1) // 3 + 1}"
    raise InputError(f'"{text}" is no quarter', where=where, mend='Write "2026Q4" or a date as 2026-11-30.')


def _columns(rows: list[dict[str, str]], known: tuple[str, ...], needed: tuple[str, ...], path: str | Path) -> None:
    header = list(rows[0]) if rows else []
    if not rows:
        raise InputError("has a header but no rows", where=str(path))
    for name in needed:
        if name not in header:
            hint = near_miss_hint(name, header) or f"Columns: {', '.join(known)}."
            raise InputError(f"has no column {name}", where=str(path), mend=hint)
    strange = [name for name in header if name not in (*known, "note", "source")]
    if strange:
        hint = near_miss_hint(strange[0], known) or f"Columns: {', '.join(known)}."
        raise InputError(f'has the column "{strange[0]}", which means nothing here', where=str(path), mend=hint)


def _money(text: str, currency: str, dimension: Any, where: str) -> str:
    """Money as the study writes it; a bare number takes the row's currency."""
    if number(text.replace(",", "")) is not None:
        bare = units.decimal(text, where=where)
        if not currency:
            raise InputError(
                f'"{text}" names no currency', where=where, mend='Add a column "currency", or write "110000 CNY".'
            )
        text = f"{bare:.12g} {currency.upper()}" + ("/h" if dimension == "money/s" else "")
    elif _no_currency(text):
        raise InputError(f'"{text}" is no price', where=where, mend='Write a number, or "110000 CNY".')
    elif currency and currency.upper() not in text:
        raise InputError(f'"{text}" is not in the row\'s currency {currency}', where=where)
    if not units.parse(text, dimension, where=where) > 0:
        raise InputError(
            f'"{text}" is not above zero', where=where, mend="Leave the cell empty where there is no price."
        )
    return text


def _no_currency(text: str) -> bool:
    """Whether a cell names no currency at all."""
    return not any(currency in text.upper() for currency in units.CURRENCIES)


def _opencost(path: str | Path) -> Listed:
    """Rent per accelerator-hour of an OpenCost allocation export."""
    totals: dict[str, list[float]] = {}
    currency = ""
    for item in json_objects(read_text(path), str(path)):
        currency = currency or str(item.get("currency") or "")
        for name, entry in _allocations(item.get("data", item)):
            hours, cost = number(entry.get("gpuHours")), number(entry.get("gpuCost"))
            if hours and cost is not None and hours > 0:
                key = _gpu_type(entry) or name
                held = totals.setdefault(key, [0.0, 0.0])
                held[0], held[1] = held[0] + hours, held[1] + cost
    if not totals:
        raise InputError(
            "holds no accelerator hours", where=str(path),
            mend='Give an allocation export of OpenCost, from "/allocation?window=7d&aggregate=node".',
        )  # fmt: skip
    notes: list[str] = []
    if not currency:
        notes.append(
            "an OpenCost export states no currency: USD, OpenCost's default, is taken; check its pricing settings"
        )
        currency = "USD"
    from offramp.intake.kubectl import vendor_chip

    rows: dict[str, list[float]] = {}
    for key, (hours, cost) in totals.items():
        chip = vendor_chip(key)
        held = rows.setdefault(chip, [0.0, 0.0])
        held[0], held[1] = held[0] + hours, held[1] + cost
        if not chip:
            notes.append(
                f'"{key}" names no chip: its {hours:.4g} accelerator hours go to the fleet\'s only chip, if it has one'
            )
    return Listed(
        rows=tuple(
            {"chip": chip, "rent": f"{cost / hours:.4f} {currency}/h"}
            for chip, (hours, cost) in rows.items()
            if cost > 0
        ),
        notes=tuple(dict.fromkeys(notes)),
    )


def _allocations(data: Any) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    if isinstance(data, list):
        for part in data:
            found += _allocations(part)
    elif isinstance(data, dict):
        if "gpuHours" in data or "gpuCost" in data:
            return [(str(data.get("name") or ""), data)]
        for name, part in data.items():
            if isinstance(part, dict) and ("gpuHours" in part or "gpuCost" in part):
                found.append((str(part.get("name") or name), part))
            elif isinstance(part, (dict, list)):
                found += _allocations(part)
    return found


def _gpu_type(entry: Mapping[str, Any]) -> str:
    properties = entry.get("properties")
    labels = properties.get("labels") if isinstance(properties, dict) else None
    for held in (entry.get("gpuAllocation"), entry, properties, labels):
        for key in ("gpuDevice", "gpuType", "gpuModel", "nvidia_com_gpu_product", "gpu_type"):
            if isinstance(held, dict) and held.get(key):
                return str(held[key])
    return ""
