"""A name server that answers every question: one address a name, so that an address tells the name."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
_TYPES: Final = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV",
                 65: "HTTPS", 255: "ANY"}  # fmt: skip
_NO_SUCH_NAME: Final = 3
_REFUSED: Final = 5
_TUNNEL_LABEL: Final = 30
_TUNNEL_BITS: Final = 3.5
"""A label this long with this much Shannon entropy per character carries data rather than a host name."""
_MIXED_LABEL: Final = 20
_MIXED_DIGITS: Final = 0.15
_MIXED_BITS: Final = 3.0
"""Encoded data (hex, base32) mixes digits into long labels; host names do so less."""
_LONG_LABEL: Final = 40
"""No host name that people write has a label this long; storage buckets may, and are then worth a look."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One DNS question."""

    identity: int
    name: str
    kind: int
    raw: bytes

    @property
    def type_name(self) -> str:
        """Name of the record type: A, AAAA, TXT or its number."""
        return _TYPES.get(self.kind, str(self.kind))


def parse_question(message: bytes) -> Question | None:
    """The first question of a DNS query; None where it is not a query."""
    if len(message) < 17 or message[2] & 0x80 or struct.unpack_from("!H", message, 4)[0] < 1:
        return None
    labels: list[str] = []
    at = 12
    while at < len(message) and message[at]:
        size = message[at]
        if size > 63 or at + 1 + size > len(message):
            return None
        labels.append(message[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    if at + 5 > len(message):
        return None
    kind = struct.unpack_from("!H", message, at + 1)[0]
    identity = struct.unpack_from("!H", message)[0]
    return Question(identity=identity, name=".".join(labels).lower(), kind=kind, raw=message[12 : at + 5])


def looks_like_tunnel(name: str) -> bool:
    """Whether the name's labels carry data: very long, or long and of high entropy, or over 100 characters in all."""
    labels = name.split(".")[:-2] or [""]
    text = max(labels, key=len)
    if len(text) >= _LONG_LABEL or (len(name) > 100 and len(labels) > 1):
        return True
    if len(text) < _MIXED_LABEL:
        return False
    counts = Counter(text)
    bits = -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
    digits = sum(char.isdigit() for char in text) / len(text)
    mixed = digits >= _MIXED_DIGITS and bits >= _MIXED_BITS
    return mixed or (len(text) >= _TUNNEL_LABEL and bits >= _TUNNEL_BITS)


@dataclass
class NameServer:
    """Answers and remembers.

    Attributes:
        refuse: whether a name does not exist (all names under "nxdomain", chosen hosts otherwise).
        own: names that are the machine's own, with their address.
    """

    refuse: Callable[[str], bool]
    own: dict[str, str] = field(default_factory=dict)
    number_by_name: dict[str, int] = field(default_factory=dict)
    name_by_address: dict[str, str] = field(default_factory=dict)

    def addresses(self, name: str) -> tuple[str, str]:
        """The IPv4 and the IPv6 address that stand for a name (RFC 2544 and unique local ranges)."""
        number = self.number_by_name.setdefault(name, len(self.number_by_name) + 1)
        four = f"198.18.{(number >> 8) & 255}.{number & 255}"
        six = f"fd00:6f66:0:d::{number:x}"
        self.name_by_address.setdefault(four, name)
        self.name_by_address.setdefault(six, name)
        return four, six

    def answer(self, question: Question) -> bytes:
        """The reply message: an address for A and AAAA, an empty answer for other types, NXDOMAIN where refused."""
        import socket

        code, records = 0, b""
        if question.kind == PTR or self.refuse(question.name):
            code = _NO_SUCH_NAME
        elif question.kind in (A, AAAA):
            four, six = self.addresses(question.name)
            data = socket.inet_pton(socket.AF_INET, four) if question.kind == A else socket.inet_pton(
                socket.AF_INET6, six)  # fmt: skip
            records = struct.pack("!HHHIH", 0xC00C, question.kind, 1, 30, len(data)) + data
        count = 1 if records else 0
        head = struct.pack("!HHHHHH", question.identity, 0x8180 | code, 1, count, 0, 0)
        return head + question.raw + records
