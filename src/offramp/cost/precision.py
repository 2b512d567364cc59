"""Precision: which dtype each part of a model is stored and computed in on a device, and what that costs."""

from __future__ import annotations

from typing import Final

from offramp.arch.count import part_dtypes
from offramp.arch.record import Model
from offramp.core.record import Record

# Bytes per stored weight, scales included. Source: formats' definitions (OCP MX: one 8-bit scale per 32 values;
# NVFP4: one FP8 scale per 16; AWQ/GPTQ group 128: FP16 scale and 4-bit zero; FP8 block 128x128: FP32 scale).
WEIGHT_BYTES: Final = {
    "fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0 + 4.0 / 16384, "int8": 1.0 + 4.0 / 4096,
    "int4": 0.5 + 2.5 / 128, "fp4": 0.5 + 1.0 / 16, "mxfp4": 0.5 + 1.0 / 32,
}  # fmt: skip
KV_BYTES: Final = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625}
ACTIVATION_BYTES: Final = 2.0


class Precision(Record):
    """Stored and computed dtypes by part of the model.

    Attributes:
        attention, dense, experts, head: stored dtype of those weights.
        attention_compute, dense_compute, experts_compute: dtype of the GEMM.
        kv: stored dtype of the KV cache.
        attention_math: dtype of the attention kernel.
        dynamic_quant: activations are quantised per token before each GEMM (W8A8 on 910B), a kernel more.
        fallback: what was asked for and cannot be had, in words; "" where nothing falls back.
    """

    attention: str = "bf16"
    dense: str = "bf16"
    experts: str = "bf16"
    head: str = "bf16"
    attention_compute: str = "bf16"
    dense_compute: str = "bf16"
    experts_compute: str = "bf16"
    kv: str = "bf16"
    attention_math: str = "bf16"
    dynamic_quant: bool = False
    fallback: str = ""


def choose(model: Model, *, device_dtypes: frozenset[str], weights: str = "", kv: str = "") -> Precision:
    """Precision of a model on a device: what was asked for, or the nearest that the device has.

    FP8 without FP8 units runs as W8A8 INT8 (dynamic per-token activation scales, an accuracy risk); FP4 without FP4
    units keeps its 4-bit storage and computes in FP8 or BF16; weight-only INT4 computes in BF16.

    Args:
        model: its ``quantization`` is the checkpoint's own format.
        device_dtypes: dtypes with a published peak on the device.
        weights: "bf16", "fp8", "int8", "int4", "fp4"; "" keeps the checkpoint's.
        kv: dtype of the KV cache; "" means BF16.
    """
    parts = part_dtypes(model, weights or None)
    quant = model.quantization
    weight_only = weights == "int4" or (
        not weights and quant is not None and quant.activation_dtype in ("bf16", "fp16")
    )
    fallback: list[str] = []

    def place(part: str) -> tuple[str, str]:
        stored = parts[part]
        if stored == "fp8" and "fp8" not in device_dtypes:
            if "int8" in device_dtypes:
                fallback.append("FP8 weights run as W8A8 INT8")
                return "int8", "int8"
            fallback.append("FP8 weights run as BF16")
            return "bf16", "bf16"
        if stored == "int8" and "int8" not in device_dtypes:
            return ("fp8", "fp8") if "fp8" in device_dtypes else ("bf16", "bf16")
        return stored, _compute(stored, device_dtypes, weight_only=weight_only)

    attention, dense, experts = place("attention"), place("dense_mlp"), place("experts")
    kv_dtype = kv or "bf16"
    if kv_dtype == "fp8" and "fp8" not in device_dtypes:
        fallback.append(
            "FP8 KV cache is stored as INT8" if "int8" in device_dtypes else "FP8 KV cache is stored as BF16"
        )
        kv_dtype = "int8" if "int8" in device_dtypes else "bf16"
    return Precision(
        attention=attention[0], attention_compute=attention[1], dense=dense[0], dense_compute=dense[1],
        experts=experts[0], experts_compute=experts[1], head=parts["lm_head"], kv=kv_dtype,
        attention_math="fp8" if kv_dtype == "fp8" and "fp8" in device_dtypes else "bf16",
        dynamic_quant="int8" in (attention[1], dense[1], experts[1]) and "fp8" not in device_dtypes,
        fallback="; ".join(dict.fromkeys(fallback)),
    )  # fmt: skip


def _compute(stored: str, device_dtypes: frozenset[str], *, weight_only: bool) -> str:
    """The GEMM's dtype for weights stored so."""
    if stored in ("fp8", "int8"):
        return stored
    if stored == "fp4" and not weight_only and "fp4" in device_dtypes:
        return "fp4"
    return "bf16"
