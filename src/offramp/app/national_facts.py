"""The national question's file: demand, stock, exchange rates and published views as sourced figures."""

from __future__ import annotations

import datetime as dt
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


class Chip(Record):
    """A chip: how many do the inference work of one baseline chip; probability that it carries training; price."""

    id: str
    exchange: Figure
    price: Figure
    fine_tune_ready: Annotated[float, Meta(ge=0.0, le=1.0)]
    pretrain_ready: Annotated[float, Meta(ge=0.0, le=1.0)]


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
    view: tuple[View, ...] = ()


class Question(Record):
    """A national study with its facts and the bytes of both files."""

    header: Header
    facts: Facts
    inputs: dict[str, bytes]


class _File(Record):
    national: Header


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
    _check(header, facts, str(file), str(other))
    inputs = {file.name: raw, header.facts: facts_raw, "--set": "\n".join(overrides).encode()}
    return Question(header=header, facts=facts, inputs=inputs)


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
        check_figure(chip.exchange, where=f"{other}:$.chip[{number}].exchange")
        check_figure(chip.price, where=f"{other}:$.chip[{number}].price")
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
