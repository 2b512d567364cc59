"""What the command prints: drained always, kept up to a limit, digested in full."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import select
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 16
_TAIL_BYTES: Final = 4000


class Pump:
    """Pipes (or a pseudo terminal) and the thread that empties them.

    Attributes:
        stdout, stderr, terminal: the command's ends, valid until ``close_far_ends``.
    """

    def __init__(self, folder: Path, keep_bytes: int, *, terminal: bool) -> None:
        self._keep = keep_bytes
        self._folder = folder
        self.terminal = self.stdout = self.stderr = -1
        if terminal:
            master, self.terminal = pty.openpty()
            self._ends = {master: "stdout"}
        else:
            out, self.stdout = os.pipe2(os.O_CLOEXEC)
            err, self.stderr = os.pipe2(os.O_CLOEXEC)
            self._ends = {out: "stdout", err: "stderr"}
        self._digest = {name: hashlib.sha256() for name in ("stdout", "stderr")}
        self.size_bytes = {"stdout": 0, "stderr": 0}
        self._tail = {"stdout": b"", "stderr": b""}
        self.stopping = False

    def close_far_ends(self) -> None:
        """Closes the command's ends in this process."""
        for handle in (self.stdout, self.stderr, self.terminal):
            if handle >= 0:
                os.close(handle)

    def serve(self) -> None:
        """Drains until every end is closed or ``stopping``."""
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context((self._folder / f"{name}.log").open("wb")) for name in ("stdout", "stderr")
            }
            while self._ends:
                ready, _, _ = select.select(list(self._ends), [], [], 0.1)
                if not ready and self.stopping:
                    return
                for handle in ready:
                    name = self._ends[handle]
                    try:
                        data = os.read(handle, _CHUNK)
                    except OSError:
                        data = b""
                    if not data:
                        del self._ends[handle]
                        os.close(handle)
                        continue
                    room = self._keep - self.size_bytes[name]
                    if room > 0:
                        files[name].write(data[:room])
                        files[name].flush()
                    self._digest[name].update(data)
                    self.size_bytes[name] += len(data)
                    self._tail[name] = (self._tail[name] + data)[-_TAIL_BYTES:]

    def digest(self, name: str) -> str:
        """SHA-256 of everything printed."""
        return self._digest[name].hexdigest()

    def tail(self, name: str) -> str:
        """The last lines."""
        return self._tail[name].decode("utf-8", "replace")

    def contains(self, pattern: re.Pattern[str]) -> bool:
        """Whether a pattern occurs in what was kept."""
        for name in ("stdout", "stderr"):
            path = self._folder / f"{name}.log"
            if path.is_file() and pattern.search(path.read_text(errors="replace")):
                return True
        return False
