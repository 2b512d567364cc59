"""Budgets of the serving simulator: one replica, 64 replicas over processes, a long trace in chunks, a prefix cache."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.cost.table import StepTable
from offramp.serve import (
    PoolSpec,
    Requests,
    ServeConfig,
    is_compiled,
    simulate,
    simulate_stream,
    stack,
    steady_state,
    warm_up,
)

TRACES = Path(os.environ.get("OFFRAMP_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "traces"


def table(**changes: Any) -> StepTable:
    """A memory-bound 8-chip server of a 32 B model: 8 ms a step, 14 us a token beside it, 600 k tokens of KV."""
    values: dict[str, Any] = {
        "token_grid": np.array([0.0, 8192.0]), "base_s": np.array([0.008, 0.12]), "prefill_extra_s": np.zeros(2),
        "seq_grid": np.array([1.0, 256.0]), "decode_base_s": np.array([1e-4, 5e-4]),
        "decode_slope_s": np.full(2, 3e-9), "prefill_base_s": 1e-5, "pair_s": 1e-12, "seq_s": 1e-6,
        "kv_capacity_tokens": 600_000,
    }  # fmt: skip
    return StepTable(**(values | changes))


def conversation_lengths(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the Azure 2023 conversation trace, or lognormal ones with its means (1,155 and 211)."""
    path = TRACES / "azure_llm_2023_conv.csv"
    if not path.is_file():
        isl, osl = rng.lognormal(6.6, 0.95, n), rng.lognormal(5.0, 0.85, n)
        return np.maximum(1, isl).astype(int), np.maximum(1, osl).astype(int)
    with path.open() as file:
        rows = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
    picked = np.array(rows)[rng.integers(0, len(rows), n)]
    return picked[:, 0], picked[:, 1]


def conversations(n: int, rate: float, *, start_s: float = 0.0, seed: int = 0) -> Requests:
    rng = np.random.default_rng(seed)
    isl, osl = conversation_lengths(rng, n)
    return Requests(arrival_s=start_s + np.cumsum(rng.exponential(1 / rate, n)), isl_tokens=isl, osl_tokens=osl)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up(print)
    assert is_compiled()


@pytest.mark.parametrize("rate", [5.0, 15.0, 25.0])
def test_one_million_requests_on_one_replica(benchmark: Any, rate: float) -> None:
    what = conversations(1_000_000, rate)
    config = ServeConfig(estimate_capacity=False)
    answer = benchmark.pedantic(simulate, ((PoolSpec(table=table()),), what), {"config": config}, rounds=3)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["requests_per_s"] = 1e6 / seconds
    benchmark.extra_info["steps_per_s"] = answer.steps / seconds


def test_ten_million_requests_over_64_replicas_on_two_processes(benchmark: Any) -> None:
    what = conversations(10_000_000, 64 * 15.0)
    config = ServeConfig(estimate_capacity=False, jobs=2)
    pools = (PoolSpec(table=table(), replicas=64),)
    benchmark.pedantic(simulate, (pools, what), {"config": config}, rounds=1)


def test_ten_million_requests_over_64_coupled_replicas(benchmark: Any) -> None:
    what = conversations(10_000_000, 64 * 15.0)
    config = ServeConfig(estimate_capacity=False, router="least-requests")
    pools = (PoolSpec(table=table(), replicas=64),)
    benchmark.pedantic(simulate, (pools, what), {"config": config}, rounds=1)


def test_ten_million_requests_in_chunks(benchmark: Any) -> None:
    def chunks() -> Iterator[Requests]:
        start = 0.0
        for i in range(10):
            part = conversations(1_000_000, 60.0, start_s=start, seed=i)
            start = float(part.arrival_s[-1])
            yield part

    def run() -> None:
        pools = (PoolSpec(table=table(), replicas=4),)
        simulate_stream(pools, chunks(), config=ServeConfig(estimate_capacity=False))

    benchmark.pedantic(run, rounds=1)


def mooncake() -> Requests:
    path = TRACES / "mooncake_conversation_trace.jsonl"
    if not path.is_file():
        pytest.skip("needs the Mooncake conversation trace (set OFFRAMP_SHARED)")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    counts = [len(row["hash_ids"]) for row in rows]
    return Requests(
        arrival_s=np.array([row["timestamp"] / 1000 for row in rows]),
        isl_tokens=np.array([row["input_length"] for row in rows]),
        osl_tokens=np.array([row["output_length"] for row in rows]),
        hash_ids=np.concatenate([row["hash_ids"] for row in rows]),
        hash_offsets=np.concatenate([[0], np.cumsum(counts)]),
    )


@pytest.mark.parametrize("router", ["round-robin", "prefix-aware"])
def test_mooncake_conversations_with_prefix_cache(benchmark: Any, router: str) -> None:
    what = mooncake()
    pools = (PoolSpec(table=table(kv_capacity_tokens=3_000_000, pair_s=1e-10), replicas=4),)
    config = ServeConfig(prefix_cache=True, router=router, estimate_capacity=False)  # pyright: ignore[reportArgumentType]
    benchmark.pedantic(simulate, (pools, what), {"config": config}, rounds=5)


@pytest.mark.parametrize("load", ["concurrency", "rate"])
def test_steady_state_of_a_hundred_thousand_layouts(benchmark: Any, load: str) -> None:
    many = stack([table(max_batch_tokens=budget) for budget in (2048, 8192)]).take(np.arange(100_000) % 2)
    drive = np.tile(np.array([1.0, 8.0, 64.0, 200.0]), 25_000)
    values = {load: drive if load == "concurrency" else drive / 20}
    benchmark.pedantic(lambda: steady_state(many, 1155, 211, **values), rounds=3)
