"""Span: a number that is known, bounded, or unknown; comparisons answer true, false or unknown."""

from __future__ import annotations

import math
from typing import Final

from offramp.core.record import Record

Truth = bool | None
"""Kleene logic: None is unknown."""
_SAME: Final = 1e-12
"""Relative difference below which a quantity counts as equal to a threshold: 2400 / 5.92 mm2 has a PD of 5.92."""


class Span(Record):
    """All values that a quantity may have.

    Attributes:
        low: smallest possible value.
        high: largest possible value.
        open_high: the largest value itself is excluded ("below 4800").
    """

    low: float = 0.0
    high: float = math.inf
    open_high: bool = False

    @property
    def known(self) -> bool:
        """Whether it is one single value."""
        return self.low == self.high

    def at_least(self, limit: float) -> Truth:
        """Whether the quantity is ``>= limit``."""
        slack = _SAME * abs(limit)
        if self.low >= limit - slack:
            return True
        if self.high < limit - slack or (self.open_high and self.high <= limit + slack):
            return False
        return None

    def more_than(self, limit: float) -> Truth:
        """Whether the quantity is ``> limit``."""
        slack = _SAME * abs(limit)
        if self.low > limit + slack:
            return True
        return False if self.high <= limit + slack else None

    def holds(self, value: float) -> bool:
        """Whether the quantity may be ``value``."""
        return self.low <= value and (value < self.high or (value == self.high and not self.open_high))


def exactly(value: float) -> Span:
    """A known quantity."""
    return Span(low=value, high=value)


UNKNOWN = Span()


def all_of(truths: list[Truth]) -> Truth:
    """Kleene "and"."""
    if any(truth is False for truth in truths):
        return False
    return None if any(truth is None for truth in truths) else True


def opposite(truth: Truth) -> Truth:
    """Kleene "not"."""
    return None if truth is None else not truth
