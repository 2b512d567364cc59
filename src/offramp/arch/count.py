"""Weights, cache and bytes of a model, from a list of its matrices.

Everything derives from :func:`layer_matrices`: each weight matrix of a layer with its (k, n), so that the parameter
count and the GEMMs that the cost model prices are the same thing and cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from offramp.core.errors import ModelRangeError

if TYPE_CHECKING:
    from offramp.arch.record import Attention, LayerGroup, Mlp, Model, Quantization

PARTS = ("embedding", "attention", "dense_mlp", "experts", "shared", "router", "norm", "lm_head", "mtp")
QUANTISABLE = ("attention", "dense_mlp", "experts", "shared")

# Bytes of one weight, without scales.
DTYPE_BYTES: dict[str, float] = {
    "fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5, "int4": 0.5,
    "mxfp4": 0.5, "nvfp4": 0.5,
}  # fmt: skip
# An indexer key is stored as FP8 with one FP32 scale whatever the dtype of the main cache.
# Source: deepseek-ai/DeepSeek-V3.2-Exp inference/model.py (Indexer k_cache, k_scale_cache).
INDEX_SCALE_BYTES = 4.0


class Matrix(NamedTuple):
    """One weight matrix (or a vector, n = 1) of a layer.

    Attributes:
        name: what it does ("q_proj", "kv_b_proj", "expert_up" ...).
        part: where it counts.
        k, n: input and output width.
        copies: how many the layer holds (experts, heads of a batched product).
        used: copies that one token multiplies with.
    """

    name: str
    part: str
    k: int
    n: int
    copies: int = 1
    used: int = 1

    @property
    def parameters(self) -> int:
        """Weights in all copies."""
        return self.k * self.n * self.copies

    @property
    def active(self) -> int:
        """Weights that one token uses."""
        return self.k * self.n * self.used


def _gqa(a: Attention, hidden: int) -> list[Matrix]:
    q, kv_k, kv_v = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.v_head_dim
    found: list[Matrix] = []
    if a.q_lora_rank:
        found += [
            Matrix("q_a_proj", "attention", hidden, a.q_lora_rank),
            Matrix("q_b_proj", "attention", a.q_lora_rank, q),
        ]
    else:
        found.append(Matrix("q_proj", "attention", hidden, q))
    if not a.shared_kv:
        found.append(Matrix("k_proj", "attention", hidden, kv_k))
        if not a.shared_k_v:
            found.append(Matrix("v_proj", "attention", hidden, kv_v))
    if a.output_gate_dim:
        found.append(Matrix("gate_proj", "attention", hidden, a.output_gate_dim))
    return found + _output(a, hidden)


def _output(a: Attention, hidden: int) -> list[Matrix]:
    width = a.heads * a.v_head_dim
    if not a.o_lora_rank:
        return [Matrix("o_proj", "attention", width, hidden)]
    return [
        Matrix("o_a_proj", "attention", width // a.o_groups, a.o_lora_rank, a.o_groups, a.o_groups),
        Matrix("o_b_proj", "attention", a.o_groups * a.o_lora_rank, hidden),
    ]


def _mla(a: Attention, hidden: int) -> list[Matrix]:
    q = a.heads * (a.nope_head_dim + a.rope_head_dim)
    if a.q_lora_rank:
        found = [
            Matrix("q_a_proj", "attention", hidden, a.q_lora_rank),
            Matrix("q_b_proj", "attention", a.q_lora_rank, q),
        ]
    else:
        found = [Matrix("q_proj", "attention", hidden, q)]
    found += [
        Matrix("kv_a_proj", "attention", hidden, a.kv_lora_rank + a.rope_head_dim),
        Matrix("kv_b_proj", "attention", a.kv_lora_rank, a.heads * (a.nope_head_dim + a.v_head_dim)),
    ]
    if a.output_gate_dim:
        found.append(Matrix("gate_proj", "attention", hidden, a.output_gate_dim))
    return found + _output(a, hidden)


def _indexer(a: Attention, hidden: int) -> list[Matrix]:
    if not a.index_heads or a.index_shared:
        return []
    from_width = a.q_lora_rank or hidden
    return [
        Matrix("index_q_proj", "attention", from_width, a.index_heads * a.index_head_dim),
        Matrix("index_k_proj", "attention", hidden, a.index_head_dim),
        Matrix("index_weights_proj", "attention", hidden, a.index_heads),
    ]


def _compressor(a: Attention, hidden: int) -> list[Matrix]:
    """DeepSeek-V4: entry and weight projections; overlapping windows (ratio 4) double both.

    Source: deepseek-ai/DeepSeek-V4 inference/model.py (class Compressor).
    """
    if a.compress_ratio <= 1:
        return []
    twice = 2 if a.compress_ratio == 4 else 1
    found = [Matrix("compress_proj", "attention", hidden, 2 * twice * a.head_dim)]
    if a.index_heads and not a.index_shared:
        found = [*found, Matrix("index_compress_proj", "attention", hidden, 2 * twice * a.index_head_dim)]
    return found


def _linear(a: Attention, hidden: int) -> list[Matrix]:
    keys, values = a.linear_k_heads * a.linear_k_dim, a.linear_v_heads * a.linear_v_dim
    qkv = Matrix("linear_qkv_proj", "attention", hidden, 2 * keys + values)
    out = Matrix("o_proj", "attention", values, hidden)
    if a.linear_style == "lightning":
        gate = [Matrix("gate_proj", "attention", hidden, a.output_gate_dim)] if a.output_gate_dim else []
        return [qkv, *gate, out]
    if a.linear_style == "kda":
        rank = a.gate_lora_rank
        beta = Matrix("beta_proj", "attention", hidden, a.linear_v_heads)
        if not rank:
            return [
                qkv,
                beta,
                Matrix("decay_proj", "attention", hidden, keys),
                Matrix("gate_proj", "attention", hidden, values),
                out,
            ]
        return [
            qkv,
            beta,
            Matrix("decay_a_proj", "attention", hidden, rank),
            Matrix("decay_b_proj", "attention", rank, keys),
            Matrix("gate_a_proj", "attention", hidden, rank),
            Matrix("gate_b_proj", "attention", rank, values),
            out,
        ]
    return [
        qkv,
        Matrix("gate_proj", "attention", hidden, values),
        Matrix("decay_beta_proj", "attention", hidden, 2 * a.linear_v_heads),
        out,
    ]


def _ssm(a: Attention, hidden: int) -> list[Matrix]:
    inner = a.ssm_heads * a.ssm_head_dim
    if a.ssm_style == "conv":
        return [Matrix("in_proj", "attention", hidden, 3 * hidden), Matrix("o_proj", "attention", hidden, hidden)]
    if a.ssm_style == "mamba":
        return [
            Matrix("in_proj", "attention", hidden, 2 * inner),
            Matrix("x_proj", "attention", inner, a.ssm_dt_rank + 2 * a.ssm_state),
            Matrix("dt_proj", "attention", a.ssm_dt_rank, inner),
            Matrix("o_proj", "attention", inner, hidden),
        ]
    return [
        Matrix("in_proj", "attention", hidden, 2 * inner + 2 * a.ssm_groups * a.ssm_state + a.ssm_heads),
        Matrix("o_proj", "attention", inner, hidden),
    ]


def conv_channels(a: Attention, hidden: int) -> int:
    """Channels of the causal convolution of a linear or SSM layer (0 where there is none)."""
    if not a.conv_kernel:
        return 0
    if a.kind == "linear":
        return 2 * a.linear_k_heads * a.linear_k_dim + a.linear_v_heads * a.linear_v_dim
    if a.ssm_style == "conv":
        return hidden
    inner = a.ssm_heads * a.ssm_head_dim
    return inner + (2 * a.ssm_groups * a.ssm_state if a.ssm_style == "mamba2" else 0)


def _mixer_vectors(a: Attention, hidden: int) -> int:
    """Biases, norm weights, sinks and convolution taps of one mixer."""
    total = a.block_parameters + conv_channels(a, hidden) * a.conv_kernel
    if a.kind in ("gqa", "mla"):
        kv = 0 if a.shared_kv else a.kv_heads
        if a.qkv_bias and a.kind == "gqa":
            total += (a.heads + kv) * a.head_dim + (0 if a.shared_k_v else kv * a.v_head_dim)
        if a.qk_norm:
            heads = (a.heads + kv) if a.qk_norm == "full" else (1 + bool(kv))
            total += heads * a.head_dim
        total += a.heads * a.sinks + hidden * a.out_bias + a.q_lora_rank + a.kv_lora_rank
    elif a.kind == "linear":
        total += a.linear_v_dim + 2 * a.linear_v_heads
    elif a.ssm_style == "mamba2":
        total += 3 * a.ssm_heads + a.ssm_heads * a.ssm_head_dim
    elif a.ssm_style == "mamba":
        total += a.ssm_heads * a.ssm_head_dim * (a.ssm_state + 2)
    return total


def mixer_matrices(a: Attention, hidden: int) -> list[Matrix]:
    """Weight matrices of one token mixer."""
    if a.kind == "gqa":
        return _gqa(a, hidden) + _compressor(a, hidden) + _indexer(a, hidden)
    if a.kind == "mla":
        return _mla(a, hidden) + _indexer(a, hidden)
    if a.kind == "linear":
        return _linear(a, hidden)
    return _ssm(a, hidden) if a.kind == "ssm" else []


def mlp_matrices(m: Mlp, hidden: int) -> list[Matrix]:
    """Weight matrices of one feed-forward part; up and gate of a gated one are one matrix of twice the width."""
    wide = 2 if m.gated else 1
    found: list[Matrix] = []
    if m.intermediate:
        found = [
            Matrix("up_proj", "dense_mlp", hidden, wide * m.intermediate),
            Matrix("down_proj", "dense_mlp", m.intermediate, hidden),
        ]
    if m.kind != "moe":
        return found
    width, inner = m.expert_hidden or hidden, m.expert_intermediate
    found += [
        Matrix("expert_up", "experts", width, wide * inner, m.experts, m.experts_per_token),
        Matrix("expert_down", "experts", inner, width, m.experts, m.experts_per_token),
        Matrix("router", "router", hidden, m.experts),
    ]
    if m.expert_hidden:
        found += [
            Matrix("latent_down", "shared", hidden, m.expert_hidden),
            Matrix("latent_up", "shared", m.expert_hidden, hidden),
        ]
    if m.shared_intermediate:
        found += [
            Matrix("shared_up", "shared", hidden, wide * m.shared_intermediate),
            Matrix("shared_down", "shared", m.shared_intermediate, hidden),
        ]
    return [*found, Matrix("shared_gate", "shared", hidden, 1)] if m.shared_gate else found


def _mlp_vectors(m: Mlp, hidden: int) -> list[Matrix]:
    wide = 2 if m.gated else 1
    found: list[Matrix] = []
    if m.bias and m.intermediate:
        found.append(Matrix("mlp_bias", "dense_mlp", wide * m.intermediate + hidden, 1))
    if m.expert_bias:
        size = wide * m.expert_intermediate + (m.expert_hidden or hidden)
        found.append(Matrix("expert_bias", "experts", size, 1, m.experts, m.experts_per_token))
    if m.router_bias:
        found.append(Matrix("router_bias", "router", m.experts, 1))
    return found


def layer_matrices(group: LayerGroup, hidden: int) -> list[Matrix]:
    """Every weight of one layer of a group: matrices and, as (k, 1), vectors.

    Args:
        group: the layers.
        hidden: the model's width.
    """
    vectors = [Matrix("mixer_vectors", "attention", _mixer_vectors(group.attention, hidden), 1)]
    if group.layer_parameters:
        vectors.append(Matrix("layer_extra", "attention", group.layer_parameters, 1))
    return [
        *mixer_matrices(group.attention, hidden),
        *mlp_matrices(group.mlp, hidden),
        *vectors,
        *_mlp_vectors(group.mlp, hidden),
        Matrix("norms", "norm", hidden, group.norms),
    ]


def _sum_parts(matrices: Iterable[Matrix], times: int, into: dict[str, int], *, active: bool) -> None:
    for matrix in matrices:
        into[matrix.part] = into.get(matrix.part, 0) + times * (matrix.active if active else matrix.parameters)


def _mtp_total(model: Model) -> int:
    """Weights of the MTP layers: the layer, the 2h x h projection and three norms; embedding and head are shared.

    Source: arXiv 2412.19437, section 2.2.
    """
    if model.mtp is None:
        return 0
    layer = sum(matrix.parameters for matrix in layer_matrices(model.mtp, model.hidden))
    return model.mtp_layers * (layer + 2 * model.hidden * model.hidden + 3 * model.hidden)


def _ends(model: Model) -> dict[str, int]:
    """Embedding, positions, final norm and head."""
    width = model.embedding_dim or model.hidden
    found: dict[str, int] = {
        "embedding": model.vocab * width + model.position_embeddings * model.hidden,
        "norm": model.hidden,
        "lm_head": 0 if model.tied_embeddings else model.vocab * width,
    }
    if width != model.hidden:
        found["embedding"] += 2 * width * model.hidden
    for part, value in model.extra_parameters.items():
        found[part] = found.get(part, 0) + value
    return found


def breakdown(model: Model) -> dict[str, int]:
    """Weights by part, in the order of :data:`PARTS`."""
    found: dict[str, int] = dict.fromkeys(PARTS, 0)
    for part, value in _ends(model).items():
        found[part] += value
    for group in model.layers:
        _sum_parts(layer_matrices(group, model.hidden), group.count, found, active=False)
    found["mtp"] = _mtp_total(model)
    return found


def active(model: Model, *, counts: str = "") -> int:
    """Weights that one token uses.

    Args:
        model: the model.
        counts: "head", "both" or "none": which of embedding and head count; "" takes the publisher's way.
    """
    ends = _ends(model)
    head = ends["lm_head"] or model.vocab * (model.embedding_dim or model.hidden)
    table = 0 if model.tied_embeddings else ends["embedding"]
    found: dict[str, int] = {}
    for group in model.layers:
        _sum_parts(layer_matrices(group, model.hidden), group.count, found, active=True)
    counts = counts or model.active_counts
    extra = {"none": 0, "head": head, "both": head + table}[counts]
    return sum(found.values()) + model.hidden + extra


def _token_bytes(a: Attention, dtype_bytes: float) -> float:
    """Bytes that one token adds to a layer whose cache grows."""
    if not a.grows:
        return 0.0
    index = 0.0
    if a.index_heads and not a.index_shared:
        index = a.index_head_dim * DTYPE_BYTES["fp8"] + INDEX_SCALE_BYTES
    return (a.kv_elements_per_token * dtype_bytes + index) / a.compress_ratio


def state_bytes(a: Attention, hidden: int, dtype_bytes: float = 2.0) -> float:
    """Bytes of the recurrent and convolution state of one linear or SSM layer and one sequence."""
    taps = conv_channels(a, hidden) * max(a.conv_kernel - 1, 0) * dtype_bytes
    if a.kind == "linear":
        return taps + a.linear_v_heads * a.linear_k_dim * a.linear_v_dim * a.state_bytes_per_element
    if a.kind == "ssm":
        return taps + a.ssm_heads * a.ssm_head_dim * a.ssm_state * a.state_bytes_per_element
    return 0.0


def kv_growth_bytes(model: Model, dtype_bytes: float) -> float:
    """Bytes that each further token adds once windows are full, all layers."""
    return sum(group.count * _token_bytes(group.attention, dtype_bytes) for group in model.layers)


def kv_bytes(model: Model, context_tokens: float, dtype_bytes: float) -> float:
    """Bytes that one sequence of ``context_tokens`` holds, all layers."""
    total = 0.0
    for group in model.layers:
        a = group.attention
        layer = state_bytes(a, model.hidden, dtype_bytes) + context_tokens * _token_bytes(a, dtype_bytes)
        if a.window_tokens:
            layer += min(context_tokens, a.window_tokens) * a.kv_elements_per_token * dtype_bytes
        total += group.count * layer
    return total


def kv_fixed_bytes(model: Model, dtype_bytes: float) -> float:
    """Bytes that a long sequence holds whatever its length."""
    longest = max((group.attention.window_tokens for group in model.layers), default=0)
    return kv_bytes(model, longest, dtype_bytes) - longest * kv_growth_bytes(model, dtype_bytes)


def bytes_per_weight(dtype: str, *, scheme: str = "", group_size: int = 0, block: tuple[int, ...] = ()) -> float:
    """Bytes of one weight with its share of scales and zero points.

    Args:
        dtype: "bf16", "fp8", "int8", "int4", "fp4", "fp32".
        scheme: as in :class:`~offramp.arch.record.Quantization`.
        group_size: weights under one scale.
        block: rows and columns under one scale.
    """
    if dtype not in DTYPE_BYTES:
        raise ModelRangeError(f'unknown weights dtype "{dtype}"', mend=f"Known: {', '.join(DTYPE_BYTES)}.")
    plain = DTYPE_BYTES[dtype]
    if block:
        area = 1
        for side in block:
            area *= side
        return plain + 4.0 / area  # FP32 scale of a block
    if not group_size:
        return plain
    scale = 1.0 if scheme in ("mxfp4", "nvfp4", "mxfp8") else 2.0
    zero = 0.5 if scheme in ("awq", "gptq") else 0.0
    return plain + (scale + zero) / group_size


# What a scheme costs when a dtype is asked for that the checkpoint does not have.
_DEFAULT_GROUP: dict[str, tuple[str, int]] = {
    "int4": ("awq", 128), "fp4": ("nvfp4", 16), "nvfp4": ("nvfp4", 16), "mxfp4": ("mxfp4", 32),
}  # fmt: skip


def part_dtypes(model: Model, weights_dtype: str | None = None) -> dict[str, str]:
    """The dtype of each part, in the checkpoint or after quantising it to ``weights_dtype``."""
    quant: Quantization | None = model.quantization
    dtypes: dict[str, str] = dict.fromkeys(PARTS, "bf16")
    if quant is not None and weights_dtype in (None, quant.weights_dtype, quant.scheme):
        for part in QUANTISABLE:
            if part not in quant.excluded:
                dtypes[part] = quant.weights_dtype
        if quant.expert_dtype:
            dtypes["experts"] = quant.expert_dtype
        for part in ("embedding", "lm_head", "router"):
            if part not in quant.excluded:
                dtypes[part] = quant.weights_dtype
        dtypes.update({str(part): dtype for part, dtype in quant.part_dtypes.items()})
    elif weights_dtype is not None:
        for part in QUANTISABLE:
            dtypes[part] = weights_dtype
    return dtypes


def weight_bytes_by_part(model: Model, weights_dtype: str | None = None) -> dict[str, float]:
    """Bytes of each part with scales; MTP layers take the dtype of their own parts."""
    quant, dtypes = model.quantization, part_dtypes(model, weights_dtype)
    own = quant is not None and weights_dtype in (None, quant.weights_dtype, quant.scheme)

    def per_weight(dtype: str) -> float:
        if own and quant is not None and dtype == (quant.expert_dtype or quant.weights_dtype):
            return bytes_per_weight(dtype, scheme=quant.scheme, group_size=quant.group_size, block=quant.block)
        if own and quant is not None and dtype == quant.weights_dtype:
            return bytes_per_weight(dtype, block=quant.block)
        scheme, group = _DEFAULT_GROUP.get(dtype, ("", 0))
        return bytes_per_weight(dtype, scheme=scheme, group_size=group)

    found = {part: value * per_weight(dtypes[part]) for part, value in breakdown(model).items()}
    if model.mtp is not None:
        parts: dict[str, int] = {}
        _sum_parts(layer_matrices(model.mtp, model.hidden), model.mtp_layers, parts, active=False)
        rest = breakdown(model)["mtp"] - sum(parts.values())
        found["mtp"] = sum(v * per_weight(dtypes[p]) for p, v in parts.items()) + rest * per_weight("bf16")
    return found
