"""What was in the process and under it: libraries, packages, kernel modules, firmware, driver versions."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from offramp.core.record import Record
from offramp.drill.elfscan import scan_binary
from offramp.drill.owners import Owners
from offramp.drill.processes import PRIVATE_DIR
from offramp.drill.records import RunRecord

_TOOLS: Final = {
    "nvidia-smi": ("nvidia-smi", "--query-gpu=name,driver_version,vbios_version,inforom.img,gsp_firmware_version",
                   "--format=csv,noheader"),
    "npu-smi": ("npu-smi", "info"), "npu-smi-version": ("npu-smi", "-v"), "cnmon": ("cnmon", "info"),
    "rocm-smi": ("rocm-smi", "--showdriverversion", "--showvbios", "--showfwinfo"),
}  # fmt: skip
_TOOL_TIMEOUT_S: Final = 20
_FIRMWARE: Final = (
    "/lib/firmware/nvidia", "/lib/firmware/amdgpu", "/lib/firmware/cambricon", "/usr/local/Ascend/driver/device",
    "/usr/local/Ascend/firmware", "/usr/local/neuware/firmware",
)  # fmt: skip
_VERSION_FILES: Final = (
    "/proc/driver/nvidia/version", "/usr/local/Ascend/driver/version.info", "/usr/local/Ascend/firmware/version.info",
    "/proc/driver/cambricon/mlus", "/sys/module/amdgpu/version", "/opt/rocm/.info/version",
    "/usr/local/cuda/version.json", "/usr/local/neuware/version.txt",
)  # fmt: skip
_ACCELERATOR_MODULE: Final = re.compile(
    r"nvidia|nouveau|gdrdrv|davinci|devmm|hisi_|drv_|cambricon|cndrv|amdgpu|amdkfd|kfd"
)
_MOST_FIRMWARE: Final = 3000
VENDORS: Final = {
    "nvidia": ("nvidia",), "ascend": ("davinci", "ascend", "npu-smi"), "cambricon": ("cambricon", "cnmon"),
    "amd": ("amdgpu", "rocm"),
}  # fmt: skip


class FileFacts(Record):
    """One file that was mapped, or firmware, or a kernel module."""

    path: str
    sha256: str
    size_bytes: int
    owner: str = ""
    hosts: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    kind: str = "library"
    version: str = ""


class Package(Record):
    """One package: manager (pip, dpkg, rpm), name, version; whether a file of it was mapped."""

    manager: str
    name: str
    version: str
    mapped: bool


class Inventory(Record):
    """Everything that was there. ``tools`` holds what the vendors' tools printed, "" where a tool is absent."""

    kernel: str
    machine: str
    os_name: str
    files: tuple[FileFacts, ...]
    modules: tuple[FileFacts, ...]
    firmware: tuple[FileFacts, ...]
    packages: tuple[Package, ...]
    tools: dict[str, str]
    versions: dict[str, str]
    vendors: tuple[str, ...]
    notes: tuple[str, ...] = ()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def take(runs: Iterable[RunRecord]) -> Inventory:
    """The inventory of what the runs used on this machine."""
    owners = Owners()
    mapped: set[str] = set()
    interpreters: set[str] = set()
    for run in runs:
        mapped |= set(run.mapped)
        mapped |= {image.exe for image in run.processes if not image.canary}
        interpreters |= {image.exe for image in run.processes if image.linkage.startswith("script:")}
    files = tuple(
        _describe(path, owners) for path in sorted(mapped) if not path.startswith(PRIVATE_DIR) and os.path.isfile(path)
    )
    tools = {name: _run_tool(command) for name, command in _TOOLS.items()}
    versions = {path: _read_short(path) for path in _VERSION_FILES if os.path.exists(path)}
    modules, firmware = tuple(_kernel_modules(owners)), tuple(_firmware(owners))
    return Inventory(
        kernel=platform.release(), machine=platform.machine(), os_name=_os_name(), files=files, modules=modules,
        firmware=firmware, packages=_packages(files, owners), tools=tools, versions=versions,
        vendors=_vendors(modules, tools, versions), notes=_notes(firmware, tools),
    )  # fmt: skip


def _describe(path: str, owners: Owners) -> FileFacts:
    facts = scan_binary(Path(path))
    return FileFacts(path=path, sha256=file_hash(Path(path)), size_bytes=os.path.getsize(path), owner=owners.of(path),
                     hosts=facts.hosts, symbols=facts.symbols)  # fmt: skip


def _run_tool(command: tuple[str, ...]) -> str:
    if not shutil.which(command[0]):
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"failed: {error}"
    return (done.stdout or done.stderr)[:20000]


def _read_short(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(4000)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _os_name() -> str:
    text = _read_short("/etc/os-release")
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
    return match.group(1) if match else platform.system()


def _kernel_modules(owners: Owners) -> Iterable[FileFacts]:
    base = Path("/lib/modules") / platform.release()
    paths: dict[str, Path] = {}
    listing = _read_whole(base / "modules.dep")
    for line in listing.splitlines():
        relative = line.partition(":")[0]
        name = Path(relative).name.split(".ko")[0].replace("-", "_")
        paths[name] = base / relative
    for line in _read_whole(Path("/proc/modules")).splitlines():
        name, size = line.split()[:2]
        path = paths.get(name, Path())
        version = _read_whole(Path(f"/sys/module/{name}/version")).strip()
        kind = "accelerator module" if _ACCELERATOR_MODULE.search(name) else "module"
        yield FileFacts(path=str(path) if path.name else name, sha256=file_hash(path) if path.name else "",
                        size_bytes=int(size), owner=owners.of(str(path)), kind=kind, version=version)  # fmt: skip


def _read_whole(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _firmware(owners: Owners) -> Iterable[FileFacts]:
    count = 0
    for base in _FIRMWARE:
        for path in sorted(Path(base).rglob("*")) if os.path.isdir(base) else []:
            if path.is_file() and count < _MOST_FIRMWARE:
                count += 1
                yield FileFacts(path=str(path), sha256=file_hash(path), size_bytes=path.stat().st_size,
                                owner=owners.of(str(path)), kind="firmware")  # fmt: skip


def _packages(files: tuple[FileFacts, ...], owners: Owners) -> tuple[Package, ...]:
    """Packages of mapped files, and every distribution installed beside a mapped one."""
    used = {file.owner for file in files if file.owner}
    beside = {owner for site in owners.sites() for owner in owners.all_of(site)}
    out: list[Package] = []
    for owner in sorted(used | beside):
        manager, _, rest = owner.partition(" ")
        name, _, version = rest.rpartition(" ") if manager != "rpm" else (rest, "", "")
        out.append(Package(manager=manager, name=name or rest, version=version, mapped=owner in used))
    return tuple(out)


def _vendors(modules: tuple[FileFacts, ...], tools: dict[str, str], versions: dict[str, str]) -> tuple[str, ...]:
    text = " ".join(
        [*(Path(module.path).name for module in modules), *(name for name, out in tools.items() if out), *versions]
    )
    return tuple(vendor for vendor, words in VENDORS.items() if any(word in text.lower() for word in words))


def _notes(firmware: tuple[FileFacts, ...], tools: dict[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    if not any(tools.values()):
        out.append(
            "none of nvidia-smi, npu-smi, cnmon, rocm-smi is installed: driver and firmware versions are unknown"
        )
    if not firmware:
        out.append("no accelerator firmware files were found where vendors put them")
    return tuple(out)
