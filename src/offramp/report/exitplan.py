"""The exit-plan annex: concentration, alternatives assessed, evidence, timetable, triggers."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup as Html

from offramp.core.errors import InputError
from offramp.core.result import Result
from offramp.report.decision import counted, document, kinds, span, training, verdict
from offramp.report.html import digits, join
from offramp.report.lang import phrase, words


def page(result: Result, *, lang: str = "en") -> str:
    """The annex of an assessment.

    Raises:
        InputError: a Result of another command, or an unknown language.
    """
    if result.command != "assess":
        raise InputError(
            f'an exit plan is made of an assessment, not of "{result.command}"', where="--format exit-plan"
        )
    word = words(lang)
    answer = result.answer
    parts = [
        Html("<h1>{}</h1><p class='soft'>{}{}{} {} · {} {}</p>").format(
            answer["study"],
            word["exit_plan"],
            word["colon"],
            word["as_of"],
            answer["as_of"] or word["today"],
            word["newest"],
            result.knowledge_horizon or "–",
        ),
        _concentration(answer, word),
        _alternatives(answer, word, lang) if answer["workloads"] else Html(""),
        training(answer, word, lang),
        _tested(result, word),
        _timetable(result, word),
        _triggers(word),
        Html("<p class='soft'>{} {}</p>").format(
            word["basis"],
            word["hash"].format(
                inputs=result.inputs_hash[:16],
                data=result.data_version,
                version=result.offramp_version,
                seed=result.seed,
            ),
        ),
    ]
    return document(f"{answer['study']}: {word['exit_plan']}", join(parts), lang=lang)


def shares(fleet: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """Vendor, chips and share of the fleet, largest first."""
    held: dict[str, int] = {}
    for entry in fleet:
        vendor = entry["chip"].partition("/")[0]
        held[vendor] = held.get(vendor, 0) + int(entry["count"])
    total = sum(held.values())
    return (
        [(vendor, count, count / total) for vendor, count in sorted(held.items(), key=lambda item: -item[1])]
        if total
        else []
    )


def _table(heads: list[str], rows: list[list[str]]) -> Html:
    return Html("<table><tr>{}</tr>{}</table>").format(
        join(Html("<th>{}</th>").format(head) for head in heads),
        join(Html("<tr>{}</tr>").format(join(Html("<td>{}</td>").format(cell) for cell in row)) for row in rows),
    )


def _section(title: str, text: str, *parts: Html) -> Html:
    return Html("<section><h2>{}</h2><p>{}</p>{}</section>").format(title, text, join(parts))


def _concentration(answer: dict[str, Any], word: dict[str, Any]) -> Html:
    found = shares(answer["fleet"])
    if not found:
        return _section(word["concentration"], word["no_fleet"])
    rows = [[vendor, counted(count), f"{share:.0%}"] for vendor, count, share in found]
    index = Html("<p>{}</p>").format(word["herfindahl"].format(value=f"{sum(s * s for _, _, s in found):.2f}"))
    return _section(
        word["concentration"],
        word["concentration_text"],
        _table([word["vendor"], word["count"], word["share"]], rows),
        index,
    )


def _alternatives(answer: dict[str, Any], word: dict[str, Any], lang: str) -> Html:
    rows: list[list[str]] = []
    for work in answer["workloads"]:
        for item in work["chips"]:
            if item["is_baseline"]:
                continue
            texts = [phrase(blocker["text"], lang) or blocker["text"] for blocker in item["blockers"]]
            status = word["statuses"].get(item["status"], item["status"])
            rows.append(
                [
                    work["id"],
                    item["name"],
                    status,
                    span(item["chips"], whole=True),
                    span(item["exchange_rate"]),
                    verdict(item, word),
                    word["semicolon"].join(dict.fromkeys(texts)) or word["none"],
                ]
            )
    heads = [
        word["workload"],
        word["becomes"],
        word["status"],
        word["chips"],
        word["per_chip"],
        word["rules"],
        word["obstacles"],
    ]
    return _section(word["alternatives"], word["alternatives_text"], _table(heads, rows))


def _tested(result: Result, word: dict[str, Any]) -> Html:
    rows = [[kind, counted(count)] for kind, count in kinds(result, word)]
    return _section(word["tested"], word["tested_text"], _table([word["kind"], word["count"]], rows))


def _timetable(result: Result, word: dict[str, Any]) -> Html:
    best = {work["id"]: work["recommended"] for work in result.answer["workloads"]}
    names = {item["chip"]: str(item["name"]) for work in result.answer["workloads"] for item in work["chips"]}
    quarters = result.tables["quarters"].dicts() if "quarters" in result.tables else iter(())
    rows = [
        [str(row["workload"]), str(row["quarter"]), digits(_number(row["mean_requests_per_s"])), names[str(row["chip"])],
         span({key: _number(row[f"chips_{key}"]) for key in ("low", "mid", "high")}, whole=True)]
        for row in quarters if row["chip"] == best.get(str(row["workload"]))
    ]  # fmt: skip
    if not rows:
        said = word["no_timetable"] if result.answer["workloads"] else word["training_timetable"]
        return _section(word["timetable"], said)
    heads = [word["workload"], word["quarter"], word["demand"], word["becomes"], word["chips"]]
    return _section(word["timetable"], word["timetable_text"], _table(heads, rows))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _triggers(word: dict[str, Any]) -> Html:
    lines = [word[f"trigger_{name}"] for name in ("rules", "price", "test", "evidence")]
    return _section(
        word["triggers"],
        word["triggers_text"],
        Html("<ul>{}</ul>").format(join(Html("<li>{}</li>").format(x) for x in lines)),
    )
