"""From a setting and a pool to the step table that the serving simulator runs on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offramp.cost.layout import Pool
from offramp.cost.memory import kv_bytes_per_sequence, memory_table
from offramp.cost.operators import Shard, Steps
from offramp.cost.step import Setting, shared_time, step_time
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


def _seconds(
    setting: Setting, pool: Pool, draw: int, *, tokens: F8, chunks: float = 0.0, prefill_pairs: float = 0.0
) -> F8:
    zero = np.zeros_like(tokens)
    steps = Steps(
        tokens=tokens, decode_seqs=zero, decode_context=zero, prefill_pairs=zero + prefill_pairs, chunks=zero + chunks
    )  # fmt: skip
    total: F8 = step_time(setting, shard_of(pool, tokens.shape[0]), steps).total[draw]
    return total


def _shared(setting: Setting, pool: Pool, tokens: F8) -> F8:
    zero = np.zeros_like(tokens)
    steps = Steps(tokens=tokens, decode_seqs=zero, decode_context=zero, prefill_pairs=zero, chunks=zero)
    found: F8 = shared_time(setting, shard_of(pool, tokens.shape[0]), steps)[0]
    return found


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
        mean_context: typical tokens in a decoding sequence.
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
    shard = shard_of(pool, seqs.size)

    def decode(context: float, tokens: F8) -> F8:
        steps = Steps(
            tokens=tokens, decode_seqs=seqs, decode_context=seqs * context, prefill_pairs=np.zeros_like(seqs),
            chunks=np.zeros_like(seqs), decode_tokens=q,
        )  # fmt: skip
        total: F8 = step_time(one_draw, shard, steps).total[0]
        return total

    near, far = decode(low, seqs * q), decode(high, seqs * q)
    slope = np.maximum((far - near) / (seqs * (high - low)), 0.0)
    p = one_draw.parameters
    seq_s = float(p.seq_host_s[0, 0])
    tokens = _grid(float(max(pool.max_batch_tokens, 2)))
    base = _seconds(one_draw, pool, 0, tokens=tokens)
    at_seqs = np.interp(seqs * q, tokens, base)
    decode_base = np.maximum(near - slope * seqs * low - at_seqs - seq_s * seqs, 0.0)
    pairs = 1e6
    probe = np.minimum(512.0, tokens[-1:])
    chunk = _seconds(one_draw, pool, 0, tokens=probe, chunks=1.0, prefill_pairs=pairs)
    more = _seconds(one_draw, pool, 0, tokens=probe, chunks=1.0, prefill_pairs=2 * pairs)
    pair_s = float((more - chunk)[0] / pairs)
    flat = float(np.interp(probe[0], tokens, base))
    prefill_base = max(float(chunk[0]) - pair_s * pairs - flat - seq_s, 0.0)
    launch = float(setting.model.layer_count) * float(p.prefill_layer_s[0, 0])
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
        shared_s=_shared(one_draw, pool, tokens) if together else None, token_grid=tokens, base_s=base,
        prefill_extra_s=np.full_like(tokens, min(launch, prefill_base)), seq_grid=seqs,
        decode_base_s=decode_base, decode_slope_s=slope, prefill_base_s=max(prefill_base - launch, 0.0), pair_s=pair_s,
        seq_s=seq_s, kv_capacity_tokens=int(min(slot_tokens, 2.0**53)),
        virtual_engines=pool.dp * pool.pp, synchronised=together, block_tokens=block_tokens,
        max_batch_tokens=pool.max_batch_tokens, max_seqs=pool.max_seqs, decode_tokens=decode_tokens,
        accept_tokens=accept_tokens, kv_bytes_per_token=float(per_token[0]) * pool.tp * pool.pp,
        first_token_s=float(p.first_token_s[0, 0]),
    )  # fmt: skip
