"""Fits the training model to published rows: maximum a posteriori, Laplace draws, residuals from left-out groups."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.train.assumed import constant
from offramp.train.cases import Case
from offramp.train.features import Features, features, stack
from offramp.train.parameters import (
    GEMM,
    GROUPED,
    THIN,
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
        return case.row.kept * case.task.step_tokens / (found["tokens_per_s_per_chip"] * chips)
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
            of_dtype = (GEMM[case.stack.dtype], GROUPED[case.stack.dtype], "gemm_16")
            used = name in of_dtype or name not in (*GEMM.values(), *GROUPED.values())
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
    dtypes = [case.stack.dtype for case in data.cases]
    for of, by_dtype in (("gemm", GEMM), ("grouped", GROUPED)):
        kinds = np.array([by_dtype[dtype] for dtype in dtypes])
        names = tuple(dict.fromkeys(by_dtype.values()))
        found[of] = np.select([kinds == name for name in names], [found[name] for name in names])
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
    """What a left-out row was predicted to be: a mixture where it states no dtype and two are likely.

    Attributes:
        id, fold, framework: of the row.
        parts: for each likely dtype its weight, log of predicted over measured, and standard deviation of the log over
            the parameter draws alone.
        unknown: further log spread of rows that state no batch.
    """

    id: str
    fold: str
    framework: str
    parts: tuple[tuple[float, float, float], ...]
    unknown: float = 0.0

    def share_above(self, extra: float, shift: float = 0.0) -> float:
        """Chance that the prediction lies above the measurement, with an extra spread."""
        return sum(
            weight * 0.5 * math.erfc(-(error + shift) / math.sqrt(2.0 * (sd**2 + extra**2 + self.unknown**2)))
            for weight, error, sd in self.parts
        )

    def error(self, extra: float) -> float:
        """Log of the predicted median over the measurement."""
        low, high = -5.0, 5.0
        for _ in range(50):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self.share_above(extra, -middle) > 0.5 else (low, middle)
        return (low + high) / 2.0

    def is_inside(self, left: Residual) -> bool:
        """Whether the 80 % interval of an unseen deployment holds the measurement."""
        return 0.1 <= self.share_above(math.hypot(left.group_sd, left.row_sd)) <= 0.9


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
        mine = [_miss(case, name, fitted) for case in members]
        found += mine
        progress(f"{name}: {len(members)} rows, median {np.median([abs(m.error(0.08)) for m in mine]):.3f}")
    return found


def _miss(case: Case, fold: str, fitted: Posterior) -> Miss:
    kinds = [(case, 1.0)] if case.other is None else [(case, case.weight), (case.other, 1.0 - case.weight)]
    parts: list[tuple[float, float, float]] = []
    for kind, weight in kinds:
        one = settled(kind, fitted)
        f = features(one.work, one.device, one.task, one.grid)
        center = math.log(float(step_time(f, draw(fitted, one.stack)).total[0]))
        spread = float(np.std(np.log(step_time(f, draw(fitted, one.stack, draws=DRAWS)).total[:, 0])))
        parts.append((weight, center - math.log(measured_step_s(kind)), spread))
    return Miss(
        case.row.id,
        fold,
        case.stack.framework,
        tuple(parts),
        constant("unknown_layout_sd") if "b" in case.unknown else 0.0,
    )


def row_spread(misses: Sequence[Miss]) -> float:
    """Log spread of a row within its fold, robustly."""
    error = np.array([m.error(0.08) for m in misses])
    folds = np.array([m.fold for m in misses])
    within = np.concatenate([error[folds == f] - np.median(error[folds == f]) for f in dict.fromkeys(folds.tolist())])
    return float(np.clip(1.4826 * np.median(np.abs(within)), 0.02, 0.08))


def residuals(misses: Sequence[Miss], *, level: float = 0.8) -> Residual:
    """Row spread from within folds, and the group spread with which ``level`` of the left-out rows lie inside.

    Every fold counts the same, however many rows it has. The 80 % interval of a left-out row must hold it in 80 of 100
    cases: with the spread of the draws and of rows given, that fixes the group spread.
    """
    row = row_spread(misses)
    size = Counter(m.fold for m in misses)
    weight = np.array([1.0 / math.sqrt(size[m.fold]) for m in misses])
    low, high = 0.0, 1.5
    for _ in range(30):
        middle = (low + high) / 2.0
        left = Residual(group_sd=middle, row_sd=row)
        held = float(np.average([m.is_inside(left) for m in misses], weights=weight))
        low, high = (low, middle) if held >= level else (middle, high)
    group = max(high, LEAST_GROUP_SD)
    return Residual(group_sd=round(group, 4), row_sd=round(row, 4), groups=len(size), rows=len(misses))


LEAST_GROUP_SD: Final = 0.047
"""Log spread between deployments of one system and software at least: repeats of one MLPerf cell by several submitters
differ by 4.5 % in the median, which two draws of this spread do."""
LEAST_THIN_SD: Final = 0.10
"""The same on a thinly measured stack. Assumed: rows there state hardly a layout, so that what the layout and what the
stack leave unexplained cannot be told apart; half of the spread of unknown layouts (0.20) is the stack's."""
POOLED_FOLDS: Final = 4.0
"""Folds of a framework at which its own residual counts as much as that of all. Assumed."""


def residual_table(misses: Sequence[Miss]) -> dict[str, Residual]:
    """Residuals from left-out rows: of well measured stacks, of thinly measured ones, and of each framework.

    A framework with few folds is drawn towards the one of its kind: its variance is a mean weighed by folds.
    """
    thin = [m for m in misses if m.framework in THIN]
    known = [m for m in misses if m.framework not in THIN]
    found = {"known": residuals(known), "new": residuals(thin) if thin else EMPTY_RESIDUAL["new"]}
    least = max(found["known"].group_sd, LEAST_THIN_SD)  # little was published, which is no reason to be surer
    found["new"] = msgspec.structs.replace(found["new"], group_sd=max(found["new"].group_sd, least))
    for name in dict.fromkeys(m.framework for m in known):
        own = residuals([m for m in known if m.framework == name])
        share = own.groups / (own.groups + POOLED_FOLDS)
        sd = math.sqrt(share * own.group_sd**2 + (1.0 - share) * found["known"].group_sd ** 2)
        found[name] = Residual(group_sd=round(sd, 4), row_sd=found["known"].row_sd, groups=own.groups, rows=own.rows)
    return found


def residual_for(framework: str, table: dict[str, Residual]) -> Residual:
    """The residual of an unseen deployment of a framework."""
    return table.get(framework) or table["new" if framework in THIN else "known"]


def judged(misses: Sequence[Miss]) -> dict[str, bool]:
    """Whether the interval of an unseen deployment holds each left-out row, by id.

    The residual that judges a fold is set by the other folds alone, so that the share held is no fit to itself.
    """
    found: dict[str, bool] = {}
    for fold in dict.fromkeys(m.fold for m in misses):
        table = residual_table([m for m in misses if m.fold != fold])
        found |= {m.id: m.is_inside(residual_for(m.framework, table)) for m in misses if m.fold == fold}
    return found


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
    left = residual_table(misses)
    offsets = offsets_of(cases, posterior, left["known"])
    return msgspec.structs.replace(posterior, residual=left, offsets=offsets)
