"""Draft of a generated study: what was found, where, and what no source said."""

from __future__ import annotations

from offramp import intake
from offramp.core.record import Record


class FleetPart(Record):
    """Chips at one place.

    Attributes:
        chip: catalogue id; "" where unknown.
        product: name in the source.
        count: packages as sold; None where that is not clear.
        devices: as the source counts.
        site: id of its site.
        source: where it was read.
        notes: doubts.
    """

    chip: str
    product: str
    count: int | None
    devices: int
    site: str
    source: str
    notes: tuple[str, ...] = ()


class WorkPart(Record):
    """A served model with all that is known of it.

    Attributes:
        id: for the study.
        model: preset id; "" where none fits.
        published: name in the sources.
        traffic: from metrics.
        bench: a run that gives its lengths where metrics do not.
        deployments: that serve it.
        missing: what an assessment still needs, with how to find it.
    """

    id: str
    model: str
    published: str
    traffic: intake.Traffic | None = None
    bench: intake.Bench | None = None
    deployments: tuple[intake.Deployment, ...] = ()
    missing: tuple[str, ...] = ()


class Unknown(Record):
    """Something that no source said.

    Attributes:
        path: place in the study.
        what: what is not known.
        matters: why it is asked for.
    """

    path: str
    what: str
    matters: str


class Draft(Record):
    """All that goes into the file."""

    name: str
    sources: tuple[str, ...]
    quarter: str
    sites: tuple[tuple[str, str], ...]
    fleet: tuple[FleetPart, ...]
    works: tuple[WorkPart, ...]
    baseline: str
    suggested: tuple[str, ...]
    orders: tuple[dict[str, str], ...]
    prices: tuple[dict[str, str], ...]
    currency: str
    unknown: tuple[Unknown, ...]
    notes: tuple[str, ...]
