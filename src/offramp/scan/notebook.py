"""Notebooks: code cells are read as one module, and each finding gets its line in the .ipynb file."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from offramp.scan.finding import FileNote, FileScan, Hit, Role
from offramp.scan.pyscan import scan_python, snippets
from offramp.scan.target import Target


def scan_notebook(path: str, text: str, *, role: Role, target: Target, local: frozenset[str] = frozenset()) -> FileScan:
    """What the code cells of one notebook hold; shell and magic lines are left to no parser."""
    total = text.count("\n") + 1
    try:
        book: Any = json.loads(text)
        cells = book["cells"] if "cells" in book else book["worksheets"][0]["cells"]
        code, places = _code(cells, text)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError) as error:
        note = FileNote(path=path, kind="malformed", text=f"not a notebook: {error}")
        return FileScan(path=path, kind="notebook", role=role, lines=total, notes=(note,))
    scan = scan_python(path.removesuffix(".ipynb") + ".py", code, role=role, target=target, local=local)
    hits: list[Hit] = []
    for hit in scan.hits:
        first, last = places[hit.line - 1], places[min(hit.end_line, len(places)) - 1]
        spots = tuple(places[min(line, len(places)) - 1] for line in hit.also_lines)
        hits.append(msgspec.structs.replace(hit, line=first, end_line=max(first, last), related=(), also_lines=spots))
    notes = tuple(msgspec.structs.replace(note, path=path) for note in scan.notes)
    return FileScan(
        path=path, kind="notebook", role=role, lines=total, hits=tuple(hits), snippets=snippets(code, list(scan.hits)),
        notes=notes, imports=scan.imports,
    )  # fmt: skip


def _code(cells: list[Any], text: str) -> tuple[str, list[int]]:
    """The code of all cells as one module, and the .ipynb line of each of its lines."""
    lines: list[str] = []
    places: list[int] = []
    at = 0
    for cell in cells:
        if cell.get("cell_type") != "code":
            continue
        source = cell.get("source", cell.get("input", ""))
        parts = source if isinstance(source, list) else source.splitlines(keepends=True)
        for part in parts:
            found = text.find(json.dumps(part, ensure_ascii=False)[1:-1], at)
            if found < 0:
                found = text.find(json.dumps(part)[1:-1], at)
            if found >= 0:
                at = found
            line = part.rstrip("\n")
            lines.append("pass" if line.lstrip().startswith(("%", "!", "?")) else line)
            places.append(text.count("\n", 0, at) + 1)
    return "\n".join(lines), places or [1]
