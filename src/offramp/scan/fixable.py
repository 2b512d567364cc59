"""What ``--fix`` rewrites, and to what, by torch version."""

from __future__ import annotations

from typing import Final

from offramp.scan.finding import Hit

CALLS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "torch.cuda.is_available": ("accelerator.is_available", (2, 6)),
    "torch.cuda.device_count": ("accelerator.device_count", (2, 6)),
    "torch.cuda.synchronize": ("accelerator.synchronize", (2, 6)),
    "torch.cuda.current_stream": ("accelerator.current_stream", (2, 6)),
    "torch.cuda.set_stream": ("accelerator.set_stream", (2, 6)),
    "torch.cuda.current_device": ("accelerator.current_device_index", (2, 8)),
    "torch.cuda.set_device": ("accelerator.set_device_index", (2, 8)),
    "torch.cuda.empty_cache": ("accelerator.empty_cache", (2, 9)),
    "torch.cuda.memory_allocated": ("accelerator.memory_allocated", (2, 9)),
    "torch.cuda.max_memory_allocated": ("accelerator.max_memory_allocated", (2, 9)),
    "torch.cuda.memory_reserved": ("accelerator.memory_reserved", (2, 9)),
    "torch.cuda.max_memory_reserved": ("accelerator.max_memory_reserved", (2, 9)),
    "torch.cuda.reset_peak_memory_stats": ("accelerator.reset_peak_memory_stats", (2, 9)),
    "torch.cuda.mem_get_info": ("accelerator.get_memory_info", (2, 10)),
    "torch.cuda.OutOfMemoryError": ("OutOfMemoryError", (2, 5)),
}
"""CUDA symbol -> agnostic symbol under ``torch``, and the first torch version that has it."""

RAISES_ON_HOST: Final = frozenset(
    {
        "torch.cuda.memory_allocated", "torch.cuda.max_memory_allocated", "torch.cuda.memory_reserved",
        "torch.cuda.max_memory_reserved", "torch.cuda.reset_peak_memory_stats", "torch.cuda.empty_cache",
    }
)  # fmt: skip
"""Quiet on a machine without CUDA; rewritten only inside a check that the accelerator is there."""

AMP: Final = frozenset({"torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler"})
STRINGS: Final[tuple[int, ...]] = (2, 6)
"""First torch version with current_accelerator."""
BACKEND: Final[tuple[int, ...]] = (2, 7)
"""First torch version whose documentation lists get_default_backend_for_device."""
CONSTANT: Final = "_ACCELERATOR_TYPE"
DEFINITION: Final = f'{CONSTANT} = (torch.accelerator.current_accelerator() or torch.device("cuda")).type'


def has_fix(hit: Hit, *, torch: tuple[int, ...]) -> bool:
    """True for a kind of hit that --fix rewrites for this torch version, where the place allows it."""
    if hit.symbol in CALLS:
        return torch >= CALLS[hit.symbol][1]
    if hit.symbol in AMP:
        return torch >= STRINGS
    if hit.kind == "device.string":
        return torch >= STRINGS and hit.symbol == '"cuda"'
    return hit.kind == "dist.backend" and hit.symbol == '"nccl"' and torch >= BACKEND
