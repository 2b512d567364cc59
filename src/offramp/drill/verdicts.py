"""Verdicts by class, what time was covered, and what no drill of this kind can see."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from offramp.core.record import Record
from offramp.drill.canaries import CLASSES
from offramp.drill.endpoints import load_endpoints
from offramp.drill.findings import Finding
from offramp.drill.records import CanaryOutcome, Lost, RunRecord

Verdict = Literal["OBSERVED", "NOT OBSERVED", "NOT ASSESSED"]

BLIND_SPOTS: Final = (
    ("GPU system processor and NPU firmware", "code on the chip talks past the operating system; nothing here sees it"),
    ("management controller (BMC) and DPU", "they have network ports and an operating system of their own"),
    ("DMA and RDMA", "RDMA devices are not passed in; memory that a device writes or sends by itself is not seen"),
    ("on-die metering and fuses", "counters inside the chip that act later leave no trace in a run"),
    ("kernel-mode senders", "a driver can send outside the namespace; compare with an upstream tap"),
    ("covert channels in allowed traffic", "data hidden in the replies, timing or logs that you let out is not seen"),
    ("reading the CPU's counters directly", "rdtsc, file time stamps and network time are not moved with the clocks"),
    ("contents of TLS", "the sink has no trusted certificate: server names are read, contents are not"),
    ("triggers that were not met", "a sender that waits for a model, date or message that no run produced is silent"),
    ("agents beside the workload", "daemons outside the command (fleet, licence) are drilled only if it starts them"),
)  # fmt: skip
CHANNELS_EXTRA: Final = ("vsock", "setns", "raw-socket")


class ClassVerdict(Record):
    """What can be said about one class of senders.

    Attributes:
        findings: ids of undocumented and documented findings of the class.
        conditions: under which a canary of the class was caught.
        watched_s, virtual_s: wall and virtual seconds of the runs that could have shown it.
        canaries: "caught of expected".
        named: of those caught in attributed runs, how many with the right process.
        reason: why it is not assessed.
    """

    kind: str = msgspec.field(name="class")
    verdict: Verdict
    findings: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    watched_s: float = 0.0
    virtual_s: float = 0.0
    canaries: str = ""
    named: str = ""
    reason: str = ""


class TimerVerdict(Record):
    """Whether a known timer would have gone off within the virtual time that was covered."""

    id: str
    name: str
    after_s: float
    covered: bool
    source: str
    evidence: str


def judge_classes(runs: list[RunRecord], findings: tuple[Finding, ...]) -> tuple[ClassVerdict, ...]:
    """One verdict per class, from the canaries of every run."""
    out = [_judge(kind, runs, findings) for kind in CLASSES]
    for kind in CHANNELS_EXTRA:
        ids = tuple(finding.id for finding in findings if kind in finding.classes)
        if ids:
            out.append(ClassVerdict(kind=kind, verdict="OBSERVED", findings=ids, reason="no canary of this class"))
    return tuple(out)


def _judge(kind: str, runs: list[RunRecord], findings: tuple[Finding, ...]) -> ClassVerdict:
    ids = tuple(finding.id for finding in findings if kind in finding.classes)
    pairs = [(run, canary) for run in runs for canary in run.canaries if canary.kind == kind and canary.expected]
    caught = [(run, canary) for run, canary in pairs if canary.seen]
    attributed = [(run, canary) for run, canary in caught if run.condition.watching == "calls"]
    named = sum(canary.attributed for _, canary in attributed)
    missed = [(run, canary) for run, canary in pairs if not canary.seen]
    covering = {run.index: run for run, _ in caught}.values()
    reason = _why_not(kind, runs, pairs, missed)
    verdict: Verdict = "OBSERVED" if ids else ("NOT ASSESSED" if reason else "NOT OBSERVED")
    return ClassVerdict(
        kind=kind, verdict=verdict, findings=ids, reason=reason,
        conditions=tuple(sorted({run.condition.id for run in covering})),
        watched_s=round(sum(run.wall_s for run in covering), 1),
        virtual_s=round(max((run.watched_virtual_s for run in covering), default=0.0), 1),
        canaries=f"{len(caught)} of {len(pairs)}", named=f"{named} of {len(attributed)}",
    )  # fmt: skip


def _why_not(
    kind: str, runs: list[RunRecord], pairs: list[tuple[RunRecord, CanaryOutcome]],
    missed: list[tuple[RunRecord, CanaryOutcome]],
) -> str:  # fmt: skip
    if missed:
        run, canary = missed[0]
        where = f"run {run.index}, {run.condition.id}: {canary.detail}"
        return f"its canary was missed in {len(missed)} of {len(pairs)} runs ({where})"
    if pairs:
        return ""
    made = any(canary.kind == kind for run in runs for canary in run.canaries)
    return "no condition of this drill makes its canary speak" if made else "no canary can be made on this machine"


def has_missed_canary(verdicts: tuple[ClassVerdict, ...]) -> bool:
    """Whether any canary that should have been caught was not."""
    return any("was missed" in verdict.reason for verdict in verdicts)


def judge_timers(runs: list[RunRecord]) -> tuple[tuple[TimerVerdict, ...], float]:
    """The known timers against the longest virtual time that one run covered; and that time in seconds."""
    longest = max((run.watched_virtual_s for run in runs if run.outcome != "lost"), default=0.0)
    rows = tuple(
        TimerVerdict(id=timer.id, name=timer.name, after_s=timer.after_s, covered=timer.after_s < longest,
                     source=timer.source, evidence=timer.evidence)
        for timer in load_endpoints().timer
    )  # fmt: skip
    return rows, longest


def lost_coverage(runs: list[RunRecord], left_out: int = 0) -> tuple[Lost, ...]:
    """Everything that this machine did not offer, or the time did not allow, once each."""
    seen: dict[tuple[str, str], Lost] = {}
    if left_out:
        seen["repeats", ""] = Lost(what=f"{left_out} repeats", why="the profile's time was up",
                                   effect="slow-downs are judged on fewer runs")  # fmt: skip
    for run in runs:
        for item in run.lost:
            seen.setdefault((item.what, item.effect), item)
        if run.counters.get("calls_left_out") or run.counters.get("flows_left_out"):
            item = Lost(what="records of a flood", why="more calls or flows than a run keeps",
                        effect="the first 20,000 of each are kept")  # fmt: skip
            seen.setdefault((item.what, item.effect), item)
        if run.outcome == "lost":
            item = Lost(what=f"run {run.index} ({run.condition.id})", why=run.note, effect="it is not in any verdict")
            seen.setdefault((item.what, item.effect), item)
    return tuple(seen.values())
