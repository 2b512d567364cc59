"""Benchmark runs written as JSON: vllm bench serve, SGLang, GuideLLM, AIPerf and genai-perf, inference-perf.

Definitions were read in the tools' own sources: GuideLLM 0.7 ``schemas/request_stats.py``, AIPerf
``metrics/types/inter_token_latency_metric.py``, inference-perf 0.6 ``reportgen/base.py``, and the serving benchmarks of
vLLM and SGLang.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from offramp.core.units import MILLI
from offramp.intake.bench import CHUNK_GAP, FACTS, Bench
from offramp.intake.files import dig, number

Item = dict[str, Any]
MOST_COUNTS: Final = 0.05
"""Client and server may differ by this share in their count of input tokens (templates, special tokens)."""
UNSTREAMED: Final = 0.001
"""TTFT and latency that differ by less than this share are one number."""
MOST_ANSWER: Final = 1.5
"""Answers longer than asked for by more are counted wrongly, not longer. Assumed: tokenisers differ by 20 % at most."""
CHUNK_TOKENS: Final = 1.25
"""Gaps between chunks this much longer than the time per token hold several tokens. Assumed: means of requests of unlike
lengths differ by less."""
_STATS: Final = {"mean": "mean", "avg": "mean", "median": "median", "p50": "median", "p99": "p99"}


def is_vllm(item: Item) -> bool:
    """Whether it is the result of ``vllm bench serve`` or the older benchmark_serving.py.

    vLLM-Ascend's benchmark runs of 2025 keep latencies and settings and leave out totals and throughputs.
    """
    whole = {"request_throughput", "output_throughput", "duration"} <= item.keys()
    return whole or {"mean_ttft_ms", "mean_tpot_ms", "request_rate", "num_prompts", "model_id"} <= item.keys()


def is_sglang(item: Item) -> bool:
    """Whether it is a line of ``sglang.bench_serving``; releases before 0.4 wrote no request throughput."""
    if is_vllm(item):
        return "mean_e2e_latency_ms" in item or "input_throughput" in item
    return {"backend", "duration", "completed", "output_throughput", "total_output_tokens_retokenized"} <= item.keys()


def is_guidellm(item: Item) -> bool:
    """Whether it is a GuideLLM report."""
    runs = item.get("benchmarks")
    return isinstance(runs, list) and any(isinstance(run, dict) and "metrics" in run for run in runs)


def is_aiperf(item: Item) -> bool:
    """Whether it is a profile export of AIPerf or genai-perf."""
    return isinstance(item.get("request_throughput"), dict) and isinstance(item.get("request_latency"), dict)


def is_inference_perf(item: Item) -> bool:
    """Whether it is a life-cycle report of inference-perf."""
    return "load_summary" in item and isinstance(dig(item, "successes"), dict)


def vllm(items: list[Item], where: str) -> list[Bench]:
    """Runs of vLLM's benchmark."""
    said = (
        "TPOT is (latency - TTFT) / (output tokens - 1) per request, as here",
        "ITL is the gap between streamed chunks: equal to the gap between tokens unless several tokens are sent at "
        "once",
    )
    return [_flat(item, _place(where, i, items), tool="vllm bench serve", e2e="e2el", said=said)
            for i, item in enumerate(items)]  # fmt: skip


def sglang(items: list[Item], where: str) -> list[Bench]:
    """Lines of SGLang's benchmark."""
    said = (
        "TPOT is (latency - TTFT) / (output tokens - 1) per request, as here",
        "ITL is the gap between streamed chunks; output tokens are those that the server reports",
    )
    return [_flat(item, _place(where, i, items), tool="sglang bench_serving", e2e="e2e_latency", said=said)
            for i, item in enumerate(items)]  # fmt: skip


def _place(where: str, index: int, items: list[Item]) -> str:
    return where if len(items) == 1 else f"{where}#{index + 1}"


def _flat(item: Item, where: str, *, tool: str, e2e: str, said: tuple[str, ...]) -> Bench:
    stated = number(item.get("completed"))
    done = stated or 0.0
    metrics: dict[str, float] = {}
    percentiles: dict[str, float] = {}
    for ours, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", e2e)):
        for key, raw in item.items():
            match = re.fullmatch(rf"(mean|median|p\d+)_{theirs}_ms", key)
            value = number(raw)
            if not match or not value or value <= 0:
                continue
            if match.group(1) in _STATS:
                metrics[f"{ours}_ms_{_STATS[match.group(1)]}"] = value
            if match.group(1).startswith("p"):
                percentiles[f"{ours}_{match.group(1)}"] = value * MILLI
    _rates(metrics, output_tok_s=item.get("output_throughput"), total_tok_s=item.get("total_token_throughput"),
           input_tok_s=item.get("input_throughput"), req_s=item.get("request_throughput"))  # fmt: skip
    duration = number(item.get("duration"))
    if "req_s" not in metrics and duration and done:
        metrics["req_s"] = done / duration
    if "input_tok_s" not in metrics and duration and number(item.get("total_input_tokens")):
        metrics["input_tok_s"] = float(item["total_input_tokens"]) / duration
    rate = number(item.get("request_rate"))
    flight = number(item.get("max_concurrency"))
    open_end = rate is None and flight is None
    accept = number(item.get("accept_length")) or number(item.get("spec_decode_acceptance_length"))
    said += _whole_chunks(metrics, percentiles, accept)
    notes = ("no request completed",) if stated == 0.0 else ()
    return Bench(
        tool=tool, where=where, model=_first(item, "model_id", "model", "model_name", "served_model_name"),
        date=_day(item.get("date")), isl=_mean(item.get("total_input_tokens"), done),
        osl=_mean(item.get("total_output_tokens"), done), concurrency=flight, rate=rate, offline=open_end,
        requests=int(done) if stated is not None else int(number(item.get("num_prompts")) or 0) or None,
        failed=int(number(item.get("failed")) or 0), duration_s=duration, metrics=metrics,
        percentiles=percentiles, facts=_facts(item, accept), definitions=said, notes=notes,
        tool_version=_first(item, "vllm_version", "sglang_version"),
    )  # fmt: skip


def _whole_chunks(metrics: dict[str, float], more: dict[str, float], accept: float | None) -> tuple[str, ...]:
    """Drops gaps between chunks that hold several tokens; says so."""
    gap, tpot = metrics.get("itl_ms_mean"), metrics.get("tpot_ms_mean")
    long = bool(gap and tpot and gap > CHUNK_TOKENS * tpot)
    if not gap or not (long or (accept and accept > CHUNK_TOKENS)):
        return ()
    for held in (metrics, more):
        for name in [key for key in held if key.startswith("itl_")]:
            del held[name]
    why = f"gaps of {gap:.3g} ms at {tpot:.3g} ms per token" if long else f"{accept:.3g} tokens are accepted at once"
    return (f"a chunk holds several tokens ({why}): gaps between chunks are no ITL and are left out",)


def _rates(metrics: dict[str, float], **found: Any) -> None:
    for name, raw in found.items():
        value = number(raw)
        if value and value > 0:
            metrics[name] = value


def _mean(total: Any, count: float) -> float | None:
    value = number(total)
    return value / count if value and count > 0 else None


def _first(item: Mapping[str, Any], *names: str) -> str:
    return next((str(item[name]) for name in names if item.get(name)), "")


def _facts(item: Item, accept: float | None) -> dict[str, str]:
    """Columns of the serving schema among the file's own keys (vLLM's --metadata, SGLang's server_info)."""
    info = item.get("server_info")
    server = info if isinstance(info, dict) else {}
    facts = {name: str(item[name]) for name in FACTS if name != "model" and item.get(name) not in (None, "")}
    for ours, theirs in (("tp", "tp_size"), ("pp", "pp_size"), ("dp", "dp_size"), ("ep", "ep_size")):
        if number(server.get(theirs)):
            facts.setdefault(ours, str(server[theirs]))
    if server.get("version"):
        facts.setdefault("engine_version", str(server["version"]))
    backend = str(item.get("backend") or "")
    if backend in ("vllm", "sglang"):
        facts.setdefault("engine", backend)
    if accept and accept > 1.0:
        facts.setdefault("spec", f"on, accept length {accept:g}")
    return facts


def _day(raw: Any) -> str:
    text = str(raw or "")
    match = re.match(r"(20\d\d)-?(\d\d)-?(\d\d)", text)
    if match:
        return "-".join(match.groups())
    stamp = number(raw)
    if stamp and stamp > 1e9:
        return dt.datetime.fromtimestamp(stamp, dt.UTC).date().isoformat()
    return ""


def _spread(stats: Any, name: str, *, scale: float, into: dict[str, float], more: dict[str, float]) -> None:
    """Mean, median and p99 in ms into ``into``; every percentile in seconds into ``more``."""
    if not isinstance(stats, dict):
        return
    flat = {**stats, **(stats["percentiles"] if isinstance(stats.get("percentiles"), dict) else {})}
    for key, raw in flat.items():
        value = number(raw)
        if not value or value <= 0:
            continue
        if key in _STATS:
            into.setdefault(f"{name}_ms_{_STATS[key]}", value * scale / MILLI)
        if re.fullmatch(r"p\d\d", key):
            more[f"{name}_{key}"] = value * scale


def guidellm(items: list[Item], where: str) -> list[Bench]:
    """Runs of GuideLLM reports."""
    return [
        _guidellm(run, item, f"{where}#{n + 1}")
        for item in items
        for n, run in enumerate(run for run in item["benchmarks"] if isinstance(run, dict))
    ]


def _guidellm(run: Item, report: Item, where: str) -> Bench:
    found = run.get("metrics") or {}
    metrics: dict[str, float] = {}
    more: dict[str, float] = {}

    def good(name: str) -> Any:
        return dig(found, name, "successful")

    _spread(good("time_to_first_token_ms"), "ttft", scale=MILLI, into=metrics, more=more)
    _spread(good("inter_token_latency_ms"), "tpot", scale=MILLI, into=metrics, more=more)
    _spread(good("request_latency"), "e2e", scale=1.0, into=metrics, more=more)
    _rates(
        metrics,
        req_s=dig(good("requests_per_second"), "mean"),
        output_tok_s=dig(good("output_tokens_per_second"), "mean"),
        total_tok_s=dig(good("tokens_per_second"), "mean"),
        input_tok_s=dig(good("prompt_tokens_per_second"), "mean"),
    )
    strategy = dig(run, "config", "strategy") or dig(run, "scheduler", "strategy") or dig(run, "args", "strategy") or {}
    kind = str(dig(strategy, "type_") or dig(strategy, "type") or "")
    flight = number(dig(strategy, "streams")) or number(dig(strategy, "max_concurrency"))
    flight = 1.0 if kind == "synchronous" else flight
    rate = number(dig(strategy, "rate")) if kind in ("constant", "poisson") else None
    totals = dig(found, "request_totals") or run.get("request_totals") or {}
    span = number(dig(run, "scheduler_metrics", "measure_end_time")) or number(run.get("end_time"))
    start = number(dig(run, "scheduler_metrics", "measure_start_time")) or number(run.get("start_time"))
    done = int(number(dig(totals, "successful")) or 0)
    said = (
        "GuideLLM's time_per_output_token_ms counts the first token (latency / n) and is left out; its "
        "inter_token_latency_ms is (last - first token) / (n - 1) per request, which is TPOT here",
        "gaps between single tokens are not in the file: no ITL",
    )
    backend = {**(dig(report, "args", "backend_kwargs") or {}), **(dig(run, "config", "backend") or {})}
    return Bench(
        tool="guidellm",
        where=where,
        tool_version=str(dig(report, "metadata", "guidellm_version") or ""),
        model=_first(backend, "model")
        or str(dig(run, "worker", "backend_model") or dig(run, "benchmarker", "backend", "model") or ""),
        date=_day(start),
        isl=_guide_mean(good("prompt_token_count")),
        osl=_guide_mean(good("output_token_count")),
        concurrency=flight if kind != "throughput" else None,
        rate=rate,
        offline=kind == "throughput",
        requests=done,
        failed=int(number(dig(totals, "errored")) or 0),
        duration_s=span - start if span and start and span > start else None,
        metrics=metrics,
        percentiles=more,
        facts={},
        definitions=said,
        notes=() if done else ("no request completed",),
    )


def _guide_mean(stats: Any) -> float | None:
    found = number(dig(stats, "mean"))
    return found if found else _mean(dig(stats, "total_sum"), number(dig(stats, "count")) or 0.0)


def aiperf(items: list[Item], where: str) -> list[Bench]:
    """Profile exports of AIPerf and genai-perf."""
    return [_aiperf(item, _place(where, i, items)) for i, item in enumerate(items)]


_UNIT_S: Final = {"ms": 1e-3, "sec": 1.0, "s": 1.0, "us": 1e-6, "ns": 1e-9}


def _aiperf(item: Item, where: str) -> Bench:
    metrics: dict[str, float] = {}
    more: dict[str, float] = {}
    notes: list[str] = []
    for theirs, ours in (("time_to_first_token", "ttft"), ("inter_token_latency", "tpot"), ("request_latency", "e2e")):
        unit = str(dig(item, theirs, "unit") or "ms")
        if unit not in _UNIT_S:
            notes.append(f'{theirs} is in "{unit}", which is no unit of time: left out')
            continue
        _spread(item.get(theirs), ours, scale=_UNIT_S[unit], into=metrics, more=more)
    said = ["inter_token_latency is (request latency - TTFT) / (output tokens - 1) per request, which is TPOT here"]
    said.append(_chunks(item, metrics, more))
    _rates(
        metrics,
        req_s=dig(item, "request_throughput", "avg"),
        output_tok_s=dig(item, "output_token_throughput", "avg"),
        total_tok_s=dig(item, "total_token_throughput", "avg"),
    )
    config = item.get("input_config") or {}
    phase = next((p for p in reversed(config.get("phases") or []) if isinstance(p, dict)), {})
    load = config.get("loadgen") if isinstance(config.get("loadgen"), dict) else {}
    stimulus = dig(config, "perf_analyzer", "stimulus") or {}
    places = (phase, load, stimulus, config)  # as AIPerf's and genai-perf's releases moved them
    flight = next((found for place in places if (found := number(_only(dig(place, "concurrency"))))), None)
    rate = number(phase.get("rate")) or next(
        (found for place in places if (found := number(_only(dig(place, "request_rate"))))), None
    )
    notes += _doubts(item, config, metrics)
    done = int(number(dig(item, "request_count", "avg")) or number(dig(item, "request_latency", "count")) or 0)
    bad = number(dig(item, "error_request_count", "avg")) or 0
    return Bench(
        tool="aiperf" if {"aiperf_version", "schema_version"} & item.keys() or "loadgen" in config else "genai-perf",
        where=where,
        tool_version=str(item.get("aiperf_version") or ""),
        model=_aiperf_model(config),
        date=_day(item.get("start_time")),
        isl=number(dig(item, "input_sequence_length", "avg")),
        osl=number(dig(item, "output_sequence_length", "avg")),
        concurrency=flight,
        rate=rate,
        requests=done or None,
        failed=int(bad),
        duration_s=number(dig(item, "benchmark_duration", "avg")),
        metrics=metrics,
        percentiles=more,
        definitions=tuple(part for part in said if part),
        notes=tuple(notes),
    )


def _only(value: Any) -> Any:
    """The one entry of a list; a value that is no list as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _doubts(item: Item, config: Item, metrics: dict[str, float]) -> list[str]:
    """What an export says against itself: answers that were not streamed, tokens that nobody asked for."""
    notes: list[str] = []
    ttft, e2e = metrics.get("ttft_ms_mean"), metrics.get("e2e_ms_mean")
    if ttft and e2e and abs(ttft - e2e) < UNSTREAMED * e2e:
        for name in [key for key in metrics if key.startswith("ttft_")]:
            del metrics[name]
        notes.append("answers were not streamed: time to first token is the whole latency and is left out")
    asked, osl = number(config.get("output_tokens_mean")), number(dig(item, "output_sequence_length", "avg"))
    if asked and osl and osl > MOST_ANSWER * asked:
        notes.append(
            f"answers have {osl:.4g} tokens where {asked:g} were asked for: genai-perf 24.11 and 24.12 counted streamed "
            "tokens several times; do not use token rates and times of such a file"
        )
    return notes


def _chunks(item: Item, metrics: dict[str, float], more: dict[str, float]) -> str:
    """Takes inter_chunk_latency as ITL where chunks are single tokens; says what was done."""
    gaps = number(dig(item, "inter_chunk_latency", "count"))
    tokens, done = (
        number(dig(item, "output_sequence_length", "sum")),
        number(dig(item, "output_sequence_length", "count")),
    )
    if not (gaps and tokens and done):
        return "no gaps between tokens in the file: no ITL"
    if abs(gaps - (tokens - done)) > CHUNK_GAP * (tokens - done):
        return f"{gaps:.0f} gaps between chunks for {tokens:.0f} tokens: chunks are no tokens, no ITL"
    unit = _UNIT_S.get(str(dig(item, "inter_chunk_latency", "unit") or "ms"), 1e-3)
    _spread(item.get("inter_chunk_latency"), "itl", scale=unit, into=metrics, more=more)
    return "inter_chunk_latency is ITL here: nearly every chunk is one token"


def _aiperf_model(config: Item) -> str:
    names: list[Any] = []
    listed = config.get("models")
    if isinstance(listed, dict):
        names = [dig(entry, "name") for entry in listed.get("items") or []]
    model = config.get("model")
    names += model if isinstance(model, list) else [model]
    names += config.get("model_names") or dig(config, "endpoint", "model_names") or []
    tokenizer = dig(config, "tokenizer", "name")
    return str(
        next((name for name in names if name and "/" in str(name)), None) or tokenizer or next(iter(names), "") or ""
    )


def inference_perf(items: list[Item], where: str) -> list[Bench]:
    """Life-cycle reports of inference-perf; its metrics report of the server is refused by name."""
    return [_inference_perf(item, _place(where, i, items)) for i, item in enumerate(items)]


def _inference_perf(item: Item, where: str) -> Bench:
    from offramp.core.errors import InputError

    good = item["successes"]
    if not isinstance(good.get("latency"), dict):
        raise InputError(
            "is inference-perf's report of server metrics, which has no latencies per request", where=where,
            mend="Give the stage_*_lifecycle_metrics.json of the same run.",
        )  # fmt: skip
    latency, flow = good["latency"], good.get("throughput") or {}
    metrics: dict[str, float] = {}
    more: dict[str, float] = {}
    for theirs, ours in (
        ("time_to_first_token", "ttft"),
        ("time_per_output_token", "tpot"),
        ("request_latency", "e2e"),
    ):
        _spread(latency.get(theirs), ours, scale=1.0, into=metrics, more=more)
    gap, mean = dig(latency, "inter_token_latency", "median"), dig(latency, "inter_token_latency", "mean")
    said = ["time_per_output_token is (last - first token) / (n - 1) per request, as here"]
    if number(gap) and number(mean) and float(gap) > 0.2 * float(mean):
        _spread(latency["inter_token_latency"], "itl", scale=1.0, into=metrics, more=more)
    else:
        said.append("its gaps are between chunks, of which many are empty or hold several tokens: no ITL")
    _rates(metrics, req_s=flow.get("requests_per_sec"), output_tok_s=flow.get("output_tokens_per_sec"),
           total_tok_s=flow.get("total_tokens_per_sec"), input_tok_s=flow.get("input_tokens_per_sec"))  # fmt: skip
    load = item["load_summary"] if isinstance(item["load_summary"], dict) else {}
    rate = number(load.get("requested_rate")) or number(load.get("achieved_rate"))
    flight = number(load.get("concurrency"))
    bad = int(number(dig(item, "failures", "count")) or 0)
    count = number(good.get("count"))
    done = int(count) if count is not None else max(int(number(load.get("count")) or 0) - bad, 0)
    notes: list[str] = []
    isl, osl, doubts = _server_counts(good, metrics)
    notes += doubts
    if rate is None and flight is None:
        notes.append("neither rate nor concurrency is stated (a summary over stages?): give the report of one stage")
    return Bench(
        tool="inference-perf", where=where, isl=isl, osl=osl, concurrency=flight, rate=rate if flight is None else None,
        requests=done, failed=bad, duration_s=number(load.get("send_duration")), metrics=metrics, percentiles=more,
        facts=_cached(good), definitions=tuple(said), notes=tuple(notes),
    )  # fmt: skip


def _cached(good: Item) -> dict[str, str]:
    """Share of the input tokens that the server found in its prefix cache, where it says so."""
    total, cached = number(dig(good, "prompt_tokens", "total")), number(dig(good, "prompt_tokens", "cached"))
    return {"prefix_hit": f"{100.0 * cached / total:.4g}%"} if total and cached else {}


def _server_counts(good: Item, metrics: dict[str, float]) -> tuple[float | None, float | None, list[str]]:
    """Mean input and output tokens, the server's count before the client's, with rates of tokens to match.

    Reports of 0.5 and before hold ``prompt_len`` and ``output_len``, later ones the server's ``prompt_tokens`` and
    ``output_tokens``; their rate of output tokens is by the client's count unless it was told otherwise.
    """
    notes: list[str] = []
    means: list[float | None] = []
    for what, told_name, seen_name, rate in (
        ("input", "prompt_tokens", "prompt_len", "input_tok_s"),
        ("output", "output_tokens", "output_len", "output_tok_s"),
    ):
        told, seen = number(dig(good, told_name, "mean")), number(dig(good, seen_name, "mean"))
        if told and seen and abs(told - seen) > MOST_COUNTS * told:
            notes.append(
                f"server and client count {told:.5g} and {seen:.5g} {what} tokens: the server's number is taken"
            )
            if rate in metrics and metrics.get("req_s"):
                metrics[rate] = told * metrics["req_s"]
                metrics.pop("total_tok_s", None)
        done = metrics.get("req_s")
        means.append(told or seen or (metrics[rate] / done if done and rate in metrics else None))
    return means[0], means[1], notes


def worst_notes(benches: Iterable[Bench]) -> list[str]:
    """Every note of several runs, each with its place, once."""
    return list(dict.fromkeys(f"{bench.where}: {note}" for bench in benches for note in bench.notes))
