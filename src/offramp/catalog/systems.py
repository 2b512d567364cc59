"""System: a server or pod that chips are sold in, and how its chips are wired."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from offramp.catalog.figures import known_figures
from offramp.core.errors import CatalogError
from offramp.core.figure import Figure
from offramp.core.record import Record
from offramp.core.result import FigureLog

Topology = Literal["switch", "full-mesh", "hierarchical", "torus", "none"]


class System(Record):
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

    id: str
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
    figures: dict[str, tuple[Figure, ...]] = {}

    @property
    def packages_per_domain(self) -> int:
        """Accelerator packages in one scale-up domain."""
        return self.packages_per_node * self.nodes_per_domain

    @property
    def link_bandwidth(self) -> Figure | None:
        """One link of a mesh, one direction; None for switched systems."""
        return self.figure("link_bandwidth")

    def figure(self, name: str, as_of: dt.date | None = None, log: FigureLog | None = None) -> Figure | None:
        """The preferred figure of that name that was known on ``as_of``, or None; noted in ``log``."""
        sources = known_figures(self.figures, as_of).get(name) if as_of else self.figures.get(name)
        if not sources:
            return None
        return log.use(self.figure_id(name), sources[0]) if log is not None else sources[0]

    def require(self, name: str, as_of: dt.date | None = None, log: FigureLog | None = None) -> Figure:
        """The preferred figure of that name.

        Raises:
            CatalogError: no source gives it.
        """
        found = self.figure(name, as_of, log)
        if found is None:
            raise CatalogError(f"{self.id} has no sourced {name}", where=self.id)
        return found

    def figure_id(self, name: str) -> str:
        """Stable address of a figure ("systems/hgx-h20#host_power")."""
        return f"systems/{self.id}#{name}"
