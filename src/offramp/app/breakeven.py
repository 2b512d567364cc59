"""Break-even: from which value of a figure on one chip replaces one chip in use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from offramp import catalog as facts
from offramp.app.cells import Cell, Job, cell_key
from offramp.app.crew import Crew
from offramp.app.runs import RunStore
from offramp.core.record import Record
from offramp.search.closed import BATCHES, read_off
from offramp.search.stacks import stacks_of

NEAR: Final = 1.01
"""A break-even is good to one percent."""


SOME: Final = BATCHES[::2]
"""Rates are read off between batches, so every second one is enough."""


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


def closed_per_chip(job: Job, chip_id: str, values: Mapping[str, float], *, slo: Mapping[str, float]) -> float:
    """Closed-form requests per second of one chip over all layouts, at the middle parameters."""
    catalog = facts.load(job.as_of)
    chip = catalog.chip(chip_id)
    question = job.question()
    best = 0.0
    for stack in stacks_of(question, catalog, job.fitted(), chip.id, overrides=values, as_of=job.as_of, batches=SOME):
        rates, strain = read_off(stack.grid, slo, len(stack.pools))
        rates = np.where(strain[0] <= 1.0, rates[0], 0.0)
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
    curve = tuple((value, scale * base if value == centre else per_chip(value)) for value in grid)
    others = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != figure)
    above = [value for value, rate in curve if rate >= target]
    if not above or target <= 0:
        return BreakEven(figure=figure, value=None, others=others, per_chip=curve)
    known = dict(curve)
    high = above[0]
    low = max((value for value in known if value < high), default=high / 16.0)
    value = _crossing(per_chip, target, low=(low, known.get(low)), high=(high, known[high]))
    return BreakEven(figure=figure, value=value, others=others, per_chip=curve)


def _crossing(
    per_chip: Callable[[float], float], target: float, *, low: tuple[float, float | None], high: tuple[float, float]
) -> float:  # fmt: skip
    """The value at which the rate reaches the target, to one percent: where a power law through both ends says, else the middle.

    Args:
        per_chip: rate at a value; it grows with the value.
        target: rate.
        low, high: values below and above, with their rates.
    """
    (a, below), (b, above) = low, high
    while b / a > NEAR:
        share = 0.5
        if below is not None and 0.0 < below < above:
            share = math.log(target / below) / math.log(above / below)
        wide = math.log(b / a)
        # a little past the guess on the far side, so that the next guess closes in from there
        value = a * math.exp(
            min(max(share * wide + math.copysign(0.3 * math.log(NEAR), 0.5 - share), 0.1 * wide), 0.9 * wide)
        )
        rate = per_chip(value)
        if rate >= target:
            b, above = value, rate
        else:
            a, below = value, rate
    return b


def run_break_evens(wanted: Sequence[tuple[Job, Cell, str, float]], store: RunStore, *, crew: Crew) -> list[BreakEven]:
    """All break-evens, kept ones from the store; in the order asked.

    Args:
        wanted: workload, cell, figure, and the requests per second to reach with one chip.
        store: of finished ones.
        crew: who computes.
    """
    done: dict[int, BreakEven] = {}
    keys: list[str] = []
    for i, (job, cell, figure, target) in enumerate(wanted):
        catalog = facts.load(job.as_of)
        base = cell_key(store, job, catalog.chip(cell.chip), catalog)
        keys.append(store.key("break-even", {"cell": base, "figure": figure, "target": target}))
        found = store.find(keys[i], BreakEven)
        if found is not None:
            done[i] = found

    def keep(i: int, value: BreakEven, _: str) -> None:
        done[i] = value
        store.keep(keys[i], value)

    crew.do(break_even, wanted, [i for i in range(len(wanted)) if i not in done], keep)
    return [done[i] for i in range(len(wanted))]
