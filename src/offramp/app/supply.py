"""How many cards reach the market each quarter, and which assumption drives that."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from offramp import __version__
from offramp.core.quarters import quarter_of
from offramp.core.result import Column, FigureLog, Notice, Result, Table, hash_inputs, table_of

LATEST: Final = dt.date(2026, 11, 23)
"""The date at which the shipped facts end; the default of every as_of."""
HINDSIGHT: Final = (
    "A replay, not a forecast made at the time: assumed ranges, the weights by kind of source and the choice of "
    "outcomes were made with hindsight, and outcomes of one market in one year are not independent trials."
)


def supply(
    as_of: dt.date | None = None, *, vendor: str = "", draws: int = 1000, seed: int = 0, last: str = "2028Q4"
) -> Result:
    """Quantile ramps by vendor and quarter as they could be judged on ``as_of``.

    Args:
        as_of: nothing known later is used; default: all shipped facts.
        vendor: one vendor id, "all-domestic" or "all-foreign"; default: every vendor and both groups.
        draws: joint draws.
        seed: master seed.
        last: last quarter ("2028Q4").
    """
    from offramp.supply import facts, model, summary

    day = as_of or LATEST
    data, log = facts.load(), FigureLog()
    names = [vendor] if vendor else [*summary.GROUPS, *(v.id for v in data.vendors)]
    shown = sorted({name for each in names for name in summary.members(data, each)})
    drawn = model.simulate(data, day, draws=draws, seed=seed, last=last, log=log)
    focus = vendor or "all-domestic"
    year = min(day.year + 1, int(last[:4]))
    tables = {
        "ramps": _cards(summary.ramp_rows(data, drawn, names), "quarter", "Cards a quarter"),
        "years": _cards(summary.year_rows(data, drawn, names), "year", "Cards a year"),
        "tornado": table_of(
            summary.tornado_rows(data, drawn, focus, year),
            columns=["input", "rank_correlation", "input_p20", "input_p80", Column(name="cards_at_low", unit="cards"),
                     Column(name="cards_at_high", unit="cards")],
            title=f"What moves the cards of {focus} in {year}",
        ),
        "limits": table_of(summary.binding_rows(drawn), columns=["vendor", "quarter", "dies", "HBM", "packaging"],
                           title="What limits a foundry vendor, share of draws (before published totals scale it)"),
        "regimes": table_of(summary.regime_rows(drawn), columns=["regime", "quarter", *facts.STATES],
                            title="Probability of each policy regime"),
        "sources": table_of(summary.source_rows(drawn, shown), columns=["vendor", "year", "source", "share_of_draws"],
                            title="Sources behind each yearly total"),
    }  # fmt: skip
    return Result(
        command="supply",
        answer=_answer(tables, day, focus, year, draws),
        inputs_hash=hash_inputs(
            {"as_of": day.isoformat(), "vendor": vendor, "draws": draws, "seed": seed, "last": last}
        ),
        data_version=facts.DATA_VERSION,
        offramp_version=__version__,
        tables=tables,
        knowledge_horizon=log.horizon,
        seed=seed,
        figures=log.figures,
        warnings=_warnings(log, day),
    )


def backtest(*, draws: int = 4000, seed: int = 0) -> Result:
    """Forecasts of three past days replayed and scored against what was reported later."""
    import math

    from offramp.supply import backtest as replays
    from offramp.supply import facts

    scores = replays.replay(draws=draws, seed=seed)
    rows = [
        {
            "as_of": item.as_of.isoformat(), "outcome": item.title, "reported": item.reported, "p10": item.p10,
            "p50": item.p50, "p90": item.p90, "quantile": item.quantile, "inside": item.inside, "crps": item.crps,
            "log10_ratio": None if math.isnan(item.log_ratio) else item.log_ratio,
        }
        for item in scores
    ]  # fmt: skip
    inside, total = replays.coverage(scores)
    sources = replays.single_sources(facts.load())
    return Result(
        command="supply",
        answer={"inside_80_percent_band": inside, "forecasts": total, "draws": draws, "caveat": HINDSIGHT},
        inputs_hash=hash_inputs({"draws": draws, "seed": seed, "backtest": 1}),
        data_version=facts.DATA_VERSION,
        offramp_version=__version__,
        tables={
            "scores": table_of(rows, columns=list(rows[0]), title="Replayed forecasts and later reports"),
            "sources": table_of(sources, columns=["outcome", "source", "as_of", "forecast", "reported", "ratio"],
                                title="What single sources said about the same outcomes"),
        },
        seed=seed,
        knowledge_horizon=LATEST,
        warnings=(Notice(kind="hindsight", text=HINDSIGHT),),
    )  # fmt: skip


def _cards(rows: Any, when: str, title: str) -> Table:
    columns = ["vendor", when, *(Column(name=name, unit="cards") for name in ("p10", "p50", "p90"))]
    return table_of(rows, columns=columns, title=title)


def _answer(tables: dict[str, Table], day: dt.date, focus: str, year: int, draws: int) -> dict[str, Any]:
    years: dict[str, dict[str, Any]] = {}
    for row in tables["years"].dicts():
        band = {name: row[name] for name in ("p10", "p50", "p90")}
        years.setdefault(str(row["vendor"]), {})[str(row["year"])] = band
    tornado = list(tables["tornado"].dicts())
    return {
        "as_of": day.isoformat(),
        "draws": draws,
        "cards_by_year": years,
        "tornado": {"of": focus, "year": year, "inputs": tornado},
        "driver": tornado[0]["input"] if tornado else None,
        "charts": {"ramps": _ramp_chart(tables["ramps"], focus), "tornado": _tornado_chart(tables["tornado"])},
    }


def _ramp_chart(table: Table, focus: str) -> dict[str, Any]:
    rows = [row for row in table.dicts() if row["vendor"] == focus]
    axis = {"field": "quarter", "type": "ordinal", "title": "quarter"}
    band = {"y": {"field": "p10", "type": "quantitative", "title": "cards a quarter"}, "y2": {"field": "p90"}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": f"Cards a quarter, {focus}: median, band 10 % to 90 % of draws",
        "data": {"values": rows},
        "encoding": {"x": axis},
        "layer": [
            {"mark": {"type": "area", "opacity": 0.3}, "encoding": band},
            {"mark": "line", "encoding": {"y": {"field": "p50", "type": "quantitative"}}},
        ],
    }


def _tornado_chart(table: Table) -> dict[str, Any]:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": table.title,
        "data": {"values": list(table.dicts())},
        "mark": "bar",
        "encoding": {
            "y": {"field": "input", "type": "nominal", "sort": None, "title": None},
            "x": {"field": "rank_correlation", "type": "quantitative", "title": "rank correlation with the cards"},
        },
    }


def _warnings(log: FigureLog, day: dt.date) -> tuple[Notice, ...]:
    assumed = sum(1 for figure in log.figures if figure.confidence == "assumed")
    notices = [
        Notice(kind="assumed-figure", text=f"{assumed} of {len(log.figures)} figures are assumed; see the figures."),
    ]
    if quarter_of(day) < quarter_of(LATEST):
        text = "A replay: nothing published later is used, but the assumed ranges were set with hindsight."
        notices.append(Notice(kind="hindsight", text=text))
    return tuple(notices)
