"""The ptrace side: exact family trees, the vDSO taken away at exec, waits translated to the virtual clock."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from offramp.drill import sysabi
from offramp.drill.clock import VirtualClock
from offramp.drill.processes import ProcessBook, descendants, read_status
from offramp.drill.timers import rescale_descriptors
from offramp.drill.waits import Change, translate

_SEIZE, _INTERRUPT, _LISTEN = 0x4206, 0x4207, 0x4208
_CONT, _SYSCALL, _EVENTMSG, _GETREGSET, _SETREGSET = 7, 24, 0x4201, 0x4204, 0x4205
_OPTIONS: Final = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x100000
_FORK, _VFORK, _CLONE, _EXEC, _SECCOMP, _STOP = 1, 2, 3, 4, 7, 128
_WALL: Final = 0x40000000
_PRSTATUS: Final = 1
_RESTART_BLOCK: Final = -516
_RESTART_ALWAYS: Final = -513
_AT_SYSINFO: Final = (32, 33)
_STOPPING: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_SCRATCH_BELOW: Final = 1024
"""Bytes below the stack pointer, beyond the red zone, where a translated timeout is put for one call."""
_STACK_READ: Final = 1 << 16
_TICK_S: Final = 0.05


@dataclass(frozen=True)
class _Layout:
    """Where the registers of an architecture lie in its NT_PRSTATUS array."""

    words: int
    arguments: tuple[int, ...]
    number: int
    result: int
    stack: int


_LAYOUTS: Final = {
    sysabi.AUDIT_X86_64: _Layout(27, (14, 13, 12, 7, 9, 8), 15, 10, 19),
    sysabi.AUDIT_AARCH64: _Layout(34, (0, 1, 2, 3, 4, 5), 8, 0, 31),
}
_LAYOUT: Final = _LAYOUTS.get(sysabi.NATIVE, _LAYOUTS[sysabi.AUDIT_X86_64])


class Registers:
    """The general registers of a stopped task."""

    def __init__(self, task: int) -> None:
        self._task = task
        self.words = (ctypes.c_ulong * _LAYOUT.words)()
        self._vector = (ctypes.c_ulong * 2)(ctypes.addressof(self.words), ctypes.sizeof(self.words))
        _ptrace(_GETREGSET, task, _PRSTATUS, ctypes.addressof(self._vector))

    def save(self) -> None:
        """Writes them back."""
        self._vector[1] = ctypes.sizeof(self.words)
        _ptrace(_SETREGSET, self._task, _PRSTATUS, ctypes.addressof(self._vector))

    @property
    def arguments(self) -> tuple[int, ...]:
        """The six arguments of a system call."""
        return tuple(self.words[i] for i in _LAYOUT.arguments)

    def set_argument(self, index: int, value: int) -> None:
        """Changes one argument."""
        self.words[_LAYOUT.arguments[index]] = value & 0xFFFFFFFFFFFFFFFF

    @property
    def number(self) -> int:
        """The system call's number."""
        return self.words[_LAYOUT.number] & 0xFFFFFFFF

    @property
    def stack(self) -> int:
        """The stack pointer."""
        return self.words[_LAYOUT.stack]

    @property
    def result(self) -> int:
        """The return value, signed."""
        value = self.words[_LAYOUT.result]
        return value - (1 << 64) if value >> 63 else value

    def set_result(self, value: int) -> None:
        """Changes the return value."""
        self.words[_LAYOUT.result] = value & 0xFFFFFFFFFFFFFFFF

    @property
    def is_narrow(self) -> bool:
        """Whether the task runs 32-bit code."""
        return sysabi.NATIVE == sysabi.AUDIT_X86_64 and self.words[17] == 0x23


def _ptrace(request: int, task: int, address: int = 0, data: int = 0) -> None:
    longs = [ctypes.c_ulong(value) for value in (address, data)]
    sysabi.check(sysabi.LIBC.ptrace(ctypes.c_long(request), ctypes.c_int(task), *longs), "ptrace")


@dataclass
class Tracer:
    """Follows every process below the sandbox's first one. All methods but ``hurry`` belong to one thread.

    Attributes:
        book: who is who.
        clock: the moved clock, or None when only family trees are wanted.
        is_over: asked on every tick whether the loop shall end without waiting for init.
        stops: how many stops were handled, by kind.
    """

    book: ProcessBook
    clock: VirtualClock | None = None
    is_over: Callable[[], bool] = lambda: False
    stops: dict[str, int] = field(default_factory=dict)
    init_status: int | None = None
    _changed: dict[int, Change] = field(default_factory=dict)
    _hurry: bool = False
    _hurried: set[int] = field(default_factory=set)

    def seize(self, pid: int) -> None:
        """Starts following a process and all that it will make.

        Raises:
            OSError: ptrace is not permitted here.
        """
        _ptrace(_SEIZE, pid, 0, _OPTIONS)

    def hurry(self) -> None:
        """Asks the loop to restart every wait in progress, so that it sees a new clock rate."""
        self._hurry = True

    def loop(self, init: int) -> None:
        """Handles stops until the first process has ended."""
        old = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, _TICK_S, _TICK_S)
        status = ctypes.c_int()
        try:
            while True:
                pid = sysabi.LIBC.wait4(-1, ctypes.byref(status), _WALL, None)
                if pid > 0:
                    if self._one(pid, status.value, init):
                        return
                elif ctypes.get_errno() not in (4, 512):
                    return
                if self._hurry:
                    self._hurry = False
                    self._interrupt_all(init)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)

    def _one(self, task: int, status: int, init: int) -> bool:
        """Handles one report; True when init has ended."""
        if status & 0xFF != 0x7F:
            self._changed.pop(task, None)
            if task == init:
                self.init_status = status
            return task == init
        number, event = (status >> 8) & 0xFF, status >> 16
        try:
            self._stopped(task, number, event)
        except OSError:
            self.stops["lost"] = self.stops.get("lost", 0) + 1  # killed while we looked at it
        return False

    def _stopped(self, task: int, number: int, event: int) -> None:
        request, data = _CONT, 0
        if event in (_FORK, _VFORK, _CLONE):
            self._forked(task)
        elif event == _EXEC:
            self._executed(task)
        elif event == _SECCOMP:
            request = _SYSCALL if self._wait_begins(task) else _CONT
        elif event == _STOP:
            if number in _STOPPING:
                request = _LISTEN
            else:
                self._restart_wait(task)
        elif number == signal.SIGTRAP | 0x80:
            self._wait_ends(task)
        else:
            data = number
        kind = {_EXEC: "exec", _SECCOMP: "wait", _STOP: "stop"}.get(event, "fork" if event else "signal")
        self.stops[kind] = self.stops.get(kind, 0) + 1
        _ptrace(request, task, 0, data)

    def _forked(self, task: int) -> None:
        message = ctypes.c_ulong()
        _ptrace(_EVENTMSG, task, 0, ctypes.addressof(message))
        child = int(message.value)
        status = read_status(child)
        if status.get("Tgid") == str(child):
            parent = int(read_status(task).get("Tgid", task))
            self.book.note_fork(parent, child)

    def _executed(self, task: int) -> None:
        self.book.note_exec(task)
        if self.clock is not None:
            hide_vdso(task, Registers(task))

    def _wait_begins(self, task: int) -> bool:
        """Translates a wait; True when its end must be seen to restore the registers."""
        if self.clock is None:
            return False
        registers = Registers(task)
        name = sysabi.NAMES[sysabi.NATIVE].get(registers.number, "")
        change = translate(self.clock, task, name, registers.arguments)
        if change is None:
            return False
        if change.data:
            place = registers.stack - _SCRATCH_BELOW
            if not sysabi.write_memory(task, place, change.data):
                return False
            registers.set_argument(change.index, place)
        else:
            registers.set_argument(change.index, change.value)
        registers.save()
        self._changed[task] = change
        return True

    def _wait_ends(self, task: int) -> None:
        change = self._changed.pop(task, None)
        if change is None or (sysabi.NATIVE == sysabi.AUDIT_AARCH64 and change.index == 0):
            return
        registers = Registers(task)
        registers.set_argument(change.index, change.original)
        registers.save()

    def _restart_wait(self, task: int) -> None:
        """A wait that we broke off begins again from its own arguments, at the new rate."""
        if task not in self._hurried:
            return
        self._hurried.discard(task)
        registers = Registers(task)
        if registers.result == _RESTART_BLOCK:
            registers.set_result(_RESTART_ALWAYS)
            registers.save()

    def _interrupt_all(self, init: int) -> None:
        if self.clock is not None:
            rescale_descriptors(init, self.clock.rate)
        for pid in descendants(init):
            try:
                tasks = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
            except OSError:
                continue
            for task in tasks:
                try:
                    _ptrace(_INTERRUPT, task)
                    self._hurried.add(task)
                except OSError:
                    continue


def hide_vdso(task: int, registers: Registers) -> bool:
    """Makes the auxiliary vector of a fresh image forget the vDSO, so that clock reads become system calls."""
    shape, width = ("I", 4) if registers.is_narrow else ("Q", 8)
    stack = b""
    at, nulls = 1, 0
    while len(stack) < 32 * _STACK_READ:
        more = sysabi.read_memory(task, registers.stack + len(stack), _STACK_READ) or sysabi.read_memory(
            task, registers.stack + len(stack), 4096
        )
        if not more:
            break
        stack += more
        words = struct.unpack(f"{len(stack) // width}{shape}", stack[: len(stack) // width * width])
        while at < len(words) and nulls < 2:
            nulls += words[at] == 0
            at += 1
        if nulls == 2:
            ends = [i for i in range(at, len(words) - 1, 2) if words[i] == 0]
            if ends:
                return _forget(task, registers.stack, words, range(at, ends[0], 2), shape)
    return False


def _forget(task: int, base: int, words: tuple[int, ...], entries: range, shape: str) -> bool:
    width = struct.calcsize(shape)
    done = False
    for i in entries:
        if words[i] in _AT_SYSINFO:
            done = sysabi.write_memory(task, base + i * width, struct.pack(shape, 1)) or done
    return done
