"""Back ends named beside each other in C, C++ and build files: where one stands, a port puts the next one."""

from __future__ import annotations

import re
from typing import Final

from offramp.scan.finding import Hit
from offramp.scan.target import Target
from offramp.scan.words import CUDA_WORDS, OTHER_WORDS, words_of

_SIBLINGS: Final = (OTHER_WORDS - {"mps", "ccl", "bmg", "cann"}) | {"opencl", "metal", "sycl", "habanalabs"}
"""Back ends beside CUDA, as words of names."""
_MARK: Final = re.compile("|".join(sorted(_SIBLINGS)), re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_COMMENT: Final = re.compile(r"^\s*(?://|/\*|\*|#\s|dnl\b).*|//.*$|/\*.*?\*/")
GAP: Final = 1
LONGEST: Final = 12
"""Runs of lines up to this long are one place; of longer ones the last lines, where the next back end joins."""


def is_of_one(path: str) -> bool:
    """True for a file that belongs to one back end itself ("src/rocm_memory.c", "hip/stream.cpp")."""
    return any(words_of(part) & _SIBLINGS for part in path.split("/"))


def sibling_hits(path: str, text: str, *, target: Target, taken: set[int]) -> list[Hit]:
    """Runs of lines that name other back ends than CUDA and not the target's, in files that choose among several."""
    if not _MARK.search(text) or is_of_one(path):
        return []
    named: list[tuple[int, frozenset[str]]] = []
    kinds: frozenset[str] = frozenset()
    known: set[int] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > LONGEST_TEXT:
            continue
        words = _words(_COMMENT.sub("", line))
        kinds |= words & (_SIBLINGS | CUDA_WORDS)
        if words & target.native_words:
            known.add(number)
        elif words & _SIBLINGS:
            named.append((number, words & _SIBLINGS))
    if len(kinds) < 2 or not named:
        return []
    hits: list[Hit] = []
    for first, last, words in _runs(named):
        near = range(first - NEAR_KNOWN, last + NEAR_KNOWN + 1)
        if known.intersection(near) or taken.issuperset(range(first, last + 1)):
            continue
        start = first if last - first < LONGEST else last - 1
        symbol = "beside " + "/".join(sorted(words))
        hits.append(Hit(line=start, end_line=last, column=0, kind="branch.list", symbol=symbol, note="back ends"))
    return hits


LONGEST_TEXT: Final = 2_000
NEAR_KNOWN: Final = 3
"""A run this close to a line that names the target is ported."""


def _words(line: str) -> frozenset[str]:
    if not _NAME.search(line):
        return frozenset()
    return frozenset(word for name in _NAME.findall(line) for word in words_of(name))


def _runs(named: list[tuple[int, frozenset[str]]]) -> list[tuple[int, int, frozenset[str]]]:
    runs: list[tuple[int, int, frozenset[str]]] = []
    for number, words in named:
        if runs and number - runs[-1][1] <= GAP + 1:
            first, _, before = runs[-1]
            runs[-1] = (first, number, before | words)
        else:
            runs.append((number, number, words))
    return runs
