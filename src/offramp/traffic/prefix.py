"""Shared prefixes: prompts that begin alike, as system prompts, tools and conversations make them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np

from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.traffic.trace import I8, Trace

_ROUNDS = 24  # halvings of the search for the number of turns
_SAMPLE = 8000  # requests that the search is made on


class Prefix(Record):
    """How prompts share their beginnings.

    A request belongs to a conversation; each turn's prompt begins with the one before it. Conversations belong to
    applications, whose system prompt and tools open every prompt. Both show as equal block ids.

    Attributes:
        share: share of input tokens that an unlimited prefix cache would have had; the turns per conversation are
            chosen to meet it.
        block_tokens: tokens of one block.
        applications: different system prompts; the i-th is used in proportion to 1 / i.
        system_tokens: mean length of a system prompt.
        concurrent: conversations that interleave.
    """

    share: float = 0.4
    block_tokens: int = 512
    applications: int = 8
    system_tokens: float = 1024.0
    concurrent: int = 64

    def with_share(self, share: float, *, where: str = "") -> Prefix:
        """The same structure with another share.

        Raises:
            InputError: not within 0 to 0.95.
        """
        if not 0 <= share <= 0.95:
            raise InputError(f"a shared share of {share:g}", where=where, mend="Give one of 0 to 0.95.")
        return msgspec.structs.replace(self, share=share)


def add_prefix(trace: Trace, prefix: Prefix, *, seed: int) -> Trace:
    """The trace with block ids whose sharing is as asked, as nearly as its lengths allow (a note says how nearly).

    System prompts alone share something; where that is too much they are shortened, else conversations get turns.

    Args:
        trace: requests without blocks.
        prefix: how they share.
        seed: of the stream.
    """
    if prefix.share <= 0 or len(trace) < 2:
        return _with_blocks(trace, msgspec.structs.replace(prefix, applications=0), 1.0, seed)
    probe = trace.head(_SAMPLE)

    def of(system: float, turns: float) -> float:
        return _with_blocks(probe, _shorter(prefix, system), turns, seed).prefix_share()

    system, turns = 1.0, 1.0
    if of(1.0, 1.0) > prefix.share:
        system = _solve(lambda knob: of(knob, 1.0), 1.0 / 1024.0, 1.0, prefix.share)
    else:
        turns = _solve(lambda knob: of(1.0, knob), 1.0 + 1.0 / 1024.0, float(len(probe)), prefix.share)
    result = _with_blocks(trace, _shorter(prefix, system), turns, seed)
    reached = result.prefix_share()
    note = f"prefix share {reached:.3f} with {turns:.3g} turns per conversation"
    if abs(reached - prefix.share) > 0.03:
        note += f"; {prefix.share:.3f} was asked for"
    return replace(result, notes=(*result.notes, note))


def _shorter(prefix: Prefix, factor: float) -> Prefix:
    return msgspec.structs.replace(prefix, system_tokens=prefix.system_tokens * factor)


def _solve(share: Callable[[float], float], low: float, high: float, wanted: float) -> float:
    """The knob between ``low`` and ``high`` (positive) whose share, which grows with it, is nearest to ``wanted``."""
    best = (math.inf, low)
    for _ in range(_ROUNDS):
        knob = math.sqrt(low * high)
        found = share(knob)
        best = min(best, (abs(found - wanted), knob))
        if abs(found - wanted) < 0.002:
            break
        low, high = (knob, high) if found < wanted else (low, knob)
    return best[1]


def _with_blocks(trace: Trace, prefix: Prefix, turns: float, seed: int) -> Trace:
    n, block = len(trace), prefix.block_tokens
    talk = _conversations(n, turns, prefix.concurrent, seed) if turns > 1 else np.arange(n)
    isl = _grow(trace.isl_tokens, talk) if turns > 1 else trace.isl_tokens
    osl = trace.osl_tokens
    app, system = _applications(int(talk.max()) + 1, prefix, seed)
    blocks = -(-isl // block)
    offsets = np.concatenate(([0], np.cumsum(blocks))).astype(np.int64)
    row = np.repeat(np.arange(n), blocks)
    place = np.arange(offsets[-1]) - offsets[:-1][row]
    # ids: applications first, then one range per conversation as long as its longest prompt, then partial last blocks
    most = int(blocks.max())
    own = system[app[talk]] if prefix.applications else np.zeros(n, dtype=np.int64)
    base = max(prefix.applications, 1) * most
    ids = base + talk[row] * most + place
    common = place < own[row]
    if prefix.applications:
        ids = np.where(common, app[talk][row] * most + place, ids)
    partial = (isl % block != 0)[row] & (place == blocks[row] - 1)
    ids = np.where(partial, base + (int(talk.max()) + 1) * most + row, ids)
    return replace(
        trace, isl_tokens=isl, osl_tokens=osl, hash_ids=ids.astype(np.int64), hash_offsets=offsets, block_tokens=block
    )


def _conversations(n: int, turns: float, concurrent: int, seed: int) -> I8:
    """The conversation of each request: ``concurrent`` of them interleave, each with ``turns`` requests on average."""
    count = max(1, round(n / max(turns, 1.0)))
    span = min(max(1, concurrent), count)
    start = np.arange(n) * (count / n)  # conversations begin at an even pace
    rng = np.random.default_rng(derive_seed(seed, "conversations"))
    return np.minimum((start + rng.random(n) * span).astype(np.int64), count - 1 + span - 1)


def _grow(isl: I8, talk: I8) -> I8:
    """The same lengths, dealt so that prompts of one conversation grow from turn to turn."""
    n = len(isl)
    by_turn = np.lexsort((np.arange(n), talk))
    by_length = np.lexsort((isl, talk))
    grown = np.empty(n, dtype=np.int64)
    grown[by_turn] = isl[by_length]
    return grown


def _applications(conversations: int, prefix: Prefix, seed: int) -> tuple[I8, I8]:
    """The application of each conversation, and the whole blocks of each application's system prompt."""
    if not prefix.applications:
        return np.zeros(conversations, dtype=np.int64), np.zeros(1, dtype=np.int64)
    weight = 1.0 / np.arange(1, prefix.applications + 1)
    rng = np.random.default_rng(derive_seed(seed, "applications"))
    app = rng.choice(prefix.applications, size=conversations, p=weight / weight.sum())
    lengths = np.random.default_rng(derive_seed(seed, "system prompts"))
    system = lengths.exponential(prefix.system_tokens, prefix.applications)
    return app.astype(np.int64), np.rint(system / prefix.block_tokens).astype(np.int64)
