"""The event-jump kernel: lanes and the events between them, compiled.

Between two events of a group (an arrival that could be admitted, a prefill chunk, a sequence finished, KV blocks used
up, another rank becoming the slowest) its decode-only steps cost ``c, c + g, c + 2g ...``; the run of them is one
jump. An arrival cuts a jump at the next step boundary. Equal to :mod:`offramp.serve.oracle` up to rounding, but for the
time-average of KV blocks, which is taken linear within a jump.
"""

from __future__ import annotations

import math
from typing import Any

from offramp.serve.deploy import EPS_S
from offramp.serve.lanes import (
    FOREVER,
    INDEX_BITS,
    NONE,
    available,
    ceil_div,
    crossings,
    forget,
    gained,
    grow,
    jit,
    join,
    match,
    pend,
    pop_at,
    publish,
    refer,
    release,
    take,
)
from offramp.serve.sketch import BUCKETS, LOG_GAMMA, LOWEST_S
from offramp.serve.state import Batch, Memory

FINISHED, NEEDS_REQUESTS, NEEDS_SLOTS = 0, 1, 2
BOTH, PREFILL, DECODE = 0, 1, 2

# -- scheduling a step


@jit
def running(lane: Any) -> int:
    """Sequences admitted and not finished."""
    return lane.n + lane.n_chunks + (lane.partial != NONE)


@jit
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


@jit
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


@jit
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


@jit
def schedule(lane: Any, pool: Any, m: Memory, ids: Any, since: float) -> int:
    """Fills the next step; the number of sequences that decode in it, NONE where there is nothing to do."""
    lane.n_chunks = 0
    lane.tokens = 0
    lane.pairs = 0.0
    if pool.mixed:
        dropped = grow(lane, pool, m, ids, since)
        prefill(lane, pool, m, ids, pool.max_tokens - lane.n * pool.decode_tokens, not dropped)
        if lane.n_joined:
            grow(lane, pool, m, ids, since)
        return NONE if lane.n + lane.n_chunks == 0 else lane.n
    prefill(lane, pool, m, ids, pool.max_tokens, True)
    if lane.n_chunks:
        regular = lane.n - lane.pending_total
        if regular:
            pend(lane, m, since, regular)
        return 0
    grow(lane, pool, m, ids, since)
    return NONE if lane.n == 0 else lane.n


@jit
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
    lane.step_limit = 1 if chunks else decode_limit(lane, pool, m)


@jit
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


@jit
def set_end(m: Memory, group: int, end_s: float) -> None:
    """Sets when a group's run ends, and keeps the tree of minima in order."""
    m.groups[group].end_s = end_s
    at = m.control[0].tree_size + group
    m.tree[at] = end_s
    while at > 1:
        at >>= 1
        m.tree[at] = min(m.tree[2 * at], m.tree[2 * at + 1])


@jit
def start(m: Memory, group: int, ids: Any, since: float) -> None:
    """Schedules and prices the next run of a group, if there is work."""
    g = m.groups[group]
    pool = m.pools[g.pool]
    g.start_s = since
    g.steps = 0
    g.cost_s = 0.0
    limit = FOREVER
    for i in range(g.first_lane, g.first_lane + g.lanes):
        lane = m.lanes[i]
        decodes = schedule(lane, pool, m, ids, since)
        lane.step_limit = FOREVER
        lane.decodes = max(0, decodes)
        if decodes == NONE:
            continue
        price(lane, pool, m, decodes)
        limit = min(limit, lane.step_limit)
        if lane.cost_s > g.cost_s or (lane.cost_s == g.cost_s and lane.slope_s > g.slope_s):
            g.cost_s = lane.cost_s
            g.slope_s = lane.slope_s
    if limit == FOREVER:
        set_end(m, group, math.inf)
        return
    if g.lanes > 1 and limit > 1:
        limit = dominance(m, g, limit)
    g.steps = limit
    set_end(m, group, since + duration(g, limit))


@jit
def dominance(m: Memory, g: Any, limit: int) -> int:
    """Steps until another rank becomes the slowest."""
    for i in range(g.first_lane, g.first_lane + g.lanes):
        lane = m.lanes[i]
        if lane.decodes and lane.slope_s > g.slope_s:
            limit = min(limit, int((g.cost_s - lane.cost_s) / (lane.slope_s - g.slope_s)) + 1)
    return max(1, limit)


@jit
def duration(g: Any, steps: int) -> float:
    """Seconds of the first steps of a run."""
    return steps * g.cost_s + g.slope_s * (0.5 * steps * (steps - 1))


@jit
def cut(m: Memory, group: int, now: float) -> None:
    """Ends a run at its first step boundary from now on, so that something new can be scheduled."""
    g = m.groups[group]
    if g.steps <= 1:
        return
    target = now - EPS_S - g.start_s
    b = g.cost_s - 0.5 * g.slope_s
    steps = 1
    if target > 0:
        steps = max(1, min(g.steps, int(2.0 * target / (b + math.sqrt(b * b + 2.0 * g.slope_s * target)))))
    while steps > 1 and duration(g, steps - 1) >= target:
        steps -= 1
    while steps < g.steps and duration(g, steps) < target:
        steps += 1
    if steps < g.steps:
        g.steps = steps
        set_end(m, group, g.start_s + duration(g, steps))


@jit
def finish_run(m: Memory, batch: Batch, group: int) -> None:
    """Ends a group's run: tokens are out, sequences finish, prefills turn into decodes."""
    g = m.groups[group]
    pool = m.pools[g.pool]
    now, steps = g.end_s, g.steps
    span = duration(g, steps)
    set_end(m, group, math.inf)
    pool.busy_s += span
    pool.steps += steps
    ids = batch.hash_ids
    for i in range(g.first_lane, g.first_lane + g.lanes):
        lane = m.lanes[i]
        pool.batch_s += (lane.decodes + lane.n_chunks) * span
        before = lane.held
        if lane.decodes:
            advance(lane, pool, m, g, steps)
        pool.kv_block_s += 0.5 * (before + lane.held) * span
        pool.kv_peak = max(pool.kv_peak, lane.held)
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


@jit
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
        lane.granted = gain
    lane.d += steps


@jit
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


@jit
def pop_finished(index: int, lane: Any, pool: Any, m: Memory, batch: Batch, now: float) -> None:
    """Finishes the decoding sequences that have all their tokens."""
    gain = gained(lane, pool, 0)
    stride = m.control[0].heap_stride
    while lane.n and (m.ints[lane.heap_at] >> INDEX_BITS) <= gain:
        which = pop_at(lane, m.ints, stride, 0)
        forget(lane, m.slots[which], which, pool, m.ints)
        finish(lane, which, pool, m, batch, now)


@jit
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


@jit
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


@jit
def leave(lane: Any, slot: Any, pool: Any, m: Memory, ids: Any) -> None:
    """A sequence leaves a lane with all it held."""
    release(lane, slot, pool, m, ids)
    lane.load_requests -= 1
    lane.load_tokens -= slot.isl + slot.osl


# -- transfers: a binary heap by time of arrival, then request


@jit
def is_before(m: Memory, a: int, b: int) -> bool:
    """Whether the transfer at place a arrives before that at b."""
    if m.transfer_key[a] != m.transfer_key[b]:
        return m.transfer_key[a] < m.transfer_key[b]
    return m.slots[m.transfer_slot[a]].index < m.slots[m.transfer_slot[b]].index


@jit
def swap(m: Memory, a: int, b: int) -> None:
    """Exchanges two transfers."""
    m.transfer_key[a], m.transfer_key[b] = m.transfer_key[b], m.transfer_key[a]
    m.transfer_slot[a], m.transfer_slot[b] = m.transfer_slot[b], m.transfer_slot[a]


@jit
def push_transfer(m: Memory, arrives_s: float, which: int) -> None:
    """Adds a transfer."""
    at = m.control[0].n_transfers
    m.control[0].n_transfers += 1
    m.transfer_key[at], m.transfer_slot[at] = arrives_s, which
    while at > 0 and is_before(m, at, (at - 1) >> 1):
        swap(m, at, (at - 1) >> 1)
        at = (at - 1) >> 1


@jit
def pop_transfer(m: Memory) -> int:
    """Takes the first transfer; its slot."""
    which = m.transfer_slot[0]
    m.control[0].n_transfers -= 1
    n = m.control[0].n_transfers
    swap(m, 0, n)
    at = 0
    while True:
        child = 2 * at + 1
        if child >= n:
            return which
        if child + 1 < n and is_before(m, child + 1, child):
            child += 1
        if not is_before(m, child, at):
            return which
        swap(m, at, child)
        at = child


@jit
def receive(m: Memory, ids: Any) -> None:
    """The first transfer arrives: the user has the first token, a decode lane the sequence."""
    control = m.control[0]
    now = m.transfer_key[0]
    which = pop_transfer(m)
    slot = m.slots[which]
    source = m.lanes[slot.lane]
    leave(source, slot, m.pools[source.pool], m, ids)
    slot.first_s = now
    slot.emit_s = now
    slot.plen = 0
    slot.hashes = 0
    enqueue(m, which, route(m, slot, slot.decode_mask, ids))
    wake(m, source.group, control.now_s)


# -- arrivals and routing


@jit
def wake(m: Memory, group: int, since: float) -> None:
    """Notes that a group may have work when this moment's events are through."""
    g = m.groups[group]
    if not g.awake:
        control = m.control[0]
        g.awake = 1
        m.awake[control.n_awake] = group
        m.awake_s[control.n_awake] = since
        control.n_awake += 1


@jit
def enqueue(m: Memory, which: int, index: int) -> None:
    """Puts a sequence at the end of a lane's queue; a run that could take it in is cut short."""
    lane = m.lanes[index]
    slot = m.slots[which]
    control = m.control[0]
    slot.next = NONE
    if lane.wait_tail == NONE:
        lane.wait_head = which
    else:
        m.slots[lane.wait_tail].next = which
    lane.wait_tail = which
    lane.waiting += 1
    control.waiting += 1
    lane.load_requests += 1
    lane.load_tokens += slot.isl + slot.osl
    group = lane.group
    if m.groups[group].end_s == math.inf:
        wake(m, group, control.now_s)
    elif lane.waiting == 1 and running(lane) < m.pools[lane.pool].max_seqs:
        cut(m, group, control.now_s)


@jit
def arrive(m: Memory, batch: Batch, ids: Any) -> None:
    """The next request arrives: into a slot, to a lane."""
    control = m.control[0]
    at = control.head
    control.head += 1
    which = control.free_slot
    slot = m.slots[which]
    control.free_slot = slot.next
    slot.index = control.index_base + at
    slot.isl, slot.osl, slot.slo = batch.isl[at], batch.osl[at], batch.slo[at]
    slot.decode_mask = batch.decode_mask[at]
    slot.gen, slot.plen, slot.done, slot.refs, slot.blocks, slot.binned = 0, slot.isl, 0, 0, 0, 0
    slot.start_s = batch.start_s[at]
    slot.hash_at = 0
    slot.hashes = 0
    if control.has_prefix:
        slot.hash_at = batch.hash_offsets[at]
        slot.hashes = batch.hash_offsets[at + 1] - batch.hash_offsets[at]
    target = route(m, slot, batch.entry_mask[at], ids)
    slot.pool = m.lanes[target].pool
    if m.pools[slot.pool].role == DECODE:  # a decode pool alone: the KV is there already
        slot.gen, slot.plen = 1, 0
        slot.emit_s = control.now_s
        slot.first_s = control.now_s
    enqueue(m, which, target)


@jit
def route(m: Memory, slot: Any, mask: int, ids: Any) -> int:
    """The lane for a sequence: a replica by the router's rule, then its lane with the fewest requests."""
    control = m.control[0]
    if len(m.lanes) == 1:
        return 0
    if control.router == 3 and slot.plen and slot.hashes:
        target = route_by_prefix(m, slot, mask, ids)
        if target != NONE:
            return target
    best, least = NONE, math.inf
    for r in range(len(m.replicas)):
        replica = m.replicas[r]
        if not (mask >> replica.pool) & 1:
            continue
        burden = replica.assigned + 1.0
        if control.router:
            load = 0
            for i in range(replica.first_lane, replica.last_lane):
                load += m.lanes[i].load_tokens if control.router == 2 else m.lanes[i].load_requests
            burden = float(load)
        burden /= m.pools[replica.pool].weight
        if burden < least:
            best, least = r, burden
    replica = m.replicas[best]
    replica.assigned += 1.0
    target = replica.first_lane
    for i in range(replica.first_lane + 1, replica.last_lane):
        if m.lanes[i].load_requests < m.lanes[target].load_requests:
            target = i
    return target


@jit
def route_by_prefix(m: Memory, slot: Any, mask: int, ids: Any) -> int:
    """The lane with the longest cached prefix (fewest requests among equals), or NONE where load decides."""
    control = m.control[0]
    low, high = FOREVER, 0
    for i in range(len(m.lanes)):
        if (mask >> m.lanes[i].pool) & 1:
            low = min(low, m.lanes[i].load_requests)
            high = max(high, m.lanes[i].load_requests)
    if high - low > control.balance_abs and high > control.balance_rel * low:
        return NONE
    target, longest = NONE, 0
    for i in range(len(m.lanes)):
        lane = m.lanes[i]
        if (mask >> lane.pool) & 1:
            found = match(lane, slot, m.cache, ids)
            if found > longest or (
                found == longest and target != NONE and lane.load_requests < m.lanes[target].load_requests
            ):
                target, longest = i, found
    if longest == 0 or longest * control.hash_tokens < control.match_share * slot.isl:
        return NONE
    return target


# -- the loop


@jit
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


@jit
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


@jit
def run(m: Memory, batch: Batch) -> int:
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
