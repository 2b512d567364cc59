"""From cases to observations: which quantities of a row enter a fit, and the forward model of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.calibrate.fit import Forward, Observations
from offramp.cost.calibration import Calibration
from offramp.cost.parameters import Parameters
from offramp.validate.cases import Case
from offramp.validate.closed import MODES, Batch, Solution, make_batch, solve
from offramp.validate.predict import median_draw, parameters_of
from offramp.validate.rows import Row

F8 = npt.NDArray[np.float64]

KINDS: Final = ("output", "tpot", "ttft", "ttft_median")
"""Quantities that a fit observes: output tokens per second, TPOT, mean and median TTFT."""
GRADE_WEIGHT: Final = {"A": 1.0, "B": 0.6, "floor": 0.15}
"""Weight of a row by grade; other grades are not fitted. Assumed."""
FLOOR_LIFT: Final = 0.05
"""Log of a run's throughput over the regression floor that was set from it. Source: pass thresholds of 0.97 to 0.98 in the
vllm-ascend and SGLang NPU suites, and some head-room. Latency ceilings are no measurements and are not used."""
SWEEP_POWER: Final = 0.8
"""A deployment with n rows of a quantity counts as n^(1 - power): its rows share what the model misses. Chosen on left-out groups."""
TTFT_CONCURRENCY: Final = 256.0
"""TTFT above this is a queue that the harness made, not a property of the deployment."""


class ClosedForm(Forward):
    """The closed form of a set of cases, each with one variant."""

    def __init__(self, cases: Sequence[Case], calibration: Calibration) -> None:
        """Prices the cases at the running batch that ``calibration`` gives them."""
        first = make_batch(cases)
        seqs = solve(first, median_draw(parameters_of(cases, first, calibration))).seqs[0]
        self.batch: Batch = make_batch(cases, seqs=seqs)
        self.stacks = [case.stack for case in cases]

    def logs(self, parameters: Parameters) -> F8:
        """Logs of :data:`KINDS`. ``[4, n]``"""
        found = solve(self.batch, parameters)
        output = tokens_per_s(self.batch, found)[0]
        return np.log(np.maximum(np.stack([output, found.tpot_s[0], found.ttft_s[0], found.ttft_median_s[0]]), 1e-12))


def tokens_per_s(batch: Batch, found: Solution) -> F8:
    """What a row's throughput counts: tokens of answers, or of prompts where only prefill ran. [draws, n]"""
    plain = found.rate * batch.engines * batch.osl
    decoding = found.seqs * batch.engines / found.tpot_s
    prompts = found.prefill_rate * batch.prefill_engines
    return np.where(batch.mode == MODES["decode"], decoding, np.where(batch.mode == MODES["prefill"], prompts, plain))


def fittable(case: Case) -> bool:
    """Whether a row is clean enough to fit: stated layout and speculation, grade A or B, an ordinary run."""
    row = case.row
    ordinary = row.mode != "open" and not row.prefix_hit
    return len(case.variants) == 1 and row.grade in GRADE_WEIGHT and ordinary and row.engine != "transformers"


def output_of(row: Row) -> float | None:
    """Output tokens per second of the whole deployment, from whichever throughput the row prints."""
    m = row.metrics
    if row.mode == "prefill":
        each = m.get("input_tok_s_per_chip", m.get("prefill_tok_s_per_chip"))
        return m.get("input_tok_s", each * row.chips if each and row.chips else None)
    if "output_tok_s" in m:
        return m["output_tok_s"]
    if "output_tok_s_per_chip" in m:
        chips = row.decode_chips if row.disaggregated else row.chips
        return m["output_tok_s_per_chip"] * chips if chips else None
    share = row.osl / (row.osl + row.isl)
    if "total_tok_s" in m:
        return m["total_tok_s"] * share
    if "total_tok_s_per_chip" in m and row.chips and not row.disaggregated:
        return m["total_tok_s_per_chip"] * row.chips * share
    return m["req_s"] * row.osl if "req_s" in m else None


def observe(cases: Sequence[Case], group_names: Sequence[str]) -> Observations:
    """Observations of cases.

    Args:
        cases: one variant each.
        group_names: which deployment shares its error with which. [cases]
    """
    rows: list[tuple[float, ...]] = []
    groups: dict[str, int] = {}
    for entry, (case, name) in enumerate(zip(cases, group_names, strict=True)):
        group = groups.setdefault(name, len(groups))
        weight = GRADE_WEIGHT.get(case.row.grade, 0.6)
        for kind, value in _values(case.row):
            if case.row.is_floor and kind > 0:
                continue
            lift = FLOOR_LIFT if case.row.is_floor else 0.0
            rows.append((entry, kind, math.log(value) + lift, group, weight))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    series = np.unique(table[:, 3] * len(KINDS) + table[:, 1], return_inverse=True, return_counts=True)
    table[:, 4] *= series[2][series[1]] ** -SWEEP_POWER
    return Observations(
        entry=table[:, 0].astype(np.int64), kind=table[:, 1].astype(np.int64), value=table[:, 2],
        group=table[:, 3].astype(np.int64), weight=table[:, 4],
    )  # fmt: skip


def _values(row: Row) -> list[tuple[int, float]]:
    m = row.metrics
    found: list[tuple[int, float]] = []
    output = output_of(row)
    if output is not None:
        found.append((0, output))
    tpot = m.get("tpot_ms_mean") or m.get("tpot_ms_median")
    if tpot:
        found.append((1, tpot / 1e3))
    if row.concurrency <= TTFT_CONCURRENCY and row.mode == "closed":
        if "ttft_ms_mean" in m:
            found.append((2, m["ttft_ms_mean"] / 1e3))
        elif "ttft_ms_median" in m:
            found.append((3, m["ttft_ms_median"] / 1e3))
    return found
