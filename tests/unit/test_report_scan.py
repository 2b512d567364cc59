"""The page of a scan: what it lists, what it leaves to the JSON form, and says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from offramp.app.scan import scan
from offramp.report import scan as page
from offramp.report.scan import scan_html

TARGET = "huawei/ascend-910b2"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for i in range(6):
        (tmp_path / f"m{i}.py").write_text(
            "import torch\ntorch.cuda.synchronize()\nx = torch.compile(f)\n# CUDA here\n"
        )
    return tmp_path


def data_of(text: str) -> dict[str, dict[str, object]]:
    inside = re.search(r'<script type="application/json" id="result">(.*?)</script>', text, re.DOTALL)
    assert inside is not None
    return json.loads(inside.group(1))


def test_what_is_left_out_is_counted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_FINDINGS", {"first-run": 2, "full-speed": 1, "later": 1})
    result = scan(tree, target=TARGET)
    text = scan_html(result)
    answer = data_of(text)["answer"]
    shown = answer["findings"]
    assert isinstance(shown, list)
    assert len(shown) == 4
    left = answer["left_to_json"]
    assert isinstance(left, dict)
    assert left["findings"] == len(result.answer["findings"]) - 4
    assert left["places"] == len(result.answer["places"]) > 0
    assert text.count("more findings of this kind are in the JSON form") == 3


def test_a_small_scan_is_shown_whole(tree: Path) -> None:
    result = scan(tree, target=TARGET)
    text = scan_html(result)
    assert "more findings of this kind" not in text
    assert data_of(text)["answer"]["findings"] == json.loads(result.to_json())["answer"]["findings"]


def test_the_same_tree_gives_the_same_json(tree: Path) -> None:
    from offramp.app.scan import to_json

    assert to_json(scan(tree, target=TARGET, jobs=1)) == to_json(scan(tree, target=TARGET, jobs=2))
