"""Draws from sourced ranges: two-piece distributions, mixtures of sources, paths between dated points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.core.figure import Figure

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
Z90: Final = 1.2815515655446004
"""Standard normal quantile of 90 %: low and high of a figure are read as its 10 % and 90 % quantiles."""
Z_MOST: Final = 2.5
"""Draws further out than this many standard deviations are pulled in: a range of opinion has no far tail."""


def draw(figure: Figure, rng: np.random.Generator, draws: int) -> F8:
    """Draws of a figure in its own unit: median at the value, 10 % and 90 % at low and high.

    Positive figures are two-piece log-normal, shares (unit "share") two-piece logit-normal, others two-piece normal.

    Args:
        figure: what to draw.
        rng: random stream.
        draws: how many.

    Returns:
        One value per draw. [draws]
    """
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    z = np.clip(rng.standard_normal(draws), -Z_MOST, Z_MOST)
    if low == high:
        return np.full(draws, figure.value)
    if figure.unit == "share" and 0 < low and high < 1:
        mid, lo, hi = (float(np.log(x / (1 - x))) for x in (figure.value, low, high))
        return 1.0 / (1.0 + np.exp(-_two_piece(z, mid, lo, hi)))
    if low > 0:
        return np.exp(_two_piece(z, float(np.log(figure.value)), float(np.log(low)), float(np.log(high))))
    found = _two_piece(z, figure.value, low, high)
    return np.maximum(found, 0.0) if low >= 0 else found


def _two_piece(z: F8, mid: float, low: float, high: float) -> F8:
    return mid + np.where(z < 0, (mid - low) / Z90, (high - mid) / Z90) * z


def pick(weights: Sequence[float], u: F8) -> I8:
    """The component of a mixture that each uniform number falls on. [draws]"""
    edges = np.cumsum(np.asarray(weights, dtype=np.float64))
    return np.searchsorted(edges / edges[-1], u, side="right").clip(0, len(weights) - 1)


def mixture(components: Sequence[F8], weights: Sequence[float], u: F8) -> tuple[F8, I8]:
    """A value per draw from the component that ``u`` picks, components ordered by median so that u is optimism.

    Args:
        components: draws of every component. [components][draws]
        weights: one per component.
        u: uniform numbers; reuse one vector over years so that an optimist stays one. [draws]

    Returns:
        The values and the index of the component used. [draws] each
    """
    order = np.argsort([float(np.median(values)) for values in components], kind="stable")
    slot = pick([weights[i] for i in order], u)
    index = np.asarray(order, dtype=np.int64)[slot]
    stacked = np.stack([np.asarray(values, dtype=np.float64) for values in components])
    return stacked[index, np.arange(u.size)], index


def path(at: Sequence[int], values: Sequence[F8], quarters: I8, growth_per_year: F8) -> F8:
    """Values by quarter: log-linear between dated points, growing at a yearly rate outside them.

    Args:
        at: quarter indices of the points, ascending.
        values: draws at each point, positive. [points][draws]
        quarters: quarter indices wanted. [quarters]
        growth_per_year: yearly factor before the first and after the last point. [draws]

    Returns:
        [draws, quarters]
    """
    logs = np.log(np.maximum(np.stack(values, axis=1), 1e-9))
    rate = np.log(growth_per_year)[:, None] / 4.0
    points = np.asarray(at, dtype=np.float64)
    wanted = quarters.astype(np.float64)
    left = np.clip(np.searchsorted(points, wanted, side="right") - 1, 0, max(len(at) - 2, 0))
    if len(at) == 1:
        inside = np.repeat(logs, wanted.size, axis=1)
    else:
        share = np.clip((wanted - points[left]) / (points[left + 1] - points[left]), 0.0, 1.0)
        inside = logs[:, left] * (1 - share) + logs[:, left + 1] * share
    before = np.minimum(wanted - points[0], 0.0)[None, :] * rate
    after = np.maximum(wanted - points[-1], 0.0)[None, :] * rate
    return np.exp(inside + before + after)


def quantiles(values: F8, at: Sequence[float] = (0.1, 0.5, 0.9)) -> list[float]:
    """Quantiles of a vector of draws."""
    return [float(x) for x in np.quantile(values, at)]


def rank_correlation(inputs: F8, output: F8) -> float:
    """Spearman's rank correlation of two vectors of draws; 0 where one is constant."""
    a, b = _ranks(inputs), _ranks(output)
    spread = float(a.std() * b.std())
    return 0.0 if spread == 0.0 else float(((a - a.mean()) * (b - b.mean())).mean() / spread)


def _ranks(values: F8) -> F8:
    """Average ranks, ties shared."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2.0)[inverse]
