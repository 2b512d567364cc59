"""Reports: self-contained, escaped, every number linked to its sources."""

from __future__ import annotations

import datetime as dt
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from offramp.core.errors import BackendError, InputError
from offramp.core.result import Notice, Result, UsedFigure, result_from_json, table_of
from offramp.report import charts, render, write
from offramp.report.html import Col, Page, assemble, decision, digits, number, section, slug, spread, stat, table

FIGURES = (
    UsedFigure(id="chips/nvidia/h20#memory_bandwidth", value=4.0, unit="TB/s", source="A <data> sheet",
               url="https://example.org/a", as_of=dt.date(2024, 1, 1), confidence="vendor-claim"),
    UsedFigure(id="cost/idle", value=0.18, unit="share", source="assumed", url="", as_of=dt.date(2024, 1, 1),
               confidence="assumed", low=0.1, high=0.25),
)  # fmt: skip
RESULT = Result(
    command="nothing", answer={"x": "</script><b>", "n": float("nan")}, inputs_hash="0" * 32, data_version="d",
    figures=FIGURES, warnings=(Notice(kind="assumed-figure", text="Idle <power>", where="chat"),),
    tables={"t": table_of([{"a": 1.0, "b": "<i>"}], columns=("a", "b"), title="T")},
)  # fmt: skip


class Links(HTMLParser):
    """Collects ids, links and every address that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.anchors: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag == "a" and str(found.get("href", "")).startswith("#"):
            self.anchors.append(str(found["href"])[1:])
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link":
            self.loaded.append(str(found.get("href")))


def parsed(text: str) -> Links:
    links = Links()
    links.feed(text)
    return links


def page_text() -> str:
    rows = [
        {"name": "910C", "low": 1.0, "mid": 1.4, "high": 2.0},
        {"name": "MLU", "low": 1.0, "mid": None, "high": 6.0},
    ]
    page = Page(
        title="Leaving <the> H20", question="Which?",
        lead=decision("910C", stats=[stat("chips", spread(3300, 4120, 5020, evidence="g g"))], points=["<b>"]),
        sections=[section("R", charts.ranges(rows, title="One & two", x_title="chips", reference=1.0)),
                  section("T", table([Col(title="x")], [[number(3.0, unit="TB/s", evidence="g g")], ["<i>"]]))],
        evidence={"g g": ("Group", ["chips/nvidia/h20#memory_bandwidth", "cost/idle"])},
    )  # fmt: skip
    return assemble(page, RESULT)


def test_nothing_is_loaded_from_anywhere() -> None:
    text = page_text()
    links = parsed(text)
    assert all(address.startswith("data:") for address in links.loaded)
    assert not re.search(r"@import|url\(\s*['\"]?http", text)
    assert "default-src 'none'" in text


def test_every_link_inside_has_its_target() -> None:
    links = parsed(page_text())
    missing = [anchor for anchor in links.anchors if anchor and anchor not in links.ids]
    assert missing == []
    assert f"ev-{slug('g g')}" in links.ids
    assert f"fig-{slug('cost/idle')}" in links.ids


def test_text_is_escaped_and_the_result_survives() -> None:
    text = page_text()
    assert "Leaving &lt;the&gt; H20" in text
    assert "A &lt;data&gt; sheet" in text
    assert "<b></li>" not in text
    inside = re.search(r'<script type="application/json" id="result">(.*?)</script>', text, re.DOTALL)
    assert inside is not None
    data = json.loads(inside.group(1))
    assert data["answer"] == {"x": "</script><b>", "n": None}
    assert result_from_json(inside.group(1)).figures == FIGURES


def test_charts_are_drawn_inline() -> None:
    text = page_text()
    assert text.count("<svg ") == 1
    assert 'aria-label="One &amp; two"' in text
    assert "vega" not in text.lower().replace("vega-lite", "") or "<script src" not in text


def test_a_command_without_a_page_gets_its_tables() -> None:
    text = render(RESULT)
    assert "&lt;i&gt;" in text
    assert "offramp nothing" in text


def test_writing_is_whole_or_nothing(tmp_path: Path) -> None:
    path = write(RESULT, tmp_path / "a" / "b")
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(BackendError, match="cannot be written"):
        write(RESULT, blocked)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (None, "–"), (float("nan"), "–"), (float("inf"), "∞"), (4120, "4,120"),
     (4123456.0, "4,120,000"), (0.03416, "0.0342"), (-2.5, "−2.50"), (99.96, "100"), (1.0, "1.00")],
)  # fmt: skip
def test_digits(value: float | None, text: str) -> None:
    assert digits(value) == text


CHARTS = {
    "lines": lambda: charts.lines([{"x": "2026Q4", "y": 1.0, "low": 0.5, "high": 2.0}, {"x": "2027Q1", "y": 2.0}],
                                  title="t", x_title="x", y_title="y"),
    "bars": lambda: charts.bars([{"name": "a", "part": "p", "value": 1.0}], title="t", x_title="x"),
    "heatmap": lambda: charts.heatmap([{"x": "a", "y": "b", "value": None}, {"x": "c", "y": "b", "value": 0.4}],
                                      title="t", x_title="x", y_title="y", value_title="v"),
    "scatter": lambda: charts.scatter([{"x": 1.0, "y": 2.0}], title="t", x_title="x", y_title="y", diagonal=True),
    "steps": lambda: charts.steps([{"x": "a", "series": "s", "y": 1.0}], title="t", x_title="x", y_title="y"),
    "empty": lambda: charts.ranges([], title="t", x_title="x"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_each_chart_draws(name: str) -> None:
    drawn = str(CHARTS[name]())
    assert drawn.startswith("<figure><figcaption>t")
    assert "<svg" in drawn
    assert "&lt;svg" not in drawn


def test_a_result_of_another_release_is_named_not_a_traceback():
    old = Result(command="assess", answer={"study": "x"}, inputs_hash="h", data_version="d")
    with pytest.raises(InputError, match="which this release shows"):
        render(old)
