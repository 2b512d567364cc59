"""Chip: an accelerator as it is sold, with every figure that a source gives for it."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar, Final, Literal

import msgspec

from offramp.catalog.figures import Sourced
from offramp.core.figure import Figure
from offramp.core.record import Record
from offramp.core.result import FigureLog

NEEDED: Final = ("peak_bf16", "memory_capacity", "memory_bandwidth", "scaleup_bandwidth", "tdp")
"""Figures that computing needs. ``peak_fp16`` stands in where a chip has no BF16."""


LESS_IS_BETTER: Final = ("tdp", "idle_power", "price", "rent")
Case = Literal["low", "mid", "high"]


class Bin(Record):
    """One member of a mixture: a chip that an unstated name may stand for.

    Attributes:
        chip: catalogue id.
        weight: probability that the name means this chip; the weights of a mixture sum to 1.
    """

    chip: str
    weight: Figure


class Chip(Sourced):
    """An accelerator package as sold.

    Attributes:
        id: ``vendor/name``.
        family: generation that shares efficiencies ("nvidia-hopper", "huawei-a2").
        package: what one unit is: a "chip" (one torch device unless ``devices`` says otherwise), a "package" of
            several dies, or a "card" that carries several chips.
        devices: torch devices of one package (a 910C is 2).
        dies: compute dies of one package.
        figures: figures by name, each a tuple of sources; the first is the one used. All peaks are dense, all
            bandwidths one direction and per package unless the note says otherwise.
        bounds: admissible range of a missing figure, where physics or a source allows one.
        mixture: chips that this name may stand for; empty for a real chip.
        dtypes: data types that the matrix units take ("bf16", "fp8" ...).
        systems: ids of systems it is sold in; the first is the default.
        engines: ids of engines that run on it, best supported first.
        stack: the vendor's software stack, in words.
        launched: as printed ("2024-Q1").
        known: date from which the chip was publicly known.
    """

    SHELF: ClassVar[str] = "chips"
    WITHOUT: ClassVar[str] = "Use bounds mode."

    name: str
    vendor: str
    family: str
    package: Literal["chip", "package", "card"] = "chip"
    devices: int = 1
    dies: int = 1
    aliases: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    stack: str = ""
    process: str = ""
    launched: str = ""
    known: dt.date | None = None
    status: str = ""
    notes: tuple[str, ...] = ()
    bounds: dict[str, Figure] = {}
    mixture: tuple[Bin, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of figures that computing needs and that no (known) source gives."""
        return tuple(
            name
            for name in NEEDED
            if name not in self.figures and not (name == "peak_bf16" and "peak_fp16" in self.figures)
        )

    @property
    def computable(self) -> bool:
        """Whether every needed figure has a source; otherwise only bounds mode answers."""
        return not self.missing

    def admissible(self, name: str, log: FigureLog | None = None) -> tuple[float, float] | None:
        """Low and high of a figure in SI units: from its preferred source, else from ``bounds``; None = unbounded."""
        found = self.figure(name, log=log)
        if found is None and name in self.bounds:
            found = self.bounds[name]
            if log is not None:
                log.use(self.figure_id(name) + "~bounds", found)
        return None if found is None else found.si_range

    @property
    def boundable(self) -> bool:
        """Whether every missing figure has an admissible range, so that bounds mode can give numbers."""
        return all(name in self.bounds for name in self.missing)

    @property
    def ranged(self) -> tuple[str, ...]:
        """Figures that bounds mode ranges over: missing ones, bounded ones, and sourced ones that carry a range.

        A computable chip has none: its figures are drawn.
        """
        if self.computable:
            return ()
        wide = (
            name
            for name, (first, *_) in self.figures.items()
            if (name in NEEDED or name.startswith("peak_")) and first.low != first.high
        )
        return tuple(dict.fromkeys((*self.missing, *(n for n in self.bounds if n not in self.figures), *wide)))

    def at_bounds(self, case: Case) -> Chip:
        """The chip with every ranged figure at its worst ("low"), middle or best ("high") for the user.

        Well-sourced figures are left as they are; bounds stay assumed. The best power is the lowest.
        """
        chosen = {name: self.figures[name][0] if name in self.figures else self.bounds[name] for name in self.ranged}
        filled = {name: (_at(figure, case, is_cost=name in LESS_IS_BETTER),) for name, figure in chosen.items()}
        return msgspec.structs.replace(self, figures={**self.figures, **filled})


def mixture_figures(bins: tuple[Bin, ...], chip_by_id: dict[str, Chip]) -> dict[str, tuple[Figure, ...]]:
    """Figures of a mixture: the likeliest bin's value, with low and high over all bins.

    A bin that has only bounds for a name widens the range by them. Names that some bin has neither way are left
    out; where all bins agree the figure itself is passed on.
    """
    ordered = sorted(bins, key=lambda bin_: -bin_.weight.value)
    members = [chip_by_id[bin_.chip] for bin_ in ordered]
    names = dict.fromkeys(name for member in members for name in member.figures)
    return {
        name: (_mixed(name, members),)
        for name in names
        if all(name in member.figures or name in member.bounds for member in members)
    }


def _at(figure: Figure, case: Case, *, is_cost: bool) -> Figure:
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    value = {"low": high if is_cost else low, "mid": figure.value, "high": low if is_cost else high}[case]
    return msgspec.structs.replace(figure, value=value)


def _mixed(name: str, members: list[Chip]) -> Figure:
    stated = [member.figures[name][0] for member in members if name in member.figures]
    others = [member.figures[name][0] if name in member.figures else member.bounds[name] for member in members]
    first = stated[0]
    if len(stated) == len(others) and all(o.value == first.value and o.unit == first.unit for o in others):
        return first
    scale = first.si / first.value if first.value else 1.0
    values = [other.si / scale for other in others]
    spread = [first.value, *(end / scale for other in others for end in other.si_range)]
    names = [member.id.partition("/")[2] for member in members]
    spelled = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values, strict=True))
    return Figure(
        value=first.value, unit=first.unit, source=f"assumed: the likeliest of {spelled}", url="",
        as_of=max(other.as_of for other in others), known=max(other.known_since for other in others),
        confidence="assumed", low=min(spread), high=max(spread),
    )  # fmt: skip
