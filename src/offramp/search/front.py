"""Front: the choices of which none is better in every respect; exact, over all layouts and batches of the closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.core.record import Record
from offramp.cost import Pool
from offramp.search.closed import TTFT_WAIT, Grid, Slo

F8 = npt.NDArray[np.float64]
STAT: Final = "p90"
"""Percentile of latencies where the limits name none."""


class Choice(Record):
    """One point of a front, closed form at the middle parameters.

    Attributes:
        pool: layout.
        batch: sequences per virtual engine.
        per_device: requests per second of one torch device.
        tpot_s: time per output token, at the limit's percentile.
        ttft_s: time to the first token, at the limit's percentile.
    """

    pool: Pool
    batch: float
    per_device: float
    tpot_s: float
    ttft_s: float


def pareto(values: F8) -> npt.NDArray[np.bool_]:
    """Which rows no other row beats: as good in every column and better in one. Of equal rows the first. [n]

    Args:
        values: more is better in every column. [n, columns]
    """
    n = len(values)
    found = np.zeros(n, dtype=bool)
    order = np.lexsort((np.arange(n), *(-values[:, column] for column in range(values.shape[1] - 1, -1, -1))))
    kept = np.empty((0, values.shape[1]))
    best = -np.inf
    for i in order:  # whatever beats a row comes before it
        row = values[i]
        if values.shape[1] == 2:
            beaten = row[1] <= best
            best = max(best, float(row[1]))
        else:
            beaten = bool((kept >= row).all(axis=1).any())
            if not beaten:
                kept = np.vstack([kept, row])
        found[i] = not beaten
    return found


def front_of(parts: Sequence[tuple[Grid, Sequence[Pool]]], slo: Slo) -> tuple[Choice, ...]:
    """Throughput of a device against time per output token, among the choices that keep the other limits.

    Args:
        parts: grids at the middle parameters, and their layouts.
        slo: limits; that on the time per output token is left open, because it is what is traded.
    """
    names = {key.partition("_")[0]: key.partition("_")[2] for key in slo}
    tpot_stat, ttft_stat = names.get("tpot", STAT), names.get("ttft", STAT)
    others = {key: limit for key, limit in slo.items() if not key.startswith("tpot")}
    rows: list[Choice] = []
    for grid, pools in parts:
        tpot = grid.tpot_at(tpot_stat)[0]
        ttft = grid.ttft_base_s[0] + TTFT_WAIT[ttft_stat] * grid.ttft_wait_s[0]
        each = grid.rate[0] / grid.devices
        good = np.flatnonzero(grid.meets(others)[0] & (each > 0.0))
        inside = good[pareto(np.column_stack([each[good], -tpot[good]]))] if good.size else good
        rows += [
            Choice(pool=pools[int(grid.pool_index[i])], batch=float(grid.batch[i]), per_device=float(each[i]),
                   tpot_s=float(tpot[i]), ttft_s=float(ttft[i]))
            for i in inside
        ]  # fmt: skip
    if not rows:
        return ()
    keep = pareto(np.array([[row.per_device, -row.tpot_s] for row in rows]))
    return tuple(sorted((row for row, on in zip(rows, keep, strict=True) if on), key=lambda row: row.tpot_s))
