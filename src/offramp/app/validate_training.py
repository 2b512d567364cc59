"""validate, for training files: every run predicted as it was run, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from offramp import __version__, catalog
from offramp.app.train_rows import Loaded, load
from offramp.core.result import Column, FigureLog, Notice, Result, hash_inputs, table_of
from offramp.train.cases import Case
from offramp.train.parameters import Posterior, load_posterior
from offramp.train.predict import deployment, metric_draws, roofline_s, settled, step_draws
from offramp.validate.judge import GroupError, binomial_band, judge, series_coverage
from offramp.validate.predict import Prediction

Progress = Callable[[str], None]
ROW_FIELDS: Final = ("id", "chip", "engine", "model", "grade", "metric", "measured", "p10", "p50", "p90")
GRADES: Final = (
    ("measured-by-third-party", "A"), ("measured-by-vendor (MFU via secondary", "C"), ("measured-by-vendor", "B"),
)  # fmt: skip


def validate_training(
    path: str | Path, *, by: Sequence[str] = ("chip", "engine", "metric"), calibration: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Predictions beside measurements of training runs.

    Args:
        path: CSV of training runs (docs/train.md lists the columns).
        by: what to group errors by.
        calibration: training parameter file; None takes the shipped one.
        progress: told what is being done.

    Raises:
        InputError: unreadable file.
    """
    posterior = load_posterior(str(calibration or ""))
    loaded = load([path])
    if progress is not None:
        progress(f"predicting {len(loaded.cases):,} training runs")
    found = [p for case in loaded.cases for p in predictions(case, posterior)]
    groups = judge(found, by)
    log = FigureLog()
    log.note_date(posterior.created)
    inputs = {"file": Path(path).read_bytes(), "by": ",".join(by), "calibration": posterior.version}
    return Result(
        command="validate", answer=_answer(found, groups, loaded), inputs_hash=hash_inputs(inputs),
        data_version=catalog.load().version, status="partial" if loaded.unpredicted or loaded.rejected else "ok",
        tables={
            "rows": table_of([_row(p) for p in found], columns=ROW_FIELDS, title="Measured and predicted"),
            "groups": _group_table(groups, by),
        },
        knowledge_horizon=log.horizon, warnings=_notices(found, loaded, posterior), offramp_version=__version__,
    )  # fmt: skip


def grade_of(case: Case) -> str:
    """A: clean; B: vendor's own; C: claim, press, or a configuration that is not known."""
    if "outlier" in case.row.note.lower():
        return "C"
    text = case.row.confidence
    return next((grade for start, grade in GRADES if text.startswith(start)), "C")


def predictions(case: Case, posterior: Posterior) -> list[Prediction]:
    """One prediction for every metric that the row publishes."""
    draws = step_draws(case, posterior)
    found: list[Prediction] = []
    for metric, measured in case.row.metrics.items():
        low, mid, high = np.quantile(metric_draws(case, metric, draws), (0.1, 0.5, 0.9))
        roof = float(metric_draws(case, metric, np.array([roofline_s(case)]))[0])
        found.append(
            Prediction(
                id=case.row.id, chip=case.row.chip.id if case.row.chip else "", engine=case.row.published_framework,
                model=case.row.model, grade=grade_of(case), metric=metric, measured=measured, p10=float(low),
                p50=float(mid), p90=float(high), series=case.group, deployment=deployment(settled(case, posterior)),
                roofline=roof,
            )
        )  # fmt: skip
    return found


def _row(prediction: Prediction) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in ROW_FIELDS}


def _answer(found: Sequence[Prediction], groups: Sequence[GroupError], loaded: Loaded) -> dict[str, Any]:
    return {
        "rows": [_row(p) for p in found],
        "groups": [{**g.group, **{k: v for k, v in msgspec.to_builtins(g).items() if k != "group"}} for g in groups],
        "unpredicted": [
            {"reason": why, "rows": len(ids), "ids": ids}
            for why, ids in sorted(loaded.unpredicted.items(), key=lambda item: -len(item[1]))
        ],
        "rejected": [{"id": problem.id, "why": problem.why} for problem in loaded.rejected],
    }


def _group_table(groups: Sequence[GroupError], by: Sequence[str]) -> Any:
    names = [n for n in GroupError.__struct_fields__ if n != "group"]
    rows = [{**g.group, **{name: getattr(g, name) for name in names}} for g in groups]
    return table_of(rows, columns=[*by, *(Column(name=name) for name in names)], title="Errors by group")


def _notices(found: Sequence[Prediction], loaded: Loaded, posterior: Posterior) -> tuple[Notice, ...]:
    notices: list[Notice] = []
    ids = {case.row.id for case in loaded.cases}
    inside = len(ids & set(posterior.fitted))
    if inside:
        text = (
            f"{inside:,} of {len(ids):,} rows were used in the fit: their errors are in-sample; "
            "docs/train-validation.md has the errors of groups that were left out"
        )
        notices.append(Notice(kind="in-sample", text=text))
    coverage, series = series_coverage(found)
    if series:
        low, high = binomial_band(series)
        text = (
            f"80 % intervals hold {coverage:.0%} of rows, averaged over {series} series "
            f"(expected {low:.0%} to {high:.0%})"
        )
        notices.append(Notice(kind="coverage", text=text))
    return tuple(notices)
