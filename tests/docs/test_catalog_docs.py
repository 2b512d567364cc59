"""docs/catalog.md: its commands run, its Python runs, its example chip loads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import offramp
from offramp import catalog
from offramp.cli import root

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "catalog.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^offramp (.+?)(?: +#.*)?$", PAGE, re.MULTILINE)


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found.group(1)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str):
    result = CliRunner().invoke(root, command.split())
    assert result.exit_code == 0, result.output
    assert result.output.strip()


def test_the_page_shows_the_commands():
    assert {command.split()[0] for command in COMMANDS} == {"chips", "engines", "sources"}


def test_the_list_is_shown_as_printed():
    output = CliRunner().invoke(root, ["chips"], env={"COLUMNS": "88"}).output
    for line in (line for line in PAGE.splitlines() if line.startswith(" mlu")):
        assert line in output


def test_python_runs():
    names: dict[str, object] = {}
    exec(compile(block("python"), "docs/catalog.md", "exec"), names)
    assert names["h20"] == catalog.load().chip("nvidia/h20")


def test_the_example_chip_loads(tmp_path: Path):
    data = tmp_path / "data"
    for folder in ("chips", "systems", "engines", "prices"):
        shutil.copytree(Path(offramp.__file__).parent / "data" / folder, data / folder)
    path = data / "chips" / "vendor" / "name.toml"
    path.parent.mkdir()
    path.write_text(block("toml"), encoding="utf-8")
    chip = catalog.load(root=data).chip("vendor/name")
    assert chip.require("peak_bf16").si == 500e12
    assert chip.admissible("tdp")
