"""Case files: a chip, an act and a day per row, and what the verdict ought to be."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from offramp.core import units
from offramp.core.errors import InputError, OfframpError, near_miss_hint
from offramp.core.figure import Figure
from offramp.core.record import Record
from offramp.rules.book import Rulebook
from offramp.rules.chips import merge
from offramp.rules.engine import verdict
from offramp.rules.facts import (
    ChipFacts,
    Context,
    Item,
    Peak,
    Settings,
    buyer_of,
    country_of,
    given,
    route_of,
    use_of,
)
from offramp.rules.formulas import BITS
from offramp.rules.records import RANK, JurisdictionChoice, Verdict

COLUMNS: Final = (
    "case_id", "chip", "chip_name", "as_of", "jurisdiction", "headquarters", "destination", "buyer", "route", "use",
    "project_complete", "foreign_share", "site", "include_drafts", "datacenter", "dense_tops_x_bits", "die_mm2",
    "dram_bw_GBps", "io_bw_GBps", "expect_tpp", "expect_pd", "expect_control", "expect_verdict", "rule_hint",
    "answer_basis", "source", "note",
)  # fmt: skip
EXTRA_COLUMNS: Final = ("parent", "known", "listed_ownership", "us_nexus", "launched", "tpp")
"""Columns that a file may add; rows without them take the defaults."""
_NEEDED: Final = ("case_id", "as_of", "expect_verdict")
_PEAK: Final = re.compile(
    r"\b(?P<dtype>(?:FP|BF|INT|TF|HF|HIF|MXFP|NVFP)\d+)\s+(?P<tops>[\d.,]*\d)\s*[x×*]\s*(?P<bits>\d+)"
    r"(?P<sparse>\s*[(,]?\s*(?:with\s+)?spars(?:e|ity))?", re.IGNORECASE,
)  # fmt: skip
_DTYPE: Final = r"(?P<dtype>(?:FP|BF|INT|TF|HF|HIF|MXFP|NVFP)\d+)"
_RATE: Final = r"(?P<tops>[\d.,]*\d)\s*(?P<scale>[TP])?(?:FLOPS?(?:/s)?|OPS)?"
_SPARSE: Final = r"(?P<sparse>\s*[(,]?\s*(?:with\s+)?spars(?:e|ity))?"
_BARE: Final = (
    re.compile(rf"\b{_DTYPE}\s*[:=]?\s*{_RATE}{_SPARSE}", re.IGNORECASE),
    re.compile(rf"(?<![\w.]){_RATE}\s+{_DTYPE}{_SPARSE}", re.IGNORECASE),
)
"""A peak without its bit length ("FP16 280", "280 TFLOPS FP16"): the length is that of the data type."""
_UNDER_RATE: Final = re.compile(
    r"(?:<|below|under|less than)\s*(?P<tops>[\d.,]*\d)\s*(?:TFLOPS|TOPS|TFLOP/s)\s*(?P<bits>\d+)[- ]?bit",
    re.IGNORECASE,
)
_UNDER_TPP: Final = re.compile(r"(?:<|below|under|less than)\s*(?P<tpp>[\d.,]*\d)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w-])")
_CODE: Final = re.compile(r"[34]A\d{3}(?:\.[a-z])?", re.IGNORECASE)
TOLERANCE: Final = 1e-3
"""Relative difference up to which a computed TPP equals the expected one (published values are rounded)."""

Resolve = Callable[[str, str], ChipFacts | None]


class Outcome(Record):
    """One case: what was expected and what came out.

    Attributes:
        got: None where the case could not be answered.
        why: for a disagreement, the reason in words.
    """

    case_id: str
    agrees: bool
    expected: dict[str, Any]
    got: dict[str, Any]
    why: str = ""


def read_cases(text: str, where: str) -> list[dict[str, str]]:
    """Rows of a case file.

    Raises:
        InputError: no header, an unknown column, a needed column missing, no rows.
    """
    reader = csv.DictReader(io.StringIO(text))
    columns = [name.strip() for name in reader.fieldnames or ()]
    for name in columns:
        if name not in COLUMNS and name not in EXTRA_COLUMNS:
            hint = near_miss_hint(name, (*COLUMNS, *EXTRA_COLUMNS))
            raise InputError(f'unknown column "{name}"', where=f"{where}:1", mend=hint)
    for name in _NEEDED:
        if name not in columns:
            raise InputError(f'column "{name}" is missing', where=f"{where}:1")
    rows = [
        {name.strip(): (value or "").strip() for name, value in row.items() if name and not isinstance(value, list)}
        for row in reader
    ]
    if not rows:
        raise InputError("holds no cases", where=where)
    return rows


def check_case(row: Mapping[str, str], resolve: Resolve, book: Rulebook, settings: Settings, where: str) -> Outcome:
    """The verdict on one row against what the row expects."""
    expected: dict[str, Any] = {"verdict": _verdict_word(row["expect_verdict"])}
    try:
        expected |= _expected_numbers(row, where)
        facts, context, as_of = case_question(row, resolve, where)
        known = _date(row.get("known", ""), f"{where}: known") if row.get("known") else None
        answer = verdict(facts, context, as_of, known=known, rulebook=book, settings=settings)
    except OfframpError as error:
        return Outcome(case_id=row["case_id"], agrees=False, expected=expected, got={"verdict": "error"},
                       why=str(error))  # fmt: skip
    got = {"verdict": answer.verdict, "tpp": answer.tpp, "pd": answer.pd, "control": answer.control}
    got = {name: value for name, value in got.items() if name in expected}
    wrong = [name for name in expected if not _same(name, expected[name], got[name])]
    why = _why(wrong, expected, got, answer) if wrong else ""
    return Outcome(case_id=row["case_id"], agrees=not wrong, expected=expected, got=got, why=why)


def case_question(row: Mapping[str, str], resolve: Resolve, where: str) -> tuple[ChipFacts, Context, dt.date]:
    """Chip, act and day of a row.

    Raises:
        InputError: a cell that cannot be read.
    """
    as_of = _date(row["as_of"], f"{where}: as_of")
    inline = inline_facts(row, as_of, where)
    facts = merge(inline, resolve(row.get("chip", ""), row.get("chip_name", "")))
    jurisdiction = row.get("jurisdiction", "").upper() or "both"
    choices: dict[str, JurisdictionChoice] = {"US": "US", "CN": "CN", "BOTH": "both", "both": "both"}
    if jurisdiction not in choices:
        raise InputError(f'unknown jurisdiction "{jurisdiction}"', where=where, mend="Known: US, CN, both.")
    context = Context(
        headquarters=country_of(row.get("headquarters", "") or row.get("destination", "") or "CN", where=where),
        parent=country_of(row.get("parent", ""), where=where),
        destination=country_of(row.get("destination", ""), where=where),
        buyer=buyer_of(row.get("buyer", ""), where=where), route=route_of(row.get("route", ""), where=where),
        use=use_of(row.get("use", ""), where=where), site=row.get("site", ""),
        project_complete=_share(row.get("project_complete", ""), f"{where}: project_complete"),
        foreign_share=_share(row.get("foreign_share", ""), f"{where}: foreign_share"),
        listed_ownership=_share(row.get("listed_ownership", ""), f"{where}: listed_ownership"),
        us_nexus=bool(_flag(row.get("us_nexus", ""), f"{where}: us_nexus")),
        jurisdiction=choices[jurisdiction],
        include_drafts=bool(_flag(row.get("include_drafts", ""), f"{where}: include_drafts")),
    )  # fmt: skip
    return facts, context, as_of


def inline_facts(row: Mapping[str, str], as_of: dt.date, where: str) -> ChipFacts:
    """The chip as far as the row itself describes it; every number counts as stated by the row."""
    label = f"stated in {where}"

    def figure(column: str, unit: str) -> Figure | None:
        text = row.get(column, "")
        return given(_number(text, f"{where}: {column}"), unit, label, as_of) if text else None

    peaks, tpp, below = parse_performance(row.get("dense_tops_x_bits", ""), where)
    if row.get("tpp") and tpp is None:
        tpp = _number(row["tpp"], f"{where}: tpp")
    halved = "sparse figures were halved: the rules count dense ones"
    launched = _date(row["launched"], f"{where}: launched") if row.get("launched") else None
    return ChipFacts(
        name=row.get("chip_name", "") or row.get("chip", ""), item=_item(row), launched=launched,
        datacenter=_flag(row.get("datacenter", ""), f"{where}: datacenter"),
        peaks=tuple(
            Peak(dtype=dtype, bits=bits, figure=given(tops, "TOPS", label, as_of)) for dtype, tops, bits in peaks
        ),
        tpp=None if tpp is None else given(tpp, "", label, as_of), tpp_below=below,
        die_area=figure("die_mm2", "mm2"), dram_bandwidth=figure("dram_bw_GBps", "GB/s"),
        io_bandwidth=figure("io_bw_GBps", "GB/s"),
        notes=(halved,) if re.search(r"spars(?:e|ity)", row.get("dense_tops_x_bits", ""), re.IGNORECASE) else (),
    )  # fmt: skip


def parse_performance(text: str, where: str) -> tuple[list[tuple[str, float, float]], float | None, float | None]:
    """What a cell says of performance: peaks ("INT8 624x8"), a TPP ("5,286"), an upper bound ("below 4800").

    Returns:
        (data type, TOPS, bits) of each peak; the stated TPP; the exclusive upper bound of TPP.

    Raises:
        InputError: the cell holds text but no number.
    """
    peaks: list[tuple[str, float, float]] = []
    for match in _PEAK.finditer(text):
        dtype = match["dtype"].lower()
        tops = _plain(match["tops"]) / (2.0 if match["sparse"] else 1.0)
        peaks.append((dtype if dtype in BITS else "fp16", tops, float(match["bits"])))
    peaks = peaks or _bare_peaks(text)
    if peaks or not text:
        return peaks, None, None
    match = _UNDER_RATE.search(text)
    if match:
        return [], None, _plain(match["tops"]) * float(match["bits"])
    match = _UNDER_TPP.search(text)
    below = _plain(match["tpp"]) if match else None
    rest = text[: match.start()] + text[match.end() :] if match else text
    stated = _NUMBER.findall(re.sub(r"\([^)]*\)", " ", rest)) or (_NUMBER.findall(rest) if match else [])
    if not stated and below is None:
        raise InputError(f'"{text}" holds no performance', where=where, mend='Write "INT8 624x8" or a TPP.')
    value = _plain(stated[0]) if stated else None
    return [], value if value is None or below is None or value < below else None, below


def _bare_peaks(text: str) -> list[tuple[str, float, float]]:
    """Peaks whose bit length is that of their data type; none where the cell states an upper bound."""
    if _UNDER_TPP.search(text):
        return []
    for pattern in _BARE:
        found = [match for match in pattern.finditer(text) if match["dtype"].lower() in BITS]
        if found:
            return [
                (match["dtype"].lower(), _plain(match["tops"]) * (1000.0 if (match["scale"] or "").upper() == "P" else 1.0)
                 / (2.0 if match["sparse"] else 1.0), float(BITS[match["dtype"].lower()]))
                for match in found
            ]  # fmt: skip
    return []


def _item(row: Mapping[str, str]) -> Item:
    name = row.get("chip_name", "") or row.get("chip", "")
    maker = r"(?:SK\s*hynix|hynix|Samsung|Micron|CXMT)\s+"
    loose = re.match(rf"(?:{maker}|\S+\s+)?HBM\d?E?\b", name, re.IGNORECASE) or re.search(
        r"\bHBM\d?E?\s+(?:stack|loose|memory|cube)", name, re.IGNORECASE
    )
    return "hbm" if loose and not row.get("dense_tops_x_bits") else "ic"


def _verdict_word(text: str) -> str:
    return text.lower().replace("_", "-").replace(" ", "-")


def _expected_numbers(row: Mapping[str, str], where: str) -> dict[str, Any]:
    """What the row expects beside the verdict.

    Raises:
        InputError: a number that cannot be read, or an expected verdict that is none.
    """
    verdict_word = _verdict_word(row["expect_verdict"])
    known = (*RANK, "indeterminate")
    if verdict_word not in known:
        what = f'"{row["expect_verdict"]}" is not a verdict' if verdict_word else "no verdict is expected"
        raise InputError(what, where=f"{where}: expect_verdict", mend=f"Known: {', '.join(known)}.")
    out: dict[str, Any] = {}
    for name in ("tpp", "pd"):
        if row.get(f"expect_{name}"):
            out[name] = _number(row[f"expect_{name}"], f"{where}: expect_{name}")
    if row.get("expect_control"):
        out["control"] = row["expect_control"]
    return out


def _same(name: str, expected: Any, got: Any) -> bool:
    if name == "verdict":
        return expected == got
    if name == "control":
        return _codes(expected) == _codes(got)
    if got is None:
        return False
    slack = max(TOLERANCE * abs(expected), 0.5 if name == "tpp" else 0.006)
    return abs(expected - got) <= slack


def _codes(text: str) -> set[str]:
    return {code.lower() for code in _CODE.findall(text)}


def _why(wrong: list[str], expected: Mapping[str, Any], got: Mapping[str, Any], answer: Verdict) -> str:
    parts = [f"{name} is {got[name]} instead of {expected[name]}" for name in wrong]
    rules = [f"{hit.rule} ({hit.verdict or 'condition'})" for hit in answer.rules if not hit.relieved_by]
    parts.append(f"rules: {', '.join(rules)}" if rules else "no rule applies")
    if answer.missing:
        parts.append(f"missing: {', '.join(answer.missing)}")
    return "; ".join(parts)


def _plain(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise InputError(f'"{text}" is not a number', mend='Write it as "1,979" or "989.5".') from None


def _number(text: str, where: str) -> float:
    try:
        value = _plain(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except InputError as error:
        raise InputError(error.what, where=where, mend=error.mend) from None
    if not 0.0 <= value < units.PETA:
        raise InputError(f"{text} is out of range", where=where)
    return value


def _share(text: str, where: str) -> float | None:
    if not text:
        return None
    value = _number(text, where)
    if value > 1.0:
        raise InputError(f"{text} is not a share between 0 and 1", where=where, mend='Write 0.3 or "30 %".')
    return value


def _flag(text: str, where: str) -> bool | None:
    words = {"yes": True, "true": True, "1": True, "y": True, "no": False, "false": False, "0": False, "n": False}
    if not text or text.lower() in ("unknown", "?"):
        return None
    if text.lower() not in words:
        raise InputError(f'"{text}" is neither yes nor no', where=where)
    return words[text.lower()]


def _date(text: str, where: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise InputError(f'"{text}" is not a date', where=where, mend="Write it as 2026-11-23.") from None


def complete(facts: ChipFacts, book: Rulebook, chip: str, name: str) -> ChipFacts:
    """The facts with id, vendor and origin filled in as well as names tell."""
    vendor = facts.vendor or book.chips.vendor_of(chip or facts.id, name or facts.name)
    return msgspec.structs.replace(
        facts, id=facts.id or chip, vendor=vendor, prc_designed=facts.prc_designed or book.chips.is_prc(vendor)
    )
