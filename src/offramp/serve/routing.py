"""Requests on their way, compiled: transfers between pools, arrivals, and the routers that pick a lane."""

from __future__ import annotations

import math
from typing import Any

from offramp.serve.deploy import EPS_S
from offramp.serve.lanes import FOREVER, NONE, crossings, gained, hot, jit, match, release, take
from offramp.serve.state import Batch, Memory

BOTH, PREFILL, DECODE = 0, 1, 2


@hot
def running(lane: Any) -> int:
    """Sequences admitted and not finished."""
    return lane.n + lane.n_chunks + (lane.partial != NONE)


@hot
def set_end(m: Memory, group: int, end_s: float) -> None:
    """Sets when a group's run ends, and keeps the tree of minima in order."""
    m.groups[group].end_s = end_s
    at = m.control[0].tree_size + group
    m.tree[at] = end_s
    while at > 1:
        at >>= 1
        m.tree[at] = min(m.tree[2 * at], m.tree[2 * at + 1])


@hot
def duration(g: Any, steps: int) -> float:
    """Seconds of the first steps of a run."""
    return steps * g.cost_s + g.slope_s * (0.5 * steps * (steps - 1))


@hot
def steps_begun(g: Any, now: float) -> int:
    """Steps of a run that have begun before now; the last of them is in progress or ends now."""
    target = now - EPS_S - g.start_s
    b = g.cost_s - 0.5 * g.slope_s
    steps = 1
    if target > 0:
        steps = max(1, min(g.steps, int(2.0 * target / (b + math.sqrt(b * b + 2.0 * g.slope_s * target)))))
    while steps > 1 and duration(g, steps - 1) >= target:
        steps -= 1
    while steps < g.steps and duration(g, steps) < target:
        steps += 1
    return steps


@hot
def cut(m: Memory, group: int, now: float) -> None:
    """Ends a run at its first step boundary from now on, so that something new can be scheduled."""
    g = m.groups[group]
    if g.steps <= 1:
        return
    steps = steps_begun(g, now)
    if steps < g.steps:
        g.steps = steps
        set_end(m, group, g.start_s + duration(g, steps))


@jit
def catch_up(lane: Any, m: Memory, now: float) -> None:
    """Takes the blocks of the steps that a lane's run has begun, which may drop cached ones that a router looks for."""
    g = m.groups[lane.group]
    if lane.decodes == 0 or lane.unused == 0 or m.control[0].guarded or g.end_s == math.inf or g.steps <= 1:
        return
    pool = m.pools[lane.pool]
    gain = gained(lane, pool, steps_begun(g, now) - 1)
    take(lane, m.cache, crossings(lane, m.ints, pool.block_tokens, gain))
    lane.granted = max(lane.granted, gain)


@hot
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


@hot
def wake(m: Memory, group: int, since: float) -> None:
    """Notes that a group may have work when this moment's events are through."""
    g = m.groups[group]
    if not g.awake:
        control = m.control[0]
        g.awake = 1
        m.awake[control.n_awake] = group
        m.awake_s[control.n_awake] = since
        control.n_awake += 1


@hot
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


@hot
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


@hot
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
            catch_up(lane, m, control.now_s)
            found = match(lane, slot, m.cache, ids)
            if found > longest or (
                found == longest and target != NONE and lane.load_requests < m.lanes[target].load_requests
            ):
                target, longest = i, found
    if longest == 0 or longest * control.hash_tokens < control.match_share * slot.isl:
        return NONE
    return target
