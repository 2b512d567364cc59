"""The kernel's memory: every number it keeps, in a few flat arrays of records.

Records are passed by reference into compiled functions, and everything that lives between two calls is here, so a run
can stop for more requests or more room and go on. Lists of a lane (heap, bins, chunks ...) are stretches of one
integer array, found by the lane's offsets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from offramp.serve.deploy import Blocks, Deployment
from offramp.serve.records import F8, I8, ServeConfig
from offramp.serve.sketch import BUCKETS

Rec = Any
"""An array of records; compiled code reads and writes their fields as attributes, which numpy's types do not know."""
Ints = Any
"""An integer array whose elements compiled code takes for plain integers."""


def _fields(ints: str, floats: str) -> np.dtype[np.void]:
    pairs = [(name, np.int64) for name in ints.split()] + [(name, np.float64) for name in floats.split()]
    return np.dtype(pairs, align=True)


POOL = _fields(
    "max_tokens max_seqs decode_tokens gain block_tokens watermark reserve mixed role mixed_at seqs_at shared_at"
    " kv_peak preemptions hit lookup steps",
    "seq_s pair_s prefill_base_s transfer_base_s transfer_token_s weight busy_s batch_s kv_block_s",
)
LANE = _fields(
    # scheduler: decodes in the heap, the unfinished prefill (-1: none), this step's chunks and tokens
    "pool group replica n decodes partial n_chunks tokens dropped step_limit admissions waiting wait_head wait_tail"
    # decode steps so far; sum of (isl + tokens at joining - gain at joining) over decodes; gain that has its blocks
    " d context granted n_joined n_pending pending_total load_requests load_tokens"
    # KV blocks; hash blocks cached and unused, oldest first
    " free held held_at_start unused oldest newest hash_tokens hash_blocks"
    # where its lists begin
    " heap_at bins_at chunks_at joined_at pending_at gaps_at cache_at",
    "pairs cost_s slope_s last_end_s",
)
GROUP = _fields("first_lane lanes pool steps awake", "start_s end_s cost_s slope_s")
REPLICA = _fields("pool first_lane last_lane", "assigned link_free_s")
SLOT = _fields(
    "index isl osl gen plen done refs blocks number next key binned joined_d hash_at hashes decode_mask lane slo pool",
    "start_s first_s emit_s",
)
DONE = _fields("index isl osl pool slo", "start_s first_s done_s")
CONTROL = _fields(
    # the pass in progress, arrivals (head: next to come, sent: times known, count: in this batch of requests)
    "in_pass n_awake head sent count final closed index_base last_index free_slot n_transfers waiting n_done"
    " router serial guarded balance_abs tree_size max_seqs heap_stride itl_count queue_at_end has_prefix",
    "now_s horizon_s delay_s balance_rel match_share middle_s itl_sum_s itl_max_s hash_tokens"
    " trend_n trend_t trend_w trend_tw trend_tt",
)


class Memory(NamedTuple):
    """All arrays of a run."""

    pools: Rec
    lanes: Rec
    groups: Rec
    replicas: Rec
    slots: Rec
    control: Rec
    ints: Ints
    floats: F8
    pending_s: F8
    cache: Ints
    awake: Ints
    awake_s: F8
    tree: F8
    transfer_key: F8
    transfer_slot: Ints
    itl_counts: Ints
    edges: F8
    done: Rec


class Batch(NamedTuple):
    """One batch of requests, in order of arrival."""

    start_s: F8
    isl: Ints
    osl: Ints
    slo: Ints
    entry_mask: Ints
    decode_mask: Ints
    hash_ids: Ints
    hash_offsets: Ints


def _link(slots: Rec, first: int) -> None:
    """Chains slots from ``first`` on into the free list."""
    slots["next"][first:] = np.arange(first + 1, len(slots) + 1)
    slots["next"][-1] = -1


def grown(memory: Memory, *, slots: int, done: int) -> Memory:
    """The same memory with room for so many sequences in flight and completions to report."""
    old = memory.slots
    control = memory.control[0]
    if slots > len(old):
        new = np.zeros(slots, SLOT)
        new[: len(old)] = old
        _link(new, len(old))
        new["next"][-1] = control["free_slot"]
        control["free_slot"] = len(old)
        key, which = np.zeros(slots), np.zeros(slots, np.int64)
        key[: len(memory.transfer_key)] = memory.transfer_key
        which[: len(memory.transfer_slot)] = memory.transfer_slot
        memory = memory._replace(slots=new, transfer_key=key, transfer_slot=which)
    if done > len(memory.done):
        report = np.zeros(done, DONE)
        report[: len(memory.done)] = memory.done
        memory = memory._replace(done=report)
    return memory


def _pools(deployment: Deployment) -> tuple[Rec, F8]:
    """Pool records and their dense step costs in one float array."""
    pools = np.zeros(len(deployment.pools), POOL)
    parts: list[F8] = []
    at = 0
    for rec, pool in zip(pools, deployment.pools, strict=True):
        table = pool.spec.table
        rec["max_tokens"], rec["max_seqs"], rec["decode_tokens"] = pool.max_tokens, pool.max_seqs, pool.decode_tokens
        rec["gain"], rec["block_tokens"] = pool.gain, pool.block_tokens
        rec["watermark"], rec["reserve"] = pool.watermark_blocks, pool.reserve_blocks
        rec["mixed"], rec["role"] = table.mixed_steps, ("both", "prefill", "decode").index(pool.spec.role)
        rec["seq_s"], rec["pair_s"], rec["prefill_base_s"] = pool.seq_s, pool.pair_s, pool.prefill_base_s
        rec["transfer_base_s"], rec["transfer_token_s"] = pool.transfer_base_s, pool.transfer_s_per_token
        rec["weight"] = pool.spec.weight
        rec["mixed_at"], rec["seqs_at"] = at, at + len(pool.mixed_s)
        parts += [pool.mixed_s, pool.decode_s, pool.attention_s, pool.slope_s, pool.padded_tokens, pool.shared_s]
        at += len(pool.mixed_s) + 4 * len(pool.decode_s)
        rec["shared_at"] = at if len(pool.shared_s) else -1
        at += len(pool.shared_s)
    return pools, np.concatenate(parts)


def _lanes(deployment: Deployment, blocks: Blocks) -> tuple[Rec, I8, int, npt.NDArray[np.int32]]:
    """Lane records, their lists, the length of the longest list, and their caches."""
    count = len(deployment.lane_pool)
    longest = max(pool.max_seqs for pool in deployment.pools) + 1
    phases = max(pool.block_tokens for pool in deployment.pools)
    stride = 5 * longest + phases
    lanes = np.zeros(count, LANE)
    lanes["pool"], lanes["group"] = deployment.lane_pool, deployment.lane_group
    lanes["replica"] = deployment.lane_replica
    for name in ("partial", "wait_head", "wait_tail", "oldest", "newest"):
        lanes[name] = -1
    at = np.arange(count) * stride
    lanes["heap_at"], lanes["chunks_at"] = at, at + 2 * longest
    lanes["joined_at"], lanes["pending_at"] = at + 3 * longest, at + 4 * longest
    lanes["bins_at"] = at + 5 * longest
    lanes["gaps_at"] = np.arange(count) * longest
    lanes["free"] = [deployment.pools[p].capacity_blocks for p in deployment.lane_pool]
    lanes["hash_tokens"] = blocks.tokens
    lanes["hash_blocks"] = [blocks.tokens // deployment.pools[p].block_tokens for p in deployment.lane_pool]
    lanes["cache_at"] = np.arange(count) * 3 * blocks.count
    cache = np.full(count * 3 * blocks.count, -1, np.int32)
    return lanes, np.zeros(count * stride, np.int64), longest, cache


def build(deployment: Deployment, config: ServeConfig, *, blocks: Blocks, slots: int, done: int) -> Memory:
    """Memory for a run that has not begun.

    Args:
        deployment: pools, lanes, groups.
        config: settings.
        blocks: prefix blocks (their number sizes the caches).
        slots: sequences in flight at first.
        done: completions that can be reported between two calls.
    """
    pools, floats = _pools(deployment)
    lanes, ints, longest, cache = _lanes(deployment, blocks)
    groups = np.zeros(len(deployment.group_pool), GROUP)
    groups["pool"], groups["end_s"] = deployment.group_pool, np.inf
    groups["first_lane"] = np.searchsorted(deployment.lane_group, np.arange(len(groups)))
    groups["lanes"] = np.bincount(deployment.lane_group, minlength=len(groups))
    replicas = np.zeros(len(deployment.replica_pool), REPLICA)
    replicas["pool"] = deployment.replica_pool
    replicas["first_lane"], replicas["last_lane"] = (
        deployment.replica_first_lane[:-1],
        deployment.replica_first_lane[1:],
    )
    control = np.zeros(1, CONTROL)
    rec = control[0]
    size = 1
    while size < len(groups):
        size *= 2
    rec["tree_size"], rec["max_seqs"], rec["heap_stride"] = size, longest - 1, longest
    rec["closed"], rec["delay_s"] = config.mode == "closed", deployment.entry_delay_s
    rec["router"] = ("round-robin", "least-requests", "least-tokens", "prefix-aware").index(config.router)
    rec["serial"], rec["guarded"] = config.serial_link, config.preemption == "none"
    rec["balance_abs"], rec["balance_rel"] = config.balance_abs, config.balance_rel
    rec["match_share"], rec["hash_tokens"] = config.match_share, blocks.tokens
    rec["has_prefix"] = blocks.count > 0
    table = np.zeros(slots, SLOT)
    _link(table, 0)
    from offramp.serve.sketch import LOG_GAMMA, LOWEST_S

    return Memory(
        pools=pools, lanes=lanes, groups=groups, replicas=replicas, slots=table, control=control, ints=ints,
        floats=floats, pending_s=np.zeros(len(lanes) * longest), cache=cache,
        awake=np.zeros(len(groups), np.int64), awake_s=np.zeros(len(groups)), tree=np.full(2 * size, np.inf),
        transfer_key=np.zeros(slots), transfer_slot=np.zeros(slots, np.int64),
        itl_counts=np.zeros(BUCKETS, np.int64), edges=LOWEST_S * np.exp(np.arange(BUCKETS) * LOG_GAMMA),
        done=np.zeros(done, DONE),
    )  # fmt: skip
