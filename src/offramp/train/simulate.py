"""Discrete-event simulation of a training run that fails: the check on the closed form, and what it leaves out.

Events are failures, the end of a checkpoint interval, a checkpoint reaching storage, the end of a restart, the end of a
repair, a node turning slow and its replacement, a silent corruption and its discovery. Failures also strike while
restarting. Everything is drawn from one seed.
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
        corruptions: noticed, each with the time that it voided in ``lost_s``.
    """

    wall_s: float
    useful_s: float
    failures: int
    lost_s: float
    down_s: float
    waiting_s: float
    stall_s: float
    corruptions: int = 0

    @property
    def goodput(self) -> float:
        """Share of wall time that became kept progress."""
        return self.useful_s / self.wall_s if self.wall_s > 0 else 0.0


class _Nodes:
    """Nodes in repair and slow nodes; time only moves forward."""

    def __init__(self, r: Reliability, seed: int) -> None:
        self.r = r
        self.failing = np.random.default_rng(derive_seed(seed, "train-failures"))
        self.slowing = np.random.default_rng(derive_seed(seed, "train-slow"))
        self.back: list[float] = []
        self.slow_at = self._gap(0.0)
        self.slow_until = 0.0

    def _gap(self, now: float) -> float:
        rate = float(self.r.slow_per_s)
        return now + float(self.slowing.exponential(1.0 / rate)) if rate > 0 else float("inf")

    def _is_slow(self, now: float) -> bool:
        while self.slow_at <= now:
            self.slow_until = max(self.slow_until, self.slow_at + float(self.r.slow_notice_s))
            self.slow_at = self._gap(self.slow_at)
        return now < self.slow_until

    def fail(self, now: float) -> None:
        heapq.heappush(self.back, now + self.r.repair_s)

    def missing(self, now: float) -> int:
        while self.back and self.back[0] <= now:
            heapq.heappop(self.back)
        return max(len(self.back) - self.r.spare_nodes, 0)

    def speed(self, now: float) -> float:
        pace = 1.0 / float(self.r.slow_factor) if self._is_slow(now) else 1.0
        lacking = self.missing(now)
        if not lacking or not self.r.nodes:
            return pace
        return pace * max(1.0 - lacking / max(self.r.replicas, 1), 0.0) if self.r.elastic else 0.0

    def next_change(self, now: float) -> float:
        """When the speed may change next."""
        ends = self.slow_until if now < self.slow_until else float("inf")
        return min(self.back[0] if self.back else float("inf"), self.slow_at, ends)


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
    nodes = _Nodes(r, seed)
    corrupts = float(r.corruptions_per_s)
    totals = _Totals()
    while totals.done < useful_s and totals.failures < most_failures:
        until = totals.now + float(nodes.failing.exponential(1.0 / corrupts)) if corrupts > 0 else float("inf")
        _until(totals, r, nodes, interval_s=interval_s, useful_s=useful_s, until=until, most=most_failures)
        if totals.now < until:
            break
        totals.corruptions += 1  # what was trained since the last checkpoint before it is void once it is noticed
        totals.lost += float(r.corruption_s)
        totals.down += float(r.restart_s)
        totals.now = max(totals.now, until) + float(r.corruption_s) + float(r.restart_s)
    t = totals
    return Run(wall_s=t.now, useful_s=min(t.done, useful_s), failures=t.failures, lost_s=t.lost, down_s=t.down,
               waiting_s=t.waiting, stall_s=t.stalled, corruptions=t.corruptions)  # fmt: skip


@dataclass
class _Totals:
    """What a run has come to so far; seconds."""

    now: float = 0.0
    done: float = 0.0
    down: float = 0.0
    waiting: float = 0.0
    stalled: float = 0.0
    lost: float = 0.0
    failures: int = 0
    corruptions: int = 0


def _until(
    t: _Totals, r: Reliability, nodes: _Nodes, *, interval_s: float, useful_s: float,
    until: float, most: int,
) -> None:  # fmt: skip
    """Runs on, failures and restarts included, until the work is done or the clock shows ``until``."""
    rate, restart = float(r.failures_per_s), float(r.restart_s)
    stall, lag = float(r.stall_s), float(r.lag_s)
    while t.done < useful_s and t.failures < most and t.now < until:
        fails = t.now + (float(nodes.failing.exponential(1.0 / rate)) if rate > 0 else float("inf"))
        end = min(fails, until)
        kept, trained, idle, stood, t.now = _stretch(nodes, t.now, end, interval_s, stall, lag, useful_s - t.done)
        t.done += kept
        t.waiting += idle
        t.stalled += stood
        t.lost += trained - kept
        if t.now < end or end < fails:
            return
        t.failures += 1
        nodes.fail(t.now)
        while True:  # a failure while restarting starts it again
            again = float(nodes.failing.exponential(1.0 / rate))
            if again >= restart:
                t.now, t.down = t.now + restart, t.down + restart
                break
            t.now, t.down, t.failures = t.now + again, t.down + again, t.failures + 1
            nodes.fail(t.now)


def _stretch(
    nodes: _Nodes, now: float, end: float, interval: float, stall: float, lag: float, left: float
) -> tuple[float, float, float, float, float]:
    """Progress between a restart and the next failure: kept, trained, waiting, stalled seconds, and the time then."""
    kept = trained = since = idle = stood = 0.0
    pending: list[tuple[float, float]] = []
    while True:
        speed = nodes.speed(now)
        change = nodes.next_change(now)
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
