"""Compares the tables with a local copy of the vendor's API lists: ``python -m offramp.scan.refresh FOLDER [--write FILE]``.

FOLDER is a clone of the Ascend PyTorch documentation (or the folder of one torch version in it). Its pages have a heading
for each API and below it a table of products with a mark for supported or not; older pages have one table row for each
API. What differs from ``symbols.csv`` and ``operators.csv`` is printed as CSV on stdout. With ``--write`` the operators that
a generation lacks are written to FILE in the form of ``operators.csv``; nothing else is changed.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from offramp.core.errors import BackendError, InputError, OfframpError
from offramp.scan.target import read_rows

_ROW: Final = re.compile(r"^\|?\s*(?:\[)?`?(torch(?:_npu)?\.[\w.]+)`?")
_HEADING: Final = re.compile(r"^#{2,6}\s+(?:<[^>\n]+>|class\b|[\s_`*])*(torch(?:_npu)?\.[\w.]+)", re.MULTILINE)
_PRODUCT: Final = re.compile(r"^\|[^|\n]*(?:Atlas (A[23])|Ascend (950))[^|\n]*\|\s*([^|\s]+)\s*\|", re.MULTILINE)
_YES: Final = frozenset({"是", "yes", "√", "✔", "y", "支持", "supported", "true"})
_NO: Final = frozenset({"否", "no", "×", "✘", "x", "n", "不支持", "unsupported", "false"})
GENERATIONS: Final = ("A2", "A3", "950")
NOT_OPERATORS: Final = (
    "torch.cuda", "torch.backends", "torch.ao", "torch.accelerator", "torch.profiler", "torch.onnx", "torch.export",
    "torch.compiler", "torch.utils.get_cpp_backtrace", "torch.utils.generate_methods", "torch.autograd.profiler",
    "torch.distributed.elastic", "torch_npu", "torch.is_deterministic",
)  # fmt: skip
"""Prefixes that other classes cover, or that are no operators."""


def read_lists(folder: Path) -> dict[str, str]:
    """Support by API ("A2:yes|A3:no") from every Markdown page of a folder.

    Raises:
        InputError: the folder is not there or holds no such table.
    """
    if not folder.is_dir():
        raise InputError(
            "is not a folder", where=str(folder), mend="Clone the vendor's documentation and name the clone."
        )
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.md")):
        text = path.read_text(encoding="utf-8", errors="replace")
        for api, marks in (*_rows(text), *_sections(text)):
            found[api] = "|".join(f"{name}:{mark}" for name, mark in marks)
    if not found:
        raise InputError("holds no table of torch APIs", where=str(folder))
    return found


def _rows(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Tables with one row for each API."""
    for line in text.split("\n"):
        match = _ROW.match(line)
        if not match:
            continue
        cells = [cell.strip().lower() for cell in line.strip().strip("|").split("|")[1:]]
        marks = ["yes" if cell in _YES else "no" for cell in cells if cell in _YES | _NO]
        if marks:
            yield match.group(1), list(zip(GENERATIONS, marks, strict=False))


def _sections(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Headings with a table of products below; members of a class, which follow in quotes, are not the class."""
    headings = list(_HEADING.finditer(text))
    for at, heading in enumerate(headings):
        end = headings[at + 1].start() if at + 1 < len(headings) else len(text)
        body = text[heading.end() : end]
        body = re.split(r"^>", body, maxsplit=1, flags=re.MULTILINE)[0]
        marks = {
            generation: "yes" if mark in _YES else "no"
            for a, b, mark in _PRODUCT.findall(body)
            if (generation := a or b) and mark in _YES | _NO
        }
        if marks:
            yield heading.group(1), [(name, marks[name]) for name in GENERATIONS if name in marks]


def lacking(found: dict[str, str]) -> dict[str, str]:
    """The operators that an older generation does not support, with the marks of all.

    The youngest generation's list is short of operators that every network has; alone it decides nothing.
    """
    return {
        api: marks
        for api, marks in sorted(found.items())
        if re.search(r"A\d:no", marks) and not api.startswith(NOT_OPERATORS)
    }


def differences(found: dict[str, str]) -> list[tuple[str, str, str]]:
    """(symbol, support in the table, support in the list) where they differ; what is new has "" first."""
    known = {row["symbol"]: row["huawei_support"] for row in read_rows("symbols.csv")}
    operators = {row["symbol"]: row["huawei_support"] for row in read_rows("operators.csv")}
    changed = [(api, known[api], support) for api, support in found.items() if api in known and known[api] != support]
    new = [(api, "", support) for api, support in found.items() if api.startswith("torch.cuda.") and api not in known]
    lacks = lacking(found)
    ops = [(api, operators.get(api, ""), lacks.get(api, found.get(api, ""))) for api in {*operators, *lacks}]
    return sorted({*changed, *new, *((api, old, now) for api, old, now in ops if old != now and api in found)})


def write_operators(found: dict[str, str], goal: Path, *, source: str) -> int:
    """Writes the operators that a generation lacks; the number of rows."""
    rows = lacking(found)
    try:
        with goal.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["symbol", "huawei_support", "source"])
            writer.writerows((api, marks, source) for api, marks in rows.items())
    except OSError as error:
        raise BackendError(f"cannot be written: {error.strerror}", where=str(goal)) from None
    return len(rows)


def main(arguments: list[str]) -> int:
    """Prints the differences; exit code 0 when there are none, 1 when there are."""
    if len(arguments) not in (1, 3) or (len(arguments) == 3 and arguments[1] != "--write"):
        print("Usage: python -m offramp.scan.refresh FOLDER [--write FILE]", file=sys.stderr)
        return 2
    try:
        found = read_lists(Path(arguments[0]))
        if len(arguments) == 3:
            count = write_operators(found, Path(arguments[2]), source=f"Ascend/pytorch: {Path(arguments[0]).name}")
            print(f"{count} operators that a generation lacks", file=sys.stderr)
            return 0
        rows = differences(found)
    except OfframpError as error:
        print(f"offramp: {error}", file=sys.stderr)
        return error.exit_code
    writer = csv.writer(sys.stdout)
    writer.writerow(["symbol", "table", "list"])
    writer.writerows(rows)
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
