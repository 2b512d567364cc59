"""Usable bandwidth of a device in a group, by topology.

A switch gives each device all its links whatever the group. On a full mesh a group of ``n`` uses ``n - 1`` of a
device's links: a pair on the 910B's seven-link mesh has one seventh. A group larger than the scale-up domain works in
two stages, inside and across.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offramp.cost.device import Fabric

F8 = npt.NDArray[np.float64]


def usable_bytes_per_s(fabric: Fabric, ranks: F8) -> F8:
    """Scale-up bandwidth of one device, one direction, in a group of ``ranks``. Same shape as ``ranks``."""
    inside = np.minimum(ranks, float(fabric.domain_devices))
    if fabric.topology == "full-mesh":
        usable = np.minimum(np.maximum(inside - 1.0, 1.0) * fabric.link_bytes_per_s, fabric.device_bytes_per_s)
    else:
        usable = np.full_like(inside, fabric.device_bytes_per_s)
    if fabric.package_devices > 1 and fabric.package_bytes_per_s > 0:
        usable = np.where(inside <= fabric.package_devices, fabric.package_bytes_per_s, usable)
    return np.maximum(usable, 1.0)
