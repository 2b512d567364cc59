"""Sides: the layout of one chip that prefills or decodes best, by itself; and what it takes to hand a cache over."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.catalog import Catalog
from offramp.core.figure import Figure
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
from offramp.search.closed import BATCHES, NORMAL, TTFT_WAIT, read_between
from offramp.search.grid import candidate_engines, pools, speculations, weight_dtypes
from offramp.search.question import Question
from offramp.search.stacks import middle, with_room
from offramp.search.uncertain import FAR_BEHIND

F8 = npt.NDArray[np.float64]
Role = Literal["prefill", "decode"]
OTHERS: Final = 5
"""Other layouts of a side that a draw may take: so many that carry most, so many that are least strained."""
_ASSUMED: Final = dt.date(2026, 11, 23)
TRANSFER_SHARE: Final = Figure(
    value=0.7, unit="1", low=0.4, high=0.9, as_of=_ASSUMED, known=_ASSUMED, confidence="assumed",
    source="assumed: share of the slower network that a KV transfer reaches",
)  # fmt: skip
TRANSFER_BASE: Final = Figure(
    value=0.003, unit="s", low=0.001, high=0.01, as_of=_ASSUMED, known=_ASSUMED, confidence="assumed",
    source="assumed: set-up of one KV transfer",
)  # fmt: skip
CONVERSION: Final = Figure(
    value=20.0, unit="GB/s", low=5.0, high=100.0, as_of=_ASSUMED, known=_ASSUMED, confidence="assumed",
    source="assumed: cache that one server rewrites per second from the format of one engine and chip into another's",
    note="between unlike chips or engines the cache is taken through host memory and laid out anew; nothing public times it",
)  # fmt: skip
FIGURES: Final = {
    "search/kv-transfer-share": TRANSFER_SHARE, "search/kv-transfer-setup": TRANSFER_BASE,
    "search/kv-conversion-rate": CONVERSION,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Option:
    """The best layout of one side, and how it drafts.

    Attributes:
        rate: requests per second of one replica, closed form, middle parameters.
        draws: the same for each joint draw, in the layout that suits it. [draws]
        packages: chips as sold of one replica.
        per_server: torch devices of one server.
    """

    asked: Question
    pool: Pool
    setting: Setting
    rate: float
    draws: tuple[float, ...]
    packages: float
    per_server: int


class Transfer(Record):
    """What it takes to hand a KV cache from one replica to another.

    Attributes:
        bytes_per_token: of the cache.
        network_bytes_per_s: of the slower side, all devices of the smaller replica at once.
        converts: whether the cache is laid out anew because chips, engines or its precision differ.
        s_per_token, base_s: time of one transfer by prompt token, conversion included, and its set-up.
        mean_s, conversion_s: of a mean request, and the part of it that converting takes.
    """

    bytes_per_token: float
    network_bytes_per_s: float
    converts: bool
    s_per_token: float
    base_s: float
    mean_s: float
    conversion_s: float


def best_side(
    question: Question, chip_id: str, role: Role, *, catalog: Catalog, calibration: Calibration,
    as_of: dt.date | None = None,
) -> Option | None:  # fmt: skip
    """The layout of one side that carries most per device within its own limit; None where none keeps it."""
    chip = catalog.chip(chip_id)
    best: tuple[float, Question, Setting, list[Pool], F8, F8, int] | None = None
    for engine in candidate_engines(chip, question.limits):
        for dtype in weight_dtypes(question.limits):
            listed = pools(question.model, chip, catalog, question.limits, engine=engine, dtype=dtype)
            if role == "decode":  # which no token budget slows: one of each layout is enough
                listed = list({(pool.tp, pool.pp, pool.dp, pool.ep): pool for pool in reversed(listed)}.values())[::-1]
            if not listed:
                continue
            setting = build_setting(question.model, listed[0], catalog=catalog, calibration=calibration, as_of=as_of)
            drafts = (
                speculations(question.model, chip, catalog, engine, question.accept) if role == "decode" else (0.0,)
            )
            for asked in [replace(question, accept=accept) for accept in drafts]:
                rates, strain = _rates(asked, middle(setting), listed, role)
                each = rates[0] / _devices(listed)
                i = int(np.argmax(each))
                if each[i] > (best[0] if best else 0.0):
                    best = float(each[i]), asked, setting, listed, each, strain[0], i
    if best is None:
        return None
    value, asked, setting, listed, each, strain, i = best
    mid = middle(setting)
    pool = msgspec.structs.replace(with_room(asked, mid, listed[i]), role=role)
    draws = _by_draw(asked, setting, listed, role, each=each, strain=strain, chosen=i)
    system = catalog.system(pool.system) if pool.system else None
    return Option(
        asked=asked, pool=pool, setting=mid, rate=value * pool.devices, packages=pool.devices / chip.devices,
        draws=tuple((draws * pool.devices).tolist()),
        per_server=(system.packages_per_node if system else 1) * chip.devices,
    )  # fmt: skip


def _by_draw(
    question: Question, setting: Setting, listed: list[Pool], role: Role, *, each: F8, strain: F8, chosen: int
) -> F8:  # fmt: skip
    """Requests per second of one device for each draw: the chosen layout, or where that falls far behind the best. [draws]

    The others are those that carry most at the middle, and those that are least strained there.
    """
    some = [listed[chosen]]
    for order in (np.argsort(-each, kind="stable"), np.argsort(strain, kind="stable")):
        unlike: dict[tuple[int, int, int, int], Pool] = {}
        for i in order.tolist():
            pool = listed[i]
            unlike.setdefault((pool.tp, pool.pp, pool.dp, pool.ep), pool)
        some += list(unlike.values())[:OTHERS]
    rates = _rates(question, setting, some, role)[0] / _devices(some)
    best = rates.max(axis=1)
    return np.where(rates[:, 0] >= FAR_BEHIND * best, rates[:, 0], best)


def _rates(question: Question, setting: Setting, listed: list[Pool], role: Role) -> tuple[F8, F8]:
    """Requests per second of each layout, 0 where it keeps no limit or does not fit; and its least strain. [draws, layouts]"""
    return (_prefill if role == "prefill" else _decode)(question, setting, listed)


def _devices(listed: list[Pool]) -> F8:
    return np.array([float(pool.devices) for pool in listed])


def _shards(listed: list[Pool], each: int) -> Shard:
    columns = {
        name: np.repeat(np.array([float(getattr(pool, name)) for pool in listed]), each)
        for name in ("tp", "pp", "dp", "ep")
    }
    return Shard(**columns)


def _prefill(question: Question, setting: Setting, listed: list[Pool]) -> tuple[F8, F8]:
    """Requests per second and least strain of each layout that only prefills, within the limit on TTFT. [draws, layouts]"""
    mix = question.mix
    budget = np.array([float(pool.max_batch_tokens) for pool in listed])
    piece = np.minimum(mix.isl_sized, budget)
    zero = np.zeros_like(piece)
    steps = Steps(
        tokens=piece, decode_seqs=zero, decode_context=zero, prefill_pairs=mix.pairs * piece / mix.isl, chunks=zero + 1
    )
    whole = step_time(setting, _shards(listed, 1), steps).total * mix.isl / piece
    long = min(max(mix.isl_p90 / mix.isl, 1.0), 4.0)
    first = setting.parameters.first_token_s + setting.parameters.prompt_token_s * mix.isl
    base = first + long * whole
    room, strain = np.full_like(whole, np.inf), np.zeros_like(whole)
    for key, limit in question.slo.items():
        metric, _, stat = key.partition("_")
        if metric == "ttft":
            room = np.minimum(room, (limit - base) / TTFT_WAIT[stat])
            strain = np.maximum(strain, base / limit)
    wait = np.where(np.isfinite(room), np.maximum(room, 0.0), 1e9)  # without a limit any wait will do
    ahead = whole * mix.isl_sized / mix.isl  # M/G/1: the prompt that one waits for is a long one
    share = np.where(room > 0, np.minimum(2.0 * wait / (2.0 * wait + ahead), 0.95), 0.0)
    engines = np.array([float(pool.dp * pool.pp) for pool in listed])
    fits = _tokens(question, setting, listed) >= mix.longest
    return np.where(fits, share / whole * engines, 0.0), np.where(fits, strain, np.inf)


def _decode(question: Question, setting: Setting, listed: list[Pool]) -> tuple[F8, F8]:
    """Requests per second and least strain of each layout that only decodes, within the limit on TPOT. [draws, layouts]"""
    mix, q = question.mix, float(question.decode_tokens)
    n = np.tile(BATCHES, len(listed))
    zero = np.zeros_like(n)
    steps = Steps(
        tokens=n * q, decode_seqs=n, decode_context=n * mix.context, prefill_pairs=zero, chunks=zero, decode_tokens=q
    )
    shard = _shards(listed, len(BATCHES))
    step = step_time(setting, shard, steps).total
    accepted = 1.0 + question.accept
    strain = np.zeros_like(step)
    for key, limit in question.slo.items():
        metric, _, stat = key.partition("_")
        if metric in ("tpot", "itl"):
            strain = np.maximum(strain, step / accepted * (1.0 + 0.04 * NORMAL[stat]) / limit)
    held = np.repeat(_tokens(question, setting, listed), len(BATCHES))
    strain = np.where((held >= n * mix.context) & (held >= mix.longest), strain, np.inf)
    rate = n * accepted / max(mix.osl - 1.0, 1e-6) / step * shard.dp * shard.pp
    shape = (step.shape[0], len(listed), len(BATCHES))
    rates, least = read_between(strain.reshape(shape), rate.reshape(shape))
    return np.where(least <= 1.0, rates, 0.0), least


def _tokens(question: Question, setting: Setting, listed: list[Pool]) -> F8:
    """KV tokens of one virtual engine of each layout."""
    size = len(listed)
    table = memory_table(
        setting.model, setting.precision, _shards(listed, 1), setting.device,
        context_tokens=np.full(size, question.mix.context), mtp=question.decode_tokens > 1,
        max_batch_tokens=np.array([float(pool.max_batch_tokens) for pool in listed]),
        reserve_share=np.full(size, float(np.median(setting.parameters.memory_reserve))),
    )  # fmt: skip
    return table["kv_capacity_tokens"] / np.array([float(pool.pp) for pool in listed])


def transfer(question: Question, first: Option, second: Option) -> Transfer:
    """What it takes to hand a request's cache from a prefill replica to a decode replica.

    The slower network of the two sides, all devices of the smaller replica at once. Between unlike chips, engines or
    precisions of the cache it is also laid out anew, by the servers of the smaller replica.
    """
    sides = (first, second)
    smaller = min(sides, key=lambda one: one.pool.devices)
    network = min(one.setting.device.fabric.scaleout_bytes_per_s for one in sides) * smaller.pool.devices
    context = np.array([max(question.mix.isl, 1.0)])
    per_token = max(float(_cache_bytes(one, context)[0] / context[0]) for one in sides)
    converts = len({(one.pool.chip, one.pool.engine, one.setting.precision.kv) for one in sides}) > 1
    servers = smaller.pool.devices / smaller.per_server
    convert = per_token / (CONVERSION.si * servers) if converts else 0.0
    each = per_token / max(network * TRANSFER_SHARE.value, 1.0) + convert
    return Transfer(
        bytes_per_token=per_token, network_bytes_per_s=network, converts=converts, s_per_token=each,
        base_s=TRANSFER_BASE.si, mean_s=TRANSFER_BASE.si + each * question.mix.isl, conversion_s=convert * question.mix.isl,
    )  # fmt: skip


def _cache_bytes(side: Option, context: F8) -> F8:
    """Bytes of one sequence's cache over all ranks, each head once."""
    one = msgspec.structs.replace(side.pool, tp=1, pp=1, dp=1, ep=1)
    return kv_bytes_per_sequence(side.asked.model, side.setting.precision, shard_of(one, 1), context)
