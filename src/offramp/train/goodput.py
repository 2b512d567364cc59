"""Goodput: the share of wall time that becomes kept progress, in closed form, and the checkpoint interval that is best.

Failures come at a constant rate (exponential gaps). After one, the run is down for detection and restart, which may
itself fail, and goes on from the last checkpoint that reached storage. Between two failures the run keeps whole
intervals only. With failure rate ``L``, interval ``t`` (useful seconds), stall ``d``, time to storage ``l`` and restart
``r``, renewal-reward gives::

    goodput = t * exp(-L l) / [ (exp(L (t + d)) - 1) * exp(L r) / L ]

which for ``l = 0`` is the exact form of Daly (2006), of which Young's sqrt(2 d / L) is the first order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
Num = float | F8
NEVER: Final = 1e-3
"""Goodput below which a run is called one that never finishes."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How a cluster fails and recovers. Rates per second of the whole cluster; numbers or [draws].

    Attributes:
        failures_per_s: unexpected stops of the run.
        restart_s: from failure to training again (detection, replacement, loading).
        stall_s: training stands still for a checkpoint.
        lag_s: until a checkpoint is safe in storage, while training goes on.
        repair_s: until a failed node is back.
        nodes: that the run occupies; spares stand beside them.
        spare_nodes: hot spares.
        replicas: data-parallel replicas (what an elastic run can drop).
        elastic: shrinks when spares run out; otherwise it waits.
        corruptions_per_s, corruption_s: silent data corruptions, and how long one goes unnoticed.
        slow_per_s, slow_notice_s: nodes of the run that turn slow, and how long one stays until it is replaced.
        slow_factor: step time while at least one node is slow, over the usual one.
    """

    failures_per_s: Num
    restart_s: Num
    stall_s: Num
    lag_s: Num = 0.0
    repair_s: float = 86400.0
    nodes: int = 0
    spare_nodes: int = 0
    replicas: int = 1
    elastic: bool = False
    corruptions_per_s: Num = 0.0
    corruption_s: Num = 0.0
    slow_per_s: Num = 0.0
    slow_notice_s: Num = 0.0
    slow_factor: Num = 1.0


def checkpoint_goodput(r: Reliability, interval_s: Num, *, speed: Num = 1.0, restart_s: Num | None = None) -> F8:
    """Goodput with checkpoints every ``interval_s`` useful seconds, spares never short.

    Args:
        r: rates and times.
        interval_s: useful seconds between checkpoints.
        speed: useful seconds in one of wall time; 0 does nothing.
        restart_s: of ``r`` where absent.

    Source: renewal-reward; Daly 2006 (FGCS 22), equation 20, with a storage lag.
    """
    rate = np.maximum(np.asarray(r.failures_per_s, dtype=np.float64), 1e-18)
    interval = np.asarray(interval_s, dtype=np.float64)
    restart = np.asarray(r.restart_s if restart_s is None else restart_s)
    kept = interval * np.exp(-rate * np.asarray(r.lag_s))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        takes = interval / np.asarray(speed, dtype=np.float64) + np.asarray(r.stall_s)
        spent = np.expm1(rate * takes) * np.exp(rate * restart) / rate
    return np.where(np.isfinite(spent), kept / np.where(np.isfinite(spent), spent, 1.0), 0.0)


def best_interval_s(r: Reliability) -> F8:
    """The checkpoint interval with the highest goodput.

    Setting the derivative to nil gives ``1 - L t = exp(-L (t + d))``; solved by bisection, for many draws at once.
    """
    rate = np.maximum(np.atleast_1d(np.asarray(r.failures_per_s, dtype=np.float64)), 1e-18)
    stall = np.broadcast_to(np.asarray(r.stall_s, dtype=np.float64), rate.shape)
    low, high = np.zeros_like(rate), 1.0 / rate
    for _ in range(80):
        middle = (low + high) / 2.0
        short = 1.0 - rate * middle > np.exp(-rate * (middle + stall))
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.maximum((low + high) / 2.0, 1.0)


def _poisson(mean: float, most: int) -> F8:
    at = np.arange(most + 1)
    log_factorial = np.cumsum(np.log(np.maximum(at, 1)))
    return np.exp(at * math.log(max(mean, 1e-300)) - mean - log_factorial)


def _in_repair(r: Reliability, failures_per_s: float) -> F8:
    """Chances of 0, 1, 2 ... nodes in repair: Poisson with mean rate x repair time (M/G/infinity)."""
    mean = failures_per_s * r.repair_s
    return _poisson(mean, int(mean + 12.0 * math.sqrt(mean) + 30))


def _speeds(r: Reliability, states: int) -> F8:
    """Speed over full speed by nodes in repair. An elastic run drops the replicas that miss a node, another waits."""
    missing = np.maximum(np.arange(states) - r.spare_nodes, 0)
    if not r.elastic:
        return (missing == 0).astype(np.float64)
    return np.maximum(1.0 - missing / max(r.replicas, 1), 0.0)


def availability(r: Reliability, failures_per_s: float) -> float:
    """Mean speed over full speed, with nodes in repair beyond the spares."""
    mean = failures_per_s * r.repair_s
    if not r.nodes or mean <= 0:
        return 1.0
    if mean > 10.0 * (r.nodes + r.spare_nodes):  # more nodes in repair than there are
        return 0.0
    mass = _in_repair(r, failures_per_s)
    return float((mass * _speeds(r, len(mass))).sum())


def repaired_goodput(r: Reliability, interval_s: float) -> float:
    """Goodput with checkpoints and nodes in repair beyond the spares. Scalars.

    The run goes through its speeds, each with its own lost work. While it restarts, one node is away and none
    has failed since, the others being Poisson as ever, so that restarts fall into times that were slow or idle anyway.

    Valid for: a failure takes one node out; nodes in repair change slower than failures are recovered from.
    """
    rate, mean = float(r.failures_per_s), float(r.failures_per_s) * r.repair_s
    if not r.nodes or mean <= 0:
        return float(checkpoint_goodput(r, interval_s))
    if mean > 10.0 * (r.nodes + r.spare_nodes):
        return 0.0
    mass = _in_repair(r, rate)
    restart = float(r.restart_s)
    down = -math.expm1(-rate * restart)  # share of time
    away = min(r.repair_s / max(restart, 1e-9), 1.0)  # of a restart, until its node is back
    others = _poisson(rate * max(r.repair_s - restart / 2.0, 0.0), len(mass) - 1)  # none has failed since
    while_down = away * np.concatenate([[0.0], others[:-1]]) + (1.0 - away) * mass
    up = np.maximum(mass - down * while_down, 0.0)
    up = up * (1.0 - down) / max(float(up.sum()), 1e-300)
    working = checkpoint_goodput(r, interval_s, speed=_speeds(r, len(mass)), restart_s=0.0)
    return float((up * working).sum())


def corruption_factor(r: Reliability, interval_s: Num) -> F8:
    """Share of progress that silent corruption leaves.

    All that was trained since the last checkpoint before the corruption is void once it is noticed; then the run
    restarts. Source: renewal-reward over the time from one corruption to the next.
    """
    rate = np.asarray(r.corruptions_per_s, dtype=np.float64)
    before = np.asarray(interval_s) / 2.0 + np.asarray(r.lag_s)
    after = np.asarray(r.corruption_s) + np.asarray(r.restart_s)
    return np.maximum(1.0 - rate * before, 0.0) / (1.0 + rate * after)


def slow_factor(r: Reliability) -> F8:
    """Mean speed over full speed with slow nodes that nobody noticed yet; they are Poisson in time (M/G/infinity)."""
    share = -np.expm1(-np.asarray(r.slow_per_s, dtype=np.float64) * np.asarray(r.slow_notice_s))
    return 1.0 - share * (1.0 - 1.0 / np.maximum(np.asarray(r.slow_factor, dtype=np.float64), 1.0))


def goodput(r: Reliability, interval_s: Num) -> F8:
    """Goodput with everything: checkpoints, spares, silent corruption, slow nodes. [draws] or a scalar array."""
    base = np.atleast_1d(checkpoint_goodput(r, interval_s))
    if r.nodes:
        names = ("failures_per_s", "restart_s", "stall_s", "lag_s")
        each = [np.broadcast_to(np.asarray(getattr(r, name), dtype=np.float64), base.shape) for name in names]
        intervals = np.broadcast_to(np.asarray(interval_s, dtype=np.float64), base.shape)
        base = np.array([
            repaired_goodput(replace(r, **dict(zip(names, map(float, row), strict=True))), float(t))
            for *row, t in zip(*each, intervals, strict=True)
        ])  # fmt: skip
    return base * corruption_factor(r, interval_s) * slow_factor(r)


def break_even_rate(r: Reliability, wanted: float) -> float:
    """Failure rate of the cluster at which goodput, with its best interval, falls to ``wanted``. Per second."""
    low, high = 1e-12, 1.0
    for _ in range(100):
        middle = math.sqrt(low * high)
        trial = replace(r, failures_per_s=middle, nodes=0)
        value = float(goodput(trial, best_interval_s(trial))[0])
        low, high = (middle, high) if value >= wanted else (low, middle)
    return math.sqrt(low * high)
