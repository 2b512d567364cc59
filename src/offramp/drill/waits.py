"""System calls that wait for a time: which argument says how long, and what it becomes under the virtual clock."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offramp.drill import sysabi
from offramp.drill.clock import NANO, VirtualClock

_MICRO: Final = 10**6
_NANO_PER_MICRO: Final = 1000
_NANO_PER_MILLI: Final = 10**6
_RELATIVE: Final = {
    "nanosleep": 0, "pselect6": 4, "ppoll": 2, "epoll_pwait2": 3, "rt_sigtimedwait": 2, "semtimedop": 3, "recvmmsg": 4,
}  # fmt: skip
_MILLISECONDS: Final = {"poll": 2, "epoll_wait": 3, "epoll_pwait": 3}
_FUTEX_REAL: Final = 0x100
_LOCK_PI: Final = 6
_LONGEST_ABSOLUTE_S: Final = 2**62 // NANO


@dataclass(frozen=True)
class Change:
    """One argument of a waiting call, replaced for this call.

    Attributes:
        index: which argument.
        original: what it was.
        value: its new number, where it is one.
        data: what it points to now, where it is a pointer.
    """

    index: int
    original: int
    value: int = 0
    data: bytes = b""


def translate(clock: VirtualClock, pid: int, name: str, args: tuple[int, ...]) -> Change | None:
    """How a wait must change; None where it may stay as it is."""
    if name in _MILLISECONDS:
        return _milliseconds(clock, _MILLISECONDS[name], args)
    if name in _RELATIVE:
        return _relative(clock, pid, _RELATIVE[name], args)
    if name == "alarm":
        return None if clock.rate == 1 or not args[0] else Change(0, args[0], max(int(args[0] / clock.rate), 1))
    if name in ("select", "setitimer"):
        return _timeval(clock, pid, name, args)
    if name in ("timerfd_settime", "timer_settime"):
        return _timer(clock, pid, name, args)
    found = _deadline_argument(name, args)
    if found is None:
        return None
    index, base, absolute = found
    return _absolute(clock, pid, index, args, base=base) if absolute else _relative(clock, pid, index, args)


def _deadline_argument(name: str, args: tuple[int, ...]) -> tuple[int, int, bool] | None:
    """Argument, clock and whether it is a point in time."""
    if name == "clock_nanosleep":
        return 2, args[0] & 0xFF, bool(args[1] & 1)
    if name == "futex":
        command = args[1] & 0x7F
        real = bool(args[1] & _FUTEX_REAL) or command == _LOCK_PI
        return 3, 0 if real else 1, command != 0
    if name == "futex_waitv":
        return 3, args[4] & 0xFF, True
    if name == "futex_wait":
        return 4, args[5] & 0xFF, True
    if name in ("mq_timedsend", "mq_timedreceive"):
        return 4, 0, True
    return None


def _milliseconds(clock: VirtualClock, index: int, args: tuple[int, ...]) -> Change | None:
    value = args[index] & 0xFFFFFFFF
    if clock.rate == 1 or value == 0 or value & 0x80000000:
        return None
    return Change(index, args[index], max(int(value / clock.rate), 1))


def _read_pair(pid: int, address: int) -> tuple[int, int] | None:
    raw = sysabi.read_memory(pid, address, 16) if address else b""
    return struct.unpack("qq", raw) if len(raw) == 16 else None


def _pack(value_ns: int) -> bytes:
    return struct.pack("qq", *divmod(max(value_ns, 0), NANO))


def _relative(clock: VirtualClock, pid: int, index: int, args: tuple[int, ...]) -> Change | None:
    pair = _read_pair(pid, args[index]) if clock.rate != 1 else None
    if pair is None or pair == (0, 0) or pair[0] < 0:
        return None
    return Change(index, args[index], data=_pack(clock.duration_ns(pair[0] * NANO + pair[1])))


def _absolute(clock: VirtualClock, pid: int, index: int, args: tuple[int, ...], *, base: int) -> Change | None:
    if clock.rate == 1 and clock.ahead_ns(base) == 0:
        return None
    pair = _read_pair(pid, args[index])
    if pair is None or not 0 <= pair[0] < _LONGEST_ABSOLUTE_S:
        return None
    return Change(index, args[index], data=_pack(clock.deadline_ns(base, pair[0] * NANO + pair[1])))


def _timeval(clock: VirtualClock, pid: int, name: str, args: tuple[int, ...]) -> Change | None:
    """Select and setitimer count in microseconds; setitimer has an interval in front and only its real kind counts."""
    index, size = (4, 16) if name == "select" else (1, 32)
    if clock.rate == 1 or (name == "setitimer" and args[0] & 0xFF):
        return None
    raw = sysabi.read_memory(pid, args[index], size) if args[index] else b""
    if len(raw) < size:
        return None
    out = b""
    for whole, part in struct.iter_unpack("qq", raw):
        micro = whole * _MICRO + part
        scaled = max(int(micro / clock.rate), 1) if micro > 0 else 0
        out += struct.pack("qq", *divmod(scaled, _MICRO))
    return Change(index, args[index], data=out)


def _timer(clock: VirtualClock, pid: int, name: str, args: tuple[int, ...]) -> Change | None:
    raw = sysabi.read_memory(pid, args[2], 32) if args[2] else b""
    if len(raw) < 32:
        return None
    interval_s, interval_ns, value_s, value_ns = struct.unpack("4q", raw)
    interval = clock.duration_ns(interval_s * NANO + interval_ns)
    value = value_s * NANO + value_ns
    if args[1] & 1 and value:
        base = _timer_clock(pid, name, args[0])
        if clock.rate == 1 and clock.ahead_ns(base) == 0:
            return None
        value = max(clock.deadline_ns(base, value), 1)
    else:
        if clock.rate == 1:
            return None
        value = clock.duration_ns(value)
    return Change(2, args[2], data=_pack(interval) + _pack(value))


def _timer_clock(pid: int, name: str, handle: int) -> int:
    """The clock of a timer descriptor or POSIX timer; monotonic where /proc does not tell."""
    try:
        if name == "timerfd_settime":
            text = Path(f"/proc/{pid}/fdinfo/{handle & 0xFFFFFFFF}").read_text()
            match = re.search(r"clockid:\s*(\d+)", text)
        else:
            text = Path(f"/proc/{pid}/timers").read_text()
            match = re.search(rf"ID: {handle & 0xFFFFFFFF}\n(?:.*\n)*?ClockID: (\d+)", text)
    except OSError:
        return 1
    return int(match.group(1)) if match else 1
