"""The answer of an assessment as plain data: what moves, onto how many of which chip, at what cost; what cannot."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from offramp.app.breakeven import BreakEven
from offramp.app.cells import Job
from offramp.app.flips import Flip
from offramp.app.permits import Permit
from offramp.app.rollup import Row, as_dict, chips_for, short_name, span_of
from offramp.app.study import Workload
from offramp.catalog import Catalog
from offramp.core.result import Cell, Column, Table, table_of
from offramp.cost import Pool
from offramp.cost.hardware import system_of

SURE: Final = 0.9
"""Share of the draws that an interval's upper end stands for."""
_INTERVALS: Final = {
    "sourced": "p10 to p90 of joint draws", "bounds": "range over admissible values, p10 to p90 at each end",
    "refused": "",
}  # fmt: skip


def layout_words(pool: Pool) -> str:
    """A layout in one short phrase: "vLLM-Ascend, TP 8, BF16"."""
    parts = [f"TP{pool.tp}"]
    parts += [f"PP{pool.pp}"] if pool.pp > 1 else []
    parts += [f"DP{pool.dp}"] if pool.dp > 1 else []
    parts += [f"EP{pool.ep}"] if pool.ep > 1 else []
    return f"{pool.engine} {' '.join(parts)}"


def workload_answer(
    work: Workload, job: Job, rows: list[Row], breaks: dict[str, list[BreakEven]], quarter: str,
    permits: dict[str, Permit],
) -> dict[str, Any]:  # fmt: skip
    """One workload's part of the answer."""
    baseline = next((row for row in rows if row.is_baseline), None)
    best, cheapest = recommend(rows, permits), recommend(rows, {})
    return {
        "id": work.id, "model": job.model.id, "quarter": quarter,
        "demand": {"mean_requests_per_s": job.demand.mean, "peak_requests_per_s": job.demand.peak,
                   "spare_replicas": job.demand.spares, "min_replicas": job.demand.least},
        "lengths": {"isl_mean_tokens": job.mix.isl, "osl_mean_tokens": job.mix.osl, "isl_p90_tokens": job.mix.isl_p90},
        "slo_s": dict(job.slo), "splits": [], "first_step": "", "first_step_why": "",
        "baseline": baseline.chip.id if baseline else None,
        "recommended": best.chip.id if best else None,
        "cheapest": cheapest.chip.id if cheapest else None,
        "chips": [
            {**_chip_answer(row, job, breaks.get(row.chip.id, [])), "rules": msgspec.to_builtins(permits[row.chip.id])}
            for row in rows
        ],
    }  # fmt: skip


def _chip_answer(row: Row, job: Job, breaks: list[BreakEven]) -> dict[str, Any]:
    case = row.cell.main
    found = case.candidate if case else None
    loaded = case.loaded if case else None
    answer: dict[str, Any] = {
        "chip": row.chip.id, "name": row.chip.name, "short_name": short_name(row.chip.name),
        "status": row.status, "mode": row.cell.mode,
        "fits": bool(found and (found.rate > 0 or found.floor)), "is_baseline": row.is_baseline,
        "interval": _INTERVALS[row.cell.mode],
        **as_dict(row),
        "layout": _layout(found.pool, row, found.accept) if found and found.pool else None,
        "robustness": _robustness(row),
        "fleet": msgspec.to_builtins(loaded.fleet) if loaded else None,
        "latency_s": _latency(case, job) if case else {},
        "headroom": loaded.peak["p50"].headroom if loaded and "p50" in loaded.peak else None,
        "binds": found.shares.largest if found and found.shares else None,
        "time_shares": msgspec.to_builtins(found.shares) if found and found.shares else None,
        "memory_bytes": msgspec.to_builtins(found.memory) if found and found.memory else None,
        "precision_fallback": found.fallback if found else "",
        "blockers": _blockers(row),
        "missing_facts": list(row.cell.missing),
        "break_even": [msgspec.to_builtins(item) for item in breaks],
        "alternatives": _alternatives(row),
        "pareto": _pareto(row, job),
        "figures": [figure.id for figure in row.cell.figures],
    }  # fmt: skip
    if row.cell.mode == "bounds":
        answer["admissible"] = {
            name: {"low": low.values[name], "high": high.values[name]}
            for low, high in [(row.cell.case("low"), row.cell.case("high"))] if low and high for name in low.values
        }  # fmt: skip
    return answer


def _layout(pool: Pool, row: Row, accept: float) -> dict[str, Any]:
    words = layout_words(pool) + (f", drafting (+{accept:g} tokens a step)" if accept > 0.0 else "")
    return {
        "words": words, "accepted_drafts_per_step": accept, "engine": pool.engine, "system": pool.system, "tp": pool.tp, "pp": pool.pp,
        "dp": pool.dp, "ep": pool.ep, "devices": pool.devices, "chips": pool.devices / row.chip.devices,
        "weights_dtype": pool.weights_dtype or "checkpoint", "max_batch_tokens": pool.max_batch_tokens,
        "max_seqs": pool.max_seqs,
    }  # fmt: skip


def _robustness(row: Row) -> dict[str, Any] | None:
    """In how many draws limits are kept: in the layout shown, in the safest, and in whatever layout suits the draw."""
    case = row.cell.main
    if case is None or case.candidate.rate <= 0.0:
        return None
    found = case.candidate
    return {
        "share_of_draws": _reached(row), "layout_share_of_draws": found.kept,
        "safest_layout": layout_words(found.safest) if found.safest else None,
        "safest_share_of_draws": found.safest_kept,
    }  # fmt: skip


def _reached(row: Row) -> float:
    """Share of the draws in which some layout keeps the limits, at the worst admissible values."""
    return min(case.candidate.reached for case in row.cell.cases)


def robustness_words(row: Row) -> list[str]:
    """What a buyer must know where limits break in more than a tenth of the draws."""
    case = row.cell.main
    if case is None or case.candidate.rate <= 0.0:
        return []
    found, texts = case.candidate, []
    if found.safest is not None and found.pool is not None and found.kept < SURE:
        texts.append(
            f"{layout_words(found.pool)} keeps the limits in {found.kept:.0%} of the parameter draws, "
            f"{layout_words(found.safest)} in {found.safest_kept:.0%}: the interval takes each draw in the layout that suits it"
        )
    if (reached := _reached(row)) < SURE:
        texts.append(
            f"in {1.0 - reached:.0%} of the parameter draws no layout keeps the limits: chips and cost have no upper end"
        )
    return texts


def _latency(case: Any, job: Job) -> dict[str, Any]:
    """Latency of the middle fleet at the peak by parameter quantile, beside the limits."""
    loaded = case.loaded
    if loaded is None:
        return {}
    keys = list(dict.fromkeys([*job.slo, "ttft_p50", "ttft_p90", "tpot_p50", "tpot_p90", "e2e_p90"]))
    peak = loaded.peak
    return {
        key: {"limit": job.slo.get(key),
              **{name: (felt.latency.get(key) if felt.stable else None) for name, felt in peak.items()}}
        for key in keys
    }  # fmt: skip


def _blockers(row: Row) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if row.cell.why:
        found.append({"kind": "refused", "text": row.cell.why, "since": "", "stops": True})
    case = row.cell.main
    if case is None:
        return found
    candidate = case.candidate
    found += [{"kind": "slo", "text": text, "since": "", "stops": True} for text in candidate.floor]
    found += [
        {"kind": item.kind, "text": item.text, "since": item.since, "stops": item.stops} for item in candidate.blockers
    ]
    if case.loaded and case.loaded.mean and case.loaded.mean.refused_context:
        text = "some requests are longer than the model's context and are refused"
        found.append({"kind": "context", "text": text, "since": "", "stops": False})
    return found


def _alternatives(row: Row) -> list[dict[str, Any]]:
    case = row.cell.main
    if case is None:
        return []
    return [
        {"layout": layout_words(tried.pool), "devices": tried.pool.devices, "requests_per_s_per_replica": tried.rate,
         "requests_per_s_per_chip": (tried.rate or 0.0) / tried.pool.devices * row.chip.devices,
         "closed_form_requests_per_s": tried.closed_rate}
        for tried in case.candidate.tried
    ]  # fmt: skip


def _pareto(row: Row, job: Job) -> list[dict[str, Any]]:
    """Throughput of a chip against time per output token, over all layouts and batches; closed form."""
    case = row.cell.main
    if case is None:
        return []
    return [
        {"layout": layout_words(choice.pool), "max_batch_tokens": choice.pool.max_batch_tokens,
         "devices": choice.pool.devices, "batch": choice.batch,
         "requests_per_s_per_chip": choice.per_device * row.chip.devices,
         "output_tokens_per_s_per_chip": choice.per_device * row.chip.devices * job.mix.osl,
         "tpot_s": choice.tpot_s, "ttft_s": choice.ttft_s}
        for choice in case.candidate.front
    ]  # fmt: skip


def recommend(rows: list[Row], permits: dict[str, Permit]) -> Row | None:
    """The chip, not the baseline, that carries the workload at the lowest cost (fewest watts without prices).

    Chips that need no licence come first; where none of them carries it, the others are taken.
    """
    able = [row for row in rows if row.status == "carries" and not row.is_baseline and not _stopped(row)]
    if not able:
        return None
    able = [row for row in able if row.chip.id in permits and permits[row.chip.id].free] or able
    if all(row.cost.mid is not None for row in able):
        return min(able, key=lambda row: row.cost.mid or 0.0)
    costed = [row for row in able if row.cost.mid is not None]
    return (
        min(costed, key=lambda row: row.cost.mid or 0.0) if costed else min(able, key=lambda row: row.power.mid or 0.0)
    )


def _stopped(row: Row) -> bool:
    case = row.cell.main
    return case is None or any(item.stops for item in case.candidate.blockers)


def decision(answers: list[dict[str, Any]], currency: str) -> dict[str, Any]:
    """What moves, what cannot, in sentences."""
    moves, stays = [], []
    for work in answers:
        by_chip = {item["chip"]: item for item in work["chips"]}
        base = by_chip.get(work["baseline"]) if work["baseline"] else None
        if work["recommended"]:
            moves.append(_moves(work, by_chip[work["recommended"]], base, currency))
        else:
            stays.append(_stays(work))
    names = ", ".join(work["id"] for work in answers if work["recommended"])
    kept = ", ".join(work["id"] for work in answers if not work["recommended"])
    if moves and not stays:
        headline = f"Every workload can move: {'; '.join(item['short'] for item in moves)}"
    elif moves:
        headline = f"{names} can move ({'; '.join(item['short'] for item in moves)}); {kept} cannot"
    else:
        headline = f"None of the chips assessed carries {kept}"
    return {"headline": headline, "moves": moves, "stays": stays}


def _moves(work: dict[str, Any], item: dict[str, Any], base: dict[str, Any] | None, currency: str) -> dict[str, Any]:
    chips, rate = item["chips"], item["exchange_rate"]
    short = f"{work['id']} to {chips['mid']:,.0f} {item['short_name']}"
    text = f"{work['id']} runs on {_range(chips)} {item['short_name']} ({item['layout']['words']})"
    if base and base["chips"]["mid"] and rate["mid"] is not None:
        text += f" instead of {base['chips']['mid']:,.0f} {base['short_name']}: {_range(rate)} for one"
    allowed = item["rules"]["verdict"]
    if allowed not in ("allowed", "unknown"):
        text += f"; rules: {allowed.replace('-', ' ')}"
    cost, own = item["cost_per_million_output_tokens"], base["cost_per_million_output_tokens"] if base else None
    change = None
    if cost["mid"] and own and own["mid"]:
        change = cost["mid"] / own["mid"] - 1.0
        short += f" at {change:+.0%} cost"
        text += f"; {cost['mid']:.3g} {currency} per million output tokens, {change:+.0%} against {own['mid']:.3g}"
    robust = item["robustness"]
    if robust and robust["share_of_draws"] < SURE:
        text += (
            f"; but in {1.0 - robust['share_of_draws']:.0%} of the draws of the parameters no layout keeps the limits"
        )
    own = [s for s in work["splits"] if not s["mixed"] and s["prefill_chip"] == item["chip"]]
    if own and own[0]["chips_total"] < (chips["mid"] or 0):
        text += f". With prefill and decode on separate pools it takes about {own[0]['chips_total']:,}"
    return {"workload": work["id"], "chip": item["chip"], "short": short, "text": text + ".", "chips": chips,
            "exchange_rate": rate, "cost_change": change, "rules": allowed, "instead": _instead(work)}  # fmt: skip


def _instead(work: dict[str, Any]) -> str:
    """What would be cheaper, were it free to buy."""
    if work["cheapest"] in (None, work["recommended"]):
        return ""
    item = next(item for item in work["chips"] if item["chip"] == work["cheapest"])
    cost, verdict = item["cost_per_million_output_tokens"]["mid"], item["rules"]["verdict"].replace("-", " ")
    price = f" at {cost:.3g} per million output tokens" if cost else ""
    sides = ", ".join(f"{side} {said.replace('-', ' ')}" for side, said in item["rules"]["by_jurisdiction"].items())
    return f"{work['id']} would be cheaper on {item['short_name']}{price}, but the rules say {verdict} ({sides})."


def _range(span: dict[str, Any]) -> str:
    if span["mid"] is None:
        return f"{_n(span['low'])} to {_n(span['high'])}"
    return f"{_n(span['mid'])} ({_n(span['low'])} to {_n(span['high'])})"


def _n(value: float | None) -> str:
    if value is None:
        return "no limit"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _stays(work: dict[str, Any]) -> dict[str, Any]:
    reasons = [
        f"{item['short_name']}: {blocker['text']}" for item in work["chips"] if not item["is_baseline"]
        for blocker in item["blockers"] if blocker["stops"]
    ]  # fmt: skip
    text = f"{work['id']} has no chip that carries it. " + " ".join(f"{reason}." for reason in reasons)
    return {"workload": work["id"], "text": text.strip(), "reasons": reasons}


def main_table(answers: list[dict[str, Any]], currency: str) -> Table:
    """One row per workload and chip."""
    columns = (
        Column(name="workload"), Column(name="chip"), Column(name="status"), Column(name="layout"),
        Column(name="chips_low", unit="chips"), Column(name="chips_mid", unit="chips"),
        Column(name="chips_high", unit="chips"), Column(name="exchange_low"), Column(name="exchange_mid"),
        Column(name="exchange_high"), Column(name="cost_low", unit=f"{currency}/Mtok"),
        Column(name="cost_mid", unit=f"{currency}/Mtok"), Column(name="cost_high", unit=f"{currency}/Mtok"),
        Column(name="power_mid", unit="W"), Column(name="ttft_p90", unit="s"), Column(name="tpot_p90", unit="s"),
        Column(name="binds"), Column(name="rules"),
    )  # fmt: skip
    rows: list[dict[str, Cell]] = []
    for work in answers:
        for item in work["chips"]:
            latency = item["latency_s"]
            row: dict[str, Cell] = {
                "workload": work["id"], "chip": item["chip"], "status": item["status"], "binds": item["binds"],
                "rules": item["rules"]["verdict"],
                "layout": item["layout"]["words"] if item["layout"] else "", "power_mid": item["power_w"]["mid"],
                "ttft_p90": latency.get("ttft_p90", {}).get("p50"), "tpot_p90": latency.get("tpot_p90", {}).get("p50"),
            }  # fmt: skip
            for short, name in (
                ("chips", "chips"),
                ("exchange", "exchange_rate"),
                ("cost", "cost_per_million_output_tokens"),
            ):
                row |= {f"{short}_{end}": item[name][end] for end in ("low", "mid", "high")}
            rows.append(row)
    return table_of(rows, columns=columns, title="Workloads and chips")


def quarter_table(works: list[tuple[Workload, Job, list[Row]]], catalog: Catalog) -> Table:
    """Chips by quarter of the stated demand."""
    rows: list[dict[str, Cell]] = []
    for work, job, found in works:
        ratio = job.demand.peak / job.demand.mean if job.demand.mean > 0 else 1.0
        for point in work.demand:
            for row in found:
                case = row.cell.main
                if row.status != "carries" or case is None or case.candidate.pool is None:
                    continue
                system = system_of(catalog, row.chip, case.candidate.pool.system)
                mean = point.mean_requests_per_s
                chips = span_of(chips_for(case.candidate, job, system, mean=mean, peak=mean * ratio))
                span = {f"chips_{end}": value for end, value in chips.plain().items()}
                own = {"workload": work.id, "quarter": point.quarter, "chip": row.chip.id, "mean_requests_per_s": mean}
                rows.append({**own, **span})
    names = ("workload", "quarter", "chip", "mean_requests_per_s", "chips_low", "chips_mid", "chips_high")
    return table_of(rows, columns=names, title="Chips by quarter")


def flip_table(flips: list[Flip]) -> Table:
    """Flips as a table."""
    names = ("workload", "chip", "assumption", "now", "flips_at", "unit", "text")
    rows = [msgspec.to_builtins(flip) for flip in flips]
    return table_of(rows, columns=names, title="Assumptions that would flip the decision")


def layout_table(answers: list[dict[str, Any]]) -> Table:
    """Every simulated layout."""
    names = ("workload", "chip", "layout", "devices", "requests_per_s_per_replica", "requests_per_s_per_chip",
             "closed_form_requests_per_s")  # fmt: skip
    rows = [
        {"workload": work["id"], "chip": item["chip"], **alternative}
        for work in answers for item in work["chips"] for alternative in item["alternatives"]
    ]  # fmt: skip
    return table_of(rows, columns=names, title="Layouts simulated")


def pareto_table(answers: list[dict[str, Any]]) -> Table:
    """The front of every workload and chip."""
    columns = (
        Column(name="workload"), Column(name="chip"), Column(name="layout"), Column(name="max_batch_tokens"),
        Column(name="devices"), Column(name="batch"), Column(name="requests_per_s_per_chip"),
        Column(name="output_tokens_per_s_per_chip"), Column(name="tpot_s", unit="s"), Column(name="ttft_s", unit="s"),
    )  # fmt: skip
    rows = [
        {"workload": work["id"], "chip": item["chip"], **point}
        for work in answers for item in work["chips"] for point in item["pareto"]
    ]  # fmt: skip
    return table_of(rows, columns=columns, title="Throughput against time per output token, closed form")
