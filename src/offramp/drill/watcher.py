"""The seccomp listener: told of calls that can reach a peer before they happen, it records, allows or refuses."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from offramp.drill import clock as clocks
from offramp.drill import sysabi
from offramp.drill.clock import VirtualClock
from offramp.drill.netlink import HOST_V4, HOST_V6
from offramp.drill.peers import abstract_peer, outside_peer
from offramp.drill.processes import ProcessBook
from offramp.drill.records import Call, Flow

_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_CONTINUE: Final = 1
_MOST_CALLS: Final = 20_000
_HELD_S: Final = 4.0
_MOST_HELD: Final = 400
_HEAD_BYTES: Final = 64
_FAMILIES: Final = {1: "unix", 2: "inet", 10: "inet6", 16: "netlink", 17: "packet", 38: "alg", 40: "vsock", 44: "xdp"}
_KINDS: Final = {1: "stream", 2: "dgram", 3: "raw", 4: "rdm", 5: "seqpacket"}
_DENIED_FAMILIES: Final = {40, 44}
_SOCKETCALLS: Final = {1: "socket", 3: "connect", 11: "sendto", 16: "sendmsg", 20: "sendmmsg"}
_CLOCK_CALLS: Final = ("time", "gettimeofday", "clock_gettime", "clock_gettime64")


@dataclass(frozen=True)
class Notice:
    """One system call that waits for our word."""

    id: int
    pid: int
    arch: int
    name: str
    args: tuple[int, ...]

    @property
    def narrow(self) -> bool:
        """Whether it came through the 32-bit entry."""
        return self.arch == sysabi.AUDIT_I386


@dataclass
class _Held:
    call: int
    dup: socket.socket
    until: float


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A socket address as the caller wrote it."""

    family: int
    address: str = ""
    port: int = 0

    @property
    def is_local(self) -> bool:
        """Whether it stays on the namespace's own addresses."""
        if self.family == socket.AF_INET:
            return self.address.startswith("127.") or self.address in ("0.0.0.0", HOST_V4)
        if self.family == socket.AF_INET6:
            bare = self.address.removeprefix("::ffff:")
            return bare in ("::", "::1", HOST_V6, HOST_V4, "0.0.0.0") or bare.startswith("127.")
        return self.family in (socket.AF_UNSPEC, socket.AF_NETLINK)


def parse_address(raw: bytes) -> Destination | None:
    """A sockaddr; None where it is too short to be one."""
    if len(raw) < 2:
        return None
    family = struct.unpack_from("H", raw)[0]
    if family == socket.AF_INET and len(raw) >= 8:
        return Destination(family=family, address=socket.inet_ntoa(raw[4:8]), port=struct.unpack_from("!H", raw, 2)[0])
    if family == socket.AF_INET6 and len(raw) >= 24:
        text = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        return Destination(family=family, address=text, port=struct.unpack_from("!H", raw, 2)[0])
    if family == socket.AF_UNIX:
        path = raw[2:]
        text = "@" + path[1:].split(b"\0")[0].decode("utf-8", "replace") if path[:1] == b"\0" else path.split(b"\0")[
            0].decode("utf-8", "surrogateescape")  # fmt: skip
        return Destination(family=family, address=text)
    if family == socket.AF_PACKET and len(raw) >= 12:
        return Destination(family=family, address=raw[12:18].hex(":"), port=struct.unpack_from("!H", raw, 2)[0])
    return Destination(family=family, address=raw[2:18].hex())


class Watcher:
    """Answers notices from every filtered process of one run.

    Args:
        book: who is who.
        began: host monotonic time of the run's start.
        clock: answers clock reads where the run moves the clock, else None.
        deny_io_uring: refuse rings (they could send unseen) or let them be and note them.
    """

    def __init__(
        self, book: ProcessBook, *, began: float, clock: VirtualClock | None = None, deny_io_uring: bool = True
    ) -> None:  # fmt: skip
        self._book = book
        self._began = began
        self._clock = clock
        self._deny_rings = deny_io_uring
        self._poller = select.poll()
        self._held: list[_Held] = []
        self._lock = threading.Lock()
        self.calls: list[Call] = []
        self.left_out = 0
        self.notices = 0
        self.stopping = False
        self._handlers: dict[str, Callable[[Notice], int]] = {
            "connect": self._connect, "sendto": self._sendto, "sendmsg": self._sendmsg, "sendmmsg": self._sendmmsg,
            "socket": self._socket, "setns": self._setns, "io_uring_setup": self._ring,
        }  # fmt: skip

    def add_listener(self, handle: int) -> None:
        """Listens to one more filter."""
        self._poller.register(handle, select.POLLIN)

    def serve(self) -> None:
        """Answers until ``stopping``; a listener whose processes are all gone is dropped."""
        while not self.stopping:
            for handle, event in self._poller.poll(100):
                if event & select.POLLIN:
                    self._one(handle)
                elif event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                    self._poller.unregister(handle)
            self._expire()

    def _one(self, handle: int) -> None:
        buffer = bytearray(80)
        try:
            fcntl.ioctl(handle, _RECEIVE, buffer)
        except OSError:
            return  # the caller was killed meanwhile
        identity, pid, _, number, arch = struct.unpack_from("QIIiI", buffer)
        args = struct.unpack_from("6Q", buffer, 32)
        name = sysabi.NAMES.get(arch, {}).get(number, str(number))
        notice = Notice(identity, pid, arch, name, args)
        self.notices += 1
        value, error, flags = self._answer(notice)
        try:
            fcntl.ioctl(handle, _SEND, struct.pack("QqiI", identity, value, error, flags))
        except OSError:
            return

    def _answer(self, notice: Notice) -> tuple[int, int, int]:
        """Return value, negated errno and flags of the reply."""
        if notice.name in _CLOCK_CALLS or notice.name in ("sysinfo", "adjtimex", "clock_adjtime"):
            return self._answer_clock(notice)
        if notice.name == "socketcall":
            inner = _SOCKETCALLS.get(notice.args[0] & 0xFF)
            raw = sysabi.read_memory(notice.pid, notice.args[1], 24)
            if inner is None or len(raw) < 24:
                return 0, 0, _CONTINUE
            notice = Notice(notice.id, notice.pid, notice.arch, inner, struct.unpack("6I", raw))
        handler = self._handlers.get(notice.name)
        try:
            refused = handler(notice) if handler else 0
        except OSError:
            refused = 0  # the caller went away while we looked
        return (0, -refused, 0) if refused else (0, 0, _CONTINUE)

    def _answer_clock(self, notice: Notice) -> tuple[int, int, int]:
        if self._clock is None:
            return 0, 0, _CONTINUE
        if notice.name == "sysinfo":
            value = clocks.answer_sysinfo(self._clock, notice.pid, notice.args[0], narrow=notice.narrow)
        elif notice.name in ("adjtimex", "clock_adjtime"):
            address = notice.args[1 if notice.name == "clock_adjtime" else 0]
            value = clocks.answer_adjtimex(self._clock, notice.pid, address)
        else:
            value = clocks.answer_read(self._clock, notice.pid, notice.arch, notice.name, notice.args)
        return (value, 0, 0) if value >= 0 else (0, value, 0)

    def _record(self, notice: Notice, **fields: object) -> int:
        """Keeps a call and returns its id."""
        if len(self.calls) >= _MOST_CALLS:
            self.left_out += 1
            return -1
        key = self._book.identify(notice.pid)
        self._book.refresh_detached(key)
        image = self._book.images.get(key)
        call = Call(
            id=len(self.calls), at_s=time.monotonic() - self._began, process=key, name=notice.name,
            entry="int-0x80" if notice.narrow else "native", thread=notice.pid,
            canary=image.canary if image else "", **fields,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        self.calls.append(call)
        return call.id

    def _connect(self, notice: Notice) -> int:
        raw = sysabi.read_memory(notice.pid, notice.args[1], min(notice.args[2] & 0xFFFFFFFF, 128))
        return self._reach(notice, parse_address(raw), head=b"", sent=False)

    def _sendto(self, notice: Notice) -> int:
        raw = sysabi.read_memory(notice.pid, notice.args[4], min(notice.args[5] & 0xFFFFFFFF, 128))
        head = sysabi.read_memory(notice.pid, notice.args[1], min(notice.args[2], _HEAD_BYTES))
        return self._reach(notice, parse_address(raw) if notice.args[4] else None, head=head, sent=True)

    def _sendmsg(self, notice: Notice) -> int:
        return self._message(notice, notice.args[1])

    def _sendmmsg(self, notice: Notice) -> int:
        size = 32 if notice.narrow else 64
        for i in range(min(notice.args[2] & 0xFFFFFFFF, 64)):
            refused = self._message(notice, notice.args[1] + i * size)
            if refused:
                return refused
        return 0

    def _message(self, notice: Notice, address: int) -> int:
        if notice.narrow:
            name, size, vectors, count = struct.unpack(
                "IIII", sysabi.read_memory(notice.pid, address, 16).ljust(16, b"\0")
            )
        else:
            name, size, vectors, count = struct.unpack(
                "QIxxxxQQ", sysabi.read_memory(notice.pid, address, 32).ljust(32, b"\0")
            )
        if not name:
            return 0
        raw = sysabi.read_memory(notice.pid, name, min(size, 128))
        head = b""
        if count:
            shape, width = ("II", 8) if notice.narrow else ("QQ", 16)
            base, length = struct.unpack(shape, sysabi.read_memory(notice.pid, vectors, width).ljust(width, b"\0"))
            head = sysabi.read_memory(notice.pid, base, min(length, _HEAD_BYTES))
        return self._reach(notice, parse_address(raw), head=head, sent=True)

    def _reach(self, notice: Notice, to: Destination | None, *, head: bytes, sent: bool) -> int:
        """Records a call towards ``to``; the errno to refuse it with, or 0."""
        if to is None or to.is_local:
            return 0
        family = _FAMILIES.get(to.family, str(to.family))
        if to.family == socket.AF_UNIX:
            return self._reach_unix(notice, to, sent=sent)
        dup = self._steal(notice) if to.family in (socket.AF_INET, socket.AF_INET6) else None
        kind = _KINDS.get(dup.type & 15, "") if dup else ""
        denied = to.family in _DENIED_FAMILIES
        index = self._record(
            notice, family=family, kind=kind, dst=to.address.removeprefix("::ffff:"), dst_port=to.port, sent=sent,
            head_hex=head.hex(), decision="denied" if denied else "allowed",
        )  # fmt: skip
        if dup is not None:
            self._hold(index, dup)
        return errno.EPERM if denied else 0

    def _reach_unix(self, notice: Notice, to: Destination, *, sent: bool) -> int:
        if not to.address:
            return 0
        abstract = to.address.startswith("@")
        look = abstract_peer if abstract else outside_peer
        peer = look(notice.pid, to.address, self._book.init)
        if peer is None:
            return 0
        self._record(notice, family="unix", dst=to.address, peer=peer, sent=sent, decision="denied")
        return errno.ECONNREFUSED

    def _socket(self, notice: Notice) -> int:
        family, kind = notice.args[0] & 0xFFFFFFFF, notice.args[1] & 15
        plain = family in (1, 16) or (family in (2, 10) and kind in (1, 2))
        if plain or family == 38:
            return 0
        denied = family in _DENIED_FAMILIES
        name = "raw" if family in (2, 10) else _FAMILIES.get(family, str(family))
        self._record(
            notice, family=name, kind=_KINDS.get(kind, str(kind)), dst_port=notice.args[2] & 0xFFFF,
            decision="denied" if denied else "allowed",
        )  # fmt: skip
        return errno.EPERM if denied else 0

    def _setns(self, notice: Notice) -> int:
        self._record(notice, family="namespace", decision="denied")
        return errno.EPERM

    def _ring(self, notice: Notice) -> int:
        self._record(notice, family="io_uring", decision="denied" if self._deny_rings else "allowed")
        return errno.EPERM if self._deny_rings else 0

    def _steal(self, notice: Notice) -> socket.socket | None:
        """A duplicate of the caller's socket, so that a frame can be matched to it by its local port."""
        try:
            handle = sysabi.steal_fd(self._leader(notice.pid), notice.args[0] & 0xFFFFFFFF)
        except OSError:
            return None
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            os.close(handle)
            return None
        return socket.socket(fileno=handle)

    def _leader(self, task: int) -> int:
        key = self._book.identify(task)
        image = self._book.images.get(key)
        return image.pid if image else task

    def _hold(self, call: int, dup: socket.socket) -> None:
        with self._lock:
            self._held.append(_Held(call, dup, time.monotonic() + _HELD_S))
            while len(self._held) > _MOST_HELD:
                self._held.pop(0).dup.close()

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            for held in [held for held in self._held if held.until < now]:
                held.dup.close()
                self._held.remove(held)

    def match_socket(self, flow: Flow) -> int:
        """Id of the call whose socket sent the flow, by local port; -1 where none is held."""
        kinds = {"tcp": (1,), "udp": (2,), "dns": (1, 2), "icmp": (2,), "icmp6": (2,)}.get(flow.layer, ())
        with self._lock:
            for held in reversed(self._held):
                if (held.dup.type & 15) not in kinds:
                    continue
                try:
                    port = held.dup.getsockname()[1]
                except (OSError, IndexError):
                    continue
                if port == flow.source_port and port:
                    if held.dup.type & 15 == 1:
                        held.dup.close()
                        self._held.remove(held)
                    return held.call
        return -1

    def mark_sent(self, call: int) -> None:
        """Notes that bytes followed a connect."""
        if 0 <= call < len(self.calls):
            self.calls[call] = msgspec.structs.replace(self.calls[call], sent=True)
