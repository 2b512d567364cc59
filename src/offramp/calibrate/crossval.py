"""Left-out predictions: three splits apart, and the residuals that make 80 % intervals hold on groups never seen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.calibrate.posterior import Fitted, to_calibration
from offramp.calibrate.user import update
from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.cost.calibration import Calibration, Residual
from offramp.validate.cases import Case
from offramp.validate.predict import DEFAULT_RESIDUAL, KIND, Prediction, predict
from offramp.validate.rows import source_key

F8 = npt.NDArray[np.float64]

FOLDS: Final = 5
FOLD_DRAWS: Final = 24
FOLD_ITERATIONS: Final = 4
TARGET: Final = 0.80
OWN_ROWS: Final = 10
MIN_GROUPS: Final = 8
"""Deployments that a residual of one kind of evidence needs; below, that of all evidence stands."""


class Split(Record):
    """Left-out predictions of one way to split.

    Attributes:
        name: "same series", "new deployment", "new model", "new source or chip".
        predictions: of rows that their fold's fit did not see; intervals without residuals.
    """

    name: str
    predictions: tuple[Prediction, ...]


def _series_key(case: Case) -> str:
    return case.row.id


def _model_key(case: Case) -> str:
    return case.model.id


def _source_key(case: Case) -> str:
    return f"{source_key(case.row)}|{case.stack.chip}"


def _chip_key(case: Case) -> str:
    return case.stack.chip


def _deployment_key(case: Case) -> str:
    row = case.row
    return "|".join((source_key(row), case.stack.chip, row.engine, case.model.id, row.weights))


SPLITS: Final[dict[str, Callable[[Case], str]]] = {
    "same series": _series_key, "new deployment": _deployment_key, "new model": _model_key,
    "new source or chip": _source_key, "new chip": _chip_key,
}  # fmt: skip
"""Split name -> what is left out together."""


def folds_of(cases: Sequence[Case], key: Callable[[Case], str], *, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each case; cases with one key share a fold, folds are filled evenly. [cases]"""
    sizes: dict[str, int] = {}
    for case in cases:
        sizes[key(case)] = sizes.get(key(case), 0) + 1
    rng = np.random.default_rng(seed)
    order = sorted(sizes, key=lambda name: (-sizes[name], rng.random()))
    load = [0] * FOLDS
    fold_by_key: dict[str, int] = {}
    for name in order:
        fold = int(np.argmin(load))
        fold_by_key[name] = fold
        load[fold] += sizes[name]
    return np.array([fold_by_key[key(case)] for case in cases], dtype=np.int64)


def left_out(fitted: Fitted, name: str, *, seed: int, progress: Callable[[str], None]) -> Split:
    """Predictions of every case by a fit that did not see its group.

    Args:
        fitted: all cases.
        name: one of :data:`SPLITS`.
        seed: of the assignment to folds.
        progress: told what is being done.
    """
    found: list[Prediction] = []
    for calibration, outside in _folds(fitted, name, seed=seed, progress=progress):
        found += predict(outside, calibration)
    return Split(name=name, predictions=tuple(found))


def _folds(
    fitted: Fitted, name: str, *, seed: int, progress: Callable[[str], None]
) -> Iterator[tuple[Calibration, list[Case]]]:
    """A fit without each fold, and the fold's cases."""
    folds = folds_of(fitted.cases, SPLITS[name], seed=seed)
    none = {kind: Residual(group_sd=0.0, row_sd=0.0) for kind in DEFAULT_RESIDUAL}
    for fold in range(FOLDS):
        progress(f"{name}: fold {fold + 1} of {FOLDS}")
        inside = folds != fold
        posterior = fitted.fit(inside[fitted.observed.entry], iterations=FOLD_ITERATIONS + 2)
        calibration = to_calibration(
            fitted, posterior, draws=FOLD_DRAWS, seed=seed, residuals=none, row_ids=(), note="fold",
            created=dt.date(2000, 1, 1), keep_entries=inside,
        )  # fmt: skip
        yield calibration, [case for case, keep in zip(fitted.cases, inside, strict=True) if not keep]


def after_own_rows(fitted: Fitted, *, seed: int, progress: Callable[[str], None], rows: int = OWN_ROWS) -> Split:
    """Predictions of deployments that no fold saw, after some of their own rows: what a user's measurements bring.

    Deployments with at least twice as many rows take part; the rows are drawn at random, the rest is predicted.

    Args:
        fitted: all cases.
        seed: of the folds and of which rows are drawn.
        progress: told what is being done.
        rows: how many rows of its own each deployment gets.
    """
    found: list[Prediction] = []
    rng = np.random.default_rng(derive_seed(seed, "own rows"))
    for calibration, outside in _folds(fitted, "new deployment", seed=seed, progress=progress):
        groups: dict[str, list[Case]] = {}
        for case in outside:
            groups.setdefault(_deployment_key(case), []).append(case)
        for cases in groups.values():
            if len(cases) >= 2 * rows:
                own = set(rng.choice(len(cases), rows, replace=False).tolist())
                mine = update(calibration, [cases[i] for i in own], created=dt.date(2000, 1, 1), seed=seed)
                rest = predict([case for i, case in enumerate(cases) if i not in own], mine)
                found += [msgspec.structs.replace(p, evidence="own") for p in rest]
    return Split(name=f"after {rows} own rows", predictions=tuple(found))


def own_residuals(split: Split) -> dict[str, Residual]:
    """Residuals of deployments that have some rows of their own in the file, keyed "output@own"."""
    found = residuals_from(split)
    return {f"{kind}@own": residual for kind, residual in found.items() if "@" not in kind}


def residuals_from(split: Split) -> dict[str, Residual]:
    """Residuals by metric family that make 80 % intervals of left-out groups hold, macro-averaged over groups.

    The row part is the spread within a deployment, the group part what is left; the group part is then scaled until
    the mean coverage over deployments is the target.
    """
    found: dict[str, Residual] = {}
    by_kind: dict[str, list[Prediction]] = {}
    for prediction in split.predictions:
        if prediction.grade in ("A", "B"):
            kind = KIND.get(prediction.metric, "output")
            by_kind.setdefault(kind, []).append(prediction)
            by_kind.setdefault(f"{kind}@{prediction.evidence}", []).append(prediction)
    for kind, predictions in by_kind.items():
        groups = len({p.deployment for p in predictions})
        if len(predictions) >= 40 and (groups >= MIN_GROUPS or "@" not in kind):
            found[kind] = _residual(predictions)
    return found


def _residual(predictions: Sequence[Prediction]) -> Residual:
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.deployment, []).append(prediction)
    errors = {name: np.array([np.log(p.measured / p.p50) for p in group]) for name, group in groups.items()}
    within = np.concatenate([e - np.median(e) for e in errors.values() if e.size >= 3] or [np.array([0.1])])
    row_sd = float(np.clip(np.quantile(np.abs(within), TARGET) / 1.2816, 0.03, 0.6))
    own = {name: np.array([(np.log(p.p90) - np.log(p.p10)) / 2.5631 for p in group]) for name, group in groups.items()}
    scales = np.linspace(0.02, 1.5, 149)
    coverage = [
        np.mean([np.mean(np.abs(errors[n]) <= 1.2816 * np.sqrt(own[n] ** 2 + row_sd**2 + s**2)) for n in groups])
        for s in scales
    ]
    group_sd = float(scales[int(np.argmin(np.abs(np.array(coverage) - TARGET)))])
    medians = np.array([np.median(e) for e in errors.values()])
    bias = float(np.median(medians)) if medians.size >= 10 else 0.0
    return Residual(
        group_sd=round(group_sd, 4), row_sd=round(row_sd, 4), bias=round(0.5 * bias, 4), groups=len(groups),
        rows=len(predictions),
    )  # fmt: skip
