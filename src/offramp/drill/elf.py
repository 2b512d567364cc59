"""Tiny static programs made here, so that no compiler is needed: a list of system calls becomes an ELF file."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from offramp.drill import sysabi

_BASE: Final = 0x400000
_HEADERS: Final = 64 + 56
_EM: Final = {sysabi.AUDIT_X86_64: 62, sysabi.AUDIT_AARCH64: 183}
CALLS: Final = {
    sysabi.AUDIT_X86_64: {"socket": 41, "connect": 42, "sendto": 44, "clone": 56, "setsid": 112, "ioctl": 16,
                          "exit": 60, "nanosleep": 35, "clock_gettime": 228},
    sysabi.AUDIT_AARCH64: {"socket": 198, "connect": 203, "sendto": 206, "clone": 220, "setsid": 157, "ioctl": 29,
                           "exit": 93, "nanosleep": 101, "clock_gettime": 113},
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """The address of a piece of data, by label, plus an offset."""

    label: str
    offset: int = 0


@dataclass(frozen=True)
class Slot:
    """A kept result (0 to 2)."""

    index: int


Argument = int | Data | Slot


@dataclass
class Program:
    """A straight line of system calls with early exits.

    Args:
        arch: audit number of the architecture to make code for.
    """

    arch: int
    _code: bytearray = field(default_factory=bytearray)
    _data: dict[str, bytes] = field(default_factory=dict)
    _addresses: list[tuple[int, Data]] = field(default_factory=list)
    _exits: list[tuple[int, str]] = field(default_factory=list)

    def data(self, label: str, content: bytes) -> Data:
        """Adds a piece of data and returns its address."""
        self._data[label] = content
        return Data(label)

    def call(self, name: str, *arguments: Argument) -> None:
        """A system call through the native entry."""
        number = CALLS[self.arch][name]
        if self.arch == sysabi.AUDIT_X86_64:
            for register, argument in zip((7, 6, 2, 10, 8, 9), arguments, strict=False):
                self._x86_load(register, argument)
            self._x86_load(0, number)
            self._code += b"\x0f\x05"
        else:
            for register, argument in enumerate(arguments):
                self._arm_load(register, argument)
            self._arm_load(8, number)
            self._word(0xD4000001)

    def call_80(self, number: int, *arguments: Argument) -> None:
        """A system call through int 0x80 (x86-64 only), with at most five arguments."""
        for register, argument in zip((3, 1, 2, 6, 7), arguments, strict=False):
            self._x86_load(register, argument)
        self._x86_load(0, number)
        self._code += b"\xcd\x80\x48\x98"

    def keep(self, slot: int) -> Slot:
        """Keeps the last result."""
        if self.arch == sysabi.AUDIT_X86_64:
            self._code += bytes((0x49, 0x89, 0xC4 + slot))
        else:
            self._word(0xAA0003E0 | (19 + slot))
        return Slot(slot)

    def exit_if_negative(self) -> None:
        """Ends the program where the last call failed."""
        if self.arch == sysabi.AUDIT_X86_64:
            self._code += b"\x48\x85\xc0"
            self._x86_exit(b"\x0f\x88")
        else:
            self._exits.append((len(self._code), "tbnz"))
            self._word(0xB7F80000)

    def exit_unless_zero(self) -> None:
        """Ends the program where the last result is not 0 (the parent after a fork, an unfinished connect)."""
        if self.arch == sysabi.AUDIT_X86_64:
            self._code += b"\x48\x85\xc0"
            self._x86_exit(b"\x0f\x85")
        else:
            self._exits.append((len(self._code), "cb"))
            self._word(0xB5000000)

    def exit_if_below(self, place: Data, least: int) -> None:
        """Ends the program where the 64-bit number at ``place`` is below ``least``."""
        if self.arch == sysabi.AUDIT_X86_64:
            self._x86_load(3, place)
            self._code += b"\x48\x8b\x1b"
            self._x86_load(1, least)
            self._code += b"\x48\x39\xcb"
            self._x86_exit(b"\x0f\x8c")
        else:
            self._arm_load(9, place)
            self._word(0xF9400129)
            self._arm_load(10, least)
            self._word(0xEB0A013F)
            self._exits.append((len(self._code), "cb"))
            self._word(0x5400000B)

    def _word(self, value: int) -> None:
        self._code += struct.pack("<I", value)

    def _x86_exit(self, opcode: bytes) -> None:
        self._code += opcode
        self._exits.append((len(self._code), "rel32"))
        self._code += b"\0\0\0\0"

    def _x86_load(self, register: int, argument: Argument) -> None:
        if isinstance(argument, Slot):
            source = 12 + argument.index
            self._code += bytes((0x4C | (register >= 8), 0x89, 0xC0 | (source & 7) << 3 | register & 7))
            return
        self._code += bytes((0x48 | (register >= 8), 0xB8 | register & 7))
        if isinstance(argument, Data):
            self._addresses.append((len(self._code), argument))
            argument = 0
        self._code += struct.pack("<Q", argument & 0xFFFFFFFFFFFFFFFF)

    def _arm_load(self, register: int, argument: Argument) -> None:
        if isinstance(argument, Slot):
            self._word(0xAA0003E0 | (19 + argument.index) << 16 | register)
            return
        if isinstance(argument, Data):
            self._addresses.append((len(self._code), argument))
            argument = 0
        for half in range(4):
            base = 0xD2800000 if half == 0 else 0xF2800000
            self._word(base | half << 21 | ((argument >> 16 * half) & 0xFFFF) << 5 | register)

    def build(self) -> bytes:
        """The ELF file; ends with exit(0)."""
        end = len(self._code)
        self.call("exit", 0)
        code = bytearray(self._code)
        for at, kind in self._exits:
            self._patch_exit(code, at, kind, end)
        data, place = bytearray(), dict[str, int]()
        start = _BASE + _HEADERS + len(code) + (-(_HEADERS + len(code)) % 16)
        for label, content in self._data.items():
            place[label] = start + len(data)
            data += content + b"\0" * (-len(content) % 16)
        for at, piece in self._addresses:
            self._patch_address(code, at, place[piece.label] + piece.offset)
        code += b"\0" * (-(_HEADERS + len(code)) % 16)
        return self._headers(len(code) + len(data)) + bytes(code) + bytes(data)

    def _patch_exit(self, code: bytearray, at: int, kind: str, end: int) -> None:
        if kind == "rel32":
            struct.pack_into("<i", code, at, end - at - 4)
            return
        word = struct.unpack_from("<I", code, at)[0]
        field_bits = 0x3FFF if kind == "tbnz" else 0x7FFFF
        struct.pack_into("<I", code, at, word | ((end - at) // 4 & field_bits) << 5)

    def _patch_address(self, code: bytearray, at: int, value: int) -> None:
        if self.arch == sysabi.AUDIT_X86_64:
            struct.pack_into("<Q", code, at, value)
            return
        for half in range(4):
            word = struct.unpack_from("<I", code, at + 4 * half)[0]
            struct.pack_into("<I", code, at + 4 * half, word | ((value >> 16 * half) & 0xFFFF) << 5)

    def _headers(self, size: int) -> bytes:
        entry, total = _BASE + _HEADERS, _HEADERS + size
        ident = b"\x7fELF" + bytes((2, 1, 1)) + b"\0" * 9
        head = ident + struct.pack("<HHIQQQIHHHHHH", 2, _EM[self.arch], 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        return head + struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, total, total, 0x1000)
