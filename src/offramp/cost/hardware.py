"""From a catalogue chip in a system to a :class:`~offramp.cost.device.Device`: per torch device, SI, one direction."""

from __future__ import annotations

import datetime as dt
from typing import Final

import numpy as np

from offramp.catalog import Catalog, Chip, System
from offramp.core.errors import CatalogError
from offramp.core.result import FigureLog
from offramp.core.units import GIGA
from offramp.cost.device import Device, Fabric, Num

DTYPES: Final = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")

IDLE_SHARE: Final = 0.18
"""Idle power over TDP where a chip has no idle figure. Assumed (0.10 to 0.25): H100 SXM idles near 70 to 120 W of 700 W."""
PCIE_BYTES_PER_S: Final = 32.0 * GIGA
"""Peer traffic over PCIe 4.0 x16, one direction, where a chip has no link figure. Assumed (16e9 to 64e9)."""
NIC_BYTES_PER_S: Final = 25.0 * GIGA
"""One 200 Gb/s port per package, where a system has no NIC figure. Assumed (12.5e9 to 50e9)."""
DRIVER_SHARE: Final = 0.985
"""Capacity that a driver reports over nominal GiB where no ``usable_memory`` figure exists. Assumed (0.97 to 1.0)."""


def device_of(
    chip: Chip, system: System | None, *, as_of: dt.date | None = None, log: FigureLog | None = None,
    overrides: dict[str, Num] | None = None,
) -> Device:  # fmt: skip
    """One torch device of a chip as its system wires it.

    Args:
        chip: catalogue chip; its figures are per package.
        system: server or pod; None assumes no scale-up link beyond the package.
        as_of: use only figures known then.
        log: collects the figures used.
        overrides: SI values per *package* by figure name that replace or fill a figure (bounds mode, what-if).

    Raises:
        CatalogError: a figure that computing needs has no source.
    """
    fixed = overrides or {}
    devices = float(chip.devices)

    def number(name: str, default: Num | None = None) -> Num:
        if name in fixed:
            return fixed[name]
        found = chip.figure(name, as_of, log)
        if found is not None:
            return found.si
        if default is None:
            raise CatalogError(f"{chip.id} has no sourced {name}", where=chip.id, mend="Use bounds mode.")
        return default

    peaks: dict[str, Num] = {}
    for dtype in DTYPES:
        value = number(f"peak_{dtype}", 0.0)
        if not isinstance(value, float) or value > 0:
            peaks[dtype] = value / devices
    if "bf16" not in peaks and "fp16" in peaks:
        peaks["bf16"] = peaks["fp16"]
    if "bf16" not in peaks:
        raise CatalogError(f"{chip.id} has no sourced peak_bf16", where=chip.id, mend="Use bounds mode.")
    memory = chip.figure("usable_memory", as_of, log)
    capacity = memory.si if memory else float(number("memory_capacity")) * DRIVER_SHARE
    tdp = float(number("tdp", 0.0))
    idle = chip.figure("idle_power", as_of, log)
    return Device(
        chip=chip.id, family=chip.family, vendor=chip.vendor, peak_flop_per_s=peaks,
        memory_bytes_per_s=number("memory_bandwidth") / devices, memory_bytes=capacity / devices,
        fabric=fabric_of(chip, system, as_of=as_of, log=log, injection=number("scaleup_bandwidth", 0.0)),
        tdp_w=tdp / devices, idle_w=(idle.si if idle else tdp * IDLE_SHARE) / devices,
        devices_per_package=chip.devices,
    )  # fmt: skip


def fabric_of(
    chip: Chip, system: System | None, *, injection: Num, as_of: dt.date | None, log: FigureLog | None
) -> Fabric:
    """Links of one device: scale-up by the system's topology, network by its NICs."""
    devices = chip.devices
    per_device = float(np.mean(injection)) / devices
    pcie = chip.figure("host_link_bandwidth", as_of, log)
    inside = chip.figure("device_link_bandwidth", as_of, log)
    if system is None or system.topology == "none" or per_device <= 0:
        slow = per_device or (pcie.si if pcie else PCIE_BYTES_PER_S)
        node = system.packages_per_node * devices if system else devices
        network = _network(chip, system, as_of, log)
        return Fabric(
            topology="none", domain_devices=node, node_devices=node, device_bytes_per_s=slow, link_bytes_per_s=slow,
            scaleout_bytes_per_s=network, package_devices=devices, package_bytes_per_s=inside.si if inside else 0.0,
        )  # fmt: skip
    link = system.figure("link_bandwidth", as_of, log)
    node = system.packages_per_node * devices
    single = link.si if link else per_device / max(system.links_per_device, 1)
    return Fabric(
        topology=system.topology, domain_devices=node * system.nodes_per_domain, node_devices=node,
        device_bytes_per_s=per_device, link_bytes_per_s=single, scaleout_bytes_per_s=_network(chip, system, as_of, log),
        package_bytes_per_s=inside.si if inside else 0.0, package_devices=devices,
    )  # fmt: skip


def _network(chip: Chip, system: System | None, as_of: dt.date | None, log: FigureLog | None) -> float:
    nic = system.figure("nic_bandwidth", as_of, log) if system else None
    if nic is None:
        nic = chip.figure("scaleout_bandwidth", as_of, log)
    return (nic.si if nic else NIC_BYTES_PER_S) / chip.devices


def system_of(catalog: Catalog, chip: Chip, system_id: str = "") -> System | None:
    """The named system, else the chip's default, else None."""
    if system_id:
        return catalog.system(system_id)
    return catalog.system(chip.systems[0]) if chip.systems else None
