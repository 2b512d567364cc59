"""Collectives: latency plus bytes over the bandwidth that the topology leaves usable.

A switch gives each device all its links whatever the group. On a full mesh a group of ``n`` uses ``n - 1`` of a
device's links: a pair on the 910B's seven-link mesh has one seventh. A group larger than the scale-up domain works in
two stages, inside and across.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.cost.device import Fabric

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LinkQuality:
    """Fitted quality of a fabric and its library.

    Attributes:
        efficiency: share of the usable bandwidth that large messages reach. [draws, 1]
        alltoall_efficiency: the same for all-to-all. [draws, 1]
        latency_s: of one small all-reduce over eight devices. [draws, 1]
        alltoall_latency_s: of one small dispatch or combine over eight devices. [draws, 1]
        scaleout_efficiency: share of the network's bandwidth. [draws, 1]
        scaleout_latency_s: added where a group spans scale-up domains. [draws, 1]
    """

    efficiency: F8
    alltoall_efficiency: F8
    latency_s: F8
    alltoall_latency_s: F8
    scaleout_efficiency: F8
    scaleout_latency_s: F8


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


def _domains(fabric: Fabric, ranks: F8) -> tuple[F8, F8]:
    """Ranks inside one scale-up domain, and the number of domains that the group spans."""
    inside = np.minimum(ranks, float(max(fabric.domain_devices, 1)))
    return inside, np.ceil(ranks / inside)


def all_reduce_s(fabric: Fabric, quality: LinkQuality, *, payload_bytes: F8, ranks: F8) -> F8:
    """Seconds of an all-reduce of ``payload_bytes`` per device. [draws, n]

    Source: reduce-scatter and all-gather each move (n-1)/n of the payload over one device's links.
    """
    inside, domains = _domains(fabric, ranks)
    near = 2.0 * (inside - 1.0) / inside * payload_bytes / (usable_bytes_per_s(fabric, ranks) * quality.efficiency)
    far_payload = payload_bytes / inside
    far = 2.0 * (domains - 1.0) / domains * far_payload / (_network(fabric) * quality.scaleout_efficiency)
    hops = np.log2(np.maximum(inside, 2.0)) / 3.0
    latency = quality.latency_s * np.where(inside > 1, 0.5 + 0.5 * hops, 0.0)
    latency = latency + quality.scaleout_latency_s * np.where(domains > 1, 1.0 + np.log2(np.maximum(domains, 1.0)), 0.0)
    return np.where(ranks > 1, near + far + latency, 0.0)


def gather_s(fabric: Fabric, quality: LinkQuality, *, payload_bytes: F8, ranks: F8) -> F8:
    """Seconds of an all-gather (or reduce-scatter) whose full result is ``payload_bytes``. [draws, n]"""
    return 0.5 * all_reduce_s(fabric, quality, payload_bytes=payload_bytes, ranks=ranks)


def all_to_all_s(fabric: Fabric, quality: LinkQuality, *, sent_bytes: F8, ranks: F8) -> F8:
    """Seconds of an all-to-all in which each device sends ``sent_bytes`` in total. [draws, n]

    The share that stays inside the scale-up domain and the share that leaves it travel at the same time.
    """
    inside, domains = _domains(fabric, ranks)
    away = 1.0 - inside / ranks
    near_bytes = sent_bytes * np.maximum(inside - 1.0, 0.0) / np.maximum(ranks, 1.0)
    near = near_bytes / (usable_bytes_per_s(fabric, ranks) * quality.alltoall_efficiency)
    far = sent_bytes * away / (_network(fabric) * quality.scaleout_efficiency)
    latency = quality.alltoall_latency_s * (0.5 + np.log2(np.maximum(ranks, 2.0)) / 6.0)
    latency = latency + quality.scaleout_latency_s * (domains > 1)
    return np.where(ranks > 1, np.maximum(near, far) + latency, 0.0)


def point_to_point_s(fabric: Fabric, quality: LinkQuality, *, sent_bytes: F8, crosses_nodes: bool) -> F8:
    """Seconds to send ``sent_bytes`` from one device to another (one link of a mesh). [draws, n]"""
    if crosses_nodes and fabric.domain_devices <= fabric.node_devices:
        return sent_bytes / (_network(fabric) * quality.scaleout_efficiency) + quality.scaleout_latency_s
    pair = fabric.link_bytes_per_s if fabric.topology == "full-mesh" else fabric.device_bytes_per_s
    return sent_bytes / (max(pair, 1.0) * quality.efficiency) + quality.latency_s


def _network(fabric: Fabric) -> float:
    return max(fabric.scaleout_bytes_per_s, 1.0)
