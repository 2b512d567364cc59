"""Split: prefill on one pool, decode on another, of the same chip or of two; each side in the layout that suits it.

The first step off a chip with bandwidth but little arithmetic is often to keep it for decode and to let another chip
prefill. Both sides are ranked in closed form, joined in the ratio of their rates, and simulated together with the
transfer of the KV cache between them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.catalog import Catalog
from offramp.core.record import Record
from offramp.cost import (
    Calibration,
    Pool,
    Setting,
    Shard,
    Steps,
    build_setting,
    kv_bytes_per_sequence,
    memory_table,
    step_time,
)
from offramp.cost.tabulate import shard_of
from offramp.search.closed import BATCHES, NORMAL, TTFT_WAIT
from offramp.search.grid import candidate_engines, pools, speculations, weight_dtypes
from offramp.search.question import Question
from offramp.search.stacks import middle, replica, with_room
from offramp.search.tune import Felt, Part, highest_rate

F8 = npt.NDArray[np.float64]
MOST_SIDE: Final = 6
MOST_RATIO: Final = 9
TRANSFER_EFFICIENCY: Final = 0.7
"""Share of the network that a KV transfer reaches. Assumed (0.4 to 0.9)."""
TRANSFER_BASE_S: Final = 0.003
"""Set-up of one transfer. Assumed (1 to 10 ms)."""
SIMULATED_REQUESTS: Final = 2000
RATIOS: Final = 3
"""Ratios of the two sides that are simulated: the one of their rates, then more of the side that binds while that pays."""


class Side(Record):
    """One side of a split.

    Attributes:
        pool: layout, with its role.
        closed_rate: requests per second of one replica, closed form.
        replicas: in one unit of the split.
        packages: chips as sold of one replica.
    """

    pool: Pool
    closed_rate: float
    replicas: int
    packages: float


class Split(Record):
    """A unit of disaggregated serving.

    Attributes:
        prefill, decode: the two sides.
        rate: highest rate of the unit within the SLO, simulated, middle parameters.
        felt: what users feel there.
        transfer_s: mean time of one KV transfer.
        accept: accepted draft tokens per step of the decode side.
    """

    prefill: Side
    decode: Side
    rate: float
    felt: Felt
    transfer_s: float
    accept: float = 0.0

    @property
    def packages_per_rate(self) -> float:
        """Chips of both sides for a request per second."""
        return self.packages_of(self.prefill) + self.packages_of(self.decode)

    def packages_of(self, side: Side) -> float:
        """Chips of one side for a request per second."""
        return side.replicas * side.packages / self.rate


@dataclass(frozen=True, kw_only=True)
class _Option:
    """The best layout of one side, and how it drafts."""

    asked: Question
    pool: Pool
    setting: Setting
    rate: float
    batch: float
    packages: float


def find_split(
    question: Question, prefill_chip: str, decode_chip: str, *, catalog: Catalog, calibration: Calibration,
    as_of: dt.date | None = None,
) -> Split | None:  # fmt: skip
    """The best split over two chips (which may be the same), simulated; None where no pair keeps the SLO.

    Args:
        question: workload and limits.
        prefill_chip, decode_chip: catalogue ids; both need all facts.
        catalog, calibration, as_of: as of :func:`~offramp.search.candidate.find`.
    """
    first = _best(question, prefill_chip, "prefill", catalog, calibration, as_of)
    second = _best(question, decode_chip, "decode", catalog, calibration, as_of)
    if first is None or second is None:
        return None
    ratio, nearly = _ratio(first.rate, second.rate), 1.0
    best: Split | None = None
    for _ in range(RATIOS):
        found = _simulated(question, first, second, ratio, nearly)
        if found is None or (best is not None and found.packages_per_rate >= best.packages_per_rate):
            break
        best, nearly = found, found.rate / _bound(first, second, ratio)
        x, y = ratio
        ratio = (x + 1, y) if _waits_most(found.felt, question.slo) else (x, y + 1)
    return best


def _waits_most(felt: Felt, slo: Mapping[str, float]) -> bool:
    """Whether the first token is nearer to its limit than the others: the unit then wants more prefill."""
    first = {key: limit for key, limit in slo.items() if key.startswith("ttft")}
    rest = {key: limit for key, limit in slo.items() if key not in first}
    return felt.strain(first) >= felt.strain(rest)


def _bound(first: _Option, second: _Option, ratio: tuple[int, int]) -> float:
    """Requests per second of the side that carries less, closed form."""
    return min(ratio[0] * first.rate, ratio[1] * second.rate)


def _simulated(
    question: Question, first: _Option, second: _Option, ratio: tuple[int, int], nearly: float
) -> Split | None:
    """A unit of so many replicas on each side, at the highest rate within the SLO; ``nearly`` of its bound at a guess."""
    x, y = ratio
    per_token, each = _transfer(question, first, second)
    parts = [
        Part(replica=replica(first.asked, first.setting, first.pool), role="prefill", replicas=x,
             transfer_s_per_token=per_token, transfer_base_s=TRANSFER_BASE_S),
        Part(replica=replica(second.asked, second.setting, second.pool), role="decode", replicas=y),
    ]  # fmt: skip
    rate, felt = highest_rate(
        parts, question.stream, question.slo, guess=nearly * _bound(first, second, ratio), prefix=question.prefix,
        most=min(question.most_requests, SIMULATED_REQUESTS), points=question.points,
    )  # fmt: skip
    if felt is None or rate <= 0:
        return None
    sides = [
        Side(pool=one.pool, closed_rate=one.rate, replicas=count, packages=one.packages)
        for one, count in ((first, x), (second, y))
    ]
    return Split(prefill=sides[0], decode=sides[1], rate=rate, felt=felt, transfer_s=each, accept=second.asked.accept)


def _best(
    question: Question, chip_id: str, role: str, catalog: Catalog, calibration: Calibration, as_of: dt.date | None
) -> _Option | None:
    """The layout of one side that carries most per device."""
    chip = catalog.chip(chip_id)
    best: _Option | None = None
    for engine in candidate_engines(chip, question.limits):
        for dtype in weight_dtypes(question.limits):
            listed = pools(question.model, chip, catalog, question.limits, engine=engine, dtype=dtype)
            if not listed:
                continue
            setting = middle(
                build_setting(question.model, listed[0], catalog=catalog, calibration=calibration, as_of=as_of)
            )
            drafts = (
                speculations(question.model, chip, catalog, engine, question.accept) if role == "decode" else (0.0,)
            )
            for asked in [replace(question, accept=accept) for accept in drafts]:
                rates, batches = (_prefill if role == "prefill" else _decode)(asked, setting, listed)
                each = rates / np.array([pool.devices for pool in listed])
                i = int(np.argmax(each))
                if rates[i] <= 0 or (best is not None and each[i] <= best.rate / best.pool.devices):
                    continue
                pool = msgspec.structs.replace(with_room(asked, setting, listed[i]), role=role)
                best = _Option(asked=asked, pool=pool, setting=setting, rate=float(rates[i]), batch=float(batches[i]),
                               packages=pool.devices / chip.devices)  # fmt: skip
    return best


def _shards(listed: list[Pool], each: int) -> Shard:
    columns = {
        name: np.repeat(np.array([float(getattr(pool, name)) for pool in listed]), each)
        for name in ("tp", "pp", "dp", "ep")
    }
    return Shard(**columns)


def _prefill(question: Question, setting: Setting, listed: list[Pool]) -> tuple[F8, F8]:
    """Requests per second of each layout that only prefills, within the limit on TTFT; and its batch (1)."""
    mix = question.mix
    budget = np.array([float(pool.max_batch_tokens) for pool in listed])
    piece = np.minimum(mix.isl_sized, budget)
    zero = np.zeros_like(piece)
    steps = Steps(
        tokens=piece, decode_seqs=zero, decode_context=zero, prefill_pairs=mix.pairs * piece / mix.isl, chunks=zero + 1
    )
    whole = step_time(setting, _shards(listed, 1), steps).total[0] * mix.isl / piece
    long = min(max(mix.isl_p90 / mix.isl, 1.0), 4.0)
    base = float(setting.parameters.first_token_s[0, 0]) + long * whole
    room = np.full_like(whole, np.inf)
    for key, limit in question.slo.items():
        metric, _, stat = key.partition("_")
        if metric == "ttft":
            room = np.minimum(room, (limit - base) / TTFT_WAIT[stat])
    wait = np.where(np.isfinite(room), np.maximum(room, 0.0), 1e9)  # without a limit any wait will do
    ahead = whole * mix.isl_sized / mix.isl  # M/G/1: the prompt that one waits for is a long one
    share = np.where(room > 0, np.minimum(2.0 * wait / (2.0 * wait + ahead), 0.95), 0.0)
    engines = np.array([float(pool.dp * pool.pp) for pool in listed])
    held = _tokens(question, setting, listed, 1)
    return np.where(held >= mix.longest, share / whole * engines, 0.0), np.ones_like(whole)


def _decode(question: Question, setting: Setting, listed: list[Pool]) -> tuple[F8, F8]:
    """Requests per second of each layout that only decodes, within the limit on TPOT; and its batch."""
    mix, q = question.mix, float(question.decode_tokens)
    n = np.tile(BATCHES, len(listed))
    zero = np.zeros_like(n)
    steps = Steps(
        tokens=n * q, decode_seqs=n, decode_context=n * mix.context, prefill_pairs=zero, chunks=zero, decode_tokens=q
    )
    shard = _shards(listed, len(BATCHES))
    step = step_time(setting, shard, steps).total[0]
    accepted = 1.0 + question.accept
    good = np.ones(n.shape, dtype=bool)
    for key, limit in question.slo.items():
        metric, _, stat = key.partition("_")
        if metric in ("tpot", "itl"):
            good &= step / accepted * (1.0 + 0.04 * NORMAL[stat]) <= limit
    held = np.repeat(_tokens(question, setting, listed, 1), len(BATCHES))
    good &= (held >= n * mix.context) & (held >= mix.longest)
    rate = np.where(good, n * accepted / max(mix.osl - 1.0, 1e-6) / step, 0.0) * shard.dp * shard.pp
    table = rate.reshape(len(listed), len(BATCHES))
    at = table.argmax(axis=1)
    return table.max(axis=1), BATCHES[at]


def _tokens(question: Question, setting: Setting, listed: list[Pool], each: int) -> F8:
    """KV tokens of one virtual engine of each layout."""
    size = len(listed) * each
    table = memory_table(
        setting.model, setting.precision, _shards(listed, each), setting.device,
        context_tokens=np.full(size, question.mix.context), mtp=question.decode_tokens > 1,
        max_batch_tokens=np.repeat([float(pool.max_batch_tokens) for pool in listed], each),
        reserve_share=np.full(size, float(np.median(setting.parameters.memory_reserve))),
    )  # fmt: skip
    return table["kv_capacity_tokens"] / np.repeat([float(pool.pp) for pool in listed], each)


def _ratio(first: float, second: float) -> tuple[int, int]:
    """Small whole numbers of replicas whose rates match best; fewer replicas win near ties."""
    pairs = [(x, y) for x in range(1, MOST_SIDE + 1) for y in range(1, MOST_SIDE + 1) if x + y <= MOST_RATIO]

    def waste(pair: tuple[int, int]) -> float:
        a, b = pair[0] * first, pair[1] * second
        return 1.0 - min(a, b) / max(a, b) + 0.01 * sum(pair)

    return min(pairs, key=waste)


def _transfer(question: Question, first: _Option, second: _Option) -> tuple[float, float]:
    """Seconds per token, and of a mean request, to move the cache from one replica to the other.

    The slower network of the two sides, all devices of the smaller replica at once.
    """
    sides = ((first.setting, first.pool), (second.setting, second.pool))
    network = min(
        setting.device.fabric.scaleout_bytes_per_s * min(first.pool.devices, second.pool.devices)
        for setting, _ in sides
    )
    one = msgspec.structs.replace(second.pool, tp=1, pp=1, dp=1, ep=1)
    context = np.array([max(question.mix.isl, 1.0)])
    held = kv_bytes_per_sequence(question.model, second.setting.precision, shard_of(one, 1), context)
    per_token = float(held[0] / context[0]) / max(network * TRANSFER_EFFICIENCY, 1.0)
    return per_token, TRANSFER_BASE_S + per_token * question.mix.isl
