"""Every error that offramp raises on purpose, and the exit code that each ends the command with.

    OfframpError              1
      InputError              2   the user's file, flag or value is wrong
      CatalogError            3   a chip, system, engine, model, rule or figure is unknown or broken
      ModelRangeError         4   the question lies outside what the model can answer
      InfeasibleError         5   the question is clear and the answer is "cannot be done"
      BackendError            6   a solver, cluster, kernel feature or file system let us down

Each error carries what is wrong, where (``study.toml:$.fleet[2].chip``) and how to mend it; its text
is one line that a user can act on. No traceback reaches a user.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OfframpError(Exception):
    """Base of the tree.

    Args:
        what: what is wrong, a sentence without the final full stop.
        where: file and path inside it, flag, or id ("study.toml:$.fleet[2].chip").
        mend: what the user can do about it, a sentence.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        head = head if head.endswith((".", "?", "!")) else head + "."
        return f"{head} {self.mend}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes with all their parts."""
        return (_rebuild, (type(self), self.what, self.where, self.mend))


def _rebuild(kind: type[OfframpError], what: str, where: str, mend: str) -> OfframpError:
    return kind(what, where=where, mend=mend)


class InputError(OfframpError):
    """The user's file, flag or value is wrong."""

    exit_code = 2


class CatalogError(OfframpError):
    """A chip, system, engine, model, rule or figure is unknown or broken."""

    exit_code = 3


class ModelRangeError(OfframpError):
    """The question lies outside what the model can answer."""

    exit_code = 4


class InfeasibleError(OfframpError):
    """The question is clear and the answer is that it cannot be done."""

    exit_code = 5


class BackendError(OfframpError):
    """A solver, a cluster, a kernel feature or the file system let us down."""

    exit_code = 6


def near_misses(word: str, known: Iterable[str], *, most: int = 4) -> list[str]:
    """The known names closest to ``word``, best first; also those that contain it."""
    names = sorted(set(known))
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=most, cutoff=0.55)
    inside = [low for low in lowered if word.lower() in low and low not in close]
    return [lowered[low] for low in [*close, *inside]][:most]


def near_miss_hint(word: str, known: Iterable[str]) -> str:
    """A mend sentence that names near matches, or is empty when there are none."""
    found = near_misses(word, known)
    return f"Near matches: {', '.join(found)}." if found else ""
