"""Raw columns of a trace, and their cleaning: what is dropped is counted, what is out of order is sorted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from offramp.core.errors import InputError
from offramp.traffic.trace import F8, I8, Trace

# A length beyond this is a broken number, not a request: no model reads 100 M tokens.
MOST_TOKENS = 100_000_000
# Above this share of unusable rows the file is refused rather than cleaned.
MOST_BAD = 0.5


@dataclass(kw_only=True)
class Columns:
    """Columns as read; NaN marks what is not a number.

    Attributes:
        arrival_s: times; an absolute calendar time in seconds, or relative. [n]
        isl, osl: lengths. [n]
        hash_offsets, hash_ids: blocks in compressed rows, or None. [n + 1], [m]
        bad_lines: lines that are not rows at all.
        notes: remarks of the reader.
    """

    arrival_s: F8
    isl: F8
    osl: F8
    hash_offsets: I8 | None = None
    hash_ids: I8 | None = None
    bad_lines: int = 0
    notes: list[str] = field(default_factory=list[str])


def join(parts: list[Columns]) -> Columns:
    """Batches one after another."""
    if len(parts) == 1:
        return parts[0]
    offsets = ids = None
    if all(part.hash_offsets is not None for part in parts):
        lengths = [np.diff(part.hash_offsets) for part in parts if part.hash_offsets is not None]
        offsets = np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int64)
        ids = np.concatenate([part.hash_ids for part in parts if part.hash_ids is not None])
    return Columns(
        arrival_s=np.concatenate([part.arrival_s for part in parts]), isl=np.concatenate([part.isl for part in parts]),
        osl=np.concatenate([part.osl for part in parts]), hash_offsets=offsets, hash_ids=ids,
        bad_lines=sum(part.bad_lines for part in parts), notes=list(dict.fromkeys(n for p in parts for n in p.notes)),
    )  # fmt: skip


def _whole(values: F8) -> F8:
    """NaN where a length is not a whole number."""
    with np.errstate(invalid="ignore"):
        return np.where(values == np.floor(values), values, np.nan)


def clean(raw: Columns, *, source: str, where: str, block_tokens: int, origin_s: float | None = None) -> Trace:
    """The trace of raw columns.

    Args:
        raw: as read.
        source: name of the file.
        where: address for messages.
        block_tokens: tokens of one block; ignored without blocks.
        origin_s: time that counts as zero; the earliest arrival where None.

    Raises:
        InputError: no usable row, or more than half of them unusable.
    """
    counts: Counter[str] = Counter()
    if raw.bad_lines:
        counts["lines that are not rows"] = raw.bad_lines
    isl, osl = _whole(raw.isl), _whole(raw.osl)
    keep = np.ones(len(isl), dtype=bool)
    with np.errstate(invalid="ignore"):
        for name, bad in (
            ("rows whose arrival is not a time", ~np.isfinite(raw.arrival_s)),
            ("rows whose length is not a whole number", ~np.isfinite(isl) | ~np.isfinite(osl)),
            ("rows with no input tokens or a negative number", isl < 1),
            ("rows with no output tokens or a negative number (failed requests)", osl < 1),
            (f"rows with more than {MOST_TOKENS:,} tokens", (isl > MOST_TOKENS) | (osl > MOST_TOKENS)),
        ):
            counts[name] += int((bad & keep).sum())
            keep &= ~bad
    _refuse_if_broken(keep, counts, where)
    notes = [*raw.notes, *(f"dropped {count:,} {name}" for name, count in counts.items() if count)]
    order = np.flatnonzero(keep)
    times = raw.arrival_s[order]
    disorder = int((np.diff(times) < 0).sum())
    if disorder:
        notes.append(f"sorted by arrival: {disorder:,} rows came before an earlier one")
        order = order[np.argsort(times, kind="stable")]
    trace = Trace(
        arrival_s=raw.arrival_s, isl_tokens=np.where(keep, isl, 1).astype(np.int64),
        osl_tokens=np.where(keep, osl, 1).astype(np.int64), hash_offsets=raw.hash_offsets, hash_ids=raw.hash_ids,
        block_tokens=block_tokens if raw.hash_ids is not None else 0, source=source, notes=tuple(notes),
    ).take(order)  # fmt: skip
    if origin_s is not None:
        first = raw.arrival_s[order[0]] - origin_s
        object.__setattr__(trace, "arrival_s", trace.arrival_s + first)
    return trace


def _refuse_if_broken(keep: np.ndarray, counts: Counter[str], where: str) -> None:
    total = len(keep) + counts["lines that are not rows"]
    if total == 0:
        raise InputError("no requests in the file", where=where, mend="It has a header and nothing below it.")
    bad = total - int(keep.sum())
    if bad > MOST_BAD * total or not keep.any():
        worst = max(counts, key=lambda name: counts[name])
        raise InputError(
            f"{bad:,} of {total:,} rows cannot be used, most of them {worst}", where=where, mend="Check the columns."
        )
