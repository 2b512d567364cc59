"""Candidate: the best layout of one workload on one chip, how much it carries, how sure, and what stands in the way."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.catalog import Catalog
from offramp.core.record import Record
from offramp.core.result import FigureLog
from offramp.cost import (
    Blocker,
    Calibration,
    Memory,
    Parameters,
    Pool,
    Setting,
    blockers,
    build_setting,
    memory_for,
)
from offramp.search.closed import Grid, Slo, evaluate, lowest_of
from offramp.search.front import Choice, front_of
from offramp.search.grid import Limits, candidate_engines, pools, speculations, weight_dtypes
from offramp.search.mix import Mix, Stream
from offramp.search.shares import TERMS, Binding, binding
from offramp.search.tune import Felt, Points, Replica, highest_rate, with_limits
from offramp.search.uncertain import Retune, rates_by_draw

F8 = npt.NDArray[np.float64]
Overrides = Mapping[str, float]
EXPLORE: Final = 3000
"""Measured requests of one simulation of a layout."""
DRAWN: Final = 2000
"""The same for a draw, whose rate sets only the interval."""
NEARLY: Final = 0.95
"""A smaller replica is preferred if the best takes at least this share of its devices."""
CLOSED_GUESS: Final = 0.9
"""Where the first simulation begins, over the closed-form rate, which knows no bursts."""
PREFIX_GUESS: Final = 1.5
"""With a prefix cache the closed form, which knows none, is too low; the bracket begins higher."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every chip.

    Attributes:
        model: what is served.
        mix, stream: its traffic.
        slo: limits in seconds by "ttft_p90" ...
        limits: what may be tried.
        simulate: how many of the best layouts are simulated.
        most_requests: simulated requests of a final run.
        prefix: whether prompts share cached prefixes.
        accept: accepted draft tokens per step of speculation, which is tried beside none; 0 is no speculation.
        spares, least: replicas beyond those that carry the demand's peak, and the least of them.
        points: what was simulated before of this traffic on this chip.
    """

    model: Model
    mix: Mix
    stream: Stream
    slo: Slo
    limits: Limits = field(default_factory=Limits)
    simulate: int = 3
    most_requests: int = 20_000
    prefix: bool = False
    accept: float = 0.0
    spares: int = 0
    least: int = 1
    points: Points = field(default_factory=Points, compare=False)

    def devices_for(self, rate: float, devices: int) -> float:
        """Devices of all replicas for the demand, or per request and second where none is stated: fewer is better.

        Spares and a minimum of replicas make large replicas dear for a small demand.
        """
        if rate <= 0.0:
            return math.inf
        if self.stream.demand <= 0.0:
            return devices / rate
        return float(max(math.ceil(self.stream.demand / rate - 1e-9) + self.spares, self.least) * devices)

    @property
    def decode_tokens(self) -> int:
        """Tokens that a decoding sequence schedules per step."""
        return 1 if self.accept <= 0 else 1 + int(np.ceil(self.accept))


class Tried(Record):
    """One layout and what it carries.

    Attributes:
        pool: layout.
        closed_rate: requests per second of one replica, closed form.
        rate: the same, simulated; None where it was not simulated.
    """

    pool: Pool
    closed_rate: float
    rate: float | None = None


class Candidate(Record):
    """The answer for one workload on one chip.

    Attributes:
        chip: catalogue id.
        pool: best layout; None where there is none.
        rate: highest rate of one replica within the SLO at the middle parameters, requests per second.
        rates: the same for each joint draw of the parameters. [draws]
        packages: chips as sold in one replica.
        felt: what users feel at ``rate``.
        shares: where time goes at that load.
        memory: of one device.
        blockers: what stands in the way; those that stop it, and those that only cost or warn.
        tried: layouts, best first.
        fallback: what precision it falls back to.
        floor: lowest reachable value of each limit that no layout keeps, and what binds there.
        devices_per_package: torch devices in one chip as sold.
        layouts: how many (layout, batch) pairs were priced.
        slow_to_fast: the draws in order of speed.
        accept: accepted draft tokens per step; 0 where it does not speculate.
        copies: replicas that were simulated together.
        median_felt: what users of the median draw feel, where another layout than ``pool`` suits that draw better.
        front: throughput against time per output token, closed form.
    """

    chip: str
    pool: Pool | None = None
    rate: float = 0.0
    rates: tuple[float, ...] = ()
    packages: float = 0.0
    felt: Felt | None = None
    shares: Binding | None = None
    memory: Memory | None = None
    blockers: tuple[Blocker, ...] = ()
    tried: tuple[Tried, ...] = ()
    fallback: str = ""
    floor: tuple[str, ...] = ()
    devices_per_package: int = 1
    layouts: int = 0
    slow_to_fast: tuple[int, ...] = ()
    front: tuple[Choice, ...] = ()
    accept: float = 0.0
    copies: int = 1
    median_felt: Felt | None = None

    @property
    def per_chip(self) -> float:
        """Requests per second of one chip as sold."""
        return self.rate / self.packages if self.packages else 0.0

    @property
    def per_chip_draws(self) -> F8:
        """The same for each draw. [draws]"""
        return np.asarray(self.rates) / self.packages if self.packages else np.zeros(len(self.rates))


def middle(setting: Setting) -> Setting:
    """The setting at the median of every parameter, one draw."""
    p = setting.parameters
    values = {
        name: np.median(getattr(p, name), axis=0, keepdims=True) for name in Parameters.__dataclass_fields__
    }  # fmt: skip
    return replace(setting, parameters=Parameters(**values))


@dataclass(frozen=True, kw_only=True)
class PricedStack:
    """All layouts of one engine and precision, with or without speculation, priced at the middle."""

    asked: Question
    setting: Setting
    middle: Setting
    pools: list[Pool]
    grid: Grid
    rates: F8


def stacks_of(
    question: Question, catalog: Catalog, calibration: Calibration, chip_id: str, *, overrides: Overrides,
    as_of: dt.date | None = None, log: FigureLog | None = None,
) -> list[PricedStack]:  # fmt: skip
    """Every engine and precision of a chip with all its layouts priced at the middle parameters."""
    chip = catalog.chip(chip_id)
    found: list[PricedStack] = []
    for engine in candidate_engines(chip, question.limits):
        for dtype in weight_dtypes(question.limits):
            listed = pools(question.model, chip, catalog, question.limits, engine=engine, dtype=dtype)
            if not listed:
                continue
            setting = build_setting(
                question.model, listed[0], catalog=catalog, calibration=calibration, as_of=as_of, log=log,
                overrides=dict(overrides) or None,
            )  # fmt: skip
            mid = middle(setting)
            for accept in speculations(question.model, chip, catalog, engine, question.accept):
                asked = replace(question, accept=accept)
                grid = evaluate(
                    mid, listed, asked.mix, decode_tokens=asked.decode_tokens, accept_tokens=1.0 + accept
                )  # fmt: skip
                rates = grid.best_rates(asked.slo, len(listed))[0]
                found.append(
                    PricedStack(asked=asked, setting=setting, middle=mid, pools=listed, grid=grid, rates=rates)
                )
    return found


def _ranked(stacks: list[PricedStack], slo: Slo, most: int) -> list[tuple[float, PricedStack, int, float]]:
    """The layouts with the fewest devices for the demand as (rate per device, stack, index, best batch).

    One per (engine, precision, tp, pp, dp).
    """
    rows: list[tuple[float, float, int, int]] = []
    for s, stack in enumerate(stacks):
        for i, (pool, rate) in enumerate(zip(stack.pools, stack.rates.tolist(), strict=True)):
            if rate > 0.0:
                rows.append((stack.asked.devices_for(rate, pool.devices), -rate / pool.devices, s, i))
    rows.sort()
    chosen: list[tuple[float, PricedStack, int, float]] = []
    seen: set[tuple[object, ...]] = set()
    for _, value, s, i in rows:
        stack = stacks[s]
        pool = stack.pools[i]
        key = (pool.engine, pool.weights_dtype, pool.tp, pool.pp, pool.dp)
        if key in seen:
            continue
        seen.add(key)
        good = stack.grid.meets(slo)[0] & (stack.grid.pool_index == i)
        batch = stack.grid.batch[good][np.argmax(stack.grid.rate[0][good])]
        chosen.append((-value, stack, i, float(batch)))
        if len(chosen) >= most:
            break
    return chosen


def find(
    question: Question, chip_id: str, *, catalog: Catalog, calibration: Calibration, as_of: dt.date | None = None,
    log: FigureLog | None = None, overrides: Overrides | None = None,
) -> Candidate:  # fmt: skip
    """The best layout of the workload on a chip, simulated, with its interval and its obstacles.

    Args:
        question: workload and limits.
        chip_id: catalogue id.
        catalog, calibration: facts and parameter file.
        as_of: use only what was known then.
        log: collects figures used.
        overrides: SI values per package that fill or replace figures (bounds mode, what-if).

    Raises:
        CatalogError: a figure that computing needs is missing (bounds mode fills it through ``overrides``).
    """
    chip = catalog.chip(chip_id)
    fixed = overrides or {}
    stacks = stacks_of(question, catalog, calibration, chip.id, overrides=fixed, as_of=as_of, log=log)
    priced = sum(stack.grid.batch.size for stack in stacks)
    chosen = _ranked(stacks, question.slo, max(question.simulate, 1))
    loose = [] if chosen else _ranked(stacks, {}, max(question.simulate, 1))
    tried: list[_Try] = []
    for value, stack, i, batch in chosen or loose:
        known = [row.rate / row.closed for row in tried if row.rate > 0.0]
        tried.append(_simulated(stack, stack.pools[i], value, batch, nearly=known[-1] if known else None))
    good = [row for row in tried if row.rate > 0.0]
    if not good:
        return _blocked(question, chip_id, stacks, catalog=catalog, priced=priced)
    best = _refined(_simplest(good))

    def retune(draw: int, behind: float) -> tuple[float, Felt | None]:
        own = [stack for stack in stacks if stack.pools[0].engine == best.pool.engine]
        return _retuned(own, draw, behind)

    rows = sorted({row.pool: row for row in [*good, best]}.values(), key=lambda row: -row.per_device)
    front = front_of([(stack.grid, stack.pools) for stack in stacks], question.slo)
    return _with(_answer(catalog, best, rows, priced, retune), front=front)


@dataclass(frozen=True, kw_only=True)
class _Try:
    """A simulated layout."""

    pool: Pool
    stack: PricedStack
    closed: float
    rate: float
    felt: Felt | None

    @property
    def per_device(self) -> float:
        return self.rate / self.pool.devices

    def record(self) -> Tried:
        return Tried(pool=self.pool, closed_rate=self.closed, rate=self.rate)


def _simulated(stack: PricedStack, pool: Pool, per_device: float, batch: float, *, nearly: float | None = None) -> _Try:
    """Simulates a layout near its closed-form rate; ``nearly`` is the ratio of the two that another layout had."""
    question, pool = stack.asked, with_limits(pool, batch)
    closed = per_device * pool.devices
    rate, felt = highest_rate(
        _replica(question, stack.middle, pool).table(), question.stream, question.slo, prefix=question.prefix,
        guess=closed * (nearly or (PREFIX_GUESS if question.prefix else CLOSED_GUESS)), most=min(question.most_requests, EXPLORE),
        copies=question.stream.copies(closed), points=question.points,
    )  # fmt: skip
    return _Try(pool=pool, stack=stack, closed=closed, rate=rate, felt=felt)


def _simplest(tries: list[_Try]) -> _Try:
    """The smallest replica among those that take hardly more devices for the demand than the best."""
    needs = [(row.stack.asked.devices_for(row.rate, row.pool.devices), row) for row in tries]
    best = min(need for need, _ in needs)
    near = [row for need, row in needs if need <= best / NEARLY]
    return min(near, key=lambda row: (row.pool.devices, -row.per_device))


def _refined(best: _Try) -> _Try:
    """The layout with the token budget that simulates best: bursts decide it, which the closed form does not see."""
    question = best.stack.asked
    for chunk in question.limits.chunks:
        if chunk == best.pool.max_batch_tokens:
            continue
        pool = msgspec.structs.replace(best.pool, max_batch_tokens=chunk)
        rate, felt = highest_rate(
            _replica(question, best.stack.middle, pool).table(), question.stream, question.slo, prefix=question.prefix,
            guess=best.rate, most=min(question.most_requests, EXPLORE), give_up=best.rate * 1.02,
            copies=question.stream.copies(best.closed), points=question.points,
        )  # fmt: skip
        if rate > best.rate * 1.02:
            best = _Try(pool=pool, stack=best.stack, closed=best.closed, rate=rate, felt=felt)
    return best


def _replica(question: Question, setting: Setting, pool: Pool) -> Replica:
    return Replica(
        setting=setting, pool=pool, mix=question.mix, decode_tokens=question.decode_tokens,
        accept_tokens=1.0 + question.accept, context_limit=question.model.max_context_tokens,
    )  # fmt: skip


def _retuned(stacks: list[PricedStack], draw: int, behind: float) -> tuple[float, Felt | None]:
    """Rate per device of a layout that suits one draw better, simulated, and what users feel; 0 where there is none.

    The closed form's first choice may break a limit in simulation: then those of more tensor parallelism are tried,
    whose steps are shorter.
    """
    rows: list[tuple[float, int, int]] = []
    own: list[PricedStack] = []
    for s, stack in enumerate(stacks):
        one = replace(stack.setting, parameters=stack.setting.parameters.take([draw]))
        asked = stack.asked
        grid = evaluate(
            one, stack.pools, asked.mix, decode_tokens=asked.decode_tokens, accept_tokens=1.0 + asked.accept
        )  # fmt: skip
        rates = grid.best_rates(asked.slo, len(stack.pools))[0]
        own.append(replace(stack, middle=one, grid=grid, rates=rates))
        each = rates / np.array([pool.devices for pool in stack.pools], dtype=float)
        rows += [(-float(value), s, i) for i, value in enumerate(each) if value > behind]
    least_tp = 1
    for value, s, i in sorted(rows):
        stack, pool = own[s], own[s].pools[i]
        if pool.tp < least_tp:
            continue
        least_tp = 2 * pool.tp
        usable = stack.grid.meets(stack.asked.slo)[0] & (stack.grid.pool_index == i)
        batch = float(stack.grid.batch[usable][np.argmax(stack.grid.rate[0][usable])])
        found = _simulated(stack, pool, -value, batch)
        if found.per_device > behind:
            return found.per_device, found.felt
    if rows:
        return 0.0, None
    # by rule of thumb no layout keeps the limits: the simulation may find that the nearest one does
    nearest = min(own, key=lambda stack: float(stack.grid.strain(stack.asked.slo)[0].min()))
    at = int(np.argmin(nearest.grid.strain(nearest.asked.slo)[0]))
    pool, grid = nearest.pools[int(nearest.grid.pool_index[at])], nearest.grid
    found = _simulated(nearest, pool, float(grid.rate[0][at]) / pool.devices, float(grid.batch[at]))
    return found.per_device, found.felt


def _answer(catalog: Catalog, best: _Try, tried: list[_Try], priced: int, retune: Retune) -> Candidate:
    pool, stack, question = best.pool, best.stack, best.stack.asked
    chip = catalog.chip(pool.chip)
    assert best.felt is not None
    rates, order, median = rates_by_draw(
        question, stack.setting, stack.middle, pool, rate=best.rate, felt=best.felt,
        most=min(question.most_requests, DRAWN), copies=question.stream.copies(best.closed), retune=retune,
    )  # fmt: skip
    found = blockers(question.model, pool, catalog=catalog, setting=stack.middle, context_tokens=question.mix.context)
    return Candidate(
        chip=chip.id, pool=pool, accept=question.accept, copies=question.stream.copies(best.closed),
        rate=best.rate, rates=tuple(float(value) for value in rates), median_felt=median,
        packages=pool.devices / chip.devices, felt=best.felt, shares=binding(stack.middle, pool, question, best.felt),
        memory=memory_for(stack.middle, pool, context_tokens=question.mix.context), blockers=found,
        tried=tuple(row.record() for row in tried), fallback=stack.middle.precision.fallback,
        devices_per_package=chip.devices, layouts=priced, slow_to_fast=tuple(int(draw) for draw in order),
    )  # fmt: skip


def _blocked(
    question: Question, chip_id: str, stacks: list[PricedStack], *, catalog: Catalog, priced: int
) -> Candidate:  # fmt: skip
    """Why there is no layout: memory, engine, or an SLO that no batch keeps."""
    chip = catalog.chip(chip_id)
    base = Candidate(chip=chip.id, devices_per_package=chip.devices, layouts=priced)
    if not stacks:
        text = f"no layout of {question.model.id} divides evenly on {chip.id} within the search limits"
        return _with(base, blockers=(Blocker(kind="engine", text=text),))
    fitting = [(stack, int(i)) for stack in stacks for i in np.flatnonzero(np.bincount(
        stack.grid.pool_index, weights=stack.grid.fits.astype(float), minlength=len(stack.pools)))]  # fmt: skip
    if not fitting:
        stack = stacks[0]
        pool = max(stack.pools, key=lambda pool: (pool.devices, -pool.max_batch_tokens))
        memory = memory_for(stack.middle, pool, context_tokens=question.mix.context)
        found = blockers(
            question.model, pool, catalog=catalog, setting=stack.middle, context_tokens=question.mix.context
        )
        if not any(item.kind == "memory" for item in found):
            found = (*found, _longest_does_not_fit(question, memory, pool))
        return _with(base, pool=pool, memory=memory, blockers=found, fallback=stack.middle.precision.fallback)
    return _slo_blocked(question, base, fitting, catalog)


def _with(base: Candidate, **fields: object) -> Candidate:
    return msgspec.structs.replace(base, **fields)


def _longest_does_not_fit(question: Question, memory: Memory, pool: Pool) -> Blocker:
    need = question.mix.longest * memory.kv_bytes_per_token
    text = (
        f"does not fit: the longest request ({question.mix.longest} tokens) needs {need / 1e9:.1f} GB of cache per "
        f"device, {memory.kv_bytes / 1e9:.1f} GB are left on {pool.devices} devices"
    )
    return Blocker(kind="memory", text=text)


def _slo_blocked(
    question: Question, base: Candidate, fitting: list[tuple[PricedStack, int]], catalog: Catalog
) -> Candidate:  # fmt: skip
    """The lowest latency that any layout reaches, and which term binds there."""
    texts: list[str] = []
    best: tuple[PricedStack, int] = fitting[0]
    for key, limit in question.slo.items():
        lowest, stack, i = min(
            ((lowest_of(stack.grid, i, key), stack, i) for stack, i in fitting), key=lambda row: row[0]
        )
        if lowest > limit:
            best = (stack, i)
            shares = binding(stack.middle, stack.pools[i], stack.asked, None)
            percent = 100.0 * getattr(shares, shares.largest)
            texts.append(
                f"{key.replace('_', ' ').upper()} of {limit * 1e3:g} ms is out of reach: {lowest * 1e3:.1f} ms at "
                f"batch 1 on {stack.pools[i].devices} devices, {percent:.0f} % of it {TERMS[shares.largest]}"
            )
    if not texts:
        best = min(
            fitting,
            key=lambda row: max(lowest_of(row[0].grid, row[1], key) / limit for key, limit in question.slo.items()),
        )
        grid, i = best[0].grid, best[1]
        shown = ", ".join(
            f"{key.replace('_', ' ').upper()} {lowest_of(grid, i, key) * 1e3:.0f} ms (limit {limit * 1e3:g} ms)"
            for key, limit in question.slo.items()
        )
        texts.append(
            "no layout keeps all limits together on this traffic, at any rate: alone and without a queue the nearest "
            f"one, on {best[0].pools[i].devices} devices, has {shown}"
        )
    stack, i = best
    pool = stack.pools[i]
    found = blockers(question.model, pool, catalog=catalog, setting=stack.middle, context_tokens=question.mix.context)
    return _with(
        base, pool=pool, floor=tuple(texts), blockers=found, fallback=stack.middle.precision.fallback,
        shares=binding(stack.middle, pool, stack.asked, None), packages=pool.devices / base.devices_per_package,
        memory=memory_for(stack.middle, pool, context_tokens=question.mix.context),
    )  # fmt: skip
