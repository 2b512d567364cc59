"""Stacks: every engine and precision of a chip with all its layouts priced in closed form."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.catalog import Catalog
from offramp.core.result import FigureLog
from offramp.cost import Calibration, Parameters, Pool, Setting, build_setting, memory_for
from offramp.search.closed import BATCHES, Grid, Slo, evaluate
from offramp.search.grid import candidate_engines, pools, speculations, weight_dtypes
from offramp.search.question import Question
from offramp.search.tune import Replica

F8 = npt.NDArray[np.float64]
Overrides = Mapping[str, float]
FEWEST_SEQS: Final = 16
MOST_SEQS: Final = 1024


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
    as_of: dt.date | None = None, log: FigureLog | None = None, batches: F8 = BATCHES,
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
                    mid, listed, asked.mix, decode_tokens=asked.decode_tokens, accept_tokens=1.0 + accept,
                    batches=batches,
                )  # fmt: skip
                rates = grid.best_rates(asked.slo, len(listed))[0]
                found.append(
                    PricedStack(asked=asked, setting=setting, middle=mid, pools=listed, grid=grid, rates=rates)
                )
    return found


def ranked(stacks: list[PricedStack], slo: Slo, most: int) -> list[tuple[float, PricedStack, int, float]]:
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


def replica(question: Question, setting: Setting, pool: Pool) -> Replica:
    """A replica of a layout as the simulation takes it."""
    return Replica(
        setting=setting, pool=pool, mix=question.mix, decode_tokens=question.decode_tokens,
        accept_tokens=1.0 + question.accept, context_limit=question.model.max_context_tokens,
    )  # fmt: skip


def with_room(question: Question, setting: Setting, pool: Pool) -> Pool:
    """The pool with as many sequences in a step as its cache holds, in powers of two.

    The limits do not decide this: a tighter one is kept by a lower rate, and the same curve answers for both.
    """
    memory = memory_for(setting, pool, context_tokens=question.mix.context)
    held = memory.kv_capacity_tokens / pool.pp / max(question.mix.context, 1.0)
    seqs = 2 ** math.ceil(math.log2(min(max(held, FEWEST_SEQS), MOST_SEQS)))
    return msgspec.structs.replace(pool, max_seqs=seqs)
