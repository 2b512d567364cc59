"""Budgets of the training model: search of DeepSeek-V3 on 2,048 chips in 5 s."""

from __future__ import annotations

from pathlib import Path

from offramp import arch, catalog
from offramp.train.cases import chip_device
from offramp.train.layout import Task
from offramp.train.parameters import Stack, draw, load_posterior
from offramp.train.search import Limits, search

STUDY = Path(__file__).resolve().parents[1] / "examples" / "train-v3" / "study.toml"


def test_search_deepseek_v3_on_2048(benchmark) -> None:
    model = arch.load("deepseek-ai/DeepSeek-V3")
    device = chip_device("nvidia/h800", catalog.load())
    values = draw(load_posterior(), Stack("nvidia/h800", device.family, "hai-llm", dtype="fp8", shape="moe"))
    task = Task(sequence_tokens=4096, batch_sequences=15360, dtype="fp8", groups=8, group_limit=4)
    limits = Limits(schedules=("1f1b", "dualpipe"))
    found = benchmark(lambda: search(model, device, task, devices=2048, values=values, limits=limits))
    assert found.tried > 5_000


def test_train_example(benchmark) -> None:
    from offramp.app.train import train

    result = benchmark.pedantic(lambda: train(STUDY), rounds=1, iterations=1)
    assert result.answer["runs"]
