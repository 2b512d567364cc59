"""Exchange rates as measured: the same engine, model, lengths and load on two chips, beside the predicted ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from offramp.core.record import Record
from offramp.cost.calibration import Calibration
from offramp.cost.deploy import RESIDUAL_SHARES
from offramp.validate.cases import Case
from offramp.validate.closed import make_batch
from offramp.validate.predict import NOISE, median_draw, parameters_of, residual_of, solve_draws
from offramp.validate.rows import source_key

F8 = npt.NDArray[np.float64]


class Pair(Record):
    """Chips of ``other`` that do the work of one chip of ``base``, measured and predicted.

    Attributes:
        engine, model, source: common to both rows.
        isl, osl, load: mean lengths and requests in flight.
        base, other: chip ids; base_id, other_id: row ids.
        measured: output per chip on base over output per chip on other.
        p10, p50, p90: predicted from joint draws.
    """

    engine: str
    model: str
    source: str
    isl: float
    osl: float
    load: float
    base: str
    other: str
    base_id: str
    other_id: str
    measured: float
    p10: float
    p50: float
    p90: float


def _output_per_chip(case: Case) -> float | None:
    m, row = case.row.metrics, case.row
    if "output_tok_s_per_chip" in m and not row.disaggregated:
        return m["output_tok_s_per_chip"]
    if "output_tok_s" in m and row.chips and not row.disaggregated:
        return m["output_tok_s"] / row.chips
    tpot = m.get("tpot_ms_mean") or m.get("tpot_ms_median")
    ttft = m.get("ttft_ms_mean") or m.get("ttft_ms_median")
    if tpot and ttft and row.concurrency and row.chips and not row.disaggregated and row.mode == "closed":
        return row.concurrency * row.osl / ((ttft + tpot * (row.osl - 1.0)) / 1e3) / row.chips
    return None


def find_pairs(cases: Sequence[Case]) -> list[tuple[Case, Case]]:
    """Rows of one source that differ in the chip only; each pair once, the chip first in the alphabet as base."""
    groups: dict[tuple[object, ...], dict[str, Case]] = {}
    for case in cases:
        row = case.row
        if _output_per_chip(case) is None or row.is_floor or len(case.variants) > 1:
            continue
        key = (source_key(row), row.engine, case.model.id, row.weights, row.isl, row.osl, row.concurrency, row.mode)
        best = groups.setdefault(key, {})
        held = best.get(row.chip)
        if held is None or (_output_per_chip(case) or 0.0) > (_output_per_chip(held) or 0.0):
            best[row.chip] = case
    pairs: list[tuple[Case, Case]] = []
    for by_chip in groups.values():
        names = sorted(by_chip, key=lambda name: (not name.startswith("nvidia/h20"), name))
        pairs += [(by_chip[a], by_chip[b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    return pairs


def predict_pairs(pairs: Sequence[tuple[Case, Case]], calibration: Calibration) -> list[Pair]:
    """Measured and predicted exchange rates; both sides use the same draws, so that common errors cancel."""
    if not pairs:
        return []
    cases = [case for pair in pairs for case in pair]
    batch = make_batch(cases)
    parameters = parameters_of(cases, batch, calibration)
    batch = make_batch(cases, seqs=solve_draws(batch, median_draw(parameters))[0].seqs[0])
    solutions = solve_draws(batch, parameters)
    rate = np.concatenate([s.rate for s in solutions]) * batch.engines
    found: list[Pair] = []
    for i, (a, b) in enumerate(pairs):
        first, second = rate[:, 2 * i] * a.row.osl / a.row.chips, rate[:, 2 * i + 1] * b.row.osl / b.row.chips
        group = max(calibration.known_sd("output", case.stack) for case in (a, b))
        row_sd = max(residual_of(calibration, "output_tok_s", case.stack).row_sd for case in (a, b))
        sd = math.hypot(group * math.sqrt(2.0 * RESIDUAL_SHARES[2]), row_sd)
        spread = np.sort((np.log(first / second)[:, None] + sd * NOISE[None, :]).ravel())
        p10, p50, p90 = np.exp(np.quantile(spread, [0.1, 0.5, 0.9]))
        row = a.row
        found.append(
            Pair(
                engine=row.engine, model=row.model, source=source_key(row), isl=row.isl, osl=row.osl, load=row.concurrency,
                base=row.chip, other=b.row.chip, base_id=row.id, other_id=b.row.id,
                measured=(_output_per_chip(a) or 0.0) / (_output_per_chip(b) or 1.0), p10=float(p10), p50=float(p50),
                p90=float(p90),
            )
        )  # fmt: skip
    return found
