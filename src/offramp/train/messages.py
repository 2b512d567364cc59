"""Seconds that collectives of a training step take at the links' nominal speed, inside and across scale-up domains."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offramp.cost.collectives import usable_bytes_per_s
from offramp.cost.device import Fabric

F8 = npt.NDArray[np.float64]


def inside(fabric: Fabric, ranks: F8, stride: F8) -> F8:
    """Ranks of a group that share a scale-up domain, where neighbours in the group lie ``stride`` devices apart."""
    return np.clip(np.floor(fabric.domain_devices / np.maximum(stride, 1.0)), 1.0, ranks)


def gather_s(fabric: Fabric, ranks: F8, stride: F8, payload_bytes: F8) -> F8:
    """Seconds of an all-gather or reduce-scatter of ``payload_bytes`` (the whole, on each rank).

    Ring inside the domain, then across domains with every device carrying its own shard over its own NIC.

    Source: alpha-beta model of ring collectives (Thakur et al. 2005), two levels.
    """
    near = inside(fabric, ranks, stride)
    far = ranks / near
    up = usable_bytes_per_s(fabric, near)
    within = (near - 1.0) / near * payload_bytes / up
    across = (far - 1.0) / far * payload_bytes / near / fabric.scaleout_bytes_per_s
    return within + across


def reduce_s(fabric: Fabric, ranks: F8, stride: F8, payload_bytes: F8) -> F8:
    """Seconds of an all-reduce: a reduce-scatter and an all-gather."""
    return 2.0 * gather_s(fabric, ranks, stride, payload_bytes)


def all_to_all_s(
    fabric: Fabric, ranks: F8, token_bytes: F8, *, picks: float, groups: int = 0, group_limit: int = 0
) -> tuple[F8, F8]:
    """Seconds of one dispatch (or combine) of expert parallelism, inside domains and across them.

    A token goes once to each node that holds one of its experts and is spread inside over the scale-up links.

    Args:
        fabric: links.
        ranks: EP degree; neighbours are adjacent devices.
        token_bytes: bytes of all tokens of a rank, one copy.
        picks: experts per token.
        groups, group_limit: routing groups, and most of them that one token uses; 0 is any. A group that lies on
            several nodes limits nothing among them.
    """
    near = inside(fabric, ranks, np.ones_like(ranks))
    nodes = ranks / near
    touched = nodes * (1.0 - (1.0 - 1.0 / nodes) ** picks)
    if groups and group_limit:
        most = group_limit * np.maximum(nodes / groups, 1.0)
        touched = np.minimum(touched, most * (1.0 - (1.0 - 1.0 / most) ** picks))
    across = np.where(nodes > 1.0, touched * (1.0 - 1.0 / nodes) * token_bytes / fabric.scaleout_bytes_per_s, 0.0)
    copies = ranks * (1.0 - (1.0 - 1.0 / ranks) ** picks)
    within = copies * (near - 1.0) / near * token_bytes / usable_bytes_per_s(fabric, near)
    return np.where(near > 1.0, within, 0.0), across


def hop_s(fabric: Fabric, stride: F8, payload_bytes: F8) -> F8:
    """Seconds of sending to the next pipeline stage, ``stride`` devices away: over the NIC once it leaves the
    domain.
    """
    near = stride < fabric.domain_devices
    up = usable_bytes_per_s(fabric, np.full_like(stride, 2.0))
    return payload_bytes / np.where(near, up, fabric.scaleout_bytes_per_s)
