"""Why a run went back: what datasheets, measurements, assumptions and this model each say of it, kept apart."""

from __future__ import annotations

import datetime as dt
import tomllib
from typing import Any, Final

from offramp.app.train_cells import Setting, measured_hazard
from offramp.core.result import Notice
from offramp.core.units import GIGA
from offramp.train.parameters import DATA

Item = dict[str, Any]
LARGE: Final = 100.0 * GIGA
"""Parameters from which on a pre-training run is of the kind that the record is about."""
NO_FAILURE_DATA: Final = (
    "No failure data of the 2025 attempt to pre-train on domestic chips was ever published: hazard and restart time of "
    "domestic clusters are assumed (2e-5 to 1e-4 per chip-hour), and nothing here says what happened there"
)


def record_of(setting: Setting, runs: list[Item]) -> Item | None:
    """What is publicly known of large pre-training on Huawei's chips, what is not, and what the numbers here add.

    None where no such run was asked for. Statements known after ``as_of`` are left out. Also tells the reader what
    all training answers rest on.
    """
    as_of = setting.study.study.as_of
    if as_of is not None and setting.posterior.created > as_of:
        text = "the step model was fitted to rows published after as_of; facts about chips are those known then"
        setting.notices.append(Notice(kind="hindsight", text=text))
    own_hazard = setting.study.train.hazard_per_device_hour is not None
    if not own_hazard and any(not c["chip"].startswith("nvidia/") for run in runs for c in run["cells"]):
        setting.notices.append(Notice(kind="no-failure-data", text=NO_FAILURE_DATA))
    runs = [run for run in runs if run["stage"] == "pretrain" and run.get("parameters", 0.0) >= LARGE]
    asked = [(run, c) for run in runs for c in run["cells"] if c["chip"].startswith("huawei/") and c["status"] == "ok"]
    if not asked:
        return None
    raw = tomllib.loads((DATA / "record.toml").read_text(encoding="utf-8"))
    known = [{**entry, "as_of": str(entry["as_of"])} for entry in raw["known"] if _is_known(entry["as_of"], as_of)]
    findings = [finding for run, c in asked for finding in _findings(run, c)]
    return {"known": known, "unknown": raw["unknown"], "findings": findings, "reading": _reading(asked)}


def counter_evidence(as_of: dt.date | None) -> list[Item]:
    """Published runs of smaller stages that speak against "it cannot be done", as far as they were known."""
    raw = tomllib.loads((DATA / "record.toml").read_text(encoding="utf-8"))
    found = [entry for entry in raw["known"] if entry.get("stage") and _is_known(entry["as_of"], as_of)]
    return [{**entry, "as_of": str(entry["as_of"])} for entry in found]


def _is_known(day: dt.date, as_of: dt.date | None) -> bool:
    return as_of is None or day <= as_of


def _findings(run: Item, c: Item) -> list[Item]:
    """Statements about one chip, each with what it rests on: "datasheet", "measured", "assumed" or "model"."""
    even = next((entry for entry in run["break_even"] if entry["chip"] == c["chip"]), None)
    if even is None:
        return []
    chips, base = f"{c['active_chips']:,} {c['name']}", even["base_days"]
    needed = even["mfu_needed_without_failures"]
    ends = (
        "no software and no reliability makes up for that on as many chips" if needed > 1.0
        else f"to match it they need an MFU of {needed:.0%} and no failure at all"
    )  # fmt: skip
    found = [
        ("datasheet", f"On {chips} even the full peak takes {even['days_at_full_peak']:.0f} days, against {base:.0f} on "
                      f"the chip in use: {ends}."),
    ]  # fmt: skip
    for entry in even["published"]:
        borrowed = "" if entry["on"] == c["chip"] else ", borrowed from another chip,"
        took = f"{chips} take {entry['days_without_stops']:.0f} days if nothing ever stops."
        said = f"{entry['what']}: at its MFU of {entry['mfu']:.0%}{borrowed} {took}"
        found.append(("measured", said))
    days, good = c["days"], c["goodput"]
    own_base = next(other for other in run["cells"] if other["chip"] == run["baseline"])
    links = ("tp", "expert", "context", "gather", "hop", "end", "bubble")
    found.append((
        "model", f"{chips} take {days['p10']:.0f} to {days['p90']:.0f} days, median {days['p50']:.0f}, at an MFU of "
                 f"{c['mfu']['p10']:.0%} to {c['mfu']['p90']:.0%}. Links of every kind and idle stages cost "
                 f"{_share(c, links):.0%} of that (on {own_base['name']} {_share(own_base, links):.0%}), memory "
                 f"{_lever(c, 'memory'):.0%}, software behind the best measured {_lever(c, 'software'):.0%}.",
    ))  # fmt: skip
    half = even["hazard_half_per_chip_hour"]
    found.append((
        "assumed", f"Failures, restarts and planned stops at the assumed rates cost {1 - good['p90']:.0%} to "
                   f"{1 - good['p10']:.0%} of the time on {chips}. Half of it would be lost only from {half:.1e} stops "
                   f"per chip-hour on, {half / measured_hazard():.0f} times what was measured on H100.",
    ))  # fmt: skip
    own = next((t for t in even["trying"] if t["stage"] == run["stage"]), None)
    if own is not None:
        found.append((
            "assumed", f"A first port of such a run works in the end with a chance of {own['success']['mid']:.0%} "
                       f"({own['success']['low']:.0%} to {own['success']['high']:.0%}) after {own['port_months']:.0f} "
                       "months.",
        ))  # fmt: skip
    return [{"basis": basis, "chip": c["chip"], "text": text} for basis, text in found]


def _share(c: Item, parts: tuple[str, ...]) -> float:
    return sum(p["share"] for p in c["binds"] if p["part"] in parts)


def _lever(c: Item, part: str) -> float:
    return next((item["share"] for item in c["levers"] if item["part"] == part), 0.0)


def _reading(asked: list[tuple[Item, Item]]) -> str:
    """What the numbers support and what they do not, in a few sentences."""
    run = asked[0][0]
    mine = [c for other, c in asked if other is run]
    base = next((c for c in run["cells"] if c["chip"] == run["baseline"]), None)
    best = min(mine, key=lambda c: c["days"]["p50"])
    words: list[str] = []
    if base is not None and base["status"] == "ok":
        on_time = ""
        if base["p_deadline"] is not None:
            on_time = f", and on time with {base['p_deadline']:.0%} against {best['p_deadline']:.0%}"
        words.append(
            f"On as many chips the run is done in {base['days']['p50']:.0f} days on {base['name']} and in "
            f"{best['days']['p50']:.0f} on {best['name']}{on_time}: staying was the faster and the surer choice on these "
            "numbers, before any doubt about software."
        )
    needed = (best["chips_for_deadline"] or {}).get("p90")
    if needed:
        words.append(
            f"But speed alone forbids nothing: {needed:,} {best['name']} meet the deadline with 90 %. Nor do failures at "
            "any rate that was ever published: they cost time, not the run."
        )
    elif best["chips_for_deadline"]:
        words.append(f"No cluster of {best['name']} up to 131,072 chips meets the deadline with 90 %.")
    words.append(
        "What is left of the public explanation is what it names without a number: instability beyond those rates, and "
        "software that did not work. Neither can be computed from what was published, and it is not computed here."
    )
    return " ".join(words)
