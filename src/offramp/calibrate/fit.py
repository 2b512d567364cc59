"""Fit: the posterior of all effects, given rows whose errors are shared within deployments.

Maximum a posteriori by Gauss-Newton on log parameters. Every observation is a log ratio; its error has a part that is
common to a deployment and metric (a nuisance effect with its own prior) and a part of its own, whose weight falls
when it is far out (Student t). The curvature at the optimum gives the joint posterior that draws come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from offramp.calibrate.operators import Anchor
from offramp.calibrate.prior import Beliefs
from offramp.cost.calibration import SHARE_CAP, SHARES, Stack
from offramp.cost.parameters import PARAMETER_NAMES, Parameters

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
Sparse = Any
"""A scipy.sparse CSR matrix; its stubs do not know that products stay sparse."""

STEP = 0.02
"""Finite-difference step of a log parameter."""
ANCHOR_SD = 0.12
"""How far an engine's kernels in a running server may differ from their tables, log scale. Assumed."""
ROW_SD_LOW = 0.12
"""Smallest scale of a row's error: rows of one sweep miss alike, so their scatter understates what the model misses."""
GROUP_DF = 2.0
"""Degrees of freedom of deployment errors. Assumed."""
STUDENT_DF = 4.0
"""Degrees of freedom of the row errors: broken runs and mislabelled rows are outliers, not evidence."""


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Measured logs and where they come from. One entry per observation ``[m]``.

    Attributes:
        entry: index of the priced entry (its stack and features).
        kind: index into the names of observed quantities.
        value: natural log of the measurement.
        group: index of the deployment that shares an error.
        weight: relative weight (grade).
    """

    entry: I8
    kind: I8
    value: F8
    group: I8
    weight: F8


class Forward(Protocol):
    """Something that predicts the logs of ``kinds`` quantities for ``n`` entries, given one parameter set per entry."""

    stacks: Sequence[Stack]

    def logs(self, parameters: Parameters) -> F8:
        """Predicted logs, ``[kinds, n]``, for parameters ``[1, n]`` each."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything a fit needs; left-out folds share the design and differ in ``keep``.

    Attributes:
        keys: effect keys ("gemm_compute@chip:nvidia/h20"), the columns.
        mean, sd: prior of each effect. [c]
        design: rows are (parameter, entry) pairs in that order, columns effects. [P * n, c]
        anchor_rows, anchor_logs, anchor_sd: sums of effects that operator tables have measured. [a, c], [a], [a]
    """

    keys: tuple[str, ...]
    mean: F8
    sd: F8
    design: Sparse
    entries: int
    anchor_rows: Sparse = None
    anchor_logs: F8 = field(default_factory=lambda: np.empty(0))
    anchor_sd: F8 = field(default_factory=lambda: np.empty(0))


def make_problem(stacks: Sequence[Stack], beliefs: Beliefs, anchors: Sequence[Anchor] = ()) -> Problem:
    """Columns for every effect that any entry touches, with its prior."""
    column: dict[str, int] = {}
    mean: list[float] = []
    sd: list[float] = []
    rows: list[int] = []
    cols: list[int] = []
    n = len(stacks)
    for p, name in enumerate(PARAMETER_NAMES):
        for e, stack in enumerate(stacks):
            for key in ("population", *stack.keys().values()):
                full = f"{name}@{key}"
                if full not in column:
                    m, s = beliefs.effect(name, key)
                    if s <= 0.0:
                        continue
                    column[full] = len(column)
                    mean.append(m)
                    sd.append(s)
                rows.append(p * n + e)
                cols.append(column[full])
    design = sparse.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(len(PARAMETER_NAMES) * n, len(column)))
    problem = Problem(keys=tuple(column), mean=np.array(mean), sd=np.array(sd), design=design, entries=n)
    return _anchored(problem, column, anchors)


def _anchored(problem: Problem, column: dict[str, int], anchors: Sequence[Anchor]) -> Problem:
    """Adds what operator tables say of sums of effects; effects that no row touches stay out of the sums."""
    rows: list[int] = []
    cols: list[int] = []
    logs: list[float] = []
    sds: list[float] = []
    for anchor in anchors:
        keys = ["population", f"family:{anchor.family}", f"chip:{anchor.chip}"]
        if anchor.engine:
            keys += [f"engine:{anchor.engine}", f"engine-family:{anchor.engine}/{anchor.family}"]
        found = [column[f"{anchor.parameter}@{key}"] for key in keys if f"{anchor.parameter}@{key}" in column]
        if f"{anchor.parameter}@chip:{anchor.chip}" not in column or not found or anchor.parameter.endswith("_s"):
            continue  # floors of kernels timed alone hold launches that a captured graph hides
        rows += [len(logs)] * len(found)
        cols += found
        logs.append(np.log(anchor.value))
        sds.append(float(np.hypot(ANCHOR_SD, 0.5 * anchor.median_error)))
    matrix = sparse.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(len(logs), len(column)))
    return replace(problem, anchor_rows=matrix, anchor_logs=np.array(logs), anchor_sd=np.array(sds))


def parameters_at(problem: Problem, effects: F8) -> Parameters:
    """Parameters of each entry, ``[1, n]`` each."""
    logs = (problem.design @ effects).reshape(len(PARAMETER_NAMES), problem.entries)
    return _parameters(logs)


def _parameters(logs: F8) -> Parameters:
    values = np.exp(logs)
    table = {
        name: (np.minimum(values[p], SHARE_CAP) if name in SHARES else values[p])[None, :]
        for p, name in enumerate(PARAMETER_NAMES)
    }
    return Parameters(**table)


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """The optimum and its curvature.

    Attributes:
        effects: posterior mode of each effect. [c]
        precision: inverse covariance of the effects, nuisance effects integrated out. [c, c]
        row_sd: fitted scale of row errors by kind. [kinds]
        group_sd: scale of deployment errors by kind. [kinds]
        iterations: Gauss-Newton steps taken.
        loss: last value of half the weighted squares.
    """

    effects: F8
    precision: F8
    row_sd: F8
    group_sd: F8
    iterations: int
    loss: float


def jacobian(problem: Problem, forward: Forward, effects: F8) -> tuple[F8, F8]:
    """Predicted logs ``[kinds, n]`` and their derivative by each log parameter ``[P, kinds, n]``."""
    logs = (problem.design @ effects).reshape(len(PARAMETER_NAMES), problem.entries)
    base = forward.logs(_parameters(logs))
    slopes = np.zeros((len(PARAMETER_NAMES), *base.shape))
    for p in range(len(PARAMETER_NAMES)):
        moved = logs.copy()
        moved[p] += STEP
        slopes[p] = (forward.logs(_parameters(moved)) - base) / STEP
    return base, np.nan_to_num(slopes, nan=0.0, posinf=0.0, neginf=0.0)


def fit(
    problem: Problem, forward: Forward, observed: Observations, *, keep: npt.NDArray[np.bool_] | None = None,
    start: F8 | None = None, iterations: int = 8, group_sd: F8, row_sd: F8,
) -> Posterior:  # fmt: skip
    """The posterior mode and curvature.

    Args:
        problem: effects and design.
        forward: predicts the entries.
        observed: measurements.
        keep: which observations to use; None uses all. [m]
        start: effects to start from (a warm start of a fold). [c]
        iterations: Gauss-Newton steps at most.
        group_sd, row_sd: starting scales of the two error parts by kind. [kinds]
    """
    used = np.arange(observed.value.size) if keep is None else np.flatnonzero(keep)
    effects = problem.mean.copy() if start is None else start.copy()
    groups, group_of = np.unique(observed.group[used] * group_sd.size + observed.kind[used], return_inverse=True)
    data = _Data(
        value=observed.value[used], entry=observed.entry[used], kind=observed.kind[used],
        weight=observed.weight[used], group_of=group_of, group_prior=group_sd[groups % group_sd.size],
    )  # fmt: skip
    scale = row_sd.copy()
    precision = np.diag(1.0 / problem.sd**2)
    loss, taken, damping = np.inf, 0, 1e-3
    for step in range(iterations):
        base, slopes = jacobian(problem, forward, effects)
        rows = _design_rows(problem, slopes, data.kind, data.entry)
        residual = data.value - base[data.kind, data.entry]
        shared = _shared(data, residual, scale)
        data = replace(data, group_prior=_heavy(group_sd[groups % group_sd.size], shared))
        weights = _student((residual - shared[group_of]) / scale[data.kind]) * data.weight / scale[data.kind] ** 2
        before = _objective(problem, data, effects, residual, weights)
        for _ in range(6):
            trial, precision = _solve(problem, rows, residual + rows @ effects, weights=weights, data=data,
                                      effects=effects, damping=damping)  # fmt: skip
            logs = forward.logs(parameters_at(problem, trial))
            after = _objective(problem, data, trial, data.value - logs[data.kind, data.entry], weights)
            if after < before:
                damping = max(damping / 5.0, 1e-6)
                break
            damping = min(damping * 8.0, 1e3)
        else:
            break
        effects, loss, taken = trial, after, step + 1
        left = data.value - logs[data.kind, data.entry]
        left = left - _shared(data, left, scale)[group_of]
        for k in range(scale.size):
            mine = left[data.kind == k]
            if mine.size > 20:
                scale[k] = np.clip(1.4826 * np.median(np.abs(mine)), ROW_SD_LOW, 0.4)
        if before - after < 3e-4 * before:
            break
    return Posterior(
        effects=effects, precision=precision, row_sd=scale, group_sd=group_sd, iterations=taken, loss=loss
    )  # fmt: skip


def _heavy(prior: F8, shared: F8) -> F8:
    """Scale of each deployment's error under a Student t: a deployment far out widens its own scale, not the fit. [g]

    Broken or immature deployments run several times slower than the same silicon elsewhere; they are a population of
    their own and must not drag the silicon's efficiencies.
    """
    return prior * np.sqrt((GROUP_DF + (shared / prior) ** 2) / (GROUP_DF + 1.0))


def _student(z: F8) -> F8:
    """Weights of a Student t likelihood."""
    return (STUDENT_DF + 1.0) / (STUDENT_DF + np.minimum(z * z, 1e6))


def _design_rows(problem: Problem, slopes: F8, kind: I8, entry: I8) -> Sparse:
    """Derivative of each observation by each effect, sparse ``[m, c]``."""
    m, n = entry.size, problem.entries
    parts: Sparse = sparse.csr_matrix((m, problem.design.shape[1]))
    for p in range(len(PARAMETER_NAMES)):
        slope = slopes[p, kind, entry]
        if not np.any(slope):
            continue
        parts = parts + sparse.diags(slope) @ problem.design[p * n + entry]
    return sparse.csr_matrix(parts)


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The observations in use, with the prior scale of each deployment error."""

    value: F8
    entry: I8
    kind: I8
    weight: F8
    group_of: I8
    group_prior: F8


def _shared(data: _Data, residual: F8, scale: F8) -> F8:
    """Posterior mean of each deployment's error, given the residuals. [groups]"""
    weights = data.weight / scale[data.kind] ** 2
    total = np.bincount(data.group_of, weights, data.group_prior.size) + 1.0 / data.group_prior**2
    return np.bincount(data.group_of, weights * residual, data.group_prior.size) / total


def _objective(problem: Problem, data: _Data, effects: F8, residual: F8, weights: F8) -> float:
    """Half the weighted squares with deployment errors at their best, plus the prior."""
    inner = np.bincount(data.group_of, weights, data.group_prior.size) + 1.0 / data.group_prior**2
    cross = np.bincount(data.group_of, weights * residual, data.group_prior.size)
    fit_part = float(np.sum(weights * residual**2) - np.sum(cross**2 / inner))
    prior_part = float(np.sum(((effects - problem.mean) / problem.sd) ** 2))
    if problem.anchor_logs.size:
        prior_part += float(np.sum(((problem.anchor_rows @ effects - problem.anchor_logs) / problem.anchor_sd) ** 2))
    return 0.5 * fit_part + 0.5 * prior_part


def _solve(
    problem: Problem, rows: Sparse, target: F8, *, weights: F8, data: _Data, effects: F8, damping: float
) -> tuple[F8, F8]:
    """One damped linear step: effects, and their precision with deployment errors integrated out."""
    weighted: Sparse = sparse.diags(weights) @ rows
    normal = (rows.T @ weighted).toarray()
    right = np.asarray(weighted.T @ target) + problem.mean / problem.sd**2
    size = data.group_prior.size
    member: Sparse = sparse.csr_matrix(
        (np.ones(data.group_of.size), (data.group_of, np.arange(data.group_of.size))), shape=(size, data.group_of.size)
    )
    inner = np.bincount(data.group_of, weights, size) + 1.0 / data.group_prior**2
    cross = (member @ weighted).toarray()  # [groups, c]
    pooled = np.bincount(data.group_of, weights * target, size)
    reduced = normal - cross.T @ (cross / inner[:, None])
    reduced[np.diag_indices_from(reduced)] += 1.0 / problem.sd**2
    vector = right - cross.T @ (pooled / inner)
    if problem.anchor_logs.size:
        pull: Sparse = sparse.diags(1.0 / problem.anchor_sd**2) @ problem.anchor_rows
        reduced += (problem.anchor_rows.T @ pull).toarray()
        vector += np.asarray(pull.T @ problem.anchor_logs)
    diagonal = damping * np.diag(reduced).copy()
    factor = linalg.cho_factor(reduced + np.diag(diagonal), lower=True)
    return linalg.cho_solve(factor, vector + diagonal * effects), reduced


def draw(posterior: Posterior, *, draws: int, seed: int) -> F8:
    """Joint draws of the effects, antithetic around the mode. ``[draws, c]``"""
    rng = np.random.default_rng(seed)
    c = posterior.effects.size
    lower = linalg.cholesky(posterior.precision + 1e-9 * np.eye(c), lower=True)
    noise = rng.standard_normal((c, (draws + 1) // 2))
    half = linalg.solve_triangular(lower.T, noise, lower=False).T
    return posterior.effects + np.concatenate([half, -half])[:draws]
