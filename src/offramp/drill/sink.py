"""The far end of the sandbox's only cable: sees every frame that leaves, answers as told, keeps the flows."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable
from typing import Final

import msgspec

from offramp.drill import frames
from offramp.drill.frames import ACK, FIN, PSH, RST, SYN, Packet
from offramp.drill.names import NameServer, Question, parse_question
from offramp.drill.netlink import GATEWAY_MAC
from offramp.drill.pcap import PcapWriter
from offramp.drill.records import Flow, Mode

_HEAD_BYTES: Final = 64
_MOST_FLOWS: Final = 20_000
_HELD_BYTES: Final = 16384
_ECHO: Final = {"icmp": (8, 0), "icmp6": (128, 129)}
_HOUSEKEEPING_ICMP6: Final = (133, 134, 135, 136, 143, 131, 130, 132)


class FlowBook:
    """The flows of a run by key; used live by the sink and again when a pcap is replayed."""

    def __init__(self, name_of: Callable[[str], str]) -> None:
        self.flows: list[Flow] = []
        self.housekeeping = 0
        self.left_out = 0
        self._by_key: dict[tuple[str, int, str, int], int] = {}
        self._streams: dict[int, bytes] = {}
        self._name_of = name_of

    def add(self, packet: Packet, at_s: float) -> tuple[Flow, bool] | None:
        """The flow that a frame belongs to and whether it is new; None for the kernel's housekeeping."""
        if _is_housekeeping(packet):
            self.housekeeping += 1
            return None
        question = _question(packet)
        key, layer, name = _key(packet, question)
        index = self._by_key.get(key)
        if index is None:
            if len(self.flows) >= _MOST_FLOWS:
                self.left_out += 1
                return None
            index = self._by_key[key] = len(self.flows)
            self.flows.append(
                Flow(id=index, layer=layer, source_port=key[1], dst=packet.dst, dst_port=key[3], first_s=at_s,
                     name=name or self._name_of(packet.dst), query_type=question.type_name if question else "")
            )  # fmt: skip
            self._grow(index, packet, at_s)
            return self.flows[index], True
        self._grow(index, packet, at_s)
        return self.flows[index], False

    def _grow(self, index: int, packet: Packet, at_s: float) -> None:
        flow = self.flows[index]
        change: dict[str, object] = {
            "last_s": at_s, "frames": flow.frames + 1, "size_bytes": flow.size_bytes + len(packet.payload),
        }  # fmt: skip
        if packet.payload and len(flow.head_hex) < 2 * _HEAD_BYTES:
            change["head_hex"] = (flow.head_hex + packet.payload.hex())[: 2 * _HEAD_BYTES]
        if packet.layer == "tcp" and packet.payload and not (flow.server_name or flow.host):
            held = (self._streams.get(index, b"") + packet.payload)[:_HELD_BYTES]
            self._streams[index] = held
            host, request = frames.http_head(held)
            change |= {"server_name": frames.server_name(held), "host": host, "request": request[:200]}
        self.flows[index] = msgspec.structs.replace(flow, **change)

    def stream(self, index: int) -> bytes:
        """The first bytes of a TCP flow."""
        return self._streams.get(index, b"")

    def update(self, index: int, **change: object) -> None:
        """Changes fields of one flow."""
        self.flows[index] = msgspec.structs.replace(self.flows[index], **change)


def _question(packet: Packet) -> Question | None:
    if packet.dport != 53:
        return None
    if packet.layer == "udp":
        return parse_question(packet.payload)
    if packet.layer == "tcp" and len(packet.payload) > 14:
        return parse_question(packet.payload[2:])
    return None


def _key(packet: Packet, question: Question | None) -> tuple[tuple[str, int, str, int], str, str]:
    """Flow key, layer and name. Every DNS question is a flow of its own."""
    if question is not None:
        return (f"dns/{question.kind}", packet.sport, question.name, 53), "dns", question.name
    if packet.layer in ("icmp", "icmp6"):
        identity = struct.unpack_from("!H", packet.payload)[0] if len(packet.payload) >= 2 else 0
        return (packet.layer, identity, packet.dst, packet.sport), packet.layer, ""
    if packet.layer in ("raw", "ip", "arp"):
        number = packet.protocol if packet.layer == "ip" else packet.ethertype
        return (packet.layer, 0, packet.dst, number), packet.layer, ""
    return (packet.layer, packet.sport, packet.dst, packet.dport), packet.layer, ""


def _is_housekeeping(packet: Packet) -> bool:
    """Frames that the namespace's own kernel sends: ARP and neighbour discovery, multicast membership."""
    if packet.layer == "arp":
        return len(packet.payload) <= 46 and not any(packet.payload[28:])
    if packet.layer in ("icmp", "icmp6") and packet.sport == (3 if packet.layer == "icmp" else 1):
        return _is_complaint(packet)
    if packet.layer == "icmp6":
        return packet.sport in _HOUSEKEEPING_ICMP6 and len(packet.payload) <= 64
    return packet.layer == "ip" and packet.protocol == 2


def _is_complaint(packet: Packet) -> bool:
    """Whether an ICMP error is the kernel's answer to a packet of the sink's own (its closed port quoted back)."""
    quoted = packet.payload[4:]
    if packet.layer == "icmp" and len(quoted) >= 20:
        ends = quoted[12:16], quoted[16:20]
        return ends == tuple(bytes(map(int, end.split("."))) for end in (packet.dst, packet.src))
    return packet.layer == "icmp6" and len(quoted) >= 40 and packet.sport == 1


class Sink:
    """Reads frames from the cable, keeps them, and answers.

    Args:
        cable: descriptor whose reads give frames and whose writes deliver them.
        mode: accept, refuse, drop or nxdomain.
        names: the name server.
        began: host monotonic time of the run's start.
        on_new: called with each new flow (attribution happens while the socket is alive).
    """

    def __init__(
        self, cable: int, mode: Mode, names: NameServer, *, tap: PcapWriter, began: float,
        on_new: Callable[[Flow], None],
    ) -> None:  # fmt: skip
        self._cable = cable
        self._mode = mode
        self._names = names
        self._tap = tap
        self._began = began
        self._on_new = on_new
        self.book = FlowBook(lambda address: names.name_by_address.get(address, ""))
        self._expected: dict[tuple[str, int, str, int], int] = {}
        self.stopping = False

    def close(self) -> None:
        """Ends the capture file and the cable."""
        self._tap.close()
        os.close(self._cable)

    def serve(self) -> None:
        """Handles frames until ``stopping`` is set and the queue is empty."""
        poller = select.poll()
        poller.register(self._cable, select.POLLIN)
        while True:
            ready = poller.poll(20)
            if not ready and self.stopping:
                return
            for _ in range(256 if ready else 0):
                try:
                    frame = os.read(self._cable, 70000)
                except BlockingIOError:
                    break
                except OSError:
                    return
                self._handle(frame)

    def _handle(self, frame: bytes) -> None:
        self._tap.write(time.time(), frame)
        packet = frames.parse_frame(frame)
        added = self.book.add(packet, time.monotonic() - self._began)
        if added is not None and added[1]:
            self._on_new(added[0])
        if packet.layer == "arp" and packet.sport == 1:
            self._answer_arp(packet)
        elif packet.layer == "icmp6" and packet.sport == 135:
            self._answer_neighbour(packet)
        elif packet.layer == "tcp":
            self._answer_tcp(packet, added[0] if added else None)
        elif packet.layer == "udp":
            self._answer_udp(packet)
        elif packet.layer in _ECHO and packet.sport == _ECHO[packet.layer][0]:
            self._answer_echo(packet)

    def _put(self, frame: bytes) -> None:
        self._tap.write(time.time(), frame)
        try:
            os.write(self._cable, frame)
        except OSError:
            return  # the namespace is going away

    def _reply(self, packet: Packet, protocol: int, body: bytes) -> None:
        ends = packet.dst, packet.src
        self._put(frames.build_frame(GATEWAY_MAC, packet.source_mac, *ends, protocol=protocol, body=body))

    def _answer_arp(self, packet: Packet) -> None:
        asked = packet.payload
        body = asked[:6] + b"\0\2" + GATEWAY_MAC + asked[24:28] + asked[8:18]
        self._put(packet.source_mac + GATEWAY_MAC + b"\x08\x06" + body)

    def _answer_neighbour(self, packet: Packet) -> None:
        import socket

        target = socket.inet_ntop(socket.AF_INET6, packet.payload[4:20])
        rest = struct.pack("!I", 0x60000000) + packet.payload[4:20] + b"\2\1" + GATEWAY_MAC
        if packet.src == "::":
            return  # duplicate address detection
        body = frames.icmp_message(target, packet.src, 136, 0, rest)
        self._put(frames.build_frame(GATEWAY_MAC, packet.source_mac, target, packet.src, protocol=58, body=body))

    def _answer_echo(self, packet: Packet) -> None:
        if self._mode == "accept":
            kind = 0 if packet.layer == "icmp" else 129
            body = frames.icmp_message(packet.dst, packet.src, kind, 0, packet.payload)
            self._reply(packet, packet.protocol, body)
        elif self._mode != "drop":
            self._unreachable(packet)

    def _unreachable(self, packet: Packet) -> None:
        six = ":" in packet.src
        kind, code = (1, 4) if six else (3, 3)
        body = frames.icmp_message(packet.dst, packet.src, kind, code, b"\0\0\0\0" + packet.network[:512])
        self._reply(packet, frames.ICMP6 if six else frames.ICMP, body)

    def _answer_udp(self, packet: Packet) -> None:
        question = _question(packet)
        ends = (packet.dport, packet.sport)
        if question is not None:
            if self._mode == "drop":
                return
            message = self._names.answer(question)
            self._reply(packet, frames.UDP, frames.udp_datagram(packet.dst, packet.src, ends, message))
        elif self._mode in ("refuse", "nxdomain") and not packet.dst.startswith(("224.", "239.", "255.", "ff")):
            self._unreachable(packet)

    def _answer_tcp(self, packet: Packet, flow: Flow | None) -> None:
        is_dns = packet.dport == 53
        if packet.flags & RST or (self._mode == "drop"):
            return
        if self._mode in ("refuse", "nxdomain") and not is_dns:
            if packet.flags & SYN:
                self._segment(packet, RST | ACK, 0, packet.seq + 1)
            return
        key = ("tcp", packet.sport, packet.dst, packet.dport)
        if packet.flags & SYN:
            self._expected[key] = (packet.seq + 1) & 0xFFFFFFFF
            self._segment(packet, SYN | ACK, 1000, packet.seq + 1)
        elif packet.payload or packet.flags & FIN:
            self._answer_stream(packet, key, flow)

    def _answer_stream(self, packet: Packet, key: tuple[str, int, str, int], flow: Flow | None) -> None:
        if self._expected.get(key) != packet.seq:
            self._segment(packet, ACK, packet.ack, self._expected.get(key, packet.seq))
            return
        following = packet.seq + len(packet.payload) + (1 if packet.flags & FIN else 0)
        self._expected[key] = following & 0xFFFFFFFF
        if packet.flags & FIN:
            self._segment(packet, FIN | ACK, packet.ack, following)
            return
        data, last = self._stream_reply(packet, self.book.stream(flow.id) if flow else packet.payload)
        self._segment(packet, ACK | (PSH if data else 0) | (FIN if last else 0), packet.ack, following, data)

    def _stream_reply(self, packet: Packet, held: bytes) -> tuple[bytes, bool]:
        """What a plain HTTP, TLS or DNS client gets back, and whether the sink then hangs up."""
        if packet.dport == 53:
            question = parse_question(packet.payload[2:])
            message = self._names.answer(question) if question else b""
            return (struct.pack("!H", len(message)) + message if message else b""), False
        if held[:1] == b"\x16" and len(held) > 5:
            return b"\x15\x03\x01\x00\x02\x02\x28", True  # fatal alert: handshake failure
        host, request = frames.http_head(held)
        if request and b"\r\n\r\n" in held and (host or "HTTP/1.0" in request):
            status = b"204 No Content" if b"generate_204" in held[:200] else b"200 OK"
            if packet.dst.startswith("169.254.") or packet.dst.startswith("fe80"):
                status = b"404 Not Found"  # no cloud stands behind the sink: nobody shall take it for one
            return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", True
        return b"", False

    def _segment(self, packet: Packet, flags: int, seq: int, ack: int, data: bytes = b"") -> None:
        ends = (packet.dport, packet.sport)
        body = frames.tcp_segment(packet.dst, packet.src, ends, seq=seq, ack=ack, flags=flags, data=data)
        self._reply(packet, frames.TCP, body)
