"""Cells: one workload on one chip, the unit of work of an assessment. Pure, picklable, kept by content hash."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar

import msgspec
import numpy as np

from offramp import catalog as facts
from offramp.app.runs import RunStore
from offramp.arch.record import Model
from offramp.catalog import Catalog, Chip
from offramp.core.errors import CatalogError, InfeasibleError, OfframpError
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
    Replica,
    Stream,
    feel,
    find,
    fleet_for,
)
from offramp.search.candidate import binding, stacks_of
from offramp.search.tune import unserved
from offramp.search.uncertain import at_quantile
from offramp.serve import Requests
from offramp.serve.events import warm_up

QUANTILES: Final = (0.1, 0.5, 0.9)
Done = TypeVar("Done")
Case = Literal["sourced", "low", "mid", "high"]
LOAD_REQUESTS: Final = 3000


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
        calibration: parameter file; "" is the shipped one.
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

    def question(self) -> Question:
        """What is asked of every chip."""
        return Question(
            model=self.model, mix=self.mix, slo=self.slo,
            stream=Stream(requests=self.requests, seed=self.seed, demand=self.demand.peak),
            limits=self.limits, simulate=self.simulate, most_requests=self.most_requests, prefix=self.prefix,
            accept=self.accept,
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


class BreakEven(Record):
    """The value of a missing figure at which one chip replaces one baseline chip.

    Attributes:
        figure: name.
        value: SI, per package; None where no value is enough.
        others: what the other missing figures were taken as, in words.
        per_chip: requests per second of one chip, over a range of values: pairs (value, rate).
    """

    figure: str
    value: float | None
    others: str
    per_chip: tuple[tuple[float, float], ...] = ()


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
            "engines": engines, "calibration": _calibration_key(job.calibration),
        },
    )  # fmt: skip


@lru_cache(maxsize=2)
def _calibration_key(path: str) -> str:
    from offramp.core.result import hash_inputs

    return hash_inputs({"calibration": msgspec.json.encode(load_parameters(path), order="sorted")})


def run_cell(job: Job, chip_id: str) -> Cell:
    """Computes one cell; a chip that cannot be computed at all becomes a refusal with its reason."""
    catalog = facts.load(job.as_of)
    chip = catalog.chip(chip_id)
    log = FigureLog()
    calibration = load_parameters(job.calibration)
    try:
        if chip.computable:
            cases, missing = (_case(job, chip, catalog, calibration, log, "sourced", {}),), ()
        else:
            cases, missing = _bounded(job, chip, catalog, calibration, log)
    except OfframpError as error:
        return Cell(
            workload=job.workload, chip=chip.id, mode="refused", missing=chip.missing, why=str(error),
            figures=log.figures, horizon=log.horizon,
        )  # fmt: skip
    return Cell(
        workload=job.workload, chip=chip.id, mode="bounds" if missing else "sourced", cases=tuple(cases),
        missing=missing, figures=log.figures, horizon=log.horizon,
    )  # fmt: skip


def _bounded(
    job: Job, chip: Chip, catalog: Catalog, calibration: Calibration, log: FigureLog
) -> tuple[tuple[CaseAnswer, ...], tuple[str, ...]]:
    """Worst, middle and best values of what is missing."""
    values = bound_values(chip, log)
    cases = tuple(
        _case(job, chip, catalog, calibration, log, name, {key: three[i] for key, three in values.items()})
        for i, name in enumerate(("low", "mid", "high"))
    )
    return cases, chip.missing


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


def _case(
    job: Job, chip: Chip, catalog: Catalog, calibration: Calibration, log: FigureLog, name: Any,
    values: Mapping[str, float],
) -> CaseAnswer:  # fmt: skip
    question = job.question()
    found = find(
        question, chip.id, catalog=catalog, calibration=calibration, as_of=job.as_of, log=log, overrides=values
    )
    loaded = _load(job, question, found, chip, catalog, calibration, values)
    return CaseAnswer(case=name, candidate=found, loaded=loaded, values=dict(values))


def _load(
    job: Job, question: Question, found: Candidate, chip: Chip, catalog: Catalog, calibration: Calibration,
    values: Mapping[str, float],
) -> Loaded | None:  # fmt: skip
    """The fleet of the median draw at peak and mean demand."""
    system = system_of(catalog, chip)
    order = np.array(found.slow_to_fast)
    fleet = fleet_for(
        found.rates[at_quantile(order, 0.5)] if found.rates else 0.0, packages=found.packages,
        per_server=system.packages_per_node if system else 1, mean=job.demand.mean, peak=job.demand.peak,
        spares=job.demand.spares, least=job.demand.least,
    )  # fmt: skip
    if fleet is None or found.pool is None:
        return None
    setting = build_setting(
        question.model, found.pool, catalog=catalog, calibration=calibration, as_of=job.as_of,
        overrides=dict(values) or None,
    )  # fmt: skip
    common: dict[str, Any] = {"pool": found.pool, "mix": job.mix, "context_limit": job.model.max_context_tokens,
              "decode_tokens": question.decode_tokens, "accept_tokens": 1.0 + job.accept}  # fmt: skip
    most, stream = min(job.most_requests, LOAD_REQUESTS), question.stream

    def at(quantile: float, rate: float) -> tuple[Felt, Setting]:
        one = replace(setting, parameters=setting.parameters.take([at_quantile(order, quantile)]))
        try:
            table = Replica(setting=one, **common).table()
            return feel(table, stream, rate, most=most, prefix=job.prefix, copies=stream.copies(rate)), one
        except InfeasibleError:  # at this draw's memory reserve the cache holds no request
            return unserved(rate), one

    peak = {f"p{q * 100:.0f}": at(q, fleet.peak_load)[0] for q in QUANTILES} if fleet.peak_load > 0 else {}
    if fleet.mean_load <= 0:
        return Loaded(fleet=fleet, peak=peak, mean=None)
    mean, one = at(0.5, fleet.mean_load)
    return Loaded(fleet=fleet, peak=peak, mean=mean, mean_shares=binding(one, found.pool, question, mean))


def closed_per_chip(job: Job, chip_id: str, values: Mapping[str, float], *, slo: Mapping[str, float]) -> float:
    """Closed-form requests per second of one chip over all layouts, at the middle parameters."""
    catalog = facts.load(job.as_of)
    chip = catalog.chip(chip_id)
    question = job.question()
    best = 0.0
    for stack in stacks_of(
        question, catalog, load_parameters(job.calibration), chip.id, overrides=values, as_of=job.as_of
    ):
        rates = stack.grid.best_rates(slo, len(stack.pools))[0]
        devices = np.array([pool.devices for pool in stack.pools], dtype=float)
        best = max(best, float((rates / devices).max()) * chip.devices)
    return best


def break_even(job: Job, cell: Cell, figure: str, target: float) -> BreakEven:
    """The value of a missing figure at which the chip carries ``target`` requests per second within the SLO.

    The closed form is scaled to what was simulated in the middle case; the other missing figures stay at their
    middle.
    """
    main = cell.case("mid")
    if main is None:
        return BreakEven(figure=figure, value=None, others="")
    own = facts.load(job.as_of).chip(cell.chip)
    sourced = {figure: own.require(figure).si} if figure in own.figures else {}
    values = {**sourced, **main.values}
    base = closed_per_chip(job, cell.chip, values, slo=job.slo)
    simulated = main.candidate.per_chip
    scale = simulated / base if base > 0 and simulated > 0 else 1.0

    def per_chip(value: float) -> float:
        return scale * closed_per_chip(job, cell.chip, {**values, figure: value}, slo=job.slo)

    centre = values[figure]
    grid = [centre * factor for factor in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)]
    curve = tuple((value, per_chip(value)) for value in grid)
    others = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != figure)
    above = [value for value, rate in curve if rate >= target]
    if not above or target <= 0:
        return BreakEven(figure=figure, value=None, others=others, per_chip=curve)
    high = above[0]
    low = max((value for value, rate in curve if rate < target and value < high), default=high / 16.0)
    for _ in range(10):
        middle_value = (low * high) ** 0.5
        if per_chip(middle_value) >= target:
            high = middle_value
        else:
            low = middle_value
    return BreakEven(figure=figure, value=high, others=others, per_chip=curve)


def run_cells(
    wanted: Sequence[tuple[Job, str]], store: RunStore, *, jobs: int, progress: Callable[[str], None] | None = None
) -> list[Cell]:
    """All cells, kept ones from the store, the others on ``jobs`` processes; in the order asked.

    A killed run loses at most the cells in progress: each is kept as soon as it is finished.
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

    if missing:
        warm_up(progress)  # before the processes start, so that only one of them compiles

    def keep(i: int, cell: Cell) -> None:
        done[i] = cell
        store.keep(keys[i], cell)
        if progress:
            progress(f"[{len(done)}/{len(wanted)}] {cell.workload} on {cell.chip}: {_outcome(cell)}")

    if jobs <= 1 or len(missing) <= 1:
        for i in missing:
            keep(i, run_cell(*wanted[i]))
    else:
        in_processes(run_cell, wanted, missing, jobs=jobs, keep=keep)
    return [done[i] for i in range(len(wanted))]


def in_processes(
    task: Callable[..., Done],
    wanted: Sequence[tuple[Any, ...]],
    missing: Sequence[int],
    *,
    jobs: int,
    keep: Callable[[int, Done], None],
) -> None:
    """Does the missing ones among the wanted in that many processes; each is kept as soon as it is done."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(missing)), mp_context=context) as workers:
        futures = {workers.submit(task, *wanted[i]): i for i in missing}
        try:
            for future in as_completed(futures):
                keep(futures[future], future.result())
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _outcome(cell: Cell) -> str:
    main = cell.main
    if main is None:
        return f"cannot be computed ({cell.why})"
    if main.candidate.rate <= 0:
        return "blocked"
    return f"{main.candidate.per_chip:.3g} requests/s per chip" + (" (bounds)" if cell.mode == "bounds" else "")
