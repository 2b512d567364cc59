"""Power and energy: idle plus a share of the rest by how busy arithmetic and memory are; host; cooling."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.cost.device import Device

F8 = npt.NDArray[np.float64]

# Shares of (TDP - idle) that saturated arithmetic and saturated memory draw. Assumed (compute 0.75 to 1.0, memory 0.4 to
# 0.7): no row with measured serving power was at hand to check them.
COMPUTE_POWER_SHARE: Final = (0.75, 0.9, 1.0)
MEMORY_POWER_SHARE: Final = (0.4, 0.55, 0.7)


def device_power_w(device: Device, *, compute_share: F8, memory_share: F8, case: int = 1) -> F8:
    """Mean power of one device.

    Args:
        device: with TDP and idle power.
        compute_share, memory_share: share of time that arithmetic, memory is the busy side (0-1).
        case: 0 low, 1 mid, 2 high coefficients.
    """
    active = COMPUTE_POWER_SHARE[case] * compute_share + MEMORY_POWER_SHARE[case] * memory_share
    return device.idle_w + (device.tdp_w - device.idle_w) * np.clip(active, 0.0, 1.0)


def site_power_w(device_w: F8, *, devices: F8 | float, host_w_per_device: float, pue: float) -> F8:
    """Power at the meter: devices and hosts times PUE."""
    return (device_w + host_w_per_device) * devices * pue
