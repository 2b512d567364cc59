"""Beliefs: the prior of every effect, from the shipped prior file or from an earlier fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from offramp.cost.calibration import LEVEL_PARAMETERS, PARAMETER_SET, Calibration, Prior

LEVEL_SHARES: Final = {
    "population": 0.30,
    "family": 0.30,
    "chip": 0.05,
    "engine": 0.065,
    "engine-family": 0.05,
    "release": 0.06,
    "path": 0.06,
}
"""Share of a parameter's prior variance that each level of effects carries. Chosen on left-out groups: with two and a half times
as much below the family, groups that a fit did not see were predicted 5 to 20 % worse."""


COMPUTE_SHARES: Final = {**LEVEL_SHARES, "chip": 0.15, "engine": 0.10, "engine-family": 0.10}
"""The same for shares of peak arithmetic. They differ more by chip (an H20 has a seventh of an H100's arithmetic on the same
memory, so its kernels come close to it) and by which kernels an engine has (DeepGEMM or Triton)."""


PACE_SHARES: Final = {
    "population": 0.10,
    "family": 0.15,
    "chip": 0.10,
    "engine": 0.15,
    "engine-family": 0.15,
    "release": 0.15,
    "path": 0.20,
}
"""The same for the pace of a whole stack, which is the engine's, its release's and its kernels' more than the silicon's."""


@dataclass(frozen=True)
class Beliefs:
    """Mean and standard deviation of effects by key.

    Attributes:
        prior: the shipped beliefs.
        base: an earlier fit whose posterior is the prior of this one; None starts from the prior file.
        deployment_share: share of variance for effects of one deployment (a user's own cluster).
    """

    prior: Prior
    base: Calibration | None = None
    deployment_share: float = 0.0

    def effect(self, name: str, key: str) -> tuple[float, float]:
        """Mean and sd of the log effect ``key`` of parameter ``name``."""
        level = key.split(":", 1)[0]
        if name not in LEVEL_PARAMETERS.get(level, PARAMETER_SET):
            return 0.0, 0.0
        entry = self.prior.population[name]
        share = self.deployment_share if level == "deployment" else _shares(name)[level]
        sd = entry.log_sd * math.sqrt(share)
        if self.base is not None and key in self.base.effects.get(name, {}):
            draws = np.asarray(self.base.effects[name][key])
            return float(draws.mean()), max(float(draws.std()), 1e-3)
        if level == "population":
            return math.log(entry.median), sd
        if level == "family":
            own = self.prior.family.get(key.split(":", 1)[1], {}).get(name)
            if own is not None:
                return math.log(own.median / entry.median), max(own.log_sd, 0.02)
        return 0.0, sd


def _shares(name: str) -> dict[str, float]:
    if name == "pace":
        return PACE_SHARES
    return COMPUTE_SHARES if "_compute" in name else LEVEL_SHARES
