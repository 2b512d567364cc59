"""Synthetic traffic meets the statistics that it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from offramp import traffic
from offramp.core.errors import CatalogError, InputError

N = 20_000


@pytest.mark.parametrize("name", traffic.traffic_presets())
def test_preset_meets_its_own_statistics(name: str) -> None:
    facts = traffic.traffic_preset(name)
    trace = traffic.synthetic(name, 7.0, N, seed=3)
    assert len(trace) == N
    assert trace.mean_rate == pytest.approx(7.0)
    assert trace.isl_tokens.mean() == pytest.approx(facts.params.isl.expected, rel=0.06)
    assert trace.osl_tokens.mean() == pytest.approx(facts.params.osl.expected, rel=0.06)
    assert trace.isl_tokens.min() >= 1
    if facts.params.prefix is not None:
        assert trace.prefix_share() == pytest.approx(facts.params.prefix.share, abs=0.03)
    assert facts.source
    assert facts.url


@pytest.mark.parametrize("name", traffic.traffic_presets())
def test_same_seed_same_trace(name: str) -> None:
    first, again, other = (traffic.synthetic(name, 2.0, 500, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.arrival_s, again.arrival_s)
    assert np.array_equal(first.isl_tokens, again.isl_tokens)
    assert not np.array_equal(first.isl_tokens, other.isl_tokens)
    if first.hash_ids is not None and again.hash_ids is not None:
        assert np.array_equal(first.hash_ids, again.hash_ids)


def test_presets_differ_as_their_uses_do() -> None:
    chat, code, reasoning, agent = (
        traffic.synthetic(name, 1.0, N, 0) for name in ("azure-2023-chat", "azure-2023-code", "reasoning", "agent")
    )
    assert reasoning.osl_tokens.mean() > 5 * chat.osl_tokens.mean() > 20 * code.osl_tokens.mean()
    assert agent.isl_tokens.mean() > 4 * chat.isl_tokens.mean()
    assert agent.prefix_share() > 0.5
    assert np.percentile(reasoning.osl_tokens, 99) > 10_000


@pytest.mark.parametrize(("cv", "tolerance"), [(0.5, 0.03), (1.0, 0.03), (3.0, 0.1)])
def test_gamma_gaps_have_the_cv(cv: float, tolerance: float) -> None:
    params = traffic.params_of("", {"isl_mean": 100, "osl_mean": 10, "arrivals": "gamma", "cv": cv})
    gaps = np.diff(traffic.synthetic(params, 5.0, 60_000, 1).arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=tolerance)


def test_uniform_arrivals_are_even() -> None:
    params = traffic.params_of("", {"isl_mean": 100, "osl_mean": 10, "arrivals": "uniform"})
    assert np.diff(traffic.synthetic(params, 4.0, 100, 1).arrival_s) == pytest.approx(0.25)


def test_lognormal_lengths_have_mean_and_cv() -> None:
    params = traffic.params_of("", {"isl_mean": 2000, "isl_cv": 0.8, "osl_mean": 300, "osl_cv": 0.5})
    trace = traffic.synthetic(params, 1.0, 100_000, 5)
    for values, mean, cv in ((trace.isl_tokens, 2000, 0.8), (trace.osl_tokens, 300, 0.5)):
        assert values.mean() == pytest.approx(mean, rel=0.02)
        assert values.std() / values.mean() == pytest.approx(cv, rel=0.05)


def test_lognormal_pinned_by_percentiles() -> None:
    lengths = traffic.Lengths(p50=100, p90=1000)
    params = traffic.Params(isl=lengths, osl=traffic.Lengths(mean=10, cv=1))
    values = traffic.synthetic(params, 1.0, 100_000, 5).isl_tokens
    assert np.percentile(values, 50) == pytest.approx(100, rel=0.03)
    assert np.percentile(values, 90) == pytest.approx(1000, rel=0.03)


def test_constant_lengths() -> None:
    params = traffic.params_of("", {"isl_mean": 512, "isl_cv": 0, "osl_mean": 64, "osl_cv": 0})
    trace = traffic.synthetic(params, 1.0, 50, 0)
    assert set(trace.isl_tokens.tolist()) == {512}


def test_a_mean_alone_stretches_the_shape_of_a_preset() -> None:
    params = traffic.params_of("reasoning", {"osl_mean": 4000})
    plain, longer = traffic.synthetic("reasoning", 1.0, N, 1), traffic.synthetic(params, 1.0, N, 1)
    factor = longer.osl_tokens.mean() / plain.osl_tokens.mean()
    assert factor == pytest.approx(4000 / 1527.4, rel=0.01)
    assert np.percentile(longer.osl_tokens, 90) / np.percentile(plain.osl_tokens, 90) == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_prefix_share_is_met(share: float) -> None:
    params = traffic.params_of("azure-2023-chat", {"prefix_share": share})
    assert traffic.synthetic(params, 5.0, 10_000, 1).prefix_share() == pytest.approx(share, abs=0.03)


def test_no_prefix_share_means_no_equal_blocks() -> None:
    trace = traffic.synthetic(traffic.params_of("agent", {"prefix_share": 0.0}), 5.0, 2000, 1)
    assert trace.prefix_share() == 0.0


def test_blocks_form_a_prefix_tree() -> None:
    """Equal ids stand at equal places and follow equal ids, as hashes of whole prefixes do."""
    trace = traffic.synthetic("agent", 5.0, 3000, 1)
    assert trace.hash_ids is not None
    assert trace.hash_offsets is not None
    before: dict[int, int] = {}
    for i in range(len(trace)):
        row = trace.hash_ids[trace.hash_offsets[i] : trace.hash_offsets[i + 1]].tolist()
        assert len(row) == -(-int(trace.isl_tokens[i]) // trace.block_tokens)
        for place, block in enumerate(row):
            parent = row[place - 1] if place else -1
            assert before.setdefault(block, parent) == parent


def test_diurnal_curve_shapes_the_day() -> None:
    params = traffic.params_of("", {"isl_mean": 10, "osl_mean": 10, "diurnal": [1, 0, 3, 1]})
    trace = traffic.synthetic(params, 0.5, 86_400, 1)  # two days
    hours = (trace.arrival_s % 86_400) // 21_600
    counts = np.bincount(hours.astype(int), minlength=4) / len(trace)
    assert counts == pytest.approx([0.2, 0.0, 0.6, 0.2], abs=0.01)
    assert trace.mean_rate == pytest.approx(0.5, rel=0.05)


def test_rank_correlation_is_met() -> None:
    params = traffic.params_of("", {"isl_mean": 1000, "osl_mean": 100, "correlation": 0.6})
    trace = traffic.synthetic(params, 1.0, 50_000, 1)
    rank = [np.argsort(np.argsort(values)) for values in (trace.isl_tokens, trace.osl_tokens)]
    assert np.corrcoef(rank[0], rank[1])[0, 1] == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    "overrides",
    [{"isl_mean": -1, "osl_mean": 5}, {"isl_mean": 5}, {"isl_mean": 5, "osl_mean": float("nan")},
     {"isl_mean": 5, "osl_mean": 5, "cv": 0}, {"isl_mean": 5, "osl_mean": 5, "colour": 3},
     {"isl_mean": 5, "osl_mean": 5, "correlation": 2}, {"isl_mean": 5, "osl_mean": 5, "prefix_share": 1.5},
     {"isl_mean": 5, "osl_mean": 5, "isl_cv": -1}, {"isl_mean": 5, "osl_mean": 5, "diurnal": [0, 0]}],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(overrides: dict[str, object]) -> None:
    with pytest.raises(InputError):
        traffic.params_of("", overrides, where="study.toml:$.workload[0].synthetic")


def test_unknown_preset_gives_near_misses() -> None:
    with pytest.raises(CatalogError, match="reasoning"):
        traffic.synthetic("reasonning", 1.0, 10, 0)


@pytest.mark.parametrize(("rate", "n"), [(0.0, 10), (-1.0, 10), (float("nan"), 10), (1.0, 0), (1.0, 10**9)])
def test_rate_and_number_out_of_range_are_refused(rate: float, n: int) -> None:
    with pytest.raises(InputError):
        traffic.synthetic("agent", rate, n, 0)
