"""Which kind of trace a file is, told from its first line."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from offramp.core.errors import InputError, near_misses

Kind = Literal["csv", "jsonl", "bench"]
HEAD_BYTES = 1 << 16


class Format(NamedTuple):
    """How to read a trace.

    Attributes:
        kind: comma-separated rows, JSON lines, or one JSON object of vLLM's benchmark.
        name: of the schema, for notes.
        arrival, isl, osl: names of the columns; arrival "" where there is none.
        hashes: column of block ids; "" where there is none.
        block_tokens: tokens of one block.
        time_scale: seconds per unit of the arrival column; 0 = a calendar date.
        delimiter: of a CSV file.
        columns: all columns of a CSV file, as written.
    """

    kind: Kind
    name: str
    arrival: str
    isl: str
    osl: str
    hashes: str = ""
    block_tokens: int = 0
    time_scale: float = 1.0
    delimiter: str = ","
    columns: tuple[str, ...] = ()


# Columns of each CSV schema: arrival, input, output, and seconds per unit of time (0 = a calendar date).
# Sources: github.com/Azure/AzurePublicDataset, github.com/HPMLL/BurstGPT, github.com/microsoft/vidur.
_CSV: tuple[tuple[str, str, str, str, float], ...] = (
    ("Azure LLM trace", "TIMESTAMP", "ContextTokens", "GeneratedTokens", 0.0),
    ("BurstGPT", "Timestamp", "Request tokens", "Response tokens", 1.0),
    ("Vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens", 1.0),
    ("plain CSV", "arrival_s", "isl_tokens", "osl_tokens", 1.0),
    ("plain CSV", "arrival_time_s", "isl_tokens", "osl_tokens", 1.0),
    ("plain CSV", "timestamp_s", "isl_tokens", "osl_tokens", 1.0),
    ("plain CSV", "arrival_s", "input_tokens", "output_tokens", 1.0),
    ("plain CSV", "arrival_s", "prompt_tokens", "output_tokens", 1.0),
    ("plain CSV", "arrival_s", "isl", "osl", 1.0),
)
_EXPECTED = "arrival_s, isl_tokens, osl_tokens"


def fold(name: str) -> str:
    """A column name without case, blanks and underscores."""
    return "".join(letter for letter in name.strip().strip('"').lower() if letter.isalnum())


def open_binary(path: Path, where: str) -> BinaryIO:
    """The file's bytes, unpacked where it is gzip or zstandard.

    Raises:
        InputError: missing, a folder, or not readable.
    """
    import pyarrow as pa

    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder", where=where, mend="Give the trace file itself.")
        stream = pa.input_stream(str(path), compression="detect")
    except FileNotFoundError:
        raise InputError(f"no file {path}", where=where, mend="Check the path.") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}", where=where) from None
    return stream  # pyright: ignore[reportReturnType]


class Utf8Bytes(io.RawIOBase):
    """A stream that hands its bytes on and refuses the first that are not UTF-8."""

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self._stream = stream
        self._where = where
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._done = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            InputError: they are not UTF-8.
        """
        data = bytes(self._stream.read(size))
        try:
            self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = max(self._done + error.start, 0)
            raise InputError(f"not UTF-8 near byte {at}", where=self._where, mend="Save the file as UTF-8.") from None
        self._done += len(data)
        return data


def detect(path: Path, *, where: str) -> Format:
    """The format of a trace file.

    Raises:
        InputError: empty, not UTF-8, or a schema that is not known (with the nearest columns).
    """
    with open_binary(path, where) as stream:
        try:
            head = bytes(stream.read(HEAD_BYTES))
        except OSError as error:
            raise InputError(f"cannot read {path.name}: {error}", where=where, mend="Is it complete?") from None
    text = _decode(head, where)
    if not text.strip():
        raise InputError(f"{path.name} is empty", where=where, mend=f"Give a CSV with the columns {_EXPECTED}.")
    first = text.lstrip().splitlines()[0]
    return _json_format(text.lstrip(), first, where) if first.startswith(("{", "[")) else _csv_format(first, where)


def _decode(head: bytes, where: str) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("the file is UTF-16", where=where, mend="Save it as UTF-8.")
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) == HEAD_BYTES and error.start >= len(head) - 4:  # a character cut by the end of the head
            return head[: error.start].decode("utf-8-sig")
        raise InputError(f"not UTF-8 at byte {error.start}", where=where, mend="Save the file as UTF-8.") from None


def _csv_format(first: str, where: str) -> Format:
    delimiter = max(",;\t", key=first.count)
    columns = tuple(part.strip().strip('"') for part in first.split(delimiter))
    by_fold = {fold(column): column for column in columns}
    if all(_is_number(column) for column in columns if column):
        raise InputError(
            "the first line holds numbers, not column names", where=where, mend=f"Add the line {_EXPECTED}."
        )
    for name, arrival, isl, osl, scale in _CSV:
        if all(fold(column) in by_fold for column in (arrival, isl, osl)):
            return Format("csv", name, by_fold[fold(arrival)], by_fold[fold(isl)], by_fold[fold(osl)],
                          time_scale=scale, delimiter=delimiter, columns=columns)  # fmt: skip
    raise InputError(_what_is_missing(by_fold), where=where, mend=_how_to_rename(by_fold))


def _nearest(by_fold: Mapping[str, str]) -> tuple[str, tuple[str, str, str]]:
    """The schema with the most columns present, or the most that are nearly so."""

    def score(schema: tuple[str, str, str, str, float]) -> tuple[int, int]:
        exact = sum(fold(column) in by_fold for column in schema[1:4])
        return exact, sum(bool(near_misses(fold(column), by_fold)) for column in schema[1:4])

    best = max(_CSV, key=score)
    return best[0], best[1:4]


def _what_is_missing(by_fold: Mapping[str, str]) -> str:
    name, wanted = _nearest(by_fold)
    missing = [column for column in wanted if fold(column) not in by_fold]
    if len(missing) == len(wanted):
        return f"columns {', '.join(by_fold.values())[:120]} are those of no known trace"
    return f"column {', '.join(missing)} is missing (read as {name})"


def _how_to_rename(by_fold: Mapping[str, str]) -> str:
    _, wanted = _nearest(by_fold)
    taken = {fold(column) for column in wanted}
    hints: list[str] = []
    for column in wanted:
        if fold(column) in by_fold:
            continue
        near = near_misses(fold(column), [other for other in by_fold if other not in taken], most=1)
        if near:
            hints.append(f'is "{by_fold[near[0]]}" meant for {column}?')
    sentence = " ".join(hints)
    return f"{sentence[:1].upper()}{sentence[1:]} Plain CSV has the columns {_EXPECTED}.".strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_format(text: str, first: str, where: str) -> Format:
    try:
        record = json.loads(first)
    except json.JSONDecodeError:
        record = None
    keys: set[str] = set(record) if isinstance(record, dict) else set()  # pyright: ignore[reportUnknownArgumentType]
    if {"timestamp", "input_length", "output_length"} <= keys:
        return _jsonl(keys)
    if "input_lens" in text or "output_lens" in text or '"num_prompts"' in text:
        return Format("bench", "vLLM bench serve", "start_times", "input_lens", "output_lens")
    known = ("timestamp", "input_length", "output_length", "hash_ids")
    wrong = sorted(keys - set(known))[:6]
    missing = [name for name in known[:3] if name not in keys]
    if keys and len(missing) < 3:
        near = near_misses(missing[0], wrong, most=1)
        hint = f'Is "{near[0]}" meant? ' if near else ""
        raise InputError(
            f"field {missing[0]} is missing in line 1", where=where, mend=f"{hint}Mooncake: {', '.join(known)}."
        )
    raise InputError(
        "JSON of no known trace", where=where,
        mend="Known: Mooncake and Bailian JSON lines (timestamp, input_length, output_length, hash_ids), "
        "and vLLM bench serve results saved with --save-detailed.",
    )  # fmt: skip


def _jsonl(keys: set[str]) -> Format:
    """Mooncake counts milliseconds and blocks of 512 tokens, Bailian seconds and blocks of 16.

    Sources: kvcache-ai/Mooncake FAST25-release/README.md; alibaba-edu/qwen-bailian-usagetraces-anon README.md.
    """
    bailian = bool(keys & {"chat_id", "parent_chat_id", "turn"})
    return Format(
        "jsonl", "Qwen-Bailian" if bailian else "Mooncake", "timestamp", "input_length", "output_length",
        hashes="hash_ids" if "hash_ids" in keys else "", block_tokens=16 if bailian else 512,
        time_scale=1.0 if bailian else 1e-3,
    )  # fmt: skip
