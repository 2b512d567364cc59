"""Parameters of the training model: beliefs, fitted effects, and joint draws for any stack, measured or not.

The logarithm of a parameter is a sum of effects: population, family of chips, chip, framework, framework on a family
("stack"), release, and shape of the model on a stack. Effects that rows pin carry their posterior; others are drawn
from the spread of their level, so that an unmeasured chip or framework is wide and not wrong.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.train.assumed import DATA, constant

F8 = npt.NDArray[np.float64]
Z90: Final = 1.2815515594
GEMM: Final = {"bf16": "gemm_16", "fp16": "gemm_16", "fp8": "gemm_8", "fp4": "gemm_4"}
GROUPED: Final = {"bf16": "grouped_16", "fp16": "grouped_16", "fp8": "grouped_8", "fp4": "grouped_8"}
"""Parameter of a dtype: of dense matrices, and of grouped ones over them."""


class Belief(Record):
    """Prior of one parameter.

    Attributes:
        median, low, high: 10 to 90 % range of the population.
        spreads: standard deviation of the log effects by level.
        most: what silicon or arithmetic allows; None where there is no such limit.
        source: what it rests on.
    """

    median: float
    low: float
    high: float
    source: str
    spreads: dict[str, float] = {}
    most: float | None = None

    @property
    def log_sd(self) -> float:
        """Standard deviation of the logarithm."""
        return (math.log(self.high) - math.log(self.low)) / (2.0 * Z90)


class Stack(NamedTuple):
    """Which effects apply.

    Attributes:
        chip, family: catalogue id and family of the chip.
        framework, release: id and version.
        dtype, variant: of the GEMMs; the variant tells recipes of one dtype apart ("mx").
        shape: kind of model: "dense", "moe" or "hybrid".
        core: library that the framework is built on, shared with others; "" where it is not.
    """

    chip: str
    family: str
    framework: str
    release: str = ""
    dtype: str = "bf16"
    variant: str = ""
    shape: str = "dense"
    core: str = ""

    def keys(self, level: str, releases: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """The effects of a level that apply to this stack.

        Args:
            level: of a belief's spreads, or "population".
            releases: of each framework with rows, oldest first; "walk" effects add up over them, so that a release
                starts from what the one before it was.
        """
        if level == "walk":
            known = [r for r in releases.get(self.framework, ()) if self.release and age(r) <= age(self.release)]
            return tuple(f"walk:{self.framework}/{self.shape}/{r}" for r in known[1:])
        made = {
            "population": "population",
            "family": f"family:{self.family}",
            "chip": f"chip:{self.chip}",
            "core": f"core:{self.core or self.framework}",
            "corestack": f"corestack:{self.core or self.framework}/{self.family}",
            "framework": f"framework:{self.framework}",
            "stack": f"stack:{self.framework}/{self.family}",
            "release": f"release:{self.framework}/{self.release}" if self.release else "",
            "shape": f"shape:{self.framework}/{self.shape}",
            "variant": f"variant:{self.variant}" if self.variant else "",
        }
        return (made[level],) if made[level] else ()


def age(release: str) -> tuple[int, ...]:
    """A release as numbers that sort by age."""
    return tuple(int(part) for part in release.split(".") if part.isdigit())


class Residual(Record):
    """What is left unexplained, as standard deviations of the logarithm: of a deployment, and of a row."""

    group_sd: float
    row_sd: float
    groups: int = 0
    rows: int = 0


class Posterior(Record):
    """A fitted parameter file.

    Attributes:
        version, created: of the fit; every row used was known by then.
        names: "parameter|effect" of each entry.
        mean: of the log effects (population entries: log of the parameter).
        draws: deviations from the mean, joint: base64 of little-endian float32 [draws, names].
        residual: "known" where the framework on that family was measured, "new" where it was not; and by framework.
        fitted: ids of the rows used.
        releases: of each framework with rows, oldest first.
        offsets: log factor of deployments that were measured (framework, chip, model, dtype), shrunken.
    """

    version: str
    created: dt.date
    names: tuple[str, ...]
    mean: tuple[float, ...]
    draws: str
    residual: dict[str, Residual]
    fitted: tuple[str, ...] = ()
    releases: dict[str, tuple[str, ...]] = {}
    offsets: dict[str, float] = {}


@lru_cache(maxsize=1)
def beliefs() -> dict[str, Belief]:
    """The shipped prior by parameter."""
    raw = tomllib.loads((DATA / "prior.toml").read_text())
    raw.pop("version")
    return {name: msgspec.convert(entry, Belief) for name, entry in raw.items()}


@lru_cache(maxsize=8)
def load_posterior(path: str = "") -> Posterior:
    """The fitted parameter file; the shipped one where no path is given.

    Raises:
        InputError: it cannot be read.
    """
    file = Path(path) if path else DATA / "posterior.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Posterior)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"no training parameter file ({error})", where=str(file)) from None


def levels_of(name: str) -> list[str]:
    """Levels whose effects a parameter has."""
    return ["population", *beliefs()[name].spreads]


def cap(name: str, values: F8) -> F8:
    """Shares stay below what silicon or arithmetic allows."""
    most = beliefs()[name].most
    return values if most is None else np.minimum(values, most)


def draw(posterior: Posterior, stack: Stack, *, draws: int = 0, seed: int = 0) -> dict[str, F8]:
    """Parameters of a stack by name.

    Args:
        posterior: parameter file.
        stack: what runs where.
        draws: joint draws, as [draws, 1]; 0 gives the centre as [1].
        seed: of effects that no row pinned; the same effect has the same draws on every stack.
    """
    index = _index(posterior.names)
    table = _table(posterior.draws, len(posterior.names))
    found: dict[str, F8] = {}
    for name, belief in beliefs().items():
        total: F8 = np.zeros(max(draws, 1))
        for level in levels_of(name):
            for key in stack.keys(level, posterior.releases):
                at = index.get(f"{name}|{key}")
                if at is not None:
                    total = total + posterior.mean[at]
                    total = total + np.resize(table[:, at], draws) if draws else total
                    continue
                total = total + (math.log(belief.median) if level == "population" else 0.0)
                if draws:
                    sd = belief.log_sd if level == "population" else belief.spreads[level]
                    rng = np.random.default_rng(derive_seed(seed, "train", name, key))
                    total = total + sd * rng.standard_normal(draws)
        values = cap(name, np.exp(total))
        found[name] = values[:, None] if draws else values
    found["gemm"], found["grouped"] = found[GEMM[stack.dtype]], found[GROUPED[stack.dtype]]
    return found


THIN: Final = frozenset({"mindspeed", "flagperf", "meta-4d", "megascale", "hai-llm", "other"})
"""Frameworks with few rows, or rows with hardly a layout: what they leave unexplained is what an unmeasured stack
does."""


YOUNG: Final = frozenset({"mindspeed", "flagperf", "other"})
"""Frameworks whose releases move what experts cost a lot, and whose rows do not state the release."""


def is_thin(stack: Stack) -> bool:
    """Whether so little was published of a framework that its rows do not calibrate it."""
    return stack.framework in THIN


def residual_of(posterior: Posterior, stack: Stack) -> Residual:
    """The residual that applies: smaller where this framework was well measured on this family of chips."""
    known = not is_thin(stack) and f"stack|stack:{stack.framework}/{stack.family}" in _index(posterior.names)
    found = posterior.residual["known" if known else "new"]
    found = posterior.residual.get(stack.framework, found) if known else found
    if stack.framework in YOUNG and stack.shape != "dense":
        return msgspec.structs.replace(found, group_sd=math.hypot(found.group_sd, constant("release_sd")))
    return found


@lru_cache(maxsize=8)
def _index(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: at for at, name in enumerate(names)}


@lru_cache(maxsize=8)
def _table(draws: str, columns: int) -> F8:
    flat = np.frombuffer(base64.b64decode(draws), dtype="<f4")
    return flat.reshape(-1, columns).astype(np.float64) if columns else np.zeros((1, 0))


def pack(draws: F8) -> str:
    """Draws as the file holds them. [draws, names]"""
    return base64.b64encode(np.ascontiguousarray(draws, dtype="<f4").tobytes()).decode()
