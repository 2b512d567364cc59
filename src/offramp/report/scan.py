"""The page of a scan: can it run, what first, where, how much work."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from markupsafe import Markup as Html
from markupsafe import escape

from offramp.core.result import Result
from offramp.report import charts
from offramp.report.html import (
    Cell,
    Col,
    Page,
    Section,
    badge,
    decision,
    details,
    join,
    number,
    paragraph,
    section,
    spread,
    stat,
    table,
)

Item = dict[str, Any]
MOST_GROUPS = 200
MOST_FINDINGS = {"first-run": 500, "full-speed": 150, "later": 150}
"""Findings on the page by stage, in their order; the JSON form has all of them, and every place by itself."""


def page(result: Result) -> Page:
    """The page of a scan."""
    answer = result.answer
    sections = [_groups(answer), _entries(answer), _files(answer), _places(answer), _notes(answer)]
    return Page(
        title=f"Leaving CUDA for {answer['stack']}",
        question="What in this code ties it to CUDA, what replaces it there, and how much work is it?",
        subtitle=f"{answer['files']} files, {answer['lines']:,} lines · {answer['target']} · torch {answer['torch']}",
        lead=_lead(answer),
        sections=[part for part in sections if part is not None],
        evidence={"effort": ("Engineer-days", [figure.id for figure in result.figures])},
        kept=_kept(result),
    )


def _kept(result: Result) -> Result:
    """The Result as the page carries it: what it shows, and how much it leaves to the JSON form."""
    answer = dict(result.answer)
    shown = _shown(answer)
    answer["left_to_json"] = {
        "places": len(answer["places"]), "findings": len(answer["findings"]) - len(shown),
        "groups": max(0, len(answer["groups"]) - MOST_GROUPS),
    }  # fmt: skip
    answer |= {"places": [], "findings": shown, "groups": answer["groups"][:MOST_GROUPS]}
    return msgspec.structs.replace(result, answer=answer, tables={})


def _shown(answer: Item) -> list[Item]:
    """The findings that the page lists, the first of each stage."""
    left = dict(MOST_FINDINGS)
    shown: list[Item] = []
    for item in answer["findings"]:
        if left[item["stage"]] > 0:
            left[item["stage"]] -= 1
            shown.append(item)
    return shown


def scan_html(result: Result) -> str:
    """The page as one HTML text."""
    from offramp.report import render

    return render(result)


def _days(part: Item) -> Html:
    return spread(part["low"], part["mid"], part["high"], unit="days", evidence="effort")


def _lead(answer: Item) -> Html:
    first, speed = answer["before_first_run"], answer["for_full_speed"]
    return decision(
        answer["verdict"],
        stats=[
            stat("work", _days(answer["engineer_days"]), "engineer-days, tests and examples left out"),
            stat("before the first run", number(_count(first["places"])), join([_days(first["engineer_days"])])),
            stat("for full speed", number(_count(speed["places"])), join([_days(speed["engineer_days"])])),
        ],
        points=[*first["first"][:3], answer["engineer_days_basis"]],
    )


def _groups(answer: Item) -> Section | None:
    groups = answer["groups"]
    if not groups:
        return None
    columns = [Col(title="#", align="right"), Col(title="effort"), Col(title="what, and its first place"),
               Col(title="places", align="right"), Col(title="guarded", align="right"),
               Col(title="days", align="right"), Col(title="instead")]  # fmt: skip
    rows = [_group_row(group) for group in groups[:MOST_GROUPS]]
    top = groups[:15]
    chart = charts.bars(
        [
            {"name": group["symbol"][:38], "part": group["effort"], "value": group["days"]}
            for group in top if group["days"] > 0
        ],
        title="Where the days go, among the first groups", x_title="engineer-days",
        order=[level for level in ("L0", "L1", "L2", "L3", "L4") if any(group["effort"] == level for group in top)],
    ) if any(group["days"] > 0 for group in top) else Html("")  # fmt: skip
    return section("What a porter does first", chart, table(columns, rows, compact=True), anchor="groups")


def _group_row(group: Item) -> list[Cell]:
    effort = badge(group["effort"], {"L0": "good", "L1": "good", "L2": "warn"}.get(group["effort"], "bad"))  # type: ignore[arg-type]
    lead = Html("") if group["verified"] else badge("unverified", "warn")
    place = _path(group["first"][0]) if group["first"] else Html("")
    first = Html('<span class="where"><span>{}</span> · {}</span>').format(place, _class(group))
    return [
        _count(group["rank"]), effort, join([_symbol(group["symbol"]), first]),
        _count(group["occurrences"]), _count(group["occurrences"] - group["unguarded"]), _few(group["days"]),
        join([_breakable(group["replacement"]), " ", lead]),
    ]  # fmt: skip


def _class(item: Item) -> Html:
    """The id of a class, which no language changes."""
    return Html("<code>{}</code> ").format(item["class"])


def _symbol(text: str) -> Html:
    """What was found: a name of the code as code, words as text (a reader's language has them)."""
    return _breakable(text) if _WORDS.search(text) else Html("<code>{}</code>").format(_breakable(text))


_WORDS = re.compile(r"[a-z]{2,} [a-z]{2,}")


def _count(value: int) -> str:
    """A count as it is; the tables round numbers to three digits."""
    return f"{value:,}"


def _few(days: float) -> str:
    """Days as an estimate of this kind deserves: two digits, and nothing below a hundredth."""
    return (
        f"{days:,.0f}"
        if days >= MANY
        else f"{days:.1f}"
        if days >= 1
        else f"{days:.2f}"
        if days >= LEAST
        else "< 0.01"
        if days
        else "0"
    )


MANY = 10.0
LEAST = 0.01


def _breakable(text: str) -> Html:
    """Text with places where a long path or dotted name may break."""
    return Html(re.sub(r"([/.(,])(?=\w)", r"\1<wbr>", str(escape(text))))


def _path(text: str) -> Html:
    """A path that may break after a folder, not inside a file's name."""
    return Html(str(escape(text)).replace("/", "/<wbr>"))


def _entries(answer: Item) -> Section | None:
    if not answer["entry_points"]:
        return None
    columns = [Col(title="entry point"), Col(title="files", align="right"), Col(title="places", align="right"),
               Col(title="before the first run", align="right"), Col(title="hardest"),
               Col(title="days", align="right")]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            _path(row["entry"]),
            _count(row["files"]),
            _count(row["places"]),
            _count(row["before_first_run"]),
            row["hardest"],
            _few(row["engineer_days"]),
        ]
        for row in answer["entry_points"][:50]
    ]
    return section(
        "By entry point",
        "What the imports of each script, command or package reach.",
        table(columns, rows, compact=True),
    )


def _files(answer: Item) -> Section | None:
    counts: dict[str, list[int]] = {}
    for finding in answer["places"]:
        row = counts.setdefault(finding["path"], [0, 0])
        row[0] += 1
        row[1] += not finding["guarded"]
    if not counts:
        return None
    columns = [Col(title="file"), Col(title="places", align="right"), Col(title="unguarded", align="right")]
    ordered = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))[:100]
    return section(
        "By file", table(columns, [[_path(path), *map(_count, pair)] for path, pair in ordered], compact=True)
    )


STAGES = (
    ("first-run", "They stop the first run"),
    ("full-speed", "They cost speed or accuracy"),
    ("later", "They stop nothing: names, imports, guarded places, tests"),
)


def _places(answer: Item) -> Section | None:
    found = _shown(answer)
    if not found:
        return None
    columns = [Col(title="place"), Col(title="what, and its source"), Col(title="instead")]
    parts: list[Html] = []
    for stage, title in STAGES:
        mine = [item for item in found if item["stage"] == stage]
        if not mine:
            continue
        folded = stage != "first-run"
        listed = table(columns, [_place_row(item) for item in mine], caption="" if folded else title, compact=True)
        parts.append(details(f"{title}: {_count(len(mine))} findings", listed) if folded else listed)
        left = sum(item["stage"] == stage for item in answer["findings"]) - len(mine)
        if left:
            parts.append(paragraph(f"{_count(left)} more findings of this kind are in the JSON form."))
    return section("Findings", *parts, anchor="places")


def _place_row(item: Item) -> list[Cell]:
    further = _further(item)
    place = [Html("<span>{}</span>").format(_path(f"{item['path']}:{item['line']}"))]
    if further:
        place.append(Html('<span class="where">{}</span>').format(further))
    place.append(Html('<span class="where">{}</span>').format(_class(item)))
    return [
        join([*place, badge("guarded") if item["guarded"] else ""]),
        join([_breakable(item["message"]), Html('<code class="where id">{}</code>').format(item["snippet"])]),
        _breakable(item["replacement"]),
    ]


def _further(finding: Item) -> str:
    """The lines of the other places of a finding, shortened."""
    lines = sorted({place["line"] for place in finding["places"]} - {finding["line"]})
    if not lines:
        return ""
    shown = ", ".join(str(line) for line in lines[:MOST_LINES])
    more = f" and {len(lines) - MOST_LINES} more" if len(lines) > MOST_LINES else ""
    return f"also lines {shown}{more}"


MOST_LINES = 12


def _notes(answer: Item) -> Section | None:
    if not answer["files_noted"]:
        return None
    rows: list[list[Cell]] = [[note["path"], note["kind"], note["text"]] for note in answer["files_noted"][:200]]
    return section(
        "Files that were not read in full",
        table([Col(title="file"), Col(title="kind"), Col(title="why")], rows, compact=True),
    )
