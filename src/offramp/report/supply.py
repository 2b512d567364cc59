"""The page of a supply run: ramps, what drives them, what limits them, what each source says."""

from __future__ import annotations

from typing import Any

from offramp.core.result import Result
from offramp.report import charts
from offramp.report.html import Page, Section, decision, details, number, result_table, section, stat


def page(result: Result) -> Page:
    """The page of a supply run or of its back-test."""
    answer = result.answer
    if "cards_by_year" not in answer:
        inside = f"{answer['inside_80_percent_band']} of {answer['forecasts']} outcomes lie in their 80 % band"
        return Page(
            title="Back-test of supply forecasts", question="How good would the forecasts have been?",
            lead=decision(inside + ".", points=[answer["caveat"]]),
            sections=[section(table.title, result_table(table)) for table in result.tables.values()],
        )  # fmt: skip
    focus, year = answer["tornado"]["of"], answer["tornado"]["year"]
    band = answer["cards_by_year"].get(focus, {}).get(str(year))
    stats = []
    if band:
        note = f"{band['p10']:,.0f} to {band['p90']:,.0f}"
        stats.append(stat(f"{focus}, {year}", number(band["p50"], unit="cards", evidence="supply"), note))
    text = f"What moves the cards of {focus} in {year} most: {answer['driver']}"
    return Page(
        title="Accelerators that reach the Chinese market", question="How many cards come, and what drives that?",
        subtitle=f"as of {answer['as_of']}, {answer['draws']} draws", lead=decision(text + ".", stats=stats),
        sections=_sections(result, focus), evidence={"supply": ("supply", [figure.id for figure in result.figures])},
    )  # fmt: skip


def _sections(result: Result, focus: str) -> list[Section]:
    ramps: list[dict[str, Any]] = [
        {"x": row["quarter"], "y": row["p50"], "low": row["p10"], "high": row["p90"], "series": str(row["vendor"])}
        for row in result.tables["ramps"].dicts() if row["vendor"] == focus
    ]  # fmt: skip
    inputs = result.answer["tornado"]["inputs"]
    bars = [{"name": item["input"], "part": "rank correlation", "value": item["rank_correlation"]} for item in inputs]
    return [
        section("Cards a quarter",
                charts.lines(ramps, title=f"Cards of {focus}", x_title="quarter", y_title="cards a quarter",
                             note="median; band 10 % to 90 % of draws"),
                details("Every vendor, by year", result_table(result.tables["years"]))),
        section("What drives it",
                charts.bars(bars, title=f"{result.answer['driver']} moves the cards most", stack=False,
                            x_title="rank correlation with the cards of the year")),
        section("What limits a foundry vendor", details("Share of draws", result_table(result.tables["limits"]))),
        section("Sources and policy", details("Sources of each yearly total", result_table(result.tables["sources"])),
                details("Policy regimes", result_table(result.tables["regimes"]))),
    ]  # fmt: skip
