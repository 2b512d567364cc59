"""Benchmark files of other tools, told apart by content, in offramp's terms.

TPOT is (E2E latency - TTFT) / (output tokens - 1) per request; ITL is the gap between two consecutive output tokens.
Each reader says in :attr:`Bench.definitions` what its tool means by its columns and what was done to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.core.units import MILLI
from offramp.intake.files import json_objects, read_text, shaped

LATENCY_GAP: Final = 0.15
"""TTFT + TPOT (n - 1) may differ by this share from E2E before TPOT is not taken as per output token."""
CHUNK_GAP: Final = 0.05
LITTLE_LOW: Final = 0.90
LITTLE_HIGH: Final = 1.10
KEPT_UP: Final = 0.95
"""A run that completed less than this share of the rate offered was overloaded. Assumed: ramps at both ends cost less."""
IDLE_SHARE: Final = 0.1
"""A mean latency below this share of the time that a run took beyond its arrivals is no queue. Assumed: a queue gives half."""
FACTS: Final = (
    "chip",
    "n_chips",
    "model",
    "weights_dtype",
    "kv_dtype",
    "engine",
    "engine_version",
    "tp",
    "pp",
    "dp",
    "ep",
    "disagg",
    "prefill_chips",
    "decode_chips",
    "spec",
    "prefix_hit",
    "multinode",
    "node_layout",
    "conditions",
    "power_w_per_chip",
)
"""Columns of the serving schema that describe the deployment: taken from the file where it states them."""


class Bench(Record):
    """One benchmark run.

    Attributes:
        tool: "vllm bench serve", "sglang bench_serving", "guidellm", "aiperf", "inference-perf", "mlperf".
        tool_version: where stated.
        model: as the file names it; "" where it does not.
        date: ISO day; "".
        isl, osl: mean tokens; None where the file does not say.
        concurrency: most requests in flight; None where arrivals were open.
        rate: requests per second offered; None for a closed loop or "all at once".
        offline: all prompts were there at the start.
        requests, failed: completed and failed requests.
        duration_s: of the measured phase.
        metrics: by column of the serving schema (tokens/s, requests/s, ms).
        percentiles: ttft, tpot, itl, e2e percentiles in seconds beyond those of the schema ("ttft_p90").
        facts: what it says of the deployment, by column of the serving schema.
        definitions: what the tool measures and what was converted.
        notes: what the reader must know.
        where: file and place in it.
    """

    tool: str
    where: str
    tool_version: str = ""
    model: str = ""
    date: str = ""
    isl: float | None = None
    osl: float | None = None
    concurrency: float | None = None
    rate: float | None = None
    offline: bool = False
    requests: int | None = None
    failed: int = 0
    duration_s: float | None = None
    metrics: dict[str, float] = {}
    percentiles: dict[str, float] = {}
    facts: dict[str, str] = {}
    definitions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def bench_of(path: str | Path, said: Mapping[str, str] | None = None) -> list[Bench]:
    """The runs of a benchmark file; a file beside it named ``<file>.toml`` adds what the tool does not record.

    Args:
        path: the file.
        said: columns of the serving schema that the user states; they stand before the file's own.

    Raises:
        InputError: unreadable, or of no tool that is known.
    """
    text = read_text(path)
    found = _read(text, str(path))
    if not found:
        raise InputError("holds no benchmark run", where=str(path))
    from offramp.intake.said import complete_bench

    told = {**_sidecar(Path(path)), **(said or {})}
    return [checked(complete_bench(bench, told)) for bench in found]


def is_bench(path: str | Path) -> bool:
    """Whether a file looks like JSON or an MLPerf summary rather than a table."""
    try:
        with Path(path).open("rb") as handle:
            head = handle.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    return head[:1] in (b"{", b"[") or b"MLPerf Results Summary" in head


def to_rows(benches: list[Bench], *, chip: str = "") -> list[dict[str, str]]:
    """Rows of the serving schema, as text; ids are made of file and position."""
    return [_row(bench, number, chip) for number, bench in enumerate(benches, 1)]


def _read(text: str, where: str) -> list[Bench]:
    from offramp.intake import bench_json, bench_mlperf

    if "MLPerf Results Summary" in text[:20_000]:
        return bench_mlperf.read(text, where)
    objects = json_objects(text, where)
    readers: list[tuple[Callable[[dict[str, Any]], bool], Callable[[list[dict[str, Any]], str], list[Bench]]]] = [
        (bench_json.is_guidellm, bench_json.guidellm),
        (bench_json.is_aiperf, bench_json.aiperf),
        (bench_json.is_inference_perf, bench_json.inference_perf),
        (bench_json.is_sglang, bench_json.sglang),
        (bench_json.is_vllm, bench_json.vllm),
    ]
    for known, reader in readers:
        mine = [item for item in objects if known(item)]
        if mine:
            with shaped(where, "a file of that benchmark tool"):
                return reader(mine, where)
    keys = ", ".join(list(objects[0])[:6]) or "nothing"
    raise InputError(
        f"is JSON of no benchmark tool that is known (its keys: {keys})", where=where,
        mend="Known: vllm bench serve, SGLang bench_serving, GuideLLM, AIPerf and genai-perf, inference-perf, MLPerf.",
    )  # fmt: skip


def _sidecar(path: Path) -> dict[str, str]:
    """What a TOML file beside the benchmark file says, in the words of :func:`offramp.intake.said_of`."""
    from offramp.core.document import parse_toml
    from offramp.intake.said import said_of

    file = path.with_name(path.name + ".toml")
    if not file.is_file():
        return {}
    data = parse_toml(read_text(file), where=str(file))
    return said_of([f"{key}={value}" for key, value in data.items()], source=f"{file}:")


def checked(bench: Bench) -> Bench:
    """The run with its latencies made consistent and its own contradictions named.

    A TPOT that does not reproduce the end-to-end latency was measured per chunk, or with the first token in it: it is
    replaced by (E2E - TTFT) / (n - 1) of the means. Little's law (requests in flight = rate x E2E) must hold.
    """
    import msgspec

    metrics, notes = dict(bench.metrics), list(bench.notes)
    definitions = list(bench.definitions)
    ttft, tpot, e2e = (metrics.get(f"{name}_ms_mean") for name in ("ttft", "tpot", "e2e"))
    gaps = (bench.osl or 0.0) - 1.0
    if ttft and tpot and e2e and gaps >= 1.0:
        own = (e2e - ttft) / gaps
        if own > 0 and abs(ttft + tpot * gaps - e2e) > LATENCY_GAP * e2e:
            for name in [key for key in metrics if key.startswith(("tpot_", "itl_"))]:
                del metrics[name]
            metrics["tpot_ms_mean"] = own
            definitions.append(
                f"the file's time per output token ({tpot:.3g} ms) does not reproduce its end-to-end latency: "
                "replaced by "
                f"(mean E2E - mean TTFT) / (mean output tokens - 1) = {own:.3g} ms; its ITL columns are dropped"
            )
    elif not tpot and ttft and e2e and gaps >= 1.0 and e2e > ttft:
        metrics["tpot_ms_mean"] = (e2e - ttft) / gaps
        definitions.append("TPOT is (mean E2E - mean TTFT) / (mean output tokens - 1): the file states none")
    notes += _little(bench, metrics)
    needed = {"model": bench.model, "input length": bench.isl, "output length": bench.osl}
    unsaid = [name for name, value in needed.items() if not value]
    if unsaid and bench.requests != 0:
        notes.append(
            f"the file states no {', no '.join(unsaid)}: say it in a file beside it, or with --set (calibrate, validate)"
        )
    if bench.failed and bench.requests is not None:
        notes.append(f"{bench.failed} of {bench.failed + bench.requests} requests failed")
    return msgspec.structs.replace(bench, metrics=metrics, definitions=tuple(definitions), notes=tuple(notes))


def _little(bench: Bench, metrics: dict[str, float]) -> list[str]:
    """What Little's law says of the run: in flight = requests/s x mean E2E."""
    e2e, rate = metrics.get("e2e_ms_mean"), metrics.get("req_s")
    ttft, tpot = metrics.get("ttft_ms_mean"), metrics.get("tpot_ms_mean")
    if e2e is None and ttft and tpot and bench.osl:
        e2e = ttft + tpot * (bench.osl - 1.0)
    if not (e2e and rate and bench.concurrency):
        return []
    flight = rate * e2e * MILLI
    share = flight / bench.concurrency
    ramp = bench.concurrency / (2.0 * bench.requests) if bench.requests else 0.0
    if share > LITTLE_HIGH:
        return [f"breaks Little's law: {flight:.3g} requests were in flight on average, {bench.concurrency:g} allowed"]
    if bench.rate is None and share < LITTLE_LOW - ramp:
        return [
            f"{flight:.3g} requests were in flight on average of {bench.concurrency:g} allowed: the client did not "
            "fill "
            "its concurrency, or latencies leave something out"
        ]
    return []


def _row(bench: Bench, number: int, chip: str) -> dict[str, str]:
    stem = re.sub(r"[^A-Za-z0-9._]+", "_", Path(bench.where.partition("#")[0]).name)
    row: dict[str, str] = {name: value for name, value in bench.facts.items() if value}
    row["id"] = f"own-{stem}-{number}"
    row["chip"] = row.get("chip", "") or chip
    row["model"] = row.get("model") or bench.model
    row["date"] = bench.date
    row["isl"] = _text(bench.isl)
    row["osl"] = _text(bench.osl)
    row["length_kind"] = "realised-mean" if bench.isl else ""
    flight = _filled(bench)
    row["concurrency"] = f"{bench.requests} prompts at once" if bench.offline and bench.requests else _text(flight)
    row["rate"] = "offline" if bench.offline else _text(bench.rate if flight is None else None)
    row["kind"], row["grade"] = "benchmark", "B"
    row["other"] = "; ".join(
        [f"num_prompts={bench.requests}"] * bool(bench.requests) + ["tool " + bench.tool, *bench.definitions]
    )
    row.setdefault("spec", "unlabelled")
    row["conditions"] = "; ".join(part for part in (row.get("conditions", ""), *bench.notes) if part)
    row["source"], row["confidence"] = "own", "measured-by-third-party (own run)"
    for name, value in bench.metrics.items():
        row[name] = _text(value)
    return as_closed(row)


def as_closed(row: Mapping[str, str]) -> dict[str, str]:
    """A row of arrivals by rate as the closed loop with the same mean number of requests in flight.

    In flight = requests/s x mean E2E (Little's law). Where fewer requests were completed than offered, latency grew
    with the length of the run: only throughput and time per token are kept. A row without rate or latencies stays.
    """
    from offramp.intake.files import number

    rate = number(row.get("rate"))
    if rate is None or rate <= 0 or (row.get("concurrency") or "").strip():
        return dict(row)
    value = {name: number(row.get(name)) for name in ("e2e_ms_mean", "ttft_ms_mean", "tpot_ms_mean", "osl", "req_s")}
    e2e, ttft, tpot, osl, done = value.values()
    if not e2e and ttft and tpot and osl:
        e2e = ttft + tpot * (osl - 1.0)
    done = done or rate
    if not e2e:
        return dict(row)
    flight = done * e2e * MILLI
    out = {**row, "rate": "", "concurrency": _text(flight)}
    said = f"arrivals at {rate:.4g} requests/s, {flight:.3g} in flight on average: taken as a closed loop of that many"
    if done < KEPT_UP * rate:
        if _client_idle(row, rate, done, e2e * MILLI):
            said += f"; only {done:.4g} requests/s came, and none waited long: the client paused"
        else:
            said += f"; only {done:.4g} requests/s were completed: latencies grew with the run and are left out"
            out = {name: "" if name.startswith(("ttft_", "e2e_")) else text for name, text in out.items()}
    out["other"] = "; ".join(part for part in (row.get("other", ""), said) if part)
    return out


def _client_idle(row: Mapping[str, str], rate: float, done: float, e2e_s: float) -> bool:
    """Whether a run that took longer than its arrivals did so without a queue.

    Requests that wait for an overloaded server wait half of the extra time on average; a mean latency far below that
    leaves only a client that sent late or stopped late.
    """
    count = re.search(r"num_prompts=(\d+)", row.get("other", ""))
    return count is not None and e2e_s < IDLE_SHARE * int(count.group(1)) * (1.0 / done - 1.0 / rate)


def _filled(bench: Bench) -> float | None:
    """The concurrency where it is what bounded the run; None where a slower arrival rate did."""
    if bench.concurrency is None or bench.rate is None:
        return bench.concurrency
    e2e, done = bench.metrics.get("e2e_ms_mean"), bench.metrics.get("req_s")
    if e2e and done:
        return bench.concurrency if done * e2e * MILLI > LITTLE_LOW * bench.concurrency else None
    return bench.concurrency


def _text(value: float | None) -> str:
    return "" if value is None else repr(round(value, 6))
