"""What one run is told before it starts."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from offramp.drill.canaries import Canary
from offramp.drill.processes import CANARY_DIR, PRIVATE_DIR
from offramp.drill.records import Condition
from offramp.drill.workload import Workload

SITE_DIR: Final = f"{PRIVATE_DIR}/site"
STRACE_FOLDER: Final = f"{PRIVATE_DIR}/strace"
STACK_FILE: Final = f"{PRIVATE_DIR}/stacks/frames.jsonl"


@dataclass(kw_only=True)
class RunPlan:
    """One run.

    Attributes:
        index, repeat: number in the schedule and among runs of the same condition.
        folder: where the run's evidence goes.
        program: absolute path of the command.
        canaries: those planted in this run.
        run_limit_s: wall time for a command that should end by itself.
        linger_s: how long survivors of the command are watched.
        hurried_s: wall time of the sped-up part.
        settle_s: wall time at ordinary speed before it, for a command without a readiness probe.
        canary_s: longest wait for the canaries.
        licence_globs: host names that the licence condition cuts off.
        must_work: the sandbox has not yet been shown to work here; a failure is an error, not a lost run.
    """

    index: int
    repeat: int
    folder: Path
    condition: Condition
    workload: Workload
    program: str
    canaries: tuple[Canary, ...] = ()
    run_limit_s: float = 60.0
    linger_s: float = 1.0
    hurried_s: float = 0.0
    settle_s: float = 3.0
    canary_s: float = 6.0
    licence_globs: tuple[str, ...] = ()
    must_work: bool = False
    site_text: bytes = b""
    extra_environment: dict[str, str] = field(default_factory=dict)

    def longest_s(self) -> float:
        """Wall time after which the run is certainly stuck."""
        ready = self.workload.ready.within_s if self.workload.ready else 0.0
        ask = self.workload.ask
        asks = (ask.count + ask.warm_up) * ask.timeout_s / ask.concurrency if ask else 0.0
        return ready + min(asks, 3600.0) + self.run_limit_s + self.linger_s + self.hurried_s + 2 * self.canary_s + 30.0

    def private_files(self) -> dict[str, tuple[bytes, int]]:
        """What lies below the sandbox's private directory: canaries and the stack reporter."""
        out: dict[str, tuple[bytes, int]] = {}
        for canary in self.canaries:
            for name, data in canary.files.items():
                out[f"{CANARY_DIR}/{name}"] = (data, 0o755)
        if self.condition.watching == "calls" and self.site_text:
            out[f"{SITE_DIR}/sitecustomize.py"] = (self.site_text, 0o644)
            out[STACK_FILE] = (b"", 0o666)
        out[f"{STRACE_FOLDER}/.keep"] = (b"", 0o644)
        return out

    def canary_targets(self) -> dict[tuple[str, int], str]:
        """Canary name by the address and port (or name, 53) that only it uses in this run."""
        return {target: canary.name for canary in self.canaries for target in canary.targets}

    @property
    def blocked_host(self) -> Callable[[str], bool]:
        """Whether a name is a licence or attestation host."""
        globs = (*self.licence_globs, *self.workload.licence_hosts)
        return lambda name: any(fnmatch.fnmatch(name, pattern.lower()) for pattern in globs)
