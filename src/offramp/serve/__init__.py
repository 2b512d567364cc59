"""Serving simulation: what users feel.

:func:`simulate` runs requests through pools of replicas; :class:`ServeMetrics` is what comes out.
"""

from offramp.serve.records import (
    REJECT_REASONS,
    ClassMetrics,
    Percentiles,
    PoolMetrics,
    PoolSpec,
    Requests,
    ServeConfig,
    ServeMetrics,
    Slo,
)
from offramp.serve.run import simulate

__all__ = [
    "REJECT_REASONS",
    "ClassMetrics",
    "Percentiles",
    "PoolMetrics",
    "PoolSpec",
    "Requests",
    "ServeConfig",
    "ServeMetrics",
    "Slo",
    "simulate",
]
