"""Time of one engine step of a deployment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.cost.device import Device
from offramp.cost.features import Features, StepTime, features_of, seconds
from offramp.cost.operators import Shard, Steps, Traffic, step_work
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
        work, device, sequences=steps.decode_seqs + steps.chunks, eager_layers=eager * float(model.layer_count)
    )


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
