"""Tokens and requests are conserved by everything that is done to a trace."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.errors import OfframpError
from offramp.traffic import Trace, load


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


_GOOD = [
    b"arrival_s,isl_tokens,osl_tokens\n" + b"".join(b"%d,%d,%d\n" % (i, i + 1, i + 2) for i in range(20)),
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99,396,109\n",
    b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n' * 5,
    b'{"num_prompts":2,"input_lens":[10,20],"output_lens":[3,4],"start_times":[100.5,101.0]}',
]


@given(
    st.sampled_from(_GOOD),
    st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4), st.integers(0, 9)), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_gives_a_sound_trace_or_an_error(good: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    data = good
    for at, put, cut in edits:
        data = data[:at] + put + data[at + cut :]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace"
        file.write_bytes(data)
        try:
            trace = load(file)
        except OfframpError as error:
            assert error.where
            return
    assert len(trace) > 0
    assert trace.isl_tokens.min() >= 1
    assert trace.osl_tokens.min() >= 1
    assert trace.arrival_s[0] == 0.0
    assert np.all(np.diff(trace.arrival_s) >= 0)
    trace.statistics()
