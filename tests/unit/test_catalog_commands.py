"""offramp chips, engines, sources: what users and scripts see."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from offramp.app.chips import chips
from offramp.app.engines import engines
from offramp.app.sources import sources
from offramp.cli import root
from offramp.core.errors import CatalogError
from offramp.core.result import result_from_json


def run(*args: str, width: int = 80) -> str:
    outcome = CliRunner().invoke(root, list(args), env={"COLUMNS": str(width)}, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_list_counts_and_marks_what_is_missing():
    result = chips()
    by_id = {row["id"]: row for row in result.answer["chips"]}
    assert result.answer["count"] == len(by_id) >= 66
    assert by_id["nvidia/h20"]["computable"] and by_id["nvidia/h20"]["memory_bandwidth"]["si"] == 4e12
    assert by_id["cambricon/mlu590"]["bounds_mode"]
    assert by_id["cambricon/mlu690"]["memory_bandwidth"]["low_si"] == pytest.approx(1.6e12)
    assert by_id["enflame/s60"]["memory_bandwidth"] is None
    assert result.data_version and result.inputs_hash and result.knowledge_horizon


def test_one_chip_carries_every_source_and_its_disagreements():
    result = chips("H20")
    assert result.answer["id"] == "nvidia/h20"
    assert [entry["value"] for entry in result.answer["figures"]["tdp"]] == [500, 400, 550]
    assert {used.id for used in result.figures} >= {"chips/nvidia/h20#tdp", "chips/nvidia/h20#tdp[1]"}
    assert any(notice.kind == "disagreement" and "tdp" in notice.text for notice in result.warnings)
    gap = chips("cambricon/mlu590")
    assert any(notice.kind == "missing-figure" and "scaleup_bandwidth" in notice.text for notice in gap.warnings)


def test_json_is_the_result_unchanged():
    text = run("chips", "nvidia/h20", "--json")
    assert result_from_json(text) == chips("nvidia/h20")
    for args in (("chips",), ("engines",), ("engines", "vllm-ascend"), ("sources", "nvidia/h20")):
        assert json.loads(run(*args, "--json"))["command"] == args[0]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("args", [
    ("chips",), ("chips", "--computable"), ("chips", "huawei/ascend-910c"), ("chips", "cambricon/mlu590"),
    ("engines",), ("engines", "--chip", "nvidia/h20"), ("engines", "vllm-ascend"),
])  # fmt: skip
def test_tables_fit_the_terminal(args: tuple[str, ...], width: int):
    lines = [line for line in run(*args, width=width).splitlines() if "://" not in line and "github:" not in line]
    assert lines and max(map(len, lines)) <= width
    assert "…" not in "\n".join(lines), "a value was cut"


def test_sources_of_a_figure_a_system_an_engine_and_a_rate():
    assert {row["id"] for row in sources("nvidia/h20#tdp").answer["statements"]} == {
        "chips/nvidia/h20#tdp", "chips/nvidia/h20#tdp[1]", "chips/nvidia/h20#tdp[2]",
    }  # fmt: skip
    assert sources("chips/nvidia/h20#tdp").answer["statements"] == sources("nvidia/h20#tdp").answer["statements"]
    assert any("host_power" in row["id"] for row in sources("hgx-h20").answer["statements"])
    assert any(
        row["source"].startswith("vLLM Ascend release notes") for row in sources("vllm-ascend").answer["statements"]
    )
    assert sources("USD/CNY").answer["sources"] and sources("power").answer["sources"]
    assert sources("cambricon/mlu590#scaleup_bandwidth").answer["statements"][0]["confidence"] == "assumed"
    with pytest.raises(CatalogError, match="nothing in the catalogue"):
        sources("nvidia/h21")


def test_engines_of_a_chip_leave_out_those_that_cannot_run_there():
    ids = {row["id"] for row in engines(chip_id="huawei/ascend-910b2").answer["engines"]}
    assert {"vllm-ascend", "mindie", "sglang"} <= ids and not ids & {"tensorrt-llm", "vllm-kunlun"}


def test_as_of_moves_the_whole_answer():
    then = chips(as_of=dt.date(2024, 1, 1))
    assert then.answer["count"] < chips().answer["count"]
    assert then.knowledge_horizon <= dt.date(2024, 1, 1)
    assert engines("vllm-ascend", as_of=dt.date(2025, 9, 10)).answer["engines"][0]["version"] == "0.9.1"


def test_unknown_ids_are_one_line_on_stderr_with_exit_code_3():
    done = subprocess.run(
        [sys.executable, "-m", "offramp", "chips", "nvidia/h21"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Near matches: nvidia/h20" in done.stderr
