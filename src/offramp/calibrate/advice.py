"""Advice: the few measurements that would shrink a decision's interval most.

The decision is a number that every parameter draw gives a value (chips of B that replace one of A). A measurement is a
vector of observables that every draw predicts. Under the draws' joint normal shape, knowing the observables leaves
the decision with the variance that a linear regression on them cannot explain; the best next measurement is the one
that leaves least, and the one after it the best beside what is already chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from offramp.core.record import Record

F8 = npt.NDArray[np.float64]


class Advice(Record):
    """One recommended measurement.

    Attributes:
        index: of the candidate.
        width_before, width_after: p90/p10 of the decision before and, as expected, after this and the earlier ones.
        gain: share of the remaining variance that it removes.
    """

    index: int
    width_before: float
    width_after: float
    gain: float


def recommend(decisions: F8, observables: Sequence[F8], *, noise: Sequence[F8], most: int = 3) -> list[Advice]:
    """The best measurements, one after another.

    Args:
        decisions: log of each decision number by draw; their variances add up. [draws, k]
        observables: predicted logs of each candidate measurement. each [draws, m]
        noise: standard deviation of each observable's error, logs. each [m]
        most: how many to name.
    """
    left = decisions - decisions.mean(axis=0)
    seen = [candidate - candidate.mean(axis=0) for candidate in observables]
    chosen: list[Advice] = []
    variance = float((left**2).mean(axis=0).sum())
    for _ in range(min(most, len(seen))):
        if variance <= 1e-12:
            break
        residues = [_unexplained(left, x, sd) for x, sd in zip(seen, noise, strict=True)]
        used = {advice.index for advice in chosen}
        order = sorted((value, i) for i, value in enumerate(residues) if i not in used)
        if not order or order[0][0] > 0.98 * variance:
            break
        after, best = order[0]
        scale = 1.0 / max(decisions.shape[1], 1)
        chosen.append(
            Advice(
                index=best, width_before=_width(variance * scale), width_after=_width(after * scale),
                gain=1.0 - after / variance,
            )
        )  # fmt: skip
        left, seen = _condition(left, seen, seen[best], noise[best])
        variance = after
    return chosen


def _width(variance: float) -> float:
    return float(np.exp(2.5631 * np.sqrt(max(variance, 0.0))))


def _gain_matrix(x: F8, sd: F8) -> F8:
    """Inverse of the observables' covariance with their noise. [m, m]"""
    inverse: F8 = np.linalg.inv(x.T @ x / x.shape[0] + np.diag(sd**2))
    return inverse


def _unexplained(left: F8, x: F8, sd: F8) -> float:
    cross = left.T @ x / x.shape[0]
    return float((left**2).mean(axis=0).sum() - np.einsum("km,mn,kn->", cross, _gain_matrix(x, sd), cross))


def _condition(left: F8, seen: list[F8], x: F8, sd: F8) -> tuple[F8, list[F8]]:
    """Decisions and observables with what ``x`` explains of them taken out (square-root update by perturbed draws)."""
    rng = np.random.default_rng(0)
    noisy = x + rng.standard_normal(x.shape) * sd
    inverse = _gain_matrix(x, sd)

    def rest(y: F8) -> F8:
        moved: F8 = y - noisy @ inverse @ (x.T @ y / x.shape[0])
        centred: F8 = moved - moved.mean(axis=0)
        return centred

    return rest(left), [rest(candidate) for candidate in seen]
