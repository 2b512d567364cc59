"""Settings of a simulation that no deployment has, and requests that it refuses: said, not guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from offramp.app.simulate import simulate
from offramp.core.errors import InputError

MODEL, CHIP = "Qwen/Qwen3-8B", "nvidia/h20"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("layout.replicas=0", "not between 1 and"), ("layout.replicas=100000000000", "not between 1 and"),
        ("layout.max_batch_tokens=0", "not between 1 and"), ("layout.max_seqs=-1", "not between 1 and"),
        ("load.spec_accept=-1", "not between 0 and"), ("load.concurrency=-3", "not between 0 and"),
        ("load.warmup=50", "leaves none of 50 requests"),
    ],
)  # fmt: skip
def test_impossible_counts_are_refused_by_path(setting: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        simulate(MODEL, CHIP, rate=5.0, requests=50, overrides=[setting])
    assert setting.split("=")[0] in str(caught.value)


def test_more_requests_than_memory_holds_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit in memory"):
        simulate(MODEL, CHIP, rate=5.0, requests=10**11)


def test_refused_requests_are_told(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = ["arrival_s,isl_tokens,osl_tokens", *(f"{i},500,20" for i in range(9)), "9,500000,20"]
    trace.write_text("\n".join(rows) + "\n")
    result = simulate(MODEL, CHIP, trace=str(trace))
    told = [note.text for note in result.warnings if note.kind == "refused"]
    assert told == ["1 of 10 requests are refused: 1 longer than the context of the model"]
    assert result.answer["mid"]["completed"] == 9
