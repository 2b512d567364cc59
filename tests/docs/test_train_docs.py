"""The page on training runs tells of every key of the study and of the answer, and the example is what it says."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import msgspec

from offramp.app.study import TrainSettings
from offramp.core.figure import Figure, check_figure
from offramp.train.assumed import constants
from offramp.train.parameters import DATA, beliefs, load_posterior

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "train.md").read_text()


def test_every_setting_is_documented() -> None:
    for field in msgspec.structs.fields(TrainSettings):
        name = field.encode_name
        assert name in PAGE or name == "framework", name


def test_every_term_of_the_answer_is_explained() -> None:
    for word in (
        "days",
        "MFU",
        "goodput",
        "exchange rate",
        "binds",
        "break_even",
        "trying",
        "goodput_check",
        "mfu_bf16",
    ):
        assert word in PAGE


def test_reliability_figures_keep_the_rules_of_figures() -> None:
    raw = tomllib.loads((DATA / "failures.toml").read_text())
    entries = [v for v in raw.values() if "value" in v] + [
        e for v in raw.values() if "value" not in v for e in v.values()
    ]
    assert len(entries) >= 8
    for entry in entries:
        unit = "1" if entry["unit"] == "1/h" else entry["unit"]
        check_figure(msgspec.convert({**entry, "unit": unit}, Figure), where="failures.toml")


def test_every_prior_says_what_it_rests_on_and_every_parameter_is_fitted() -> None:
    fitted = {name.split("|")[0] for name in load_posterior().names}
    for name, belief in beliefs().items():
        assert belief.low < belief.median < belief.high, name
        assert len(belief.source) > 20, name
        assert name in fitted, name


def test_formulas_hold_no_constant_that_is_not_listed() -> None:
    """Numbers in the step model are counts (0 to 10, halves) or exponents; shares that somebody chose are figures."""
    plain = {float(n) for n in range(13)} | {0.5, 1e-18, 1e-12, 1e-9, 1e6, 0.5625, 30.0}
    for name in ("features", "step", "memory", "layout", "messages", "work"):
        tree = ast.parse((ROOT / "src" / "offramp" / "train" / f"{name}.py").read_text())
        found = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, float)}
        assert found <= plain, (name, found - plain)


def test_every_constant_of_the_model_is_used() -> None:
    text = "".join(p.read_text() for p in (ROOT / "src" / "offramp").rglob("*.py"))
    assert [name for name in constants() if f'"{name}"' not in text] == []


def test_the_record_has_sources_and_keeps_what_is_unknown() -> None:
    record = tomllib.loads((DATA / "record.toml").read_text())
    assert all(entry["source"] and entry["as_of"] and entry["confidence"] for entry in record["known"])
    assert len(record["unknown"]) >= 3
