"""String literals: device names, backends, environment variables, options, error texts."""

from __future__ import annotations

import ast
import re
from typing import Final

from offramp.scan import symbols
from offramp.scan.pyfile import Ctx, PyFile
from offramp.scan.pynamed import listed_devices
from offramp.scan.words import CUDA_WORDS, device_name, device_words, is_cuda_name, library_word

_NCCL: Final = re.compile(r"^(?:cpu:gloo,)?(?:cuda:)?nccl(?:,.*)?$", re.IGNORECASE)
_SM: Final = re.compile(r"(?:^|[\s=,])(?:sm|compute)_\d{2,3}a?\b|-gencode|arch=compute|\bTORCH_CUDA_ARCH")
_OOM: Final = re.compile(r"CUDA out of memory|CUDNN_STATUS|CUDA error|cuDNN error|CUBLAS_STATUS|NCCL error")
_RAY_RANK: Final = re.compile(r"^RAY_(?:LOCAL_RANK|EXPERIMENTAL_NOSET_\w+)$")


def string_hit(file: PyFile, text: str, *, ctx: Ctx) -> tuple[str, str, str] | None:
    """Class, symbol and note of one string; None when it is harmless."""
    name = device_name(text)
    if name == "cuda":
        if ctx.covered:
            return None
        return ("device.compare" if ctx.role == "compare" else "device.string", f'"{text}"', "")
    if _NCCL.match(text):
        return ("dist.backend", f'"{text}"', "comparison" if ctx.role == "compare" else "")
    if name in ("gpu", "multi-gpu") and not ctx.covered and (ctx.role in ("compare", "key") or file.has_word("ray")):
        return ("infra.ray" if file.has_word("ray") else "device.compare", f'"{text}"', "")
    if is_env(text):
        return ("env", text, "")
    if _RAY_RANK.match(text) and file.has_word("ray"):
        return ("infra.ray", text, "")
    low = text.lower()
    if low in symbols.OPTIONS and text not in file.imports:
        kind, symbol = symbols.OPTIONS[low]
        return (kind, f'"{text}"', symbol)
    if "nvidia-smi" in low or "dcgmi" in low:
        return ("monitor", "nvidia-smi", "")
    if "nvidia.com/" in low:
        return ("infra.k8s", text.strip()[:60], "")
    if _OOM.search(text):
        return ("memory.message", f'"{text.strip()[:40]}"', "")
    if _SM.search(text):
        return ("build.arch", text.strip()[:40], "")
    if (
        low in symbols.GPU_MODELS
        and ctx.role in ("compare", "key")
        and (file.has_word("torch") or "nvidia" in file.text.lower())
    ):
        return ("monitor.name", f'"{text}"', "")
    if text.isidentifier() and is_cuda_name(text) and not text.isupper() and not ctx.covered:
        return ("name.cuda", f'"{text}"', "")
    if text.startswith("--"):
        library = library_word(text)
        if library:
            return ("lib.option", text[:40], library)
        if device_words(text) & CUDA_WORDS:
            return ("device.option", text[:40], "")
    listed = "" if ctx.covered else listed_devices(text, file)
    return ("text.mention", f"list of {listed}", "") if listed else None


def is_env(text: str) -> bool:
    """True for an environment variable of CUDA, NCCL or their libraries."""
    return (text in symbols.table_for("huawei") and text.isupper()) or bool(symbols.ENV_NAME.match(text))


def long_string(file: PyFile, node: ast.Constant, text: str, *, ctx: Ctx) -> None:
    """CUDA source inside a Python string (load_inline, cupy.RawKernel, NVRTC)."""
    if "__global__" in text or "cuda_runtime.h" in text:
        file.add(node, "cuda.source", "CUDA source in a string", ctx=ctx)
