"""Calibration: joint draws of the cost model's parameters for any chip and engine, measured or not.

A parameter's logarithm is a sum of effects: population, family of chips, chip, engine, engine on a family, and
software era. Where rows exist an effect is fitted and its posterior draws are stored; where none exist it is drawn
from the spread that the fitted effects of that level have. A chip that nobody measured so inherits a wide prior, a
well-measured one is tight, and two chips share the draws of what they have in common, so that common errors cancel
in a ratio.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.core.errors import CatalogError, InputError
from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.cost.parameters import PARAMETER_NAMES, Parameters, from_table
from offramp.cost.precision import Precision

F8 = npt.NDArray[np.float64]
DATA: Final = Path(__file__).resolve().parents[1] / "data" / "calibration"
Z90: Final = 1.2815515594
"""Standard normal quantile of 90 %."""
SHARES: Final = frozenset(
    name
    for name in PARAMETER_NAMES
    if name.endswith(("_compute", "_compute_8", "_compute_4", "_memory", "_efficiency"))
) | {"overlap", "memory_reserve"}
"""Parameters that are shares: capped at 1."""
SHARE_CAP: Final = 0.99
CENTRE: Final = 1.0 / 3.0
"""How far draws of a log parameter move towards faster, in variances. A step is a sum of spread-out terms, and the median of
such a sum lies above the sum of their medians (by 4 to 5 % of TPOT on fitted rows); moved by this much, the median over
draws is the prediction at the optimum within 1 %."""
RELEASE_PARAMETERS: Final = frozenset(
    {"step_host_s", "seq_host_s", "launch_s", "first_token_s", "prompt_token_s", "queue_factor", "admit_steps",
     "vector_floor_s", "gemm_floor_s", "grouped_floor_s", "attention_floor_s", "link_latency_s", "grouped_memory",
     "gemm_memory", "pace"}
)  # fmt: skip
"""Parameters that a release of an engine moves: overheads, fusion, kernels. The silicon's limits stay."""


PATH_PARAMETERS: Final = frozenset(
    {"gemm_compute", "gemm_compute_8", "gemm_compute_4", "gemm_memory", "gemm_floor_s", "grouped_compute",
     "grouped_memory", "grouped_floor_s", "decode_memory", "decode_mla_memory", "decode_mla_compute", "vector_floor_s",
     "attention_floor_s", "prefill_compute", "prefill_mla_compute", "launch_s", "pace"}
)  # fmt: skip
"""Parameters that a kernel path (an engine's kernels for one dtype, attention kind and dense or expert layers) moves."""
LEVEL_PARAMETERS: Final = {"release": RELEASE_PARAMETERS, "path": PATH_PARAMETERS}
PARAMETER_SET: Final = frozenset(PARAMETER_NAMES)


def path_of(model: Model, precision: Precision) -> str:
    """The kernel path of a model in a precision: "fp8-moe-mla", "bf16-dense-gqa"."""
    moe = any(group.mlp.kind == "moe" for group in model.layers)
    kinds = {group.attention.kind for group in model.layers}
    attention = "mla" if "mla" in kinds else "hybrid" if kinds & {"linear", "ssm"} else "gqa"
    if any(group.attention.index_heads for group in model.layers):
        attention = "dsa"
    return f"{precision.experts if moe else precision.dense}-{'moe' if moe else 'dense'}-{attention}"


def release_of(version: str, date: str = "") -> str:
    """The release that a version string names ("vllm/vllm-openai:v0.18.0" -> "0.18"), else the half-year of a date."""
    found = re.search(r"(?<![\d.])v?(\d{1,2})\.(\d{1,2})(?:\.(\d+))?", version)
    if found:
        major, minor, patch = found.groups()
        return f"{major}.{minor}.{patch}" if major == "0" and int(minor) < 6 and patch else f"{major}.{minor}"
    stamp = re.search(r"(20\d\d)-(\d\d)", date)
    return f"{stamp.group(1)}H{1 if int(stamp.group(2)) <= 6 else 2}" if stamp else ""


class PriorEntry(Record):
    """Median and 10 to 90 % range of one parameter, and what they rest on."""

    median: float
    low: float
    high: float
    source: str

    @property
    def log_sd(self) -> float:
        """Standard deviation of the logarithm that the range implies."""
        return (math.log(self.high) - math.log(self.low)) / (2.0 * Z90)


class Prior(Record):
    """Beliefs before a fit: ``population`` by parameter, ``family`` by chip family and parameter."""

    version: str
    population: dict[str, PriorEntry]
    family: dict[str, dict[str, PriorEntry]] = {}


class Residual(Record):
    """What the model leaves unexplained of one metric, as standard deviations of the logarithm.

    Attributes:
        group_sd: common to all rows of one unseen deployment.
        row_sd: of a single row.
        bias: mean log error on left-out groups (measured over predicted).
        groups, rows: how many it rests on.
    """

    group_sd: float
    row_sd: float
    bias: float = 0.0
    groups: int = 0
    rows: int = 0


class Offset(Record):
    """What a deployment that was measured differs by, in logs of measured over predicted.

    Attributes:
        mean, sd: shrunken mean and its standard deviation.
    """

    mean: float
    sd: float


class Calibration(Record):
    """A parameter file.

    Attributes:
        version: of the file.
        created: day of the fit; every row used was known by then.
        draws: number of joint draws.
        effects: by parameter, by effect key ("population", "family:huawei-a2", "chip:nvidia/h20",
            "engine:sglang", "engine-family:sglang/nvidia-hopper", "deployment:..."): the draws of the log effect.
        spreads: by parameter, by level: standard deviation of unseen effects of that level.
        residuals: by metric family, and by family and evidence ("output@moe") where groups enough tell them apart.
        offsets: by measured deployment (source, chip, model, engine, version, dtype), by metric family.
        row_ids: ids of the rows used, or a digest and a count where there are many.
        note: what was used and left out.
    """

    version: str
    created: dt.date
    draws: int
    effects: dict[str, dict[str, list[float]]]
    spreads: dict[str, dict[str, float]]
    residuals: dict[str, Residual] = {}
    offsets: dict[str, dict[str, Offset]] = {}
    row_ids: tuple[str, ...] = ()
    note: str = ""

    def current_release(self, engine: str, version: str = "") -> str:
        """The release whose effects stand for a version: its own where rows of it exist, else the newest with rows.

        Args:
            engine: catalogue id.
            version: as the engine names it; "" means the current one.
        """
        prefix = f"release:{engine}@"
        known = {key[len(prefix) :] for effects in self.effects.values() for key in effects if key.startswith(prefix)}
        wanted = release_of(version)
        if wanted in known:
            return wanted
        numbered = [name for name in known if re.fullmatch(r"\d+(\.\d+)+", name)]
        return max(numbered, key=lambda name: tuple(int(part) for part in name.split(".")), default=wanted)

    def evidence(self, stack: Stack) -> str:
        """What is known of a stack's kernels: "dense" or "moe" where the engine's kernel path has rows, else "new"."""
        key = f"path:{stack.engine}/{stack.path}"
        if not stack.path or not any(key in effects for effects in self.effects.values()):
            return "new"
        return "moe" if "-moe-" in stack.path else "dense"

    def residual(self, family: str, stack: Stack) -> Residual | None:
        """What is left unexplained of a metric family for such a stack; None where the file says nothing of it."""
        found = self.residuals
        if self.is_measured(stack):
            plain = found.get(family)
            alone = None if plain is None else msgspec.structs.replace(plain, group_sd=0.0, bias=0.0)
            return found.get(f"{family}@own") or alone
        return found.get(f"{family}@{self.evidence(stack)}") or found.get(family)

    def known_sd(self, family: str, stack: Stack) -> float:
        """Group part of the residual if the engine's kernels were known. What lies above it is the engine's own, wherever
        it runs, and cancels in a ratio of two chips under that engine.
        """
        found = self.residual(family, stack)
        kind = self.residuals.get(f"{family}@{'moe' if '-moe-' in stack.path else 'dense'}") or self.residuals.get(
            family
        )
        return 0.0 if found is None else min(found.group_sd, kind.group_sd if kind is not None else found.group_sd)

    def is_measured(self, stack: Stack) -> bool:
        """Whether the user's own rows of this chip and engine are in it, so that only row errors remain."""
        return any(stack.deployment in effects for effects in self.effects.values())


class Stack(NamedTuple):
    """What a deployment's parameters depend on."""

    chip: str
    family: str
    vendor: str
    engine: str
    release: str = ""
    path: str = ""

    @property
    def deployment(self) -> str:
        """Effect key of a user's own measurements of this chip and engine."""
        return f"deployment:{self.chip}/{self.engine}"

    def keys(self) -> dict[str, str]:
        """Effect key by level."""
        found = {
            "family": f"family:{self.family}", "chip": f"chip:{self.chip}", "engine": f"engine:{self.engine}",
            "engine-family": f"engine-family:{self.engine}/{self.family}",
        }  # fmt: skip
        if self.release:
            found["release"] = f"release:{self.engine}@{self.release}"
        if self.path:
            found["path"] = f"path:{self.engine}/{self.path}"
        found["deployment"] = self.deployment
        return found


@lru_cache(maxsize=4)
def load_prior(path: Path = DATA / "prior.toml") -> Prior:
    """The shipped beliefs.

    Raises:
        CatalogError: broken file, or a parameter without an entry.
    """
    try:
        prior = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Prior)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CatalogError(f"cannot read the prior: {error}", where=path.name) from None
    missing = [name for name in PARAMETER_NAMES if name not in prior.population]
    if missing:
        raise CatalogError(f"no prior for {', '.join(missing)}", where=path.name)
    return prior


# Share of a parameter's population variance that each level carries where nothing was fitted. Assumed: chips of one family
# differ less than families, and the engine's kernels matter as much as the silicon.
VARIANCE_SHARES: Final = {"population": 0.10, "family": 0.35, "chip": 0.20, "engine": 0.15, "engine-family": 0.20}


def from_prior(prior: Prior, *, draws: int = 64, seed: int = 0) -> Calibration:
    """A calibration that no measurement has touched: effects of the prior's families, spreads of its ranges."""
    effects: dict[str, dict[str, list[float]]] = {}
    spreads: dict[str, dict[str, float]] = {}
    for name in PARAMETER_NAMES:
        entry = prior.population[name]
        sd = entry.log_sd
        spreads[name] = {
            level: sd * math.sqrt(share) for level, share in VARIANCE_SHARES.items() if level != "population"
        }
        spreads[name]["deployment"] = 0.0
        for level, members in LEVEL_PARAMETERS.items():
            spreads[name][level] = sd * math.sqrt(0.15) if name in members else 0.0
        centre = math.log(entry.median) + spreads_noise(seed, name, "population", draws) * sd * math.sqrt(0.10)
        effects[name] = {"population": centre.tolist()}
        for family, own in prior.family.items():
            if name in own:
                shift = math.log(own[name].median) - math.log(entry.median)
                noise = spreads_noise(seed, name, f"family:{family}", draws) * own[name].log_sd * 0.7
                effects[name][f"family:{family}"] = (shift + noise).tolist()
    return Calibration(
        version=f"prior-{prior.version}", created=dt.date.fromisoformat(prior.version), draws=draws, effects=effects,
        spreads=spreads, note="No measurement used: beliefs only.",
    )  # fmt: skip


def spreads_noise(seed: int, name: str, key: str, draws: int) -> F8:
    """Standard normal draws of one effect; antithetic, so that their mean is exactly zero. [draws]"""
    rng = np.random.default_rng(derive_seed(seed, "effect", name, key))
    half = rng.standard_normal((draws + 1) // 2)
    both = np.empty(2 * half.size)
    order = rng.permutation(2 * half.size)
    both[order] = np.concatenate([half, -half])
    return both[:draws]


def parameters_for(calibration: Calibration, stack: Stack, *, seed: int = 0) -> Parameters:
    """Joint draws of all parameters for one chip and engine.

    Two stacks that share a level share that level's draws, so ratios between them are tighter than either.
    """
    table: dict[str, F8] = {}
    for name in PARAMETER_NAMES:
        effects, spreads = calibration.effects.get(name, {}), calibration.spreads.get(name, {})
        if "population" not in effects:  # the file is older than the parameter
            centre = math.log(load_prior().population[name].median)
            effects = {**effects, "population": [centre] * calibration.draws}
        total = np.asarray(effects["population"], dtype=np.float64).copy()
        for level, key in stack.keys().items():
            if key in effects:
                total = total + np.asarray(effects[key])
            elif spreads.get(level, 0.0) > 0.0 and name in LEVEL_PARAMETERS.get(level, PARAMETER_SET):
                total = total + spreads[level] * spreads_noise(seed, name, key, calibration.draws)
        values = np.exp(total + centring(name, total))
        table[name] = np.minimum(values, SHARE_CAP) if name in SHARES else values
    return from_table(table)


def centring(name: str, logs: F8) -> float:
    """What draws of a log parameter are moved by so that the median of step times is that at their centre (``CENTRE``)."""
    if name in ("overlap", "memory_reserve"):
        return 0.0
    return (CENTRE if name in SHARES else -CENTRE) * float(np.var(logs))


def load_calibration(path: str | Path | None = None) -> Calibration:
    """The shipped parameter file, or a user's.

    Raises:
        InputError: not a parameter file.
    """
    file = Path(path) if path else DATA / "current.json"
    if path is None and not file.is_file():
        return from_prior(load_prior())
    return _read(file, file.stat().st_mtime_ns if file.is_file() else 0)


@lru_cache(maxsize=4)
def _read(file: Path, _changed: int) -> Calibration:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Calibration)
    except (OSError, msgspec.MsgspecError) as error:
        mend = "Make one with: offramp calibrate --from rows.csv --out FILE."
        raise InputError(f"not a parameter file: {error}", where=str(file), mend=mend) from None
