"""What the simulator takes and gives: requests, pools, settings, metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.cost.table import StepTable

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

Router = Literal["round-robin", "least-requests", "least-tokens", "prefix-aware"]
Role = Literal["both", "prefill", "decode"]

REJECT_REASONS = ("accepted", "no-input", "no-output", "context", "kv-capacity", "no-pool")


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests in order of arrival.

    Attributes:
        arrival_s: arrival times, ascending; ignored in closed loop. [n]
        isl_tokens, osl_tokens: prompt and output lengths. [n]
        hash_ids: ids of the prompts' blocks, one after another; an id names the whole prefix up to its block. [m]
        hash_offsets: where each request's ids begin; the last element is m. [n + 1]
        hash_block_tokens: tokens that one hash id covers.
        slo_class: index of the SLO class of each request; None is class 0 for all. [n]
    """

    arrival_s: F8
    isl_tokens: I8
    osl_tokens: I8
    hash_ids: I8 | None = None
    hash_offsets: I8 | None = None
    hash_block_tokens: int = 512
    slo_class: I8 | None = None

    def __post_init__(self) -> None:
        """Refuses what no engine could be sent.

        Raises:
            InputError: lengths differ, times are not finite or not ascending, offsets do not fit the ids.
        """
        n = len(self.arrival_s)
        if len(self.isl_tokens) != n or len(self.osl_tokens) != n:
            raise InputError("arrival times, input and output lengths differ in number", where="requests")
        if not np.all(np.isfinite(self.arrival_s)):
            raise InputError("an arrival time is not a finite number", where="requests.arrival_s")
        if n > 1 and np.any(np.diff(self.arrival_s) < 0):
            raise InputError("arrival times are not ascending", where="requests.arrival_s", mend="Sort by time.")
        if (self.hash_ids is None) != (self.hash_offsets is None):
            raise InputError("hash_ids and hash_offsets go together", where="requests.hash_ids")
        if self.hash_offsets is not None and self.hash_ids is not None:
            offsets = self.hash_offsets
            if len(offsets) != n + 1 or offsets[0] != 0 or offsets[-1] != len(self.hash_ids):
                raise InputError("hash_offsets do not fit hash_ids", where="requests.hash_offsets")
            if np.any(np.diff(offsets) < 0):
                raise InputError("hash_offsets are not ascending", where="requests.hash_offsets")
        if self.slo_class is not None and len(self.slo_class) != n:
            raise InputError("slo_class has another length than the requests", where="requests.slo_class")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | slice) -> Requests:
        """The requests at these positions (integers, a mask, or a slice, which copies nothing), in the order given."""
        if isinstance(index, slice):
            if self.hash_ids is None:
                return Requests(
                    arrival_s=self.arrival_s[index], isl_tokens=self.isl_tokens[index],
                    osl_tokens=self.osl_tokens[index],
                    slo_class=None if self.slo_class is None else self.slo_class[index],
                )  # fmt: skip
            index = np.arange(len(self))[index]
        at = np.flatnonzero(index) if index.dtype == np.bool_ else np.asarray(index, dtype=np.int64)
        ids, offsets = self.hash_ids, self.hash_offsets
        if ids is not None and offsets is not None:
            counts = np.diff(offsets)[at]
            new_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            flat = np.arange(new_offsets[-1]) - np.repeat(new_offsets[:-1] - offsets[at], counts)
            ids, offsets = ids[flat], new_offsets
        return Requests(
            arrival_s=self.arrival_s[at], isl_tokens=self.isl_tokens[at], osl_tokens=self.osl_tokens[at],
            hash_ids=ids, hash_offsets=offsets, hash_block_tokens=self.hash_block_tokens,
            slo_class=None if self.slo_class is None else self.slo_class[at],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """Identical replicas with one step table.

    Attributes:
        table: step costs and capacity of one replica.
        role: "both" serves whole requests; "prefill" and "decode" are the two sides of disaggregation.
        replicas: how many.
        slo_classes: classes of requests that it takes; empty takes all.
        weight: relative share that a router gives each replica (pools of unequal chips).
        transfer_s_per_token, transfer_base_s: KV transfer out of a prefill replica; None takes the table's.
        name: for the metrics.
    """

    table: StepTable
    role: Role = "both"
    replicas: int = 1
    slo_classes: tuple[int, ...] = ()
    weight: float = 1.0
    transfer_s_per_token: float | None = None
    transfer_base_s: float | None = None
    name: str = ""


class Slo(Record):
    """Limits that one request must meet to count as good; infinity is no limit."""

    ttft_s: float = float("inf")
    tpot_s: float = float("inf")
    e2e_s: float = float("inf")


class ServeConfig(Record):
    """How the deployment is driven and what its schedulers do.

    Attributes:
        mode: "open" sends requests at their arrival times, "closed" keeps ``concurrency`` of them in flight.
        concurrency: requests in flight (closed loop).
        warmup: first requests that run but are left out of all statistics.
        cooldown: last requests that run but are left out; where there are any, utilisation, batch and cache use count
            until the last arrival only, not while the deployment runs empty.
        ramp_s: time over which the first ``concurrency`` requests start (closed loop); 0 is one burst.
        router: how requests find a replica.
        prefix_cache: whether prompts share KV blocks by hash (needs hash ids).
        preemption: "recompute" grows KV block by block and drops the latest sequence when it runs out;
            "none" sets the whole output's KV aside at admission.
        watermark: share of the KV blocks that admission leaves free.
        reserve_tokens: KV tokens per running sequence that admission leaves free for growth.
        serial_link: whether the KV transfers of one prefill replica queue behind one another.
        balance_abs, balance_rel, match_share: the prefix-aware router goes by load alone when the largest load
            exceeds the smallest by more than ``balance_abs`` requests and ``balance_rel`` times, and follows a
            cached prefix only if it covers ``match_share`` of the prompt.
        slo: limits by SLO class; one entry holds for all classes.
        engine: "kernel" jumps from event to event, "oracle" walks every step.
        keep_requests: whether per-request times are returned.
        estimate_capacity: whether to run the saturated deployment for its headroom (open loop).
        jobs: processes for independent replicas; the answer does not depend on it.
    """

    mode: Literal["open", "closed"] = "open"
    concurrency: int = 0
    warmup: int = 0
    cooldown: int = 0
    ramp_s: float = 0.0
    router: Router = "round-robin"
    prefix_cache: bool = False
    preemption: Literal["recompute", "none"] = "recompute"
    watermark: float = 0.0
    reserve_tokens: int = 0
    serial_link: bool = False
    balance_abs: int = 64
    balance_rel: float = 1.5
    match_share: float = 0.3
    slo: tuple[Slo, ...] = ()
    engine: Literal["kernel", "oracle"] = "kernel"
    keep_requests: bool = False
    estimate_capacity: bool = True
    jobs: int = 1


class Percentiles(Record):
    """A distribution in seconds; ``count`` samples. ``relative_error`` bounds the percentiles (0 = exact)."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    count: int
    relative_error: float = 0.0


class PoolMetrics(Record):
    """One pool. Shares are 0-1 and averaged over replicas and time.

    Attributes:
        utilisation: share of the measured duration in which a replica ran steps.
        mean_batch: sequences in a step, averaged over busy time, of one virtual engine.
        kv_mean, kv_peak: share of KV blocks held by requests (cached blocks that nobody uses are free).
        preemptions: sequences dropped and recomputed.
        prefix_hit: share of looked-up prompt tokens that were found in the cache.
        steps: engine steps run.
    """

    name: str
    role: str
    utilisation: float
    mean_batch: float
    kv_mean: float
    kv_peak: float
    preemptions: int
    prefix_hit: float
    steps: int


class ClassMetrics(Record):
    """The requests of one SLO class."""

    slo_class: int
    completed: int
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    e2e_s: Percentiles | None
    goodput_share: float | None


class ServeMetrics(Record):
    """What users feel, and what the deployment does.

    Attributes:
        stable: False when requests arrive faster than the saturated deployment serves them; latencies are then
            None, because they grow for as long as the load lasts.
        headroom: saturated request rate over offered rate (open loop); None in closed loop or for one batch.
        capacity_req_per_s: request rate of the saturated deployment.
        ttft_s, tpot_s, itl_s, e2e_s: latencies of the measured requests; None where unstable or empty.
        goodput_share, goodput_req_per_s: requests that meet every limit; None where unstable.
        duration_s: first measured arrival to last completion.
        queue_growth_req_per_s: trend of the requests that wait, over the second half of the arrivals.
        queue_at_end: requests waiting when the last one arrived.
        rejected: requests refused, by reason.
        steps: engine steps of all virtual engines (synchronised ranks step together and count once).
    """

    stable: bool
    requests: int
    completed: int
    rejected: dict[str, int]
    duration_s: float
    offered_req_per_s: float | None
    capacity_req_per_s: float | None
    headroom: float | None
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    itl_s: Percentiles | None
    e2e_s: Percentiles | None
    request_req_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    output_tokens: int
    input_tokens: int
    goodput_share: float | None
    goodput_req_per_s: float | None
    queue_growth_req_per_s: float
    queue_at_end: int
    utilisation: float
    mean_batch: float
    kv_mean: float
    kv_peak: float
    preemptions: int
    prefix_hit: float
    steps: int
    mean_in_flight: float
    pools: tuple[PoolMetrics, ...]
    by_class: tuple[ClassMetrics, ...] = ()
    first_token_s: list[float] | None = None
    """Time of each request's first token (NaN = rejected), when asked for."""
    done_s: list[float] | None = None
    start_s: list[float] | None = None
    """Time at which each request was sent."""
    pool_by_request: list[int] | None = None


@dataclass
class Outcome:
    """What an engine hands back, before statistics: sums over the run, and times by request.

    Attributes:
        start_s, first_s, done_s: by accepted request. [n]
        pool: entry pool by request. [n]
        itl_counts: sketch buckets of inter-token gaps. [buckets]
        itl_sum_s, itl_max_s, itl_count: of the same gaps.
        busy_s, batch_s, kv_block_s, kv_peak_blocks, preemptions, hit_tokens, lookup_tokens, steps: by pool. [pools]
        trend: n, sum t, sum w, sum t*w, sum t*t of waiting requests w at arrivals of the second half.
        queue_at_end: waiting requests at the last arrival.
        until_s: end of the sums by pool where they stop before the last completion.
    """

    start_s: F8
    first_s: F8
    done_s: F8
    pool: I8
    itl_counts: I8
    itl_sum_s: float
    itl_max_s: float
    itl_count: int
    busy_s: F8
    batch_s: F8
    kv_block_s: F8
    kv_peak_blocks: I8
    preemptions: I8
    hit_tokens: I8
    lookup_tokens: I8
    steps: I8
    trend: F8 = field(default_factory=lambda: np.zeros(5))
    queue_at_end: int = 0
    until_s: float | None = None
    leaked_blocks: int = 0
    """KV blocks still held by requests at the end; anything but 0 is a bug that tests look for."""
