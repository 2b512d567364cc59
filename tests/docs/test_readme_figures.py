"""What the README shows of the example is what the command says, within what calibrations move (tools/make_readme.py)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAME = 2.0
"""A figure that is off by more than this factor is out of date."""
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?k?(?![\w-])")


def maker():
    spec = importlib.util.spec_from_file_location("make_readme", ROOT / "tools" / "make_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(text):
    """First numbers of each chip's row: chips, and the exchange rate behind them."""
    rows = [line for line in text.splitlines() if line.split(" ")[0] in maker().SHOWN]
    found = {}
    for row in rows:
        plain = re.sub(r"\([^)]*\)", "", row.removeprefix(row.split(" ")[0]))
        found[row.split(" ")[0]] = [value(word) for word in NUMBER.findall(plain.replace("..", " "))]
    return found


def value(word):
    return float(word.replace(",", "").removesuffix("k")) * (1000.0 if word.endswith("k") else 1.0)


@pytest.mark.slow
def test_the_readme_shows_what_the_command_says():
    module = maker()
    shown = module.BLOCK.search((ROOT / "README.md").read_text("utf-8"))
    assert shown, "no block behind 'What it says of'"
    now = table(module.excerpt(module.printed()))
    then = table(shown.group(2))
    assert list(then) == list(now) == list(module.SHOWN)
    for chip, figures in now.items():
        for old, new in zip(then[chip][:2], figures[:2], strict=True):
            assert max(old, new) <= SAME * min(old, new), (
                f"{chip}: README {old:g}, now {new:g}: run tools/make_readme.py"
            )
