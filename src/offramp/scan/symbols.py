"""Symbol tables: what a dotted path, an environment variable or a string means for a port."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from offramp.core.record import Record
from offramp.scan.finding import Hit
from offramp.scan.target import Target, read_rows

PEER_PLUGINS: Final = frozenset({"torch_npu", "torch_mlu", "torch_musa", "torch_gcu", "torch_dipu", "torch_sdaa"})
PLUGINS: Final = PEER_PLUGINS | {"torch_xla", "intel_extension_for_pytorch", "habana_frameworks"}
"""Device plugins of other vendors: code that imports one has a place where the target's belongs."""

ENV_NAME: Final = re.compile(
    r"^(?:(?:TORCH_)?NCCL|CUDA|CUDNN|CUBLAS(?:LT)?|NVIDIA|NVTE|NVSHMEM|PYTORCH_CUDA|TORCH_CUDA|PYTORCH_NVML)_[A-Z0-9_]+$"
)
GPU_MODEL: Final = re.compile(
    r"^(?:nvidia[ _-])?(?:tesla[ _-]|geforce )?(?:rtx ?)?[ABHVTLP]\d{1,3}0?(?:S|X|[ -].*)?$", re.IGNORECASE
)
GPU_MODELS: Final = frozenset(
    {"a100", "h100", "h200", "h20", "h800", "a800", "v100", "t4", "l40", "l40s", "l4", "b200", "b100", "gb200",
     "p100", "a10", "a10g"}
)  # fmt: skip
OPTIONS: Final = {
    "flash_attention_2": ("lib.option", "flash_attn"),
    "flash_attention_3": ("lib.option", "flash_attn_interface"),
    "flash_attn": ("lib.option", "flash_attn"),
    "flashinfer": ("lib.option", "flashinfer"),
    "flash_attn_3": ("lib.option", "flash_attn_interface"),
    "xformers": ("lib.option", "xformers"),
    "transformer_engine": ("lib.option", "transformer_engine"),
    "bitsandbytes": ("lib.option", "bitsandbytes"),
    "cudaexecutionprovider": ("lib.option", "onnxruntime_gpu"),
    "tensorrtexecutionprovider": ("lib.option", "tensorrt"),
    "cudagraphs": ("compile", "torch.compile"),
    "inductor": ("compile", "torch.compile"),
}  # fmt: skip
"""Whole strings that choose a CUDA-only implementation."""

LIMITED: Final = {
    "torch.nn.DataParallel": ("op.limited", "L1", "torch.nn.parallel.DistributedDataParallel"),
    "torch.nn.parallel.DataParallel": ("op.limited", "L1", "torch.nn.parallel.DistributedDataParallel"),
    "torch.nn.RNN": ("op.limited", "L2", "compose it from supported operators"),
    "torch.nn.RNNCell": ("op.limited", "L2", "compose it from supported operators"),
    "torch.nn.GRUCell": ("op.limited", "L2", "compose it from supported operators"),
    "torch.nn.Transformer": ("op.limited", "L2", "compose it from supported operators"),
    "torch.nn.TransformerDecoderLayer": ("op.limited", "L2", "compose it from supported operators"),
    "torch.nn.functional.embedding_bag": ("op.limited", "L2", "gather and segment sum, or run it on the host"),
    "torch.nn.functional.gumbel_softmax": ("op.limited", "L2", "compose it from supported operators"),
    "torch.nn.functional.pdist": ("op.limited", "L2", "compose it from supported operators"),
    "torch.func": ("op.limited", "L3", "avoid functional transforms on the device"),
    "torch.from_dlpack": ("op.limited", "L2", "copy through the host"),
    "torch.utils.dlpack": ("op.limited", "L2", "copy through the host"),
    "torch.distributed.ReduceOp.AVG": ("op.limited", "L1", "ReduceOp.SUM, then divide by the world size"),
}  # fmt: skip
"""Operators that the Ascend list calls unsupported or limited."""

NUMERICS: Final = {
    "torch.float64": ("L2", "torch.float32 on the device, or keep the computation on the host"),
    "torch.double": ("L2", "torch.float32 on the device, or keep the computation on the host"),
    "torch.complex64": ("L2", "real and imaginary parts apart"),
    "torch.complex128": ("L2", "real and imaginary parts apart"),
    "torch.view_as_complex": ("L2", "real arithmetic on the two halves"),
    "torch.polar": ("L2", "cos and sin apart"),
    "torch.set_float32_matmul_precision": ("L1", "the target's own switch (HF32 differs from TF32); compare results"),
    "torch.channels_last": ("L1", "torch.contiguous_format"),
    "torch.channels_last_3d": ("L1", "torch.contiguous_format"),
}  # fmt: skip

NONFINITE: Final = {
    "torch.sign": "differs for inf and nan in the input: compare results, or mask them before",
    "torch.linalg.svd": "differs for inf and nan in the input: compare results, or mask them before",
    "torch.linalg.qr": "differs for inf and nan in the input: compare results, or mask them before",
    "torch.isinf": "torch.isfinite: an overflow may come out as nan instead of inf, or with the other sign",
    "torch.isnan": "torch.isfinite: an overflow may come out as inf instead of nan",
}
"""Where Ascend's results part from CUDA's on inf and nan (Ascend/pytorch@9e73e70: inf_nan_difference_apis)."""

KINDS: Final = (
    ("torch.cuda.amp", "torch.amp"),
    ("torch.cuda.nvtx", "monitor.profile"),
    ("torch.cuda.profiler", "monitor.profile"),
    ("torch.cuda.memory", "torch.memory"),
    ("torch.cuda.comm", "dist.backend"),
    ("torch.cuda.nccl", "dist.backend"),
    ("torch.cuda", "torch.cuda"),
    ("torch.version.cuda", "torch.cuda"),
    ("torch.backends.cuda", "torch.backends"),
    ("torch.backends.cudnn", "torch.backends"),
    ("torch.distributed.ProcessGroupNCCL", "dist.backend"),
    ("torch.distributed.is_nccl_available", "dist.backend"),
    ("torch.distributed.Backend.NCCL", "dist.backend"),
    ("torch.profiler.ProfilerActivity.CUDA", "monitor.profile"),
    ("torch.autograd.profiler.emit_nvtx", "monitor.profile"),
    ("torch.get_autocast_gpu_dtype", "torch.amp"),
    ("torch.set_autocast_gpu_dtype", "torch.amp"),
    ("torch.utils.cpp_extension.CUDAExtension", "build.ext"),
    ("torch.utils.cpp_extension.load", "build.ext"),
    ("torch.utils.cpp_extension.CUDA_HOME", "build.ext"),
    ("torch.utils.cpp_extension.BuildExtension", "build.ext"),
    ("torch._C._cuda", "torch.cuda"),
    ("torch.jit.script", "compile"),
    ("torch.compile", "compile"),
    ("numba.cuda", "lib.import"),
    ("ray.get_gpu_ids", "infra.ray"),
    ("ray.util.collective", "lib.import"),
)


class Row(Record):
    """One row of the symbol table."""

    symbol: str
    kind: str
    effort: str
    replacement: str
    agnostic: str
    since_torch: str
    support: str
    verified: bool
    source: str


@lru_cache(maxsize=16)
def table_for(column: str) -> dict[str, Row]:
    """The symbol table with one vendor's replacements; ``column`` may be ""."""
    rows: dict[str, Row] = {}
    for row in read_rows("symbols.csv"):
        support = row["huawei_support"] if column == "huawei" else ""
        rows[row["symbol"]] = Row(
            symbol=row["symbol"],
            kind=row["class"],
            effort=row["effort"],
            replacement=row.get(column, "") if column else "",
            agnostic=row["agnostic"],
            since_torch=row["since_torch"],
            support=support,
            verified=row["verified"] == "yes" if column == "huawei" else "unverified" not in row.get(column, ""),
            source=row["source"],
        )
    return rows


@lru_cache(maxsize=1)
def operators() -> dict[str, dict[str, str]]:
    """Operators that some generation of the vendor's chips lacks, by dotted path."""
    return {row["symbol"]: row for row in read_rows("operators.csv")}


def lacks(path: str, target: Target) -> bool:
    """True for an operator that the target's own generation lacks or treats otherwise, or that a list calls limited."""
    if path in NONFINITE:
        return target.vendor == "huawei"
    row = operators().get(path)
    if path in LIMITED or row is None or not path.startswith("torch."):
        return True
    return target.vendor == "huawei" and f"{target.generation}:no" in row["huawei_support"]


@lru_cache(maxsize=1)
def packages() -> dict[str, dict[str, str]]:
    """CUDA-only packages by import name."""
    return {row["import"]: row for row in read_rows("packages.csv")}


@lru_cache(maxsize=1)
def distributions() -> dict[str, dict[str, str]]:
    """CUDA-only packages by distribution name, normalised."""
    found: dict[str, dict[str, str]] = {}
    for row in read_rows("packages.csv"):
        for name in filter(None, row["dist"].split("|")):
            found[normal(name)] = row
    return found


def normal(dist: str) -> str:
    """A distribution name in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", dist).lower()


@lru_cache(maxsize=65536)
def kind_of(path: str) -> str:
    """Detection class of a resolved dotted path; "" when it is no obstacle."""
    for prefix, kind in KINDS:
        if path == prefix or path.startswith(prefix + ".") or (prefix.endswith("_cuda") and path.startswith(prefix)):
            if path.endswith("allow_tf32"):
                return "numerics"
            return _refine(path) if kind == "torch.cuda" else kind
    if path in LIMITED or path in operators() or path.startswith("torch.func."):
        return "op.limited"
    if path in NUMERICS or path in NONFINITE or path.startswith("torch.float8"):
        return "numerics"
    return ""


def _refine(path: str) -> str:
    row = table_for("huawei").get(path)
    if row:
        return row.kind
    leaf = path.rsplit(".", 1)[-1].lower()
    if "memory" in leaf or "alloc" in leaf:
        return "torch.memory"
    if "stream" in leaf or "event" in leaf or "graph" in leaf:
        return "torch.stream"
    return "torch.cuda"


def package_of(path: str) -> str:
    """The CUDA-only package that an imported module belongs to; ""."""
    known = packages()
    parts = path.split(".")
    for size in (3, 2, 1):
        name = ".".join(parts[:size])
        if name in known:
            return name
    return ""


BUILDS: Final = re.compile(r"\bcpp_extension\b|\bnvcc\b|\bCUDA_HOME\b|\bhipify\b")
"""Python that compiles extensions: there CUDA's names are those of a toolkit, which no other stack answers to."""

CUDA_ALONE: Final = frozenset(
    {"torch.version.cuda", "torch.cuda.get_device_capability", "torch.cuda.get_arch_list", "torch.cuda.get_device_name",
     "torch.backends.cudnn.version", "torch.cuda.nccl.version"}
)  # fmt: skip
"""What differs on a stack that answers to torch.cuda: versions of CUDA, compute capabilities, names of GPUs."""


def wanted(hit: Hit, target: Target, *, builds: bool = False) -> bool:
    """False for hits in Python that are no obstacle on this target (see `needed`)."""
    if needed(hit.kind, target, python=not builds):
        return True
    own = hit.note == MODULE or any(hit.symbol == name or hit.symbol.startswith(name + ".") for name in CUDA_ALONE)
    return own and not target.cuda_source


MODULE: Final = "module"
"""Note of a hit on an import of a module that is named after CUDA: a compiled extension, or a package of kernels."""


def needed(kind: str, target: Target, *, python: bool = True) -> bool:
    """False for classes that are no obstacle on this target (torch.cuda names on a CUDA-compatible stack).

    C++, build files and the like have no torch that answers to CUDA's names: there only device strings are dropped.
    """
    if not target.torch_cuda_api:
        return True
    if not python:
        return kind not in ("device.string", "dist.backend", "device.option")
    return kind not in (
        "torch.cuda", "torch.memory", "torch.stream", "torch.amp", "device.string", "device.method", "device.compare",
        "dist.backend", "import.site", "name.cuda", "device.option", "device.index", "text.mention",
    )  # fmt: skip
