"""Serving simulation: what users feel.

:func:`simulate` runs requests through pools of replicas; :class:`ServeMetrics` is what comes out.
:func:`steady_state` estimates means of many step tables at once, without simulation.
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
from offramp.serve.steady import SteadyState, StepArrays, stack, steady_state

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
    "SteadyState",
    "StepArrays",
    "simulate",
    "stack",
    "steady_state",
]
