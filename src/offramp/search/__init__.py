"""Search: the layout of a workload on a chip that carries most within the SLO, and how much that is.

:func:`mix_of` and :class:`Stream` describe the traffic; :func:`find` enumerates layouts, prunes what does not fit,
ranks the rest in closed form, simulates the best on the traffic and bisects the rate; the :class:`Candidate` holds
the answer with joint draws, so that the ratio of two candidates is their exchange rate with its interval.
"""

from offramp.search.candidate import Candidate, Question, Tried, find, middle
from offramp.search.closed import Grid, evaluate
from offramp.search.fleet import Fleet, fleet_for
from offramp.search.front import Choice, front_of, pareto
from offramp.search.grid import Limits
from offramp.search.mix import Mix, Stream, mix_of, peak_to_mean
from offramp.search.shares import Binding, binding
from offramp.search.split import Side, Split, find_split
from offramp.search.tune import Curve, Felt, Replica, feel, highest_rate

__all__ = [
    "Binding", "Candidate", "Choice", "Curve", "Felt", "Fleet", "Grid", "Limits", "Mix", "Question", "Replica", "Side", "Split",
    "Stream", "Tried", "binding", "evaluate", "feel", "find", "find_split", "fleet_for", "front_of", "highest_rate",
    "middle", "mix_of", "pareto", "peak_to_mean",
]  # fmt: skip
