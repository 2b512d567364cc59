"""Training runs inside an assessment: the cells of ``offramp train``, and what they mean for the decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from offramp.app.economics import Ledger
from offramp.app.permits import Permit
from offramp.app.rollup import short_name
from offramp.app.train import run_of
from offramp.app.train_cells import Setting
from offramp.app.train_record import record_of
from offramp.core.errors import CatalogError, InfeasibleError
from offramp.train.parameters import load_posterior

SURE: Final = 0.9
"""Chance with which a deadline must be met for a run to be called one that can move."""
Item = dict[str, Any]


def training_part(
    ledger: Ledger, permits: Mapping[str, Permit], path: str, progress: Callable[[str], None] | None
) -> Item | None:
    """Every training workload of the study on the chip in use and each candidate; None where there is none.

    Args:
        ledger: prices of the study; figures and notices go to its log and its list.
        permits: what the rules say of each chip.
        path: of the study, for messages.
        progress: told what is being done.

    Raises:
        InputError: a workload is wrong.
    """
    study = ledger.study
    wanted = [index for index, work in enumerate(study.workload) if work.kind == "train"]
    if not wanted:
        return None
    posterior = load_posterior()
    ledger.log.note_date(posterior.created)
    setting = Setting(
        study=study, catalog=ledger.catalog, ledger=ledger, posterior=posterior, log=ledger.log,
        notices=ledger.notices, where=path,
    )  # fmt: skip
    runs: list[Item] = []
    for index in wanted:
        try:
            run = run_of(setting, index, path, progress=progress or _silent)
        except (InfeasibleError, CatalogError) as error:
            run = _none(setting, index, str(error))
        runs.append({**run, "verdict": _verdict(run, permits, ledger)})
    return {"runs": runs, "record": record_of(setting, runs)}


def _silent(_text: str) -> None:
    return None


def _none(setting: Setting, index: int, why: str) -> Item:
    """A run that no chip can hold or divide."""
    work = setting.study.workload[index]
    return {
        "workload": work.id, "model": work.model, "stage": work.stage or "pretrain", "tokens": work.tokens,
        "deadline_days": None, "chips": work.chips or 0, "baseline": "", "cells": [], "break_even": [], "why": why,
    }  # fmt: skip


def _verdict(run: Item, permits: Mapping[str, Permit], ledger: Ledger) -> Item:
    """Whether a run can move, to what, and why not, in sentences."""
    base = next((c for c in run["cells"] if c["chip"] == run["baseline"]), None)
    others = [c for c in run["cells"] if c is not base]
    able = [c for c in others if _needed(c, run) is not None]
    able = [c for c in able if c["chip"] not in permits or permits[c["chip"]].free] or able
    name = {c["chip"]: short_name(ledger.catalog.chip(c["chip"]).name) for c in run["cells"]}
    if not able:
        reasons = [f"{name[c['chip']]}: {_why_not(c, run)}" for c in others] or [run.get("why", "no candidate")]
        return {"moves": False, "chip": None, "reasons": reasons,
                "text": f"{run['workload']} (training) has no chip that it could move to. " + " ".join(
                    f"{reason.rstrip('.')}." for reason in reasons)}  # fmt: skip
    best = min(able, key=lambda c: (c["cost"] is None, c["cost"]["p50"] if c["cost"] else 0.0, _needed(c, run)))
    chips = _needed(best, run)
    text = f"{run['workload']} (training) takes {_days(best)} on {best['chips']:,} {name[best['chip']]}"
    if base is not None and "days" in base:
        text += f" against {_days(base)} on {base['chips']:,} {name[base['chip']]}"
    if run["deadline_days"] is not None:
        text += f"; {chips:,} of them meet the deadline of {run['deadline_days']:.0f} d with {SURE:.0%}"
    if best.get("exchange_rate"):
        rate = best["exchange_rate"]
        text += f"; {rate['p50']:.3g} ({rate['p10']:.3g} to {rate['p90']:.3g}) for one"
    verdict = permits[best["chip"]].verdict if best["chip"] in permits else "unknown"
    if verdict not in ("allowed", "unknown"):
        text += f"; rules: {verdict.replace('-', ' ')}"
    text += ". Whether the software works there is not in this number"
    return {"moves": True, "chip": best["chip"], "chips": chips, "text": f"{text}.", "reasons": [],
            "short": f"{run['workload']} to {chips:,} {name[best['chip']]}"}  # fmt: skip


def _needed(cell: Item, run: Item) -> int | None:
    """Chips that do the run: for its deadline with 90 %, or as many as were asked for where it has none."""
    if cell["status"] != "ok":
        return None
    if run["deadline_days"] is None:
        return int(cell["chips"])
    found = (cell["chips_for_deadline"] or {}).get("p90")
    return None if found is None else int(found)


def _why_not(cell: Item, run: Item) -> str:
    if cell["status"] != "ok":
        return str(cell["why"])
    return (
        f"no cluster meets {run['deadline_days']:.0f} d with {SURE:.0%}; {cell['chips']:,} chips take {_days(cell)} "
        f"and are on time with {cell['p_deadline']:.0%}"
    )


def _days(cell: Item) -> str:
    low, mid, high = (_short(cell["days"][key]) for key in ("p10", "p50", "p90"))
    return f"{mid} ({low} to {high}) days"


def _short(days: float) -> str:
    return f"{days:,.0f}" if days >= 10.0 else f"{days:.2g}"


def joined(decision: Item, training: Item | None, serves: bool) -> Item:
    """The decision with what it says of training runs.

    Args:
        decision: of the serving workloads.
        training: of :func:`training_part`.
        serves: whether there are serving workloads at all.
    """
    if training is None:
        return decision
    verdicts = [run["verdict"] for run in training["runs"]]
    goes = [v["short"] for v in verdicts if v["moves"]]
    stays = [run["workload"] for run, v in zip(training["runs"], verdicts, strict=True) if not v["moves"]]
    said = [f"training can move: {'; '.join(goes)}"] if goes else []
    said += [f"training that cannot: {', '.join(stays)}"] if stays else []
    words = "; ".join(said)
    headline = f"{decision['headline']}. {words[:1].upper()}{words[1:]}" if serves else words[:1].upper() + words[1:]
    return {**decision, "headline": headline, "training": [v["text"] for v in verdicts]}
