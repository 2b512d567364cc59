"""Tune: simulate one replica on the traffic, and bisect the rate to the highest that meets the SLO."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np

from offramp.core.errors import InfeasibleError
from offramp.core.record import Record
from offramp.cost import Pool, Setting, StepTable, step_table
from offramp.search.busy import load_at
from offramp.search.mix import Mix, Stream
from offramp.serve import PoolSpec, ServeConfig, ServeMetrics, simulate

RUNG: Final = 1.02
"""Rates that are simulated are whole powers of this, so that neighbouring questions ask for the same ones."""
STRIDE: Final = 8
"""Rungs between rates that are simulated as a rule, all of them multiples of it; latencies in between are read off, in
logarithms."""
STEEP: Final = 2.0
"""Where latencies grow by more than this factor from one rate to the next, the rates between them are simulated too.
With less, reading off is good to two percent of the rate for a queue that grows as 1 / (1 - load), and to less than the
sampling error of a simulated percentile."""
ROUNDING: Final = 1e-6
REFUSED_SHARE: Final = 0.001
"""A layout that must refuse more of the requests than this, for want of cache, does not carry the workload."""
NEAR: Final = 1.15
"""Latencies within this factor of their limit are near it: the first stride is a short one."""
FARTHEST: Final = 8
HOPELESS: Final = 1 / 400
"""A layout that does not keep its limits at this share of its closed-form rate counts as one that never does."""


class Felt(Record):
    """What users feel at one rate; seconds. None where the deployment is unstable.

    Attributes:
        rate: requests per second of one replica.
        stable: whether the queue stays bounded.
        headroom: saturated rate over this rate.
        latency: by "ttft_p90", "tpot_mean" ...
        batch, kv_share, busy: means of the busiest pool.
        preemptions, refused: counts.
        output_tokens_per_s: of one replica.
    """

    rate: float
    stable: bool
    headroom: float | None
    latency: dict[str, float]
    batch: float
    kv_share: float
    busy: float
    preemptions: int
    refused: int
    refused_context: int
    output_tokens_per_s: float
    input_tokens_per_s: float
    prefix_hit: float

    def strain(self, slo: Mapping[str, float]) -> float:
        """The largest latency over its limit; infinite where the queue grows, 0 without limits."""
        if not self.stable:
            return math.inf
        return max((self.latency.get(key, math.inf) / limit for key, limit in slo.items()), default=0.0)

    def meets(self, slo: Mapping[str, float]) -> bool:
        """Whether every limit is kept."""
        return self.strain(slo) <= 1.0


STATS = ("mean", "p50", "p90", "p95", "p99")


def felt_of(metrics: ServeMetrics, rate: float, copies: int = 1) -> Felt:
    """The part of the simulator's metrics that an assessment keeps, for one of several replicas."""
    latency: dict[str, float] = {}
    for name in ("ttft", "tpot", "itl", "e2e"):
        values = getattr(metrics, f"{name}_s")
        if values is not None:
            latency |= {f"{name}_{stat}": float(getattr(values, stat)) for stat in STATS}
    return Felt(
        rate=rate, stable=metrics.stable, headroom=metrics.headroom, latency=latency, batch=metrics.mean_batch,
        kv_share=metrics.kv_mean, busy=metrics.utilisation, preemptions=metrics.preemptions,
        refused=metrics.rejected.get("kv-capacity", 0) + metrics.rejected.get("no-pool", 0),
        refused_context=metrics.rejected.get("context", 0),
        output_tokens_per_s=metrics.output_tokens_per_s / copies, prefix_hit=metrics.prefix_hit,
        input_tokens_per_s=(metrics.total_tokens_per_s - metrics.output_tokens_per_s) / copies,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One replica of a layout at one set of parameters, ready to be loaded.

    Attributes:
        setting: with exactly one draw.
        pool: layout.
        mix: lengths.
        context_limit: longest context that the model takes; 0 is no limit.
        decode_tokens, accept_tokens: speculation.
    """

    setting: Setting
    pool: Pool
    mix: Mix
    context_limit: int = 0
    decode_tokens: int = 1
    accept_tokens: float = 1.0

    def table(self) -> StepTable:
        """Step costs for the simulator."""
        made = step_table(
            self.setting, self.pool, draw=0, mean_context=max(self.mix.context, 16.0),
            decode_tokens=self.decode_tokens, accept_tokens=self.accept_tokens,
        )  # fmt: skip
        return replace(made, context_tokens=self.context_limit)


def unserved(rate: float) -> Felt:
    """What users feel of a layout that cannot hold their requests."""
    return Felt(
        rate=rate, stable=False, headroom=0.0, latency={}, batch=0.0, kv_share=0.0, busy=0.0, preemptions=0, refused=0,
        refused_context=0, output_tokens_per_s=0.0, input_tokens_per_s=0.0, prefix_hit=0.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part:
    """Replicas that serve together with others.

    Attributes:
        replica: one of them.
        role, replicas, transfer_s_per_token, transfer_base_s: as of :class:`~offramp.serve.PoolSpec`.
    """

    replica: Replica
    role: Literal["prefill", "decode"]
    replicas: int
    transfer_s_per_token: float = 0.0
    transfer_base_s: float = 0.0

    def spec(self) -> PoolSpec:
        """As the simulator takes it."""
        return PoolSpec(
            table=self.replica.table(), role=self.role, replicas=self.replicas, name=self.role,
            transfer_s_per_token=self.transfer_s_per_token, transfer_base_s=self.transfer_base_s,
        )  # fmt: skip


Served = StepTable | Replica | Sequence[Part]
"""What serves. Of replicas the step costs are worked out only when a point is not known yet."""


def _specs(served: Served, copies: int) -> list[PoolSpec]:
    if isinstance(served, Replica):
        served = served.table()
    if isinstance(served, StepTable):
        return [PoolSpec(table=served, replicas=copies)]
    return [part.spec() for part in served]


def feel(
    served: Served | Sequence[PoolSpec], stream: Stream, rate: float, *, most: int, prefix: bool = False, copies: int = 1
) -> Felt:  # fmt: skip
    """What users of one replica (or of a few pools together) feel at a rate.

    Args:
        served: a replica or its step costs, or pools that serve together.
        stream: where requests come from.
        rate: requests per second.
        most: how many requests are measured.
        prefix: whether prompts share cached prefixes.
        copies: replicas side by side, to which requests are dealt in turn; the rate is that of one.
    """
    ready = isinstance(served, Sequence) and all(isinstance(spec, PoolSpec) for spec in served)
    specs = cast("Sequence[PoolSpec]", served) if ready else _specs(cast("Served", served), copies)
    load = load_at(stream, specs, rate * copies, measured=most)
    several = sum(spec.replicas for spec in specs) > len(specs) or any(spec.table.virtual_engines > 1 for spec in specs)
    config = ServeConfig(
        warmup=load.warmup, cooldown=load.cooldown, prefix_cache=prefix, estimate_capacity=False,
        router="prefix-aware" if prefix and several else "round-robin", serial_link=len(specs) > 1,
    )  # fmt: skip
    return felt_of(simulate(specs, load.requests, config=config), rate, copies)


@dataclass(frozen=True)
class Points:
    """What was simulated before, by step table and rung: an edited question computes only what it has not seen.

    Attributes:
        known: by :meth:`key` and rung; None where the deployment serves nothing.
        seen: those that were asked for.
    """

    known: dict[str, dict[int, Felt | None]] = field(default_factory=dict)
    seen: dict[str, dict[int, Felt | None]] = field(default_factory=dict)

    @staticmethod
    def key(served: Served, *, most: int, prefix: bool, copies: int) -> str:
        """The address of a curve; the stream of requests is that of all points together."""
        digest = hashlib.blake2b(f"{most} {prefix} {copies}".encode(), digest_size=12)
        _feed(digest, served)
        return digest.hexdigest()

    def at(self, key: str, rung: int, compute: Callable[[], Felt | None]) -> Felt | None:
        """The point, found or computed."""
        curve = self.known.setdefault(key, {})
        if rung not in curve:
            curve[rung] = compute()
        self.seen.setdefault(key, {})[rung] = curve[rung]
        return curve[rung]


def _feed(digest: Any, value: object) -> None:
    """Feeds all that decides a deployment's step costs to a digest, field by field."""
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, msgspec.Struct):
        digest.update(msgspec.msgpack.encode(value, order="sorted"))
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            digest.update(f"\x1f{item.name}=".encode())
            _feed(digest, getattr(value, item.name))
    elif isinstance(value, (list, tuple)):
        for item in cast("Sequence[object]", value):
            digest.update(b"\x1e")
            _feed(digest, item)
    elif isinstance(value, (dict, frozenset)):
        items = value.items() if isinstance(value, dict) else cast("frozenset[object]", value)
        _feed(digest, sorted(items, key=repr))
    elif value is None or isinstance(value, (str, int, float, bool, dt.date)):
        digest.update(repr(value).encode())
    else:
        raise TypeError(type(value))


def rung_of(rate: float) -> int:
    """The rung nearest to a rate, among those that are simulated as a rule."""
    return STRIDE * round(_height(rate) / STRIDE)


def _height(rate: float) -> float:
    return math.log(rate) / math.log(RUNG)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What users of a deployment feel over its rate: simulated at rungs, read off between them.

    Attributes:
        served, stream, most, prefix, copies: as of :func:`feel`.
        points: what was simulated before with this stream.
    """

    served: Served
    stream: Stream
    most: int
    prefix: bool = False
    copies: int = 1
    points: Points = field(default_factory=Points)

    @cached_property
    def key(self) -> str:
        """Address of the curve among the points."""
        return Points.key(self.served, most=self.most, prefix=self.prefix, copies=self.copies)

    @cached_property
    def _ready(self) -> list[PoolSpec]:
        return _specs(self.served, self.copies)

    def at(self, rung: int) -> Felt | None:
        """Simulated at a rung; None where nothing is served."""
        return self.points.at(self.key, rung, lambda: self._simulated(rung))

    def _simulated(self, rung: int) -> Felt | None:
        try:
            return feel(self._ready, self.stream, RUNG**rung, most=self.most, prefix=self.prefix, copies=self.copies)
        except InfeasibleError:
            return None

    def read(self, rate: float) -> Felt:
        """What users feel at any rate, read off between two rungs; near saturation simulated at the next rung above."""
        height = _height(rate)
        below = STRIDE * math.floor(height / STRIDE + 1e-9)
        low = self.at(below)
        if low is None:
            return unserved(rate)
        if not low.stable or abs(height - below) < 1e-6:
            return msgspec.structs.replace(low, rate=rate)
        high = self.at(below + STRIDE)
        if high is not None and high.stable and _steepness(low, high) <= STEEP:
            return between(low, high, rate)
        near = self.at(math.ceil(height - 1e-9))
        return msgspec.structs.replace(near, rate=rate) if near is not None else unserved(rate)


def _steepness(low: Felt, high: Felt) -> float:
    """The largest factor between the latencies of two points."""
    both = [(value, high.latency.get(key, math.inf)) for key, value in low.latency.items() if value > 0.0]
    return max((above / value for value, above in both), default=1.0)


def between(low: Felt, high: Felt, rate: float) -> Felt:
    """What users feel at a rate between two simulated ones: latencies as powers of the rate, the rest in proportion."""
    share = math.log(rate / low.rate) / math.log(high.rate / low.rate)

    def mean(name: str) -> float:
        return (1.0 - share) * getattr(low, name) + share * getattr(high, name)

    latency = {
        key: value * (high.latency[key] / value) ** share if value > 0.0 else 0.0
        for key, value in low.latency.items() if key in high.latency
    }  # fmt: skip
    floats = ("batch", "kv_share", "busy", "output_tokens_per_s", "input_tokens_per_s", "prefix_hit")
    counts = ("preemptions", "refused", "refused_context")
    known = low.headroom is not None and high.headroom is not None
    return Felt(
        rate=rate, stable=low.stable and high.stable, headroom=mean("headroom") if known else None, latency=latency,
        **{name: mean(name) for name in floats}, **{name: round(mean(name)) for name in counts},
    )  # fmt: skip


def highest_rate(
    curve: Curve, slo: Mapping[str, float], *, guess: float, give_up: bool = False
) -> tuple[float, Felt | None]:
    """The highest rate at which one replica keeps the SLO, and what users feel there; 0 and None where there is none.

    Without an SLO the highest stable rate is taken. From the guess the search leaps up or down to where the limit seems to
    lie, until limits are kept at one rung and broken at another; it closes in from how far each is off, and reads off
    where between neighbours the limit lies. What it asks for depends on the guess and the limits only, never on what
    is known.

    Args:
        curve: what users of the deployment feel over its rate.
        slo: limits by "ttft_p90" ...
        guess: where to begin, in requests/s.
        give_up: rates below the guess are of no interest: the search begins just below it, and ends where limits break there.
    """
    allowed = REFUSED_SHARE * max(min(curve.most, len(curve.stream.requests)), 1)

    def tried(rung: int) -> _Tried:
        found = curve.at(rung)
        if found is None or found.refused > allowed:
            return _Tried(rung, math.inf, None)
        return _Tried(rung, found.strain(slo), found)

    guess = max(guess, 1e-6)
    first = STRIDE * math.floor(_height(guess) / STRIDE) if give_up else rung_of(guess)
    least = first if give_up else first + STRIDE * round(_height(HOPELESS) / STRIDE)
    low, high = _bracket(tried, first, least)
    if low is None or low.felt is None:
        return 0.0, None
    while (width := high.rung - low.rung) > 1:
        if width <= STRIDE and high.felt is not None and high.strain <= STEEP * low.strain:
            return _crossing(low, high)
        middle = tried(_between(low, high))
        low, high = (middle, high) if middle.strain <= 1.0 else (low, middle)
    assert low.felt is not None
    return RUNG**low.rung, low.felt


@dataclass(frozen=True)
class _Tried:
    """A rung, the largest of its latencies over their limits (infinite where unstable), and what users feel."""

    rung: int
    strain: float
    felt: Felt | None


def _share(low: _Tried, high: _Tried) -> float:
    """How far from the lower to the higher rung the limit lies, if strain grows as a power of the rate."""
    if low.strain <= 0.0 or not math.isfinite(high.strain):
        return 0.5
    return -math.log(low.strain) / (math.log(high.strain) - math.log(low.strain))


def _crossing(low: _Tried, high: _Tried) -> tuple[float, Felt | None]:
    """The rate at which the limit is reached between two neighbours, and what users feel there."""
    assert low.felt is not None
    assert high.felt is not None
    share = _share(low, high) * (1.0 - ROUNDING)  # the limit is kept, not met to the last digit from above
    rate = RUNG ** (low.rung + (high.rung - low.rung) * share)
    return rate, between(low.felt, high.felt, rate)


def _between(low: _Tried, high: _Tried) -> int:
    """The rung to try next: a multiple of the stride where the limit seems to lie; the middle of neighbours."""
    width = high.rung - low.rung
    if width <= STRIDE:
        return low.rung + width // 2
    strides = width // STRIDE
    return low.rung + STRIDE * min(max(round(_share(low, high) * strides), 1), strides - 1)


def _bracket(tried: Callable[[int], _Tried], first: int, least: int) -> tuple[_Tried | None, _Tried]:
    """A rung that keeps the limits (None: there is none) and a higher one that does not; all multiples of the stride."""
    here = tried(first)
    step = STRIDE if 1.0 / NEAR < here.strain < NEAR else 2 * STRIDE
    if here.strain <= 1.0:
        while True:
            there = tried(here.rung + step)
            if there.strain > 1.0:
                return here, there
            step, here = _leap(here, there), there
    while here.rung > least:
        there = tried(max(here.rung - step, least))
        if there.strain <= 1.0:
            return there, here
        step, here = _leap(here, there), there
    return None, here


def _leap(here: _Tried, there: _Tried) -> int:
    """Rungs from the second point to just beyond where the limit lies on the line through both; at most eight times as far
    as they are apart.
    """
    apart = abs(there.rung - here.rung)
    if not (math.isfinite(here.strain) and math.isfinite(there.strain)) or min(here.strain, there.strain) <= 0.0:
        return 2 * apart
    gain = math.log(here.strain) - math.log(there.strain)
    if abs(math.log(there.strain)) >= abs(math.log(here.strain)) or gain == 0.0:
        return FARTHEST * apart
    strides = math.ceil(abs(math.log(there.strain) / gain) * apart / STRIDE)
    return min(max(strides, 1) * STRIDE, FARTHEST * apart)
