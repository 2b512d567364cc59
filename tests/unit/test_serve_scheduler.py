"""One behaviour each: what the simulated scheduler does, seen from outside, on both engines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from offramp.core.errors import InfeasibleError, InputError
from offramp.cost.table import StepTable
from offramp.serve import PoolSpec, Requests, ServeConfig, ServeMetrics, Slo, simulate, steady_state

ENGINES = ("oracle", "kernel")


def table(**changes: Any) -> StepTable:
    """Steps of 10 ms plus 10 us a token; 1 ns a context token; room for 4,096 tokens."""
    values: dict[str, Any] = {
        "token_grid": np.array([0.0, 1000.0]), "base_s": np.array([0.01, 0.02]), "prefill_extra_s": np.zeros(2),
        "seq_grid": np.array([1.0, 64.0]), "decode_base_s": np.zeros(2), "decode_slope_s": np.full(2, 1e-9),
        "prefill_base_s": 0.0, "pair_s": 0.0, "seq_s": 0.0, "kv_capacity_tokens": 4096, "max_batch_tokens": 1024,
    }  # fmt: skip
    return StepTable(**(values | changes))


def requests(*rows: tuple[float, int, int], **more: Any) -> Requests:
    """Requests from (arrival, isl, osl)."""
    arrival, isl, osl = zip(*rows, strict=True)
    return Requests(arrival_s=np.array(arrival, float), isl_tokens=np.array(isl), osl_tokens=np.array(osl), **more)


def run(what: Requests, *pools: PoolSpec, engine: str = "oracle", **config: Any) -> ServeMetrics:
    settings = ServeConfig(engine=engine, keep_requests=True, estimate_capacity=False, **config)  # pyright: ignore[reportArgumentType]
    return simulate(pools or (PoolSpec(table=table()),), what, config=settings)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_request_takes_its_prefill_and_its_decode_steps(engine: str) -> None:
    answer = run(requests((1.0, 100, 11)), engine=engine)
    first, done = 0.01 + 100e-5, 10 * (0.01 + 1e-5) + sum(range(101, 111)) * 1e-9
    assert answer.ttft_s is not None and answer.e2e_s is not None and answer.tpot_s is not None
    assert answer.ttft_s.mean == pytest.approx(first)
    assert answer.e2e_s.mean == pytest.approx(first + done)
    assert answer.tpot_s.mean == pytest.approx(done / 10)
    assert answer.steps == 11


@pytest.mark.parametrize("engine", ENGINES)
def test_long_prompt_is_cut_into_chunks_of_the_budget(engine: str) -> None:
    answer = run(requests((0.0, 2500, 1)), engine=engine)
    assert answer.steps == 3
    assert answer.ttft_s is not None
    assert answer.ttft_s.mean == pytest.approx(3 * 0.01 + 2500e-5)
    assert answer.tpot_s is None, "one output token has no time per output token"


@pytest.mark.parametrize("engine", ENGINES)
def test_decodes_go_first_and_prefill_takes_the_rest_of_the_budget(engine: str) -> None:
    small = PoolSpec(table=table(max_batch_tokens=101))
    answer = run(requests((0.0, 100, 50), (0.005, 200, 1)), small, engine=engine)
    # The second prompt shares steps with one decode: 100 tokens a step, so two steps after the first prefill.
    assert answer.first_token_s is not None
    assert answer.first_token_s[1] == pytest.approx((0.011) + 2 * (0.01 + 101e-5), abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_unmixed_steps_stall_decodes_while_there_is_prefill(engine: str) -> None:
    rows = requests((0.0, 100, 20), (0.05, 3000, 2))
    mixed = run(rows, engine=engine)
    apart = run(rows, PoolSpec(table=table(mixed_steps=False)), engine=engine)
    assert mixed.itl_s is not None and apart.itl_s is not None
    assert apart.itl_s.max > 0.055 > mixed.itl_s.max


@pytest.mark.parametrize("engine", ENGINES)
def test_latest_request_is_dropped_and_recomputed_when_kv_runs_out(engine: str) -> None:
    tight = PoolSpec(table=table(kv_capacity_tokens=256))
    answer = run(requests((0.0, 100, 100), (0.001, 100, 100)), tight, engine=engine)
    assert answer.preemptions >= 1
    assert answer.kv_peak == pytest.approx(1.0)
    assert answer.done_s is not None and answer.done_s[1] > answer.done_s[0]
    assert answer.completed == 2
    reserved = run(requests((0.0, 100, 100), (0.001, 100, 100)), tight, engine=engine, preemption="none")
    assert reserved.preemptions == 0
    assert reserved.first_token_s is not None and reserved.done_s is not None
    assert reserved.first_token_s[1] > reserved.done_s[0], "without preemption it waits for room for all its tokens"


@pytest.mark.parametrize("engine", ENGINES)
def test_shared_prefix_shortens_the_second_prefill(engine: str) -> None:
    ids = {"hash_ids": np.array([1, 2, 1, 2]), "hash_offsets": np.array([0, 2, 4]), "hash_block_tokens": 512}
    rows = requests((0.0, 1024, 2), (1.0, 1024, 2), **ids)
    answer = run(rows, engine=engine, prefix_cache=True)
    # The last token is always computed, so only the first of two full blocks counts.
    assert answer.prefix_hit == pytest.approx(512 / 2048)
    assert answer.first_token_s is not None
    assert answer.first_token_s[1] - 1.0 == pytest.approx(0.01 + 512e-5)
    assert run(rows, engine=engine).prefix_hit == 0.0


@pytest.mark.parametrize("engine", ENGINES)
def test_least_recently_used_prefix_is_evicted(engine: str) -> None:
    ids = {"hash_ids": np.array([1, 2, 3, 1, 3]), "hash_offsets": np.arange(6), "hash_block_tokens": 512}
    rows = requests(*((float(t), 600, 2) for t in range(5)), **ids)
    room = PoolSpec(table=table(kv_capacity_tokens=1408))  # one running request beside one cached block, or two cached
    answer = run(rows, room, engine=engine, prefix_cache=True)
    assert answer.prefix_hit == pytest.approx(512 / 3000), "1 made room for 3, which is still there"
    more = run(rows, PoolSpec(table=table(kv_capacity_tokens=2688)), engine=engine, prefix_cache=True)
    assert more.prefix_hit == pytest.approx(2 * 512 / 3000)


@pytest.mark.parametrize("engine", ENGINES)
def test_disaggregation_adds_the_transfer_to_the_first_token(engine: str) -> None:
    slow = table(transfer_base_s=0.2, transfer_s_per_token=1e-3)
    pools = (PoolSpec(table=slow, role="prefill"), PoolSpec(table=table(), role="decode"))
    answer = run(requests((0.0, 100, 5)), *pools, engine=engine)
    assert answer.ttft_s is not None and answer.e2e_s is not None
    assert answer.ttft_s.mean == pytest.approx(0.011 + 0.2 + 0.1)
    assert answer.e2e_s.mean == pytest.approx(0.311 + 4 * 0.01001, abs=1e-5)
    assert [pool.role for pool in answer.pools] == ["prefill", "decode"]


@pytest.mark.parametrize("engine", ENGINES)
def test_serial_link_queues_transfers(engine: str) -> None:
    pools = (
        PoolSpec(table=table(), role="prefill", transfer_base_s=1.0, transfer_s_per_token=0.0),
        PoolSpec(table=table(), role="decode"),
    )
    rows = requests((0.0, 10, 2), (0.0, 10, 2))
    apart = run(rows, *pools, engine=engine)
    queued = run(rows, *pools, engine=engine, serial_link=True)
    assert apart.ttft_s is not None and queued.ttft_s is not None
    assert queued.ttft_s.max - apart.ttft_s.max == pytest.approx(1.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_synchronised_ranks_step_as_slow_as_the_slowest(engine: str) -> None:
    rows = requests((0.0, 1000, 2), (0.0, 10, 2))
    apart = run(rows, PoolSpec(table=table(virtual_engines=2)), engine=engine)
    together = run(rows, PoolSpec(table=table(virtual_engines=2, synchronised=True)), engine=engine)
    assert apart.first_token_s is not None and together.first_token_s is not None
    assert apart.first_token_s[1] == pytest.approx(0.0101)
    assert together.first_token_s[1] == pytest.approx(0.02)


@pytest.mark.parametrize("engine", ENGINES)
def test_accepted_drafts_shorten_decoding(engine: str) -> None:
    rows = requests((0.0, 100, 31))
    plain = run(rows, engine=engine)
    fast = run(rows, PoolSpec(table=table(decode_tokens=2, accept_tokens=1.5)), engine=engine)
    assert (plain.steps, fast.steps) == (31, 21)


@pytest.mark.parametrize("engine", ENGINES)
def test_decode_steps_are_padded_to_captured_sizes(engine: str) -> None:
    rows = requests(*[(0.0, 10, 3)] * 5)
    padded = run(rows, PoolSpec(table=table(graph_sizes=np.array([1, 64]))), engine=engine)
    assert padded.tpot_s is not None
    assert padded.tpot_s.mean == pytest.approx(0.01 + 64e-5, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_classes_go_to_their_own_pools(engine: str) -> None:
    pools = (PoolSpec(table=table(), slo_classes=(0,)), PoolSpec(table=table(), slo_classes=(1,)))
    rows = requests((0.0, 10, 5), (0.0, 10, 5), (0.0, 10, 5), slo_class=np.array([1, 0, 1]))
    answer = run(rows, *pools, engine=engine, slo=(Slo(ttft_s=1.0), Slo(ttft_s=1e-4)))
    assert answer.pool_by_request == [1, 0, 1]
    assert answer.goodput_share == pytest.approx(1 / 3)
    assert {part.slo_class: part.goodput_share for part in answer.by_class} == {0: 1.0, 1: 0.0}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("router", ["round-robin", "least-requests", "least-tokens"])
def test_routers_spread_equal_requests_evenly(engine: str, router: str) -> None:
    rows = requests(*[(0.0, 10, 5)] * 6)
    answer = run(rows, PoolSpec(table=table(), replicas=3), engine=engine, router=router)
    assert answer.steps == 3 * 5


@pytest.mark.parametrize("engine", ENGINES)
def test_prefix_aware_router_follows_the_cache_until_load_is_lopsided(engine: str) -> None:
    n = 8
    ids = {"hash_ids": np.ones(n, np.int64), "hash_offsets": np.arange(n + 1), "hash_block_tokens": 512}
    rows = requests(*((0.5 * i, 600, 2) for i in range(n)), **ids)
    pool = PoolSpec(table=table(), replicas=2)
    follows = run(rows, pool, engine=engine, router="prefix-aware", prefix_cache=True)
    spreads = run(rows, pool, engine=engine, router="round-robin", prefix_cache=True)
    assert follows.prefix_hit == pytest.approx(7 / 8 * 512 / 600)
    assert spreads.prefix_hit == pytest.approx(6 / 8 * 512 / 600)


def test_what_does_not_fit_is_refused_and_counted_by_reason() -> None:
    rows = requests((0.0, 100, 5), (1.0, 5000, 5), (2.0, 0, 5), (3.0, 100, 0), (4.0, 1500, 600))
    answer = run(rows, PoolSpec(table=table(context_tokens=2000)))
    assert answer.rejected == {"context": 2, "no-input": 1, "no-output": 1}
    assert answer.completed == 1
    assert answer.done_s is not None and math.isnan(answer.done_s[1])
    only_kv = run(requests((0.0, 100, 5), (1.0, 5000, 5)))
    assert only_kv.rejected == {"kv-capacity": 1}


def test_nothing_fits_is_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="kv-capacity"):
        run(requests((0.0, 100_000, 5)))


@pytest.mark.parametrize("engine", ENGINES)
def test_overload_is_unstable_and_has_no_percentiles(engine: str) -> None:
    rng = np.random.default_rng(3)
    n = 400
    table_ = table(max_seqs=8)
    lengths = {"isl_tokens": rng.integers(50, 150, n), "osl_tokens": rng.integers(10, 30, n)}
    capacity = float(steady_state(table_, 100, 20, concurrency=8).req_per_s[0])
    for load, stable in ((0.5, True), (2.0, False)):
        arrival = np.cumsum(rng.exponential(1 / (load * capacity), n))
        rows = Requests(arrival_s=arrival, **lengths)
        answer = simulate((PoolSpec(table=table_),), rows, config=ServeConfig(engine=engine))  # pyright: ignore[reportArgumentType]
        assert answer.stable is stable
        assert (answer.ttft_s is None) is not stable
        assert (answer.goodput_share is None) is not stable
        assert answer.capacity_req_per_s == pytest.approx(capacity, rel=0.05)
        assert answer.headroom == pytest.approx(1 / load, rel=0.15)
        assert (answer.queue_growth_req_per_s > 0.2 * capacity) is not stable


def test_all_at_once_is_one_batch_not_a_rate() -> None:
    answer = run(requests(*[(5.0, 10, 5)] * 20))
    assert answer.stable
    assert answer.offered_req_per_s is None and answer.headroom is None


def test_host_delay_comes_before_the_first_step() -> None:
    answer = run(requests((0.0, 100, 2)), PoolSpec(table=table(first_token_s=0.25)))
    assert answer.ttft_s is not None
    assert answer.ttft_s.mean == pytest.approx(0.261)


def test_warm_up_requests_are_left_out() -> None:
    rows = requests(*[(0.0, 100, 5)] * 30)
    answer = run(rows, mode="closed", concurrency=3, warmup=6)
    assert answer.completed == 24
    assert answer.output_tokens == 24 * 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "closed"}, "concurrency"),
        ({"watermark": 1.5}, "watermark"),
        ({"jobs": 0}, "jobs"),
    ],
)
def test_contradictory_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(requests((0.0, 10, 5)), **change)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InputError, match="ascending"):
        requests((1.0, 10, 5), (0.0, 10, 5))
    with pytest.raises(InputError, match="finite"):
        requests((float("nan"), 10, 5))
    with pytest.raises(InputError, match="hash_offsets"):
        requests((0.0, 10, 5), hash_ids=np.array([1]), hash_offsets=np.array([0, 2]))


def test_a_prefill_pool_needs_a_decode_pool() -> None:
    with pytest.raises(InputError, match="decode"):
        run(requests((0.0, 10, 5)), PoolSpec(table=table(), role="prefill"))


def test_steps_that_take_no_time_are_refused() -> None:
    with pytest.raises(InputError, match="positive"):
        run(requests((0.0, 10, 5)), PoolSpec(table=table(base_s=np.zeros(2))))
