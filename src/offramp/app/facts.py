"""facts: checks proposed facts before they enter the catalogue, and lists facts older than their shelf life."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp import __version__, catalog
from offramp.core import units
from offramp.core.document import child_path, decode_text, parse_toml, read_bytes
from offramp.core.errors import CatalogError, InputError, near_miss_hint
from offramp.core.figure import Figure, check_figure
from offramp.core.result import Result, hash_inputs, table_of

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "intake"
DISAGREE: Final = 0.10
"""Two sources that differ by more must say why."""
PLACES: Final = ("chips", "systems", "prices", "market", "rates", "supply", "train", "scan", "national")
"""Where figures live: the first part of their ids."""
_KEYS: Final = set(Figure.__struct_fields__)


@lru_cache(maxsize=1)
def shelf_lives() -> tuple[tuple[str, int], ...]:
    """Beginnings of figure ids with the days for which a figure stays fresh; the first that fits counts."""
    found = tomllib.loads((DATA / "shelf_life.toml").read_text("utf-8"))["rule"]
    return tuple((str(entry["figures"]), int(entry["days"])) for entry in found)


def facts_check(path: str | Path, *, today: dt.date | None = None) -> Result:
    """Every problem of a TOML file with proposed figures, and where it disagrees with the catalogue.

    Args:
        path: tables of figures as in the catalogue; a table [chips."vendor/name".figure] proposes one for a chip.
        today: figures from the future are refused.

    Raises:
        InputError: not a readable TOML file, or no figure in it.
    """
    file = Path(path)
    raw = read_bytes(file)
    data = parse_toml(decode_text(raw, where=str(file)), where=str(file))
    day = today or dt.datetime.now(dt.UTC).date()
    rows: list[dict[str, Any]] = []
    good = 0
    for place, table in _tables(data, "$"):
        problems = list(_problems(place, table, day))
        good += not any(problem["level"] == "error" for problem in problems)
        rows += problems
    count = sum(1 for _ in _tables(data, "$"))
    if not count:
        raise InputError(
            "holds no figure",
            where=str(file),
            mend="A figure is a table with value, unit, source, url, as_of, confidence.",
        )
    errors = sum(row["level"] == "error" for row in rows)
    return Result(
        command="facts",
        answer={"file": str(path), "ok": errors == 0, "figures": count, "sound": good, "problems": rows},
        inputs_hash=hash_inputs({"file": raw}),
        data_version=catalog.load().version,
        status="ok" if errors == 0 else "partial",
        tables={"problems": table_of(rows, columns=("level", "path", "what", "mend"), title="Problems")},
        offramp_version=__version__,
    )


def _tables(data: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table that looks like a figure, with its place."""
    if isinstance(data, list):
        for i, item in enumerate(data):
            yield from _tables(item, child_path(path, i))
    elif isinstance(data, dict):
        if "value" in data and ("unit" in data or "source" in data or "confidence" in data):
            yield path, data
        else:
            for key, item in data.items():
                yield from _tables(item, child_path(path, key))


def _problems(place: str, table: dict[str, Any], day: dt.date) -> Iterator[dict[str, Any]]:
    def row(what: str, mend: str = "", level: str = "error") -> dict[str, Any]:
        return {"level": level, "path": place, "what": what, "mend": mend}

    for key in table:
        if key not in _KEYS:
            yield row(f'unknown key "{key}"', near_miss_hint(key, _KEYS) or f"Known: {', '.join(sorted(_KEYS))}.")
    try:
        figure = msgspec.convert({k: v for k, v in table.items() if k in _KEYS}, Figure)
        check_figure(figure, where=place)
    except msgspec.ValidationError as error:
        yield row(str(error), "See the figures of any chip in the catalogue.")
        return
    except CatalogError as error:
        yield row(error.what, error.mend)
        return
    if figure.as_of > day or (figure.known is not None and figure.known > day):
        yield row(f"is dated {figure.known or figure.as_of}, in the future", "Give the date of the source.")
    limit = next((days for prefix, days in shelf_lives() if _address(place).startswith(prefix)), None)
    if limit is not None and (day - figure.as_of).days > limit:
        yield row(
            f"is {(day - figure.as_of).days} days old; such figures stay fresh for {limit}",
            "Look for a newer source.",
            "warning",
        )
    yield from _against_catalogue(place, figure, row)


def _address(place: str) -> str:
    """The figure id that a place stands for: $.chips["nvidia/h20"].tdp -> chips/nvidia/h20#tdp."""
    plain = place.removeprefix("$.").replace('["', ".").replace('"]', "")
    head, _, name = plain.rpartition(".")
    return f"{head.replace('.', '/', 1)}#{name}" if head else plain


def _against_catalogue(place: str, figure: Figure, row: Any) -> Iterator[dict[str, Any]]:
    address = _address(place)
    if not address.startswith("chips/"):
        yield from _elsewhere(address, row)
        return
    name, _, key = address.removeprefix("chips/").partition("#")
    try:
        chip = catalog.load().chip(name)
    except CatalogError as error:
        yield row(error.what, error.mend)
        return
    held = chip.figures.get(key)
    if held is None:
        known = sorted({figure_name for other in catalog.load().chips.values() for figure_name in other.figures})
        if key not in known:
            yield row(f'no chip has a figure "{key}"', near_miss_hint(key, known))
        return
    if units.unit_factor(held[0].unit)[1] != units.unit_factor(figure.unit)[1]:
        yield row(f"is in {figure.unit}, the catalogue's is in {held[0].unit}", "Give it in the same dimension.")
    elif held[0].si and abs(figure.si / held[0].si - 1.0) > DISAGREE and not figure.note:
        what = (
            f"is {figure.value:g} {figure.unit}, the catalogue has {held[0].value:g} {held[0].unit} ({held[0].source})"
        )
        yield row(what, "Explain the difference in note; both are kept.")


def _elsewhere(address: str, row: Any) -> Iterator[dict[str, Any]]:
    """What is wrong with the place of a figure that is not a chip's."""
    head, _, rest = address.partition("/")
    if head not in PLACES:
        hint = near_miss_hint(head, PLACES) or f"Places: {', '.join(PLACES)}."
        yield row(f'"{head}" is no place of the catalogue', hint, "warning")
    if head == "systems":
        try:
            catalog.load().system(rest.partition("#")[0])
        except CatalogError as error:
            yield row(error.what, error.mend)


def facts_stale(*, today: dt.date | None = None) -> Result:
    """Figures of the catalogue that are older than their shelf life, oldest first."""
    day = today or dt.datetime.now(dt.UTC).date()
    facts = catalog.load()
    rows: list[dict[str, Any]] = [
        {"id": name, "as_of": figure.as_of.isoformat(), "age_days": (day - figure.as_of).days, "shelf_life_days": limit,
         "confidence": figure.confidence, "source": figure.source}
        for name, figure in every_figure(facts)
        for limit in [next((days for prefix, days in shelf_lives() if name.startswith(prefix)), None)]
        if limit is not None and (day - figure.as_of).days > limit
    ]  # fmt: skip
    rows.sort(key=lambda entry: (-entry["age_days"], entry["id"]))
    return Result(
        command="facts",
        answer={"today": day.isoformat(), "stale": rows, "checked": sum(1 for _ in every_figure(facts))},
        inputs_hash=hash_inputs({"today": day.isoformat(), "data": facts.version}),
        data_version=facts.version,
        tables={
            "stale": table_of(
                rows,
                columns=("id", "as_of", "age_days", "shelf_life_days", "confidence", "source"),
                title="Stale facts",
            )
        },
        offramp_version=__version__,
    )


def every_figure(facts: catalog.Catalog) -> Iterator[tuple[str, Figure]]:
    """The preferred figure of every chip and system, prices, market figures and rates, with their ids."""
    for chip in facts.chips.values():
        for name, held in chip.figures.items():
            yield chip.figure_id(name), held[0]
    for system in facts.systems.values():
        for name, held in system.figures.items():
            yield system.figure_id(name), held[0]
    newest: dict[str, Figure] = {}
    for price in facts.prices.price:
        name = f"prices/{price.chip}#{price.kind}"
        if name not in newest or price.figure.as_of > newest[name].as_of:
            newest[name] = price.figure
    for rate in facts.prices.rate:
        name = f"rates/{rate.base}-{rate.quote}"
        if name not in newest or rate.figure.as_of > newest[name].as_of:
            newest[name] = rate.figure
    yield from newest.items()
    for entry in facts.prices.market:
        yield f"market/{entry.id}", entry.figure
