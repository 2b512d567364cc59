"""Splits: prefill and decode on separate pools, of one chip or of two; the mixed way off the chip in use."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from offramp import catalog as facts
from offramp.app.cells import Job, Worked, cell_key, keep_points, work
from offramp.app.crew import Crew
from offramp.app.economics import Ledger
from offramp.app.rollup import Row, short_name, span_of
from offramp.app.runs import RunStore
from offramp.core.record import Record
from offramp.cost import per_million_tokens
from offramp.cost.hardware import system_of
from offramp.search import Felt, Side, Split, find_split
from offramp.search.sides import FIGURES
from offramp.search.split import Sides
from offramp.search.tune import Points

F8 = npt.NDArray[np.float64]


class SplitCell(Record):
    """One workload over two chips.

    Attributes:
        prefill_chip, decode_chip: catalogue ids.
        split: None where no pair of layouts keeps the SLO.
    """

    workload: str
    prefill_chip: str
    decode_chip: str
    split: Split | None = None


Wanted = tuple[Job, str, str]


def pairs_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Each fully known chip with itself, and each with the chip in use both ways round."""
    known = [row.chip.id for row in rows if row.cell.mode == "sourced"]
    base = next((row.chip.id for row in rows if row.is_baseline), "")
    same = [(chip, chip) for chip in known]
    mixed = [pair for chip in known if chip != base for pair in ((chip, base), (base, chip))]
    return same + (mixed if base in known else [])


def run_split(
    job: Job, prefill_chip: str, decode_chip: str, known: Mapping[str, Mapping[int, Felt | None]] | None = None
) -> Worked:
    """Computes one split; ``known`` are points that were simulated before."""
    points = Points(known={key: dict(curve) for key, curve in (known or {}).items()})
    found = find_split(
        job.question(points), prefill_chip, decode_chip, catalog=facts.load(job.as_of), calibration=job.fitted(),
        as_of=job.as_of, sides=_sides(job),
    )  # fmt: skip
    cell = SplitCell(workload=job.workload, prefill_chip=prefill_chip, decode_chip=decode_chip, split=found)
    return Worked(cell, points.seen)


_last: list[tuple[str, Sides]] = []


def _sides(job: Job) -> Sides:
    """Sides that this process has found for the job: a chip takes part in many splits."""
    key = hashlib.blake2b(pickle.dumps(job)).hexdigest()
    if not _last or _last[0][0] != key:
        _last[:] = [(key, {})]
    return _last[0][1]


def run_splits(
    wanted: Sequence[Wanted], store: RunStore, *, crew: Crew, progress: Callable[[str], None] | None = None
) -> list[SplitCell]:
    """All splits, kept ones from the store; in the order asked."""
    done: dict[int, SplitCell] = {}
    keys: list[str] = []
    for i, (job, first, second) in enumerate(wanted):
        catalog = facts.load(job.as_of)
        parts = {"first": cell_key(store, job, catalog.chip(first), catalog),
                 "second": cell_key(store, job, catalog.chip(second), catalog)}  # fmt: skip
        keys.append(store.key("split", parts))
        found = store.find(keys[i], SplitCell)
        if found is not None:
            done[i] = msgspec.structs.replace(found, workload=job.workload)
    missing = [i for i in range(len(wanted)) if i not in done]
    if progress and missing:
        progress(f"{len(missing)} ways to split prefill and decode")

    def keep(i: int, value: Worked, where: str) -> None:
        cell = cast("SplitCell", value.answer)
        done[i] = cell
        keep_points(store, wanted[i], value)
        store.keep(keys[i], cell)
        if progress and where:
            progress(f"[{len(done)}/{len(wanted)}] {first_and_second(cell)} ({where})")

    work(run_split, wanted, missing, store, keep=keep, crew=crew, progress=progress)
    return [done[i] for i in range(len(wanted))]


def first_and_second(cell: SplitCell) -> str:
    """A split in words."""
    return f"{cell.workload}: prefill on {cell.prefill_chip}, decode on {cell.decode_chip}"


def split_answers(job: Job, cells: Sequence[SplitCell], rows: Sequence[Row], ledger: Ledger) -> list[dict[str, Any]]:
    """Splits as plain data, cheapest first: chips on each side for the peak, in whole servers, and what they cost.

    Chips are those of the median joint draw, with p10 and p90 of all; cost is that of the median draw.
    """
    by_chip = {row.chip.id: row for row in rows}
    if any(cell.split is not None for cell in cells):
        for name, figure in FIGURES.items():
            ledger.log.use(name, figure)
    found = [
        _answer(job, cell, cell.split, by_chip, ledger) for cell in cells if cell.split is not None
    ]  # fmt: skip
    return sorted(
        filter(None, found), key=lambda item: (item["cost_per_million_output_tokens"] or math.inf, item["chips_total"])
    )


def _answer(job: Job, cell: SplitCell, split: Split, by_chip: dict[str, Row], ledger: Ledger) -> dict[str, Any]:
    rows = by_chip[cell.prefill_chip], by_chip[cell.decode_chip]
    sides = split.prefill, split.decode
    draws = [_chips(job, split, side, row, ledger) for side, row in zip(sides, rows, strict=True)]
    total = draws[0] + draws[1]
    middle = int(np.argsort(total, kind="stable")[round(0.5 * (len(total) - 1))])
    if not np.isfinite(total[middle]):
        return {}
    counts = [int(each[middle]) for each in draws]
    names = [short_name(row.chip.name) for row in rows]
    words = f"{counts[0]:,} {names[0]} for prefill and {counts[1]:,} {names[1]} for decode"
    base = next((row.numbers for row in by_chip.values() if row.is_baseline), None)
    return {
        "prefill_chip": cell.prefill_chip, "decode_chip": cell.decode_chip, "words": words,
        "prefill_name": names[0], "decode_name": names[1],
        "mixed": cell.prefill_chip != cell.decode_chip, "prefill_chips": counts[0], "decode_chips": counts[1],
        "chips_total": sum(counts), "requests_per_s_per_unit": split.rate,
        "interval": {"prefill_chips": span_of(draws[0]).plain(), "decode_chips": span_of(draws[1]).plain(),
                     "chips_total": span_of(total).plain(), "share_of_draws": float(np.isfinite(total).mean()),
                     "fewer_than_baseline": None if base is None else float((total < base.chips).mean())},
        "transfer": msgspec.to_builtins(split.transfer), "transfer_s": split.transfer.mean_s,
        "prefill_requests_per_s_per_chip": split.prefill.closed_rate / split.prefill.packages,
        "decode_requests_per_s_per_chip": split.decode.closed_rate / split.decode.packages,
        "prefill_layout": _layout(split.prefill), "decode_layout": _layout(split.decode), "accepted_drafts_per_step": split.accept,
        "latency_s": {key: split.felt.latency.get(key) for key in (*job.slo, "ttft_p90", "tpot_p90")},
        "cost_per_million_output_tokens": _cost(job, counts, rows, ledger),
    }  # fmt: skip


def _layout(side: Side) -> str:
    pool = side.pool
    degrees = [f"{name.upper()}{getattr(pool, name)}" for name in ("tp", "pp", "dp", "ep") if getattr(pool, name) > 1]
    return f"{side.replicas} x {pool.engine} {' '.join(degrees) or 'TP1'}"


def _chips(job: Job, split: Split, side: Side, row: Row, ledger: Ledger) -> F8:
    """Chips of one side for the peak by joint draw, in whole servers, spares and minimum included. [draws]"""
    system = system_of(ledger.catalog, row.chip, side.pool.system)
    per_server = system.packages_per_node if system else 1
    units = np.ceil(split.units_by_draw(side, job.demand.peak) - 1e-9) + job.demand.spares
    units = np.maximum(units, job.demand.least)
    return np.ceil(units * side.replicas * side.packages / per_server - 1e-9) * per_server


def _cost(job: Job, counts: Sequence[int], rows: Sequence[Row], ledger: Ledger) -> float | None:
    """Middle cost; power per chip is taken from aggregated serving on the same chip."""
    total = 0.0
    for count, row in zip(counts, rows, strict=True):
        own = row.numbers
        if own is None or own.capital is None or not row.chips.mid:
            return None
        power = own.power_w[1] / row.chips.mid * ledger.power_price(ledger.study.site_of(""))
        total += count * (own.capital.mid + own.host_per_s + power)
    tokens = job.demand.mean * job.mix.osl
    return per_million_tokens(total, tokens) if tokens > 0 else None


def first_step(
    splits: Sequence[dict[str, Any]], baseline: Row | None, free: Collection[str], owned: int = 0
) -> tuple[str, str]:
    """The mixed split with the fewest chips, of those whose other chip may be bought without a licence, and why it pays.

    Args:
        splits: as of :func:`split_answers`.
        baseline: the chip in use.
        free: chips that may be bought.
        owned: chips in use that the fleet has.

    Returns:
        Two sentences; empty where there is no such split.
    """
    if baseline is None or not baseline.chips.mid:
        return "", ""
    base = baseline.chip.id
    allowed = {*free, base}
    mixed = [
        item for item in splits
        if item["mixed"] and item["chips_total"] < baseline.chips.mid
        and {item["prefill_chip"], item["decode_chip"]} <= allowed
    ]  # fmt: skip
    if not mixed:
        return "", ""
    best = min(mixed, key=lambda item: item["chips_total"])
    instead = f"instead of {baseline.chips.mid:,.0f} {short_name(baseline.chip.name)}."
    kept, added = ("decode", "prefill") if best["decode_chip"] == base else ("prefill", "decode")
    why = f"{_why(splits, best, added)} {_odds(best, baseline)}".strip()
    if best[f"{kept}_chips"] > owned:
        return f"A mixed step: {best['words']}, {instead}", why
    words = (
        f"A mixed step: keep {best[f'{kept}_chips']:,} {best[f'{kept}_name']} for {kept} and add "
        f"{best[f'{added}_chips']:,} {best[f'{added}_name']} for {added}, {instead}"
    )
    return words, why


def _odds(best: dict[str, Any], baseline: Row) -> str:
    """How sure it is that the step takes fewer chips."""
    interval = best["interval"]
    if interval["fewer_than_baseline"] is None:
        return ""
    total = interval["chips_total"]
    high = f"{total['high']:,.0f}" if total["high"] is not None else "no limit"
    return (
        f"All in all {best['chips_total']:,} chips ({total['low']:,.0f} to {high}); in {interval['fewer_than_baseline']:.0%} of the "
        f"draws fewer than on {short_name(baseline.chip.name)} alone."
    )


def _why(splits: Sequence[dict[str, Any]], best: dict[str, Any], added: str) -> str:
    """What one of the added chips is worth on each side, in chips in use; closed form."""
    kept = "decode" if added == "prefill" else "prefill"
    other, base = best[f"{added}_chip"], best[f"{kept}_chip"]

    def rate(chip: str, side: str) -> float:
        return next((item[f"{side}_requests_per_s_per_chip"] for item in splits if item[f"{side}_chip"] == chip), 0.0)

    values = {side: (rate(other, side), rate(base, side)) for side in ("prefill", "decode")}
    if min(min(pair) for pair in values.values()) <= 0.0:
        return ""
    worth = {side: mine / theirs for side, (mine, theirs) in values.items()}
    name, old = best[f"{added}_name"], best[f"{kept}_name"]
    return f"One {name} prefills as much as {worth['prefill']:.2g} {old} and decodes as much as {worth['decode']:.2g}."
