"""Reading files of other tools: text, JSON, JSON lines, CSV and XLSX, with errors that name the place."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from offramp.core.document import decode_text, read_bytes
from offramp.core.errors import BackendError, InputError

MOST_CELLS: Final = 2_000_000


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        InputError: missing, a folder, too large, empty, or not UTF-8.
    """
    file = Path(path)
    text = decode_text(read_bytes(file), where=str(file))
    if not text.strip():
        raise InputError("is empty", where=str(file), mend="Was the command that wrote it cut short?")
    return text


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: not JSON (with line and column).
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"is not JSON: {error.msg} ({place})", where=where, mend="Is the file complete?") from None
    except RecursionError:
        raise InputError("is nested too deeply", where=where) from None


def json_objects(text: str, where: str) -> list[dict[str, Any]]:
    """The objects of a JSON text: the one it is, those of a list, or those of its lines.

    Raises:
        InputError: not JSON, or no object in it.
    """
    head = text.lstrip()[:1]
    if head not in ("{", "["):
        raise InputError("is neither JSON nor JSON lines", where=where)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = [parse_json(line, f"{where}:{n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    except RecursionError:
        raise InputError("is nested too deeply", where=where) from None
    found = [item for item in (whole if isinstance(whole, list) else [whole]) if isinstance(item, dict)]
    if not found:
        raise InputError("holds no JSON object", where=where)
    return found


@contextlib.contextmanager
def shaped(where: str, what: str) -> Generator[None]:
    """Names a file whose parts are not of the kinds that its tool writes.

    Raises:
        InputError: a part is missing, or a number stands where a table should.
    """
    try:
        yield
    except (AttributeError, TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        mend = "Is the file as the tool wrote it?"
        raise InputError(f"is not shaped as {what} ({type(error).__name__}: {error})", where=where, mend=mend) from None


def number(value: Any) -> float | None:
    """A finite number, also where it is written as text; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def dig(data: Any, *path: str) -> Any:
    """The value below a path of keys, or None."""
    for key in path:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data


def table_rows(path: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV or XLSX file (first sheet) as text by column name; blank rows are left out.

    Raises:
        InputError: unreadable, no header, or formulas without a stored value.
        BackendError: XLSX without the library that reads it.
    """
    file = Path(path)
    raw = read_bytes(file)
    rows = _xlsx_rows(raw, file) if raw[:4] == b"PK\x03\x04" else _csv_rows(decode_text(raw, where=str(file)), file)
    if not rows or not any(cell.strip() for cell in rows[0]):
        raise InputError("has no header line", where=str(file))
    header = [name.strip() for name in rows[0]]
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise InputError(f"names the column {sorted(twice)[0]} twice", where=str(file))
    return [
        {name: cell.strip() for name, cell in zip(header, row, strict=False) if name}
        for row in rows[1:]
        if any(cell.strip() for cell in row)
    ]


def _csv_rows(text: str, file: Path) -> list[list[str]]:
    if not text.strip():
        raise InputError("is empty", where=str(file))
    first = next(line for line in text.splitlines() if line.strip())
    delimiter = max(",;\t", key=first.count)
    try:
        return [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise InputError(f"is not a CSV file: {error}", where=str(file)) from None


def _xlsx_rows(raw: bytes, file: Path) -> list[list[str]]:
    try:
        import openpyxl
    except ImportError:
        mend = 'Install "offramp[report]", or save the sheet as CSV.'
        raise BackendError("XLSX files need openpyxl", where=str(file), mend=mend) from None
    import zipfile

    try:
        book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise InputError(f"is not an XLSX workbook: {error}", where=str(file)) from None
    rows: list[list[str]] = []
    cells = 0
    for row in book.worksheets[0].iter_rows(values_only=True):
        cells += len(row)
        if cells > MOST_CELLS:
            raise InputError(f"has more than {MOST_CELLS:,} cells", where=str(file))
        rows.append(["" if value is None else str(value) for value in row])
    if not all(all(row) for row in rows):
        _no_bare_formula(raw, rows, file)
    return [row for row in rows if any(row)]


def _no_bare_formula(raw: bytes, rows: list[list[str]], file: Path) -> None:
    """Refuses a workbook with a formula whose value no spreadsheet has stored: its cell reads as empty."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True)
    for y, row in enumerate(book.worksheets[0].iter_rows()):
        for x, cell in enumerate(row):
            if cell.data_type == "f" and y < len(rows) and x < len(rows[y]) and not rows[y][x]:
                raise InputError(
                    "holds a formula without a stored value", where=f"{file}:{cell.coordinate}",
                    mend="Open and save it in a spreadsheet, or write the value.",
                )  # fmt: skip
