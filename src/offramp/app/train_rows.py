"""Files of training measurements, read into cases, with everything that was not used and why."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from offramp import catalog
from offramp.core.document import decode_text, read_bytes
from offramp.core.errors import InputError, OfframpError
from offramp.core.record import Record
from offramp.train.cases import Case, build
from offramp.train.rows import Rejected, is_training, read_row

LIMIT = 100_000


class Loaded(Record):
    """A file of training measurements, read.

    Attributes:
        cases: rows that can be predicted.
        unpredicted: ids by reason.
        rejected: rows that cannot be right.
    """

    cases: tuple[Case, ...]
    unpredicted: dict[str, list[str]]
    rejected: tuple[Rejected, ...]


def is_training_file(path: str | Path) -> bool:
    """Whether the head line of a CSV is that of a training file; False for anything unreadable."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            return is_training(next(csv.reader(lines), None))
    except (OSError, csv.Error):
        return False


def load(paths: Iterable[str | Path]) -> Loaded:
    """Every row of the files.

    Raises:
        InputError: a file cannot be read, or is no table of training runs.
    """
    book = catalog.load()
    known = frozenset(book.chips)
    cases: list[Case] = []
    unpredicted: dict[str, list[str]] = {}
    rejected: list[Rejected] = []
    seen: set[str] = set()
    for path in paths:
        for raw in _rows(Path(path)):
            row = read_row(raw, known)
            if isinstance(row, Rejected):
                rejected.append(row)
                continue
            if row.id in seen:
                rejected.append(Rejected(id=row.id, why="the same id twice"))
                continue
            seen.add(row.id)
            if not row.metrics:
                unpredicted.setdefault("neither step time, tokens per second nor MFU is published", []).append(row.id)
                continue
            try:
                found = build(row, book)
            except OfframpError as error:
                unpredicted.setdefault(error.what, []).append(row.id)
                continue
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                cases.append(found)
    return Loaded(cases=tuple(cases), unpredicted=unpredicted, rejected=tuple(rejected))


def _rows(path: Path) -> list[dict[str, str]]:
    text = decode_text(read_bytes(path), where=str(path)).removeprefix("\ufeff")
    try:
        reader = csv.DictReader(text.splitlines())
        columns = list(reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"is no CSV ({error})", where=str(path)) from None
    if not is_training(columns) or not {"id", "model"} <= set(columns):
        raise InputError(
            "is no table of training runs", where=str(path),
            mend="It needs id, model, chip (or accelerator), and step_time_s or mfu_pct; see docs/train.md.",
        )  # fmt: skip
    if len(rows) > LIMIT:
        raise InputError(f"has more than {LIMIT:,} rows", where=str(path), mend="Split it.")
    return rows
