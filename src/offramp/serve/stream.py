"""Traces too long for memory: chunks of requests in, sketches out, the same deployment going on between chunks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from offramp.core.errors import BackendError, InputError
from offramp.core.workers import Workers
from offramp.serve import deploy, state
from offramp.serve.deploy import Blocks, Deployment
from offramp.serve.events import batch_of, collect
from offramp.serve.kernel import NEEDS_SLOTS, run
from offramp.serve.records import I8, REJECT_REASONS, PoolSpec, Requests, ServeConfig, ServeMetrics
from offramp.serve.run import are_independent, check_config, judged
from offramp.serve.tally import Tally, metrics

FIRST_SLOTS = 4096
MOST_IN_FLIGHT = 1_000_000
"""Requests that wait or run on one shard; more is overload, and the shard stops there instead of filling memory."""
CHUNK = 200_000
"""Requests that a long run takes at a time."""
CAPACITY_SAMPLE = 100_000
"""Requests of the first chunk from which the capacity is estimated."""
NONE_S, NONE = np.zeros(0), np.zeros(0, np.int64)
Done = tuple[Tally, bool]
"""Statistics of a part, and whether it overflowed."""


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
            self._run(Requests(arrival_s=NONE_S, isl_tokens=NONE, osl_tokens=NONE), 0, final=True)
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


class Streams:
    """The parts of a streamed deployment, in this process or spread over others; which one changes none of them."""

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
        """Gives a part its next requests.

        Raises:
            BackendError: its process was lost.
        """
        if self.streams:
            self.streams[part].feed(requests, warmup)
            return
        try:
            self.pipes[part % len(self.pipes)].send((part, requests, warmup))
        except OSError:
            raise _lost() from None

    def finish(self) -> list[Done]:
        """The statistics of all parts in their order, and whether each overflowed.

        Raises:
            BackendError: a process was lost.
        """
        if self.streams:
            return [(stream.finish(), stream.overflowed) for stream in self.streams]
        out: dict[int, Done] = {}
        try:
            for pipe in self.pipes:
                pipe.send(None)
            for pipe in self.pipes:
                out.update(pipe.recv())
        except (OSError, EOFError):
            raise _lost() from None
        return [out[i] for i in range(self.count)]

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(timeout=10)


def _lost() -> BackendError:
    """A stream is read once, so what a lost process held cannot be done again here."""
    return BackendError(
        "a process that serves a part of the stream was lost (killed, or out of memory)", where="config.jobs",
        mend="Run the stream again, with fewer jobs where memory is short.",
    )  # fmt: skip


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


@dataclass(frozen=True, kw_only=True)
class Share:
    """All that one part is sent.

    Attributes:
        part: one shard.
        requests: its requests.
        ends: where the chunks end in which a stream would bring them. [chunks]
        middle_s: from when on the queue's trend counts.
        warmup: its first requests that are left out of the statistics.
    """

    part: Part
    requests: Requests
    ends: Sequence[int]
    middle_s: float
    warmup: int


def run_share(share: Share, config: ServeConfig) -> Done:
    """One part from its first request to its last, fed as a stream would feed it."""
    stream = Stream(share.part.pools, config, share.middle_s)
    start = 0
    for end in share.ends:
        stream.feed(share.requests.take(slice(start, end)), min(max(share.warmup - start, 0), end - start))
        start = end
    return stream.finish(), stream.overflowed


def simulate_long(pools: Sequence[PoolSpec], requests: Requests, *, config: ServeConfig, seed: int) -> ServeMetrics:
    """What users feel over a long trace that is all in memory: chunk by chunk, replicas beside one another.

    A process that is lost takes the replica in progress with it, which is served again. Same answer as
    :func:`simulate_stream`.
    """
    span = float(requests.arrival_s[-1] - requests.arrival_s[0])
    parts = parts_of(pools, config)
    if config.jobs <= 1 or len(parts) == 1:
        chunks = (requests.take(slice(at, at + CHUNK)) for at in range(0, len(requests), CHUNK))
        return simulate_stream(pools, chunks, config=config, span_s=span, seed=seed)
    deployment, starts = deploy.plan(pools, config), range(0, len(requests), CHUNK)
    chunks = (requests.take(slice(at, at + CHUNK)) for at in starts)
    reasons = np.concatenate([deploy.eligible_pools(deployment, chunk)[1].astype(np.int8) for chunk in chunks])
    deploy.refuse_if_nothing_fits(reasons)
    fits = reasons == 0
    taken = requests if fits.all() else requests.take(fits)
    ends = np.cumsum(np.add.reduceat(fits, starts, dtype=np.int64))
    first = float(taken.arrival_s[0])
    shares = [
        Share(
            part=part, requests=taken.take(at), ends=[int(n) for n in _before(at, ends)], middle_s=first + span / 2,
            warmup=int(_before(at, np.array([config.warmup]))[0]),
        )
        for part, at in zip(parts, dealt(pools, taken), strict=True)
    ]  # fmt: skip
    with Workers(min(config.jobs, len(parts))) as workers:
        units = [(i, (share, config)) for i, share in enumerate(shares)]
        done: dict[int, Done] = {unit.i: unit.value for unit in workers.surely(run_share, units)}
    head = taken.take(slice(0, min(int(ends[ends > 0][0]), CAPACITY_SAMPLE)))
    counts = np.bincount(reasons, minlength=len(REJECT_REASONS))
    seen = Seen(requests=len(taken), first_s=first, last_s=float(requests.arrival_s[-1]), head=head, counts=counts)
    return _answer(pools, parts, [done[i] for i in range(len(parts))], seen, config=config, seed=seed)


def dealt(pools: Sequence[PoolSpec], requests: Requests) -> Iterator[slice | I8]:
    """Positions of the requests of each part, where each pool deals its requests in turn."""
    for spec in pools:
        mine = None
        if spec.slo_classes:
            slo = np.zeros(len(requests), np.int64) if requests.slo_class is None else requests.slo_class
            mine = np.flatnonzero(np.isin(slo, spec.slo_classes))
        for r in range(spec.replicas):
            yield slice(r, None, spec.replicas) if mine is None else mine[r :: spec.replicas]


def _before(index: slice | I8, ends: I8) -> I8:
    """How many of the positions lie below each end. [ends]"""
    if isinstance(index, slice):
        return np.maximum(0, -(-(ends - index.start) // index.step))
    return np.searchsorted(index, ends)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came in: accepted requests, their span, a sample of the first of them, and all requests by reason."""

    requests: int
    first_s: float
    last_s: float
    head: Requests | None
    counts: I8


def _answer(
    pools: Sequence[PoolSpec], parts: Sequence[Part], results: Sequence[Done], seen: Seen, *, config: ServeConfig,
    seed: int,
) -> ServeMetrics:  # fmt: skip
    """The metrics of all parts together."""
    deployment = deploy.plan(pools, config)
    total = Tally(len(deployment.pools), exact=False)
    for part, (tally, _) in zip(parts, results, strict=bool(results)):
        total.merge(tally.spread(part.pool_index, len(deployment.pools)))
    span_s = seen.last_s - seen.first_s
    offered = (seen.requests - 1) / span_s if seen.requests > 1 and span_s > 0 else None
    head = seen.head if seen.head is not None else Requests(arrival_s=NONE_S, isl_tokens=NONE, osl_tokens=NONE)
    served, stable = judged(total, pools, head, config, offered=offered, requests=seen.requests, seed=seed)
    stable = stable and not any(over for _, over in results)
    counts = seen.counts
    rejected = {REJECT_REASONS[i]: int(counts[i]) for i in range(1, len(counts)) if counts[i]}
    return metrics(deployment, total, rejected=rejected, offered=offered, capacity=served, stable=stable)


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
        BackendError: a process was lost.
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
    streams: Streams | None = None
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
            if streams is None:
                first = float(taken.arrival_s[0])
                streams = Streams(parts, config, first + (span_s or 0.0) / 2)
                stack.callback(streams.close)
                head = taken.take(np.arange(min(len(taken), CAPACITY_SAMPLE)))
            for part, index in dealer.deal(taken):
                early = int(np.searchsorted(index, config.warmup - seen))
                streams.feed(part, taken if len(parts) == 1 else taken.take(index), early)
            seen += len(taken)
        deploy.refuse_if_nothing_fits(
            np.repeat(np.arange(len(counts)), np.minimum(counts, 1)) if seen == 0 else counts[:0]
        )
        results = streams.finish() if streams else []
    arrived = Seen(requests=seen, first_s=first, last_s=last, head=head, counts=counts)
    return _answer(pools, parts, results, arrived, config=config, seed=seed)
