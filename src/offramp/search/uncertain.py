"""Uncertain: what each joint draw of the parameters carries, from the closed form of all draws and a few simulated ones.

Every draw is priced in closed form, in the layout that was chosen and in every other one of the same engine. Where the chosen
one falls far behind, because a limit is near that it no longer keeps, the draw takes the layout that suits it best:
whoever runs such chips would do the same. A few draws over the range of speeds are simulated. They say how far the closed
form is off, and at which strain a limit breaks; the other draws follow from their closed form and these two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.cost import Pool
from offramp.search.closed import BATCHES, evaluate, read_off
from offramp.search.question import Question
from offramp.search.stacks import PricedStack, replica, with_room
from offramp.search.tune import Curve, Felt, highest_rate

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


FAR_BEHIND: Final = 0.8
"""The chosen layout is kept where it carries at least this share of what another one would."""
ANCHORS: Final = (0.1, 0.9)
"""Quantiles of speed at which a draw is simulated, beside the median of what draws carry."""
OTHERS: Final = 12
"""Other layouts that are priced at all draws: so many that carry most at the middle, so many that are least strained."""
MEDIANS: Final = 2
"""Draws that are simulated until the median one is among them."""
EDGE: Final = 2
"""Draws that are simulated where limits seem to break."""
SAME: Final = 0.02
"""Draws whose closed forms differ by less count as one when others are read off between them."""


@dataclass(frozen=True, kw_only=True)
class Uncertain:
    """What the draws carry.

    Attributes:
        rates: highest rate of one replica within the SLO, in units of the chosen layout. [draws]
        order: draws from those that carry least to those that carry most. [draws]
        median: what users of the median draw feel, where another layout than the chosen one suits it better.
        kept: share of the draws in which the chosen layout keeps the limits.
        reached: share in which some layout does.
        safest: the layout that keeps them in most draws; None where the chosen one does.
        safest_kept: share of the draws in which that one does.
    """

    rates: F8
    order: I8
    median: Felt | None
    kept: float
    reached: float
    safest: Pool | None
    safest_kept: float


@dataclass(frozen=True, kw_only=True)
class _Field:
    """Layouts of one engine at every draw, in closed form; the chosen layout is the first.

    Attributes:
        layouts: each with the stack that it belongs to.
        each: requests per second of one device; of a layout that keeps no limits, at its least strain. [draws, layouts]
        strain: least strain over batches. [draws, layouts]
        speed: of the chosen layout's steps, without regard to limits. [draws]
    """

    layouts: list[tuple[PricedStack, Pool]]
    each: F8
    strain: F8
    speed: F8

    def best(self, limit: float) -> I8:
        """The layout that each draw takes: the chosen one, unless it falls far behind; by what strain keeps limits. [draws]"""
        carried = np.where(self.strain <= limit, self.each, 0.0)
        other = carried.argmax(axis=1)
        keeps = carried[:, 0] >= FAR_BEHIND * carried.max(axis=1)
        least = self.strain.argmin(axis=1)
        found = np.where(carried.max(axis=1) > 0.0, other, least)
        return np.where(keeps & (carried[:, 0] > 0.0), 0, found)


def _field(stacks: Sequence[PricedStack], chosen: PricedStack, pool: Pool) -> _Field:
    """The chosen layout and the best token budget of every other one, at all draws."""
    layouts: list[tuple[PricedStack, Pool]] = []
    each: list[F8] = []
    strain: list[F8] = []
    speed = np.ones(1)
    ordered = sorted(stacks, key=lambda stack: stack is not chosen)
    for stack, listed in zip(ordered, _others(ordered), strict=True):
        if stack is chosen:
            listed = [pool, *(one for one in listed if _degrees(one) != _degrees(pool))]
        if not listed:
            continue
        asked = stack.asked
        grid = evaluate(
            stack.setting, listed, asked.mix, decode_tokens=asked.decode_tokens, accept_tokens=1.0 + asked.accept,

        )  # fmt: skip
        rates, least = read_off(grid, asked.slo, len(listed))
        if stack is chosen:
            speed = np.exp(-np.log(grid.tpot_s[:, : len(BATCHES)]).mean(axis=1))
        each.append(rates / np.array([one.devices for one in listed], dtype=float))
        strain.append(least)
        layouts += [(stack, one) for one in listed]
    return _Field(layouts=layouts, each=np.hstack(each), strain=np.hstack(strain), speed=speed)


def _degrees(pool: Pool) -> tuple[int, int, int, int]:
    return pool.tp, pool.pp, pool.dp, pool.ep


def _others(stacks: Sequence[PricedStack]) -> list[list[Pool]]:
    """For each stack the layouts that may suit some draw: those that carry most and those that are least strained.

    One for each set of degrees: the token budget that carries most at the middle, or is least strained there.
    """
    rows: dict[tuple[int, tuple[int, int, int, int]], tuple[float, float, int]] = {}
    for s, stack in enumerate(stacks):
        _, least = read_off(stack.grid, stack.asked.slo, len(stack.pools))
        for i, pool in enumerate(stack.pools):
            row = (float(stack.rates[i]) / pool.devices, -float(least[0, i]), -i)
            key = (s, _degrees(pool))
            rows[key] = max(row, rows.get(key, row))
    kept = {key for by in (0, 1) for key in sorted(rows, key=lambda key: rows[key][by], reverse=True)[:OTHERS]}
    return [
        [stack.pools[-rows[key][2]] for key in rows if key in kept and key[0] == s] for s, stack in enumerate(stacks)
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Anchor:
    """A simulated draw (-1 is the middle of the parameters).

    Attributes:
        closed, each: requests per second of one device, closed form and simulated.
        strain: least strain of the layout by the closed form.
    """

    draw: int
    closed: float
    each: float
    strain: float


class _Draws:
    """Draws being simulated, one after the other."""

    def __init__(self, field: _Field, question: Question, *, most: int, copies: int, middle: _Anchor) -> None:
        self.field, self.question, self.most, self.copies = field, question, most, copies
        self.anchors = [middle]

    def simulate(self, draw: int) -> tuple[_Anchor, Felt | None, int]:
        """A draw in the layout that suits it, and if that falls far behind in more tensor-parallel ones."""
        field = self.field
        first = int(field.best(1.0)[draw])
        found, felt = self._one(draw, first)
        at = first
        if found < FAR_BEHIND * field.each[draw, first] * self._nearest(draw):
            least_tp = field.layouts[first][1].tp
            for i in np.argsort(-field.each[draw]).tolist():
                better = field.strain[draw, i] <= 1.0 and field.each[draw, i] > found
                if not better or field.layouts[i][1].tp < 2 * least_tp:
                    continue
                least_tp = field.layouts[i][1].tp
                other, there = self._one(draw, i)
                if other > found:
                    found, felt, at = other, there, i
        anchor = _Anchor(
            draw=draw, closed=float(field.each[draw, first]), each=found, strain=float(field.strain[draw, first])
        )
        self.anchors.append(anchor)
        return anchor, felt, at

    def _nearest(self, draw: int) -> float:
        """Simulated over closed form, of the draw that is most alike in speed among those that serve."""
        x = self.field.each[draw].max()
        good = [one for one in self.anchors if one.each > 0.0 and one.closed > 0.0]
        best = min(good, key=lambda one: abs(math.log(max(x, 1e-12) / one.closed)))
        return best.each / best.closed

    def _one(self, draw: int, i: int) -> tuple[float, Felt | None]:
        """Simulated requests per second of one device in one layout, and what users feel."""
        stack, pool = self.field.layouts[i]
        one = replace(stack.setting, parameters=stack.setting.parameters.take([draw]))
        if i > 0:
            pool = with_room(stack.asked, one, pool)
        question = self.question
        closed = float(self.field.each[draw, i]) * pool.devices
        curve = Curve(
            served=replica(stack.asked, one, pool), stream=question.stream, most=self.most, prefix=question.prefix,
            copies=self.copies if i == 0 else question.stream.copies(closed), points=question.points,
        )  # fmt: skip
        rate, felt = highest_rate(curve, question.slo, guess=max(closed * self._nearest(draw), 1e-6))
        return rate / pool.devices, felt


def rates_by_draw(
    stacks: Sequence[PricedStack], chosen: PricedStack, pool: Pool, *, rate: float, most: int, copies: int = 1
) -> Uncertain:  # fmt: skip
    """What each joint draw of the parameters carries within the SLO.

    Args:
        stacks: of the engine, priced at the middle; any of their layouts may suit a draw.
        chosen, pool: the layout that was chosen at the middle, with its stack.
        rate: what the middle carries, simulated.
        most, copies: simulated requests, and replicas.
    """
    field = _field(stacks, chosen, pool)
    asked = chosen.asked
    grid = evaluate(
        chosen.middle, [pool], asked.mix, decode_tokens=asked.decode_tokens, accept_tokens=1.0 + asked.accept,

    )  # fmt: skip
    closed, least = read_off(grid, asked.slo, 1)
    middle = _Anchor(
        draw=-1, closed=float(closed[0, 0]) / pool.devices, each=rate / pool.devices, strain=float(least[0, 0])
    )
    draws = _Draws(field, asked, most=most, copies=copies, middle=middle)
    by_speed = np.argsort(field.speed, kind="stable")
    seen: dict[int, tuple[Felt | None, int]] = {}
    half = at_quantile(np.argsort(_carried(field, 1.0), kind="stable"), 0.5)
    for draw in dict.fromkeys([half, *(at_quantile(by_speed, quantile) for quantile in ANCHORS)]):
        seen[draw] = draws.simulate(draw)[1:]
    limit = _edge(field, draws)
    for _ in range(MEDIANS):  # what is simulated changes the order a little
        rates = _interpolated(_carried(field, limit), draws.anchors)
        half = at_quantile(np.argsort(rates, kind="stable"), 0.5)
        if half in seen:
            break
        seen[half] = draws.simulate(half)[1:]
        limit = _limit(draws.anchors)
    rates = _interpolated(_carried(field, limit), draws.anchors)
    order = _with_middle(np.argsort(rates, kind="stable"), list(seen))
    felt, layout = seen[at_quantile(order, 0.5)]
    return _told(field, rates * pool.devices, order, limit, median=felt if layout > 0 else None)


def _with_middle(order: I8, simulated: Sequence[int]) -> I8:
    """The order with a simulated draw in its middle: the one that is nearest to it."""
    middle = round(0.5 * (len(order) - 1))
    places = np.flatnonzero(np.isin(order, simulated))
    at = int(places[np.argmin(np.abs(places - middle))])
    out = order.copy()
    out[at], out[middle] = order[middle], order[at]
    return out


def _told(field: _Field, rates: F8, order: I8, limit: float, *, median: Felt | None) -> Uncertain:
    """The outcome with how many draws keep the limits, in the chosen layout and in the safest."""
    kept = (field.strain <= limit).mean(axis=0)
    best = int(np.lexsort((-np.median(field.each, axis=0), -kept))[0])
    safest = field.layouts[best][1] if kept[best] > kept[0] else None
    return Uncertain(
        rates=rates, order=order, median=median, kept=float(kept[0]),
        reached=float((rates > 0.0).mean()), safest=safest, safest_kept=float(kept[best]),
    )  # fmt: skip


def _carried(field: _Field, limit: float) -> F8:
    """Closed-form requests per second of one device in the layout that each draw takes; 0 beyond the strain. [draws]"""
    rows = np.arange(len(field.speed))
    best = field.best(limit)
    return np.where(field.strain[rows, best] <= limit, field.each[rows, best], 0.0)


def _edge(field: _Field, draws: _Draws) -> float:
    """The strain at which limits break, from a few more draws where some seem to break them: they are what a tail hangs on."""
    least = field.strain.min(axis=1)
    for _ in range(EDGE):
        limit = _limit(draws.anchors)
        known = {one.draw for one in draws.anchors if one.each <= 0.0}
        beyond = [int(draw) for draw in np.argsort(least, kind="stable") if least[draw] > limit]
        broken = next((i for i, draw in enumerate(beyond) if draw in known), len(beyond))
        if broken == 0:
            break
        draws.simulate(beyond[broken // 2])
    return _limit(draws.anchors)


def _limit(anchors: Sequence[_Anchor]) -> float:
    """The closed-form strain at which limits break in simulation: 1, unless simulated draws say otherwise."""
    kept = max((one.strain for one in anchors if one.each > 0.0), default=0.0)
    broken = min((one.strain for one in anchors if one.each <= 0.0), default=math.inf)
    if kept >= broken:
        return math.sqrt(kept * broken)
    return min(max(1.0, kept), broken * (1.0 - 1e-9))


def _interpolated(closed: F8, anchors: Sequence[_Anchor]) -> F8:
    """Each draw's rate: its closed form times what simulation makes of it, read off between simulated draws. [draws]"""
    groups: list[list[_Anchor]] = []
    for one in sorted((one for one in anchors if one.each > 0.0), key=lambda one: one.closed):
        if groups and one.closed < groups[-1][0].closed * (1.0 + SAME):
            groups[-1].append(one)
        else:
            groups.append([one])
    x = np.array([math.log(group[0].closed) for group in groups])
    y = np.array([float(np.mean([math.log(one.each / one.closed) for one in group])) for group in groups])
    known = closed > 0.0
    found = np.where(known, closed, 1.0)
    rates = np.where(known, found * np.exp(np.interp(np.log(found), x, y)), 0.0)
    for one in anchors:
        if one.draw >= 0:
            rates[one.draw] = one.each
    return rates


def at_quantile(order: I8, quantile: float) -> int:
    """The draw at a quantile of an order."""
    return int(order[round(quantile * (len(order) - 1))])
