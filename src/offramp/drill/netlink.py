"""A network namespace's own devices, addresses and routes through rtnetlink: no external program is needed."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

_NEWLINK: Final = 16
_NEWADDR: Final = 20
_NEWROUTE: Final = 24
_REQUEST_ACK: Final = 0x1 | 0x4
_CREATE: Final = 0x400
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000

DEVICE: Final = "sink0"
HOST_V4: Final = "198.19.255.2"
GATEWAY_V4: Final = "198.19.255.1"
HOST_V6: Final = "fd00:6f66::2"
GATEWAY_V6: Final = "fd00:6f66::1"
DEVICE_MAC: Final = bytes.fromhex("020000006f02")
GATEWAY_MAC: Final = bytes.fromhex("020000006f01")


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("HH", size, kind) + value + b"\0" * (-size % 4)


def _ask(message: int, flags: int, body: bytes) -> None:
    """Sends one rtnetlink request in the caller's namespace and waits for its acknowledgement."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))
        link.send(struct.pack("IHHII", 16 + len(body), message, flags | _REQUEST_ACK, 1, 0) + body)
        answer = link.recv(65536)
    code = struct.unpack_from("i", answer, 16)[0]
    if code < 0:
        raise OSError(-code, os.strerror(-code))


def _set_mac(device: str, address: bytes) -> None:
    body = struct.pack("BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0) + _attribute(1, address)
    _ask(_NEWLINK, 0, body)


def bring_up(device: str) -> None:
    """Sets a device up."""
    _ask(_NEWLINK, 0, struct.pack("BxHiII", 0, 0, socket.if_nametoindex(device), 1, 1))


def add_address(device: str, address: str, prefix: int) -> None:
    """Adds an IPv4 or IPv6 address (IPv6 without duplicate detection)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    nodad = 0x02 if family == socket.AF_INET6 else 0
    body = struct.pack("BBBBi", family, prefix, nodad, 0, socket.if_nametoindex(device))
    _ask(_NEWADDR, _CREATE, body + _attribute(1, raw) + _attribute(2, raw))


def add_default_route(device: str, gateway: str) -> None:
    """Sends everything that is not local to ``gateway`` behind ``device``."""
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    body = struct.pack("BBBBBBBBI", family, 0, 0, 0, 254, 3, 0, 1, 0)
    body += _attribute(5, socket.inet_pton(family, gateway))
    body += _attribute(4, struct.pack("i", socket.if_nametoindex(device)))
    _ask(_NEWROUTE, _CREATE, body)


def open_tap(device: str) -> int:
    """A descriptor of a new TAP device: reading it gives every frame that leaves through the device."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError:
        os.close(handle)
        raise
    return handle


def add_veth(device: str, peer: str, peer_pid: int) -> None:
    """A virtual cable from ``device`` here to ``peer`` in another process's network namespace."""
    other = struct.pack("BxHiII", 0, 0, 0, 0, 0) + _attribute(3, peer.encode() + b"\0")
    other += _attribute(19, struct.pack("I", peer_pid))
    info = _attribute(1, b"veth") + _attribute(2 | 0x8000, _attribute(1, other))
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + _attribute(3, device.encode() + b"\0")
    _ask(_NEWLINK, _CREATE | 0x200, body + _attribute(18 | 0x8000, info))


def open_packet_socket(device: str) -> int:
    """An AF_PACKET socket on ``device`` that sees all frames and can send them; the caller owns the descriptor."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(0x0003))
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    tap.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING: not what we answer ourselves
    tap.bind((device, 0x0003))
    return tap.detach()


def write_sysctl(name: str, value: str) -> bool:
    """Sets /proc/sys/``name``; False where the kernel or the mount does not let us."""
    try:
        (Path("/proc/sys") / name).write_text(value)
    except OSError:
        return False
    return True


def allow_ping() -> bool:
    """Lets every group (in a user namespace: the caller's) send echo requests without privilege."""
    own = os.getgid()
    return write_sysctl("net/ipv4/ping_group_range", "0 2147483647") or write_sysctl(
        "net/ipv4/ping_group_range", f"{own} {own}"
    )


def quiet_device(device: str) -> None:
    """Keeps the kernel's own chatter (router solicitation, duplicate detection) off the device."""
    for name, value in (("accept_ra", "0"), ("accept_dad", "0"), ("router_solicitations", "0"), ("autoconf", "0")):
        write_sysctl(f"net/ipv6/conf/{device}/{name}", value)
    allow_ping()
    write_sysctl("net/ipv4/ip_unprivileged_port_start", "0")


def configure(device: str) -> None:
    """Gives the namespace its addresses and default routes through ``device``."""
    quiet_device(device)
    _set_mac(device, DEVICE_MAC)
    bring_up(device)
    add_address(device, HOST_V4, 24)
    add_default_route(device, GATEWAY_V4)
    if Path("/proc/net/if_inet6").exists():
        add_address(device, HOST_V6, 64)
        add_default_route(device, GATEWAY_V6)
