"""Loading traces: whole, cut short, or in batches of bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from offramp.core.errors import InputError
from offramp.traffic.columns import Columns, clean, join
from offramp.traffic.formats import Format, Utf8Bytes, detect, open_binary
from offramp.traffic.trace import F8, Trace

if TYPE_CHECKING:
    import pyarrow as pa

Number = TypeVar("Number", bound=np.generic)
NANO = 1e-9
_BLOCK_BYTES = 1 << 23  # bytes that one batch is parsed from
_MAX_LINE_BYTES = 1 << 27


def load(path: str | Path, *, max_requests: int = 0, where: str = "") -> Trace:
    """The trace of a file; its schema is told from its first line.

    Known: Azure LLM 2023 and 2024 (CSV), BurstGPT (CSV), Vidur (CSV), plain CSV (arrival_s, isl_tokens, osl_tokens),
    Mooncake and Qwen-Bailian (JSON lines with block hashes), vLLM ``bench serve`` results (JSON); gzip too.

    Args:
        path: the file.
        max_requests: stop after that many rows (0 = read all).
        where: address of the path in the user's input, for messages.

    Raises:
        InputError: missing, empty, not UTF-8, a schema that is not known, or mostly unusable rows.
    """
    file = Path(path).expanduser()
    at = where or str(file)
    form = detect(file, where=at)
    parts: list[Columns] = []
    rows = 0
    for part in _parts(file, form, at):
        parts.append(part)
        rows += len(part.arrival_s)
        if max_requests and rows >= max_requests:
            break
    if not parts:
        raise InputError("no requests in the file", where=at, mend="It has a header and nothing below it.")
    raw = join(parts)
    raw.notes += [f"read as {form.name}", *_end_note(file, at, whole=not max_requests or rows < max_requests)]
    trace = clean(raw, source=file.name, where=at, block_tokens=form.block_tokens)
    return trace.head(max_requests) if max_requests else trace


def iter_batches(path: str | Path, batch: int, *, where: str = "") -> Iterator[Trace]:
    """The requests of a file, ``batch`` at a time, in bounded memory.

    Times count from the first request of the file. Rows are sorted within a batch only; a file that is out of order
    across batches is refused, because what was handed out cannot be taken back.

    Args:
        path: the file.
        batch: requests of each trace (the last has fewer).
        where: address of the path in the user's input.

    Raises:
        InputError: as :func:`load`, or a request that is earlier than the batch before it.
    """
    if batch < 1:
        raise InputError(f"a batch of {batch} requests", where="batch", mend="Give at least 1.")
    file = Path(path).expanduser()
    at = where or str(file)
    form = detect(file, where=at)
    origin: float | None = None
    last = -np.inf
    for raw in _rebatched(_parts(file, form, at), batch):
        finite = raw.arrival_s[np.isfinite(raw.arrival_s)]
        if not len(finite):
            continue
        origin = float(finite.min()) if origin is None else origin
        trace = clean(raw, source=file.name, where=at, block_tokens=form.block_tokens, origin_s=origin)
        if trace.arrival_s[0] < last:
            raise InputError(
                "requests are out of order over more than one batch", where=at, mend="Sort the file by time."
            )
        last = float(trace.arrival_s[-1])
        yield trace


def _rebatched(parts: Iterable[Columns], batch: int) -> Iterator[Columns]:
    held: list[Columns] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += len(part.arrival_s)
        while rows >= batch:
            whole = join(held)
            yield _rows(whole, 0, batch)
            rest = _rows(whole, batch, len(whole.arrival_s))
            rest.bad_lines = 0
            held, rows = [rest], len(rest.arrival_s)
    if rows:
        yield join(held)


def _rows(raw: Columns, start: int, stop: int) -> Columns:
    offsets = ids = None
    if raw.hash_offsets is not None and raw.hash_ids is not None:
        cut = raw.hash_offsets[start : stop + 1]
        offsets, ids = cut - cut[0], raw.hash_ids[cut[0] : cut[-1]]
    return Columns(
        arrival_s=raw.arrival_s[start:stop], isl=raw.isl[start:stop], osl=raw.osl[start:stop], hash_offsets=offsets,
        hash_ids=ids, bad_lines=raw.bad_lines, notes=raw.notes,
    )  # fmt: skip


def _parts(file: Path, form: Format, where: str) -> Iterator[Columns]:
    if form.kind == "csv":
        return _csv_parts(file, form, where)
    return _jsonl_parts(file, form, where) if form.kind == "jsonl" else _bench_parts(file, where)


def _end_note(file: Path, where: str, *, whole: bool) -> list[str]:
    """A remark where the last line has no end: it may have been cut."""
    if not whole or file.suffix in (".gz", ".zst", ".bz2"):
        return []
    with file.open("rb") as handle:
        handle.seek(-1, 2)
        return [] if handle.read(1) in (b"\n", b"\r", b"}") else ["the last line has no line end; it may be cut"]


# -- CSV


def _csv_parts(file: Path, form: Format, where: str) -> Iterator[Columns]:
    """Batches of a CSV, typed by Arrow where all is well, else text that is turned into numbers value by value."""
    try:
        yield from _arrow_csv(file, form, where, typed=True)
    except _Untyped as stop:
        for index, part in enumerate(_arrow_csv(file, form, where, typed=False)):
            if index >= stop.done:
                yield part


class _Untyped(Exception):
    """A value that is not a number was met after ``done`` good batches."""

    def __init__(self, done: int) -> None:
        super().__init__(done)
        self.done = done


def _arrow_csv(file: Path, form: Format, where: str, *, typed: bool) -> Iterator[Columns]:
    import pyarrow as pa
    from pyarrow import csv

    bad = [0]

    def skip(row: Any) -> str:
        bad[0] += 1
        return "skip"

    wanted = [form.arrival, form.isl, form.osl]
    number = pa.float64() if typed else pa.string()
    types = {form.isl: number, form.osl: number, form.arrival: number if form.time_scale else pa.string()}
    done = 0
    origin: list[int] = []
    with open_binary(file, where) as stream:
        try:
            reader = csv.open_csv(
                pa.PythonFile(Utf8Bytes(stream, where), mode="r"),
                read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=list(form.columns), skip_rows=1),
                parse_options=csv.ParseOptions(delimiter=form.delimiter, invalid_row_handler=skip),
                convert_options=csv.ConvertOptions(
                    column_types=types, include_columns=wanted, strings_can_be_null=True
                ),
            )
            for batch in reader:
                part = _csv_columns(batch, form, origin)
                part.bad_lines, bad[0] = bad[0], 0
                done += 1
                yield part
        except pa.ArrowInvalid as error:
            text = str(error)
            if "UTF8" in text or "UTF-8" in text:
                raise InputError("a line is not UTF-8", where=where, mend="Save the file as UTF-8.") from None
            if "Empty CSV" in text or "no rows" in text.lower():
                return
            if typed:
                raise _Untyped(done) from None
            raise InputError(f"not a CSV that can be read: {text[:120]}", where=where, mend="Check the file.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {file.name}: {error}", where=where, mend="Is it complete?") from None


def _csv_columns(batch: pa.RecordBatch, form: Format, origin: list[int]) -> Columns:
    arrival = batch.column(form.arrival)
    times = _numbers(arrival) * form.time_scale if form.time_scale else _dates(arrival, origin)
    return Columns(arrival_s=times, isl=_numbers(batch.column(form.isl)), osl=_numbers(batch.column(form.osl)))


def _compute() -> Any:
    """Arrow's functions on columns (made at run time, so no type checker knows them)."""
    import pyarrow.compute

    return pyarrow.compute


def _numbers(column: pa.Array) -> F8:
    """Floats; NaN where the text is no number."""
    import pyarrow as pa

    pc = _compute()

    if pa.types.is_string(column.type):
        trimmed = pc.utf8_trim_whitespace(column)
        good = pc.match_substring_regex(trimmed, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        column = pc.cast(pc.if_else(good, trimmed, pa.nulls(len(column), pa.string())), pa.float64())
    column = pc.cast(column, pa.float64())
    return np.where(_present(column), _flat(column, np.float64), np.nan)


def _present(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Which values are not null."""
    import pyarrow as pa

    pc = _compute()

    return _flat(pc.cast(pc.is_valid(column), pa.uint8()), np.uint8).astype(bool)


def _flat(column: pa.Array, dtype: type[Number]) -> npt.NDArray[Number]:
    """The values of a fixed-width column, whatever lies under nulls (Arrow's own way would import pandas)."""
    if len(column) == 0:
        return np.empty(0, dtype=dtype)
    values = np.frombuffer(column.buffers()[1], dtype=dtype)
    return values[column.offset : column.offset + len(column)]


def _dates(column: pa.Array, origin: list[int]) -> F8:
    """Seconds of calendar times, with or without a zone; NaN where the text is none.

    Args:
        column: texts.
        origin: the earliest time of the first batch, in ns since 1970; filled when empty. Counting from there keeps
            the nanoseconds that a float of seconds since 1970 would lose.
    """
    import pyarrow as pa

    pc = _compute()

    try:
        if len(column) and pc.all(pc.ends_with(column, "+00:00")).as_py():  # Azure 2024
            column = pc.utf8_slice_codeunits(column, 0, -6)
        stamps = pc.cast(column, pa.timestamp("ns"))
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(column)
        plain = pc.replace_substring_regex(trimmed, r"(Z|[+-]00:?00)$", "")
        good = pc.match_substring_regex(plain, r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?$")
        if not pc.any(good).as_py():
            return _numbers(column)
        masked = pc.if_else(good, plain, pa.nulls(len(column), pa.string()))
        try:
            stamps = pc.cast(masked, pa.timestamp("ns"))
        except pa.ArrowInvalid:  # a date that the calendar does not have
            stamps = pa.array([_one_date(text) for text in masked.to_pylist()], pa.timestamp("ns"))
    empty = ~_present(stamps)
    whole = np.where(empty, 0, _flat(pc.cast(stamps, pa.int64()), np.int64))
    if not origin and not empty.all():
        origin.append(int(whole[~empty].min()))
    return np.where(empty, np.nan, (whole - (origin[0] if origin else 0)) * NANO)


def _one_date(text: str | None) -> int | None:
    try:
        return int(np.datetime64(text, "ns").astype(np.int64)) if text else None
    except ValueError:
        return None


# -- JSON lines


def _jsonl_parts(file: Path, form: Format, where: str) -> Iterator[Columns]:
    """Batches of JSON lines; Arrow reads good files, line by line where one is broken."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    fields = [(form.arrival, pa.float64()), (form.isl, pa.float64()), (form.osl, pa.float64())]
    if form.hashes:
        fields.append((form.hashes, pa.list_(pa.int64())))
    done = 0
    try:
        with open_binary(file, where) as stream:
            reader = arrow_json.open_json(
                stream,
                read_options=arrow_json.ReadOptions(block_size=_BLOCK_BYTES),
                parse_options=arrow_json.ParseOptions(
                    explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
                ),
            )
            for batch in reader:
                part = _json_columns(batch, form)
                done += len(part.arrival_s)
                yield part
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        yield from _slow_jsonl(file, form, where, skip_rows=done)
    except OSError as error:
        raise InputError(f"cannot read {file.name}: {error}", where=where, mend="Is it complete?") from None


def _json_columns(batch: pa.RecordBatch, form: Format) -> Columns:
    offsets = ids = None
    if form.hashes:
        column = batch.column(form.hashes)
        raw = _flat(column.offsets, np.int32).astype(np.int64)
        values = np.where(_present(column.values), _flat(column.values, np.int64), -1)
        ids = values[raw[0] : raw[-1]]
        offsets = raw - raw[0]
    return Columns(
        arrival_s=_numbers(batch.column(form.arrival)) * form.time_scale, isl=_numbers(batch.column(form.isl)),
        osl=_numbers(batch.column(form.osl)), hash_offsets=offsets, hash_ids=ids,
    )  # fmt: skip


def _slow_jsonl(file: Path, form: Format, where: str, *, skip_rows: int) -> Iterator[Columns]:
    """One batch of all lines, each decoded alone, so that one that is broken costs one request."""
    arrival: list[float] = []
    isl: list[float] = []
    osl: list[float] = []
    lengths: list[int] = []
    ids: list[int] = []
    bad = 0
    with open_binary(file, where) as stream:
        lines = bytes(stream.read()).lstrip(b"\xef\xbb\xbf").split(b"\n")
    for line in lines:
        if not line.strip():
            continue
        row = _one_row(line, form)
        if row is None:
            bad += 1
            continue
        if skip_rows:
            skip_rows -= 1
            continue
        arrival.append(row[0] * form.time_scale)
        isl.append(row[1])
        osl.append(row[2])
        lengths.append(len(row[3]))
        ids += row[3]
    yield Columns(
        arrival_s=np.array(arrival, dtype=np.float64), isl=np.array(isl, dtype=np.float64),
        osl=np.array(osl, dtype=np.float64), bad_lines=bad,
        hash_offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64) if form.hashes else None,
        hash_ids=np.array(ids, dtype=np.int64) if form.hashes else None,
    )  # fmt: skip


def _one_row(line: bytes, form: Format) -> tuple[float, float, float, list[int]] | None:
    try:
        record: Any = json.loads(line)
        numbers = [float(record[name]) for name in (form.arrival, form.isl, form.osl)]
        blocks = [int(block) for block in record.get(form.hashes) or []] if form.hashes else []
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    if any(abs(block) >= 2**63 for block in blocks):
        return None
    return numbers[0], numbers[1], numbers[2], blocks


# -- vLLM bench serve


def _bench_parts(file: Path, where: str) -> Iterator[Columns]:
    """One batch of a benchmark's result file, saved with its per-request details."""
    with open_binary(file, where) as stream:
        data = bytes(stream.read(_MAX_LINE_BYTES * 4))
    try:
        raw = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=where, mend="Save the file as UTF-8.") from None
    try:
        record: Any = json.loads(raw)
    except json.JSONDecodeError:
        lines = [line for line in raw.splitlines() if line.strip()]
        record = _last_json(lines, where)
    if isinstance(record, list):
        record = record[-1] if record else {}
    if not isinstance(record, dict) or not isinstance(record.get("input_lens"), list):
        raise InputError(
            "the result has no input_lens", where=where, mend="Run vllm bench serve with --save-result --save-detailed."
        )
    yield _bench_columns(record, where)


def _last_json(lines: list[str], where: str) -> Any:
    """The last whole record of a file that results were appended to."""
    for line in reversed(lines):
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            continue
    raise InputError("not JSON", where=where, mend="Is the file complete?")


def _bench_columns(record: dict[str, Any], where: str) -> Columns:
    isl, osl = _floats(record["input_lens"]), _floats(record.get("output_lens") or [])
    if len(isl) != len(osl):
        raise InputError(f"{len(isl)} input_lens and {len(osl)} output_lens", where=where)
    starts = record.get("start_times")
    notes: list[str] = []
    if isinstance(starts, list) and len(starts) == len(isl):  # pyright: ignore[reportUnknownArgumentType]
        arrival = _floats(starts)  # pyright: ignore[reportUnknownArgumentType]
    else:
        rate = _rate(record.get("request_rate"))
        arrival = np.arange(len(isl)) / rate if rate else np.zeros(len(isl))
        how = f"spaced evenly at {rate:g} requests/s" if rate else "all at once (closed loop)"
        notes.append(f"the result has no start_times: arrivals are {how}")
    return Columns(arrival_s=arrival, isl=isl, osl=osl, notes=notes)


def _rate(value: object) -> float:
    try:
        rate = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return 0.0
    return rate if np.isfinite(rate) and rate > 0 else 0.0


def _floats(values: list[Any]) -> F8:
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], dtype=np.float64)
