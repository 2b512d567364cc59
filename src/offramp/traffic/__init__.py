"""Request traces, synthetic traffic and SLOs.

:func:`load` reads a trace of any known schema; :func:`synthetic` makes one from published statistics; both give a
:class:`Trace`. :func:`parse_slo` reads limits on TTFT, TPOT, ITL and E2E latency.
"""

from __future__ import annotations

from offramp.traffic.prefix import Prefix
from offramp.traffic.read import iter_batches, load
from offramp.traffic.slo import Limit, Slo, parse_slo, slo_names, slo_of_seconds
from offramp.traffic.synthetic import (
    Lengths,
    Params,
    TrafficPreset,
    check_params,
    params_of,
    synthetic,
    traffic_preset,
    traffic_presets,
)
from offramp.traffic.trace import Trace

__all__ = [
    "Lengths", "Limit", "Params", "Prefix", "Slo", "Trace", "TrafficPreset", "check_params", "iter_batches", "load",
    "params_of", "parse_slo", "slo_names", "slo_of_seconds", "synthetic", "traffic_preset", "traffic_presets",
]  # fmt: skip
