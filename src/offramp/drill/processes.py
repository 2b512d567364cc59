"""Who is who inside the sandbox: images, command lines, ancestors, hashes; by process number as the host sees it."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import threading
from pathlib import Path
from typing import Final

import msgspec

from offramp.drill.records import Process

PRIVATE_DIR: Final = "/run/offramp"
CANARY_DIR: Final = f"{PRIVATE_DIR}/canary"
_INTERPRETER: Final = re.compile(r"^(python[\d.]*|bash|sh|dash|perl|ruby|node)$")
_MOST_ARGUMENTS: Final = 24
_MOST_ARGUMENT_CHARS: Final = 300


def read_status(pid: int) -> dict[str, str]:
    """Fields of /proc/PID/status; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def read_command(pid: int) -> tuple[str, ...]:
    """The command line, long ones cut."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    words = raw.rstrip(b"\0").split(b"\0")[:_MOST_ARGUMENTS]
    return tuple(word.decode("utf-8", "replace")[:_MOST_ARGUMENT_CHARS] for word in words)


def descendants(root: int) -> list[int]:
    """Every live process below ``root`` (itself left out), as the host numbers them."""
    out: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for task in tasks:
            try:
                words = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            except OSError:
                continue
            children = [int(word) for word in words]
            out += children
            todo += children
    return out


def elf_linkage(path: str) -> str:
    """Linkage of an image: dynamic, static, or "" where it is no ELF file."""
    try:
        with open(path, "rb") as image:
            head = image.read(4096)
    except OSError:
        return ""
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return ""
    wide = head[4] == 2
    start = struct.unpack_from("<Q", head, 32)[0] if wide else struct.unpack_from("<I", head, 28)[0]
    size, count = struct.unpack_from("<HH", head, 54 if wide else 42)
    for i in range(count):
        at = start + i * size
        if at + 4 <= len(head) and struct.unpack_from("<I", head, at)[0] == 3:
            return "dynamic"
    return "static"


class ProcessBook:
    """Images seen so far. Shared by the watcher, the tracer and the sink's attribution.

    Args:
        init: the sandbox's first process; direct children of it whose parent was another are detached.
    """

    def __init__(self, init: int) -> None:
        self.init = init
        self.images: dict[str, Process] = {}
        self._current: dict[int, str] = {}
        self._parents: dict[int, int] = {}
        self._hashes: dict[tuple[int, int, int, int], str] = {}
        self._lock = threading.RLock()

    def note_fork(self, parent: int, child: int) -> None:
        """Remembers who made whom (told by the tracer, exact even when the parent is gone at once)."""
        if parent != self.init:
            self.identify(parent)
        with self._lock:
            self._parents[child] = parent
            self._current.pop(child, None)

    def note_exec(self, pid: int) -> None:
        """The process has a new image."""
        with self._lock:
            self._current.pop(pid, None)
        self.identify(pid)

    def identify(self, task: int) -> str:
        """Key of the image that a process (or the process of a thread) runs; "" when it is gone and unknown."""
        with self._lock:
            status = read_status(task)
            pid = int(status.get("Tgid", task))
            known = self._current.get(pid)
            if not status or pid == self.init:
                return known or ""
            exe = _read_exe(pid)
            if known and (self.images[known].exe == exe and self._same_command(known, pid)):
                return known
            return self._remember(pid, exe, status)

    def _same_command(self, key: str, pid: int) -> bool:
        """Forked children keep the command line; exec changes it. Read only for interpreters: cheap elsewhere."""
        image = self.images[key]
        return not image.linkage.startswith("script") or image.command == read_command(pid)

    def _remember(self, pid: int, exe: str, status: dict[str, str]) -> str:
        parent = self._parents.get(pid, int(status.get("PPid", "0")))
        key = f"{pid}.{len(self.images)}"
        command = read_command(pid)
        image = Process(
            key=key, pid=pid, inner_pid=int(status.get("NSpid", str(pid)).split()[-1]),
            parent=self._current.get(parent, ""), exe=exe, exe_hash=self._hash(f"/proc/{pid}/exe"),
            command=command, linkage=_linkage(pid, exe, command), lineage=self._lineage(parent),
            detached=self._is_detached(pid, status), canary=_canary_name(exe, command),
        )  # fmt: skip
        self.images[key] = image
        self._current[pid] = key
        return key

    def _is_detached(self, pid: int, status: dict[str, str]) -> bool:
        """Whether init adopted it: its maker is known to be another, or it leads no session that init started."""
        if int(status.get("PPid", "0")) != self.init:
            return False
        maker = self._parents.get(pid)
        return maker is not None and maker != self.init

    def refresh_detached(self, key: str) -> None:
        """Looks again whether the process has lost its parent since."""
        with self._lock:
            image = self.images.get(key)
            if image is None or image.detached:
                return
            status = read_status(image.pid)
            if status and self._is_detached(image.pid, status):
                self.images[key] = msgspec.structs.replace(image, detached=True)

    def _lineage(self, parent: int) -> tuple[str, ...]:
        out: list[str] = []
        pid = parent if parent != self.init else 0
        while pid > 1 and pid != self.init and len(out) < 12:
            key = self._current.get(pid)
            if key is None and _read_exe(pid):
                key = self._remember(pid, _read_exe(pid), read_status(pid))
            if key is None:
                out.append(f"process {pid} (gone)")
            else:
                image = self.images[key]
                out.append(f"{image.exe} ({' '.join(image.command)[:200]})")
            pid = self._parents.get(pid, int(read_status(pid).get("PPid", "0")))
        return tuple(out)

    def _hash(self, link: str) -> str:
        try:
            info = os.stat(link)
            key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
            if key not in self._hashes:
                with open(link, "rb") as image:
                    self._hashes[key] = hashlib.file_digest(image, "sha256").hexdigest()
        except OSError:
            return ""
        return self._hashes[key]


def _read_exe(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _linkage(pid: int, exe: str, command: tuple[str, ...]) -> str:
    if _INTERPRETER.match(Path(exe).name):
        script = next((word for word in command[1:] if not word.startswith("-")), "")
        flags = command[1:2]
        if flags in (("-c",), ("-m",)):
            return f"script:{' '.join(command[1:3])[:120]}"
        return f"script:{script}" if script else "dynamic"
    return elf_linkage(f"/proc/{pid}/exe")


def _canary_name(exe: str, command: tuple[str, ...]) -> str:
    for word in (exe, *command[:4]):
        if word.startswith(CANARY_DIR + "/"):
            return Path(word).name.split(".")[0]
    return ""
