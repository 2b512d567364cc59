"""The evidence bundle: every file with its hash, one hash over all, checked and replayed by anyone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

import msgspec

from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.drill import frames
from offramp.drill.inventory import FileFacts, Inventory, file_hash
from offramp.drill.names import AAAA, A, parse_question
from offramp.drill.netlink import GATEWAY_MAC
from offramp.drill.pcap import read_pcap
from offramp.drill.records import RunRecord
from offramp.drill.sink import FlowBook
from offramp.drill.workload import Workload

MANIFEST: Final = "manifest.json"
NOT_EVIDENCE: Final = (MANIFEST, "report.html")
"""The manifest itself, and the page that is made from the result."""
FORMAT: Final = 1


class Manifest(Record):
    """Files of a bundle by relative path, each with its SHA-256."""

    format: int
    seed: int
    profile: str
    offramp_version: str
    files: dict[str, str]


def write_manifest(folder: Path, *, seed: int, profile: str, version: str) -> str:
    """Writes the manifest over every file of a folder and returns the manifest's own SHA-256."""
    files = {
        str(path.relative_to(folder)): file_hash(path)
        for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in NOT_EVIDENCE
    }  # fmt: skip
    manifest = Manifest(format=FORMAT, seed=seed, profile=profile, offramp_version=version, files=files)
    raw = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST).write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a bundle and its hash.

    Raises:
        InputError: there is none, or it is broken.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        return msgspec.json.decode(raw, type=Manifest), hashlib.sha256(raw).hexdigest()
    except OSError:
        raise InputError("is not a drill's bundle: no manifest.json", where=str(folder)) from None
    except msgspec.DecodeError as error:
        raise InputError(f"broken manifest: {error}", where=str(path)) from None


def verify(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """What is wrong with the files of a bundle; empty when each is as the manifest says."""
    wrong: list[str] = []
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            wrong.append(f"{name}: lies outside the bundle")
        elif not path.is_file():
            wrong.append(f"{name}: missing")
        elif file_hash(path) != digest:
            wrong.append(f"{name}: changed")
    present = {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name not in NOT_EVIDENCE
    }
    return tuple(wrong + [f"{name}: not in the manifest" for name in sorted(present - set(manifest.files))])


def load_runs(folder: Path) -> list[RunRecord]:
    """The records of a bundle's runs."""
    out: list[RunRecord] = []
    for path in sorted(folder.glob("runs/*/run.json")):
        try:
            out.append(msgspec.json.decode(path.read_bytes(), type=RunRecord))
        except msgspec.DecodeError as error:
            raise InputError(f"broken run record: {error}", where=str(path)) from None
    if not out:
        raise InputError("holds no runs", where=str(folder))
    return sorted(out, key=lambda run: run.index)


def load_workload(folder: Path) -> Workload:
    """The workload that a bundle was made with."""
    try:
        return msgspec.json.decode((folder / "workload.json").read_bytes(), type=Workload)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"broken workload.json: {error}", where=str(folder)) from None


def load_inventory(folder: Path) -> Inventory | None:
    """The inventory of a bundle."""
    path = folder / "inventory.json"
    return msgspec.json.decode(path.read_bytes(), type=Inventory) if path.is_file() else None


def flows_of_pcap(path: Path) -> set[tuple[str, str, int, str]]:
    """Layer, destination, port and name of every flow in a tap's capture, parsed anew."""
    names: dict[str, str] = {}
    book = FlowBook(lambda address: names.get(address, ""))
    for at_s, frame in read_pcap(path):
        if frame[6:12] == GATEWAY_MAC:
            _learn(names, frame)
            continue
        book.add(frames.parse_frame(frame), at_s)
    return {(flow.layer, flow.dst, flow.dst_port, flow.name) for flow in book.flows}


def _learn(names: dict[str, str], frame: bytes) -> None:
    """Takes the sink's own answers as the key from addresses to names."""
    import socket

    packet = frames.parse_frame(frame)
    if packet.layer != "udp" or packet.sport != 53 or len(packet.payload) < 12:
        return
    question = parse_question(packet.payload[:2] + b"\1\0" + packet.payload[4:])
    if question is None or question.kind not in (A, AAAA) or packet.payload[7] != 1:
        return
    size = 4 if question.kind == A else 16
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    names.setdefault(socket.inet_ntop(family, packet.payload[-size:]), question.name)


def check_captures(folder: Path, runs: list[RunRecord]) -> tuple[str, ...]:
    """Runs whose capture, parsed anew, does not hold the flows that the record says."""
    wrong: list[str] = []
    for run in runs:
        path = folder / "runs" / f"{run.index:03d}" / "tap.pcap"
        if not path.is_file() or not run.flows:
            continue
        again = flows_of_pcap(path)
        said = {(flow.layer, flow.dst, flow.dst_port, flow.name) for flow in run.flows}
        if said - again:
            wrong.append(f"run {run.index}: {len(said - again)} recorded flows are not in the capture")
    return tuple(wrong)


class Difference(Record):
    """What changed between two drills."""

    findings_new: tuple[str, ...]
    findings_gone: tuple[str, ...]
    effects_changed: tuple[str, ...]
    files_changed: tuple[str, ...]
    files_new: tuple[str, ...]
    files_gone: tuple[str, ...]
    packages_changed: tuple[str, ...]
    system_changed: tuple[str, ...]


def compare(before: Path, answer: dict, inventory: Inventory) -> Difference:
    """The difference from an earlier bundle."""
    read_manifest(before)
    try:
        old = json.loads((before / "result.json").read_text())["answer"]
    except (OSError, ValueError, KeyError):
        raise InputError("holds no result.json", where=str(before)) from None
    old_inventory = load_inventory(before)
    was = {finding["id"]: _title(finding) for finding in old["findings"]}
    now = {finding["id"]: _title(finding) for finding in answer["findings"]}
    effects_was = {effect["condition"]: effect["verdicts"] for effect in old["effects"]}
    changed = [f"{e['condition']}: {', '.join(effects_was[e['condition']])} -> {', '.join(e['verdicts'])}"
               for e in answer["effects"] if e["condition"] in effects_was
               and list(effects_was[e["condition"]]) != list(e["verdicts"])]  # fmt: skip
    files = _files(old_inventory) if old_inventory else {}
    fresh = _files(inventory)
    return Difference(
        findings_new=tuple(now[key] for key in now if key not in was),
        findings_gone=tuple(was[key] for key in was if key not in now), effects_changed=tuple(changed),
        files_changed=tuple(path for path in fresh if path in files and fresh[path] != files[path]),
        files_new=tuple(path for path in fresh if path not in files),
        files_gone=tuple(path for path in files if path not in fresh),
        packages_changed=_packages_changed(old_inventory, inventory),
        system_changed=_system_changed(old_inventory, inventory),
    )  # fmt: skip


def _title(finding: dict) -> str:
    who = (finding.get("process") or {}).get("exe", "unknown process")
    return f"{finding['class']}: {who} -> {finding['destination']}"


def _files(inventory: Inventory) -> dict[str, str]:
    everything: tuple[FileFacts, ...] = inventory.files + inventory.modules + inventory.firmware
    return {file.path: file.sha256 for file in everything}


def _packages_changed(old: Inventory | None, new: Inventory) -> tuple[str, ...]:
    was = {(p.manager, p.name): p.version for p in old.packages} if old else {}
    now = {(p.manager, p.name): p.version for p in new.packages}
    out = [f"{manager} {name} {was.get((manager, name), 'absent')} -> {version}"
           for (manager, name), version in now.items() if was.get((manager, name)) != version]  # fmt: skip
    return tuple(out + [f"{manager} {name} {version} -> absent" for (manager, name), version in was.items()
                        if (manager, name) not in now])  # fmt: skip


def _system_changed(old: Inventory | None, new: Inventory) -> tuple[str, ...]:
    if old is None:
        return ()
    out = [f"{name}: {getattr(old, name)} -> {getattr(new, name)}" for name in ("kernel", "os_name")
           if getattr(old, name) != getattr(new, name)]  # fmt: skip
    for label, a, b in (("tool", old.tools, new.tools), ("file", old.versions, new.versions)):
        out += [f"{label} {key} says something else" for key in sorted(set(a) | set(b)) if a.get(key) != b.get(key)]
    return tuple(out)
