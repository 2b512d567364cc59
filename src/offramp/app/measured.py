"""Measured rows for validate and calibrate: a file read into cases, with everything that was not used and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from offramp import arch, catalog, intake
from offramp.arch.record import Model
from offramp.core.errors import InputError, OfframpError
from offramp.core.record import Record
from offramp.validate.cases import Case, beyond_silicon, build_case
from offramp.validate.rows import Problem, breaks_little, parse_row, read_rows

LIMIT = 200_000
"""Rows of one file that are predicted; more are counted."""


class Loaded(Record):
    """A file of measurements, read.

    Attributes:
        cases: rows that can be predicted.
        unpredicted: ids by reason.
        rejected: rows whose own numbers disagree, with why.
        missing_version: rows without an engine version.
        suspect_chips: ids whose number of chips looks like tp x ep.
        notes: what was converted on import, and what a benchmark file says against itself.
    """

    cases: tuple[Case, ...]
    unpredicted: dict[str, list[str]]
    rejected: tuple[Problem, ...]
    missing_version: int = 0
    suspect_chips: tuple[str, ...] = ()
    rows: int = 0
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=512)
def resolve(name: str) -> tuple[Model, str] | None:
    """The model that a published name means and the dtype it tells; None when unsure."""
    found = arch.resolve_alias(name)
    if found is not None:
        return arch.load(found[0]), found[1] or ""
    if Path(name).suffix == ".json" and Path(name).is_file():
        return arch.load(name), ""
    return None


def load(
    path: str | Path, *, limit: int = LIMIT, chip: str = "", settings: Sequence[str] = (), closed: bool = False
) -> Loaded:
    """Cases of a file in the serving schema, or of a benchmark file of another tool.

    Args:
        path: the file.
        limit: most rows to predict.
        chip: of rows that name none.
        settings: ``NAME=VALUE`` texts that say what the file does not (:func:`offramp.intake.said_of`).
        closed: turn rows of arrivals by rate into closed loops where their latencies allow it.

    Raises:
        InputError: not a readable file of that schema or of a known tool.
    """
    file = Path(path)
    said = intake.said_of(settings, chip=chip)
    if file.is_file() and intake.is_bench(file):
        runs = intake.bench_of(file, said)
        loaded = sort_out(intake.to_rows(runs), limit=limit, where=file.name)
        return msgspec.structs.replace(loaded, notes=_notes(runs))
    rows = (intake.complete_row(raw, said) for raw in read_rows(file, chip_stated="chip" not in said))
    return sort_out(map(intake.as_closed, rows) if closed else rows, limit=limit, where=file.name)


def _notes(runs: Sequence[intake.Bench]) -> tuple[str, ...]:
    """Definitions once a tool, other remarks once a run."""
    defined = [f"{run.tool}: {text}" for run in runs for text in run.definitions]
    return tuple(dict.fromkeys([*defined, *(f"{run.where}: {text}" for run in runs for text in run.notes)]))


def sort_out(rows: Iterable[dict[str, str]], *, limit: int, where: str) -> Loaded:
    """Rows into cases, unpredicted and rejected."""
    facts = catalog.load()
    cases: list[Case] = []
    unpredicted: dict[str, list[str]] = {}
    rejected: list[Problem] = []
    seen: set[str] = set()
    suspects: list[str] = []
    missing = count = 0
    for raw in rows:
        count += 1
        row_id = raw.get("id", "").strip()
        if row_id and row_id in seen:
            rejected.append(Problem(row_id, "the id occurs twice"))
            continue
        seen.add(row_id)
        if len(cases) >= limit:
            unpredicted.setdefault(f"beyond the first {limit:,} rows", []).append(row_id)
            continue
        row = parse_row(raw)
        if isinstance(row, Problem):
            unpredicted.setdefault(row.why, []).append(row.id)
            continue
        why = breaks_little(row)
        if why:
            rejected.append(Problem(row.id, why))
            continue
        missing += not row.engine_version
        if row.per_chunk_itl:
            unpredicted.setdefault("ITL columns only: they are per streamed chunk, not per token", []).append(row.id)
        if row.ep > 1 and row.tp > 1 and row.chips == row.tp * row.ep and row.dp <= 1 and row.pp <= 1:
            suspects.append(row.id)
        try:
            case = build_case(row, catalog=facts, resolve=resolve)
        except OfframpError as error:
            case = Problem(row.id, error.what)
        if isinstance(case, Problem):
            unpredicted.setdefault(case.why, []).append(case.id)
            continue
        why = beyond_silicon(case)
        if why:
            rejected.append(Problem(row.id, why))
        else:
            cases.append(case)
    if count == 0:
        raise InputError("the file has a header but no rows", where=where)
    return Loaded(
        cases=tuple(cases), unpredicted=unpredicted, rejected=tuple(rejected), missing_version=missing,
        suspect_chips=tuple(suspects), rows=count,
    )  # fmt: skip
