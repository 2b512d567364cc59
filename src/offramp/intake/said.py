"""What a user says of a deployment that a benchmark file does not record: chip, number of chips, layout, versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from offramp.core.errors import InputError, near_miss_hint
from offramp.intake.bench import FACTS, Bench

ALIASES: Final = {
    "chips": "n_chips",
    "weights": "weights_dtype",
    "kv": "kv_dtype",
    "version": "engine_version",
    "power": "power_w_per_chip",
}
LENGTHS: Final = ("isl", "osl", "date")
COUNTS: Final = ("n_chips", "tp", "pp", "dp", "ep", "isl", "osl")
_DEGREE: Final = re.compile(r"(tp|pp|dp|ep)\s*=?\s*(\d+)", re.IGNORECASE)
_VERSIONED: Final = re.compile(r"(\S+?)[ =]+v?(\d[\w.+-]*)")


def said_of(settings: Iterable[str], *, chip: str = "", source: str = "--set") -> dict[str, str]:
    """Columns of the serving schema from ``NAME=VALUE`` texts.

    ``layout`` takes what an assessment prints ("vllm TP8 PP2"), ``engine`` a name with or without a version.

    Args:
        settings: as given on the command line.
        chip: of the deployment; "" where not said.
        source: where they stand, for errors.

    Raises:
        InputError: no ``=``, an unknown name, or a value that cannot be read.
    """
    out: dict[str, str] = {"chip": chip} if chip else {}
    for text in settings:
        name, sign, value = (part.strip() for part in text.partition("="))
        name = name.lower().replace("-", "_")
        where = f"{source} {text}"
        if not sign or not value:
            raise InputError("is not NAME=VALUE", where=where, mend='Write it as in chips=8 or layout="TP8".')
        if name == "layout":
            out |= _layout(value, where)
            continue
        name = ALIASES.get(name, name)
        if name not in (*FACTS, *LENGTHS):
            known = ["chips", "layout", *FACTS, *LENGTHS]
            hint = near_miss_hint(name, known) or f"Known: {', '.join(known)}."
            raise InputError(f'unknown name "{name}"', where=where, mend=hint)
        if name in COUNTS and not _count(value, whole=name not in LENGTHS):
            raise InputError(f'"{value}" is no number above zero', where=where)
        versioned = _VERSIONED.fullmatch(value) if name == "engine" else None
        out |= {"engine": versioned.group(1), "engine_version": versioned.group(2)} if versioned else {name: value}
    return out


def _count(text: str, *, whole: bool) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return 0 < value < float("inf") and (not whole or value == int(value))


def _layout(text: str, where: str) -> dict[str, str]:
    """Degrees (and the engine, where one is named) of "vllm TP8 PP2" or "tp=8,dp=2"."""
    found = {name.lower(): degree for name, degree in _DEGREE.findall(text)}
    rest = [word for word in re.split(r"[\s,;]+", _DEGREE.sub(" ", text)) if word]
    named = not rest or (len(rest) == 1 and rest[0][0].isalpha())
    if not found or not named or "0" in found.values():
        raise InputError(
            f'"{text}" is no layout', where=where, mend='Write it as in "TP8", "TP8 PP2" or "vllm DP16 EP16".'
        )
    degrees = {"tp": "1", "pp": "1", "dp": "1", **found}  # a degree that a stated layout leaves out is 1, not unknown
    return {**degrees, **({"engine": rest[0]} if rest else {})}


def complete_bench(bench: Bench, said: Mapping[str, str]) -> Bench:
    """The run with what the user says of it; where the file says otherwise, the user's word stands and that is noted."""
    if not said:
        return bench
    notes = [
        f'the file says {name} "{bench.facts[name]}", you say "{value}": yours is taken'
        for name, value in said.items()
        if bench.facts.get(name) and bench.facts[name].lower() != value.lower()
    ]
    facts = {**bench.facts, **{name: value for name, value in said.items() if name in FACTS}}
    return msgspec.structs.replace(
        bench, facts=facts, notes=(*bench.notes, *notes), model=said.get("model", bench.model),
        date=said.get("date", bench.date), isl=float(said["isl"]) if "isl" in said else bench.isl,
        osl=float(said["osl"]) if "osl" in said else bench.osl,
    )  # fmt: skip


def complete_row(row: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """The row of a table with its empty cells filled; what a row states stays."""
    return {**row, **{name: value for name, value in said.items() if not row.get(name, "").strip()}}
