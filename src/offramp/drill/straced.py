"""Attribution by strace, for kernels that do not tell a listener: programs run under it, its logs become calls."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from offramp.drill.processes import CANARY_DIR, PRIVATE_DIR, elf_linkage
from offramp.drill.records import Call, Process
from offramp.drill.watcher import Destination

FOLDER: Final = f"{PRIVATE_DIR}/strace"
_MOST_LINES: Final = 50_000
_TRACED: Final = "connect,sendto,sendmsg,sendmmsg,socket,execve,clone,clone3,fork,vfork"
_CALL: Final = re.compile(r"^(\d+)\s+(\d+\.\d+)\s+(connect|sendto|sendmsg|sendmmsg|socket)\((.*)")
_EXEC: Final = re.compile(r'^(\d+)\s+[\d.]+\s+execve\("([^"]+)", \[(.*?)\]')
_FORK: Final = re.compile(r"^(\d+)\s+[\d.]+\s+(?:<\.\.\. )?(?:clone|clone3|fork|vfork)\b.*= (\d+)$")
_WORD: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_INET: Final = re.compile(r"sin_port=htons\((\d+)\), sin_addr=inet_addr\(\"([\d.]+)\"\)")
_INET6: Final = re.compile(r"sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, \"([0-9a-fA-F:.]+)\"")


def is_here() -> bool:
    """Whether strace is installed."""
    return shutil.which("strace") is not None


def prefix(name: str) -> list[str]:
    """The words to put before a program so that strace logs its network calls under a name."""
    program = shutil.which("strace") or "strace"
    return [program, "-f", "-qq", "-ttt", "-s", "96", "-e", f"trace={_TRACED}", "-o", f"{FOLDER}/{name}", "--"]


def read_logs(init: int, *, began_unix_s: float) -> tuple[list[Call], list[Process]]:
    """Calls that reach for something outside and the processes that made them, from every log in the sandbox."""
    calls: list[Call] = []
    images: dict[int, Process] = {}
    folder = Path(f"/proc/{init}/root{FOLDER}")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name == ".keep":
            continue
        lines = path.read_text(errors="replace").splitlines()[:_MOST_LINES]
        for line in lines:
            _learn(line, images)
            match = _CALL.match(line)
            if match:
                _add(match, images, calls, began_unix_s)
    return calls, list(images.values())


def _learn(line: str, images: dict[int, Process]) -> None:
    """Takes an image or a child from a line of the log."""
    if match := _EXEC.match(line):
        pid, exe = int(match.group(1)), match.group(2)
        command = tuple(_WORD.findall(match.group(3)))
        script = next((word for word in command[1:] if word.startswith("/") and not word.startswith("-")), "")
        is_script = Path(exe).name.startswith("python") and bool(script)
        linkage = f"script:{script}" if is_script else elf_linkage(exe)
        planted = [word for word in (exe, *command) if word.startswith(CANARY_DIR)]
        canary = Path(planted[0]).name.split(".")[0] if planted else ""
        old = images.get(pid)
        images[pid] = Process(key=f"strace.{pid}", pid=0, inner_pid=pid, exe=exe, command=command, linkage=linkage,
                              lineage=old.lineage if old else (), canary=canary)  # fmt: skip
    elif (match := _FORK.match(line)) and (parent := images.get(int(match.group(1)))) is not None:
        pid = int(match.group(2))
        above = (f"{parent.exe} ({' '.join(parent.command)[:200]})", *parent.lineage)
        images.setdefault(
            pid,
            Process(key=f"strace.{pid}", pid=0, inner_pid=pid, exe=parent.exe, command=parent.command, lineage=above,
                    linkage=parent.linkage, canary=parent.canary),
        )  # fmt: skip


def _add(match: re.Match[str], images: dict[int, Process], calls: list[Call], began_unix_s: float) -> None:
    pid, name = int(match.group(1)), match.group(3)
    image = images.get(pid)
    for family, dst, port in _targets(name, match.group(4)):
        calls.append(
            Call(id=len(calls), at_s=float(match.group(2)) - began_unix_s, name=name,
                 process=image.key if image else "",
                 family=family, dst=dst, dst_port=port, sent=name.startswith("send"), thread=pid,
                 canary=image.canary if image else "")
        )  # fmt: skip


def _targets(name: str, rest: str) -> Iterator[tuple[str, str, int]]:
    """Family, destination and port of each target in one logged call that does not stay inside."""
    if name == "socket":
        for word, family in (("AF_PACKET", "packet"), ("AF_VSOCK", "vsock"), ("SOCK_RAW", "raw")):
            if word in rest and "AF_NETLINK" not in rest:
                yield family, "", 0
                return
        return
    for pattern, family, number in ((_INET, "inet", 2), (_INET6, "inet6", 10)):
        for found in pattern.finditer(rest):
            to = Destination(family=number, address=found.group(2), port=int(found.group(1)))
            if not to.is_local:
                yield family, to.address, to.port
