"""Start-up stays light, layers hold, the public list is what it says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import offramp

SRC = Path(offramp.__file__).parent
HEAVY = {"numpy", "numba", "duckdb", "highspy", "rich", "pyarrow", "scipy", "pandas", "jinja2", "ray", "vl_convert"}


def _modules_after(code: str) -> set[str]:
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import offramp",
        "import offramp.cli",
        "import offramp.cli\ntry:\n    offramp.cli.main(['--help'])\nexcept SystemExit:\n    pass",
    ],
)
def test_start_up_loads_no_heavy_module(code: str) -> None:
    loaded = {name.split(".")[0] for name in _modules_after(code)}
    assert "offramp" in loaded
    assert not loaded & HEAVY


def test_every_command_module_is_light() -> None:
    names = [path.stem for path in (SRC / "cli").glob("[a-z]*.py")]
    code = "import importlib\n" + "\n".join(f"importlib.import_module('offramp.cli.{name}')" for name in names)
    loaded = {name.split(".")[0] for name in _modules_after(code)}
    assert not loaded & HEAVY


def test_core_needs_msgspec_and_the_standard_library_only() -> None:
    allowed = set(sys.stdlib_module_names) | {"msgspec", "offramp"}
    for path in sorted((SRC / "core").glob("*.py")):
        tree = ast.parse(path.read_text())
        typing_only = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if id(node) in typing_only:
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                # results turn into Arrow tables and charts only when asked to
                lazy = {"pyarrow", "vl_convert"} if node.col_offset else set[str]()
                assert name.split(".")[0] in allowed | lazy, f"{path.name} imports {name}"


def test_commands_have_few_options() -> None:
    from offramp.cli import root

    context = root.make_context("offramp", [], resilient_parsing=True)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        assert command.help, f"{name} has no help"
        commands = getattr(command, "commands", {"": command})
        for sub in commands.values():
            options = [param for param in sub.params if param.param_type_name == "option"]
            assert len(options) <= 8, f"{name} has {len(options)} options"


PUBLIC = [name for name in offramp.__all__ if not name.startswith("_")]


def test_public_functions_exist_and_stay_callable() -> None:
    """Those that share their name with a layer as well, once the layer is loaded."""
    for _ in range(2):
        assert [name for name in PUBLIC if not callable(getattr(offramp, name))] == []
    assert set(PUBLIC) <= set(dir(offramp))


def test_a_layer_that_is_called_answers_like_the_command() -> None:
    import offramp.supply
    from offramp.core.result import Result

    answers = [offramp.supply(draws=50) for _ in range(2)]
    assert all(isinstance(answer, Result) for answer in answers)
    assert answers[0].answer == answers[1].answer
    assert offramp.supply.__name__ == "offramp.supply"
