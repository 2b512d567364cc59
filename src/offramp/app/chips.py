"""chips: what the catalogue knows of accelerators, with every source, and what it does not know."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from offramp import __version__, catalog
from offramp.catalog.chips import Chip
from offramp.catalog.figures import spread
from offramp.core.figure import Figure
from offramp.core.result import Column, FigureLog, Notice, Result, Table, hash_inputs, table_of

KEY_FIGURES: Final = (
    ("peak_bf16", "TFLOP/s"), ("peak_fp8", "TFLOP/s"), ("peak_int8", "TOPS"), ("memory_capacity", "GB"),
    ("memory_bandwidth", "TB/s"), ("scaleup_bandwidth", "GB/s"), ("tdp", "W"),
)  # fmt: skip
"""Figures of the list, and the unit that each is shown in."""

DISAGREE: Final = 0.10
"""Sources further apart than this share are called disagreeing."""


def chips(chip_id: str | None = None, *, as_of: dt.date | None = None) -> Result:
    """All chips, or one with every figure and source.

    Args:
        chip_id: id or alias; None lists all.
        as_of: hides what was not yet known.
    """
    facts = catalog.load(as_of)
    log = FigureLog()
    if chip_id is None:
        answer, tables, warnings = _list(facts, log)
    else:
        answer, tables, warnings = _one(facts, facts.chip(chip_id), log)
    inputs = {"chip": chip_id, "as_of": as_of.isoformat() if as_of else None}
    return Result(
        command="chips", answer=answer, tables=tables, warnings=warnings, inputs_hash=hash_inputs(inputs),
        data_version=facts.version, figures=log.figures, knowledge_horizon=log.horizon, offramp_version=__version__,
    )  # fmt: skip


def figure_row(figure: Figure) -> dict[str, Any]:
    """A figure as plain data."""
    return {
        "value": figure.value, "unit": figure.unit, "low": figure.low, "high": figure.high, "si": figure.si,
        "confidence": figure.confidence, "source": figure.source, "url": figure.url,
        "as_of": figure.as_of.isoformat(), "known": figure.known_since.isoformat(), "note": figure.note,
    }  # fmt: skip


def _list(facts: catalog.Catalog, log: FigureLog) -> tuple[dict[str, Any], dict[str, Table], tuple[Notice, ...]]:
    rows: list[dict[str, Any]] = []
    for chip in sorted(facts.chips.values(), key=lambda chip: chip.id):
        row: dict[str, Any] = {
            "id": chip.id, "name": chip.name, "vendor": chip.vendor, "family": chip.family,
            "package": chip.package, "devices": chip.devices, "computable": chip.computable,
            "bounds_mode": not chip.computable and chip.boundable, "missing": list(chip.missing),
            "status": chip.status,
        }  # fmt: skip
        for name, _unit in KEY_FIGURES:
            found = chip.figure(name, log=log) or (chip.figure("peak_fp16", log=log) if name == "peak_bf16" else None)
            row[name] = None if found is None else {
                "value": found.value, "unit": found.unit, "si": found.si, "confidence": found.confidence,
            }  # fmt: skip
            if found is None and name in chip.bounds:
                low, high = chip.bounds[name].si_range
                row[name] = {"low_si": low, "high_si": high, "confidence": "assumed"}
        rows.append(row)
    flat = [{**{k: row[k] for k in ("id", "vendor", "family", "computable")}, **_flat(row)} for row in rows]
    columns = ["id", "vendor", "family", "computable", *(Column(name=n, unit=u) for n, u in _SI_COLUMNS)]
    computable = sum(row["computable"] for row in rows)
    answer = {"count": len(rows), "computable": computable, "chips": rows}
    return answer, {"chips": table_of(flat, columns=columns, title="Chips")}, ()


_SI_COLUMNS: Final = (
    ("peak_bf16", "FLOP/s"), ("peak_fp8", "FLOP/s"), ("peak_int8", "FLOP/s"), ("memory_capacity", "B"),
    ("memory_bandwidth", "B/s"), ("scaleup_bandwidth", "B/s"), ("tdp", "W"),
)  # fmt: skip


def _flat(row: dict[str, Any]) -> dict[str, float | None]:
    return {name: (row[name] or {}).get("si") for name, _unit in KEY_FIGURES}


def _one(
    facts: catalog.Catalog, chip: Chip, log: FigureLog
) -> tuple[dict[str, Any], dict[str, Table], tuple[Notice, ...]]:
    warnings: list[Notice] = []
    for name, sources in chip.figures.items():
        for index, figure in enumerate(sources):
            log.use(chip.figure_id(name) + (f"[{index}]" if index else ""), figure)
        if spread(sources) > DISAGREE:
            text = f"sources of {name} differ by {spread(sources):.0%}; the first is used"
            warnings.append(Notice(kind="disagreement", text=text, where=chip.id))
    for name, figure in chip.bounds.items():
        log.use(chip.figure_id(name) + "~bounds", figure)
    if chip.missing:
        mode = "bounds mode gives a range" if chip.boundable else "no range is arguable, so nothing can be computed"
        text = f"no source gives {', '.join(chip.missing)}: {mode}"
        warnings.append(Notice(kind="missing-figure", text=text, where=chip.id))
    answer = _describe(chip) | {
        "figures": {name: [figure_row(figure) for figure in sources] for name, sources in chip.figures.items()},
        "bounds": {name: figure_row(figure) for name, figure in chip.bounds.items()},
        "prices": [figure_row(figure) for figure in facts.price(chip.id, "CNY")],
        "rents": [figure_row(figure) for figure in facts.rent(chip.id, "CNY")],
    }
    return answer, {"figures": _figure_table(chip)}, tuple(warnings)


def _describe(chip: Chip) -> dict[str, Any]:
    return {
        "id": chip.id, "name": chip.name, "vendor": chip.vendor, "family": chip.family, "package": chip.package,
        "devices": chip.devices, "dies": chip.dies, "aliases": list(chip.aliases), "systems": list(chip.systems),
        "engines": list(chip.engines), "dtypes": list(chip.dtypes), "stack": chip.stack, "process": chip.process,
        "launched": chip.launched, "status": chip.status, "notes": list(chip.notes), "computable": chip.computable,
        "bounds_mode": not chip.computable and chip.boundable, "missing": list(chip.missing),
        "mixture": [{"chip": bin_.chip, "weight": figure_row(bin_.weight)} for bin_ in chip.mixture],
    }  # fmt: skip


def _figure_table(chip: Chip) -> Table:
    pairs = [(name, index, figure) for name, all_ in chip.figures.items() for index, figure in enumerate(all_)]
    rows = [
        {"figure": name, "use": "preferred" if index == 0 else "other", **figure_row(f)} for name, index, f in pairs
    ]
    rows += [{"figure": name, "use": "bounds", **figure_row(f)} for name, f in chip.bounds.items()]
    columns = ("figure", "use", "value", "unit", "low", "high", "confidence", "source", "url", "as_of", "note")
    return table_of(rows, columns=columns, title=chip.name)
