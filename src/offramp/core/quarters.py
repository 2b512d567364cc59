"""Calendar quarters as people write them ("2026Q4") and as consecutive integers (year * 4 + quarter - 1)."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from offramp.core.errors import InputError

_QUARTER: Final = re.compile(r"(\d{4})\s*-?[Qq]([1-4])")


def parse_quarter(text: str, *, where: str = "") -> int:
    """The index of a quarter written "2026Q4".

    Raises:
        InputError: it is not a quarter between 2000 and 2100.
    """
    match = _QUARTER.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not 2000 <= int(match.group(1)) <= 2100:
        raise InputError(f'"{text}" is not a quarter', where=where, mend='Write it as "2026Q4".')
    return int(match.group(1)) * 4 + int(match.group(2)) - 1


def quarter_name(index: int) -> str:
    """The name of a quarter: 8107 -> "2026Q4"."""
    return f"{index // 4}Q{index % 4 + 1}"


def quarter_of(day: dt.date) -> int:
    """The quarter that holds a day."""
    return day.year * 4 + (day.month - 1) // 3


def first_day(index: int) -> dt.date:
    """The first day of a quarter."""
    return dt.date(index // 4, index % 4 * 3 + 1, 1)


def last_day(index: int) -> dt.date:
    """The last day of a quarter."""
    return first_day(index + 1) - dt.timedelta(days=1)


def quarter_range(first: int, last: int) -> list[str]:
    """The names from one quarter to another, both included."""
    return [quarter_name(index) for index in range(first, last + 1)]
