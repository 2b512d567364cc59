"""Tutorials are executed: every command in them runs, and what they show of the output is there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.cli import root

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
def test_a_tutorial_runs(page, tmp_path, monkeypatch):
    """One process for all commands: that each starts by itself is tested elsewhere, and costs a second each time."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for name, value in (("COLUMNS", "200"), ("OFFRAMP_RUNS", str(tmp_path / "runs")), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    folders = set()
    for commands, expected in steps(page):
        printed = ""
        for command in commands:
            words = shlex.split(command)
            assert words[0] == "offramp"
            done = CliRunner().invoke(root, words[1:])
            assert done.exit_code == 0, f"{command}\n{done.output[-2000:]}\n{done.exception!r}"
            printed += done.output
            if "--out" in words:
                folders.add(words[words.index("--out") + 1])
        missing = [line for line in expected if not shown(line, printed)]
        assert not missing, f"{commands}: not in the output: {missing}\n{printed[:3000]}"
    assert all((tmp_path / name).exists() for name in folders)


def test_there_are_three_and_each_is_in_the_site():
    assert {page.stem for page in TUTORIALS} == {"leave-h20", "second-source", "china-2025"}
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert all(f"tutorials/{page.name}" in nav for page in TUTORIALS)
