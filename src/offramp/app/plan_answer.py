"""The answer of a plan as plain data and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from offramp.core.result import Cell, Column, Table, table_of
from offramp.plan import analysis, rolling, words
from offramp.plan.solution import Plan, residuals

BAND: Final = (0.1, 0.5, 0.9)


def band(plan: Plan, values: Any) -> list[Any]:
    """10 %, 50 % and 90 % quantiles over scenarios."""
    return [words.weighted_quantile(values, plan.problem.weight, level) for level in BAND]


def answer(plan: Plan, currency: str, origin: dict[str, str], home: str) -> dict[str, Any]:
    """The part of the answer that every plan has; ``home`` is the country of the organisation."""
    problem = plan.problem
    by_family = {chip.split("/")[0]: origin[chip] for chip in problem.chips}
    return {
        "headline": words.headline(plan, currency), "finding": words.headline(plan, currency),
        "quarters": list(problem.quarters),
        "cost": {"mean": plan.cost, "p10": float(band(plan, plan.scenario_cost)[0]),
                 "p50": float(band(plan, plan.scenario_cost)[1]), "p90": float(band(plan, plan.scenario_cost)[2]),
                 "currency": currency, "note": "discounted to the first quarter, value of chips left taken off"},
        "order_now": [
            {"quarter": quarter, "chip": chip, "site": site, "chips": amount, "decided": True}
            for quarter, chip, site, amount in words.orders_now(plan)
        ],
        "open_orders": _open_orders(plan),
        "retire": [{"quarter": quarter, "chip": chip, "chips": amount}
                   for quarter, chip, amount in words.retirements(plan)],
        "concentration": analysis.concentration(plan, by_family),
        "foreign_jurisdictions": sorted({f"jurisdiction {land}" for land in by_family.values() if land != home}),
        "shortfall_worst_p90": words.worst_shortfall(plan),
        "binding": [
            {"kind": b.kind, "name": b.name, "quarter": b.quarter, "saves": b.saves, "unit": b.unit, "text": b.text}
            for b in words.bindings(plan, currency)
        ],
        "broken_limits": [
            {"limit": name, "quarter": problem.quarters[t], "by_mean": float(plan.mean(values)[t])}
            for name, values in plan.broken.items() for t in range(len(problem.quarters)) if values[:, t].max() > 1e-6
        ],
        "solver": {"status": plan.status, "objective": plan.objective, "bound": plan.bound, "gap": plan.gap,
                   "seconds": plan.seconds, "largest_residual": max(residuals(plan).values())},
    }  # fmt: skip


def rolling_part(plan: Plan, most: int) -> dict[str, Any]:
    """The plan carried out in some futures and solved again each quarter, beside what it promised for them."""
    rows: list[dict[str, Any]] = []
    for scenario in rolling.spread(plan, most):
        done = rolling.roll(plan.problem, scenario, start=plan)
        rows.append({
            "scenario": plan.problem.scenarios[scenario], "cost_planned": done.planned_cost, "cost_rolled": done.cost,
            "short_planned": done.planned_short, "short_rolled": done.short_share,
        })  # fmt: skip
    names = ("cost_planned", "cost_rolled", "short_planned", "short_rolled")
    means = {name: float(np.mean([row[name] for row in rows])) for name in names}
    return {"futures": len(rows), **means, "rows": rows}


def _open_orders(plan: Plan) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, order in enumerate(plan.problem.orders):
        taken = plan.deliver[number]
        kept, late, gone = float(taken[order.due]), float(taken[order.due + 1 :].sum()), float(plan.cancel[number])
        parts = {name: max(value, 0.0) for name, value in (("keep", kept), ("defer", late), ("cancel", gone))}
        decision = max(parts, key=lambda name: parts[name])
        rows.append({"order": order.label, "decision": decision, **parts})
    return rows


def tables(plan: Plan, currency: str) -> dict[str, Table]:
    """Quarter by quarter: purchases, placement, shortfall, spend, power, shadow prices."""
    return {
        "purchases": _purchases(plan), "placement": _placement(plan), "shortfall": _shortfall(plan),
        "spend": _spend(plan, currency), "power": _power(plan), "binding": _binding(plan, currency),
        "prices": _prices(plan, currency),
    }  # fmt: skip


def _rows(plan: Plan, values: Any, keys: Sequence[str], labels: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """One row for each place whose 90 % quantile is not nil. ``values`` [S, ...]"""
    p10, p50, p90 = band(plan, values)
    mean = plan.mean(values)
    rows: list[dict[str, Any]] = []
    floor = 1e-6 * max(float(np.abs(values).max(initial=0.0)), 1e-12)
    for where in np.ndindex(*mean.shape):
        if max(float(p90[where]), float(mean[where])) > floor:
            names = {key: axis[i] for key, axis, i in zip(keys, labels, where, strict=True)}
            rows.append({**names, "mean": float(mean[where]), "p10": float(p10[where]), "p50": float(p50[where]),
                         "p90": float(p90[where])})  # fmt: skip
    return rows


def _banded(rows: list[dict[str, Any]], keys: Sequence[str], unit: str, title: str) -> Table:
    columns = [*keys, *(Column(name=name, unit=unit) for name in ("mean", "p10", "p50", "p90"))]
    return table_of(rows, columns=columns, title=title)


def _purchases(plan: Plan) -> Table:
    problem = plan.problem
    rows: list[dict[str, Any]] = []
    keys, labels = ("quarter", "chip", "site"), (problem.quarters, problem.chips, problem.sites)
    for kind, values in (("ordered", plan.order), ("arrives", plan.arrive)):
        rows += [{"what": kind, **row} for row in _rows(plan, values, keys, labels)]
    return _banded(rows, ("what", *keys), "chips", "Orders and arrivals")


def _placement(plan: Plan) -> Table:
    problem = plan.problem
    keys, labels = ("quarter", "chip", "workload"), (problem.quarters, problem.chips, problem.workloads)
    return _banded(_rows(plan, plan.place, keys, labels), keys, "chips", "Chips on each workload")


def _shortfall(plan: Plan) -> Table:
    problem = plan.problem
    share = np.where(problem.demand > 0, plan.short / np.maximum(problem.demand, 1e-300), 0.0)
    p10, p50, p90 = band(plan, share)
    mean, chance = plan.mean(share), plan.mean((share > 0.01).astype(np.float64))
    rows = [
        {"quarter": quarter, "workload": work, "mean": float(mean[t, w]), "p10": float(p10[t, w]),
         "p50": float(p50[t, w]), "p90": float(p90[t, w]), "probability": float(chance[t, w])}
        for t, quarter in enumerate(problem.quarters) for w, work in enumerate(problem.workloads)
    ]  # fmt: skip
    columns = ["quarter", "workload", *(Column(name=n, unit="share") for n in ("mean", "p10", "p50", "p90"))]
    columns.append(Column(name="probability", unit="share", title="share of futures in which over 1 % is short"))
    return table_of(rows, columns=columns, title="Work not done")


def _spend(plan: Plan, currency: str) -> Table:
    rows = _rows(plan, plan.spend, ("quarter",), (plan.problem.quarters,))
    return _banded(rows, ("quarter",), currency, "Money for chips, on arrival, not discounted")


def _prices(plan: Plan, currency: str) -> Table:
    rows = _rows(plan, plan.problem.price, ("quarter", "chip"), (plan.problem.quarters, plan.problem.chips))
    return _banded(rows, ("quarter", "chip"), currency, "Price of one chip with its share of server and network")


def _power(plan: Plan) -> Table:
    rows = _rows(plan, plan.power_w, ("quarter", "site"), (plan.problem.quarters, plan.problem.sites))
    return _banded(rows, ("quarter", "site"), "W", "Facility power of running chips")


def _binding(plan: Plan, currency: str) -> Table:
    rows = [{"kind": b.kind, "name": b.name, "quarter": b.quarter, "saves": b.saves, "unit": b.unit, "text": b.text}
            for b in words.bindings(plan, currency)]  # fmt: skip
    columns = ["kind", "name", "quarter", Column(name="saves", unit=currency), "unit", "text"]
    return table_of(rows, columns=columns, title="What one more would save")


def frontier_part(cells: Sequence[analysis.Cell], currency: str) -> tuple[dict[str, Any], Table]:
    """The ban frontier: cells, headline for each kind and scope, chart, table."""
    rows: list[dict[str, Any]] = [
        {"what": c.kind, "scope": c.scope, "from": c.quarter, "probability_met": c.probability_met,
         "met_p10": c.met_p10, "met_p50": c.met_p50, "kept_p10": c.kept_p10, "extra_cost": c.extra_cost,
         "met_p10_without_ban": c.baseline_met_p10}
        for c in cells
    ]  # fmt: skip
    summary = [frontier_sentence(cells, kind, scope) for kind, scope in dict.fromkeys((c.kind, c.scope) for c in cells)]
    shares = [Column(name=name, unit="share") for name in ("probability_met", "met_p10", "met_p50", "kept_p10")]
    last = [Column(name="extra_cost", unit=currency), Column(name="met_p10_without_ban", unit="share")]
    columns = ["what", "scope", "from", *shares, *last]
    table = table_of(rows, columns=columns, title="Which part of a ban can be met when")
    part = {
        "cells": rows, "summary": summary, "headline": frontier_headline(summary),
        "met_means": "from the ban to the plan's end, of every workload at least 99 % of the work is done that would be "
                     "done without it",
        "chart": frontier_chart(rows),
    }  # fmt: skip
    return part, table


def frontier_sentence(cells: Sequence[analysis.Cell], kind: str, scope: str) -> dict[str, Any]:
    """When a ban of one kind and scope can be met with 90 % probability, and what is met at its earliest."""
    mine = sorted((c for c in cells if c.kind == kind and c.scope == scope), key=lambda c: c.quarter)
    first = analysis.first_quarter_met(cells, kind=kind, scope=scope)
    early, best = mine[0], max(mine, key=lambda c: c.kept_p10)
    if first == early.quarter:
        text = f"A ban of {_ACT[kind]} for {scope} can be met from {first} on with 90 % probability."
    elif first:
        text = (f"A ban of {_ACT[kind]} for {scope} can be met from {first} on with 90 % probability; from "
                f"{early.quarter} on, {early.kept_p10:.0%} of the work would be kept with that probability.")  # fmt: skip
    else:
        text = (f"A ban of {_ACT[kind]} for {scope} cannot be met within the plan with 90 % probability; at best "
                f"{best.kept_p10:.0%} of the work is kept (ban from {best.quarter}).")  # fmt: skip
    met = first or None
    return {"what": kind, "scope": scope, "met_from": met, "text": text, "earliest": early.quarter,
            "met_p10_earliest": early.met_p10, "kept_p10_earliest": early.kept_p10,
            "extra_cost_earliest": early.extra_cost, "best_kept_p10": best.kept_p10,
            "best_from": best.quarter}  # fmt: skip


_ACT: Final = {"buy": "buying", "use": "using", "support": "support"}
WHOLE: Final = "all work"


def frontier_headline(summary: Sequence[dict[str, Any]]) -> str:
    """One sentence: for each kind of ban, for whom it can be met with 90 % probability, and for whom not.

    Where all work can do without, only the parts that can do so earlier are named beside it.
    """
    parts: list[str] = []
    for kind in dict.fromkeys(item["what"] for item in summary):
        mine = [item for item in summary if item["what"] == kind]
        last = next((str(item["met_from"]) for item in mine if item["scope"] == WHOLE and item["met_from"]), "")
        told = [item for item in mine if item["scope"] == WHOLE or not last or str(item["met_from"]) < last]
        met = [f"{item['scope']} ({item['met_from']})" for item in told if item["met_from"]]
        missed = [str(item["scope"]) for item in mine if not item["met_from"]]
        text = f"a ban of {_ACT[kind]} can be met for {', '.join(met)}" if met else f"a ban of {_ACT[kind]} for nobody"
        parts.append(text + (f", not for {', '.join(missed)}" if met and missed else ""))
    return "With 90 % probability and without losing work, " + "; ".join(parts)


def frontier_chart(rows: Sequence[dict[str, Cell]]) -> dict[str, Any]:
    """Scope x quarter as a Vega-Lite heat map, one panel for each kind of ban."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": "Probability that the work is done under a ban, by what is banned, for whom, from when",
        "data": {"values": [dict(row) for row in rows]},
        "facet": {"field": "what", "type": "nominal", "title": "ban of", "columns": 3},
        "spec": {
            "width": {"step": 34}, "height": {"step": 24},
            "encoding": {"x": {"field": "from", "type": "ordinal", "title": "ban from"},
                         "y": {"field": "scope", "type": "nominal", "title": None}},
            "layer": [
                {"mark": "rect", "encoding": {"color": {"field": "probability_met", "type": "quantitative",
                 "scale": {"domain": [0, 1], "scheme": "redyellowgreen"}, "title": "probability"}}},
                {"mark": {"type": "text", "fontSize": 9}, "encoding": {"text": {"field": "kept_p10",
                 "type": "quantitative", "format": ".0%"}}},
            ],
        },
    }  # fmt: skip
