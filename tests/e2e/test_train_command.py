"""offramp train and offramp validate on training files, from the command line."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.cli import root
from offramp.core.errors import InfeasibleError, InputError, OfframpError
from offramp.train.assumed import constants
from offramp.train.parameters import beliefs

STUDY = str(Path(__file__).resolve().parents[2] / "examples" / "train-v3" / "study.toml")
ONE = ("--set", 'candidates.chips=["huawei/ascend-910c"]')
"""One candidate, where more would only take time."""
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
def result() -> dict:
    return json.loads(run("train", STUDY, "--json"))


@pytest.fixture(scope="module")
def answer(result: dict) -> dict:
    return result["answer"]


def test_every_constant_and_belief_of_the_model_shows_in_the_answer(result: dict) -> None:
    shown = {figure["id"]: figure for figure in result["figures"]}
    for name, figure in constants().items():
        assert shown[f"train/model/{name}"]["value"] == figure.value
    for name in beliefs():
        assert shown[f"train/parameter/{name}"]["confidence"] == "assumed"
    table = result["tables"]["parameters"]
    at = {column["name"]: i for i, column in enumerate(table["columns"])}
    chips = {c["chip"] for c in result["answer"]["runs"][0]["cells"]}
    names = {*beliefs(), "unexplained_deployment", "unexplained_row"}
    assert {(row[at["chip"]], row[at["parameter"]]) for row in table["rows"]} == set(itertools.product(chips, names))
    assert all(row[at["p10"]] <= row[at["p50"]] <= row[at["p90"]] for row in table["rows"])


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


def test_the_search_finds_the_published_layout(answer: dict) -> None:
    layout = answer["runs"][0]["cells"][0]["layout"]
    assert {key: layout[key] for key in ("tp", "pp", "ep", "zero", "schedule")} == {
        "tp": 1, "pp": 16, "ep": 64, "zero": 1, "schedule": "dualpipe",
    }  # fmt: skip


def test_inference_stands_beside_training(answer: dict) -> None:
    for c in answer["runs"][0]["cells"]:
        beside = c["inference"]
        assert beside["why"] == ""
        for rate in (beside["exchange_rate"], beside["training_over_inference"]):
            assert 0.0 < rate["p10"] <= rate["p50"] <= rate["p90"]
        if c["chip"] == "nvidia/h800":
            assert beside["exchange_rate"]["p50"] == pytest.approx(1.0)
        else:
            assert 0.0 < beside["p_training_needs_more"] < 1.0
            middle = c["exchange_rate"]["p50"] / beside["exchange_rate"]["p50"]
            assert beside["training_over_inference"]["p50"] == pytest.approx(middle, rel=0.35)


def test_factors_of_being_behind_multiply_to_the_exchange_rate(answer: dict) -> None:
    for c in answer["runs"][0]["cells"]:
        product = math.prod(item["factor"] for item in c["why_slower"])
        assert product == pytest.approx(c["exchange_rate"]["p50"], rel=0.06)


def test_memory_and_software_are_among_what_binds(answer: dict) -> None:
    for c in answer["runs"][0]["cells"]:
        levers = {item["part"]: item for item in c["levers"]}
        assert 0.0 < levers["memory"]["share"] < 0.5
        assert levers["memory"]["note"].startswith("with any memory: TP")
        if "software" in levers:
            assert levers["software"]["p10"] <= levers["software"]["share"] <= levers["software"]["p90"] < 0.9
        shares = [item["share"] for item in c["levers"]]
        assert shares == sorted(shares, reverse=True)


def test_more_chips_take_fewer_days(answer: dict) -> None:
    for c in answer["runs"][0]["cells"]:
        points = c["scaling"]
        assert len(points) == 5
        days = [point["days"]["p50"] for point in points]
        assert days == sorted(days, reverse=True)
        assert days[0] / days[-1] < 16.0 * 1.1


def test_every_statement_says_what_it_rests_on(answer: dict) -> None:
    findings = answer["record"]["findings"]
    assert {finding["basis"] for finding in findings} == {"datasheet", "measured", "model", "assumed"}
    assert {finding["chip"] for finding in findings} == {"huawei/ascend-910b", "huawei/ascend-910c"}
    assert "without a number" in answer["record"]["reading"]


def test_the_record_is_about_large_pre_training_only() -> None:
    args = (
        *ONE,
        "--set",
        'workload.pretrain.model="Qwen/Qwen3-32B"',
        "--set",
        "workload.pretrain.tokens=1e12",
        "--json",
    )
    assert json.loads(run("train", STUDY, *args))["answer"]["record"] is None


def test_what_was_not_yet_published_is_not_used() -> None:
    answer = json.loads(run("train", STUDY, "--set", "study.as_of=2025-03-01", "--json"))["answer"]
    by_chip = {entry["chip"]: entry for entry in answer["runs"][0]["break_even"]}
    assert by_chip["huawei/ascend-910b"]["published"] == []
    assert all(entry["as_of"] <= "2025-03-01" for entry in answer["record"]["known"])
    layouts = {c["chip"]: c["layout"]["schedule"] for c in answer["runs"][0]["cells"] if c["status"] == "ok"}
    assert layouts["huawei/ascend-910b"] == "1f1b"
    assert layouts["nvidia/h800"] == "dualpipe"


def test_slow_nodes_and_corruption_cost_what_they_are_said_to(answer: dict) -> None:
    args = (*ONE, "--set", "train.slow_per_node_hour=1e-4", "--set", "train.corruption_per_device_hour=2e-6", "--json")
    sick = json.loads(run("train", STUDY, *args))
    plain = {c["chip"]: c for c in answer["runs"][0]["cells"]}
    for after in sick["answer"]["runs"][0]["cells"]:
        before = plain[after["chip"]]
        parts = {part["part"]: part["share"] for part in after["binds"]}
        assert parts["slow"] > 0.0
        assert parts["corruption"] > 0.0
        assert after["days"]["p50"] > before["days"]["p50"]
        assert after["goodput_check"]["simulated"] == pytest.approx(after["goodput_check"]["closed"], rel=0.02)
    used = {figure["id"] for figure in sick["figures"]}
    assert {"train/slow_factor", "train/slow_notice", "train/corruption_notice"} <= used


def test_a_run_that_waits_for_repairs_is_slower_than_one_that_shrinks() -> None:
    fixed = (*ONE, "--set", "train.spares=0.001", "--set", "train.hazard_per_device_hour=1e-4", "--json")
    shrinks = json.loads(run("train", STUDY, *fixed))["answer"]["runs"][0]["cells"][0]
    waits = json.loads(run("train", STUDY, *fixed, "--set", "train.elastic=false"))["answer"]["runs"][0]["cells"][0]
    assert waits["goodput"]["p50"] < shrinks["goodput"]["p50"]


def test_trying_uses_what_the_study_knows(answer: dict) -> None:
    args = (*ONE, "--set", 'train.port_success={"huawei/*"="90 %"}', "--set", 'train.port_time={"huawei/*"="10 d"}',
            "--set", 'train.option_value="5e9 CNY"', "--set", 'workload.pretrain.deadline="400 d"', "--json")  # fmt: skip
    told = json.loads(run("train", STUDY, *args))["answer"]["runs"][0]["break_even"]
    own = next(t for e in told if e["chip"] == "huawei/ascend-910c" for t in e["trying"] if t["stage"] == "pretrain")
    assert own["success"]["mid"] == pytest.approx(0.9)
    assert own["port_months"] == pytest.approx(10.0 / 30.4375)
    assert own["worth_trying"]
    assert own["p_deadline_trying"] <= own["p_deadline_staying"]
    before = next(
        t for e in answer["runs"][0]["break_even"] if e["chip"] == "huawei/ascend-910c"
        for t in e["trying"] if t["stage"] == "pretrain"
    )  # fmt: skip
    assert not before["worth_trying"]


def test_a_chip_with_missing_facts_gets_a_range() -> None:
    args = ("--set", 'candidates.chips=["cambricon/mlu590"]', "--json")
    found = json.loads(run("train", STUDY, *args))
    cell = found["answer"]["runs"][0]["cells"][1]
    assert cell["mode"] == "bounds"
    assert "scaleup_bandwidth" in cell["missing"]
    assert cell["days"]["p10"] < cell["days"]["p50"] < cell["days"]["p90"]
    assert any(notice["kind"] == "bounds-mode" for notice in found["warnings"])


def test_neither_chips_nor_deadline_is_answered_and_said(tmp_path: Path) -> None:
    text = Path(STUDY).read_text().replace('chips = 2048\ndeadline = "75 d"\n', "")
    text = text.replace('[[fleet]]\nchip = "nvidia/h800"\ncount = 2048\nsite = "north"\n', "")
    study = tmp_path / "open.toml"
    study.write_text(text)
    found = json.loads(run("train", str(study), *ONE, "--json"))
    cell = found["answer"]["runs"][0]["cells"][0]
    assert cell["days"]["p50"] <= 90.0
    assert cell["p_deadline"] is None
    assert any(notice["kind"] == "cluster-assumed" for notice in found["warnings"])


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


def test_same_study_same_answer() -> None:
    first, again = (json.loads(run("train", STUDY, *ONE, "--json"))["answer"] for _ in range(2))
    assert again == first


@pytest.mark.parametrize(
    ("override", "kind", "text"),
    [
        ("workload.pretrain.tokens=0", InputError, "more than 0"),
        ("workload.pretrain.chips=16", InfeasibleError, "bytes over; the largest tensor is"),
        ("search.tps=[7]", InfeasibleError, "TP 7 does not divide 128 heads"),
        ("workload.pretrain.batch_tokens=1000", InputError, "less than one sequence of 4,096"),
        ('workload.pretrain.start="2024Q1"', InputError, "in the past"),
        ('train.framework="megatrn"', InputError, "megatron-lm"),
    ],
)
def test_bad_input_says_what_where_and_how_to_mend(override: str, kind: type[OfframpError], text: str) -> None:
    with pytest.raises(kind, match=text):
        run("train", STUDY, "--set", override)


def test_a_hazard_too_high_is_said_with_its_break_even() -> None:
    args = (*ONE, "--set", "train.hazard_per_device_hour=0.5", "--json")
    found = json.loads(run("train", STUDY, *args))["answer"]["runs"][0]
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
