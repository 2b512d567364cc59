"""Device: what the cost model needs to know of one torch device (a 910C package is two), in SI units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
Num = float | F8
Topology = Literal["switch", "full-mesh", "hierarchical", "torus", "none"]


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """Links of one device.

    Attributes:
        topology: of the scale-up domain.
        domain_devices: devices that the scale-up links reach.
        node_devices: devices of one server.
        device_bytes_per_s: all scale-up links of one device together, one direction.
        link_bytes_per_s: one link, one direction; what a pair gets on a full mesh.
        package_bytes_per_s: between the dies of one package, one direction; 0 where a package is one device.
        package_devices: devices in one package.
        scaleout_bytes_per_s: network of one device, one direction.
    """

    topology: Topology
    domain_devices: int
    node_devices: int
    device_bytes_per_s: float
    link_bytes_per_s: float
    scaleout_bytes_per_s: float
    package_bytes_per_s: float = 0.0
    package_devices: int = 1


@dataclass(frozen=True, kw_only=True)
class Device:
    """One torch device. Numbers may be scalars or ``[draws, 1]`` arrays where the fact itself is uncertain.

    Attributes:
        chip: catalogue id.
        family: generation ("nvidia-hopper", "huawei-a2"); efficiencies are pooled by it.
        vendor: "nvidia", "huawei" ...
        peak_flop_per_s: dense peak by dtype; a dtype that is absent is not supported.
        memory_bytes_per_s: HBM bandwidth.
        memory_bytes: capacity as the driver reports it.
        fabric: links.
        tdp_w, idle_w: board power at the limit and idle.
        devices_per_package: torch devices in one package as sold.
    """

    chip: str
    family: str
    vendor: str
    peak_flop_per_s: dict[str, Num]
    memory_bytes_per_s: Num
    memory_bytes: float
    fabric: Fabric
    tdp_w: float = 0.0
    idle_w: float = 0.0
    devices_per_package: int = 1

    def compute_dtype(self, weights: str, activations: str) -> str:
        """The dtype a GEMM runs in: the activations' where the device has it, else BF16 (then FP16)."""
        for dtype in (activations, "bf16", "fp16"):
            if dtype in self.peak_flop_per_s:
                return dtype
        return weights
