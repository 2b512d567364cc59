"""Real traces: what their publishers say of them, and the presets made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offramp import traffic


@pytest.mark.parametrize(
    ("name", "requests", "isl_mean", "osl_mean"),
    [
        ("azure_llm_2023_conv.csv", 19_366, 1155, 211),
        ("azure_llm_2023_code.csv", 8_819, 2048, 28),
        ("mooncake_conversation_trace.jsonl", 12_031, 12_035, 343),
    ],
)
def test_published_sizes_and_means(shared: Path, name: str, requests: int, isl_mean: int, osl_mean: int) -> None:
    trace = traffic.load(shared / "traces" / name)
    assert len(trace) == requests
    assert round(trace.isl_tokens.mean()) == isl_mean
    assert round(trace.osl_tokens.mean()) == osl_mean
    assert 3400 < trace.duration_s < 3600
    assert not any("dropped" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("azure-2023-chat", "azure_llm_2023_conv.csv"),
        ("azure-2023-code", "azure_llm_2023_code.csv"),
        ("mooncake-conversation", "mooncake_conversation_trace.jsonl"),
    ],
)
def test_preset_has_the_shape_of_its_trace(shared: Path, preset: str, name: str) -> None:
    real = traffic.load(shared / "traces" / name)
    made = traffic.synthetic(preset, real.mean_rate, 40_000, seed=11)
    for ours, theirs in ((made.isl_tokens, real.isl_tokens), (made.osl_tokens, real.osl_tokens)):
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.03)
        for percent in (10, 25, 50, 75, 90, 99):
            assert np.percentile(ours, percent) == pytest.approx(np.percentile(theirs, percent), rel=0.12, abs=2)
    assert made.prefix_share() == pytest.approx(real.prefix_share(), abs=0.03)


def test_mooncake_prefix_share_is_near_the_published_cache_ratio(shared: Path) -> None:
    """The paper states 40 % for this trace; whole blocks of requests that came before give a little less."""
    trace = traffic.load(shared / "traces" / "mooncake_conversation_trace.jsonl")
    assert 0.35 < trace.prefix_share() < 0.41
