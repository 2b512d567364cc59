"""Laws that hold for every workload: conservation, Little, monotony, determinism, shards and streams."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.errors import BackendError, InputError
from offramp.cost.table import StepTable
from offramp.serve import PoolSpec, Requests, ServeConfig, ServeMetrics, simulate, simulate_stream
from offramp.serve.engine import run_engine
from offramp.serve.sketch import RELATIVE_ERROR, Sketch


def table(scale: float = 1.0, **changes: object) -> StepTable:
    values: dict[str, object] = {
        "token_grid": np.array([0.0, 2048.0]), "base_s": scale * np.array([0.01, 0.06]),
        "prefill_extra_s": np.zeros(2), "seq_grid": np.array([1.0, 64.0]),
        "decode_base_s": scale * np.array([1e-4, 1e-3]), "decode_slope_s": scale * np.full(2, 1e-8),
        "prefill_base_s": scale * 1e-4, "pair_s": scale * 1e-10, "seq_s": 0.0, "kv_capacity_tokens": 20_000,
        "max_batch_tokens": 2048, "max_seqs": 64,
    }  # fmt: skip
    return StepTable(**(values | changes))  # pyright: ignore[reportArgumentType]


def traffic(seed: int, n: int, rate: float) -> Requests:
    rng = np.random.default_rng(seed)
    return Requests(
        arrival_s=np.cumsum(rng.exponential(1 / rate, n)), isl_tokens=rng.integers(1, 1500, n),
        osl_tokens=rng.integers(1, 200, n),
    )  # fmt: skip


def comparable(answer: ServeMetrics) -> bytes:
    return msgspec.json.encode(answer)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 5.0, 50.0]), st.sampled_from([2_000, 20_000]))
def test_tokens_are_conserved(seed: int, rate: float, room: int) -> None:
    what = traffic(seed, 200, rate)
    config = ServeConfig(mode="closed", concurrency=int(rate) + 1)
    answer = simulate((PoolSpec(table=table(kv_capacity_tokens=room)),), what, config=config)
    assert answer.completed == 200
    assert answer.output_tokens == what.osl_tokens.sum()
    assert answer.input_tokens == what.isl_tokens.sum()
    assert answer.itl_s is not None
    assert answer.itl_s.count == (what.osl_tokens - 1).sum(), "one gap per output token after the first"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80))
def test_closed_loop_obeys_littles_law(seed: int, concurrency: int) -> None:
    n = 40 * concurrency
    config = ServeConfig(mode="closed", concurrency=concurrency)
    answer = simulate((PoolSpec(table=table()),), traffic(seed, n, 1.0), config=config)
    assert answer.e2e_s is not None
    assert answer.mean_in_flight == pytest.approx(answer.request_req_per_s * answer.e2e_s.mean)
    assert concurrency * (1 - 3 * concurrency / n) <= answer.mean_in_flight <= concurrency * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 1.0), st.sampled_from([0.5, 2.0, 5.0]))
def test_a_faster_table_never_worsens_a_single_queue(seed: int, scale: float, rate: float) -> None:
    """One request at a time in order of arrival: by Lindley's recursion every request ends no later."""
    what = traffic(seed, 100, rate)
    config = ServeConfig(keep_requests=True, estimate_capacity=False)
    slow = simulate((PoolSpec(table=table(max_seqs=1)),), what, config=config)
    fast = simulate((PoolSpec(table=table(scale, max_seqs=1)),), what, config=config)
    assert fast.done_s is not None and slow.done_s is not None
    assert np.all(np.array(fast.done_s) <= np.array(slow.done_s) + 1e-9)


def test_same_seed_same_answer() -> None:
    what = traffic(1, 2000, 10.0)
    pools = (PoolSpec(table=table(), replicas=2),)
    answers = {comparable(simulate(pools, what, config=ServeConfig(), seed=7)) for _ in range(2)}
    assert len(answers) == 1


@pytest.mark.slow
def test_shards_equal_the_coupled_run_and_jobs_change_nothing() -> None:
    what = traffic(2, 3000, 30.0)
    pools = (PoolSpec(table=table(), replicas=3),)
    config = ServeConfig(keep_requests=True)
    alone = simulate(pools, what, config=config)
    spread = simulate(pools, what, config=msgspec.structs.replace(config, jobs=2))
    assert comparable(alone) == comparable(spread)
    _, coupled = run_engine(pools, what, config)
    np.testing.assert_allclose(alone.done_s, coupled.done_s, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(alone.first_token_s, coupled.first_s, rtol=1e-12, atol=1e-9)


def chunks(what: Requests, size: int) -> list[Requests]:
    return [what.take(np.arange(at, min(at + size, len(what)))) for at in range(0, len(what), size)]


@pytest.mark.parametrize("pools", [
    (PoolSpec(table=table(), replicas=3),),
    (PoolSpec(table=table(), role="prefill"), PoolSpec(table=table(), role="decode", replicas=2)),
])  # fmt: skip
def test_streamed_requests_give_the_same_answer(pools: tuple[PoolSpec, ...]) -> None:
    what = traffic(3, 5000, 12.0)
    config = ServeConfig(warmup=100)
    whole = simulate(pools, what, config=config)
    for size in (64, 700, 5000):
        part = simulate_stream(pools, chunks(what, size), config=config)
        assert (part.completed, part.steps, part.stable) == (whole.completed, whole.steps, whole.stable)
        for name in ("utilisation", "mean_batch", "output_tokens_per_s", "mean_in_flight", "duration_s", "kv_peak"):
            assert getattr(part, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
        assert whole.ttft_s is not None and part.ttft_s is not None
        assert part.ttft_s.mean == pytest.approx(whole.ttft_s.mean, rel=1e-9)
        assert part.ttft_s.relative_error == RELATIVE_ERROR
        for name in ("p50", "p90", "p99"):
            assert getattr(part.ttft_s, name) == pytest.approx(getattr(whole.ttft_s, name), rel=0.02), name


@pytest.mark.slow
def test_streams_do_not_depend_on_jobs() -> None:
    what = traffic(4, 3000, 30.0)
    pools = (PoolSpec(table=table(), replicas=4),)
    answers = {
        comparable(simulate_stream(pools, chunks(what, 500), config=ServeConfig(jobs=jobs), span_s=100.0))
        for jobs in (1, 2)
    }
    assert len(answers) == 1


KILLED = """
import os, signal, sys
import msgspec
from offramp.serve import PoolSpec, ServeConfig, simulate, stream
from test_serve_laws import table, traffic

parent, finish, mark = os.getpid(), stream.Stream.finish, sys.argv[1]

def deadly(self):
    if os.getpid() != parent and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(self)

stream.Stream.finish = deadly  # workers are copies of this process
what, pools = traffic(6, 210_000, 60.0), (PoolSpec(table=table(), replicas=5),)
answers = {msgspec.json.encode(simulate(pools, what, config=ServeConfig(jobs=jobs, warmup=1000))) for jobs in (1, 2)}
print(len(answers), os.path.exists(mark))
"""


def test_a_killed_process_of_a_long_trace_changes_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "mark")]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert run.stdout.split() == ["1", "True"], run.stderr


def test_a_killed_process_of_a_stream_is_a_clear_error() -> None:
    what = traffic(7, 3000, 30.0)

    def parts() -> Iterator[Requests]:
        for number, part in enumerate(chunks(what, 500)):
            if number == 3:
                for process in multiprocessing.active_children():
                    process.kill()
                    process.join()
            yield part

    pools = (PoolSpec(table=table(), replicas=4),)
    with pytest.raises(BackendError, match="was lost"):
        simulate_stream(pools, parts(), config=ServeConfig(jobs=2))


def test_streams_refuse_what_they_cannot_do() -> None:
    what = traffic(5, 10, 1.0)
    pools = (PoolSpec(table=table()),)
    with pytest.raises(InputError, match="prefix"):
        simulate_stream(pools, [what], config=ServeConfig(prefix_cache=True))
    late = replace(what, arrival_s=what.arrival_s + 100)
    with pytest.raises(InputError, match="before"):
        simulate_stream(pools, [late, what], config=ServeConfig())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=300), st.integers(0, 5))
def test_sketch_percentiles_are_within_their_stated_error(values: list[float], cuts: int) -> None:
    whole, merged = Sketch(), Sketch()
    data = np.array(values)
    whole.add(data)
    for part in np.array_split(data, cuts + 1):
        one = Sketch()
        one.add(part)
        merged.merge(one)
    assert np.array_equal(whole.counts, merged.counts) and whole.count == merged.count
    found = merged.percentiles()
    assert found is not None
    ordered = np.sort(data)
    for share, got in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        exact = ordered[int(share * (len(data) - 1))]
        assert abs(got - exact) <= RELATIVE_ERROR * exact * (1 + 1e-9)
    assert found.max == ordered[-1]
