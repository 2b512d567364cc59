"""Fits the training model to published rows: maximum a posteriori, Laplace draws, residuals from left-out groups."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.train.cases import Case
from offramp.train.features import Features, features, stack
from offramp.train.parameters import (
    GEMM,
    THIN,
    Z90,
    Posterior,
    Residual,
    age,
    beliefs,
    cap,
    draw,
    levels_of,
    pack,
)
from offramp.train.predict import deployment, settled
from offramp.train.step import step_time

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.intp]
Progress = Callable[[str], object]

STUDENT: Final = 4.0
"""Degrees of freedom of the row error: a row far off counts for less."""
ROW_SD: Final = {"megatron-2022": 0.015, "mindspeed": 0.15, "flagperf": 0.20, "other": 0.30, "hai-llm": 0.05}
PUBLISHED_MFU_SD: Final = 0.20
STATED_SD: Final = 0.04
UNSTATED_SD: Final = 0.07
DRAWS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Data:
    """Rows as arrays.

    Attributes:
        cases: in order.
        features: of the layout taken for each.
        measured: log of the measured step time. [rows]
        sd: of a row's error. [rows]
        index: by parameter: positions in the vector of effects, by level. [levels, rows]
        names, scale: of each effect: "parameter|effect", prior standard deviation.
        center: prior mean (log median of populations, else 0).
    """

    cases: tuple[Case, ...]
    features: Features
    measured: F8
    sd: F8
    index: dict[str, I8]
    names: tuple[str, ...]
    scale: F8
    center: F8


def measured_step_s(case: Case) -> float:
    """Step time that a row's own metric means: itself, or tokens per second or MFU turned into it."""
    found = case.row.metrics
    if "step_time_s" in found:
        return found["step_time_s"]
    if "tokens_per_s_per_chip" in found:
        chips = case.devices / case.devices_per_chip
        return case.task.step_tokens / (found["tokens_per_s_per_chip"] * chips)
    return case.flop_per_token * case.task.step_tokens / (found["mfu_pct"] / 100.0 * case.peak * case.devices)


def _row_sd(case: Case) -> float:
    own = ROW_SD.get(case.row.framework.id)
    if own is not None and "mfu_pct" in case.row.metrics and case.row.framework.id == "mindspeed":
        own = PUBLISHED_MFU_SD  # its layout and batch are not stated, and move the step time by about that
    return own if own is not None else STATED_SD if case.stated else UNSTATED_SD


def choose_layouts(cases: Sequence[Case], posterior: Posterior, *, measured: bool = False) -> list[Case]:
    """Cases with one layout each: the stated one, else the best that fits by the parameters so far.

    Args:
        cases: as read.
        posterior: parameters so far.
        measured: where a row does not state its dtype, take the one that explains its measurement (only in fitting);
            otherwise the likelier.
    """
    found: list[Case] = []
    for case in cases:
        one = settled(case, posterior)
        if measured and case.other is not None:
            two = settled(case.other, posterior)
            target = math.log(measured_step_s(case))
            one = min(one, two, key=lambda c: abs(_center(c, posterior) - target))
        found.append(one)
    return found


def _center(case: Case, posterior: Posterior) -> float:
    f = features(case.work, case.device, case.task, case.grid)
    return float(np.log(step_time(f, draw(posterior, case.stack)).total[0]))


def releases_of(cases: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    """Releases of each framework, oldest first."""
    found: dict[str, set[str]] = {}
    for case in cases:
        if case.stack.release:
            found.setdefault(case.stack.framework, set()).add(case.stack.release)
    return {name: tuple(sorted(known, key=age)) for name, known in sorted(found.items())}


def prepare(cases: Sequence[Case]) -> Data:
    """Arrays of cases with one layout each."""
    parts = [features(case.work, case.device, case.task, case.grid) for case in cases]
    releases = releases_of(cases)
    order: dict[str, int] = {}
    index: dict[str, I8] = {}
    for name in beliefs():
        lists: list[list[int]] = []
        for case in cases:
            used = name not in GEMM.values() or GEMM[case.stack.dtype] == name or name == "gemm_16"
            keys = [key for level in levels_of(name) for key in case.stack.keys(level, releases)] if used else []
            lists.append([order.setdefault(f"{name}|{key}", len(order)) for key in keys])
        table = np.full((max(map(len, lists)), len(cases)), -1, dtype=np.intp)
        for at, entries in enumerate(lists):
            table[: len(entries), at] = entries
        index[name] = table
    scale, center = np.zeros(len(order)), np.zeros(len(order))
    for label, at in order.items():
        name, key = label.split("|", 1)
        belief = beliefs()[name]
        population = key == "population"
        scale[at] = belief.log_sd if population else belief.spreads[key.split(":", 1)[0]]
        center[at] = math.log(belief.median) if population else 0.0
    return Data(
        cases=tuple(cases), features=stack(parts), measured=np.log([measured_step_s(case) for case in cases]),
        sd=np.array([_row_sd(case) for case in cases]), index=index, names=tuple(order), scale=scale, center=center,
    )  # fmt: skip


def _logs(theta: F8, data: Data) -> dict[str, F8]:
    padded = np.append(theta, 0.0)
    return {name: padded[table].sum(axis=0) for name, table in data.index.items()}


def _predict(logs: dict[str, F8], data: Data) -> F8:
    found = {name: cap(name, np.exp(values)) for name, values in logs.items()}
    kinds = np.array([GEMM[case.stack.dtype] for case in data.cases])
    names = ("gemm_16", "gemm_8", "gemm_4")
    found["gemm"] = np.select([kinds == name for name in names], [found[name] for name in names])
    return np.log(step_time(data.features, found).total)


def log_step(theta: F8, data: Data) -> F8:
    """Log of the predicted step times. [rows]"""
    return _predict(_logs(theta, data), data)


def _jacobian(theta: F8, data: Data, base: F8) -> F8:
    """Derivatives by effect: by the parameter first, then spread over the effects that add up to it."""
    step = 1e-4
    logs = _logs(theta, data)
    found = np.zeros((len(base), len(theta)))
    rows = np.arange(len(base))
    for name, table in data.index.items():
        slope = (_predict({**logs, name: logs[name] + step}, data) - base) / step
        for level in table:
            used = level >= 0
            np.add.at(found, (rows[used], level[used]), slope[used])
    return found


def solve(data: Data, *, start: F8 | None = None, rounds: int = 25) -> tuple[F8, F8]:
    """Most probable effects, and the inverse Hessian there.

    Gauss-Newton with damping; row errors are Student's t by reweighting.
    """
    theta = data.center.copy() if start is None else start.copy()
    base = log_step(theta, data)
    precision = 1.0 / data.scale**2

    def loss(t: F8, predicted: F8) -> float:
        error = (predicted - data.measured) / data.sd
        rows = 0.5 * (STUDENT + 1.0) * np.log1p(error**2 / STUDENT)
        return float(rows.sum() + 0.5 * ((t - data.center) ** 2 * precision).sum())

    damping, best = 1e-3, loss(theta, base)
    hessian = np.diag(precision)
    for _ in range(rounds):
        jacobian = _jacobian(theta, data, base)
        error = base - data.measured
        weight = (STUDENT + 1.0) / (STUDENT + (error / data.sd) ** 2) / data.sd**2
        hessian = jacobian.T @ (jacobian * weight[:, None]) + np.diag(precision)
        slope = jacobian.T @ (weight * error) + precision * (theta - data.center)
        before = best
        for _try in range(8):
            move = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), slope)
            trial = theta - move
            predicted = log_step(trial, data)
            value = loss(trial, predicted)
            if np.isfinite(value) and value < best:
                theta, base, best, damping = trial, predicted, value, damping / 4.0
                break
            damping *= 6.0
        if before - best < 1e-3:
            break
    return theta, np.asarray(np.linalg.inv(hessian), dtype=np.float64)


def _posterior(data: Data, theta: F8, covariance: F8, *, created: dt.date, residual: dict[str, Residual]) -> Posterior:
    rng = np.random.default_rng(20261123)
    factor = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(theta)))
    half = rng.standard_normal((DRAWS // 2, len(theta)))
    noise = np.concatenate([half, -half]) @ factor.T
    return Posterior(
        version=f"fit-{created.isoformat()}", created=created, names=data.names,
        mean=tuple(round(float(v), 6) for v in theta), draws=pack(noise), residual=residual,
        fitted=tuple(case.row.id for case in data.cases), releases=releases_of(data.cases),
    )  # fmt: skip


EMPTY_RESIDUAL: Final = {"known": Residual(group_sd=0.08, row_sd=0.05), "new": Residual(group_sd=0.25, row_sd=0.10)}


def prior_posterior(created: dt.date) -> Posterior:
    """A parameter file that knows only the prior."""
    return Posterior(version="prior", created=created, names=(), mean=(), draws="", residual=EMPTY_RESIDUAL)


def fit_once(cases: Sequence[Case], created: dt.date, start: Posterior | None = None) -> Posterior:
    """A parameter file from cases; layouts that a row does not state are chosen, fitted, and chosen again.

    Args:
        cases: to fit; with ``start`` they have one layout each.
        created: day of the fit.
        start: parameters to start from, for folds.
    """
    posterior = start or prior_posterior(created)
    for _ in range(1 if start else 3):
        data = prepare(list(cases) if start else choose_layouts(cases, posterior, measured=True))
        known = dict(zip(posterior.names, posterior.mean, strict=True))
        first = np.array([known.get(name, data.center[at]) for at, name in enumerate(data.names)])
        theta, covariance = solve(data, start=first, rounds=8 if start else 20)
        posterior = _posterior(data, theta, covariance, created=created, residual=EMPTY_RESIDUAL)
    return posterior


def predict_center(cases: Sequence[Case], posterior: Posterior) -> F8:
    """Log step times at the centre of a parameter file, unstated layouts taken at their best."""
    found = np.empty(len(cases))
    for at, case in enumerate(choose_layouts(cases, posterior)):
        found[at] = _center(case, posterior)
    return found


def fold_of(case: Case) -> str:
    """What is left out together: a release of a framework, or a framework on a chip with a model where it has none."""
    row = case.row
    if row.framework.id == "megatron-bridge":
        return f"megatron-bridge {row.release}"
    if row.framework.id in ("mindspeed", "flagperf"):  # rows without a layout: a whole line of models
        return f"{row.framework.id} {case.device.chip.split('/')[-1]} {re.split(r'[0-9 .-]', row.model)[0]}"
    parts = [row.framework.id, row.release, case.device.chip.split("/")[-1], row.model]
    return " ".join(part for part in parts if part)


class Miss(NamedTuple):
    """What a left-out row was predicted to be.

    Attributes:
        id, fold: of the row.
        error: log of predicted over measured.
        spread: standard deviation of the log over the parameter draws alone.
    """

    id: str
    fold: str
    error: float
    spread: float


def usable(case: Case) -> bool:
    """Whether a row is fitted: not a bound, not a run that its own source calls an unexplained outlier."""
    return "outlier" not in case.row.note.lower()


def left_out(cases: Sequence[Case], posterior: Posterior, progress: Progress = str) -> list[Miss]:
    """Every row, predicted by a fit that never saw its fold."""
    folds: dict[str, list[Case]] = {}
    for case in cases:
        folds.setdefault(fold_of(case), []).append(case)
    found: list[Miss] = []
    chosen = choose_layouts(cases, posterior, measured=True)
    for name, members in folds.items():
        inside = {case.row.id for case in members}
        fitted = fit_once([case for case in chosen if case.row.id not in inside], posterior.created, posterior)
        for case in members:
            one = settled(case, fitted)
            f = features(one.work, one.device, one.task, one.grid)
            center = math.log(float(step_time(f, draw(fitted, one.stack)).total[0]))
            spread = float(np.std(np.log(step_time(f, draw(fitted, one.stack, draws=DRAWS)).total[:, 0])))
            found.append(Miss(case.row.id, name, center - math.log(measured_step_s(case)), spread))
        progress(f"{name}: {len(members)} rows, median {np.median([abs(m.error) for m in found[-len(members) :]]):.3f}")
    return found


def residuals(misses: Sequence[Miss], *, level: float = 0.8) -> Residual:
    """Row spread from within folds, and the group spread with which ``level`` of the left-out rows lie inside.

    The 80 % interval of a left-out row must hold it in 80 of 100 cases: with the spread of the draws and of rows given,
    that fixes the group spread.
    """
    error = np.array([m.error for m in misses])
    spread = np.array([m.spread for m in misses])
    folds = np.array([m.fold for m in misses])
    within = np.concatenate([error[folds == f] - np.median(error[folds == f]) for f in dict.fromkeys(folds.tolist())])
    row = float(np.clip(1.4826 * np.median(np.abs(within)), 0.02, 0.08))
    low, high = 0.0, 1.5
    for _ in range(40):
        middle = (low + high) / 2.0
        held = np.mean(np.abs(error) <= Z90 * np.sqrt(spread**2 + row**2 + middle**2))
        low, high = (low, middle) if held >= level else (middle, high)
    return Residual(
        group_sd=round(high, 4), row_sd=round(row, 4), groups=len(set(folds.tolist())), rows=len(misses)
    )  # fmt: skip


def offsets_of(cases: Sequence[Case], posterior: Posterior, left: Residual) -> dict[str, float]:
    """Log factor of each measured deployment (predicted over measured), shrunken towards none."""
    errors: dict[str, list[float]] = {}
    for case, error in zip(cases, predict_center(cases, posterior), strict=True):
        if case.stack.framework in THIN:
            continue
        name = deployment(settled(case, posterior))
        errors.setdefault(name, []).append(float(error) - math.log(measured_step_s(case)))
    found: dict[str, float] = {}
    for name, values in errors.items():
        keep = len(values) / (len(values) + (left.row_sd / max(left.group_sd, 1e-6)) ** 2)
        found[name] = round(keep * float(np.median(values)), 5)
    return found


def complete(cases: Sequence[Case], posterior: Posterior, misses: Sequence[Miss]) -> Posterior:
    """The parameter file with residuals from left-out folds and offsets of measured deployments."""
    thin = [m for m in misses if m.fold.startswith(tuple(THIN))]
    known = [m for m in misses if not m.fold.startswith(tuple(THIN))]
    left = {"known": residuals(known), "new": residuals(thin) if thin else EMPTY_RESIDUAL["new"]}
    offsets = offsets_of(cases, posterior, left["known"])
    return msgspec.structs.replace(posterior, residual=left, offsets=offsets)
