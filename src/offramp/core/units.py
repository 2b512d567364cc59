"""Quantities as people write them ("3.35 TB/s", "80 GiB", "0.40 CNY/kWh") to SI floats, once, at the edge.

A unit is a product of prefixed base units: ``TFLOP/s``, ``CNY/kWh``, ``req/s``. Each base unit has a
dimension; :func:`parse` refuses a quantity whose dimension is not the one that is asked for. Money stays
in its currency: ``CNY/kWh`` becomes CNY per joule, never USD.
"""

from __future__ import annotations

import math
import re
from typing import Final, Literal

from offramp.core.errors import InputError

KILO: Final = 1e3
MEGA: Final = 1e6
GIGA: Final = 1e9
TERA: Final = 1e12
PETA: Final = 1e15
KIB: Final = 2.0**10
MIB: Final = 2.0**20
GIB: Final = 2.0**30
MICRO: Final = 1e-6
MILLI: Final = 1e-3
HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0
YEAR_S: Final = 365.25 * DAY_S
KWH_J: Final = 3.6e6

Dimension = Literal[
    "bytes", "bytes/s", "flop", "flop/s", "s", "W", "J", "count", "count/s", "share", "money",
    "money/J", "money/s", "area", "bits/s", "temperature", "any",
]  # fmt: skip

_PREFIX: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SMALL: Final = {"m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
CURRENCIES: Final = ("USD", "CNY", "EUR", "GBP", "JPY", "HKD", "KRW", "TWD", "INR", "SGD")
_MONEY_SCALE: Final = {"k": 1e3, "M": 1e6, "m": 1e6, "bn": 1e9, "B": 1e9}

_TIME: Final = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": HOUR_S, "hour": HOUR_S, "hours": HOUR_S, "d": DAY_S, "day": DAY_S, "days": DAY_S,
    "week": 7 * DAY_S, "weeks": 7 * DAY_S, "month": YEAR_S / 12, "months": YEAR_S / 12,
    "year": YEAR_S, "years": YEAR_S, "y": YEAR_S, "a": YEAR_S,
}  # fmt: skip
_COUNT: Final = (
    "token", "tokens", "tok", "req", "request", "requests", "chip", "chips", "card", "cards", "unit", "units",
    "wafer", "wafers", "die", "dies", "stack", "stacks", "package", "packages", "server", "servers", "device",
    "engineer-month", "engineer-months", "step", "steps", "failure", "failures", "device-hour",
)  # fmt: skip
_THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_NUMBER: Final = re.compile(r"\s*([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")


def _base_unit(name: str) -> tuple[float, str] | None:
    """Factor and dimension of one unit name, or None when it is unknown."""
    if name in _TIME:
        return _TIME[name], "s"
    if name in CURRENCIES:
        return 1.0, "money"
    if name in _COUNT or name == "1":
        return 1.0, "count"
    if name in ("%", "percent"):
        return 0.01, "share"
    if name in ("share", "ratio", "fraction"):
        return 1.0, "share"
    if name in ("mm2", "mm^2", "mm²"):
        return 1.0, "area"
    if name in ("C", "degC", "°C"):
        return 1.0, "temperature"
    return _prefixed_unit(name)


def _prefixed_unit(name: str) -> tuple[float, str] | None:
    for symbol, factor in _BINARY.items():
        if name.startswith(symbol) and name[len(symbol) :] in ("B", "bytes"):
            return factor, "bytes"
    for symbol, factor in {**_PREFIX, **_SMALL}.items():
        rest = name[len(symbol) :]
        if not name.startswith(symbol) or not rest:
            continue
        if symbol in _SMALL and rest in ("s", "sec"):
            return factor, "s"
        if rest in ("B", "byte", "bytes"):
            return factor, "bytes"
        if rest in ("b", "bit", "bits"):
            return factor, "bits"
        if rest in ("FLOP", "FLOPS", "OP", "OPS", "flop"):
            return factor, "flop" if rest[-1] != "S" else "flop/s"
        if rest == "W":
            return factor, "W"
        if rest == "Wh":
            return factor * HOUR_S, "J"
        if rest == "J":
            return factor, "J"
        if rest in CURRENCIES and symbol in ("k", "K", "M", "G", "T"):
            return factor, "money"
    return None


def _split_unit(text: str) -> tuple[str, str]:
    top, slash, bottom = text.partition("/")
    if bottom.count("/"):
        raise InputError(f'unit "{text}" has more than one "/"', mend='Write one, as in "TB/s".')
    return top.strip(), bottom.strip() if slash else ""


def _money_words(unit: str) -> tuple[float, str] | None:
    """Factor of "bn CNY" or "M USD", which people write with a blank."""
    words = unit.split()
    if len(words) == 2 and words[0] in _MONEY_SCALE and words[1] in CURRENCIES:
        return _MONEY_SCALE[words[0]], "money"
    return None


def unit_factor(unit: str) -> tuple[float, str]:
    """Factor to SI and dimension of a unit.

    Raises:
        InputError: the unit is unknown.
    """
    unit = unit.strip()
    if unit == "":
        return 1.0, "count"
    top, bottom = _split_unit(unit)
    upper = _money_words(top) or _base_unit(top) or ((1.0, "count") if top == "" else None)
    lower = _base_unit(bottom) if bottom else (1.0, "")
    if upper is None or lower is None:
        bad = top if upper is None else bottom
        raise InputError(
            f'unknown unit "{bad}" in "{unit}"',
            mend="Known: GB, GiB, TB/s, Gb/s, TFLOP/s, TOPS, W, kWh, s, ms, d, %, req/s, tok/s, mm2, CNY, USD/kWh.",
        )
    return upper[0] / lower[0], upper[1] + (f"/{lower[1]}" if bottom else "")


def parse(text: str | int | float, dimension: Dimension, *, where: str = "") -> float:
    """SI value of a quantity.

    Args:
        text: "3.35 TB/s", "80 GiB", "10 %"; a bare number is taken only for counts, shares and rates of counts.
        dimension: what it must be; "any" takes all.
        where: path for the error message.

    Raises:
        InputError: not a finite number, unknown unit, or another dimension.
    """
    if isinstance(text, bool):
        raise InputError(f"{text} is not a quantity", where=where)
    if isinstance(text, (int, float)):
        return _bare(float(text), dimension, where)
    match = _NUMBER.match(text)
    if not match:
        raise InputError(
            f'"{text}" is not a quantity', where=where, mend='Write a number and a unit, as in "3.35 TB/s".'
        )
    unit = match.group(2)
    value = decimal(match.group(1) + (unit.split()[0] if unit.startswith(",") else ""), where=where)
    if not unit:
        return _bare(value, dimension, where)
    try:
        factor, found = unit_factor(unit)
    except InputError as error:
        raise InputError(error.what, where=where, mend=error.mend) from None
    value *= factor
    if dimension == "bytes/s" and found == "bits/s":
        value, found = value / 8.0, "bytes/s"
    same = found == dimension or dimension == "any" or (dimension == "flop/s" and found == "flop/s")
    if not same or not math.isfinite(value):
        raise InputError(
            f'"{text}" is {found}, expected {dimension}', where=where, mend=f"Give it as {_EXAMPLE[dimension]}."
        )
    return value


def decimal(text: str, *, where: str = "") -> float:
    """The number that a text writes, with commas between thousands only.

    Raises:
        InputError: no number, or a comma elsewhere, which half of the world reads as a decimal point.
    """
    if "," in text and not _THOUSANDS.fullmatch(text.strip()):
        raise InputError(
            f'"{text}" has a comma that does not part thousands', where=where,
            mend="Write decimals with a point.",
        )  # fmt: skip
    try:
        return float(text.replace("_", "").replace(",", ""))
    except ValueError:
        raise InputError(f'"{text}" is no number', where=where) from None


def _bare(value: float, dimension: Dimension, where: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{value} is not a finite number", where=where)
    if dimension not in ("count", "share", "count/s", "any"):
        raise InputError(f"{value:g} has no unit", where=where, mend=f"Give it as {_EXAMPLE[dimension]}.")
    return value


_EXAMPLE: Final[dict[str, str]] = {
    "bytes": '"80 GiB"', "bytes/s": '"3.35 TB/s"', "flop": '"1 TFLOP"', "flop/s": '"989 TFLOP/s"', "s": '"50 ms"',
    "W": '"20 MW"', "J": '"1 kWh"', "count": "a number", "count/s": '"900 req/s"', "share": '"10 %" or 0.1',
    "money": '"110000 CNY"', "money/J": '"0.40 CNY/kWh"', "money/s": '"2.10 USD/h"', "area": '"814 mm2"',
    "bits/s": '"400 Gb/s"', "temperature": '"35 C"', "any": "a number and a unit",
}  # fmt: skip


def currency_of(text: str) -> str:
    """The currency named in a money quantity ("0.40 CNY/kWh" -> "CNY").

    Raises:
        InputError: no known currency is named.
    """
    for currency in CURRENCIES:
        if re.search(rf"(?<![A-Z]){currency}(?![A-Z])", text):
            return currency
    raise InputError(f'"{text}" names no currency', mend=f"Known: {', '.join(CURRENCIES)}.")


def show_si(value: float, unit: str, *, digits: int = 3) -> str:
    """A value with the SI prefix that keeps 1 <= number < 1000 ("3.35 TB/s")."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    for factor, prefix in ((1e-3, "m"), (1e-6, "u"), (1e-9, "n")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"
