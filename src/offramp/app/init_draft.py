"""Draft of a generated study: what was found, where, and what no source said."""

from __future__ import annotations

from offramp import intake
from offramp.core.record import Record


class Sources(Record):
    """What a study is drafted from: files, and the address of a server; "" where there is none.

    Attributes:
        kubectl: nodes (and deployments) as kubectl prints them in JSON.
        deployments: deployments, where they are in a file of their own.
        prometheus: a dump, or the address of a server.
        bench: benchmark files of any known tool.
        prices: price list (CSV, XLSX) or OpenCost export (JSON).
        orders: open orders (CSV, XLSX).
    """

    kubectl: str = ""
    deployments: str = ""
    prometheus: str = ""
    bench: tuple[str, ...] = ()
    prices: str = ""
    orders: str = ""

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """What each given source is, and the source."""
        every = (
            ("nodes", self.kubectl), ("deployments", self.deployments), ("metrics", self.prometheus),
            *(("benchmark", file) for file in self.bench), ("prices", self.prices), ("orders", self.orders),
        )  # fmt: skip
        return tuple((what, source) for what, source in every if source)


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
