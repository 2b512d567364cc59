"""pcap files: written by the tap, and read back, also from an upstream tap (pcap and pcapng)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from offramp.core.errors import InputError

_MAGIC: Final = 0xA1B2C3D4
_MAGIC_NANO: Final = 0xA1B23C4D
_NG: Final = 0x0A0D0D0A
_ETHERNET: Final = 1
_SNAP: Final = 65535
_NANO: Final = 10**9
_MICRO: Final = 10**6


class PcapWriter:
    """Writes frames until a size limit; counts what it then leaves out."""

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._file: BinaryIO = path.open("wb")
        self._left = limit_bytes - 24
        self.left_out = 0
        self._file.write(struct.pack("<IHHiIII", _MAGIC, 2, 4, 0, 0, _SNAP, _ETHERNET))

    def write(self, at_s: float, frame: bytes) -> None:
        """Adds one frame with its time (seconds since the epoch)."""
        if self._left < len(frame) + 16:
            self.left_out += 1
            return
        self._left -= len(frame) + 16
        whole = int(at_s)
        head = struct.pack("<IIII", whole, int((at_s - whole) * _MICRO), len(frame), len(frame))
        self._file.write(head + frame)

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


def read_pcap(path: Path) -> Iterator[tuple[float, bytes]]:
    """Time (seconds since the epoch) and Ethernet frame of each packet.

    Raises:
        InputError: not a pcap or pcapng file of Ethernet frames.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(data) < 24:
        raise InputError("is too short for a pcap file", where=str(path))
    magic = struct.unpack_from("<I", data)[0]
    if magic == _NG:
        return _read_ng(data, path)
    order = "<" if magic in (_MAGIC, _MAGIC_NANO) else ">"
    kind = struct.unpack_from(order + "I", data)[0]
    if kind not in (_MAGIC, _MAGIC_NANO):
        raise InputError("is neither pcap nor pcapng", where=str(path), mend="Write it with tcpdump -w.")
    if struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF != _ETHERNET:
        raise InputError("does not hold Ethernet frames", where=str(path), mend="Capture on an Ethernet device.")
    return _read_classic(data, order, _NANO if kind == _MAGIC_NANO else _MICRO)


def _read_classic(data: bytes, order: str, ticks: int) -> Iterator[tuple[float, bytes]]:
    at = 24
    while at + 16 <= len(data):
        whole, part, size, _ = struct.unpack_from(order + "IIII", data, at)
        yield whole + part / ticks, data[at + 16 : at + 16 + size]
        at += 16 + size


def _read_ng(data: bytes, path: Path) -> Iterator[tuple[float, bytes]]:
    order = "<" if struct.unpack_from("<I", data, 8)[0] == 0x1A2B3C4D else ">"
    at, links, ticks = 0, list[int](), list[float]()
    while at + 12 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if size < 12 or at + size > len(data):
            return
        body = data[at + 8 : at + size - 4]
        if kind == _NG:
            links, ticks = [], []
        elif kind == 1:
            links.append(struct.unpack_from(order + "H", body)[0])
            ticks.append(_resolution(body[8:], order))
        elif kind == 6:
            device, high, low, captured = struct.unpack_from(order + "IIII", body)
            if device >= len(links) or links[device] != _ETHERNET:
                raise InputError("does not hold Ethernet frames", where=str(path))
            yield ((high << 32) | low) / ticks[device], body[20 : 20 + captured]
        at += size


def _resolution(options: bytes, order: str) -> float:
    """Ticks per second of an interface (option 9), a million by default."""
    at = 0
    while at + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, at)
        if code == 9 and size >= 1:
            value = options[at + 4]
            return float(2 ** (value & 127) if value & 128 else 10**value)
        if code == 0:
            break
        at += 4 + size + (-size % 4)
    return float(_MICRO)
