"""Split: prefill on one pool, decode on another, of the same chip or of two; each side in the layout that suits it.

The first step off a chip with bandwidth but little arithmetic is often to keep it for decode and to let another chip
prefill. Both sides are ranked in closed form, joined in the ratio of their rates, and simulated together with the
transfer of the KV cache between them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.catalog import Catalog
from offramp.core.record import Record
from offramp.cost import Calibration, Pool
from offramp.search.question import Question
from offramp.search.sides import Option, Role, Transfer, best_side, transfer
from offramp.search.stacks import replica
from offramp.search.tune import Curve, Felt, Part, highest_rate

F8 = npt.NDArray[np.float64]
Sides = dict[tuple[str, Role], Option | None]
MOST_SIDE: Final = 6
MOST_RATIO: Final = 9
SIMULATED_REQUESTS: Final = 2000
SLACK: Final = 1.2
"""The closed form of a side is an upper bound only nearly."""
RATIOS: Final = 3
"""Ratios of the two sides that are simulated: the one of their rates, then more of the side that binds while that pays."""


class Side(Record):
    """One side of a split.

    Attributes:
        pool: layout, with its role.
        closed_rate: requests per second of one replica, closed form.
        replicas: in one unit of the split.
        packages: chips as sold of one replica.
        closed_draws: as ``closed_rate`` for each joint draw, in the layout that suits it. [draws]
    """

    pool: Pool
    closed_rate: float
    replicas: int
    packages: float
    closed_draws: tuple[float, ...] = ()


class Split(Record):
    """A unit of disaggregated serving.

    Attributes:
        prefill, decode: the two sides.
        rate: highest rate of the unit within the SLO, simulated, middle parameters.
        felt: what users feel there.
        transfer: what it takes to hand a KV cache over.
        accept: accepted draft tokens per step of the decode side.
    """

    prefill: Side
    decode: Side
    rate: float
    felt: Felt
    transfer: Transfer
    accept: float = 0.0

    @property
    def packages_per_rate(self) -> float:
        """Chips of both sides for a request per second."""
        return self.packages_of(self.prefill) + self.packages_of(self.decode)

    def units_by_draw(self, side: Side, peak: float) -> F8:
        """Units whose one side carries a peak, by joint draw; infinite where a draw keeps no limits. [draws]

        Each side is bought by itself, so a draw in which it is slow takes more of that side only. What simulation makes
        of the closed form is taken from the middle.
        """
        speed = np.asarray(side.closed_draws) / side.closed_rate
        with np.errstate(divide="ignore"):
            return np.where(speed > 0.0, peak / self.rate / speed, np.inf)

    def packages_of(self, side: Side) -> float:
        """Chips of one side for a request per second."""
        return side.replicas * side.packages / self.rate


def find_split(
    question: Question, prefill_chip: str, decode_chip: str, *, catalog: Catalog, calibration: Calibration,
    as_of: dt.date | None = None, sides: Sides | None = None,
) -> Split | None:  # fmt: skip
    """The best split over two chips (which may be the same), simulated; None where no pair keeps the SLO.

    Args:
        question: workload and limits.
        prefill_chip, decode_chip: catalogue ids; both need all facts.
        catalog, calibration, as_of: as of :func:`~offramp.search.candidate.find`.
        sides: of this question, found before; those that are found now are added.
    """
    known = {} if sides is None else sides

    def side(chip: str, role: Role) -> Option | None:
        if (chip, role) not in known:
            known[chip, role] = best_side(
                question, chip, role, catalog=catalog, calibration=calibration, as_of=as_of
            )  # fmt: skip
        return known[chip, role]

    first, second = side(prefill_chip, "prefill"), side(decode_chip, "decode")
    if first is None or second is None:
        return None
    ratio, nearly = _ratio(first.rate, second.rate), 1.0
    best: Split | None = None
    for _ in range(RATIOS):
        found = _simulated(question, first, second, ratio, nearly)
        if found is None or (best is not None and found.packages_per_rate >= best.packages_per_rate):
            break
        best, nearly = found, found.rate / _bound(first, second, ratio)
        more = _more(found, first, second, prefill=_waits_most(found.felt, question.slo))
        if more is None:
            break
        ratio = more
    return best


def _waits_most(felt: Felt, slo: Mapping[str, float]) -> bool:
    """Whether the first token is nearer to its limit than the others: the unit then wants more prefill."""
    first = {key: limit for key, limit in slo.items() if key.startswith("ttft")}
    rest = {key: limit for key, limit in slo.items() if key not in first}
    return felt.strain(first) >= felt.strain(rest)


def _more(found: Split, first: Option, second: Option, *, prefill: bool) -> tuple[int, int] | None:
    """The ratio with one more replica on the side that binds; None where that cannot pay.

    The unit gains at most that replica's share of its side, and at most what the other side has left by its closed form.
    """
    x, y = found.prefill.replicas, found.decode.replicas
    own, other = (x, y * second.rate) if prefill else (y, x * first.rate)
    gain = min(1.0 / own, max(SLACK * other / found.rate - 1.0, 0.0))
    each = (first if prefill else second).packages
    if each >= gain * (x * first.packages + y * second.packages):
        return None
    return (x + 1, y) if prefill else (x, y + 1)


def _bound(first: Option, second: Option, ratio: tuple[int, int]) -> float:
    """Requests per second of the side that carries less, closed form."""
    return min(ratio[0] * first.rate, ratio[1] * second.rate)


def _simulated(
    question: Question, first: Option, second: Option, ratio: tuple[int, int], nearly: float
) -> Split | None:
    """A unit of so many replicas on each side, at the highest rate within the SLO; ``nearly`` of its bound at a guess."""
    x, y = ratio
    moved = transfer(question, first, second)
    parts = [
        Part(replica=replica(first.asked, first.setting, first.pool), role="prefill", replicas=x,
             transfer_s_per_token=moved.s_per_token, transfer_base_s=moved.base_s),
        Part(replica=replica(second.asked, second.setting, second.pool), role="decode", replicas=y),
    ]  # fmt: skip
    curve = Curve(
        served=parts, stream=question.stream, most=min(question.most_requests, SIMULATED_REQUESTS),
        prefix=question.prefix, points=question.points,
    )  # fmt: skip
    rate, felt = highest_rate(curve, question.slo, guess=nearly * _bound(first, second, ratio))
    if felt is None or rate <= 0:
        return None
    sides = [
        Side(pool=one.pool, closed_rate=one.rate, replicas=count, packages=one.packages, closed_draws=one.draws)
        for one, count in ((first, x), (second, y))
    ]
    return Split(prefill=sides[0], decode=sides[1], rate=rate, felt=felt, transfer=moved, accept=second.asked.accept)


def _ratio(first: float, second: float) -> tuple[int, int]:
    """Small whole numbers of replicas whose rates match best; fewer replicas win near ties."""
    pairs = [(x, y) for x in range(1, MOST_SIDE + 1) for y in range(1, MOST_SIDE + 1) if x + y <= MOST_RATIO]

    def waste(pair: tuple[int, int]) -> float:
        a, b = pair[0] * first, pair[1] * second
        return 1.0 - min(a, b) / max(a, b) + 0.02 * sum(pair)

    return min(pairs, key=waste)
