"""From places to findings: what a reader meets together is one finding, and keeps the lines of each place.

- Unguarded places of product code that stop the first run: one finding per class, file and outermost function or class;
  conditions and lists that choose a device are one class here, and so are calls of CUDA's libraries in C and C++, what
  a Triton kernel holds, and images, packages and devices of one build or deployment file.
- Those that cost speed or accuracy: one finding per class and file.
- Guarded places and those that stop nothing (names, comments, imports): one finding per file.
- Tests, examples, benchmarks, documents, vendored and generated code: one finding per file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from offramp.scan.finding import Finding, Place

PRODUCT: Final = frozenset({"source", "build", "infra"})
FAMILIES: Final = frozenset({"branch", "cpp", "triton", "infra"})
"""Classes that are met as one: conditions and lists that choose a device; calls of CUDA's libraries in one C++ file; one
Triton kernel; one container or deployment file."""
Key = tuple[str, ...]


def fold(places: Iterable[Finding], *, order: Callable[[Finding], tuple[object, ...]]) -> list[Finding]:
    """The findings of judged places, in the order of their first ones.

    Args:
        order: sort key of a place; the first of a finding lends it class, symbol, lines and replacement.
    """
    by_key: dict[Key, list[Finding]] = {}
    for place in sorted(places, key=order):  # type: ignore[arg-type]
        by_key.setdefault(key_of(place), []).append(place)
    return [_joined(members) for members in by_key.values()]


def key_of(place: Finding) -> Key:
    """What a place shares with the others of its finding."""
    if place.role not in PRODUCT:
        return (place.path,)
    if place.guarded or place.stage == "later":
        return place.path, "aside"
    if place.stage == "full-speed":
        return place.path, place.kind
    outer = place.context.split(".")[0]
    family = place.kind.split(".")[0]
    return place.path, family if family in FAMILIES else place.kind, outer


def _joined(members: list[Finding]) -> Finding:
    head = members[0]
    rows = sorted(members, key=lambda place: (place.line, place.end_line))
    lines: dict[str, int] = {}
    for place in rows:
        for symbol, line in ((place.symbol, place.line), *zip(place.also, place.also_lines, strict=True)):
            if symbol != head.symbol:
                lines.setdefault(symbol, line)
    return msgspec.structs.replace(
        head,
        guarded=all(place.guarded for place in members),
        fixable=any(place.fixable for place in members),
        verified=all(place.verified for place in members),
        also=tuple(lines),
        also_lines=tuple(lines.values()),
        places=tuple(
            Place(
                line=place.line, end_line=place.end_line, symbol=place.symbol, kind=place.kind, effort=place.effort,
                guarded=place.guarded, fingerprint=place.fingerprint,
            )
            for place in rows
        ),
    )  # fmt: skip
