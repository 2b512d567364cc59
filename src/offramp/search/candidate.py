"""Candidate: the best layout of one workload on one chip, how much it carries, how sure, and what stands in the way."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.catalog import Catalog
from offramp.core.record import Record
from offramp.core.result import FigureLog
from offramp.cost import Blocker, Calibration, Memory, Pool, blockers, memory_for
from offramp.search.closed import lowest_of, read_off
from offramp.search.front import Choice, front_of
from offramp.search.question import Question
from offramp.search.shares import TERMS, Binding, binding
from offramp.search.stacks import Overrides, PricedStack, middle, ranked, replica, stacks_of, with_room
from offramp.search.tune import Curve, Felt, highest_rate
from offramp.search.uncertain import rates_by_draw

__all__ = ["Candidate", "Question", "Tried", "find", "middle", "stacks_of"]
F8 = npt.NDArray[np.float64]
EXPLORE: Final = 3000
"""Measured requests of one simulation of a layout."""
DRAWN: Final = 2000
"""The same for a draw, whose rate sets only the interval."""
NEARLY: Final = 0.95
"""A smaller replica is preferred if the best takes at least this share of its devices."""
MUCH_LESS: Final = 0.7
"""A token budget whose closed form is below this share of the best one's is not simulated."""
CLOSED_GUESS: Final = 0.9
"""Where the first simulation begins, over the closed-form rate, which knows no bursts."""
PREFIX_GUESS: Final = 1.5
"""With a prefix cache the closed form, which knows none, is too low; the bracket begins higher."""


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
        slow_to_fast: the draws in order of what they carry.
        accept: accepted draft tokens per step; 0 where it does not speculate.
        copies: replicas that were simulated together.
        median_felt: what users of the median draw feel, where another layout than ``pool`` suits that draw better.
        front: throughput against time per output token, closed form.
        kept, reached: share of the draws in which ``pool``, and in which some layout, keeps the limits.
        safest: the layout that keeps them in most draws, ``safest_kept`` of them; None where ``pool`` does.
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
    kept: float = 0.0
    reached: float = 0.0
    safest: Pool | None = None
    safest_kept: float = 0.0

    @property
    def per_chip(self) -> float:
        """Requests per second of one chip as sold."""
        return self.rate / self.packages if self.packages else 0.0

    @property
    def per_chip_draws(self) -> F8:
        """The same for each draw. [draws]"""
        return np.asarray(self.rates) / self.packages if self.packages else np.zeros(len(self.rates))


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
    chosen = ranked(stacks, question.slo, max(question.simulate, 1))
    loose = [] if chosen else ranked(stacks, {}, max(question.simulate, 1))
    tried: list[_Try] = []
    for value, stack, i, batch in chosen or loose:
        known = [row.rate / row.closed for row in tried if row.rate > 0.0]
        tried.append(_simulated(stack, stack.pools[i], value, batch, nearly=known[-1] if known else None))
    good = [row for row in tried if row.rate > 0.0]
    if not good:
        return _blocked(question, chip_id, stacks, catalog=catalog, priced=priced)
    best = _refined(_simplest(good))

    rows = sorted({row.pool: row for row in [*good, best]}.values(), key=lambda row: -row.per_device)
    front = front_of([(stack.grid, stack.pools) for stack in stacks], question.slo)
    return _with(_answer(catalog, best, rows, stacks), front=front)


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
    question, pool = stack.asked, with_room(stack.asked, stack.middle, pool)
    closed = per_device * pool.devices
    guess = closed * (nearly or (PREFIX_GUESS if question.prefix else CLOSED_GUESS))
    rate, felt = highest_rate(_curve(question, stack, pool, closed), question.slo, guess=guess)
    return _Try(pool=pool, stack=stack, closed=closed, rate=rate, felt=felt)


def _curve(question: Question, stack: PricedStack, pool: Pool, closed: float) -> Curve:
    """What users of a layout feel over its rate; ``closed`` is its closed-form rate in requests/s."""
    return Curve(
        served=replica(question, stack.middle, pool), stream=question.stream,
        most=min(question.most_requests, EXPLORE), prefix=question.prefix, copies=question.stream.copies(closed),
        points=question.points,
    )  # fmt: skip


def _simplest(tries: list[_Try]) -> _Try:
    """The smallest replica among those that take hardly more devices for the demand than the best."""
    needs = [(row.stack.asked.devices_for(row.rate, row.pool.devices), row) for row in tries]
    best = min(need for need, _ in needs)
    near = [row for need, row in needs if need <= best / NEARLY]
    return min(near, key=lambda row: (row.pool.devices, -row.per_device))


def _refined(best: _Try) -> _Try:
    """The layout with the token budget that simulates best: bursts decide it, which the closed form does not see."""
    question, first = best.stack.asked, best.pool
    closed = _by_budget(best)
    for chunk in question.limits.chunks:
        if chunk == best.pool.max_batch_tokens or closed.get(chunk, 0.0) < MUCH_LESS * closed[first.max_batch_tokens]:
            continue
        pool = msgspec.structs.replace(best.pool, max_batch_tokens=chunk)
        curve = _curve(question, best.stack, pool, best.closed)
        rate, felt = highest_rate(curve, question.slo, guess=best.rate, give_up=True)
        if rate > best.rate * 1.02:
            best = _Try(pool=pool, stack=best.stack, closed=best.closed, rate=rate, felt=felt)
    return best


def _by_budget(best: _Try) -> dict[int, float]:
    """Closed-form rate of the layout with each token budget; that of the least strained batch where none keeps the limits."""
    rates, _ = read_off(best.stack.grid, best.stack.asked.slo, len(best.stack.pools))
    own = (best.pool.tp, best.pool.pp, best.pool.dp, best.pool.ep)
    return {
        pool.max_batch_tokens: float(rates[0, i]) for i, pool in enumerate(best.stack.pools)
        if (pool.tp, pool.pp, pool.dp, pool.ep) == own
    }  # fmt: skip


def _answer(catalog: Catalog, best: _Try, tried: list[_Try], stacks: list[PricedStack]) -> Candidate:
    pool, stack, question = best.pool, best.stack, best.stack.asked
    chip = catalog.chip(pool.chip)
    assert best.felt is not None
    own = [one for one in stacks if one.pools[0].engine == pool.engine]
    draws = rates_by_draw(
        own, stack, pool, rate=best.rate, most=min(question.most_requests, DRAWN),
        copies=question.stream.copies(best.closed),
    )  # fmt: skip
    found = blockers(question.model, pool, catalog=catalog, setting=stack.middle, context_tokens=question.mix.context)
    return Candidate(
        chip=chip.id, pool=pool, accept=question.accept, copies=question.stream.copies(best.closed),
        rate=best.rate, rates=tuple(float(value) for value in draws.rates), median_felt=draws.median,
        kept=draws.kept, reached=draws.reached, safest=draws.safest, safest_kept=draws.safest_kept,
        packages=pool.devices / chip.devices, felt=best.felt, shares=binding(stack.middle, pool, question, best.felt),
        memory=memory_for(stack.middle, pool, context_tokens=question.mix.context), blockers=found,
        tried=tuple(row.record() for row in tried), fallback=stack.middle.precision.fallback,
        devices_per_package=chip.devices, layouts=sum(one.grid.batch.size for one in stacks),
        slow_to_fast=tuple(int(draw) for draw in draws.order),
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
