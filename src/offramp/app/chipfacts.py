"""Chip facts for the rules: what the catalogue knows of a chip, joined with what only the rules know."""

from __future__ import annotations

import datetime as dt
import functools
import re
from typing import Final

import msgspec

from offramp import catalog
from offramp.core.errors import CatalogError
from offramp.core.figure import Figure
from offramp.core.result import FigureLog
from offramp.rules import ChipFacts, Peak, Rulebook
from offramp.rules.cases import complete
from offramp.rules.chips import merge
from offramp.rules.formulas import BITS

_START: Final = re.compile(
    r"(?P<year>20\d\d)(?:-(?:Q(?P<quarter>[1-4])|H(?P<half>[12])|(?P<month>\d\d))(?:-(?P<day>\d\d))?)?"
)
_PARTS: Final = ("die_area", "io_die_area", "dram_bandwidth", "io_bandwidth", "tpp")


def chip_facts(chip: str, *, book: Rulebook, name: str = "") -> ChipFacts | None:
    """Facts of a chip by id, alias or name; None where neither the rules nor the catalogue know it.

    Args:
        chip: catalogue id or alias, or "" to go by the name alone.
        book: the rulebook whose chip facts complete and correct the catalogue's for the rules' purposes.
        name: name as people write it.
    """
    entry = _entry(chip)
    own = book.chips.chips.get(entry.id) if entry else None
    own = own or book.chips.find(chip, name)
    if entry is None and own is not None:
        entry = _entry(own.id)
    if entry is None and own is None:
        return None
    facts = own or ChipFacts(id=entry.id if entry else "")
    if entry is not None:
        facts = merge(facts, from_catalog(entry))
    return complete(facts, book, chip, name)


def resolver(book: Rulebook) -> functools.partial[ChipFacts]:
    """A function (chip, name) -> facts for case files; an unknown chip keeps its vendor, as far as names tell."""
    return functools.partial(_resolve, book)


def _resolve(book: Rulebook, chip: str, name: str) -> ChipFacts:
    return chip_facts(chip, book=book, name=name) or complete(ChipFacts(), book, chip, name)


@functools.cache
def _catalogue() -> catalog.Catalog:
    return catalog.load()


def _entry(chip: str) -> catalog.Chip | None:
    try:
        return _catalogue().chip(chip) if chip else None
    except CatalogError:
        return None


def known_chips(book: Rulebook) -> list[str]:
    """Ids of every chip that the catalogue or the rules know."""
    return sorted({*_catalogue().chips, *(key for key, facts in book.chips.chips.items() if facts.item == "ic")})


def chip_names(book: Rulebook) -> list[str]:
    """Ids, and the names by which people call them, for near misses."""
    ids = known_chips(book)
    return [*ids, *(key.split("/")[-1] for key in ids)]


def from_catalog(chip: catalog.Chip) -> ChipFacts:
    """The catalogue's part: dense peaks, die area, memory bandwidth, links of both directions together.

    The catalogue lists data-centre accelerators, and states link bandwidth per direction.
    """

    def figure(name: str) -> Figure | None:
        sources = chip.figures.get(name)
        return sources[0] if sources else None

    peaks = tuple(Peak(dtype=dtype, figure=found) for dtype in BITS if (found := figure(f"peak_{dtype}")) is not None)
    link = figure("scaleup_bandwidth")
    return ChipFacts(
        id=chip.id, name=f"{chip.vendor} {chip.name}", vendor=chip.id.split("/")[0], datacenter=True, peaks=peaks,
        die_area=figure("die_area"), dram_bandwidth=figure("memory_bandwidth"),
        io_bandwidth=_both_directions(link) if link else None, launched=launch_date(chip.launched),
    )  # fmt: skip


def _both_directions(link: Figure) -> Figure:
    return msgspec.structs.replace(
        link, value=2 * link.value, low=None if link.low is None else 2 * link.low,
        high=None if link.high is None else 2 * link.high, source=f"{link.source} (both directions: doubled)",
    )  # fmt: skip


def launch_date(text: str) -> dt.date | None:
    """First day that a launch as printed may mean ("2024-Q1" is 2024-01-01); None where it names no year."""
    match = _START.search(text)
    if not match:
        return None
    month = 1
    if match["quarter"]:
        month = 3 * int(match["quarter"]) - 2
    elif match["half"]:
        month = 6 * int(match["half"]) - 5
    elif match["month"] and 1 <= int(match["month"]) <= 12:
        month = int(match["month"])
    try:
        return dt.date(int(match["year"]), month, int(match["day"] or 1))
    except ValueError:
        return dt.date(int(match["year"]), month, 1)


_CATALOGUE_NAMES: Final = {"dram_bandwidth": "memory_bandwidth", "io_bandwidth": "scaleup_bandwidth"}


def log_facts(facts: ChipFacts, log: FigureLog) -> None:
    """Notes every figure of the facts as used: under ``chips/`` what the catalogue holds, else under ``rules/``."""
    entry = _entry(facts.id)
    own = entry.figures if entry else {}
    named = [(part, getattr(facts, part)) for part in _PARTS]
    named += [(f"peak_{peak.dtype}", peak.figure) for peak in facts.peaks]
    for part, figure in named:
        if figure is None:
            continue
        name = _CATALOGUE_NAMES.get(part, part)
        held = part != "io_bandwidth" and figure in own.get(name, ())
        log.use(f"chips/{facts.id}#{name}" if held else f"rules/{facts.id or facts.name}#{part}", figure)
