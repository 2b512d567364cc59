"""Shares: where the time of an average step goes at the load that was simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from offramp.core.record import Record
from offramp.cost import Pool, Setting, Steps, shard_of, step_time
from offramp.search.tune import Felt

if TYPE_CHECKING:
    from offramp.search.question import Question

TERMS: Final = {
    "compute": "arithmetic", "memory": "memory traffic", "floors": "kernel launch floors",
    "messages": "communication", "host": "host overhead of the engine",
}  # fmt: skip


class Binding(Record):
    """Where a step's time goes, as shares that sum to 1."""

    compute: float
    memory: float
    floors: float
    messages: float
    host: float

    @property
    def largest(self) -> str:
        """Name of the largest share."""
        names = ("compute", "memory", "floors", "messages", "host")
        return max(names, key=lambda name: getattr(self, name))


def binding(setting: Setting, pool: Pool, question: Question, felt: Felt | None) -> Binding:
    """Where the time of an average step goes at the load that was simulated."""
    n = np.array([max(felt.batch if felt else 1.0, 1.0)])
    decodes = max(question.mix.osl - 1.0, 1e-6) / (1.0 + question.accept)
    prefill = n * question.mix.isl / max(decodes, 1.0)
    steps = Steps(
        tokens=n * question.decode_tokens + prefill, decode_seqs=n, decode_context=n * question.mix.context,
        prefill_pairs=n * question.mix.pairs / max(decodes, 1.0), chunks=n / max(decodes, 1.0),
        decode_tokens=float(question.decode_tokens),
    )  # fmt: skip
    time = step_time(setting, shard_of(pool, 1), steps)
    total = float(time.total[0, 0])
    names = ("compute", "memory", "floors", "messages", "host")
    return Binding(**{name: float(getattr(time, name)[0, 0]) / total for name in names})
