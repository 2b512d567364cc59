"""One lane of the compiled kernel: KV blocks, prefix cache, scheduler, and runs of decode steps in closed form.

The rules are those of :mod:`offramp.serve.oracle`; what differs is the bookkeeping. Decoding sequences are not
touched step by step: they lie in a heap by the token count at which they finish, their contexts in one sum, and
their positions within KV blocks as counts by phase ("bins"), so a step or a run of steps costs O(log n).
``gain`` counts the tokens that every decoding sequence of the lane has gained since the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

from offramp.serve.state import Memory

_njit: Any = numba.njit
Function = TypeVar("Function", bound=Callable[..., Any])


INNER: dict[str, Any] = {
    "error_model": "numpy", "nogil": True, "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
}  # fmt: skip
"""Kernel functions allocate nothing, so they run without numba's reference counting, which took three quarters of the
time; and only other kernel functions call them, so they need no wrappers, which took a quarter of the compilation."""


def jit(function: Function) -> Function:
    """Compiles a kernel function. None is cached on disk alone: see :mod:`offramp.serve.kernel`."""
    return _njit(**INNER)(function)


def hot(function: Function) -> Function:
    """Compiles a kernel function into its callers; passing the arrays along costs more than most of them do."""
    return _njit(**INNER, forceinline=True)(function)


NONE = -1
FOREVER = 1 << 40
"""More steps than any run has: a lane without work does not limit its group."""
INDEX_BITS = 31
INDEX_MASK = (1 << INDEX_BITS) - 1


@hot
def gained(lane: Any, pool: Any, steps: int) -> int:
    """Tokens gained by a sequence that decodes from the lane's start to so many steps from now."""
    return ((lane.d + steps) * pool.gain) >> 16


@hot
def ceil_div(a: int, b: int) -> int:
    """A / b rounded up, for a >= 0."""
    return (a + b - 1) // b


# -- KV blocks and prefix cache. Per hash block the cache keeps its users (-1: not cached) and its neighbours in the
# list of unused ones.


@hot
def available(lane: Any) -> int:
    """Blocks that can be had: free ones, and cached ones that nobody uses."""
    return lane.free + lane.unused * lane.hash_blocks


@jit
def unlink(lane: Any, cache: Any, at: int) -> None:
    """Takes a cached block out of the unused list."""
    before, after = cache[at + 1], cache[at + 2]
    if before == NONE:
        lane.oldest = after
    else:
        cache[before + 2] = after
    if after == NONE:
        lane.newest = before
    else:
        cache[after + 1] = before
    lane.unused -= 1


@hot
def take(lane: Any, cache: Any, blocks: int) -> None:
    """Takes blocks, dropping the longest unused cached ones where free blocks run out."""
    lane.free -= blocks
    lane.held += blocks
    while lane.free < 0:
        at = lane.oldest
        unlink(lane, cache, at)
        cache[at] = NONE
        lane.free += lane.hash_blocks


@hot
def refer(lane: Any, cache: Any, at: int) -> None:
    """Holds a cached block by reference."""
    if cache[at] == 0:
        unlink(lane, cache, at)
        lane.held += lane.hash_blocks
    cache[at] += 1


@hot
def unrefer(lane: Any, cache: Any, at: int) -> None:
    """Gives a reference back; an unused block becomes the newest of the unused list."""
    cache[at] -= 1
    if cache[at] == 0:
        cache[at + 1] = lane.newest
        cache[at + 2] = NONE
        if lane.newest == NONE:
            lane.oldest = at
        else:
            cache[lane.newest + 2] = at
        lane.newest = at
        lane.unused += 1
        lane.held -= lane.hash_blocks


@hot
def match(lane: Any, slot: Any, cache: Any, ids: Any) -> int:
    """Leading hash blocks of its prompt that are cached; its last token is always computed."""
    most = min(slot.hashes, (slot.plen - 1) // lane.hash_tokens)
    for i in range(most):
        if cache[lane.cache_at + 3 * ids[slot.hash_at + i]] == NONE:
            return i
    return most


@jit
def publish(lane: Any, slot: Any, cache: Any, ids: Any) -> None:
    """Makes the whole blocks that its prefill has covered findable; a block someone else published is shared."""
    whole = min(slot.hashes, slot.done // lane.hash_tokens)
    while slot.refs < whole:
        at = lane.cache_at + 3 * ids[slot.hash_at + slot.refs]
        slot.blocks -= lane.hash_blocks
        slot.refs += 1
        if cache[at] == NONE:
            cache[at] = 1
        else:
            lane.free += lane.hash_blocks
            lane.held -= lane.hash_blocks
            refer(lane, cache, at)


@hot
def release(lane: Any, slot: Any, pool: Any, m: Memory, ids: Any) -> None:
    """Gives back all its blocks; cached ones stay findable, the end of the prompt to be dropped first."""
    if slot.binned:
        m.ints[lane.bins_at + slot.key % pool.block_tokens] -= 1
        slot.blocks = ceil_div(slot.key + lane.granted, pool.block_tokens) - slot.refs * lane.hash_blocks
        slot.binned = 0
    lane.free += slot.blocks
    lane.held -= slot.blocks
    for i in range(slot.refs - 1, -1, -1):
        unrefer(lane, m.cache, lane.cache_at + 3 * ids[slot.hash_at + i])
    slot.refs = 0
    slot.blocks = 0


# -- the heap of decoding sequences, by (gain at which they finish, index)


@hot
def sift_up(ints: Any, keys: int, slots: int, at: int) -> None:
    """Moves an entry towards the root."""
    key, which = ints[keys + at], ints[slots + at]
    while at > 0:
        parent = (at - 1) >> 1
        if ints[keys + parent] <= key:
            break
        ints[keys + at], ints[slots + at] = ints[keys + parent], ints[slots + parent]
        at = parent
    ints[keys + at], ints[slots + at] = key, which


@hot
def sift_down(ints: Any, keys: int, slots: int, at: int, n: int) -> None:
    """Moves an entry away from the root."""
    key, which = ints[keys + at], ints[slots + at]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and ints[keys + child + 1] < ints[keys + child]:
            child += 1
        if ints[keys + child] >= key:
            break
        ints[keys + at], ints[slots + at] = ints[keys + child], ints[slots + child]
        at = child
    ints[keys + at], ints[slots + at] = key, which


@hot
def pop_at(lane: Any, ints: Any, stride: int, at: int) -> int:
    """Takes the entry at a place out of the heap; its slot."""
    keys, slots = lane.heap_at, lane.heap_at + stride
    which = ints[slots + at]
    lane.n -= 1
    n = lane.n
    if at < n:
        ints[keys + at], ints[slots + at] = ints[keys + n], ints[slots + n]
        sift_down(ints, keys, slots, at, n)
        sift_up(ints, keys, slots, at)
    return which


@hot
def join(lane: Any, slot: Any, which: int, pool: Any, ints: Any, control: Any) -> None:
    """A sequence begins to decode: into the heap, the context sum, and the list of those not yet binned."""
    gain = gained(lane, pool, 0)
    keys, slots = lane.heap_at, lane.heap_at + control.heap_stride
    ints[keys + lane.n] = ((gain + slot.osl - slot.gen) << INDEX_BITS) | (slot.index & INDEX_MASK)
    ints[slots + lane.n] = which
    sift_up(ints, keys, slots, lane.n)
    lane.n += 1
    slot.key = slot.isl + slot.gen - gain + pool.decode_tokens - 1
    slot.joined_d = lane.d
    lane.context += slot.isl + slot.gen - gain
    if not control.guarded:
        ints[lane.joined_at + lane.n_joined] = which
        lane.n_joined += 1


@hot
def forget(lane: Any, slot: Any, which: int, pool: Any, ints: Any) -> None:
    """Undoes :func:`join` outside the heap."""
    lane.context -= slot.key - (pool.decode_tokens - 1)
    if not slot.binned:
        for i in range(lane.n_joined):
            if ints[lane.joined_at + i] == which:
                lane.n_joined -= 1
                ints[lane.joined_at + i] = ints[lane.joined_at + lane.n_joined]
                break


# -- growth


@hot
def crossings(lane: Any, ints: Any, block_tokens: int, gain: int) -> int:
    """Blocks that the binned sequences need to go from the gain granted to this one."""
    more = gain - lane.granted
    if more <= 0:
        return 0
    total = 0
    if more >= block_tokens:
        total = (more // block_tokens) * (lane.n - lane.n_joined)
        more %= block_tokens
    bins = lane.bins_at
    phase = (-lane.granted) % block_tokens
    for _ in range(more):
        total += ints[bins + phase]
        phase = phase - 1 if phase else block_tokens - 1
    return total


@hot
def grow(lane: Any, pool: Any, m: Memory, ids: Any, since: float) -> bool:
    """Gives every decoding sequence the blocks of its next tokens; drops the latest where there are too few."""
    if m.control[0].guarded or lane.n == 0:
        return False
    size = pool.block_tokens
    gain = gained(lane, pool, 0)
    dropped = False
    while True:
        need = crossings(lane, m.ints, size, gain)
        for i in range(lane.n_joined):
            slot = m.slots[m.ints[lane.joined_at + i]]
            need += max(0, ceil_div(slot.key + gain, size) - slot.blocks - slot.refs * lane.hash_blocks)
        if need <= available(lane):
            break
        drop_latest(lane, pool, m, ids, since)
        dropped = True
    take(lane, m.cache, need)
    lane.granted = gain
    for i in range(lane.n_joined):
        slot = m.slots[m.ints[lane.joined_at + i]]
        slot.binned = 1
        m.ints[lane.bins_at + slot.key % size] += 1
    lane.n_joined = 0
    return dropped


@jit
def drop_latest(lane: Any, pool: Any, m: Memory, ids: Any, since: float) -> None:
    """Preempts the sequence admitted last; it will be recomputed with the tokens it has."""
    control = m.control[0]
    slots_at = lane.heap_at + control.heap_stride
    best, number = NONE, 0
    for i in range(lane.n):
        if m.slots[m.ints[slots_at + i]].number > number:
            best, number = i, m.slots[m.ints[slots_at + i]].number
    if lane.partial != NONE and m.slots[lane.partial].number > number:
        which = lane.partial
        lane.partial = NONE
        slot = m.slots[which]
    else:
        which = pop_at(lane, m.ints, control.heap_stride, best)
        slot = m.slots[which]
        forget(lane, slot, which, pool, m.ints)
        slot.gen = slot.key - (pool.decode_tokens - 1) - slot.isl + gained(lane, pool, 0)
        if lane.d > slot.joined_d:
            slot.emit_s = lane.last_end_s
        unpend(lane, m, slot.emit_s)
    release(lane, slot, pool, m, ids)
    slot.plen = slot.isl + slot.gen
    slot.done = 0
    pool.preemptions += 1
    slot.next = lane.wait_head
    lane.wait_head = which
    if lane.wait_tail == NONE:
        lane.wait_tail = which
    lane.waiting += 1
    control.waiting += 1


# -- sequences whose next gap between tokens is longer than the next step


@jit
def pend(lane: Any, m: Memory, emit_s: float, count: int) -> None:
    """Notes that so many decoding sequences had their last token at this time."""
    m.pending_s[lane.gaps_at + lane.n_pending] = emit_s
    m.ints[lane.pending_at + lane.n_pending] = count
    lane.n_pending += 1
    lane.pending_total += count


@jit
def unpend(lane: Any, m: Memory, emit_s: float) -> None:
    """One of the sequences that had their last token at this time has gone."""
    base = lane.gaps_at
    for i in range(lane.n_pending):
        if m.pending_s[base + i] == emit_s:
            m.ints[lane.pending_at + i] -= 1
            lane.pending_total -= 1
            if m.ints[lane.pending_at + i] == 0:
                lane.n_pending -= 1
                m.ints[lane.pending_at + i] = m.ints[lane.pending_at + lane.n_pending]
                m.pending_s[base + i] = m.pending_s[base + lane.n_pending]
            return
