"""The migration's physics, operator by operator: what makes one chip good at what another is bad at."""

from __future__ import annotations

import numpy as np
import pytest

from offramp import arch, catalog
from offramp.arch.record import Model
from offramp.cost import (
    Pool,
    Shard,
    Steps,
    Traffic,
    build_setting,
    from_prior,
    load_prior,
    memory_for,
    shard_of,
    step_time,
)
from offramp.cost.collectives import usable_bytes_per_s
from offramp.cost.features import seconds
from offramp.cost.operators import Op, step_work
from offramp.cost.precision import choose
from offramp.cost.routing import inclusion, rank_imbalance, touched_experts
from offramp.cost.step import Setting, step_features

ONE = np.ones(1)
CALIBRATION = from_prior(load_prior(), draws=8)


@pytest.fixture(scope="module")
def facts() -> catalog.Catalog:
    return catalog.load()


@pytest.fixture(scope="module")
def qwen() -> Model:
    return arch.load("Qwen/Qwen3-32B")


@pytest.fixture(scope="module")
def deepseek() -> Model:
    return arch.load("deepseek-ai/DeepSeek-R1")


def setting(facts: catalog.Catalog, model: Model, chip: str, **pool: object) -> tuple[Setting, Pool]:
    chosen = Pool(chip=chip, **pool)  # type: ignore[arg-type]
    return build_setting(model, chosen, catalog=facts, calibration=CALIBRATION), chosen


def decode(seqs: float, context: float) -> Steps:
    return Steps(
        tokens=ONE * seqs, decode_seqs=ONE * seqs, decode_context=ONE * seqs * context, prefill_pairs=0 * ONE,
        chunks=0 * ONE,
    )  # fmt: skip


def prefill(tokens: float) -> Steps:
    return Steps(
        tokens=ONE * tokens, decode_seqs=0 * ONE, decode_context=0 * ONE, prefill_pairs=ONE * tokens**2 / 2, chunks=ONE
    )


def named(model: Model, s: Setting, shard: Shard, steps: Steps, name: str) -> Op:
    return next(op for op in step_work(model, s.precision, shard, steps, Traffic()).ops if op.name == name)


def median(setup: tuple[Setting, Pool], steps: Steps) -> float:
    return float(np.median(step_time(setup[0], shard_of(setup[1], 1), steps).total))


def test_gqa_decode_is_bound_by_bandwidth_on_both_chips(facts: catalog.Catalog, qwen: Model) -> None:
    for chip in ("nvidia/h20", "huawei/ascend-910b2"):
        s, pool = setting(facts, qwen, chip)
        op = named(qwen, s, shard_of(pool, 1), decode(32, 4096), "decode attention")
        intensity = float(op.flop[0] / op.stream_bytes[0])
        assert intensity == pytest.approx(qwen.layers[0].attention.heads / qwen.layers[0].attention.kv_heads)
        ridge = s.device.peak_flop_per_s["bf16"] / s.device.memory_bytes_per_s
        assert intensity < ridge


def test_gqa_decode_needs_about_two_and_a_half_times_the_chips_for_the_same_bandwidth(facts: catalog.Catalog) -> None:
    h20, ascend = facts.chip("nvidia/h20"), facts.chip("huawei/ascend-910b2")
    ratio = h20.require("memory_bandwidth").si / ascend.require("memory_bandwidth").si
    assert ratio == pytest.approx(2.5, rel=0.02)


def test_absorbed_mla_decode_is_compute_bound_on_h20_and_near_the_ridge_on_910b(
    facts: catalog.Catalog, deepseek: Model
) -> None:
    ridges = {}
    for chip in ("nvidia/h20", "huawei/ascend-910b2"):
        s, pool = setting(facts, deepseek, chip)
        op = named(deepseek, s, shard_of(pool, 1), decode(64, 4096), "decode attention")
        intensity = float(op.flop[0] / op.stream_bytes[0])
        assert intensity == pytest.approx(242, rel=0.01)  # 2 x 128 x (2 x 512 + 64) / ((512 + 64) x 2)
        ridges[chip] = intensity / (s.device.peak_flop_per_s["bf16"] / s.device.memory_bytes_per_s)
    assert ridges["nvidia/h20"] > 6
    assert 0.9 < ridges["huawei/ascend-910b2"] < 1.25


def test_mla_latent_is_not_divided_by_tensor_parallelism(facts: catalog.Catalog, deepseek: Model) -> None:
    s, pool = setting(facts, deepseek, "nvidia/h20", tp=8)
    eight = named(deepseek, s, shard_of(pool, 1), decode(8, 4096), "decode attention")
    one = named(deepseek, s, shard_of(Pool(chip="nvidia/h20"), 1), decode(8, 4096), "decode attention")
    assert eight.stream_bytes[0] == one.stream_bytes[0]
    assert eight.flop[0] == pytest.approx(one.flop[0] / 8)


def test_prefill_favours_the_910b(facts: catalog.Catalog, qwen: Model) -> None:
    h20 = median(setting(facts, qwen, "nvidia/h20"), prefill(4096))
    ascend = median(setting(facts, qwen, "huawei/ascend-910b2"), prefill(4096))
    assert 1.5 < h20 / ascend < 3.2


def test_decode_favours_the_h20(facts: catalog.Catalog, qwen: Model) -> None:
    h20 = median(setting(facts, qwen, "nvidia/h20"), decode(8, 2048))
    ascend = median(setting(facts, qwen, "huawei/ascend-910b2"), decode(8, 2048))
    assert 1.6 < ascend / h20 < 4.0


def test_a_pair_on_a_full_mesh_has_one_of_seven_links(facts: catalog.Catalog, qwen: Model) -> None:
    s, _ = setting(facts, qwen, "huawei/ascend-910b2", tp=2)
    usable = usable_bytes_per_s(s.device.fabric, np.array([2.0, 4.0, 8.0]))
    np.testing.assert_allclose(usable, np.array([28e9, 84e9, 196e9]), rtol=0.01)
    switch, _ = setting(facts, qwen, "nvidia/h20", tp=2)
    assert np.ptp(usable_bytes_per_s(switch.device.fabric, np.array([2.0, 8.0]))) == 0


def test_tp2_over_one_mesh_link_is_link_starved(facts: catalog.Catalog, qwen: Model) -> None:
    shares = {}
    for chip in ("nvidia/h20", "huawei/ascend-910b2"):
        setup = setting(facts, qwen, chip, tp=2)
        time = step_time(setup[0], shard_of(setup[1], 1), prefill(4096))
        shares[chip] = float(np.median(time.messages / time.total))
    assert shares["huawei/ascend-910b2"] > 3 * shares["nvidia/h20"]


def test_w8a8_is_slower_than_bf16_at_few_rows_and_faster_at_many(facts: catalog.Catalog, qwen: Model) -> None:
    bf16 = setting(facts, qwen, "huawei/ascend-910b2", tp=8)
    int8 = setting(facts, qwen, "huawei/ascend-910b2", tp=8, weights_dtype="int8")
    small = arch.load("Qwen/Qwen3-0.6B")
    few_bf16 = median(setting(facts, small, "huawei/ascend-910b2"), decode(8, 128))
    few_int8 = median(setting(facts, small, "huawei/ascend-910b2", weights_dtype="int8"), decode(8, 128))
    assert few_int8 > few_bf16
    assert median(int8, prefill(4096)) < median(bf16, prefill(4096))


def test_missing_fp8_runs_as_int8_and_says_so(facts: catalog.Catalog, deepseek: Model) -> None:
    s, _ = setting(facts, deepseek, "huawei/ascend-910b2")
    assert s.precision.experts == "int8"
    assert "W8A8" in s.precision.fallback
    native, _ = setting(facts, deepseek, "nvidia/h20")
    assert native.precision.experts == "fp8"
    assert native.precision.fallback == ""


def test_without_fp8_and_int8_weights_double(deepseek: Model) -> None:
    precision = choose(deepseek, device_dtypes=frozenset({"bf16"}))
    assert (precision.experts, precision.experts_compute) == ("bf16", "bf16")


def test_fp8_kv_halves_the_mla_kernels_compute_on_h20(facts: catalog.Catalog, deepseek: Model) -> None:
    plain, pool = setting(facts, deepseek, "nvidia/h20", tp=8)
    halved, _ = setting(facts, deepseek, "nvidia/h20", tp=8, kv_dtype="fp8")
    assert plain.precision.attention_math == "bf16"
    assert halved.precision.attention_math == "fp8"
    shard = shard_of(pool, 1)

    def attention_s(s: Setting) -> float:
        features = step_features(deepseek, s.device, s.precision, s.routing, shard=shard, steps=decode(64, 8192))
        names = [op.name for op in step_work(deepseek, s.precision, shard, decode(64, 8192), s.routing).ops]
        return sum(float(features.compute_s[i][0]) for i, name in enumerate(names) if name == "decode attention")

    assert attention_s(halved) == pytest.approx(attention_s(plain) / 2, rel=1e-6)


def test_kv_heads_replicate_beyond_their_number(facts: catalog.Catalog, qwen: Model) -> None:
    at = {
        tp: memory_for(*setting(facts, qwen, "nvidia/h20", tp=tp), context_tokens=4096).kv_bytes_per_token
        for tp in (4, 8, 16)
    }
    assert at[8] == pytest.approx(at[4] / 2)
    assert at[16] == pytest.approx(at[8])


def test_what_does_not_fit_is_said_with_the_bytes(facts: catalog.Catalog, deepseek: Model) -> None:
    memory = memory_for(*setting(facts, deepseek, "nvidia/h20", tp=4), context_tokens=4096)
    assert not memory.fits
    assert memory.weights_bytes > memory.capacity_bytes
    eight = memory_for(*setting(facts, deepseek, "nvidia/h20", tp=8), context_tokens=4096)
    assert eight.fits


def test_deepseek_r1_fits_four_180_gb_chips_in_fp8(facts: catalog.Catalog, deepseek: Model) -> None:
    s, pool = setting(facts, deepseek, "nvidia/b200", tp=4)
    assert memory_for(s, pool, context_tokens=2048).weights_bytes < s.device.memory_bytes


def test_weights_by_rank_add_up_to_the_model(facts: catalog.Catalog, deepseek: Model, qwen: Model) -> None:
    for model, slack in ((deepseek, 0.03), (qwen, 0.02)):
        s, pool = setting(facts, model, "nvidia/h20")
        memory = memory_for(s, pool, context_tokens=1024)
        assert memory.weights_bytes == pytest.approx(model.weight_bytes(), rel=slack)


def test_experts_touched_grow_to_all_and_routing_probabilities_add_up() -> None:
    tokens = np.array([1.0, 8.0, 64.0, 4096.0])
    touched = touched_experts(256, 8, 0.3, tokens)
    assert touched[0] == pytest.approx(8.0, rel=1e-6)
    assert np.all(np.diff(touched) > 0)
    assert touched[-1] == pytest.approx(256, rel=1e-3)
    assert inclusion(64, 6, 1.5).sum() == pytest.approx(6.0)
    assert inclusion(64, 6, 1.5).max() <= 1.0


def test_skewed_routing_touches_fewer_experts_and_loads_ranks_unevenly() -> None:
    tokens = np.array([32.0])
    assert touched_experts(128, 8, 1.0, tokens)[0] < touched_experts(128, 8, 0.0, tokens)[0]
    even = rank_imbalance(128, 8, 0.0, ranks=np.array([16.0]), tokens=np.array([65536.0]), balanced=0.0)[0]
    skewed = rank_imbalance(128, 8, 1.0, ranks=np.array([16.0]), tokens=np.array([65536.0]), balanced=0.0)[0]
    helped = rank_imbalance(128, 8, 1.0, ranks=np.array([16.0]), tokens=np.array([65536.0]), balanced=0.8)[0]
    assert 1.0 <= even < 1.05
    assert skewed > helped > even


def test_one_home_for_the_roofline(facts: catalog.Catalog, qwen: Model) -> None:
    s, pool = setting(facts, qwen, "nvidia/h20")
    features = step_features(qwen, s.device, s.precision, s.routing, shard=shard_of(pool, 1), steps=decode(4, 512))
    np.testing.assert_array_equal(
        seconds(features, s.parameters).total, step_time(s, shard_of(pool, 1), decode(4, 512)).total
    )
