"""Records of a scan: a hit in one file, a finding for one target, a note on a file, the report of a tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from offramp.core.record import Record

Effort = Literal["L0", "L1", "L2", "L3", "L4"]
Role = Literal["source", "test", "example", "benchmark", "doc", "build", "infra", "vendored", "generated"]


class Hit(msgspec.Struct, frozen=True, array_like=True):
    """One place in one file that ties the code to CUDA, before it is judged for a target.

    Attributes:
        line, end_line: 1-based, both included.
        column: 0-based.
        kind: detection class ("torch.cuda", "branch.missing" ...).
        symbol: what was found, resolved ("torch.cuda.synchronize").
        guarded: stands in a device check, an optional import or a device-abstraction layer.
        note: what is particular about this place.
        context: qualified name of the function or class around it.
        also: further symbols on these lines.
        also_lines: the line of each of them; empty where all stand on the first line.
        hint: effort or replacement that only the place can tell ("L3", "").
        related: other lines that belong to it (the branches of a chain).
    """

    line: int
    end_line: int
    column: int
    kind: str
    symbol: str
    guarded: bool = False
    note: str = ""
    context: str = ""
    also: tuple[str, ...] = ()
    hint: str = ""
    related: tuple[int, ...] = ()
    also_lines: tuple[int, ...] = ()


def also_of(head: Hit, rest: Iterable[Hit]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Symbols beside the head's when hits become one place, and the first line of each."""
    lines: dict[str, int] = {}
    for hit in (head, *rest):
        if hit.symbol != head.symbol:
            lines.setdefault(hit.symbol, hit.line)
        for symbol, line in zip(hit.also, hit.also_lines or [hit.line] * len(hit.also), strict=True):
            if symbol != head.symbol:
                lines.setdefault(symbol, line)
    return tuple(lines), tuple(lines.values())


class FileNote(Record):
    """Something that kept a file, or a part of it, from being read as it should.

    Attributes:
        kind: "syntax-error", "python2", "too-large", "binary", "encoding", "symlink-loop", "outside-tree",
            "unreadable", "deep-nesting", "generated", "malformed" ...
    """

    path: str
    kind: str
    text: str


class Place(Record, rename={"kind": "class"}):
    """One place of a finding: its lines (1-based, both included), what it is, and its own effort and guard."""

    line: int
    end_line: int
    symbol: str
    kind: str
    effort: Effort
    guarded: bool
    fingerprint: str


class Finding(Record, rename={"kind": "class"}):
    """One place, judged for a target; or, with ``places``, all that a reader meets together.

    Attributes:
        path: relative to the scanned root, with forward slashes.
        kind: detection class; written ``class`` in JSON.
        effort: L0 mechanical, L1 swap, L2 code change, L3 new kernel, L4 no known path.
        replacement: what stands there after the port.
        guarded: the target does not reach it, or the code already chooses by device.
        role: what kind of file it stands in.
        stage: "first-run" blocks the first run, "full-speed" costs speed or accuracy, "later" neither.
        evidence: the row of the tables that effort and replacement come from.
        verified: False where the evidence is a lead that nobody checked.
        reachable_from: entry points that import the file.
        fingerprint: stable under moves of the line; the key of a baseline.
        also, also_lines: further symbols on these lines, and the line of each.
        related: other lines of the same chain.
        places: every place of it, in the order of lines; empty in a place itself.
    """

    path: str
    line: int
    end_line: int
    column: int
    symbol: str
    kind: str
    effort: Effort
    replacement: str
    guarded: bool
    target: str
    role: Role
    stage: Literal["first-run", "full-speed", "later"]
    message: str
    evidence: str
    verified: bool
    context: str
    snippet: str
    fixable: bool
    fingerprint: str
    also: tuple[str, ...] = ()
    also_lines: tuple[int, ...] = ()
    related: tuple[int, ...] = ()
    reachable_from: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()


class FileScan(Record):
    """What one file holds; the unit of the cache.

    Attributes:
        lines: number of lines.
        hits: in the order of lines.
        snippets: source of each hit's first line, stripped.
        imports: dotted modules that it imports, for the import graph.
        exports: module-level names bound to a CUDA symbol ("dev": "torch.cuda").
        wants: names taken from other modules of the tree: local name -> (module, name there).
        census: counts for the CUDA census ("kernels", "lines", "ptx" ...).
        is_entry: has an ``if __name__ == "__main__"`` block.
    """

    path: str
    kind: str
    role: Role
    lines: int
    hits: tuple[Hit, ...] = ()
    snippets: tuple[str, ...] = ()
    notes: tuple[FileNote, ...] = ()
    imports: tuple[str, ...] = ()
    exports: dict[str, str] = {}
    wants: dict[str, tuple[str, str]] = {}
    census: dict[str, int] = {}
    is_entry: bool = False
