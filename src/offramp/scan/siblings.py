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


_DEFINED: Final = re.compile(r"^[ \t]*(?:class|struct)\s+(?:[A-Z_]{1,40}\s+)?(\w{1,80})[^;{}()]{0,300}\{", re.MULTILINE)
_BRACE: Final = re.compile(r"[{}]")
_FUNCTION: Final = re.compile(
    r"^[ \t]*(?:(?:function|macro)[ \t]*\([ \t]*(\w{1,80})|(end(?:function|macro))\b)", re.MULTILINE | re.IGNORECASE
)


def definition_ends(masked: str, *, target: Target) -> list[Hit]:
    """The last line of each class that is named after CUDA: beside it stands the target's."""
    opened = {
        match.end() - 1: match.group(1) for match in _DEFINED.finditer(masked) if words_of(match.group(1)) & CUDA_WORDS
    }
    if not opened or _says_target(masked, target):
        return []
    ends: list[tuple[int, str]] = []
    stack: list[str] = []
    for match in _BRACE.finditer(masked):
        if match.group() == "{":
            stack.append(opened.get(match.start(), ""))
        elif stack:
            name = stack.pop()
            if name:
                ends.append((match.start(), f"class {name}"))
    return _end_hits(masked, sorted(ends))


def function_ends(text: str, *, target: Target) -> list[Hit]:
    """The last line of each CMake function or macro that is named after CUDA."""
    ends: list[tuple[int, str]] = []
    name = ""
    for match in _FUNCTION.finditer(text):
        if match.group(1):
            name = match.group(1)
        elif name and words_of(name) & CUDA_WORDS:
            ends.append((match.start(), f"function {name}"))
            name = ""
    return _end_hits(text, ends) if ends and not _says_target(text, target) else []


def _says_target(text: str, target: Target) -> bool:
    return bool(_words(text) & target.native_words)


def _end_hits(text: str, ends: list[tuple[int, str]]) -> list[Hit]:
    """A hit on the line of each offset; offsets ascend."""
    hits: list[Hit] = []
    line, seen = 1, 0
    for at, what in ends:
        line, seen = line + text.count("\n", seen, at), at
        hits.append(
            Hit(line=line, end_line=line, column=0, kind="branch.list", symbol=f"beside {what}", note="back ends")
        )
    return hits
