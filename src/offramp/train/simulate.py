"""Discrete-event simulation of a training run that fails: the check on the closed form, and what it leaves out.

Events are failures, the end of a checkpoint interval, a checkpoint reaching storage, the end of a restart and the end
of a repair. Failures also strike while restarting. Everything is drawn from one seed.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from offramp.core.seeds import derive_seed
from offramp.train.goodput import Reliability


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a simulated run came to.

    Attributes:
        wall_s, useful_s: time spent, and progress kept.
        failures: stops, those while restarting included.
        lost_s: progress trained twice. ``down_s`` detection and restart, ``waiting_s`` without enough nodes,
            ``stall_s`` at checkpoints.
    """

    wall_s: float
    useful_s: float
    failures: int
    lost_s: float
    down_s: float
    waiting_s: float
    stall_s: float

    @property
    def goodput(self) -> float:
        """Share of wall time that became kept progress."""
        return self.useful_s / self.wall_s if self.wall_s > 0 else 0.0


class _Nodes:
    """Nodes in repair; time only moves forward."""

    def __init__(self, r: Reliability) -> None:
        self.r = r
        self.back: list[float] = []

    def fail(self, now: float) -> None:
        heapq.heappush(self.back, now + self.r.repair_s)

    def missing(self, now: float) -> int:
        while self.back and self.back[0] <= now:
            heapq.heappop(self.back)
        return max(len(self.back) - self.r.spare_nodes, 0)

    def speed(self, now: float) -> float:
        lacking = self.missing(now)
        if not lacking or not self.r.nodes:
            return 1.0
        return max(1.0 - lacking / max(self.r.replicas, 1), 0.0) if self.r.elastic else 0.0

    def next_back(self) -> float:
        return self.back[0] if self.back else float("inf")


def simulate(
    r: Reliability, *, interval_s: float, useful_s: float, seed: int = 0, most_failures: int = 5_000_000
) -> Run:
    """One run until ``useful_s`` of progress is safe, or ``most_failures`` are reached.

    Args:
        r: rates and times, scalars.
        interval_s: useful seconds between checkpoints.
        useful_s: work to do.
        seed: of the failures.
        most_failures: where a run that never finishes is cut.
    """
    rng = np.random.default_rng(derive_seed(seed, "train-failures"))
    rate, restart = float(r.failures_per_s), float(r.restart_s)
    stall, lag = float(r.stall_s), float(r.lag_s)
    nodes = _Nodes(r)
    now = done = down = waiting = stalled = lost = 0.0
    failures = 0
    while done < useful_s and failures < most_failures:
        gap = float(rng.exponential(1.0 / rate)) if rate > 0 else float("inf")
        end = now + gap
        kept, trained, idle, stood, now = _stretch(nodes, now, end, interval_s, stall, lag, useful_s - done)
        done += kept
        waiting += idle
        stalled += stood
        lost += trained - kept
        if now < end:
            break
        failures += 1
        nodes.fail(now)
        while True:  # a failure while restarting starts it again
            again = float(rng.exponential(1.0 / rate))
            if again >= restart:
                now, down = now + restart, down + restart
                break
            now, down, failures = now + again, down + again, failures + 1
            nodes.fail(now)
    return Run(wall_s=now, useful_s=min(done, useful_s), failures=failures, lost_s=lost, down_s=down, waiting_s=waiting,
               stall_s=stalled)  # fmt: skip


def _stretch(
    nodes: _Nodes, now: float, end: float, interval: float, stall: float, lag: float, left: float
) -> tuple[float, float, float, float, float]:
    """Progress between a restart and the next failure: kept, trained, waiting, stalled seconds, and the time then."""
    kept = trained = since = idle = stood = 0.0
    pending: list[tuple[float, float]] = []
    while True:
        speed = nodes.speed(now)
        change = nodes.next_back()
        if speed <= 0.0:
            stop = min(change, end)
            idle, now = idle + stop - now, stop
            if now >= end:
                break
            continue
        until = min(end, change) if change > now else end
        # nothing happens before ``until``: whole intervals at once
        many = _whole_intervals(until - now, (interval - since) / speed, interval / speed, stall, lag,
                                (left - trained) / speed)  # fmt: skip
        if many > 0:
            run = interval - since + (many - 1) * interval
            now, trained, stood = now + run / speed + many * stall, trained + run, stood + many * stall
            since, pending = 0.0, [(now + lag, trained)]
            continue
        whole = (interval - since) / speed
        limit = until
        if now + whole > limit:
            since += (limit - now) * speed
            trained += (limit - now) * speed
            now = limit
            if now >= end:
                break
            continue
        now += whole
        trained += interval - since
        since = 0.0
        if now + stall > end:
            stood, now = stood + end - now, end
            break
        now, stood = now + stall, stood + stall
        pending.append((now + lag, trained))
        if trained >= left and now + lag <= end:
            return left, trained, idle, stood, now + lag
    safe = [progress for ready, progress in pending if ready <= end]
    kept = safe[-1] if safe else 0.0
    return kept, trained, idle, stood, now


def _whole_intervals(time_s: float, first: float, interval: float, stall: float, lag: float, left: float) -> int:
    """Checkpoint intervals that can be passed at once: all but the last few, which the storage lag may void."""
    cycle = interval + stall
    fitting = int((time_s - first - stall) // cycle) + 1 if time_s >= first + stall else 0
    needed = int(max(left - first, 0.0) // interval)
    return min(fitting, needed) - math.ceil(lag / cycle) - 2
