"""Seccomp filters assembled here: which system calls are told to the watcher, refused, or handed to the clock."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Final, Literal

from offramp.drill import sysabi

ALLOW: Final = 0x7FFF0000
NOTIFY: Final = 0x7FC00000
TRACE: Final = 0x7FF00000
EPERM: Final = 0x00050001
ENOSYS: Final = 0x00050026

_LD: Final = 0x20
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JGT: Final = 0x25
_JSET: Final = 0x45
_RET: Final = 0x06
_MOST_INSTRUCTIONS: Final = 4096

Watch = Literal["all", "odd"]
"""all: every call that can send or name a peer; odd: only what an ordinary server never uses."""
Clock = Literal["none", "real", "all"]
"""none: untouched; real: calendar time is answered; all: every clock and timeout is."""

Instruction = tuple[int, int, int, int]

REAL_CLOCKS: Final = (0, 5, 8, 11)
ALL_CLOCKS: Final = (0, 1, 4, 5, 6, 7, 8, 9, 11)
PLAIN_FAMILIES: Final = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: told apart later, at connect or send."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What to do with one system call: ``body`` ends with returns on every path."""

    number: int
    body: tuple[Instruction, ...]


def _ret(action: int) -> Instruction:
    return (_RET, 0, 0, action)


def _arg(index: int, *, high: bool = False) -> Instruction:
    return (_LD, 0, 0, 16 + 8 * index + (4 if high else 0))


def always(action: int) -> tuple[Instruction, ...]:
    """The action, whatever the arguments."""
    return (_ret(action),)


def if_pointer(index: int, action: int) -> tuple[Instruction, ...]:
    """The action where argument ``index`` is not null."""
    return (_arg(index), (_JEQ, 0, 2, 0), _arg(index, high=True), (_JEQ, 1, 0, 0), _ret(action), _ret(ALLOW))


def if_positive(index: int, action: int) -> tuple[Instruction, ...]:
    """The action where the 32-bit argument ``index`` is above zero."""
    return (_arg(index), (_JEQ, 2, 0, 0), (_JSET, 1, 0, 0x80000000), _ret(action), _ret(ALLOW))


def if_among(index: int, values: tuple[int, ...], action: int, other: int) -> tuple[Instruction, ...]:
    """``action`` where the low word of argument ``index`` is one of ``values``, else ``other``."""
    steps = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return (_arg(index), *steps, _ret(other), _ret(action))


def if_bits(index: int, mask: int, body: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """``body`` where argument ``index`` has any bit of ``mask``, else allowed."""
    return (_arg(index), (_JSET, 1, 0, mask), _ret(ALLOW), *body)


def _socket_body() -> tuple[Instruction, ...]:
    """Raw sockets and unusual families are told; plain ones pass. SOCK_RAW on netlink is ordinary."""
    families = [(_JEQ, 0, 1, value) for value in (1, 16)]
    out: list[Instruction] = [_arg(0)]
    for family in families:
        out += [family, _ret(ALLOW)]
    out += [(_JEQ, 2, 0, 2), (_JEQ, 1, 0, 10), _ret(NOTIFY), _arg(1), (0x54, 0, 0, 0xF)]
    out += [(_JEQ, 1, 0, 3), _ret(ALLOW), _ret(NOTIFY)]
    return tuple(out)


def _watch_rules(table: dict[str, int], watch: Watch) -> list[Rule]:
    rules = [Rule(number=table[name], body=always(NOTIFY)) for name in ("setns", "io_uring_setup")]
    rules.append(Rule(number=table["socket"], body=_socket_body()))
    if watch == "all":
        rules.append(Rule(number=table["connect"], body=always(NOTIFY)))
        rules.append(Rule(number=table["sendto"], body=if_pointer(4, NOTIFY)))
        rules += [Rule(number=table[name], body=always(NOTIFY)) for name in ("sendmsg", "sendmmsg")]
    return rules


def _i386_rules(clock: Clock) -> list[Rule]:
    """The 32-bit entry: every call that can reach a socket is told, whatever the mode; clocks are answered."""
    table = sysabi.NUMBERS[sysabi.AUDIT_I386]
    names = ["setns", "io_uring_setup", "socketcall", "socket", "connect", "sendto", "sendmsg", "sendmmsg"]
    if clock != "none":
        names += ["time", "gettimeofday", "clock_gettime", "clock_gettime64"]
    if clock == "all":
        names += ["sysinfo", "nanosleep", "clock_nanosleep", "clock_nanosleep_time64"]
    return [Rule(number=table[name], body=always(NOTIFY)) for name in names]


def _clock_rules(table: dict[str, int], clock: Clock) -> list[Rule]:
    """Clock reads are answered by the watcher; waits until a point in time are handed to the tracer."""
    if clock == "none":
        return []
    clocks = REAL_CLOCKS if clock == "real" else ALL_CLOCKS
    told = ["gettimeofday", "time", "adjtimex", *(["sysinfo"] if clock == "all" else [])]
    rules = [Rule(number=table[name], body=always(NOTIFY)) for name in told if name in table]
    rules.append(Rule(number=table["clock_gettime"], body=if_among(0, clocks, NOTIFY, ALLOW)))
    rules.append(Rule(number=table["clock_adjtime"], body=always(NOTIFY)))
    return rules + (_real_waits(table) if clock == "real" else _all_waits(table))


def _real_waits(table: dict[str, int]) -> list[Rule]:
    """Waits until a calendar time: the only ones that a shifted calendar clock would break."""
    absolute = if_bits(1, 1, if_among(0, (0, 11), TRACE, ALLOW))
    return [
        Rule(number=table["clock_nanosleep"], body=absolute),
        Rule(number=table["futex"], body=if_bits(1, 0x100, if_pointer(3, TRACE))),
        Rule(number=table["futex_waitv"], body=if_among(4, (0,), TRACE, ALLOW)),
        Rule(number=table["futex_wait"], body=if_among(5, (0,), TRACE, ALLOW)),
        Rule(number=table["timerfd_settime"], body=if_bits(1, 1, always(TRACE))),
        Rule(number=table["timer_settime"], body=if_bits(1, 1, always(TRACE))),
        Rule(number=table["mq_timedsend"], body=if_pointer(4, TRACE)),
        Rule(number=table["mq_timedreceive"], body=if_pointer(4, TRACE)),
    ]


def _all_waits(table: dict[str, int]) -> list[Rule]:
    """Every call that waits for a time, where it really has a timeout."""
    pointers = {
        "select": 4, "pselect6": 4, "ppoll": 2, "epoll_pwait2": 3, "futex_waitv": 3, "futex_wait": 4,
        "rt_sigtimedwait": 2, "semtimedop": 3, "mq_timedsend": 4, "mq_timedreceive": 4, "recvmmsg": 4,
    }  # fmt: skip
    rules = [Rule(number=table[n], body=if_pointer(i, TRACE)) for n, i in pointers.items() if n in table]
    numbers = {"poll": 2, "epoll_wait": 3, "epoll_pwait": 3}
    rules += [Rule(number=table[n], body=if_positive(i, TRACE)) for n, i in numbers.items() if n in table]
    plain = ("nanosleep", "clock_nanosleep", "timerfd_settime", "timer_settime", "setitimer", "alarm")
    rules += [Rule(number=table[name], body=always(TRACE)) for name in plain if name in table]
    rules.append(Rule(number=table["futex"], body=_futex_wait_body()))
    return rules


def _futex_wait_body() -> tuple[Instruction, ...]:
    """FUTEX_WAIT, WAIT_BITSET and LOCK_PI with a timeout; wakes and untimed waits stay at full speed."""
    commands = (0, 6, 9, 11, 13)
    jumps = [(_JEQ, len(commands) - i, 0, value) for i, value in enumerate(commands)]
    return (_arg(1), (0x54, 0, 0, 0x7F), *jumps, _ret(ALLOW), *if_pointer(3, TRACE))


def _section(arch: int, rules: list[Rule]) -> list[Instruction]:
    out: list[Instruction] = [(_LD, 0, 0, 0)]
    if arch == sysabi.AUDIT_X86_64:
        out += [(_JGE, 0, 1, 0x40000000), _ret(ENOSYS)]
    for rule in rules:
        out += [(_LD, 0, 0, 0), (_JEQ, 1, 0, rule.number), (0x05, 0, 0, len(rule.body)), *rule.body]
    return [*out, _ret(ALLOW)]


def build_filter(watch: Watch, clock: Clock = "none") -> list[Instruction]:
    """The whole program. Calls by an architecture that is not ours (32-bit ARM, x32) get ENOSYS."""
    table = sysabi.NR
    native = _section(sysabi.NATIVE, _watch_rules(table, watch) + _clock_rules(table, clock))
    out: list[Instruction] = [(_LD, 0, 0, 4), (_JEQ, 1, 0, sysabi.NATIVE), (0x05, 0, 0, len(native)), *native]
    if sysabi.NATIVE == sysabi.AUDIT_X86_64:
        other = _section(sysabi.AUDIT_I386, _i386_rules(clock))
        out += [(_JEQ, 1, 0, sysabi.AUDIT_I386), (0x05, 0, 0, len(other)), *other]
    out.append(_ret(ENOSYS))
    if len(out) > _MOST_INSTRUCTIONS:
        raise ValueError(f"filter of {len(out)} instructions")
    return out


def can_listen() -> bool:
    """Whether this kernel tells a listener of system calls (seccomp user notification)."""
    sizes = ctypes.create_string_buffer(6)
    try:
        sysabi.syscall("seccomp", 3, 0, sizes)
    except OSError:
        return False
    return struct.unpack("3H", sizes.raw)[0] == 80


def install(program: list[Instruction], *, listen: bool) -> int:
    """Puts the filter on this process; the listener's descriptor, or -1 without one.

    Raises:
        OSError: no seccomp, or no user notification in this kernel.
    """
    packed = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    flags = 8 if listen else 0
    number = sysabi.syscall("seccomp", 1, flags, header)
    return number if listen else -1


def run_filter(program: list[Instruction], data: bytes) -> int:
    """The action that the kernel would take on a ``seccomp_data`` of 64 bytes (for tests and for the record)."""
    at, value = 0, 0
    while True:
        code, yes, no, constant = program[at]
        at += 1
        if code == _RET:
            return constant
        if code == _LD:
            value = struct.unpack_from("I", data, constant)[0]
        elif code == 0x05:
            at += constant
        elif code == 0x54:
            value &= constant
        else:
            tests = {_JEQ: value == constant, _JGE: value >= constant, _JGT: value > constant}
            at += yes if tests.get(code, bool(value & constant)) else no
