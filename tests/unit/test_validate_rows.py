"""Published rows: spellings, benchmark conventions, self-contradictions, damaged files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from offramp.app import measured
from offramp.core.errors import InputError
from offramp.validate.judge import binomial_band, floor_holds, interval_score
from offramp.validate.predict import Prediction
from offramp.validate.rows import Problem, Row, breaks_little, dtype_id, engine_id, parse_row, read_rows

BASE = {
    "id": "a-1", "chip": "nvidia/h200", "model": "Qwen/Qwen3-32B", "engine": "vLLM", "engine_version": "v0.12.0",
    "n_chips": "2", "tp": "2", "isl": "1024", "osl": "512", "concurrency": "16", "spec": "none", "grade": "A",
    "ttft_ms_mean": "120", "tpot_ms_mean": "20", "output_tok_s": "790",
}  # fmt: skip


def row(**changes: str) -> Row:
    found = parse_row({**BASE, **changes})
    assert isinstance(found, Row), found
    return found


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    names = sorted({name for r in rows for name in r}, key=lambda n: (n != "id", n))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("text", "engine"),
    [("SGLang (Ascend backend)", "sglang"), ("vLLM-Ascend", "vllm-ascend"), ("TensorRT 10.11, CUDA 12.9", "tensorrt-llm"),
     ("dynamo-trt", "tensorrt-llm"), ("Chitu", "chitu"), ("MindIE", "mindie"), ("vLLM (presumed)", "vllm")],
)  # fmt: skip
def test_engines_are_known_by_many_names(text: str, engine: str) -> None:
    assert engine_id(text) == engine


@pytest.mark.parametrize(
    ("text", "dtype"), [("W8A8C8", "int8"), ("NVFP4", "fp4"), ("FP8 (block)", "fp8"), ("AWQ-INT4", "int4"), ("", "")]
)
def test_dtypes_are_known_by_many_names(text: str, dtype: str) -> None:
    assert dtype_id(text) == dtype


def test_uniform_lengths_use_their_mean() -> None:
    found = row(length_kind="uniform-0.8-1.0")
    assert (found.isl, found.osl) == (pytest.approx(921.6), pytest.approx(460.8))


def test_decode_pool_of_a_disaggregated_row_counts_its_own_chips() -> None:
    found = row(prefill_chips="8", decode_chips="24", n_chips="32")
    assert found.disaggregated


def test_gaps_between_chunks_are_not_inter_token_latency() -> None:
    found = row(itl_ms_median="743", tpot_ms_median="7.4")
    assert found.per_chunk_itl
    assert not any(name.startswith("itl") for name in found.metrics)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"concurrency": "", "rate": ""}, "neither concurrency nor rate"), ({"isl": ""}, "length is not stated"),
     ({"output_tok_s": "nan", "ttft_ms_mean": "-5", "tpot_ms_mean": "20+"}, "no usable metric"), ({"id": " "}, "no id")],
)  # fmt: skip
def test_what_cannot_be_read_says_why(changes: dict[str, str], words: str) -> None:
    found = parse_row({**BASE, **changes})
    assert isinstance(found, Problem)
    assert words in found.why


def test_littles_law_rejects_a_wrong_chip_count() -> None:
    assert breaks_little(row()) == ""
    assert "Little" in breaks_little(row(output_tok_s="395"))
    assert breaks_little(row(output_tok_s="395", grade="floor")) == ""


def test_an_open_loop_run_that_ended_before_its_load_was_there_is_rejected() -> None:
    # 10 requests of 512 tokens at 1/s: the last is done after 10 s + 102 s
    short = {"concurrency": "", "rate": "1", "ttft_ms_mean": "500", "tpot_ms_mean": "200", "output_tok_s": "45.6"}
    assert "about 10 requests were sent" in breaks_little(row(**short))
    assert breaks_little(row(**{**short, "output_tok_s": "505"})) == ""  # a long run
    assert breaks_little(row(**{**short, "ttft_ms_mean": "90000"})) == ""  # overloaded: prompts queue
    assert breaks_little(row(**short, grade="floor")) == ""


def test_a_disaggregated_row_of_one_of_several_prefill_workers_is_rejected(tmp_path: Path) -> None:
    apart = {
        "model": "deepseek-ai/DeepSeek-R1", "chip": "nvidia/gb300", "weights_dtype": "FP8", "engine": "TensorRT-LLM",
        "n_chips": "20", "tp": "16", "disagg": "yes", "prefill_chips": "4", "decode_chips": "16", "isl": "8192",
        "osl": "1024", "concurrency": "666", "ttft_ms_mean": "3798", "tpot_ms_mean": "11.5", "output_tok_s": "",
    }  # fmt: skip
    file = write(tmp_path / "pd.csv", [{**BASE, **apart}, {**BASE, **apart, "id": "a-2", "concurrency": "60"}])
    loaded = measured.load(file)
    assert [(p.id, "prefill chips that it states" in p.why) for p in loaded.rejected] == [("a-1", True)]
    assert [case.row.id for case in loaded.cases] == ["a-2"]


def test_a_file_is_sorted_into_cases_unpredicted_and_rejected(tmp_path: Path) -> None:
    rows = [
        BASE, {**BASE}, {**BASE, "id": "a-2", "model": "nobody/knows"}, {**BASE, "id": "a-3", "output_tok_s": "100"},
        {**BASE, "id": "a-4", "chip": "nvidia/h2000"}, {**BASE, "id": "a-5", "engine_version": ""},
        {**BASE, "id": "a-6", "tp": "8", "ep": "8", "n_chips": "64", "model": "deepseek-ai/DeepSeek-R1"},
    ]  # fmt: skip
    loaded = measured.load(write(tmp_path / "rows.csv", rows))
    assert [case.row.id for case in loaded.cases] == ["a-1", "a-5", "a-6"]
    assert {p.id: p.why for p in loaded.rejected}["a-1"] == "the id occurs twice"
    assert "Little" in {p.id: p.why for p in loaded.rejected}["a-3"]
    assert sum(len(ids) for ids in loaded.unpredicted.values()) == 2
    assert (loaded.missing_version, loaded.suspect_chips) == (1, ("a-6",))


def test_hostile_files_are_named(tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.csv"
    renamed.write_text("id,chips,model,tpot_ms_mean\n1,a,b,3\n")
    with pytest.raises(InputError, match="no column chip"):
        list(read_rows(renamed))
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"id,chip,model,tpot_ms_mean\n\xff\xfe,a,b,3\n")
    with pytest.raises(InputError, match="not UTF-8"):
        list(read_rows(binary))
    (tmp_path / "empty.csv").write_text("id,chip,model,tpot_ms_mean\n")
    with pytest.raises(InputError, match="no rows"):
        measured.load(tmp_path / "empty.csv")
    with pytest.raises(InputError, match="no such file"):
        measured.load(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="is a folder"):
        measured.load(tmp_path)


def prediction(metric: str, measured_value: float) -> Prediction:
    return Prediction(
        id="f", chip="c", engine="e", model="m", grade="floor", metric=metric, measured=measured_value, p10=80, p50=100,
        p90=125,
    )  # fmt: skip


def test_floors_are_bounds() -> None:
    assert floor_holds(prediction("output_tok_s", 120))
    assert not floor_holds(prediction("output_tok_s", 130))
    assert floor_holds(prediction("tpot_ms_mean", 85))
    assert not floor_holds(prediction("tpot_ms_mean", 70))


def test_interval_scores_and_bands() -> None:
    assert interval_score(prediction("output_tok_s", 100)) == pytest.approx(0.4463, abs=1e-3)
    assert interval_score(prediction("output_tok_s", 250)) > interval_score(prediction("output_tok_s", 100)) + 6
    low, high = binomial_band(100)
    assert 0.70 <= low <= 0.73
    assert 0.86 <= high <= 0.89
