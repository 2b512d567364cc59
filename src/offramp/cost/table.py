"""StepTable: everything that the serving simulator needs to know about one replica's engine steps.

The cost model evaluates operators once per layout on small grids; the simulator then prices a step in O(1).
For one *virtual engine* (one data-parallel attention rank; one micro-batch slot of a pipeline) a step that
schedules ``T`` tokens, of which ``n`` sequences decode with ``S`` context tokens in total, and prefill chunks with
``P`` (query token, context token) attention pairs in ``c`` chunks, takes

    base(T) + seq_s * (n + c)
      + (decode_base(n) + decode_slope(n) * S        if n > 0)
      + (prefill_extra(T) + prefill_base * c + pair_s * P   if c > 0)

Ranks that step together (``synchronised``) take as long as the slowest, but for ``shared``, which is that of their mean
tokens. ``base``, ``decode_base``, ``decode_slope`` and ``prefill_extra`` are linear between grid points (grids are dense
where captured graphs pad or tiles fill). Between two events a run of ``k`` decode-only steps therefore costs
``k*c + g*(k*S + n*k*(k-1)/2)``: the arithmetic series that the event-jump kernel sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StepTable:
    """Step costs and capacity of one replica, for one parameter draw.

    Attributes:
        token_grid: ascending token counts, first 0 or 1. [g]
        base_s: step time without attention at each token count, in seconds. [g]
        shared_s: the part of ``base_s`` that synchronised ranks work off together (routed experts and their exchange): it
            depends on the mean tokens of all ranks, the rest on those of the slowest. None: there is no such part. [g]
        prefill_extra_s: added when the step holds prefill (no captured graph), in seconds. [g]
        seq_grid: ascending numbers of decode sequences, first 1. [h]
        decode_base_s: context-free part of decode attention, in seconds. [h]
        decode_slope_s: seconds per context token of decode attention. [h]
        prefill_base_s: fixed cost of one prefill chunk, in seconds.
        pair_s: seconds per (query token, context token) pair of prefill attention.
        seq_s: host cost per scheduled sequence, in seconds.
        virtual_engines: data-parallel attention ranks x pipeline micro-batch slots; each runs its own batches.
        synchronised: whether those ranks step together (expert parallel), so that a step costs the slowest rank's.
        kv_capacity_tokens: KV tokens that fit on ONE virtual engine.
        block_tokens: tokens per KV block.
        max_batch_tokens: token budget of one step of ONE virtual engine.
        max_seqs: most sequences of ONE virtual engine.
        decode_tokens: tokens a decoding sequence schedules per step (1 + draft tokens).
        accept_tokens: mean tokens a decoding sequence gains per step (1 + accepted draft tokens).
        kv_bytes_per_token: of the whole replica's KV of one token, for transfers.
        transfer_s_per_token, transfer_base_s: KV transfer out of this pool (disaggregated prefill), per token
            and per request; 0 where there is none.
        first_token_s: host time from arrival to the first schedulable moment plus detokenisation of the first token
            (tokeniser at a mean prompt, HTTP, scheduler tick), in seconds.
        context_tokens: longest prompt plus output that the model takes; 0 is no limit.
        graph_sizes: token counts of captured graphs, ascending; a decode-only step is padded up to the next one,
            one beyond the last runs as it is. None: no padding (or ``base_s`` holds the stairs already). [s]
        mixed_steps: whether one step may hold decodes and prefill chunks (vLLM); otherwise a step that can
            prefill does only that, and decodes wait (SGLang's default, MindIE).
    """

    token_grid: F8
    base_s: F8
    prefill_extra_s: F8
    seq_grid: F8
    decode_base_s: F8
    decode_slope_s: F8
    prefill_base_s: float
    pair_s: float
    seq_s: float
    kv_capacity_tokens: int
    virtual_engines: int = 1
    synchronised: bool = False
    block_tokens: int = 16
    max_batch_tokens: int = 8192
    max_seqs: int = 256
    decode_tokens: int = 1
    accept_tokens: float = 1.0
    kv_bytes_per_token: float = 0.0
    transfer_s_per_token: float = 0.0
    transfer_base_s: float = 0.0
    first_token_s: float = 0.0
    context_tokens: int = 0
    graph_sizes: npt.NDArray[np.int64] | None = None
    mixed_steps: bool = True
    shared_s: F8 | None = None
