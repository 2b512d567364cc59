"""The parameters of the step model on each chip: what rows made of them, beside what was believed before."""

from __future__ import annotations

from typing import Final

import numpy as np

from offramp.core.result import Cell, Column, Table, table_of
from offramp.train.outlook import DRAWS, Question
from offramp.train.parameters import Posterior, Stack, beliefs, draw, levels_of, residual_of

COLUMNS: Final = (
    "workload", "chip", "parameter", "p10", "p50", "p90", "rests_on", "prior_low", "prior_median", "prior_high", "meaning",
)  # fmt: skip
DEPLOYMENT: Final = (
    "log spread of the step time between deployments that the model does not explain, from groups left out of the fit"
)
ROW: Final = "log spread between configurations of one deployment that the model does not explain, from groups left out of the fit"


def parameter_table(asked: list[tuple[str, Question]], posterior: Posterior) -> Table:
    """One row per run, chip and parameter.

    Args:
        asked: workload and question of every run that has an answer.
        posterior: parameter file.
    """
    rows: list[dict[str, Cell]] = []
    for workload, q in asked:
        drawn = draw(posterior, q.stack, draws=DRAWS, seed=q.seed)
        for name, belief in beliefs().items():
            low, mid, high = (float(v) for v in np.quantile(drawn[name], (0.1, 0.5, 0.9)))
            rows.append(
                {"workload": workload, "chip": q.stack.chip, "parameter": name, "p10": low, "p50": mid, "p90": high,
                 "rests_on": _rests_on(name, q.stack, posterior), "prior_low": belief.low,
                 "prior_median": belief.median, "prior_high": belief.high, "meaning": belief.source}
            )  # fmt: skip
        left = residual_of(posterior, q.stack)
        for name, sd, meaning in (
            ("unexplained_deployment", left.group_sd, DEPLOYMENT), ("unexplained_row", left.row_sd, ROW),
        ):  # fmt: skip
            rows.append(
                {"workload": workload, "chip": q.stack.chip, "parameter": name, "p10": sd, "p50": sd, "p90": sd,
                 "rests_on": f"{left.rows} left-out rows in {left.groups} groups", "meaning": meaning}
            )  # fmt: skip
    return table_of(rows, columns=[Column(name=name) for name in COLUMNS], title="Parameters of the step model")


def _rests_on(name: str, stack: Stack, posterior: Posterior) -> str:
    """Which rows moved a parameter of a stack: those of this framework here, those of others, or none."""
    known = set(posterior.names)

    def fitted(level: str) -> bool:
        return any(f"{name}|{key}" in known for key in stack.keys(level, posterior.releases))

    if any(
        fitted(level) for level in levels_of(name) if level not in ("population", "family", "core", "shape", "variant")
    ):
        return "runs of this framework or chip"
    if fitted("family"):
        return "runs on this family of chips"
    return "runs of other stacks" if fitted("population") else "belief alone"
