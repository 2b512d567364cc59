"""Which package a file belongs to: pip distributions, dpkg, rpm; read from their own files."""

from __future__ import annotations

import csv
import email.parser
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from offramp.drill.records import Process

_SITE: Final = re.compile(r"^(.*/(?:site|dist)-packages)/(.+)$")
_RPM_TIMEOUT_S: Final = 10


class Owners:
    """Looks owners up, each database read at most once.

    Args:
        root: prefix under which the paths lie ("" for this machine's own root).
    """

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._pip: dict[str, dict[str, str]] = {}
        self._dpkg: dict[str, str] | None = None
        self._known: dict[str, str] = {}

    def of_image(self, image: Process) -> str:
        """Owner of a process image: of its script where it is one, else of its executable."""
        if image.linkage.startswith("script:"):
            word = image.linkage.removeprefix("script:")
            if word.startswith("-m "):
                return self.of_module(word[3:], image.exe) or self.of(image.exe)
            interpreter = self.of(image.exe)
            of_script = self.of(word) if word.startswith("/") else ""
            return of_script or (f"no package (interpreter: {interpreter})" if interpreter else "")
        return self.of(image.exe)

    def of(self, path: str) -> str:
        """Owner of a file: "pip torch 2.13.0", "dpkg libc6 2.36", "rpm glibc-2.34" or ""."""
        if not path or path in self._known:
            return self._known.get(path, "")
        answer = self._of_pip(path) or self._of_dpkg(path) or self._of_rpm(path)
        self._known[path] = answer
        return answer

    def sites(self) -> tuple[str, ...]:
        """The site-packages directories looked into so far."""
        return tuple(self._pip)

    def all_of(self, site: str) -> set[str]:
        """Every distribution of a site-packages directory."""
        return set(self._distributions(site).values())

    def of_module(self, module: str, interpreter: str) -> str:
        """Owner of ``python -m module``: a distribution with that top-level name beside the interpreter."""
        folder = Path(interpreter).parent.parent
        for site in sorted(folder.glob("lib/python3*/site-packages")):
            for name, owner in self._distributions(str(site)).items():
                if name.split("/")[0] in (module.split(".")[0], module.split(".")[0] + ".py"):
                    return owner
        return ""

    def _of_pip(self, path: str) -> str:
        match = _SITE.match(path)
        if match:
            return self._distributions(match.group(1)).get(match.group(2), "")
        folder, _, name = path.rpartition("/bin/")
        for site in sorted(Path(self._root + folder).glob("lib/python3*/site-packages")) if folder and name else []:
            owner = self._distributions(str(site).removeprefix(self._root)).get(f"../../../bin/{name}", "")
            if owner:
                return owner
        return ""

    def _distributions(self, site: str) -> dict[str, str]:
        """Owner by path relative to a site-packages directory."""
        if site in self._pip:
            return self._pip[site]
        out: dict[str, str] = {}
        for info in sorted(Path(self._root + site).glob("*.dist-info")):
            owner = f"pip {_title(info)}"
            try:
                with (info / "RECORD").open(encoding="utf-8", newline="") as rows:
                    out |= {row[0]: owner for row in csv.reader(rows) if row}
            except (OSError, csv.Error, UnicodeDecodeError):
                continue
        self._pip[site] = out
        return out

    def _of_dpkg(self, path: str) -> str:
        if self._dpkg is None:
            self._dpkg = _read_dpkg(self._root)
        for variant in _usr_variants(path):
            if variant in self._dpkg:
                return self._dpkg[variant]
        return ""

    def _of_rpm(self, path: str) -> str:
        if not shutil.which("rpm") or not os.path.isdir(f"{self._root}/var/lib/rpm"):
            return ""
        command = ["rpm", "-qf", "--qf", "%{NAME}-%{VERSION}-%{RELEASE}", path]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_RPM_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return f"rpm {done.stdout}" if done.returncode == 0 else ""


def _title(info: Path) -> str:
    try:
        message = email.parser.HeaderParser().parsestr((info / "METADATA").read_text(errors="replace"))
        return f"{message['Name']} {message['Version']}"
    except OSError:
        return info.name.removesuffix(".dist-info").replace("-", " ", 1)


def _usr_variants(path: str) -> tuple[str, ...]:
    """The path with and without /usr, since databases keep either after the merge."""
    if path.startswith("/usr/"):
        return path, path[4:]
    return path, f"/usr{path}"


def _read_dpkg(root: str) -> dict[str, str]:
    out: dict[str, str] = {}
    versions: dict[str, str] = {}
    name = ""
    try:
        status = Path(f"{root}/var/lib/dpkg/status").read_text(errors="replace")
    except OSError:
        return out
    for line in status.splitlines():
        if line.startswith("Package: "):
            name = line[9:]
        elif line.startswith("Version: "):
            versions[name] = line[9:]
    for listing in Path(f"{root}/var/lib/dpkg/info").glob("*.list"):
        package = listing.stem.split(":")[0]
        owner = f"dpkg {package} {versions.get(package, '')}".strip()
        try:
            out |= dict.fromkeys(listing.read_text(errors="replace").splitlines(), owner)
        except OSError:
            continue
    return out
