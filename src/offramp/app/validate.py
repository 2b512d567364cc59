"""validate: every row of a file of measurements, predicted as it was measured, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp import __version__, catalog
from offramp.app import measured
from offramp.app.train_rows import is_training_file
from offramp.app.validate_training import validate_training
from offramp.core.errors import InputError, near_miss_hint
from offramp.core.result import Column, FigureLog, Notice, Result, hash_inputs, table_of
from offramp.cost.calibration import load_calibration
from offramp.validate.judge import BY, GroupError, binomial_band, judge, series_coverage
from offramp.validate.predict import Prediction, predict

CHUNK: Final = 4000
"""Cases priced at a time."""
Progress = Callable[[str], None]


def _silent(_text: str) -> None:
    return None


def validate(
    path: str | Path, *, by: Sequence[str] = ("chip", "engine", "metric"), calibration: str | Path | None = None,
    chip: str = "", settings: Sequence[str] = (), progress: Progress = _silent, simulate: bool = False,
) -> Result:  # fmt: skip
    """Predictions beside measurements.

    Args:
        path: CSV in the serving schema, or in one of the training schemas (told by its columns).
        by: columns to group the errors by.
        calibration: parameter file; None takes the shipped one.
        chip: of rows that name none.
        settings: ``NAME=VALUE`` texts that say what the file does not ("chips=8", "layout=TP8").
        progress: told what is being done.
        simulate: play every run of the harness in the simulator too; slower.

    Raises:
        InputError: unreadable file, unknown grouping column.
    """
    for name in by:
        if name not in BY:
            raise InputError(
                f'cannot group by "{name}"', where="--by", mend=near_miss_hint(name, BY) or f"Known: {', '.join(BY)}."
            )
    if is_training_file(path):
        return validate_training(path, by=by, calibration=calibration, progress=progress)
    parameters = load_calibration(calibration)
    loaded = measured.load(path, chip=chip, settings=settings)
    found: list[Prediction] = []
    for start in range(0, len(loaded.cases), CHUNK):
        if len(loaded.cases) > CHUNK:
            progress(
                f"predicting rows {start + 1:,} to {min(start + CHUNK, len(loaded.cases)):,} of {len(loaded.cases):,}"
            )
        found += predict(loaded.cases[start : start + CHUNK], parameters, simulate=simulate, progress=progress)
    groups = judge(found, by)
    log = FigureLog()
    log.note_date(parameters.created)
    inputs = {"file": Path(path).read_bytes(), "by": ",".join(by), "calibration": parameters.version}
    inputs |= {"simulate": "yes"} if simulate else {}
    inputs |= {"said": "\n".join((chip, *settings))} if chip or settings else {}
    return Result(
        command="validate", answer=_answer(found, groups, loaded), inputs_hash=hash_inputs(inputs),
        data_version=catalog.load().version, status="partial" if loaded.unpredicted or loaded.rejected else "ok",
        tables={"rows": _row_table(found), "groups": _group_table(groups, by)}, figures=log.figures,
        knowledge_horizon=log.horizon, warnings=_notices(found, loaded), offramp_version=__version__,
    )  # fmt: skip


_ROW_FIELDS: Final = ("id", "chip", "engine", "model", "grade", "metric", "measured", "p10", "p50", "p90")


def _answer(found: Sequence[Prediction], groups: Sequence[GroupError], loaded: measured.Loaded) -> dict[str, Any]:
    return {
        "rows": [{name: getattr(p, name) for name in _ROW_FIELDS} for p in found],
        "groups": [{**g.group, **{k: v for k, v in msgspec.to_builtins(g).items() if k != "group"}} for g in groups],
        "unpredicted": [
            {"reason": why, "rows": len(ids), "ids": ids}
            for why, ids in sorted(loaded.unpredicted.items(), key=lambda item: -len(item[1]))
        ],
        "rejected": [{"id": problem.id, "why": problem.why} for problem in loaded.rejected],
    }


def _row_table(found: Sequence[Prediction]) -> Any:
    rows = [{name: getattr(p, name) for name in _ROW_FIELDS} for p in found]
    return table_of(rows, columns=_ROW_FIELDS, title="Measured and predicted")


def _group_table(groups: Sequence[GroupError], by: Sequence[str]) -> Any:
    names = [n for n in GroupError.__struct_fields__ if n != "group"]
    rows = [{**g.group, **{name: getattr(g, name) for name in names}} for g in groups]
    return table_of(rows, columns=[*by, *(Column(name=name) for name in names)], title="Errors by group")


def _notices(found: Sequence[Prediction], loaded: measured.Loaded) -> tuple[Notice, ...]:
    notices: list[Notice] = [Notice(kind="import", text=text) for text in loaded.notes]
    if loaded.missing_version:
        text = f"{loaded.missing_version:,} rows state no engine version: only their date tells the software's age"
        notices.append(Notice(kind="no-version", text=text))
    if loaded.suspect_chips:
        shown = ", ".join(loaded.suspect_chips[:3])
        text = f"{len(loaded.suspect_chips)} rows count tp x ep as chips (EP shares the devices of TP): {shown} ..."
        notices.append(Notice(kind="suspect-chips", text=text))
    coverage, series = series_coverage(found)
    if series:
        low, high = binomial_band(series)
        text = f"80 % intervals hold {coverage:.0%} of rows, averaged over {series} series (expected {low:.0%} to {high:.0%})"
        notices.append(Notice(kind="coverage", text=text))
    return tuple(notices)
