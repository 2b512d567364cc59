"""Layout search: every layout that divides and fits, priced at once, best step time first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.core.errors import InfeasibleError
from offramp.cost.device import Device
from offramp.train.features import features
from offramp.train.layout import DEEP, DOUBLES, HIDES, Grid, Layout, Schedule, Task, bubble_of, layout_at
from offramp.train.memory import Memory, memory
from offramp.train.step import step_time
from offramp.train.work import ModelWork, model_work

F8 = npt.NDArray[np.float64]
MICRO_BATCHES: Final = (1, 2, 4, 8, 16)
RECOMPUTES: Final = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a search may use; an empty tuple leaves a degree free.

    Attributes:
        tp, pp, cp, ep, vp, micro_batch, zero: allowed values.
        recompute: allowed kinds; all where empty.
        schedules: of the pipeline, tried in turn.
        loose_groups: interleaving takes any number of micro-batches from PP on; else a multiple of PP.
    """

    tp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    cp: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    vp: tuple[int, ...] = ()
    micro_batch: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()
    recompute: tuple[str, ...] = ()
    schedules: tuple[Schedule, ...] = ("1f1b",)
    loose_groups: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """Result of a search: layouts that fit, best first.

    Attributes:
        layouts: best first.
        seconds: of a step, for each.
        tried: layouts that divide.
        fitting: of those, how many fit.
        memory_bytes: of the best.
        seconds_without_limit, layout_without_limit: of the best layout of a device with as much memory as it likes.
    """

    layouts: tuple[Layout, ...]
    seconds: tuple[float, ...]
    tried: int
    fitting: int
    memory_bytes: float
    seconds_without_limit: float
    layout_without_limit: Layout


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _powers(most: int, n: int) -> list[int]:
    """Divisors of n up to ``most`` that are a power of two, or three times one."""
    return [d for d in _divisors(min(n, 100_000)) if d <= most and d & (d - 1) == 0]


def _degrees(model: Model, device: Device, task: Task, devices: int, limits: Limits) -> Iterator[tuple[int, ...]]:
    """(tp, pp, cp, dp, ep) that divide devices, heads, experts and the batch."""
    heads = min((g.attention.heads for g in model.layers if g.attention.heads), default=1)
    experts = max((g.mlp.experts for g in model.layers), default=0)
    domain = device.fabric.domain_devices
    node = max(min(domain, 64), 1)
    tps = limits.tp or tuple(t for t in _powers(min(node, 64), devices) if heads % t == 0)
    cps = limits.cp or (tuple(c for c in (1, 2, 4, 8, 16, 32) if c == 1 or task.sequence_tokens // c >= 2048))
    pps = limits.pp or tuple(p for p in _divisors(min(devices, 512)) if p <= model.layer_count and p <= 64)
    for tp, pp, cp in itertools.product(tps, pps, cps):
        if devices % (tp * pp * cp) or heads % tp or pp > model.layer_count:
            continue
        dp = devices // (tp * pp * cp)
        if dp > task.batch_sequences or task.batch_sequences % dp:
            continue
        ranks = tp * cp * dp
        eps = limits.ep or (tuple(e for e in _divisors(experts) if ranks % e == 0 and e <= 512) if experts else (1,))
        for ep in eps:
            if ranks % ep == 0 and (ep == 1 or (experts and experts % ep == 0)):
                yield tp, pp, cp, dp, ep


def enumerate_grid(model: Model, device: Device, task: Task, devices: int, limits: Limits) -> Grid | None:
    """Every layout that divides; None where there is none."""
    rows: list[tuple[float, ...]] = []
    kinds = [kind for kind, name in zip(RECOMPUTES, ("none", "selective", "full"), strict=True)
             if not limits.recompute or name in limits.recompute]  # fmt: skip
    for tp, pp, cp, dp, ep in _degrees(model, device, task, devices, limits):
        share = task.batch_sequences // dp
        chunks = limits.vp or _chunks(model.layer_count, pp)
        zeros = limits.zero or ((1, 2, 3) if pp == 1 else (1,))
        for micro in limits.micro_batch or MICRO_BATCHES:
            if share % micro:
                continue
            for vp, zero, (full, selective) in itertools.product(chunks, zeros, kinds):
                if vp > 1 and not _interleaves(share // micro, pp, loose=limits.loose_groups):
                    continue
                rows.append((tp, pp, dp, cp, ep, vp, micro, zero, full, selective))
    if not rows:
        return None
    plain = np.asarray(rows, dtype=np.float64).T
    names = ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "zero", "full", "selective")
    times = len(limits.schedules)
    arrays = {name: np.tile(column, times) for name, column in zip(names, plain, strict=True)}
    bubble = np.repeat([bubble_of(name) for name in limits.schedules], plain.shape[1])
    flags = {
        name: np.repeat([float(kind in group) for kind in limits.schedules], plain.shape[1])
        for name, group in (("hidden", HIDES), ("doubled", DOUBLES), ("deep", DEEP))
    }
    grid = Grid(
        **arrays, sequence_parallel=(arrays["tp"] > 1).astype(np.float64), bubble=bubble, hidden=flags["hidden"],
        doubled=flags["doubled"],
    )  # fmt: skip
    # they run one chunk from each end of the pipeline and need two micro-batches for each stage
    share = task.batch_sequences / (grid.dp * grid.micro_batch)
    usable = (grid.pp > 1) & (grid.vp == 1) & (share >= 2.0 * grid.pp) & ((grid.doubled == 0) | (grid.pp % 2 == 0))
    return grid.take((flags["deep"] == 0) | usable)


def _interleaves(micro_batches: int, pp: int, *, loose: bool) -> bool:
    return micro_batches >= pp if loose else micro_batches % pp == 0


def _chunks(layers: int, pp: int) -> tuple[int, ...]:
    if pp == 1:
        return (1,)
    per_rank = -(-layers // pp)
    return tuple(sorted({1, *(v for v in (2, 4, 8) if v <= per_rank), per_rank}))


def search(
    model: Model, device: Device, task: Task, *, devices: int, values: Mapping[str, F8], limits: Limits | None = None,
    most: int = 5,
) -> Found:  # fmt: skip
    """Layouts that fit on ``devices``, best step time first.

    Args:
        model: architecture.
        device: one torch device.
        task: of a step.
        devices: torch devices of the cluster.
        values: parameters, centre only.
        limits: what may be used.
        most: layouts returned.

    Raises:
        InfeasibleError: nothing divides, or nothing fits (with the tensor that is most over).
    """
    limits = limits or Limits()
    work = model_work(model, mtp=task.mtp)
    grid = enumerate_grid(model, device, task, devices, limits)
    if grid is None:
        raise InfeasibleError(
            f"no layout divides: {nothing_divides(model, task, devices, limits)}", where="layout",
            mend="Take a batch, a cluster size or degrees that divide.",
        )  # fmt: skip
    need = memory(work, device, task, grid)
    fits = need.over <= 0
    if not fits.any():
        raise no_fit(model, device, need, grid)
    kept = grid.take(fits)
    every = step_time(features(work, device, task, grid), values).total.reshape(-1)
    seconds = every[fits]
    order = np.argsort(seconds, kind="stable")[:most]
    free = int(np.argmin(every))
    return Found(
        layouts=tuple(layout_at(kept, int(i)) for i in order), seconds=tuple(float(seconds[i]) for i in order),
        tried=len(grid), fitting=int(fits.sum()), memory_bytes=float(need.total[fits][order[0]]),
        seconds_without_limit=float(every[free]), layout_without_limit=layout_at(grid, free),
    )  # fmt: skip


def nothing_divides(model: Model, task: Task, devices: int, limits: Limits) -> str:
    """What stands in the way of every layout, in words."""
    heads = sorted({g.attention.heads for g in model.layers if g.attention.heads})
    experts = max((g.mlp.experts for g in model.layers), default=0)
    found = [f"TP {tp} does not divide {h} heads" for tp in limits.tp for h in heads if h % tp]
    found += [f"PP {pp} is more than {model.layer_count} layers" for pp in limits.pp if pp > model.layer_count]
    found += [
        f"EP {ep} does not divide {experts} experts" for ep in limits.ep if ep > 1 and (not experts or experts % ep)
    ]
    degrees = [("TP", limits.tp), ("PP", limits.pp), ("CP", limits.cp)]
    found += [f"{name} {n} does not divide {devices} devices" for name, given in degrees for n in given if devices % n]
    return (
        "; ".join(found)
        or f"{devices} devices and a batch of {task.batch_sequences} sequences share no data-parallel degree"
    )


def no_fit(model: Model, device: Device, need: Memory, grid: Grid) -> InfeasibleError:
    """An error that says which tensor is in the way, and by how many bytes."""
    at = int(np.argmin(need.over))
    parts = need.parts(at)
    worst = max(parts, key=lambda name: parts[name])
    over = float(need.over[at])
    return InfeasibleError(
        f"{model.id} does not fit on {device.chip}: even {layout_at(grid, at).words} needs "
        f"{need.total[at] / 2**30:.1f} GiB of "
        f"{need.capacity / 2**30:.1f} GiB per device, {over:,.0f} bytes over; the largest tensor is {worst} with "
        f"{parts[worst]:,.0f} bytes",
        where="memory", mend="Take more chips, a smaller model, or a chip with more memory.",
    )  # fmt: skip


def best_of(work: ModelWork, device: Device, task: Task, grid: Grid, values: Mapping[str, F8]) -> tuple[int, F8]:
    """Index of the best layout of a grid that fits (of all, where none does), and all step times."""
    seconds = step_time(features(work, device, task, grid), values).total.reshape(-1)
    over = memory(work, device, task, grid).over
    ranked = np.where(over <= 0, seconds, seconds + 1e6 * (1.0 + over / device.memory_bytes))
    return int(np.argmin(ranked)), seconds
