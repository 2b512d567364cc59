"""Serving rows as published: read, normalised, judged. Nothing is dropped in silence."""

from __future__ import annotations

import csv
import gzip
import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from offramp.core.errors import InputError, near_miss_hint

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "validation"
Mode = Literal["closed", "offline", "open", "static", "decode", "prefill"]

METRICS: Final = (
    "output_tok_s", "total_tok_s", "input_tok_s", "output_tok_s_per_chip", "total_tok_s_per_chip", "input_tok_s_per_chip",
    "prefill_tok_s_per_chip", "decode_tok_s_per_chip", "req_s", "ttft_ms_mean", "ttft_ms_median", "ttft_ms_p99",
    "tpot_ms_mean", "tpot_ms_median", "tpot_ms_p99", "itl_ms_mean", "itl_ms_median", "itl_ms_p99", "e2e_ms_mean",
    "e2e_ms_median", "e2e_ms_p99", "power_w_per_chip", "joules_per_output_token",
)  # fmt: skip
REQUIRED: Final = ("id", "chip", "model")
LITTLE_LIMIT: Final = 0.10
"""A closed-loop row whose throughput and latencies disagree by more is rejected."""

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published measurement, its text fields normalised.

    Attributes:
        id, chip, model, engine, engine_version, date, source, grade, kind: as published (engine as catalogue id).
        weights, kv: dtype ids; "" where the source does not say.
        devices: torch devices are not known here; ``chips`` counts packages.
        tp, pp, dp, ep: degrees; 0 where unstated. ``dp_on`` marks attention data parallelism of unknown degree.
        prefill_chips, decode_chips: of disaggregated rows, else 0. ``prefill_tp`` likewise.
        isl, osl: mean tokens.
        spread: relative half-width of uniform lengths around the mean (0 = fixed).
        mode: how it was measured.
        concurrency: total requests in flight; 0 where unlimited.
        rate: requests per second of open-loop rows.
        requests: number of requests of the run; 0 unknown.
        spec: "none", "unknown" or "on"; ``accept`` tokens per step where printed.
        prefix_hit: share of prompt tokens found in the cache.
        metrics: measured values by column.
        per_chunk_itl: ITL columns were left out, because they are per streamed chunk of several tokens.
        raw: the row as read.
    """

    id: str
    chip: str
    model: str
    engine: str
    engine_version: str
    date: str
    source: str
    grade: str
    kind: str
    weights: str
    kv: str
    chips: float
    tp: int
    pp: int
    dp: int
    ep: int
    dp_on: bool
    prefill_chips: float
    decode_chips: float
    prefill_tp: int
    isl: float
    osl: float
    spread: float
    mode: Mode
    concurrency: float
    rate: float
    requests: int
    spec: Literal["none", "unknown", "on"]
    accept: float
    draft_tokens: int
    prefix_hit: float
    metrics: dict[str, float]
    per_chunk_itl: bool
    raw: dict[str, str] = field(repr=False)

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode ran on pools of their own."""
        return self.decode_chips > 0 and self.prefill_chips > 0

    @property
    def is_floor(self) -> bool:
        """Whether it is a regression floor: a bound, not a best case."""
        return self.grade == "floor"

    @property
    def series(self) -> str:
        """Source x chip x model: rows of one series share their errors."""
        return "|".join((source_key(self), self.chip, self.model))

    @property
    def deployment(self) -> str:
        """Rows of one deployment: series, engine and version, dtype, layout kind."""
        kind = "pd" if self.disaggregated else "agg"
        return "|".join((self.series, self.engine, self.engine_version[:24], self.weights, kind))


@dataclass(frozen=True)
class Problem:
    """A row that was not used, and why."""

    id: str
    why: str


@lru_cache(maxsize=1)
def names() -> dict[str, Any]:
    """The shipped spellings of engines and dtypes, and the benchmark conventions."""
    return tomllib.loads((DATA / "names.toml").read_text("utf-8"))


def source_key(row: Row) -> str:
    """A short name of a row's source: the prefix of its id."""
    return row.id.split("-", 1)[0] if "-" in row.id else row.source[:24]


def number(text: str | None) -> float:
    """The first number in a cell ("273.3 realised mean" -> 273.3); NaN where there is none."""
    match = _NUMBER.search(text or "")
    return float(match.group()) if match else math.nan


def _strict(text: str | None) -> float:
    """A cell that must be a number or empty; text that is not one gives NaN."""
    try:
        value = float(str(text).strip()) if text and str(text).strip() else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def engine_id(text: str) -> str:
    """Catalogue id of an engine as published; the text itself in lower case where no pattern matches."""
    low = text.lower().strip()
    for entry in names()["engine"]:
        if any(fnmatchcase(low, p) for p in entry["match"]) and not any(
            fnmatchcase(low, p) for p in entry.get("without", [])
        ):
            return str(entry["id"])
    return low or "unknown"


def dtype_id(text: str) -> str:
    """Dtype id of a published precision; "" where it says nothing."""
    low = text.lower().strip()
    for entry in names()["dtype"]:
        if any(fnmatchcase(low, pattern) for pattern in entry["match"]):
            return str(entry["weights"])
    return ""


def _open_text(path: Path) -> TextIO:
    """The file as UTF-8 text; one whose name ends in .gz is unpacked."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def read_rows(path: Path, *, chip_stated: bool = True) -> Iterator[dict[str, str]]:
    """Rows of a CSV file in the serving schema, as text.

    Raises:
        InputError: not a readable CSV, or required columns are missing.
    """
    where = path.name
    try:
        with _open_text(path) as handle:
            reader = csv.DictReader(handle)
            header = reader.fieldnames or []
            missing = [name for name in REQUIRED if name not in header and (chip_stated or name != "chip")]
            if missing:
                hint = near_miss_hint(missing[0], header)
                raise InputError(
                    f"no column {', '.join(missing)}", where=where, mend=hint or "See the serving schema in the docs."
                )
            if not any(name in header for name in METRICS):
                raise InputError("no metric column", where=where, mend=f"One of: {', '.join(METRICS[:8])} ...")
            for row in reader:
                yield {key: (value or "") for key, value in row.items() if isinstance(key, str)}
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except IsADirectoryError:
        raise InputError("is a folder", where=str(path), mend="Name a CSV file.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=where, mend="Save the file as UTF-8.") from None
    except (csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"not a CSV file: {error}", where=where) from None


def _degrees(text: str) -> tuple[int, int]:
    """Decode (or only) and prefill degree of "8", "P16/D32", "8/8/4/4"."""
    found = [int(part) for part in re.findall(r"\d+", text)]
    if not found:
        return 0, 0
    return found[-1], found[0]


def _spec(text: str, conditions: str) -> tuple[Literal["none", "unknown", "on"], float, int]:
    """Whether a row speculated, tokens per step, drafted tokens; the last two may stand among the conditions."""
    low = text.lower().strip()
    if low == "none":
        return "none", 1.0, 0
    if not low or low.startswith(("unlabelled", "none or")):
        return "unknown", 0.0, 0
    low = f"{low} {conditions.lower()}"
    steps = re.search(r"\b(?:k|steps|num_speculative_tokens)\s*[=:]\s*(\d+)", low)
    accept = re.search(r"accept(?:ance)? len\w*[\s=:]+(\d+(?:\.\d+)?)(?:\s*-\s*(\d+(?:\.\d+)?))?", low)
    ends = [float(end) for end in accept.groups() if end] if accept else [0.0]
    return "on", sum(ends) / len(ends), int(steps.group(1)) if steps else 0


def _mode(row: dict[str, str], concurrency: float, rate_text: str) -> Mode | None:
    conditions, disagg = row.get("conditions", "").lower(), row.get("disagg", "").lower()
    if "decode instance" in disagg or "decode only" in conditions:
        return "decode"
    if "prefill instance" in disagg or (number(row.get("osl")) == 1 and concurrency > 0):
        return "prefill"
    if "offline" in rate_text or "prompts at once" in row.get("concurrency", ""):
        return "offline"
    if "static batch" in conditions or "benchmark_throughput offline" in conditions:
        return "static"
    if concurrency > 0:
        return "closed"
    if number(rate_text) > 0 or "server" in rate_text or "interactive" in rate_text:
        return "open"
    return None


def parse_row(raw: dict[str, str]) -> Row | Problem:
    """A normalised row, or why it cannot be read."""
    row_id = raw.get("id", "").strip()
    if not row_id:
        return Problem("(no id)", "the row has no id")
    metrics = {name: _strict(raw.get(name)) for name in METRICS}
    bad = [name for name, value in metrics.items() if raw.get(name, "").strip() and not value > 0]
    metrics = {name: value for name, value in metrics.items() if value > 0}
    if not metrics:
        why = f"no usable metric ({bad[0]} = {raw[bad[0]]!r})" if bad else "no metric that this tool predicts"
        return Problem(row_id, why)
    rate_text = raw.get("rate", "").lower()
    concurrency = number(raw.get("concurrency"))
    concurrency = concurrency if concurrency > 0 else 0.0
    mode = _mode(raw, concurrency, rate_text)
    if mode is None:
        return Problem(row_id, "neither concurrency nor rate is stated")
    isl, osl = number(raw.get("isl")), number(raw.get("osl"))
    if raw.get("length_kind", "") == "dataset" and not isl > 0:
        isl = _dataset_isl(raw)
    if mode == "decode" and not isl > 0:
        return Problem(row_id, "the context length is not stated")
    if not isl > 0 or not osl > 0:
        return Problem(row_id, "input or output length is not stated")
    return _build(raw, row_id, metrics=metrics, mode=mode, lengths=(isl, osl), concurrency=concurrency)


# Mean prompt lengths of the MLPerf data sets. Source: mlcommons/inference README (llama2-70b: OpenOrca, 24,576 samples,
# mean input 294.45 tokens); others unknown here.
_DATASET_ISL: Final = {"llama-2-70b": 294.45}


def _dataset_isl(raw: dict[str, str]) -> float:
    model = raw.get("model", "").lower()
    return next((value for name, value in _DATASET_ISL.items() if name in model), math.nan)


def _build(
    raw: dict[str, str], row_id: str, *, metrics: dict[str, float], mode: Mode, lengths: tuple[float, float],
    concurrency: float,
) -> Row:  # fmt: skip
    tp, prefill_tp = _degrees(raw.get("tp", ""))
    dp, _ = _degrees(raw.get("dp", ""))
    ep, _ = _degrees(raw.get("ep", ""))
    spec, accept, draft = _spec(raw.get("spec", ""), raw.get("conditions", ""))
    printed = re.search(r"accept_len=([\d.]+)", raw.get("other", ""))
    if printed and float(printed.group(1)) > 1.05:
        spec, accept = "on", float(printed.group(1))
    uniform = raw.get("length_kind", "").startswith("uniform-0.8")
    scale = 0.9 if uniform else 1.0
    requests = _requests(raw, concurrency)
    rate = number(raw.get("rate"))
    hit = number(raw.get("prefix_hit"))
    metrics, per_chunk = _itl_per_token(metrics, accept=accept)
    return Row(
        per_chunk_itl=per_chunk,
        id=row_id, chip=raw.get("chip", "").strip(), model=raw.get("model", "").strip(),
        engine=engine_id(raw.get("engine", "")), engine_version=raw.get("engine_version", "").strip(),
        date=raw.get("date", "").strip(), source=raw.get("source", ""), grade=raw.get("grade", "").strip() or "unstated",
        kind=raw.get("kind", ""), weights=dtype_id(raw.get("weights_dtype", "")), kv=dtype_id(raw.get("kv_dtype", "")),
        chips=_zero(_strict(raw.get("n_chips"))), tp=tp, pp=max(_degrees(raw.get("pp", ""))[0], 1), dp=dp,
        ep=ep, dp_on=_attention_dp(raw),
        prefill_chips=_zero(_strict(raw.get("prefill_chips"))), decode_chips=_zero(_strict(raw.get("decode_chips"))),
        prefill_tp=prefill_tp, isl=lengths[0] * scale, osl=lengths[1] * scale, spread=0.111 if uniform else 0.0, mode=mode,
        concurrency=concurrency, rate=rate if rate > 0 else 0.0, requests=int(requests) if requests > 0 else 0, spec=spec,
        accept=accept, draft_tokens=draft, prefix_hit=hit / 100.0 if hit > 0 else 0.0, metrics=metrics, raw=raw,
    )  # fmt: skip


def _attention_dp(raw: dict[str, str]) -> bool:
    """Attention data parallelism of unstated degree, said in the dp column or among the conditions."""
    return raw.get("dp", "").strip().lower() == "attention" or "attention dp" in raw.get("conditions", "").lower()


def _requests(raw: dict[str, str], concurrency: float) -> float:
    """Number of requests of the run where the row prints it, else 0."""
    if "prompts at once" in raw.get("concurrency", ""):
        return number(raw.get("concurrency"))
    other = raw.get("other", "")
    if "int(max_concurrency) * 4" in other:
        return 4.0 * concurrency
    found = re.search(r"num_prompts=(\d+)", other)
    return float(found.group(1)) if found else 0.0


def _itl_per_token(metrics: dict[str, float], *, accept: float) -> tuple[dict[str, float], bool]:
    """Metrics without ITL columns that cannot be per token: their median is several times the TPOT.

    Streams that send several tokens at once report the gap between chunks.
    """
    itl = metrics.get("itl_ms_median") or metrics.get("itl_ms_mean")
    tpot = metrics.get("tpot_ms_median") or metrics.get("tpot_ms_mean")
    if itl and tpot and itl > 2.0 * tpot * max(accept, 1.0):
        return {name: value for name, value in metrics.items() if not name.startswith("itl")}, True
    return metrics, False


def _zero(value: float) -> float:
    return value if value > 0 else 0.0


def little_ratio(row: Row) -> float | None:
    """Throughput that concurrency and latencies imply over the published one; None where it cannot be formed.

    Source: Little's law; C (osl - 1) / (TTFT + TPOT (osl - 1)) output tokens per second.
    """
    m = row.metrics
    ttft = m.get("ttft_ms_mean") or m.get("ttft_ms_median")
    tpot = m.get("tpot_ms_mean") or m.get("tpot_ms_median")
    output = m.get("output_tok_s")
    if output is None and "output_tok_s_per_chip" in m and row.chips and not row.disaggregated:
        output = m["output_tok_s_per_chip"] * row.chips
    if row.mode != "closed" or not (ttft and tpot and output and row.concurrency) or row.osl < 2:
        return None
    implied = row.concurrency * (row.osl - 1) / (ttft + tpot * (row.osl - 1)) * 1e3
    return implied / output


def breaks_little(row: Row) -> str:
    """Why a row breaks Little's law, or "" when it holds.

    A run of N requests ramps down at its end, which lowers its throughput by up to C / (2 N).
    """
    if row.is_floor:
        return ""
    if row.mode == "open":
        return _never_reached(row)
    ratio = little_ratio(row)
    if ratio is None:
        return ""
    requests = row.requests or max(row.concurrency * names()["requests"]["per_concurrency"], 1000.0)
    high = 1.0 + LITTLE_LIMIT + row.concurrency / (2.0 * requests)
    if 1.0 - LITTLE_LIMIT <= ratio <= high:
        return ""
    return f"breaks Little's law: concurrency and latencies imply {ratio:.2f} x the published throughput"


SHORT_QUEUE: Final = 0.2
"""Share of TTFT in the whole time of a request up to which nothing queued. Assumed."""


def _never_reached(row: Row) -> str:
    """Why an open-loop row was no steady run: all had been sent before the first was answered; else "".

    Source: of N requests at rate R, each T seconds in the system, the last is done at N / R + T, so that the throughput is
    N x osl / (N / R + T) where nothing queues; that gives N.
    """
    m = row.metrics
    ttft = m.get("ttft_ms_mean") or m.get("ttft_ms_median")
    tpot = m.get("tpot_ms_mean") or m.get("tpot_ms_median")
    output = m.get("output_tok_s") or m.get("output_tok_s_per_chip", 0.0) * row.chips
    if not (ttft and tpot and output and row.rate > 0 and row.osl > 1) or row.disaggregated:
        return ""
    whole_ms, share = ttft + tpot * (row.osl - 1), output / (row.rate * row.osl)
    sent = row.rate * whole_ms / 1e3 * share / max(1.0 - share, 1e-9)
    if ttft > SHORT_QUEUE * whole_ms or sent >= row.rate * whole_ms / 1e3:
        return ""
    return f"breaks Little's law: {share:.0%} of the offered load came out and nothing queued, so about {sent:.0f} requests were sent"
