"""What a binary file says about itself: hosts written into it, network functions that it imports."""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import Final

from offramp.core.record import Record
from offramp.core.units import MIB

NETWORK_SYMBOLS: Final = frozenset({
    "connect", "sendto", "sendmsg", "sendmmsg", "getaddrinfo", "gethostbyname", "gethostbyname_r", "res_query",
    "socket", "SSL_connect", "curl_easy_perform", "curl_multi_perform", "io_uring_setup", "io_uring_queue_init",
    "ibv_open_device", "rdma_connect", "inet_pton",
})  # fmt: skip
_HOST: Final = re.compile(
    rb"(?:https?|grpcs?|wss?|ftp)://([A-Za-z0-9][A-Za-z0-9.-]{2,80}\.[A-Za-z]{2,12})(?=[:/\"'\s\0?]|$)"
)
_NO_SENDERS: Final = re.compile(
    r"(^|\.)(w3\.org|example\.(com|org)|localhost|schemas\.\w+\.\w+|gnu\.org|apache\.org|opensource\.org|ietf\.org)$"
)
_LARGEST_BYTES: Final = int(1024 * MIB)
_MOST_HOSTS: Final = 60


class BinaryFacts(Record):
    """Hosts and imported network symbols of one file."""

    hosts: tuple[str, ...]
    symbols: tuple[str, ...]


def scan_binary(path: Path) -> BinaryFacts:
    """Reads one file; nothing where it is empty, too large or unreadable."""
    try:
        size = path.stat().st_size
        if not 0 < size <= _LARGEST_BYTES:
            return BinaryFacts(hosts=(), symbols=())
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = {match.group(1).decode().lower() for match in _HOST.finditer(data)}
            hosts = tuple(sorted(host for host in found if not _NO_SENDERS.search(host)))[:_MOST_HOSTS]
            return BinaryFacts(hosts=hosts, symbols=_imports(data))
    except (OSError, ValueError):
        return BinaryFacts(hosts=(), symbols=())


def _imports(data: mmap.mmap) -> tuple[str, ...]:
    """Undefined dynamic symbols (64-bit little-endian ELF) that reach the network."""
    if data[:6] != b"\x7fELF\x02\x01":
        return ()
    try:
        start, size, count = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
        out: set[str] = set()
        for section in sections:
            if section[1] != 11:
                continue
            strings = sections[section[6]]
            table, names = data[section[4] : section[4] + section[5]], data[strings[4] : strings[4] + strings[5]]
            for name, _, _, index, _, _ in struct.iter_unpack("<IBBHQQ", table[: len(table) // 24 * 24]):
                if index == 0 and name < len(names):
                    text = names[name : names.index(b"\0", name)].decode("latin-1")
                    if text in NETWORK_SYMBOLS:
                        out.add(text)
        return tuple(sorted(out))
    except (struct.error, IndexError, ValueError):
        return ()
