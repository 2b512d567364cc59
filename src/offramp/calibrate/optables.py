"""Operator tables of H20, H800 (alibaba/InferSim) and 910B as CSV files, in the columns of the parquet tables."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from offramp.calibrate.operators import (
    Anchor,
    Columns,
    Timings,
    anchors_of,
    decode_timings,
    fit_roofline,
    gemm_timings,
    mla_timings,
    prefill_timings,
)  # fmt: skip
from offramp.core.units import MICRO, MILLI
from offramp.cost.device import Device
from offramp.cost.operators import GROUPED_TILE_ROWS
from offramp.cost.routing import touched_experts

US_TO_MS = MICRO / MILLI


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return list(csv.DictReader(handle))


def _column(rows: list[dict[str, str]], name: str) -> Any:
    return np.array([float(row[name]) for row in rows])


def infersim_anchors(folder: Path, device: Device, chip: str) -> Iterator[Anchor]:
    """Anchors from alibaba/InferSim's tables of one chip ("h20", "h800")."""
    source = f"alibaba/InferSim kernel tables, {chip}"
    rows = _read(folder / f"gemm__{chip}__data.csv")
    columns: Columns = {name: _column(rows, name) for name in ("m", "n", "k")}
    columns |= {"latency": _column(rows, "latency_us") * US_TO_MS, "gemm_dtype": np.full(len(rows), "fp8")}
    timings, _ = gemm_timings(columns, device, {"fp8": "fp8"})
    shares, memory, floor, error = fit_roofline(timings, groups=1)
    del memory  # of FP8 kernels alone; the parameter stands for all dtypes
    yield from anchors_of(device, "", source, error, len(rows), gemm_compute_8=shares[0], gemm_floor_s=floor)
    grouped = _grouped(folder, device, chip)
    shares, memory, floor, error = fit_roofline(grouped, groups=1)
    yield from anchors_of(
        device, "", source, error, grouped.measured_s.size, grouped_compute=shares[0], grouped_memory=min(memory, 0.98),
        grouped_floor_s=floor,
    )  # fmt: skip
    yield from _attention(folder, device, chip, source)


def _grouped(folder: Path, device: Device, chip: str) -> Timings:
    rows = [
        (row, phase)
        for phase in ("decode", "prefill")
        for row in _read(folder / f"grouped_gemm__{phase}__{chip}__data.csv")
    ]
    table = [row for row, _ in rows]
    batch = np.array([float(row.get("batch_size_per_gpu") or row["seq_len_per_gpu"]) for row in table])
    experts, gpus, local, topk, hidden, inter = (
        _column(table, name)
        for name in ("num_experts", "num_gpus", "num_local_experts", "topk", "hidden_size", "intermediate_size")
    )
    tokens = batch * gpus
    lines = tokens * topk / experts * local
    touched = np.array(
        [touched_experts(int(e), int(k), 0.0, np.array([t]))[0] for e, k, t in zip(experts, topk, tokens, strict=True)]
    )
    touched = np.minimum(touched * local / experts, np.maximum(lines, 1e-9))
    parts = ((2.0 * inter, hidden, "up_proj_us"), (hidden, inter, "down_proj_us"))
    peak, bandwidth = float(np.mean(device.peak_flop_per_s["fp8"])), float(np.mean(device.memory_bytes_per_s))
    padded = np.maximum(lines, touched * GROUPED_TILE_ROWS)
    compute = np.concatenate([2.0 * padded * n * k / peak for n, k, _ in parts])
    memory = np.concatenate([(touched * n * k + lines * (k + 2.0 * n)) / bandwidth for n, k, _ in parts])
    seconds = np.concatenate([_column(table, name) * MICRO for _, _, name in parts])
    group = np.zeros(seconds.size, dtype=int)
    return Timings(compute_s=compute, memory_s=memory, kernels=np.ones_like(seconds), measured_s=seconds, group=group)


def _attention(folder: Path, device: Device, chip: str, source: str) -> Iterator[Anchor]:
    decode: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"mha__decode__{chip}__*.csv")):
        heads, kv, dim = (int(part) for part in path.stem.split("__")[-1].split("-"))
        decode += [
            {**row, "h": heads, "kv": kv, "d": dim}
            for row in _read(path)
            if row.get("kv_len") and row.get("batch_size")
        ]
    columns: Columns = {
        "batch_size": _column(decode, "batch_size"), "step": _column(decode, "kv_len") - 1.0,
        "num_heads": _column(decode, "h"), "num_key_value_heads": _column(decode, "kv"), "head_dim": _column(decode, "d"),
        "kv_cache_dtype": np.array([row["kv_dtype"] for row in decode]), "latency": _column(decode, "latency_us") * US_TO_MS,
    }  # fmt: skip
    timings = decode_timings(columns, device)
    _, memory, floor, error = fit_roofline(timings, groups=1)
    yield from anchors_of(
        device, "", source, error, len(decode), decode_memory=min(memory, 0.98), attention_floor_s=floor
    )
    for path in sorted(folder.glob(f"mla__decode__{chip}__*.csv")):
        rows = _read(path)
        mla: Columns = {
            "num_heads": np.full(len(rows), 128.0), "batch_size": _column(rows, "batch_size"), "isl": np.ones(len(rows)),
            "step": _column(rows, "kv_len") - 1.0, "kv_cache_dtype": np.array([row["kv_dtype"] for row in rows]),
            "latency": _column(rows, "latency_us") * US_TO_MS,
        }  # fmt: skip
        shares, memory, _, error = fit_roofline(mla_timings(mla, device, decode=True), groups=1)
        yield from anchors_of(device, "", source, error, len(rows), decode_mla_compute=shares[0])
    prefill: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"mha__prefill__{chip}__*.csv")):
        heads, _, dim = (int(part) for part in path.stem.split("__")[-1].split("-"))
        prefill += [{**row, "h": heads, "d": dim} for row in _read(path)]
    if len(prefill) >= 4:
        columns = {
            "batch_size": np.ones(len(prefill)), "isl": _column(prefill, "seq_len"), "step": np.zeros(len(prefill)),
            "num_heads": _column(prefill, "h"), "head_dim": _column(prefill, "d"),
            "latency": _column(prefill, "latency_us") * US_TO_MS,
        }  # fmt: skip
        shares, _, _, error = fit_roofline(prefill_timings(columns, device), groups=1)
        yield from anchors_of(device, "", source, error, len(prefill), prefill_compute=shares[0])


def ascend_anchors(folder: Path, device: Device) -> Iterator[Anchor]:
    """Anchors from the 910B kernel tables (fit only; their rows do not ship)."""
    source = "910B kernel averages, vllm-ascend 0.18 and CANN 8.5 (hudingyi688/aiconfigurator-npu)"
    floors: dict[str, float] = {}
    for name, dtype, parameter in (
        ("MatMulV2", "bf16", "gemm_compute"),
        ("QuantBatchMatmulV3", "int8", "gemm_compute_8"),
    ):
        columns = _ascend_gemm(folder / f"{name}.csv", dtype)
        timings, _ = gemm_timings(columns, device, {dtype: dtype})
        shares, memory, floor, error = fit_roofline(timings, groups=1)
        floors[dtype] = floor
        values = {parameter: shares[0]}
        if dtype == "bf16":
            values |= {"gemm_memory": min(memory, 0.98), "gemm_floor_s": floor}
        else:
            values["quant_floor_s"] = max(floor - floors["bf16"], MICRO)
        yield from anchors_of(device, "vllm-ascend", source, error, timings.measured_s.size, **values)
    rows = [row for row in _read(folder / "FusedInferAttentionScore_Decode.csv") if float(row["Num KV Heads"]) > 0]
    columns = {
        "batch_size": _column(rows, "Batch"), "step": _column(rows, "Seq Len") - 1.0, "num_heads": _column(rows, "Num Heads"),
        "num_key_value_heads": _column(rows, "Num KV Heads"), "head_dim": _column(rows, "Head Size"),
        "kv_cache_dtype": np.full(len(rows), "bf16"), "latency": _column(rows, "Average Duration(us)") * US_TO_MS,
    }  # fmt: skip
    _, memory, floor, error = fit_roofline(decode_timings(columns, device), groups=1)
    yield from anchors_of(
        device, "vllm-ascend", source, error, len(rows), decode_memory=min(memory, 0.98), attention_floor_s=floor
    )
    rows = _read(folder / "FusedInferAttentionScore.csv")
    columns = {
        "batch_size": _column(rows, "Batch"), "isl": _column(rows, "Seq Len"), "step": np.zeros(len(rows)),
        "num_heads": _column(rows, "Num Heads"), "head_dim": _column(rows, "Head Size"),
        "latency": _column(rows, "Average Duration(us)") * US_TO_MS,
    }  # fmt: skip
    shares, _, _, error = fit_roofline(prefill_timings(columns, device), groups=1)
    yield from anchors_of(device, "vllm-ascend", source, error, len(rows), prefill_compute=shares[0])


def _ascend_gemm(path: Path, dtype: str) -> Columns:
    rows = _read(path)
    shapes = [[[int(v) for v in part.split(",")] for part in row["Input Shapes"].split(";")[:2]] for row in rows]
    outs = [[int(v) for v in row["Output Shapes"].split(",")] for row in rows]
    return {
        "m": np.array([float(s[0][0]) for s in shapes]), "k": np.array([float(s[0][-1]) for s in shapes]),
        "n": np.array([float(o[-1]) for o in outs]), "latency": _column(rows, "Average Duration(us)") * US_TO_MS,
        "gemm_dtype": np.full(len(rows), dtype),
    }  # fmt: skip
