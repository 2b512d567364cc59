"""The page of an assessment: the decision, exchange rates, chips, latency, cost and power, blockers, flips, layouts."""

from __future__ import annotations

from typing import Any, Final, Literal

from markupsafe import Markup as Html

from offramp.core.result import Result
from offramp.report import charts, train
from offramp.report.html import (
    Cell,
    Col,
    Page,
    Section,
    badge,
    bullets,
    decision,
    details,
    digits,
    exact,
    join,
    number,
    paragraph,
    result_table,
    section,
    spread,
    stat,
    table,
)

Item = dict[str, Any]
Kind = Literal["good", "bad", "warn", "plain"]
_BADGES: Final[dict[str, tuple[str, Kind]]] = {
    "carries": ("carries it", "good"), "range": ("range only", "warn"), "blocked": ("cannot", "bad"),
    "refused": ("not computable", "bad"),
}  # fmt: skip
_TERMS: Final = {
    "compute": "arithmetic", "memory": "memory traffic", "floors": "kernel floors", "messages": "communication",
    "host": "host overhead",
}  # fmt: skip


def page(result: Result) -> Page:
    """The page of an assessment."""
    answer = result.answer
    works = answer["workloads"]
    sections: list[Section] = [_workload(work, answer["currency"]) for work in works]
    sections += [_flips(answer), _blockers(works), _layouts(works), _quarters(result)] if works else []
    training = answer.get("training") or {"runs": []}
    for run in training["runs"]:
        sections += train.run_sections(run, answer["currency"])
    sections += train.record_sections(training, result)
    fleet = ", ".join(f"{entry['count']:,} {entry['chip']}" for entry in answer["fleet"])
    return Page(
        title=answer["study"], question=f"Which chips carry the work of the {_name(works, answer['baseline'])}?",
        subtitle=f"as of {answer['as_of'] or 'now'}" + (f" · fleet today: {fleet}" if fleet else ""),
        lead=_lead(answer), sections=sections,
        evidence={**train.evidence(training["runs"], result), **_evidence(works)},
    )  # fmt: skip


def _name(works: list[Item], chip: str) -> str:
    return next((item["name"] for work in works for item in work["chips"] if item["chip"] == chip), chip)


def _short(item: Item) -> str:
    return str(item["short_name"])


def _ev(work: Item, item: Item) -> str:
    return f"{work['id']} {item['chip']}"


def _pick(work: Item, chip: str | None) -> Item | None:
    return next((item for item in work["chips"] if item["chip"] == chip), None)


def _lead(answer: Item) -> Html:
    """The first screen."""
    works = answer["workloads"]
    stats: list[Html] = []
    for work in works:
        stats += _stats(work, answer["currency"])
    columns = [
        Col(title="workload"), Col(title="chip"), Col(title=""), Col(title="chips", align="right"),
        Col(title="for one in use", align="right", hint="chips that replace one chip in use"),
        Col(title=f"{answer['currency']} / M output tokens", align="right"), Col(title="TTFT p90", align="right"),
        Col(title="TPOT p90", align="right"), Col(title="may it be bought"), Col(title="what else stands in the way"),
    ]  # fmt: skip
    rows = [_lead_row(work, item) for work in works for item in work["chips"]]
    sure = paragraph(
        "Chips are whole servers for the peak with the spares asked for. In brackets: 10th to 90th percentile of joint "
        "parameter draws; a range without a middle comes from facts that nobody has published."
    )
    points = [*answer["decision"].get("training", ()), *_stays(answer), *_top_flips(answer)]
    after = table(columns, rows, compact=True) + sure if rows else ""
    return decision(answer["decision"]["headline"] + ".", stats=stats, points=points, after=after)


def _stats(work: Item, currency: str) -> list[Html]:
    best, base = _pick(work, work["recommended"]), _pick(work, work["baseline"])
    if best is None:
        return [stat(work["id"], "no chip carries it", "see what stands in the way")]
    note = join([best["layout"]["words"]])
    if base is not None and base["chips"]["mid"]:
        note = Html("instead of {} {}; {} for one").format(
            number(base["chips"]["mid"], evidence=_ev(work, base)), _short(base), digits(best["exchange_rate"]["mid"])
        )
    found = [stat(f"{work['id']} on {_short(best)}, chips", _span(best["chips"], _ev(work, best), whole=True), note)]
    cost = best["cost_per_million_output_tokens"]
    if cost["mid"] is not None:
        other = base["cost_per_million_output_tokens"]["mid"] if base else None
        note = f"{cost['mid'] / other - 1:+.0%} against {digits(other)} today" if other else ""
        note = note.replace("-", "−")
        found.append(stat(f"{currency} per million output tokens", _span(cost, _ev(work, best)), note))
    return found


def _span(span: Item, evidence: str = "", *, whole: bool = False) -> Html:
    if span["low"] is None and span["mid"] is None and span["high"] is None:
        return Html("–")
    if span["low"] == span["mid"] == span["high"]:
        return number(exact(span["mid"]) if whole else span["mid"], evidence=evidence)
    high = span["high"] if span["high"] is not None else float("inf")
    return spread(span["low"], span["mid"], high, evidence=evidence, whole=whole)


def _lead_row(work: Item, item: Item) -> list[Cell]:
    text, kind = _BADGES[item["status"]]
    if item["is_baseline"]:
        text, kind = "in use", "plain"
    if item["chip"] == work["recommended"]:
        text = "best choice"
    evidence = _ev(work, item)
    return [
        work["id"], _short(item), badge(text, kind), _span(item["chips"], evidence, whole=True),
        _span(item["exchange_rate"], evidence), _span(item["cost_per_million_output_tokens"], evidence),
        _latency(item, "ttft_p90", evidence), _latency(item, "tpot_p90", evidence), _permit(item), _obstacle(item),
    ]  # fmt: skip


def _latency(item: Item, key: str, evidence: str = "", quantile: str = "p50") -> Cell:
    value = item["latency_s"].get(key, {}).get(quantile)
    if value is None:
        return "–"
    return (
        number(value * 1e3, unit="ms", evidence=evidence) if value < 1 else number(value, unit="s", evidence=evidence)
    )


def _permit(item: Item) -> Html:
    said = item["rules"]["verdict"]
    free = said in ("allowed", "discouraged", "notification", "conditional", "quota")
    unsure = free or said in ("unknown", "indeterminate")
    kind: Literal["good", "warn", "bad"] = "good" if said == "allowed" else "warn" if unsure else "bad"
    return badge(said.replace("licence-", "licence: ").replace("-", " "), kind)


def _obstacle(item: Item) -> str:
    for blocker in sorted(item["blockers"], key=lambda blocker: not blocker["stops"]):
        if blocker["kind"] == "fallback":
            return "accuracy of " + blocker["text"].split(":")[0]
        if blocker["stops"]:
            return str(blocker["text"]).split(":")[0]
        if blocker["kind"] == "unproven":
            return "engine support unproven"
    if item["missing_facts"]:
        return "facts not published"
    return ""


def _stays(answer: Item) -> list[Cell]:
    found = [item["text"] for item in answer["decision"]["stays"]]
    found += [item["instead"] for item in answer["decision"]["moves"] if item["instead"]]
    return found + [f"{work['id']}: {work['first_step']}" for work in answer["workloads"] if work["first_step"]]


def _top_flips(answer: Item) -> list[Cell]:
    """The three flips of the recommended chips that are nearest to where things stand."""

    def distance(flip: Item) -> float:
        if not flip["now"] or not flip["flips_at"]:
            return 9.0
        ratio = flip["flips_at"] / flip["now"]
        return abs(max(ratio, 1.0 / ratio) - 1.0) if ratio > 0 else 9.0

    chosen = {work["recommended"] for work in answer["workloads"]}
    near = sorted((flip for flip in answer["flips"] if flip["chip"] in chosen), key=distance)[:3]
    return [Html("{} {}").format(badge("flips if", "warn"), flip["text"] + ".") for flip in near]


def _workload(work: Item, currency: str) -> Section:
    demand, lengths = work["demand"], work["lengths"]
    limits = ", ".join(f"{key.replace('_', ' ')} ≤ {value * 1e3:g} ms" for key, value in work["slo_s"].items())
    mean, peak = digits(demand["mean_requests_per_s"]), digits(demand["peak_requests_per_s"])
    isl, osl = digits(lengths["isl_mean_tokens"]), digits(lengths["osl_mean_tokens"])
    intro = (
        f"{work['model']}; {mean} requests/s on average and {peak} at the peak in {work['quarter']}; {isl} input and "
        f"{osl} output tokens on average; limits: {limits or 'none'}."
    )
    parts: list[Cell] = [intro]
    rates = [
        _rate_row(item)
        for item in work["chips"]
        if not item["is_baseline"] and item["exchange_rate"]["low"] is not None
    ]
    if rates:
        base = _pick(work, work["baseline"])
        name = _short(base) if base else "chip in use"
        parts.append(
            charts.ranges(
                rates, title=_rate_title(work, name), x_title=f"chips that replace one {name}", reference=1.0, log=True,
                note="Dot: median of joint draws, in which common errors cancel; bar: 10th to 90th percentile, or the "
                "range over unpublished facts (no dot).",
            )
        )  # fmt: skip
    parts += [_cost_chart(work, currency), _numbers(work), _time_chart(work), _splits(work, currency), _bounds(work)]
    return section(f"{work['id']}: {work['model'].rsplit('/', 1)[-1]}", *parts, anchor=f"work-{work['id']}")


def _rate_row(item: Item) -> Item:
    rate = item["exchange_rate"]
    high = rate["high"] if rate["high"] is not None else max(20.0, 4.0 * (rate["mid"] or rate["low"] or 1.0))
    return {"name": _short(item), "low": max(rate["low"] or 0.0, 0.01), "mid": rate["mid"], "high": high,
            "kind": "sourced" if item["mode"] == "sourced" else "facts missing: range"}  # fmt: skip


def _rate_title(work: Item, name: str) -> str:
    able = [item for item in work["chips"] if not item["is_baseline"] and item["exchange_rate"]["mid"] is not None]
    if not able:
        return f"No chip has an exchange rate for {work['id']}"
    best = min(able, key=lambda item: item["exchange_rate"]["mid"])
    worst = max(able, key=lambda item: item["exchange_rate"]["mid"])
    return (
        f"For {work['id']} one {name} is worth {digits(best['exchange_rate']['mid'])} {_short(best)} to "
        f"{digits(worst['exchange_rate']['mid'])} {_short(worst)}"
    )


def _cost_chart(work: Item, currency: str) -> Cell:
    rows = [
        {"name": _short(item), **item["cost_per_million_output_tokens"],
         "kind": "sourced" if item["mode"] == "sourced" else "facts missing: range"}
        for item in work["chips"] if item["cost_per_million_output_tokens"]["low"] is not None
    ]  # fmt: skip
    rows = [row for row in rows if row["high"] is not None]
    if not rows:
        return ""
    able = [row for row in rows if row["mid"] is not None] or rows
    best = min(able, key=lambda row: row["mid"] or row["low"])
    return charts.ranges(
        rows, title=f"{best['name']} serves {work['id']} at the lowest cost", log=True,
        x_title=f"{currency} per million output tokens, at the demand's utilisation",
        note="Chip, host and network written off, with interest and power; spares and idle hours included. Bars also "
        "hold the spread of prices.",
    )  # fmt: skip


def _numbers(work: Item) -> Html:
    columns = [
        Col(title="chip"), Col(title="layout"), Col(title="servers", align="right"),
        Col(title="replicas", align="right"),
        Col(title="requests/s per chip", align="right"), Col(title="power", unit="MW", align="right"),
        Col(title="energy", unit="J/token", align="right"), Col(title="TTFT p90 at peak", align="right"),
        Col(title="TPOT p90 at peak", align="right"), Col(title="if 1 in 10 slow", align="right"), Col(title="binds"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for item in work["chips"]:
        fleet, layout, evidence = item["fleet"], item["layout"], _ev(work, item)
        power = {key: None if value is None else value / 1e6 for key, value in item["power_w"].items()}
        rows.append([
            _short(item), layout["words"] if layout else "–", exact(fleet["servers"] if fleet else None),
            exact(fleet["replicas"] if fleet else None), _span(item["requests_per_s_per_chip"], evidence),
            _span(power, evidence), _span(item["energy_j_per_output_token"], evidence),
            _latency(item, "ttft_p90", evidence), _latency(item, "tpot_p90", evidence),
            _latency(item, "tpot_p90", quantile="p10") if fleet else "–", _TERMS.get(item["binds"] or "", "–"),
        ])  # fmt: skip
    return table(columns, rows, compact=True) + paragraph(
        "Latency is simulated on the traffic for the median fleet at the peak. The column before the last is TPOT p90 "
        "of the same fleet if the chip is as slow as the slowest tenth of the draws; a dash there means that the queue "
        "grows without end."
    )


def _time_chart(work: Item) -> Cell:
    rows = [
        {"name": _short(item), "part": _TERMS[key], "value": 100.0 * value}
        for item in work["chips"] if item["time_shares"] and item["fleet"]
        for key, value in item["time_shares"].items()
    ]  # fmt: skip
    if not rows:
        return ""
    return charts.bars(
        rows, title=f"What {work['id']} waits for differs by chip", x_title="share of step time at the SLO's rate, %",
        order=list(_TERMS.values()),
    )  # fmt: skip


def _splits(work: Item, currency: str) -> Cell:
    """Prefill and decode apart, on one chip or on two."""
    if not work["splits"]:
        return ""
    names = {item["chip"]: item["short_name"] for item in work["chips"]}
    columns = [
        Col(title="prefill on"), Col(title="chips", align="right"), Col(title="decode on"),
        Col(title="chips", align="right"), Col(title="layouts of a unit"),
        Col(title="TTFT p90", unit="ms", align="right"), Col(title="TPOT p90", unit="ms", align="right"),
        Col(title=f"{currency} / M output tokens", align="right"),
    ]  # fmt: skip
    rows = [
        [names[split["prefill_chip"]], _side(split, "prefill"), names[split["decode_chip"]], _side(split, "decode"),
         f"{split['prefill_layout']}; {split['decode_layout']}", split["latency_s"]["ttft_p90"] * 1e3,
         split["latency_s"]["tpot_p90"] * 1e3, split["cost_per_million_output_tokens"]] for split in work["splits"][:10]
    ]  # fmt: skip
    text = (
        "Chips of the median draw, p10 to p90 of all draws in brackets; latencies at the middle parameters, both pools "
        "simulated together with the transfer of the cache and its conversion between unlike chips; power as in "
        "aggregated serving. Check before ordering that both engines can exchange caches."
    )
    head = Html("<h3>Prefill and decode on separate pools</h3>")
    return join([head, paragraph(work["first_step"]) if work["first_step"] else "",
                 paragraph(work["first_step_why"]) if work.get("first_step_why") else "", table(columns, rows, compact=True),
                 paragraph(text)])  # fmt: skip


def _side(split: Item, role: str) -> str:
    """Chips of one side with their interval."""
    span = split["interval"][f"{role}_chips"]
    high = f"{span['high']:,.0f}" if span["high"] is not None else "∞"
    return f"{split[f'{role}_chips']:,} ({span['low']:,.0f}–{high})"


def _bounds(work: Item) -> Cell:
    items = [item for item in work["chips"] if item["mode"] == "bounds"]
    if not items:
        return ""
    parts: list[Cell] = [Html("<h3>What a missing fact would have to be</h3>")]
    for item in items:
        values = ", ".join(
            f"{name.replace('_', ' ')} {_figure(name, ends['low'])} to {_figure(name, ends['high'])}"
            for name, ends in item.get("admissible", {}).items()
        )
        lines: list[Cell] = [
            f"{_short(item)}: no source gives {', '.join(item['missing_facts'])}. Admissible: {values}."
        ]
        lines += [_break_even(item, even) for even in item["break_even"]]
        parts.append(bullets(lines))
    return join(parts)


def _figure(name: str, value: float) -> str:
    if "bandwidth" in name:
        return f"{value / 1e12:.3g} TB/s"
    if name.startswith("peak"):
        return f"{value / 1e12:.3g} T/s"
    return f"{value / 1e9:.3g} GB" if "capacity" in name else f"{value:.3g} W"


def _break_even(item: Item, even: Item) -> str:
    what = even["figure"].replace("_", " ")
    if even["value"] is None:
        return f"No {what} within a factor of eight makes one {_short(item)} replace one chip in use."
    return f"One {_short(item)} replaces one chip in use from a {what} of {_figure(even['figure'], even['value'])} on."


def _flips(answer: Item) -> Section:
    columns = [
        Col(title="workload"), Col(title="chip"), Col(title="assumption"), Col(title="now", align="right"),
        Col(title="flips at", align="right"), Col(title="unit"), Col(title="in words"),
    ]  # fmt: skip
    rows = [
        [flip["workload"], flip["chip"], flip["assumption"], flip["now"], flip["flips_at"], flip["unit"], flip["text"]]
        for flip in answer["flips"]
    ]
    body = table(columns, rows, compact=True) if rows else paragraph("Nothing found that would.")
    return section("What would flip the decision", body, anchor="flips")


def _blockers(works: list[Item]) -> Section:
    lines: list[Cell] = []
    for work in works:
        for item in work["chips"]:
            for blocker in item["blockers"]:
                kind = badge("stops it" if blocker["stops"] else blocker["kind"], "bad" if blocker["stops"] else "warn")
                since = f" It exists since version {blocker['since']}." if blocker["since"] else ""
                lines.append(Html("{} {} on {}: {}.{}").format(kind, work["id"], _short(item), blocker["text"], since))
    body = bullets(lines) if lines else paragraph("Nothing.")
    return section("What stands in the way", body, anchor="blockers")


def _layouts(works: list[Item]) -> Section:
    parts: list[Cell] = [
        "Each layout was found by pricing every combination of degrees, batch and token budget that fits, and "
        "simulated on the traffic at rising rates until a limit broke. A smaller replica is preferred where it carries "
        "nearly as much per device."
    ]
    columns = [
        Col(title="layout"), Col(title="devices", align="right"), Col(title="requests/s per replica", align="right"),
        Col(title="per chip", align="right"), Col(title="closed form", align="right"),
    ]  # fmt: skip
    for work in works:
        for item in work["chips"]:
            rows = [
                [tried["layout"], tried["devices"], tried["requests_per_s_per_replica"],
                 tried["requests_per_s_per_chip"], tried["closed_form_requests_per_s"]]
                for tried in item["alternatives"]
            ]  # fmt: skip
            if rows:
                parts.append(
                    details(f"{work['id']} on {_short(item)}{_setting(item)}", table(columns, rows, compact=True))
                )
    return section("Layouts", *parts)


def _setting(item: Item) -> str:
    layout, memory = item["layout"], item["memory_bytes"]
    if not layout or not memory:
        return ""
    return (
        f": {layout['words']}, {layout['max_batch_tokens']} tokens and {layout['max_seqs']} sequences a step; "
        f"{memory['weights_bytes'] / 1e9:.1f} GB weights of {memory['capacity_bytes'] / 1e9:.1f} GB per device"
    )


def _quarters(result: Result) -> Section:
    data = result.tables["quarters"]
    rows = [row for row in data.dicts() if row["chips_mid"] is not None]
    parts: list[Cell] = []
    for work in dict.fromkeys(str(row["workload"]) for row in rows):
        mine = [row for row in rows if row["workload"] == work]
        if len({row["quarter"] for row in mine}) > 1:
            points = [{"x": row["quarter"], "y": row["chips_mid"], "low": row["chips_low"],
                       "high": row["chips_high"] or row["chips_mid"], "series": str(row["chip"]).split("/")[-1]}
                      for row in mine]  # fmt: skip
            parts.append(
                charts.lines(
                    points,
                    title=f"Chips that {work} needs as demand moves",
                    x_title="quarter",
                    y_title="chips",
                    log_y=True,
                    note="Bands: 10th to 90th percentile.",
                )
            )
    return section("Chips by quarter", *parts, result_table(data), anchor="quarters")


def _evidence(works: list[Item]) -> dict[str, tuple[str, list[str]]]:
    return {
        _ev(work, item): (f"{work['id']} on {item['name']}", list(item["figures"]))
        for work in works for item in work["chips"]
    }  # fmt: skip
