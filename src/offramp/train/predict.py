"""A published run predicted as it was run: draws of its step time with what the model leaves unexplained."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from offramp.core.seeds import derive_seed
from offramp.train.assumed import constant
from offramp.train.cases import Case
from offramp.train.features import Features, features
from offramp.train.parameters import Posterior, draw, residual_of
from offramp.train.search import best_of
from offramp.train.step import step_time

F8 = npt.NDArray[np.float64]
DRAWS = 200


def deployment(case: Case) -> str:
    """Framework, release, chip, model and dtype: rows that share it share what the model gets wrong."""
    return f"{case.group}|{case.task.dtype}"


def settled(case: Case, posterior: Posterior) -> Case:
    """The case with one layout: the stated one (its free parts at their best), else the best that fits.

    A stated layout did run, so that what the memory count says of it does not decide; recompute that is not stated is
    what memory asks for.
    """
    if len(case.grid) == 1:
        return case
    free = np.ptp(case.grid.full) > 0 or np.ptp(case.grid.selective) > 0
    if case.stated and not free:
        times = step_time(case_features(case), draw(posterior, case.stack)).total
        return replace(case, grid=case.grid.take(np.array([int(np.argmin(times))])))
    at, _ = best_of(case.work, case.device, case.task, case.grid, draw(posterior, case.stack))
    return replace(case, grid=case.grid.take(np.array([at])))


def case_features(case: Case) -> Features:
    """Features of a case with one layout."""
    return features(case.work, case.device, case.task, case.grid)


def step_draws(case: Case, posterior: Posterior, *, draws: int = DRAWS, seed: int = 0) -> F8:
    """Step times of a row. [draws]

    A deployment that was measured carries its own offset and a row's spread; another carries both spreads. Where a row
    states no dtype, draws of both likely ones are mixed by their weights.
    """
    one = settled(case, posterior)
    found = _drawn(one, posterior, draws, seed)
    if case.other is not None:
        two = settled(case.other, posterior)
        second = _drawn(two, posterior, draws, seed)
        found = np.where(np.arange(draws) % 20 < round(20 * case.weight), found, second)
    left = residual_of(posterior, case.stack)
    offset = posterior.offsets.get(deployment(one))
    rng = np.random.default_rng(derive_seed(seed, "train-row", case.row.id))
    noise = rng.standard_normal((2, draws // 2))
    both = np.concatenate([noise, -noise], axis=1)
    group = 0.0 if offset is not None else left.group_sd
    if "b" in case.unknown:  # without the batch (and mostly a layout) their effect on the time is not known either
        group = math.hypot(group, constant("unknown_layout_sd"))
    spread = group * both[0] + left.row_sd * both[1]
    return found * np.exp(spread - (offset or 0.0))


def _drawn(case: Case, posterior: Posterior, draws: int, seed: int) -> F8:
    """Draws of a step time whose median is that of the most probable parameters. [draws]

    Directions that rows do not pin spread a convex function of them: its median drifts up, which no row supports.
    """
    f = case_features(case)
    found = step_time(f, draw(posterior, case.stack, draws=draws, seed=seed)).total[:, 0]
    center = step_time(f, draw(posterior, case.stack)).total[0]
    return found * (center / np.median(found))


def metric_draws(case: Case, metric: str, seconds: F8) -> F8:
    """Draws of one published metric from draws of the step time."""
    tokens = float(case.task.step_tokens)
    if metric == "step_time_s":
        return seconds
    if metric == "tokens_per_s_per_chip":
        return case.row.kept * tokens / seconds / (case.devices / case.devices_per_chip)
    return 100.0 * case.flop_per_token * tokens / seconds / case.peak / case.devices


def roofline_s(case: Case) -> float:
    """Step time at peak arithmetic, nothing else."""
    return case.flop_per_token * case.task.step_tokens * (0.66 if case.row.lora else 1.0) / case.peak / case.devices
