"""Model: what a transformer is made of, as far as time, memory and money can tell.

A model is a stack of layer groups; a group is ``count`` equal layers of one token mixer (:class:`Attention`) and
one :class:`Mlp`. Sizes come from :mod:`offramp.arch.count`, which lists every weight matrix with its (k, n).
"""

from __future__ import annotations

from typing import Literal

from offramp.arch import count as _count
from offramp.core.record import Record

AttentionKind = Literal["gqa", "mla", "linear", "ssm", "none"]
MlpKind = Literal["dense", "moe", "none"]
WeightsDtype = Literal["fp32", "bf16", "fp8", "int8", "int4", "fp4"]
Part = Literal[
    "embedding", "attention", "dense_mlp", "experts", "shared", "router", "norm", "lm_head", "mtp"
]  # fmt: skip


class Attention(Record):
    """The token mixer of one layer.

    Attributes:
        kind: "gqa" keeps keys and values per KV head (MHA and MQA are its ends); "mla" keeps one latent; "linear" keeps
            a matrix state (gated delta rule, lightning attention); "ssm" a Mamba state or a short convolution;
            "none" mixes nothing (a layer that is only an MLP).
        heads, kv_heads: query and key/value heads; kv_heads equals heads for MLA.
        head_dim: width of one query and key head (MLA: nope + rope).
        v_head_dim: width of one value head.
        q_lora_rank, kv_lora_rank: low ranks of MLA (0 = that projection is full).
        rope_head_dim, nope_head_dim: rotary and other part of an MLA key head.
        window_tokens: sliding window or chunk; 0 = the whole context.
        sparse_topk: tokens that each query attends to after an indexer chose them (DSA, CSA); 0 = all. Where
            ``compress_ratio`` > 1 the choice is over compressed entries.
        index_heads, index_head_dim: the indexer's; 0 = the layer has none.
        index_shared: the choice of an earlier layer is used (no indexer weights, keys or time here).
        compress_ratio: tokens that share one KV entry (DeepSeek-V4: 4 or 128); 1 = none. Such layers also hold the
            last ``window_tokens`` uncompressed.
        shared_kv: keys and values of an earlier layer are used (no K, V projection, no cache of its own).
        shared_k_v: one vector serves as key and as value (multi-query latent of DeepSeek-V4, ``attention_k_eq_v``).
        kv_cache_shared: that one vector is stored once (DeepSeek-V4); else key and value are both stored.
        linear_k_heads, linear_v_heads, linear_k_dim, linear_v_dim: heads and widths of linear attention.
        conv_kernel: taps of the causal convolution of linear, SSM or short-convolution layers (0 = none).
        linear_style: which projections a linear layer has (see :mod:`offramp.arch.count`).
        ssm_style: "mamba", "mamba2" or "conv" (LFM2's gated short convolution).
        ssm_heads, ssm_head_dim, ssm_state, ssm_groups, ssm_dt_rank: sizes of a Mamba layer; inner width is
            heads x head_dim.
        state_bytes_per_element: of the recurrent state (4 = kept in FP32, as engines do by default).
        output_gate: the attention output is gated by a projection of the input.
        output_gate_dim: columns of that projection.
        gate_lora_rank: rank of the decay and gate projections of Kimi Delta Attention (0 = full).
        o_groups, o_lora_rank: grouped low-rank output projection of DeepSeek-V4 (0 = a full one).
        qkv_bias, out_bias: biases of the projections.
        qk_norm: "head" = one norm weight per head width, "full" = over all heads.
        sinks: one learned sink logit per head.
        block_parameters: weights of the mixer beyond the listed matrices and vectors (convolutions, hyper-connections).
    """

    kind: AttentionKind
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    rope_head_dim: int = 0
    nope_head_dim: int = 0
    window_tokens: int = 0
    sparse_topk: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_shared: bool = False
    compress_ratio: int = 1
    shared_kv: bool = False
    shared_k_v: bool = False
    kv_cache_shared: bool = False
    linear_k_heads: int = 0
    linear_v_heads: int = 0
    linear_k_dim: int = 0
    linear_v_dim: int = 0
    conv_kernel: int = 0
    linear_style: Literal["", "gated-delta", "kda", "lightning"] = ""
    ssm_style: Literal["", "mamba", "mamba2", "conv"] = ""
    ssm_heads: int = 0
    ssm_head_dim: int = 0
    ssm_state: int = 0
    ssm_groups: int = 0
    ssm_dt_rank: int = 0
    state_bytes_per_element: float = 4.0
    output_gate: bool = False
    output_gate_dim: int = 0
    gate_lora_rank: int = 0
    o_groups: int = 0
    o_lora_rank: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["", "head", "full"] = ""
    sinks: bool = False
    block_parameters: int = 0

    @property
    def grows(self) -> bool:
        """Whether its cache grows with the context without bound."""
        if self.kind not in ("gqa", "mla") or self.shared_kv:
            return False
        return self.compress_ratio > 1 or not self.window_tokens

    @property
    def kv_elements_per_token(self) -> float:
        """Elements of one cached token (MLA: the latent and the rotary key), before any compression over tokens."""
        if self.shared_kv:
            return 0.0
        if self.kind == "mla":
            return float(self.kv_lora_rank + self.rope_head_dim)
        if self.kind == "gqa":
            return float(self.kv_heads * (self.head_dim + (0 if self.kv_cache_shared else self.v_head_dim)))
        return 0.0


class Mlp(Record):
    """The feed-forward part of one layer.

    Attributes:
        kind: "dense", "moe" or "none".
        intermediate: width of the dense MLP (of one that runs beside the experts too, as in Arctic).
        gated: three matrices (up, gate, down) instead of two.
        experts, experts_per_token, expert_intermediate: routed experts of a layer, how many a token uses, their width.
        shared_experts, shared_intermediate: always-on experts and the width of all of them together.
        expert_hidden: input width of the routed experts where it is not the model's (latent MoE); 0 = the model's.
        router_bias: a bias per expert (also the correction bias of auxiliary-loss-free balancing).
        shared_gate: the shared experts' output is weighed by a projection to one number.
        bias: the dense matrices have biases; expert_bias: the experts' have.
        hash_routed: experts are chosen by token id from a table, not by a router.
    """

    kind: MlpKind
    intermediate: int = 0
    gated: bool = True
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_experts: int = 0
    shared_intermediate: int = 0
    expert_hidden: int = 0
    router_bias: bool = False
    shared_gate: bool = False
    bias: bool = False
    expert_bias: bool = False
    hash_routed: bool = False


class LayerGroup(Record):
    """``count`` layers that are alike.

    Attributes:
        norms: norm vectors of the model's width in each layer.
        layer_parameters: weights of each layer beyond mixer, MLP and norms (hyper-connections, per-layer inputs).
    """

    count: int
    attention: Attention
    mlp: Mlp
    norms: int = 2
    layer_parameters: int = 0


class Quantization(Record):
    """How a checkpoint stores its weights.

    Attributes:
        weights_dtype: of the quantised matrices.
        scheme: "fp8-block", "fp8-tensor", "fp8-channel", "w8a8", "awq", "gptq", "w4a16", "w4a8", "mxfp4", "nvfp4",
            "bnb-int8", "bnb-nf4" ...
        activation_dtype: what the GEMM multiplies with ("bf16" for weight-only schemes).
        excluded: parts that stay in BF16 ("attention", "lm_head", "router", ...).
        expert_dtype: dtype of the routed experts where it is not ``weights_dtype`` ("" = the same).
        part_dtypes: dtype of parts that differ from ``weights_dtype`` in a mixed checkpoint.
        group_size: weights that share one scale along k (0 = per channel or tensor).
        block: rows and columns that share one scale (fp8-block), or ().
        kv_dtype: of the KV cache, where the checkpoint names one.
    """

    weights_dtype: WeightsDtype
    scheme: str
    activation_dtype: str = "bf16"
    excluded: tuple[Part, ...] = ("embedding", "lm_head", "router", "norm")
    expert_dtype: Literal["", "fp8", "int8", "int4", "fp4"] = ""
    part_dtypes: dict[Part, WeightsDtype] = {}
    group_size: int = 0
    block: tuple[int, ...] = ()
    kv_dtype: str = ""


class Model(Record):
    """A language model's structure.

    Attributes:
        id: preset id or the path that it was read from.
        architecture, model_type: names in config.json.
        hidden, vocab: model width and vocabulary.
        layers: layer groups; their order is not the order of layers.
        mtp_layers: multi-token-prediction layers of the checkpoint, ``mtp`` is one of them. They are left out of
            ``parameters_total`` (as publishers do) and stand in the breakdown.
        mtp: one such layer.
        position_embeddings: learned positions (tables of GPT-2, OPT).
        embedding_dim: width of the embedding where it is not ``hidden`` (OPT-350m, ALBERT-like factorisation).
        extra_parameters: weights outside layers, embedding and head, by part.
        active_counts: which of embedding and head the publisher counts as active: "head" (a token multiplies with the
            head and looks one row of the embedding up), "both" or "none". Display only; work is priced by matrices.
        quantization: of the checkpoint; None = BF16.
        source: where the facts come from.
        notes: what is left out (vision towers) or was resolved.
    """

    id: str
    architecture: str
    model_type: str
    hidden: int
    vocab: int
    layers: tuple[LayerGroup, ...]
    tied_embeddings: bool = False
    mtp_layers: int = 0
    mtp: LayerGroup | None = None
    max_context_tokens: int = 0
    position_embeddings: int = 0
    embedding_dim: int = 0
    extra_parameters: dict[Part, int] = {}
    active_counts: Literal["head", "both", "none"] = "head"
    quantization: Quantization | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def layer_count(self) -> int:
        """Layers in the order of the network, MTP not counted."""
        return sum(group.count for group in self.layers)

    @property
    def parameter_breakdown(self) -> dict[str, int]:
        """Weights by part; "mtp" is not in the total."""
        return _count.breakdown(self)

    @property
    def parameters_total(self) -> int:
        """All weights without MTP layers; a tied embedding counts once."""
        return sum(value for part, value in self.parameter_breakdown.items() if part != "mtp")

    @property
    def parameters_active(self) -> int:
        """Weights that one token uses, counted as this model's publisher does (``active_counts``)."""
        return _count.active(self)

    @property
    def parameters_active_matmul(self) -> int:
        """Weights that one generated token multiplies with: active layers and the head, no embedding table."""
        return _count.active(self, counts="head")

    def kv_bytes_per_token(self, dtype_bytes: float = 2.0) -> float:
        """Bytes that each further token adds, all layers, one copy; window, linear and SSM layers add none."""
        return _count.kv_growth_bytes(self, dtype_bytes)

    def kv_bytes_fixed_per_sequence(self, dtype_bytes: float = 2.0) -> float:
        """Bytes a long sequence holds whatever its length: full windows, linear and SSM states."""
        return _count.kv_fixed_bytes(self, dtype_bytes)

    def kv_bytes(self, context_tokens: float, dtype_bytes: float = 2.0) -> float:
        """Cache bytes of one sequence of that many tokens; windows fill up first."""
        return _count.kv_bytes(self, context_tokens, dtype_bytes)

    def weight_bytes(self, weights_dtype: str | None = None) -> float:
        """Bytes of all weights with MTP left out, scales included.

        Args:
            weights_dtype: None keeps the checkpoint's own quantisation; "bf16" dequantises; any other dtype quantises
                attention, MLP and experts and keeps embedding, head, router and norms in BF16.
        """
        parts = _count.weight_bytes_by_part(self, weights_dtype)
        return sum(value for part, value in parts.items() if part != "mtp")

    def weight_bytes_by_part(self, weights_dtype: str | None = None) -> dict[str, float]:
        """Bytes by part ("mtp" too), to be placed on ranks."""
        return _count.weight_bytes_by_part(self, weights_dtype)
