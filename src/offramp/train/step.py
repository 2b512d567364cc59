"""Step time: features put to efficiencies, launch floors and overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.train.assumed import constant
from offramp.train.features import Features

F8 = npt.NDArray[np.float64]
Values = Mapping[str, F8]


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one optimiser step and what they go to. [draws, layouts] or [layouts]

    Attributes:
        total: of the step.
        compute, tp, expert, context, gather, hop, bubble, end: GEMMs,
        attention and vector work; exposed messages of tensor,
            expert and context parallelism and of sharded weights; sends between stages; idle pipeline and uneven
            stages;
            gradients and optimiser.
    """

    total: F8
    compute: F8
    tp: F8
    expert: F8
    context: F8
    gather: F8
    hop: F8
    bubble: F8
    end: F8

    def shares(self) -> dict[str, F8]:
        """Each part over the total."""
        names = ("compute", "tp", "expert", "context", "gather", "hop", "bubble", "end")
        return {name: getattr(self, name) / self.total for name in names}


def _exposed(message_s: F8, exposed: F8, cover_s: F8) -> F8:
    """Seconds of messages that stay visible: a share that is never hidden, and what outlasts the work beside it."""
    hidden = message_s * (1.0 - exposed)
    return message_s * exposed + np.maximum(hidden - cover_s, 0.0)


def _both_exposed(near: tuple[F8, F8], far: tuple[F8, F8], cover_s: F8) -> tuple[F8, F8]:
    """Visible seconds of messages inside and across domains (seconds, share never hidden), and the cover they take.

    They use different links, so that the same work hides both; where there is none, one comes after the other.
    """
    hidden = [message_s * (1.0 - exposed) for message_s, exposed in (near, far)]
    longest = np.maximum(*hidden)
    outlast = np.where(cover_s > 0, np.maximum(longest - cover_s, 0.0), hidden[0] + hidden[1])
    return near[0] * near[1] + far[0] * far[1] + outlast, np.where(cover_s > 0, np.minimum(longest, cover_s), 0.0)


def step_time(f: Features, p: Values) -> StepTime:
    """Step time of every case.

    Args:
        f: features. [cases]
        p: parameters by name (see :mod:`offramp.train.parameters`), scalars, [cases] or [draws, cases].
    """
    matrix = (f.gemm + f.waves * p["wave_elements"] + f.grouped / p["grouped"]) / p["gemm"] + f.gemm_16 / p["gemm_16"]
    moved = (f.stream * p["stream"] + f.vector + f.casts * p["cast"] + f.scores) / p["memory"]
    launches = f.dense_passes * p["floor_dense_s"] + f.moe_passes * p["floor_moe_s"]
    compute = (matrix + f.attention / p["attention"] + moved) * p["stack"]
    least = (f.gemm + f.grouped + f.gemm_16 + f.attention) / constant("best_share")  # silicon is silicon
    compute = np.maximum(compute, least) + launches
    tp = (f.tp / p["link"] + f.tp_calls * p["call_s"]) * p["tp_exposed"]
    tp = tp * np.where(f.async_tp > 0, p["async_tp"], 1.0)
    left = np.where(f.hidden > 0, constant("hidden_left"), 1.0)
    share = left * p["expert_exposed"]
    cover = np.where(f.hidden > 0, compute, 0.0)
    near, far = f.a2a / p["link"], f.far / p["network"]
    near_left, far_left = np.minimum(share, 1.0), np.minimum(left * p["far_exposed"], 1.0)
    expert, beside_expert = _both_exposed((near, near_left), (far, far_left), cover)
    context = _exposed(f.cp / p["link"], p["cp_exposed"], f.attention / p["attention"])
    sent = f.gather / p["network"]
    gather = _exposed(sent, p["dp_exposed"], compute + tp)
    hop = f.hop / p["network"] * p["hop_exposed"]
    one = compute + tp + expert + context + gather + hop
    passes = f.micro_batches * f.peak_stage
    idle = (f.bubble + f.micro_batches * (f.peak_stage - 1.0)) * one
    # what already runs beside other messages hides no gradients
    free = np.minimum(compute, np.maximum(compute + tp - sent * (1.0 - p["dp_exposed"]), 0.0))
    beside = constant("reduce_cover") * np.maximum(free - beside_expert, 0.0)
    end = _exposed(f.reduce / p["network"], p["dp_exposed"], beside) + f.adam / p["memory"] + p["host_s"]
    slow = np.exp(p["scale"] * f.scale)
    busy = f.micro_batches
    total = ((passes + f.bubble) * one + end) * slow  # the pipeline fills at the pace of the mean stage
    return StepTime(
        total=total, compute=busy * compute, tp=busy * tp, expert=busy * expert, context=busy * context,
        gather=busy * gather, hop=busy * hop, bubble=idle + total * (1.0 - 1.0 / slow), end=end,
    )  # fmt: skip
