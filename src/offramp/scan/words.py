"""Device words: the names by which code tells one kind of accelerator from another."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_SPLIT: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")

CUDA_WORDS: Final = frozenset({"cuda", "nccl", "nvidia", "nvtx", "nvml", "cudnn", "cublas", "nvlink"})
GPU_WORDS: Final = frozenset({"gpu", "gpus"})
OTHER_WORDS: Final = frozenset(
    {
        "rocm", "hip", "rccl", "xpu", "npu", "mlu", "musa", "hpu", "tpu", "mps", "xla", "neuron", "neuronx", "ipex",
        "hccl",
        "cncl", "mccl", "ccl", "ascend", "gcu", "dipu", "sdaa", "habana", "gaudi", "iluvatar", "corex", "maca", "dcu",
        "openvino", "ipu", "camb",
        "amdgpu", "xccl", "oneapi", "vulkan", "bmg", "hygon", "cambricon", "cann",
    }
)  # fmt: skip
ALL_WORDS: Final = CUDA_WORDS | GPU_WORDS | OTHER_WORDS
PEERS: Final = frozenset(
    {
        "xpu",
        "npu",
        "mlu",
        "musa",
        "gcu",
        "sdaa",
        "dipu",
        "hccl",
        "cncl",
        "mccl",
        "xccl",
        "ascend",
        "maca",
        "camb",
        "corex",
    }
)
"""Accelerators that plug into torch beside CUDA: where one has a branch, a port puts the next one beside it."""

DEVICE_NAMES: Final = frozenset(
    {
        "cuda", "gpu", "nccl", "rocm", "hip", "xpu", "npu", "mlu", "musa", "hpu", "tpu", "mps", "xla", "neuron",
        "hccl", "cncl",
        "mccl", "ccl", "xccl", "ascend", "gcu", "dipu", "sdaa", "rccl", "nvidia", "amd", "intel", "multi-gpu",
        "multi-xpu",
        "multi-npu", "multi-mlu", "privateuseone",
    }
)  # fmt: skip
"""Whole strings that name an accelerator or its collective library."""

HOST_NAMES: Final = frozenset({"cpu", "gloo", "mpi", "meta", "multi-cpu"})


@lru_cache(maxsize=65536)
def words_of(name: str) -> frozenset[str]:
    """The lower-case words of an identifier ("MULTI_GPU" -> multi, gpu), plurals of device words cut."""
    words = {word.lower() for word in _SPLIT.findall(name)}
    words |= {word[:-1] for word in words if word.endswith("s") and word[:-1] in ALL_WORDS}
    return frozenset(words)


@lru_cache(maxsize=65536)
def device_words(name: str) -> frozenset[str]:
    """The device words of an identifier or short string; "gpus" counts as "gpu"."""
    return words_of(name) & ALL_WORDS


def is_cuda_name(name: str) -> bool:
    """True when the identifier itself speaks of CUDA or NCCL ("get_max_cuda_memory"), not merely of GPUs."""
    return bool(words_of(name) & CUDA_WORDS)


def device_name(text: str) -> str:
    """The accelerator that a whole string names ("cuda:0" -> "cuda", "MULTI_GPU" -> "multi-gpu"), or ""."""
    low = text.strip().lower().replace("_", "-")
    head = low.split(":", 1)[0]
    if head in DEVICE_NAMES and (head == low or re.fullmatch(r"[a-z-]+:(\d+|\{\}|%[ds]|)", low)):
        return head
    return ""


def is_host_name(text: str) -> bool:
    """True when a whole string names the host or a host-side collective library."""
    return text.strip().lower().replace("_", "-") in HOST_NAMES


def needs_branch(words: frozenset[str]) -> bool:
    """True for a choice that a port joins: CUDA or a peer is named, or two kinds of device are told apart.

    A test for one other vendor alone (TPU, ROCm, MPS) handles that vendor's own trait.
    """
    kinds = words & ALL_WORDS
    return bool(kinds & (CUDA_WORDS | GPU_WORDS | PEERS)) or len(kinds - {"xla", "tpu"}) >= 2


_LIBRARIES: Final = re.compile(
    r"xformers|flash_?att(?:entio)?n|flash_?infer|bitsandbytes|(?:^|_)apex(?:_|$)|transformer_?engine|tensorrt|cudnn",
    re.IGNORECASE,
)


@lru_cache(maxsize=65536)
def library_word(name: str) -> str:
    """The CUDA-only implementation that an identifier speaks of ("enable_xformers_attention" -> "xformers"), or ""."""
    found = _LIBRARIES.search(name)
    return found.group().strip("_").lower() if found else ""
