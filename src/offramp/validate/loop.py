"""The harness in the loop: a case's benchmark run as it was, by the serving simulator, against the closed form.

The closed form knows a steady state. A real run starts with a burst of prompts, keeps the shape of that burst for many
generations where answers are of nearly one length, admits prompts in batches, and ends ragged. The simulator plays all
that once per case, at the middle of the parameters; its ratio to the closed form then corrects every draw. What prompts
wait in an engine's own ways (polling every so many steps) the simulator does not know: the ratio leaves it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.core.errors import OfframpError
from offramp.core.seeds import derive_seed
from offramp.cost.layout import Pool
from offramp.cost.parameters import PARAMETER_NAMES, Parameters
from offramp.cost.step import Setting
from offramp.cost.table import StepTable
from offramp.cost.tabulate import step_table
from offramp.serve import PoolSpec, Requests, ServeConfig, ServeMetrics, simulate
from offramp.validate.cases import BATCH_TOKENS, Case, Variant
from offramp.validate.closed import MODES, ROUTING, Batch, Solution, solve

F8 = npt.NDArray[np.float64]

MOST_REQUESTS: Final = 6000
"""Requests of a run at most: later ones only repeat the steady state."""
LEAST_WAVES: Final = 3
FIELDS: Final = ("rate", "ttft_s", "ttft_median_s", "ttft_p99_s", "tpot_s")
"""What is corrected, in the order of :attr:`~offramp.validate.closed.Batch.loop`."""
LIMIT: Final = 3.0
"""Largest correction, natural log: beyond it the two disagree on what was run, and the closed form stands."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What one simulated run gave."""

    rate: float
    ttft_s: float
    ttft_median_s: float
    ttft_p99_s: float
    tpot_s: float


def corrections(
    cases: Sequence[Case], batch: Batch, parameters: Parameters, progress: Callable[[str], None] | None = None
) -> F8:
    """Log ratios of the simulated run to the closed form at one set of parameters. ``[5, n]`` (:data:`FIELDS`)

    Args:
        cases: as in ``batch``.
        batch: entries, without corrections.
        parameters: ``[1, n]``.
        progress: told how far it is.
    """
    one = np.ones_like(parameters.queue_factor)
    closed = solve(batch, replace(parameters, queue_factor=one, admit_steps=0.5 * one))
    found = np.zeros((len(FIELDS), batch.case.size))
    known: dict[tuple[object, ...], _Run | None] = {}
    at: dict[int, int] = {}
    for entry, number in enumerate(batch.case.tolist()):
        if progress is not None and entry % 500 == 0:
            progress(f"runs of the harness: {entry} of {batch.case.size}")
        case = cases[number]
        at[number] = at.get(number, -1) + 1
        variant, tokens = case.variants[at[number]], case.kv_tokens[at[number]]
        kind = int(batch.mode[entry])
        if kind not in (MODES["closed"], MODES["offline"]) and not (kind == MODES["open"] and case.row.rate > 0):
            continue
        own = tuple(float(getattr(parameters, name)[0, entry]) for name in PARAMETER_NAMES)
        key = (_what(case), replace(variant, weight=1.0), tokens, own)
        if key not in known:
            known[key] = _run(case, variant, tokens, batch, entry, own)
        run = known[key]
        if run is not None:
            found[:, entry] = [_log_ratio(getattr(run, name), closed, name, entry) for name in FIELDS]
    return found


def _what(case: Case) -> tuple[object, ...]:
    row = case.row
    return (
        case.model.id, case.device.chip, case.stack, case.precision, row.isl, row.osl, row.spread, row.concurrency,
        row.rate, row.requests, row.mode, row.prefix_hit, row.chips,
    )  # fmt: skip


def _log_ratio(value: float, closed: Solution, name: str, entry: int) -> float:
    base = float(getattr(closed, name)[0, entry])
    if not (np.isfinite(value) and value > 0 and base > 0):
        return 0.0
    return float(np.clip(np.log(value / base), -LIMIT, LIMIT))


def _run(case: Case, variant: Variant, tokens: float, batch: Batch, entry: int, own: tuple[float, ...]) -> _Run | None:
    """One run of the harness; None where the simulator cannot play it."""
    one = Parameters(**{name: np.array([[value]]) for name, value in zip(PARAMETER_NAMES, own, strict=True)})
    setting = Setting(
        model=case.model, device=case.device, precision=case.precision, parameters=one, routing=ROUTING,
        graph=case.graph,
    )  # fmt: skip
    row = case.row
    pools, share = _pools(case, variant, tokens, batch, entry, setting)
    requests, flight = _requests(case, share, batch, entry)
    config = ServeConfig(
        mode="open" if row.mode == "open" else "closed", concurrency=flight, estimate_capacity=False,
        warmup=len(requests) // 10 if row.mode == "open" else 0, router="least-requests",
    )  # fmt: skip
    try:
        metrics = simulate(pools, requests, config=config)
    except OfframpError:
        return None
    return _measured(metrics, row.osl, share * float(batch.engines[entry]))


def _measured(metrics: ServeMetrics, osl: float, engines: float) -> _Run | None:
    if metrics.ttft_s is None or metrics.e2e_s is None or metrics.completed == 0:
        return None
    tpot = metrics.tpot_s.mean if metrics.tpot_s is not None else np.nan
    return _Run(
        rate=metrics.output_tokens_per_s / osl / engines, ttft_s=metrics.ttft_s.mean, ttft_median_s=metrics.ttft_s.p50,
        ttft_p99_s=metrics.ttft_s.p99, tpot_s=tpot,
    )  # fmt: skip


def _pools(
    case: Case, variant: Variant, tokens: float, batch: Batch, entry: int, setting: Setting
) -> tuple[tuple[PoolSpec, ...], float]:
    """What is simulated, and which share of the deployment it is: one replica, or both pools of a disaggregated one."""
    table = _table(case, variant, setting, tokens=tokens, slots=float(batch.slots[entry]))
    if not variant.prefill_replicas:
        return (PoolSpec(table=table),), 1.0 / variant.replicas
    wide = replace(
        variant, tp=variant.prefill_tp, pp=1, dp=variant.prefill_dp, ep=variant.prefill_ep, draft=0,
        accept=(1.0, 1.0, 1.0),
    )  # fmt: skip
    source = _table(case, wide, setting, tokens=max(tokens, 8.0 * case.row.isl), slots=1024.0)
    share = 1.0 / max(min(variant.replicas, variant.prefill_replicas), 1.0)
    return (
        PoolSpec(table=source, role="prefill", replicas=max(round(variant.prefill_replicas * share), 1)),
        PoolSpec(table=table, role="decode", replicas=max(round(variant.replicas * share), 1)),
    ), share


def _table(case: Case, variant: Variant, setting: Setting, *, tokens: float, slots: float) -> StepTable:
    row = case.row
    pool = Pool(
        chip=case.stack.chip, tp=variant.tp, pp=variant.pp, dp=variant.dp, ep=variant.ep,
        max_batch_tokens=int(max(BATCH_TOKENS, slots * (1 + variant.draft))), max_seqs=max(int(slots), 1),
    )  # fmt: skip
    made = step_table(
        setting, pool, draw=0, mean_context=max(row.isl + row.osl / 2.0, 16.0), decode_tokens=1 + variant.draft,
        accept_tokens=variant.accept[1],
    )  # fmt: skip
    return replace(made, mixed_steps=case.mixed, kv_capacity_tokens=int(min(tokens, 2.0**50)))


def _requests(case: Case, share: float, batch: Batch, entry: int) -> tuple[Requests, int]:
    """The requests of a run of ``share`` of the deployment, and how many are in flight."""
    row = case.row
    engines = float(batch.engines[entry]) * share
    whole = float(batch.requests[entry]) * engines
    flight = max(round(row.concurrency * share), 1) if row.concurrency > 0 else 0
    if row.mode == "offline" or not flight:
        count = int(np.clip(whole, 1, MOST_REQUESTS))
        flight = flight or count
    else:
        count = int(np.clip(whole, min(LEAST_WAVES * flight, MOST_REQUESTS), max(MOST_REQUESTS, flight)))
    rng = np.random.default_rng(derive_seed(0, "harness", row.id))
    lengths = [_lengths(mean, row.spread, count, rng) for mean in (row.isl * (1.0 - row.prefix_hit), row.osl)]
    rate = row.rate * share
    gaps = rng.exponential(1.0 / rate, count) if row.mode == "open" and rate > 0 else np.zeros(count)
    return Requests(arrival_s=np.cumsum(gaps), isl_tokens=lengths[0], osl_tokens=lengths[1]), flight


def _lengths(mean: float, spread: float, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    drawn = np.round(mean * (1.0 + spread * rng.uniform(-1.0, 1.0, count)))
    return np.maximum(drawn, 1.0).astype(np.int64)
