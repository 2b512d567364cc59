"""Traces too long for memory: chunks of requests in, sketches out, the same deployment going on between chunks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from offramp.core.errors import InputError
from offramp.serve import deploy, state
from offramp.serve.capacity import capacity
from offramp.serve.deploy import Blocks, Deployment
from offramp.serve.events import batch_of, collect
from offramp.serve.kernel import NEEDS_SLOTS, run
from offramp.serve.records import I8, REJECT_REASONS, PoolSpec, Requests, ServeConfig, ServeMetrics
from offramp.serve.run import are_independent, check_config, is_stable
from offramp.serve.tally import Tally, metrics

FIRST_SLOTS = 4096
MOST_IN_FLIGHT = 1_000_000
"""Requests that wait or run on one shard; more is overload, and the shard stops there instead of filling memory."""
CHUNK = 200_000
"""Requests that a long run takes at a time."""
CAPACITY_SAMPLE = 100_000
"""Requests of the first chunk from which the capacity is estimated."""


class Stream:
    """One deployment that takes requests chunk by chunk.

    Args:
        pools: its pools.
        config: open loop.
        middle_s: from when on the queue's trend counts.
    """

    def __init__(self, pools: Sequence[PoolSpec], config: ServeConfig, middle_s: float) -> None:
        self.config = config
        self.deployment: Deployment = deploy.plan(pools, config)
        self.none = Blocks(ids=np.zeros(0, np.int64), offsets=np.zeros(1, np.int64), tokens=1, count=0)
        self.memory = state.build(self.deployment, config, blocks=self.none, slots=FIRST_SLOTS, done=FIRST_SLOTS)
        self.memory.control[0]["middle_s"] = middle_s + self.deployment.entry_delay_s
        self.memory.control[0]["last_index"] = -1
        self.tally = Tally(len(self.deployment.pools), exact=False)
        self.late = np.array([pool.delay_s - self.deployment.entry_delay_s for pool in self.deployment.pools])
        self.queue_at_end = 0
        self.skip = 0
        self.overflowed = False
        self.first_s = np.inf
        self.last_s = -np.inf

    def feed(self, requests: Requests, warmup: int) -> None:
        """Takes the next requests; the first ``warmup`` of them are left out of the statistics."""
        if len(requests) and not self.overflowed:
            self._run(requests, warmup, final=False)
            self.queue_at_end = int(self.memory.control[0]["waiting"])

    def finish(self) -> Tally:
        """Runs out what is left; the statistics."""
        if not self.overflowed:
            none = np.zeros(0, np.int64)
            self._run(Requests(arrival_s=np.zeros(0), isl_tokens=none, osl_tokens=none), 0, final=True)
        control = self.memory.control[0]
        control["queue_at_end"] = self.queue_at_end
        outcome = collect(self.memory, self.deployment, 0)
        if self.overflowed:
            outcome.leaked_blocks = 0
        self.tally.add_sums(outcome)
        self.tally.run_start_s, self.tally.run_done_s = self.first_s, self.last_s
        return self.tally

    def _run(self, requests: Requests, warmup: int, *, final: bool) -> None:
        n = len(requests)
        masks, _ = deploy.eligible_pools(self.deployment, requests)
        after = deploy.decode_pools(self.deployment, requests)
        times = np.ascontiguousarray(requests.arrival_s, dtype=np.float64)
        batch = batch_of(requests, times, self.none, (masks, after))
        slots = len(self.memory.slots)
        self.memory = state.grown(self.memory, slots=slots, done=slots + n)
        control = self.memory.control[0]
        control["index_base"] += control["count"]
        control["head"], control["sent"], control["count"], control["final"] = 0, n, n, final
        if warmup:
            self.skip = int(control["index_base"]) + warmup
        if n:
            self.first_s = min(self.first_s, float(times[0]))
        while run(self.memory, batch) == NEEDS_SLOTS:
            if len(self.memory.slots) >= MOST_IN_FLIGHT:
                self.overflowed = True
                break
            self.memory = state.grown(self.memory, slots=2 * len(self.memory.slots), done=len(self.memory.done))
        self._report()

    def _report(self) -> None:
        """Moves completed requests from the kernel's report into the statistics."""
        control = self.memory.control[0]
        done = self.memory.done[: control["n_done"]]
        if len(done):
            self.last_s = max(self.last_s, float(done["done_s"].max()))
        late = self.late[done["pool"]]
        keep = done["index"] >= self.skip
        part, late = done[keep], late[keep]
        times = (part["start_s"].copy(), part["first_s"] + late, part["done_s"] + late)
        self.tally.add_requests((part["isl"].copy(), part["osl"].copy(), part["slo"].copy()), times, self.config.slo)
        control["n_done"] = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One shard of a streamed deployment: its pools, and where they stand among all."""

    pools: tuple[PoolSpec, ...]
    pool_index: tuple[int, ...]


def parts_of(pools: Sequence[PoolSpec], config: ServeConfig) -> list[Part]:
    """A part per replica where replicas are independent, else one."""
    if not are_independent(pools, config):
        return [Part(pools=tuple(pools), pool_index=tuple(range(len(pools))))]
    return [
        Part(pools=(replace(spec, replicas=1),), pool_index=(p,))
        for p, spec in enumerate(pools)
        for _ in range(spec.replicas)
    ]


class Dealer:
    """Deals requests to parts in turn, going on where the last chunk ended."""

    def __init__(self, pools: Sequence[PoolSpec], parts: Sequence[Part]) -> None:
        self.pools = pools
        self.parts = len(parts)
        self.turn = [0] * len(pools)

    def deal(self, requests: Requests) -> Iterator[tuple[int, I8]]:
        """(part, positions of its requests)."""
        if self.parts == 1:
            yield 0, np.arange(len(requests))
            return
        slo = np.zeros(len(requests), np.int64) if requests.slo_class is None else requests.slo_class
        first = 0
        for p, spec in enumerate(self.pools):
            mine = np.flatnonzero(np.isin(slo, spec.slo_classes)) if spec.slo_classes else np.arange(len(requests))
            for r in range(spec.replicas):
                yield first + r, mine[(r - self.turn[p]) % spec.replicas :: spec.replicas]
            self.turn[p] = (self.turn[p] + len(mine)) % spec.replicas
            first += spec.replicas


class Workers:
    """Streams in this process, or spread over others; which one does not change any of them."""

    def __init__(self, parts: Sequence[Part], config: ServeConfig, middle_s: float) -> None:
        self.count = len(parts)
        self.pipes: list[Any] = []
        self.processes: list[Any] = []
        self.streams: list[Stream] = []
        jobs = min(config.jobs, len(parts))
        if jobs <= 1:
            self.streams = [Stream(part.pools, config, middle_s) for part in parts]
            return
        context = multiprocessing.get_context("spawn")
        for job in range(jobs):
            here, there = context.Pipe()
            mine = {i: parts[i] for i in range(job, len(parts), jobs)}
            process = context.Process(target=_serve, args=(there, mine, config, middle_s), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def feed(self, part: int, requests: Requests, warmup: int) -> None:
        """Gives a part its next requests."""
        if self.streams:
            self.streams[part].feed(requests, warmup)
        else:
            self.pipes[part % len(self.pipes)].send((part, requests, warmup))

    def finish(self) -> list[tuple[Tally, bool]]:
        """The statistics of all parts in their order, and whether each overflowed."""
        if self.streams:
            return [(stream.finish(), stream.overflowed) for stream in self.streams]
        out: dict[int, tuple[Tally, bool]] = {}
        for pipe in self.pipes:
            pipe.send(None)
        for pipe in self.pipes:
            out.update(pipe.recv())
        return [out[i] for i in range(self.count)]

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(timeout=10)


def _serve(pipe: Connection, parts: dict[int, Part], config: ServeConfig, middle_s: float) -> None:
    """A worker process: feeds its streams until told to finish."""
    streams = {i: Stream(part.pools, config, middle_s) for i, part in parts.items()}
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        if message is None:
            pipe.send({i: (stream.finish(), stream.overflowed) for i, stream in streams.items()})
            return
        part, requests, warmup = message
        streams[part].feed(requests, warmup)


def simulate_stream(
    pools: Sequence[PoolSpec], chunks: Iterable[Requests], *, config: ServeConfig, span_s: float | None = None,
    seed: int = 0,
) -> ServeMetrics:  # fmt: skip
    """What users feel when these pools serve a trace that comes in chunks; memory does not grow with its length.

    Percentiles come from sketches (:data:`offramp.serve.sketch.RELATIVE_ERROR`). The answer depends neither on the
    size of the chunks nor on ``config.jobs``.

    Args:
        pools: one or more pools.
        chunks: requests in order of arrival, times going on from chunk to chunk.
        config: open loop without prefix cache (ids of a whole trace would have to be kept).
        span_s: duration of the arrivals, if known: the queue's trend then counts from its middle on.
        seed: of the capacity estimate's sample.

    Raises:
        InputError: closed loop, prefix cache, the oracle, or chunks that go back in time.
    """
    check_config(config)
    if (
        config.mode != "open"
        or config.prefix_cache
        or config.engine != "kernel"
        or config.keep_requests
        or config.cooldown
    ):
        raise InputError("streams take open loop without prefix cache or cooldown on the kernel", where="config")
    deployment = deploy.plan(pools, config)
    parts = parts_of(pools, config)
    dealer = Dealer(pools, parts)
    counts = np.zeros(len(REJECT_REASONS), np.int64)
    seen, first, last = 0, 0.0, -np.inf
    head: Requests | None = None
    workers: Workers | None = None
    with ExitStack() as stack:
        for chunk in chunks:
            if len(chunk) == 0:
                continue
            if chunk.arrival_s[0] < last:
                raise InputError("a chunk begins before the last one ended", where="requests.arrival_s")
            last = float(chunk.arrival_s[-1])
            _, reasons = deploy.eligible_pools(deployment, chunk)
            counts += np.bincount(reasons, minlength=len(counts))
            taken = chunk if not reasons.any() else chunk.take(reasons == 0)
            if len(taken) == 0:
                continue
            if workers is None:
                first = float(taken.arrival_s[0])
                workers = Workers(parts, config, first + (span_s or 0.0) / 2)
                stack.callback(workers.close)
                head = taken.take(np.arange(min(len(taken), CAPACITY_SAMPLE)))
            for part, index in dealer.deal(taken):
                early = int(np.searchsorted(index, config.warmup - seen))
                workers.feed(part, taken if len(parts) == 1 else taken.take(index), early)
            seen += len(taken)
        deploy.refuse_if_nothing_fits(
            np.repeat(np.arange(len(counts)), np.minimum(counts, 1)) if seen == 0 else counts[:0]
        )
        results = workers.finish() if workers else []
    total = Tally(len(deployment.pools), exact=False)
    for part, (tally, _) in zip(parts, results, strict=workers is not None):
        total.merge(tally.spread(part.pool_index, len(deployment.pools)))
    offered = (seen - 1) / (last - first) if seen > 1 and last > first else None
    served = capacity(pools, head, config, seed=seed) if offered and head and config.estimate_capacity else None
    stable = is_stable(total, offered=offered, served=served, requests=seen) and not any(over for _, over in results)
    rejected = {REJECT_REASONS[i]: int(counts[i]) for i in range(1, len(counts)) if counts[i]}
    return metrics(deployment, total, rejected=rejected, offered=offered, capacity=served, stable=stable)
