"""The published cases and the published list of rules."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from offramp.app.rules import check
from offramp.rules import load

pytestmark = pytest.mark.shared


def test_every_published_case_agrees(shared: Path) -> None:
    answer, outcomes = check(shared / "facts" / "rule_cases.csv")
    for outcome in outcomes:
        print(outcome.case_id, outcome.got, "agrees" if outcome.agrees else outcome.why)
    assert answer == {"cases": 42, "agree": 42, "disagree": []}


def test_every_collected_rule_is_in_with_its_citation(shared: Path) -> None:
    rules = load().rules
    with (shared / "facts" / "policy_rules.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 38
    for row in rows:
        rule = rules[row["rule_id"]]
        assert rule.jurisdiction == row["jurisdiction"]
        assert rule.url == row["source_url"].strip(), rule.id
        if row["announced"].count("-") == 2:
            assert rule.announced.isoformat() <= max(row["announced"], row["effective_from"]), rule.id
        assert rule.confidence
        if row["status_at_2026_11_23"].startswith("bill") or "draft" in row["outcome"]:
            assert rule.states[-1].state == "draft", rule.id


def test_the_documented_table_is_what_the_rules_answer(shared: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "rule-cases.md").read_text()
    with (shared / "facts" / "rule_cases.csv").open(newline="") as file:
        rows = {row["case_id"]: row for row in csv.DictReader(file)}
    for outcome in check(shared / "facts" / "rule_cases.csv")[1]:
        row, got = rows[outcome.case_id], outcome.got
        parts = [got["verdict"]]
        parts += [f"TPP {got['tpp']:,.0f}"] if got.get("tpp") else []
        parts += [f"PD {got['pd']:.2f}"] if got.get("pd") else []
        parts += [got["control"]] if got.get("control") else []
        assert f"| {outcome.case_id} | {row['chip_name']} | {row['as_of']} | " in page
        assert f" | {'; '.join(parts)} | yes |" in page
