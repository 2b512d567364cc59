"""The worked example of mixed pools says what a run says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def numbers(text: str) -> list[float]:
    return [float(value.replace(",", "")) for value in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*(?![\w.]*[A-Za-z])", text)]


def answer_of(page: str) -> str:
    return next(line for line in page.splitlines() if line.startswith("> "))


@pytest.mark.slow
def test_the_worked_example_is_what_a_run_says(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_mixed", ROOT / "tools" / "make_mixed.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    fresh = answer_of(tool.page(tool.assess(tool.STUDY, keep=False)))
    kept = answer_of(tool.PAGE.read_text("utf-8"))
    assert re.sub(r"[\d,.]+", "#", fresh) == re.sub(r"[\d,.]+", "#", kept), "run: make mixed"
    for now, then in zip(numbers(fresh), numbers(kept), strict=True):
        assert now == pytest.approx(then, rel=0.3), "run: make mixed"  # parameter files move numbers, not the answer


def test_the_page_states_what_is_assumed_and_from_what_it_was_made() -> None:
    page = (ROOT / "docs" / "mixed.md").read_text("utf-8")
    assert "assumed" in page
    assert re.search(r"Made with data [0-9a-f]{12} and parameters \S+\.", page)
    assert page.count("\n| ") >= 6
