"""The inventory against advisories that the user supplies: OSV exports and CSAF documents, dated, offline."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.drill.inventory import Inventory, Package
from offramp.drill.versions import in_events, in_text_range, key_for

_ECOSYSTEM: Final = {"pip": ("PyPI",), "dpkg": ("Debian", "Ubuntu"), "rpm": ("Red Hat", "Rocky Linux", "AlmaLinux")}
_MOST_FILES: Final = 400_000
_DRIVER_WORDS: Final = {
    "nvidia": re.compile(r"(gpu|graphics|display|tesla|data ?cent(er|re)).{0,20}driver", re.IGNORECASE),
    "ascend": re.compile(r"ascend|cann|npu", re.IGNORECASE),
    "cambricon": re.compile(r"cambricon|neuware", re.IGNORECASE),
    "amd": re.compile(r"rocm|radeon|instinct|amdgpu", re.IGNORECASE),
}  # fmt: skip


class Vulnerability(Record):
    """One advisory that touches something in the inventory.

    Attributes:
        status: "affected", or "undecided" where its version range is not understood.
    """

    id: str
    aliases: tuple[str, ...]
    component: str
    version: str
    status: str
    summary: str
    fixed: str
    modified: str
    file: str


class Feed(Record):
    """What the user supplied for one ecosystem or vendor.

    Attributes:
        state: "checked" or "no feed" (which is not the same as no vulnerability).
        newest: latest change date among its advisories.
    """

    name: str
    state: str
    advisories: int = 0
    newest: str = ""
    components: int = 0


def check(folders: tuple[Path, ...]) -> None:
    """Reads every advisory once, so that a broken one is found before hours of runs.

    Raises:
        InputError: a file that cannot be read, or JSON that is neither OSV nor CSAF.
    """
    for name, document in _documents(folders):
        if not ("affected" in document or "document" in document or {"modified", "id"} <= set(document)):
            raise InputError("is neither an OSV nor a CSAF document", where=name, mend="Supply exports as they are.")


def match(inventory: Inventory, folders: tuple[Path, ...]) -> tuple[tuple[Vulnerability, ...], tuple[Feed, ...]]:
    """Every advisory that touches the inventory, and which feeds there were.

    Raises:
        InputError: a folder or file that cannot be read, or JSON that is neither OSV nor CSAF.
    """
    by_name = _packages_by_name(inventory)
    drivers = driver_versions(inventory)
    found: list[Vulnerability] = []
    counts: dict[str, list[str]] = {}
    for name, document in _documents(folders):
        if "affected" in document or ("modified" in document and "id" in document):
            found += _match_osv(document, by_name, name, counts)
        elif "document" in document:
            found += _match_csaf(document, drivers, name, counts)
        else:
            raise InputError("is neither an OSV nor a CSAF document", where=name, mend="Supply exports as they are.")
    unique = {(item.id, item.component): item for item in found}
    return tuple(unique[key] for key in sorted(unique)), _feeds(inventory, by_name, drivers, counts)


def _documents(folders: tuple[Path, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    count = 0
    for folder in folders:
        if not folder.exists():
            raise InputError("no such file or folder", where=str(folder))
        paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
        for path in paths:
            for name, raw in _read(path):
                count += 1
                if count > _MOST_FILES:
                    raise InputError(f"more than {_MOST_FILES} advisories", where=str(folder))
                try:
                    data = json.loads(raw)
                except ValueError as error:
                    raise InputError(f"is not JSON: {error}", where=name) from None
                for item in data if isinstance(data, list) else [data]:
                    if isinstance(item, dict):
                        yield name, item


def _read(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".json"):
                        yield f"{path}:{name}", archive.read(name)
        elif path.suffix == ".json" and path.is_file():
            yield str(path), path.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _packages_by_name(inventory: Inventory) -> dict[tuple[str, str], Package]:
    out: dict[tuple[str, str], Package] = {}
    for package in inventory.packages:
        for ecosystem in _ECOSYSTEM.get(package.manager, ()):
            out[ecosystem, _normal(package.name)] = package
    return out


def _match_osv(
    document: dict[str, Any], by_name: dict[tuple[str, str], Package], file: str, counts: dict[str, list[str]]
) -> Iterator[Vulnerability]:
    modified = str(document.get("modified", ""))[:10]
    if document.get("withdrawn"):
        return
    for affected in document.get("affected", []):
        package = affected.get("package", {})
        ecosystem = str(package.get("ecosystem", ""))
        base = ecosystem.split(":")[0]
        counts.setdefault(base, []).append(modified)
        mine = by_name.get((base, _normal(str(package.get("name", "")))))
        if mine is None or not mine.version:
            continue
        state, fixed = _osv_state(affected, mine.version, ecosystem)
        if state is not False:
            yield Vulnerability(
                id=str(document.get("id", "?")), aliases=tuple(document.get("aliases", ())), component=mine.name,
                version=mine.version, status="affected" if state else "undecided",
                summary=str(document.get("summary") or document.get("details", ""))[:200], fixed=fixed,
                modified=modified, file=file,
            )  # fmt: skip


def _osv_state(affected: dict[str, Any], version: str, ecosystem: str) -> tuple[bool | None, str]:
    """Affected, not, or undecided (None); and the versions that fix it."""
    fixed = [event["fixed"] for rng in affected.get("ranges", []) if rng.get("type") != "GIT"
             for event in rng.get("events", []) if "fixed" in event]  # fmt: skip
    if version in affected.get("versions", []):
        return True, ", ".join(fixed)
    order = key_for(ecosystem)
    states = [
        in_events(version, rng.get("events", []), order)
        for rng in affected.get("ranges", [])
        if rng.get("type") != "GIT"
    ]
    if any(states):
        return True, ", ".join(fixed)
    return (None if None in states else False), ", ".join(fixed)


def driver_versions(inventory: Inventory) -> dict[str, str]:
    """Driver version by vendor, from the kernel's files, modules and vendor tools."""
    out: dict[str, str] = {}
    text = inventory.versions.get("/proc/driver/nvidia/version", "")
    if found := re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text):
        out["nvidia"] = found.group(1)
    text = inventory.versions.get("/usr/local/Ascend/driver/version.info", "")
    if found := re.search(r"Version=([\w.]+)", text):
        out["ascend"] = found.group(1)
    for vendor, word in (("amd", "amdgpu"), ("cambricon", "cambricon")):
        for module in inventory.modules:
            if word in module.path and module.version:
                out[vendor] = module.version
    return out


def _match_csaf(
    document: dict[str, Any], drivers: dict[str, str], file: str, counts: dict[str, list[str]]
) -> Iterator[Vulnerability]:
    head = document["document"]
    publisher = str(head.get("publisher", {}).get("name", "")).lower()
    date = str(head.get("tracking", {}).get("current_release_date", ""))[:10]
    products = dict(_products(document.get("product_tree", {}).get("branches", []), ()))
    vendors = [
        v for v in _DRIVER_WORDS if v in publisher or any(v in " ".join(path).lower() for path in products.values())
    ]
    if "huawei" in publisher:
        vendors.append("ascend")
    for vendor in set(vendors):
        counts.setdefault(vendor, []).append(date)
        if vendor not in drivers:
            continue
        for flaw in document.get("vulnerabilities", []):
            state, product = _csaf_state(flaw, products, drivers[vendor], _DRIVER_WORDS[vendor])
            if state is not False:
                yield Vulnerability(
                    id=str(flaw.get("cve") or head.get("tracking", {}).get("id", "?")),
                    aliases=(str(head.get("tracking", {}).get("id", "")),), component=product,
                    version=drivers[vendor], status="affected" if state else "undecided",
                    summary=str(flaw.get("title") or head.get("title", ""))[:200], fixed="", modified=date, file=file,
                )  # fmt: skip


def _products(branches: list[dict[str, Any]], path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Product ids with the names that lead to them."""
    for branch in branches:
        here = (*path, str(branch.get("name", "")))
        if product := branch.get("product"):
            yield str(product.get("product_id")), here
        yield from _products(branch.get("branches", []), here)


def _csaf_state(
    flaw: dict[str, Any], products: dict[str, tuple[str, ...]], version: str, words: re.Pattern[str]
) -> tuple[bool | None, str]:
    """Whether a driver version is among the affected products; undecided where a range is not understood."""
    undecided = ""
    for product in flaw.get("product_status", {}).get("known_affected", []):
        path = products.get(product, ())
        if not words.search(" ".join(path)):
            continue
        state = in_text_range(version, path[-1])
        if state:
            return True, " / ".join(path[:-1])
        if state is None:
            undecided = undecided or " / ".join(path)
    return (None, undecided) if undecided else (False, "")


def _feeds(
    inventory: Inventory, by_name: dict[tuple[str, str], Package], drivers: dict[str, str], counts: dict[str, list[str]]
) -> tuple[Feed, ...]:
    out: list[Feed] = []
    managers = {package.manager for package in inventory.packages}
    for manager, ecosystems in _ECOSYSTEM.items():
        if manager not in managers:
            continue
        dates = [date for ecosystem in ecosystems for date in counts.get(ecosystem, [])]
        number = sum(package.manager == manager for package in inventory.packages)
        out.append(Feed(name=f"{manager} packages", state="checked" if dates else "no feed", advisories=len(dates),
                        newest=max(dates, default=""), components=number))  # fmt: skip
    for vendor in inventory.vendors:
        dates = counts.get(vendor, [])
        state = "no feed" if not dates else ("checked" if vendor in drivers else "driver version unknown")
        out.append(Feed(name=f"{vendor} driver", state=state, advisories=len(dates), newest=max(dates, default=""),
                        components=1 if vendor in drivers else 0))  # fmt: skip
    return tuple(out)
