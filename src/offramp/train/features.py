"""Features: what one optimiser step asks of a device, in seconds at nominal speed, before any efficiency.

A step is ``micro_batches`` passes of the slowest pipeline stage, the bubble, and the end (gradients, optimiser). The
features are linear pieces of that; :mod:`offramp.train.step` puts efficiencies, floors and overlap to them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from offramp.cost.device import Device
from offramp.train.assumed import constant
from offramp.train.layout import Grid, Task
from offramp.train.messages import all_to_all_s, gather_s, hop_s, reduce_s
from offramp.train.work import LayerWork, ModelWork, visible

F8 = npt.NDArray[np.float64]

DTYPE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp4": 0.5625}
"""Of one element; FP4 with an 8-bit scale for every 16."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """One entry per layout (or per measured row). Seconds at nominal speed per micro-batch and mean stage, unless said.

    Attributes:
        gemm, grouped: dense and expert GEMMs in the run's dtype.
        waves: FLOP seconds of dense GEMMs over the elements of their outputs: what a last,
        half-empty wave of tiles costs
            for each element that a chip computes at a time.
        gemm_16: GEMMs that stay in 16 bit (head, router).
        stream: weights, activations and weight gradients that GEMMs move.
        attention: attention cores at the 16-bit peak.
        scores: score matrices moved, where attention is no flash kernel.
        vector: norms, residuals, activations moved. casts: matrix inputs brought to a narrow format.
        dense_passes, moe_passes: layer passes (forward, two backward, recompute) that cost launches.
        far: what expert messages across domains take beyond those inside.
        tp, a2a, cp, gather: collectives of tensor, expert and context parallelism, and of sharded weights.
        tp_calls: TP collectives (latency).
        hop: sends between stages.
        reduce: gradients over data-parallel ranks and updated weights back, once per step.
        adam: optimiser update, once per step.
        micro_batches: of one data-parallel rank and step.
        bubble: idle passes of the pipeline.
        peak_stage: slowest stage over mean stage.
        hidden: 1 where the schedule hides expert messages behind the other half of the pipeline.
        async_tp: 1 where tensor-parallel messages run beside their matrices.
        scale: log2 of domains that take part.
        flop: model FLOP per device and step (no recompute), for MFU; ``peak`` FLOP/s in the dtype that MFU is over.
    """

    gemm: F8
    grouped: F8
    waves: F8
    gemm_16: F8
    stream: F8
    attention: F8
    scores: F8
    vector: F8
    casts: F8
    dense_passes: F8
    moe_passes: F8
    tp: F8
    tp_calls: F8
    a2a: F8
    far: F8
    cp: F8
    gather: F8
    hop: F8
    reduce: F8
    adam: F8
    micro_batches: F8
    bubble: F8
    peak_stage: F8
    hidden: F8
    async_tp: F8
    scale: F8

    def __len__(self) -> int:
        return len(self.gemm)


def stack(parts: list[Features]) -> Features:
    """Features of several cases, one after the other."""
    return Features(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Features)})


def _peak(device: Device, dtype: str) -> float:
    found = device.peak_flop_per_s.get(dtype, device.peak_flop_per_s["bf16"])
    return float(np.mean(found))


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Arrays that every part of the count needs. ``rows`` are tokens of a micro-batch on one rank."""

    device: Device
    task: Task
    grid: Grid
    rows: F8
    bandwidth: float
    forward: F8
    gemm_passes: F8
    attention_passes: F8


def _case(work: ModelWork, device: Device, task: Task, grid: Grid) -> _Case:
    rows = grid.micro_batch * task.sequence_tokens / grid.cp
    again = grid.full
    backward = constant("flash_backward") if task.flash else 2.0
    return _Case(
        device=device, task=task, grid=grid, rows=rows, bandwidth=float(np.mean(device.memory_bytes_per_s)),
        forward=1.0 + again, gemm_passes=(2.0 if task.lora else 3.0) + again,
        attention_passes=1.0 + backward + np.maximum(again, grid.selective),
    )  # fmt: skip


def _gemm(case: _Case, layer: LayerWork) -> tuple[F8, F8, F8]:
    """FLOP seconds, moved-byte seconds and FLOP seconds per output element of a layer's dense matrices."""
    size = DTYPE_BYTES[case.task.dtype]
    flop = np.zeros_like(case.rows)
    moved = np.zeros_like(case.rows)
    waves = np.zeros_like(case.rows)
    for g in layer.gemms:
        tp = case.grid.tp if g.split else np.ones_like(case.rows)
        again = case.grid.selective * (1.0 if g.again else case.task.selective_gemm) if case.task.flash else 0.0
        flop += (case.gemm_passes + again) * 2.0 * case.rows * g.k * g.n / tp
        k, n = (g.k / tp, g.n) if g.split == "k" else (g.k, g.n / tp)
        once = 2.0 * case.rows * k * n
        ahead = (case.gemm_passes - (1.0 if case.task.lora else 2.0)) / (case.rows * n)
        waves += once * (ahead + 1.0 / (case.rows * k) + (0.0 if case.task.lora else 1.0 / (k * n)))
        one = (k * n + case.rows * k) * size + case.rows * n * 2.0
        gradient = 0.0 if case.task.lora else 8.0 * k * n
        moved += case.gemm_passes * one + gradient
    peak = _peak(case.device, case.task.dtype)
    return flop / peak, moved / case.bandwidth, waves / peak


def imbalance(ranks: F8, experts: float, skew: float) -> F8:
    """Rows of the busiest expert rank over the mean of all.

    A rank's load is the mean of its experts' loads; the largest of n normal loads lies sqrt(2 ln n) deviations up.

    Source: extreme value of n normal variables; the fewer experts a rank holds, the less they average out.
    """
    if not experts or not skew:
        return np.ones_like(ranks)
    return 1.0 + skew * np.sqrt(ranks / experts) * np.sqrt(2.0 * np.log(np.maximum(ranks, 1.0)))


def _grouped(case: _Case, layer: LayerWork) -> tuple[F8, F8]:
    """The same for routed experts of the busiest rank."""
    if not layer.experts:
        return np.zeros_like(case.rows), np.zeros_like(case.rows)
    ep, size = case.grid.ep, DTYPE_BYTES[case.task.dtype]
    rows = case.rows / case.grid.tp * layer.picks * imbalance(ep, layer.experts, case.task.skew)
    local = layer.experts / ep
    flop = np.zeros_like(case.rows)
    moved = np.zeros_like(case.rows)
    for g in layer.expert_gemms:
        flop += 2.0 * rows * g.k * g.n
        one = local * g.k * g.n * size + rows * (g.k * size + g.n * 2.0)
        moved += case.gemm_passes * one + (0.0 if case.task.lora else 8.0 * local * g.k * g.n)
    peak = _peak(case.device, case.task.dtype)
    return case.gemm_passes * flop / peak, moved / case.bandwidth


def _core(case: _Case, layer: LayerWork) -> tuple[F8, F8]:
    """Attention cores: FLOP seconds, and score bytes where no flash kernel runs."""
    task, grid = case.task, case.grid
    keys = visible(layer, task.sequence_tokens, causal=task.flash)
    flop = case.rows / grid.tp * (layer.core_flop * keys + layer.state_flop)
    scores = 0.0 if task.flash else case.rows * keys * layer.heads / grid.tp * constant("score_bytes")
    passes = case.attention_passes - (case.grid.selective * (1.0 - case.grid.full) if task.flash else 0.0)
    return passes * flop / _peak(case.device, "bf16"), passes * scores / case.bandwidth


def _vector(case: _Case, layer: LayerWork, hidden: float) -> tuple[F8, F8]:
    """Norms, residuals and dropout over the model's width, activations over inner widths; backward costs twice.

    And apart from it: casts of matrix inputs to a narrow format.
    """
    grid = case.grid
    spread = np.where(grid.sequence_parallel > 0, grid.tp, 1.0)
    across = (
        constant("vector_widths") * hidden / spread + 2.0 * layer.inner / grid.tp + 2.0 * layer.routed_inner / grid.tp
    )
    casts = np.zeros_like(case.rows)
    if case.task.dtype in ("fp8", "fp4"):  # each GEMM input is read in 16 bit and written in the narrow format, twice
        inputs = sum(g.k / (grid.tp if g.split == "k" else spread) for g in layer.gemms)
        routed = layer.picks * sum(g.k for g in layer.expert_gemms) / grid.tp
        casts = case.gemm_passes * case.rows * (inputs + routed) * 4.0
    again = np.maximum(grid.full, constant("vector_again") * grid.selective if case.task.flash else 0.0)
    return (3.0 + again) * case.rows * across * 2.0 / case.bandwidth, casts / case.bandwidth


def _layer_messages(case: _Case, layer: LayerWork, hidden: float) -> tuple[F8, F8, F8, F8]:
    """Tensor, expert and context parallel messages of one layer and micro-batch."""
    grid, fabric = case.grid, case.device.fabric
    one = np.ones_like(case.rows)
    wide = 1.0 if layer.moe else 2.0
    if not layer.gemms:
        wide = 0.0
    tp = np.where(grid.tp > 1, reduce_s(fabric, grid.tp, one, case.rows * hidden * 2.0), 0.0)
    rounds = 2.0 + grid.full
    exchange = far = one * 0.0
    if layer.experts:
        tokens = case.rows / grid.tp * (layer.message_width or hidden)
        out_bytes = 1.0 if case.task.dtype in ("fp8", "fp4") else 2.0
        near, across = all_to_all_s(
            fabric, grid.ep, tokens * (out_bytes + 2.0), picks=layer.picks, groups=case.task.groups,
            group_limit=case.task.group_limit,
        )  # fmt: skip
        scale = np.where(grid.ep > 1, rounds * imbalance(grid.ep, layer.experts, case.task.skew), 0.0)
        exchange, far = scale * near, scale * np.maximum(across - near, 0.0)
    ring = gather_s(fabric, grid.cp, grid.tp, case.rows * grid.cp * layer.kv_width / grid.tp * 2.0)
    return wide * rounds * tp, exchange, far, np.where(grid.cp > 1, (2.0 + rounds - 1.0) * ring, 0.0)


def _sharded(case: _Case, work: ModelWork) -> tuple[F8, F8, F8]:
    """Per micro-batch weight gathering (ZeRO-3) and gradient scattering (ZeRO-2 and 3); per step what is left of them.

    And the seconds of the optimiser. Source: arXiv 1910.02054, section 7.
    """
    grid, task, fabric = case.grid, case.task, case.device.fabric
    dense = sum(layer.count * layer.weights for layer in work.layers) + work.head_weights + work.embedding_weights
    expert = sum(layer.count * layer.expert_weights for layer in work.layers)
    per_rank = dense / (grid.tp * grid.pp)
    per_rank_expert = expert / (grid.ep * grid.pp)
    width = grid.dp * grid.cp
    expert_width = np.maximum(grid.tp * width / grid.ep, 1.0)
    trained = 0.0 if task.lora else 1.0

    def both(size: float) -> F8:
        return gather_s(fabric, width, grid.tp, per_rank * size) + gather_s(
            fabric, expert_width, grid.ep, per_rank_expert * size
        )

    weight_bytes = 2.0
    whole = grid.zero >= 3
    each = np.where(
        grid.zero == 2, trained * both(task.grad_bytes), 0.0
    )  # no rank has room to add its own gradients up
    gather = np.where(whole, both(2.0 * weight_bytes) + trained * both(2.0), each)
    once = np.where(grid.zero == 2, 0.0, both(task.grad_bytes))
    once = once + np.where(grid.zero >= 1, both(weight_bytes), both(task.grad_bytes))
    shared = np.where(grid.zero >= 1, per_rank / width + per_rank_expert / expert_width, per_rank + per_rank_expert)
    return gather, np.where(whole, 0.0, trained * once), trained * shared * constant("adam_bytes") / case.bandwidth


def _stage_peak(work: ModelWork, grid: Grid, head_share: float) -> F8:
    """Slowest stage over the mean one: whole layers per stage, and the head on the last.

    A layer count that PP does not divide leaves slots free, which embedding and head fill.
    """
    layers = work.layer_count
    slots = np.ceil(layers / grid.pp)
    mean = (layers + head_share) / grid.pp
    divides = np.abs(layers / grid.pp - slots) < 1e-9
    last = np.where(divides, slots + head_share, np.maximum(slots, mean))
    return np.where(grid.pp > 1, last / mean, 1.0)


def _waited(task: Task, grid: Grid, micro_batches: F8) -> F8:
    """Share of the sends between stages that something may wait for.

    Interleaved stages send while another chunk computes, but not while the pipeline fills and drains. Two half
    pipelines hide sends as they hide expert messages.

    Source: NVIDIA/Megatron-LM:megatron/core/pipeline_parallel/schedules.py: overlap_p2p_comm, of the interleaved
    schedule alone, and its number of warm-up passes; arXiv 2412.19437, section 3.2.1.
    """
    warm = (2.0 * (grid.pp - 1.0) + (grid.vp - 1.0) * grid.pp) / np.maximum(micro_batches * grid.vp, 1.0)
    filling = np.minimum(warm, 1.0)
    apart = task.async_sends * (grid.vp > 1)
    left = np.where(apart, filling + (1.0 - filling) * constant("sends_left"), 1.0)
    return np.where(grid.hidden > 0, constant("hidden_left"), left)


def features(work: ModelWork, device: Device, task: Task, grid: Grid) -> Features:
    """Features of every layout of a grid.

    Args:
        work: of the model.
        device: one torch device.
        task: of one optimiser step.
        grid: layouts.
    """
    case = _case(work, device, task, grid)
    zero = np.zeros_like(case.rows)
    sums: dict[str, F8] = {
        name: zero.copy()
        for name in (
            "gemm",
            "waves",
            "grouped",
            "stream",
            "attention",
            "scores",
            "vector",
            "casts",
            "tp",
            "a2a",
            "far",
            "cp",
            "dense",
            "moe",
        )
    }
    for layer in work.layers:
        parts = (
            *zip(("gemm", "stream", "waves"), _gemm(case, layer), strict=True),
            *zip(("grouped", "stream"), _grouped(case, layer), strict=True),
            *zip(("attention", "scores"), _core(case, layer), strict=True),
            *zip(("tp", "a2a", "far", "cp"), _layer_messages(case, layer, work.hidden), strict=True),
            *zip(("vector", "casts"), _vector(case, layer, work.hidden), strict=True),
            ("moe" if layer.moe else "dense", 3.0 + grid.full),
        )
        for name, value in parts:
            sums[name] = sums[name] + layer.count * value
    peak16 = _peak(device, "bf16")
    head_flop = 6.0 * case.rows * work.hidden * work.vocab * work.heads_run / grid.tp
    head_s = head_flop / peak16
    logits = case.rows * work.vocab / grid.tp * 2.0 * constant("logit_moves") * work.heads_run / case.bandwidth
    layer_s = (sums["gemm"] + sums["grouped"]) / max(work.layer_count, 1.0)
    gather, reduce, adam = _sharded(case, work)
    stride = grid.tp * grid.cp * grid.dp
    hop = 2.0 * 2.0 * grid.vp * hop_s(device.fabric, stride, case.rows * work.hidden * 2.0 / grid.tp)
    micro_batches = task.batch_sequences / (grid.dp * grid.micro_batch)
    hop = hop * _waited(task, grid, micro_batches)
    domains = np.maximum(stride * grid.pp / device.fabric.domain_devices, 1.0)
    pp = grid.pp
    return Features(
        waves=sums["waves"] / pp, gemm=sums["gemm"] / pp, grouped=sums["grouped"] / pp, gemm_16=head_s / pp,
        stream=sums["stream"] / pp,
        attention=sums["attention"] / pp, scores=sums["scores"] / pp, vector=(sums["vector"] + logits) / pp,
        casts=sums["casts"] / pp,
        dense_passes=sums["dense"] / pp, moe_passes=sums["moe"] / pp, tp=sums["tp"] / pp,
        tp_calls=np.where(grid.tp > 1, (sums["dense"] + sums["moe"]) * 4.0 / 3.0 / pp, 0.0), a2a=sums["a2a"] / pp,
        far=sums["far"] / pp,
        cp=sums["cp"] / pp, gather=gather, hop=np.where(pp > 1, hop, 0.0), reduce=reduce, adam=adam,
        micro_batches=micro_batches, bubble=(pp - 1.0) / grid.vp * grid.bubble,
        peak_stage=_stage_peak(work, grid, float(np.mean(head_s / np.maximum(layer_s, 1e-12)))), hidden=grid.hidden,
        async_tp=np.full_like(pp, float(task.async_tp)), scale=np.log2(domains),
    )  # fmt: skip
