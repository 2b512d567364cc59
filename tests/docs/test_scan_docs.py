"""Every detection class is documented, has its data, and the tables are sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offramp.scan import cpp, lines, pybranch, pydetect, pyplaces, pystrings, pytriton, symbols
from offramp.scan.judge import classes
from offramp.scan.refresh import differences, main, read_lists
from offramp.scan.target import load_target, read_rows

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLASSES = sorted(classes())


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_has_a_page(kind: str) -> None:
    text = (DOCS / "scan" / f"{kind}.md").read_text()
    assert "Bad:" in text
    assert "Good:" in text
    assert "Cannot see:" in text


def test_no_page_without_a_class() -> None:
    assert {path.stem for path in (DOCS / "scan").glob("*.md")} == {*CLASSES, "index"}


def test_every_class_that_detectors_use_is_known() -> None:
    used: set[str] = set()
    for module in (cpp, lines, pybranch, pydetect, pyplaces, pystrings, pytriton, symbols):
        text = Path(str(module.__file__)).read_text()
        used |= set(
            re.findall(
                r'"((?:device|branch|torch|triton|cpp|lib|build|infra|monitor|op|dist|name|text)\.[a-z_]+)"', text
            )
        )
    strangers = {kind for kind in used if kind not in classes() and not kind.startswith(("torch.", "triton."))}
    assert strangers == set()
    rules = {rule.kind for rules in lines.rules_by_file().values() for rule in rules}
    assert rules <= set(CLASSES)


def test_every_symbol_has_a_class_and_a_source() -> None:
    for row in read_rows("symbols.csv"):
        assert row["class"] in classes(), row
        assert row["effort"] in ("L0", "L1", "L2", "L3", "L4"), row
        assert row["source"], row


def test_leads_are_marked() -> None:
    rows = read_rows("symbols.csv")
    assert any(row["verified"] == "no" for row in rows)
    assert not [row for row in rows if "unverified" in row["huawei"] and row["verified"] == "yes"]


@pytest.mark.parametrize(
    ("chip", "device"),
    [
        ("huawei/ascend-910c-752", "npu"), ("cambricon/mlu590", "mlu"), ("moore-threads/s5000", "musa"),
        ("amd/mi300x", "cuda"), ("hygon/bw1000", "cuda"), ("intel/gaudi-3", "hpu"), ("biren/br100", "privateuseone"),
    ],
)  # fmt: skip
def test_every_vendor_has_a_target(chip: str, device: str) -> None:
    assert load_target(chip).device == device


def test_generation_decides_support() -> None:
    assert load_target("huawei/ascend-910b2").generation == "A2"
    assert load_target("huawei/ascend-950dt").generation == "950"


def test_refresh_reads_tables_and_reports_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in read_rows("symbols.csv") if row["huawei_support"] == "A2:yes|A3:yes|950:yes")
    (tmp_path / "a.md").write_text(
        f"| API | A2 | A3 | 950 |\n|---|---|---|---|\n| {row['symbol']} | yes | yes | no |\n"
    )
    assert differences(read_lists(tmp_path)) == [(row["symbol"], "A2:yes|A3:yes|950:yes", "A2:yes|A3:yes|950:no")]
    assert main([str(tmp_path)]) == 1
    assert row["symbol"] in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 2
