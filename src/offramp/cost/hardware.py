"""From a catalogue chip in a system to a :class:`~offramp.cost.device.Device`: per torch device, SI, one direction."""

from __future__ import annotations

import datetime as dt
from typing import Final

import numpy as np

from offramp.catalog import Catalog, Chip, System
from offramp.core.errors import CatalogError
from offramp.core.figure import Figure
from offramp.core.result import FigureLog
from offramp.cost.device import Device, Fabric, Num

DTYPES: Final = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")

_KNOWN: Final = dt.date(2022, 1, 1)


def _assumed(value: float, unit: str, low: float, high: float, why: str) -> Figure:
    return Figure(
        value=value, unit=unit, source=f"assumed: {why}", as_of=_KNOWN, confidence="assumed", low=low, high=high
    )


DEFAULTS: Final = {
    "idle_share": _assumed(
        18.0,
        "%",
        10.0,
        25.0,
        "idle power over TDP where a chip has no idle figure; an H100 SXM idles near 70 to 120 W of 700 W",
    ),
    "pcie_bandwidth": _assumed(
        32.0, "GB/s", 16.0, 64.0, "peer traffic over PCIe 4.0 x16, one direction, where a chip has no link figure"
    ),
    "nic_bandwidth": _assumed(
        25.0, "GB/s", 12.5, 50.0, "one 200 Gb/s port per package, one direction, where a system has no NIC figure"
    ),
    "driver_share": _assumed(
        98.5, "%", 97.0, 100.0, "capacity that a driver reports over nominal, where no printout gives it"
    ),
}
"""What stands in for a figure that a chip or system lacks; each use is logged under ``cost/default/<name>``."""


def default(name: str, log: FigureLog | None) -> float:
    """The SI value of a default, logged."""
    figure = DEFAULTS[name]
    return (log.use(f"cost/default/{name}", figure) if log is not None else figure).si


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
    capacity = memory.si if memory else float(number("memory_capacity")) * default("driver_share", log)
    tdp = float(number("tdp", 0.0))
    idle = chip.figure("idle_power", as_of, log)
    return Device(
        chip=chip.id, family=chip.family, vendor=chip.vendor, peak_flop_per_s=peaks,
        memory_bytes_per_s=number("memory_bandwidth") / devices, memory_bytes=capacity / devices,
        fabric=fabric_of(chip, system, as_of=as_of, log=log, injection=number("scaleup_bandwidth", 0.0)),
        tdp_w=tdp / devices, idle_w=(idle.si if idle else tdp * default("idle_share", log)) / devices,
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
        slow = per_device or (pcie.si if pcie else default("pcie_bandwidth", log))
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
    return (nic.si if nic else default("nic_bandwidth", log)) / chip.devices


def system_of(catalog: Catalog, chip: Chip, system_id: str = "") -> System | None:
    """The named system, else the chip's default, else None."""
    if system_id:
        return catalog.system(system_id)
    return catalog.system(chip.systems[0]) if chip.systems else None
