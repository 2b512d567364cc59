"""Compares the symbol table with a local copy of the vendor's API lists: ``python -m offramp.scan.refresh FOLDER``.

FOLDER is a clone of the Ascend PyTorch documentation. Its pages hold tables whose rows start with a torch API and say
for each hardware generation whether it is supported. What differs from ``symbols.csv`` is printed as CSV on stdout;
nothing is changed.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from offramp.core.errors import InputError, OfframpError
from offramp.scan.target import read_rows

_ROW: Final = re.compile(r"^\|?\s*(?:\[)?`?(torch(?:_npu)?\.[\w.]+)`?")
_YES: Final = frozenset({"是", "yes", "√", "y", "支持", "supported", "true"})
_NO: Final = frozenset({"否", "no", "×", "x", "n", "不支持", "unsupported", "false"})
GENERATIONS: Final = ("A2", "A3", "950")


def read_lists(folder: Path) -> dict[str, str]:
    """Support by API ("A2:yes|A3:no") from every Markdown table of a folder.

    Raises:
        InputError: the folder is not there or holds no such table.
    """
    if not folder.is_dir():
        raise InputError(
            "is not a folder", where=str(folder), mend="Clone the vendor's documentation and name the clone."
        )
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.md")):
        for api, marks in _rows(path):
            found[api] = "|".join(f"{name}:{mark}" for name, mark in zip(GENERATIONS, marks, strict=False))
    if not found:
        raise InputError("holds no table of torch APIs", where=str(folder))
    return found


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        match = _ROW.match(line)
        if not match:
            continue
        cells = [cell.strip().lower() for cell in line.strip().strip("|").split("|")[1:]]
        marks = ["yes" if cell in _YES else "no" for cell in cells if cell in _YES | _NO]
        if marks:
            yield match.group(1), marks


def differences(found: dict[str, str]) -> list[tuple[str, str, str]]:
    """(symbol, support in the table, support in the list) where they differ; new torch.cuda names have "" first."""
    known = {row["symbol"]: row["huawei_support"] for row in read_rows("symbols.csv")}
    changed = [(api, known[api], support) for api, support in found.items() if api in known and known[api] != support]
    new = [(api, "", support) for api, support in found.items() if api.startswith("torch.cuda.") and api not in known]
    return sorted(changed + new)


def main(arguments: list[str]) -> int:
    """Prints the differences; exit code 0 when there are none, 1 when there are."""
    if len(arguments) != 1:
        print("Usage: python -m offramp.scan.refresh FOLDER", file=sys.stderr)
        return 2
    try:
        rows = differences(read_lists(Path(arguments[0])))
    except OfframpError as error:
        print(f"offramp: {error}", file=sys.stderr)
        return error.exit_code
    writer = csv.writer(sys.stdout)
    writer.writerow(["symbol", "table", "list"])
    writer.writerows(rows)
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
