"""engines: which serving software runs what on which chip, since which version, and who says so."""

from __future__ import annotations

import datetime as dt
from typing import Any

from offramp import __version__, catalog
from offramp.catalog.engines import Engine, SupportFact, holds_for
from offramp.core.result import FigureLog, Result, hash_inputs, table_of

FACT_COLUMNS = ("kind", "names", "chips", "architectures", "answer", "since", "seen", "note", "source", "url", "as_of")


def engines(engine_id: str | None = None, *, chip_id: str | None = None, as_of: dt.date | None = None) -> Result:
    """All engines, or one with its versions and support facts.

    Args:
        engine_id: id or alias; None lists all.
        chip_id: keep only the engines that run on this chip, or the facts that hold for it.
        as_of: hides later releases.
    """
    facts = catalog.load(as_of)
    chip = facts.chip(chip_id) if chip_id else None
    log = FigureLog()
    chosen = [facts.engine(engine_id)] if engine_id else sorted(facts.engines.values(), key=lambda e: e.id)
    rows: list[dict[str, Any]] = []
    for engine in chosen:
        current = engine.current()
        if current is not None:
            log.note_date(current.date)
        support = engine.supports(chip) if chip is not None else None
        if engine_id is None and support is not None and support.answer == "no":
            continue
        rows.append(_summary(engine) | ({"on_chip": support.answer, "why": support.why} if support else {}))
    answer: dict[str, Any] = {"engines": rows}
    tables = {"engines": table_of(rows, columns=("id", "name", "version", "date", "base", "chips"), title="Engines")}
    if engine_id is not None:
        engine = chosen[0]
        kept = [fact for fact in engine.facts if chip is None or holds_for(fact, chip)]
        fact_rows = [_fact(fact) for fact in kept]
        for fact in kept:
            log.note_date(fact.as_of)
        answer |= {
            "id": engine.id, "notes": list(engine.notes), "facts": fact_rows,
            "versions": [{"version": v.version, "date": v.date.isoformat(), "stable": v.stable, "note": v.note,
                          "source": v.source, "url": v.url} for v in sorted(engine.versions, key=lambda v: v.date)],
        }  # fmt: skip
        tables["facts"] = table_of(fact_rows, columns=FACT_COLUMNS, title=engine.name)
    inputs = {"engine": engine_id, "chip": chip_id, "as_of": as_of.isoformat() if as_of else None}
    return Result(
        command="engines", answer=answer, tables=tables, inputs_hash=hash_inputs(inputs), data_version=facts.version,
        knowledge_horizon=log.horizon, offramp_version=__version__,
    )  # fmt: skip


def _summary(engine: Engine) -> dict[str, Any]:
    current = engine.current()
    runs_on = [
        pattern for fact in engine.facts if fact.kind == "chip" and fact.answer == "yes" for pattern in fact.chips
    ]
    return {
        "id": engine.id, "name": engine.name, "vendor": engine.vendor, "kind": engine.kind, "base": engine.base,
        "aliases": list(engine.aliases), "url": engine.url, "version": current.version if current else "",
        "date": current.date.isoformat() if current else "", "releases": len(engine.versions),
        "chips": ", ".join(dict.fromkeys(runs_on)),
    }  # fmt: skip


def _fact(fact: SupportFact) -> dict[str, Any]:
    return {
        "kind": fact.kind, "names": ", ".join(fact.names) if fact.kind != "chip" else "",
        "chips": ", ".join(fact.chips), "architectures": ", ".join(fact.architectures), "answer": fact.answer,
        "since": fact.since, "seen": fact.seen, "note": fact.note, "source": fact.source, "url": fact.url,
        "as_of": fact.as_of.isoformat(),
    }  # fmt: skip
