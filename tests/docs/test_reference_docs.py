"""The documentation covers the code: commands, options, study keys, errors, links."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import click
import pytest

from offramp.app.schema import schema
from offramp.cli import root
from offramp.core import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^(?:    |\$ )?(?:\.venv/bin/)?offramp ([a-z].*)$", re.MULTILINE)


def _maker(name: str = "make_reference") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sections(text: str) -> dict[str, str]:
    """Text by heading."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("page", "maker"), [("study.md", "study_page"), ("commands.md", "commands_page")])
def test_the_reference_pages_have_every_key_and_option(page: str, maker: str) -> None:
    written = _sections((ROOT / "docs" / page).read_text(encoding="utf-8"))
    made = _sections(getattr(_maker(), maker)())
    assert list(written) == list(made), 'out of date: run "make docs"'
    for heading, text in made.items():
        names = set(re.findall(r"^(?:\| |- )`([^`]+)`", text, re.MULTILINE))
        there = set(re.findall(r"^(?:\| |- )`([^`]+)`", written[heading], re.MULTILINE))
        assert names == there, f'{heading} is out of date: run "make docs"'


def test_every_study_key_says_what_it_is() -> None:
    for name, record in schema("study")["$defs"].items():
        assert record["description"], name
        for key, value in record["properties"].items():
            if "$ref" not in str(value):
                assert len(value.get("description", "")) > 3, f"{name}.{key} has no sentence in its docstring"


def test_every_error_class_is_documented_with_its_exit_code() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    kinds = [errors.OfframpError, *errors.OfframpError.__subclasses__()]
    assert len(kinds) > 5
    for kind in kinds:
        assert f"| {kind.exit_code} | {kind.__name__} |" in page


def test_the_list_of_errors_is_that_of_the_code() -> None:
    """A text that changed yesterday may be missing; a list that nobody renews may not."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").splitlines()
    made = _maker("make_errors").page().splitlines()
    assert [line for line in page if line.startswith("#")][:3] == [line for line in made if line.startswith("#")][:3]
    missing = {line for line in made if line.startswith("- ")} - set(page)
    assert len(missing) < 0.1 * len(made), f'run "make docs": {sorted(missing)[:5]}'


def test_every_command_is_in_the_readme_with_its_page() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| ") and "`" in line]
    for name in root.list_commands(click.Context(root)):
        assert any(f"`offramp {name}`" in row or f"`{name}`" in row for row in rows), f"README has no row for {name}"


def _find(words: list[str]) -> tuple[click.Command, str]:
    """The command that the words name, following groups."""
    command: click.Command = root
    title = "offramp"
    for word in words:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        if found is None:
            assert command is not root, f'"{title} {word}" does not exist'
            break
        command, title = found, f"{title} {word}"
    return command, title


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_shown_exist_with_their_options(page: Path) -> None:
    for line in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        shown = line.split(" # ")[0].split(" -- ")[0].split(" | ")[0].split(" > ")[0].split("&&")[0]
        try:
            words = shlex.split(shown.replace("[", " ").replace("]", " "))
        except ValueError:
            continue  # a command that goes on in the next line
        command, title = _find(words)
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
        for word in words:
            name = word.split("=")[0].rstrip(".,;:)")
            if name.startswith("--") and name != "--":
                assert name in known, f"{page.name}: {title} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "#", "mailto:")):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def test_the_study_in_the_readme_is_sound(tmp_path: Path) -> None:
    from offramp.app.check import check

    found = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert found
    (tmp_path / "study.toml").write_text(found[1], encoding="utf-8")
    problems = check(tmp_path / "study.toml").answer["problems"]
    assert [item for item in problems if item["level"] == "error"] == []
