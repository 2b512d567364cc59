"""Memory of one device: weights by rank, KV per token and its replication, what is left, and what does not fit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offramp.arch.count import INDEX_SCALE_BYTES, state_bytes
from offramp.arch.record import Attention, Model
from offramp.core.record import Record
from offramp.cost.device import Device
from offramp.cost.operators import Shard, Steps, Traffic, step_work
from offramp.cost.precision import KV_BYTES, Precision

F8 = npt.NDArray[np.float64]

ACTIVATION_FACTOR = 12.0
"""Peak activation bytes over (step tokens x hidden x 2 bytes). Assumed (8 to 20): MLP up-projection and workspace."""
RUNTIME_BYTES = 1.5e9
"""Context, graphs and communication buffers of a device. Assumed (1e9 to 4e9)."""


class Memory(Record):
    """Bytes on one device.

    Attributes:
        capacity_bytes: what the driver reports.
        reserve_bytes: kept by the engine (1 - gpu_memory_utilization) and the runtime.
        weights_bytes, activation_bytes: as named.
        kv_bytes: left for the cache; negative when the weights alone do not fit.
        kv_bytes_per_token: at the given context, this device's share.
        kv_capacity_tokens: tokens that one data-parallel rank can hold.
    """

    capacity_bytes: float
    reserve_bytes: float
    weights_bytes: float
    activation_bytes: float
    kv_bytes: float
    kv_bytes_per_token: float
    kv_capacity_tokens: int

    @property
    def fits(self) -> bool:
        """Whether weights, activations and at least one token fit."""
        return self.kv_capacity_tokens > 0


def weights_bytes(model: Model, precision: Precision, shard: Shard, *, mtp: bool = False) -> F8:
    """Weights that each layout keeps on one device. [n]"""
    one = np.ones_like(shard.tp)
    steps = Steps(tokens=one, decode_seqs=one, decode_context=one, prefill_pairs=one, chunks=one)
    total = np.zeros_like(shard.tp)
    for op in step_work(model, precision, shard, steps, Traffic()).ops:
        # the pipeline splits layers; embedding and head each lie on one end, so they are not divided
        total = total + op.resident_bytes * (op.layers / shard.pp if op.layers > 1 else 1.0)
    if mtp and model.mtp_layers:
        total = total + total / max(model.layer_count, 1) * model.mtp_layers
    return total


def kv_bytes_per_sequence(model: Model, precision: Precision, shard: Shard, context_tokens: F8) -> F8:
    """Cache of one sequence on one device. [n]

    The MLA latent lies on every tensor-parallel rank; GQA heads replicate where tp exceeds their number.
    """
    size = KV_BYTES[precision.kv]
    total = np.zeros_like(shard.tp)
    for group in model.layers:
        layer = group.attention
        share = _kv_share(layer, shard)
        held = context_tokens * (layer.kv_elements_per_token * size * share if layer.grows else 0.0)
        if layer.grows and layer.index_heads and not layer.index_shared:
            held = held + context_tokens * (layer.index_head_dim + INDEX_SCALE_BYTES)
        held = held / max(layer.compress_ratio, 1)
        if layer.window_tokens:
            recent = np.minimum(context_tokens, float(layer.window_tokens))
            held = held + recent * layer.kv_elements_per_token * size * share
        held = held + state_bytes(layer, model.hidden) / shard.tp
        total = total + group.count * held
    return total / shard.pp


def _kv_share(layer: Attention, shard: Shard) -> F8:
    if layer.kind == "gqa" and layer.kv_heads:
        return np.maximum(layer.kv_heads / shard.tp, 1.0) / layer.kv_heads
    return np.ones_like(shard.tp)


def memory_table(
    model: Model, precision: Precision, shard: Shard, device: Device, *, context_tokens: F8,
    max_batch_tokens: F8, reserve_share: F8, mtp: bool = False,
) -> dict[str, F8]:  # fmt: skip
    """The fields of :class:`Memory` as arrays. Each ``[n]``.

    Args:
        model, precision, shard, device: the layouts.
        context_tokens: typical tokens of a sequence, at which KV per token is taken.
        max_batch_tokens: token budget of a step.
        reserve_share: share of capacity that the engine leaves free.
        mtp: the draft layers are loaded too.
    """
    weights = weights_bytes(model, precision, shard, mtp=mtp)
    activations = max_batch_tokens * model.hidden * 2.0 * ACTIVATION_FACTOR / np.minimum(shard.tp, 4.0)
    reserve = device.memory_bytes * reserve_share + RUNTIME_BYTES
    left = device.memory_bytes - reserve - weights - activations
    per_token = kv_bytes_per_sequence(model, precision, shard, context_tokens) / np.maximum(context_tokens, 1.0)
    tokens = np.floor(np.maximum(left, 0.0) / np.maximum(per_token, 1e-9))
    return {
        "capacity_bytes": np.full_like(weights, device.memory_bytes), "reserve_bytes": reserve + np.zeros_like(weights),
        "weights_bytes": weights, "activation_bytes": activations, "kv_bytes": left, "kv_bytes_per_token": per_token,
        "kv_capacity_tokens": tokens,
    }  # fmt: skip


def memory_of(table: dict[str, F8], index: int = 0) -> Memory:
    """One row of :func:`memory_table` as a record."""
    values = {name: float(column[index]) for name, column in table.items()}
    tokens = int(min(values.pop("kv_capacity_tokens"), 2**53))
    return Memory(**values, kv_capacity_tokens=tokens)
