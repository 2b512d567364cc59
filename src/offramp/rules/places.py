"""Where in a rule file something stands: file as users know it, and the line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import offramp.data

DATA: Final = Path(offramp.data.__file__).parent / "rules"
_HEADER: Final = r"\s*\[\[rule\]\]"
_CLAUSE: Final = r"\s*\[\[rule\.clause\]\]"


def shown(path: Path) -> str:
    """A path as users know it: a shipped file from ``data/`` on, another as it was named."""
    return f"data/rules/{path.name}" if path.is_relative_to(DATA) else str(path)


def _nth(lines: Sequence[str], pattern: str, index: int, start: int) -> int:
    found = [i for i, line in enumerate(lines) if i >= start and re.match(pattern, line)]
    return found[index] + 1 if index < len(found) else start + 1


def header_line(text: str, index: int) -> int:
    """Line (from 1) of the ``[[rule]]`` header with that index."""
    return _nth(text.splitlines(), _HEADER, index, 0)


def key_line(text: str, rule: int, key: str, clause: int | None = None) -> int:
    """Line of a key of a rule, or of one of its clauses; the header's line where it cannot be told."""
    lines = text.splitlines()
    start = header_line(text, rule)
    if clause is not None:
        start = _nth(lines, _CLAUSE, clause, start)
    for i in range(start, len(lines)):
        if re.match(_HEADER, lines[i]):
            break
        if re.match(rf"\s*(\[rule\.)?{re.escape(key)}\]?\s*(=|$)", lines[i]):
            return i + 1
    return start


def problem_line(text: str, path: str) -> int:
    """Line of a JSON path such as ``$.rule[3].clause[0].verdict``."""
    match = re.match(r"\$\.rule\[(\d+)\](?:\.clause\[(\d+)\])?(?:\.([A-Za-z_]+))?", path)
    if not match:
        return 1
    rule, clause, key = int(match.group(1)), match.group(2), match.group(3)
    if key is None:
        return header_line(text, rule)
    return key_line(text, rule, key, int(clause) if clause is not None else None)
