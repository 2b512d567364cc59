"""From a fit to a parameter file: draws of every effect, spreads of unseen ones, residuals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.calibrate.fit import Posterior, Problem, draw, fit, make_problem
from offramp.calibrate.observe import ClosedForm, observe
from offramp.calibrate.operators import load_anchors
from offramp.calibrate.prior import Beliefs
from offramp.core.seeds import derive_seed
from offramp.cost.calibration import Calibration, Offset, Residual, from_prior, load_prior
from offramp.cost.parameters import PARAMETER_NAMES
from offramp.validate.cases import Case
from offramp.validate.predict import DEFAULT_RESIDUAL, KIND, Prediction

F8 = npt.NDArray[np.float64]

GROUP_SD: Final = np.array([0.20, 0.20, 0.30, 0.30])
"""Scale of deployment errors by kind during a fit. Assumed; left-out groups then say what they really are."""
ROW_SD: Final = np.array([0.10, 0.10, 0.25, 0.25])
ITERATIONS: Final = 10


class Fitted:
    """Cases, their design and the posterior; folds reuse the design."""

    def __init__(self, cases: Sequence[Case]) -> None:
        """Prices the cases and lays out the effects they touch."""
        self.cases = list(cases)
        self.forward = ClosedForm(self.cases, from_prior(load_prior(), draws=2))
        self.beliefs = Beliefs(load_prior())
        self.problem: Problem = make_problem(self.forward.stacks, self.beliefs, load_anchors())
        self.observed = observe(self.cases, [case.row.deployment for case in self.cases])

    def fit(
        self, keep: npt.NDArray[np.bool_] | None = None, *, start: F8 | None = None, iterations: int = ITERATIONS
    ) -> Posterior:
        """The posterior from the observations in ``keep``."""
        return fit(
            self.problem, self.forward, self.observed, keep=keep, start=start, iterations=iterations,
            group_sd=GROUP_SD, row_sd=ROW_SD,
        )  # fmt: skip


def to_calibration(
    fitted: Fitted, posterior: Posterior, *, draws: int, seed: int, residuals: Mapping[str, Residual],
    row_ids: Sequence[str], note: str, created: dt.date, keep_entries: npt.NDArray[np.bool_] | None = None,
) -> Calibration:  # fmt: skip
    """A parameter file.

    Args:
        fitted, posterior: what was fitted.
        draws: joint draws to keep.
        seed: of the draws.
        residuals: by metric family, from left-out groups.
        row_ids: rows used.
        note: what a reader should know.
        created: day of the fit.
        keep_entries: entries that were fitted; an effect that only others touch is left to its spread. [n]
    """
    values = draw(posterior, draws=draws, seed=derive_seed(seed, "posterior"))
    base = from_prior(load_prior(), draws=draws, seed=seed)
    touched = _touched(fitted.problem, keep_entries)
    effects: dict[str, dict[str, list[float]]] = {name: {} for name in PARAMETER_NAMES}
    for column, full in enumerate(fitted.problem.keys):
        name, key = full.split("@", 1)
        if touched[column]:
            effects[name][key] = [round(float(v), 5) for v in values[:, column]]
    for (
        name
    ) in PARAMETER_NAMES:  # families whose prior has evidence of its own, and a population where nothing touched it
        for key, prior_draws in base.effects[name].items():
            effects[name].setdefault(key, [round(v, 5) for v in prior_draws])
    spreads = {
        name: {level: fitted.beliefs.effect(name, f"{level}:unseen")[1] for level in _LEVELS}
        for name in PARAMETER_NAMES
    }
    return Calibration(
        version=f"fit-{created.isoformat()}", created=created, draws=draws, effects=effects, spreads=spreads,
        residuals=dict(residuals), row_ids=tuple(row_ids), note=note,
    )  # fmt: skip


def offsets(predictions: Sequence[Prediction], residuals: Mapping[str, Residual]) -> dict[str, dict[str, Offset]]:
    """Offsets of measured deployments, shrunken by how many rows there are.

    Args:
        predictions: of the fitted rows, by a calibration that has no offsets yet.
        residuals: group and row parts by metric family.
    """
    errors: dict[str, dict[str, list[float]]] = {}
    for p in predictions:
        family = KIND.get(p.metric, "output")
        errors.setdefault(p.deployment, {}).setdefault(family, []).append(float(np.log(p.measured / p.p50)))
    found: dict[str, dict[str, Offset]] = {}
    for name, by_family in errors.items():
        for family, values in by_family.items():
            residual = residuals.get(family, DEFAULT_RESIDUAL[family])
            error = np.array(values)
            noise = residual.row_sd**2 / error.size
            share = residual.group_sd**2 / (residual.group_sd**2 + noise)
            own = Offset(mean=round(float(np.median(error)) * share, 4), sd=round(float(np.sqrt(noise * share)), 4))
            found.setdefault(name, {})[family] = own
    return found


_LEVELS: Final = ("family", "chip", "engine", "engine-family", "release", "path")


def _touched(problem: Problem, keep: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
    if keep is None:
        return np.ones(len(problem.keys), dtype=bool)
    rows = np.tile(keep, len(PARAMETER_NAMES))
    return np.asarray(problem.design[rows].sum(axis=0)).ravel() > 0
