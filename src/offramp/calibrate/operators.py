"""Operator tables: efficiencies and floors of single kernels, fitted apart, as anchors of the end-to-end fit.

In end-to-end rows floors and efficiencies trade off against each other; tables of single kernels pin them. Read are
the parquet tables of the package aiconfigurator-core (Apache-2.0), the CSV tables of alibaba/InferSim (Apache-2.0) and
CSV tables of Ascend kernels. Only the fitted values ship, never the rows of a table without a licence.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from offramp.core.record import Record
from offramp.core.units import MILLI
from offramp.cost.calibration import DATA
from offramp.cost.device import Device
from offramp.cost.operators import GROUPED_TILE_ROWS, GROUPED_TILE_ROWS_4BIT
from offramp.cost.precision import WEIGHT_BYTES
from offramp.cost.routing import touched_experts

F8 = npt.NDArray[np.float64]
Columns = dict[str, Any]

SAMPLE: Final = 6000
"""Rows of a table that are fitted, evenly spaced."""
GEMM_DTYPES: Final = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
MOE_DTYPES: Final = {**GEMM_DTYPES, "w4a16_mxfp4": "int4", "w4a8_mxfp4_mxfp8": "fp4"}


class Anchor(Record):
    """One fitted parameter of one chip, with one engine's kernels ("" = a vendor's or nobody's in particular).

    Attributes:
        chip, family, engine, parameter: what it is about.
        value: share or seconds.
        rows: table rows behind it.
        median_error: of the family's fit on rows that it did not see, as a share.
        source: tables.
    """

    chip: str
    family: str
    engine: str
    parameter: str
    value: float
    rows: int
    median_error: float
    source: str


class Timings(Record):
    """Kernel timings in the form of the cost model: time at peak, time at peak bandwidth, launches, measured seconds."""

    compute_s: Any
    memory_s: Any
    kernels: Any
    measured_s: Any
    group: Any


def fit_roofline(t: Timings, *, groups: int) -> tuple[F8, float, float, float]:
    """Compute share by group, memory share, floor in seconds, and the median error on a held-out third.

    Source: the curve of :func:`offramp.cost.features.seconds`, Euclidean roofline plus floor.
    """
    n = t.measured_s.size
    test = np.arange(n) % 3 == 2

    def residual(x: F8, rows: npt.NDArray[np.bool_]) -> F8:
        share_c = np.exp(x[:groups])[t.group[rows]]
        time = np.hypot(t.compute_s[rows] / share_c, t.memory_s[rows] / np.exp(x[groups]))
        return np.log((time + t.kernels[rows] * np.exp(x[groups + 1])) / t.measured_s[rows])

    start = np.concatenate([np.full(groups, np.log(0.6)), [np.log(0.7), np.log(5e-6)]])
    found = least_squares(lambda x: residual(x, ~test), start, loss="soft_l1", f_scale=0.1)
    error = float(np.median(np.abs(np.expm1(residual(found.x, test)))))
    return np.exp(found.x[:groups]), float(np.exp(found.x[groups])), float(np.exp(found.x[groups + 1])), error


def thin(columns: Columns, keep: npt.NDArray[np.bool_]) -> Columns:
    """At most :data:`SAMPLE` of the kept rows, evenly spaced."""
    index = np.flatnonzero(keep)
    if index.size > SAMPLE:
        index = index[np.linspace(0, index.size - 1, SAMPLE).astype(int)]
    return {name: values[index] for name, values in columns.items()}


def gemm_timings(c: Columns, device: Device, dtypes: dict[str, str]) -> tuple[Timings, list[str]]:
    """Dense GEMM rows (m, n, k, gemm_dtype, latency in ms); groups are dtypes."""
    known = sorted(
        {dtypes[d] for d in set(c["gemm_dtype"].tolist()) if d in dtypes and dtypes[d] in device.peak_flop_per_s}
    )
    usable = np.array([dtypes.get(d, "") in known for d in c["gemm_dtype"]])
    m, n, k = (c[name].astype(float) for name in ("m", "n", "k"))
    typical = usable & (m <= 16384) & (n >= 512) & (k >= 512) & (n <= 32768) & (k <= 32768) & (c["latency"] > 0)
    c = thin(c, typical)
    m, n, k = (c[name].astype(float) for name in ("m", "n", "k"))
    kind = np.array([known.index(dtypes[d]) for d in c["gemm_dtype"]], dtype=int)
    peak = np.array([float(np.mean(device.peak_flop_per_s[name])) for name in known])[kind]
    stored = np.array([WEIGHT_BYTES[name] for name in known])[kind]
    activation = np.where(stored >= 2.0, 2.0, 1.0)
    moved = k * n * stored + m * k * activation + m * n * 2.0
    return Timings(
        compute_s=2 * m * n * k / peak, memory_s=moved / float(np.mean(device.memory_bytes_per_s)),
        kernels=np.ones_like(m), measured_s=c["latency"] * MILLI, group=kind,
    ), known  # fmt: skip


def _whole(c: Columns) -> Any:
    """Rows without a sliding window; older tables have no such column."""
    return c["window_size"] == 0 if "window_size" in c else np.ones(c["latency"].size, dtype=bool)


def decode_timings(c: Columns, device: Device) -> Timings:
    """GQA decode attention rows (batch_size, step, heads, kv heads, head_dim, kv dtype, latency in ms)."""
    size = np.where(c["kv_cache_dtype"] == "fp8", 1.0, 2.0)
    batch, context = c["batch_size"].astype(float), c["step"].astype(float) + 1.0
    heads, kv, dim = (c[name].astype(float) for name in ("num_heads", "num_key_value_heads", "head_dim"))
    keep = _whole(c) & (context >= 64) & (batch <= 512) & (kv > 0) & (heads <= 128) & (c["latency"] > 0)
    c2 = thin({"b": batch, "s": context, "h": heads, "kv": kv, "d": dim, "z": size, "t": c["latency"]}, keep)
    entries = c2["b"] * c2["s"]
    peak = float(np.mean(device.peak_flop_per_s["bf16"]))
    return Timings(
        compute_s=4.0 * entries * c2["h"] * c2["d"] / peak,
        memory_s=2.0 * entries * c2["kv"] * c2["d"] * c2["z"] / float(np.mean(device.memory_bytes_per_s)),
        kernels=np.ones_like(entries), measured_s=c2["t"] * MILLI, group=np.zeros(entries.size, dtype=int),
    )  # fmt: skip


def prefill_timings(c: Columns, device: Device) -> Timings:
    """GQA prefill attention rows (batch_size, isl, step = cached tokens)."""
    batch, isl, past = (c[name].astype(float) for name in ("batch_size", "isl", "step"))
    heads, dim = c["num_heads"].astype(float), c["head_dim"].astype(float)
    keep = _whole(c) & (isl >= 64) & (batch * isl <= 65536) & (heads <= 128) & (c["latency"] > 0)
    c2 = thin({"b": batch, "s": isl, "p": past, "h": heads, "d": dim, "t": c["latency"]}, keep)
    pairs = c2["b"] * c2["s"] * (c2["p"] + c2["s"] / 2.0)
    moved = c2["b"] * c2["s"] * c2["h"] * c2["d"] * 2.0 * 2.0
    return Timings(
        compute_s=4.0 * pairs * c2["h"] * c2["d"] / float(np.mean(device.peak_flop_per_s["bf16"])),
        memory_s=moved / float(np.mean(device.memory_bytes_per_s)), kernels=np.ones_like(pairs),
        measured_s=c2["t"] * MILLI, group=np.zeros(pairs.size, dtype=int),
    )  # fmt: skip


def mla_timings(c: Columns, device: Device, *, decode: bool) -> Timings:
    """MLA rows of DeepSeek's shape: absorbed decode (latent 512, rope 64) or prefill (192 and 128 wide heads)."""
    heads = c["num_heads"].astype(float)
    batch, isl, past = (c[name].astype(float) for name in ("batch_size", "isl", "step"))
    size = np.where(c["kv_cache_dtype"] == "fp8", 1.0, 2.0)
    keep = (c["latency"] > 0) & (heads >= 8) & (batch * isl <= 65536)
    c2 = thin({"b": batch, "s": isl, "p": past, "h": heads, "z": size, "t": c["latency"]}, keep)
    if decode:
        entries = c2["b"] * (c2["p"] + 1.0)
        flop, moved = 2.0 * entries * c2["h"] * (2 * 512 + 64), entries * 576.0 * c2["z"]
    else:
        pairs = c2["b"] * c2["s"] * (c2["p"] + c2["s"] / 2.0)
        flop, moved = 2.0 * pairs * c2["h"] * 320.0, c2["b"] * c2["s"] * c2["h"] * 320.0 * 2.0 * 2.0
    return Timings(
        compute_s=flop / float(np.mean(device.peak_flop_per_s["bf16"])),
        memory_s=moved / float(np.mean(device.memory_bytes_per_s)), kernels=np.ones_like(flop),
        measured_s=c2["t"] * MILLI, group=np.zeros(flop.size, dtype=int),
    )  # fmt: skip


def moe_timings(c: Columns, device: Device) -> tuple[Timings, list[str]]:
    """Fused expert rows: up and down projection of the experts on one rank, balanced routing; groups are dtypes."""
    known = sorted({MOE_DTYPES[d] for d in set(c["moe_dtype"].tolist()) if d in MOE_DTYPES})
    tokens = c["num_tokens"].astype(float)
    usable = np.array([d in MOE_DTYPES for d in c["moe_dtype"]]) & (c["distribution"] == "balanced")
    c = thin(c, usable & (tokens <= 16384) & (c["latency"] > 0) & (c["moe_ep_size"] <= 64))
    kind = np.array([known.index(MOE_DTYPES[d]) for d in c["moe_dtype"]], dtype=int)
    names = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    tokens, hidden, inter, topk, experts, tp, ep = (c[name].astype(float) for name in names)
    rows = tokens * topk / ep
    touched = np.empty_like(rows)
    for pair in {(int(e), int(t)) for e, t in zip(experts, topk, strict=True)}:
        mine = (experts == pair[0]) & (topk == pair[1])
        touched[mine] = touched_experts(pair[0], pair[1], 0.0, tokens[mine]) / ep[mine]
    touched = np.minimum(touched, np.maximum(rows, 1e-9))
    stored = np.array([WEIGHT_BYTES[name] for name in known])[kind]
    tile = np.where(stored < 1.0, GROUPED_TILE_ROWS_4BIT, GROUPED_TILE_ROWS)
    compute = ["bf16" if name == "int4" or name not in device.peak_flop_per_s else name for name in known]
    peak = np.array([float(np.mean(device.peak_flop_per_s[name])) for name in compute])[kind]
    width = inter / tp
    flop = 6.0 * np.maximum(rows, touched * tile) * hidden * width
    moved = touched * 3.0 * hidden * width * stored + rows * (2.0 * hidden + 3.0 * width) * 2.0
    return Timings(
        compute_s=flop / peak, memory_s=moved / float(np.mean(device.memory_bytes_per_s)),
        kernels=np.full_like(rows, 2.0), measured_s=c["latency"] * MILLI, group=kind,
    ), known  # fmt: skip


def reduce_anchor(c: Columns, device: Device) -> tuple[float, float, float, int]:
    """Link efficiency, latency of eight devices, held-out error and rows of all-reduce tables (bytes, ms)."""
    keep = (c["op_name"] == "all_reduce") & (c["latency"] > 0) & (c["num_gpus"] <= device.fabric.domain_devices)
    c = thin(c, keep)
    n, size = c["num_gpus"].astype(float), c["message_size"].astype(float) * 2.0
    near = 2.0 * (n - 1.0) / n * size / device.fabric.device_bytes_per_s
    hops = 0.5 + np.log2(n) / 6.0
    timings = Timings(compute_s=np.zeros_like(near), memory_s=near, kernels=hops, measured_s=c["latency"] * MILLI,
                      group=np.zeros(n.size, dtype=int))  # fmt: skip
    _, share, floor, error = fit_roofline(timings, groups=1)
    return min(share, 0.95), floor, error, n.size


def read_parquet(path: Path) -> Columns:
    """Columns of a parquet table as arrays."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


_ENGINES: Final = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}
Load = Callable[[Path], Columns]


def nvidia_anchors(folder: Path, devices: dict[str, Device]) -> Iterator[Anchor]:
    """Anchors from the systems/data folder of aiconfigurator-core.

    Args:
        folder: that folder; one subfolder a system.
        devices: device by folder name ("h200_sxm").
    """
    for name, device in devices.items():
        for key, engine in _ENGINES.items():
            for family, build in _TABLES.items():
                files = sorted((folder / name).glob(f"{family.rstrip(chr(47))}/{key}/*/{build[0]}"))
                if files and _complete(files[-1]):
                    yield from build[1](
                        read_parquet(files[-1]), device, engine, f"aiconfigurator-core:{name}/{family}/{key}"
                    )


def _complete(path: Path) -> bool:
    return path.stat().st_size > 4096


def anchors_of(device: Device, engine: str, source: str, error: float, rows: int, **values: float) -> Iterator[Anchor]:
    """One anchor per fitted parameter."""
    for parameter, value in values.items():
        yield Anchor(
            chip=device.chip, family=device.family, engine=engine, parameter=parameter, value=float(value), rows=rows,
            median_error=round(error, 4), source=source,
        )  # fmt: skip


def _gemm(c: Columns, device: Device, engine: str, source: str) -> Iterator[Anchor]:
    timings, known = gemm_timings(c, device, GEMM_DTYPES)
    shares, memory, floor, error = fit_roofline(timings, groups=len(known))
    named = {"bf16": "gemm_compute", "fp8": "gemm_compute_8", "int8": "gemm_compute_8", "fp4": "gemm_compute_4"}
    values = {named[name]: min(share, 0.98) for name, share in zip(known, shares, strict=True)}
    rows = timings.measured_s.size
    yield from anchors_of(
        device, engine, source, error, rows, **values, gemm_memory=min(memory, 0.98), gemm_floor_s=floor
    )


def _decode(c: Columns, device: Device, engine: str, source: str) -> Iterator[Anchor]:
    timings = decode_timings(c, device)
    _, memory, floor, error = fit_roofline(timings, groups=1)
    rows = timings.measured_s.size
    yield from anchors_of(device, engine, source, error, rows, decode_memory=min(memory, 0.98), attention_floor_s=floor)


def _prefill(c: Columns, device: Device, engine: str, source: str) -> Iterator[Anchor]:
    timings = prefill_timings(c, device)
    shares, _, _, error = fit_roofline(timings, groups=1)
    yield from anchors_of(device, engine, source, error, timings.measured_s.size, prefill_compute=min(shares[0], 0.98))


def _mla_decode(c: Columns, device: Device, engine: str, source: str) -> Iterator[Anchor]:
    timings = mla_timings(c, device, decode=True)
    shares, memory, _, error = fit_roofline(timings, groups=1)
    yield from anchors_of(
        device, engine, source, error, timings.measured_s.size, decode_mla_compute=min(shares[0], 0.98),
        decode_mla_memory=min(memory, 0.98),
    )  # fmt: skip


def _mla_prefill(c: Columns, device: Device, engine: str, source: str) -> Iterator[Anchor]:
    timings = mla_timings(c, device, decode=False)
    shares, _, _, error = fit_roofline(timings, groups=1)
    yield from anchors_of(
        device, engine, source, error, timings.measured_s.size, prefill_mla_compute=min(shares[0], 0.98)
    )


def _moe(c: Columns, device: Device, engine: str, source: str) -> Iterator[Anchor]:
    timings, known = moe_timings(c, device)
    if timings.measured_s.size < 100:
        return
    shares, memory, floor, error = fit_roofline(timings, groups=len(known))
    main = known.index("fp8") if "fp8" in known else known.index("bf16") if "bf16" in known else 0
    yield from anchors_of(
        device, engine, source, error, timings.measured_s.size, grouped_compute=min(shares[main], 0.98),
        grouped_memory=min(memory, 0.98), grouped_floor_s=floor,
    )  # fmt: skip


def _reduce(c: Columns, device: Device, engine: str, source: str) -> Iterator[Anchor]:
    share, latency, error, rows = reduce_anchor(c, device)
    yield from anchors_of(device, engine, source, error, rows, link_efficiency=share, link_latency_s=latency)


_TABLES: Final[dict[str, tuple[str, Callable[[Columns, Device, str, str], Iterator[Anchor]]]]] = {
    "gemm": ("gemm_perf.parquet", _gemm), "moe": ("moe_perf.parquet", _moe),
    "attention": ("generation_attention_perf.parquet", _decode),
    "comm": ("custom_allreduce_perf.parquet", _reduce), "mla": ("generation_mla_perf.parquet", _mla_decode),
    "attention/": ("context_attention_perf.parquet", _prefill), "mla/": ("context_mla_perf.parquet", _mla_prefill),
}  # fmt: skip


def write_anchors(anchors: Iterable[Anchor], path: Path) -> None:
    """Writes anchors as CSV, sorted."""
    rows = sorted(
        (msgspec.to_builtins(anchor) for anchor in anchors), key=lambda r: (r["chip"], r["engine"], r["parameter"])
    )
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(Anchor.__struct_fields__), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "value": f"{row['value']:.4g}"})


def load_anchors(path: Path = DATA / "operators.csv") -> list[Anchor]:
    """The shipped anchors."""
    with path.open(encoding="utf-8", newline="") as handle:
        return [msgspec.convert(row, Anchor, strict=False) for row in csv.DictReader(handle)]
