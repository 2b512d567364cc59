"""Beside the outlook: what would have to be true to match the chip in use, and whether trying is worth it."""

from __future__ import annotations

import datetime as dt
import tomllib
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.app.study import Workload
from offramp.app.train_cells import Setting, center_reliability
from offramp.catalog import Chip
from offramp.core.figure import Figure
from offramp.core.units import DAY_S, HOUR_S
from offramp.train.assumed import DATA, constant
from offramp.train.decision import Stage, judge, staged_success
from offramp.train.goodput import best_interval_s, break_even_rate, goodput
from offramp.train.outlook import Outlook, Question, peak_of
from offramp.train.simulate import simulate
from offramp.train.work import model_flop, model_work

F8 = npt.NDArray[np.float64]
HAZARDS: Final = (4.2e-6, 1.0e-5, 2.0e-5, 4.5e-5, 1.0e-4, 3.0e-4)
RESTARTS_MIN: Final = (3.0, 10.0, 20.0, 60.0)
PUBLISHED: Final = (
    ("Pangu Ultra MoE on 6,000 910B (arXiv 2505.04519)", 0.30, dt.date(2025, 5, 7)),
    ("Pangu Ultra MoE on 10,000 910B after rework (vendor, press)", 0.41, dt.date(2025, 6, 30)),
)
PUBLISHED_ON: Final = "huawei/ascend-910b"
MATURITY: Final = {
    "success": ("chance that this stage works on the chip in the end:", "1"),
    "delay_weight": ("cost of a day of delay over the daily cost of the run's cluster:", "1"),
    "after_smaller": ("share of the doubt about a stage that a smaller one takes away once it works", "1"),
    "port_months": ("months of work before this stage can start on the chip:", "months"),
}
"""What an assumed number of the decision is, and its unit."""
MONTH_S: Final = 30.4375 * DAY_S


def break_even(setting: Setting, q: Question, out: Outlook, base_days: float) -> dict[str, Any]:
    """MFU that a chip would need at each hazard and restart time to finish as fast as the chip in use.

    Args:
        setting: of the answer.
        q, out: run on the chip.
        base_days: of the chip in use, p50.
    """
    work = model_work(q.model, mtp=False)
    flop = model_flop(work, q.task.sequence_tokens, causal=True) * q.tokens
    devices = out.active * q.devices_per_chip
    peak = peak_of(q.device, q.task.dtype)
    ideal_days = flop / peak / devices / DAY_S
    planned = 1.0 - q.failing.planned.mid
    as_of = setting.study.study.as_of
    surface: list[dict[str, float]] = []
    for hazard in HAZARDS:
        for minutes in RESTARTS_MIN:
            r = center_reliability(q, out, hazard=hazard, restart_s=minutes * 60.0)
            good = float(goodput(r, best_interval_s(r))[0]) * planned
            surface.append(
                {"hazard_per_chip_hour": hazard, "restart_min": minutes, "goodput": good,
                 "mfu_needed": ideal_days / base_days / max(good, 1e-12)}
            )  # fmt: skip
    own = center_reliability(q, out)
    mfu = float(np.median(out.mfu))
    reachable = mfu * base_days / ideal_days
    rate = break_even_rate(own, min(reachable / planned, 0.999)) if reachable < planned else None
    return {
        "chip": q.device.chip, "base_days": base_days, "days_at_full_peak": ideal_days, "mfu_p50": mfu,
        "mfu_needed_without_failures": ideal_days / base_days / planned, "surface": surface,
        "goodput_needed_at_own_mfu": ideal_days / mfu / base_days,
        "hazard_break_even_per_chip_hour": None if rate is None else rate * HOUR_S / out.active,
        "hazard_half_per_chip_hour": break_even_rate(own, 0.5) * HOUR_S / out.active,
        "published": [
            {"what": what, "on": PUBLISHED_ON, "mfu": value, "days_without_stops": ideal_days / value,
             "days": ideal_days / value / float(np.median(out.goodput))}
            for what, value, day in PUBLISHED
            if q.device.vendor.lower() == "huawei" and (as_of is None or day <= as_of)
        ],
        "chips_at_published_41": out.active * ideal_days / 0.41 / base_days / float(np.median(out.goodput)),
    }  # fmt: skip


def goodput_check(q: Question, out: Outlook, seed: int) -> dict[str, Any]:
    """Closed form beside simulation at the centre: three thousand failures, so that chance is about half a percent."""
    r = center_reliability(q, out)
    interval = float(best_interval_s(r)[0])
    closed = float(goodput(r, interval)[0])
    if closed < 1e-3:
        return {"closed": closed, "simulated": None, "interval_s": interval, "failures": 0}
    run = simulate(r, interval_s=interval, useful_s=3000.0 / float(r.failures_per_s) * closed, seed=seed)
    return {"closed": closed, "simulated": run.goodput, "interval_s": interval, "failures": run.failures}


def exchange(out: Outlook, base: Outlook) -> F8:
    """Chips that replace one of the chip in use for this run: joint draws, common errors cancelled. [draws]"""
    return (out.days * out.chips) / (base.days * base.chips)


def resources(q: Question, base: Question) -> dict[str, float]:
    """Ratios of the chip in use over this one, per package: what inference and training draw on differently."""

    def per_chip(one: Question, value: float) -> float:
        return value * one.devices_per_chip

    def peak(one: Question) -> float:
        return float(np.mean(one.device.peak_flop_per_s.get(one.task.dtype, one.device.peak_flop_per_s["bf16"])))

    pairs = {
        "peak": (peak(base), peak(q)),
        "memory_bandwidth": (
            float(np.mean(base.device.memory_bytes_per_s)),
            float(np.mean(q.device.memory_bytes_per_s)),
        ),
        "memory": (base.device.memory_bytes, q.device.memory_bytes),
        "scaleup_links": (base.device.fabric.device_bytes_per_s, q.device.fabric.device_bytes_per_s),
        "network": (base.device.fabric.scaleout_bytes_per_s, q.device.fabric.scaleout_bytes_per_s),
    }
    return {name: per_chip(base, ours) / per_chip(q, theirs) for name, (ours, theirs) in pairs.items() if theirs > 0}


def _maturity() -> dict[str, Any]:
    return tomllib.loads((DATA / "maturity.toml").read_text(encoding="utf-8"))


def trying(
    setting: Setting, work: Workload, chip: Chip, run: Outlook, base: Outlook, *, costs: tuple[float, float] | None
) -> list[dict[str, Any]]:
    """For each stage of training, whether to try the chip first and fall back if it fails.

    A pre-training run is judged beside the smaller stages that could come before it; another run only by itself.

    Args:
        setting: of the answer.
        work: the workload.
        chip: tried.
        run, base: on the chip, and on the chip in use.
        costs: of the whole run on the chip and on the chip in use, at the median; None without prices.
    """
    if costs is None:
        return []
    table = _maturity()
    learned = float(table["evidence"]["after_smaller"]["value"])
    _note_assumptions(setting, chip.vendor.lower(), table)
    own = work.stage if work.stage in ("fine-tune", "pretrain") else "pretrain"
    found: list[dict[str, Any]] = []
    stages = (
        ("fine-tune", constant("tokens_fine_tune")),
        ("post-train", constant("tokens_post_train")),
        ("pretrain", 1.0),
    )
    for name, share in stages if own == "pretrain" else ((own, 1.0),):
        stage, chances = _stage(setting, chip, table, (name, share), is_run=name == own,
                                days=(run.days, base.days), costs=costs)  # fmt: skip
        verdict = judge(stage)
        answer: dict[str, Any] = {
            "stage": name, "tokens_share": share, "success": chances,
            "success_after_smaller_stage": staged_success(stage.success, after_smaller=learned),
            "port_months": stage.port_s / MONTH_S,
            "port_engineer_months": next(
                (v for pattern, v in work.port_engineer_months.items() if fnmatchcase(chip.id, pattern)), None
            ),
            "gain": verdict.gain, "break_even_success": verdict.break_even_success,
            "expected_delay_days": verdict.expected_delay_s / DAY_S, "worth_trying": verdict.worth_trying,
            "option_value_to_break_even": max(stage.option_value - verdict.gain / max(stage.success, 1e-9), 0.0),
            "delay_cost_per_day": stage.delay_cost_per_s * DAY_S, "p_deadline_trying": None, "p_deadline_staying": None,
        }  # fmt: skip
        if name == own and work.deadline_s is not None:
            works = np.mean(run.days * DAY_S + stage.port_s <= work.deadline_s)
            fails = np.mean(base.days * DAY_S + stage.failed_s <= work.deadline_s)
            answer["p_deadline_trying"] = float(stage.success * works + (1.0 - stage.success) * fails)
            answer["p_deadline_staying"] = float(np.mean(base.days * DAY_S <= work.deadline_s))
        found.append(answer)
    return found


def _stage(
    setting: Setting, chip: Chip, table: dict[str, Any], of: tuple[str, float], *, is_run: bool,
    days: tuple[F8, F8], costs: tuple[float, float],
) -> tuple[Stage, dict[str, float]]:  # fmt: skip
    """What a stage (its name and its share of the tokens) puts at stake.

    The study's own numbers for the run itself, assumed ones elsewhere.
    """
    name, share = of
    own, ledger = setting.study.train, setting.ledger
    vendor = chip.vendor.lower()
    entry = table["success"].get(vendor, table["success"]["default"])[name]
    chances: dict[str, float] = {
        "low": float(entry["low"]), "mid": float(entry["value"]), "high": float(entry["high"]),
    }  # fmt: skip
    port_s = float(_months(table, vendor)[name]["value"]) * MONTH_S
    run_new, run_base = (float(np.median(d)) * DAY_S * share for d in days)
    cost_new, cost_base = (cost * share for cost in costs)
    delay = cost_base / max(run_base, 1e-9) * float(table["delay_weight"][name]["value"])
    option = 0.0
    if is_run:
        success = next((v for p, v in own.port_success.items() if fnmatchcase(chip.id, p)), None)
        chances = chances if success is None else {"low": success, "mid": success, "high": success}
        port_s = next((v for p, v in own.port_time_s.items() if fnmatchcase(chip.id, p)), port_s)
        delay = ledger.amount(own.delay_cost, "money/s") if own.delay_cost else delay
        option = ledger.amount(own.option_value, "money") if own.option_value else 0.0
    stage = Stage(
        name=name, success=chances["mid"], port_s=port_s, failed_s=constant("fails_after") * port_s, run_s=run_base,
        new_run_s=run_new, cost=cost_base, new_cost=cost_new, delay_cost_per_s=delay,
        attempt_cost=constant("attempt_share") * cost_new, option_value=option,
    )  # fmt: skip
    return stage, chances


def _note_assumptions(setting: Setting, vendor: str, table: dict[str, Any]) -> None:
    """Every assumed number of the decision among the figures of the answer."""
    evidence = table["evidence"]
    chances = table["success"].get(vendor, table["success"]["default"])
    group = vendor if vendor in table["success"] else "default"
    entries = {f"success/{group}/{name}": value for name, value in chances.items()}
    entries |= {f"delay_weight/{name}": value for name, value in table["delay_weight"].items()}
    entries |= {f"port_months/{name}": value for name, value in _months(table, vendor).items()}
    entries["after_smaller"] = evidence["after_smaller"]
    for name, value in entries.items():
        kind, _, stage = name.partition("/")
        what, unit = MATURITY[kind]
        figure = Figure(
            value=float(value["value"]), unit=unit, source=f"assumed: {what} {stage.rpartition('/')[2]}".strip(),
            as_of=evidence["as_of"], confidence="assumed", low=float(value["low"]), high=float(value["high"]),
            note=str(evidence["source"]),
        )  # fmt: skip
        setting.log.use(f"train/maturity/{name}", figure)


def _months(table: dict[str, Any], vendor: str) -> dict[str, Any]:
    return table["port_months"].get(vendor, table["port_months"]["default"])


def published(run_model: str, tokens: float, answer: dict[str, Any]) -> dict[str, Any] | None:
    """The published run that is the same (model, chip, chips, tokens), and the prediction over it; else None."""
    raw = tomllib.loads((DATA / "record.toml").read_text(encoding="utf-8"))
    for entry in raw["reference"]:
        same = (entry["model"], entry["chip"]) == (run_model, answer["chip"]) and entry["chips"] == answer[
            "active_chips"
        ]
        if same and abs(tokens / entry["tokens"] - 1.0) < 0.01:
            hours = {key: value * 24.0 * answer["active_chips"] for key, value in answer["days"].items()}
            return {"chip_hours": entry["chip_hours"], "chip_hours_total": entry["chip_hours_total"],
                    "source": entry["source"], "url": entry["url"], "predicted_chip_hours": hours,
                    "in_fit": entry["in_fit"], "predicted_over_published": hours["p50"] / entry["chip_hours"]}  # fmt: skip
    return None
