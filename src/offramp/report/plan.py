"""The page of a plan: which part of a ban can be met when, dependence as a number, what to order, and why."""

from __future__ import annotations

from typing import Any, Final

from markupsafe import Markup as Html

from offramp.core.result import Result
from offramp.report import charts
from offramp.report.html import (
    Col,
    Page,
    Section,
    bullets,
    decision,
    details,
    digits,
    number,
    paragraph,
    result_table,
    section,
    stat,
    table,
)

NEARLY: Final = 0.994
"""What a ban that is not met is shown to keep at most: a little less than all."""
_ACT: Final = {"buy": "buying", "use": "using", "support": "support"}
Item = dict[str, Any]


def page(result: Result) -> Page:
    """The page of a plan of a study, or of the national question."""
    return _national(result) if "national" in result.answer else _study(result)


def _study(result: Result) -> Page:
    answer = result.answer
    sections: list[Section] = []
    if "frontier" in answer:
        sections.append(_frontier(result))
    sections += [_dependence(answer), _orders(result), _shortfall(result), _worth(answer), _others(answer)]
    sections += [_money(result), _rules(result)]
    return Page(
        title=answer["study"], question="What to order, place and retire each quarter, and what would a ban break?",
        subtitle=f"as of {answer['as_of'] or 'now'} · {answer['quarters'][0]} to {answer['quarters'][-1]}"
        + (f" · hypothetical ban {answer['hypothetical_ban']}" if answer["hypothetical_ban"] else ""),
        lead=_lead(answer), sections=sections,
        evidence={"plan": ("the plan", [figure.id for figure in result.figures])},
    )  # fmt: skip


def _lead(answer: Item) -> Html:
    cost, currency = answer["cost"], answer["currency"]
    fleet, work = answer["concentration"]["fleet at the start"], answer["concentration"]["work done"]
    top = max((key for key in fleet if not key.startswith(("jurisdiction", "hhi"))), key=lambda key: fleet[key])
    risk = sum(share for key, share in work.items() if key in answer["foreign_jurisdictions"])
    stats = [
        stat("dependence today", number(f"{fleet[top]:.0%}", evidence="plan"),
             f"of the fleet from {top}; concentration {fleet['hhi']:.2f} of 1"),
        stat("work at risk", number(f"{risk:.0%}", evidence="plan"),
             "of the work in the plan is done on foreign designs"),
        stat("expected cost", number(cost["mean"], unit=currency, evidence="plan"),
             f"{digits(cost['p10'])} to {digits(cost['p90'])}"),
        stat("largest gap", number(f"{answer['shortfall_worst_p90']:.0%}", evidence="plan"),
             "of a workload in a quarter, 90 % quantile"),
    ]  # fmt: skip
    points = [f"Order {item['chips']:,.0f} {item['chip']} in {item['quarter']} for {item['site']}."
              for item in answer["order_now"]]  # fmt: skip
    waiting = answer.get("waiting")
    if waiting:
        points.append(f"Ordering now instead of next quarter saves {digits(waiting['ordering_now_saves'])} {currency}.")
    rolled = answer.get("rolling")
    if rolled:
        points.append(
            f"Solved again each quarter in {rolled['futures']} futures, without knowing them, it costs "
            f"{digits(rolled['cost_rolled'])} {currency}, planned {digits(rolled['cost_planned'])}; "
            f"{rolled['short_rolled']:.1%} of the work stays undone, planned {rolled['short_planned']:.1%}."
        )
    if "regret_of_ignoring_the_ban" in answer:
        points.append(
            f"Ordering as if no ban could come costs {digits(answer['regret_of_ignoring_the_ban'])} {currency} more."
        )
    return decision(answer["finding"] + ".", stats=stats, points=points)


def _frontier(result: Result) -> Section:
    part = result.answer["frontier"]
    return section(
        "Which part of a ban can be met when",
        charts.heatmaps(
            [{"panel": f"a ban of {_ACT[cell['what']]}", "x": cell["from"], "y": cell["scope"],
              "value": cell["probability_met"], "label": _kept(cell)} for cell in part["cells"]],
            title=part["headline"], x_title="ban from", value_title="probability that the ban costs no work",
            note="colour: share of futures in which the ban costs no work; figure: share of the work done without the ban "
                 "that is kept under it, reached with 90 % probability",
        ),
        _frontier_table(part["summary"]),
        details("In words", bullets(item["text"] for item in part["summary"])),
        details("All cells", result_table(result.tables["frontier"])), anchor="frontier",
    )  # fmt: skip


def _kept(cell: Item) -> str:
    """Share of the work kept; never 100 % where a future in ten or more loses some."""
    most = 1.0 if cell["probability_met"] >= 0.9 else NEARLY
    return f"{min(cell['kept_p10'], most):.0%}"


def _frontier_table(summary: list[Item]) -> Html:
    """Scope by kind: from when a ban can be met, else the most of the work that is done."""
    rows: dict[str, dict[str, str]] = {}
    for item in summary:
        best = f"no; keeps {min(item['best_kept_p10'], NEARLY):.0%} at best"
        rows.setdefault(item["scope"], {})[item["what"]] = f"from {item['met_from']}" if item["met_from"] else best
    columns = [Col(title="with 90 % probability"), *(Col(title=f"a ban of {word}") for word in _ACT.values())]
    return table(columns, [[scope, *(cells.get(kind, "") for kind in _ACT)] for scope, cells in rows.items()])


def _dependence(answer: Item) -> Section:
    rows: list[list[Any]] = []
    for name, shares in answer["concentration"].items():
        vendors = {k: v for k, v in shares.items() if not k.startswith(("jurisdiction", "hhi"))}
        countries = {k.split()[-1]: v for k, v in shares.items() if k.startswith("jurisdiction")}
        words = ", ".join(f"{k} {v:.0%}" for k, v in sorted(vendors.items(), key=lambda item: -item[1]) if v > 0.005)
        lands = ", ".join(f"{k} {v:.0%}" for k, v in sorted(countries.items(), key=lambda item: -item[1]) if v > 0.005)
        rows.append([name, words, lands, round(shares["hhi"], 2)])
    hint = "sum of squared vendor shares; 1 is one vendor"
    columns = [Col(title="of"), Col(title="by vendor"), Col(title="by designer's country")]
    columns.append(Col(title="concentration", align="right", hint=hint))
    return section("Dependence as a number", table(columns, rows))


def _orders(result: Result) -> Section:
    rows = [
        {"x": row["quarter"], "y": row["mean"], "low": row["p10"], "high": row["p90"], "series": row["chip"]}
        for row in _by_chip(result, "arrives")
    ]
    parts: list[Any] = []
    if rows:
        parts.append(charts.lines(rows, title="Chips that arrive", x_title="quarter", y_title="chips",
                                  note="mean over futures; band 10 % to 90 %"))  # fmt: skip
    if result.answer["open_orders"]:
        items = [[o["order"], o["decision"], o["keep"], o["defer"], o["cancel"]] for o in result.answer["open_orders"]]
        right = [Col(title=name, align="right") for name in ("keep", "defer", "cancel")]
        parts.append(table([Col(title="open order"), Col(title="decision"), *right], items))
    parts.append(details("Orders and arrivals", result_table(result.tables["purchases"])))
    parts.append(details("Placement", result_table(result.tables["placement"])))
    return section("Purchases and placement", *parts)


def _by_chip(result: Result, what: str) -> list[Item]:
    """Arrivals summed over sites (bands add up as if sites moved together)."""
    found: dict[tuple[str, str], Item] = {}
    everything = list(result.tables["purchases"].dicts())
    chips = dict.fromkeys(str(row["chip"]) for row in everything if row["what"] == what)
    for quarter in result.answer["quarters"]:
        for chip in chips:
            found[quarter, chip] = {"quarter": quarter, "chip": chip, "mean": 0.0, "p10": 0.0, "p90": 0.0}
        for row in everything:
            if row["what"] == what and row["quarter"] == quarter:
                item = found[quarter, str(row["chip"])]
                for key in ("mean", "p10", "p90"):
                    item[key] += float(row[key] or 0.0)
    return list(found.values())


def _shortfall(result: Result) -> Section:
    rows = [
        {"x": str(row["quarter"]), "y": float(row["mean"] or 0.0), "low": float(row["p10"] or 0.0),
         "high": float(row["p90"] or 0.0), "series": str(row["workload"])}
        for row in result.tables["shortfall"].dicts()
    ]  # fmt: skip
    worst = max(rows, key=lambda row: float(row["high"]), default=None)
    if worst is None or float(worst["high"]) <= 0.005:
        return section("Work not done", "All work is done with 90 % probability in every quarter.")
    title = f"{worst['series']} is short by up to {float(worst['high']):.0%} in {worst['x']}"
    chart = charts.lines(rows, title=title, x_title="quarter", y_title="share of demand not done",
                         note="mean over futures; band 10 % to 90 %")  # fmt: skip
    return section("Work not done", chart, details("All figures", result_table(result.tables["shortfall"])))


def _worth(answer: Item) -> Section:
    if not answer["binding"]:
        return section("What binds", "No limit costs anything.")
    return section("What one more would save", bullets(item["text"] for item in answer["binding"]))


def _others(answer: Item) -> Section:
    columns = [Col(title="plan without"), Col(title="cost", align="right"), Col(title="work not done", align="right"),
               Col(title="bought in the plan", unit="chips", align="right"),
               Col(title="fewest within the gap", unit="chips", align="right")]  # fmt: skip
    rows = [
        [item["without"], f"{item['cost_rises_by']:+.0%}", f"{item['short_without']:.0%}", item["bought_in_plan"],
         item["least_bought_within_gap"]] for item in answer.get("alternatives", [])
    ]  # fmt: skip
    futures = [[item["scenario"] + (" (hypothetical)" if item["hypothetical"] else ""), f"{item['probability']:.0%}",
                item["mean_cost"], f"{item['mean_short']:.1%}"] for item in answer["scenarios"]]  # fmt: skip
    heads = [
        Col(title="future"),
        Col(title="probability", align="right"),
        Col(title="mean cost", unit=answer["currency"], align="right"),
        Col(title="work not done", align="right"),
    ]
    parts: list[Any] = [table(heads, futures)]
    if rows:
        parts.append(table(columns, rows))
    return section("Other futures and other plans", *parts)


def _money(result: Result) -> Section:
    rows = [{"x": str(row["quarter"]), "y": row["mean"], "low": row["p10"], "high": row["p90"]}
            for row in result.tables["spend"].dicts()]  # fmt: skip
    if not rows:
        return section("Money and power", "Nothing is bought.")
    chart = charts.lines(rows, title="Money for chips by quarter", x_title="quarter", y_title=result.answer["currency"],
                         note="as paid on arrival, not discounted; band 10 % to 90 %")  # fmt: skip
    return section("Money and power", chart, details("Power", result_table(result.tables["power"])))


def _rules(result: Result) -> Section:
    if "rules" not in result.tables:
        return section("Rules", "No rule was asked.")
    solver = result.answer["solver"]
    text = f"Solver: {solver['status']}, gap {solver['gap']:.1e}, largest residual {solver['largest_residual']:.1e}."
    return section("Rules and solver", details("What the rules say", result_table(result.tables["rules"])), text)


def _national(result: Result) -> Page:
    answer = result.answer
    first, last = answer["coverage"][0], answer["coverage"][-1]
    stats = [
        stat(f"all work, {row['quarter']}", number(f"{row['all']['p50']:.0%}", evidence="national"),
             f"{row['all']['p10']:.0%} to {row['all']['p90']:.0%} of the work wanted, domestic chips alone")
        for row in (first, last)
    ]  # fmt: skip
    stats.append(stat(f"every kind alike, {last['quarter']}", number(f"{last['even']['p50']:.0%}", evidence="national"),
                      f"{last['even']['p10']:.0%} to {last['even']['p90']:.0%}"))  # fmt: skip
    sections = [
        _frontier(result),
        _by_quarter(result),
        section(
            "What holds it back",
            _limits(answer),
            *(paragraph(text) for text in answer["why"]),
            details("What drives the answer", result_table(result.tables["drivers"])),
        ),
        _views(result),
        section(
            "From money and cards to work",
            bullets(answer["bridge"]),
            details("Policy regimes of foreign chips", result_table(result.tables["regimes"])),
        ),
    ]
    return Page(
        title=answer["study"], question="Could foreign accelerators be banned, for which work, and when?",
        subtitle=f"as of {answer['as_of']}", lead=decision(answer["finding"] + ".", stats=stats,
                                                          points=answer["findings"][: 1 + len(answer["why"])]),
        sections=sections, evidence={"national": ("the national question", [f.id for f in result.figures])},
    )  # fmt: skip


def _by_quarter(result: Result) -> Section:
    answer = result.answer
    first, last = answer["coverage"][0], answer["coverage"][-1]
    names = {"all": "all work together", "even": "every kind of work alike"}
    rows = [
        {"x": row["quarter"], "y": row[key]["p50"], "low": row[key]["p10"], "high": row[key]["p90"], "series": words}
        for key, words in names.items() for row in answer["coverage"]
    ]  # fmt: skip
    title = (f"Domestic chips alone do {first['all']['p50']:.0%} of all work in {first['quarter']} and "
             f"{last['all']['p50']:.0%} in {last['quarter']}")  # fmt: skip
    note = "median; band 10 % to 90 % of draws. Alike: each kind of work gets the share of the one worst served"
    chart = charts.lines(rows, title=title, x_title="quarter", y_title="share of the work wanted", note=note)
    return section(
        "Share of the work by quarter", chart, details("By kind of work", result_table(result.tables["coverage"]))
    )


def _views(result: Result) -> Section:
    """Published views beside ours, in money as they count, and in work."""
    ours = {row["year"]: row for row in result.answer["years"]}
    rows: list[list[Any]] = []
    for view in result.answer["views"]:
        mine = ours.get(view["year"])
        cells = [f"{mine[key]['p50']:.0%} ({mine[key]['p10']:.0%} to {mine[key]['p90']:.0%})" if mine else "" for key in
                 ("money_ratio", "work_ratio")]  # fmt: skip
        later = "" if view["known"] else ", published later"
        rows.append([f"{view['who']}{later}", str(view["year"]), f"{view['view']:.0%}", *cells])
    columns = [Col(title="who"), Col(title="year"), Col(title="their view, money", align="right"),
               Col(title="here, money", align="right"), Col(title="here, work", align="right")]  # fmt: skip
    text = (
        "Domestic supply of a year over the demand added in that year. The views count money. Money and work differ: "
        "the same money buys less work at home, and an H20's worth of work gets cheaper each year."
    )
    return section("Published views", paragraph(text), table(columns, rows), bullets(result.answer["by_year"]),
                   details("By year", result_table(result.tables["years"])))  # fmt: skip


def _limits(answer: Item) -> Html:
    rows = [
        {"name": "as it is" if item["lifted"] == "none" else f"without the limit of {item['lifted']}", "part": "share",
         "value": item["share_p50"]}
        for item in answer["bottlenecks"] if item["base"] == "structure only"
    ]  # fmt: skip
    best = max((i for i in answer["bottlenecks"] if i["lifted"] != "none"), key=lambda i: i["gain"])
    title = f"{best['lifted'][0].upper()}{best['lifted'][1:]} holds domestic chips back most"
    note = "median; structure of supply alone, without published totals of unfinished years"
    x_title = "share of all work at the end of the plan"
    return charts.bars(rows, title=title, x_title=x_title, stack=False, note=note)
