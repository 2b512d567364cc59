"""The sandbox's view of the file system: read-only but for bounded scratch space that ends with the run."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from offramp.drill import sysabi
from offramp.drill.netlink import GATEWAY_V4, GATEWAY_V6, HOST_V4
from offramp.drill.processes import PRIVATE_DIR
from offramp.drill.records import Lost

PRIVATE: Final = ("/tmp", "/run", "/var/tmp", "/dev/shm")
"""Directories that the workload gets empty; what the command names inside them is passed in."""
DEVICES: Final = (
    "/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/davinci*", "/dev/devmm_svm", "/dev/hisi_hdc", "/dev/cambricon*",
    "/dev/kfd", "/dev/dri/render*", "/dev/dri/card*",
)  # fmt: skip
_PLAIN_NODES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_LEFT_ALONE: Final = {
    "proc", "sys", "dev", "run", "tmp", "boot", "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "mnt", "media",
    "lost+found",
}  # fmt: skip
_MASKED: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/acpi", "/proc/kcore")
_PATH: Final = re.compile(r"/[^\s:;,'\"()=\[\]{}]+")
_OWN_CODE: Final = str(Path(__file__).resolve().parents[2])
"""The directory that holds this package."""
_AT_RECURSIVE: Final = 0x8000
_SYMLINK_LIMIT: Final = 40


@dataclass(kw_only=True)
class MountPlan:
    """What the sandbox shall show.

    Attributes:
        scratch_bytes: room for everything that the workload writes.
        passed: files and directories inside private directories that stay visible (writable copies).
        devices: globs of device nodes.
        hidden: unix sockets of processes outside to cover up.
        binds: outer path by path inside, shown as it is.
        own_address: what the machine's own name stands for.
        own_network: the machine's own network is kept, and so are its names.
        rootless: in a user namespace.
    """

    cwd: str
    home: str
    scratch_bytes: int
    passed: tuple[str, ...] = ()
    devices: tuple[str, ...] = DEVICES
    hidden: tuple[str, ...] = ()
    binds: dict[str, str] = field(default_factory=dict)
    own_address: str = HOST_V4
    own_network: bool = False
    rootless: bool = False
    lost: list[Lost] = field(default_factory=list)


def named_paths(words: Iterable[str], environment: dict[str, str], cwd: str) -> tuple[str, ...]:
    """Existing paths inside private directories that a command needs: its words, its interpreter, its cwd."""
    found: set[str] = {cwd, _OWN_CODE, sys.prefix}  # the canaries run from this installation
    for word in words:
        found |= set(_PATH.findall(word))
        if os.path.exists(os.path.join(cwd, word)):
            found.add(os.path.join(cwd, word))
    for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"):
        found |= {part for part in environment.get(name, "").split(":") if part}
    out: set[str] = set()
    for path in found:
        for step in _with_links(os.path.normpath(path)):
            if _is_private(step) and os.path.exists(step):
                out.add(_enclosing(step))
    return tuple(sorted(path for path in out if not any(path.startswith(o + "/") for o in out)))


def _with_links(path: str) -> list[str]:
    """The path and what it links to, step by step."""
    out = [path]
    with contextlib.suppress(OSError):
        while os.path.islink(out[-1]) and len(out) < _SYMLINK_LIMIT:
            out.append(os.path.normpath(os.path.join(os.path.dirname(out[-1]), os.readlink(out[-1]))))
        out.append(os.path.realpath(path))
    return out


def _is_private(path: str) -> bool:
    return any(path.startswith(base + "/") for base in PRIVATE)


def _enclosing(path: str) -> str:
    """The directory to pass for a path: a virtual environment's root, else the directory that holds the file."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    if os.path.isfile(os.path.join(os.path.dirname(folder), "pyvenv.cfg")):
        return os.path.dirname(folder)
    return path if folder in PRIVATE else folder


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return [line.split()[4].encode().decode("unicode_escape") for line in table]


def _overlay_targets(plan: MountPlan) -> list[str]:
    """Directories whose writes go to scratch: top-level ones, or cwd and home where mounts lie below those."""
    points = [point for point in _mount_points() if point != "/"]
    tops = [f"/{name}" for name in sorted(os.listdir("/")) if name not in _LEFT_ALONE]
    wanted = [top for top in tops if os.path.isdir(top) and not os.path.islink(top)]
    wanted += ["/etc", os.path.realpath(plan.cwd), os.path.realpath(plan.home)]
    out: list[str] = []
    for path in wanted:
        inside_other = any(path == other or path.startswith(other + "/") for other in out)
        below = any(point.startswith(path + "/") for point in points)
        private = any(path == base or path.startswith(base + "/") for base in (*PRIVATE, "/proc", "/sys", "/dev"))
        if os.path.isdir(path) and path != "/" and not (inside_other or below or private):
            out.append(path)
    return out


def build(plan: MountPlan) -> None:
    """Turns the caller's own mount namespace into the sandbox's view.

    Raises:
        OSError: a step without which the sandbox would not hold failed.
    """
    targets = _overlay_targets(plan)
    resolver = _read_text("/etc/resolv.conf")
    handles = {path: os.open(path, os.O_PATH) for path in (*targets, *plan.passed)}
    nodes = _device_nodes(plan)
    shown = {path: os.open(source, os.O_PATH) for path, source in plan.binds.items()}
    sysabi.mount("none", "/", flags=sysabi.MS_REC | sysabi.MS_PRIVATE)
    _make_read_only()
    size = f"size={plan.scratch_bytes},mode=0755"
    sysabi.mount("offramp", "/tmp", "tmpfs", flags=sysabi.MS_NOSUID | sysabi.MS_NODEV, data=size)
    for name in ("tmp", "run", "vartmp", "shm", "up", "work"):
        os.mkdir(f"/tmp/{name}")
    for name in ("tmp", "vartmp", "shm"):
        os.chmod(f"/tmp/{name}", 0o1777)
    for number, path in enumerate(targets):
        _overlay(plan, handles[path], path, number)
    for number, path in enumerate(plan.passed, start=len(targets)):
        _pass_in(plan, handles[path], path, number)
    _write_etc(plan, resolver)
    for path in plan.hidden:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                sysabi.mount("/dev/null", path, flags=sysabi.MS_BIND)
    _private_dev(plan, nodes)
    for name, path in (("run", "/run"), ("vartmp", "/var/tmp"), ("shm", "/dev/shm"), ("tmp", "/tmp")):
        if os.path.isdir(path) and not os.path.islink(path):
            sysabi.mount(f"/tmp/{name}", path, flags=sysabi.MS_BIND | sysabi.MS_REC)
    os.makedirs(PRIVATE_DIR, mode=0o755, exist_ok=True)
    for path, handle in shown.items():
        Path(path).touch()
        sysabi.mount(f"/proc/self/fd/{handle}", path, flags=sysabi.MS_BIND)
    for handle in (*handles.values(), *shown.values()):
        os.close(handle)
    _mount_proc(plan)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _make_read_only() -> None:
    attributes = struct.pack("QQQQ", sysabi.MS_RDONLY, 0, 0, 0)
    sysabi.syscall("mount_setattr", -100, b"/\0", _AT_RECURSIVE, attributes, len(attributes))


def _overlay(plan: MountPlan, handle: int, target: str, number: int) -> None:
    """Puts a writable layer over a directory; where the kernel refuses, it stays read-only and that is said."""
    upper, work = f"/tmp/up/{number}", f"/tmp/work/{number}"
    os.mkdir(upper)
    os.mkdir(work)
    info = os.stat(f"/proc/self/fd/{handle}")
    os.chmod(upper, stat.S_IMODE(info.st_mode))
    with contextlib.suppress(OSError):
        os.chown(upper, info.st_uid, info.st_gid)
    data = f"lowerdir=/proc/self/fd/{handle},upperdir={upper},workdir={work}"
    try:
        sysabi.mount("offramp", target, "overlay", data=data + (",userxattr" if plan.rootless else ""))
    except OSError as error:
        plan.lost.append(Lost(what=f"writing below {target}", why=str(error), effect="the workload sees it read-only"))


def _pass_in(plan: MountPlan, handle: int, path: str, number: int) -> None:
    """Shows a directory or file of a private directory in the new, otherwise empty one."""
    base = next(base for base in PRIVATE if path.startswith(base + "/"))
    inner = {"/tmp": "/tmp/tmp", "/run": "/tmp/run", "/var/tmp": "/tmp/vartmp", "/dev/shm": "/tmp/shm"}[base]
    target = inner + path[len(base) :]
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        os.makedirs(target, exist_ok=True)
        sysabi.mount(f"/proc/self/fd/{handle}", target, flags=sysabi.MS_BIND)
        _overlay(plan, handle, target, number)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    Path(target).touch()
    sysabi.mount(f"/proc/self/fd/{handle}", target, flags=sysabi.MS_BIND)


def _write_etc(plan: MountPlan, resolver: str) -> None:
    if plan.own_network:
        with contextlib.suppress(OSError):
            Path("/etc/resolv.conf").unlink(missing_ok=True)
            Path("/etc/resolv.conf").write_text(resolver)  # its target may lie in the hidden /run
        return
    name = os.uname().nodename
    hosts = f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{plan.own_address} {name}\n"
    servers = f"nameserver {GATEWAY_V4}\nnameserver {GATEWAY_V6}\noptions timeout:2 attempts:2\n"
    texts = {"/etc/resolv.conf": servers, "/etc/hosts": hosts}
    if os.path.exists("/etc/nsswitch.conf"):
        old = Path("/etc/nsswitch.conf").read_text(errors="replace")
        texts["/etc/nsswitch.conf"] = re.sub(r"(?m)^hosts:.*$", "hosts: files dns", old)
    for path, text in texts.items():
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            Path(path).write_text(text)
        except OSError as error:
            plan.lost.append(
                Lost(what=path, why=str(error), effect="names are resolved as the machine does; look-ups may fail")
            )


def _device_nodes(plan: MountPlan) -> dict[str, int]:
    """Descriptors of the device nodes to show, by path; opened before /dev is covered."""
    wanted = [f"/dev/{name}" for name in _PLAIN_NODES]
    for pattern in plan.devices:
        wanted += sorted(glob.glob(pattern))
    out: dict[str, int] = {}
    for path in wanted:
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.stat(path).st_mode):
                out[path] = os.open(path, os.O_PATH)
    return out


def _private_dev(plan: MountPlan, nodes: dict[str, int]) -> None:
    flags = sysabi.MS_NOSUID | sysabi.MS_NOEXEC
    sysabi.mount("offramp", "/dev", "tmpfs", flags=flags, data="size=65536k,mode=0755")
    for path, handle in nodes.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).touch()
        try:
            sysabi.mount(f"/proc/self/fd/{handle}", path, flags=sysabi.MS_BIND)
        except OSError as error:
            plan.lost.append(Lost(what=f"device {path}", why=str(error), effect="the workload cannot use it"))
        os.close(handle)
    for name in ("pts", "shm"):
        os.mkdir(f"/dev/{name}")
    try:
        sysabi.mount("devpts", "/dev/pts", "devpts", flags=flags, data="newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", "/dev/ptmx")
    except OSError as error:
        plan.lost.append(Lost(what="terminals (/dev/pts)", why=str(error), effect="programs cannot open one"))
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                         ("stderr", "/proc/self/fd/2")):  # fmt: skip
        os.symlink(target, f"/dev/{name}")


def _mount_proc(plan: MountPlan) -> None:
    try:
        sysabi.mount("proc", "/proc", "proc", flags=sysabi.MS_NOSUID | sysabi.MS_NODEV | sysabi.MS_NOEXEC)
    except OSError as error:
        plan.lost.append(Lost(what="a private /proc", why=str(error), effect="the workload can list processes outside"))


def mask_proc() -> None:
    """Makes the kernel's switches read-only for the workload (its user may be root)."""
    for path in _MASKED:
        if not os.path.exists(path):
            continue
        with contextlib.suppress(OSError):
            sysabi.mount(path, path, flags=sysabi.MS_BIND)
            bind = sysabi.MS_BIND | 32 | sysabi.MS_RDONLY | sysabi.MS_NOSUID | sysabi.MS_NODEV | sysabi.MS_NOEXEC
            sysabi.mount("none", path, flags=bind)
