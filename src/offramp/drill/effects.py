"""What being cut off does to the workload: compared with the baseline, with intervals."""

from __future__ import annotations

import statistics
from typing import Final, Literal

import numpy as np

from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.drill.records import RunRecord

_DRAWS: Final = 2000
_DEGRADE_SHARE: Final = 0.10
"""A change of a metric counts from here on, if its 95 % interval also excludes no change."""
_DELAY_S: Final = 2.0
_DELAY_SHARE: Final = 0.5
CUT_OFF: Final = ("baseline", "refuse", "drop", "nxdomain")
EffectVerdict = Literal["STOPS", "DEGRADES", "CHANGES OUTPUT", "NO CHANGE", "NOT ASSESSED"]
METRICS: Final = {
    "time_to_ready_s": ("s", 1), "wall_s": ("s", 1), "throughput_req_per_s": ("req/s", -1),
    "latency_p50_s": ("s", 1), "latency_p95_s": ("s", 1),
}  # fmt: skip
"""Unit, and whether more is worse (1) or better (-1)."""


class Change(Record):
    """One metric under one condition against its reference; ratio interval is 95 %, over runs.

    Attributes:
        apart: whether every run of the condition lies beyond every run of the reference. With a handful of runs an
            interval alone is too easily fooled by other work on the machine.
    """

    metric: str
    unit: str
    reference: float
    value: float
    ratio: float
    low: float | None
    high: float | None
    runs: int
    reference_runs: int
    apart: bool = False


class Effect(Record):
    """What one condition did.

    Attributes:
        verdicts: one or more of STOPS, DEGRADES, CHANGES OUTPUT, NO CHANGE, NOT ASSESSED.
        against: the condition that it is compared with.
        reason: in words.
        outcomes: of its runs, with their notes.
    """

    condition: str
    verdicts: tuple[str, ...]
    against: str
    reason: str
    changes: tuple[Change, ...] = ()
    outcomes: tuple[str, ...] = ()


def usually_ends(runs: list[RunRecord]) -> bool:
    """Whether the command is one that ends by itself: it did so, with 0, in some run."""
    return any(run.outcome == "finished" and run.exit_code == 0 for run in runs)


def works(run: RunRecord, *, ends: bool = False) -> bool:
    """Whether the workload did its job: ended with 0, served every request, or (a service) still ran."""
    if run.outcome == "served":
        return all(reply.status and reply.status < 400 for reply in run.replies)
    if run.outcome == "stopped-at-limit":
        return not ends
    return run.outcome == "finished" and run.exit_code == 0


def metrics(run: RunRecord) -> dict[str, float]:
    """What was measured in one run that worked."""
    out: dict[str, float] = {}
    if run.ready_s is not None:
        out["time_to_ready_s"] = run.ready_s
    elif run.outcome == "finished":
        out["wall_s"] = run.wall_s
    good = [reply for reply in run.replies if reply.status and reply.status < 400]
    if good:
        span = max(reply.sent_s + reply.latency_s for reply in good) - min(reply.sent_s for reply in good)
        latencies = np.asarray([reply.latency_s for reply in good])
        out["throughput_req_per_s"] = len(good) / span if span > 0 else 0.0
        out["latency_p50_s"], out["latency_p95_s"] = (float(q) for q in np.quantile(latencies, (0.5, 0.95)))
    return out


def output_digest(run: RunRecord) -> str:
    """One digest of everything that the run put out, in request order."""
    if run.replies:
        return "|".join(reply.digest for reply in run.replies)
    return run.stdout_digest if run.outcome == "finished" else ""


def ratio_interval(values: list[float], reference: list[float], seed: int) -> tuple[float, float] | None:
    """95 % bootstrap interval of the ratio of means over runs; None with fewer than two runs on a side."""
    if len(values) < 2 or len(reference) < 2:
        return None
    stream = np.random.default_rng(seed)
    a, b = np.asarray(values), np.asarray(reference)
    top = a[stream.integers(0, len(a), (_DRAWS, len(a)))].mean(axis=1)
    bottom = b[stream.integers(0, len(b), (_DRAWS, len(b)))].mean(axis=1)
    low, high = np.quantile(top / np.maximum(bottom, 1e-12), (0.025, 0.975))
    return float(low), float(high)


def compare(
    condition: str, runs: list[RunRecord], reference: list[RunRecord], *, against: str, expect: str, seed: int,
    ends: bool = False,
) -> Effect:  # fmt: skip
    """The effect of one condition against its reference runs.

    Args:
        expect: digest of the output that the user expects, or "".
        ends: whether the command usually ends by itself.
    """
    outcomes = tuple(_outcome_words(run) for run in runs)
    assessed = [run for run in runs if run.outcome != "lost"]
    if not assessed:
        return Effect(condition=condition, verdicts=("NOT ASSESSED",), against=against, reason="no run was completed",
                      outcomes=outcomes)  # fmt: skip
    good = [run for run in assessed if works(run, ends=ends)]
    sound = [run for run in reference if works(run, ends=ends)]
    if not good and any(run.condition.rate != 1 for run in assessed):
        reason = (
            "it does not survive clocks this fast, which says nothing about being cut off; its timers are not covered"
        )
        return Effect(
            condition=condition, verdicts=("NOT ASSESSED",), against=against, reason=reason, outcomes=outcomes
        )
    if not good:
        reason = "it does not work here" + (", nor in the reference" if not sound else "")
        return Effect(condition=condition, verdicts=("STOPS",), against=against, reason=reason, outcomes=outcomes)
    changes = _changes(good, sound, seed)
    verdicts, reasons = _judge(changes)
    if len(good) < len(assessed):
        verdicts.append("STOPS")
        reasons.append(f"{len(assessed) - len(good)} of {len(assessed)} runs did not work")
    output = _output_change(good, sound, expect)
    if output:
        verdicts.append("CHANGES OUTPUT")
        reasons.append(output)
    if not verdicts:
        judged = any(change.low is not None for change in changes)
        verdicts, reasons = ["NO CHANGE"], ["nothing beyond the noise between runs" if judged else
                                            "it works; too few runs to judge its speed"]  # fmt: skip
    return Effect(condition=condition, verdicts=tuple(verdicts), against=against, reason="; ".join(reasons),
                  changes=tuple(changes), outcomes=outcomes)  # fmt: skip


def _outcome_words(run: RunRecord) -> str:
    code = f" ({run.exit_code})" if run.exit_code else ""
    return f"{run.outcome}{code}" + (f": {run.note}" if run.note else "")


def _changes(runs: list[RunRecord], reference: list[RunRecord], seed: int) -> list[Change]:
    out: list[Change] = []
    for metric, (unit, _) in METRICS.items():
        values = [value for run in runs if (value := metrics(run).get(metric)) is not None]
        base = [value for run in reference if (value := metrics(run).get(metric)) is not None]
        if not values or not base or statistics.fmean(base) <= 0:
            continue
        interval = ratio_interval(values, base, derive_seed(seed, "bootstrap", metric))
        mean, ref = statistics.fmean(values), statistics.fmean(base)
        low, high = interval if interval else (None, None)
        apart = min(values) > max(base) or max(values) < min(base)
        out.append(Change(metric=metric, unit=unit, reference=ref, value=mean, ratio=mean / ref, low=low, high=high,
                          runs=len(values), reference_runs=len(base), apart=apart))  # fmt: skip
    return out


def _judge(changes: list[Change]) -> tuple[list[str], list[str]]:
    """Whether any metric got worse beyond noise; small absolute changes of a start do not count."""
    reasons: list[str] = []
    for change in changes:
        worse = METRICS[change.metric][1]
        if change.low is None or change.high is None:
            continue
        beyond = change.low > 1 + _DEGRADE_SHARE / 2 if worse > 0 else change.high < 1 - _DEGRADE_SHARE / 2
        small = change.unit == "s" and "latency" not in change.metric and abs(change.value - change.reference) < 0.5
        if beyond and change.apart and abs(change.ratio - 1) >= _DEGRADE_SHARE and not small:
            share = (change.ratio - 1) * 100
            reasons.append(
                f"{change.metric} {share:+.0f} % ({(change.low - 1) * 100:+.0f} to {(change.high - 1) * 100:+.0f} %)"
            )
    return (["DEGRADES"] if reasons else []), reasons


def _output_change(runs: list[RunRecord], reference: list[RunRecord], expect: str) -> str:
    """Why the output counts as changed, or "". An output that differs within the reference is not comparable."""
    if expect:
        wrong = sum(1 for run in runs if _digest_for_user(run) != expect)
        return f"{wrong} of {len(runs)} runs differ from the expected digest" if wrong else ""
    known = {output_digest(run) for run in reference if output_digest(run)}
    if len(known) != 1:
        return ""
    changed = {output_digest(run) for run in runs if output_digest(run)} - known
    return "its output differs from the baseline's, where it is always the same" if changed else ""


def _digest_for_user(run: RunRecord) -> str:
    import hashlib

    if not run.replies:
        return run.stdout_digest
    return hashlib.sha256("".join(reply.digest for reply in run.replies).encode()).hexdigest()


class Dependency(Record):
    """Something outside that the workload waits for.

    Attributes:
        endpoints: documented senders seen (ids), or destinations where none is documented.
        cost_s: median extra time to ready (or to end) that being cut off costs, by condition.
        without_s: median time with the documented switches set.
        switch: the variables of the confirming runs.
        confirmed: whether runs with the switches set were made and worked.
    """

    endpoints: tuple[str, ...]
    cost_s: dict[str, float]
    without_s: float | None
    switch: dict[str, str]
    confirmed: bool
    reason: str
    verdict: str = "DEPENDENCY"


def start_time(run: RunRecord) -> float | None:
    """Time until it was of use: ready, or ended."""
    return run.ready_s if run.ready_s is not None else (run.wall_s if run.outcome == "finished" else None)


def find_dependency(runs: list[RunRecord], *, endpoints: tuple[str, ...], switch: dict[str, str]) -> Dependency | None:
    """Whether being cut off costs time or success that the documented switches (or another condition) give back."""
    timed: dict[str, list[float]] = {}
    for run in runs:
        start = start_time(run)
        moved = run.condition.clock or run.condition.watching == "calls"
        if start is not None and not moved:
            timed.setdefault(run.condition.id, []).append(start)
    if not timed or not endpoints:
        return None
    medians = {name: statistics.median(values) for name, values in timed.items()}
    off = [run for run in runs if run.condition.id == "switched-off"]
    worked = bool(off) and all(works(run) for run in off)
    confirmed = worked and "switched-off" in timed
    floor = medians["switched-off"] if confirmed else min(medians.values())
    least = max(_DELAY_S, 0.0 if confirmed else _DELAY_SHARE * floor)
    bound = max(timed["switched-off"]) if confirmed else floor
    cost = {
        name: round(medians[name] - floor, 2)
        for name in CUT_OFF if name in timed and medians[name] - floor >= least and min(timed[name]) > bound
    }  # fmt: skip
    helps = worked and not any(works(run) for run in runs if run.condition.id in ("refuse", "nxdomain", "drop"))
    if not cost and not helps:
        return None
    worst = max(cost.items(), key=lambda item: item[1], default=("", 0.0))
    reason = f"up to {worst[1]:.0f} s under {worst[0]}" if cost else "it does not work without it"
    return Dependency(endpoints=endpoints, cost_s=cost, without_s=round(floor, 2) if worked else None, switch=switch,
                      confirmed=worked, reason=reason)  # fmt: skip
