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
from dataclasses import dataclass
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


def checkpoint_goodput(r: Reliability, interval_s: Num) -> F8:
    """Goodput with checkpoints every ``interval_s`` useful seconds, spares never short.

    Source: renewal-reward; Daly 2006 (FGCS 22), equation 20, with a storage lag.
    """
    rate = np.maximum(np.asarray(r.failures_per_s, dtype=np.float64), 1e-18)
    interval = np.asarray(interval_s, dtype=np.float64)
    kept = interval * np.exp(-rate * np.asarray(r.lag_s))
    with np.errstate(over="ignore"):
        spent = np.expm1(rate * (interval + np.asarray(r.stall_s))) * np.exp(rate * np.asarray(r.restart_s)) / rate
    return np.where(np.isfinite(spent), kept / spent, 0.0)


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


def availability(r: Reliability, failures_per_s: float) -> float:
    """Mean speed over full speed, with nodes in repair beyond the spares.

    Nodes in repair are Poisson with mean rate x repair time (M/G/infinity). An elastic run drops the replicas that miss
    a node; one that waits stands still.

    Valid for: a failure takes one node out; spares suffice most of the time.
    """
    mean = failures_per_s * r.repair_s
    if not r.nodes or mean <= 0:
        return 1.0
    if mean > 10.0 * (r.nodes + r.spare_nodes):  # more nodes in repair than there are
        return 0.0
    most = int(mean + 12.0 * math.sqrt(mean) + 30)
    mass = _poisson(mean, most)
    missing = np.maximum(np.arange(most + 1) - r.spare_nodes, 0)
    if not r.elastic:
        return float(mass[missing == 0].sum())
    speed = np.maximum(1.0 - np.minimum(missing, r.replicas) / max(r.replicas, 1), 0.0)
    return float((mass * speed).sum())


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
    rates = np.broadcast_to(np.asarray(r.failures_per_s, dtype=np.float64), base.shape)
    here = np.array([availability(r, float(rate)) for rate in rates]) if r.nodes else np.ones_like(base)
    return base * here * corruption_factor(r, interval_s) * slow_factor(r)


def break_even_rate(r: Reliability, wanted: float) -> float:
    """Failure rate of the cluster at which goodput, with its best interval, falls to ``wanted``. Per second."""
    from dataclasses import replace

    low, high = 1e-12, 1.0
    for _ in range(100):
        middle = math.sqrt(low * high)
        trial = replace(r, failures_per_s=middle, nodes=0)
        value = float(goodput(trial, best_interval_s(trial))[0])
        low, high = (middle, high) if value >= wanted else (low, middle)
    return math.sqrt(low * high)
