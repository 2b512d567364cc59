"""What a token costs in one layer: FLOP, weights, activations and messages, from the matrices of the architecture."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.arch import layer_matrices
from offramp.arch.record import Attention, LayerGroup, Model

VECTOR_NAMES = frozenset({"mixer_vectors", "layer_extra", "norms", "mlp_bias", "expert_bias", "router_bias"})


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """One weight matrix as a training step sees it.

    Attributes:
        k, n: input and output width.
        split: which width tensor parallelism divides: "n" (column), "k" (row) or "" (neither).
        again: selective recompute computes it again (projections up from a latent, whose outputs are wide).
    """

    k: float
    n: float
    split: str
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """One kind of layer; all per token and layer, before any parallelism.

    Attributes:
        count: layers of this kind.
        gemms: dense matrices.
        expert_gemms: matrices of one routed expert.
        experts, picks: routed experts and how many a token uses.
        core_flop: attention scores and values per token and token of context (the whole context, no causal saving).
        window: tokens that a query can see at most; 0 is all.
        state_flop: recurrent mixers, per token.
        kept_inner: of ``inner`` and the latents, what selective recompute keeps: inputs of matrices.
        kept_routed: of ``routed_inner`` the same.
        inner: activation elements that TP divides: queries, keys, values, attention and MLP inner widths.
        routed_inner: activation elements of routed experts per token, their inputs and outputs included.
        heads: query heads (score matrices where attention is no flash kernel).
        kv_width: key and value elements per token (context parallelism passes them round).
        weights, expert_weights: parameters outside and inside routed experts (all experts).
        moe: 1.0 where the layer routes.
        message_width: elements that a token sends to each expert where that is not the model's width; 0 = the model's.
    """

    count: float
    gemms: tuple[Gemm, ...]
    expert_gemms: tuple[Gemm, ...]
    experts: float
    picks: float
    core_flop: float
    window: float
    state_flop: float
    inner: float
    routed_inner: float
    heads: float
    kv_width: float
    weights: float
    expert_weights: float
    moe: float
    message_width: float = 0.0
    kept_inner: float = 0.0
    kept_routed: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelWork:
    """A model as a training step sees it.

    Attributes:
        layers: kinds of layers; multi-token-prediction layers are one more kind where they are trained.
        hidden, vocab: widths.
        head_weights, embedding_weights: of the output projection and the table (0 and all of it where tied).
        heads_run: output projections per token: 1, and one more for each prediction layer.
    """

    layers: tuple[LayerWork, ...]
    hidden: float
    vocab: float
    head_weights: float
    embedding_weights: float
    heads_run: float

    @property
    def layer_count(self) -> float:
        """Layers of all kinds."""
        return sum(layer.count for layer in self.layers)

    @property
    def weights(self) -> float:
        """All parameters that are trained."""
        body = sum(layer.count * (layer.weights + layer.expert_weights) for layer in self.layers)
        return body + self.head_weights + self.embedding_weights


def _split(name: str) -> str:
    if name in ("router", "shared_gate", "q_a_proj", "kv_a_proj", "kv_a_proj_with_mqa", "latent_down", "latent_up"):
        return ""
    return "k" if name in ("o_proj", "o_b_proj", "down_proj", "expert_down", "shared_down") else "n"


def _core_flop(a: Attention) -> float:
    """FLOP of scores and values per query and key: 2 for each multiply-add."""
    if a.kind not in ("gqa", "mla"):
        return 0.0
    return 2.0 * a.heads * (a.head_dim + (a.v_head_dim or a.head_dim))


def _state_flop(a: Attention) -> float:
    """FLOP of a chunked scan per token: about 6 per element of the state. Source: as in the serving operators."""
    if a.kind == "linear":
        return 6.0 * a.linear_v_heads * a.linear_k_dim * a.linear_v_dim
    return 6.0 * a.ssm_heads * a.ssm_head_dim * a.ssm_state if a.kind == "ssm" else 0.0


def _window(a: Attention) -> float:
    """Tokens that a query really attends to: its window, or what an indexer picks for it; 0 is the whole context."""
    if a.sparse_topk:
        return float(a.sparse_topk + a.window_tokens)
    return float(a.window_tokens) if a.compress_ratio <= 1 else 0.0


def layer_work(group: LayerGroup, hidden: int, count: float | None = None) -> LayerWork:
    """Work of one kind of layer."""
    a, mlp = group.attention, group.mlp
    dense: list[Gemm] = []
    routed: list[Gemm] = []
    weights = expert_weights = 0.0
    for matrix in layer_matrices(group, hidden):
        is_expert = matrix.part == "experts"
        weights += 0.0 if is_expert else matrix.parameters
        expert_weights += matrix.parameters if is_expert else 0.0
        if matrix.name in VECTOR_NAMES or matrix.n <= 1:
            continue
        gemm = Gemm(k=float(matrix.k), n=float(matrix.n), split=_split(matrix.name),
                    again=matrix.name in ("q_b_proj", "kv_b_proj"))  # fmt: skip
        if is_expert:
            routed.append(gemm)
        else:
            dense += [gemm] * max(matrix.used, 1)
    q, kv = a.heads * a.head_dim, float(a.kv_heads * (a.head_dim + (a.v_head_dim or a.head_dim)))
    mixer = q + kv + a.heads * (a.v_head_dim or a.head_dim)
    if a.kind == "linear":
        mixer = 2.0 * a.linear_k_heads * a.linear_k_dim + 2.0 * a.linear_v_heads * a.linear_v_dim
    elif a.kind == "ssm":
        mixer = 4.0 * a.ssm_heads * a.ssm_head_dim
    fan = 3.0 if mlp.gated else 2.0
    latents = float(a.q_lora_rank + a.kv_lora_rank + a.rope_head_dim) if a.kind == "mla" else q + kv
    mixed = latents + float(a.heads * (a.v_head_dim or a.head_dim)) if a.kind in ("gqa", "mla") else mixer
    width = mlp.intermediate + (mlp.shared_intermediate if mlp.kind == "moe" else 0)
    outer = mlp.expert_hidden or hidden
    return LayerWork(
        count=float(group.count if count is None else count), gemms=tuple(dense), expert_gemms=tuple(routed),
        experts=float(mlp.experts), picks=float(mlp.experts_per_token),
        core_flop=_core_flop(a) / max(a.compress_ratio, 1), window=_window(a), state_flop=_state_flop(a),
        inner=mixer + fan * width, kept_inner=mixed + (fan - 1.0) * width,
        routed_inner=mlp.experts_per_token * (fan * mlp.expert_intermediate + 2.0 * outer),
        kept_routed=mlp.experts_per_token * ((fan - 1.0) * mlp.expert_intermediate + outer),
        heads=float(a.heads), kv_width=kv, weights=weights, expert_weights=expert_weights,
        moe=1.0 if mlp.kind == "moe" else 0.0, message_width=float(mlp.expert_hidden),
    )  # fmt: skip


def model_work(model: Model, *, mtp: bool = False) -> ModelWork:
    """Work of a whole model.

    Args:
        model: the architecture.
        mtp: also the multi-token-prediction layers of the checkpoint.
    """
    layers = [layer_work(group, model.hidden) for group in model.layers]
    extra = float(model.mtp_layers) if mtp and model.mtp is not None else 0.0
    if extra and model.mtp is not None:
        layers.append(layer_work(model.mtp, model.hidden, extra))
    table = float(model.vocab * model.hidden)
    return ModelWork(
        layers=tuple(layers), hidden=float(model.hidden), vocab=float(model.vocab), head_weights=table,
        embedding_weights=0.0 if model.tied_embeddings else table, heads_run=1.0 + extra,
    )  # fmt: skip


def visible(layer: LayerWork, sequence_tokens: float, *, causal: bool) -> float:
    """Mean number of keys that a query of a sequence meets.

    Args:
        layer: with its window.
        sequence_tokens: tokens of the sequence.
        causal: only earlier keys are computed; otherwise the whole square is (and masked).
    """
    if not causal:
        return sequence_tokens
    if not layer.window or layer.window >= sequence_tokens:
        return sequence_tokens / 2.0
    return layer.window * (1.0 - layer.window / (2.0 * sequence_tokens))


def model_flop(work: ModelWork, sequence_tokens: float, *, causal: bool) -> float:
    """FLOP of forward and backward of one token that a run is credited with (no recompute): the numerator of MFU.

    Args:
        work: of the model.
        sequence_tokens: tokens of a sequence.
        causal: count half of the attention square, as newer publications do; older ones count all of it.

    Source: 6 FLOP per active weight and token, and 3 x the attention core (arXiv 2104.04473 section 5.1).
    """
    total = 6.0 * work.hidden * work.vocab * work.heads_run
    for layer in work.layers:
        dense = sum(g.k * g.n for g in layer.gemms) + layer.picks * sum(g.k * g.n for g in layer.expert_gemms)
        core = layer.core_flop * visible(layer, sequence_tokens, causal=causal) + layer.state_flop
        total += layer.count * (6.0 * dense + 3.0 * core)
    return total
