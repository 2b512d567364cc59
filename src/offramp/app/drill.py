"""offramp drill: does the stack phone home, or stop, when it is cut off."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from offramp import __version__
from offramp.core.errors import InputError
from offramp.core.result import Column, Notice, Result, Table, table_of
from offramp.core.result import hash_inputs as hash_parts
from offramp.drill import advisories, bundle, correlate, effects, inventory, sbom, verdicts
from offramp.drill.campaign import Campaign, assess_effects, workload_digest
from offramp.drill.endpoints import load_endpoints
from offramp.drill.findings import Finding, gather
from offramp.drill.pcap import read_pcap
from offramp.drill.records import RunRecord
from offramp.drill.schedule import load_profiles, make_schedule
from offramp.drill.workload import Workload, check, decode, from_command, load

DISCLAIMER = (
    "A drill reports what it observed and what it did not observe under the stated conditions. It is not evidence that "
    "nothing else is there; the blind spots name where it cannot look."
)
MISSED_EXIT = 6


def drill(
    target: tuple[str, ...], *, profile: str = "quick", out: str | None = None, seed: int = 0,
    overrides: tuple[str, ...] = (), advisory_paths: tuple[str, ...] = (), pcap: str = "", previous: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Result:  # fmt: skip
    """The Result of a drill, or of the replay of an earlier one.

    Args:
        target: a command; or one word that names a workload file (.toml) or a bundle's folder.
        profile: quick, standard or soak.
        out: folder of the evidence bundle; a fresh one below the temporary directory by default.
        seed: of the order of runs, the canaries' targets and the bootstrap.
        overrides: "path=value" settings of the workload.
        advisory_paths: folders or files of OSV or CSAF documents.
        pcap: capture of an upstream tap.
        previous: an earlier bundle to compare with.
        progress: told one line per run.

    Raises:
        InputError: nothing to start, a broken file, a folder that holds another drill.
        BackendError: this machine cannot build a sandbox at all.
    """
    if not target:
        raise InputError(
            "nothing to drill", where="drill", mend="offramp drill -- COMMAND, or offramp drill FILE.toml."
        )
    if len(target) == 1 and Path(target[0]).is_dir():
        return replay(Path(target[0]))
    workload = _workload(target, overrides)
    settings = load_profiles()[profile]
    make_schedule(workload, settings, seed)
    extras = _Extras(advisory_paths, pcap, previous)
    folder = _folder(out, workload)
    campaign = Campaign(workload, settings, folder, seed, progress)
    runs = campaign.run()
    if campaign.left_out:
        (folder / "left-out.json").write_text(json.dumps(campaign.left_out))
    result = _conclude(workload, runs, folder, profile=profile, seed=seed, extras=extras, switches=campaign.switches())
    digest = bundle.write_manifest(folder, seed=seed, profile=profile, version=__version__)
    answer = result.answer | {"bundle": {"folder": str(folder), "manifest_sha256": digest}}
    return msgspec.structs.replace(result, answer=answer)


class _Extras:
    """What the user gave beside the workload."""

    def __init__(self, advisory_paths: tuple[str, ...], pcap: str, previous: str) -> None:
        self.advisories = tuple(Path(path) for path in advisory_paths)
        self.pcap = Path(pcap) if pcap else None
        self.previous = Path(previous) if previous else None
        for path in (*self.advisories, *([self.pcap] if self.pcap else [])):
            if not path.exists():
                raise InputError("no such file or folder", where=str(path))
        if self.previous:
            bundle.read_manifest(self.previous)
        if self.pcap:
            next(iter(read_pcap(self.pcap)), None)
        advisories.check(self.advisories)


def _plain(value: Any) -> Any:
    """Records as dicts and lists, exactly as the JSON of a Result has them."""
    return json.loads(msgspec.json.encode(value))


def _workload(target: tuple[str, ...], overrides: tuple[str, ...]) -> Workload:
    if len(target) == 1 and target[0].endswith(".toml"):
        workload, where = load(Path(target[0])), Path(target[0]).name
    else:
        workload, where = from_command(target), "command"
    if overrides:
        raw: dict[str, Any] = _plain(workload)
        for text in overrides:
            _override(raw, text)
        raw = {key: value for key, value in raw.items() if value is not None}
        workload = decode(raw, where=where, base=Path(workload.cwd))
    return check(workload, where=where)


def _override(raw: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        raise InputError(f'"{text}" is not PATH=VALUE', where="--set", mend="Write for example limits.run_s=30.")
    *steps, last = path.split(".")
    place = raw
    for step in steps:
        if place.get(step) is None:
            place[step] = {}
        place = place[step]
        if not isinstance(place, dict):
            raise InputError(f'"{step}" holds no settings', where=f"--set {text}")
    try:
        place[last] = json.loads(value)
    except ValueError:
        place[last] = value


def _folder(out: str | None, workload: Workload) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="offramp-drill-"))
    folder = Path(out).resolve()
    mark = folder / "workload.json"
    if mark.is_file():
        old = bundle.load_workload(folder)
        if workload_digest(old) != workload_digest(workload):
            raise InputError("holds the drill of another workload", where=str(folder), mend="Give an empty folder.")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError("is not empty", where=str(folder), mend="Give an empty folder, or one of a broken-off drill.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_bytes(msgspec.json.format(msgspec.json.encode(workload), indent=1))
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(folder)) from None
    return folder


def _conclude(
    workload: Workload, runs: list[RunRecord], folder: Path, *, profile: str, seed: int, extras: _Extras,
    switches: dict[str, str],
) -> Result:  # fmt: skip
    (folder / "workload.json").write_bytes(msgspec.json.format(msgspec.json.encode(workload), indent=1))
    left_out = _left_out(folder)
    answer, findings = _analyse(workload, runs, profile=profile, seed=seed, switches=switches, left_out=left_out)
    stock = inventory.take(runs)
    found, feeds = advisories.match(stock, extras.advisories)
    answer["inventory"] = _inventory_answer(stock, found, feeds)
    if extras.pcap:
        answer["upstream"] = _plain(correlate.correlate(extras.pcap, runs, findings))
    if extras.previous:
        answer["difference"] = _plain(bundle.compare(extras.previous, answer, stock))
    (folder / "inventory.json").write_bytes(msgspec.json.format(msgspec.json.encode(stock), indent=1))
    bill = sbom.cyclonedx(stock, name=workload.name, when=dt.datetime.now(dt.UTC))
    (folder / "sbom.cdx.json").write_text(json.dumps(bill, indent=1))
    result = _result(answer, runs, workload, seed)
    (folder / "result.json").write_text(result.to_json())
    return result


def _analyse(
    workload: Workload, runs: list[RunRecord], *, profile: str, seed: int, switches: dict[str, str], left_out: int
) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """The verdicts: a function of the runs' records alone, so that a replay gives the same."""
    findings = gather(runs, workload.allow)
    classes = verdicts.judge_classes(runs, findings)
    timers, longest = verdicts.judge_timers(runs)
    changes = assess_effects(runs, workload, seed)
    dependency = _dependency(runs, findings, switches)
    plain = _plain
    return {
        "workload": {"name": workload.name, "command": list(workload.start), "cwd": workload.cwd},
        "profile": profile,
        "headline": _headline(findings, classes, changes, runs),
        "findings": plain(findings), "classes": plain(classes), "effects": plain(changes),
        "dependencies": [plain(dependency)] if dependency else [],
        "timers": {"longest_covered_s": round(longest, 1), "known": plain(timers)},
        "runs": [_run_answer(run) for run in runs],
        "overhead": _overhead(runs),
        "lost_coverage": plain(verdicts.lost_coverage(runs, left_out)),
        "blind_spots": [{"where": where, "why": why} for where, why in verdicts.BLIND_SPOTS],
        "missed_canary": verdicts.has_missed_canary(classes),
    }, findings  # fmt: skip


def _left_out(folder: Path) -> int:
    """How many repeats the drill left out for lack of time."""
    path = folder / "left-out.json"
    return int(json.loads(path.read_text())) if path.is_file() else 0


def _dependency(
    runs: list[RunRecord], findings: tuple[Finding, ...], switches: dict[str, str]
) -> effects.Dependency | None:
    tcp = [f for f in findings if f.channel in ("tcp", "dns")]
    names = tuple(dict.fromkeys(f.documented or f.destination for f in tcp))
    return effects.find_dependency(runs, endpoints=names, switch=switches)


def _headline(
    findings: tuple[Finding, ...], classes: tuple[verdicts.ClassVerdict, ...], changes: list[effects.Effect],
    runs: list[RunRecord],
) -> str:  # fmt: skip
    unknown = sum(1 for f in findings if not f.documented and not f.accepted)
    known = len(findings) - unknown
    parts = [f"{unknown} undocumented and {known} documented senders OBSERVED" if findings else
             "no sender OBSERVED under the conditions and within the time of this drill"]  # fmt: skip
    for outcome in ("not-started", "never-ready", "too-many-processes", "lost"):
        count = sum(run.outcome == outcome for run in runs)
        if count:
            parts.append(f"{count} of {len(runs)} runs ended {outcome}")
    for verdict in ("STOPS", "CHANGES OUTPUT", "DEGRADES"):
        names = [change.condition for change in changes if verdict in change.verdicts]
        if names:
            parts.append(f"{verdict} under {', '.join(names)}")
    gaps = [item.kind for item in classes if item.verdict == "NOT ASSESSED"]
    if gaps:
        parts.append(f"NOT ASSESSED: {', '.join(gaps)}")
    return "; ".join(parts)


def _overhead(runs: list[RunRecord]) -> dict[str, float | None]:
    """How much slower attributed runs were than timed ones under accept, by metric; 1 is no difference."""
    out: dict[str, float | None] = {}
    for metric, (_, worse) in effects.METRICS.items():
        means: list[float] = []
        for watching in ("calls", "odd"):
            mine = [run for run in runs if run.condition.id == "accept" and run.condition.watching == watching]
            values = [value for run in mine if (value := effects.metrics(run).get(metric))]
            means += [sum(values) / len(values)] if values else []
        if len(means) == 2:
            out[metric] = round(means[0] / means[1] if worse > 0 else means[1] / means[0], 3)
    return out


def _run_answer(run: RunRecord) -> dict[str, Any]:
    canaries = [canary for canary in run.canaries if canary.expected]
    return {
        "index": run.index, "condition": run.condition.id, "watching": run.condition.watching, "repeat": run.repeat,
        "outcome": run.outcome, "note": run.note, "exit_code": run.exit_code, "ready_s": run.ready_s,
        "wall_s": round(run.wall_s, 3), "virtual_s": round(run.watched_virtual_s, 1), "left_running": run.left_running,
        "flows": sum(1 for flow in run.flows if not flow.canary), "requests": len(run.replies),
        "canaries_caught": sum(canary.seen for canary in canaries), "canaries_expected": len(canaries),
        **effects.metrics(run),
    }  # fmt: skip


def _inventory_answer(
    stock: inventory.Inventory, found: tuple[advisories.Vulnerability, ...], feeds: tuple[advisories.Feed, ...]
) -> dict[str, Any]:
    hosts = sorted({host for file in stock.files for host in file.hosts})
    return {
        "kernel": stock.kernel, "os": stock.os_name, "machine": stock.machine, "files": len(stock.files),
        "files_with_network_symbols": sum(bool(file.symbols) for file in stock.files),
        "embedded_hosts": hosts[:200], "unowned_files": [file.path for file in stock.files if not file.owner][:200],
        "packages": len(stock.packages), "packages_mapped": sum(package.mapped for package in stock.packages),
        "kernel_modules": len(stock.modules), "firmware_files": len(stock.firmware), "vendors": list(stock.vendors),
        "tools": {name: bool(text) for name, text in stock.tools.items()}, "notes": list(stock.notes),
        "vulnerabilities": _plain(found), "feeds": _plain(feeds),
    }  # fmt: skip


def _result(answer: dict[str, Any], runs: list[RunRecord], workload: Workload, seed: int) -> Result:
    notices = [Notice(kind="lost-coverage", text=f"{item['why']}; {item['effect']}", where=item["what"])
               for item in answer["lost_coverage"]]  # fmt: skip
    notices += [Notice(kind="not-assessed", text=item["reason"], where=f"class {item['class']}")
                for item in answer["classes"] if item["verdict"] == "NOT ASSESSED"]  # fmt: skip
    notices.append(Notice(kind="blind-spots", text=", ".join(spot["where"] for spot in answer["blind_spots"]),
                          where="not seen by any drill of this kind"))  # fmt: skip
    return Result(
        command="drill", answer=answer, tables=_tables(answer), seed=seed, warnings=tuple(notices),
        inputs_hash=hash_parts({"workload": msgspec.json.encode(workload), "runs": len(runs), "seed": seed}),
        data_version=load_endpoints().as_of.isoformat(), knowledge_horizon=load_endpoints().as_of,
        status="partial" if answer["missed_canary"] or any(run.outcome == "lost" for run in runs) else "ok",
        disclaimer=DISCLAIMER, offramp_version=__version__,
    )  # fmt: skip


def _tables(answer: dict[str, Any]) -> dict[str, Table]:
    findings = [
        {"id": f["id"], "class": f["class"], "classes": " ".join(f["classes"]), "channel": f["channel"],
         "destination": f["destination"], "documented": f["documented"] or f["accepted"] or "no",
         "process": (f["process"] or {}).get("exe", "unknown"), "owner": (f["process"] or {}).get("owner", ""),
         "conditions": " ".join(f["conditions"]), "flows": f["flows"], "size_bytes": f["size_bytes"],
         "period_s": f["period_s"]}
        for f in answer["findings"]
    ]  # fmt: skip
    names = (
        "id",
        "class",
        "classes",
        "channel",
        "destination",
        "documented",
        "process",
        "owner",
        "conditions",
        "flows",
    )
    columns = [*names, Column(name="size_bytes", unit="bytes"), Column(name="period_s", unit="s")]
    changes = [
        {"condition": e["condition"], "against": e["against"], **c} for e in answer["effects"] for c in e["changes"]
    ]
    runs = ("index", "condition", "watching", "outcome", "exit_code", "ready_s", "wall_s", "virtual_s", "flows")
    return {
        "findings": table_of(findings, columns=columns, title="Senders observed"),
        "classes": table_of(
            [{**c, "conditions": " ".join(c["conditions"])} for c in answer["classes"]],
            columns=("class", "verdict", "canaries", "named", "conditions", "reason"), title="Verdict by class"),
        "effects": table_of(changes, columns=("condition", "against", "metric", "unit", "reference", "value", "ratio",
                                              "low", "high", "runs", "reference_runs"), title="Measured changes"),
        "runs": table_of(answer["runs"], columns=runs, title="Runs"),
    }  # fmt: skip


def replay(folder: Path) -> Result:
    """A bundle checked file by file and judged anew from its own records; says whether the verdicts are the same."""
    manifest, digest = bundle.read_manifest(folder)
    wrong = bundle.verify(folder, manifest)
    runs, workload = bundle.load_runs(folder), bundle.load_workload(folder)
    captures = bundle.check_captures(folder, runs)
    try:
        said = json.loads((folder / "result.json").read_text())["answer"]
    except (OSError, ValueError, KeyError):
        raise InputError("holds no result.json", where=str(folder)) from None
    switches = {
        k: v for run in runs if run.condition.id == "switched-off" for k, v in run.condition.environment.items()
    }
    answer, _ = _analyse(workload, runs, profile=manifest.profile, seed=manifest.seed, switches=switches,
                         left_out=_left_out(folder))  # fmt: skip
    judged = json.loads(msgspec.json.encode(answer))
    same = [key for key in judged if judged[key] == said.get(key)]
    answer |= {key: value for key, value in said.items() if key not in answer}
    answer["replay"] = {
        "files_wrong": list(wrong), "captures_wrong": list(captures), "parts_equal": same,
        "parts_different": [key for key in judged if key not in same],
    }  # fmt: skip
    answer["bundle"] = {"folder": str(folder), "manifest_sha256": digest}
    return _result(answer, runs, workload, manifest.seed)


def exit_code(result: Result) -> int:
    """0; 6 when a canary was missed or a replayed bundle is not what its manifest says."""
    answer = result.answer
    again = answer.get("replay", {})
    broken = again.get("files_wrong") or again.get("captures_wrong") or again.get("parts_different")
    return MISSED_EXIT if answer["missed_canary"] or broken else 0
