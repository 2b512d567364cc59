"""Budgets of the search and of an assessment: dense search, a mixture of experts, the closed form, cold and edited studies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp import arch, catalog, cost
from offramp.app.assess import assess
from offramp.search import Limits, Question, Stream, evaluate, find, find_split, middle, mix_of
from offramp.search.grid import pools
from offramp.serve import Requests, warm_up

FACTS, CALIBRATION = catalog.load(), cost.load_calibration()
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "leave-h20" / "study.toml"


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up(print)


def question(model: str, chips: int) -> Question:
    """2,000 tokens in, 500 out, TTFT 2 s, TPOT 30 ms."""
    rng = np.random.default_rng(0)
    requests = Requests(
        arrival_s=np.cumsum(rng.exponential(0.05, 4000)), isl_tokens=np.full(4000, 2000), osl_tokens=np.full(4000, 500)
    )
    return Question(
        model=arch.load(model), mix=mix_of(requests), stream=Stream(requests=requests, seed=1, demand=100.0),
        slo={"ttft_p90": 2.0, "tpot_p90": 0.03}, limits=Limits(most_devices=chips),
    )  # fmt: skip


@pytest.mark.benchmark(group="search: Qwen3-32B on 16 chips (budget 1 s)")
def test_dense_search(benchmark: Any) -> None:
    found = benchmark.pedantic(  # a question of its own each time, because it keeps what was simulated
        lambda asked: find(asked, "nvidia/h200", catalog=FACTS, calibration=CALIBRATION), rounds=5,
        setup=lambda: ((question("Qwen/Qwen3-32B", 16),), {}),
    )  # fmt: skip
    benchmark.extra_info["points"] = found.layouts


@pytest.mark.benchmark(group="search: DeepSeek-V3 on 32 chips, expert parallel and disaggregated (budget 3 s)")
def test_mixture_of_experts_search(benchmark: Any) -> None:
    def both(asked: Question) -> None:
        find(asked, "nvidia/h200", catalog=FACTS, calibration=CALIBRATION)
        find_split(asked, "nvidia/h200", "nvidia/h200", catalog=FACTS, calibration=CALIBRATION)

    benchmark.pedantic(both, rounds=5, setup=lambda: ((question("deepseek-ai/DeepSeek-V3", 32),), {}))


@pytest.mark.benchmark(group="search: closed form, 10,000 layouts x 18 batches (budget 100,000 layouts/s)")
def test_closed_form(benchmark: Any) -> None:
    asked = question("Qwen/Qwen3-32B", 64)
    chunks = Limits(chunks=tuple(range(256, 16_384, 16)))
    listed = pools(asked.model, FACTS.chip("nvidia/h20"), FACTS, chunks, engine="vllm", dtype="")[:10_000]
    setting = middle(cost.build_setting(asked.model, listed[0], catalog=FACTS, calibration=CALIBRATION))
    parts = [listed[at : at + 200] for at in range(0, len(listed), 200)]
    benchmark.pedantic(lambda: [evaluate(setting, part, asked.mix) for part in parts], rounds=5)
    benchmark.extra_info["layouts_per_s"] = len(listed) / benchmark.stats.stats.median
    benchmark.extra_info["points_per_s"] = 18 * len(listed) / benchmark.stats.stats.median


@pytest.mark.benchmark(group="assess: the example, cold (budget 20 s)")
def test_assess_cold(benchmark: Any, tmp_path: Path) -> None:
    def clear() -> None:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)

    benchmark.pedantic(lambda: assess(EXAMPLE, root=tmp_path / "runs"), setup=clear, rounds=3)


@pytest.mark.benchmark(group="assess: the example after one limit changed (budget 3 s)")
@pytest.mark.parametrize(
    "edit", ["workload.chat.slo.ttft_p90=3.5 s", "workload.chat.slo.tpot_p90=50 ms", "workload.code.slo.ttft_p90=1.2 s"]
)
def test_assess_after_an_edit(benchmark: Any, edit: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    warm = tmp_path_factory.mktemp("warm")
    assess(EXAMPLE, root=warm)
    runs = tmp_path_factory.mktemp("edited") / "runs"

    def again() -> None:
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(warm, runs)

    benchmark.pedantic(lambda: assess(EXAMPLE, root=runs, overrides=[edit]), setup=again, rounds=3)
