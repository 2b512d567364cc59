"""offramp train and offramp validate on training files, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.cli import root
from offramp.core.errors import InfeasibleError, InputError, OfframpError

STUDY = str(Path(__file__).resolve().parents[2] / "examples" / "train-v3" / "study.toml")
KEYS = {
    "chip",
    "status",
    "days",
    "mfu",
    "goodput",
    "p_deadline",
    "chips_for_deadline",
    "binds",
    "exchange_rate",
    "energy_kwh",
    "cost",
}


def run(*args: str) -> str:
    result = CliRunner().invoke(root, list(args), standalone_mode=False, catch_exceptions=False)
    return result.stdout


@pytest.fixture(scope="module")
def answer() -> dict:
    return json.loads(run("train", STUDY, "--json"))["answer"]


def test_every_chip_gets_an_outlook(answer: dict) -> None:
    cells = answer["runs"][0]["cells"]
    assert [c["chip"] for c in cells] == ["nvidia/h800", "huawei/ascend-910b", "huawei/ascend-910c", "nvidia/h20"]
    for c in cells:
        assert KEYS <= set(c)
        assert c["days"]["p10"] < c["days"]["p50"] < c["days"]["p90"]
        assert 0.0 < c["mfu"]["p50"] < 1.0
        assert sum(p["share"] for p in c["binds"]) == pytest.approx(1.0, abs=0.02)
        check = c["goodput_check"]
        assert check["simulated"] == pytest.approx(check["closed"], rel=0.02)
    assert cells[0]["exchange_rate"]["p50"] == pytest.approx(1.0)


def test_the_published_run_lies_in_the_interval(answer: dict) -> None:
    held = answer["runs"][0]["cells"][0]["published"]
    low, high = held["predicted_chip_hours"]["p10"], held["predicted_chip_hours"]["p90"]
    assert low < 2.664e6 < high
    assert low < 2.788e6 < high
    assert held["predicted_over_published"] == pytest.approx(1.0, abs=0.15)


def test_record_keeps_known_and_unknown_apart(answer: dict) -> None:
    record = answer["record"]
    assert all(entry["source"] for entry in record["known"])
    assert any(
        "No failure data" in entry["text"] or "no failure data" in entry["text"].lower() for entry in record["unknown"]
    )


def test_small_stages_risk_less(answer: dict) -> None:
    for entry in answer["runs"][0]["break_even"]:
        stake = [stage["option_value_to_break_even"] for stage in entry["trying"]]
        assert stake == sorted(stake)


def test_same_study_same_answer(answer: dict) -> None:
    again = json.loads(run("train", STUDY, "--json"))["answer"]
    assert again == answer


@pytest.mark.parametrize(
    ("override", "kind", "text"),
    [
        ("workload.pretrain.tokens=0", InputError, "more than 0"),
        ("workload.pretrain.chips=16", InfeasibleError, "bytes over; the largest tensor is"),
        ("search.tps=[7]", InfeasibleError, "TP 7 does not divide 128 heads"),
        ('workload.pretrain.start="2024Q1"', InputError, "in the past"),
        ('train.framework="megatrn"', InputError, "megatron-lm"),
    ],
)
def test_bad_input_says_what_where_and_how_to_mend(override: str, kind: type[OfframpError], text: str) -> None:
    with pytest.raises(kind, match=text):
        run("train", STUDY, "--set", override)


def test_a_hazard_too_high_is_said_with_its_break_even() -> None:
    found = json.loads(run("train", STUDY, "--set", "train.hazard_per_device_hour=0.5", "--json"))["answer"]["runs"][0]
    for c in found["cells"]:
        assert c["status"] == "never finishes"
        assert 0 < c["hazard_break_even_per_chip_hour"] < 0.5
        assert "per chip-hour" in c["why"]


def test_a_chip_without_the_dtype_is_refused_with_the_reason() -> None:
    cells = json.loads(run("train", STUDY, "--set", 'workload.pretrain.dtype="fp8"', "--json"))["answer"]["runs"][0][
        "cells"
    ]
    by_chip = {c["chip"]: c for c in cells}
    assert by_chip["huawei/ascend-910b"]["status"] == "cannot"
    assert "has no FP8" in by_chip["huawei/ascend-910b"]["why"]
    assert by_chip["nvidia/h800"]["status"] == "ok"


def test_report_answers_the_question(tmp_path: Path) -> None:
    run("train", STUDY, "--out", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    for words in ("Why did it go back to NVIDIA?", "Known", "Assumed here", "Unknown", "What would have to be true"):
        assert words in page


def write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_validate_takes_training_files(tmp_path: Path) -> None:
    base = {"id": "a", "chip": "nvidia/a100", "n_chips": "64", "model": "gpt3-175B", "hidden": "12288",
            "feedforward": "49152",
            "heads": "96", "head_dim": "128", "layers": "96", "vocab": "51200", "seq_len": "2048", "dtype": "fp16",
            "tp": "8",
            "pp": "8", "dp": "1", "interleaving": "3", "global_batch": "64", "micro_batch": "1", "recompute": "full",
            "sequence_parallel": "no", "step_time_s": "18.13", "source": "arXiv 2205.05198",
            "confidence": "measured-by-vendor"}  # fmt: skip
    rows = [base, {**base, "id": "b", "chip": "nobody/nothing"}, {**base, "id": "c", "step_time_s": "soon"}]
    found = json.loads(run("validate", write(tmp_path / "t.csv", rows), "--json"))
    assert set(found) == {"rows", "groups", "unpredicted", "rejected"}
    row = found["rows"][0]
    assert set(row) == {"id", "chip", "engine", "model", "grade", "metric", "measured", "p10", "p50", "p90"}
    assert (row["id"], row["metric"], row["measured"]) == ("a", "step_time_s", 18.13)
    assert row["p10"] < row["p50"] < row["p90"]
    assert row["p50"] == pytest.approx(18.13, rel=0.08)
    assert found["unpredicted"][0]["ids"] == ["b"]
    assert [entry["id"] for entry in found["rejected"]] == ["c"]
