"""From a study file to an answer and a report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.app.assess import assess
from offramp.app.runs import read_manifest
from offramp.cli import root
from offramp.core.errors import CatalogError, InputError
from offramp.core.result import Result
from offramp.report import render

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "Small"
as_of = 2026-11-23
currency = "CNY"
[[site]]
id = "one"
country = "CN"
power_price = "0.40 CNY/kWh"
pue = 1.25
[[fleet]]
chip = "nvidia/h20"
count = 64
site = "one"
[[workload]]
id = "code"
kind = "serve"
model = "Qwen/Qwen3-32B"
synthetic = { isl_mean = 1000, isl_cv = 0.6, osl_mean = 150, osl_cv = 0.8, requests = 2000 }
demand = [{ quarter = "2026Q4", mean_requests_per_s = 20 }, { quarter = "2027Q4", mean_requests_per_s = 60 }]
peak_to_mean = 2.0
availability = { spare_replicas = 1, min_replicas = 2 }
slo = { ttft_p90 = "2 s", tpot_p90 = "60 ms" }
[search]
trace_requests = 1500
simulate = 2
[candidates]
baseline = "nvidia/h20"
chips = ["huawei/ascend-910b2", "cambricon/mlu590", "enflame/s60"]
"""


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(study_path: Path, runs: Path) -> Result:
    return assess(study_path, jobs=1, root=runs)


def chip(result: Result, name: str, work: int = 0) -> dict:
    return next(item for item in result.answer["workloads"][work]["chips"] if item["chip"] == name)


def test_the_answer_holds_what_a_buyer_asks(result: Result) -> None:
    work = result.answer["workloads"][0]
    assert work["recommended"] == "huawei/ascend-910b2"
    assert work["demand"]["peak_requests_per_s"] == 40
    for name in ("nvidia/h20", "huawei/ascend-910b2"):
        item = chip(result, name)
        assert item["status"] == "carries"
        for key in ("chips", "exchange_rate", "cost_per_million_output_tokens", "power_w"):
            span = item[key]
            assert 0 < span["low"] <= span["mid"], key
            # an open end is said to be one, and only where more than a tenth of the draws keep no limits
            assert (span["high"] is None) == (key != "power_w" and item["robustness"]["share_of_draws"] < 0.9), key
            assert span["high"] is None or span["mid"] <= span["high"], key
        assert item["chips"]["mid"] % 8 == 0
        assert item["fleet"]["replicas"] >= 3
        for key, limit in work["slo_s"].items():
            assert item["latency_s"][key]["p50"] <= limit * 1.05
        assert item["figures"]
    assert chip(result, "nvidia/h20")["exchange_rate"]["mid"] == 1.0
    assert result.knowledge_horizon is not None
    assert result.knowledge_horizon <= result.knowledge_horizon.replace(year=2026, month=11, day=23)
    assert result.figures


def test_a_chip_with_missing_facts_is_a_range_with_a_break_even(result: Result) -> None:
    item = chip(result, "cambricon/mlu590")
    assert item["status"] == "range"
    assert item["chips"]["mid"] is None
    assert item["chips"]["low"] > 0
    assert (item["chips"]["high"] is None) == (item["robustness"]["share_of_draws"] < 0.9)
    assert item["chips"]["high"] is None or item["chips"]["low"] < item["chips"]["high"]
    assert item["missing_facts"]
    even = {entry["figure"]: entry for entry in item["break_even"]}
    curve = even["memory_bandwidth"]["per_chip"]
    assert [rate for _, rate in curve] == sorted(rate for _, rate in curve)
    assert any(notice.kind == "bounds-mode" for notice in result.warnings)


def test_a_chip_without_bounds_is_refused_by_name(result: Result) -> None:
    item = chip(result, "enflame/s60")
    assert item["status"] == "refused"
    assert "no source gives" in item["blockers"][0]["text"]
    assert result.status == "partial"


def test_tables_and_json_round_trip(result: Result) -> None:
    assert {"assess", "quarters", "layouts", "flips"} <= set(result.tables)
    quarters = list(result.tables["quarters"].dicts())
    by_quarter = {row["quarter"]: row["chips_mid"] for row in quarters if row["chip"] == "nvidia/h20"}
    assert by_quarter["2027Q4"] > by_quarter["2026Q4"]
    assert json.loads(result.to_json())["answer"]["study"] == "Small"


def test_the_report_links_every_number(result: Result) -> None:
    text = render(result)
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert {anchor for anchor in anchors if anchor not in ids} == set()
    assert text.count('class="ev"') > 20
    assert "src=" not in re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)


def test_the_same_question_is_answered_from_the_run_folder(study_path: Path, runs: Path, result: Result) -> None:
    said: list[str] = []
    start = time.perf_counter()
    again = assess(study_path, jobs=1, root=runs, progress=said.append)
    assert again.answer == result.answer
    assert "answered before" in said[0]
    assert time.perf_counter() - start < 30


def test_an_edit_recomputes_only_what_it_touches(study_path: Path, runs: Path, result: Result) -> None:
    said: list[str] = []
    assess(study_path, jobs=1, root=runs, overrides=["site.one.power_price=0.8 CNY/kWh"], progress=said.append)
    assert not any("to compute" in line for line in said)
    assess(study_path, jobs=1, root=runs, overrides=["candidates.chips=['huawei/ascend-910b3']"], progress=said.append)
    assert "2 questions: 1 answered before, 1 to compute" in said


@pytest.mark.parametrize("limit", ["tpot_p90=55 ms", "ttft_p90=1.5 s"])
def test_an_edited_limit_answers_as_a_cold_run_does(
    study_path: Path, runs: Path, tmp_path: Path, result: Result, limit: str
) -> None:
    edit = [f"workload.code.slo.{limit}", "search.disaggregate=true"]
    warm = assess(study_path, jobs=1, root=runs, overrides=edit)
    assert warm.answer != result.answer
    cold = assess(study_path, jobs=1, root=tmp_path, overrides=edit)
    assert warm == cold


def test_one_process_and_two_agree(study_path: Path, tmp_path: Path, result: Result) -> None:
    two = assess(study_path, jobs=2, root=tmp_path, overrides=["candidates.chips=['huawei/ascend-910b2']"])
    assert chip(two, "huawei/ascend-910b2") == chip(result, "huawei/ascend-910b2")


def test_kill_dash_nine_and_resume(study_path: Path, tmp_path: Path, result: Result) -> None:
    command = [
        sys.executable,
        "-m",
        "offramp",
        "assess",
        str(study_path),
        "--root",
        str(tmp_path),
        "--jobs",
        "1",
        "--json",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[1/"):
                break
        process.send_signal(signal.SIGKILL)
    (manifest,) = [read_manifest(path) for path in tmp_path.glob("assess-*")]
    assert manifest is not None
    assert manifest.status == "running"
    assert not list(tmp_path.glob("assess-*/result.json"))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"})
    assert re.search(r"4 questions: [123] answered before", done.stderr)
    assert json.loads(done.stdout)["answer"] == json.loads(result.to_json())["answer"]


def test_terminal_answer_fits_80_columns(study_path: Path, runs: Path, result: Result, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(root, ["assess", str(study_path), "--root", str(runs), "--out", str(runs / "out")])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "ascend-910b2 *" in done.stdout
    assert (runs / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("workload.code.slo.tpot_p90=0.1 ms", "out of reach"),
        ("workload.code.slo.ttft_p90=1 ms", "out of reach"),
    ],
)
def test_an_slo_below_the_floor_is_a_blocker_that_names_what_binds(
    study_path: Path, tmp_path: Path, override: str, text: str
) -> None:
    found = assess(study_path, jobs=1, root=tmp_path, overrides=[override, "candidates.chips=['huawei/ascend-910b2']"])
    item = chip(found, "huawei/ascend-910b2")
    assert item["status"] == "blocked"
    (blocker,) = [entry for entry in item["blockers"] if entry["kind"] == "slo"]
    assert text in blocker["text"]
    assert "% of it" in blocker["text"]
    assert found.answer["decision"]["stays"]
    assert render(found)


def test_zero_demand_counts_the_minimum(study_path: Path, tmp_path: Path) -> None:
    zero = "workload.code.demand=[{quarter='2026Q4', mean_requests_per_s=0}]"
    found = assess(study_path, jobs=1, root=tmp_path, overrides=[zero, "candidates.chips=['huawei/ascend-910b2']"])
    item = chip(found, "huawei/ascend-910b2")
    assert item["fleet"]["replicas"] == 2
    assert item["cost_per_million_output_tokens"]["mid"] is None
    assert any(notice.kind == "zero-demand" for notice in found.warnings)
    assert render(found)


def test_errors_say_where_and_how_to_mend(study_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\$\.workload\[0\]\.pew"):
        assess(study_path, overrides=["workload.code.pew=1"], root=tmp_path)
    with pytest.raises(CatalogError, match="Near matches"):
        assess(study_path, overrides=["candidates.chips=['huawei/ascend-910x']"], root=tmp_path)
    with pytest.raises(InputError, match="states no demand for 2030Q1"):
        assess(study_path, overrides=["candidates.quarter=2030Q1"], root=tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
