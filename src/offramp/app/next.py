"""next: the few measurements whose result would shrink a study's decision interval most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from offramp import __version__, arch, catalog
from offramp.app.check import require_sound
from offramp.app.study import Study, Workload
from offramp.app.workload import load_requests
from offramp.arch.record import Model
from offramp.calibrate.advice import recommend
from offramp.catalog import Catalog
from offramp.core.errors import InfeasibleError
from offramp.core.result import FigureLog, Notice, Result, hash_inputs, table_of
from offramp.core.seeds import derive_seed
from offramp.cost.calibration import Calibration, load_calibration
from offramp.validate.cases import Case, build_case
from offramp.validate.closed import make_batch
from offramp.validate.predict import parameters_of, residual_of, solve_draws
from offramp.validate.rows import Problem, parse_row

F8 = npt.NDArray[np.float64]

BATCHES: Final = (1, 8, 32, 128)
"""Requests in flight that are proposed."""
LENGTHS: Final = ((128, 1024), (2048, 256))
"""Input and output tokens that are proposed beside the workload's own."""
NOISE: Final = 0.05
"""Log error of a careful benchmark. Source: the same cell rerun differs by 0.3 % within days and 3 % over weeks."""


class Proposal(NamedTuple):
    """A measurement that could be made."""

    workload: str
    case: Case


def next_measurements(path: str | Path, *, most: int = 3, calibration: str = "") -> Result:
    """The measurements to make first.

    Args:
        path: study file.
        most: how many to name.
        calibration: parameter file; the shipped one where empty.

    Raises:
        InfeasibleError: no candidate chip can be computed, so nothing can be measured to decide.
    """
    draft, _ = require_sound(path, ())
    study = draft.study()
    facts = catalog.load(study.study.as_of)
    parameters = load_calibration(calibration or None)
    decisions: list[F8] = []
    names: list[str] = []
    proposals: list[Proposal] = []
    observed: list[F8] = []
    for work in study.workloads_of("serve"):
        found = _workload(work, study, facts, parameters)
        decisions += found[0]
        names += found[1]
        proposals += found[2]
        observed += found[3]
    if not decisions:
        mend = "Add a chip with published figures to [candidates]; offramp chips lists them."
        raise InfeasibleError("no candidate can be compared with the baseline", where=f"{path}:$.candidates", mend=mend)
    noise = [np.full(x.shape[1], NOISE) for x in observed]
    advice = recommend(np.stack(decisions, axis=1), observed, noise=noise, most=most)
    rows = [_row(i + 1, proposals[a.index], a.width_before, a.width_after, a.gain) for i, a in enumerate(advice)]
    log = FigureLog()
    log.note_date(parameters.created)
    columns = (
        "rank",
        "workload",
        "chip",
        "engine",
        "tp",
        "isl",
        "osl",
        "concurrency",
        "width_before",
        "width_after",
        "gain",
        "command",
    )
    notices = (
        () if rows else (Notice(kind="nothing-to-gain", text="no single measurement would narrow the decision by 2 %"),)
    )
    return Result(
        command="next", answer={"decisions": names, "measurements": rows}, tables={"measurements": table_of(rows, columns=columns)},
        inputs_hash=hash_inputs({**draft.inputs, "calibration": parameters.version}), data_version=facts.version,
        knowledge_horizon=log.horizon, warnings=notices, offramp_version=__version__, seed=study.study.seed,
    )  # fmt: skip


def _workload(
    work: Workload, study: Study, facts: Catalog, parameters: Calibration
) -> tuple[list[F8], list[str], list[Proposal], list[F8]]:
    """Decisions, their names, proposals and what each would show, for one workload."""
    requests = load_requests(work, seed=study.study.seed)
    lengths = (int(np.mean(requests.isl_tokens)), max(int(np.mean(requests.osl_tokens)), 2))
    chips = [study.candidates.baseline, *study.candidates.chips] if study.candidates else []
    model = arch.load(work.model)
    capacity: dict[str, F8] = {}
    proposals: list[Proposal] = []
    observed: list[F8] = []
    for chip in chips:
        own = [c for c in (_case(work, model, chip, facts, lengths, batch) for batch in BATCHES) if c is not None]
        if not own:
            continue
        logs = _logs(own, parameters, study.study.seed)
        capacity[chip] = _at_slo(work, logs, own)
        others = [_case(work, model, chip, facts, shape, batch) for shape in LENGTHS for batch in (8, 64)]
        extra = [c for c in others if c is not None]
        every = [*logs, *(_logs(extra, parameters, study.study.seed) if extra else [])]
        proposals += [Proposal(work.id, case) for case in [*own, *extra]]
        observed += every
    base = study.candidates.baseline if study.candidates else ""
    if base not in capacity:
        return [], [], [], []
    others_named = [chip for chip in capacity if chip != base]
    decisions = [capacity[base] - capacity[chip] for chip in others_named]
    return decisions, [f"{work.id}: {chip} for one {base}" for chip in others_named], proposals, observed


def _case(work: Workload, model: Model, chip: str, facts: Catalog, lengths: tuple[int, int], batch: int) -> Case | None:
    """The smallest tensor-parallel layout that holds the batch, or None."""
    entry = facts.chip(chip)
    engine = entry.engines[0] if entry.engines else "vllm"
    for devices in (1, 2, 4, 8, 16, 32):
        raw = {
            "id": f"{work.id}-{chip}-tp{devices}-{lengths[0]}-{lengths[1]}-c{batch}", "chip": chip, "model": work.model,
            "engine": engine, "n_chips": str(devices / entry.devices), "tp": str(devices), "isl": str(lengths[0]),
            "osl": str(lengths[1]), "concurrency": str(batch), "spec": "none", "output_tok_s": "1", "tpot_ms_mean": "1",
            "grade": "A",
        }  # fmt: skip
        row = parse_row(raw)
        if isinstance(row, Problem):
            return None
        case = build_case(row, catalog=facts, resolve=lambda _name: (model, ""))
        if not isinstance(case, Problem) and case.kv_tokens[0] >= batch * (lengths[0] + lengths[1]):
            return case
    return None


def _logs(cases: Sequence[Case], parameters: Calibration, seed: int) -> list[F8]:
    """Logs of output per chip, TPOT and TTFT by draw, deployment residuals included. each [draws, 3]"""
    batch = make_batch(cases)
    solutions = solve_draws(batch, parameters_of(cases, batch, parameters))
    found: list[F8] = []
    for i, case in enumerate(cases):
        residual = residual_of(parameters, "output_tok_s", case.stack)
        rng = np.random.default_rng(derive_seed(seed, case.stack.chip, case.stack.engine, case.model.id))
        common = (
            0.0 if parameters.is_measured(case.stack) else rng.standard_normal(parameters.draws) * residual.group_sd
        )
        rate = np.concatenate([s.rate[:, i] for s in solutions]) * batch.engines[i] * case.row.osl / case.row.chips
        tpot = np.concatenate([s.tpot_s[:, i] for s in solutions])
        ttft = np.concatenate([s.ttft_s[:, i] for s in solutions])
        found.append(np.stack([np.log(rate) - common, np.log(tpot) + common, np.log(ttft) + common], axis=1))
    return found


def _at_slo(work: Workload, logs: Sequence[F8], cases: Sequence[Case]) -> F8:
    """Log output per chip at the largest batch whose TPOT meets the limit, by draw. [draws]"""
    limit = min((value for key, value in work.slo.items() if key.startswith("tpot")), default=float("inf"))
    best = logs[0][:, 0].copy()
    for found in logs[1 : len(cases)]:
        best = np.where(found[:, 1] <= np.log(limit), np.maximum(best, found[:, 0]), best)
    return best


_BENCH: Final = {
    "sglang": "python -m sglang.bench_serving --backend sglang --dataset-name random --random-range-ratio 1",
    "vllm": "vllm bench serve --dataset-name random --ignore-eos",
}


def _row(rank: int, proposal: Proposal, before: float, after: float, gain: float) -> dict[str, Any]:
    case = proposal.case
    row, variant = case.row, case.variants[0]
    requests = max(int(row.concurrency) * 10, 20)
    isl, osl = int(row.isl), int(row.osl)
    if row.engine.startswith("sglang"):
        flags = f"--random-input-len {isl} --random-output-len {osl} --max-concurrency {int(row.concurrency)}"
        command = f"{_BENCH['sglang']} {flags} --num-prompts {requests} --model {row.model}"
    else:
        flags = f"--random-input-len {isl} --random-output-len {osl} --max-concurrency {int(row.concurrency)}"
        command = f"{_BENCH['vllm']} {flags} --num-prompts {requests} --model {row.model}"
    return {
        "rank": rank, "workload": proposal.workload, "chip": row.chip, "engine": row.engine, "tp": variant.tp, "isl": isl,
        "osl": osl, "concurrency": int(row.concurrency), "width_before": before, "width_after": after, "gain": gain,
        "command": command,
    }  # fmt: skip
