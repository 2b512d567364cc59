"""Time of one engine step: operators at the roofline with fitted efficiencies and floors, messages, host time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.cost.collectives import all_reduce_s, all_to_all_s, point_to_point_s
from offramp.cost.device import Device
from offramp.cost.operators import Message, Op, Shard, Steps, Traffic, step_work
from offramp.cost.parameters import Parameters
from offramp.cost.precision import Precision

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What one engine's way of running a step adds; numbers that are not fitted but follow from its design.

    Attributes:
        graph: decode runs from captured graphs (no launch cost per layer).
        overlap_host: host work of the next step hides behind the device.
    """

    graph: bool = True
    overlap_host: bool = True


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything about a deployment that a step's time depends on, but the layout and the batch."""

    model: Model
    device: Device
    precision: Precision
    parameters: Parameters
    routing: Traffic
    engine: Engine = Engine()


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


def _efficiencies(op: Op, p: Parameters) -> tuple[F8, F8, F8]:
    """Compute share, bandwidth share and floor of an operator. Each ``[draws, 1]``."""
    eight, four = op.dtype in ("fp8", "int8"), op.dtype == "fp4"
    if op.family == "gemm":
        compute = p.gemm_compute_8 if eight else p.gemm_compute_4 if four else p.gemm_compute
        return compute, p.gemm_memory, p.gemm_floor_s + (p.quant_floor_s if op.dtype == "int8" else 0.0)
    if op.family == "grouped":
        scale = p.gemm_compute_8 if eight else p.gemm_compute_4 if four else p.gemm_compute
        compute = p.grouped_compute * scale / p.gemm_compute
        return compute, p.grouped_memory, p.grouped_floor_s + (p.quant_floor_s if op.dtype == "int8" else 0.0)
    if op.family == "prefill":
        return p.prefill_compute, p.vector_memory, p.attention_floor_s
    if op.family == "prefill_mla":
        return p.prefill_mla_compute, p.vector_memory, p.attention_floor_s
    if op.family == "decode":
        return p.prefill_compute, p.decode_memory, p.attention_floor_s
    if op.family == "decode_mla":
        return p.decode_mla_compute, p.decode_mla_memory, p.attention_floor_s
    if op.family == "index":
        return p.prefill_mla_compute, p.decode_mla_memory, p.vector_floor_s
    return p.gemm_compute, p.vector_memory, p.vector_floor_s


def op_seconds(op: Op, device: Device, parameters: Parameters) -> tuple[F8, F8, F8]:
    """Compute time, memory time and floors of an operator over all its layers; the longer of the first two counts.

    Source: roofline with a fixed launch-and-tail term; t = max(flop / (peak e_c), bytes / (bandwidth e_m)) + floor.
    """
    compute_share, memory_share, floor = _efficiencies(op, parameters)
    peak = device.peak_flop_per_s.get(op.dtype)
    if peak is None:
        peak = device.peak_flop_per_s.get("bf16", device.peak_flop_per_s.get("fp16", 1.0))
    compute = op.layers * op.flop / (peak * compute_share)
    memory = op.layers * op.stream_bytes / (device.memory_bytes_per_s * memory_share)
    return compute, memory, op.layers * op.kernels * floor


def message_seconds(message: Message, setting: Setting) -> F8:
    """Seconds of a message over all its layers. [draws, n]"""
    fabric, links = setting.device.fabric, setting.parameters.links
    if message.kind == "all-reduce":
        one = all_reduce_s(fabric, links, payload_bytes=message.payload_bytes, ranks=message.ranks)
    elif message.kind == "all-to-all":
        one = all_to_all_s(fabric, links, sent_bytes=message.payload_bytes, ranks=message.ranks)
    else:
        one = point_to_point_s(fabric, links, sent_bytes=message.payload_bytes, crosses_nodes=False)
        one = np.where(message.ranks > 1, one, 0.0)
    return message.layers * one


def step_time(setting: Setting, shard: Shard, steps: Steps) -> StepTime:
    """Time of each step by cause.

    Args:
        setting: model, device, precision, parameters.
        shard: parallel degrees. [n]
        steps: what is scheduled. [n]

    Returns:
        Seconds, ``[draws, n]`` each.
    """
    p, device = setting.parameters, setting.device
    work = step_work(setting.model, setting.precision, shard, steps, setting.routing)
    shape = (p.draws, steps.tokens.shape[0])
    compute, memory, floors, messages = (np.zeros(shape) for _ in range(4))
    for op in work.ops:
        by_compute, by_memory, floor = op_seconds(op, device, p)
        wins = by_compute >= by_memory
        compute += np.where(wins, by_compute, 0.0)
        memory += np.where(wins, 0.0, by_memory)
        floors += floor
    for message in work.messages:
        messages += message_seconds(message, setting) * (1.0 - p.overlap)
    layers = float(setting.model.layer_count)
    eager = np.ones_like(steps.chunks) if not setting.engine.graph else np.minimum(steps.chunks, 1.0)
    host = p.step_host_s + p.seq_host_s * (steps.decode_seqs + steps.chunks) + eager * layers * p.prefill_layer_s
    return StepTime(compute=compute, memory=memory, floors=floors, messages=messages, host=host + np.zeros(shape))
