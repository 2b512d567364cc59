"""System: a server or pod that chips are sold in, and how its chips are wired."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar, Literal

from offramp.catalog.figures import Sourced
from offramp.core.figure import Figure

Topology = Literal["switch", "full-mesh", "hierarchical", "torus", "none"]


class System(Sourced):
    """A server or pod.

    Attributes:
        chips: ids of chips it is sold with.
        packages_per_node: accelerator packages in one server.
        nodes_per_domain: servers that share one scale-up domain.
        topology: wiring inside the scale-up domain. "switch": any pair gets the full injection bandwidth.
            "full-mesh": a pair gets one link. "hierarchical": a mesh inside the node, a fabric between nodes.
            "none": PCIe only.
        links_per_device: links of one torch device to its peers (meshes), else 0.
        figures: host_power and network_power (per node), nic_bandwidth (per package, one direction),
            link_bandwidth (one link, one direction), prices.
    """

    SHELF: ClassVar[str] = "systems"

    name: str
    vendor: str
    chips: tuple[str, ...]
    packages_per_node: int
    topology: Topology
    nodes_per_domain: int = 1
    links_per_device: int = 0
    aliases: tuple[str, ...] = ()
    known: dt.date | None = None
    status: str = ""
    notes: tuple[str, ...] = ()

    @property
    def packages_per_domain(self) -> int:
        """Accelerator packages in one scale-up domain."""
        return self.packages_per_node * self.nodes_per_domain

    @property
    def link_bandwidth(self) -> Figure | None:
        """One link of a mesh, one direction; None for switched systems."""
        return self.figure("link_bandwidth")
