"""Regenerates the parameter file, docs/validation.md and its charts from measured rows.

    python tools/make_validation.py ROWS.csv [--quick]

ROWS.csv is in the serving schema. The shipped rows (src/offramp/data/validation/rows.csv.gz) give
data/calibration/shipped-rows.json and docs/validation-shipped.md; any other file gives the default parameter file and
docs/validation.md, which tells where its rows come from.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import msgspec

from offramp.app import measured
from offramp.app.calibrate import RESIDUAL_SPLIT, fit_all, fit_without, write_calibration
from offramp.calibrate.crossval import SPLITS, Split, left_out
from offramp.calibrate.observe import fittable
from offramp.calibrate.operators import load_anchors
from offramp.calibrate.posterior import Fitted
from offramp.cost.calibration import DATA, Calibration
from offramp.report.validation import (
    charts,
    floors_section,
    operators_section,
    pairs_section,
    played_section,
    residual_section,
    rows_section,
    split_section,
    targets_section,
)  # fmt: skip
from offramp.validate.exchange import find_pairs, predict_pairs
from offramp.validate.predict import Prediction, predict, with_residual
from offramp.validate.rows import source_key

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = DATA.parent / "validation" / "rows.csv.gz"
SHIPPED_HEAD = """
# Validation on the shipped rows alone

The default parameters rest on all rows that were found ([validation](validation.md)); some of them may not be passed on.
This page is what the rows that ship give by themselves: `make validate` repeats it without any other file, and writes
`src/offramp/data/calibration/shipped-rows.json`, which `--calibration` takes in place of the default.
"""
QUIET = 16.0
"""Concurrency up to which TTFT is a property of the deployment."""
DEMO_CHIPS = ("nvidia/h20", "nvidia/h200", "amd/mi300x", "huawei/ascend-910b2", "huawei/ascend-910c")


def main(argv: list[str]) -> None:
    """Fits, cross-validates, writes."""
    rows = Path(argv[0])
    splits = [RESIDUAL_SPLIT] if "--quick" in argv else list(SPLITS)
    loaded = measured.load(rows)
    print(f"{loaded.rows} rows, {len(loaded.cases)} predictable", flush=True)
    made, done, used = fit_all(
        loaded.cases,
        seed=0,
        created=dt.date(2026, 11, 23),
        progress=lambda text: print(text, flush=True),
        splits=splits,
    )
    alone = rows.resolve() == SHIPPED
    write_calibration(made, DATA / ("shipped-rows.json" if alone else "current.json"))
    again: list[Split] = []
    if "--quick" not in argv:
        fitted = Fitted([case for case in loaded.cases if fittable(case)])
        again = [left_out(fitted, "new deployment", seed=seed, progress=lambda _: None) for seed in (1, 2)]
    if alone:
        page = shipped_page(loaded, made, done, again, fitted=len(used))
        (ROOT / "docs" / "validation-shipped.md").write_text(page, encoding="utf-8")
        return
    page = build_page(loaded, made, done, again, fitted=len(used))
    (ROOT / "docs" / "validation.md").write_text(page, encoding="utf-8")


def shipped_page(
    loaded: measured.Loaded, made: Calibration, done: list[Split], again: list[Split], *, fitted: int
) -> str:
    """The fit to what ships, beside the default one."""
    lines = [SHIPPED_HEAD.strip(), "", _counted(loaded, made, fitted), "", "## Left-out errors", ""]
    widened = {split.name: _widened(loaded, made, split) for split in done}
    lines += targets_section(widened, _quiet(loaded), [_widened(loaded, made, split) for split in again])
    for name, predictions in widened.items():
        lines += split_section(name, predictions)
    lines += residual_section(made)
    return "\n".join(lines).rstrip() + "\n"


def build_page(
    loaded: measured.Loaded, made: Calibration, done: list[Split], again: list[Split], *, fitted: int
) -> str:
    """The generated page; ``again`` are splits by deployment with other seeds."""
    widened = {split.name: _widened(loaded, made, split) for split in done}
    main_split: list[Prediction] = widened[RESIDUAL_SPLIT]
    bare = msgspec.structs.replace(made, offsets={})
    lines = [(ROOT / "docs" / "validation_head.md").read_text("utf-8").strip(), ""]
    lines += [_counted(loaded, made, fitted), "", "## Left-out errors", ""]
    lines += targets_section(widened, _quiet(loaded), [_widened(loaded, made, split) for split in again])
    for name, predictions in widened.items():
        lines += split_section(name, predictions)
    lines += [
        "![Predicted against measured](validation-scatter.svg)",
        "",
        "![Reliability](validation-reliability.svg)",
        "",
    ]
    lines += pairs_section(predict_pairs(find_pairs(loaded.cases), bare))
    lines += blind_pairs(loaded, made)
    ran = [case for case in loaded.cases if len(case.variants) == 1 and not case.row.is_floor]
    lines += played_section(predict(ran, bare), predict(ran, bare, simulate=True))
    floor_cases = [case for case in loaded.cases if case.row.is_floor]
    lines += floors_section(predict(floor_cases, bare))
    lines += operators_section(load_anchors())
    lines += rows_section(main_split, DEMO_CHIPS)
    lines += residual_section(made)
    lines += ["## Not predicted", ""]
    for why, ids in sorted(loaded.unpredicted.items(), key=lambda item: -len(item[1]))[:25]:
        lines.append(f"- {len(ids)} rows: {why}")
    _draw(main_split)
    return "\n".join(lines).rstrip() + "\n"


def _widened(loaded: measured.Loaded, made: Calibration, split: Split) -> list[Prediction]:
    """A split's predictions with residuals; without TTFT of prefill-only rows, where no server stands before them."""
    served = {case.row.id for case in loaded.cases if case.row.mode != "prefill"}
    return [with_residual(p, made) for p in split.predictions if p.id in served or "ttft" not in p.metric]


def _quiet(loaded: measured.Loaded) -> frozenset[str]:
    return frozenset(case.row.id for case in loaded.cases if 0 < case.row.concurrency <= QUIET)


def _counted(loaded: measured.Loaded, made: Calibration, fitted: int) -> str:
    return (
        f"{loaded.rows:,} rows read, {len(loaded.cases):,} predicted, {fitted:,} fitted, {len(loaded.rejected)} rejected because "
        f"their own numbers disagree. Parameter file {made.version}, {made.draws} joint draws."
    )


def blind_pairs(loaded: measured.Loaded, made: Calibration) -> list[str]:
    """H20 against 910B2 on one engine, by a fit that has not seen that source."""
    theirs = [case for case in loaded.cases if source_key(case.row) == "chitu"]
    if not theirs:
        return []
    blind = fit_without(loaded.cases, made, lambda case: source_key(case.row) == "chitu", seed=0)
    pairs = predict_pairs(find_pairs(theirs), blind)
    return ["### The same without that source's rows", "", *pairs_section(pairs)[2:]]


def _draw(predictions: list[Prediction]) -> None:
    import vl_convert

    for name, spec in charts(predictions).items():
        (ROOT / "docs" / f"{name}.svg").write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
