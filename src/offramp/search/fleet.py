"""Fleet: from the rate of one replica to whole servers that carry a demand with its peak and spares."""

from __future__ import annotations

import math

from offramp.core.record import Record


class Fleet(Record):
    """Chips for a demand.

    Attributes:
        replicas: spares included.
        servers: whole servers.
        chips: chips as sold in those servers.
        carrying: replicas that carry the peak.
        mean_load: mean requests per second of one replica, spares included.
        peak_load: requests per second of one carrying replica at the peak.
    """

    replicas: int
    servers: int
    chips: int
    carrying: int
    mean_load: float
    peak_load: float


def fleet_for(
    rate: float, *, packages: float, per_server: int, mean: float, peak: float, spares: int = 0, least: int = 1
) -> Fleet | None:
    """Whole servers for a demand; None where a replica carries nothing.

    Args:
        rate: requests per second of one replica within the SLO.
        packages: chips of one replica.
        per_server: chips of one server.
        mean, peak: of the demand, requests per second.
        spares: replicas beyond those that carry the peak.
        least: never fewer replicas than this.
    """
    if rate <= 0.0 or packages <= 0.0:
        return None
    carrying = math.ceil(peak / rate - 1e-9) if peak > 0 else 0
    replicas = max(carrying + (spares if carrying else 0), least)
    if packages <= per_server:
        servers = math.ceil(replicas / max(int(per_server / packages + 1e-9), 1))
    else:
        servers = replicas * math.ceil(packages / per_server - 1e-9)
    return Fleet(
        replicas=replicas, servers=servers, chips=servers * per_server, carrying=carrying,
        mean_load=mean / replicas, peak_load=peak / max(carrying, 1),
    )  # fmt: skip
