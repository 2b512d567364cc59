"""Tutorials are executed: every command in them runs, and what they show of the output is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"```(sh|text)\n(.*?)```", re.DOTALL)


def steps(page: Path) -> list[tuple[list[str], list[str]]]:
    """Command lines of each shell block, with the lines that the text block behind it shows."""
    found: list[tuple[list[str], list[str]]] = []
    for kind, body in BLOCK.findall(page.read_text("utf-8")):
        if kind == "sh":
            found.append((body.strip().replace("\\\n", " ").splitlines(), []))
        else:
            found[-1][1].extend(line for line in body.splitlines() if line.strip())
    return found


def shown(line: str, output: str) -> bool:
    """Whether a line of the output has that form; "…" stands for anything, blanks for any number of blanks."""
    parts = [r"\s+".join(re.escape(word) for word in part.split()) for part in line.split("…")]
    return re.search(r"[^\n]*?\s*".join(parts), output) is not None


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs(page, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = {**os.environ, "COLUMNS": "200", "OFFRAMP_RUNS": str(tmp_path / "runs"), "NO_COLOR": "1"}
    folders = set()
    for commands, expected in steps(page):
        printed = ""
        for command in commands:
            words = shlex.split(command)
            assert words[0] == "offramp"
            done = subprocess.run(
                [sys.executable, "-m", "offramp", *words[1:]], cwd=tmp_path, env=environment, capture_output=True,
                text=True, timeout=600, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
            printed += done.stdout + done.stderr
            if "--out" in words:
                folders.add(words[words.index("--out") + 1])
        missing = [line for line in expected if not shown(line, printed)]
        assert not missing, f"{commands}: not in the output: {missing}\n{printed[:3000]}"
    assert all((tmp_path / name).exists() for name in folders)


def test_there_are_three_and_each_is_in_the_site():
    assert {page.stem for page in TUTORIALS} == {"leave-h20", "second-source", "china-2025"}
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert all(f"tutorials/{page.name}" in nav for page in TUTORIALS)
