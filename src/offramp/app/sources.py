"""sources: where every figure behind one id comes from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from offramp import __version__, catalog
from offramp.core.errors import CatalogError, near_miss_hint
from offramp.core.figure import Figure
from offramp.core.result import FigureLog, Result, hash_inputs, table_of

COLUMNS = ("id", "value", "unit", "low", "high", "confidence", "as_of", "source", "url", "note")


def sources(item: str, *, as_of: dt.date | None = None) -> Result:
    """Every sourced statement behind a chip, system, engine, market figure or single figure.

    Args:
        item: an id, an alias, or a figure's address ("chips/nvidia/h20#tdp", "systems/hgx-h20#nic_bandwidth").
        as_of: hides what was not yet known.

    Raises:
        CatalogError: nothing has that id.
    """
    facts = catalog.load(as_of)
    log = FigureLog()
    rows: list[dict[str, Any]] = []
    for address, figure in _figures(facts, item):
        log.use(address, figure)
        rows.append({"id": address, **{name: getattr(figure, name) for name in COLUMNS[1:] if name != "as_of"},
                     "as_of": figure.as_of.isoformat()})  # fmt: skip
    for row in _statements(facts, item):
        log.note_date(dt.date.fromisoformat(row["as_of"]))
        rows.append(row)
    if not rows:
        known = [*facts.chips, *facts.systems, *facts.engines, *(entry.id for entry in facts.prices.market)]
        raise CatalogError(
            f'nothing in the catalogue has the id "{item}"', where="sources",
            mend=f'{near_miss_hint(item, known)} "offramp chips" and "offramp engines" list ids.'.strip(),
        )  # fmt: skip
    by_source: dict[str, dict[str, Any]] = {}
    for row in rows:
        fresh = {key: row[key] for key in ("source", "url", "as_of", "confidence")} | {"used_for": []}
        entry = by_source.setdefault(f"{row['source']}|{row['url']}", fresh)
        entry["used_for"].append(row["id"])
    inputs = {"item": item, "as_of": as_of.isoformat() if as_of else None}
    return Result(
        command="sources", answer={"item": item, "sources": list(by_source.values()), "statements": rows},
        tables={"sources": table_of(rows, columns=COLUMNS, title=f"Sources of {item}")},
        inputs_hash=hash_inputs(inputs), data_version=facts.version, figures=log.figures,
        knowledge_horizon=log.horizon, offramp_version=__version__,
    )  # fmt: skip


def _figures(facts: catalog.Catalog, item: str) -> Iterator[tuple[str, Figure]]:
    base, _, wanted = item.partition("#")
    wanted = wanted.partition("[")[0].partition("~")[0]
    plain = base.removeprefix("chips/").removeprefix("systems/").lower()
    for chip in facts.chips.values():
        if plain not in (chip.id, *(alias.lower() for alias in chip.aliases)):
            continue
        for name, entries in chip.figures.items():
            for index, figure in enumerate(entries):
                if wanted in ("", name):
                    yield chip.figure_id(name) + (f"[{index}]" if index else ""), figure
        for name, figure in chip.bounds.items():
            if wanted in ("", name):
                yield chip.figure_id(name) + "~bounds", figure
        for bin_ in chip.mixture if not wanted else ():
            yield f"chips/{chip.id}#weight:{bin_.chip}", bin_.weight
        for index, price in enumerate(facts.prices.price if not wanted else ()):
            if price.chip == chip.id:
                yield f"prices/{chip.id}#{price.kind}[{index}]", price.figure
    for system in facts.systems.values():
        if plain in (system.id, *(alias.lower() for alias in system.aliases)):
            for name, entries in system.figures.items():
                for index, figure in enumerate(entries):
                    if wanted in ("", name):
                        yield system.figure_id(name) + (f"[{index}]" if index else ""), figure
    for entry in facts.prices.market:
        if item in (entry.id, entry.id.partition("/")[0]):
            yield f"market/{entry.id}", entry.figure
    for rate in facts.prices.rate:
        if item in ("rates", f"{rate.base}/{rate.quote}"):
            yield f"rates/{rate.base}-{rate.quote}@{rate.figure.as_of.isoformat()}", rate.figure


def _statements(facts: catalog.Catalog, item: str) -> Iterator[dict[str, Any]]:
    plain = item.removeprefix("engines/").lower()
    for engine in facts.engines.values():
        if plain not in (engine.id, *engine.aliases):
            continue
        for version in engine.versions:
            yield _row(
                f"engines/{engine.id}#version:{version.version}",
                version.source,
                version.url,
                version.date,
                version.note,
            )
        for index, fact in enumerate(engine.facts):
            what = ", ".join(fact.chips if fact.kind == "chip" else fact.names)
            text = f"{fact.kind} {what}: {fact.answer}" + (f" since {fact.since}" if fact.since else "")
            yield _row(f"engines/{engine.id}#fact:{index}", fact.source, fact.url, fact.as_of, text)


def _row(address: str, source: str, url: str, day: dt.date, note: str) -> dict[str, Any]:
    return {
        "id": address, "value": None, "unit": "", "low": None, "high": None, "confidence": "statement",
        "as_of": day.isoformat(), "source": source, "url": url, "note": note,
    }  # fmt: skip
