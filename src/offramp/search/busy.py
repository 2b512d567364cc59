"""Busy: a simulation that begins in the middle of the day, not in an empty hall.

A run from empty to empty is too kind where requests live long: replicas that decode for minutes never fill, and the last
requests run almost alone. So a run here begins with as many sequences in flight as the rate keeps there, waits for
about one stay until those are forgotten, measures, and goes on sending until the measured ones are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from offramp.core.seeds import derive_seed
from offramp.search.mix import Stream
from offramp.serve import PoolSpec, Requests
from offramp.serve.deploy import decode_base

FORGET: Final = 1.5
"""Mean stays before measuring: the sequences in flight at the beginning hold little context, and must be few by then."""
FOLLOW: Final = 1.0
"""Mean stays of further requests behind the measured ones, so that those do not finish in an emptying hall."""
SHARE: Final = 0.05
"""Least share of the measured requests that runs before them."""
MOST_FRESH: Final = 5
"""Warm-up and followers are at most so many times the measured requests."""
SEED_TOKENS: Final = 16
"""Prompt of a sequence that is in flight at the beginning: its real context would have to be computed first."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests of one run.

    Attributes:
        requests: those in flight at the beginning, then the fresh ones.
        warmup, cooldown: first and last requests that are not measured.
    """

    requests: Requests
    warmup: int
    cooldown: int


def load_at(stream: Stream, specs: Sequence[PoolSpec], rate: float, *, measured: int) -> Load:
    """The requests of a run at a rate, so that ``measured`` of them live in a steady state.

    Args:
        stream: where requests come from.
        specs: pools that serve them together.
        rate: requests per second.
        measured: how many are measured.
    """
    source = stream.requests
    if source.hash_ids is not None:  # conversations cannot begin in their middle
        requests = stream.at(rate, most=measured)
        return Load(requests=requests, warmup=int(SHARE * len(requests)), cooldown=0)
    resident, stay_s = resident_at(specs, source, rate)
    before = int(min(max(SHARE * measured, FORGET * rate * stay_s), MOST_FRESH * measured))
    after = int(min(FOLLOW * rate * stay_s, MOST_FRESH * measured))
    fresh = stream.at(rate, most=measured + before + after)
    begun = _in_flight(source, resident, seed=stream.seed)
    requests = replace(
        fresh, arrival_s=np.concatenate([np.zeros(len(begun[0])), fresh.arrival_s]),
        isl_tokens=np.concatenate([begun[0], fresh.isl_tokens]), osl_tokens=np.concatenate([begun[1], fresh.osl_tokens]),
    )  # fmt: skip
    return Load(requests=requests, warmup=resident + before, cooldown=after)


def resident_at(specs: Sequence[PoolSpec], source: Requests, rate: float) -> tuple[int, float]:
    """How many sequences a rate keeps in decode, and how long one stays there in seconds.

    By Little's law on each virtual engine, n = rate x steps x step(n); from below, so that the stable one of several
    answers is found; at most what the engine may run and its cache can hold.
    """
    isl, osl = float(source.isl_tokens.mean()), float(source.osl_tokens.mean())
    context = float((source.osl_tokens * (source.isl_tokens + source.osl_tokens / 2.0)).sum() / source.osl_tokens.sum())
    decoding = [spec for spec in specs if spec.role != "prefill"]
    lanes = sum(spec.replicas * spec.table.virtual_engines for spec in decoding)
    total, stay_s = 0.0, 0.0
    for spec in decoding:
        table = spec.table
        mine = spec.replicas * table.virtual_engines
        most = min(table.max_seqs, table.max_batch_tokens // table.decode_tokens, table.kv_capacity_tokens / context)
        steps = max(osl - 1.0, 0.0) / table.accept_tokens
        own = 0.0
        if spec.role == "both":
            own = _prefill_s(spec, isl)
        busy = min(rate / lanes * own, 0.95)
        n, step_s = 0.0, 0.0
        for _ in range(40):
            step_s = _step_s(spec, max(n, 1.0), context) / (1.0 - busy)
            wanted = min(rate / lanes * steps * step_s, max(most, 1.0))
            if abs(wanted - n) < 0.01:
                break
            n = wanted
        total += n * mine
        stay_s += steps * step_s * mine / lanes
    return int(total), stay_s


def _step_s(spec: PoolSpec, n: float, context: float) -> float:
    """A decode-only step of so many sequences, in seconds."""
    table = spec.table
    base = float(decode_base(table, np.array([n]))[0])
    attention = np.interp(n, table.seq_grid, table.decode_base_s)
    slope = np.interp(n, table.seq_grid, table.decode_slope_s)
    return base + table.seq_s * n + float(attention + slope * n * context)


def _prefill_s(spec: PoolSpec, isl: float) -> float:
    """What one prompt adds to the steps that it shares with decodes, in seconds."""
    table = spec.table
    piece = min(isl, float(table.max_batch_tokens))
    grid = table.token_grid
    tokens = float(np.interp(piece, grid, table.base_s) - np.interp(1.0, grid, table.base_s))
    each = tokens + float(np.interp(piece, grid, table.prefill_extra_s)) + table.prefill_base_s
    return each * isl / piece + table.pair_s * isl * (isl + 1.0) / 2.0


def _in_flight(source: Requests, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output lengths of sequences met at a random moment: what is left of outputs, long ones more often.

    Source: renewal theory, the rest of an interval that a random moment falls into.
    """
    rng = np.random.default_rng(derive_seed(seed, "in flight"))
    weight = np.cumsum(source.osl_tokens.astype(np.float64))
    which = np.searchsorted(weight, rng.random(count) * weight[-1], side="right")
    osl = source.osl_tokens[np.minimum(which, len(weight) - 1)]
    left = np.maximum(np.ceil(rng.random(count) * osl), 1.0).astype(np.int64)
    return np.full(count, SEED_TOKENS, dtype=np.int64), left
