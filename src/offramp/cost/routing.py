"""One law of expert routing: how many experts a batch touches, and how uneven the ranks' loads are.

Expert popularity follows a Zipf law with exponent ``skew`` (0 = uniform). The same popularity gives both the
distinct experts touched (weights read in decode) and the load of the busiest rank (what a synchronised step waits
for). Published router statistics put trained routers between uniform and mildly skewed per domain; the exponent is
a parameter of the cost model.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]

_GRID = np.unique(np.concatenate([np.arange(1, 33), np.geomspace(32, 65536, 89)]))


@lru_cache(maxsize=512)
def inclusion(experts: int, per_token: int, skew: float) -> F8:
    """Probability that one token selects each expert, most popular first; sums to ``per_token``. [experts]"""
    weight = np.arange(1, experts + 1, dtype=np.float64) ** -skew
    share = np.minimum(1.0, per_token * weight / weight.sum())
    for _ in range(20):  # experts cannot be chosen twice by a token: hand the clipped excess to the others
        free = share < 1.0
        missing = per_token - share.sum()
        if missing < 1e-9 or not free.any():
            break
        share = np.where(free, np.minimum(1.0, share + missing * share / share[free].sum()), share)
    return share


@lru_cache(maxsize=512)
def _touched_curve(experts: int, per_token: int, skew: float) -> F8:
    chance = inclusion(experts, per_token, skew)
    return (1.0 - (1.0 - chance[:, None]) ** _GRID[None, :]).sum(axis=0)


def touched_experts(experts: int, per_token: int, skew: float, tokens: F8) -> F8:
    """Expected number of distinct experts that ``tokens`` independent tokens select.

    Source: 1 - (1 - q)^tokens per expert, q its inclusion probability; linear between grid points.
    """
    if experts <= 0:
        return np.zeros_like(tokens)
    curve = _touched_curve(experts, per_token, round(skew, 3))
    touched = np.interp(np.log(np.maximum(tokens, 1.0)), np.log(_GRID), curve)
    return touched * np.minimum(tokens, 1.0)


def rank_imbalance(experts: int, per_token: int, skew: float, *, ranks: F8, tokens: F8, balanced: float) -> F8:
    """Load of the busiest expert-parallel rank over the mean load (>= 1).

    Two independent causes: experts of unequal popularity on the ranks (reduced by ``balanced``, the share of that
    spread which replication and placement remove) and the sampling noise of few tokens. The expected maximum of
    ``ranks`` near-normal loads is ``1 + sd * sqrt(2 ln ranks)``.

    Valid for: experts spread at random over ranks; a rank never holds more than everything.
    """
    if experts <= 0:
        return np.ones_like(tokens)
    chance = inclusion(experts, per_token, round(skew, 3))
    spread = float(np.std(chance) / np.mean(chance))
    local = np.maximum(experts / ranks, 1.0)
    popularity = (1.0 - balanced) * spread / np.sqrt(local)
    rows = np.maximum(tokens * per_token / ranks, 1e-9)
    sd = np.sqrt(popularity**2 + 1.0 / np.maximum(rows, 1.0)) * np.sqrt(np.maximum(1.0 - 1.0 / ranks, 0.0))
    return np.minimum(1.0 + sd * np.sqrt(2.0 * np.log(np.maximum(ranks, 1.0))), ranks)
