"""Mix: what of a workload's requests the closed form needs, and streams of requests at any rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.serve import Requests

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
JITTER_S = 60.0
"""Copies of a request fall into the same minute, not the same second. Assumed."""

MANY_EPOCHS = 20
MOST_COPIES = 4


class Mix(Record):
    """Lengths of a workload's requests.

    Attributes:
        isl, osl: mean tokens.
        isl_sized: mean input length weighted by itself: the prompt that a random prefill token belongs to.
        isl_p90: 90th percentile of the input length.
        osl_p25: 25th percentile of the output length.
        context: mean tokens in the cache of a decoding sequence, weighted by time in decode.
        pairs: mean (query, context) pairs of one prefill.
        longest: input plus output that all but one in a thousand requests stay below.
        requests: how many there are.
    """

    isl: float
    osl: float
    isl_sized: float
    isl_p90: float
    osl_p25: float
    context: float
    pairs: float
    longest: int
    requests: int


def mix_of(requests: Requests, *, context_limit: int = 0) -> Mix:
    """The mix of the requests that the model's context takes (all where the limit is 0)."""
    if context_limit:
        inside = requests.isl_tokens + requests.osl_tokens <= context_limit
        requests = requests.take(inside) if inside.any() else requests
    isl = requests.isl_tokens.astype(np.float64)
    osl = requests.osl_tokens.astype(np.float64)
    return Mix(
        isl=float(isl.mean()), osl=float(osl.mean()),
        isl_sized=float((isl * isl).sum() / isl.sum()), isl_p90=float(np.quantile(isl, 0.9)),
        osl_p25=float(np.quantile(osl, 0.25)),
        context=float((osl * (isl + osl / 2.0)).sum() / max(osl.sum(), 1.0)),
        pairs=float((isl * (isl + 1.0) / 2.0).mean()), longest=int(np.quantile(isl + osl, 0.999)),
        requests=len(requests),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Makes the request stream of one or a few replicas at a stated rate, out of one set of requests.

    A trace keeps its clock. The whole demand is the trace ``copies`` times over: each copy of a request comes within
    ``JITTER_S`` of the original, because other users do the same things in the same minute but not in the same
    second; up to one copy the trace is taken as it is. A few replicas, to which a router deals in turn, see a random
    share of that. Requests whose prompts
    share prefixes keep their order instead, and the clock is stretched, because thinning would break the
    conversations that the prefix cache lives on.

    Attributes:
        requests: the trace or the synthetic requests.
        seed: of shares and shifts.
        demand: requests per second of the whole demand that the replica takes a share of; 0 is the trace's own rate.
    """

    requests: Requests
    seed: int
    demand: float = 0.0

    @property
    def span_s(self) -> float:
        """Duration of the source, its last gap included."""
        n = len(self.requests)
        return float(self.requests.arrival_s[-1] - self.requests.arrival_s[0]) * n / (n - 1) if n > 1 else 0.0

    def copies(self, rate: float) -> int:
        """How many replicas of a rate are looked at together: of the demand's, at most a few.

        One replica alone would get its requests at random and look burstier than any router makes it, the more so
        the smaller it is. Conversations keep to their replica.
        """
        if self.requests.hash_ids is not None or rate <= 0.0:
            return 1
        return max(1, min(MOST_COPIES, int(self.demand / rate + 0.5)))

    @property
    def rate(self) -> float:
        """Mean requests per second of the source."""
        return len(self.requests) / self.span_s if self.span_s > 0 else 1.0

    def at(self, rate: float, *, most: int) -> Requests:
        """About ``most`` requests at ``rate`` per second."""
        source = self.requests
        if source.hash_ids is not None or len(source) < 2 or self.span_s <= 0:
            part = source.take(np.arange(min(most, len(source))))
            when = spread(part.arrival_s)
            start = when[0] if len(part) else 0.0
            own = (len(part) - 1) / max(float(when[-1] - start), 1e-9) if len(part) > 1 else rate
            return replace(part, arrival_s=(when - start) * (own / rate))
        return self._share(rate, most)

    def _share(self, rate: float, most: int) -> Requests:
        source, n, span = self.requests, len(self.requests), self.span_s
        if most > MANY_EPOCHS * rate * span:
            return self._sparse(rate, most)
        epochs = max(1, int(np.ceil((1.05 * most + 4.0 * np.sqrt(most) + 8.0) / (rate * span))))
        jitter = JITTER_S if max(self.demand, rate) > 1.01 * self.rate else 0.0
        original = source.arrival_s - source.arrival_s[0]
        times: list[F8] = []
        picks: list[npt.NDArray[np.int64]] = []
        for epoch in range(epochs):
            chance = _uniform(self.seed, "share", epoch, 0, n)
            # a Poisson number of copies of each request is a random share of very many; the same chance at every
            # rate, so that a higher rate only adds requests and two rates can be compared
            some, each = _poisson(rate / self.rate, chance) if jitter else _thinned(rate / self.rate, chance)
            for copy in range(int(each.max(initial=0))):
                pick = some[each > copy]
                shift = _uniform(self.seed, "shift", epoch, copy, n)[pick] - 0.5
                times.append((original[pick] + shift * jitter) % span + epoch * span)
                picks.append(pick)
        if not times:
            return source.take(np.zeros(0, dtype=np.int64))
        when, which = np.concatenate(times), np.concatenate(picks)
        order = np.argsort(when, kind="stable")[: max(most, 1)]
        pick, when = which[order], when[order]
        return Requests(
            arrival_s=when - (when[0] if len(when) else 0.0), isl_tokens=source.isl_tokens[pick],
            osl_tokens=source.osl_tokens[pick],
        )  # fmt: skip

    def _sparse(self, rate: float, most: int) -> Requests:
        """Few requests from each of very many passes through the source: times and requests are drawn at random.

        The same draws at every rate, so that a lower rate is the same stream further apart.
        """
        source, n, span = self.requests, len(self.requests), self.span_s
        rng = np.random.default_rng(derive_seed(self.seed, "sparse"))
        pick = rng.integers(0, n, most)
        passes = most / (rate * span)
        when = (np.floor(rng.random(most) * passes) + (source.arrival_s[pick] - source.arrival_s[0]) / span) * span
        order = np.argsort(when, kind="stable")
        pick, when = pick[order], when[order]
        return Requests(
            arrival_s=when - when[0], isl_tokens=source.isl_tokens[pick], osl_tokens=source.osl_tokens[pick]
        )


@lru_cache(maxsize=128)
def _uniform(seed: int, name: str, epoch: int, copy: int, n: int) -> F8:
    """Uniform draws of a stream, the same at every rate; kept, because a search asks for them at many rates. [n]"""
    names: tuple[str | int, ...] = (name, epoch) if name == "share" else (name, epoch, copy)
    draws = np.random.default_rng(derive_seed(seed, *names)).random(n)
    draws.flags.writeable = False
    return draws


def _poisson(mean: float, chance: F8) -> tuple[I8, I8]:
    """Poisson counts with a mean, by inversion of uniform numbers; they grow with the mean. Places above 0, and their counts."""
    most = int(mean + 10.0 * np.sqrt(mean) + 20.0)
    log_terms = (
        np.arange(most + 1) * np.log(max(mean, 1e-300)) - mean - np.cumsum(np.log(np.maximum(np.arange(most + 1), 1)))
    )
    below = np.cumsum(np.exp(log_terms))
    some = np.flatnonzero(chance > below[0])  # most are 0 where a replica sees a small share
    return some, np.searchsorted(below, chance[some]).astype(np.int64)


def _thinned(share: float, chance: F8) -> tuple[I8, I8]:
    """Places that are kept, once each."""
    some = np.flatnonzero(chance < share)
    return some, np.ones(len(some), dtype=np.int64)


def tick_of(arrival_s: F8) -> float:
    """Tick of a trace's clock, where most requests share their time stamp with another one; else 0. Seconds."""
    when, count = np.unique(arrival_s, return_counts=True)
    if len(when) < 3 or float(count[count > 1].sum()) <= 0.5 * len(arrival_s):
        return 0.0
    return float(np.quantile(np.diff(when), 0.1))


def spread(arrival_s: F8) -> F8:
    """Arrivals with those of one tick of a coarse clock spread evenly over it, in their order. [n]

    A replica that sees a share of the requests would otherwise get a whole tick's at one instant, however few it serves.
    """
    tick = tick_of(arrival_s)
    if tick <= 0.0:
        return arrival_s
    when, first, count = np.unique(arrival_s, return_index=True, return_counts=True)
    width = np.minimum(np.append(np.diff(when), tick), tick)
    place = np.arange(len(arrival_s)) - np.repeat(first, count)
    return arrival_s + np.repeat(width / count, count) * place


def peak_to_mean(requests: Requests, *, window_s: float = 60.0) -> float:
    """Peak of the arrival rate over its mean: the 99th percentile over windows of ``window_s`` of the trace."""
    if len(requests) < 2:
        return 1.0
    span = float(requests.arrival_s[-1] - requests.arrival_s[0])
    windows = int(span // window_s)
    if windows < 10:
        return 1.0
    edges = requests.arrival_s[0] + np.arange(windows + 1) * window_s
    counts = np.histogram(requests.arrival_s, bins=edges)[0]
    return float(max(np.quantile(counts, 0.99) / max(counts.mean(), 1e-9), 1.0))
