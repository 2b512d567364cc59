"""Corners: nothing to do, everything warm-up, duplicate times, a shard that fills up, the kernel's cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offramp import serve
from offramp.core.errors import InputError
from offramp.cost.table import StepTable
from offramp.serve import PoolSpec, Requests, ServeConfig, simulate, simulate_stream, steady_state, stream


def table(**changes: Any) -> StepTable:
    values: dict[str, Any] = {
        "token_grid": np.array([0.0, 1000.0]), "base_s": np.array([0.01, 0.02]), "prefill_extra_s": np.zeros(2),
        "seq_grid": np.ones(1), "decode_base_s": np.zeros(1), "decode_slope_s": np.zeros(1), "prefill_base_s": 0.0,
        "pair_s": 0.0, "seq_s": 0.0, "kv_capacity_tokens": 4096, "max_batch_tokens": 1024, "max_seqs": 4,
    }  # fmt: skip
    return StepTable(**(values | changes))


def same(n: int, rate: float, isl: int = 100, osl: int = 5) -> Requests:
    return Requests(arrival_s=np.arange(n) / rate, isl_tokens=np.full(n, isl), osl_tokens=np.full(n, osl))


@pytest.mark.parametrize("engine", ["oracle", "kernel"])
def test_no_requests_is_an_empty_answer(engine: Any) -> None:
    answer = simulate([PoolSpec(table=table())], same(0, 1.0), config=ServeConfig(engine=engine))
    assert answer.completed == 0 and answer.stable
    assert answer.ttft_s is None and answer.output_tokens_per_s == 0.0


def test_all_warm_up_leaves_nothing_to_report() -> None:
    config = ServeConfig(mode="closed", concurrency=2, warmup=10)
    answer = simulate([PoolSpec(table=table())], same(10, 1.0), config=config)
    assert answer.completed == 0 and answer.e2e_s is None and answer.steps > 0


@pytest.mark.parametrize("engine", ["oracle", "kernel"])
def test_duplicate_times_are_served_in_order(engine: Any) -> None:
    what = Requests(
        arrival_s=np.repeat([0.0, 10.0], 6), isl_tokens=np.full(12, 900), osl_tokens=np.full(12, 1)
    )  # fmt: skip
    config = ServeConfig(engine=engine, keep_requests=True)
    answer = simulate([PoolSpec(table=table())], what, config=config)
    assert answer.done_s is not None
    assert np.all(np.diff(answer.done_s) >= 0)


def test_a_flooded_shard_stops_and_is_unstable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_IN_FLIGHT", 5000)
    what = same(60_000, 1e5)
    parts = [what.take(slice(at, at + 20_000)) for at in range(0, 60_000, 20_000)]
    answer = simulate_stream([PoolSpec(table=table())], parts, config=ServeConfig())
    assert not answer.stable and answer.ttft_s is None
    assert answer.headroom is not None and answer.headroom < 0.1


def test_rejected_requests_of_a_stream_are_counted() -> None:
    good, bad = same(50, 10.0), same(50, 10.0, isl=100_000)
    late = Requests(arrival_s=bad.arrival_s + 10, isl_tokens=bad.isl_tokens, osl_tokens=bad.osl_tokens)
    answer = simulate_stream([PoolSpec(table=table())], [good, late], config=ServeConfig())
    assert answer.completed == 50
    assert answer.rejected == {"kv-capacity": 50}


def test_the_kernel_says_whether_it_is_compiled() -> None:
    said: list[str] = []
    serve.warm_up(said.append)
    assert serve.is_compiled()
    assert len(said) <= 1
    serve.warm_up(said.append)
    assert len(said) <= 1, "the second time there is nothing to announce"


def test_steady_state_refuses_a_load_without_meaning() -> None:
    for bad in ({}, {"concurrency": 1, "rate": 1.0}, {"concurrency": 0}, {"rate": -1.0}):
        with pytest.raises(InputError, match=r"load|concurrency"):
            steady_state(table(), 100, 10, **bad)


def test_steady_state_of_one_sequence_is_exact() -> None:
    slow = table(max_seqs=1, first_token_s=0.1)
    answer = steady_state(slow, 100, 11, concurrency=1, lengths="equal")
    assert answer.tpot_s[0] == pytest.approx(0.01 + 1e-5)
    assert answer.ttft_s[0] == pytest.approx(0.1 + 0.011)
    assert answer.req_per_s[0] == pytest.approx(1 / (0.111 + 10 * 0.01001), rel=1e-3)
