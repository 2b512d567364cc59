"""export: the tables of a Result as CSV, Parquet and XLSX, with the source of every number."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from offramp.core.errors import BackendError, InputError
from offramp.core.result import Cell, Column, Result, Table, UsedFigure, hash_inputs, table_of

Format = Literal["csv", "parquet", "xlsx"]
FORMATS: Final = ("csv", "parquet", "xlsx")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
SOURCE_COLUMNS: Final = ("number", "id", "value", "unit", "low", "high", "confidence", "as_of", "source", "url", "note")


def export(result: Result, folder: str | Path, formats: Sequence[str] = FORMATS) -> Result:
    """Writes the tables of a Result and the list of their sources.

    Args:
        result: of any command.
        folder: to write to.
        formats: any of csv, parquet, xlsx.

    Raises:
        InputError: unknown format, no table, or a folder that cannot be written.
        BackendError: a library of the [report] extra is missing.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f'unknown format "{name}"', where="--format", mend=f"Known: {', '.join(FORMATS)}.")
    if formats and not result.tables:
        raise InputError(f'a Result of "{result.command}" has no tables', where="export")
    place = Path(folder)
    tables: dict[str, Table] = {}
    for name, data in result.tables.items():
        tables[_file_name(name, tables)] = with_evidence(data, result)
    tables[_file_name("sources", tables)] = source_table(result.figures)
    written: list[str] = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name in formats:
            written += _WRITERS[name](result, tables, place)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(place)) from None
    rows = [{"file": name} for name in written]
    return Result(
        command="export",
        answer={"folder": str(place), "files": written, "of": result.command},
        inputs_hash=hash_inputs({"of": result.inputs_hash, "formats": ",".join(formats)}),
        data_version=result.data_version,
        tables={"files": table_of(rows, columns=("file",), title="Files")},
        knowledge_horizon=result.knowledge_horizon,
        seed=result.seed,
        offramp_version=result.offramp_version,
    )


def _file_name(name: str, used: Iterable[str]) -> str:
    """A name that is a file of the folder and of nothing else, unique without regard to case."""
    base = re.sub(r"[^\w.-]+", "_", name).strip("._")[:60] or "table"
    taken = {other.lower() for other in used}
    return next(found for found in (base, *(f"{base}_{n}" for n in range(2, 10_000))) if found.lower() not in taken)


def source_table(figures: Sequence[UsedFigure]) -> Table:
    """Every figure used, numbered."""
    rows: list[dict[str, Cell]] = [
        {"number": number, **{name: getattr(figure, name) for name in SOURCE_COLUMNS[1:] if name != "as_of"},
         "as_of": figure.as_of.isoformat()}
        for number, figure in enumerate(figures, 1)
    ]  # fmt: skip
    return table_of(rows, columns=SOURCE_COLUMNS, title="Sources")


def with_evidence(data: Table, result: Result) -> Table:
    """The table with a column of source numbers, where the answer says what a row rests on (workload and chip)."""
    held = _evidence(result)
    names = [column.name for column in data.columns]
    if not held or "workload" not in names or "chip" not in names or "sources" in names:
        return data
    at, chip = names.index("workload"), names.index("chip")
    rows = tuple((*row, held.get((str(row[at]), str(row[chip])), "")) for row in data.rows)
    extra = Column(name="sources", title="numbers in the table of sources")
    return msgspec.structs.replace(data, columns=(*data.columns, extra), rows=rows)


def _evidence(result: Result) -> dict[tuple[str, str], str]:
    """Source numbers by workload and chip."""
    number = {figure.id: n for n, figure in enumerate(result.figures, 1)}
    answer = result.answer if isinstance(result.answer, dict) else {}
    held: dict[tuple[str, str], str] = {}
    works = answer.get("workloads")
    for work in works if isinstance(works, list) else ():
        for item in work.get("chips", ()) if isinstance(work, dict) else ():
            if isinstance(item, dict) and isinstance(item.get("figures"), list):
                used = sorted(number[name] for name in item["figures"] if name in number)
                held[str(work.get("id")), str(item.get("chip"))] = " ".join(map(str, used))
    return held


def neutral(cell: Cell) -> Cell:
    """A text that no spreadsheet takes for a formula; everything else as it is."""
    if not isinstance(cell, str):
        return cell
    plain = cell.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")  # a bare CR would end the row unquoted
    return "'" + plain if is_formula(plain) else plain


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may run a text: it begins with a formula's mark, blanks before it not counted."""
    return text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)


def csv_text(data: Table) -> str:
    """The table as CSV: names with units in the first line, formulas made harmless."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([neutral(f"{c.name} [{c.unit}]" if c.unit else c.name) for c in data.columns])
    for row in data.rows:
        writer.writerow(["" if cell is None else neutral(cell) for cell in row])
    return out.getvalue()


def _csv(result: Result, tables: dict[str, Table], place: Path) -> list[str]:
    del result
    for name, data in tables.items():
        (place / f"{name}.csv").write_text(csv_text(data), encoding="utf-8")
    return [f"{name}.csv" for name in tables]


def _parquet(result: Result, tables: dict[str, Table], place: Path) -> list[str]:
    import pyarrow.parquet as pq

    about = json.dumps(_about(result), ensure_ascii=False)
    for name, data in tables.items():
        table = data.to_arrow()
        pq.write_table(table.replace_schema_metadata({"offramp": about}), place / f"{name}.parquet")
    return [f"{name}.parquet" for name in tables]


def _about(result: Result) -> dict[str, Any]:
    return {
        "command": result.command,
        "offramp": result.offramp_version,
        "data": result.data_version,
        "inputs": result.inputs_hash,
        "seed": result.seed,
        "status": result.status,
        "knowledge horizon": result.knowledge_horizon.isoformat() if result.knowledge_horizon else "",
        "disclaimer": result.disclaimer,
    }


def _xlsx(result: Result, tables: dict[str, Table], place: Path) -> list[str]:
    try:
        import openpyxl
    except ImportError:
        raise BackendError("XLSX needs openpyxl", where="export", mend='Install "offramp[report]".') from None
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "About"
    about: list[tuple[Cell, ...]] = [(key, value) for key, value in _about(result).items()]
    about += [
        ("warning", f"{notice.where}: {notice.text}" if notice.where else notice.text) for notice in result.warnings
    ]
    _fill(sheet, [Column(name="what"), Column(name="value")], about)
    used = {"About"}
    for name, data in tables.items():
        title = _sheet_name(name, used)
        _fill(book.create_sheet(title), data.columns, data.rows)
    book.save(place / f"{result.command}.xlsx")
    return [f"{result.command}.xlsx"]


def _sheet_name(name: str, used: set[str]) -> str:
    """A sheet name that Excel takes, unique."""
    base = "".join("_" if c in "[]:*?/\\" else c for c in name)[:28] or "table"
    title, number = base, 2
    while title.lower() in {other.lower() for other in used}:
        title, number = f"{base}_{number}", number + 1
    used.add(title)
    return title


def _fill(sheet: Any, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    from openpyxl.comments import Comment
    from openpyxl.styles import Font

    for x, column in enumerate(columns, 1):
        head = sheet.cell(row=1, column=x, value=f"{column.name} [{column.unit}]" if column.unit else column.name)
        head.font, head.data_type = Font(bold=True), "s"
        if column.title:
            head.comment = Comment(column.title, "offramp")
    for y, row in enumerate(rows, 2):
        for x, value in enumerate(row, 1):
            clean = ILLEGAL_CHARACTERS_RE.sub("", value) if isinstance(value, str) else value
            if isinstance(clean, float) and not math.isfinite(clean):
                clean = str(clean)  # a workbook has no such number, and an empty cell would say "not known"
            cell = sheet.cell(row=y, column=x, value=clean)
            if isinstance(clean, str) and is_formula(clean):
                cell.data_type = "s"
                cell.quotePrefix = True
    sheet.freeze_panes = "A2"


_WRITERS: Final = {"csv": _csv, "parquet": _parquet, "xlsx": _xlsx}
