"""Features: a step's operators and messages at the hardware's peaks, before any parameter is applied.

Features do not depend on the fitted parameters, so a fit computes them once for thousands of measured rows and a
search once for a hundred thousand layouts. :func:`seconds` is the only place where efficiencies, floors and
latencies meet them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.cost.collectives import usable_bytes_per_s
from offramp.cost.device import Device, Fabric
from offramp.cost.operators import Message, Op, Work
from offramp.cost.parameters import Parameters

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

# One curve per (family, width of the arithmetic); the order is the index.
CURVES: Final = (
    "gemm", "gemm8", "gemm_int8", "gemm4", "grouped", "grouped8", "grouped_int8", "grouped4",
    "prefill", "prefill_mla", "decode", "decode_mla", "vector", "index",
)  # fmt: skip
_INDEX: Final = {name: i for i, name in enumerate(CURVES)}


def curve_of(op: Op) -> int:
    """Index of the curve that prices an operator."""
    if op.family in ("gemm", "grouped"):
        suffix = {"fp8": "8", "int8": "_int8", "fp4": "4"}.get(op.dtype, "")
        return _INDEX[op.family + suffix]
    return _INDEX[op.family]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Efficiencies and floors by curve, each ``[curves, draws, 1]`` (or ``[curves, 1, n]``, one set per entry)."""

    compute: F8
    memory: F8
    floor: F8


def curves(p: Parameters) -> Curves:
    """The curves that a set of parameters describes."""
    ratio8, ratio4 = p.gemm_compute_8 / p.gemm_compute, p.gemm_compute_4 / p.gemm_compute
    grouped = p.grouped_compute
    compute = [
        p.gemm_compute, p.gemm_compute_8, p.gemm_compute_8, p.gemm_compute_4,
        grouped, grouped * ratio8, grouped * ratio8, grouped * ratio4,
        p.prefill_compute, p.prefill_mla_compute, p.prefill_compute, p.decode_mla_compute, p.gemm_compute,
        p.prefill_mla_compute,
    ]  # fmt: skip
    memory = [
        *[p.gemm_memory] * 4, *[p.grouped_memory] * 4,
        p.vector_memory, p.vector_memory, p.decode_memory, p.decode_mla_memory, p.vector_memory, p.decode_mla_memory,
    ]  # fmt: skip
    gemm, group, quant = p.gemm_floor_s, p.grouped_floor_s, p.quant_floor_s
    floor = [
        gemm, gemm, gemm + quant, gemm, group, group, group + quant, group,
        *[p.attention_floor_s] * 4, p.vector_floor_s, p.vector_floor_s,
    ]  # fmt: skip
    return Curves(compute=np.stack(compute), memory=np.stack(memory), floor=np.stack(floor))


@dataclass(frozen=True, kw_only=True)
class Features:
    """A step at peak, for ``n`` (layout, batch) pairs and ``k`` operators.

    Attributes:
        compute_s, memory_s: time at the dtype's peak and at peak bandwidth. [k, n]
        kernels: launches. [k, n]
        curve: index into :data:`CURVES`. [k] when all pairs share a model, else [k, n]
        reduce_near_s, reduce_far_s: all-reduces at peak link and network bandwidth. [n]
        reduce_hops, reduce_far_hops: small-message latencies they cost, in units of the latency parameters. [n]
        exchange_near_s, exchange_far_s: all-to-alls, one row per message kind. [2, n]
        exchange_hops, exchange_far_hops: their latencies. [n]
        sequences: scheduled sequences. [n]
        eager_kernels: kernels launched one by one, outside captured graphs. [n]
    """

    compute_s: F8
    memory_s: F8
    kernels: F8
    curve: I8
    reduce_near_s: F8
    reduce_far_s: F8
    reduce_hops: F8
    reduce_far_hops: F8
    exchange_near_s: F8
    exchange_far_s: F8
    exchange_hops: F8
    exchange_far_hops: F8
    sequences: F8
    eager_kernels: F8


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step by cause. Each ``[draws, n]``; ``total`` is their sum."""

    compute: F8
    memory: F8
    floors: F8
    messages: F8
    host: F8

    @property
    def total(self) -> F8:
        """The whole step."""
        return self.compute + self.memory + self.floors + self.messages + self.host


def features_of(work: Work, device: Device, *, sequences: F8, eager_kernels: F8) -> Features:
    """A step's work at the device's peaks.

    Args:
        work: operators and messages.
        device: peaks, bandwidth, links.
        sequences: sequences that the step schedules. [n]
        eager_kernels: kernels launched one by one, outside captured graphs. [n]
    """
    n = sequences.shape[0]
    fallback = device.peak_flop_per_s["bf16"]
    peaks = [device.peak_flop_per_s.get(op.dtype, fallback) for op in work.ops]
    zero = np.zeros(n)
    compute = [op.layers * op.flop / peak + zero for op, peak in zip(work.ops, peaks, strict=True)]
    memory = [op.layers * op.stream_bytes / device.memory_bytes_per_s + zero for op in work.ops]
    kernels = [op.layers * op.kernels + zero for op in work.ops]
    reduce = _reduces([m for m in work.messages if m.kind == "all-reduce"], device.fabric, n)
    sends = [m for m in work.messages if m.kind == "send"]
    for message in sends:
        reduce = reduce + _send(message, device.fabric)
    exchange = _exchanges([m for m in work.messages if m.kind == "all-to-all"], device.fabric, n)
    return Features(
        compute_s=np.array(compute), memory_s=np.array(memory), kernels=np.array(kernels),
        curve=np.array([curve_of(op) for op in work.ops], dtype=np.int64),
        reduce_near_s=reduce[0], reduce_far_s=reduce[1], reduce_hops=reduce[2], reduce_far_hops=reduce[3],
        exchange_near_s=exchange[0:2], exchange_far_s=exchange[2:4], exchange_hops=exchange[4],
        exchange_far_hops=exchange[5], sequences=sequences, eager_kernels=eager_kernels,
    )  # fmt: skip


def _spans(fabric: Fabric, ranks: F8) -> tuple[F8, F8]:
    inside = np.minimum(ranks, float(max(fabric.domain_devices, 1)))
    return inside, np.ceil(ranks / inside)


def _reduces(messages: Sequence[Message], fabric: Fabric, n: int) -> F8:
    """Near and far seconds at peak, near and far hops, of all all-reduces. [4, n]

    Source: reduce-scatter and all-gather each move (n-1)/n of the payload; a group larger than the scale-up domain
    reduces inside first.
    """
    total = np.zeros((4, n))
    network = max(fabric.scaleout_bytes_per_s, 1.0)
    for message in messages:
        inside, domains = _spans(fabric, message.ranks)
        on = (message.ranks > 1) * message.layers
        near = 2.0 * (inside - 1.0) / inside * message.payload_bytes / usable_bytes_per_s(fabric, message.ranks)
        far = 2.0 * (domains - 1.0) / domains * message.payload_bytes / inside / network
        hops = np.where(inside > 1, 0.5 + np.log2(np.maximum(inside, 2.0)) / 6.0, 0.0)
        far_hops = np.where(domains > 1, 1.0 + np.log2(domains), 0.0)
        total += np.stack([near, far, hops, far_hops]) * on
    return total


def _send(message: Message, fabric: Fabric) -> F8:
    """A pipeline hand-over: one link of a mesh, or all links of a switched device."""
    pair = fabric.link_bytes_per_s if fabric.topology == "full-mesh" else fabric.device_bytes_per_s
    on = (message.ranks > 1) * message.layers
    zero = np.zeros_like(message.payload_bytes)
    return np.stack([message.payload_bytes / max(pair, 1.0), zero, zero + 0.5, zero]) * on


def _exchanges(messages: Sequence[Message], fabric: Fabric, n: int) -> F8:
    """Dispatch and combine: near seconds [2], far seconds [2], hops, far hops. [6, n]"""
    total = np.zeros((6, n))
    network = max(fabric.scaleout_bytes_per_s, 1.0)
    for index, message in enumerate(messages):
        inside, domains = _spans(fabric, message.ranks)
        on = (message.ranks > 1) * message.layers
        near = message.payload_bytes * (inside - 1.0) / message.ranks / usable_bytes_per_s(fabric, message.ranks)
        far = message.payload_bytes * (1.0 - inside / message.ranks) / network
        total[index % 2] += near * on
        total[2 + index % 2] += far * on
        total[4] += on * (0.5 + np.log2(np.maximum(message.ranks, 2.0)) / 6.0)
        total[5] += on * (domains > 1)
    return total


def seconds(features: Features, p: Parameters) -> StepTime:
    """Seconds of each step.

    Source: roofline with a fixed launch-and-tail term per kernel, t = |(flop / (peak e_c), bytes / (bandwidth e_m))| + floor,
    where the norm is Euclidean: near the ridge neither side hides the other wholly (measured GEMM and grouped GEMM
    tables of H800 and 910B fit exponents of 1.5 to 3). Messages: latency plus bytes over usable bandwidth.

    Args:
        features: a step at peak.
        p: parameters, ``[draws, 1]`` each, or ``[1, n]`` each (one set per entry, as a fit needs).
    """
    shape = np.broadcast_shapes(p.gemm_compute.shape, (1, features.sequences.shape[0]))
    compute, memory, floors = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    table = curves(p)
    for k in range(features.compute_s.shape[0]):
        share_c, share_m, floor = (
            _pick(values, features.curve[k]) for values in (table.compute, table.memory, table.floor)
        )
        by_compute, by_memory = features.compute_s[k] / share_c, features.memory_s[k] / share_m
        both = np.hypot(by_compute, by_memory)
        wins = by_compute >= by_memory
        compute += np.where(wins, both, 0.0)
        memory += np.where(wins, 0.0, both)
        floors += features.kernels[k] * floor
    messages = features.reduce_near_s / p.link_efficiency + features.reduce_far_s / p.scaleout_efficiency
    messages = messages + features.reduce_hops * p.link_latency_s + features.reduce_far_hops * p.scaleout_latency_s
    for i in range(2):
        near = features.exchange_near_s[i] / p.alltoall_efficiency
        messages = messages + np.maximum(near, features.exchange_far_s[i] / p.scaleout_efficiency)
    messages = messages + features.exchange_hops * p.alltoall_latency_s
    messages = messages + features.exchange_far_hops * p.scaleout_latency_s
    busy = np.minimum(features.sequences, 1.0)
    host = p.step_host_s * busy + p.seq_host_s * features.sequences + features.eager_kernels * p.launch_s
    zero = np.zeros(shape)
    return StepTime(
        compute=compute * p.pace, memory=memory * p.pace, floors=floors * p.pace,
        messages=messages * (1.0 - p.overlap) * p.pace + zero, host=host * p.pace + zero,
    )  # fmt: skip


def _pick(values: F8, curve: I8 | np.int64) -> F8:
    """The curve's values: ``[draws, 1]`` for one curve, ``[draws, n]`` where each entry has its own."""
    if np.ndim(curve) == 0:
        return values[curve]
    if values.shape[2] == 1:
        return values[curve, :, 0].T
    return values[curve, :, np.arange(values.shape[2])].T


def stack(parts: Sequence[Features]) -> Features:
    """Features of different models side by side; missing operators are padded with zeros."""
    k = max(part.compute_s.shape[0] for part in parts)

    def pad(values: F8) -> F8:
        missing = k - values.shape[0]
        return np.concatenate([values, np.zeros((missing, values.shape[1]))]) if missing else values

    def pad_curve(part: Features) -> I8:
        n = part.sequences.shape[0]
        full = np.repeat(part.curve[:, None], n, axis=1) if part.curve.ndim == 1 else part.curve
        return np.concatenate([full, np.zeros((k - full.shape[0], n), dtype=np.int64)])

    def join(name: str) -> F8:
        return np.concatenate([getattr(part, name) for part in parts], axis=-1)

    rest = [name for name in Features.__dataclass_fields__ if name not in ("compute_s", "memory_s", "kernels", "curve")]
    return Features(
        compute_s=np.concatenate([pad(part.compute_s) for part in parts], axis=1),
        memory_s=np.concatenate([pad(part.memory_s) for part in parts], axis=1),
        kernels=np.concatenate([pad(part.kernels) for part in parts], axis=1),
        curve=np.concatenate([pad_curve(part) for part in parts], axis=1),
        **{name: join(name) for name in rest},
    )


def take(features: Features, order: I8) -> Features:
    """The same features with entries in another order (or only some of them)."""
    return Features(**{name: getattr(features, name)[..., order] for name in Features.__dataclass_fields__})
