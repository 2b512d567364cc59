"""A clock that runs beside the real one: shifted, sped up, and translated back for waits that have an end time."""

from __future__ import annotations

import struct
import threading
import time
from typing import Final

from offramp.drill import sysabi

REAL: Final = frozenset({0, 5, 8, 11})
NANO: Final = 10**9
_NANO_PER_MICRO: Final = 1000


def now_ns(clock: int) -> int:
    """The host's reading of a clock in nanoseconds."""
    return time.clock_gettime_ns(clock)


class VirtualClock:
    """Piecewise linear time: ``virtual = virtual0 + rate * (real - real0)``, one line per clock.

    Args:
        real_shift_s: added to the calendar clocks.
        uptime_shift_s: added to the monotonic clocks.
        rate: how many virtual seconds pass in a real one.
        covers_uptime: whether monotonic clocks are answered here; otherwise a time namespace shifts them.
    """

    def __init__(self, *, real_shift_s: float, uptime_shift_s: float, rate: float, covers_uptime: bool) -> None:
        self.covers_uptime = covers_uptime
        self._lock = threading.Lock()
        self._rate = rate
        self._anchor_ns = time.monotonic_ns()
        self._gone_ns = 0
        self._shift_ns = {True: int(real_shift_s * NANO), False: int(uptime_shift_s * NANO)}
        self._began_ns = self._anchor_ns

    @property
    def rate(self) -> float:
        """Virtual seconds per real second now."""
        return self._rate

    def _elapsed_ns(self) -> int:
        """Virtual nanoseconds beyond real ones since the clock was made."""
        with self._lock:
            since = time.monotonic_ns() - self._anchor_ns
            return self._gone_ns + int(since * (self._rate - 1.0))

    def set_rate(self, rate: float) -> None:
        """Changes the speed from now on, without a jump."""
        extra = self._elapsed_ns()
        with self._lock:
            self._gone_ns, self._anchor_ns, self._rate = extra, time.monotonic_ns(), rate

    def set_shift(self, *, real_shift_s: float) -> None:
        """Jumps the calendar clocks to another shift."""
        self._shift_ns[True] = int(real_shift_s * NANO)

    def virtual_s(self) -> float:
        """Virtual seconds since the clock was made."""
        return (time.monotonic_ns() - self._began_ns + self._elapsed_ns()) / NANO

    def ahead_ns(self, clock: int) -> int:
        """How far a clock runs ahead of the host's."""
        real = clock in REAL
        if not real and not self.covers_uptime:
            return 0
        return self._shift_ns[real] + self._elapsed_ns()

    def read_ns(self, clock: int) -> int:
        """The clock as the workload shall see it."""
        return now_ns(clock) + self.ahead_ns(clock)

    def deadline_ns(self, clock: int, virtual_ns: int) -> int:
        """The host's time of a clock at which the virtual clock will show ``virtual_ns``."""
        left = virtual_ns - self.read_ns(clock)
        return now_ns(clock) + int(left / self._rate)

    def duration_ns(self, virtual_ns: int) -> int:
        """Real nanoseconds that a wait of ``virtual_ns`` takes."""
        return max(int(virtual_ns / self._rate), 1) if virtual_ns > 0 else virtual_ns


def _timespec(value_ns: int) -> bytes:
    return struct.pack("qq", *divmod(value_ns, NANO))


def answer_read(clock: VirtualClock, pid: int, arch: int, name: str, args: tuple[int, ...]) -> int:
    """Writes the answer of a clock system call into the caller's memory.

    Returns:
        The call's return value, or a negated errno.
    """
    narrow = arch == sysabi.AUDIT_I386
    ok = True
    if name == "time":
        seconds = clock.read_ns(0) // NANO
        if args[0]:
            ok = sysabi.write_memory(pid, args[0], struct.pack("i" if narrow else "q", seconds))
        return seconds if ok else -14
    if name == "gettimeofday":
        whole, part = divmod(clock.read_ns(0), NANO)
        data = struct.pack("ii" if narrow else "qq", whole, part // _NANO_PER_MICRO)
        ok = not args[0] or sysabi.write_memory(pid, args[0], data)
        if args[1]:
            ok = sysabi.write_memory(pid, args[1], b"\0" * 8) and ok
        return 0 if ok else -14
    if name in ("clock_gettime", "clock_gettime64"):
        value = clock.read_ns(_signed(args[0]))
        short = narrow and name == "clock_gettime"
        data = struct.pack("ii", *divmod(value, NANO)) if short else _timespec(value)
        return 0 if sysabi.write_memory(pid, args[1], data) else -14
    return -1


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def answer_sysinfo(clock: VirtualClock, pid: int, address: int, *, narrow: bool) -> int:
    """Answers sysinfo(2): the kernel's own numbers with the virtual uptime."""
    import ctypes

    buffer = ctypes.create_string_buffer(128)
    if sysabi.LIBC.sysinfo(buffer) != 0 or narrow:
        return -38
    uptime = struct.pack("q", clock.read_ns(7) // NANO)
    return 0 if sysabi.write_memory(pid, address, uptime + buffer.raw[8:112]) else -14


def answer_adjtimex(clock: VirtualClock, pid: int, address: int) -> int:
    """Answers a read by adjtimex(2): the kernel's reply with the virtual time; setting the clock is refused."""
    import ctypes

    modes = sysabi.read_memory(pid, address, 4)
    if len(modes) < 4 or struct.unpack("I", modes)[0]:
        return -1
    buffer = ctypes.create_string_buffer(256)
    state = sysabi.LIBC.adjtimex(buffer)
    if state < 0:
        return -1
    raw = bytearray(buffer.raw[:208])
    raw[72:88] = struct.pack("qq", *divmod(clock.read_ns(0) // _NANO_PER_MICRO, 10**6))
    return state if sysabi.write_memory(pid, address, bytes(raw)) else -14
