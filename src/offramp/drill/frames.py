"""Frames taken apart and put together: Ethernet, ARP, IPv4 and IPv6, TCP, UDP, ICMP, TLS hello, HTTP head."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final, Literal

ETH_IPV4: Final = 0x0800
ETH_IPV6: Final = 0x86DD
ETH_ARP: Final = 0x0806
TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMP6: Final = 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

Layer = Literal["tcp", "udp", "icmp", "icmp6", "ip", "arp", "raw"]


@dataclass(frozen=True, kw_only=True)
class Packet:
    """One frame.

    Attributes:
        layer: the highest layer understood.
        ethertype, protocol: of the frame and of the IP packet (-1 without one).
        src, dst: addresses as text; MAC addresses for raw frames.
        sport, dport: ports; type and code for ICMP.
        seq, ack, flags: of TCP.
        payload: what the highest layer carries.
        network: the IP packet from its header on, for ICMP errors.
        source_mac: who to answer.
    """

    layer: Layer
    ethertype: int
    src: str
    dst: str
    source_mac: bytes
    protocol: int = -1
    sport: int = 0
    dport: int = 0
    seq: int = 0
    ack: int = 0
    flags: int = 0
    payload: bytes = b""
    network: bytes = b""


def parse_frame(frame: bytes) -> Packet:
    """The packet in an Ethernet frame; whatever is not understood stays a raw frame."""
    if len(frame) < 14:
        return Packet(layer="raw", ethertype=-1, src="", dst="", source_mac=b"", payload=frame)
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    body, mac = frame[14:], frame[6:12]
    try:
        if ethertype == ETH_IPV4:
            return _parse_ipv4(body, mac)
        if ethertype == ETH_IPV6:
            return _parse_ipv6(body, mac)
        if ethertype == ETH_ARP and len(body) >= 28:
            sender, target = socket.inet_ntoa(body[14:18]), socket.inet_ntoa(body[24:28])
            return Packet(layer="arp", ethertype=ethertype, src=sender, dst=target, source_mac=mac,
                          sport=struct.unpack_from("!H", body, 6)[0], payload=body)  # fmt: skip
    except (struct.error, IndexError, ValueError):
        pass
    return Packet(
        layer="raw", ethertype=ethertype, src=mac.hex(":"), dst=frame[:6].hex(":"), source_mac=mac, payload=body
    )


def _parse_ipv4(body: bytes, mac: bytes) -> Packet:
    head = (body[0] & 15) * 4
    total = struct.unpack_from("!H", body, 2)[0]
    if body[0] >> 4 != 4 or head < 20 or len(body) < head:
        raise ValueError("not an IPv4 header")
    ends = socket.inet_ntoa(body[12:16]), socket.inet_ntoa(body[16:20])
    offset = struct.unpack_from("!H", body, 6)[0] & 0x1FFF
    packet = body[: max(total, head)]
    if offset:
        return Packet(layer="ip", ethertype=ETH_IPV4, src=ends[0], dst=ends[1], source_mac=mac, protocol=body[9],
                      payload=packet[head:], network=packet)  # fmt: skip
    return _parse_transport(body[9], packet[head:], ends, mac, packet, ETH_IPV4)


def _parse_ipv6(body: bytes, mac: bytes) -> Packet:
    if body[0] >> 4 != 6:
        raise ValueError("not an IPv6 header")
    size, following = struct.unpack_from("!HB", body, 4)
    ends = socket.inet_ntop(socket.AF_INET6, body[8:24]), socket.inet_ntop(socket.AF_INET6, body[24:40])
    packet, at = body[: 40 + size], 40
    while following in (0, 43, 60) and at + 8 <= len(packet):
        following, at = packet[at], at + 8 * (packet[at + 1] + 1)
    return _parse_transport(following, packet[at:], ends, mac, packet, ETH_IPV6)


def _parse_transport(
    protocol: int, body: bytes, ends: tuple[str, str], mac: bytes, network: bytes, ethertype: int
) -> Packet:
    src, dst = ends
    layer: Layer = "ip"
    sport = dport = seq = ack = flags = 0
    payload = body
    if protocol == TCP and len(body) >= 20:
        sport, dport, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", body)
        layer, payload = "tcp", body[(offset >> 4) * 4 :]
    elif protocol == UDP and len(body) >= 8:
        sport, dport, size = struct.unpack_from("!HHH", body)
        layer, payload = "udp", body[8 : max(size, 8)]
    elif protocol in (ICMP, ICMP6) and len(body) >= 8:
        sport, dport = body[0], body[1]
        layer, payload = ("icmp" if protocol == ICMP else "icmp6"), body[4:]
    return Packet(layer=layer, ethertype=ethertype, src=src, dst=dst, source_mac=mac, protocol=protocol, sport=sport,
                  dport=dport, seq=seq, ack=ack, flags=flags & 0x3F, payload=payload, network=network)  # fmt: skip


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(src: str, dst: str, protocol: int, size: int) -> bytes:
    if ":" in src:
        return _raw(src) + _raw(dst) + struct.pack("!IxxxB", size, protocol)
    return _raw(src) + _raw(dst) + struct.pack("!BBH", 0, protocol, size)


def _raw(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def build_frame(src_mac: bytes, dst_mac: bytes, src: str, dst: str, *, protocol: int, body: bytes) -> bytes:
    """An Ethernet frame around an IP packet around ``body``."""
    if ":" in src:
        head = struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + _raw(src) + _raw(dst)
        return dst_mac + src_mac + struct.pack("!H", ETH_IPV6) + head + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0) + _raw(src) + _raw(dst)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return dst_mac + src_mac + struct.pack("!H", ETH_IPV4) + head + body


def tcp_segment(
    src: str, dst: str, ports: tuple[int, int], *, seq: int, ack: int, flags: int, data: bytes = b""
) -> bytes:  # fmt: skip
    """A TCP segment with its checksum; a SYN carries a maximum segment size of 1460 (1440 on IPv6)."""
    options = struct.pack("!BBH", 2, 4, 1440 if ":" in src else 1460) if flags & SYN else b""
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags, 65535, 0, 0)
    segment = head + options + data
    value = checksum(_pseudo(src, dst, TCP, len(segment)) + segment)
    return segment[:16] + struct.pack("!H", value) + segment[18:]


def udp_datagram(src: str, dst: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram with its checksum."""
    raw = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    value = checksum(_pseudo(src, dst, UDP, len(raw)) + raw) or 0xFFFF
    return raw[:6] + struct.pack("!H", value) + raw[8:]


def icmp_message(src: str, dst: str, kind: int, code: int, rest: bytes) -> bytes:
    """An ICMP or ICMPv6 message (by the addresses' family) with its checksum."""
    raw = struct.pack("!BBH", kind, code, 0) + rest
    prefix = _pseudo(src, dst, ICMP6, len(raw)) if ":" in src else b""
    return raw[:2] + struct.pack("!H", checksum(prefix + raw)) + raw[4:]


def server_name(payload: bytes) -> str:
    """The server name in a TLS ClientHello; "" where there is none."""
    try:
        if payload[0] != 22 or payload[5] != 1:
            return ""
        at = 43 + 1 + payload[43]
        at += 2 + struct.unpack_from("!H", payload, at)[0]
        at += 1 + payload[at]
        end = at + 2 + struct.unpack_from("!H", payload, at)[0]
        at += 2
        while at + 4 <= end:
            kind, size = struct.unpack_from("!HH", payload, at)
            if kind == 0:
                length = struct.unpack_from("!H", payload, at + 7)[0]
                return payload[at + 9 : at + 9 + length].decode("ascii", "replace")
            at += 4 + size
    except (IndexError, struct.error):
        pass
    return ""


def http_head(payload: bytes) -> tuple[str, str]:
    """Host and request line of a plain HTTP request; empty strings where it is none."""
    first, _, rest = payload.partition(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/") or not words[0].isalpha():
        return "", ""
    host = ""
    for line in rest.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"host":
            host = value.strip().decode("latin-1")
    return host, first.decode("latin-1")
