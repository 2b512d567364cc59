"""The event-jump kernel: lanes and the events between them, compiled.

Between two events of a group (an arrival that could be admitted, a prefill chunk, a sequence finished, KV blocks used
up, another rank becoming the slowest) its decode-only steps cost ``c, c + g, c + 2g ...``; the run of them is one
jump. An arrival cuts a jump at the next step boundary. Equal to :mod:`offramp.serve.oracle` up to rounding, but for the
time-average of KV blocks, which is taken linear within a jump.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numba

from offramp.serve.deploy import EPS_S
from offramp.serve.lanes import (
    FOREVER,
    INDEX_BITS,
    NONE,
    Function,
    available,
    ceil_div,
    crossings,
    forget,
    gained,
    grow,
    hot,
    jit,
    join,
    match,
    pend,
    pop_at,
    publish,
    refer,
    take,
)
from offramp.serve.routing import (
    BOTH,
    PREFILL,
    arrive,
    duration,
    leave,
    push_transfer,
    receive,
    running,
    set_end,
    wake,
)
from offramp.serve.sketch import BUCKETS, LOG_GAMMA, LOWEST_S
from offramp.serve.state import Batch, Memory

FINISHED, NEEDS_REQUESTS, NEEDS_SLOTS = 0, 1, 2

# -- scheduling a step


@hot
def add_chunk(lane: Any, which: int, m: Memory, ids: Any, budget: int) -> int:
    """Schedules the next chunk of a prefill; its tokens."""
    slot = m.slots[which]
    size = min(budget, slot.plen - slot.done)
    lane.pairs += size * slot.done + 0.5 * size * (size + 1)
    lane.tokens += size
    m.ints[lane.chunks_at + lane.n_chunks] = which
    lane.n_chunks += 1
    slot.done += size
    if slot.hashes:
        publish(lane, slot, m.cache, ids)
    return size


@hot
def admit(lane: Any, slot: Any, pool: Any, m: Memory, ids: Any) -> bool:
    """Takes the blocks of its prompt (of all its tokens where nothing may be dropped later), if it can."""
    matched, waking = 0, 0
    if slot.plen == 0:
        tokens = slot.isl + slot.gen + pool.decode_tokens - 1
    else:
        tokens = slot.plen
        if slot.hashes:
            matched = match(lane, slot, m.cache, ids)
    if m.control[0].guarded:
        tokens = slot.isl
        if slot.osl > 1 and pool.role != PREFILL:
            tokens = slot.isl + slot.osl + pool.decode_tokens - 2
    need = ceil_div(tokens, pool.block_tokens) - matched * lane.hash_blocks
    for i in range(matched):
        waking += m.cache[lane.cache_at + 3 * ids[slot.hash_at + i]] == 0
    active = running(lane)
    spare = pool.watermark + pool.reserve * (active + 1) if active else 0
    if need > available(lane) - waking * lane.hash_blocks - spare:
        return False
    for i in range(matched):
        refer(lane, m.cache, lane.cache_at + 3 * ids[slot.hash_at + i])
    slot.refs = matched
    take(lane, m.cache, need)
    slot.blocks = need
    slot.done = matched * lane.hash_tokens
    lane.admissions += 1
    slot.number = lane.admissions
    if slot.hashes and slot.plen:
        pool.hit += slot.done
        pool.lookup += slot.plen
    return True


@hot
def prefill(lane: Any, pool: Any, m: Memory, ids: Any, budget: int, admits: bool) -> None:
    """Puts prefill chunks into the step: the unfinished one, then new ones in order of arrival."""
    if lane.partial != NONE and budget > 0:
        which = lane.partial
        lane.partial = NONE
        budget -= add_chunk(lane, which, m, ids, budget)
    if not admits:
        return
    control = m.control[0]
    while budget > 0 and lane.waiting and running(lane) < pool.max_seqs:
        which = lane.wait_head
        slot = m.slots[which]
        if (slot.plen == 0 and budget < pool.decode_tokens) or not admit(lane, slot, pool, m, ids):
            break
        lane.wait_head = slot.next
        if slot.next == NONE:
            lane.wait_tail = NONE
        lane.waiting -= 1
        control.waiting -= 1
        if slot.plen == 0:
            join(lane, slot, which, pool, m.ints, control)
            pend(lane, m, slot.emit_s, 1)
            budget -= pool.decode_tokens
        else:
            budget -= add_chunk(lane, which, m, ids, budget)


@hot
def schedule(lane: Any, pool: Any, m: Memory, ids: Any, since: float) -> int:
    """Fills the next step; the number of sequences that decode in it, NONE where there is nothing to do."""
    lane.n_chunks = 0
    lane.tokens = 0
    lane.pairs = 0.0
    if pool.mixed:
        dropped = grow(lane, pool, m, ids, since)
        lane.dropped = dropped
        prefill(lane, pool, m, ids, pool.max_tokens - lane.n * pool.decode_tokens, not dropped)
        if lane.n_joined:
            grow(lane, pool, m, ids, since)
        return NONE if lane.n + lane.n_chunks == 0 else lane.n
    prefill(lane, pool, m, ids, pool.max_tokens, True)
    lane.dropped = 0
    if lane.n_chunks:
        regular = lane.n - lane.pending_total
        if regular:
            pend(lane, m, since, regular)
        return 0
    lane.dropped = grow(lane, pool, m, ids, since)
    return NONE if lane.n == 0 else lane.n


@hot
def price(lane: Any, pool: Any, m: Memory, decodes: int) -> None:
    """Duration of the lane's next step, growth per further decode-only step, and how many may follow in one run."""
    chunks = lane.n_chunks
    at = pool.seqs_at + decodes
    stride = pool.max_seqs + 1
    cost = pool.seq_s * (decodes + chunks)
    growth = 0.0
    if chunks:
        tokens = lane.tokens + decodes * pool.decode_tokens
        cost += m.floats[pool.mixed_at + tokens] + pool.prefill_base_s * chunks + pool.pair_s * lane.pairs
    else:
        cost += m.floats[at]
    if decodes:
        slope = m.floats[at + 2 * stride]
        context = lane.context + decodes * (lane.d * pool.gain / 65536.0)
        cost += m.floats[at + stride] + slope * context
        growth = slope * decodes * pool.gain / 65536.0
    lane.cost_s = cost
    lane.slope_s = growth
    # After a drop the queue was not looked at, so the next step must be scheduled anew.
    lane.step_limit = 1 if chunks or lane.dropped else decode_limit(lane, pool, m)


@hot
def decode_limit(lane: Any, pool: Any, m: Memory) -> int:
    """Decode-only steps until a sequence finishes or blocks run out, this one included."""
    finish = m.ints[lane.heap_at] >> INDEX_BITS
    steps = ceil_div(finish << 16, pool.gain) - lane.d
    if m.control[0].guarded:
        return steps
    room = available(lane)
    if crossings(lane, m.ints, pool.block_tokens, gained(lane, pool, steps - 1)) <= room:
        return steps
    low, high = 1, steps  # the first step has its blocks; the last of them has not
    while high - low > 1:
        middle = (low + high) // 2
        if crossings(lane, m.ints, pool.block_tokens, gained(lane, pool, middle - 1)) <= room:
            low = middle
        else:
            high = middle
    return low


# -- groups


@hot
def start(m: Memory, group: int, ids: Any, since: float) -> None:
    """Schedules and prices the next run of a group, if there is work."""
    g = m.groups[group]
    pool = m.pools[g.pool]
    g.start_s = since
    g.steps = 0
    g.cost_s = 0.0
    limit = FOREVER
    tokens = 0.0
    for i in range(g.first_lane, g.first_lane + g.lanes):
        lane = m.lanes[i]
        decodes = schedule(lane, pool, m, ids, since)
        lane.step_limit = FOREVER
        lane.decodes = max(0, decodes)
        lane.held_at_start = lane.held
        if decodes == NONE:
            continue
        price(lane, pool, m, decodes)
        limit = min(limit, lane.step_limit)
        if lane.n_chunks:
            tokens += lane.tokens + decodes * pool.decode_tokens
        else:
            tokens += m.floats[pool.seqs_at + 3 * (pool.max_seqs + 1) + decodes]
        if lane.cost_s > g.cost_s or (lane.cost_s == g.cost_s and lane.slope_s > g.slope_s):
            g.cost_s = lane.cost_s
            g.slope_s = lane.slope_s
    if limit == FOREVER:
        set_end(m, group, math.inf)
        return
    if g.lanes > 1 and limit > 1:
        limit = dominance(m, g, limit)
    if pool.shared_at != NONE:
        g.cost_s += shared(m, pool, tokens / g.lanes)
    g.steps = limit
    set_end(m, group, since + duration(g, limit))


@hot
def shared(m: Memory, pool: Any, mean: float) -> Any:
    """What all ranks of a group work off together at a mean number of tokens, in seconds."""
    at = int(mean)
    low = m.floats[pool.shared_at + at]
    return low + (mean - at) * (m.floats[pool.shared_at + at + 1] - low)


@jit
def dominance(m: Memory, g: Any, limit: int) -> int:
    """Steps until another rank becomes the slowest."""
    for i in range(g.first_lane, g.first_lane + g.lanes):
        lane = m.lanes[i]
        if lane.decodes and lane.slope_s > g.slope_s:
            limit = min(limit, int((g.cost_s - lane.cost_s) / (lane.slope_s - g.slope_s)) + 1)
    return max(1, limit)


@hot
def finish_run(m: Memory, batch: Batch, group: int) -> None:
    """Ends a group's run: tokens are out, sequences finish, prefills turn into decodes."""
    g = m.groups[group]
    pool = m.pools[g.pool]
    now, steps = g.end_s, g.steps
    span = duration(g, steps)
    set_end(m, group, math.inf)
    pool.busy_s += span
    pool.steps += steps
    for i in range(g.first_lane, g.first_lane + g.lanes):
        lane = m.lanes[i]
        pool.batch_s += (lane.decodes + lane.n_chunks) * span
        growth = 0
        if lane.decodes:
            advance(lane, pool, m, g, steps)
            growth = lane.held - lane.held_at_start
        pool.kv_block_s += (lane.held_at_start + 0.5 * growth) * span
        pool.kv_peak = max(pool.kv_peak, lane.held_at_start + growth)
        if lane.decodes:
            lane.last_end_s = now
            pop_finished(i, lane, pool, m, batch, now)
        if lane.n_chunks:
            for j in range(lane.n_chunks):
                which = m.ints[lane.chunks_at + j]
                slot = m.slots[which]
                if slot.done < slot.plen:
                    lane.partial = which
                else:
                    end_prefill(i, lane, which, pool, m, batch, now)
            lane.n_chunks = 0
        lane.decodes = 0
    return


@hot
def advance(lane: Any, pool: Any, m: Memory, g: Any, steps: int) -> None:
    """Takes a lane's decodes through a run: gaps between tokens, blocks, position."""
    control = m.control[0]
    if lane.n_pending:
        for i in range(lane.n_pending):
            gap = g.start_s + g.cost_s - m.pending_s[lane.gaps_at + i]
            note_gaps(m, control, gap, 0.0, 1, m.ints[lane.pending_at + i])
        note_gaps(m, control, g.cost_s, 0.0, 1, lane.n - lane.pending_total)
        if steps > 1:
            note_gaps(m, control, g.cost_s + g.slope_s, g.slope_s, steps - 1, lane.n)
        lane.n_pending = 0
        lane.pending_total = 0
    else:
        note_gaps(m, control, g.cost_s, g.slope_s, steps, lane.n)
    if steps > 1 and not control.guarded:
        gain = gained(lane, pool, steps - 1)
        take(lane, m.cache, crossings(lane, m.ints, pool.block_tokens, gain))
        lane.granted = max(lane.granted, gain)
    lane.d += steps


@hot
def note_gaps(m: Memory, control: Any, first_s: float, growth_s: float, steps: int, n: int) -> None:
    """Adds n gaps of each of the durations first, first + growth ... to the sketch."""
    if n == 0:
        return
    last_s = first_s + growth_s * (steps - 1)
    control.itl_count += n * steps
    control.itl_sum_s += n * (steps * first_s + growth_s * (0.5 * steps * (steps - 1)))
    control.itl_max_s = max(control.itl_max_s, last_s)
    bucket = 0
    if first_s > LOWEST_S:
        bucket = min(BUCKETS - 1, math.ceil(math.log(first_s / LOWEST_S) / LOG_GAMMA))
    done = 0
    while last_s > m.edges[bucket] and bucket < BUCKETS - 1:
        below = min(steps, int((m.edges[bucket] - first_s) / growth_s) + 1) if growth_s > 0 else steps
        below = max(below, done)
        m.itl_counts[bucket] += n * (below - done)
        done = below
        bucket += 1
    m.itl_counts[bucket] += n * (steps - done)


@hot
def pop_finished(index: int, lane: Any, pool: Any, m: Memory, batch: Batch, now: float) -> None:
    """Finishes the decoding sequences that have all their tokens."""
    gain = gained(lane, pool, 0)
    stride = m.control[0].heap_stride
    while lane.n and (m.ints[lane.heap_at] >> INDEX_BITS) <= gain:
        which = pop_at(lane, m.ints, stride, 0)
        forget(lane, m.slots[which], which, pool, m.ints)
        finish(lane, which, pool, m, batch, now)


@hot
def end_prefill(index: int, lane: Any, which: int, pool: Any, m: Memory, batch: Batch, now: float) -> None:
    """A prefill is complete: one more token is out, and the sequence decodes, moves on or finishes."""
    slot = m.slots[which]
    slot.gen += 1
    if slot.gen > 1:
        note_gaps(m, m.control[0], now - slot.emit_s, 0.0, 1, 1)
    elif slot.osl == 1 or pool.role == BOTH:
        slot.first_s = now
    slot.emit_s = now
    if slot.gen >= slot.osl:
        finish(lane, which, pool, m, batch, now)
    elif pool.role == PREFILL:
        replica = m.replicas[lane.replica]
        begin = max(now, replica.link_free_s) if m.control[0].serial else now
        replica.link_free_s = begin + pool.transfer_base_s + pool.transfer_token_s * slot.isl
        slot.lane = index
        push_transfer(m, replica.link_free_s, which)
    else:
        join(lane, slot, which, pool, m.ints, m.control[0])


@hot
def finish(lane: Any, which: int, pool: Any, m: Memory, batch: Batch, now: float) -> None:
    """A request is complete and reported; in closed loop the next one starts."""
    slot = m.slots[which]
    leave(lane, slot, pool, m, batch.hash_ids)
    control = m.control[0]
    report = m.done[control.n_done]
    control.n_done += 1
    report.index, report.isl, report.osl, report.slo, report.pool = slot.index, slot.isl, slot.osl, slot.slo, slot.pool
    report.start_s, report.first_s, report.done_s = slot.start_s, slot.first_s, now
    slot.next = control.free_slot
    control.free_slot = which
    if control.closed and control.sent < control.count:
        batch.start_s[control.sent] = now
        control.sent += 1


# -- the loop


@hot
def sample_queue(control: Any, now: float, index: int) -> None:
    """Takes the number of waiting requests into the trend of the second half."""
    if now < control.middle_s and index != control.last_index:
        return
    t = now - control.middle_s
    control.trend_n += 1.0
    control.trend_t += t
    control.trend_w += control.waiting
    control.trend_tw += t * control.waiting
    control.trend_tt += t * t
    if index == control.last_index:
        control.queue_at_end = control.waiting


@hot
def first_ending(m: Memory) -> int:
    """The first group, by number, whose run ends at this moment; NONE if there is none."""
    control = m.control[0]
    if m.tree[1] > control.horizon_s:
        return NONE
    at = 1
    while at < control.tree_size:
        at *= 2
        if m.tree[at] > control.horizon_s:
            at += 1
    return at - control.tree_size


@hot
def loop(m: Memory, batch: Batch) -> int:
    """Runs until nothing happens any more, or more requests or slots are needed; which of these.

    Can be called again with the same memory (grown where asked for) and the same or the next batch.
    """
    control = m.control[0]
    ids = batch.hash_ids
    while True:
        if not control.in_pass:
            if control.head == control.count and not control.final:
                return NEEDS_REQUESTS
            now = m.tree[1]
            if control.head < control.sent:
                now = min(now, batch.start_s[control.head] + control.delay_s)
            if control.n_transfers:
                now = min(now, m.transfer_key[0])
            if now == math.inf:
                return FINISHED
            control.in_pass = 1
            control.now_s = now
            control.horizon_s = now + EPS_S
        while True:
            group = first_ending(m)
            if group != NONE:
                wake(m, group, m.groups[group].end_s)
                finish_run(m, batch, group)
            elif control.n_transfers and m.transfer_key[0] <= control.horizon_s:
                receive(m, ids)
            elif control.head < control.sent:
                at = batch.start_s[control.head] + control.delay_s
                if at > control.horizon_s:
                    break
                if control.free_slot == NONE:
                    return NEEDS_SLOTS
                sample_queue(control, at, control.index_base + control.head)
                arrive(m, batch, ids)
            elif control.head == control.count and not control.final:
                return NEEDS_REQUESTS
            else:
                break
        for i in range(control.n_awake):
            group = m.awake[i]
            m.groups[group].awake = 0
            if m.groups[group].end_s == math.inf:
                start(m, group, ids, m.awake_s[i])
        control.n_awake = 0
        control.in_pass = 0


SOURCES = ("kernel.py", "lanes.py", "routing.py", "state.py", "sketch.py", "deploy.py")


def _digest() -> int:
    """A number that changes with any source that the compiled code was made from."""
    here = Path(__file__).parent
    text = b"".join((here / name).read_bytes() for name in SOURCES)
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def _cached_njit(function: Function) -> Function:
    njit: Any = numba.njit
    options = {"error_model": "numpy", "nogil": True, "_nrt": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that numba may write to: compile once per process
        return njit(**options)(function)


def _cached(digest: int) -> Any:
    """The loop, compiled when first called; numba keeps it on disk under the value of the enclosed digest."""

    @_cached_njit
    def run(m: Memory, batch: Batch) -> int:
        if digest < 0:
            return FINISHED
        return loop(m, batch)

    return run


run: Any = _cached(_digest())
"""``run(memory, batch)``: see :func:`loop`."""
