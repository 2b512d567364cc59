"""From a setting and a pool to the step table that the serving simulator runs on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.cost.layout import Pool
from offramp.cost.memory import kv_bytes_per_sequence, memory_table
from offramp.cost.operators import Shard, Steps
from offramp.cost.step import Setting, launch_time, split_time
from offramp.cost.table import StepTable

F8 = npt.NDArray[np.float64]

GRAPH_GRID = np.array(
    [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024], dtype=float
)


def shard_of(pool: Pool, n: int) -> Shard:
    """The pool's parallel degrees, repeated ``n`` times."""
    one = np.ones(n)
    return Shard(tp=one * pool.tp, pp=one * pool.pp, dp=one * pool.dp, ep=one * pool.ep)


def _grid(top: float) -> F8:
    beyond = np.geomspace(1024, max(top, 1025), 17)[1:] if top > 1024 else np.empty(0)
    return np.concatenate([GRAPH_GRID[GRAPH_GRID <= top], beyond])


@dataclass(frozen=True)
class _Priced:
    """What the table is made of, priced together because one call costs little more for many steps.

    Attributes:
        near, far: decode steps at half and one and a half times the mean context. [h]
        base, shared: steps without attention; the part that expert-parallel ranks share. [g]
        chunk, more: a step with one chunk and some attention pairs, and with twice as many.
        launch: what of a prefill step is host time of launches.
    """

    near: F8
    far: F8
    base: F8
    shared: F8
    chunk: float
    more: float
    launch: float


def _priced(
    setting: Setting, pool: Pool, *, seqs: F8, tokens: F8, contexts: tuple[float, float], q: float, pairs: float
) -> _Priced:
    """Prices all steps of a table; ``setting`` has one draw."""
    h, g = seqs.size, tokens.size
    probe = np.full(2, min(512.0, float(tokens[-1])))
    many = np.concatenate([seqs, seqs, np.zeros(g + 2)])
    empty, chunks = np.zeros(2 * h + g), np.ones(2)
    steps = Steps(
        tokens=np.concatenate([seqs * q, seqs * q, tokens, probe]), decode_seqs=many,
        decode_context=np.concatenate([seqs * contexts[0], seqs * contexts[1], np.zeros(g + 2)]),
        prefill_pairs=np.concatenate([empty, [pairs, 2.0 * pairs]]), chunks=np.concatenate([empty, chunks]),
        decode_tokens=q,
    )  # fmt: skip
    whole, shared = (part[0] for part in split_time(setting, shard_of(pool, 2 * h + g + 2), steps))
    cut = 2 * h + g
    return _Priced(
        near=whole[:h], far=whole[h : 2 * h], base=whole[2 * h : cut], shared=shared[2 * h : cut],
        chunk=float(whole[cut]), more=float(whole[cut + 1]), launch=_launch(setting, pool, float(probe[0])),
    )  # fmt: skip


def _launch(setting: Setting, pool: Pool, tokens: float) -> float:
    """Host time of the launches of a prefill step, in seconds."""
    one, none = np.ones(1), np.zeros(1)
    steps = Steps(tokens=tokens * one, decode_seqs=none, decode_context=none, prefill_pairs=none, chunks=one)
    return float((launch_time(setting, shard_of(pool, 1), steps) * setting.parameters.pace)[0, 0])


def step_table(
    setting: Setting, pool: Pool, *, draw: int, mean_context: float, decode_tokens: int = 1, accept_tokens: float = 1.0,
    block_tokens: int = 16,
) -> StepTable:  # fmt: skip
    """Step costs of one replica for one parameter draw.

    Decode attention is linearised in the context between half and one and a half times ``mean_context``; with
    windows, compression or sparse selection that is where the workload lives.

    Args:
        setting: model, device, precision, parameters, routing.
        pool: layout.
        draw: index of the parameter draw.
        mean_context: typical tokens in a decoding sequence; also taken as the prompt that the tokeniser reads.
        decode_tokens, accept_tokens: speculation: tokens scheduled and gained per sequence and step.
        block_tokens: KV block.
    """
    one_draw = Setting(
        model=setting.model, device=setting.device, precision=setting.precision,
        parameters=setting.parameters.take([draw]), routing=setting.routing, graph=setting.graph,
    )  # fmt: skip
    seqs = _grid(float(max(pool.max_seqs, 2)))
    q = float(decode_tokens)
    low, high = 0.5 * mean_context, 1.5 * mean_context
    tokens = _grid(float(max(pool.max_batch_tokens, 2)))
    pairs = 1e6
    priced = _priced(one_draw, pool, seqs=seqs, tokens=tokens, contexts=(low, high), q=q, pairs=pairs)
    near, far, base = priced.near, priced.far, priced.base
    slope = np.maximum((far - near) / (seqs * (high - low)), 0.0)
    p = one_draw.parameters
    seq_s = float(p.seq_host_s[0, 0])
    at_seqs = np.interp(seqs * q, tokens, base)
    decode_base = np.maximum(near - slope * seqs * low - at_seqs - seq_s * seqs, 0.0)
    pair_s = (priced.more - priced.chunk) / pairs
    flat = float(np.interp(min(512.0, float(tokens[-1])), tokens, base))
    prefill_base = max(priced.chunk - pair_s * pairs - flat - seq_s, 0.0)
    capacity = memory_table(
        setting.model, setting.precision, shard_of(pool, 1), setting.device, context_tokens=np.array([mean_context]),
        max_batch_tokens=np.array([float(pool.max_batch_tokens)]), reserve_share=p.memory_reserve[:, 0],
        mtp=decode_tokens > 1,
    )  # fmt: skip
    slot_tokens = capacity["kv_capacity_tokens"][0] // pool.pp  # the micro-batches of a pipeline share the cache
    context = np.array([mean_context])
    per_token = kv_bytes_per_sequence(setting.model, setting.precision, shard_of(pool, 1), context) / context
    together = pool.dp > 1 and pool.ep > 1
    return StepTable(
        shared_s=priced.shared if together else None, token_grid=tokens, base_s=base,
        prefill_extra_s=np.full_like(tokens, min(priced.launch, prefill_base)), seq_grid=seqs,
        decode_base_s=decode_base, decode_slope_s=slope, prefill_base_s=max(prefill_base - priced.launch, 0.0), pair_s=pair_s,
        seq_s=seq_s, kv_capacity_tokens=int(min(slot_tokens, 2.0**53)),
        virtual_engines=pool.dp * pool.pp, synchronised=together, block_tokens=block_tokens,
        max_batch_tokens=pool.max_batch_tokens, max_seqs=pool.max_seqs, decode_tokens=decode_tokens,
        accept_tokens=accept_tokens, kv_bytes_per_token=float(per_token[0]) * pool.tp * pool.pp,
        first_token_s=float(p.first_token_s[0, 0] + p.prompt_token_s[0, 0] * mean_context),
    )  # fmt: skip
