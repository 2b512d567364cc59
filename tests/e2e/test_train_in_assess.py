"""Training workloads inside an assessment: the same numbers as offramp train, and a part in the decision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.cli import root

STUDY = """
[study]
name = "Both"
as_of = 2026-11-23
[organisation]
headquarters = "CN"
[[fleet]]
chip = "nvidia/h20"
count = 256
[[workload]]
id = "chat"
kind = "serve"
model = "Qwen/Qwen3-32B"
demand = [{ quarter = "2026Q4", mean_requests_per_s = 5 }]
peak_to_mean = 2.0
slo = { ttft_p90 = "3 s", tpot_p90 = "60 ms" }
[workload.synthetic]
requests = 400
isl_mean = 1000
osl_mean = 200
[[workload]]
id = "tune"
kind = "train"
stage = "fine-tune"
model = "Qwen/Qwen3-32B"
tokens = 20e9
chips = 128
deadline = "6 d"
[candidates]
baseline = "nvidia/h20"
chips = ["huawei/ascend-910b"]
[search]
simulate = 1
trace_requests = 400
"""
TRAIN_ONLY = STUDY.split('[[workload]]\nid = "chat"')[0] + '[[workload]]\nid = "tune"' + STUDY.split('id = "tune"')[1]


def run(*args: str) -> str:
    return CliRunner().invoke(root, list(args), standalone_mode=False, catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("studies")
    found = {"both": folder / "both.toml", "train": folder / "train.toml", "out": folder / "out"}
    found["both"].write_text(STUDY)
    found["train"].write_text(TRAIN_ONLY)
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(scope="module")
def assessed(paths: dict[str, str]) -> dict:
    text = run("assess", paths["both"], "--no-keep", "--jobs", "1", "--json", "--out", paths["out"])
    return json.loads(text)


def test_both_kinds_are_answered(assessed: dict) -> None:
    answer = assessed["answer"]
    assert [work["id"] for work in answer["workloads"]] == ["chat"]
    assert [one["workload"] for one in answer["training"]["runs"]] == ["tune"]
    assert "tune" in answer["decision"]["headline"]
    assert "chat" in answer["decision"]["headline"]
    assert len(answer["decision"]["training"]) == 1
    rows = assessed["tables"]["training"]["rows"]
    assert len(rows) == 2


def test_training_cells_are_those_of_the_train_command(assessed: dict, paths: dict[str, str]) -> None:
    alone = json.loads(run("train", paths["both"], "--json"))["answer"]["runs"][0]
    within = assessed["answer"]["training"]["runs"][0]
    for one, other in zip(alone["cells"], within["cells"], strict=True):
        assert one["chip"] == other["chip"]
        for key in ("days", "mfu", "goodput", "p_deadline", "chips_for_deadline", "layout_words"):
            assert one[key] == other[key]


def test_the_verdict_follows_the_cells(assessed: dict) -> None:
    one = assessed["answer"]["training"]["runs"][0]
    cell = next(c for c in one["cells"] if c["chip"] == "huawei/ascend-910b")
    needed = cell["chips_for_deadline"]["p90"]
    assert one["verdict"]["moves"] is (needed is not None)
    if needed is not None:
        assert one["verdict"]["chips"] == needed
        assert f"{needed:,}" in one["verdict"]["text"]


def test_the_report_shows_the_run(assessed: dict, paths: dict[str, str]) -> None:
    page = (Path(paths["out"]) / "report.html").read_text()
    assert assessed["answer"]["decision"]["training"][0][:40] in page
    assert "tune: when it is done" in page


def test_a_study_that_only_trains_is_assessed(paths: dict[str, str], tmp_path: Path) -> None:
    found = json.loads(run("assess", paths["train"], "--no-keep", "--jobs", "1", "--json", "--out", str(tmp_path)))
    answer = found["answer"]
    assert answer["workloads"] == []
    assert answer["decision"]["headline"].startswith("Training")
    assert (tmp_path / "report.html").exists()


def test_a_run_that_fits_nowhere_leaves_the_rest_of_the_answer(paths: dict[str, str]) -> None:
    answer = json.loads(
        run("assess", paths["both"], "--no-keep", "--jobs", "1", "--json", "--set", "search.tps=[7]")
    )["answer"]  # fmt: skip
    one = answer["training"]["runs"][0]
    assert one["cells"] == []
    assert "TP 7" in one["why"]
    assert one["verdict"]["moves"] is False
