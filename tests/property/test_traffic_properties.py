"""Tokens and requests are conserved by everything that is done to a trace."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.traffic import Trace


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 60))
    gaps = draw(st.lists(st.floats(0, 100), min_size=n, max_size=n))
    arrival = np.cumsum(gaps) - gaps[0]
    isl = np.array(draw(st.lists(st.integers(1, 10_000), min_size=n, max_size=n)), dtype=np.int64)
    osl = np.array(draw(st.lists(st.integers(1, 1000), min_size=n, max_size=n)), dtype=np.int64)
    lengths = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))
    ids = np.array(
        draw(st.lists(st.integers(0, 20), min_size=int(lengths.sum()), max_size=int(lengths.sum()))), dtype=np.int64
    )
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Trace(arrival_s=arrival, isl_tokens=isl, osl_tokens=osl, hash_offsets=offsets, hash_ids=ids, block_tokens=16)


def rows(trace: Trace) -> list[tuple[int, int, tuple[int, ...]]]:
    assert trace.hash_ids is not None
    assert trace.hash_offsets is not None
    cuts = trace.hash_offsets
    return [
        (int(trace.isl_tokens[i]), int(trace.osl_tokens[i]), tuple(trace.hash_ids[cuts[i] : cuts[i + 1]].tolist()))
        for i in range(len(trace))
    ]


@given(traces(), st.integers(0, 80), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_parts_hold_whole_requests(trace: Trace, n: int, seed: int) -> None:
    assert rows(trace.head(n)) == rows(trace)[:n]
    sample = trace.sample(n, seed)
    assert len(sample) == min(n, len(trace))
    remaining = rows(trace)
    for row in rows(sample):  # in order, each once
        remaining = remaining[remaining.index(row) + 1 :]
    assert np.all(np.diff(sample.arrival_s) >= 0)


@given(traces(), st.floats(1e-3, 1e4))
@settings(max_examples=100, deadline=None)
def test_scaling_changes_time_only(trace: Trace, rate: float) -> None:
    if trace.duration_s <= 1e-9:
        return
    scaled = trace.scaled_to(rate)
    assert rows(scaled) == rows(trace)
    assert abs(scaled.mean_rate - rate) <= 1e-6 * rate
    assert abs(scaled.scaled_to(trace.mean_rate).duration_s - trace.duration_s) <= 1e-6 * trace.duration_s


@given(traces(), st.floats(0.1, 1000))
@settings(max_examples=100, deadline=None)
def test_peak_is_at_least_the_mean(trace: Trace, window_s: float) -> None:
    assert trace.peak_to_mean(window_s) >= 1.0 - 1e-12
    assert 0.0 <= trace.prefix_share() <= 1.0


@given(traces())
@settings(max_examples=100, deadline=None)
def test_prefix_share_equals_a_plain_count(trace: Trace) -> None:
    seen: set[int] = set()
    hit = 0
    for isl, _, blocks in rows(trace):
        lead = 0
        for block in blocks:
            if block not in seen:
                break
            lead += 1
        # a block repeated inside one prompt is new at its first place only
        hit += min(lead * 16, isl)
        seen.update(blocks)
    assert abs(trace.prefix_share() - hit / trace.isl_tokens.sum()) < 1e-9 or _repeats(trace)


def _repeats(trace: Trace) -> bool:
    return any(len(set(blocks)) != len(blocks) for _, _, blocks in rows(trace))
