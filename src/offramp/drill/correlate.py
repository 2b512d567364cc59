"""A capture from an upstream tap beside the drill: what left the machine that the sandbox's own tap did not see."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from offramp.core.record import Record
from offramp.drill import frames
from offramp.drill.findings import Finding
from offramp.drill.netlink import HOST_V4, HOST_V6
from offramp.drill.pcap import read_pcap
from offramp.drill.records import RunRecord
from offramp.drill.sink import FlowBook

_MOST_ROWS: Final = 500
_SLACK_S: Final = 1.0


class UpstreamFlow(Record):
    """One flow of the upstream capture.

    Attributes:
        during: number of the run in whose time it fell, -1 for between or outside runs.
        same_as: id of a finding with the same name or address, "" without one.
    """

    layer: str
    src: str
    dst: str
    dst_port: int
    name: str
    first_unix_s: float
    frames: int
    during: int
    same_as: str


class Upstream(Record):
    """The upstream capture against the drill.

    Attributes:
        during_runs: flows that fell into a cut-off run: nothing of the workload could have caused them through
            the sandbox, so they come from the rest of the machine, its kernel, firmware or controllers.
        escaped: flows with the sandbox's own addresses, which must never be seen upstream.
    """

    file: str
    frames: int
    covers_runs: int
    runs: int
    flows: tuple[UpstreamFlow, ...]
    during_runs: int
    escaped: int
    left_out: int


def correlate(path: Path, runs: list[RunRecord], findings: tuple[Finding, ...]) -> Upstream:
    """Flows of an upstream capture, each with the run that it fell into and the finding that it resembles."""
    book = FlowBook(lambda _: "")
    sources: dict[int, str] = {}
    count = 0
    first, last = float("inf"), 0.0
    for at_s, frame in read_pcap(path):
        count += 1
        first, last = min(first, at_s), max(last, at_s)
        packet = frames.parse_frame(frame)
        added = book.add(packet, at_s)
        if added and added[1]:
            sources[added[0].id] = packet.src
    spans = {run.index: (_began(run), _began(run) + run.wall_s) for run in runs if _began(run)}
    rows = [
        UpstreamFlow(
            layer=flow.layer, src=sources.get(flow.id, ""), dst=flow.dst, dst_port=flow.dst_port,
            name=flow.name or flow.server_name or flow.host, first_unix_s=flow.first_s, frames=flow.frames,
            during=_during(flow.first_s, flow.last_s, spans),
            same_as=_same(flow.name or flow.server_name, flow.dst, findings),
        ) for flow in book.flows
    ]  # fmt: skip
    covered = sum(1 for start, end in spans.values() if first <= end and last >= start)
    return Upstream(
        file=path.name, frames=count, covers_runs=covered, runs=len(spans), flows=tuple(rows[:_MOST_ROWS]),
        during_runs=sum(row.during >= 0 for row in rows),
        escaped=sum(row.src in (HOST_V4, HOST_V6) for row in rows),
        left_out=max(len(rows) - _MOST_ROWS, 0) + book.left_out,
    )  # fmt: skip


def _began(run: RunRecord) -> float:
    return float(run.facts.get("began_unix_s", 0.0))


def _during(first_s: float, last_s: float, spans: dict[int, tuple[float, float]]) -> int:
    for index, (start, end) in spans.items():
        if first_s <= end + _SLACK_S and last_s >= start - _SLACK_S:
            return index
    return -1


def _same(name: str, address: str, findings: tuple[Finding, ...]) -> str:
    for finding in findings:
        bare = finding.destination.rpartition(":")[0] or finding.destination
        if bare in (name, address) or finding.destination == name:
            return finding.id
    return ""
