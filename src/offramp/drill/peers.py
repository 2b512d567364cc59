"""Who listens on a path unix socket: a process of the sandbox, or one outside of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def _bound_sockets(table: str) -> dict[str, str]:
    """Socket inode by path, from a /proc/net/unix table."""
    out: dict[str, str] = {}
    try:
        lines = Path(table).read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return out
    for line in lines:
        words = line.split(None, 7)
        if len(words) == 8 and words[7].startswith("/"):
            out[words[7]] = words[6]
        elif len(words) == 8:
            out.setdefault(words[7], words[6])  # relative paths, and abstract names that begin with @
    return out


def listening_paths() -> list[str]:
    """Path sockets bound by processes of this (the outer) network namespace."""
    return [path for path in _bound_sockets("/proc/self/net/unix") if path.startswith("/")]


def outside_peer(pid: int, path: str, init: int) -> str | None:
    """Who listens on ``path`` outside the sandbox, in words; None for a peer inside, or no socket there.

    Args:
        pid: the caller, whose root and working directory the path belongs to.
        path: as the caller wrote it.
        init: the sandbox's first process; its network namespace holds the sockets that were bound inside.
    """
    base = f"/proc/{pid}/root" if path.startswith("/") else f"/proc/{pid}/cwd/"
    absolute = path if path.startswith("/") else os.path.normpath(os.path.join(_cwd(pid), path))
    try:
        info = os.stat(base + path)
    except OSError:
        hidden = _bound_sockets("/proc/self/net/unix").get(absolute)
        return f"{_owner_of(hidden)}, hidden from the sandbox" if hidden and os.path.exists(absolute) else None
    if not stat.S_ISSOCK(info.st_mode):
        return None
    for bound in _bound_sockets(f"/proc/{init}/net/unix"):
        if _same_node(f"/proc/{init}/root{bound}" if bound.startswith("/") else base + path, info, path, bound):
            return None
    outer = _bound_sockets("/proc/self/net/unix")
    for bound, inode in outer.items():
        if bound == absolute or _same_node(bound, info, path, bound):
            return _owner_of(inode)
    return "a process outside that this one may not see"


def abstract_peer(_: int, name: str, init: int) -> str | None:
    """Who holds an abstract name ("@name") outside, where nobody does inside; the namespace ends such a name anyway."""
    if name in _bound_sockets(f"/proc/{init}/net/unix"):
        return None
    inode = _bound_sockets("/proc/self/net/unix").get(name)
    return f"{_owner_of(inode)}, not reachable from the sandbox" if inode else None


def _same_node(candidate: str, info: os.stat_result, path: str, bound: str) -> bool:
    """Whether a bound name is the file that a caller means; names are compared first, to save look-ups."""
    if Path(bound).name != Path(path).name:
        return False
    try:
        other = os.stat(candidate)
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (info.st_dev, info.st_ino)


def _owner_of(inode: str) -> str:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            links = [os.readlink(link) for link in (entry / "fd").iterdir()]
            if f"socket:[{inode}]" in links:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                return f"process {entry.name} ({command[:200]})"
        except OSError:
            continue
    return f"socket {inode}, owner not visible"


def _cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return "/"
