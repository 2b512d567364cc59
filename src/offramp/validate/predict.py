"""Predictions of published rows with intervals: parameter draws, variants of what a row leaves open, residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.core.record import Record
from offramp.cost.calibration import Calibration, Residual, Stack, parameters_for, spreads_noise
from offramp.cost.energy import COMPUTE_POWER_SHARE, MEMORY_POWER_SHARE
from offramp.cost.parameters import PARAMETER_NAMES, Parameters
from offramp.validate.cases import Case
from offramp.validate.closed import Batch, Solution, make_batch, solve
from offramp.validate.rows import Row

F8 = npt.NDArray[np.float64]
Progress = Callable[[str], None]

KIND: Final = {
    "ttft_ms_mean": "ttft", "ttft_ms_median": "ttft", "ttft_ms_p99": "ttft_p99", "tpot_ms_mean": "tpot",
    "tpot_ms_median": "tpot", "tpot_ms_p99": "tpot_p99", "itl_ms_mean": "itl", "itl_ms_median": "itl",
    "itl_ms_p99": "itl_p99", "e2e_ms_mean": "e2e", "e2e_ms_median": "e2e", "e2e_ms_p99": "e2e_p99",
    "power_w_per_chip": "power", "joules_per_output_token": "power", "input_tok_s": "output",
    "prefill_tok_s_per_chip": "prefill", "decode_tok_s_per_chip": "output",
}  # fmt: skip
"""Residual family of a metric; throughputs are "output"."""
DEFAULT_RESIDUAL: Final = {
    "output": Residual(group_sd=0.25, row_sd=0.10), "tpot": Residual(group_sd=0.25, row_sd=0.10),
    "ttft": Residual(group_sd=0.45, row_sd=0.30), "itl": Residual(group_sd=0.5, row_sd=0.3),
    "itl_p99": Residual(group_sd=0.8, row_sd=0.5), "e2e": Residual(group_sd=0.25, row_sd=0.12),
    "tpot_p99": Residual(group_sd=0.45, row_sd=0.30), "ttft_p99": Residual(group_sd=0.6, row_sd=0.4),
    "e2e_p99": Residual(group_sd=0.35, row_sd=0.2), "prefill": Residual(group_sd=0.3, row_sd=0.15),
    "power": Residual(group_sd=0.2, row_sd=0.1),
}  # fmt: skip
"""Residuals where the parameter file gives none. Assumed, after a trial on left-out groups."""
NOISE: Final = np.array([-1.6449, -1.0364, -0.6745, -0.3853, -0.1257, 0.1257, 0.3853, 0.6745, 1.0364, 1.6449])
"""Midpoints of ten equal parts of a standard normal."""


class Prediction(Record):
    """One metric of one row, measured and predicted."""

    id: str
    chip: str
    engine: str
    model: str
    grade: str
    metric: str
    measured: float
    p10: float
    p50: float
    p90: float
    series: str = ""
    deployment: str = ""
    roofline: float = 0.0
    evidence: str = ""


def parameters_of(cases: Sequence[Case], batch: Batch, calibration: Calibration) -> Parameters:
    """Parameters of every entry, ``[draws, n]`` each; equal stacks share their draws."""
    cache: dict[Stack, Parameters] = {}
    for case in cases:
        if case.stack not in cache:
            cache[case.stack] = parameters_for(calibration, case.stack)
    stacks = [cases[i].stack for i in batch.case]
    return Parameters(
        **{name: np.concatenate([getattr(cache[s], name) for s in stacks], axis=1) for name in PARAMETER_NAMES}
    )


def split_draws(parameters: Parameters, draw: int) -> Parameters:
    """One draw of per-entry parameters, ``[1, n]`` each."""
    return Parameters(**{name: getattr(parameters, name)[draw : draw + 1] for name in PARAMETER_NAMES})


def solve_draws(batch: Batch, parameters: Parameters, *, seed: int = 0) -> list[Solution]:
    """The steady state of every entry for each draw; acceptance of drafts is drawn too."""
    low, mid, high = batch.accept.T
    sd = (np.log(high) - np.log(low)) / 2.5631
    noise = spreads_noise(seed, "accept", "draws", parameters.draws)
    return [
        solve(batch, split_draws(parameters, draw), accept=(mid * np.exp(sd * noise[draw]))[None, :])
        for draw in range(parameters.draws)
    ]


def metric_values(case: Case, batch: Batch, solution: Solution, entry: int, metric: str) -> F8 | None:
    """Draws of one metric of one entry, in the unit of its column; None where the metric is not defined for the row."""
    row = case.row
    rate = solution.most[:, entry] * batch.engines[entry]
    tpot, ttft = solution.tpot_s[:, entry], solution.ttft_s[:, entry]
    if metric in ("ttft_ms_mean", "ttft_ms_median", "ttft_ms_p99"):
        return {"mean": ttft, "median": solution.ttft_median_s[:, entry], "p99": solution.ttft_p99_s[:, entry]}[
            metric.rsplit("_", 1)[1]
        ] * 1e3
    if metric.startswith("tpot"):
        return tpot * 1e3 * (1.15 if metric.endswith("p99") else 1.0)
    if metric.startswith("itl"):
        gain = batch.accept[entry, 1]
        base = solution.decode_s[:, entry] if metric.endswith("median") else tpot * gain
        p99 = solution.decode_s[:, entry] + batch.chunk[entry] / solution.prefill_rate[:, entry]
        return (p99 if metric.endswith("p99") else base) * 1e3
    if metric.startswith("e2e"):
        first = solution.ttft_median_s[:, entry] if metric.endswith("median") else ttft
        first = solution.ttft_p99_s[:, entry] if metric.endswith("p99") else first
        return (first + tpot * max(row.osl - 1.0, 0.0)) * 1e3
    if metric in ("power_w_per_chip", "joules_per_output_token"):
        return _power(case, batch, solution, entry, metric, rate)
    return _throughput(case, batch, solution, entry, metric, rate)


def _power(case: Case, batch: Batch, solution: Solution, entry: int, metric: str, rate: F8) -> F8:
    del batch
    device = case.device
    busy = (
        COMPUTE_POWER_SHARE[1] * solution.busy_compute[:, entry]
        + MEMORY_POWER_SHARE[1] * solution.busy_memory[:, entry]
    )
    watts = (device.idle_w + (device.tdp_w - device.idle_w) * np.minimum(busy, 1.0)) * device.devices_per_package
    if metric == "power_w_per_chip":
        return watts
    return watts * max(case.row.chips, 1.0) / np.maximum(rate * case.row.osl, 1e-12)


def _throughput(case: Case, batch: Batch, solution: Solution, entry: int, metric: str, rate: F8) -> F8 | None:
    row = case.row
    packages = case.device.devices_per_package
    prefill_chips = row.prefill_chips or row.chips or batch.engines[entry]
    if row.mode == "prefill" or metric == "prefill_tok_s_per_chip":
        tokens = solution.prefill_rate[:, entry] * batch.prefill_engines[entry]
        if row.disaggregated:
            tokens = np.minimum(rate * row.isl, tokens)
        tokens = tokens / (1.0 - row.prefix_hit) if row.prefix_hit < 1.0 else tokens
        return tokens / prefill_chips if metric.endswith("per_chip") else tokens
    per_request = {"output": row.osl, "decode": row.osl, "total": row.isl + row.osl, "input": row.isl, "req": 1.0}
    tokens = rate * per_request[metric.split("_", 1)[0]]
    if row.mode == "decode":
        tokens = solution.seqs[:, entry] * batch.engines[entry] / solution.tpot_s[:, entry]
    if not metric.endswith("per_chip"):
        return tokens
    chips = row.chips
    if row.disaggregated:  # a rate per chip counts the pool that makes it
        chips = {"output": row.decode_chips, "decode": row.decode_chips, "input": row.prefill_chips}.get(
            metric.split("_", 1)[0], row.prefill_chips + row.decode_chips
        )
    if chips <= 0:
        variant = case.variants[0]
        chips = variant.tp * variant.pp * variant.dp * variant.replicas / packages
    return tokens / chips


def residual_of(calibration: Calibration, metric: str, stack: Stack) -> Residual:
    """Residual of a metric's family on a stack."""
    kind = KIND.get(metric, "output")
    found = calibration.residual(kind, stack)
    if found is None:
        found = DEFAULT_RESIDUAL[kind]
        if calibration.is_measured(stack):
            return msgspec.structs.replace(found, group_sd=0.0)
    return found


def quantiles(draws: F8, weights: F8, *, shift: float, sd: float) -> tuple[float, float, float]:
    """p10, p50, p90 of weighted draws, moved and widened on the log scale.

    Args:
        draws: positive values. [k]
        weights: their weights. [k]
        shift, sd: mean and standard deviation of the residual's logarithm.
    """
    spread = np.log(draws)[:, None] + shift + sd * NOISE[None, :]
    order = np.argsort(spread, axis=None)
    values = spread.ravel()[order]
    mass = np.cumsum(np.repeat(weights, NOISE.size)[order])
    p10, p50, p90 = np.interp(np.array([0.1, 0.5, 0.9]) * mass[-1], mass, values)
    return float(np.exp(p10)), float(np.exp(p50)), float(np.exp(p90))


def residual_shift(calibration: Calibration, case: Case, metric: str) -> tuple[float, float]:
    """Mean and sd of a metric's log residual: of its measured deployment, else of an unseen one.

    A deployment that the fit saw has an offset of its own and only row errors left; one that a user calibrated has
    none left but row errors; an unseen one carries both parts.
    """
    residual = residual_of(calibration, metric, case.stack)
    offset = calibration.offsets.get(case.row.deployment, {}).get(KIND.get(metric, "output"))
    if offset is not None:
        return residual.bias + offset.mean, float(np.hypot(offset.sd, residual.row_sd))
    return residual.bias, float(np.hypot(residual.group_sd, residual.row_sd))


def with_residual(prediction: Prediction, calibration: Calibration) -> Prediction:
    """A prediction whose interval holds parameter draws only, moved and widened by an unseen deployment's residual."""
    kind = KIND.get(prediction.metric, "output")
    found = calibration.residuals
    residual = found.get(f"{kind}@{prediction.evidence}") or found.get(kind) or DEFAULT_RESIDUAL[kind]
    own = (np.log(prediction.p90) - np.log(prediction.p10)) / 2.5631
    reach = 1.2816 * float(np.sqrt(own**2 + residual.group_sd**2 + residual.row_sd**2))
    middle = float(np.log(prediction.p50)) + residual.bias
    return msgspec.structs.replace(
        prediction, p10=float(np.exp(middle - reach)), p50=float(np.exp(middle)), p90=float(np.exp(middle + reach))
    )


def predict(
    cases: Sequence[Case], calibration: Calibration, *, simulate: bool = False, progress: Progress | None = None
) -> list[Prediction]:
    """Every metric of every case with its interval.

    Args:
        cases: what was measured.
        calibration: parameter file.
        simulate: also play each run of the harness in the serving simulator, at the middle of the parameters.
        progress: told how far the simulations are.
    """
    if not cases:
        return []
    batch = make_batch(cases)
    parameters = parameters_of(cases, batch, calibration)
    first = solve_draws(batch, median_draw(parameters))
    batch = make_batch(cases, seqs=first[0].seqs[0])
    if simulate:
        from offramp.validate.loop import corrections  # brings numba in

        batch = replace(batch, loop=corrections(cases, batch, median_draw(parameters), progress))
    solutions = solve_draws(batch, parameters)
    entries: dict[int, list[int]] = {}
    for entry, case in enumerate(batch.case.tolist()):
        entries.setdefault(case, []).append(entry)
    whole = _join(solutions)
    roof = solve(batch, roofline(batch.case.shape[0]))
    return [
        prediction
        for number, case in enumerate(cases)
        for prediction in _predict_case(case, batch, whole, roof, entries[number], calibration)
    ]


def median_draw(parameters: Parameters) -> Parameters:
    """The median of each parameter over the draws, ``[1, n]``."""
    return Parameters(**{name: np.median(getattr(parameters, name), axis=0, keepdims=True) for name in PARAMETER_NAMES})


def _join(solutions: Iterable[Solution]) -> Solution:
    parts = list(solutions)
    return Solution(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Solution.__dataclass_fields__}
    )


def _predict_case(
    case: Case, batch: Batch, solution: Solution, roof: Solution, entries: list[int], calibration: Calibration
) -> list[Prediction]:
    found: list[Prediction] = []
    row: Row = case.row
    for metric, measured in row.metrics.items():
        draws: list[F8] = []
        weights: list[F8] = []
        for entry in entries:
            values = metric_values(case, batch, solution, entry, metric)
            if values is not None:
                draws.append(np.maximum(values, 1e-12))
                weights.append(np.full(values.shape, batch.weight[entry] / values.shape[0]))
        if not draws:
            continue
        shift, sd = residual_shift(calibration, case, metric)
        p10, p50, p90 = quantiles(np.concatenate(draws), np.concatenate(weights), shift=shift, sd=sd)
        if case.row.mode == "open" and _is_rate(metric):
            most = _offered(draws[0], batch, solution, entries[0])
            p10, p50, p90 = (min(p, most * tail) for p, tail in zip((p10, p50, p90), TAILS, strict=True))
        baseline = metric_values(case, batch, roof, entries[0], metric)
        found.append(
            Prediction(
                id=row.id, chip=row.chip, engine=row.engine, model=row.model, grade=row.grade, metric=metric,
                measured=measured, p10=p10, p50=p50, p90=p90, series=row.series, deployment=row.deployment,
                roofline=float(baseline[0]) if baseline is not None else 0.0, evidence=calibration.evidence(case.stack),
            )
        )  # fmt: skip
    return found


TAILS: Final = (0.94, 0.99, 1.0)
"""Share of the offered rate that a run shows which keeps up: its clock stops with the last answer, not with the last request.
Assumed: 1 to 6 % at a few hundred requests."""


def _is_rate(metric: str) -> bool:
    return metric == "req_s" or "_tok_s" in metric


def _offered(draws: F8, batch: Batch, solution: Solution, entry: int) -> float:
    """A throughput column at the rate at which requests come: no deployment completes more than it is sent."""
    return float(draws[0] * batch.rate[entry] / np.maximum(solution.most[0, entry], 1e-12))


def roofline(n: int) -> Parameters:
    """The baseline: 0.7 of peak compute, 0.6 of peak bandwidth, no floors and no overheads. ``[1, n]``"""
    values = {name: np.full((1, n), 1e-9) for name in PARAMETER_NAMES}
    for name in PARAMETER_NAMES:
        if "_compute" in name:
            values[name] = np.full((1, n), 0.7)
        elif name in ("queue_factor", "pace", "admit_steps"):
            values[name] = np.ones((1, n))
        elif name.endswith(("_memory", "_efficiency")):
            values[name] = np.full((1, n), 0.6)
    return Parameters(**values)
