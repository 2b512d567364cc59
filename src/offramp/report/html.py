"""Building blocks of a page. Everything that is not :class:`Html` is escaped."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup as Html
from markupsafe import escape

from offramp.core.result import Notice, Result, Table, UsedFigure

Cell = Html | str | int | float | bool | None
THIN: Final = "\u202f"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page: anchor, heading, content."""

    id: str
    title: str
    body: Html


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a command's own module fills in.

    Attributes:
        title: name of the study.
        question: what was asked, one sentence.
        lead: the first screen, from :func:`decision`.
        sections: the rest, in reading order.
        evidence: figure ids by group; numbers link to a group.
        subtitle: "as of", sites, anything short.
        kept: what the page carries as data where the whole Result is too large for it; None for the whole.
    """

    title: str
    question: str
    lead: Html
    sections: Sequence[Section] = ()
    evidence: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    subtitle: str = ""
    kept: Result | None = None


@dataclass(frozen=True, kw_only=True)
class Col:
    """A column of a page table. ``align`` is "right" for numbers."""

    title: str
    unit: str = ""
    align: Literal["left", "right"] = "left"
    hint: str = ""


def slug(text: str) -> str:
    """The text as an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def join(parts: Iterable[Cell]) -> Html:
    """Parts one after the other."""
    return Html("").join(escape(part) if not isinstance(part, Html) else part for part in parts)


def digits(value: float | int | None, *, significant: int = 3) -> str:
    """A number for reading: three significant digits, thousands as on the terminal; "–" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    size = math.floor(math.log10(abs(round(value, significant - 1 - size))))  # 99.96 is shown as 100
    if size + 1 >= significant:
        shown = round(value, significant - 1 - size) if abs(value) >= 1e5 else round(value)
        return f"{shown:,.0f}".replace("-", "−")
    text = f"{value:.{max(significant - 1 - size, 0)}f}"
    return text.replace("-", "−")


def exact(value: float | int | None) -> str:
    """A count in full."""
    return "–" if value is None else "∞" if math.isinf(value) else f"{value:,.0f}"


def number(value: float | int | str | None, *, unit: str = "", evidence: str = "", significant: int = 3) -> Html:
    """A number that links to its evidence group."""
    text = value if isinstance(value, str) else digits(value, significant=significant)
    body = Html('<b class="n">{}</b>').format(text)
    if unit:
        body += Html('<span class="u">{}{}</span>').format(THIN, unit)
    return Html('<a class="ev" href="#ev-{}">{}</a>').format(slug(evidence), body) if evidence else body


def spread(
    low: float | None, mid: float | None, high: float | None, *, unit: str = "", evidence: str = "", whole: bool = False
) -> Html:  # fmt: skip
    """A value with its interval, as "4.1 (3.3 – 5.0)"; counts (``whole``) in full."""
    shown = exact if whole else digits
    if mid is None and (low is not None or high is not None):
        body = Html('<b class="n">{} – {}</b>').format(shown(low), shown(high))
    else:
        body = Html('<b class="n">{}</b>').format(shown(mid))
        if low is not None and high is not None and shown(low) != shown(high):
            body += Html(' <span class="i">({}{}–{}{})</span>').format(shown(low), THIN, THIN, shown(high))
    if unit:
        body += Html('<span class="u">{}{}</span>').format(THIN, unit)
    return Html('<a class="ev" href="#ev-{}">{}</a>').format(slug(evidence), body) if evidence else body


def paragraph(*parts: Cell) -> Html:
    """A paragraph."""
    return Html("<p>{}</p>").format(join(parts))


def bullets(items: Iterable[Cell]) -> Html:
    """A list."""
    return Html("<ul>{}</ul>").format(join(Html("<li>{}</li>").format(item) for item in items))


def badge(text: str, kind: Literal["good", "bad", "warn", "plain"] = "plain") -> Html:
    """A small label: good, bad, warn or plain."""
    return Html('<span class="badge {}">{}</span>').format(kind, text)


def stat(label: str, value: Cell, note: Cell = "") -> Html:
    """One big number of the first screen."""
    return Html(
        '<div class="stat"><div class="label">{}</div><div class="value">{}</div><div class="note">{}</div></div>'
    ).format(label, value, note)


def decision(finding: Cell, *, stats: Sequence[Html] = (), points: Sequence[Cell] = (), after: Cell = "") -> Html:
    """The first screen: the finding in one sentence, a few numbers, a few points."""
    return Html('<div class="decision"><p class="finding">{}</p>{}{}{}</div>').format(
        finding,
        Html('<div class="stats">{}</div>').format(join(stats)) if stats else "",
        bullets(points) if points else "",
        after,
    )


def section(title: str, *parts: Cell, anchor: str = "") -> Section:
    """A section of the page; text parts become paragraphs."""
    body = join(part if isinstance(part, Html) else paragraph(part) for part in parts if part not in ("", None))
    return Section(id=anchor or slug(title), title=title, body=body)


def details(summary: Cell, *parts: Cell, anchor: str = "") -> Html:
    """A part that opens on click; it opens by itself for printing and when something inside is linked to."""
    mark = Html(' id="{}"').format(anchor) if anchor else Html("")
    return Html("<details{}><summary>{}</summary>{}</details>").format(mark, summary, join(parts))


def table(
    columns: Sequence[Col], rows: Iterable[Sequence[Cell]], *, caption: str = "", compact: bool = False
) -> Html:  # fmt: skip
    """A table; numbers given as int or float are shown with three digits."""
    heads = join(
        Html('<th class="{}"{}>{}{}</th>').format(
            col.align,
            Html(' title="{}"').format(col.hint) if col.hint else "",
            col.title,
            Html(' <span class="u">{}</span>').format(col.unit) if col.unit else "",
        )
        for col in columns
    )
    body = join(Html("<tr>{}</tr>").format(_cells(columns, row)) for row in rows)
    head = Html("<caption>{}</caption>").format(caption) if caption else Html("")
    return Html(
        '<div class="scroll"><table class="{}">{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format("compact" if compact else "", head, heads, body)


def _cells(columns: Sequence[Col], row: Sequence[Cell]) -> Html:
    return join(
        Html('<td class="{}">{}</td>').format(col.align, _shown(cell)) for col, cell in zip(columns, row, strict=True)
    )


def _shown(cell: Cell) -> Html | str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, (int, float)):
        return digits(cell)
    return cell


def result_table(data: Table, *, most: int = 200) -> Html:
    """A Result's own table as it is."""
    numeric = {
        i for i in range(len(data.columns)) if any(isinstance(row[i], (int, float)) for row in data.rows[:50])
    }  # fmt: skip
    columns = [
        Col(title=col.title or col.name.replace("_", " "), unit=col.unit, align="right" if i in numeric else "left")
        for i, col in enumerate(data.columns)
    ]
    body = table(columns, data.rows[:most], caption=data.title, compact=True)
    left = len(data.rows) - most
    return body + (paragraph(f"{left} more rows are in the run folder.") if left > 0 else Html(""))


def notices(found: Sequence[Notice]) -> Html:
    """Warnings, grouped by kind and text."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for notice in found:
        grouped.setdefault((notice.kind, notice.text), []).append(notice.where)
    items: list[Html] = []
    for (kind, text), places in grouped.items():
        where = "; ".join(place for place in dict.fromkeys(places) if place)
        line = Html("{} {}").format(badge(kind.replace("-", " "), "warn"), text)
        items.append(line + (Html(' <span class="where">{}</span>').format(where) if where else Html("")))
    return bullets(items) if items else paragraph("None.")


def figure_anchor(figure_id: str) -> str:
    """The anchor of one figure in the list of sources."""
    return f"fig-{slug(figure_id)}"


def figure_link(figure: UsedFigure) -> Html:
    """A figure's value and unit, linked to its source entry."""
    kind = Html("")
    if figure.confidence in ("assumed", "press", "analyst-estimate"):
        kind = badge(figure.confidence, "warn")
    return Html('<a href="#{}">{}</a> = {} {} {}').format(
        figure_anchor(figure.id), figure.id, digits(figure.value, significant=4), figure.unit, kind
    )


def evidence_groups(page: Page, result: Result) -> Html:
    """For each group of numbers, the figures that it rests on."""
    by_id = {figure.id: figure for figure in result.figures}
    parts: list[Html] = []
    for name, (title, ids) in page.evidence.items():
        used = [by_id[figure_id] for figure_id in ids if figure_id in by_id]
        used.sort(key=lambda figure: (figure.confidence != "assumed", figure.id))
        summary = Html("{} <span class='where'>{} figures</span>").format(title, len(used))
        parts.append(details(summary, bullets(map(figure_link, used)), anchor=f"ev-{slug(name)}"))
    return join(parts)


_ORDER: Final = (
    "assumed",
    "press",
    "analyst-estimate",
    "vendor-claim",
    "measured-by-vendor",
    "measured-by-third-party",
)


def sources(figures: Sequence[UsedFigure]) -> Html:
    """Every figure with its source, the weakest evidence first."""
    columns = [
        Col(title="figure"), Col(title="value", align="right"), Col(title="range", align="right"),
        Col(title="confidence"), Col(title="source"), Col(title="date"),
    ]  # fmt: skip
    ordered = sorted(figures, key=lambda figure: (_ORDER.index(figure.confidence), figure.id))
    return table(columns, [_source_row(figure) for figure in ordered], compact=True)


def _source_row(figure: UsedFigure) -> list[Cell]:
    range_text = "" if figure.low is None or figure.high is None else f"{digits(figure.low)} – {digits(figure.high)}"
    link = figure.url.startswith(("https://", "http://"))
    # titles and remarks of a source stay in the language in which they were recorded; what we assume is our own sentence
    own = figure.confidence == "assumed"
    said = escape(figure.source) if own else Html("<cite>{}</cite>").format(figure.source)
    title = Html('<a href="{}" rel="noreferrer">{}</a>').format(figure.url, said) if link else said
    address = Html("") if link or not figure.url else Html(' <cite class="where">{}</cite>').format(figure.url)
    mark = Html("{}") if own else Html("<cite>{}</cite>")
    note = Html('<div class="where">{}</div>').format(mark.format(figure.note)) if figure.note else Html("")
    kind = "warn" if figure.confidence in _ORDER[:3] else "plain"
    return [
        Html('<span id="{}" class="id">{}</span>').format(figure_anchor(figure.id), figure.id),
        Html("{} {}").format(digits(figure.value, significant=4), figure.unit), range_text,
        badge(figure.confidence, kind), Html("{}{}{}").format(title, address, note), figure.as_of.isoformat(),
    ]  # fmt: skip


def plain_page(result: Result) -> Page:
    """A page for a command that has no module of its own: its tables."""
    sections = [section(data.title or name, result_table(data), anchor=name) for name, data in result.tables.items()]
    lead = decision(f"{result.command}: {', '.join(name for name in result.tables) or 'no tables'}")
    return Page(title=f"offramp {result.command}", question="", lead=lead, sections=sections)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    folder = Path(__file__).with_name("templates")
    return Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def embedded_json(result: Result) -> Html:
    """The Result as JSON that is safe inside a script element."""
    text = json.dumps(json.loads(result.to_json()), separators=(",", ":"), ensure_ascii=False)
    return Html(text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))


MANY_ASSUMED: Final = 40
"""Assumed figures from which on their list is folded away."""


def assumed_links(figures: Sequence[UsedFigure]) -> Html:
    """The assumed figures as links, folded away where there are many."""
    links = Html(", ").join(Html('<a href="#{}">{}</a>').format(figure_anchor(f.id), f.id) for f in figures)
    if not figures:
        return links
    if len(figures) > MANY_ASSUMED:
        return details(f"{len(figures)} figures are assumed, because no source gives them", links)
    return Html("<p>Assumed, because no source gives them: {}.</p>").format(links)


def assemble(page: Page, result: Result) -> str:
    """The whole HTML text."""
    context: dict[str, Any] = {
        "page": page, "result": result, "style": Html(_asset("page.css")), "script": Html(_asset("page.js")),
        "notices": notices(result.warnings), "groups": evidence_groups(page, result),
        "sources": sources(result.figures), "data": embedded_json(page.kept or result),
        "assumed": [figure for figure in result.figures if figure.confidence == "assumed"],
        "links": assumed_links([figure for figure in result.figures if figure.confidence == "assumed"]),
        "icon": _ICON,
    }  # fmt: skip
    return _environment().get_template("page.html.j2").render(context)


_ICON: Final = Html(
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M3 14V7a4 4 0 0 1 4-4h6M10 0l3 3-3 3' fill='none' stroke='%230b6e99' stroke-width='2'/%3E%3C/svg%3E"
)


@lru_cache(maxsize=4)
def _asset(name: str) -> str:
    return Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")
