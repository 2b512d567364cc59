"""Operators of one engine step: FLOP, bytes, kernels and messages, per device, for arrays of layouts and batches.

All quantities are arrays of one length ``n``: entry ``i`` is one (layout, batch) pair, so that a search prices a
hundred thousand pairs in one call. Tokens are those of one data-parallel attention rank and one pipeline
micro-batch; a device's share follows from the layout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from offramp.arch.count import INDEX_SCALE_BYTES, mixer_matrices, state_bytes
from offramp.arch.record import Attention, LayerGroup, Mlp, Model
from offramp.cost.precision import ACTIVATION_BYTES, KV_BYTES, WEIGHT_BYTES, Precision
from offramp.cost.routing import rank_imbalance, touched_experts

F8 = npt.NDArray[np.float64]
Family = Literal[
    "gemm", "grouped", "prefill", "prefill_mla", "decode", "decode_mla", "vector", "index",
]  # fmt: skip
MessageKind = Literal["all-reduce", "all-to-all", "send"]

GROUPED_TILE_ROWS = 16.0
"""Rows that a grouped GEMM pads each expert to: the smallest tensor-core tile. H20 and H800 grouped GEMM tables
(alibaba/InferSim) fit 16 to 32."""
GROUPED_TILE_ROWS_4BIT = 8.0
"""The same for 4-bit weights, whose kernels swap the operands so that experts' few rows are the narrow side (n8)."""

# How tensor parallelism splits a mixer's matrices; what is not listed is split by columns. Source: Megatron-LM
# (arXiv 1909.08053) for q, k, v, o; the latent down-projections of MLA are replicated on every rank
# (vLLM and SGLang: ReplicatedLinear q_a_proj, kv_a_proj_with_mqa).
_SHARDING = {
    "o_proj": "row", "o_b_proj": "row", "q_a_proj": "replicated", "kv_a_proj": "replicated",
    "index_q_proj": "replicated", "index_k_proj": "replicated", "index_weights_proj": "replicated",
    "compress_proj": "replicated", "index_compress_proj": "replicated", "decay_a_proj": "replicated",
    "gate_a_proj": "replicated",
}  # fmt: skip


def _entries(layer: Attention, context: F8) -> F8:
    """Cache entries that one query reads of ``context`` tokens: window, compressed entries, chosen entries."""
    if layer.compress_ratio > 1:
        far = context / layer.compress_ratio
        far = np.minimum(far, float(layer.sparse_topk)) if layer.sparse_topk else far
        return far + np.minimum(context, float(layer.window_tokens))
    limit = float(layer.window_tokens or layer.sparse_topk)
    return np.minimum(context, limit) if limit else context


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Parallel degrees, one entry per priced pair. [n]"""

    tp: F8
    pp: F8
    dp: F8
    ep: F8

    @property
    def moe_tp(self) -> F8:
        """Tensor-parallel degree inside one expert: what of tp x dp the expert ranks leave."""
        return np.maximum(self.tp * self.dp / self.ep, 1.0)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a step schedules on one rank, one entry per priced pair. [n]

    Attributes:
        tokens: all scheduled tokens.
        decode_seqs: sequences that decode.
        decode_context: their context tokens in total.
        prefill_pairs: (query, context) token pairs of prefill attention.
        chunks: prefill chunks.
        decode_tokens: tokens per decoding sequence (1 + draft tokens).
        peer_tokens: tokens of each other attention rank, with which it shares the experts; None: as many as here. [n]
    """

    tokens: F8
    decode_seqs: F8
    decode_context: F8
    prefill_pairs: F8
    chunks: F8
    decode_tokens: float = 1.0
    peer_tokens: F8 | None = None

    @property
    def prefill_tokens(self) -> F8:
        """Tokens that belong to prefill chunks."""
        return np.maximum(self.tokens - self.decode_seqs * self.decode_tokens, 0.0)


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operator on one device, ``layers`` times.

    Attributes:
        name: for explanations ("qkv", "experts up").
        family: which efficiency curve prices it.
        dtype: the peak it runs against.
        flop, stream_bytes: work and memory traffic of one execution. [n]
        kernels: launches of one execution; 0 where the work is absent. [n] or scalar
        layers: executions per step.
        resident_bytes: weights that one layer of it keeps on the device. [n] or scalar
        decode_only: it exists only for decoding sequences (and is 0 without them).
    """

    name: str
    family: Family
    dtype: str
    flop: F8
    stream_bytes: F8
    kernels: F8
    layers: float
    resident_bytes: F8 = field(default_factory=lambda: np.zeros(1))


@dataclass(frozen=True, kw_only=True)
class Message:
    """One collective of one layer, ``layers`` times; bytes per device. [n]"""

    kind: MessageKind
    payload_bytes: F8
    ranks: F8
    layers: float


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Routing assumptions of a mixture-of-experts model.

    Attributes:
        skew: Zipf exponent of expert popularity (0 = uniform).
        balanced: share of the popularity spread that expert replication removes.
    """

    skew: float = 0.3
    balanced: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operators and messages of one step."""

    ops: tuple[Op, ...]
    messages: tuple[Message, ...]


def step_work(model: Model, precision: Precision, shard: Shard, steps: Steps, routing: Traffic) -> Work:
    """Operators and messages of one step of ``model`` on one device."""
    ops: list[Op] = []
    messages: list[Message] = []
    build = _Builder(model=model, precision=precision, shard=shard, steps=steps, routing=routing)
    for group in model.layers:
        ops += build.attention(group)
        ops += build.mlp(group)
        ops.append(build.vector(group))
        messages += build.layer_messages(group)
    ops += build.head()
    hops = shard.pp - 1.0
    if np.any(hops > 0):
        payload = steps.tokens * model.hidden * ACTIVATION_BYTES / shard.tp
        messages.append(
            Message(kind="send", payload_bytes=payload * hops, ranks=np.where(hops > 0, 2.0, 1.0), layers=1.0)
        )
    return Work(ops=tuple(ops), messages=tuple(messages))


@dataclass(frozen=True, kw_only=True)
class _Builder:
    model: Model
    precision: Precision
    shard: Shard
    steps: Steps
    routing: Traffic

    def gemm(self, name: str, *, n: F8 | float, k: F8 | float, part: str, layers: float, m: F8 | None = None) -> Op:
        """A dense GEMM of ``m`` rows (the step's tokens by default), ``n`` columns and inner length ``k``."""
        rows = self.steps.tokens if m is None else m
        stored = getattr(self.precision, part)
        compute = getattr(self.precision, f"{part}_compute", self.precision.attention_compute)
        compute = "bf16" if part == "head" else compute
        weight = np.asarray(n * k * WEIGHT_BYTES[stored], dtype=np.float64) + np.zeros_like(rows)
        present = np.minimum(rows, 1.0)
        moved = weight * present + rows * (k * KV_BYTES.get(compute, ACTIVATION_BYTES) + n * ACTIVATION_BYTES)
        if compute == "int8" and self.precision.dynamic_quant:  # reads BF16 activations, writes INT8
            moved = moved + rows * k * 3.0
        return Op(
            name=name, family="gemm", dtype=compute, flop=2.0 * rows * n * k, stream_bytes=moved,
            kernels=present, layers=layers, resident_bytes=weight,
        )  # fmt: skip

    # ---- attention -------------------------------------------------------------------------------------------

    def attention(self, group: LayerGroup) -> list[Op]:
        """Projections and attention kernels of a layer group."""
        layer, layers = group.attention, float(group.count)
        ops = self._projections(layer, layers)
        if layer.kind == "mla":
            ops += [*self._indexer(layer, layers), *self._mla(layer, layers)]
        elif layer.kind == "gqa":
            ops += [*self._indexer(layer, layers), *self._gqa(layer, layers)]
        elif layer.kind in ("linear", "ssm"):
            ops += self._state(layer, layers)
        return ops

    def _projections(self, layer: Attention, layers: float) -> list[Op]:
        """GEMMs of a mixer; matrices that read the same input and shard alike run as one."""
        fused: dict[tuple[int, str], F8] = {}
        for matrix in mixer_matrices(layer, self.model.hidden):
            way = _SHARDING.get(matrix.name, "column")
            width = np.zeros_like(self.shard.tp) + float(matrix.n * matrix.used)
            if way == "column":
                heads = float(layer.kv_heads) if matrix.name in ("k_proj", "v_proj") else 0.0
                ranks = np.minimum(self.shard.tp, heads) if heads else self.shard.tp  # kv heads replicate beyond n_kv
                width = width / ranks
            fused[(matrix.k, way)] = fused.get((matrix.k, way), np.zeros_like(self.shard.tp)) + width
        ops: list[Op] = []
        for (k, way), width in fused.items():
            inner = k / self.shard.tp if way == "row" else float(k)
            ops.append(self.gemm(f"attention {way} k={k}", n=width, k=inner, part="attention", layers=layers))
        return ops

    def _reads(self, layer: Attention) -> tuple[F8, F8]:
        """Cache entries that decode reads, and prefill pairs, after windows, compression and sparse selection."""
        seqs = np.maximum(self.steps.decode_seqs, 1e-9)
        queries = np.maximum(self.steps.prefill_tokens, 1e-9)
        context = self.steps.decode_context / seqs
        back = self.steps.prefill_pairs / queries
        return seqs * _entries(layer, context), queries * _entries(layer, back)

    def _gqa(self, layer: Attention, layers: float) -> list[Op]:
        heads = np.maximum(layer.heads / self.shard.tp, 1.0)
        kv_share = np.maximum(layer.kv_heads / self.shard.tp, 1.0) / max(layer.kv_heads, 1)
        entries, pairs = self._reads(layer)
        width = float(layer.head_dim + layer.v_head_dim)
        stored = float(layer.kv_heads * (layer.head_dim + (0 if layer.kv_cache_shared else layer.v_head_dim)))
        moved = entries * kv_share * stored * KV_BYTES[self.precision.kv]
        flop = 2.0 * self.steps.decode_tokens * entries * heads * width
        prefill_width = layer.kv_heads * kv_share * width
        wide = layer.kv_cache_shared and layer.head_dim >= 256  # one latent for all heads: the kernel of MLA
        decode, prefill = ("decode_mla", "prefill_mla") if wide else ("decode", "prefill")
        return [
            self._decode(decode, layers, flop=flop, moved=moved),
            self._prefill(prefill, layers, flop=2.0 * pairs * heads * width, width=prefill_width),
        ]

    def _mla(self, layer: Attention, layers: float) -> list[Op]:
        heads = np.maximum(layer.heads / self.shard.tp, 1.0)
        latent, rope = float(layer.kv_lora_rank), float(layer.rope_head_dim)
        entries, pairs = self._reads(layer)
        per_pair = layer.nope_head_dim + rope + layer.v_head_dim
        if layer.sparse_topk:  # sparse prefill runs absorbed over the latent, as decode does
            per_pair = 2.0 * latent + rope
        absorbed = 2.0 * latent + rope
        flop = 2.0 * self.steps.decode_tokens * entries * heads * absorbed
        moved = entries * (latent + rope) * KV_BYTES[self.precision.kv]  # the latent lies on every TP rank
        return [
            self._decode("decode_mla", layers, flop=flop, moved=moved),
            self._prefill("prefill_mla", layers, flop=2.0 * pairs * heads * per_pair, width=heads * per_pair),
        ]

    def _decode(self, family: Family, layers: float, *, flop: F8, moved: F8) -> Op:
        present = np.minimum(self.steps.decode_seqs, 1.0)
        return Op(
            name="decode attention", family=family, dtype=self.precision.attention_math, flop=flop, stream_bytes=moved,
            kernels=present, layers=layers,
        )  # fmt: skip

    def _prefill(self, family: Family, layers: float, *, flop: F8, width: F8 | float) -> Op:
        moved = self.steps.prefill_tokens * width * ACTIVATION_BYTES * 2.0
        return Op(
            name="prefill attention", family=family, dtype="bf16", flop=flop, stream_bytes=moved,
            kernels=np.minimum(self.steps.chunks, 1.0), layers=layers,
        )  # fmt: skip

    def _indexer(self, layer: Attention, layers: float) -> list[Op]:
        """Sparse attention's indexer reads every (compressed) context token's small key and scores it."""
        if not layer.index_heads or layer.index_shared:
            return []
        steps, dim, heads = self.steps, float(layer.index_head_dim), float(layer.index_heads)
        ratio = float(max(layer.compress_ratio, 1))
        scored = (steps.decode_tokens * steps.decode_context + steps.prefill_pairs) / ratio
        return [
            Op(
                name="index", family="index", dtype=self.precision.attention_compute, flop=2.0 * scored * heads * dim,
                stream_bytes=steps.decode_context / ratio * (dim + INDEX_SCALE_BYTES),
                kernels=2.0 * np.minimum(steps.tokens, 1.0), layers=layers,
            )
        ]  # fmt: skip

    def _state(self, layer: Attention, layers: float) -> list[Op]:
        """Linear attention or a state-space layer: a state that every sequence reads and writes at each step."""
        state = state_bytes(layer, self.model.hidden) / self.shard.tp
        elements = state / layer.state_bytes_per_element
        steps = self.steps
        decoding = steps.decode_seqs * steps.decode_tokens
        return [
            Op(
                name="state update", family="decode", dtype="bf16", flop=6.0 * decoding * elements,
                stream_bytes=2.0 * steps.decode_seqs * state, kernels=2.0 * np.minimum(steps.decode_seqs, 1.0),
                layers=layers,
            ),
            Op(
                name="state scan", family="prefill", dtype="bf16", flop=6.0 * steps.prefill_tokens * elements,
                stream_bytes=8.0 * steps.prefill_tokens * self.model.hidden * ACTIVATION_BYTES / self.shard.tp,
                kernels=4.0 * np.minimum(steps.chunks, 1.0), layers=layers,
            ),
        ]  # fmt: skip

    # ---- feed-forward ----------------------------------------------------------------------------------------

    def mlp(self, group: LayerGroup) -> list[Op]:
        """Feed-forward operators of a layer group."""
        layer, layers = group.mlp, float(group.count)
        if layer.kind == "dense":
            return self._dense(layer.intermediate, layers, gated=layer.gated)
        if layer.kind == "moe":
            ops: list[Op] = []
            for width, prefix in ((layer.shared_intermediate, "shared "), (layer.intermediate, "")):
                ops += self._dense(width, layers, gated=layer.gated, prefix=prefix) if width else []
            return [*ops, self._router(layer, layers), *self._experts(layer, layers)]
        return []

    def _dense(self, width: int, layers: float, *, gated: bool, prefix: str = "") -> list[Op]:
        tp, hidden = self.shard.tp, float(self.model.hidden)
        fan = 2.0 if gated else 1.0
        return [
            self.gemm(f"{prefix}mlp up", n=fan * width / tp, k=hidden, part="dense", layers=layers),
            self.gemm(f"{prefix}mlp down", n=hidden, k=width / tp, part="dense", layers=layers),
        ]

    def _router(self, layer: Mlp, layers: float) -> Op:
        return self.gemm("router", n=float(layer.experts), k=float(self.model.hidden), part="head", layers=layers)

    def _experts(self, layer: Mlp, layers: float) -> list[Op]:
        """Grouped GEMMs of the busiest rank: its rows, the weights of the experts it touches, tile padding."""
        shard, hidden = self.shard, float(self.model.hidden)
        steps = self.steps
        tokens = steps.tokens + (shard.dp - 1.0) * (steps.tokens if steps.peer_tokens is None else steps.peer_tokens)
        width = layer.expert_intermediate / shard.moe_tp
        touched = touched_experts(layer.experts, layer.experts_per_token, self.routing.skew, tokens) / shard.ep
        busy = rank_imbalance(
            layer.experts, layer.experts_per_token, self.routing.skew, ranks=shard.ep, tokens=tokens,
            balanced=self.routing.balanced,
        )  # fmt: skip
        rows = tokens * layer.experts_per_token / shard.ep * busy
        touched = np.minimum(touched * np.sqrt(busy), np.minimum(layer.experts / shard.ep, np.maximum(rows, 1e-9)))
        stored, compute = self.precision.experts, self.precision.experts_compute
        tile = GROUPED_TILE_ROWS_4BIT if stored in ("fp4", "int4") else GROUPED_TILE_ROWS
        padded = np.maximum(rows, touched * tile * np.minimum(rows, 1.0))
        fan = 2.0 if layer.gated else 1.0
        outer = float(layer.expert_hidden or hidden)
        ops: list[Op] = []
        for name, n, k in (("experts up", fan * width, outer), ("experts down", outer, width)):
            one = n * k * WEIGHT_BYTES[stored]
            moved = touched * one + rows * (k * KV_BYTES.get(compute, ACTIVATION_BYTES) + n * ACTIVATION_BYTES)
            ops.append(
                Op(
                    name=name, family="grouped", dtype=compute, flop=2.0 * padded * n * k, stream_bytes=moved,
                    kernels=np.minimum(rows, 1.0), layers=layers,
                    resident_bytes=np.asarray(layer.experts / shard.ep * one),
                )
            )  # fmt: skip
        return ops

    # ---- the rest --------------------------------------------------------------------------------------------

    def vector(self, group: LayerGroup) -> Op:
        """Norms, rotary embedding, activations, residuals, routing helpers: small kernels that move activations."""
        steps, hidden = self.steps, float(self.model.hidden)
        mlp, attention = group.mlp, group.attention
        width = mlp.intermediate / self.shard.tp if mlp.kind == "dense" else mlp.shared_intermediate / self.shard.tp
        width = (
            width + mlp.experts_per_token * mlp.expert_intermediate / self.shard.moe_tp / self.shard.ep * self.shard.dp
        )
        kernels = 5.0 + (3.0 if attention.kind == "mla" else 0.0) + (4.0 if mlp.kind == "moe" else 0.0)
        kernels += 2.0 if attention.sparse_topk else 0.0
        kernels += 4.0 if self.precision.dynamic_quant else 0.0
        moved = steps.tokens * (10.0 * hidden + 3.0 * width) * ACTIVATION_BYTES
        return Op(
            name="vector", family="vector", dtype="bf16", flop=np.zeros_like(steps.tokens), stream_bytes=moved,
            kernels=kernels * np.minimum(steps.tokens, 1.0), layers=float(group.count),
            resident_bytes=np.asarray(2.0 * hidden * ACTIVATION_BYTES),
        )  # fmt: skip

    def layer_messages(self, group: LayerGroup) -> list[Message]:
        """Collectives of one layer: all-reduces of tensor parallelism, dispatch and combine of expert parallelism."""
        shard, layers = self.shard, float(group.count)
        payload = self.steps.tokens * self.model.hidden * ACTIVATION_BYTES
        found: list[Message] = []
        if np.any(shard.tp > 1) and group.attention.kind != "none":
            found.append(Message(kind="all-reduce", payload_bytes=payload, ranks=shard.tp, layers=layers))
        if group.mlp.kind == "dense" and np.any(shard.tp > 1):
            found.append(Message(kind="all-reduce", payload_bytes=payload, ranks=shard.tp, layers=layers))
        if group.mlp.kind == "moe" and np.any(shard.tp * shard.dp > 1):
            found += self._expert_messages(group.mlp, layers, payload)
        return found

    def _expert_messages(self, layer: Mlp, layers: float, payload: F8) -> list[Message]:
        """TP attention: one all-reduce. DP attention: dispatch in the GEMM's dtype, combine in BF16."""
        shard = self.shard
        spread = shard.dp > 1
        reduce_ranks = np.where(spread, 1.0, shard.tp)
        ranks = np.where(spread, np.maximum(shard.ep, shard.tp * shard.dp), 1.0)
        picks = float(layer.experts_per_token)
        copies = ranks * (1.0 - (1.0 - 1.0 / ranks) ** picks)
        sent = self.steps.tokens / shard.tp * copies * self.model.hidden
        dispatch = sent * KV_BYTES.get(self.precision.experts_compute, ACTIVATION_BYTES)
        return [
            Message(kind="all-reduce", payload_bytes=payload, ranks=reduce_ranks, layers=layers),
            Message(kind="all-to-all", payload_bytes=dispatch, ranks=ranks, layers=layers),
            Message(kind="all-to-all", payload_bytes=sent * ACTIVATION_BYTES, ranks=ranks, layers=layers),
        ]

    def head(self) -> list[Op]:
        """Embedding and output projection; one row per sequence that samples."""
        model, steps = self.model, self.steps
        rows = steps.decode_seqs * steps.decode_tokens + steps.chunks
        op = self.gemm("lm head", n=model.vocab / self.shard.tp, k=float(model.hidden), part="head", layers=1.0, m=rows)
        embed = model.vocab * model.hidden / self.shard.tp * WEIGHT_BYTES["bf16"]
        embedding = Op(
            name="embedding", family="vector", dtype="bf16", flop=np.zeros_like(rows),
            stream_bytes=steps.tokens * model.hidden * ACTIVATION_BYTES * 2.0, kernels=np.minimum(steps.tokens, 1.0),
            layers=1.0, resident_bytes=np.asarray(0.0 if model.tied_embeddings else 1.0) * embed,
        )  # fmt: skip
        sample = Op(
            name="sampling", family="vector", dtype="bf16", flop=np.zeros_like(rows),
            stream_bytes=rows * model.vocab * 4.0 * 3.0, kernels=4.0 * np.minimum(rows, 1.0), layers=1.0,
        )  # fmt: skip
        return [embedding, op, sample]
