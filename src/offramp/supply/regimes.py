"""Policy regimes as Markov chains over quarters: history where it is known, draws after it."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import numpy.typing as npt

from offramp.core.quarters import first_day, quarter_of
from offramp.supply.facts import STATES, Regime, SupplyData
from offramp.supply.sample import I8


def state_on(regime: Regime, day: dt.date, as_of: dt.date) -> int:
    """Index into STATES of the regime on a day, from what was known on ``as_of``; closed before its first event."""
    found = STATES.index("closed")
    for event in regime.events:
        if event.known <= as_of and event.from_ <= day:
            found = STATES.index(event.state)
    return found


def history(regime: Regime, quarters: I8, as_of: dt.date) -> I8:
    """The state in the middle of every quarter up to ``as_of``'s; that quarter's state is the one on ``as_of``. [n]"""
    states: list[int] = []
    for index in quarters[quarters <= quarter_of(as_of)]:
        middle = first_day(int(index)) + dt.timedelta(days=45)
        states.append(state_on(regime, min(middle, as_of) if index < quarter_of(as_of) else as_of, as_of))
    return np.asarray(states, dtype=np.int64)


def transition_draws(data: SupplyData, past: I8, rng: np.random.Generator, draws: int) -> npt.NDArray[np.float64]:
    """Transition matrices from the Dirichlet posterior: prior pseudo-counts plus counted quarters. [draws, from, to]"""
    n = len(STATES)
    counts = np.full((n, n), data.prior_move) + np.eye(n) * (data.prior_stay - data.prior_move)
    for before, after in itertools.pairwise(past):
        counts[before, after] += 1.0
    return np.stack([rng.dirichlet(counts[state], size=draws) for state in range(n)], axis=1)


def draw_states(
    data: SupplyData, regime: Regime, quarters: I8, *, as_of: dt.date, rng: np.random.Generator, draws: int
) -> I8:
    """Regime states: known history, then one Markov path a draw. [draws, quarters]"""
    start = quarter_of(regime.events[0].from_)
    past = history(regime, np.arange(min(start, int(quarters[0])), int(quarters[-1]) + 1), as_of)
    counted = history(regime, np.arange(start, int(quarters[-1]) + 1), as_of)
    matrix = transition_draws(data, counted, rng, draws)
    offset = int(quarters[0]) - min(start, int(quarters[0]))
    states = np.empty((draws, quarters.size), dtype=np.int64)
    now = np.full(draws, past[-1] if past.size else STATES.index("closed"))
    for column in range(quarters.size):
        if offset + column < past.size:
            states[:, column] = past[offset + column]
            now = states[:, column].copy()
            continue
        edges = np.cumsum(matrix[np.arange(draws), now], axis=1)
        now = (rng.random(draws)[:, None] > edges).sum(axis=1).clip(0, len(STATES) - 1)
        states[:, column] = now
    return states
