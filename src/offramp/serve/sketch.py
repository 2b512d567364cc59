"""A mergeable percentile sketch: counts in logarithmic buckets, with a stated relative error.

Source: the bucket law of DDSketch (Masson, Rim, Lee, VLDB 2019, arXiv:1908.10693): bucket i holds
(gamma^(i-1), gamma^i] with gamma = (1 + a) / (1 - a), and answering with the bucket's harmonic middle is within a
of the true quantile. Range and number of buckets are fixed here, so that merging is adding.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from offramp.serve.records import F8, I8, Percentiles

RELATIVE_ERROR = 0.0025
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LOG_GAMMA = math.log(GAMMA)
LOWEST_S = 1e-7
BUCKETS = math.ceil(math.log(1e16) / LOG_GAMMA) + 2
"""Covers 0.1 us to 31 years; bucket 0 holds everything at or below the lowest."""


def bucket_of(values_s: F8) -> npt.NDArray[np.int64]:
    """Bucket of each value, in seconds."""
    with np.errstate(divide="ignore"):
        raw = np.ceil(np.log(np.maximum(values_s, LOWEST_S) / LOWEST_S) / LOG_GAMMA)
    return np.clip(raw, 0, BUCKETS - 1).astype(np.int64)


def value_of(bucket: int) -> float:
    """The value that stands for a bucket, in seconds; within RELATIVE_ERROR of all values in it."""
    if bucket <= 0:
        return 0.0
    return LOWEST_S * math.exp(bucket * LOG_GAMMA) * 2 / (1 + GAMMA)


class Sketch:
    """Counts by bucket, with the exact sum, maximum and number."""

    def __init__(self) -> None:
        self.counts: I8 = np.zeros(BUCKETS, dtype=np.int64)
        self.total_s = 0.0
        self.max_s = 0.0
        self.count = 0

    def add(self, values_s: F8) -> None:
        """Adds samples, in seconds."""
        if len(values_s) == 0:
            return
        self.counts += np.bincount(bucket_of(values_s), minlength=BUCKETS)
        self.total_s += float(values_s.sum())
        self.max_s = max(self.max_s, float(values_s.max()))
        self.count += len(values_s)

    def merge(self, other: Sketch) -> None:
        """Adds the samples of another sketch."""
        self.counts += other.counts
        self.total_s += other.total_s
        self.max_s = max(self.max_s, other.max_s)
        self.count += other.count

    def percentiles(self) -> Percentiles | None:
        """The distribution, or None where nothing was added."""
        if self.count == 0:
            return None
        cumulative = np.cumsum(self.counts)
        p50, p90, p95, p99 = (self._rank(cumulative, q) for q in (0.5, 0.9, 0.95, 0.99))
        return Percentiles(
            mean=self.total_s / self.count, p50=p50, p90=p90, p95=p95, p99=p99, max=self.max_s, count=self.count,
            relative_error=RELATIVE_ERROR,
        )  # fmt: skip

    def _rank(self, cumulative: I8, share: float) -> float:
        bucket = int(np.searchsorted(cumulative, share * (self.count - 1), side="right"))
        return min(value_of(bucket), self.max_s)


def exact_percentiles(values_s: F8) -> Percentiles | None:
    """The distribution of samples kept in full (linear between ranks), or None where there are none."""
    if len(values_s) == 0:
        return None
    p50, p90, p95, p99 = (float(p) for p in np.percentile(values_s, [50, 90, 95, 99]))
    return Percentiles(
        mean=float(values_s.mean()), p50=p50, p90=p90, p95=p95, p99=p99, max=float(values_s.max()), count=len(values_s)
    )
