"""train: would the run finish on those chips, when, how surely, and at what cost?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp import __version__, catalog
from offramp.app.economics import Ledger
from offramp.app.rollup import short_name
from offramp.app.study import Study, Workload
from offramp.app.studyfile import load_study
from offramp.app.train_bounds import any_cell, scaling
from offramp.app.train_cells import Setting, framework_of, load_model, note_model, quantiles, question_of
from offramp.app.train_extra import break_even, exchange, goodput_check, published, resources, trying
from offramp.app.train_inference import beside, question_for, served, traffic_of
from offramp.app.train_limits import levers, why_slower
from offramp.app.train_parameters import parameter_table
from offramp.app.train_record import counter_evidence, record_of
from offramp.arch.record import Model
from offramp.catalog import Chip
from offramp.core.errors import CatalogError, InfeasibleError, InputError, OfframpError
from offramp.core.result import Column, FigureLog, Notice, Result, Table, hash_inputs, table_of
from offramp.core.units import DAY_S
from offramp.train.assumed import constant
from offramp.train.outlook import Outlook, Question, chips_for
from offramp.train.parameters import load_posterior

Progress = Callable[[str], None]
LATEST: Final = dt.date(2026, 11, 23)


def _silent(_text: str) -> None:
    return None


def train(
    path: str | Path, *, overrides: Sequence[str] = (), progress: Progress = _silent, with_trying: bool = True
) -> Result:
    """Days to finish, chance of the deadline, chips, energy and cost of every training workload on every chip.

    Args:
        path: study file.
        overrides: "path=value" settings.
        progress: told what is being done.
        with_trying: also judge whether trying is worth it.

    Raises:
        InputError: the study is wrong. InfeasibleError: no chip can hold or divide the run.
    """
    loaded = load_study(path, overrides=overrides)
    study = loaded.study
    works = study.workloads_of("train")
    if not works:
        raise InputError('no workload of kind = "train"', where=f"{path}:$.workload", mend='See "offramp assess".')
    as_of = study.study.as_of
    book = catalog.load(as_of)
    log = FigureLog()
    notices: list[Notice] = []
    posterior = load_posterior()
    log.note_date(posterior.created)
    ledger = Ledger(study=study, catalog=book, log=log, notices=notices)
    setting = Setting(
        study=study, catalog=book, ledger=ledger, posterior=posterior, log=log, notices=notices, where=str(path)
    )
    runs = [
        run_of(setting, index, path, progress=progress, with_trying=with_trying)
        for index, work in enumerate(study.workload)
        if work.kind == "train"
    ]
    record = record_of(setting, runs)
    failed = [c for run in runs for c in run["cells"] if c["status"] != "ok"]
    inputs: dict[str, bytes | str | int | float | None] = {**loaded.inputs, "posterior": posterior.version}
    return Result(
        command="train", answer={"study": study.study.name, "as_of": str(as_of or LATEST),
        "currency": study.study.currency, "record": record, "runs": runs},
        inputs_hash=hash_inputs(inputs), data_version=book.version, status="partial" if failed else "ok",
        tables={
            "runs": runs_table(runs, study),
            "parameters": parameter_table(setting.asked, posterior),
        }, knowledge_horizon=log.horizon, seed=study.study.seed, figures=log.figures,
        warnings=tuple(notices), offramp_version=__version__,
    )  # fmt: skip


def _chips(study: Study, book: catalog.Catalog) -> list[Chip]:
    """The chip in use first, then the candidates."""
    names: list[str] = []
    if study.candidates is not None:
        names = [study.candidates.baseline, *study.candidates.chips]
    elif study.fleet:
        names = [entry.chip for entry in study.fleet]
    if not names:
        raise InputError("no chip to train on", where="$.candidates", mend='Name them, as in baseline = "nvidia/h800".')
    return [book.chip(name) for name in dict.fromkeys(names)]


def _check(work: Workload, study: Study, where: str) -> None:
    if not work.tokens:
        raise InputError('"tokens" is missing', where=f"{where}.tokens", mend="Say how many tokens the run trains on.")
    sequence = work.sequence_tokens or constant("sequence_tokens")
    if work.batch_tokens is not None and work.batch_tokens < sequence:
        raise InputError(
            f"a batch of {work.batch_tokens:,.0f} tokens is less than one sequence of {sequence:,.0f}",
            where=f"{where}.batch_tokens", mend="Give the tokens of the global batch.",
        )  # fmt: skip
    if work.deadline_s is None or work.start is None:
        return
    year, quarter = int(work.start[:4]), int(work.start[5])
    begin = dt.date(year, 3 * quarter - 2, 1)
    end = begin + dt.timedelta(seconds=min(work.deadline_s, 3e9))
    today = study.study.as_of or LATEST
    if end < today:
        raise InputError(
            f"the deadline ({end.isoformat()}) is in the past of {today.isoformat()}", where=f"{where}.deadline",
            mend="Move start or as_of, or give more time.",
        )  # fmt: skip


def _cluster(setting: Setting, work: Workload, question: Question, chip: Chip) -> int:
    """Chips to judge: the workload's, else the fleet's, else what the chip in use needs for the deadline."""
    if work.chips:
        return work.chips
    own = sum(entry.count for entry in setting.study.fleet if setting.catalog.chip(entry.chip).id == chip.id)
    if own:
        return own
    usual = constant("usual_run")
    limit, chance = (usual, 0.5) if work.deadline_s is None else (work.deadline_s, 0.9)
    if work.deadline_s is None:
        text = (
            f"neither chips nor a deadline is given: as many {chip.id} as finish in {usual / DAY_S:.0f} days at the "
            "median are judged; the curve over cluster sizes stands beside"
        )
        setting.notices.append(Notice(kind="cluster-assumed", text=text, where=work.id))
    needed, chances = chips_for(question, setting.posterior, limit / DAY_S, probability=chance)
    if needed is None:
        best = max(chances, key=lambda size: chances[size], default=0)
        raise InfeasibleError(
            f"no cluster of {chip.id} finishes within {limit / DAY_S:.0f} d with {chance:.0%}: the best chance is "
            f"{chances.get(best, 0.0):.0%} on {best:,} chips", where=f"workload {work.id}",
            mend="Give more time or a larger batch.",
        )  # fmt: skip
    return needed


def run_of(
    setting: Setting, index: int, path: str | Path, *, progress: Progress = _silent, with_trying: bool = True
) -> dict[str, Any]:
    """The answer of one training workload: a cell for each chip, and each candidate against the chip in use.

    Args:
        setting: of the answer.
        index: of the workload in the study.
        path: of the study, for messages.
        progress: told what is being done.
        with_trying: also judge whether trying is worth it.

    Raises:
        InputError: the workload is wrong. InfeasibleError: no chip can hold or divide the run.
    """
    work = setting.study.workload[index]
    where = f"{path}:$.workload[{index}]"
    _check(work, setting.study, where)
    note_model(setting)
    model = load_model(work, f"{where}.model")
    if model.max_context_tokens and (work.sequence_tokens or 0) > model.max_context_tokens:
        text = f"sequences of {work.sequence_tokens:,} tokens are longer than the {model.max_context_tokens:,} of {model.id}"
        setting.notices.append(Notice(kind="context", text=text, where=work.id))
    chips = _chips(setting.study, setting.catalog)
    cells: list[dict[str, Any]] = []
    done: dict[str, tuple[Question, Outlook]] = {}
    problems: list[OfframpError] = []
    count = 0
    for chip in chips:
        progress(f"{work.id} on {chip.id}")
        try:
            if not count:
                known = chip if chip.computable else chip.at_bounds("mid")
                count = _cluster(setting, work, question_of(setting, work, model, known), chip)
            answer, question, out = any_cell(setting, work, model, chip, count)
            if answer["status"] == "ok":
                answer["scaling"] = scaling(setting, question, count, work.deadline_s)
                answer["goodput_check"] = goodput_check(question, out, setting.study.study.seed)
                answer["published"] = published(model.id, question.tokens, answer)
                answer["levers"] = levers(setting, question, out)
                done[chip.id] = (question, out)
                setting.asked.append((work.id, question))
            _tell(setting, question, chip, answer, count)
        except (InfeasibleError, CatalogError) as error:
            problems.append(error)
            answer = {"chip": chip.id, "status": "cannot", "why": str(error)}
        cells.append({**answer, "name": short_name(chip.name)})
    if len(problems) == len(chips):
        raise problems[0]
    base = chips[0].id
    extra: list[dict[str, Any]] = []
    if base in done:
        extra = _against(setting, work, chips, cells, done, with_trying)
        _inference(setting, model, chips, cells, done, progress)
    return {
        "workload": work.id, "model": model.id, "stage": work.stage or "pretrain", "tokens": work.tokens,
        "parameters": model.parameters_total, "active_parameters": model.parameters_active,
        "deadline_days": None if work.deadline_s is None else work.deadline_s / DAY_S, "chips": count, "baseline": base,
        "cells": cells, "break_even": extra,
        "counter_evidence": counter_evidence(setting.study.study.as_of) if _has_huawei(cells) else [],
    }  # fmt: skip


def _has_huawei(cells: list[dict[str, Any]]) -> bool:
    return any(c["chip"].startswith("huawei/") for c in cells)


def _tell(setting: Setting, q: Question, chip: Chip, answer: dict[str, Any], count: int) -> None:
    """What the reader must know about this cell."""
    where = f"{q.model.id} on {chip.id}"
    measured = f"stack|stack:{q.stack.framework}/{q.stack.family}" in setting.posterior.names
    if not measured:
        text = (
            "nobody published a training run of this framework on this family of chips: the interval is that of an "
            "unmeasured stack"
        )
        setting.notices.append(Notice(kind="extrapolation", text=text, where=where))
    if setting.study.train.framework and framework_of(setting, chip).id != setting.study.train.framework:
        text = f"{setting.study.train.framework} does not run there; {q.stack.framework} is taken"
        setting.notices.append(Notice(kind="framework", text=text, where=where))
    if answer.get("mode") == "bounds":
        missing = ", ".join(answer["missing"]).replace("_", " ")
        text = f"no source gives {missing}: a range over admissible values, p50 at their middle, not an estimate"
        setting.notices.append(Notice(kind="bounds-mode", text=text, where=where))
    if q.task.dtype == "bf16" and "fp8" not in q.device.peak_flop_per_s:
        text = (
            "no FP8 arithmetic: the run is in BF16, with twice the bytes and half the peak of an FP8 chip of the "
            "same class"
        )
        setting.notices.append(Notice(kind="dtype", text=text, where=where))
    if answer["active_chips"] < count:
        text = f"{count:,} chips divide badly: {answer['active_chips']:,} of them train"
        setting.notices.append(Notice(kind="divides-badly", text=text, where=where))
    if answer["status"] != "ok":
        setting.notices.append(Notice(kind="never-finishes", text=answer["why"], where=where))


def _against(
    setting: Setting, work: Workload, chips: list[Chip], cells: list[dict[str, Any]],
    done: dict[str, tuple[Question, Outlook]], with_trying: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Each candidate against the chip in use; exchange rates go into the cells."""
    base_q, base_out = done[chips[0].id]
    base_cell = cells[0]
    found: list[dict[str, Any]] = []
    for chip, answer in zip(chips, cells, strict=True):
        if chip.id not in done:
            continue
        question, out = done[chip.id]
        answer["exchange_rate"] = quantiles(exchange(out, base_out))
        answer["resource_ratios"] = resources(question, base_q)
        answer["why_slower"] = why_slower(question, out, base_q, base_out)
        if chip.id == chips[0].id:
            continue
        entry = break_even(setting, question, out, base_cell["days"]["p50"])
        price, other = answer["cost"], base_cell["cost"]
        costs = (price["p50"], other["p50"]) if price is not None and other is not None else None
        entry["trying"] = trying(setting, work, chip, out, base_out, costs=costs) if with_trying else []
        found.append(entry)
    return found


def _inference(
    setting: Setting, model: Model, chips: list[Chip], cells: list[dict[str, Any]],
    done: dict[str, tuple[Question, Outlook]], progress: Progress,
) -> None:  # fmt: skip
    """The exchange rate of inference beside that of training, into the cells."""
    work, words = traffic_of(setting.study, model)
    asked = question_for(setting, work, model)
    base = None
    for chip, answer in zip(chips, cells, strict=True):
        if chip.id not in done:
            continue
        progress(f"inference of {model.id} on {chip.id}")
        ours = served(setting, asked, chip)
        base = ours if base is None else base
        rate = exchange(done[chip.id][1], done[chips[0].id][1])
        answer["inference"] = beside(ours, base, rate, setting.study.study.seed, words)


def runs_table(runs: list[dict[str, Any]], study: Study) -> Table:
    """One row per run and chip."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        for c in run["cells"]:
            row: dict[str, Any] = {
                "workload": run["workload"],
                "chip": c["chip"],
                "status": c["status"],
                "chips": c.get("chips"),
            }
            for name in ("mfu", "goodput", "days", "exchange_rate", "cost"):
                value = c.get(name)
                for key in ("p10", "p50", "p90"):
                    row[f"{name}_{key}"] = value[key] if isinstance(value, dict) else None
            row["p_deadline"], row["layout"] = c.get("p_deadline"), c.get("layout_words")
            rows.append(row)
    units = {"days": "d", "cost": study.study.currency}
    columns = [Column(name="workload"), Column(name="chip"), Column(name="status"), Column(name="chips")]
    for name in ("mfu", "goodput", "days", "exchange_rate", "cost"):
        columns += [Column(name=f"{name}_{key}", unit=units.get(name, "")) for key in ("p10", "p50", "p90")]
    columns += [Column(name="p_deadline"), Column(name="layout")]
    return table_of(rows, columns=columns, title="Training runs")


def as_plain(result: Result) -> Any:
    """The answer as builtins."""
    return msgspec.to_builtins(result.answer)
