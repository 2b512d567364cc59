"""MLPerf Inference: the summary that LoadGen writes (mlperf_log_summary.txt)."""

from __future__ import annotations

import re
from typing import Final

from offramp.core.errors import InputError
from offramp.intake.bench import Bench

NS_MS: Final = 1e-6
_LINE: Final = re.compile(r"^\s*([A-Za-z0-9 ._()/-]+?)\s*:\s*(.+?)\s*$")
_LATENCY: Final = re.compile(
    r"(mean|[\d.]+ percentile)\s+(first token latency|time to output token|latency) \(ns\)", re.I
)
_NAMES: Final = {"first token latency": "ttft", "time to output token": "tpot", "latency": "e2e"}


def read(text: str, where: str) -> list[Bench]:
    """The one run of a summary.

    Raises:
        InputError: not a performance run of a language model.
    """
    said = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            said.setdefault(match.group(1).strip().lower(), match.group(2).strip())
    scenario = said.get("scenario", "")
    if "performance" not in said.get("mode", "").lower():
        raise InputError(
            f'is an MLPerf run of mode "{said.get("mode", "")}"', where=where, mend="Give a performance run."
        )
    metrics, more = _latencies(said)
    samples = _number(said, "samples per second", "completed samples per second")
    tokens = _number(said, "tokens per second", "completed tokens per second")
    if tokens is None:
        raise InputError("states no tokens per second", where=where, mend="Only runs of language models can be used.")
    metrics["output_tok_s"] = tokens
    if samples:
        metrics["req_s"] = samples
    notes = [] if said.get("result is", "").upper() == "VALID" else ["LoadGen calls the result invalid"]
    offline = scenario.lower() == "offline"
    count = _number(said, "samples_per_query") if offline else None  # a server run states a minimum, not its count
    return [
        Bench(
            tool="mlperf", where=where, osl=tokens / samples if samples else None, offline=offline,
            rate=None if offline else _number(said, "scheduled samples per second", "target_qps"),
            requests=int(count) if count else None, metrics=metrics, percentiles=more,
            facts={"conditions": f"MLPerf Inference, {scenario or 'unknown scenario'}, SUT {said.get('sut name', '')}"},
            definitions=(
                "time to output token is (latency - first token latency) / (tokens - 1) per sample, which is TPOT here",
                "output length is tokens per second over samples per second",
            ),
            notes=tuple(notes),
        )
    ]  # fmt: skip


def _latencies(said: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    metrics: dict[str, float] = {}
    more: dict[str, float] = {}
    for key, raw in said.items():
        match = _LATENCY.fullmatch(key)
        value = _float(raw)
        if not match or not value or value <= 0:
            continue
        name = _NAMES[match.group(2).lower()]
        if match.group(1).lower() == "mean":
            metrics[f"{name}_ms_mean"] = value * NS_MS
            continue
        percent = float(match.group(1).split()[0])
        if percent == 50.0:
            metrics[f"{name}_ms_median"] = value * NS_MS
        if percent == 99.0:
            metrics[f"{name}_ms_p99"] = value * NS_MS
        if percent == round(percent):
            more[f"{name}_p{percent:.0f}"] = value * 1e-9
    return metrics, more


def _number(said: dict[str, str], *names: str) -> float | None:
    return next((value for name in names if (value := _float(said.get(name, ""))) is not None), None)


def _float(text: str) -> float | None:
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return None
