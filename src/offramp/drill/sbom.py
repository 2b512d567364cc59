"""The inventory as a CycloneDX 1.6 bill of materials, with hashes."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any
from urllib.parse import quote

from offramp import __version__
from offramp.drill.inventory import FileFacts, Inventory, Package

_PURL = {"pip": "pypi", "dpkg": "deb/debian", "rpm": "rpm"}


def cyclonedx(inventory: Inventory, *, name: str, when: dt.datetime) -> dict[str, Any]:
    """A CycloneDX 1.6 document as plain data; the serial number follows from the contents."""
    components = [_package(package) for package in inventory.packages]
    components += [_file(file, "file") for file in inventory.files]
    components += [_file(file, "device-driver") for file in inventory.modules]
    components += [_file(file, "firmware") for file in inventory.firmware]
    components.append({"type": "operating-system", "bom-ref": "os", "name": inventory.os_name,
                       "version": inventory.kernel})  # fmt: skip
    unique = {component["bom-ref"]: component for component in components}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, repr(sorted((ref, str(c)) for ref, c in unique.items())))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}", "version": 1,
        "metadata": {
            "timestamp": when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "tools": {"components": [{"type": "application", "name": "offramp", "version": __version__}]},
            "component": {"type": "application", "bom-ref": "workload", "name": name},
        },
        "components": list(unique.values()),
        "dependencies": [{"ref": "workload", "dependsOn": sorted(unique)}],
    }  # fmt: skip


def purl(package: Package) -> str:
    """The package URL."""
    name = package.name.lower().replace("_", "-") if package.manager == "pip" else package.name
    version = f"@{quote(package.version, safe='.')}" if package.version else ""
    return f"pkg:{_PURL.get(package.manager, 'generic')}/{quote(name)}{version}"


def _package(package: Package) -> dict[str, Any]:
    out: dict[str, Any] = {
        "type": "library", "bom-ref": purl(package), "name": package.name, "purl": purl(package),
        "scope": "required" if package.mapped else "optional",
    }  # fmt: skip
    return out | ({"version": package.version} if package.version else {})


def _file(file: FileFacts, kind: str) -> dict[str, Any]:
    out: dict[str, Any] = {"type": kind, "bom-ref": f"file:{file.path}", "name": file.path}
    if file.sha256:
        out["hashes"] = [{"alg": "SHA-256", "content": file.sha256}]
    if file.version:
        out["version"] = file.version
    properties = {
        "offramp:owner": file.owner, "offramp:embedded-hosts": " ".join(file.hosts),
        "offramp:network-symbols": " ".join(file.symbols),
    }  # fmt: skip
    listed = [{"name": key, "value": value} for key, value in properties.items() if value]
    return out | ({"properties": listed} if listed else {})
