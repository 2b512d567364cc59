"""assess: which chips carry each workload, how many, at what cost, how sure; what stands in the way."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from offramp import __version__
from offramp import catalog as facts
from offramp.app import answer as answers
from offramp.app.assess_training import joined, training_part
from offramp.app.breakeven import BreakEven, run_break_evens
from offramp.app.cells import Cell, Demand, Job, load_parameters, run_cells
from offramp.app.check import require_sound
from offramp.app.crew import Crew
from offramp.app.economics import Ledger, check_currency
from offramp.app.flips import Flip, flips_for
from offramp.app.permits import Permit, permits_of
from offramp.app.rollup import Row, row_of
from offramp.app.runs import Run, RunStore, code_version, failing, runs_root
from offramp.app.splits import first_step, pairs_of, run_splits, split_answers
from offramp.app.study import DemandPoint, Study, Workload
from offramp.app.together import together
from offramp.app.train import runs_table
from offramp.app.workload import load_model, load_trace, requests_key, requests_of
from offramp.arch.record import Model
from offramp.catalog import Catalog
from offramp.core.errors import InputError, ModelRangeError
from offramp.core.figure import Figure
from offramp.core.result import FigureLog, Notice, Result, hash_inputs
from offramp.core.seeds import derive_seed
from offramp.rules.records import DISCLAIMER
from offramp.search import Limits, mix_of, peak_to_mean
from offramp.search.mix import tick_of
from offramp.serve import Requests
from offramp.train.parameters import load_posterior

Progress = Callable[[str], None]
MTP_ACCEPT: Final = Figure(
    value=0.85, unit="1", low=0.8, high=0.9, as_of=dt.date(2025, 9, 26), known=dt.date(2025, 9, 26),
    confidence="measured-by-third-party", source="LMSYS blog, Ant Group on the H20: acceptance length 1.8 to 1.9 with one draft",
    url="https://lmsys.org/blog/2025-09-26-sglang-ant-group",
    note="tokens beyond the first per step, DeepSeek-R1; the DeepSeek-V3 report (arXiv 2412.19437) names 85 to 90 %",
)  # fmt: skip
BREAK_EVEN_FIGURES = ("memory_bandwidth", "peak_bf16")


def assess(
    path: str | Path, *, overrides: Sequence[str] = (), jobs: int | str | None = None, root: str | Path | None = None,
    calibration: str = "", progress: Progress | None = None, keep: bool = True,
) -> Result:  # fmt: skip
    """Assesses every workload of a study, served and trained, on its baseline and its candidates.

    Args:
        path: study file.
        overrides: "path=value" settings.
        jobs: processes; all processors where None. Or "auto" or the address of a Ray cluster: the same answer.
        root: folder of runs; see :func:`offramp.app.runs.runs_root`.
        calibration: parameter file; the shipped one where empty.
        progress: told what is being done.
        keep: whether finished parts and the answer are kept in the folder of runs.

    Raises:
        InputError: the study is wrong; nothing is solved.
        CatalogError: a chip, model or engine is unknown.
    """
    draft, problems = require_sound(path, overrides)
    study = draft.study()
    catalog = facts.load(study.study.as_of)
    check_currency(study, catalog)
    works = [(work, job_of(work, study, calibration)) for work in study.workloads_of("serve")]
    if not study.workload:
        raise InputError("no workload", where=f"{path}:$.workload", mend="Describe what is served or trained.")
    if study.candidates is None:
        raise InputError("no [candidates]", where=f"{path}:$", mend="Name the chip in use as baseline.")
    inputs: dict[str, bytes | str | int | float | None] = {
        **draft.inputs, "data": catalog.version, "code": code_version(), "calibration": _file_bytes(calibration),
    }  # fmt: skip
    inputs |= {f"trace:{work.id}": job.trace_key for work, job in works}
    if study.workloads_of("train"):
        inputs["training"] = load_posterior().version
    chips_of(study, catalog)  # an unknown chip is an error before anything is written
    store = RunStore(runs_root(root) if keep else None)
    run = Run(store, "assess", hash_inputs(inputs), title=study.study.name, seed=study.study.seed)
    done = run.start()
    if done is not None:
        if progress:
            progress(f"answered before: {run.folder}")
        return done
    with failing(run):
        notices = [Notice(kind="study", text=f"{p.what}. {p.mend}".strip(), where=p.path) for p in problems]
        with Crew(jobs or os.cpu_count() or 1, progress) as crew:
            ledger = Ledger(study=study, catalog=catalog, log=FigureLog(), notices=notices)
            result = _solve(ledger, works, store, crew=crew, progress=progress,
                            inputs_hash=hash_inputs(inputs), path=str(path))  # fmt: skip
        return run.finish(result)


def _file_bytes(path: str) -> bytes:
    return Path(path).read_bytes() if path and Path(path).is_file() else path.encode()


def drafts_by_itself(work: Workload, study: Study, model: Model) -> bool:
    """Whether the checkpoint's own multi-token prediction is to be tried."""
    return study.search.speculate and not work.spec_accept and model.mtp_layers > 0


def none_fits(requests: Requests, limit: int) -> bool:
    """Whether every request is longer than the model's context."""
    return bool(limit and len(requests) and int((requests.isl_tokens + requests.osl_tokens).min()) > limit)


def job_of(work: Workload, study: Study, calibration: str = "") -> Job:
    """A workload made ready: model, traffic, demand."""
    model = load_model(work.model)
    trace = load_trace(work, seed=derive_seed(study.study.seed, "traffic", work.id))
    requests = requests_of(trace)
    if none_fits(requests, model.max_context_tokens):
        raise ModelRangeError(
            f"every request is longer than the {model.max_context_tokens:,} tokens that {model.id} takes",
            where=f"workload {work.id}", mend="Name another model, or check the trace's columns.",
        )  # fmt: skip
    point = demand_point(work, study)
    ratio = work.peak_to_mean or 1.0
    search = study.search
    limits = Limits(
        most_devices=search.most_devices or 0, engines=search.engines, tps=search.tps, pps=search.pps, eps=search.eps,
        dtypes=work.dtypes,
    )  # fmt: skip
    mean = point.mean_requests_per_s
    return Job(
        workload=work.id, model=model, requests=requests, mix=mix_of(requests, context_limit=model.max_context_tokens),
        slo={str(key): value for key, value in work.slo.items()},
        limits=limits, simulate=search.simulate, most_requests=search.trace_requests,
        accept=work.spec_accept or (MTP_ACCEPT.value if drafts_by_itself(work, study, model) else 0.0),
        prefix=requests.hash_ids is not None, seed=study.study.seed, as_of=study.study.as_of,
        calibration=calibration, parameters=load_parameters(calibration) if calibration else None,
        trace_key=requests_key(requests), trace_notes=trace.notes if work.trace else (),
        demand=Demand(mean=mean, peak=mean * ratio, spares=work.availability.spare_replicas,
                      least=work.availability.min_replicas),
    )  # fmt: skip


def demand_point(work: Workload, study: Study) -> DemandPoint:
    """The demand that heads the answer: of the stated quarter, else the first one."""
    wanted = study.candidates.quarter if study.candidates else None
    for point in work.demand:
        if point.quarter == wanted or wanted is None:
            return point
    known = ", ".join(point.quarter for point in work.demand)
    raise InputError(
        f"{work.id} states no demand for {wanted}", where="$.candidates.quarter", mend=f"Stated: {known}."
    )  # fmt: skip


def chips_of(study: Study, catalog: Catalog) -> list[str]:
    """Baseline first, then the candidates, each once."""
    assert study.candidates is not None
    names = [("baseline", study.candidates.baseline)]
    names += [(f"chips[{i}]", name) for i, name in enumerate(study.candidates.chips)]
    return list(dict.fromkeys(catalog.chip(name, where=f"$.candidates.{at}").id for at, name in names))


def _solve(
    ledger: Ledger, works: list[tuple[Workload, Job]], store: RunStore, *, crew: Crew, progress: Progress | None,
    inputs_hash: str, path: str,
) -> Result:  # fmt: skip
    study, log = ledger.study, ledger.log
    chips = chips_of(study, ledger.catalog)
    wanted = [(job, chip) for _, job in works for chip in chips]
    cells = run_cells(wanted, store, crew=crew, progress=progress)
    site = study.site_of(study.fleet[0].site if study.fleet else "")
    parts: list[dict[str, Any]] = []
    all_splits: list[tuple[Job, list[Row]]] = []
    rolled: list[tuple[Workload, Job, list[Row]]] = []
    flips: list[Flip] = []
    permits = permits_of(study, chips, _day(study, cells), log)
    rows_of = [
        _rows(cells[i * len(chips) : (i + 1) * len(chips)], job, ledger, site) for i, (_, job) in enumerate(works)
    ]
    all_breaks = _break_evens([job for _, job in works], rows_of, store, crew)
    for (work, job), rows, breaks in zip(works, rows_of, all_breaks, strict=True):
        best = answers.recommend(rows, permits)
        quarter = demand_point(work, study).quarter
        parts.append(answers.workload_answer(work, job, rows, breaks, quarter, permits))
        flips += flips_for(job, best, rows[0], rows, ledger, site)
        rolled.append((work, job, rows))
        all_splits.append((job, rows))
        ledger.notices.extend(_notices(job, rows, work))
    if study.search.disaggregate:
        _add_splits(parts, all_splits, ledger, store, crew=crew, progress=progress, permits=permits)
    for cell in cells:
        log.merge(cell.figures, cell.horizon)
    if any(drafts_by_itself(work, study, job.model) for work, job in works):
        log.use("search/mtp-acceptance", MTP_ACCEPT)
    training = training_part(ledger, permits, path, progress)
    return _result(ledger, parts, rolled, flips=flips, training=training, inputs_hash=inputs_hash)


def _add_splits(
    parts: list[dict[str, Any]], works: list[tuple[Job, list[Row]]], ledger: Ledger, store: RunStore, *, crew: Crew,
    progress: Progress | None, permits: dict[str, Permit],
) -> None:  # fmt: skip
    """Adds split pools to each workload's answer, in place."""
    wanted = [(job, *pair) for job, rows in works for pair in pairs_of(rows)]
    cells = run_splits(wanted, store, crew=crew, progress=progress)
    at = 0
    for part, (job, rows) in zip(parts, works, strict=True):
        mine = cells[at : at + len(pairs_of(rows))]
        at += len(mine)
        part["splits"] = split_answers(job, mine, rows, ledger)
        owned = sum(
            one.count for one in ledger.study.fleet if ledger.catalog.chip(one.chip).id == rows[0].chip.id
        )  # fmt: skip
        free = [chip for chip, one in permits.items() if one.free]
        part["first_step"], part["first_step_why"] = first_step(part["splits"], rows[0], free, owned)


def _day(study: Study, cells: list[Cell]) -> dt.date:
    """The day of the question: the study's, else that of the newest fact."""
    known = [cell.horizon for cell in cells if cell.horizon is not None]
    return study.study.as_of or max(known, default=dt.date(2026, 1, 1))


def _rows(cells: list[Cell], job: Job, ledger: Ledger, site: Any) -> list[Row]:
    base_row = row_of(cells[0], job, ledger.catalog.chip(cells[0].chip), ledger, site, None)
    others = [
        row_of(cell, job, ledger.catalog.chip(cell.chip), ledger, site, base_row.numbers) for cell in cells[1:]
    ]  # fmt: skip
    return [replace(base_row, is_baseline=True), *(replace(row, is_baseline=False) for row in others)]


def _break_evens(
    jobs: list[Job], rows_of: list[list[Row]], store: RunStore, crew: Crew
) -> list[dict[str, list[BreakEven]]]:
    """Values of missing figures at which one chip replaces one baseline chip, by chip, for each workload."""
    wanted: list[tuple[Job, Cell, str, float]] = []
    whose: list[int] = []
    for number, (job, rows) in enumerate(zip(jobs, rows_of, strict=True)):
        for cell in [row.cell for row in rows if row.cell.mode == "bounds"]:
            main, target = cell.case("mid"), rows[0].per_chip.mid
            if main is None or target is None:
                continue
            chip = facts.load(job.as_of).chip(cell.chip)
            names = [name for name in BREAK_EVEN_FIGURES if name in main.values or name in chip.figures]
            wanted += [(job, cell, name, target) for name in names]
            whose += [number] * len(names)
    found: list[dict[str, list[BreakEven]]] = [{} for _ in jobs]
    for number, (_, cell, _, _), value in zip(whose, wanted, run_break_evens(wanted, store, crew=crew), strict=True):
        found[number].setdefault(cell.chip, []).append(value)
    return found


def _notices(job: Job, rows: list[Row], work: Workload) -> list[Notice]:
    found = [Notice(kind="traffic", text=note, where=work.id) for note in job.trace_notes]
    tick = tick_of(job.requests.arrival_s) if job.requests.hash_ids is not None else 0.0
    if tick > 0.0:
        text = f"the trace's clock ticks every {tick:.2g} s: requests of one tick are spread over it"
        found.append(Notice(kind="traffic", text=text, where=work.id))
    total = job.requests.isl_tokens + job.requests.osl_tokens
    beyond = float((total > job.model.max_context_tokens).mean()) if job.model.max_context_tokens else 0.0
    if beyond > 0:
        text = f"{beyond:.2%} of the requests are longer than the model's context and are left out"
        found.append(Notice(kind="context", text=text, where=work.id))
    if work.peak_to_mean is None:
        text = (
            f"no peak_to_mean is given: chips are sized for the mean with the traffic's own bursts in it "
            f"(its busiest minutes carry {peak_to_mean(job.requests):.1f} times the mean)"
        )
        found.append(Notice(kind="peak-from-traffic", text=text, where=work.id))
    if job.demand.mean <= 0:
        text = "demand is zero: only the minimum of replicas is counted, and cost per token is not defined"
        found.append(Notice(kind="zero-demand", text=text, where=work.id))
    for row in rows:
        where = f"{work.id} on {row.chip.id}"
        if row.cell.mode == "bounds":
            text = f"no source gives {', '.join(row.cell.missing)}: a range over admissible values, not an estimate"
            found.append(Notice(kind="bounds-mode", text=text, where=where))
        found += [Notice(kind="layout-by-draw", text=text, where=where) for text in answers.robustness_words(row)]
        case = row.cell.main
        if case is not None and case.candidate.fallback:
            text = f"{case.candidate.fallback}: accuracy must be checked before moving"
            found.append(Notice(kind="accuracy-risk", text=text, where=where))
    return found


def _result(
    ledger: Ledger, parts: list[dict[str, Any]], rolled: list[tuple[Workload, Job, list[Row]]], *, flips: list[Flip],
    training: dict[str, Any] | None, inputs_hash: str,
) -> Result:  # fmt: skip
    import msgspec

    study, catalog = ledger.study, ledger.catalog
    assert study.candidates is not None
    currency = study.study.currency
    body = {
        "study": study.study.name, "as_of": study.study.as_of.isoformat() if study.study.as_of else None,
        "currency": currency, "baseline": catalog.chip(study.candidates.baseline).id,
        "decision": joined(answers.decision(parts, currency), training, bool(parts)), "workloads": parts,
        "training": training, "together": together([(work.id, rows) for work, _, rows in rolled], catalog),
        "flips": [msgspec.to_builtins(flip) for flip in flips],
        "fleet": [{"chip": catalog.chip(entry.chip).id, "count": entry.count, "site": entry.site}
                  for entry in study.fleet],
    }  # fmt: skip
    body = msgspec.json.decode(msgspec.json.encode(body))  # as it will be read back
    refused = any(item["status"] == "refused" for part in parts for item in part["chips"])
    runs = training["runs"] if training else []
    refused = refused or any(cell["status"] != "ok" for run in runs for cell in run["cells"])
    trained = {"training": runs_table(runs, study)} if runs else {}
    return Result(
        command="assess", answer=body, inputs_hash=inputs_hash, data_version=catalog.version,
        status="partial" if refused else "ok", seed=study.study.seed, figures=ledger.log.figures,
        knowledge_horizon=ledger.log.horizon, warnings=tuple(dict.fromkeys(ledger.notices)), offramp_version=__version__,
        disclaimer=DISCLAIMER,
        tables={
            "assess": answers.main_table(parts, currency), "quarters": answers.quarter_table(rolled, catalog),
            "layouts": answers.layout_table(parts), "pareto": answers.pareto_table(parts), "flips": answers.flip_table(flips), **trained,
        },
    )  # fmt: skip
