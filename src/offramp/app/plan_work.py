"""What a plan needs to know of the work: how much of it one chip does, by draw, and how much is wanted, by quarter."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from offramp.app.cells import Cell, Job
from offramp.app.economics import Ledger
from offramp.app.rollup import chips_for, power_range
from offramp.app.study import Site, Study, Workload
from offramp.app.train_cells import Setting as TrainSetting
from offramp.app.train_cells import note_model, question_of
from offramp.app.workload import load_model
from offramp.arch.record import Model
from offramp.catalog import Chip
from offramp.core.errors import CatalogError, InfeasibleError
from offramp.core.figure import Figure
from offramp.core.quarters import first_day, parse_quarter
from offramp.core.result import Notice
from offramp.core.seeds import derive_seed
from offramp.core.units import DAY_S
from offramp.cost.hardware import system_of
from offramp.train.outlook import outlook, peak_of
from offramp.train.parameters import load_posterior

F8 = npt.NDArray[np.floating[Any]]
QUARTER_S: Final = 365.25 * DAY_S / 4.0
_ASSUMED: Final[dict[str, Any]] = {
    "confidence": "assumed",
    "as_of": dt.date(2026, 11, 23),
    "known": dt.date(2020, 1, 1),
}
MFU: Final = {
    "domestic": Figure(value=0.30, low=0.20, high=0.41, unit="share", **_ASSUMED,
                       source="model FLOP utilisation on domestic chips; published 0.30 (Pangu Ultra MoE) to 0.41"),
    "foreign": Figure(value=0.37, low=0.28, high=0.45, unit="share", **_ASSUMED,
                      source="model FLOP utilisation on NVIDIA chips; published 0.36 to 0.41 on H100 and H800"),
}  # fmt: skip
GOODPUT: Final = {
    "domestic": Figure(value=0.85, low=0.60, high=0.95, unit="share", **_ASSUMED,
                       source="share of wall time kept as progress on domestic clusters; no measurement"),
    "foreign": Figure(value=0.92, low=0.85, high=0.97, unit="share", **_ASSUMED,
                      source="share of wall time kept as progress; over 0.90 reported for 16,384 H100"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Work:
    """One workload, ready for the plan.

    Attributes:
        unit: what work is counted in.
        productivity: work of one chip in a quarter's use, by draw and chip; 0 cannot. [S, C]
        demand: [S, Q]
        power_w: facility power of one running chip at the mean load; NaN where unknown. [C]
        why: reason by chip id where it cannot run.
        bounded: chips whose figures are missing, so that their rate lies anywhere between bounds.
    """

    id: str
    unit: str
    productivity: F8
    demand: F8
    power_w: F8
    why: dict[str, str]
    bounded: tuple[str, ...] = ()


class Horizon(NamedTuple):
    """Quarters of a plan, and how many futures it draws."""

    quarters: Sequence[int]
    draws: int


def demand_path(work: Workload, quarters: Sequence[int], draws: int, seed: int) -> F8:
    """Mean requests per second by draw and quarter: geometric between stated quarters, one luck a draw. [S, Q]"""
    at = [parse_quarter(point.quarter) for point in work.demand]
    z = np.random.default_rng(derive_seed(seed, "demand", work.id)).standard_normal(draws).clip(-2.5, 2.5)
    rows: list[F8] = []
    for point in work.demand:
        mid = max(point.mean_requests_per_s, 1e-9)
        low = max(mid if point.low is None else point.low, 1e-9)
        high = mid if point.high is None else point.high
        spread = np.where(z < 0, np.log(mid / low), np.log(max(high, mid) / mid)) / 1.2815515655446004
        rows.append(np.log(mid) + spread * z)
    logs = np.stack(rows, axis=1)
    wanted = np.asarray(quarters, dtype=np.float64)
    path = np.stack([np.interp(wanted, at, logs[i]) for i in range(draws)])
    return np.where(np.exp(path) <= 2e-9, 0.0, np.exp(path))


def stated_rates(study: Study, work: str, chips: Sequence[str]) -> dict[str, float]:
    """Work per second of one chip that the study itself states, by chip; the first pattern that fits counts."""
    stated = study.plan.rates.get(work, {})
    found: dict[str, float] = {}
    for chip in chips:
        for pattern, rate in stated.items():
            if fnmatchcase(chip, pattern):
                found[chip] = rate
                break
    return found


def _use_stated(work: Workload, chip: str, rate: float, unit: str, ledger: Ledger) -> float:
    """A stated rate, noted as used."""
    day = ledger.study.study.as_of or dt.date.today()
    figure = Figure(value=rate, unit=unit, source="stated in the study, [plan] rates", as_of=day, confidence="assumed",
                    low=rate, high=rate)  # fmt: skip
    return ledger.log.use(f"study/rate.{work.id}.{chip}", figure).value


def serve_work(
    work: Workload,
    job: Job,
    cells: list[Cell | None],
    chips: list[Chip],
    *,
    horizon: Horizon,
    ledger: Ledger,
    site: Site,
) -> Work:
    """A serving workload: mean requests per second that one chip carries, with peak, spares and whole servers in it.

    ``cells`` holds None for the chips whose rate the study states.
    """
    draws = horizon.draws
    demand = demand_path(work, horizon.quarters, draws, ledger.study.study.seed)
    mean = float(np.median(demand.max(axis=1))) or 1.0
    ratio = job.demand.peak / job.demand.mean if job.demand.mean > 0 else 1.0
    order = np.random.default_rng(derive_seed(ledger.study.study.seed, "efficiency")).permutation(100_003)
    rate, power, why = np.zeros((draws, len(chips))), np.full(len(chips), np.nan), dict[str, str]()
    stated = stated_rates(ledger.study, work.id, [chip.id for chip in chips])
    for column, (cell, chip) in enumerate(zip(cells, chips, strict=True)):
        if cell is None:
            rate[:, column] = _use_stated(work, chip.id, stated[chip.id], "req/s", ledger)
            continue
        found = _per_chip(cell, job, chip, ledger, mean, mean * ratio)
        if not found:
            why[chip.id] = _reason(cell)
            continue
        rate[:, column] = _joint(found, order, draws, derive_seed(ledger.study.study.seed, "bounds", chip.id))
        main = cell.main
        if main is not None and main.loaded is not None and main.candidate.pool is not None:
            system = system_of(ledger.catalog, chip, main.candidate.pool.system)
            watts = power_range(main, chip, system, ledger, site)[1]
            power[column] = watts / max(main.loaded.fleet.chips, 1)
    bounded = tuple(cell.chip for cell in cells if cell is not None and cell.mode == "bounds")
    return Work(
        id=work.id, unit="requests/s", productivity=rate, demand=demand, power_w=power, why=why, bounded=bounded
    )  # fmt: skip


def _per_chip(cell: Cell, job: Job, chip: Chip, ledger: Ledger, mean: float, peak: float) -> list[F8]:
    """Mean requests per second per chip by parameter draw, one vector a case (three in bounds mode)."""
    found: list[F8] = []
    for case in cell.cases:
        if case.candidate.pool is None or case.candidate.rate <= 0 or any(b.stops for b in case.candidate.blockers):
            if cell.mode == "bounds":
                found.append(np.zeros(max(len(case.candidate.rates), 1)))
            continue
        system = system_of(ledger.catalog, chip, case.candidate.pool.system)
        chips = chips_for(case.candidate, job, system, mean=mean, peak=peak)
        found.append(np.where(np.isfinite(chips), mean / np.maximum(chips, 1e-9), 0.0))
    return found if any(values.max(initial=0.0) > 0 for values in found) else []


def _joint(cases: list[F8], order: npt.NDArray[np.int64], draws: int, seed: int) -> F8:
    """One value a scenario: the same parameter draw for every chip, and a uniform place between the bounds."""
    picked = [
        values[order[:draws] % values.size] if draws <= order.size else np.resize(values, draws) for values in cases
    ]
    if len(picked) == 1:
        return picked[0]
    place = np.random.default_rng(seed).random(draws) * (len(picked) - 1)
    low = np.floor(place).astype(np.int64).clip(0, len(picked) - 2)
    stacked = np.stack(picked)
    rows = np.arange(draws)
    return stacked[low, rows] * (1 - (place - low)) + stacked[low + 1, rows] * (place - low)


def _reason(cell: Cell) -> str:
    case = cell.main
    if case is None:
        return cell.why or "cannot be computed"
    stops = [item.text for item in case.candidate.blockers if item.stops]
    return "; ".join([*stops, *case.candidate.floor]) or "serves nothing within its limits"


def train_work(work: Workload, chips: list[Chip], origin: dict[str, str], *, horizon: Horizon, ledger: Ledger) -> Work:
    """A training run in tokens, spread evenly over the time from its start to its deadline."""
    study, (quarters, draws) = ledger.study, horizon
    model = load_model(work.model)
    tokens = work.tokens or 0.0
    start = parse_quarter(work.start) if work.start else quarters[0]
    length_s = work.deadline_s or QUARTER_S
    begin = (first_day(start) - first_day(quarters[0])).days * DAY_S
    edges = np.asarray([(first_day(q) - first_day(quarters[0])).days * DAY_S for q in [*quarters, quarters[-1] + 1]])
    inside = np.clip(np.minimum(edges[1:], begin + length_s) - np.maximum(edges[:-1], begin), 0.0, None)
    demand = np.broadcast_to(tokens * inside / length_s, (draws, len(quarters))).copy()
    luck = np.random.default_rng(derive_seed(study.study.seed, "train", work.id)).standard_normal((2, draws))
    order = np.random.default_rng(derive_seed(study.study.seed, "train draws")).permutation(100_003)
    setting = _train_setting(ledger)
    note_model(setting)
    rate, why = np.zeros((draws, len(chips))), dict[str, str]()
    stated = stated_rates(study, work.id, [chip.id for chip in chips])
    for column, chip in enumerate(chips):
        if chip.id in stated:
            rate[:, column] = _use_stated(work, chip.id, stated[chip.id], "tok/s", ledger) * QUARTER_S
            continue
        try:
            found = _tokens_per_chip(setting, work, model, chip, length_s)
            rate[:, column] = found[order[:draws] % found.size] * QUARTER_S
        except InfeasibleError as error:
            why[chip.id] = error.what
        except CatalogError:
            each = _by_peak(work, chip, origin[chip.id], luck.clip(-2.5, 2.5), ledger)
            if each is None:
                why[chip.id] = "no peak is known"
                continue
            rate[:, column] = each / (6.0 * model.parameters_active_matmul) * QUARTER_S
            text = "facts are missing, so training is counted as 6 x active parameters over peak x assumed utilisation"
            ledger.notices.append(Notice(kind="train-flop", text=text, where=f"{work.id} on {chip.id}"))
    power = np.full(len(chips), np.nan)
    return Work(id=work.id, unit="tokens", productivity=rate, demand=demand, power_w=power, why=why)


def _train_setting(ledger: Ledger) -> TrainSetting:
    return TrainSetting(
        study=ledger.study, catalog=ledger.catalog, ledger=ledger, posterior=load_posterior(), log=ledger.log,
        notices=ledger.notices, where="study",
    )  # fmt: skip


def _tokens_per_chip(setting: TrainSetting, work: Workload, model: Model, chip: Chip, length_s: float) -> F8:
    """Tokens per second of one chip of a cluster of the size that the run needs, failures and spares in it. [draws]

    Raises:
        CatalogError: facts of the chip are missing. InfeasibleError: the run does not fit or divide.
    """
    question = question_of(setting, work, model, chip)
    peak = peak_of(question.device, question.task.dtype) * question.devices_per_chip
    guess = 6.0 * model.parameters_active_matmul * question.tokens / length_s / (0.3 * peak)
    node = max(question.packages_per_node, 1)
    size = work.chips or int(node * 2 ** max(round(np.log2(max(guess / node, 1.0))), 0))
    found = outlook(question, setting.posterior, size, draws=256)
    return question.tokens / (found.days * DAY_S * found.chips)


def _by_peak(work: Workload, chip: Chip, origin: str, luck: F8, ledger: Ledger) -> F8 | None:
    """FLOP per second kept by one chip: peak x utilisation x goodput; None without a peak. [draws]"""
    log, name = ledger.log, f"peak_{work.dtype or 'bf16'}"
    span = chip.admissible(name, log) or chip.admissible("peak_fp16", log)
    if span is None:
        return None
    found = chip.figure(name, ledger.study.study.as_of)
    peak = found.si if found is not None else float(np.sqrt(span[0] * span[1]))
    kind = "domestic" if origin == "CN" else "foreign"
    mfu = _share(log.use(f"plan/mfu-{kind}", MFU[kind]), luck[0])
    return peak * mfu * _share(log.use(f"plan/goodput-{kind}", GOODPUT[kind]), luck[1])


def _share(figure: Figure, z: F8) -> F8:
    """Draws of a share around its median with low and high at the 10 % and 90 % quantiles; one luck for all chips."""

    def logit(x: float) -> float:
        return float(np.log(x / (1.0 - x)))

    low, high = figure.si_range
    side = np.where(z < 0, logit(figure.si) - logit(low), logit(high) - logit(figure.si)) / 1.2815515655446004
    return 1.0 / (1.0 + np.exp(-(logit(figure.si) + side * z)))


def work_notices(works: list[Work], study: Study) -> list[Notice]:
    """What cannot run where, and demand taken as certain."""
    notices = [
        Notice(kind="cannot-run", text=reason, where=f"{work.id} on {chip}") for work in works
        for chip, reason in work.why.items()
    ]  # fmt: skip
    certain = [
        work.id for work in study.workloads_of("serve") if all(p.low is None and p.high is None for p in work.demand)
    ]
    if certain:
        text = "no low and high is given for the demand, so it is taken as certain"
        notices.append(Notice(kind="demand-certain", text=text, where=", ".join(certain)))
    return notices
