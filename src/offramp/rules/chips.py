"""Chip facts that only the rules need (marketing class, die area, stated classifications), from ``chips.toml``."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from offramp.core.document import conform
from offramp.core.errors import CatalogError
from offramp.core.figure import Confidence, Figure, check_figure
from offramp.core.record import Record
from offramp.rules.facts import ChipFacts, Classification, Item, Peak, Statement
from offramp.rules.formulas import BITS

_UNITS: Final = {
    **{f"peak_{dtype}": "TOPS" if dtype.startswith("int") else "TFLOP/s" for dtype in BITS},
    "die_area": "mm2", "io_die_area": "mm2", "dram_bandwidth": "GB/s", "io_bandwidth": "GB/s", "tpp": "",
}  # fmt: skip
"""Every fact that a chip may carry and the unit it is written in."""
_NOISE: Final = re.compile(r"\([^)]*\)|\b(?:sxm\d?|oam|gpu|accelerator|geforce|radeon|instinct)\b")
_SIZE: Final = re.compile(r"\b\d+\s*gb\b")


class VendorEntry(Record):
    """A vendor: the country of its headquarters and the words by which names betray it."""

    name: str
    country: str
    words: tuple[str, ...] = ()


class SourceEntry(Record):
    """A source that several facts share."""

    source: str
    url: str
    as_of: dt.date
    confidence: Confidence
    known: dt.date | None = None
    note: str = ""


class StatementEntry(Record):
    """A stated classification."""

    value: Classification
    by: str
    source: str


class ChipEntry(Record):
    """One chip of ``chips.toml``: facts are tables with ``from`` (a source) and numbers in fixed units."""

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    item: Item = "ic"
    datacenter: bool | None = None
    launched: dt.date | None = None
    statement: StatementEntry | None = None
    facts: tuple[dict[str, Any], ...] = ()
    note: str = ""


class _ChipFile(Record):
    vendor: dict[str, VendorEntry] = {}
    source: dict[str, SourceEntry] = {}
    chip: tuple[ChipEntry, ...] = ()


class ChipBook(Record):
    """Chips known to the rules, by id, and how names lead to them."""

    chips: dict[str, ChipFacts]
    id_by_name: dict[str, str]
    vendors: dict[str, VendorEntry]

    def find(self, chip: str, name: str = "") -> ChipFacts | None:
        """The chip of an id, an alias or a name as people write it; None when the rules have none."""
        for text in (chip, name):
            plain = normal(text)
            found = self.id_by_name.get(plain) or self.id_by_name.get(_SIZE.sub(" ", plain).strip())
            if plain and found is not None:
                return self.chips[found]
        return None

    def vendor_of(self, chip: str, name: str = "") -> str:
        """Vendor key guessed from the id's first part, or from words of the name; "" when nothing fits."""
        head = chip.split("/")[0].lower() if "/" in chip else ""
        if head in self.vendors:
            return head
        words = set(re.findall(r"[a-z0-9-]+", f"{chip} {name}".lower()))
        for key, vendor in self.vendors.items():
            if words & {key, *vendor.words}:
                return key
        return head

    def is_prc(self, vendor: str) -> bool:
        """Whether the vendor is headquartered in mainland China, Hong Kong or Macau."""
        return vendor in self.vendors and self.vendors[vendor].country in ("CN", "HK", "MO")


def normal(text: str) -> str:
    """A name without vendor, form factor and punctuation: "NVIDIA A100 SXM 80GB" -> "a100 80gb"."""
    plain = text.lower().split("/")[-1] if re.fullmatch(r"[a-z0-9-]+/[\w.-]+", text.lower()) else text.lower()
    plain = re.sub(r"\b(\d+)\s*gb\b", r"\1gb", _NOISE.sub(" ", plain))
    plain = re.sub(
        r"\b(?:nvidia|amd|intel|huawei|google|aws|hygon|cambricon|metax|biren|kunlunxin|enflame)\b", " ", plain
    )
    return re.sub(r"[^a-z0-9.+/]+", " ", plain).strip()


def read_chips(text: str, where: str) -> ChipBook:
    """The chips of a ``chips.toml``.

    Raises:
        CatalogError: broken, with the place.
    """
    try:
        data, problems = conform(tomllib.loads(text), _ChipFile)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"is not TOML: {error}", where=where) from None
    if problems:
        raise CatalogError(problems[0].what, where=f"{where}:{problems[0].path}", mend=problems[0].mend)
    file = msgspec.convert(data, _ChipFile)
    chips: dict[str, ChipFacts] = {}
    names: dict[str, str] = {}
    book = ChipBook(chips={}, id_by_name={}, vendors=file.vendor)
    for index, entry in enumerate(file.chip):
        place = f"{where}:$.chip[{index}] ({entry.id})"
        chips[entry.id] = _facts(entry, file.source, book, place)
        for name in (entry.id, entry.name, *entry.aliases):
            if names.setdefault(normal(name), entry.id) != entry.id:
                raise CatalogError(f'"{name}" names both {names[normal(name)]} and {entry.id}', where=place)
    return ChipBook(chips=chips, id_by_name=names, vendors=file.vendor)


def _facts(entry: ChipEntry, sources: Mapping[str, SourceEntry], book: ChipBook, where: str) -> ChipFacts:
    figures: dict[str, Figure] = {}
    for number, table in enumerate(entry.facts):
        place = f"{where}.facts[{number}]"
        source = _source(sources, str(table.get("from", "")), place)
        for name, value in table.items():
            if name in ("from", "note"):
                continue
            if name not in _UNITS:
                raise CatalogError(f'unknown fact "{name}"', where=place, mend=f"Known: {', '.join(_UNITS)}.")
            figure = _figure(value, _UNITS[name], source, str(table.get("note", "")), place)
            figures.setdefault(name, check_figure(figure, where=f"{place}.{name}"))
    vendor = book.vendor_of(entry.id, entry.name)
    statement = None
    if entry.statement is not None:
        origin = _source(sources, entry.statement.source, where)
        statement = Statement(
            value=entry.statement.value, by=entry.statement.by, source=origin.source, url=origin.url,
            as_of=origin.known or origin.as_of,
        )  # fmt: skip
    peaks = tuple(
        Peak(dtype=name.removeprefix("peak_"), figure=figure)
        for name, figure in figures.items()
        if name.startswith("peak_")
    )
    return ChipFacts(
        id=entry.id, name=entry.name, vendor=vendor, item=entry.item, datacenter=entry.datacenter,
        prc_designed=book.is_prc(vendor), statement=statement, peaks=peaks, tpp=figures.get("tpp"),
        die_area=figures.get("die_area"), io_die_area=figures.get("io_die_area"),
        dram_bandwidth=figures.get("dram_bandwidth"), io_bandwidth=figures.get("io_bandwidth"),
        launched=entry.launched, notes=(entry.note,) if entry.note else (),
    )  # fmt: skip


def _source(sources: Mapping[str, SourceEntry], key: str, where: str) -> SourceEntry:
    if key not in sources:
        raise CatalogError(f'unknown source "{key}"', where=where, mend="Add it under [source.<name>].")
    return sources[key]


def _figure(value: Any, unit: str, source: SourceEntry, note: str, where: str) -> Figure:
    parts = value if isinstance(value, list) else [value]
    if len(parts) not in (1, 3) or not all(isinstance(part, (int, float)) for part in parts):
        raise CatalogError("a fact is a number, or [value, low, high]", where=where)
    low, high = (parts[1], parts[2]) if len(parts) == 3 else (parts[0], parts[0])
    return Figure(
        value=float(parts[0]), unit=unit, source=source.source, url=source.url, as_of=source.as_of,
        known=source.known, confidence=source.confidence, low=float(low), high=float(high),
        note=" ".join(part for part in (note, source.note) if part),
    )  # fmt: skip


def merge(first: ChipFacts, second: ChipFacts | None) -> ChipFacts:
    """``first`` with its gaps filled from ``second``; peaks are taken from one of them as a whole."""
    if second is None:
        return first
    empty = ChipFacts()
    changes: dict[str, Any] = {}
    has_compute = bool(first.peaks) or first.tpp is not None or first.tpp_below is not None
    for field in msgspec.structs.fields(ChipFacts):
        mine = getattr(first, field.name)
        if field.name in ("peaks", "tpp", "tpp_below") and has_compute:
            continue
        if field.name == "io_die_area" and first.die_area is not None:
            continue
        if field.name == "notes":
            changes["notes"] = tuple(dict.fromkeys((*first.notes, *second.notes)))
        elif mine == getattr(empty, field.name):
            changes[field.name] = getattr(second, field.name)
    return msgspec.structs.replace(first, **changes)
