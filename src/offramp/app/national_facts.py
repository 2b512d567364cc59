"""The national question's file: demand, stock, exchange rates and published views as sourced figures."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offramp.app.studyfile import apply_override
from offramp.core.document import conform, decode_text, parse_toml, read_bytes
from offramp.core.errors import InputError
from offramp.core.figure import Figure, check_figure
from offramp.core.quarters import parse_quarter, quarter_of
from offramp.core.record import Record
from offramp.supply.facts import YearFigure


class Header(Record):
    """[national]: what is asked, and from when."""

    name: str
    as_of: dt.date
    facts: str
    last: str
    first: str = ""
    country: str = "CN"
    baseline: str = "nvidia/h20"
    draws: Annotated[int, Meta(ge=10, le=2000)] = 60
    seed: int = 0


class Demand(Record):
    """One source's path of money wanted by year."""

    name: str
    weight: float
    point: tuple[YearFigure, ...]


class Workload(Record):
    """A kind of work and its share of the wanted work."""

    id: str
    kind: Literal["serve", "fine-tune", "pretrain"]
    share: Figure
    state_funded: bool = False


class Stock(Figure, kw_only=True):
    """Cards installed at the beginning of a quarter."""

    chip: str
    quarter: str


class MixShare(Record):
    """A kind of inference in the exchange file and its share of the wanted inference."""

    workload: str
    share: Figure


class Rate(Record):
    """Chips of a kind that do what one baseline chip does for one kind of inference.

    Attributes:
        mode: "computed" has 10 %, 50 % and 90 % of draws; "bounds" a range over missing facts of the chip.
        high: None where the chip cannot do the work at the low end of what it may be.
    """

    chip: str
    workload: str
    mode: Literal["computed", "bounds"]
    low: Annotated[float, Meta(gt=0.0)]
    mid: float | None = None
    high: float | None = None


class Dated(Record):
    """The rates as the facts of one day give them."""

    as_of: dt.date
    data: str
    rate: tuple[Rate, ...] = ()


class Exchange(Record):
    """The generated file of exchange rates and what it was made from."""

    tool: str
    parameters: str
    made: dt.date
    dated: tuple[Dated, ...]

    def on(self, day: dt.date) -> Dated | None:
        """The newest rates that use nothing known after a day; None where there are none."""
        known = [item for item in self.dated if item.as_of <= day]
        return max(known, key=lambda item: item.as_of) if known else None


class Readiness(Record):
    """Probability that software and fabric of a class of chips carry training today, with the evidence."""

    fine_tune: Figure
    pretrain: Figure


class Chip(Record):
    """A chip of the question.

    Attributes:
        ready: class of readiness for training.
        exchange: how many do the inference work of one baseline chip; wins over the exchange file.
        like, factor: where the exchange file has only bounds, or nothing: chips of this kind that do the work of one of
            another kind, whose rates the file has. The bounds cut it off.
        price: what revenue over cards implies, once it was known; wins over the catalogue's prices, of which many are
            quotes of one day. An assumed one counts only where the catalogue has none.
    """

    id: str
    ready: str
    exchange: Figure | None = None
    like: str = ""
    factor: Figure | None = None
    price: tuple[Figure, ...] = ()


class View(YearFigure, kw_only=True):
    """A published view, shown beside the answer."""

    who: str
    what: str


class Facts(Record):
    """The facts file."""

    equivalent: Figure
    equivalent_growth: Figure
    demand_growth: Figure
    software_ready_growth: Figure
    demand: tuple[Demand, ...]
    workload: tuple[Workload, ...]
    stock: tuple[Stock, ...]
    chip: tuple[Chip, ...]
    readiness: dict[str, Readiness]
    mix: tuple[MixShare, ...] = ()
    exchange: str = ""
    view: tuple[View, ...] = ()


class Question(Record):
    """A national study with its facts, its exchange rates and the bytes of all files."""

    header: Header
    facts: Facts
    exchange: Exchange | None
    inputs: dict[str, bytes]


class _File(Record):
    national: Header


def is_national(path: str | Path) -> bool:
    """Whether the file asks the national question."""
    try:
        return "national" in tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # the study reader says what is wrong


def load(path: str | Path, overrides: Sequence[str] = ()) -> Question:
    """Reads a national study and its facts.

    Raises:
        InputError: a file is missing or broken; the first problem, with its path.
    """
    file = Path(path)
    raw = read_bytes(file)
    data: dict[str, Any] = parse_toml(decode_text(raw, where=str(file)), where=str(file))
    for override in overrides:
        data = apply_override(data, override)
    header = _record(data, _File, str(file)).national
    other = file.parent / header.facts
    facts_raw = read_bytes(other, where=f"{file}:$.national.facts")
    facts = _record(parse_toml(decode_text(facts_raw, where=str(other)), where=str(other)), Facts, str(other))
    inputs = {file.name: raw, header.facts: facts_raw, "--set": "\n".join(overrides).encode()}
    exchange: Exchange | None = None
    if facts.exchange:
        third = other.parent / facts.exchange
        inputs[facts.exchange] = read_bytes(third, where=f"{other}:$.exchange")
        exchange = _record(
            parse_toml(decode_text(inputs[facts.exchange], where=str(third)), where=str(third)), Exchange, str(third)
        )
    _check(header, facts, str(file), str(other))
    _check_rates(header, facts, exchange, str(other))
    return Question(header=header, facts=facts, exchange=exchange, inputs=inputs)


def _record(data: dict[str, Any], kind: Any, where: str) -> Any:
    plain, problems = conform(data, kind)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InputError(errors[0].what + more, where=f"{where}:{errors[0].path}", mend=errors[0].mend)
    return msgspec.convert(plain, kind)


def _check(header: Header, facts: Facts, file: str, other: str) -> None:
    first = parse_quarter(header.first, where=f"{file}:$.national.first") if header.first else quarter_of(header.as_of)
    last = parse_quarter(header.last, where=f"{file}:$.national.last")
    if first < quarter_of(header.as_of) or last < first:
        raise InputError("quarters are out of order", where=f"{file}:$.national", mend="as_of <= first <= last.")
    ids = [chip.id for chip in facts.chip]
    for number, chip in enumerate(facts.chip):
        for name, figure in (
            ("exchange", chip.exchange),
            ("factor", chip.factor),
            *(("price", item) for item in chip.price),
        ):
            if figure is not None:
                check_figure(figure, where=f"{other}:$.chip[{number}].{name}")
        if chip.ready not in facts.readiness:
            raise InputError(f'unknown class of readiness "{chip.ready}"', where=f"{other}:$.chip[{number}].ready",
                             mend=f"Known: {', '.join(facts.readiness)}.")  # fmt: skip
    for name, ready in facts.readiness.items():
        check_figure(ready.fine_tune, where=f"{other}:$.readiness.{name}.fine_tune")
        check_figure(ready.pretrain, where=f"{other}:$.readiness.{name}.pretrain")
    for number, stock in enumerate(facts.stock):
        check_figure(stock, where=f"{other}:$.stock[{number}]")
        if stock.chip not in ids:
            raise InputError(f'stock of unknown chip "{stock.chip}"', where=f"{other}:$.stock[{number}].chip")
    for demand in facts.demand:
        for point in demand.point:
            check_figure(point, where=f"{other}:$.demand")
    total = sum(work.share.value for work in facts.workload)
    if abs(total - 1.0) > 0.02:
        raise InputError(f"shares of work add up to {total:.2f}", where=f"{other}:$.workload", mend="Make them 1.")


def _check_rates(header: Header, facts: Facts, exchange: Exchange | None, other: str) -> None:
    """Every chip has a rate: in the exchange file for every kind of the mix, or a figure of its own."""
    dated = exchange.on(header.as_of) if exchange else None
    rates = dated.rate if dated else ()
    for number, mix in enumerate(facts.mix):
        check_figure(mix.share, where=f"{other}:$.mix[{number}].share")
        if rates and mix.workload not in {rate.workload for rate in rates}:
            raise InputError(f'the exchange file knows no "{mix.workload}"', where=f"{other}:$.mix[{number}].workload")
    computed = {rate.chip for rate in rates if rate.mode == "computed"} | {header.baseline}
    for number, chip in enumerate(facts.chip):
        if chip.exchange is not None or chip.id in computed:
            continue
        if not chip.like or chip.factor is None:
            raise InputError(f"{chip.id} has no exchange rate on {header.as_of}", where=f"{other}:$.chip[{number}]",
                             mend='Run "make exchange", or give like and factor, or exchange.')  # fmt: skip
        if chip.like not in computed:
            raise InputError(f"{chip.like} has no computed exchange rate on {header.as_of}",
                             where=f"{other}:$.chip[{number}].like", mend='Run "make exchange".')  # fmt: skip
