"""Benchmark files of other tools: told by content, in our terms, contradictions named. Own small files."""

from __future__ import annotations

import json

import pytest

from offramp import intake
from offramp.app import measured
from offramp.core.errors import InputError
from offramp.validate.rows import Row, parse_row

VLLM = {
    "date": "20260102-030405",
    "backend": "vllm",
    "model_id": "Qwen/Qwen3-32B",
    "num_prompts": 100,
    "request_rate": "inf",
    "max_concurrency": 8,
    "duration": 100.0,
    "completed": 100,
    "failed": 0,
    "total_input_tokens": 100_000,
    "total_output_tokens": 20_100,
    "request_throughput": 1.0,
    "output_throughput": 201.0,
    "total_token_throughput": 1201.0,
    "mean_ttft_ms": 400.0,
    "median_ttft_ms": 380.0,
    "p99_ttft_ms": 900.0,
    "mean_tpot_ms": 38.0,
    "median_tpot_ms": 37.0,
    "p99_tpot_ms": 50.0,
    "mean_itl_ms": 38.0,
    "median_itl_ms": 36.0,
    "p99_itl_ms": 60.0,
    "chip": "nvidia/h20",
    "n_chips": 4,
    "tp": 4,
}
SGLANG = {
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": 5.0,
    "max_concurrency": 256,
    "duration": 200.0,
    "completed": 1000,
    "total_input_tokens": 300_000,
    "total_output_tokens": 200_000,
    "request_throughput": 5.0,
    "input_throughput": 1500.0,
    "output_throughput": 1000.0,
    "mean_e2e_latency_ms": 2390.0,
    "median_e2e_latency_ms": 2000.0,
    "mean_ttft_ms": 0.0,
    "mean_tpot_ms": 11.8,
    "mean_itl_ms": 11.8,
    "median_itl_ms": 11.0,
    "accept_length": None,
}


def guidellm(totals=(50, 0)):
    def good(**stats):
        return {"successful": {"count": totals[0], **stats}}

    metrics = {
        "request_totals": {"successful": totals[0], "errored": totals[1]},
        "time_to_first_token_ms": good(mean=100.0, median=90.0, percentiles={"p90": 150.0, "p99": 300.0}),
        "time_per_output_token_ms": good(mean=25.0, median=25.0),
        "inter_token_latency_ms": good(mean=20.0, median=20.0, percentiles={"p99": 30.0}),
        "request_latency": good(mean=2.08, median=2.0),
        "requests_per_second": good(mean=3.8), "output_tokens_per_second": good(mean=380.0),
        "prompt_token_count": good(mean=500.0), "output_token_count": good(mean=100.0),
    }  # fmt: skip
    run = {
        "config": {"strategy": {"type_": "concurrent", "streams": 8}, "backend": {"model": "Qwen/Qwen3-32B"}},
        "metrics": metrics,
    }
    return {
        "metadata": {"guidellm_version": "0.6.0"},
        "args": {"backend_kwargs": {"api_key": "secret"}},
        "benchmarks": [run],
    }


def aiperf(chunks=990.0):
    def stat(unit="ms", **found):
        return {"unit": unit, **found}

    return {
        "aiperf_version": "0.10.0", "request_throughput": stat("requests/sec", avg=4.0),
        "request_latency": stat(avg=2080.0, p50=2000.0, p99=3000.0, count=10),
        "time_to_first_token": stat(avg=100.0, p50=90.0, p90=150.0), "inter_token_latency": stat(avg=20.0, p50=20.0),
        "inter_chunk_latency": stat(avg=20.0, p50=19.0, count=chunks), "request_count": stat("requests", avg=10.0),
        "output_sequence_length": stat("tokens", avg=100.0, sum=1000.0, count=10),
        "input_sequence_length": stat("tokens", avg=500.0), "output_token_throughput": stat("tokens/sec", avg=400.0),
        "input_config": {"phases": [{"concurrency": 8}], "models": {"items": [{"name": "Qwen/Qwen3-32B"}]}},
        "start_time": "2026-07-03T04:23:09",
    }  # fmt: skip


INFERENCE_PERF = {
    "load_summary": {"count": 100, "requested_rate": 5.0, "send_duration": 20.0},
    "successes": {
        "count": 100,
        "latency": {
            "request_latency": {"mean": 2.08, "median": 2.0},
            "time_to_first_token": {"mean": 0.1, "median": 0.09},
            "time_per_output_token": {"mean": 0.010, "median": 0.010},
            "inter_token_latency": {"mean": 0.010, "median": 0.00001},
        },
        "throughput": {"requests_per_sec": 5.0, "output_tokens_per_sec": 500.0},
        "prompt_len": {"mean": 500.0},
        "output_len": {"mean": 100.0},
    },
    "failures": {"count": 0},
}
MLPERF = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 10.00
Completed tokens per second: 2900.00
Result is : VALID
================================================
Additional Stats
================================================
Scheduled samples per second : 10.10
Mean First Token latency (ns)  : 500000000
50.00 percentile first token latency (ns)   : 400000000
99.00 percentile first token latency (ns)   : 1500000000
Mean Time to Output Token (ns)              : 100000000
99.00 percentile time to output token (ns)   : 180000000
min_query_count : 24576
"""


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def only(folder, content, name="b.json"):
    found = intake.bench_of(write(folder, name, content))
    assert len(found) == 1
    return found[0]


def test_vllm_means_and_deployment(tmp_path):
    bench = only(tmp_path, VLLM)
    assert (bench.tool, bench.isl, bench.osl, bench.concurrency, bench.rate) == (
        "vllm bench serve",
        1000.0,
        201.0,
        8.0,
        None,
    )
    assert bench.metrics["tpot_ms_mean"] == 38.0
    row = parse_row(intake.to_rows([bench])[0])
    assert isinstance(row, Row)
    assert (row.chip, row.chips, row.tp, row.mode, row.date) == ("nvidia/h20", 4.0, 4, "closed", "2026-01-02")


def test_vllm_rows_can_be_predicted(tmp_path):
    loaded = measured.load(write(tmp_path, "b.json", VLLM))
    assert [case.row.id for case in loaded.cases] == ["own-b.json-1"]


def test_all_prompts_at_once_is_offline(tmp_path):
    row = intake.to_rows([only(tmp_path, {**VLLM, "max_concurrency": None})])[0]
    parsed = parse_row(row)
    assert isinstance(parsed, Row)
    assert parsed.mode == "offline"


def test_sglang_lines_and_a_rate_that_bounds(tmp_path):
    text = "\n".join(json.dumps({**SGLANG, "mean_ttft_ms": 42.0, "request_rate": rate}) for rate in (5.0, 6.0)) + "\n"
    found = intake.bench_of(write(tmp_path, "s.jsonl", text))
    assert [bench.rate for bench in found] == [5.0, 6.0]
    assert {bench.tool for bench in found} == {"sglang bench_serving"}
    row = intake.to_rows(found)[0]
    assert row["rate"] == ""  # 256 allowed, 12 in flight: the rate bounds, and the row is that closed loop
    assert float(row["concurrency"]) == pytest.approx(5.0 * found[0].metrics["e2e_ms_mean"] / 1e3, rel=0.05)
    assert "arrivals at 5 requests/s" in row["other"]


def test_guidellm_tpot_without_the_first_token(tmp_path):
    bench = only(tmp_path, guidellm())
    assert bench.metrics["tpot_ms_mean"] == 20.0  # its inter-token latency; its own time per output token is left out
    assert not any(name.startswith("itl") for name in bench.metrics)
    assert bench.percentiles["ttft_p90"] == pytest.approx(0.15)
    assert "secret" not in json.dumps(intake.to_rows([bench]))


def test_guidellm_failures_are_named(tmp_path):
    assert any("500 of 532 requests failed" in note for note in only(tmp_path, guidellm((32, 500))).notes)


def test_aiperf_chunks_that_are_tokens_are_itl(tmp_path):
    assert only(tmp_path, aiperf()).metrics["itl_ms_mean"] == 20.0
    assert "itl_ms_mean" not in only(tmp_path, aiperf(chunks=400.0)).metrics


def test_aiperf_in_another_unit(tmp_path):
    data = aiperf()
    data["time_to_first_token"] = {"unit": "sec", "avg": 0.1}
    assert only(tmp_path, data).metrics["ttft_ms_mean"] == pytest.approx(100.0)
    data["time_to_first_token"] = {"unit": "furlongs", "avg": 0.1}
    bench = only(tmp_path, data)
    assert "ttft_ms_mean" not in bench.metrics
    assert any("furlongs" in note for note in bench.notes)


def test_a_tpot_that_contradicts_the_latency_is_replaced(tmp_path):
    bench = only(tmp_path, INFERENCE_PERF)
    assert bench.metrics["tpot_ms_mean"] == pytest.approx((2080 - 100) / 99)
    assert any("does not reproduce" in text for text in bench.definitions)


def test_mlperf_summary_with_a_file_beside_it(tmp_path):
    path = write(tmp_path, "mlperf_log_summary.txt", MLPERF)
    write(
        tmp_path,
        "mlperf_log_summary.txt.toml",
        'model = "meta-llama/Llama-2-70b-chat-hf"\nchip = "nvidia/h200"\nn_chips = 8\nisl = 294.45\n',
    )
    bench = intake.bench_of(path)[0]
    assert bench.metrics["tpot_ms_mean"] == pytest.approx(100.0)
    assert bench.metrics["ttft_ms_p99"] == pytest.approx(1500.0)
    assert (bench.osl, bench.rate, bench.isl) == (290.0, 10.1, 294.45)
    row = intake.to_rows([bench])[0]
    assert (row["chip"], row["n_chips"]) == ("nvidia/h200", "8")


def test_little_law(tmp_path):
    bench = only(tmp_path, {**VLLM, "request_throughput": 4.0})
    assert any("breaks Little's law" in note for note in bench.notes)
    idle = only(tmp_path, {**VLLM, "max_concurrency": 64})
    assert any("did not fill its concurrency" in note for note in idle.notes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"), ("   \n", "is empty"), ("{", "is not JSON"), ('{"a": 1}', "no benchmark tool that is known"),
        ("[1, 2]", "holds no JSON object"), ("hello", "neither JSON nor JSON lines"),
    ],
)  # fmt: skip
def test_foreign_files_are_named(tmp_path, content, said):
    with pytest.raises(InputError, match=said):
        intake.bench_of(write(tmp_path, "x.json", content))


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="not UTF-8"):
        intake.bench_of(path)


def test_a_typo_beside_the_file(tmp_path):
    path = write(tmp_path, "b.json", VLLM)
    write(tmp_path, "b.json.toml", 'chps = "x"\n')
    with pytest.raises(InputError, match="unknown name"):
        intake.bench_of(path)


def test_the_servers_own_report_is_refused(tmp_path):
    report = {"load_summary": {}, "successes": {"count": 1, "request_latency": {"mean": 1.0}}}
    with pytest.raises(InputError, match="server metrics"):
        intake.bench_of(write(tmp_path, "p.json", report))


def test_what_the_user_says_stands_before_the_file(tmp_path):
    path = write(tmp_path, "b.json", VLLM)
    said = intake.said_of(["chips=16", "layout=sglang TP8 DP2", "engine=SGLang 0.5.3"], chip="nvidia/h200")
    assert said == {
        "chip": "nvidia/h200", "n_chips": "16", "tp": "8", "pp": "1", "dp": "2", "engine": "SGLang",
        "engine_version": "0.5.3",
    }  # fmt: skip
    bench = intake.bench_of(path, said)[0]
    row = intake.to_rows([bench])[0]
    assert (row["chip"], row["n_chips"], row["tp"], row["engine_version"]) == ("nvidia/h200", "16", "8", "0.5.3")
    assert any("you say" in note for note in bench.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chips", "is not NAME=VALUE"), ("chips=", "is not NAME=VALUE"), ("chips=-1", "no number above zero"),
        ("chips=1.5", "no number above zero"), ("chips=nan", "no number above zero"), ("chps=3", "Near matches: chips"),
        ("layout=8", "is no layout"), ("layout=TP0", "is no layout"), ("layout=", "is not NAME=VALUE"),
        ("isl=inf", "no number above zero"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_read(text, said):
    with pytest.raises(InputError, match=said):
        intake.said_of([text])


def test_an_overloaded_run_keeps_throughput_only():
    row = {
        "rate": "100",
        "req_s": "60",
        "e2e_ms_mean": "2000",
        "ttft_ms_mean": "1500",
        "tpot_ms_mean": "10",
        "osl": "51",
    }
    made = intake.as_closed(row)
    assert (made["rate"], float(made["concurrency"]), made["ttft_ms_mean"]) == ("", 120.0, "")
    assert made["tpot_ms_mean"] == "10" and "only 60 requests/s were completed" in made["other"]


def test_a_short_run_of_a_client_that_paused_is_no_overload():
    row = intake.as_closed(
        {"rate": "2", "req_s": "0.4", "e2e_ms_mean": "20", "ttft_ms_mean": "10", "other": "num_prompts=2"}
    )
    assert row["ttft_ms_mean"] == "10" and "the client paused" in row["other"]


def test_chunks_of_several_tokens_are_no_itl(tmp_path):
    run = {**VLLM, "mean_tpot_ms": 14.0, "mean_itl_ms": 44.0, "spec_decode_acceptance_length": 3.16}
    bench = only(tmp_path, run)
    assert not [name for name in bench.metrics if name.startswith("itl_")]
    assert bench.metrics["tpot_ms_mean"] == 14.0 and bench.facts["spec"] == "on, accept length 3.16"


def test_a_result_without_totals_keeps_rate_and_latencies(tmp_path):
    kept = ("date", "backend", "model_id", "num_prompts", "mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms")
    bench = only(tmp_path, {**{name: VLLM[name] for name in kept}, "request_rate": 1.0, "max_concurrency": None})
    assert (bench.tool, bench.rate, bench.requests, bench.isl) == ("vllm bench serve", 1.0, 100, None)
    assert bench.notes[0].startswith("the file states no input length, no output length")


def test_counts_of_the_server_stand_before_those_of_the_client(tmp_path):
    flow = {"requests_per_sec": 0.5, "input_tokens_per_sec": 500.0, "output_tokens_per_sec": 50.0}
    good = {
        "count": 10, "latency": {"request_latency": {"mean": 4.0}}, "throughput": flow, "prompt_len": {"mean": 1000.0},
        "prompt_tokens": {"mean": 1600.0, "total": 16000, "cached": 4000}, "output_tokens": {"mean": 101.0},
    }  # fmt: skip
    bench = only(tmp_path, {"load_summary": {"requested_rate": 0.5}, "successes": good})
    assert (bench.isl, bench.osl, bench.metrics["input_tok_s"]) == (1600.0, 101.0, 800.0)
    assert bench.facts["prefix_hit"] == "25%" and "client count 1600 and 1000" in bench.notes[0]
    del good["prompt_len"]
    assert only(tmp_path, {"load_summary": {"requested_rate": 0.5}, "successes": good}).isl == 1600.0


def test_a_rate_without_latencies_stays():
    row = {"rate": "100", "req_s": "60"}
    assert intake.as_closed(row) == row


def test_lines_of_old_sglang_releases(tmp_path):
    line = {
        "backend": "sglang", "request_rate": 2.0, "max_concurrency": None, "total_input_tokens": 6000,
        "total_output_tokens": 3000, "total_output_tokens_retokenized": 2990, "mean_e2e_latency_ms": 3000.0,
        "median_ttft_ms": 60.0, "output_throughput": 100.0, "duration": 30.0, "completed": 60,
    }  # fmt: skip
    bench = only(tmp_path, line)
    assert (bench.tool, bench.metrics["req_s"], bench.isl) == ("sglang bench_serving", 2.0, 100.0)
    assert float(intake.to_rows([bench])[0]["concurrency"]) == pytest.approx(6.0)


def test_genai_perf_without_streaming_and_with_too_many_tokens(tmp_path):
    data = {
        "request_throughput": {"unit": "requests/sec", "avg": 20.0},
        "request_latency": {"unit": "ms", "avg": 5000.0}, "time_to_first_token": {"unit": "ms", "avg": 5000.0},
        "output_sequence_length": {"avg": 2500.0}, "input_sequence_length": {"avg": 200.0},
        "input_config": {"model": ["my/model"], "concurrency": 100, "request_rate": None, "output_tokens_mean": 500},
    }  # fmt: skip
    bench = only(tmp_path, data)
    assert (bench.tool, bench.concurrency, bench.model) == ("genai-perf", 100.0, "my/model")
    assert "ttft_ms_mean" not in bench.metrics and "tpot_ms_mean" not in bench.metrics
    assert any("not streamed" in note for note in bench.notes)
    assert any("where 500 were asked for" in note for note in bench.notes)


def test_a_benchmark_file_calibrates_end_to_end(tmp_path):
    """vllm bench serve names no chip and no layout: said on the command line, its rows refine the parameter file."""
    from click.testing import CliRunner

    from offramp.cli import root

    bare = {key: value for key, value in VLLM.items() if key not in ("chip", "n_chips", "tp", "engine_version")}
    path, out = write(tmp_path, "b.json", bare), tmp_path / "mine.json"
    refused = CliRunner().invoke(root, ["calibrate", "--from", str(path), "--out", str(out)])
    assert isinstance(refused.exception, InputError) and "--set chips=8" in str(refused.exception) and not out.exists()
    told = ["--chip", "h20", "--set", "chips=4", "--set", "layout=vllm TP4", "--set", "version=0.11.0"]
    done = CliRunner().invoke(root, ["calibrate", "--from", str(path), "--out", str(out), *told, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)["answer"]
    assert answer["rows_used"] == 1
    by_metric = {group["group"]["metric"]: group for group in answer["after"]}
    assert by_metric["tpot_ms_mean"]["median_ape"] < 0.25
    texts = [notice["text"] for notice in json.loads(done.stdout)["warnings"]]
    assert any("TPOT is (latency - TTFT)" in text for text in texts)


def test_bench_takes_several_files_in_one_go(tmp_path):
    from click.testing import CliRunner

    from offramp.cli import root

    one, two = write(tmp_path, "a.json", VLLM), write(tmp_path, "b.json", {**VLLM, "model_id": "Qwen/Qwen3-8B"})
    out = tmp_path / "s.toml"
    done = CliRunner().invoke(root, ["init", "--bench", str(one), str(two), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert all(f"benchmark: {path}" in out.read_text("utf-8") for path in (one, two))
