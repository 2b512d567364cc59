"""Which hits ``--fix`` can rewrite, and to what, by torch version."""

from __future__ import annotations

from typing import Final

from offramp.scan.finding import Hit

CALLS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "torch.cuda.is_available": ("torch.accelerator.is_available", (2, 6)),
    "torch.cuda.device_count": ("torch.accelerator.device_count", (2, 6)),
    "torch.cuda.synchronize": ("torch.accelerator.synchronize", (2, 6)),
    "torch.cuda.current_stream": ("torch.accelerator.current_stream", (2, 6)),
    "torch.cuda.set_stream": ("torch.accelerator.set_stream", (2, 6)),
    "torch.cuda.current_device": ("torch.accelerator.current_device_index", (2, 8)),
    "torch.cuda.set_device": ("torch.accelerator.set_device_index", (2, 8)),
    "torch.cuda.empty_cache": ("torch.accelerator.empty_cache", (2, 9)),
    "torch.cuda.memory_allocated": ("torch.accelerator.memory_allocated", (2, 9)),
    "torch.cuda.max_memory_allocated": ("torch.accelerator.max_memory_allocated", (2, 9)),
    "torch.cuda.memory_reserved": ("torch.accelerator.memory_reserved", (2, 9)),
    "torch.cuda.max_memory_reserved": ("torch.accelerator.max_memory_reserved", (2, 9)),
    "torch.cuda.reset_peak_memory_stats": ("torch.accelerator.reset_peak_memory_stats", (2, 9)),
    "torch.cuda.memory_stats": ("torch.accelerator.memory_stats", (2, 9)),
    "torch.cuda.mem_get_info": ("torch.accelerator.get_memory_info", (2, 10)),
    "torch.cuda.manual_seed_all": ("torch.manual_seed", (0,)),
    "torch.cuda.OutOfMemoryError": ("torch.OutOfMemoryError", (2, 5)),
}
"""CUDA call -> agnostic call, and the first torch version that has it."""

NO_OP_WITHOUT_DEVICE: Final = frozenset(
    {"torch.cuda.empty_cache", "torch.cuda.manual_seed_all", "torch.cuda.is_available", "torch.cuda.device_count"}
)


def has_fix(hit: Hit, *, torch: tuple[int, ...]) -> bool:
    """True when --fix rewrites this hit for this torch version."""
    if hit.symbol in CALLS:
        return not torch or torch >= CALLS[hit.symbol][1]
    if hit.kind == "torch.amp" and hit.symbol in ("torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler"):
        return not torch or torch >= (2, 4)
    if hit.kind in ("device.string", "device.method"):
        return not torch or torch >= (2, 6)
    return False
