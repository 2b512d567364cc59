"""Uncertain: what each joint draw of the parameters carries, from a few simulated draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from offramp.cost import Pool, Setting, Steps, shard_of, step_time
from offramp.search.tune import Felt, Replica, highest_rate

if TYPE_CHECKING:
    from offramp.search.candidate import Question

F8 = npt.NDArray[np.float64]
Retune = Callable[[int, float], tuple[float, Felt | None]]
"""Draw and rate per device so far; the best rate per device of another layout, and what users feel there."""
FAR_BEHIND: Final = 0.8
ANCHORS: Final = (0.5, 0.3, 0.7, 0.1, 0.9)
"""Quantiles of speed at which a draw is simulated; between them the rate is interpolated. From the middle outwards, so that
what is known says where to look next."""
STEEPEST: Final = 4.0
"""Rates may fall faster than speed, because a slower step also meets its limit at a smaller batch."""


def operating_steps(question: Question, batch: float) -> tuple[Steps, Steps]:
    """An average step at a batch: decode alone, and with its share of prefill."""
    n = np.array([max(batch, 1.0)])
    q = float(question.decode_tokens)
    zero = np.zeros(1)
    decode = Steps(
        tokens=n * q, decode_seqs=n, decode_context=n * question.mix.context, prefill_pairs=zero, chunks=zero,
        decode_tokens=q,
    )  # fmt: skip
    per_step = n / max((question.mix.osl - 1.0) / (1.0 + question.accept), 1.0)
    mixed = Steps(
        tokens=n * q + per_step * question.mix.isl, decode_seqs=n, decode_context=n * question.mix.context,
        prefill_pairs=per_step * question.mix.pairs, chunks=per_step, decode_tokens=q,
    )  # fmt: skip
    return decode, mixed


def speeds(question: Question, setting: Setting, mid: Setting, pool: Pool, felt: Felt) -> F8:
    """How much faster each draw runs the average step at the operating point than the middle does. [draws]"""
    _, mixed = operating_steps(question, felt.batch)
    shard = shard_of(pool, 1)
    each = step_time(setting, shard, mixed).total[:, 0]
    centre = float(step_time(mid, shard, mixed).total[0, 0])
    return centre / each


def rates_by_draw(
    question: Question, setting: Setting, mid: Setting, pool: Pool, *, rate: float, felt: Felt, most: int,
    copies: int = 1, retune: Retune | None = None,
) -> tuple[F8, npt.NDArray[np.int64], Felt | None]:  # fmt: skip
    """Highest rate of one replica within the SLO for each joint draw, and the draws from slow to fast. [draws] each

    The third value is what users of the median draw feel, where another layout suits it better.

    A few draws, spread over the range of speeds, are simulated; the others lie on the line between them, because the
    rate depends on a draw through little else than the speed of the step at the operating point.

    Args:
        question, setting, mid, pool: the layout, at all draws and at the middle.
        rate, felt: what the middle carries.
        most, copies: simulated requests and replicas.
        retune: finds another layout for a draw in which this one falls far behind the draw's speed, because a limit
            is near that it no longer keeps; whoever runs the chips would do the same.
    """
    speed = speeds(question, setting, mid, pool, felt)
    order = np.argsort(speed, kind="stable")
    points: dict[float, float] = {}
    median: Felt | None = None
    for quantile in ANCHORS:
        draw = at_quantile(order, quantile)
        one = replace(setting, parameters=setting.parameters.take([draw]))
        replica = Replica(
            setting=one, pool=pool, mix=question.mix, context_limit=question.model.max_context_tokens,
            decode_tokens=question.decode_tokens, accept_tokens=1.0 + question.accept,
        )  # fmt: skip
        found, _ = highest_rate(
            replica.table(), question.stream, question.slo, guess=_guess(points, float(speed[draw]), rate), most=most,
            prefix=question.prefix, copies=copies, points=question.points, fine=2,
        )  # fmt: skip
        if retune is not None and found < FAR_BEHIND * rate * float(speed[draw]):
            other, felt_there = retune(draw, found / pool.devices)
            if other * pool.devices > found:
                found, median = other * pool.devices, felt_there if quantile == 0.5 else median
        points[float(speed[draw])] = found
    x = np.array(sorted(points))
    y = np.array([points[value] for value in x])
    inside = np.interp(speed, x, y)
    # beyond the outermost anchors the rate goes on in proportion to the speed
    inside = np.where(speed < x[0], y[0] * speed / x[0], inside)
    return np.where(speed > x[-1], y[-1] * speed / x[-1], inside), order, median


def _guess(points: dict[float, float], speed: float, rate: float) -> float:
    """The rate to try first at a speed: on the line, in logarithms, through the two nearest known rates."""
    known = sorted(((x, y) for x, y in {1.0: rate, **points}.items() if y > 0.0), key=lambda row: abs(row[0] - speed))
    (x, y), *others = known
    slope = 1.0
    if others and abs(others[0][0] / x - 1.0) > 0.02:
        slope = min(max(math.log(others[0][1] / y) / math.log(others[0][0] / x), 0.5), STEEPEST)
    return y * (speed / x) ** slope


def at_quantile(order: npt.NDArray[np.int64], quantile: float) -> int:
    """The draw at a quantile of an order."""
    return int(order[round(quantile * (len(order) - 1))])
