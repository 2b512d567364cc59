"""Lines that still speak of CUDA or of GPUs in files that are tied to it: names, texts, comments.

A port renames most of them, none of them stops it. They are read by words of identifiers, never by letters inside one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from offramp.scan.words import CUDA_WORDS, GPU_WORDS, words_of

SPOKEN: Final = re.compile(r"\b(?:CUDA|NCCL|NVIDIA|GPU)s?\b", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
TOKENS: Final = (b"cuda", b"nccl", b"gpu", b"nvidia")
GPU_NAMES: Final = "names that say GPU"


class Spoken(NamedTuple):
    """One line: the class of finding, what it says, further names on it."""

    kind: str
    symbol: str
    also: tuple[str, ...] = ()


def spoken_names(code: str) -> Spoken | None:
    """The identifiers of a line of code that are named after CUDA or GPUs."""
    named: list[str] = []
    counted: list[str] = []
    for name in _NAME.findall(code):
        words = words_of(name)
        if words & CUDA_WORDS:
            named.append(name)
        elif words & GPU_WORDS:
            counted.append(name)
    if named:
        return Spoken("name.cuda", named[0], tuple(dict.fromkeys([*named[1:], *counted])))
    return Spoken("name.cuda", GPU_NAMES, tuple(dict.fromkeys(counted))) if counted else None


def spoken_text(text: str) -> Spoken | None:
    """The word of a comment, a docstring or a message that speaks of CUDA or GPUs."""
    found = SPOKEN.search(text)
    return Spoken("text.mention", found.group().rstrip("sS").upper()) if found else None


def lines_of(spans: Iterable[tuple[int, int]], *, longest: int = 12) -> set[int]:
    """Lines of the spans that are short enough to be read as one place."""
    return {line for first, last in spans if last - first < longest for line in range(first, last + 1)}


def knows(line: str, words: frozenset[str]) -> bool:
    """True when a line names the target itself: such a line is ported."""
    return any(words_of(name) & words for name in _NAME.findall(line))
