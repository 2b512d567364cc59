"""From a frame to the process that caused it: by its socket, its content, its address, or the kernel's tables."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from offramp.drill.processes import ProcessBook, descendants
from offramp.drill.records import Call, Flow, Process
from offramp.drill.watcher import Watcher

_TABLES: Final = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6"), "dns": ("udp", "udp6", "tcp", "tcp6"),
                  "icmp": ("icmp", "raw"), "icmp6": ("icmp6", "raw6"), "ip": ("raw", "raw6"),
                  "raw": ("packet",), "arp": ("packet",)}  # fmt: skip
_SAME_LAYER: Final = {"icmp": ("inet", "inet6"), "icmp6": ("inet6",), "ip": ("inet", "inet6")}


class Attribution:
    """Names the sender of each flow, while its socket is still alive where possible.

    Args:
        targets: canary name by (address or DNS name, port).
    """

    def __init__(
        self, watcher: Watcher, book: ProcessBook, init: int, targets: dict[tuple[str, int], str]
    ) -> None:  # fmt: skip
        self._watcher = watcher
        self._book = book
        self._init = init
        self._targets = targets
        self._found: dict[int, tuple[str, int, str]] = {}
        self._lock = threading.Lock()

    def note(self, flow: Flow) -> None:
        """Called with each new flow as its first frame arrives."""
        call = self._watcher.match_socket(flow)
        if call >= 0:
            self._watcher.mark_sent(call)
            self._put(flow, self._watcher.calls[call].process, call, "socket")
            return
        if flow.layer in ("icmp", "ip", "icmp6", "raw", "arp") and self._by_call(flow):
            return
        key = self._by_table(flow)
        if key:
            self._put(flow, key, -1, "socket-table")

    def _put(self, flow: Flow, process: str, call: int, how: str) -> None:
        with self._lock:
            self._found[flow.id] = (process, call, how)

    def _by_call(self, flow: Flow) -> bool:
        """Raw sockets have no port: the latest call with the same content or address, or that opened the device."""
        best: tuple[int, Call, str] | None = None
        for call in reversed(self._watcher.calls):
            score = _resemblance(flow, call)
            if score and (best is None or score > best[0]):
                best = (score, call, {3: "content", 2: "address"}.get(score, "device"))
        if best is None:
            return False
        self._put(flow, best[1].process, best[1].id, best[2])
        return True

    def _by_table(self, flow: Flow) -> str:
        inodes = self._inodes(flow)
        if not inodes:
            return ""
        for pid in descendants(self._init):
            try:
                handles = os.listdir(f"/proc/{pid}/fd")
            except OSError:
                continue
            for handle in handles:
                try:
                    if os.readlink(f"/proc/{pid}/fd/{handle}") in inodes:
                        return self._book.identify(pid)
                except OSError:
                    continue
        return ""

    def _inodes(self, flow: Flow) -> set[str]:
        """Sockets with the flow's local port, as /proc/PID/fd shows them."""
        out: set[str] = set()
        for table in _TABLES.get(flow.layer, ()):
            try:
                lines = Path(f"/proc/{self._init}/net/{table}").read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                words = line.split()
                if table == "packet":
                    out.add(f"socket:[{words[8]}]")
                elif table.startswith("raw") or int(words[1].rpartition(":")[2], 16) == flow.source_port:
                    out.add(f"socket:[{words[9]}]")
        return out

    def finish(self, flows: list[Flow]) -> list[Flow]:
        """The flows with their senders; what was not matched live is matched by address afterwards."""
        out: list[Flow] = []
        for flow in flows:
            process, call, how = self._found.get(flow.id, ("", -1, ""))
            if not process:
                process, call, how = self._by_address(flow)
            image = self._book.images.get(process)
            canary = image.canary if image else ""
            canary = canary or self._canary_of(flow)
            out.append(msgspec.structs.replace(flow, process=process, call=call, matched_by=how, canary=canary))
        return out

    def _by_address(self, flow: Flow) -> tuple[str, int, str]:
        for call in self._watcher.calls:
            if call.dst == flow.dst and call.dst_port == flow.dst_port and flow.layer in ("tcp", "udp"):
                return call.process, call.id, "address"
        rings = {call.process for call in self._watcher.calls if call.family == "io_uring" and not call.canary}
        if len(rings) == 1 and flow.layer in ("tcp", "udp", "dns"):
            return rings.pop(), -1, "only holder of an io_uring"
        return "", -1, ""

    def _canary_of(self, flow: Flow) -> str:
        direct = self._targets.get((flow.dst, flow.dst_port)) or self._targets.get((flow.dst, -1))
        if direct:
            return direct
        for (name, port), canary in self._targets.items():
            if port == 53 and flow.name.endswith(name):
                return canary
        return ""

    def add_images(self, images: list[Process]) -> None:
        """Takes images that another means has seen."""
        for image in images:
            self._book.images[image.key] = image

    def processes(self) -> tuple[Process, ...]:
        """Every image that was seen."""
        return tuple(self._book.images.values())


def _resemblance(flow: Flow, call: Call) -> int:
    """3: same bytes; 2: same address on a fitting layer; 1: the caller holds a device socket; 0: none."""
    if call.head_hex and len(call.head_hex) >= 16 and call.head_hex[16:] and flow.head_hex:
        inner = call.head_hex[8:] if flow.layer in ("icmp", "icmp6") else call.head_hex
        if inner[: len(flow.head_hex)] == flow.head_hex or flow.head_hex in call.head_hex:
            return 3
    if call.family in _SAME_LAYER.get(flow.layer, ()) and call.dst == flow.dst:
        return 2
    return 1 if flow.layer in ("raw", "arp", "ip") and call.family in ("packet", "raw") else 0
