"""SLO: limits on a statistic of a latency, as a study or a flag writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from offramp.core import units
from offramp.core.errors import InputError, near_miss_hint
from offramp.core.record import Record

Metric = Literal["ttft", "tpot", "itl", "e2e"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]
METRICS: tuple[Metric, ...] = ("ttft", "tpot", "itl", "e2e")
STATISTICS: tuple[Statistic, ...] = ("mean", "p50", "p90", "p95", "p99")


class Limit(Record):
    """One limit: the statistic of the metric is at most ``seconds``."""

    metric: Metric
    statistic: Statistic
    seconds: float

    @property
    def name(self) -> str:
        """As it is written: ``ttft_p90``."""
        return f"{self.metric}_{self.statistic}"


class Slo(Record):
    """All limits of a workload; no limit means that any latency will do."""

    limits: tuple[Limit, ...] = ()

    def seconds(self, metric: Metric, statistic: Statistic) -> float | None:
        """The limit on that statistic, or None."""
        for limit in self.limits:
            if (limit.metric, limit.statistic) == (metric, statistic):
                return limit.seconds
        return None

    def violated(self, measured: Mapping[str, float]) -> tuple[Limit, ...]:
        """The limits that measured values (by name, in seconds) exceed; a value that is absent violates nothing."""
        return tuple(limit for limit in self.limits if measured.get(limit.name, 0.0) > limit.seconds)

    def __str__(self) -> str:
        return ", ".join(f"{limit.name} <= {limit.seconds:g} s" for limit in self.limits) or "none"


def slo_names() -> list[str]:
    """Every name that an SLO may use."""
    return [f"{metric}_{statistic}" for metric in METRICS for statistic in STATISTICS]


def parse_slo(values: Mapping[str, str | float], *, where: str = "slo") -> Slo:
    """The SLO that a table like ``{ttft_p90 = "2 s", tpot_mean = "50 ms"}`` says.

    Args:
        values: a quantity of time by name; a bare number is refused, because its unit is not told.
        where: address of the table, for messages.

    Raises:
        InputError: an unknown name, no unit, not a time, not positive.
    """
    limits: list[Limit] = []
    for name, value in values.items():
        at = f"{where}.{name}"
        metric, statistic = _split(name, at)
        seconds = units.parse(value, "s", where=at)
        if seconds <= 0:
            raise InputError(f"a limit of {seconds:g} s", where=at, mend="Give a time above zero.")
        limits.append(Limit(metric=metric, statistic=statistic, seconds=seconds))
    return Slo(limits=tuple(limits))


def slo_of_seconds(seconds_by_name: Mapping[str, float], *, where: str = "slo") -> Slo:
    """The SLO of limits that are seconds already (a study that has been read)."""
    return parse_slo({name: f"{seconds!r} s" for name, seconds in seconds_by_name.items()}, where=where)


def _split(name: str, at: str) -> tuple[Metric, Statistic]:
    for metric in METRICS:
        for statistic in STATISTICS:
            if name == f"{metric}_{statistic}":
                return metric, statistic
    raise InputError(
        f'unknown SLO "{name}"',
        where=at,
        mend=near_miss_hint(name, slo_names())
        or "Write one of ttft, tpot, itl, e2e and _mean, _p50, _p90, _p95, _p99.",
    )
