"""The page of training runs: would they finish, what binds, what would have to be true, and whether to try."""

from __future__ import annotations

import math
from typing import Any, Final

from markupsafe import Markup as Html

from offramp.core.result import Result
from offramp.report import charts
from offramp.report.html import (
    Cell,
    Col,
    Page,
    Section,
    bullets,
    decision,
    details,
    digits,
    number,
    paragraph,
    section,
    spread,
    stat,
    table,
)

Item = dict[str, Any]
PARTS: Final = {
    "compute": "compute", "tp": "TP messages", "expert": "expert messages", "context": "CP messages",
    "gather": "weight gathering",
    "hop": "stage to stage", "bubble": "pipeline bubble", "end": "gradients and optimiser",
    "failures": "failures and stops", "slow": "slow nodes", "corruption": "silent corruption",
}  # fmt: skip


MOST_SHOWN: Final = 1.2
"""MFU from which on the colour of a break-even grid stays the same."""


def page(result: Result) -> Page:
    """The page of training runs."""
    answer = result.answer
    runs: list[Item] = answer["runs"]
    sections: list[Section] = []
    sections += record_sections(answer, result)
    for run in runs:
        sections += run_sections(run, answer["currency"])
    if "parameters" in result.tables:
        sections.append(_parameters(result))
    return Page(
        title=answer["study"], question="Would the run finish on those chips?", subtitle=f"as of {answer['as_of']}",
        lead=_lead(runs[0]), sections=sections, evidence=evidence(runs, result),
    )  # fmt: skip


def _done(run: Item) -> list[Item]:
    return [c for c in run["cells"] if c["status"] == "ok"]


def _lead(run: Item) -> Html:
    cells = _done(run)
    if not cells:
        return decision(
            "On none of the chips would the run finish", points=[f"{c['chip']}: {c['why']}" for c in run["cells"]]
        )
    base = next((c for c in cells if c["chip"] == run["baseline"]), cells[0])
    others = [c for c in cells if c is not base]
    best = min(others, key=lambda c: c["days"]["p50"], default=None)
    stats = [
        stat(
            f"days on {base['chip']}",
            spread(*_q(base["days"]), evidence=base["chip"]),
            f"{base['chips']:,} chips, spares included",
        )
    ]
    finding = (
        f"{run['tokens'] / 1e12:.4g} T tokens of {run['model'].split('/')[-1]} take {digits(base['days']['p50'])} days "
        f"on {base['name']}"
    )
    points: list[Cell] = []
    if best is not None:
        low, high = best["days"]["p10"], best["days"]["p90"]
        finding += f", and {digits(low)} to {digits(high)} days on as many {best['name']}"
        stats.append(stat(f"days on {best['chip']}", spread(*_q(best["days"]), evidence=best["chip"]), "80 % interval"))
        stats.append(
            stat(
                "chips for one of the chip in use",
                spread(*_q(best["exchange_rate"]), evidence=best["chip"]),
                best["chip"],
            )
        )
    for c in others:
        top = [part for part in c["binds"] if part["part"] != "compute"][:2]
        words = ", ".join(f"{part['what']} {part['share']:.0%}" for part in top)
        late = "" if c["p_deadline"] is None else f"; on time with {c['p_deadline']:.0%}"
        points.append(
            f"{c['name']}: {digits(c['days']['p10'])} to {digits(c['days']['p90'])} days{late}. Beside arithmetic: "
            f"{words}."
        )
    points += [f"{c['chip']}: {c['why']}" for c in run["cells"] if c["status"] != "ok"]
    return decision(finding, stats=stats, points=points)


def _q(value: Item | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if value is None else (value["p10"], value["p50"], value["p90"])


def run_sections(run: Item, currency: str) -> list[Section]:
    """Everything about one run."""
    cells = _done(run)
    if not cells:
        return []
    found: list[Section | None] = [
        _outlook(run, cells, currency),
        _rates(run, cells),
        _slower(run, cells),
        _binds(run, cells),
    ]
    found.append(_levers(run, cells))
    found += [_even(run, entry) for entry in run["break_even"]]
    tries = [entry for entry in run["break_even"] if entry["trying"]]
    if tries:
        found.append(_trying(run, tries, currency))
    found.append(_layouts(run, cells))
    return [part for part in found if part is not None]


def _outlook(run: Item, cells: list[Item], currency: str) -> Section:
    rows = [
        {"name": c["chip"], "low": c["days"]["p10"], "mid": c["days"]["p50"], "high": c["days"]["p90"]} for c in cells
    ]
    chart = charts.ranges(
        rows, title=f"Days to finish {run['workload']} on {run['chips']:,} chips",
        x_title="days (10th, 50th, 90th percentile)",
        reference=run["deadline_days"], reference_label="deadline", log=True,
    )  # fmt: skip
    columns = [Col(title="chip"), Col(title="days", align="right"), Col(title="on time", align="right"),
               Col(title="MFU", align="right"),
               Col(title="goodput", align="right"), Col(title="chips per baseline chip", align="right"),
               Col(title="chips for the deadline, p50", align="right"), Col(title="p90", align="right"),
               Col(title="energy", unit="GWh", align="right"), Col(title="cost", unit=f"M {currency}",
               align="right")]  # fmt: skip
    body: list[list[Cell]] = []
    for c in cells:
        needed = c["chips_for_deadline"] or {}
        cost = c["cost"]
        body.append([
            c["chip"], spread(*_q(c["days"]), evidence=c["chip"]),
            "–" if c["p_deadline"] is None else f"{c['p_deadline']:.0%}",
            _mfu(c),
            f"{c['goodput']['p10']:.0%} – {c['goodput']['p90']:.0%}", spread(*_q(c.get("exchange_rate"))),
            _count(needed.get("p50")), _count(needed.get("p90")),
            spread(*(v / 1e6 for v in _q(c["energy_kwh"]) if v is not None)),
            "no price" if cost is None else spread(*(v / 1e6 for v in _q(cost) if v is not None)),
        ])  # fmt: skip
    held = [
        f"Published: {c['published']['chip_hours'] / 1e6:.4g} M chip-hours on {c['chip']} "
        f"({c['published']['source']}). Predicted: "
        f"{c['published']['predicted_chip_hours']['p50'] / 1e6:.3g} M "
        f"({c['published']['predicted_chip_hours']['p10'] / 1e6:.3g} to "
        f"{c['published']['predicted_chip_hours']['p90'] / 1e6:.3g})."
        + (" The model was fitted to rows of that run, among others." if c["published"]["in_fit"] else "")
        for c in cells
        if c.get("published")
    ]
    return section(
        f"{run['workload']}: when it is done", chart, table(columns, body), bullets(held) if held else "", _bases(cells),
        _scaling(run, cells),
    )  # fmt: skip


def _mfu(c: Item) -> str:
    """MFU over the peak of the run's dtype; and over that of BF16, which is what most papers print."""
    own = f"{c['mfu']['p10']:.0%} – {c['mfu']['p90']:.0%} of {c['mfu_of']}"
    if c["mfu_of"] == "bf16":
        return own
    return f"{own} ({c['mfu_bf16']['p10']:.0%} – {c['mfu_bf16']['p90']:.0%} of bf16)"


def _bases(cells: list[Item]) -> str:
    """Which chips' cost is rent and which is purchase, where both occur."""
    groups = {basis: [c["chip"] for c in cells if c["cost_basis"] == basis] for basis in ("rented", "bought")}
    if not all(groups.values()):
        return ""
    return (
        f"Cost of {', '.join(groups['rented'])} is rent at the study's price; that of {', '.join(groups['bought'])} is "
        "purchase, written off over its life, with hosts and power. Rent holds a margin and idle time that purchase does not."
    )


def _rates(run: Item, cells: list[Item]) -> Section | None:
    """The exchange rate of training beside that of inference."""
    others = [c for c in cells if c["chip"] != run["baseline"] and c.get("inference")]
    if not others:
        return None
    columns = [Col(title="chip"), Col(title="training", align="right"), Col(title="inference", align="right"),
               Col(title="training over inference", align="right"),
               Col(title="chance that training needs more", align="right"),
               *(Col(title=name.replace("_", " "), align="right") for name in others[0]["resource_ratios"])]  # fmt: skip
    rows: list[list[Cell]] = []
    for c in others:
        served = c["inference"]
        sure = served["p_training_needs_more"]
        rows.append([
            c["chip"], spread(*_q(c["exchange_rate"]), evidence=c["chip"]), spread(*_q(served["exchange_rate"])),
            spread(*_q(served["training_over_inference"])), "–" if sure is None else f"{sure:.0%}",
            *(digits(value) for value in c["resource_ratios"].values()),
        ])  # fmt: skip
    why = [f"{c['chip']}: no inference rate, {c['inference']['why']}." for c in others if c["inference"]["why"]]
    return section(
        f"{run['workload']}: chips for one in use, training and inference", table(columns, rows),
        f"Inference is {others[0]['inference']['traffic']}, one layout simulated; both rates are joint draws in which "
        "common errors cancel, the two fits' errors are independent. The columns on the right are the chip in use over "
        "this one, by resource: training follows arithmetic, links and reliability; inference follows arithmetic in "
        "prefill and memory bandwidth and capacity in decode. A plan that takes one rate for the other is wrong by the "
        "factor in the middle.", bullets(why) if why else "",
    )  # fmt: skip


def _slower(run: Item, cells: list[Item]) -> Section | None:
    """Why chips are behind the chip in use: factors whose product is the exchange rate."""
    others = [c for c in cells if c["chip"] != run["baseline"] and c.get("why_slower")]
    if not others:
        return None
    names = [item["cause"].partition(" (")[0] for item in others[0]["why_slower"]]
    columns = [Col(title="chip"), *(Col(title=name, align="right") for name in names), Col(title="together",
               align="right")]  # fmt: skip
    rows: list[list[Cell]] = []
    for c in others:
        factors = [item["factor"] for item in c["why_slower"]]
        rows.append([c["chip"], *(digits(f) for f in factors), digits(math.prod(factors))])
    dtypes = ", ".join(f"{c['chip']} in {c['dtype']}" for c in cells)
    return section(
        f"{run['workload']}: why a chip is behind", table(columns, rows),
        f"Factors at the medians: above 1 the chip is behind the chip in use, below 1 it is ahead; their product is chips "
        f"for one in use. Peak arithmetic is that of the dtype of each run: {dtypes}.",
    )  # fmt: skip


def _levers(run: Item, cells: list[Item]) -> Section:
    """What would shorten the run if it did not bind."""
    columns = [Col(title="chip"), Col(title="what binds"), Col(title="share of the time", align="right"), Col(title="")]
    rows: list[list[Cell]] = []
    for c in cells:
        for item in c["levers"][:5]:
            width = "" if item["p10"] is None else f" ({item['p10']:.0%} – {item['p90']:.0%})"
            rows.append([c["chip"], item["what"], f"{item['share']:.0%}{width}", item["note"]])
    return section(f"{run['workload']}: what would shorten it if it did not bind", table(columns, rows))


def _scaling(run: Item, cells: list[Item]) -> Cell:
    """Days over cluster sizes."""
    rows = [
        {"x": f"{p['chips']:,}", "y": p["days"]["p50"], "low": p["days"]["p10"], "high": p["days"]["p90"],
         "series": c["chip"]}
        for c in cells for p in c.get("scaling", ())
    ]  # fmt: skip
    if len({row["x"] for row in rows}) < 2:
        return ""
    rows.sort(key=lambda row: int(str(row["x"]).replace(",", "")))
    return charts.lines(rows, title="Days by cluster size", x_title="chips that train", y_title="days", log_y=True,
                        note="Lines are medians, bands hold 80 %.")  # fmt: skip


def _count(value: int | None) -> Cell:
    return "none reaches it" if value is None else number(f"{value:,}")


def _binds(run: Item, cells: list[Item]) -> Section:
    rows = [
        {"name": c["chip"], "part": PARTS[p["part"]], "value": 100.0 * p["share"]} for c in cells for p in c["binds"]
    ]
    order = [PARTS[name] for name in PARTS if any(row["part"] == PARTS[name] for row in rows)]
    return section(
        f"{run['workload']}: what a day goes to",
        charts.bars(rows, title="Share of wall time by what it is spent on", x_title="% of wall time", order=order),
    )


def _even(run: Item, entry: Item) -> Section:
    rows = [
        {"x": f"{p['restart_min']:.0f} min", "y": f"{p['hazard_per_chip_hour']:.1e}",
         "value": min(p["mfu_needed"], MOST_SHOWN),
         "label": f"{p['mfu_needed']:.0%}" if p["mfu_needed"] < 10.0 else "never"}
        for p in entry["surface"]
    ]  # fmt: skip
    reachable = entry["mfu_needed_without_failures"] <= 1.0
    title = f"MFU that {entry['chip']} needs to finish in {digits(entry['base_days'])} days"
    chart = charts.heatmap(
        rows, title=title, x_title="restart after a failure", y_title="failures per chip-hour", value_title="",
        note="Above 100 % no software helps: only more chips do.",
    )  # fmt: skip
    more = digits(entry["mfu_needed_without_failures"] / entry["mfu_p50"])
    said = (
        f"With no failure at all it would need {entry['mfu_needed_without_failures']:.0%}; the model gives it "
        f"{entry['mfu_p50']:.0%}. "
        + ("" if reachable else "That is more than its peak: no reliability makes up for it, only more chips. ")
        + f"At that MFU it would take {more} times as many chips, if they scaled evenly and never stopped."
    )
    published = [
        f"{p['what']}: at {p['mfu']:.0%} the same number of chips takes {p['days_without_stops']:.0f} days without a stop, "
        f"{p['days']:.0f} at the goodput taken here."
        for p in entry["published"]
    ]
    return section(f"What would have to be true: {entry['chip']}", said, chart, bullets(published))


def _trying(run: Item, entries: list[Item], currency: str) -> Section:
    columns = [Col(title="chip"), Col(title="stage"), Col(title="assumed chance"), Col(title="pays by itself from",
               align="right"),
               Col(title="expected delay", unit="d", align="right"), Col(title="expected gain", unit=f"M {currency}",
               align="right"),
               Col(title="worth it if being able to is worth", unit=f"M {currency}", align="right"),
               Col(title="on time: trying first | staying", align="right")]  # fmt: skip
    rows: list[list[Cell]] = []
    for entry in entries:
        for s in entry["trying"]:
            even = s["break_even_success"]
            rows.append([
                entry["chip"], s["stage"],
                f"{s['success']['mid']:.0%} ({s['success']['low']:.0%} – {s['success']['high']:.0%})",
                "never" if even is None else f"{even:.0%}", s["expected_delay_days"], s["gain"] / 1e6,
                s["option_value_to_break_even"] / 1e6,
                "–" if s["p_deadline_trying"] is None
                else f"{s['p_deadline_trying']:.0%} | {s['p_deadline_staying']:.0%}",
            ])  # fmt: skip
    steps = [words for entry in entries if (words := _first_step(entry, currency))]
    against = [f"{item['text']} ({item['confidence']}: {item['source']}, {item['as_of']})"
               for item in run.get("counter_evidence", ())]  # fmt: skip
    return section(
        f"{run['workload']}: whether to try first, and with which stage", bullets(steps) if steps else "",
        table(columns, rows), bullets(against) if against else "",
        "Chances, months of porting and the cost of delay are assumed where the study states none under [train]. A "
        "stage that fails falls back to the chip in use after the time lost. Small stages cost little to try and "
        "teach what "
        "large ones need, which is why fine-tuning and post-training come before pre-training.",
    )  # fmt: skip


def _first_step(entry: Item, currency: str) -> str:
    """With which stage to begin, in a sentence."""
    stages = entry["trying"]
    pays = [s["stage"] for s in stages if s["worth_trying"]]
    if pays:
        return f"{entry['chip']}: {', '.join(pays)} pays by itself at the chance taken."
    if len(stages) < 2:
        return ""
    first, last = stages[0], stages[-1]
    small, large = (s["option_value_to_break_even"] / 1e6 for s in (first, last))
    return (
        f"{entry['chip']}: no stage pays for itself. Trying {first['stage']} is worth it if being able to train there is "
        f"worth {digits(small)} M {currency} or more; trying {last['stage']} only from {digits(large)} M {currency} on, "
        f"{digits(large / max(small, 1e-12))} times as much."
    )


def _layouts(run: Item, cells: list[Item]) -> Section:
    columns = [Col(title="chip"), Col(title="framework"), Col(title="dtype"), Col(title="layout"), Col(title="step",
               unit="s", align="right"),
               Col(title="memory", unit="GiB", align="right"), Col(title="checkpoint every", unit="min", align="right"),
               Col(title="goodput, closed form | simulated", align="right")]  # fmt: skip
    rows: list[list[Cell]] = []
    for c in cells:
        check = c["goodput_check"]
        simulated = "–" if check["simulated"] is None else f"{check['closed']:.2%} | {check['simulated']:.2%}"
        rows.append([
            c["chip"], c["framework"], c["dtype"], c["layout_words"], spread(*_q(c["step_s"])),
            c["memory_bytes"] / 2**30,
            c["checkpoint_interval_s"] / 60.0, simulated,
        ])  # fmt: skip
    return section(f"{run['workload']}: layouts", table(columns, rows))


def _parameters(result: Result) -> Section:
    """What the step model takes for each chip, fitted or believed."""
    columns = [Col(title="chip"), Col(title="parameter"), Col(title="value", align="right"), Col(title="rests on"),
               Col(title="belief before rows", align="right"), Col(title="meaning")]  # fmt: skip
    seen: dict[tuple[str, str], list[Cell]] = {}
    for row in result.tables["parameters"].dicts():
        low, mid, high = (float(row[key] or 0.0) for key in ("p10", "p50", "p90"))
        seen[str(row["chip"]), str(row["parameter"])] = [
            str(row["chip"]), str(row["parameter"]), spread(low, mid, high), str(row["rests_on"]),
            "–" if row["prior_low"] is None
            else f"{digits(float(row['prior_low']))} – {digits(float(row['prior_high'] or 0.0))}",
            str(row["meaning"]).removeprefix("assumed: "),
        ]  # fmt: skip
    return section(
        "What the step model takes",
        details("Parameters on each chip, with their intervals", table(columns, list(seen.values()), compact=True)),
    )


BASES: Final = {
    "datasheet": "From datasheets alone", "measured": "From published measurements", "model": "From this model",
    "assumed": "Resting on assumptions",
}  # fmt: skip
"""What a statement of the record rests on, as a heading."""


def record_sections(answer: Item, result: Result) -> list[Section]:
    """Why the run went back: each statement under what it rests on; nothing where no such run is asked for."""
    record = answer.get("record")
    if not record:
        return []
    known = [
        f"{entry['text']} ({entry['confidence']}: {entry['source']}, {entry['as_of']})" for entry in record["known"]
    ]
    assumed = [
        Html("{} <b>{:g} {}</b> <span class='where'>({:g} – {:g})</span>").format(
            f.source.removeprefix("assumed: "), f.value, "" if f.unit == "1" else f.unit, f.low, f.high
        )
        for f in result.figures
        if f.confidence == "assumed" and f.id.startswith("train/") and f.low is not None and f.high is not None
    ]
    parts: list[Cell] = [paragraph(record["reading"])]
    for basis, title in BASES.items():
        texts = list(dict.fromkeys(item["text"] for item in record["findings"] if item["basis"] == basis))
        parts += [Html("<h3>{}</h3>").format(title), bullets(texts)] if texts else []
    parts += [
        Html("<h3>Known</h3>"), bullets(known), Html("<h3>Unknown</h3>"),
        bullets(entry["text"] for entry in record["unknown"]), details("Assumed here, with ranges", bullets(assumed)),
    ]  # fmt: skip
    return [section("Why did it go back to NVIDIA?", *parts)]


def evidence(runs: list[Item], result: Result) -> dict[str, tuple[str, list[str]]]:
    """Figures behind each chip's numbers."""
    found: dict[str, tuple[str, list[str]]] = {}
    for run in runs:
        for c in run["cells"]:
            vendor = c["chip"].split("/")[0]
            ids = [
                f.id
                for f in result.figures
                if f.id.startswith((f"chips/{c['chip']}", "systems/"))
                or (f.id.startswith("train/") and (vendor in f.id or "default" in f.id or f.id.count("/") == 1))
            ]
            found[c["chip"]] = (f"{run['workload']} on {c['chip']}", ids)
    return found
