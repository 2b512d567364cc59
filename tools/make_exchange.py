"""Writes examples/china-2025/exchange.toml: chips per H20 by kind of work, from the cost model (``make exchange``).

Run it again whenever the parameter file, the catalogue or mix.toml changes; the file names what it was made from.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

from offramp import __version__, catalog
from offramp.app.assess import assess
from offramp.cost import load_calibration

FOLDER: Final = Path(__file__).resolve().parents[1] / "examples" / "china-2025"
HEAD: Final = """# Chips of each kind that do the inference work of one H20, by kind of work: what `offramp assess` says of mix.toml,
# once for the date of each study, with the facts known on that date. Written by `make exchange`; do not edit.
# computed: 10 %, 50 % and 90 % of joint draws. bounds: facts of the chip are missing, so the range over what they may be;
# no high means that the chip cannot do the work at the low end of what it may be.
# The parameters of the cost model were fitted to all measurements, also those younger than the date of a study.
"""


def main() -> None:
    """Assesses the mix on the date of every study and writes the file."""
    dates = sorted(_header(path)["as_of"] for path in FOLDER.glob("study-*.toml"))
    mix = FOLDER / "mix.toml"
    wanted: list[str] = tomllib.loads(mix.read_text("utf-8"))["candidates"]["chips"]
    parameters = load_calibration()
    lines = [HEAD, f'tool = "offramp {__version__}"', f'parameters = "{parameters.version}"',
             f"made = {dt.date.today().isoformat()}"]  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        for day in dates:
            lines += _dated(mix, day, wanted, root)
    (FOLDER / "exchange.toml").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"wrote {FOLDER / 'exchange.toml'}", file=sys.stderr)


def _header(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text("utf-8"))["national"]


def _dated(mix: Path, day: dt.date, wanted: list[str], root: str) -> list[str]:
    known = catalog.load(day)
    chips = [chip for chip in wanted if chip in known.chips]
    listed = ", ".join(f'"{chip}"' for chip in chips)
    result = assess(
        mix, overrides=[f"study.as_of={day.isoformat()}", f"candidates.chips=[{listed}]"], root=root,
        progress=lambda text: print(f"{day} {text}", file=sys.stderr),
    )  # fmt: skip
    lines = ["", "[[dated]]", f"as_of = {day.isoformat()}", f'data = "{known.version}"']
    for work in result.answer["workloads"]:
        lines += _rates(work)
    return lines


def _rates(work: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for row in work["chips"]:
        rate = row["exchange_rate"]
        if row["is_baseline"] or rate["low"] is None:
            continue
        mode = "bounds" if row["mode"] == "bounds" else "computed"
        parts = [f'chip = "{row["chip"]}"', f'workload = "{work["id"]}"', f'mode = "{mode}"']
        parts += [f"{name} = {rate[name]:.4g}" for name in ("low", "mid", "high") if rate[name] is not None]
        lines += [f"  [[dated.rate]]  # {row['name']}", *(f"  {part}" for part in parts)]
    return lines


if __name__ == "__main__":
    main()
