"""Coverage: the largest share of the wanted work that given chips can do, of every kind alike or of all kinds together.

For each scenario and quarter apart, in one programme that falls apart into small ones. ``coverage`` maximises theta so
that every workload of the scope gets theta of its demand (at most all of it) while the others keep a required share.
``most_work`` maximises the work done, whatever kind it is of.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.core.errors import BackendError
from offramp.plan import builder
from offramp.plan.builder import I8, INF, Arrays, Model, Solution

F8 = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]
MISSING: Final = 1e-6
"""A required share counts as kept up to this."""


def coverage(
    capacity: F8, rate: F8, demand: F8, *, usable: Bool, scope: Bool | None = None, required: F8 | float = 0.0
) -> tuple[F8, F8]:
    """Share of the scope's work that can be done, and the chips that do it.

    Args:
        capacity: chips. [S, Q, C]
        rate: work of one chip. [S, C, W]
        demand: work wanted. [S, Q, W]
        usable: whether a chip may and can do a workload. [S, Q, C, W]
        scope: workloads whose share counts; all where None. [W]
        required: share that the other workloads must get. [S, Q] or a number

    Returns:
        The share, 0 to 1; NaN where the others' required share alone cannot be done. [S, Q]
        Chips by workload. [S, Q, C, W]

    Raises:
        BackendError: the solver fails.
    """
    s, q, c = capacity.shape
    w = demand.shape[2]
    inside = np.ones(w, dtype=np.bool_) if scope is None else scope
    model = Model()
    names = ([str(i) for i in range(s)], [str(i) for i in range(q)])
    chips, works = [str(i) for i in range(c)], [str(i) for i in range(w)]
    size = np.maximum(capacity.sum(axis=2), 1e-12)
    able = usable & (rate > 0)[:, None]
    place = model.columns("place", (*names, chips, works), upper=np.where(able, INF, 0.0))
    share = model.columns("share", names, upper=1.0, cost=-1.0)
    missing = model.columns("missing", names, cost=100.0)
    rows = model.rows("capacity", (*names, chips), upper=capacity / size[..., None])
    model.entries(rows[..., None], place, np.where(able, 1.0, 0.0))
    wanted = demand / size[..., None]
    unit = np.maximum(wanted, 1e-12)
    floor = np.where(inside, 0.0, np.broadcast_to(np.asarray(required), (s, q))[..., None])
    work = model.rows("work", (*names, works), lower=np.where(wanted > 0, floor, -INF))
    model.entries(work[:, :, None, :], place, np.where(able, rate[:, None] / unit[:, :, None, :], 0.0))
    model.entries(work, share[..., None], np.where(inside, -1.0, 0.0))
    model.entries(work, missing[..., None], np.where(inside, 0.0, 1.0))
    found, lacks = _required_first(model.arrays(), share, missing)
    theta = np.where(lacks > MISSING, np.nan, np.clip(found.columns[share], 0.0, 1.0))
    return theta, found.columns[place] * size[..., None, None]


def _required_first(arrays: Arrays, share: I8, missing: I8) -> tuple[Solution, F8]:
    """The largest shares that leave the required work of others alone, and what of that cannot be done anyhow. [S, Q]

    No price on missing work is high enough for a scope that is a small part of all work, so it is minimised first.
    """
    highs = builder.load(arrays)
    found = _point(builder.run(highs, arrays))
    if found.columns[missing].max(initial=0.0) <= MISSING:
        return found, np.zeros(missing.shape)
    at, shares = missing.ravel().astype(np.int32), share.ravel().astype(np.int32)
    nil = np.zeros(at.size)
    highs.changeColsCost(shares.size, shares, np.zeros(shares.size))
    lacks = np.maximum(_point(builder.run(highs, arrays)).columns[missing], 0.0)
    highs.changeColsBounds(at.size, at, nil, lacks.ravel() + 0.1 * MISSING)
    highs.changeColsCost(shares.size, shares, arrays.cost[shares])
    return _point(builder.run(highs, arrays)), lacks


def _point(found: Solution) -> Solution:
    if not found.has_point:
        raise BackendError(f"the solver says {found.status}", mend="Check the figures of the study.")
    return found


def most_work(capacity: F8, rate: F8, demand: F8, *, usable: Bool) -> F8:
    """Share of all the work wanted that can be done when chips do whatever they do best. [S, Q]

    Args as :func:`coverage`; work of all kinds is counted in one unit.

    Raises:
        BackendError: the solver fails.
    """
    s, q, c = capacity.shape
    w = demand.shape[2]
    model = Model()
    names = ([str(i) for i in range(s)], [str(i) for i in range(q)])
    chips, works = [str(i) for i in range(c)], [str(i) for i in range(w)]
    size = np.maximum(capacity.sum(axis=2), 1e-12)
    whole = np.maximum(demand.sum(axis=2), 1e-12)
    able = usable & (rate > 0)[:, None]
    place = model.columns("place", (*names, chips, works), upper=np.where(able, INF, 0.0))
    done = model.columns("done", (*names, works), upper=demand / whole[..., None], cost=-1.0)
    rows = model.rows("capacity", (*names, chips), upper=capacity / size[..., None])
    model.entries(rows[..., None], place, np.where(able, 1.0, 0.0))
    work = model.rows("work", (*names, works), lower=0.0)
    model.entries(work[:, :, None, :], place, np.where(able, rate[:, None] * (size / whole)[:, :, None, None], 0.0))
    model.entries(work, done, -1.0)
    found, _ = builder.solve(model.arrays())
    if not found.has_point:
        raise BackendError(f"the solver says {found.status}", mend="Check the figures of the study.")
    return np.clip(found.columns[done].sum(axis=2), 0.0, 1.0)
