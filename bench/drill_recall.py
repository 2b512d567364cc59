"""Recall of the drill: every planted class and build, drilled again and again, as docs/drill-recall.md shows.

Run by ``make drill-recall``. Needs root (or user namespaces); a build whose compiler is absent is listed as not built.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from offramp.drill.campaign import Campaign
from offramp.drill.canaries import CLASSES
from offramp.drill.findings import Finding, gather
from offramp.drill.schedule import load_profiles
from offramp.drill.verdicts import judge_classes
from offramp.drill.workload import Workload, check

HERE = Path(__file__).parent / "drill_plants"
CONDITIONS = ("accept", "refuse", "clock+30d", "uptime+365d", "hurried")
DAY_S = 86400


@dataclass(frozen=True, kw_only=True)
class Plant:
    """One planted program: how it is built and started, and what a drill must say about it."""

    kind: str
    build: str
    argv: tuple[str, ...]
    destination: str
    process: str
    waits: bool = True


def compile_c(folder: Path, source: str, name: str, *flags: str) -> Path | None:
    """The built program, or None without a compiler for it."""
    out = folder / name
    command = ["gcc", "-O1", "-w", *flags, str(HERE / source), "-o", str(out)]
    if not shutil.which("gcc") or subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    return out


def c_plants(folder: Path, broker: str, port: int) -> Iterator[Plant | str]:
    """Plants of plant.c, dynamic and static."""
    date, uptime = str(int(time.time()) + 20 * DAY_S), str(int(time.monotonic()) + 200 * DAY_S)
    rows = [
        ("plain-socket", "PLAIN", (), "192.0.2.10:{p}"), ("double-fork", "DOUBLE_FORK", (), "192.0.2.10:{p}"),
        ("dns-tunnel", "DNS_TUNNEL", (), "tunneled.test"), ("icmp-payload", "ICMP", (), "192.0.2.11"),
        ("raw-frame", "RAW_FRAME", (), "02:01:02:03:04:05 ethertype 0x88b6"),
        ("unix-broker", "UNIX", (broker,), broker),
        ("int-0x80", "INT_80", (), "192.0.2.10:{p}"), ("io-uring", "IO_URING", (), "192.0.2.10:{p}"),
        ("date-bomb", "DATE", (date,), "192.0.2.10:{p}"), ("uptime-bomb", "UPTIME", (uptime,), "192.0.2.10:{p}"),
        ("uptime-bomb", "UPTIME_SYSINFO", (uptime,), "192.0.2.10:{p}"),
        ("only-if-online", "ONLINE", (), "192.0.2.10:{q}"),
        ("delayed", "DELAYED", (), "192.0.2.10:{p}"), ("delayed", "DELAYED_EPOLL", (), "192.0.2.10:{p}"),
        ("delayed", "DELAYED_TIMERFD", (), "192.0.2.10:{p}"),
    ]  # fmt: skip
    for build, flags in (("C, dynamic", ()), ("C, static", ("-static",))):
        for kind, macro, extra, destination in rows:
            port += 1
            name = f"{macro.lower()}-{build[3:]}"
            path = compile_c(folder, "plant.c", name, f"-DCLASS_{macro}", *flags)
            label = build + (
                f" ({macro.lower().split('_', 1)[1]})" if "_" in macro and kind in ("delayed", "uptime-bomb") else ""
            )
            if path is None:
                yield f"{kind}, {label}"
                continue
            yield Plant(kind=kind, build=label, argv=(str(path), str(port), *extra), process=name,
                        destination=destination.format(p=port, q=port + 1000), waits=kind != "delayed")  # fmt: skip


def raw_plants(folder: Path, port: int) -> Iterator[Plant | str]:
    """Plants of raw.c: no libc at all."""
    limits = {"DATE": int(time.time()) + 20 * DAY_S, "UPTIME": int(time.monotonic()) + 200 * DAY_S}
    rows = {"plain-socket": "PLAIN", "double-fork": "DOUBLE_FORK", "date-bomb": "DATE", "uptime-bomb": "UPTIME",
            "delayed": "DELAYED"}  # fmt: skip
    for kind, macro in rows.items():
        port += 1
        name = f"raw-{macro.lower()}"
        flags = (
            "-static",
            "-nostdlib",
            "-ffreestanding",
            f"-DCLASS_{macro}",
            f"-DPORT={port}",
            f"-DLIMIT={limits.get(macro, 0)}",
        )
        path = compile_c(folder, "raw.c", name, *flags)
        if path is None:
            yield f"{kind}, raw system calls"
            continue
        yield Plant(kind=kind, build="raw system calls", argv=(str(path),), destination=f"192.0.2.10:{port}",
                    process=name, waits=kind != "delayed")  # fmt: skip


def python_plants(folder: Path, broker: str, port: int) -> Iterator[Plant]:
    """Plants of plant.py; each runs a copy of its own, so that scripts can be told apart."""
    date, uptime = str(time.time() + 20 * DAY_S), str(time.monotonic() + 200 * DAY_S)
    rows = [
        ("plain-socket", "plain", "", "192.0.2.10:{p}"), ("plain-socket", "http", "", "planted-{p}.test:{p}"),
        ("double-fork", "double-fork", "", "192.0.2.10:{p}"), ("dns-tunnel", "dns", "", "p{p}.test"),
        ("icmp-payload", "icmp", "", "192.0.2.12"),
        ("raw-frame", "raw-frame", "", "02:01:02:03:04:99 ethertype 0x88b7"),
        ("unix-broker", "unix", broker, broker), ("date-bomb", "date", date, "192.0.2.10:{p}"),
        ("uptime-bomb", "uptime", uptime, "192.0.2.10:{p}"), ("only-if-online", "online", "", "192.0.2.10:{q}"),
        ("delayed", "delayed", "", "192.0.2.10:{p}"),
    ]  # fmt: skip
    for kind, word, extra, destination in rows:
        port += 1
        script = folder / f"py-{word}.py"
        shutil.copy(HERE / "plant.py", script)
        argv = (sys.executable, "-S", str(script), word, str(port), *([extra] if extra else []))
        build = "Python (HTTP by name)" if word == "http" else "Python"
        yield Plant(kind=kind, build=build, argv=argv, process=script.name,
                    destination=destination.format(p=port, q=port + 1000), waits=kind != "delayed")  # fmt: skip


def launcher(folder: Path, plants: list[Plant]) -> Path:
    """A script that starts every plant beside the others, a few at a time, and waits for the short ones."""
    lines = ["#!/bin/sh"]
    for plant in plants:
        words = " ".join(f"'{word}'" for word in plant.argv)
        remember = 'pids="$pids $!"' if plant.waits else ""
        lines.append(f"{words} & {remember}")
        if len(lines) % 4 == 0:
            lines.append("sleep 0.1")
    path = folder / "launch.sh"
    path.write_text("\n".join([*lines, "wait $pids", "sleep 1"]) + "\n")
    path.chmod(0o755)
    return path


def is_named(finding: Finding, plant: Plant) -> bool:
    """Whether a finding names the plant's own program."""
    process = finding.process
    return process is not None and plant.process in f"{process.exe} {' '.join(process.command)}"


def score(plants: list[Plant], findings: tuple[Finding, ...], tally: dict[Plant, list[int]]) -> None:
    """Adds one drill: found, right process, right class."""
    for plant in plants:
        mine = [f for f in findings if f.destination == plant.destination]
        named = [f for f in mine if is_named(f, plant)]
        row = tally.setdefault(plant, [0, 0, 0])
        row[0] += bool(mine)
        row[1] += bool(named)
        row[2] += any(plant.kind in f.classes for f in named)


def unexpected(plants: list[Plant], findings: tuple[Finding, ...]) -> list[str]:
    """Findings that no plant explains."""
    known = {plant.destination for plant in plants}
    online = [plant.destination.rpartition(":") for plant in plants if plant.kind == "only-if-online"]
    first_steps = {f"{host}:{int(port) - 1000}" for host, _, port in online}
    sockets = ("a raw packet socket", "a raw IP socket")
    return [f"{f.channel} {f.destination} by {f.process.exe if f.process else '?'}" for f in findings
            if f.destination not in known | first_steps and f.destination not in sockets
            and not f.destination.startswith("02:01:02:03:04:")]  # fmt: skip


def table(tally: dict[Plant, list[int]], count: int) -> list[str]:
    """The rows of the page."""
    out = ["| class | build | found | right process | right class |", "|---|---|---|---|---|"]
    for plant, row in sorted(tally.items(), key=lambda item: (CLASSES.index(item[0].kind), item[0].build)):
        out.append(f"| {plant.kind} | {plant.build} | {row[0]}/{count} | {row[1]}/{count} | {row[2]}/{count} |")
    return out


def write_page(
    path: Path, body: list[str], missing: list[str], odd: list[str], count: int, took_s: float, canary: list[str]
) -> None:
    """The whole documentation page."""
    text = [
        "# Drill: recall over planted senders", "",
        "Produced by `make drill-recall`; not edited by hand. Every program below was started together by one shell "
        f"script and drilled {count} times under {', '.join(CONDITIONS)}, with fresh canary targets and run order each "
        "time. *Found*: a finding with the planted destination. *Right process*: the finding names the planted program "
        "itself, not its parent or its interpreter alone. *Right class*: the finding carries the class, so for the "
        "triggers (date, uptime, only-if-online, delayed) that the drill saw the plant speak in no other condition.",
        "",
        f"{dt.date.today().isoformat()}, Linux {platform.release()}, {platform.machine()}, {count} drills in "
        f"{took_s:.0f} s.", "",
        *body, "",
        f"Canaries: {'; '.join(canary) or 'every canary of every class was caught in every run'}.", "",
        f"Findings that no plant explains: {'; '.join(sorted(set(odd))) or 'none'}.", "",
        f"Not built here: {'; '.join(missing) or 'nothing'}.", "",
        "The programs are in `bench/drill_plants/`. They aim only at documentation addresses (192.0.2.0/24), locally "
        "administered MAC addresses and .test names, and run only inside the drill's own sandbox.", "",
    ]  # fmt: skip
    path.write_text("\n".join(text))


def drill_once(folder: Path, script: Path, seed: int) -> Campaign:
    """One drill of the launcher."""
    workload = check(
        Workload(start=(str(script),), name="plants", cwd=str(folder), conditions=CONDITIONS, repeats=1), where="plants"
    )
    out = Path(tempfile.mkdtemp(prefix="recall-"))
    campaign = Campaign(workload, load_profiles()["quick"], out, seed)
    campaign.run()
    shutil.rmtree(out)
    return campaign


def main() -> None:
    """Builds, drills, scores, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("docs/drill-recall.md"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="plants-"))
    broker = str(folder / "outside.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(broker)
    listener.listen(4)
    made = [*c_plants(folder, broker, 2000), *raw_plants(folder, 2100), *python_plants(folder, broker, 2200)]
    plants = [item for item in made if isinstance(item, Plant)]
    missing = [item for item in made if isinstance(item, str)]
    script, tally, odd, gaps = launcher(folder, plants), dict[Plant, list[int]](), list[str](), list[str]()
    start = time.monotonic()
    for seed in range(options.count):
        runs = drill_once(folder, script, seed).runs
        findings = gather(runs, {})
        score(plants, findings, tally)
        odd += unexpected(plants, findings)
        gaps += [
            f"drill {seed}: {v.kind} {v.canaries} ({v.reason})"
            for v in judge_classes(runs, findings)
            if "missed" in v.reason
        ]
        print(f"drill {seed + 1}/{options.count}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    body = table(tally, options.count)
    write_page(options.out, body, missing, odd, options.count, time.monotonic() - start, gaps)
    print("\n".join(body))
    listener.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
