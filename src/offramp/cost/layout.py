"""Layout: pools of chips with parallel degrees, precision and engine. Pools of one layout may be of different chips."""

from __future__ import annotations

from typing import Literal

from offramp.core.record import Record

Role = Literal["both", "prefill", "decode"]


class Pool(Record):
    """Identical replicas of one deployment.

    Attributes:
        chip: catalogue id ("huawei/ascend-910b2").
        system: catalogue id of the server or pod; "" takes the chip's default.
        engine: catalogue id of the engine ("vllm", "sglang", "mindie", "vllm-ascend" ...).
        engine_version: "" means the engine's current version in the catalogue.
        weights_dtype, kv_dtype: "bf16", "fp8", "int8", "int4", "fp4"; "" keeps the checkpoint's own.
        tp, pp: tensor and pipeline parallel degree, in torch devices (a 910C package is two).
        dp: data-parallel attention degree inside one replica (1 = off).
        ep: expert-parallel degree inside one replica (1 = experts are tensor parallel).
        role: "both" for aggregated serving, else one side of prefill/decode disaggregation.
        replicas: how many identical replicas the pool holds.
        max_batch_tokens: token budget of one step (chunk size of chunked prefill).
        max_seqs: most sequences of one replica in a step.
    """

    chip: str
    system: str = ""
    engine: str = ""
    engine_version: str = ""
    weights_dtype: str = ""
    kv_dtype: str = ""
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    role: Role = "both"
    replicas: int = 1
    max_batch_tokens: int = 8192
    max_seqs: int = 256

    @property
    def devices(self) -> int:
        """Torch devices of one replica: tp x pp x dp (EP re-uses the same devices)."""
        return self.tp * self.pp * self.dp


class Layout(Record):
    """One way to serve a workload: one aggregated pool, or prefill and decode pools."""

    pools: tuple[Pool, ...]
    spec_tokens: int = 0
    """Draft tokens per step of speculative decoding (MTP); 0 = off."""
    spec_accept: float = 0.0
    """Mean accepted draft tokens per step."""
