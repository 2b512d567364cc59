"""A whole drill: the schedule's runs one after another, resumed where one was broken off."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from offramp.core.seeds import derive_seed
from offramp.drill import canaries, effects, keeper
from offramp.drill.endpoints import licence_globs, load_endpoints
from offramp.drill.findings import gather
from offramp.drill.owners import Owners
from offramp.drill.plan import RunPlan
from offramp.drill.records import Condition, RunRecord
from offramp.drill.schedule import PlannedRun, ProfileSettings, make_schedule
from offramp.drill.workload import Workload, find_program

_STACK_REPORTER: Final = "stack_reporter.py"
_ENOUGH_RUNS: Final = 5
_CONFIRMING: Final = 2
_SETTLE_S: Final = 3.0


@dataclass
class Campaign:
    """State of a drill in progress.

    Attributes:
        folder: where ``runs/NNN`` are written.
        say: progress, one line a run.
        left_out: repeats that were not made because the profile's time was up.
    """

    workload: Workload
    settings: ProfileSettings
    folder: Path
    seed: int
    say: Callable[[str], None] = lambda _: None
    runs: list[RunRecord] = field(default_factory=list)
    left_out: int = 0
    _service: bool = False
    _owners: Owners = field(default_factory=Owners)
    _began_s: int = field(default_factory=lambda: int(time.time()))

    def run(self) -> list[RunRecord]:
        """Every run's record, in order of their number."""
        todo = make_schedule(self.workload, self.settings, self.seed)
        start = time.monotonic()
        for planned in todo:
            if planned.repeat and time.monotonic() - start > self.settings.budget_s:
                self.left_out += 1
                continue
            self._do(len(self.runs), len(todo) - self.left_out, planned)
        for extras in (self._switched_off_runs, self._confirming_runs):
            for extra in extras():
                if extra.repeat and time.monotonic() - start > self.settings.budget_s:
                    self.left_out += 1
                    continue
                self._do(len(self.runs), len(self.runs) + 1, extra)
        return self.runs

    def _confirming_runs(self) -> list[PlannedRun]:
        """More runs, condition and baseline in turn, where a slow-down was seen in few: it may be the machine's."""
        out: list[PlannedRun] = []
        for effect in assess_effects(self.runs, self.workload, self.seed):
            timed = [
                run for run in self.runs if run.condition.id == effect.condition and run.condition.watching == "odd"
            ]
            reference = [
                run for run in self.runs if run.condition.id == effect.against and run.condition.watching == "odd"
            ]
            if "DEGRADES" not in effect.verdicts or not timed or not reference or len(timed) >= _ENOUGH_RUNS:
                continue
            for i in range(_CONFIRMING):
                both = (reference, timed)
                out += [PlannedRun(condition=group[0].condition, repeat=len(group) + i) for group in both]
        return out

    def _do(self, index: int, count: int, planned: PlannedRun) -> None:
        folder = self.folder / "runs" / f"{index:03d}"
        record = self._resumed(folder, planned)
        if record is None:
            record = self._name_owners(keeper.execute(self._plan(index, folder, planned)))
            (folder / "run.json").write_bytes(msgspec.json.encode(record))
        self.runs.append(record)
        ended = any(run.outcome == "finished" for run in self.runs)
        if record.outcome == "stopped-at-limit" and self.workload.ready is None and not ended:
            self._service = True
        found = sum(1 for flow in record.flows if not flow.canary)
        note = f", {record.note}" if record.note else ""
        kind = _kind(planned.condition)
        self.say(f"run {index + 1}/{count} {planned.condition.id} ({kind}): {record.outcome}{note}; "
                 f"{found} flows, {record.wall_s:.1f} s")  # fmt: skip

    def _resumed(self, folder: Path, planned: PlannedRun) -> RunRecord | None:
        """The record of an earlier, interrupted drill with the same inputs."""
        path = folder / "run.json"
        if not path.is_file():
            return None
        try:
            record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
        except msgspec.DecodeError:
            return None
        return record if record.condition == planned.condition and record.outcome != "lost" else None

    def _plan(self, index: int, folder: Path, planned: PlannedRun) -> RunPlan:
        limits = self.workload.limits
        run_s = self.settings.service_window_s if self._service else (limits.run_s or self.settings.run_s)
        hurried = (limits.hurried_s or self.settings.hurried_s) if planned.condition.rate != 1 else 0.0
        settle = self._settle_s()
        if hurried:
            run_s = settle + hurried
        planted = canaries.make(
            derive_seed(self.seed, "canary", index), python=sys.executable, now_s=self._began_s,
            uptime_s=int(time.clock_gettime(time.CLOCK_MONOTONIC)),
        )  # fmt: skip
        return RunPlan(
            index=index, repeat=planned.repeat, folder=folder, condition=planned.condition, workload=self.workload,
            program=find_program(self.workload), canaries=planted, run_limit_s=run_s, settle_s=settle,
            linger_s=self.settings.linger_s if limits.linger_s < 0 else limits.linger_s, hurried_s=hurried,
            canary_s=15.0, licence_globs=licence_globs(), must_work=index == 0,
            site_text=resources.files("offramp.drill").joinpath(_STACK_REPORTER).read_bytes(),
        )  # fmt: skip

    def _settle_s(self) -> float:
        """Ordinary time before clocks are sped up: what the command usually takes, so that its start stays sound."""
        walls = [run.wall_s for run in self.runs if run.outcome == "finished"]
        return 1.5 * max(walls) + 1.0 if walls and not self._service else _SETTLE_S

    def _name_owners(self, record: RunRecord) -> RunRecord:
        """The record with the packages that own each program and each frame."""
        images = tuple(msgspec.structs.replace(image, owner=self._owners.of_image(image)) for image in record.processes)
        return msgspec.structs.replace(record, processes=images)

    def _switched_off_runs(self) -> list[PlannedRun]:
        """Runs with the documented switches of every sender that was seen, to confirm what they save."""
        switches = self.switches()
        if not switches or not any(run.condition.mode == "drop" for run in self.runs):
            return []
        condition = Condition(id="switched-off", mode="drop", environment=switches)
        watched = Condition(id="switched-off", mode="drop", watching="calls", environment=switches)
        return [PlannedRun(condition=watched, repeat=0)] + [
            PlannedRun(condition=condition, repeat=i) for i in range(self.settings.repeats_other)
        ]

    def switches(self) -> dict[str, str]:
        """Variables that turn off the documented senders seen so far."""
        seen = {finding.documented for finding in gather(self.runs, {})}
        return {
            name: value for endpoint in load_endpoints().endpoint if endpoint.id in seen
            for name, value in endpoint.switch_env.items()
        }  # fmt: skip


def _kind(condition: Condition) -> str:
    return "watched" if condition.watching == "calls" else "timed"


def workload_digest(workload: Workload) -> str:
    """What identifies the inputs of a drill, so that a resumed one is not mixed with another."""
    return hashlib.blake2b(msgspec.json.encode(workload), digest_size=16).hexdigest()


def effect_groups(runs: list[RunRecord]) -> list[tuple[str, list[RunRecord], list[RunRecord], str]]:
    """Condition, its runs, its reference runs and their condition, for every comparison that makes sense.

    The reference is the baseline where the workload works in it, else the sink that accepts; for a moved clock it is
    the same machinery with a shift of zero.
    """
    timed = [run for run in runs if run.condition.watching == "odd"]
    baseline = [run for run in timed if run.condition.id == "baseline"]
    accept = [run for run in timed if run.condition.id == "accept"]
    control = [run for run in runs if run.condition.id == "clock+0d"]
    ends = effects.usually_ends(runs)
    fine = [any(effects.works(run, ends=ends) for run in group) for group in (baseline, accept)]
    plain = baseline if fine[0] or not fine[1] else accept
    out: list[tuple[str, list[RunRecord], list[RunRecord], str]] = []
    for name in sorted({run.condition.id for run in runs}):
        mine = [run for run in runs if run.condition.id == name]
        if mine[0].condition.clock:
            reference = plain if name == "clock+0d" or not control else control
        else:
            mine, reference = [run for run in mine if run.condition.watching == "odd"], plain
        if mine and mine is not reference and mine != reference:
            out.append((name, mine, reference, reference[0].condition.id if reference else ""))
    return out


def assess_effects(runs: list[RunRecord], workload: Workload, seed: int) -> list[effects.Effect]:
    """The effect of every condition."""
    expect = workload.ask.expect_sha256 if workload.ask else workload.expect_sha256
    return [
        effects.compare(name, mine, reference, against=against, expect=expect, seed=derive_seed(seed, name),
                        ends=effects.usually_ends(runs))
        for name, mine, reference, against in effect_groups(runs) if mine
    ]  # fmt: skip
