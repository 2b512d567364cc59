"""Question: what is asked of every chip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from offramp.arch.record import Model
from offramp.search.closed import Slo
from offramp.search.grid import Limits
from offramp.search.mix import Mix, Stream
from offramp.search.tune import Points


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every chip.

    Attributes:
        model: what is served.
        mix, stream: its traffic.
        slo: limits in seconds by "ttft_p90" ...
        limits: what may be tried.
        simulate: how many of the best layouts are simulated.
        most_requests: simulated requests of a final run.
        prefix: whether prompts share cached prefixes.
        accept: accepted draft tokens per step of speculation, which is tried beside none; 0 is no speculation.
        spares, least: replicas beyond those that carry the demand's peak, and the least of them.
        points: what was simulated before of this traffic on this chip.
    """

    model: Model
    mix: Mix
    stream: Stream
    slo: Slo
    limits: Limits = field(default_factory=Limits)
    simulate: int = 3
    most_requests: int = 20_000
    prefix: bool = False
    accept: float = 0.0
    spares: int = 0
    least: int = 1
    points: Points = field(default_factory=Points, compare=False)

    def devices_for(self, rate: float, devices: int) -> float:
        """Devices of all replicas for the demand, or per request and second where none is stated: fewer is better.

        Spares and a minimum of replicas make large replicas dear for a small demand.
        """
        if rate <= 0.0:
            return math.inf
        if self.stream.demand <= 0.0:
            return devices / rate
        return float(max(math.ceil(self.stream.demand / rate - 1e-9) + self.spares, self.least) * devices)

    @property
    def decode_tokens(self) -> int:
        """Tokens that a decoding sequence schedules per step."""
        return 1 if self.accept <= 0 else 1 + int(np.ceil(self.accept))
