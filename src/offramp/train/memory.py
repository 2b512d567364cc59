"""Memory of one torch device by tensor, in bytes, for the fullest pipeline rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.cost.device import Device
from offramp.train.assumed import constant
from offramp.train.layout import Grid, Task
from offramp.train.work import LayerWork, ModelWork

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by tensor. [layouts]"""

    weights: F8
    gradients: F8
    optimizer: F8
    activations: F8
    logits: F8
    buffers: F8
    reserve: float
    capacity: float

    @property
    def total(self) -> F8:
        """Bytes needed."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.buffers
            + self.reserve
        )

    @property
    def over(self) -> F8:
        """Bytes over capacity; negative is free."""
        return self.total - self.capacity

    def parts(self, at: int = 0) -> dict[str, float]:
        """Bytes by tensor of one layout."""
        names = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
        return {name: float(getattr(self, name)[at]) for name in names} | {"reserve": self.reserve}


def _activation(layer: LayerWork, hidden: float, task: Task, grid: Grid) -> F8:
    """Bytes that one token of one layer keeps for the backward pass.

    Source: arXiv 2205.05198, section 4: 34 s b h + 5 a s^2 b; its parts by tensor, so that gated,
    grouped and MLA layers
    count by their own widths. Flash attention keeps no scores. Selective recompute keeps the inputs of matrices and
    computes
    scores (where there are any), norms, activation functions and projections up from latents again, as in arXiv
    2412.19437, section 3.2.3; full recompute keeps only the input of the layer.
    """
    tp = grid.tp
    spread = np.where(grid.sequence_parallel > 0, tp, 1.0)
    kept = 10.0 * hidden / spread + 2.0 * (layer.inner + layer.routed_inner) / tp
    if task.flash:
        size = 1.0 if task.dtype in ("fp8", "fp4") else 2.0
        lean = 4.0 * hidden / spread + 2.0 * layer.kept_inner / tp + size * layer.kept_routed / tp
        kept = np.where(grid.selective > 0, np.minimum(lean, kept), kept)
    else:
        scores = 5.0 * layer.heads * task.sequence_tokens / tp
        kept = kept + np.where(grid.selective > 0, 0.0, scores)
    return np.where(grid.full > 0, 2.0 * hidden / spread, kept)


def _interleaved(grid: Grid, micro_batches: F8) -> F8:
    """Micro-batches of a rank's layers that wait for their backward pass when chunks are interleaved.

    Source: warm-up of NVIDIA/Megatron-LM:megatron/core/pipeline_parallel/schedules.py: twice the ranks behind, and a
    group of micro-batches for every further chunk; a group is as small as its last one may be (at least PP, or none).
    """
    pairs, where = np.unique(np.stack([micro_batches, grid.pp]), axis=1, return_inverse=True)
    groups = np.array([_group(int(many), int(pp)) for many, pp in pairs.T], dtype=np.float64)[where.reshape(-1)]
    return grid.pp + (grid.pp - 1.0) / grid.vp + (grid.vp - 1.0) * (groups - grid.pp) / grid.vp


def _group(micro_batches: int, pp: int) -> int:
    """Fewest micro-batches that a chunk can take in a row without leaving the last group shorter than the pipeline."""
    return next((n for n in range(pp, micro_batches) if not 0 < micro_batches % n < pp), max(micro_batches, pp))


def memory(work: ModelWork, device: Device, task: Task, grid: Grid) -> Memory:
    """Memory of every layout of a grid."""
    one = np.ones_like(grid.tp)
    dense = sum(layer.count * layer.weights for layer in work.layers) / (grid.tp * grid.pp)
    expert = sum(layer.count * layer.expert_weights for layer in work.layers) / (grid.ep * grid.pp)
    ends = np.maximum(work.embedding_weights, work.head_weights) + np.where(
        grid.pp > 1, 0.0, min(work.embedding_weights, work.head_weights)
    )
    dense = dense + ends / grid.tp
    twice = 1.0 + grid.doubled  # DualPipe holds the weights of the stages at both ends (arXiv 2412.19437, table 2)
    dense, expert = dense * twice, expert * twice
    width = grid.dp * grid.cp
    expert_width = np.maximum(grid.tp * width / grid.ep, 1.0)

    def held(size: float, stage: int) -> F8:
        shared = grid.zero >= stage
        return size * (dense / np.where(shared, width, one) + expert / np.where(shared, expert_width, one))

    rows = grid.micro_batch * task.sequence_tokens / grid.cp
    micro_batches = np.maximum(task.batch_sequences / (grid.dp * grid.micro_batch), 1.0)
    in_flight = np.where(grid.vp > 1, _interleaved(grid, micro_batches), grid.pp)
    in_flight = np.minimum(in_flight, micro_batches)
    kept = sum(layer.count * _activation(layer, work.hidden, task, grid) for layer in work.layers)
    live = np.asarray(kept / grid.pp * in_flight * rows)
    widest = max((layer.inner + layer.routed_inner + 5.0 * work.hidden for layer in work.layers), default=work.hidden)
    working = np.where(grid.full > 0, 2.0 * widest / grid.tp * rows, 0.0)
    gathered = np.where(grid.zero >= 3, 4.0 * (dense + expert) * grid.pp / max(work.layer_count, 1.0), 0.0)
    trained = constant("lora_trained") if task.lora else 1.0
    logits = np.where(grid.pp > 1, 0.5, 1.0) * rows * work.vocab / grid.tp * constant("logit_bytes")
    return Memory(
        weights=held(2.0, 3), gradients=trained * held(task.grad_bytes, 2), optimizer=trained * held(constant("state_bytes"), 1),
        activations=live + working, logits=logits, buffers=gathered, reserve=constant("reserve_share") * device.memory_bytes,
        capacity=device.memory_bytes,
    )  # fmt: skip
