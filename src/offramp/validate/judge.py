"""Judgement: errors, bias, coverage and floors by group, beside the plain roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from offramp.core.record import Record
from offramp.validate.predict import Prediction

BY: Final = ("chip", "engine", "model", "metric", "grade", "series")
LATENCY_PREFIXES: Final = ("ttft", "tpot", "itl", "e2e")


class GroupError(Record):
    """Errors of one group of predictions.

    Attributes:
        group: value of each grouping column.
        rows: predictions judged as targets.
        median_ape, p90_ape: absolute percentage error of the p50, as shares.
        bias: median of ln(predicted / measured); positive is too high.
        coverage: share of measurements within p10 to p90.
        width: median of p90 / p10.
        interval_score: mean log interval score at 80 % (lower is better).
        roofline_ape: median error of the plain roofline.
        floors, floors_hold: regression floors, and how many of them hold as bounds.
    """

    group: dict[str, str]
    rows: int
    median_ape: float | None = None
    p90_ape: float | None = None
    bias: float | None = None
    coverage: float | None = None
    width: float | None = None
    interval_score: float | None = None
    roofline_ape: float | None = None
    floors: int = 0
    floors_hold: int = 0


def floor_holds(prediction: Prediction) -> bool:
    """Whether a regression floor holds as a bound: the optimistic end of the prediction must reach it.

    A throughput floor must not lie above the predicted p90; a latency ceiling not below the predicted p10.
    """
    if prediction.metric.startswith(LATENCY_PREFIXES):
        return prediction.p10 <= prediction.measured
    return prediction.p90 >= prediction.measured


def interval_score(prediction: Prediction) -> float:
    """Log-scale interval score of the 80 % interval.

    Source: Gneiting and Raftery 2007, eq. 43: width + 2/alpha times the miss, alpha = 0.2.
    """
    low, high, value = math.log(prediction.p10), math.log(prediction.p90), math.log(prediction.measured)
    return high - low + 10.0 * max(low - value, 0.0) + 10.0 * max(value - high, 0.0)


def judge(predictions: Sequence[Prediction], by: Sequence[str]) -> list[GroupError]:
    """Errors by group, largest groups first.

    Args:
        predictions: of any rows.
        by: attributes of :class:`Prediction` to group by.
    """
    groups: dict[tuple[str, ...], list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(tuple(str(getattr(prediction, name)) for name in by), []).append(prediction)
    found = [_judge(dict(zip(by, key, strict=True)), members) for key, members in groups.items()]
    return sorted(found, key=lambda error: (-error.rows - error.floors, tuple(error.group.values())))


def _judge(group: dict[str, str], members: Sequence[Prediction]) -> GroupError:
    floors = [p for p in members if p.grade == "floor"]
    targets = [p for p in members if p.grade != "floor"]
    held = sum(floor_holds(p) for p in floors)
    if not targets:
        return GroupError(group=group, rows=0, floors=len(floors), floors_hold=held)
    ape = np.array([abs(p.p50 / p.measured - 1.0) for p in targets])
    roof = np.array([abs(p.roofline / p.measured - 1.0) for p in targets if p.roofline > 0])
    return GroupError(
        group=group, rows=len(targets), median_ape=float(np.median(ape)), p90_ape=float(np.quantile(ape, 0.9)),
        bias=float(np.median([math.log(p.p50 / p.measured) for p in targets])),
        coverage=float(np.mean([p.p10 <= p.measured <= p.p90 for p in targets])),
        width=float(np.median([p.p90 / p.p10 for p in targets])),
        interval_score=float(np.mean([interval_score(p) for p in targets])),
        roofline_ape=float(np.median(roof)) if roof.size else None, floors=len(floors), floors_hold=held,
    )  # fmt: skip


def binomial_band(n: int, p: float = 0.8, level: float = 0.95) -> tuple[float, float]:
    """Shares between which the coverage of ``n`` independent series lies with ``level`` if the intervals hold ``p``."""
    if n <= 0:
        return 0.0, 1.0
    tail = (1.0 - level) / 2.0
    log_mass = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log(1.0 - p)
        for k in range(n + 1)
    ]
    total = np.cumsum(np.exp(log_mass))
    low = int(np.searchsorted(total, tail))
    high = int(np.searchsorted(total, 1.0 - tail))
    return low / n, min(high, n) / n


def series_coverage(predictions: Sequence[Prediction]) -> tuple[float, int]:
    """Mean over series of the share of rows inside the interval, and the number of series. Floors are left out."""
    inside: dict[str, list[bool]] = {}
    for p in predictions:
        if p.grade != "floor":
            inside.setdefault(p.series, []).append(p.p10 <= p.measured <= p.p90)
    return (float(np.mean([np.mean(v) for v in inside.values()])) if inside else math.nan), len(inside)
