"""Time of one engine step of a deployment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.cost.device import Device
from offramp.cost.features import CURVES, Features, StepTime, features_of, seconds
from offramp.cost.operators import Shard, Steps, Traffic, Work, step_work
from offramp.cost.parameters import Parameters
from offramp.cost.precision import Precision

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything about a deployment that a step's time depends on, but the layout and the batch.

    Attributes:
        graph: decode runs from captured graphs, so that only steps with prefill pay launches per layer.
    """

    model: Model
    device: Device
    precision: Precision
    parameters: Parameters
    routing: Traffic
    graph: bool = True


def step_features(
    model: Model,
    device: Device,
    precision: Precision,
    routing: Traffic,
    *,
    shard: Shard,
    steps: Steps,
    graph: bool = True,
) -> Features:
    """A step's features for arrays of layouts and batches. [n]"""
    work = step_work(model, precision, shard, steps, routing)
    eager = np.minimum(steps.chunks, 1.0) if graph else np.minimum(steps.tokens, 1.0)
    return features_of(
        work, device, sequences=steps.decode_seqs + steps.chunks, eager_kernels=eager * _launches(work, eager)
    )


def _launches(work: Work, like: F8) -> F8:
    """Kernels of one step. [n]"""
    total: F8 = sum((op.layers * op.kernels for op in work.ops), start=np.zeros_like(like))
    return total


def launch_time(setting: Setting, shard: Shard, steps: Steps) -> F8:
    """Host time of a step's launches outside captured graphs, in seconds. ``[draws, n]``"""
    work = step_work(setting.model, setting.precision, shard, steps, setting.routing)
    return _launches(work, steps.tokens) * setting.parameters.launch_s


_SHARED: Final = np.array([name.startswith("grouped") for name in CURVES])


def split_time(setting: Setting, shard: Shard, steps: Steps) -> tuple[F8, F8]:
    """Time of each step, and the part of it that expert-parallel ranks work off together: experts and their exchange.

    A rank's prefill goes to the experts of all ranks, so this part depends on the mean tokens of the ranks.

    Args:
        setting: model, device, precision, parameters.
        shard: parallel degrees. [n]
        steps: what each rank schedules. [n]

    Returns:
        Seconds, ``[draws, n]`` each.
    """
    full = step_features(
        setting.model, setting.device, setting.precision, setting.routing, shard=shard, steps=steps, graph=setting.graph
    )
    whole = seconds(full, setting.parameters).total
    keep = np.flatnonzero(_SHARED[full.curve])
    zero = np.zeros_like(full.sequences)
    part = replace(
        full, compute_s=full.compute_s[keep], memory_s=full.memory_s[keep], kernels=full.kernels[keep],
        curve=full.curve[keep], reduce_near_s=zero, reduce_far_s=zero, reduce_hops=zero, reduce_far_hops=zero,
        sequences=zero, eager_kernels=zero,
    )  # fmt: skip
    return whole, seconds(part, setting.parameters).total


def step_time(setting: Setting, shard: Shard, steps: Steps) -> StepTime:
    """Time of each step by cause.

    Args:
        setting: model, device, precision, parameters.
        shard: parallel degrees. [n]
        steps: what is scheduled. [n]

    Returns:
        Seconds, ``[draws, n]`` each.
    """
    features = step_features(
        setting.model, setting.device, setting.precision, setting.routing, shard=shard, steps=steps, graph=setting.graph
    )
    return seconds(features, setting.parameters)
