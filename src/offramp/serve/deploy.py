"""A deployment made ready for the engines: dense step costs, lanes, groups, block counts.

A *lane* is one virtual engine with its own scheduler and KV blocks. A *group* is what steps together: all lanes of a
replica whose data-parallel ranks are synchronised, else one lane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.core.errors import InfeasibleError, InputError
from offramp.cost.table import StepTable
from offramp.serve.records import F8, I8, REJECT_REASONS, PoolSpec, Requests, ServeConfig

GAIN_UNIT = 1 << 16
"""Mean gain per decode step is kept in 1/65536 tokens, so that its accumulation is integer arithmetic."""

EPS_S = 1e-9
"""Events closer than this happen together; a nanosecond is far below any step."""


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """One pool, with step costs looked up by integer.

    Attributes:
        mixed_s: base + prefill extra of a step that holds prefill, by scheduled tokens. [max_batch_tokens + 1]
        decode_s: base of a decode-only step (padded to graphs), by sequences. [max_seqs + 1]
        shared_s: what synchronised ranks work off together, by mean tokens; taken out of the two above. Empty: nothing.
        padded_tokens: tokens of a decode-only step, by sequences. [max_seqs + 1]
        attention_s, slope_s: context-free and per-token decode attention, by sequences. [max_seqs + 1]
        gain: mean tokens gained per decode step, in GAIN_UNIT.
        capacity_blocks: KV blocks of one lane; reserve_blocks per running sequence; watermark_blocks overall.
    """

    spec: PoolSpec
    mixed_s: F8
    decode_s: F8
    attention_s: F8
    slope_s: F8
    shared_s: F8
    padded_tokens: F8
    prefill_base_s: float
    pair_s: float
    seq_s: float
    max_tokens: int
    max_seqs: int
    decode_tokens: int
    gain: int
    block_tokens: int
    capacity_blocks: int
    watermark_blocks: int
    reserve_blocks: int
    delay_s: float
    transfer_base_s: float
    transfer_s_per_token: float

    def blocks(self, tokens: int) -> int:
        """KV blocks that hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def final_tokens(self, isl: int, osl: int) -> int:
        """KV tokens of a request just before its last output token, draft slots included."""
        if osl <= 1 or self.spec.role == "prefill":
            return isl
        return isl + osl + self.decode_tokens - 2


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Pools, and the lanes and groups that they make."""

    pools: tuple[PoolPlan, ...]
    lane_pool: I8
    lane_replica: I8
    lane_group: I8
    replica_pool: I8
    replica_first_lane: I8
    group_pool: I8
    entry_delay_s: float
    decode_alone: bool
    """Whether there are only decode pools: requests then arrive with their KV and first token."""


def _dense(grid: F8, values: F8, points: F8) -> F8:
    """Linear between grid points, and on beyond the last with the slope before it."""
    if len(grid) != len(values) or len(grid) == 0:
        raise InputError("a step table's grid and values differ in length", where="table")
    out = np.interp(points, grid, values)
    if len(grid) > 1:
        slope = (values[-1] - values[-2]) / (grid[-1] - grid[-2])
        out = np.where(points > grid[-1], values[-1] + slope * (points - grid[-1]), out)
    return np.ascontiguousarray(out, dtype=np.float64)


def decode_base(table: StepTable, seqs: F8) -> F8:
    """Base time of decode-only steps of so many sequences, in seconds, graph padding included."""
    return _dense(table.token_grid, table.base_s, padded(table, seqs))


def padded(table: StepTable, seqs: F8) -> F8:
    """Tokens of decode-only steps of so many sequences, graph padding included."""
    tokens = np.asarray(seqs, dtype=np.float64) * table.decode_tokens
    if table.graph_sizes is not None and len(table.graph_sizes):
        sizes = np.asarray(table.graph_sizes, dtype=np.float64)
        at = np.searchsorted(sizes, tokens, side="left")
        tokens = np.where(at < len(sizes), sizes[np.minimum(at, len(sizes) - 1)], tokens)
    return tokens


def plan_pool(spec: PoolSpec, config: ServeConfig) -> PoolPlan:
    """One pool made ready.

    Raises:
        InputError: a table with no capacity, no budget, or steps that take no time.
    """
    table = spec.table
    where = f"pool {spec.name or spec.role}"
    if table.max_batch_tokens < table.decode_tokens or table.max_seqs < 1 or spec.replicas < 1:
        raise InputError("a pool needs a token budget, a sequence limit and a replica", where=where)
    if not 1.0 <= table.accept_tokens <= table.decode_tokens:
        raise InputError(
            f"a sequence gains {table.accept_tokens:g} tokens from {table.decode_tokens} scheduled", where=where
        )
    max_seqs = min(table.max_seqs, table.max_batch_tokens // table.decode_tokens)
    seqs = np.arange(max_seqs + 1, dtype=np.float64)
    tokens = np.arange(table.max_batch_tokens + 1, dtype=np.float64)
    base = _dense(table.token_grid, table.base_s, tokens)
    mixed = base + _dense(table.token_grid, table.prefill_extra_s, tokens)
    decode = decode_base(table, seqs)
    wide = padded(table, seqs)
    shared = np.zeros(0)
    if table.synchronised and table.shared_s is not None:
        shared = _dense(table.token_grid, table.shared_s, np.arange(max(tokens[-1], wide[-1]) + 2.0))
        mixed = mixed - shared[: len(mixed)]
        decode = decode - shared[wide.astype(np.int64)]
    if not (np.all(np.isfinite(mixed)) and np.all(mixed[1:] > 0) and np.all(decode[1:] > 0)):
        raise InputError("a step must take a positive, finite time", where=where)
    blocks = table.kv_capacity_tokens // table.block_tokens
    per_token, base_s = spec.transfer_s_per_token, spec.transfer_base_s
    return PoolPlan(
        spec=spec, mixed_s=mixed, decode_s=decode, shared_s=shared, padded_tokens=wide,
        attention_s=_dense(table.seq_grid, table.decode_base_s, seqs),
        slope_s=_dense(table.seq_grid, table.decode_slope_s, seqs),
        prefill_base_s=table.prefill_base_s, pair_s=table.pair_s, seq_s=table.seq_s,
        max_tokens=table.max_batch_tokens, max_seqs=max_seqs, decode_tokens=table.decode_tokens,
        gain=round(table.accept_tokens * GAIN_UNIT), block_tokens=table.block_tokens, capacity_blocks=blocks,
        watermark_blocks=math.ceil(config.watermark * blocks),
        reserve_blocks=-(-config.reserve_tokens // table.block_tokens), delay_s=table.first_token_s,
        transfer_base_s=table.transfer_base_s if base_s is None else base_s,
        transfer_s_per_token=table.transfer_s_per_token if per_token is None else per_token,
    )  # fmt: skip


def plan(specs: Sequence[PoolSpec], config: ServeConfig) -> Deployment:
    """The deployment made ready.

    Raises:
        InputError: no pool takes requests in, or one side of disaggregation is missing.
    """
    pools = tuple(plan_pool(spec, config) for spec in specs)
    roles = [spec.role for spec in specs]
    if "prefill" in roles and "decode" not in roles:
        raise InputError("prefill pools need decode pools", where="pools")
    if "decode" in roles and "both" in roles and "prefill" not in roles:
        raise InputError("decode pools need prefill pools", where="pools")
    if not pools:
        raise InputError("there is no pool", where="pools")
    lane_pool: list[int] = []
    lane_replica: list[int] = []
    lane_group: list[int] = []
    replica_pool: list[int] = []
    first_lane: list[int] = []
    group_pool: list[int] = []
    for p, pool in enumerate(pools):
        table = pool.spec.table
        for _ in range(pool.spec.replicas):
            replica_pool.append(p)
            first_lane.append(len(lane_pool))
            for rank in range(table.virtual_engines):
                if rank == 0 or not table.synchronised:
                    group_pool.append(p)
                lane_pool.append(p)
                lane_replica.append(len(replica_pool) - 1)
                lane_group.append(len(group_pool) - 1)
    first_lane.append(len(lane_pool))
    alone = "prefill" not in roles and "both" not in roles
    entry = [pool.delay_s for pool in pools if pool.spec.role != "decode" or alone]
    return Deployment(
        pools=pools, lane_pool=np.array(lane_pool), lane_replica=np.array(lane_replica),
        lane_group=np.array(lane_group), replica_pool=np.array(replica_pool), replica_first_lane=np.array(first_lane),
        group_pool=np.array(group_pool), entry_delay_s=min(entry), decode_alone=alone,
    )  # fmt: skip


def eligible_pools(deployment: Deployment, requests: Requests) -> tuple[I8, I8]:
    """Which entry pools may take each request, as bits, and why none may, as an index into REJECT_REASONS. [n]

    A request fits a pool if the pool takes its class and holds its prompt and output; with disaggregation some
    decode pool of its class must hold it as well.
    """
    isl, osl = requests.isl_tokens, requests.osl_tokens
    n = len(requests)
    slo = np.zeros(n, dtype=np.int64) if requests.slo_class is None else requests.slo_class
    mask, decode_ok = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    any_class, any_context = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    for p, pool in enumerate(deployment.pools):
        table, spec = pool.spec.table, pool.spec
        takes = np.isin(slo, spec.slo_classes) if spec.slo_classes else np.ones(n, dtype=bool)
        total = isl + osl
        context = takes & ((total <= table.context_tokens) if table.context_tokens else True)
        final = np.where(osl <= 1, isl, isl if spec.role == "prefill" else total + pool.decode_tokens - 2)
        fits = context & (-(-final // pool.block_tokens) <= pool.capacity_blocks)
        if spec.role == "decode" and not deployment.decode_alone:
            decode_ok |= fits
            continue
        any_class |= takes
        any_context |= context
        mask |= np.where(fits, np.int64(1) << p, 0)
    alone = sum(1 << p for p, pool in enumerate(deployment.pools) if pool.spec.role != "prefill")
    mask = np.where(decode_ok | (osl <= 1), mask, mask & alone)
    reason = np.select(
        [isl < 1, osl < 1, ~any_class, ~any_context, mask == 0],
        [1, 2, REJECT_REASONS.index("no-pool"), REJECT_REASONS.index("context"), REJECT_REASONS.index("kv-capacity")],
        default=0,
    )
    return mask, reason.astype(np.int64)


def decode_pools(deployment: Deployment, requests: Requests) -> I8:
    """Which decode pools may take each request after its prefill, as bits. [n]"""
    n = len(requests)
    slo = np.zeros(n, dtype=np.int64) if requests.slo_class is None else requests.slo_class
    mask = np.zeros(n, dtype=np.int64)
    for p, pool in enumerate(deployment.pools):
        if pool.spec.role != "decode":
            continue
        spec, table = pool.spec, pool.spec.table
        takes = np.isin(slo, spec.slo_classes) if spec.slo_classes else np.ones(n, dtype=bool)
        total = requests.isl_tokens + requests.osl_tokens
        final = np.where(requests.osl_tokens <= 1, requests.isl_tokens, total + pool.decode_tokens - 2)
        fits = takes & (-(-final // pool.block_tokens) <= pool.capacity_blocks)
        if table.context_tokens:
            fits &= total <= table.context_tokens
        mask |= np.where(fits, np.int64(1) << p, 0)
    return mask


def refuse_if_nothing_fits(reasons: npt.NDArray[np.integer]) -> None:
    """Raises when every request is refused.

    Raises:
        InfeasibleError: with the most common reason.
    """
    if len(reasons) and np.all(reasons != 0):
        common = REJECT_REASONS[int(np.bincount(reasons, minlength=len(REJECT_REASONS)).argmax())]
        raise InfeasibleError(
            f"no request can be served ({common})", where="requests",
            mend="Give the deployment more KV memory or the requests a supported length.",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Prefix blocks as the engines see them: dense ids, whole KV blocks only.

    Attributes:
        ids: dense block ids, request after request. [m]
        offsets: [n + 1]
        tokens: tokens per id; a multiple of every pool's KV block.
        count: number of different ids.
    """

    ids: I8
    offsets: I8
    tokens: int
    count: int


def prefix_blocks(deployment: Deployment, requests: Requests, config: ServeConfig) -> Blocks:
    """Block ids regrouped to whole KV blocks and numbered densely; empty where the cache is off or no ids are given.

    An id names its whole prefix, so the last id of a group of blocks names the group. Partial last blocks are not
    shared, as in the engines.
    """
    n = len(requests)
    none = Blocks(ids=np.zeros(0, np.int64), offsets=np.zeros(n + 1, np.int64), tokens=1, count=0)
    if not config.prefix_cache or requests.hash_ids is None or requests.hash_offsets is None:
        return none
    tokens = math.lcm(requests.hash_block_tokens, *(pool.block_tokens for pool in deployment.pools))
    every = tokens // requests.hash_block_tokens
    have = np.diff(requests.hash_offsets)
    whole = np.minimum(have // every, requests.isl_tokens // tokens)
    offsets = np.concatenate([[0], np.cumsum(whole)]).astype(np.int64)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], whole)
    at = np.repeat(requests.hash_offsets[:-1], whole) + (within + 1) * every - 1
    unique, dense = np.unique(requests.hash_ids[at], return_inverse=True)
    return Blocks(ids=dense.astype(np.int64).reshape(-1), offsets=offsets, tokens=tokens, count=len(unique))
