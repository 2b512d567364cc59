"""From the records of all runs to findings: who tried to reach whom, how, and under which conditions only."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import msgspec

from offramp.core.record import Record
from offramp.drill.endpoints import Endpoint, match_endpoint
from offramp.drill.names import looks_like_tunnel
from offramp.drill.records import Call, Condition, Flow, Process, PythonStack, RunRecord

_MANY_NAMES: Final = 8
"""Different names below one parent, by one process, that together look like a tunnel."""
_CHUNK_LABEL: Final = 12
_SOME_CHUNKS: Final = 4
_STACK_WINDOW_S: Final = 3.0
_DAY_S: Final = 86400
_SITE_PACKAGE: Final = re.compile(r"/(?:site|dist)-packages/([^/:]+)")
_CALL_CLASSES: Final = {
    "unix": "unix-broker", "vsock": "vsock", "packet": "raw-frame", "raw": "raw-socket", "namespace": "setns",
    "xdp": "raw-frame",
}  # fmt: skip
_PRIORITY: Final = (
    "date-bomb", "uptime-bomb", "delayed", "only-if-online", "dns-tunnel", "icmp-payload", "raw-frame", "unix-broker",
    "vsock", "setns", "io-uring", "int-0x80", "double-fork", "static-raw-syscalls", "raw-socket", "plain-socket",
)  # fmt: skip


MEANINGS: Final = {
    "plain-socket": "reaches out through an ordinary socket",
    "double-fork": "sends from a process that left its parent",
    "static-raw-syscalls": "sends from a static image, past any library", "dns-tunnel": "carries data in DNS names",
    "io-uring": "sends through a ring, without a send call", "icmp-payload": "sends ICMP with data",
    "raw-frame": "sends frames past the IP stack", "unix-broker": "talks to a process outside over a unix socket",
    "int-0x80": "sends through the 32-bit entry", "date-bomb": "speaks only on another date",
    "uptime-bomb": "speaks only after long uptime", "only-if-online": "speaks only when it seems to be online",
    "delayed": "speaks only after some time", "vsock": "asks for a socket to the hypervisor",
    "setns": "asks to enter another namespace", "raw-socket": "asks for a raw socket",
}  # fmt: skip
"""What each class says about a sender; many a harmless update check speaks only on another date."""


class Sender(Record):
    """The process behind a finding."""

    exe: str
    exe_hash: str
    command: tuple[str, ...]
    linkage: str
    owner: str
    lineage: tuple[str, ...]
    detached: bool


class Finding(Record):
    """One sender towards one destination.

    Attributes:
        id: stable over runs and drills: digest of process, channel and destination.
        kind: the most telling of ``classes``; "class" in JSON.
        meaning: what that class says, in words; it is about behaviour, not about intent.
        classes: every class that it belongs to.
        channel: tcp, udp, dns, icmp, raw, unix, vsock ...
        destination: name or address (with port), path, MAC.
        documented: id of the documented endpoint, "" where there is none.
        switch: how to turn a documented one off.
        accepted: the user's reason for accepting it, "" without one.
        sent: whether bytes left towards the destination (a refused connection has only tried).
        conditions: where it was seen; ``silent_in`` where the same was possible and it was not.
        period_s: median virtual time between repetitions, 0 where it was not repeated.
        matched_by: how the process was found.
        python_packages: top-level packages of the frames, innermost first.
    """

    id: str
    kind: str = msgspec.field(name="class")
    meaning: str
    classes: tuple[str, ...]
    channel: str
    destination: str
    verdict: str = "OBSERVED"
    documented: str = ""
    endpoint: str = ""
    switch: str = ""
    accepted: str = ""
    process: Sender | None = None
    python_frames: tuple[str, ...] = ()
    python_packages: tuple[str, ...] = ()
    sent: bool = False
    first_s: float = 0.0
    flows: int = 0
    size_bytes: int = 0
    head_hex: str = ""
    server_name: str = ""
    request: str = ""
    peer: str = ""
    names: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    silent_in: tuple[str, ...] = ()
    period_s: float = 0.0
    matched_by: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass
class _Group:
    """Everything that belongs to one finding while it is gathered."""

    channel: str
    destination: str
    image: Process | None
    classes: set[str] = field(default_factory=set)
    flows: list[tuple[RunRecord, Flow]] = field(default_factory=list)
    calls: list[tuple[RunRecord, Call]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    runs: list[RunRecord] = field(default_factory=list)


def identity(image: Process | None) -> str:
    """What makes two processes of different runs the same sender."""
    if image is None:
        return "?"
    return image.linkage if image.linkage.startswith("script:") else image.exe


def gather(runs: Iterable[RunRecord], allow: dict[str, str]) -> tuple[Finding, ...]:
    """Every finding of a drill, undocumented ones first."""
    all_runs = [run for run in runs if run.outcome not in ("lost", "not-started")]
    groups: dict[tuple[str, str, str], _Group] = {}
    for run in all_runs:
        images = {image.key: image for image in run.processes}
        _add_flows(groups, run, images)
        _add_calls(groups, run, images)
    _adopt_orphans(groups)
    _join_lookups(groups)
    found = [_finish(group, all_runs, allow) for group in groups.values()]
    return tuple(
        sorted(found, key=lambda f: (bool(f.documented or f.accepted), _PRIORITY.index(f.kind), f.destination))
    )


def _add_flows(groups: dict[tuple[str, str, str], _Group], run: RunRecord, images: dict[str, Process]) -> None:
    per_parent: dict[tuple[str, str], set[str]] = defaultdict(set)
    mine = [flow for flow in run.flows if not flow.canary]
    for flow in mine:
        if flow.layer == "dns":
            per_parent[flow.process, ".".join(flow.name.split(".")[-2:])].add(flow.name)
    for flow in mine:
        image = images.get(flow.process)
        channel, destination, name = flow.layer, _destination(flow), ""
        if flow.layer == "dns":
            parent = ".".join(flow.name.split(".")[-2:])
            tunnel = looks_like_tunnel(flow.name) or _is_series(per_parent[flow.process, parent])
            channel, destination, name = ("dns-tunnel", parent, flow.name) if tunnel else ("dns", flow.name, flow.name)
        group = _group(groups, channel, destination, image)
        group.classes |= _flow_classes(channel, image, run, flow)
        group.flows.append((run, flow))
        group.runs.append(run)
        if name:
            group.names.add(name)
        for call in _other_senders(run, flow):
            other = images.get(call.process)
            twin = _group(groups, channel, destination, other)
            twin.classes |= _flow_classes(channel, other, run, flow)
            twin.calls.append((run, call))
            twin.runs.append(run)


def _other_senders(run: RunRecord, flow: Flow) -> list[Call]:
    """Calls of other processes that the same portless flow may hold as well (two programs, one address)."""
    if flow.layer not in ("icmp", "icmp6", "ip"):
        return []
    kinds = ("dgram",) if flow.matched_by == "socket" else ("raw", "dgram")
    return [call for call in run.calls if call.dst == flow.dst and call.sent and not call.canary
            and call.process != flow.process and call.kind in kinds and call.dst_port == 0]  # fmt: skip


def _is_series(names: set[str]) -> bool:
    """Whether names below one parent look like chunks: many, or several with a long label each."""
    long = [name for name in names if max(map(len, name.split(".")[:-2]), default=0) >= _CHUNK_LABEL]
    return len(names) >= _MANY_NAMES or len(long) >= _SOME_CHUNKS


def _group(groups: dict[tuple[str, str, str], _Group], channel: str, destination: str, image: Process | None) -> _Group:
    key = (identity(image), channel, destination)
    if key not in groups:
        groups[key] = _Group(channel, destination, image)
    return groups[key]


def _destination(flow: Flow) -> str:
    if flow.layer in ("tcp", "udp"):
        host = flow.name or (f"[{flow.dst}]" if ":" in flow.dst else flow.dst)
        return f"{host}:{flow.dst_port}"
    if flow.layer in ("raw", "arp"):
        return f"{flow.dst} ethertype 0x{flow.dst_port:04x}"
    return f"{flow.dst} protocol {flow.dst_port}" if flow.layer == "ip" else flow.dst


def _flow_classes(channel: str, image: Process | None, run: RunRecord, flow: Flow) -> set[str]:
    out = {
        {"dns-tunnel": "dns-tunnel", "icmp": "icmp-payload", "icmp6": "icmp-payload", "raw": "raw-frame",
         "arp": "raw-frame", "ip": "raw-frame"}.get(channel, "plain-socket")
    }  # fmt: skip
    calls = {call.id: call for call in run.calls}
    if flow.call in calls and calls[flow.call].entry == "int-0x80":
        out.add("int-0x80")
    holds_ring = any(call.family == "io_uring" and call.process == flow.process for call in run.calls)
    if flow.process and holds_ring and flow.matched_by != "socket":
        out.add("io-uring")
    return out | _image_classes(image)


def _image_classes(image: Process | None) -> set[str]:
    out: set[str] = set()
    if image and image.linkage == "static":
        out.add("static-raw-syscalls")
    if image and image.detached:
        out.add("double-fork")
    return out


def _add_calls(groups: dict[tuple[str, str, str], _Group], run: RunRecord, images: dict[str, Process]) -> None:
    """Calls that a frame need not follow: sockets outside, refused families, raw sockets."""
    for call in run.calls:
        kind = _CALL_CLASSES.get(call.family)
        if kind is None or call.canary:
            continue
        image = images.get(call.process)
        if call.name == "socket" and call.decision == "allowed" and _has_frames(run, call):
            continue
        channel, destination = _call_destination(call)
        group = _group(groups, channel, destination, image)
        group.classes |= {kind} | _image_classes(image) | ({"int-0x80"} if call.entry == "int-0x80" else set[str]())
        group.calls.append((run, call))
        group.runs.append(run)


def _call_destination(call: Call) -> tuple[str, str]:
    """Channel and destination of a call; a raw frame's are read from its own first bytes."""
    if call.family == "packet" and len(call.head_hex) >= 28:
        mac = bytes.fromhex(call.head_hex[:12]).hex(":")
        return "raw", f"{mac} ethertype 0x{call.head_hex[24:28]}"
    plain = {"packet": "a raw packet socket", "raw": "a raw IP socket"}
    return call.family, call.dst or plain.get(call.family, call.family)


def _has_frames(run: RunRecord, call: Call) -> bool:
    """Whether a process that opened a raw socket is known to have sent something through one."""
    sent = any(
        flow.process == call.process and flow.layer in ("icmp", "icmp6", "ip", "raw", "arp") for flow in run.flows
    )
    return sent or any(other.process == call.process and other.sent and other.family == "packet" for other in run.calls)


def _adopt_orphans(groups: dict[tuple[str, str, str], _Group]) -> None:
    """What a run without attribution could not name goes to the sender that another run named."""
    for key in [key for key in groups if key[0] == "?"]:
        owners = [other for other in groups if other[0] != "?" and other[1:] == key[1:]]
        if len(owners) == 1:
            orphan, owner = groups.pop(key), groups[owners[0]]
            owner.flows += orphan.flows
            owner.runs += orphan.runs
            owner.names |= orphan.names
            owner.classes |= orphan.classes


def _join_lookups(groups: dict[tuple[str, str, str], _Group]) -> None:
    """A name look-up belongs to the connection that follows it."""
    for key in [key for key in groups if key[1] == "dns"]:
        who, _, name = key
        users = [other for other in groups if other[0] == who and other[1] in ("tcp", "udp")
                 and other[2].rpartition(":")[0] == name]  # fmt: skip
        if users:
            group = groups.pop(key)
            groups[users[0]].runs += group.runs
            groups[users[0]].names |= group.names


def _finish(group: _Group, runs: list[RunRecord], allow: dict[str, str]) -> Finding:
    seen = {run.condition.id for run in group.runs}
    attributed = [run for run in runs if run.condition.watching == "calls"]
    silent = {run.condition.id for run in attributed} - seen
    classes = group.classes | _trigger_classes(group, attributed)
    frames = _frames(group)
    image = group.image
    bare = group.destination.rpartition(":")[0].strip("[]") if group.channel in ("tcp", "udp") else group.destination
    context = " ".join([*(image.command + image.lineage if image else ()), *frames, image.owner if image else ""])
    endpoint = match_endpoint(bare, context=context)
    accepted = next((why for glob, why in allow.items() if fnmatch.fnmatch(bare, glob)), "")
    kind = next((name for name in _PRIORITY if name in classes), "plain-socket")
    flows = [flow for _, flow in group.flows]
    return Finding(
        id=_finding_id(identity(image), group.channel, group.destination), kind=kind,
        meaning=MEANINGS[kind], classes=tuple(sorted(classes)),
        channel=group.channel, destination=group.destination, accepted=accepted, process=_sender(image),
        python_frames=frames, python_packages=_packages(frames),
        sent=any(flow.layer != "tcp" or flow.size_bytes > 0 for flow in flows),
        first_s=min([flow.first_s for flow in flows] + [call.at_s for _, call in group.calls], default=0.0),
        flows=len(flows), size_bytes=sum(flow.size_bytes for flow in flows),
        head_hex=next((flow.head_hex for flow in flows if flow.head_hex), ""),
        server_name=next((flow.server_name for flow in flows if flow.server_name), ""),
        request=next((flow.request for flow in flows if flow.request), ""),
        peer=next((call.peer for _, call in group.calls if call.peer), ""), names=tuple(sorted(group.names)[:20]),
        conditions=tuple(sorted(seen)), silent_in=tuple(sorted(silent)), period_s=_period(group),
        matched_by=tuple(sorted({flow.matched_by for flow in flows if flow.matched_by} or {"call"})),
        evidence=_evidence(group), **_documentation(endpoint),
    )  # fmt: skip


def _documentation(endpoint: Endpoint | None) -> dict[str, str]:
    if endpoint is None:
        return {"documented": "", "endpoint": "", "switch": ""}
    return {"documented": endpoint.id, "endpoint": endpoint.name, "switch": endpoint.switch}


def _sender(image: Process | None) -> Sender | None:
    if image is None:
        return None
    return Sender(exe=image.exe, exe_hash=image.exe_hash, command=image.command, linkage=image.linkage,
                  owner=image.owner, lineage=image.lineage, detached=image.detached)  # fmt: skip


def _finding_id(who: str, channel: str, destination: str) -> str:
    return hashlib.blake2b(f"{who}\x1f{channel}\x1f{destination}".encode(), digest_size=5).hexdigest()


def _is_plain(condition: Condition) -> bool:
    """A condition that moves no clock."""
    return not condition.real_shift_s and not condition.uptime_shift_s and condition.rate == 1


def _trigger_classes(group: _Group, attributed: list[RunRecord]) -> set[str]:
    """Which single circumstance makes it speak, if the runs tell."""
    seen = [run.condition for run in group.runs]
    plain = [run.condition for run in attributed if _is_plain(run.condition) and run.condition.mode == "accept"]
    if not plain:
        return set()
    if not any(_is_plain(condition) for condition in seen):
        if all(condition.real_shift_s > 0 for condition in seen):
            return {"date-bomb"}
        if all(condition.uptime_shift_s > 0 for condition in seen):
            return {"uptime-bomb"}
        if all(condition.rate != 1 for condition in seen):
            return {"delayed"}
        return {"date-bomb"} if any(condition.real_shift_s for condition in seen) else set()
    if group.channel == "unix":
        return set()
    tried = {run.condition.mode for run in attributed}
    modes = {condition.mode for condition in seen}
    by_name = any(flow.name for _, flow in group.flows)
    if ("refuse" in tried and modes == {"accept"}) or (
        {"drop", "nxdomain"} <= tried and not modes & {"drop", "nxdomain"} and not by_name
    ):
        return {"only-if-online"}
    return set()


def _frames(group: _Group) -> tuple[str, ...]:
    """Python frames of the first network call by the same process near one of its flows or calls."""
    for run, at_s, image_key in [
        *((run, flow.first_s, flow.process) for run, flow in group.flows),
        *((run, call.at_s, call.process) for run, call in group.calls),
    ]:
        images = {image.key: image for image in run.processes}
        if image_key not in images:
            continue
        stack = _nearest(run.stacks, images[image_key].inner_pid, at_s, group)
        if stack is not None:
            return stack.frames
    return ()


def _packages(frames: tuple[str, ...]) -> tuple[str, ...]:
    """Which installed packages the frames pass through: the last ones say on whose behalf."""
    found = [match.group(1).removesuffix(".py") for frame in frames if (match := _SITE_PACKAGE.search(frame))]
    return tuple(dict.fromkeys(found))


def _nearest(stacks: tuple[PythonStack, ...], pid: int, at_s: float, group: _Group) -> PythonStack | None:
    """The latest report of the process before the frame left; one that names the destination goes first."""
    mine = [s for s in stacks if s.inner_pid == pid and -_STACK_WINDOW_S <= s.at_s - at_s <= 0.05]
    bare = group.destination.rpartition(":")[0] or group.destination
    named = [s for s in mine if bare.strip("[]") in s.target or any(name in s.target for name in group.names)]
    return (named or mine or [None])[-1]


def _period(group: _Group) -> float:
    """Median virtual seconds between flows of one sped-up run, where there are at least three."""
    by_run: dict[int, list[float]] = defaultdict(list)
    rates: dict[int, float] = {}
    for run, flow in group.flows:
        by_run[run.index].append(flow.first_s)
        rates[run.index] = run.condition.rate
    best = 0.0
    for index, times in by_run.items():
        times.sort()
        gaps = [b - a for a, b in pairwise(times)]
        if len(gaps) >= 2 and rates[index] != 1:
            best = max(best, statistics.median(gaps) * rates[index])
    return round(best, 1)


def _evidence(group: _Group) -> tuple[str, ...]:
    """Where to look in the bundle."""
    out = [f"runs/{run.index:03d}: flow {flow.id}" for run, flow in group.flows]
    out += [f"runs/{run.index:03d}: call {call.id}" for run, call in group.calls]
    return tuple(out[:12])
