"""Constants of the training model that no fit moves, each a sourced figure: what it counts and what it assumes."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from offramp.core.figure import Figure, check_figure

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "train"


@lru_cache(maxsize=1)
def constants() -> dict[str, Figure]:
    """Every constant by name."""
    raw = tomllib.loads((DATA / "model.toml").read_text(encoding="utf-8"))
    return {
        name: check_figure(msgspec.convert(entry, Figure), where=f"train/model.toml#{name}")
        for name, entry in raw.items()
    }


@lru_cache(maxsize=128)
def constant(name: str) -> float:
    """The SI value of a constant."""
    return constants()[name].si
