"""Mix: what of a workload's requests the closed form needs, and streams of requests at any rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.serve import Requests


class Mix(Record):
    """Lengths of a workload's requests.

    Attributes:
        isl, osl: mean tokens.
        isl_p90: 90th percentile of the input length.
        context: mean tokens in the cache of a decoding sequence, weighted by time in decode.
        pairs: mean (query, context) pairs of one prefill.
        longest: input plus output that all but one in a thousand requests stay below.
        requests: how many there are.
    """

    isl: float
    osl: float
    isl_p90: float
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
        isl=float(isl.mean()), osl=float(osl.mean()), isl_p90=float(np.quantile(isl, 0.9)),
        context=float((osl * (isl + osl / 2.0)).sum() / max(osl.sum(), 1.0)),
        pairs=float((isl * (isl + 1.0) / 2.0).mean()), longest=int(np.quantile(isl + osl, 0.999)),
        requests=len(requests),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Makes request streams of a stated mean rate out of one set of requests.

    A trace keeps its clock: a lower rate thins it at random, a higher one lays shifted copies over one another, so
    that bursts last as long as they did. Requests whose prompts share prefixes keep their order instead, and the
    clock is stretched, because thinning would break the conversations that the prefix cache lives on.

    Attributes:
        requests: the trace or the synthetic requests.
        seed: of thinning and shifts.
    """

    requests: Requests
    seed: int

    @property
    def rate(self) -> float:
        """Mean requests per second of the source."""
        span = float(self.requests.arrival_s[-1] - self.requests.arrival_s[0]) if len(self.requests) > 1 else 0.0
        return (len(self.requests) - 1) / span if span > 0 else 1.0

    def at(self, rate: float, *, most: int) -> Requests:
        """About ``most`` requests at ``rate`` per second."""
        source = self.requests
        if source.hash_ids is not None or len(source) < 2:
            part = source.take(np.arange(min(most, len(source))))
            start = part.arrival_s[0] if len(part) else 0.0
            own = (len(part) - 1) / max(float(part.arrival_s[-1] - start), 1e-9) if len(part) > 1 else rate
            return replace(part, arrival_s=(part.arrival_s - start) * (own / rate))
        return self._resampled(rate, most)

    def _resampled(self, rate: float, most: int) -> Requests:
        source, n = self.requests, len(self.requests)
        rng = np.random.default_rng(derive_seed(self.seed, "stream"))
        first = source.arrival_s[0]
        span = float(source.arrival_s[-1] - first) * n / (n - 1)
        density = rate / (n / span)
        need_s = most / rate
        epochs = max(1, int(np.ceil(need_s / span)))
        times: list[np.ndarray] = []
        picks: list[np.ndarray] = []
        for epoch in range(epochs):
            for copy in range(int(np.ceil(density))):
                share = min(1.0, density - copy)
                keep = np.flatnonzero(rng.random(n) < share) if share < 1.0 else np.arange(n)
                shift = float(rng.random()) * span if copy or epoch else 0.0
                times.append((source.arrival_s[keep] - first + shift) % span + epoch * span)
                picks.append(keep)
        when, which = np.concatenate(times), np.concatenate(picks)
        order = np.argsort(when, kind="stable")
        order = order[: max(most, 1)]
        pick, when = which[order], when[order]
        return Requests(
            arrival_s=when - (when[0] if len(when) else 0.0), isl_tokens=source.isl_tokens[pick],
            osl_tokens=source.osl_tokens[pick],
        )  # fmt: skip


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
