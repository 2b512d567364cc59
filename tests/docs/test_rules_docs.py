"""The documentation of the rules covers what there is, and its example works."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from offramp.app.rules import SETTINGS
from offramp.rules import VERDICTS, ChipFacts, Context, load, rulebook_of, verdict
from offramp.rules.cases import COLUMNS, EXTRA_COLUMNS
from offramp.rules.environment import ATTRIBUTES
from offramp.rules.facts import BUYERS, ROUTES, USES, given

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rules.md").read_text()


def test_every_attribute_is_documented_as_it_is() -> None:
    kinds = {"flag": "yes/no", "texts": "words", "text": "word"}
    for name, item in ATTRIBUTES.items():
        words = f" ({', '.join(item.words)})" if item.words else ""
        row = f"| `{name}` | {kinds.get(item.kind, item.kind)} | {item.unit} | {item.meaning}{words} |"
        assert row in PAGE, row


def test_every_rule_is_listed_with_its_states() -> None:
    for rule in load().rules.values():
        states = "; ".join(f"{state.state} {state.since}" for state in rule.states)
        row = f"| {rule.id} | {rule.title} | {states} | {rule.confidence} |"
        assert row in PAGE, row


def test_verdicts_words_settings_and_columns_are_documented() -> None:
    for name in (*VERDICTS, "indeterminate"):
        assert f"| {name} |" in PAGE
    for name, choices in SETTINGS.items():
        assert f"| `{name}` | {choices[0]} | {choices[1]} |" in PAGE
    for word in (*BUYERS, *ROUTES, *USES, *COLUMNS, *EXTRA_COLUMNS):
        assert word in PAGE, word


def test_the_example_rule_loads_and_speaks(tmp_path: Path) -> None:
    match = re.search(r"```toml\n(\[\[rule\]\].*?)```", PAGE, re.DOTALL)
    assert match
    (tmp_path / "example.toml").write_text(match[1])
    book = rulebook_of(tmp_path)
    day = dt.date(2026, 12, 1)
    facts = ChipFacts(id="x/y", datacenter=True, dram_bandwidth=given(4000.0, "GB/s", "test", day))
    found = [
        verdict(facts, Context(jurisdiction="CN"), when, rulebook=book)
        for when in (dt.date(2027, 2, 28), dt.date(2027, 3, 1))
    ]
    assert [answer.verdict for answer in found] == ["allowed", "conditional"]
    assert [hit.rule for hit in found[0].watch] == ["CN-EXAMPLE-2027"]
    assert [(item.kind, item.value) for item in found[1].conditions if item.rule == "CN-EXAMPLE-2027"] == [
        ("registration", 30)
    ]


def test_the_python_example_runs() -> None:
    match = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert match
    exec(compile(match[1], "docs/rules.md", "exec"), {})
