"""The example study, and the same study with the real traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offramp.app.assess import assess
from offramp.app.check import check
from offramp.core.result import Result

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "leave-h20" / "study.toml"

TRACES = """
[study]
name = "Leaving the H20, real traces"
include = "{example}"
[[workload]]
id = "chat"
trace = "{conv}"
[[workload]]
id = "code"
trace = "{code}"
[[workload]]
id = "long"
kind = "serve"
model = "Qwen/Qwen3-32B"
trace = "{mooncake}"
demand = [{{ quarter = "2026Q4", mean_requests_per_s = 5 }}]
slo = {{ ttft_p90 = "30 s", tpot_p90 = "100 ms" }}
[search]
trace_requests = 3000
simulate = 1
[candidates]
chips = ["huawei/ascend-910c", "hygon/k100-ai"]
"""


def test_the_example_is_sound() -> None:
    answer = check(EXAMPLE).answer
    assert answer["problems"] == []


@pytest.fixture(scope="module")
def result(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("traces")
    text = TRACES.format(
        example=EXAMPLE, conv=shared / "traces/azure_llm_2023_conv.csv", code=shared / "traces/azure_llm_2023_code.csv",
        mooncake=shared / "traces/mooncake_conversation_trace.jsonl",
    )  # fmt: skip
    # a study that includes another replaces its generated traffic with a trace
    path = folder / "study.toml"
    path.write_text(text)
    return assess(path, jobs=1, root=folder / "runs")


@pytest.mark.slow
def test_every_workload_has_an_answer_on_every_chip(result: Result) -> None:
    works = {work["id"]: work for work in result.answer["workloads"]}
    assert set(works) == {"chat", "code", "long"}
    for work in works.values():
        for item in work["chips"]:
            assert item["status"] in ("carries", "blocked"), (work["id"], item["chip"])
            if item["status"] == "carries":
                assert item["chips"]["low"] <= item["chips"]["mid"]
                for key, limit in work["slo_s"].items():
                    assert item["latency_s"][key]["p50"] <= 1.1 * limit, (work["id"], item["chip"], key)
            else:
                assert any(blocker["stops"] for blocker in item["blockers"])


@pytest.mark.slow
def test_lengths_are_those_of_the_traces(result: Result) -> None:
    works = {work["id"]: work for work in result.answer["workloads"]}
    assert works["chat"]["lengths"]["isl_mean_tokens"] == pytest.approx(1155, rel=0.01)
    assert works["code"]["lengths"]["osl_mean_tokens"] == pytest.approx(28, rel=0.02)
    assert works["long"]["lengths"]["isl_mean_tokens"] < 12035  # requests beyond the model's context are refused


@pytest.mark.slow
def test_a_trace_with_a_coarse_clock_is_carried(result: Result) -> None:
    """Ten requests share each stamp of the Mooncake trace; a replica that got them at one instant would keep no limit."""
    work = next(work for work in result.answer["workloads"] if work["id"] == "long")
    assert {item["status"] for item in work["chips"]} == {"carries"}
    assert any("ticks every 3 s" in notice.text for notice in result.warnings)


@pytest.mark.slow
def test_prompt_heavy_work_favours_chips_with_arithmetic(result: Result) -> None:
    """The H20 has bandwidth and little arithmetic: prompt-heavy work takes fewer of the others for each H20."""
    rate = {
        work["id"]: next(item for item in work["chips"] if item["chip"] == "huawei/ascend-910c")["exchange_rate"]["mid"]
        for work in result.answer["workloads"]
    }
    assert np.isfinite(rate["chat"])
    assert rate["code"] < rate["chat"]
