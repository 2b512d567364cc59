"""From findings to a porting plan: groups, rank, stages, engineer-days, entry points."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp.core.figure import Figure, check_figure
from offramp.core.record import Record
from offramp.core.result import FigureLog
from offramp.core.units import DAY_S
from offramp.scan.engine import Scan
from offramp.scan.finding import Finding
from offramp.scan.judge import ORDER, classes
from offramp.scan.order import EFFORT_WEIGHT, GUARDED_SHARE, ROLE_WEIGHT, STAGE_WEIGHT, breadth, share_touched
from offramp.scan.reach import MOST_NAMED, entry_points, reachable
from offramp.scan.target import DATA, Target

DAYS_ROLES: Final = frozenset({"source", "build", "infra"})


class Group(Record):
    """All occurrences of one symbol in one class.

    Attributes:
        reach: occurrences, weighted by the role of their file and by how many modules import it.
        score: effort x reach x stage x how often real ports touch the class; groups stand in falling order.
        days, days_low, days_high: engineer-days of the group.
    """

    rank: int
    symbol: str
    kind: str = msgspec.field(name="class")
    title: str
    effort: str
    stage: str
    replacement: str
    message: str
    occurrences: int
    unguarded: int
    files: int
    roles: dict[str, int]
    reach: float
    score: float
    days: float
    days_low: float
    days_high: float
    fixable: int
    verified: bool
    evidence: str
    first: tuple[str, ...]


def rank(findings: list[Finding], log: FigureLog, *, importers: Mapping[str, int] | None = None) -> list[Group]:
    """Groups, what a porter does first at the top.

    Args:
        importers: by path, how many modules of the tree import the file.
    """
    by_key: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_key.setdefault((finding.kind, finding.symbol), []).append(finding)
    groups = [_group(key, members, log, importers or {}) for key, members in by_key.items()]
    groups.sort(key=lambda group: (-group.score, group.kind, group.symbol))
    return [msgspec.structs.replace(group, rank=at) for at, group in enumerate(groups, start=1)]


WORDING: Final = frozenset({"name.cuda", "text.mention"})
"""Classes that only say CUDA or GPU."""


def wording_last(groups: list[Group]) -> list[Group]:
    """The groups with names, comments and messages after all that a port needs."""
    ordered = sorted(groups, key=lambda group: (group.kind in WORDING, group.rank))
    return [msgspec.structs.replace(group, rank=at) for at, group in enumerate(ordered, start=1)]


def _weight(kind: str) -> float:
    """How much a place of the class counts beside others of its effort; wording counts little."""
    return float(classes()[kind].get("weight", 1))


def first_of(groups: list[Group]) -> Callable[[Finding], tuple[bool, int, str, int]]:
    """Sort key of places: unguarded ones first, then by the rank of their group."""
    order = {(group.kind, group.symbol): group.rank for group in groups}
    return lambda place: (place.guarded, order[place.kind, place.symbol], place.path, place.line)


def _group(key: tuple[str, str], members: list[Finding], log: FigureLog, importers: Mapping[str, int]) -> Group:
    kind, symbol = key
    head = min(
        members,
        key=lambda finding: (finding.guarded, list(ROLE_WEIGHT).index(finding.role), finding.path, finding.line),
    )
    effort = max((finding.effort for finding in members), key=ORDER.index)
    stage = min((finding.stage for finding in members), key=lambda stage: -STAGE_WEIGHT[stage])
    reach = sum(
        ROLE_WEIGHT[f.role] * (GUARDED_SHARE if f.guarded else 1.0) * breadth(importers.get(f.path, 0)) for f in members
    )
    days = days_of(members, log)
    return Group(
        rank=0, symbol=symbol, kind=kind, title=classes()[kind]["title"], effort=effort, stage=stage,
        replacement=head.replacement,
        message=head.message, occurrences=len(members), unguarded=sum(not f.guarded for f in members),
        files=len({f.path for f in members}), roles=dict(Counter(f.role for f in members)), reach=round(reach, 2),
        score=round(EFFORT_WEIGHT[effort] * reach * STAGE_WEIGHT[stage] * share_touched(kind, symbol) * _weight(kind), 4),
        days=days[0], days_low=days[1], days_high=days[2],
        fixable=sum(f.fixable for f in members), verified=all(f.verified for f in members), evidence=head.evidence,
        first=tuple(f"{f.path}:{f.line}" for f in sorted(members, key=_nearest)[:5]),
    )  # fmt: skip


def _nearest(finding: Finding) -> tuple[bool, int, str, int]:
    """Unguarded places in product code come first."""
    return finding.guarded, list(ROLE_WEIGHT).index(finding.role), finding.path, finding.line


@lru_cache(maxsize=1)
def _day_figures() -> dict[str, Figure]:
    rows = tomllib.loads((DATA / "effort.toml").read_text(encoding="utf-8"))["figure"]
    figures: dict[str, Figure] = {}
    for row in rows:
        name = row.pop("id")
        figures[name] = check_figure(msgspec.convert(row, Figure), where=f"scan/effort.toml#{name}")
    return figures


def days_of(members: list[Finding], log: FigureLog) -> tuple[float, float, float]:
    """Engineer-days of one group: middle, low, high. Tests, examples, documents and vendored code are left out."""
    total = [0.0, 0.0, 0.0]
    counted = [f for f in members if f.role in DAYS_ROLES]
    if not counted:
        return 0.0, 0.0, 0.0
    top = max((f.effort for f in counted), key=ORDER.index)
    share = 1.0 if any(not f.guarded for f in counted) else GUARDED_SHARE
    parts = [(f"group.{top}", share)] + [
        (f"place.{f.effort}", GUARDED_SHARE if f.guarded else 1.0) for f in _places(counted)
    ]
    weight = _weight(members[0].kind)
    for name, count in parts:
        figure = log.use(f"scan/effort#{name}", _day_figures()[name])
        day = DAY_S
        for at, value in enumerate((figure.si, *figure.si_range)):
            total[at] += weight * count * value / day
    return round(total[0], 3), round(total[1], 3), round(total[2], 3)


def _places(members: list[Finding]) -> list[Finding]:
    """One finding a place: a package imported in forty files is swapped once, a kernel is rewritten once."""
    kept: dict[tuple[str, str], Finding] = {}
    for finding in members:
        once = finding.effort in ("L3", "L4") and finding.kind not in ("cuda.source",)
        kept.setdefault(("", finding.symbol) if once else (finding.path, str(finding.line)), finding)
    return list(kept.values())


NOTHING_READ: Final = "No file in it is of a kind that the scan reads: nothing is known of it."


def summary(scan: Scan, findings: list[Finding], groups: list[Group], *, target: Target, torch: str) -> dict[str, Any]:
    """The answer on top: can it run today, what before the first run, what for full speed, how many days."""
    active = [f for f in findings if f.role in DAYS_ROLES]
    blockers = [f for f in active if f.stage == "first-run"]
    census: Counter[str] = Counter()
    for file in scan.files:
        census.update(file.census)
    days = {
        name: round(sum(getattr(group, key) for group in groups), 1)
        for name, key in (("mid", "days"), ("low", "days_low"), ("high", "days_high"))
    }
    stages = {stage: _stage(groups, findings, stage) for stage in STAGE_WEIGHT}
    return {
        "target": target.chip,
        "stack": target.name,
        "torch": torch,
        "can_run_today": not blockers if scan.files else None,
        "verdict": _verdict(findings, blockers, target) if scan.files else NOTHING_READ,
        "before_first_run": stages["first-run"],
        "for_full_speed": stages["full-speed"],
        "later": stages["later"],
        "engineer_days": days,
        "engineer_days_basis": (
            "assumed days per group of one symbol plus days per place, by effort class (scan/effort.toml); "
            "low and high take every assumption at its end; tests, examples, documents and vendored code "
            "are not counted"
        ),
        "by_effort": {level: sum(f.effort == level for f in active) for level in ORDER},
        "by_class": dict(Counter(f.kind for f in findings).most_common()),
        "by_role": dict(Counter(f.role for f in findings).most_common()),
        "guarded": sum(f.guarded for f in findings),
        "unverified": sum(not f.verified for f in findings),
        "census": dict(census),
        "files": len(scan.files),
        "lines": sum(file.lines for file in scan.files),
        "reused_from_cache": scan.reused,
        "places_count": len(findings),
        "groups_count": len(groups),
    }


def _stage(groups: list[Group], findings: list[Finding], stage: str) -> dict[str, Any]:
    mine = [group for group in groups if group.stage == stage]
    return {
        "places": sum(f.stage == stage and f.role in DAYS_ROLES for f in findings),
        "groups": len(mine),
        "engineer_days": {
            "mid": round(sum(group.days for group in mine), 1),
            "low": round(sum(group.days_low for group in mine), 1),
            "high": round(sum(group.days_high for group in mine), 1),
        },
        "first": [f"{group.title}: {group.symbol} ({group.occurrences})" for group in mine[:5]],
    }


def _verdict(findings: list[Finding], blockers: list[Finding], target: Target) -> str:
    if not findings:
        return "Nothing in it is tied to CUDA: it runs where its Python packages run."
    if not blockers:
        return (
            f"It may run on {target.name} today: every place that names CUDA is guarded, optional, or not in the way."
        )
    hard = [f for f in blockers if f.effort in ("L3", "L4")]
    files = len({f.path for f in blockers})
    text = f"It does not run on {target.name} today: {len(blockers):,} unguarded places in {files:,} files stop the first run"
    return (
        f"{text}, {len(hard)} of them need a kernel or a package that is not there yet."
        if hard
        else f"{text}; all of them have a known replacement."
    )


def entries(
    root: Path, scan: Scan, findings: list[Finding], log: FigureLog, *, graph: dict[str, set[str]]
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, ...]]]:
    """Per entry point the findings reachable from it, and per path the entry points that reach it."""
    points = entry_points(root, scan.files)
    by_path: dict[str, list[Finding]] = {}
    for finding in findings:
        by_path.setdefault(finding.path, []).append(finding)
    rows: list[dict[str, Any]] = []
    reached: dict[str, list[str]] = {}
    for name, start in points.items():
        paths = reachable(graph, start)
        met = [finding for path in paths for finding in by_path.get(path, ())]
        for path in paths:
            if path in by_path:
                reached.setdefault(path, []).append(name)
        blockers = [f for f in met if f.stage == "first-run"]
        hardest = max((f.effort for f in blockers), key=ORDER.index, default="")
        rows.append({
            "entry": name, "path": start, "files": len(paths), "places": len(met), "before_first_run": len(blockers),
            "hardest": hardest, "unguarded": sum(not f.guarded for f in met), "engineer_days": _entry_days(met, log),
        })  # fmt: skip
    rows.sort(key=lambda row: (-int(row["files"]), str(row["entry"])))
    return rows, {path: tuple(sorted(names, key=len)[:MOST_NAMED]) for path, names in reached.items()}


def _entry_days(met: list[Finding], log: FigureLog) -> float:
    by_key: dict[tuple[str, str], list[Finding]] = {}
    for finding in met:
        by_key.setdefault((finding.kind, finding.symbol), []).append(finding)
    return round(sum(days_of(members, log)[0] for members in by_key.values()), 1)
