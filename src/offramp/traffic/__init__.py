"""Request traces, synthetic traffic and SLOs."""

from __future__ import annotations

from offramp.traffic.read import iter_batches, load
from offramp.traffic.slo import Limit, Slo, parse_slo, slo_names, slo_of_seconds
from offramp.traffic.trace import Trace

__all__ = ["Limit", "Slo", "Trace", "iter_batches", "load", "parse_slo", "slo_names", "slo_of_seconds"]
