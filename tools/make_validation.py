"""Regenerates the parameter file, docs/validation.md and its charts from measured rows.

    python tools/make_validation.py ROWS.csv [--quick]

ROWS.csv is in the serving schema. The shipped rows are src/offramp/data/validation/rows.csv.gz; more rows give a better
fit, see docs/validation.md for where they come from.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import msgspec

from offramp.app import measured
from offramp.app.calibrate import RESIDUAL_SPLIT, fit_all, write_calibration
from offramp.calibrate.crossval import SPLITS, Split
from offramp.cost.calibration import DATA, Calibration
from offramp.report.validation import (
    charts,
    floors_section,
    pairs_section,
    residual_section,
    rows_section,
    split_section,
)  # fmt: skip
from offramp.validate.exchange import find_pairs, predict_pairs
from offramp.validate.predict import Prediction, predict, with_residual

ROOT = Path(__file__).resolve().parents[1]
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
    write_calibration(made, DATA / "current.json")
    page = build_page(loaded, made, done, fitted=len(used))
    (ROOT / "docs" / "validation.md").write_text(page, encoding="utf-8")


def build_page(loaded: measured.Loaded, made: Calibration, done: list[Split], *, fitted: int) -> str:
    """The generated page."""
    widened = {split.name: [with_residual(p, made) for p in split.predictions] for split in done}
    main_split: list[Prediction] = widened[RESIDUAL_SPLIT]
    bare = msgspec.structs.replace(made, offsets={})
    lines = [(ROOT / "docs" / "validation_head.md").read_text("utf-8").strip(), ""]
    lines += [
        f"{loaded.rows:,} rows read, {len(loaded.cases):,} predicted, {fitted:,} fitted, {len(loaded.rejected)} rejected because "
        f"their own numbers disagree. Parameter file {made.version}, {made.draws} joint draws.", "",
        "## Left-out errors", "",
    ]  # fmt: skip
    for name, predictions in widened.items():
        lines += split_section(name, predictions)
    lines += [
        "![Predicted against measured](validation-scatter.svg)",
        "",
        "![Reliability](validation-reliability.svg)",
        "",
    ]
    lines += pairs_section(predict_pairs(find_pairs(loaded.cases), bare))
    floor_cases = [case for case in loaded.cases if case.row.is_floor]
    lines += floors_section(predict(floor_cases, bare))
    lines += rows_section(main_split, DEMO_CHIPS)
    lines += residual_section(made)
    lines += ["## Not predicted", ""]
    for why, ids in sorted(loaded.unpredicted.items(), key=lambda item: -len(item[1]))[:25]:
        lines.append(f"- {len(ids)} rows: {why}")
    _draw(main_split)
    return "\n".join(lines).rstrip() + "\n"


def _draw(predictions: list[Prediction]) -> None:
    import vl_convert

    for name, spec in charts(predictions).items():
        (ROOT / "docs" / f"{name}.svg").write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
