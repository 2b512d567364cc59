"""calibrate: the parameter file from published rows, or a user's own rows on top of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp import __version__, catalog
from offramp.app import measured
from offramp.calibrate.crossval import SPLITS, Split, after_own_rows, left_out, own_residuals, residuals_from
from offramp.calibrate.observe import fittable
from offramp.calibrate.posterior import Fitted, offsets, to_calibration
from offramp.calibrate.user import update
from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.core.result import FigureLog, Notice, Result, hash_inputs, table_of
from offramp.cost.calibration import Calibration, load_calibration
from offramp.validate.cases import Case
from offramp.validate.judge import judge
from offramp.validate.predict import predict

DRAWS: Final = 64
RESIDUAL_SPLIT: Final = "new source or chip"
"""Residuals come from the split that is nearest to a user's situation: a deployment nobody published."""
Progress = Callable[[str], None]


def _silent(_text: str) -> None:
    return None


class Fitting(Record):
    """How a parameter file is made.

    Attributes:
        own: the rows are the user's own deployment and refine a parameter file; False fits all from the priors and
            cross-validates.
        seed: of all draws.
        created: date of the file; today where absent.
    """

    own: bool = True
    seed: int = 0
    created: dt.date | None = None


REFINE: Final = Fitting()


def calibrate(
    rows: str | Path, out: str | Path, *, base: str | Path | None = None, chip: str | None = None,
    settings: Sequence[str] = (), fitting: Fitting = REFINE, progress: Progress = _silent,
) -> Result:  # fmt: skip
    """A parameter file.

    Args:
        rows: CSV in the serving schema, or a benchmark file of a known tool.
        out: file to write.
        base: parameter file to start from; None takes the shipped one.
        chip: chip of rows that do not name one.
        settings: ``NAME=VALUE`` texts that say what the file does not ("chips=8", "layout=TP8").
        fitting: whether to refine ``base`` or to fit anew, seed and date.
        progress: told what is being done.
    """
    loaded = measured.load(rows, chip=chip or "", settings=settings, closed=fitting.own)
    seed = fitting.seed
    day = fitting.created or dt.datetime.now(dt.UTC).date()
    if fitting.own:
        start = load_calibration(base)
        cases = [case for case in loaded.cases if case.row.mode != "open"]
        if len(cases) < len(loaded.cases):
            open_ids = [case.row.id for case in loaded.cases if case.row.mode == "open"]
            why = "a rate of arrivals without mean latencies says nothing about speed"
            loaded = msgspec.structs.replace(loaded, unpredicted={**loaded.unpredicted, why: open_ids})
        if not cases:
            reasons = "; ".join(f"{why} ({len(ids)})" for why, ids in list(loaded.unpredicted.items())[:3])
            reasons = reasons or "; ".join(dict.fromkeys(problem.why for problem in loaded.rejected[:3]))
            mend = f"Reasons: {reasons}." if reasons else ""
            silent = any("not stated" in why or "''" in why for why in loaded.unpredicted)
            mend += (
                " Say what the file does not, as in --chip nvidia/h20 --set chips=8 --set layout=TP8 --set model=..."
                if silent
                else ""
            )
            raise InputError("no row can be used", where=str(rows), mend=mend.strip())
        progress(f"refining {start.version} with {len(cases)} rows")
        made = update(start, cases, created=day, seed=seed)
        splits: list[Split] = []
    else:
        made, splits, cases = fit_all(loaded.cases, seed=seed, created=day, progress=progress)
    write_calibration(made, out)
    return _result(loaded, made, splits, cases=cases, out=out)


def fit_all(
    cases: Sequence[Case], *, seed: int, created: dt.date, progress: Progress, splits: Sequence[str] = tuple(SPLITS)
) -> tuple[Calibration, list[Split], list[Case]]:
    """The shipped kind of parameter file: a fit of all rows, residuals from left-out groups."""
    usable = [case for case in cases if fittable(case)]
    if len(usable) < 40:
        raise InputError(
            f"{len(usable)} usable rows are too few for a fit from the priors",
            mend="Refine instead: leave --fit-all out.",
        )
    progress(f"fitting {len(usable)} rows")
    fitted = Fitted(usable)
    posterior = fitted.fit()
    done = [left_out(fitted, name, seed=seed, progress=progress) for name in splits]
    residual_split = next((s for s in done if s.name == RESIDUAL_SPLIT), done[-1])
    own = after_own_rows(fitted, seed=seed, progress=progress)
    residuals = {**residuals_from(residual_split), **own_residuals(own)}
    done.append(own)
    note = f"Fitted to {len(usable)} of {len(cases)} readable rows; residuals from the split by {RESIDUAL_SPLIT}."
    ids = [case.row.id for case in usable]
    bare = to_calibration(
        fitted, posterior, draws=DRAWS, seed=seed, residuals=residuals, row_ids=ids, note=note, created=created
    )
    progress("offsets of measured deployments")
    return msgspec.structs.replace(bare, offsets=offsets(predict(usable, bare), residuals)), done, usable


def fit_without(cases: Sequence[Case], made: Calibration, left: Callable[[Case], bool], *, seed: int) -> Calibration:
    """A fit that has not seen some cases, with the residuals of ``made`` and no offsets: for predictions of those cases."""
    usable = [case for case in cases if fittable(case) and not left(case)]
    fitted = Fitted(usable)
    return to_calibration(
        fitted, fitted.fit(), draws=DRAWS, seed=seed, residuals=made.residuals, row_ids=(), note="fitted without some rows",
        created=made.created,
    )  # fmt: skip


def write_calibration(made: Calibration, out: str | Path) -> None:
    """Writes the parameter file in one piece.

    Raises:
        InputError: the place cannot be written.
    """
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(msgspec.json.encode(made))
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", where=str(out)) from None


def _result(
    loaded: measured.Loaded, made: Calibration, splits: Sequence[Split], *, cases: Sequence[Case], out: str | Path
) -> Result:
    log = FigureLog()
    log.note_date(made.created)
    after = judge(predict(cases, made), ("chip", "metric"))
    answer: dict[str, Any] = {
        "file": str(out),
        "version": made.version,
        "rows_used": len(cases),
        "draws": made.draws,
        "left_out": {
            s.name: [msgspec.to_builtins(g) for g in judge(s.predictions, ("chip", "metric"))] for s in splits
        },
        "after": [msgspec.to_builtins(g) for g in after],
        "unpredicted": [{"reason": why, "rows": len(ids)} for why, ids in loaded.unpredicted.items()],
        "rejected": [{"id": p.id, "why": p.why} for p in loaded.rejected],
    }
    residuals = [{"metric": name, **msgspec.to_builtins(r)} for name, r in sorted(made.residuals.items())]
    columns = ("metric", "group_sd", "row_sd", "bias", "groups", "rows")
    notices = [Notice(kind="rejected", text=p.why, where=p.id) for p in loaded.rejected[:20]]
    notices += [Notice(kind="import", text=text) for text in loaded.notes]
    return Result(
        command="calibrate", answer=answer, tables={"residuals": table_of(residuals, columns=columns)},
        inputs_hash=hash_inputs({"rows": ",".join(case.row.id for case in cases), "version": made.version}),
        data_version=catalog.load().version, knowledge_horizon=log.horizon, warnings=tuple(notices),
        offramp_version=__version__,
    )  # fmt: skip
