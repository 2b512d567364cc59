"""Deployment: a model on a pool of chips, ready to be priced; and what stands in its way."""

from __future__ import annotations

import datetime as dt
import math
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.catalog import Catalog
from offramp.core.record import Record
from offramp.core.result import FigureLog
from offramp.cost.calibration import Calibration, Stack, parameters_for, path_of, spreads_noise
from offramp.cost.device import Device, Num
from offramp.cost.hardware import device_of, system_of
from offramp.cost.layout import Pool
from offramp.cost.memory import Memory, memory_of, memory_table
from offramp.cost.operators import Traffic
from offramp.cost.parameters import Parameters, slowed
from offramp.cost.precision import choose
from offramp.cost.step import Setting
from offramp.cost.tabulate import shard_of

F8 = npt.NDArray[np.float64]


RESIDUAL_SHARES: Final = (0.35, 0.35, 0.30)
"""Shares of a deployment's unexplained variance that are common to the model, to the engine and model, and its own. Source:
178 pairs of rows on two chips with one engine and model: their ratios miss by 0.25 to 0.3 (log), single rows by 0.4."""


class Blocker(Record):
    """Something that keeps a model off a chip, or that it costs to go there.

    Attributes:
        kind: "memory", "engine", "dtype", "feature" stop it; "fallback" and "unproven" only cost or warn.
        text: one sentence with numbers.
        since: first engine version without the obstacle, where known.
    """

    kind: Literal["memory", "engine", "dtype", "feature", "fallback", "unproven"]
    text: str
    since: str = ""

    @property
    def stops(self) -> bool:
        """Whether nothing can be served until it is removed."""
        return self.kind in ("memory", "engine", "feature")


def build_setting(
    model: Model, pool: Pool, *, catalog: Catalog, calibration: Calibration, as_of: dt.date | None = None,
    log: FigureLog | None = None, overrides: dict[str, Num] | None = None,
) -> Setting:  # fmt: skip
    """Model, device, precision and parameters of a pool, for :func:`~offramp.cost.step.step_time`.

    Args:
        model: what is served.
        pool: chip, system, engine, precision; its degrees do not matter here.
        catalog: facts.
        calibration: parameter file.
        as_of: use only facts known then.
        log: collects figures used.
        overrides: SI values per package that replace catalogue figures (bounds mode, what-if).
    """
    chip = catalog.chip(pool.chip)
    system = system_of(catalog, chip, pool.system)
    device = device_of(chip, system, as_of=as_of, log=log, overrides=overrides)
    engine = pool.engine or (chip.engines[0] if chip.engines else "vllm")
    dtypes = frozenset(device.peak_flop_per_s)
    precision = choose(model, device_dtypes=dtypes, weights=pool.weights_dtype, kv=pool.kv_dtype)
    stack = Stack(
        chip=chip.id, family=chip.family, vendor=chip.vendor, engine=engine,
        release=calibration.current_release(engine, pool.engine_version), path=path_of(model, precision),
    )  # fmt: skip
    parameters = _drawn(_Same(calibration), stack, model.id)
    if log is not None:
        log.note_date(calibration.created)
    return Setting(model=model, device=device, precision=precision, parameters=parameters, routing=Traffic())


class _Same:
    """A key that is equal to itself only: a calibration is too large to compare."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.calibration is self.calibration

    def __hash__(self) -> int:
        return id(self.calibration)


@lru_cache(maxsize=512)
def _drawn(same: _Same, stack: Stack, model_id: str) -> Parameters:
    """Kept, because a search asks for the same deployment again and again."""
    return _with_residual(same.calibration, stack, model_id)


def _with_residual(calibration: Calibration, stack: Stack, model_id: str) -> Parameters:
    """Parameters whose draws also carry what the model leaves unexplained of an unseen deployment.

    The residual is common to all steps of one deployment, so it is one factor on every time. Deployments of one model,
    and of one model on one engine, share a part of it, which cancels in their ratio.
    """
    parameters = parameters_for(calibration, stack)
    residual = calibration.residual("output", stack)
    if residual is None:
        return parameters
    keys = (model_id, f"{stack.engine}|{model_id}", f"{stack.chip}|{stack.engine}|{model_id}")
    known = calibration.known_sd("output", stack)
    parts = [known**2 * share for share in RESIDUAL_SHARES]
    parts[1] += residual.group_sd**2 - known**2  # of an engine never measured, common to its chips
    noise = sum(
        math.sqrt(part) * spreads_noise(0, "residual", key, calibration.draws)
        for part, key in zip(parts, keys, strict=True)
    )
    return slowed(parameters, np.exp(noise - residual.bias)[:, None])


def memory_for(setting: Setting, pool: Pool, *, context_tokens: float, mtp: bool = False) -> Memory:
    """Memory of one device of a pool, at the median reserve."""
    table = memory_table(
        setting.model, setting.precision, shard_of(pool, 1), setting.device, context_tokens=np.array([context_tokens]),
        max_batch_tokens=np.array([float(pool.max_batch_tokens)]),
        reserve_share=np.median(setting.parameters.memory_reserve, axis=0), mtp=mtp,
    )  # fmt: skip
    return memory_of(table)


def blockers(
    model: Model, pool: Pool, *, catalog: Catalog, setting: Setting, context_tokens: float
) -> tuple[Blocker, ...]:
    """What stands between a model and a pool: memory, dtype, engine support."""
    found: list[Blocker] = []
    memory = memory_for(setting, pool, context_tokens=context_tokens)
    if not memory.fits:
        over = memory.weights_bytes + memory.activation_bytes + memory.reserve_bytes - memory.capacity_bytes
        text = (
            f"does not fit: weights {_gb(memory.weights_bytes)}, activations {_gb(memory.activation_bytes)} and reserve "
            f"{_gb(memory.reserve_bytes)} exceed {_gb(memory.capacity_bytes)} per device by {_gb(over)}"
        )
        found.append(Blocker(kind="memory", text=text))
    if setting.precision.fallback:
        text = f"{setting.precision.fallback}: other numerics than the checkpoint's, check accuracy before moving"
        found.append(Blocker(kind="fallback", text=text))
    found += _engine_blockers(model, pool, catalog=catalog, device=setting.device)
    return tuple(found)


def _engine_blockers(model: Model, pool: Pool, *, catalog: Catalog, device: Device) -> list[Blocker]:
    chip = catalog.chip(pool.chip)
    name = pool.engine or (chip.engines[0] if chip.engines else "")
    if not name:
        return [Blocker(kind="unproven", text=f"no engine is known to run on {chip.id}")]
    engine = catalog.engine(name)
    answer = engine.supports(chip, model.architecture, version=pool.engine_version)
    if answer.answer == "yes":
        return []
    kind: Literal["engine", "unproven"] = "engine" if answer.answer == "no" else "unproven"
    return [Blocker(kind=kind, text=f"{engine.name}, {answer.about}: {answer.why}", since=answer.since)]


def _gb(value: float) -> str:
    return f"{value / 1e9:.1f} GB"
