"""Together: what workloads on one chip take when their replicas share servers, beside what each takes with its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offramp.app.rollup import Row, short_name
from offramp.catalog import Catalog
from offramp.core.record import Record
from offramp.cost.hardware import system_of


class Need(Record):
    """Replicas of one workload.

    Attributes:
        workload: id.
        replicas: how many, spares included.
        packages: chips of one.
        chips: in servers of their own.
    """

    workload: str
    replicas: int
    packages: float
    chips: int


def servers_for(sizes: Sequence[float], per_server: int) -> int:
    """Servers that hold replicas of these sizes: first fit, largest first, which is exact where sizes divide one another.

    Args:
        sizes: chips of each replica; one larger than a server takes whole ones.
        per_server: chips of a server.
    """
    free: list[float] = []
    whole = 0
    for size in sorted(sizes, reverse=True):
        if size > per_server:
            whole += -(-int(size + 0.5) // per_server)
            continue
        for i, room in enumerate(free):
            if room >= size - 1e-9:
                free[i] = room - size
                break
        else:
            free.append(per_server - size)
    return whole + len(free)


def need_of(workload: str, row: Row) -> Need | None:
    """The replicas of the middle fleet; None where the chip does not carry the workload."""
    case = row.cell.main
    if row.status != "carries" or case is None or case.loaded is None:
        return None
    fleet = case.loaded.fleet
    return Need(workload=workload, replicas=fleet.replicas, packages=case.candidate.packages, chips=fleet.chips)


def together(rows_of: Sequence[tuple[str, Sequence[Row]]], catalog: Catalog) -> list[dict[str, Any]]:
    """For every chip that carries two workloads or more: chips in servers of their own, and in shared ones.

    Args:
        rows_of: workload ids with their rows.
        catalog: for the servers.
    """
    needs: dict[str, list[Need]] = {}
    known: dict[str, Row] = {}
    for workload, rows in rows_of:
        for row in rows:
            need = need_of(workload, row)
            if need is not None:
                needs.setdefault(row.chip.id, []).append(need)
                known[row.chip.id] = row
    found: list[dict[str, Any]] = []
    for chip_id, mine in needs.items():
        if len(mine) < 2:
            continue
        row = known[chip_id]
        case = row.cell.main
        pool = case.candidate.pool if case else None
        system = system_of(catalog, row.chip, pool.system if pool else "")
        per_server = system.packages_per_node if system else 1
        sizes = [need.packages for need in mine for _ in range(need.replicas)]
        apart, shared = sum(need.chips for need in mine), servers_for(sizes, per_server) * per_server
        name = short_name(row.chip.name)
        names = [need.workload for need in mine]
        text = f"{', '.join(names[:-1])} and {names[-1]} together take {shared:,} {name} when they share servers"
        text += f", {apart:,} when each has its own." if apart > shared else ", as many as apart."
        found.append({
            "chip": chip_id, "workloads": names, "chips_apart": apart, "chips_shared": shared, "text": text,
        })  # fmt: skip
    return found
