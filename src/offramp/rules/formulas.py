"""The arithmetic of the rules: plain functions of numbers, each with its source. Thresholds are data, not here.

Rules speak in TOPS x bits, GB/s and mm2; these functions take SI (operations per second, bytes per second) and mm2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from offramp.core import units

Aggregation = Literal["max-concurrent", "sum"]

BITS: Final[dict[str, int]] = {
    "fp64": 64, "fp32": 32, "tf32": 32, "hf32": 32, "bf16": 16, "fp16": 16, "int16": 16, "fp8": 8, "hif8": 8,
    "mxfp8": 8, "int8": 8, "fp6": 6, "fp4": 4, "mxfp4": 4, "nvfp4": 4, "hif4": 4, "int4": 4,
}  # fmt: skip
"""Bit length of one operation by data type. TF32 keeps 19 significant bits in a 32-bit word: a setting decides."""
VECTOR: Final = ("fp64", "fp32")
"""Data types that data sheets quote for the shader units rather than the matrix units."""


def processing_performance(op_per_s: float, bits: float) -> float:
    """TPP of one unit and one bit length: TOPS x bits, with a multiply-accumulate counted as two operations.

    Source: 15 CFR part 774 Supp. 1, ECCN 3A090 Technical Notes (TPP = 2 x MacTOPS x bit length); data sheets already
    count a multiply-accumulate twice.
    """
    return op_per_s / units.TERA * bits


def total_processing_performance(
    peaks: Iterable[tuple[str, float, float]], *, aggregation: Aggregation = "max-concurrent"
) -> float:
    """TPP of a chip: the largest over bit lengths of dense TOPS x bits.

    Args:
        peaks: (data type, dense operations per second, bits) of each peak; at least one.
        aggregation: "max-concurrent" takes the best single peak (vendor practice); "sum" adds the best peak of the
            matrix units and the best of the shader units ("aggregated over all processing units", read literally).

    Source: ECCN 3A090 Technical Notes; the two readings differ on the RTX 4090 D (4,707 against 7,060), which NVIDIA
    sold as uncontrolled.
    """
    products = [(dtype, processing_performance(op_per_s, bits)) for dtype, op_per_s, bits in peaks]
    if aggregation == "max-concurrent":
        return max(product for _, product in products)
    matrix = max((product for dtype, product in products if dtype not in VECTOR), default=0.0)
    vector = max((product for dtype, product in products if dtype in VECTOR), default=0.0)
    return matrix + vector


def performance_density(tpp: float, die_area: float) -> float:
    """PD: TPP per mm2 of applicable die area (non-planar logic dies, caches included, HBM stacks excluded).

    Source: ECCN 3A090 Technical Notes.
    """
    return tpp / die_area


def bandwidth_density(bandwidth: float, area: float) -> float:
    """Memory bandwidth density of an HBM stack in GB/s per mm2 of package or stack.

    Source: ECCN 3A090.c, 89 FR 96790.
    """
    return bandwidth / area


def bandwidth_sum(memory_bandwidth: float, io_bandwidth: float) -> float:
    """DRAM plus I/O bandwidth, the third test of the April 2025 letters.

    Source: FT account of an Intel e-mail to customers, quoted by Silicon UK, April 2025; never published.
    """
    return memory_bandwidth + io_bandwidth


DERIVED: Final[Mapping[str, tuple[str, str]]] = {
    "pd": ("tpp", "die_mm2"),
    "hbm_density": ("dram_bw", "die_mm2"),
    "dram_plus_io": ("dram_bw", "io_bw"),
}
"""Quantities computed from two others: name -> (first, second)."""


def solve(quantity: str, unknown: str, limit: float, other: float) -> float:
    """Value of ``unknown`` at which ``quantity`` reaches ``limit``, the other operand being ``other``.

    PD and bandwidth density are ratios (first / second), the letters' third test is a sum.
    """
    first, _ = DERIVED[quantity]
    if quantity == "dram_plus_io":
        return limit - other
    return limit * other if unknown == first else other / limit


def combine(quantity: str, first: float, second: float) -> float:
    """The derived quantity of two numbers."""
    functions = {"pd": performance_density, "hbm_density": bandwidth_density, "dram_plus_io": bandwidth_sum}
    return functions[quantity](first, second)
