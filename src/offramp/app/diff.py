"""diff: what changed between two runs, and what changed in what they rest on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from offramp import __version__
from offramp.app.runs import read_result
from offramp.core.errors import InputError
from offramp.core.result import Cell, Notice, Result, hash_inputs, result_from_json, table_of

SILENT: Final = ("charts", "chart", "solver", "seconds", "figures")
"""Keys of an answer that carry no answer of their own."""
LATE: Final = ("alternatives", "binding", "rules", "concentration", "retire", "bottlenecks", "drivers")
"""Parts of an answer that follow from the rest: their changes come last."""
ASKED: Final = {"study": "study", "as_of": "date", "currency": "currency", "hypothetical_ban": "hypothetical ban"}
"""Keys of an answer that repeat the question: a difference is a reason, not a change."""
SMALL: Final = 0.005
"""Relative changes below this are noise of rounding and are left out."""
_KEYS: Final = ("quarter", "chip", "site", "workload", "id", "scenario", "what", "scope", "from", "year", "order",
                "without", "kind", "name", "limit", "act", "buyer", "lifted", "base", "who")  # fmt: skip


def diff(before: str, after: str, *, root: str | Path | None = None) -> Result:
    """What changed from one run to another.

    Args:
        before, after: run ids (a unique beginning is enough), run folders, or files with a Result as JSON.
        root: folder of runs.

    Raises:
        InputError: a run cannot be found, or they are of different commands.
    """
    old, new = _read(before, root), _read(after, root)
    if old.command != new.command:
        raise InputError(
            f"{before} is of {old.command}, {after} of {new.command}", where="RUN", mend="Compare runs of one command."
        )
    changes = _changes(old, new)
    reasons = _reasons(old, new)
    figures = _figures(old, new)
    headline = _headline(old, new, changes)
    answer = {
        "command": old.command, "headline": headline, "changes": changes, "reasons": reasons, "figures": figures,
        "same_inputs": old.inputs_hash == new.inputs_hash, "before": old.inputs_hash, "after": new.inputs_hash,
    }  # fmt: skip
    return Result(
        command="diff", answer=answer, data_version=new.data_version, offramp_version=__version__,
        inputs_hash=hash_inputs({"before": old.inputs_hash, "after": new.inputs_hash}),
        knowledge_horizon=new.knowledge_horizon, warnings=_warnings(old, new),
        tables={
            "changes": table_of(changes, columns=["where", "before", "after", "change"], title="What changed"),
            "figures": table_of(figures, columns=["figure", "before", "after", "unit", "source"],
                                title="Figures that changed"),
        },
    )  # fmt: skip


def _read(name: str, root: str | Path | None) -> Result:
    path = Path(name)
    if path.is_file():
        try:
            return result_from_json(path.read_bytes())
        except ValueError:
            raise InputError("is not a Result as JSON", where=name, mend='Write one with "--json".') from None
    return read_result(root, name)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Cell]]:
    """Every number, text and truth value of an answer with its place; list entries go by what names them."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in SILENT:
                yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{_name(item, number)}]")
    elif value is None or isinstance(value, (str, int, float, bool)):
        yield path, value


def _name(item: Any, number: int) -> str:
    if not isinstance(item, dict):
        return str(number)
    parts = [str(item[key]) for key in _KEYS if isinstance(item.get(key), (str, int))]
    return " ".join(parts) or str(number)


def _changes(old: Result, new: Result) -> list[dict[str, Cell]]:
    """Leaves that differ, the largest relative change first."""
    first, second = dict(leaves(old.answer)), dict(leaves(new.answer))
    rows: list[tuple[float, dict[str, Cell]]] = []
    for where in dict.fromkeys([*first, *second]):
        a, b = first.get(where), second.get(where)
        if isinstance(a if a is not None else b, str) and (where.endswith(_TOLD) or _is_name(where, a or b)):
            continue
        size = _size(a, b)
        if size > SMALL:
            shown = None if not math.isfinite(size) else size
            rows.append((size, {"where": where, "before": a, "after": b, "change": shown}))
    rows.sort(key=lambda row: (str(row[1]["where"]).startswith(LATE), -min(row[0], 1e9), str(row[1]["where"])))
    return [row for _, row in rows]


_TOLD: Final = ("headline", "finding", "text")
"""Sentences that say again what numbers say."""


def _is_name(where: str, value: Cell) -> bool:
    """Whether a text only repeats the name of the entry that it stands in."""
    entry = where.rpartition("[")[2].partition("]")[0]
    return "[" in where and str(value) in entry


def _size(a: Cell, b: Cell) -> float:
    """Relative change of two values; infinite for text and for what appears or disappears."""
    if a == b:
        return 0.0
    numbers = [v for v in (a, b) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) == 2:
        return abs(numbers[1] - numbers[0]) / max(abs(numbers[0]), abs(numbers[1]), 1e-12)
    return math.inf


def _reasons(old: Result, new: Result) -> list[str]:
    """What the runs rest on that differs."""
    found: list[str] = []
    if old.inputs_hash != new.inputs_hash:
        found.append("the study, its settings or the flags differ")
    if isinstance(old.answer, dict) and isinstance(new.answer, dict):
        asked = [(words, old.answer.get(key), new.answer.get(key)) for key, words in ASKED.items()]
        found += [f"{words}: {a or 'none'} became {b or 'none'}" for words, a, b in asked if a != b]
    pairs = (
        ("data", old.data_version, new.data_version),
        ("code", old.offramp_version, new.offramp_version),
        ("seed", old.seed, new.seed),
        ("knowledge horizon", old.knowledge_horizon, new.knowledge_horizon),
    )
    found += [f"{name}: {a} became {b}" for name, a, b in pairs if a != b]
    a, b = {f.id for f in old.figures}, {f.id for f in new.figures}
    if b - a:
        found.append(f"{len(b - a)} figures are used that were not")
    if a - b:
        found.append(f"{len(a - b)} figures are no longer used")
    said, says = {n.text for n in old.warnings}, {n.text for n in new.warnings}
    found += [f"new warning: {text}" for text in sorted(says - said)]
    found += [f"warning gone: {text}" for text in sorted(said - says)]
    return found or ["nothing that they rest on differs"]


def _figures(old: Result, new: Result) -> list[dict[str, Cell]]:
    """Figures whose value changed, then those that came and went."""
    first, second = {f.id: f for f in old.figures}, {f.id: f for f in new.figures}
    rows: list[dict[str, Cell]] = []
    for key in sorted({*first, *second}):
        a, b = first.get(key), second.get(key)
        known = b or a
        if known is not None and (a is None or b is None or a.value != b.value):
            rows.append({"figure": key, "before": a.value if a else None, "after": b.value if b else None,
                         "unit": known.unit, "source": known.source})  # fmt: skip
    rows.sort(key=lambda row: row["before"] is None or row["after"] is None)
    return rows


def _headline(old: Result, new: Result, changes: list[dict[str, Cell]]) -> str:
    first, second = _said(old), _said(new)
    if not changes:
        return "Nothing changed"
    if first != second and first and second:
        return f"Before: {first}. After: {second}"
    return f"{len(changes)} values changed; the headline stays"


def _said(result: Result) -> str:
    answer = result.answer
    if not isinstance(answer, dict):
        return ""
    decision = answer.get("decision")
    return str(decision["headline"] if isinstance(decision, dict) else answer.get("headline", ""))


def _warnings(old: Result, new: Result) -> tuple[Notice, ...]:
    if old.data_version != new.data_version and old.inputs_hash != new.inputs_hash:
        text = "study and data both changed: which of them moved an answer cannot be told from two runs"
        return (Notice(kind="confounded", text=text),)
    return ()
