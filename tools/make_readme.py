"""Renews what README.md shows of examples/leave-h20: run after facts or fits move.

That is the text block behind "What it says of" and, where a Chromium is installed, the picture of the report.

python tools/make_readme.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDY = "examples/leave-h20/study.toml"
SHOWN = ("h20", "ascend-910b2", "ascend-910c", "mlu590")
BLOCK = re.compile(r"(What it says of `examples/leave-h20/study\.toml`[^\n]*\n\n```\n)(.*?)(```)", re.DOTALL)


def printed(report: Path | None = None) -> str:
    """What the command prints of the study, wide enough that no line is broken; its report goes to a folder."""
    with tempfile.TemporaryDirectory() as runs:
        environment = {**os.environ, "COLUMNS": "400", "NO_COLOR": "1", "OFFRAMP_RUNS": runs}
        command = [sys.executable, "-m", "offramp", "assess", STUDY, *(["--out", str(report)] if report else [])]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def excerpt(text: str) -> str:
    """Headline, what would be cheaper but for the rules, and the first workload's table with its range explained."""
    lines = text.splitlines()
    cheaper = next((line for line in lines if line.startswith("- ") and "would be cheaper" in line), "")
    start = next(i for i, line in enumerate(lines) if re.match(r"\w+: .* requests/s mean", line))
    table = lines[start : start + 2]
    rows = [line for line in lines[start + 2 :] if line.split(" ")[0] in SHOWN]
    why = [line for line in lines[start:] if line.startswith("  mlu590: ")][:2]
    return "\n".join([lines[0], *([cheaper] if cheaper else []), "", *table, *rows[: len(SHOWN)], *why]) + "\n"


def picture(page: Path) -> None:
    """The first screen of the report as docs/report-first-screen.png, where a browser can draw it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("docs/report-first-screen.png is as it was: no Chromium draws it", file=sys.stderr)
        return
    shot = ROOT / "docs" / "report-first-screen.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1240,1160"]
    subprocess.run([*command, f"--screenshot={shot}", page.resolve().as_uri()], capture_output=True, check=True)


def main() -> None:
    """Writes the README and the picture in it."""
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        made = excerpt(printed(Path(folder)))
        picture(Path(folder) / "report.html")
    found, count = BLOCK.subn(lambda match: match.group(1) + made + match.group(3), text)
    if count != 1:
        raise SystemExit("README.md has no block behind 'What it says of'")
    readme.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
