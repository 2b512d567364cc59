"""Published training rows: read from text, normalised, judged. Nothing is dropped in silence."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from offramp.core.record import Record
from offramp.core.units import GIGA, KILO, MEGA, TERA
from offramp.train.assumed import DATA, constant
from offramp.train.layout import Recompute, Schedule

MARKS: Final = frozenset({"step_time_s", "mfu_pct", "framework"})
"""Columns by which a training file is told from a serving one."""
METRICS: Final = ("step_time_s", "tokens_per_s_per_chip", "mfu_pct")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_EMPTY: Final = frozenset({"", "n/a", "na", "-", "none", "nan"})


class ChipName(Record):
    """How a published chip name is read; ``figures`` replace those of the catalogue, ``clock`` its sustained speed."""

    match: str
    id: str
    note: str = ""
    figures: dict[str, float] = {}
    clock: float = 1.0


class NewerDtype(Record):
    """From which release on, and on which families, an unstated dtype may be a newer one.

    Attributes:
        release: first release.
        families: of chips, regular expression.
        dtype: which.
        weight: probability that an unstated dtype is this one.
    """

    release: str
    families: str
    dtype: str
    weight: float


class ScheduleSupport(Record):
    """A pipeline schedule beside 1F1B that a framework offers: since when that was known, and where it says so."""

    name: Schedule
    known: dt.date
    source: str


class FrameworkName(Record):
    """How a published framework is read, and what is known of its way of training.

    Attributes:
        match, id: pattern of published names, and what it is called here.
        default_dtype: of rows that state none. grad_bytes: of a gradient as it is summed.
        flash: attention keeps no scores. lora: base weights frozen. mtp: prediction layers are trained too.
        zero: stage where a row states none. schedule: of the pipeline in published rows.
        schedules: what a run of today may use beside 1F1B.
        skew: standard deviation of an expert's rows over their mean; 0 where benchmarks force balance.
        selective_gemm: share of the dense matrices that its selective recompute repeats.
        core: library that several frameworks are built on.
        causal: published model FLOP count half of the attention square.
        newer: dtypes that rows which state none may have.
        loose_groups: since when interleaving takes any number of micro-batches, and not only multiples of PP.
        async_sends: interleaved stages send while another chunk computes.
    """

    match: str
    id: str
    default_dtype: str = "bf16"
    grad_bytes: float = 4.0
    flash: bool = True
    lora: bool = False
    mtp: bool = False
    zero: int = 1
    schedule: Schedule = "1f1b"
    schedules: tuple[ScheduleSupport, ...] = ()
    skew: float = 0.0
    selective_gemm: float = 0.0
    core: str = ""
    causal: bool = False
    newer: tuple[NewerDtype, ...] = ()
    loose_groups: dt.date | None = None
    async_sends: bool = False


class ModelName(Record):
    """How a published model name is read where the architectures do not know it by that name."""

    match: str
    id: str


class Routing(Record):
    """Models of a type whose tokens use experts of few groups only."""

    model_type: str
    groups: int
    most: int
    source: str


class Names(Record):
    """The shipped reading of names."""

    chip: tuple[ChipName, ...]
    framework: tuple[FrameworkName, ...]
    routing: tuple[Routing, ...] = ()
    model: tuple[ModelName, ...] = ()


def preset_of(name: str) -> str | None:
    """The preset that a published name of a training run stands for, where only training tables use that name."""
    return next((entry.id for entry in names().model if re.search(entry.match, name, re.IGNORECASE)), None)


def routing_of(model_type: str) -> tuple[int, int]:
    """Groups of experts of a type of model, and most of them that one token uses; zeros where tokens go anywhere."""
    found = next((entry for entry in names().routing if entry.model_type == model_type), None)
    return (found.groups, found.most) if found else (0, 0)


@lru_cache(maxsize=1)
def names() -> Names:
    """Chip and framework names as shipped."""
    return msgspec.convert(tomllib.loads((DATA / "names.toml").read_text()), Names)


class Rejected(Record):
    """A row that cannot be right as it stands."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class TrainRow:
    """One published run.

    Attributes:
        id, model, published_chip, published_framework, source, date, confidence: as printed.
        chip: how the chip name is read; None where it is unknown.
        framework, release: id and version.
        dtype, variant: of the GEMMs.
        chips: packages; 0 where unstated.
        tp, pp, cp, ep, vp, dp, micro_batch, zero: 0 where unstated (zero: -1).
        recompute: "" where unstated. ``sequence_parallel`` None where unstated.
        sequence_tokens, batch_sequences: 0 where unstated.
        lora: base weights frozen.
        metrics: measured values by name of :data:`METRICS`.
        shape: widths printed in the row itself (hidden, layers, heads ...), where the model is not a known one.
        over_run: the rate is tokens over the chip-hours of a whole run, stops included.
    """

    id: str
    model: str
    published_chip: str
    published_framework: str
    source: str
    date: str
    confidence: str
    chip: ChipName | None
    framework: FrameworkName
    release: str
    dtype: str
    variant: str
    chips: int
    tp: int = 0
    pp: int = 0
    cp: int = 0
    ep: int = 0
    vp: int = 0
    dp: int = 0
    micro_batch: int = 0
    zero: int = -1
    recompute: Recompute | Literal[""] = ""
    sequence_parallel: bool | None = None
    sequence_tokens: int = 0
    batch_sequences: int = 0
    lora: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    shape: dict[str, float] = field(default_factory=dict)
    dtype_stated: bool = True
    vp_stated: bool = True
    note: str = ""
    async_tp: bool = False
    over_run: bool = False

    @property
    def kept(self) -> float:
        """Share of its time that the metric counts as training: below 1 where stops of a whole run are in it."""
        return constant("run_goodput") if self.over_run else 1.0

    @property
    def full_layout(self) -> bool:
        """Whether the degrees are all stated."""
        return bool(self.tp and self.pp and self.batch_sequences and self.micro_batch)


class BadCell(ValueError):
    """A cell that must be a number and is not."""


def number(text: str | None, *, name: str = "", strict: bool = False) -> float:
    """The first number of a cell with a K, M, B or T suffix; 0 where it is empty.

    Raises:
        BadCell: ``strict`` and the cell holds something else.
    """
    cell = (text or "").strip()
    if cell.lower() in _EMPTY:
        return 0.0
    found = _NUMBER.search(cell.replace(",", ""))
    if not found or (strict and found.start() not in (0, 1)):
        if strict:
            raise BadCell(f'{name} "{cell}" is no number')
        return 0.0
    value = float(found.group(0))
    rest = cell.replace(",", "")[found.end() :].strip()[:1]
    scale = {"K": KILO, "M": MEGA, "B": GIGA, "T": TERA}.get(rest, 1.0)
    return value * scale


def is_training(columns: list[str] | None) -> bool:
    """Whether a file's head line is that of a training file."""
    have = set(columns or ())
    return bool(have & {"step_time_s", "mfu_pct"}) and "output_tok_s" not in have


def _chip(name: str) -> ChipName | None:
    return next((entry for entry in names().chip if re.search(entry.match, name, re.IGNORECASE)), None)


def read_chip(name: str, known: frozenset[str]) -> ChipName | None:
    """How a chip name is read: a catalogue id as it is, else by the shipped patterns."""
    return ChipName(match="", id=name) if name in known else _chip(name)


def _framework(text: str) -> FrameworkName:
    return next(entry for entry in names().framework if re.search(entry.match, text, re.IGNORECASE))


def _dtype(text: str, default: str) -> tuple[str, str]:
    low = text.lower()
    variant = "mx" if "mx" in low else "rowwise" if "rowwise" in low else ""
    if not low.strip():
        return default, ""
    if "fp4" in low:
        return "fp4", ""
    if "fp8" in low or "float8" in low:
        return "fp8", variant
    return ("fp16", "") if "fp16" in low else ("bf16", "")


def _recompute(raw: dict[str, str], mfu: float, hfu: float) -> Recompute | Literal[""]:
    stated = raw.get("recompute", "").strip().lower()
    kinds: tuple[Recompute, ...] = ("none", "selective", "full")
    for kind in kinds:
        if stated == kind:
            return kind
    text = raw.get("conditions", "").lower()
    if "full ac" in text:
        return "full"
    if "selective ac" in text or "sac" in text:
        return "selective"
    if "no activation checkpointing" in text:
        return "none"
    if mfu and hfu:  # published side by side: hardware FLOP that are a third more mean full recompute
        return "full" if hfu > 1.15 * mfu else "none"
    return ""


def _shape(raw: dict[str, str]) -> dict[str, float]:
    """Widths of the model as the row prints them, in columns or in words."""
    found: dict[str, float] = {}
    other = raw.get("other_metric", "") or ""
    for name in ("hidden", "layers", "heads", "vocab", "feedforward", "head_dim"):
        value = number(raw.get(name))
        match = re.search(rf"\b{name}\s*=\s*([\d,]+)", other)
        value = value or (float(match.group(1).replace(",", "")) if match else 0.0)
        if value:
            found[name] = value
    return found


def _batch(raw: dict[str, str], dp: int, sequence: float) -> float:
    stated = number(raw.get("global_batch_seqs") or raw.get("global_batch"))
    if stated:
        return stated
    other = raw.get("other_metric", "") or ""
    per_rank = re.search(r"batch size per DP group\s*=\s*(\d+)", other)
    if per_rank and dp:
        return float(per_rank.group(1)) * dp
    tokens = re.search(r"tokens/batch\s*=\s*(\d+)M", other)
    return round(float(tokens.group(1)) * 2**20 / sequence) if tokens and sequence else 0.0


def _metrics(raw: dict[str, str]) -> dict[str, float]:
    found = {
        "step_time_s": number(raw.get("step_time_s"), name="step_time_s", strict=True),
        "tokens_per_s_per_chip": number(
            raw.get("tokens_per_s_per_gpu") or raw.get("tok_s_per_accel"), name="tokens per second", strict=True
        ),
        "mfu_pct": _range(raw.get("mfu_pct")),
    }
    return {name: value for name, value in found.items() if value}


def _range(text: str | None) -> float:
    """A published MFU in percent; the middle of a range ("38-43"), the bound of ">50"."""
    ends = [float(v) for v in _NUMBER.findall((text or "").replace("-", " "))]
    return sum(ends[:2]) / len(ends[:2]) if ends else 0.0


def read_row(raw: dict[str, str], known_chips: frozenset[str]) -> TrainRow | Rejected:
    """One line of a training file; a line that cannot be right comes back as :class:`Rejected`."""
    try:
        return _read(raw, known_chips)
    except BadCell as error:
        return Rejected(id=raw.get("id", "") or "?", why=str(error))


def _zero(text: str, framework: FrameworkName, *, full: bool) -> int:
    low = text.lower()
    if "zero-" in low:
        return int(number(low.split("zero-", 1)[1]))
    if "full_shard" in low or (full and low.strip().isdigit()):
        return 3
    if "shard_grad_op" in low:
        return 2
    if low.startswith("fsdp"):
        return 3 if number(low) > 1 else 1
    return framework.zero


def _read(raw: dict[str, Any], known_chips: frozenset[str]) -> TrainRow | Rejected:
    raw = {key: value if isinstance(value, str) else "" for key, value in raw.items() if key}
    row_id = raw.get("id", "") or "?"
    published = raw.get("chip") or raw.get("accelerator", "")
    framework_text = raw.get("framework", "")
    where = f"{framework_text} {raw.get('source', '')} {raw.get('source_ref', '')}"
    where += f" {published}" if "AMD" in published else ""
    framework = _framework(where)
    if framework.id == "other":  # a table that names its rows after the framework and states it nowhere else
        framework = _framework(f"{where} {row_id}")
    dtype, variant = _dtype(raw.get("dtype") or raw.get("precision", ""), framework.default_dtype)
    parallel = raw.get("parallelism", "") + " " + raw.get("conditions", "")
    degree = {
        name: int(number(raw.get(name))) or _worded(parallel, name) for name in ("tp", "pp", "cp", "ep", "vp")
    }  # fmt: skip
    degree["vp"] = degree["vp"] or int(number(raw.get("interleaving")))
    dp_text = raw.get("dp_fsdp", "")
    dp = int(number(raw.get("dp"))) or (int(number(dp_text)) if dp_text.strip().isdigit() else 0)
    sequence = number(raw.get("seq_len"))
    metrics = _metrics(raw)
    for name, value in metrics.items():
        if value < 0 or (name == "mfu_pct" and value > 100.0):
            return Rejected(id=row_id, why=f"{name} = {value:g} is impossible")
    chips = int(number(raw.get("n_chips") or raw.get("n_accelerators")))
    if chips < 0 or sequence < 0:
        return Rejected(id=row_id, why="negative chips or sequence length")
    batch = int(_batch(raw, dp, sequence))
    both = metrics.get("step_time_s", 0.0) * metrics.get("tokens_per_s_per_chip", 0.0)
    if both and batch and sequence and chips:
        ratio = both * chips / (batch * sequence)
        if not 0.9 < ratio < 1.1:
            return Rejected(id=row_id, why=f"step time x tokens per second is {ratio:.2f} of the batch")
    sharded = framework.id in ("torchtitan", "llm-foundry")
    version = raw.get("framework_version", "") or ""
    stated_sp = raw.get("sequence_parallel", "").strip().lower()
    return TrainRow(
        id=row_id, model=raw.get("model", ""), published_chip=published,
        published_framework=framework_text or framework.id,
        source=raw.get("source", ""), date=raw.get("date", ""), confidence=raw.get("confidence", ""),
        chip=read_chip(published, known_chips), framework=framework, release=_release(version), dtype=dtype,
        variant=variant, chips=chips, **degree, dp=dp, micro_batch=int(number(raw.get("micro_batch"))),
        zero=_zero(dp_text, framework, full=sharded), recompute=_recompute(raw, metrics.get("mfu_pct", 0.0),
        _range(raw.get("hfu_pct"))),
        sequence_parallel={"yes": True, "no": False}.get(stated_sp), sequence_tokens=int(sequence),
        batch_sequences=batch,
        lora=framework.lora or "lora" in raw.get("model", "").lower(), metrics=metrics, shape=_shape(raw),
        dtype_stated=bool((raw.get("dtype") or raw.get("precision", "")).strip()),
        vp_stated=bool((raw.get("vp", "") or raw.get("interleaving", "")).strip()),
        note=f"{raw.get('other', '')} {raw.get('kind', '')}",
        over_run=_is_over_run(raw, metrics), async_tp=bool(re.search(r"async[ _-]?tp", parallel, re.IGNORECASE)),
    )  # fmt: skip


def _is_over_run(raw: dict[str, str], metrics: dict[str, float]) -> bool:
    if set(metrics) != {"tokens_per_s_per_chip"}:
        return False
    said = f"{raw.get('other', '')} {raw.get('conditions', '')}"
    return bool(raw.get("gpu_hours_total", "").strip()) or bool(re.search(r"(?:GPU|chip|NPU)-hours", said))


def _worded(text: str, name: str) -> int:
    """A degree written as "PP16" or "PP 16"."""
    found = re.search(rf"\b{name}\s*(\d+)|(?<=\d){name}(\d+)", text, re.IGNORECASE)
    return int(found.group(1) or found.group(2)) if found else 0


def _release(version: str) -> str:
    found = re.search(r"v?(\d+\.\d+(?:\.\d+)?)", version)
    return found.group(1) if found else ""
