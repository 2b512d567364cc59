"""rules: what the rules say of a chip, what changed between two days, the rules themselves, and case files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec

from offramp import __version__
from offramp.app.check import ASK_HEADQUARTERS
from offramp.app.chipfacts import chip_facts, chip_names, known_chips, log_facts, resolver
from offramp.app.studyfile import load_study
from offramp.core.document import decode_text, read_bytes
from offramp.core.errors import CatalogError, InputError, near_miss_hint
from offramp.core.result import Column, FigureLog, Notice, Result, Table, hash_inputs, table_of
from offramp.rules import Rulebook, Settings, Verdict, rulebook_of
from offramp.rules import verdict as evaluate
from offramp.rules.cases import COLUMNS, EXTRA_COLUMNS, Outcome, case_question, check_case, read_cases
from offramp.rules.records import DISCLAIMER

SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "tf32_bits": ("32", "19"), "die_area": ("as-published", "all-logic"), "aggregation": ("max-concurrent", "sum"),
    "offshore_review": ("denial", "as-china"),
}  # fmt: skip
"""Points of interpretation and what each may be; the first is the default."""
_QUESTION: Final = tuple(
    name for name in (*COLUMNS, *EXTRA_COLUMNS) if not name.startswith("expect_") and name != "case_id"
)
_HERE: Final = "the command line"
TAKEN_AS_CN: Final = Notice(kind="default", text="no headquarters given: taken as CN", where="--headquarters")


def verdict(chip: str, *, as_of: str, **question: str) -> Result:
    """What the rules say of one chip, act and day.

    Args:
        chip: catalogue id, alias or name; a chip that nobody knows needs its attributes in the question.
        as_of: day of the act, ISO.
        question: columns of a case file (``buyer``, ``headquarters``, ``dense_tops_x_bits`` ...), settings
            (``tf32_bits``, ``die_area``, ``aggregation``, ``offshore_review``), ``rules`` for a folder of more rules.

    Raises:
        CatalogError: unknown chip and no attributes given; a broken rule file.
        InputError: an unknown key or value.
    """
    book = rulebook_of(question.pop("rules", ""))
    settings, row = split_question(question)
    row |= {"chip": chip, "as_of": as_of}
    stated = any(row.get(name) for name in ("dense_tops_x_bits", "tpp", "die_mm2", "dram_bw_GBps", "io_bw_GBps"))
    if chip_facts(chip, book=book, name=row.get("chip_name", "")) is None and not stated:
        hint = near_miss_hint(chip, chip_names(book))
        raise CatalogError(
            f'unknown chip "{chip}"', where="CHIP",
            mend=f'{hint} Or state it: --set dense_tops_x_bits="INT8 624x8" --set die_mm2=826.'.strip(),
        )  # fmt: skip
    facts, context, day = case_question(row, resolver(book), _HERE)
    known = _day(row["known"], "known") if row.get("known") else None
    answer = evaluate(facts, context, day, known=known, rulebook=book, settings=settings)
    log = FigureLog()
    log_facts(facts, log)
    log.note_date(answer.horizon)
    notices = [Notice(kind="rules", text=note, where=answer.chip) for note in answer.notes]
    if not row.get("headquarters") and not row.get("destination"):
        notices.append(TAKEN_AS_CN)
    return Result(
        command="rules verdict", answer=msgspec.to_builtins(answer), tables=_verdict_tables(answer),
        inputs_hash=hash_inputs({**row, "settings": str(settings)}), data_version=book.version,
        status="partial" if answer.verdict == "indeterminate" else "ok", knowledge_horizon=log.horizon,
        figures=log.figures, warnings=tuple(notices), disclaimer=DISCLAIMER, offramp_version=__version__,
    )  # fmt: skip


def split_question(question: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """Settings and case columns of a question.

    Raises:
        InputError: a key that is neither, or a setting that is none of its values.
    """
    chosen: dict[str, str] = {}
    row: dict[str, str] = {}
    for key, value in question.items():
        if key in SETTINGS:
            if value not in SETTINGS[key]:
                raise InputError(f'"{value}" is not one of {", ".join(SETTINGS[key])}', where=key)
            chosen[key] = value
        elif key in _QUESTION:
            row[key] = value
        else:
            known = (*_QUESTION, *SETTINGS, "rules")
            raise InputError(f'unknown setting "{key}"', where="--set",
                             mend=near_miss_hint(key, known) or f"Known: {', '.join(known)}.")  # fmt: skip
    settings = Settings(
        tf32_bits=19 if chosen.get("tf32_bits") == "19" else 32,
        die_area=cast("Literal['as-published', 'all-logic']", chosen.get("die_area", "as-published")),
        aggregation=cast("Literal['max-concurrent', 'sum']", chosen.get("aggregation", "max-concurrent")),
        offshore_review=cast("Literal['denial', 'as-china']", chosen.get("offshore_review", "denial")),
    )
    return settings, row


def diff(
    first: str, second: str, *, chips: Sequence[str] = (), study: str | None = None, rules: str = "", **question: str
) -> Result:
    """What changed between two days for a fleet of chips.

    Args:
        first, second: ISO days, in order.
        chips: catalogue ids; with a study its fleet, orders and candidates are added; neither means all chips.
        study: path of a study file, whose organisation is the buyer.
        rules: folder of further rules.
        question: as of :func:`verdict`.

    Raises:
        InputError: days out of order, an unknown key. CatalogError: an unknown chip.
    """
    book = rulebook_of(rules)
    days = (_day(first, "DATE"), _day(second, "DATE"))
    if days[0] >= days[1]:
        raise InputError(f"{first} is not before {second}", where="DATE", mend="Give the earlier day first.")
    settings, row = split_question(question)
    wanted = list(chips)
    if study is not None:
        mine, organisation = _study_chips(study, book)
        wanted += mine
        row = organisation | row
        if not row.get("headquarters"):
            raise InputError("no headquarters", where=f"{study}:$.organisation.headquarters", mend=ASK_HEADQUARTERS)
    notices = () if row.get("headquarters") or row.get("destination") else (TAKEN_AS_CN,)
    rows = [_compare(chip, days, row, book, settings) for chip in dict.fromkeys(wanted) or known_chips(book)]
    moved = _moved(book, days)
    columns = [Column(name=name) for name in ("chip", "from", "to", "changed", "why")]
    changed = sum(bool(item["changed"]) for item in rows)
    answer = {"from": first, "to": second, "chips": rows, "changed": changed, "rules": moved}
    return Result(
        command="rules diff", answer=answer,
        tables={
            "chips": table_of(rows, columns=columns, title=f"Verdicts on {first} and {second}"),
            "rules": table_of(moved, columns=["rule", "from", "to", "title"], title="Rules whose standing changed"),
        },
        inputs_hash=hash_inputs({**row, "first": first, "second": second, "chips": ",".join(wanted)}),
        data_version=book.version, knowledge_horizon=book.horizon(), disclaimer=DISCLAIMER, warnings=notices,
        offramp_version=__version__,
    )  # fmt: skip


def listing(*, as_of: str | None = None, jurisdiction: str = "", rules: str = "") -> Result:
    """Every rule with its standing, source and confidence.

    Args:
        as_of: day whose standing is shown; None shows the latest state of each.
        jurisdiction: "US" or "CN"; "" lists both.
        rules: folder of further rules.

    Raises:
        InputError: neither jurisdiction.
    """
    book = rulebook_of(rules)
    day = _day(as_of, "--as-of") if as_of else None
    wanted = jurisdiction.upper()
    if wanted not in ("", "US", "CN"):
        raise InputError(f'unknown jurisdiction "{jurisdiction}"', where="--jurisdiction", mend="Known: US, CN.")
    rows: list[dict[str, Any]] = []
    for rule in book.rules.values():
        state = rule.state_on(day) if day else rule.states[-1]
        if wanted in ("", rule.jurisdiction) and state is not None:
            rows.append({
                "rule": rule.id, "state": state.state, "since": state.since.isoformat(), "title": rule.title,
                "outcome": rule.outcome, "binds": rule.binds, "instrument": rule.instrument, "kind": rule.kind,
                "jurisdiction": rule.jurisdiction, "confidence": rule.confidence, "source": rule.source,
                "url": rule.url, "note": " ".join(part for part in (state.note, rule.note) if part),
            })  # fmt: skip
    names = ("rule", "state", "since", "title", "outcome", "confidence", "source")
    return Result(
        command="rules list", answer={"as_of": as_of, "rules": rows},
        tables={"rules": table_of(rows, columns=names, title="Rules")},
        inputs_hash=hash_inputs({"as_of": as_of, "jurisdiction": wanted}), data_version=book.version,
        knowledge_horizon=book.horizon(), disclaimer=DISCLAIMER, offramp_version=__version__,
    )  # fmt: skip


def check(path: str | Path, *, rules: str = "") -> tuple[dict[str, Any], list[Outcome]]:
    """A case file against the rules: ``{cases, agree, disagree}`` and every outcome.

    Raises:
        InputError: the file cannot be read as cases.
    """
    book = rulebook_of(rules)
    name = Path(path).name
    rows = read_cases(decode_text(read_bytes(Path(path)), where=name), name)
    resolve = resolver(book)
    outcomes = [
        check_case(row, resolve, book, Settings(), f"{name}:{index + 2} ({row['case_id']})")
        for index, row in enumerate(rows)
    ]
    wrong = [
        {"case_id": item.case_id, "expected": item.expected, "got": item.got, "why": item.why}
        for item in outcomes
        if not item.agrees
    ]
    return {"cases": len(outcomes), "agree": len(outcomes) - len(wrong), "disagree": wrong}, outcomes


def _day(text: str, where: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise InputError(f'"{text}" is not a date', where=where, mend="Write it as 2026-11-23.") from None


def _compare(
    chip: str, days: tuple[dt.date, dt.date], row: Mapping[str, str], book: Rulebook, settings: Settings
) -> dict[str, Any]:
    if chip_facts(chip, book=book) is None:
        hint = near_miss_hint(chip, chip_names(book))
        raise CatalogError(f'unknown chip "{chip}"', where="--chip", mend=f'{hint} "offramp chips" lists all.'.strip())
    answers: list[Verdict] = []
    for day in days:
        facts, context, _ = case_question({**row, "chip": chip, "as_of": day.isoformat()}, resolver(book), _HERE)
        answers.append(evaluate(facts, context, day, rulebook=book, settings=settings))
    before, after = answers
    ids = [{hit.rule for hit in answer.rules if not hit.relieved_by} for answer in answers]
    why = [f"+ {name}" for name in sorted(ids[1] - ids[0])] + [f"- {name}" for name in sorted(ids[0] - ids[1])]
    changed = before.verdict != after.verdict or before.by_jurisdiction != after.by_jurisdiction
    return {
        "chip": after.chip, "from": _short(before), "to": _short(after), "changed": changed, "why": ", ".join(why),
        "verdict_from": before.verdict, "verdict_to": after.verdict, "by_jurisdiction_from": before.by_jurisdiction,
        "by_jurisdiction_to": after.by_jurisdiction, "conditions_to": [item.text for item in after.conditions],
    }  # fmt: skip


def _short(answer: Verdict) -> str:
    parts = [f"{side} {verdict}" for side, verdict in answer.by_jurisdiction.items()]
    return ", ".join(parts)


def _moved(book: Rulebook, days: tuple[dt.date, dt.date]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for rule in book.rules.values():
        states = [rule.state_on(day) for day in days]
        names = [state.state if state else "not yet" for state in states]
        if names[0] != names[1]:
            out.append({"rule": rule.id, "from": names[0], "to": names[1], "title": rule.title})
    return out


def _study_chips(path: str, book: Rulebook) -> tuple[list[str], dict[str, str]]:
    """Chips of a study's fleet, orders and candidates; its organisation and first site as a question."""
    study = load_study(path).study
    named = [entry.chip for entry in (*study.fleet, *study.order)]
    if study.candidates is not None:
        named += [*((study.candidates.baseline,) if study.candidates.baseline else ()), *study.candidates.chips]
    chips = [chip for chip in named if chip_facts(chip, book=book) is not None]
    organisation = study.organisation
    buyer = "military" if organisation.military else organisation.kind
    row = {"buyer": buyer}
    if organisation.headquarters:
        row["headquarters"] = organisation.headquarters
    if study.site:
        site = study.site[0]
        row |= {"site": site.place or site.id} | ({"destination": site.country} if site.country else {})
        row |= {} if site.completion is None else {"project_complete": f"{site.completion}"}
    if organisation.owners:
        row["parent"] = organisation.owners[0]
    return chips, row


def _verdict_tables(answer: Verdict) -> dict[str, Table]:
    def rows(items: Iterable[Any]) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(item) for item in items]

    return {
        "rules": table_of(
            rows(answer.rules), title="Rules that apply",
            columns=("rule", "verdict", "text", "relieved_by", "state", "confidence", "source", "url"),
        ),
        "watch": table_of(
            rows(answer.watch), title="Rules that would apply but are not in force",
            columns=("rule", "state", "verdict", "text", "source"),
        ),
        "conditions": table_of(
            rows(answer.conditions), columns=("kind", "value", "unit", "text", "rule"), title="Conditions"
        ),
        "margins": table_of(
            rows(answer.margins), title="Distance to each threshold",
            columns=("rule", "quantity", "value", "sign", "threshold", "unit", "margin", "relative", "holds"),
        ),
        "inputs": table_of(
            rows(answer.inputs), columns=("name", "value", "unit", "source", "confidence", "url"), title="Inputs"
        ),
    }  # fmt: skip
