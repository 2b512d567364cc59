"""Parameters of the cost model: efficiencies, floors and overheads, as joint draws."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """One deployment's parameters, every field ``[draws, 1]``. Shares are of the device's peak or bandwidth.

    Attributes:
        gemm_compute: share of the BF16 peak that large GEMMs reach.
        gemm_compute_8, gemm_compute_4: the same for 8-bit and 4-bit GEMMs.
        gemm_memory: share of HBM bandwidth that weight-bound GEMMs reach.
        gemm_floor_s: fixed time of a GEMM kernel.
        quant_floor_s: further fixed time where activations are quantised dynamically (W8A8).
        grouped_compute, grouped_memory, grouped_floor_s: the same for grouped (expert) GEMMs.
        prefill_compute, prefill_mla_compute: share of the BF16 peak of prefill attention.
        decode_memory: share of HBM bandwidth of GQA decode attention.
        decode_mla_memory, decode_mla_compute: of absorbed MLA decode.
        attention_floor_s: fixed time of an attention kernel.
        vector_memory, vector_floor_s: of norms and elementwise kernels.
        link_efficiency, alltoall_efficiency, link_latency_s, alltoall_latency_s: of the scale-up fabric.
        scaleout_efficiency, scaleout_latency_s: of the network.
        overlap: share of collective time hidden behind computation.
        step_host_s: host time per step that the device waits for.
        seq_host_s: host time per scheduled sequence.
        launch_s: host time per kernel of a step outside captured graphs.
        queue_factor: how long prompts wait for one another, over what evenly mixed arrivals would; closed loops send in
            bunches.
        admit_steps: decode steps that a prompt waits before its prefill is scheduled: half a step where the scheduler looks
            for prompts at every step, 5 to 15 where it looks at every tenth or thirtieth (a common throughput setting).
        first_token_s: request overhead before the first step (HTTP, queue hand-over, sending the first token back).
        prompt_token_s: the part of it that grows with the prompt, per token (tokeniser, HTTP, copies between processes).
        memory_reserve: share of device memory kept from weights and KV.
        pace: factor on the whole step: how far a stack as a whole is from its kernels (tuning, bubbles, age). 1 = none.
    """

    gemm_compute: F8
    gemm_compute_8: F8
    gemm_compute_4: F8
    gemm_memory: F8
    gemm_floor_s: F8
    quant_floor_s: F8
    grouped_compute: F8
    grouped_memory: F8
    grouped_floor_s: F8
    prefill_compute: F8
    prefill_mla_compute: F8
    decode_memory: F8
    decode_mla_memory: F8
    decode_mla_compute: F8
    attention_floor_s: F8
    vector_memory: F8
    vector_floor_s: F8
    link_efficiency: F8
    alltoall_efficiency: F8
    link_latency_s: F8
    alltoall_latency_s: F8
    scaleout_efficiency: F8
    scaleout_latency_s: F8
    overlap: F8
    step_host_s: F8
    seq_host_s: F8
    launch_s: F8
    queue_factor: F8
    admit_steps: F8
    first_token_s: F8
    prompt_token_s: F8
    memory_reserve: F8
    pace: F8

    @property
    def draws(self) -> int:
        """Number of joint draws."""
        return int(self.gemm_compute.shape[0])

    def take(self, draws: npt.NDArray[np.int64] | list[int]) -> Parameters:
        """The same parameters with only the given draws."""
        return Parameters(**{name: getattr(self, name)[draws] for name in PARAMETER_NAMES})


def slowed(parameters: Parameters, factor: F8) -> Parameters:
    """The same parameters with every step longer by ``factor`` ``[draws, 1]``."""
    return replace(parameters, pace=parameters.pace * factor)


PARAMETER_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Parameters))


def from_table(values: dict[str, F8]) -> Parameters:
    """Parameters from one array per name, each ``[draws]`` or ``[draws, 1]``."""
    return Parameters(**{name: np.asarray(values[name], dtype=np.float64).reshape(-1, 1) for name in PARAMETER_NAMES})
