"""Documented senders and timers: whose traffic it is, and the switch that turns it off."""

from __future__ import annotations

import datetime as dt
import fnmatch
import tomllib
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from offramp.core.errors import CatalogError
from offramp.core.record import Record


class Endpoint(Record):
    """One documented sender.

    Attributes:
        kind: telemetry, download, metadata, licence, attestation, update or local-service.
        hosts: globs of DNS names; addresses and paths of unix sockets are exact.
        process: word that must occur in the command line, ancestors or Python frames; "" for any process.
        interval_s: known period, 0 without one.
        switch_env: variables that turn it off; ``switch`` says it in words.
        evidence: whether the source was read for this table or recalled.
    """

    id: str
    name: str
    kind: Literal["telemetry", "download", "metadata", "licence", "attestation", "update", "local-service"]
    what: str
    switch: str
    source: str
    url: str
    evidence: Literal["read", "recalled"]
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    process: str = ""
    interval_s: float = 0.0
    switch_env: dict[str, str] = {}


class Timer(Record):
    """Something that is known to happen after a time."""

    id: str
    name: str
    after_s: float
    source: str
    evidence: Literal["read", "recalled"]


class EndpointTable(Record):
    """The shipped table."""

    as_of: dt.date
    endpoint: tuple[Endpoint, ...]
    timer: tuple[Timer, ...]


def read_data(name: str) -> bytes:
    """A file of the drill's shipped data."""
    return resources.files("offramp.data").joinpath("drill", name).read_bytes()


@cache
def load_endpoints() -> EndpointTable:
    """The table of documented senders.

    Raises:
        CatalogError: the shipped file is broken.
    """
    try:
        raw = tomllib.loads(read_data("endpoints.toml").decode())
        return msgspec.convert(raw, EndpointTable)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CatalogError(str(error), where="data/drill/endpoints.toml") from None


def match_endpoint(destination: str, *, context: str) -> Endpoint | None:
    """The documented sender of a destination.

    Args:
        destination: DNS name, address or path.
        context: command lines, ancestors and frames of the process, as one text.
    """
    lowered = destination.lower().rstrip(".")
    for endpoint in load_endpoints().endpoint:
        named = any(fnmatch.fnmatchcase(lowered, pattern) for pattern in endpoint.hosts)
        if not (named or destination in endpoint.addresses or destination in endpoint.paths):
            continue
        if not endpoint.process or endpoint.process in context.lower():
            return endpoint
    return None


def licence_globs() -> tuple[str, ...]:
    """Host names of licence and attestation services."""
    table = load_endpoints()
    return tuple(host for e in table.endpoint if e.kind in ("licence", "attestation") for host in e.hosts)
