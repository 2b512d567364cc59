"""The only reader of the catalogue: TOML files in, checked records out."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import offramp.data
from offramp.catalog.chips import Chip, mixture_figures
from offramp.catalog.engines import Engine
from offramp.catalog.figures import check_figures, known_figures
from offramp.catalog.prices import Prices
from offramp.catalog.systems import System
from offramp.core import units
from offramp.core.errors import CatalogError, near_miss_hint
from offramp.core.figure import Figure, check_figure
from offramp.core.record import Record

DATA = Path(offramp.data.__file__).parent
_FOLDERS = ("chips", "systems", "engines", "prices")
T = TypeVar("T", bound=Record)
Entry = TypeVar("Entry", Chip, System, Engine)


class Catalog:
    """Chips, systems, engines and prices by id, as they were known on ``as_of``. Treat it as immutable.

    Attributes:
        as_of: horizon; None = everything.
        chips, systems, engines: records by id.
        prices: prices, exchange rates and market figures.
    """

    def __init__(
        self,
        *,
        chips: Mapping[str, Chip],
        systems: Mapping[str, System],
        engines: Mapping[str, Engine],
        prices: Prices,
        as_of: dt.date | None = None,
        root: Path = DATA,
    ) -> None:
        self.chips = dict(chips)
        self.systems = dict(systems)
        self.engines = dict(engines)
        self.prices = prices
        self.as_of = as_of
        self._root = root
        self._chip_alias = _aliases(self.chips, "chips")
        self._system_alias = _aliases(self.systems, "systems")
        self._engine_alias = _aliases(self.engines, "engines")

    @property
    def version(self) -> str:
        """Version of the shipped facts: a digest of every data file."""
        return data_version(self._root)

    def chip(self, chip_id: str, where: str = "") -> Chip:
        """A chip by id or alias (any case).

        Raises:
            CatalogError: unknown; names near matches.
        """
        return _look_up(chip_id, self.chips, self._chip_alias, kind="chip", where=where)

    def system(self, system_id: str, where: str = "") -> System:
        """A system by id or alias.

        Raises:
            CatalogError: unknown; names near matches.
        """
        return _look_up(system_id, self.systems, self._system_alias, kind="system", where=where)

    def engine(self, engine_id: str, where: str = "") -> Engine:
        """An engine by id or alias.

        Raises:
            CatalogError: unknown; names near matches.
        """
        return _look_up(engine_id, self.engines, self._engine_alias, kind="engine", where=where)

    def price(self, chip_id: str, currency: str = "CNY", as_of: dt.date | None = None) -> list[Figure]:
        """Purchase prices of one package in ``currency``, preferred first; empty where no source gives one.

        A price of a label ("910B, bin not stated") holds for its members, and theirs for the label.
        """
        return self.prices.purchase(self._price_ids(chip_id), currency, as_of or self.as_of)

    def rent(self, chip_id: str, currency: str = "USD", as_of: dt.date | None = None) -> list[Figure]:
        """Rents of one package in ``currency``/h, preferred first."""
        return self.prices.rental(self._price_ids(chip_id), currency, as_of or self.as_of)

    def _price_ids(self, chip_id: str) -> tuple[str, ...]:
        chip = self.chip(chip_id)
        labels = [other.id for other in self.chips.values() if any(bin_.chip == chip.id for bin_ in other.mixture)]
        return (chip.id, *labels, *(bin_.chip for bin_ in chip.mixture))

    def exchange_rate(self, base: str, quote: str, as_of: dt.date | None = None) -> Figure:
        """Units of ``quote`` for one unit of ``base``."""
        return self.prices.exchange_rate(base, quote, as_of or self.as_of)


def load(as_of: dt.date | None = None, *, root: Path | None = None) -> Catalog:
    """The catalogue as it was known on ``as_of`` (None: all of it). Cached; the only reader of these files.

    Args:
        as_of: facts that became known later are hidden, and chips and systems that were unknown then are too.
        root: another data folder, for tests.

    Raises:
        CatalogError: a data file is broken; names file and path.
    """
    return _load(as_of, root or DATA)


@functools.lru_cache(maxsize=16)
def _load(as_of: dt.date | None, root: Path) -> Catalog:
    everything = _read_all(root)
    if as_of is None:
        return everything
    chips = {key: _known(chip, as_of) for key, chip in everything.chips.items() if _is_known(chip, as_of)}
    systems = {key: _known(system, as_of) for key, system in everything.systems.items() if _is_known(system, as_of)}
    engines = {key: _engine_known(engine, as_of) for key, engine in everything.engines.items()}
    engines = {key: engine for key, engine in engines.items() if _is_known(engine, as_of)}
    unknown = set(everything.engines) - set(engines)
    for key, chip in chips.items():
        if unknown.intersection(chip.engines):
            known = tuple(name for name in chip.engines if name not in unknown)
            chips[key] = msgspec.structs.replace(chip, engines=known)
    prices = everything.prices.known(as_of)
    return Catalog(chips=chips, systems=systems, engines=engines, prices=prices, as_of=as_of, root=root)


@functools.lru_cache(maxsize=4)
def _read_all(root: Path) -> Catalog:
    chips = _read_folder(root / "chips", Chip, _check_chip)
    systems = _read_folder(root / "systems", System, _check_system)
    engines = _read_folder(root / "engines", Engine, _check_engine)
    for key, chip in list(chips.items()):
        if chip.mixture:
            chips[key] = _with_mixture(chip, chips)
    prices = _read_prices(root / "prices")
    catalog = Catalog(chips=chips, systems=systems, engines=engines, prices=prices, root=root)
    _check_references(catalog)
    return catalog


@functools.lru_cache(maxsize=4)
def data_version(root: Path = DATA) -> str:
    """A digest of every data file below ``root`` (12 hex digits)."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            digest.update(f"{path.relative_to(root).as_posix()}\x1f{path.stat().st_size}\x1f".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_folder(folder: Path, kind: type[Entry], check: Callable[[Entry, str], None]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path in sorted(folder.rglob("*.toml")):
        entry = _read(path, kind)
        where = _shown(path)
        expected = path.relative_to(folder).with_suffix("").as_posix()
        if entry.id != expected:
            raise CatalogError(f'id is "{entry.id}"', where=where, mend=f'The file name asks for "{expected}".')
        check(entry, where)
        found[entry.id] = entry
    return found


def _read(path: Path, kind: type[T]) -> T:
    """One file as one record.

    Raises:
        CatalogError: unreadable, not TOML, a bare number, an unknown or missing key, a wrong type.
    """
    where = _shown(path)
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise CatalogError(f"not a readable TOML file: {error}", where=where) from None
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), where=where, kind=kind) from None


def _explain(message: str, *, where: str, kind: type[Record]) -> CatalogError:
    """A CatalogError from a decoding message ("Expected `array`, got `int` - at `$.figures[...]`")."""
    what, _, path = message.partition(" - at ")
    path = path.strip("`")
    where = f"{where}:{path}" if path else where
    unknown = re.search(r"unknown field `([^`]*)`", what)
    if unknown:
        fields = [*kind.__struct_fields__, *Figure.__struct_fields__]
        return CatalogError(
            f'unknown key "{unknown.group(1)}"', where=where, mend=near_miss_hint(unknown.group(1), fields)
        )
    mend = ""
    if re.search(r"got `(int|float|str)`", what) and ("figures" in path or "bounds" in path or "figure" in path):
        mend = "A number needs value, unit, source, url, as_of and confidence; a bare number is refused."
    return CatalogError(what[:1].lower() + what[1:], where=where, mend=mend)


def _shown(path: Path) -> str:
    parts = path.parts
    start = max((i for i, part in enumerate(parts) if part in _FOLDERS), default=len(parts) - 1)
    return "/".join(parts[start:])


def _check_chip(chip: Chip, where: str) -> None:
    check_figures(chip.figures, where=f"{where}:$.figures")
    check_figures({name: (figure,) for name, figure in chip.bounds.items()}, where=f"{where}:$.bounds")
    both = sorted(set(chip.figures) & set(chip.bounds))
    if both:
        raise CatalogError(f"{both[0]} has both a figure and bounds", where=where, mend="Keep the figure.")
    if chip.mixture:
        for index, bin_ in enumerate(chip.mixture):
            check_figure(bin_.weight, where=f"{where}:$.mixture[{index}].weight")
        total = sum(bin_.weight.si for bin_ in chip.mixture)
        if abs(total - 1.0) > 1e-9:
            raise CatalogError(f"weights of the mixture sum to {total:g}, not 1", where=f"{where}:$.mixture")


def _check_system(system: System, where: str) -> None:
    check_figures(system.figures, where=f"{where}:$.figures")
    if system.packages_per_node < 1 or system.nodes_per_domain < 1:
        raise CatalogError("packages_per_node and nodes_per_domain are at least 1", where=where)
    if system.topology in ("full-mesh", "hierarchical") and (
        system.links_per_device < 1 or "link_bandwidth" not in system.figures
    ):
        raise CatalogError("a mesh needs links_per_device and figures.link_bandwidth", where=where)


def _check_engine(engine: Engine, where: str) -> None:
    for index, fact in enumerate(engine.facts):
        if not fact.source.strip() or not fact.url.strip():
            raise CatalogError("support fact without source or url", where=f"{where}:$.facts[{index}]")
    for index, version in enumerate(engine.versions):
        if not version.source.strip() or not version.url.strip():
            raise CatalogError("version without source or url", where=f"{where}:$.versions[{index}]")


def _read_prices(folder: Path) -> Prices:
    price, rate, market = [], [], []
    for path in sorted(folder.glob("*.toml")):
        part = _read(path, Prices)
        where = _shown(path)
        for name, entries in (("price", part.price), ("rate", part.rate), ("market", part.market)):
            for index, entry in enumerate(entries):
                check_figure(entry.figure, where=f"{where}:$.{name}[{index}].figure")
        for index, entry in enumerate(part.price):
            dimension = units.unit_factor(entry.figure.unit)[1]
            wanted = "money/s" if entry.kind == "rental" else "money"
            if dimension != wanted:
                raise CatalogError(
                    f'"{entry.figure.unit}" is {dimension}, expected {wanted}', where=f"{where}:$.price[{index}]"
                )
        price += part.price
        rate += part.rate
        market += part.market
    return Prices(price=tuple(price), rate=tuple(rate), market=tuple(market))


def _with_mixture(chip: Chip, chips: Mapping[str, Chip]) -> Chip:
    for bin_ in chip.mixture:
        if bin_.chip not in chips or chips[bin_.chip].mixture:
            raise CatalogError(f'"{bin_.chip}" is not a plain chip', where=f"chips/{chip.id}.toml:$.mixture")
    derived = mixture_figures(chip.mixture, dict(chips))
    return msgspec.structs.replace(chip, figures={**derived, **chip.figures})


def _check_references(catalog: Catalog) -> None:
    for chip in catalog.chips.values():
        for system in chip.systems:
            catalog.system(system, where=f"chips/{chip.id}.toml:$.systems")
        for engine in chip.engines:
            catalog.engine(engine, where=f"chips/{chip.id}.toml:$.engines")
    for system in catalog.systems.values():
        for chip_id in system.chips:
            catalog.chip(chip_id, where=f"systems/{system.id}.toml:$.chips")
    for engine in catalog.engines.values():
        if engine.base:
            catalog.engine(engine.base, where=f"engines/{engine.id}.toml:$.base")
    for price in catalog.prices.price:
        catalog.chip(price.chip, where="prices")


def _aliases(entries: Mapping[str, Entry], kind: str) -> dict[str, str]:
    known: dict[str, str] = {}
    for entry in entries.values():
        for name in (entry.id, *entry.aliases):
            lowered = name.lower()
            if lowered in known and known[lowered] != entry.id:
                raise CatalogError(
                    f'"{name}" names both {known[lowered]} and {entry.id}', where=f"{kind}/{entry.id}.toml"
                )
            known[lowered] = entry.id
    return known


def _look_up(wanted: str, entries: Mapping[str, Entry], alias: Mapping[str, str], *, kind: str, where: str) -> Entry:
    found = alias.get(wanted.strip().lower())
    if found is not None:
        return entries[found]
    hint = near_miss_hint(wanted, alias)
    listing = {"chip": "offramp chips", "engine": "offramp engines"}.get(kind, "offramp chips")
    raise CatalogError(f'unknown {kind} "{wanted}"', where=where, mend=f'{hint} "{listing}" lists all.'.strip())


def _is_known(entry: Chip | System | Engine, as_of: dt.date) -> bool:
    return entry.known is None or entry.known <= as_of


def _known(entry: Entry, as_of: dt.date) -> Entry:
    if isinstance(entry, Engine):
        return entry
    return msgspec.structs.replace(entry, figures=known_figures(entry.figures, as_of))


def _engine_known(engine: Engine, as_of: dt.date) -> Engine:
    """The engine with the releases of that day; facts stay, because a fact's version says since when it holds."""
    versions = tuple(version for version in engine.versions if version.date <= as_of)
    return msgspec.structs.replace(engine, versions=versions)
