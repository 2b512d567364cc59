"""Figures by name, as chips and systems hold them: one name, one dimension, several sources."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import ClassVar, Final

from offramp.core import units
from offramp.core.errors import CatalogError, near_miss_hint
from offramp.core.figure import Figure, check_figure
from offramp.core.record import Record
from offramp.core.result import FigureLog

Figures = Mapping[str, tuple[Figure, ...]]

FIGURE_DIMENSIONS: Final[dict[str, tuple[str, ...]]] = {
    "peak_fp64": ("flop/s",), "peak_fp32": ("flop/s",), "peak_tf32": ("flop/s",), "peak_bf16": ("flop/s",),
    "peak_fp16": ("flop/s",), "peak_fp8": ("flop/s",), "peak_int8": ("flop/s",), "peak_fp4": ("flop/s",),
    "memory_capacity": ("bytes",), "usable_memory": ("bytes",), "memory_bandwidth": ("bytes/s",),
    "scaleup_bandwidth": ("bytes/s",), "scaleout_bandwidth": ("bytes/s",), "link_bandwidth": ("bytes/s",),
    "nic_bandwidth": ("bytes/s",), "device_link_bandwidth": ("bytes/s",), "host_link_bandwidth": ("bytes/s",),
    "tdp": ("W",), "idle_power": ("W",), "host_power": ("W",), "network_power": ("W",), "system_power": ("W",),
    "die_area": ("area",), "price": ("money",), "rent": ("money/s",), "host_price": ("money",),
    "network_price": ("money",), "measured_gemm_bf16": ("flop/s",), "measured_gemm_fp8": ("flop/s",),
    "measured_gemm_int8": ("flop/s",), "measured_gemm_fp4": ("flop/s",), "measured_bandwidth": ("bytes/s",),
}  # fmt: skip
"""Every figure name that a chip or system may carry, and the dimension that its unit must have."""


def check_figures(figures: Figures, *, where: str) -> None:
    """Raises if a name is unknown, a unit has another dimension, or a figure breaks the catalogue's rules.

    Raises:
        CatalogError: with the file and the path of the offending figure.
    """
    for name, sources in figures.items():
        if name not in FIGURE_DIMENSIONS:
            hint = near_miss_hint(name, FIGURE_DIMENSIONS)
            raise CatalogError(f'unknown figure name "{name}"', where=f"{where}.{name}", mend=hint)
        if not sources:
            raise CatalogError("no source listed", where=f"{where}.{name}", mend="Give one, or remove the name.")
        for index, figure in enumerate(sources):
            path = f"{where}.{name}[{index}]"
            check_figure(figure, where=path)
            found = units.unit_factor(figure.unit)[1]
            if found not in FIGURE_DIMENSIONS[name]:
                wanted = " or ".join(FIGURE_DIMENSIONS[name])
                raise CatalogError(f'"{figure.unit}" is {found}, {name} needs {wanted}', where=path)
            if figure.value < 0 or (figure.low is not None and figure.low < 0):
                raise CatalogError(f"{name} is negative", where=path)


def known_figures(figures: Figures, as_of: dt.date | None) -> dict[str, tuple[Figure, ...]]:
    """The figures that were known on ``as_of`` (all of them when it is None); empty names are dropped."""
    if as_of is None:
        return dict(figures)
    kept = {name: tuple(f for f in sources if f.known_since <= as_of) for name, sources in figures.items()}
    return {name: sources for name, sources in kept.items() if sources}


def spread(sources: tuple[Figure, ...]) -> float:
    """Largest relative difference between sources of one figure, of the preferred value (0.1 = 10 %)."""
    if len(sources) < 2 or sources[0].si == 0:
        return 0.0
    values = [figure.si for figure in sources]
    return (max(values) - min(values)) / abs(values[0])


class Sourced(Record, kw_only=True):
    """Something of the catalogue that is described by sourced figures: a chip, a system.

    Attributes:
        id: ``vendor/name`` of a chip, name of a system.
        figures: figures by name, each a tuple of sources; the first is the one used.
    """

    SHELF: ClassVar[str] = ""
    """First part of the address of its figures."""
    WITHOUT: ClassVar[str] = ""
    """How to do without a figure that no source gives."""

    id: str
    figures: dict[str, tuple[Figure, ...]] = {}

    def figure(self, name: str, as_of: dt.date | None = None, log: FigureLog | None = None) -> Figure | None:
        """The preferred figure of that name that was known on ``as_of``, or None; noted in ``log``."""
        sources = known_figures(self.figures, as_of).get(name) if as_of else self.figures.get(name)
        if not sources:
            return None
        return log.use(self.figure_id(name), sources[0]) if log is not None else sources[0]

    def require(self, name: str, as_of: dt.date | None = None, log: FigureLog | None = None) -> Figure:
        """The preferred figure of that name.

        Raises:
            CatalogError: no source gives it.
        """
        found = self.figure(name, as_of, log)
        if found is None:
            known = f" known on {as_of.isoformat()}" if as_of else ""
            raise CatalogError(f"{self.id} has no sourced {name}{known}", where=self.id, mend=self.WITHOUT)
        return found

    def figure_id(self, name: str) -> str:
        """Stable address of a figure ("chips/nvidia/h20#memory_bandwidth", "systems/hgx-h20#host_power")."""
        return f"{self.SHELF}/{self.id}#{name}"
