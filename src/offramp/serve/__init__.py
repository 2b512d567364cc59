"""Serving simulation: what users feel.

:func:`simulate` runs requests through pools of replicas; :class:`ServeMetrics` is what comes out.
:func:`steady_state` estimates means of many step tables at once, without simulation.
"""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from offramp.serve.events import is_compiled, warm_up
    from offramp.serve.stream import simulate_stream

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
    "is_compiled",
    "simulate",
    "simulate_stream",
    "stack",
    "steady_state",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    """Names that need numba come in when they are first used."""
    if name in ("is_compiled", "warm_up"):
        from offramp.serve import events

        return getattr(events, name)
    if name == "simulate_stream":
        from offramp.serve.stream import simulate_stream

        return simulate_stream
    raise AttributeError(name)
