"""Cells: one workload on one chip, the unit of work of an assessment. Pure, picklable, kept by content hash."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np

from offramp import catalog as facts
from offramp.app.crew import Crew
from offramp.app.runs import RunStore
from offramp.arch.record import Model
from offramp.catalog import Catalog, Chip
from offramp.core.errors import CatalogError, OfframpError
from offramp.core.record import Record
from offramp.core.result import FigureLog, UsedFigure
from offramp.cost import Calibration, Setting, build_setting, load_calibration
from offramp.cost.hardware import system_of
from offramp.search import (
    Binding,
    Candidate,
    Felt,
    Fleet,
    Limits,
    Mix,
    Question,
    Stream,
    find,
    fleet_for,
)
from offramp.search.shares import binding
from offramp.search.stacks import replica
from offramp.search.tune import Curve, Points
from offramp.search.uncertain import at_quantile
from offramp.serve import Requests

QUANTILES: Final = (0.1, 0.5, 0.9)
Case = Literal["sourced", "low", "mid", "high"]
LOAD_REQUESTS: Final = 2000  # as for draws: the median fleet's latencies come from the run that sized it
MOST_POINTS: Final = 2000
"""Simulated points kept of one workload on one chip."""


class Demand(Record):
    """Load that a cell must carry: requests per second, and what is bought on purpose."""

    mean: float
    peak: float
    spares: int
    least: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One workload: everything but the chip.

    Attributes:
        workload: id.
        model, requests, mix: what is served, and its traffic.
        slo, limits, simulate, most_requests, accept, prefix: as of :class:`~offramp.search.Question`.
        demand: that heads the answer.
        seed: of the study.
        as_of: facts known later are not used.
        calibration: name of the parameter file; "" is the shipped one.
        parameters: its content, where it is not the shipped one: it goes where the job goes.
        trace_key: hash of the requests.
        trace_notes: what was dropped or reordered on reading them.
    """

    workload: str
    model: Model
    requests: Requests
    mix: Mix
    slo: Mapping[str, float]
    limits: Limits
    simulate: int
    most_requests: int
    accept: float
    prefix: bool
    demand: Demand
    seed: int
    as_of: dt.date | None
    calibration: str
    trace_key: str
    trace_notes: tuple[str, ...] = ()
    parameters: Calibration | None = None

    def fitted(self) -> Calibration:
        """The parameters of the cost model."""
        return self.parameters or load_parameters("")

    def question(self, points: Points | None = None) -> Question:
        """What is asked of every chip, and what was simulated before."""
        return Question(
            model=self.model, mix=self.mix, slo=self.slo,
            stream=Stream(requests=self.requests, seed=self.seed, demand=self.demand.peak),
            limits=self.limits, simulate=self.simulate, most_requests=self.most_requests, prefix=self.prefix,
            accept=self.accept, spares=self.demand.spares, least=self.demand.least, points=points or Points(),
        )  # fmt: skip


class Loaded(Record):
    """The fleet under its load.

    Attributes:
        fleet: sized with the median draw.
        peak: what users of that fleet feel at the peak, by quantile of the draws ("p10" carries least).
        mean: what they feel at the mean demand, median draw.
        mean_shares: where the time of its steps goes.
    """

    fleet: Fleet
    peak: dict[str, Felt]
    mean: Felt | None
    mean_shares: Binding | None = None


class CaseAnswer(Record):
    """One set of facts (sourced, or a corner of the bounds).

    Attributes:
        values: SI values per package that were filled in.
    """

    case: Case
    candidate: Candidate
    loaded: Loaded | None
    values: dict[str, float] = {}


class Cell(Record):
    """The answer of one workload on one chip.

    Attributes:
        mode: "sourced", "bounds" where figures are missing, "refused" where nothing can be computed.
        missing: names of the missing figures.
        cases: one, or three in bounds mode.
        figures, horizon: evidence.
        why: reason of a refusal.
    """

    workload: str
    chip: str
    mode: Literal["sourced", "bounds", "refused"]
    cases: tuple[CaseAnswer, ...] = ()
    missing: tuple[str, ...] = ()
    figures: tuple[UsedFigure, ...] = ()
    horizon: dt.date | None = None
    why: str = ""

    def case(self, name: str) -> CaseAnswer | None:
        """The case of that name, or None."""
        return next((case for case in self.cases if case.case == name), None)

    @property
    def main(self) -> CaseAnswer | None:
        """The sourced case, or the middle of the bounds."""
        return self.case("sourced") or self.case("mid")


@lru_cache(maxsize=2)
def load_parameters(path: str) -> Calibration:
    """The parameter file, read once."""
    return load_calibration(path or None)


def cell_key(store: RunStore, job: Job, chip: Chip, catalog: Catalog) -> str:
    """The content address of a cell: every input that decides it."""
    system = system_of(catalog, chip)
    engines = [catalog.engine(name) for name in chip.engines]
    return store.key(
        "cell",
        {
            "model": job.model, "trace": job.trace_key, "slo": dict(job.slo), "limits": job.limits,
            "simulate": job.simulate, "most": job.most_requests, "accept": job.accept, "prefix": job.prefix,
            "demand": job.demand, "seed": job.seed, "as_of": str(job.as_of), "chip": chip, "system": system,
            "engines": engines, "calibration": _calibration_key(job.calibration) if job.parameters is None else job.parameters,
        },
    )  # fmt: skip


@lru_cache(maxsize=2)
def _calibration_key(path: str) -> str:
    from offramp.core.result import hash_inputs

    return hash_inputs({"calibration": msgspec.json.encode(load_parameters(path), order="sorted")})


def run_cell(job: Job, chip_id: str, known: Mapping[str, Mapping[int, Felt | None]] | None = None) -> Worked:
    """Computes one cell; a chip that cannot be computed at all becomes a refusal with its reason.

    Args:
        job, chip_id: the cell.
        known: points that were simulated before.
    """
    points = Points(known={key: dict(curve) for key, curve in (known or {}).items()})
    return Worked(_cell(job, chip_id, points), points.seen)


def _cell(job: Job, chip_id: str, points: Points) -> Cell:
    catalog = facts.load(job.as_of)
    chip = catalog.chip(chip_id)
    log = FigureLog()
    one = _Work(job=job, question=job.question(points), chip=chip, catalog=catalog, log=log)
    try:
        if chip.computable:
            cases, missing = (_case(one, "sourced", {}),), ()
        else:
            cases, missing = _bounded(one)
    except OfframpError as error:
        return Cell(
            workload=job.workload, chip=chip.id, mode="refused", missing=chip.missing, why=str(error),
            figures=log.figures, horizon=log.horizon,
        )  # fmt: skip
    return Cell(
        workload=job.workload, chip=chip.id, mode="bounds" if missing else "sourced", cases=tuple(cases),
        missing=missing, figures=log.figures, horizon=log.horizon,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A cell in progress."""

    job: Job
    question: Question
    chip: Chip
    catalog: Catalog
    log: FigureLog


def _bounded(one: _Work) -> tuple[tuple[CaseAnswer, ...], tuple[str, ...]]:
    """Worst, middle and best values of what is missing."""
    values = bound_values(one.chip, one.log)
    cases = tuple(
        _case(one, name, {key: three[i] for key, three in values.items()})
        for i, name in enumerate(("low", "mid", "high"))
    )
    return cases, one.chip.missing


WEAK: Final = ("analyst-estimate", "press", "assumed")
DECISIVE: Final = ("peak_bf16", "peak_int8", "memory_capacity", "memory_bandwidth")


def bound_values(chip: Chip, log: FigureLog) -> dict[str, tuple[float, float, float]]:
    """Low, middle and high of every figure that is missing but bounded, or only estimated; SI per package.

    Raises:
        CatalogError: a needed figure has neither source nor bound.
    """
    values: dict[str, tuple[float, float, float]] = {}
    guessed = [name for name in DECISIVE if name in chip.figures and chip.figures[name][0].confidence in WEAK]
    unsourced = [name for name in chip.bounds if name not in chip.figures]
    for name in dict.fromkeys((*chip.missing, *unsourced, *guessed)):
        found = chip.admissible(name, log)
        if found is None:
            missing = ", ".join(chip.missing).replace("_", " ")
            raise CatalogError(
                f"{chip.name} cannot be computed: no source gives {missing}, nothing bounds {name.replace('_', ' ')}",
                where=chip.id, mend="Take it out, or add a figure or a bound with its source to the catalogue.",
            )  # fmt: skip
        centre = chip.figure(name) or chip.bounds.get(name)
        values[name] = (found[0], centre.si if centre is not None else (found[0] * found[1]) ** 0.5, found[1])
    return values


def _case(one: _Work, name: Any, values: Mapping[str, float]) -> CaseAnswer:
    found = find(
        one.question, one.chip.id, catalog=one.catalog, calibration=one.job.fitted(), as_of=one.job.as_of, log=one.log,
        overrides=values,
    )  # fmt: skip
    return CaseAnswer(case=name, candidate=found, loaded=_load(one, found, values), values=dict(values))


def _load(work: _Work, found: Candidate, values: Mapping[str, float]) -> Loaded | None:
    """The fleet of the median draw at peak and mean demand."""
    job, chip, catalog = work.job, work.chip, work.catalog
    question = replace(work.question, accept=found.accept)
    system = system_of(catalog, chip)
    order = np.array(found.slow_to_fast)
    fleet = fleet_for(
        found.rates[at_quantile(order, 0.5)] if found.rates else 0.0, packages=found.packages,
        per_server=system.packages_per_node if system else 1, mean=job.demand.mean, peak=job.demand.peak,
        spares=job.demand.spares, least=job.demand.least,
    )  # fmt: skip
    if fleet is None or found.pool is None:
        return None
    pool = found.pool
    setting = build_setting(
        question.model, pool, catalog=catalog, calibration=job.fitted(), as_of=job.as_of,
        overrides=dict(values) or None,
    )  # fmt: skip
    most, stream = min(job.most_requests, LOAD_REQUESTS), question.stream

    def at(quantile: float, rate: float) -> tuple[Felt, Setting]:
        one = replace(setting, parameters=setting.parameters.take([at_quantile(order, quantile)]))
        curve = Curve(
            served=replica(question, one, pool), stream=stream, most=most, prefix=job.prefix, copies=found.copies,
            points=question.points,
        )  # fmt: skip
        return curve.read(rate), one

    peak = {f"p{q * 100:.0f}": at(q, fleet.peak_load)[0] for q in QUANTILES} if fleet.peak_load > 0 else {}
    if found.median_felt is not None and peak:
        peak["p50"] = found.median_felt
    if fleet.mean_load <= 0:
        return Loaded(fleet=fleet, peak=peak, mean=None)
    mean, one = at(0.5, fleet.mean_load)
    return Loaded(fleet=fleet, peak=peak, mean=mean, mean_shares=binding(one, pool, question, mean))


def run_cells(
    wanted: Sequence[tuple[Job, str]], store: RunStore, *, jobs: int = 1,
    progress: Callable[[str], None] | None = None, crew: Crew | None = None,
) -> list[Cell]:  # fmt: skip
    """All cells, kept ones from the store, the others done by a crew; in the order asked.

    A killed run loses at most the cells in progress: each is kept as soon as it is finished.

    Args:
        wanted: workloads and chips.
        store: of finished cells.
        jobs: processes, where there is no crew.
        progress: told what happens.
        crew: who computes.
    """
    done: dict[int, Cell] = {}
    keys: list[str] = []
    for i, (job, chip_id) in enumerate(wanted):
        catalog = facts.load(job.as_of)
        keys.append(cell_key(store, job, catalog.chip(chip_id), catalog))
        found = store.find(keys[i], Cell)
        if found is not None:
            done[i] = msgspec.structs.replace(found, workload=job.workload)
    missing = [i for i in range(len(wanted)) if i not in done]
    if progress and missing:
        progress(f"{len(wanted)} questions: {len(done)} answered before, {len(missing)} to compute")

    def keep(i: int, value: Worked, where: str) -> None:
        cell = cast("Cell", value.answer)
        done[i] = cell
        keep_points(store, wanted[i], value)
        store.keep(keys[i], cell)
        if progress:
            at = f" ({where})" if where else ""
            progress(f"[{len(done)}/{len(wanted)}] {cell.workload} on {cell.chip}: {_outcome(cell)}{at}")

    with nullcontext(crew) if crew is not None else Crew(jobs, progress) as hands:
        work(run_cell, wanted, missing, store, keep=keep, crew=hands, progress=progress)
    return [done[i] for i in range(len(wanted))]


@dataclass(frozen=True)
class Worked:
    """What a worker hands back: the answer, and every point that it looked at."""

    answer: object
    points: dict[str, dict[int, Felt | None]]


class Curves(Record):
    """Simulated points of one stream on one chip or pair of chips, as kept in the store."""

    known: dict[str, dict[int, Felt | None]] = {}


def work(
    task: Callable[..., Any], wanted: Sequence[tuple[Any, ...]], missing: Sequence[int], store: RunStore, *,
    keep: Callable[[int, Worked, str], None], crew: Crew, progress: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Lets a crew do the missing units, each with the points that were simulated before for its traffic."""
    if not missing:
        return
    if not crew.address:
        from offramp.serve.events import warm_up

        warm_up(progress)  # before processes start, so that only one of them compiles
        for i in missing:
            wanted[i][0].fitted()
    # long ones first, so that no process is left alone with one at the end
    order = sorted(missing, key=lambda i: _effort(wanted[i]))
    units = {i: (*wanted[i], _points(store, wanted[i])) for i in missing}
    crew.do(task, [units.get(i, ()) for i in range(len(wanted))], order, keep)


def _effort(unit: tuple[Any, ...]) -> int:
    job, *chips = unit
    catalog = facts.load(job.as_of)
    return -sum(1 if catalog.chip(chip).computable else 3 for chip in chips)


def _points_key(store: RunStore, unit: tuple[Any, ...]) -> str:
    """The address of points: what decides the stream of requests; tables are part of each point."""
    job, *chips = unit
    parts = {"trace": job.trace_key, "seed": job.seed, "peak": job.demand.peak, "model": job.model.id, "chips": chips}
    return store.key("points", parts)


def _points(store: RunStore, unit: tuple[Any, ...]) -> dict[str, dict[int, Felt | None]]:
    found = store.find(_points_key(store, unit), Curves)
    return found.known if found is not None else {}


def keep_points(store: RunStore, unit: tuple[Any, ...], value: Worked) -> None:
    """Adds the points of a finished unit to those kept; when they are too many, only the latest stay."""
    known = {key: dict(curve) for key, curve in _points(store, unit).items()}
    for key, curve in value.points.items():
        known.setdefault(key, {}).update(curve)
    if sum(len(curve) for curve in known.values()) > MOST_POINTS:
        known = value.points
    store.keep(_points_key(store, unit), Curves(known=known))


def _outcome(cell: Cell) -> str:
    main = cell.main
    if main is None:
        return f"cannot be computed ({cell.why})"
    if main.candidate.rate <= 0:
        return "blocked"
    return f"{main.candidate.per_chip:.3g} requests/s per chip" + (" (bounds)" if cell.mode == "bounds" else "")
