"""Traces of every schema, and files that are damaged in every way that happens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from offramp import traffic
from offramp.core.errors import InputError

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
PLAIN = "arrival_s,isl_tokens,osl_tokens\n"
MOONCAKE = '{"timestamp": %d, "input_length": %d, "output_length": 5, "hash_ids": %s}\n'


def load(folder: Path, content: str | bytes, name: str = "trace.csv") -> traffic.Trace:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return traffic.load(file)


def test_azure_2023(tmp_path: Path) -> None:
    trace = load(tmp_path, AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n")
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 4.314579], abs=1e-9)
    assert trace.isl_tokens.tolist() == [374, 396]
    assert trace.osl_tokens.tolist() == [44, 109]
    assert trace.hash_ids is None
    assert "Azure" in trace.notes[0]


def test_azure_2024_with_zone(tmp_path: Path) -> None:
    trace = load(tmp_path, AZURE + "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,2399,6\n")
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 0.99007], abs=1e-9)


def test_burstgpt_drops_failed_requests(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,API log\n118,GPT-4,417,0,417,API log\n"
    trace = load(tmp_path, head + rows)
    assert trace.arrival_s.tolist() == [0.0, 40.0]
    assert any("dropped 1 rows with no output tokens" in note for note in trace.notes)


def test_vidur(tmp_path: Path) -> None:
    trace = load(tmp_path, "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n4.5,396,109\n")
    assert trace.arrival_s.tolist() == [0.0, 4.0]


def test_vidur_without_arrivals_names_the_missing_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="arrived_at is missing"):
        load(tmp_path, "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n374,44,418,8.5\n")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN + "0,10,20\n1,30,40\n",
        PLAIN.replace(",", ";") + "0;10;20\n1;30;40\n",
        "\ufeff" + PLAIN + "0,10,20\n1,30,40\n",
        PLAIN.replace("\n", "\r\n") + "0,10,20\r\n1,30,40\r\n",
        '"arrival_s","isl_tokens","osl_tokens"\n"0","10","20"\n1,30,40\n',
        "osl_tokens,model,arrival_s,isl_tokens\n20,x,0,10\n40,y,1e0,30\n",
    ],
)
def test_plain_csv_in_its_dialects(tmp_path: Path, content: str) -> None:
    trace = load(tmp_path, content)
    assert trace.arrival_s.tolist() == [0.0, 1.0]
    assert trace.isl_tokens.tolist() == [10, 30]
    assert trace.osl_tokens.tolist() == [20, 40]


def test_mooncake_keeps_prefix_blocks(tmp_path: Path) -> None:
    trace = load(tmp_path, MOONCAKE % (0, 600, "[0, 1]") + MOONCAKE % (27482, 700, "[0, 2]"), "m.jsonl")
    assert trace.arrival_s.tolist() == [0.0, 27.482]
    assert trace.hash_ids is not None
    assert trace.hash_offsets is not None
    assert trace.hash_ids.tolist() == [0, 1, 0, 2]
    assert trace.hash_offsets.tolist() == [0, 2, 4]
    assert trace.block_tokens == 512
    assert trace.prefix_share() == pytest.approx(512 / 1300)


def test_bailian_counts_seconds_and_small_blocks(tmp_path: Path) -> None:
    rows = [
        {"chat_id": chat, "parent_chat_id": -1, "timestamp": at, "input_length": 33, "output_length": 5, "type": "text",
         "turn": 1, "hash_ids": [1, 2, 3]}
        for chat, at in ((1, 0.1), (2, 1.1))
    ]  # fmt: skip
    trace = load(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "b.jsonl")
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 1.0])
    assert trace.block_tokens == 16


def test_bench_serve_result(tmp_path: Path) -> None:
    record = {"num_prompts": 2, "request_rate": 2.0, "input_lens": [10, 20], "output_lens": [3, 4]}
    spaced = load(tmp_path, json.dumps(record), "r.json")
    assert spaced.arrival_s.tolist() == [0.0, 0.5]
    assert any("no start_times" in note for note in spaced.notes)
    timed = load(tmp_path, json.dumps({**record, "start_times": [100.5, 101.0]}, indent=1), "r.json")
    assert timed.arrival_s.tolist() == [0.0, 0.5]
    closed = load(tmp_path, json.dumps({**record, "request_rate": "inf"}), "r.json")
    assert closed.arrival_s.tolist() == [0.0, 0.0]


def test_bench_serve_without_details_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--save-detailed"):
        load(tmp_path, '{"num_prompts": 2, "mean_ttft_ms": 3.0}', "r.json")


def test_gzip(tmp_path: Path) -> None:
    assert len(load(tmp_path, gzip.compress((PLAIN + "0,10,20\n1,30,40\n").encode()), "t.csv.gz")) == 2


@pytest.mark.parametrize(
    ("rows", "left", "remark"),
    [
        ("0,NaN,44\n1,3,4\n2,3,4\n", 2, "whole number"),
        ("0,-3,44\n1,3,4\n2,3,4\n", 2, "no input tokens"),
        ("0,3,0\n1,3,4\n2,3,4\n", 2, "no output tokens"),
        ("0,abc,44\n1,3,4\n2,3,4\n", 2, "whole number"),
        ("0,3.5,44\n1,3.0,4\n2,3,4\n", 2, "whole number"),
        ("x,3,44\n1,3,4\n2,3,4\n", 2, "not a time"),
        ("inf,3,44\n1,3,4\n2,3,4\n", 2, "not a time"),
        ("0,1e300,44\n1,3,4\n2,3,4\n", 2, "more than"),
        ("0,3,44,9\n1,3,4\n2,3,4\n", 2, "not rows"),
        ("0,3,44\n1,3,4\n2,3", 2, "not rows"),
        ("5,3,44\n1,3,4\n2,3,4\n", 3, "sorted by arrival: 1 rows"),
        ("0,3,44\n1,3,4", 2, "may be cut"),
    ],
)  # fmt: skip
def test_unusable_rows_are_counted_and_order_is_mended(tmp_path: Path, rows: str, left: int, remark: str) -> None:
    trace = load(tmp_path, PLAIN + rows)
    assert len(trace) == left
    assert trace.arrival_s[0] == 0.0
    assert np.all(np.diff(trace.arrival_s) >= 0)
    assert any(remark in note for note in trace.notes), trace.notes


def test_duplicate_times_are_kept_in_file_order(tmp_path: Path) -> None:
    trace = load(tmp_path, PLAIN + "1,1,1\n0,2,2\n1,3,3\n0,4,4\n")
    assert trace.isl_tokens.tolist() == [2, 4, 1, 3]


def test_one_request(tmp_path: Path) -> None:
    trace = load(tmp_path, PLAIN + "7,10,20\n")
    assert (len(trace), trace.duration_s, trace.mean_rate, trace.peak_to_mean()) == (1, 0.0, 0.0, 1.0)
    assert trace.scaled_to(3.0) is trace


def test_broken_json_lines_cost_one_request_each(tmp_path: Path) -> None:
    lines = (
        MOONCAKE % (0, 600, "[0, 1]")
        + "hello\n"
        + MOONCAKE % (1, 9, "null")
        + MOONCAKE % (3, 700, "[0, 2]")
        + '{"timest'
    )
    trace = load(tmp_path, lines, "m.jsonl")
    assert len(trace) == 3
    assert trace.hash_offsets is not None
    assert trace.hash_offsets.tolist() == [0, 2, 2, 4]
    assert any("dropped 2 lines" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "empty"), (b"   \n", "empty"), (AZURE.encode(), "no requests"), (b"0,1,2\n1,2,3\n", "column names"),
        (b"TIMESTAMP,ContextTokenss,GeneratedTokens\n1,2,3\n", 'Is "ContextTokenss" meant for ContextTokens'),
        (b"TIMESTAMP,ContextTokens\n1,2\n", "GeneratedTokens is missing"),
        (b"colour,shape\nred,round\n", "no known trace"),
        (b"arrival_s,isl_tokens,osl_tokens\n0,0,0\n1,0,0\n", "2 of 2 rows cannot be used"),
        (b"\xff\xfea\x00", "UTF-16"), (b"arrival_s,isl_tokens,osl_tokens,caf\xe9\n0,1,2,3\n", "not UTF-8 at byte 35"),
        (bytes(range(256)) * 9, "UTF-8"),
        (b'{"timestamp": 0, "input_len": 6, "output_length": 5}\n', "input_length is missing"),
        (b'{"a": 1}', "no known trace"), (b"[1, 2]", "no known trace"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        load(tmp_path, content)
    assert caught.value.where.endswith("trace.csv")


def test_address_of_the_user_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        traffic.load(tmp_path / "none.csv", where="study.toml:$.workload[0].trace")
    assert caught.value.where == "study.toml:$.workload[0].trace"


def test_folder_and_cut_gzip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        traffic.load(tmp_path)
    with pytest.raises(InputError, match="Is it complete"):
        load(tmp_path, gzip.compress((PLAIN + "0,10,20\n" * 5000).encode())[:60], "t.csv.gz")


def test_reading_stops_after_max_requests(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "".join(f"{i},10,20\n" for i in range(500)), encoding="utf-8")
    assert len(traffic.load(file, max_requests=100)) == 100
    assert len(traffic.load(file, max_requests=10_000)) == 500


@pytest.mark.parametrize("batch", [1, 7, 100, 5000])
def test_batches_hold_what_the_whole_holds(tmp_path: Path, batch: int) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(
        "".join(MOONCAKE % (40 * i, 600 + i, [0, i, i + 1][: 1 + i % 3]) for i in range(200)), encoding="utf-8"
    )
    whole, parts = traffic.load(file), list(traffic.iter_batches(file, batch))
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    assert np.concatenate([part.arrival_s for part in parts]) == pytest.approx(whole.arrival_s)
    assert np.concatenate([part.isl_tokens for part in parts]).tolist() == whole.isl_tokens.tolist()
    assert whole.hash_ids is not None
    assert (
        np.concatenate([part.hash_ids for part in parts if part.hash_ids is not None]).tolist()
        == whole.hash_ids.tolist()
    )


def test_disorder_across_batches_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "9,1,1\n10,1,1\n8,1,1\n11,1,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="out of order"):
        list(traffic.iter_batches(file, 2))
    assert len(traffic.load(file)) == 4


def test_many_rows_of_text_numbers(tmp_path: Path) -> None:
    """A bad value late in a file of several parse blocks: every other row is read once."""
    rows = [f"{i},{1 + i % 50},{1 + i % 7}\n" for i in range(900_000)]
    rows[850_000] = "850000,oops,3\n"
    trace = load(tmp_path, PLAIN + "".join(rows))
    assert len(trace) == 899_999
    assert int(trace.arrival_s[-1]) == 899_999
    assert len(np.unique(trace.arrival_s)) == 899_999


def test_dates_that_the_calendar_lacks_are_dropped(tmp_path: Path) -> None:
    rows = "2024-02-30 00:00:00,5,5\n2024-02-28 00:00:01+00:00,6,6\n2024-02-28 00:00:03+00:00,7,7\n"
    trace = load(tmp_path, AZURE + rows)
    assert trace.arrival_s.tolist() == [0.0, 2.0]
    assert any("not a time" in note for note in trace.notes)


def test_numbers_where_dates_are_usual(tmp_path: Path) -> None:
    assert load(tmp_path, AZURE + "1.5,5,5\n3.5,6,6\n").arrival_s.tolist() == [0.0, 2.0]
