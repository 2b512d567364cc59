"""Timer descriptors that were armed before the clocks were sped up: their remaining time is divided, too."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from offramp.drill import sysabi
from offramp.drill.clock import NANO
from offramp.drill.processes import descendants

_KCMP: Final = {sysabi.AUDIT_X86_64: 312, sysabi.AUDIT_AARCH64: 272}


def rescale_descriptors(init: int, rate: float) -> int:
    """Divides what is left of every armed timer descriptor below ``init`` by ``rate``; how many there were."""
    done: list[tuple[int, int]] = []
    for pid in descendants(init):
        for handle in _timer_handles(pid):
            if any(_is_same(pid, handle, other, number) for other, number in done):
                continue
            done.append((pid, handle))
            try:
                ours = sysabi.steal_fd(pid, handle)
            except OSError:
                continue
            _rescale(ours, rate)
            os.close(ours)
    return len(done)


def _timer_handles(pid: int) -> list[int]:
    base = f"/proc/{pid}/fd"
    try:
        return [int(name) for name in os.listdir(base) if os.readlink(f"{base}/{name}") == "anon_inode:[timerfd]"]
    except OSError:
        return []  # it ended while we looked


def _is_same(pid: int, handle: int, other: int, number: int) -> bool:
    """Whether two descriptors are one open file (inherited by fork), which must be divided once."""
    if sysabi.NATIVE not in _KCMP:
        return False
    longs = [ctypes.c_long(value) for value in (_KCMP[sysabi.NATIVE], pid, other, 0, handle, number)]
    return int(sysabi.LIBC.syscall(*longs)) == 0


def _rescale(handle: int, rate: float) -> None:
    buffer = ctypes.create_string_buffer(32)
    if sysabi.LIBC.timerfd_gettime(handle, buffer) != 0:
        return
    interval_s, interval_ns, left_s, left_ns = struct.unpack("4q", buffer.raw)
    left, interval = left_s * NANO + left_ns, interval_s * NANO + interval_ns
    if not left:
        return
    new = struct.pack("4q", *divmod(int(interval / rate), NANO), *divmod(max(int(left / rate), 1), NANO))
    sysabi.LIBC.timerfd_settime(handle, 0, new, None)
