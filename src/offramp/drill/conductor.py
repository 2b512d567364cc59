"""The course of one run: start, canaries, readiness, requests, sped-up time, the end, and what it amounted to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp.drill import canaries, processes, straced, sysabi
from offramp.drill.clock import VirtualClock
from offramp.drill.output import Pump
from offramp.drill.plan import SITE_DIR, STACK_FILE, RunPlan
from offramp.drill.records import (
    Call,
    CanaryOutcome,
    Flow,
    Lost,
    Outcome,
    Process,
    PythonStack,
    Reply,
    RunRecord,
)  # fmt: skip
from offramp.drill.tracer import Tracer
from offramp.drill.watcher import Watcher
from offramp.drill.workload import environment_of

_SAMPLE_S: Final = 0.1
_MOST_STACKS: Final = 5000
_NO_TERMINAL: Final = re.compile(
    r"inappropriate ioctl|not a tty|not a terminal|no such device or address: '?/dev/tty|must be run from a terminal"
    r"|TERM environment variable not set|cannot open /dev/tty|/dev/tty.{0,3}: no such device|failed to open.*tty"
    r"|the input device is not a TTY",
    re.IGNORECASE,
)


@dataclass
class Conductor:
    """Runs in a thread of the keeper; ends by having the sandbox's first process killed.

    Attributes:
        strace: whether programs run under strace, for want of a listener.
        raw: whether programs inside may open raw sockets; where not, the attempt is all that can be caught.
    """

    plan: RunPlan
    control: socket.socket
    init: int
    watcher: Watcher
    tracer: Tracer
    clock: VirtualClock | None
    pump: Pump
    began: float
    raw: bool = True
    strace: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    outcome: Outcome = "lost"
    note: str = ""
    exits: dict[str, int] = field(default_factory=dict)
    ready_s: float | None = None
    left_running: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    replies: list[Reply] = field(default_factory=list)
    stacks: list[PythonStack] = field(default_factory=list)
    logged: tuple[list[Call], list[Process]] = field(default_factory=lambda: ([], []))
    mapped: set[str] = field(default_factory=set)
    canary_virtual_s: dict[str, float] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    _pids: dict[str, int] = field(default_factory=dict)
    _errors: dict[str, int] = field(default_factory=dict)
    _sampled: float = 0.0
    _canary_start: dict[str, float] = field(default_factory=dict)
    _peak: int = 0

    def work(self) -> None:
        """The whole course; whatever happens, the sandbox ends."""
        try:
            self._course()
        except OSError as error:
            self.note = self.note or f"the sandbox went away: {error}"
        finally:
            self.wall_s = self.wall_s or time.monotonic() - self.began
            with contextlib.suppress(OSError):
                self._collect_stacks()
            if self.strace:
                with contextlib.suppress(OSError):
                    self.logged = straced.read_logs(self.init, began_unix_s=time.time() - time.monotonic() + self.began)
            with contextlib.suppress(OSError):
                os.kill(self.init, signal.SIGKILL)

    def _course(self) -> None:
        workload = self.plan.workload
        self.control.settimeout(0.02)
        server = workload.ready is not None
        hurried = self.plan.condition.rate != 1
        if self.plan.condition.from_start and self.clock:
            self.clock.set_rate(self.plan.condition.rate)
        if not self._spawn("command", [self.plan.program, *workload.start[1:]], self._environment(), workload.cwd):
            return
        early = self.plan.condition.watching == "calls"
        if early:
            self._plant()
        if server:
            self._serve_requests(hurried=hurried)
        else:
            self._await_end()
        self.wall_s = time.monotonic() - self.began
        if not early and self.outcome != "too-many-processes":
            self._plant()
        self.virtual_s = self._now_virtual()
        self._await_canaries()
        self._stop_command()

    def _environment(self) -> dict[str, str]:
        out = environment_of(self.plan.workload) | self.plan.condition.environment
        if self.plan.condition.watching == "calls" and self.plan.site_text:
            out["PYTHONPATH"] = ":".join(part for part in (SITE_DIR, out.get("PYTHONPATH", "")) if part)
        return out

    def _order(self, order: dict[str, Any], handles: list[int] | None = None) -> None:
        socket.send_fds(self.control, [json.dumps(order).encode()], handles or [])

    def _listen(self, wait_s: float = 0.02) -> dict[str, Any] | None:
        """The next message of the sandbox's first process, noted; None when there is none in time."""
        self.control.settimeout(wait_s)
        try:
            raw, handles, _, _ = socket.recv_fds(self.control, 1 << 16, 4)
        except (TimeoutError, BlockingIOError):
            return None
        if not raw:
            raise OSError("its first process ended")
        message: dict[str, Any] = json.loads(raw)
        if "exited" in message:
            self.exits[message["exited"]] = message["code"]
        if "spawned" in message:
            message["told"] = handles[0] if handles else -1
        return message

    def _spawn(self, name: str, argv: list[str], env: dict[str, str], cwd: str) -> bool:
        """Starts something inside, with its filter heard; False when it could not become the program."""
        if self.strace:
            argv = [*straced.prefix(name), *argv]
        self._order({"do": "spawn", "name": name, "argv": argv, "env": env, "cwd": cwd})
        message = None
        end = time.monotonic() + 15
        while time.monotonic() < end and (message is None or message.get("spawned") != name):
            message = self._listen(0.5)
        if message is None or "spawned" not in message:
            self.note = f"{name} did not start"
            return False
        self._hear(name, message)
        self._order({"do": "go", "name": name})
        return name != "command" or self._has_started(message["told"])

    def _hear(self, name: str, message: dict[str, Any]) -> None:
        listener = int(message["listener"])
        for pid in processes.descendants(self.init):
            words = processes.read_status(pid).get("NSpid", "").split()
            if words and words[-1] == str(message["pid"]):
                self._pids[name] = pid
        if listener >= 0 and name in self._pids:
            self.watcher.add_listener(sysabi.steal_fd(self._pids[name], listener))

    def _has_started(self, told: int) -> bool:
        """Reads the pipe that closes when the command's image is loaded, or carries the error."""
        if told < 0:
            return False
        with os.fdopen(told, "rb") as pipe:
            error = pipe.read(400)
        if error:
            self.outcome, self.note = "not-started", error.lstrip(b"\0").decode("utf-8", "replace")
            return False
        return True

    def _plant(self) -> None:
        """Starts every canary, in the workload's own sandbox and under its own kind of filter."""
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C"}
        for canary in self.plan.canaries:
            if self._spawn(canary.name, list(canary.argv), environment, "/"):
                self._canary_start[canary.name] = self._now_virtual()

    def _now_virtual(self) -> float:
        return self.clock.virtual_s() if self.clock else time.monotonic() - self.began

    def _pause(self) -> bool:
        """A short wait in which reports, limits and samples are seen to; False when the run must end."""
        self._listen()
        now = time.monotonic()
        if now - self._sampled >= _SAMPLE_S:
            self._sampled = now
            count = _count_processes(self.init)
            self._peak = max(self._peak, count)
            if count > self.plan.workload.limits.processes:
                self.outcome = "too-many-processes"
                self.note = f"{count} processes, over the limit of {self.plan.workload.limits.processes}"
                return False
            if self.plan.condition.watching == "calls":
                self._sample_maps()
        return True

    def _sample_maps(self) -> None:
        for pid in processes.descendants(self.init):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                    words = line.split(None, 5)
                    if len(words) == 6 and words[5].startswith("/") and "x" in words[1]:
                        self.mapped.add(words[5])

    def _await_end(self) -> None:
        """A command that ends by itself: until it does, or the limit; then its survivors for a while."""
        limit = self.plan.run_limit_s
        start = time.monotonic()
        hurry = self.plan.condition.rate != 1
        while time.monotonic() < start + limit:
            if not self._pause():
                return
            if hurry and time.monotonic() > start + self.plan.settle_s:
                hurry = False
                self._speed_up()
            if "command" in self.exits:
                self.outcome = "finished"
                self._linger()
                return
        self.outcome, self.note = "stopped-at-limit", f"still running after {limit:g} s"

    def _others(self) -> int:
        """Processes of the workload that are still there (canaries left out)."""
        ours = {self._pids.get(canary.name, -1) for canary in self.plan.canaries}
        return sum(1 for pid in processes.descendants(self.init) if pid not in ours and not _is_canary(pid))

    def _linger(self) -> None:
        self.wall_s = time.monotonic() - self.began
        end = time.monotonic() + max(self.plan.linger_s, self.plan.hurried_s)
        self.left_running = self._others()
        self._speed_up()
        while time.monotonic() < end and self._others():
            if not self._pause():
                return

    def _serve_requests(self, *, hurried: bool) -> None:
        """A server: until ready, through its requests, then sped up where the condition says so."""
        assert self.plan.workload.ready is not None
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ready = self.plan.workload.ready
        if ready.log and not self._await_log(re.compile(ready.log), ready.within_s):
            os.close(writer)
            os.close(reader)
            return
        builtins = msgspec.to_builtins
        ask = self.plan.workload.ask
        self._order({"do": "probe", "ready": builtins(ready), "ask": builtins(ask) if ask else None}, [writer])
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            self._follow_probe(pipe, ready.within_s + 15)
        if self.outcome == "served" and hurried and self.clock:
            self._hurry()

    def _await_log(self, pattern: re.Pattern[str], within_s: float) -> bool:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if not self._pause():
                return False
            if self.pump.contains(pattern):
                return True
            if "command" in self.exits:
                break
        self._note_never_ready()
        return False

    def _note_never_ready(self) -> None:
        code = self.exits.get("command")
        self.outcome = "never-ready"
        self.note = f"ended with {code} before it was ready" if code is not None else "not ready in time"

    def _follow_probe(self, pipe: Any, within_s: float) -> None:
        ask = self.plan.workload.ask
        end = time.monotonic() + within_s
        held = b""
        while time.monotonic() < end:
            if not self._pause():
                return
            held += pipe.read() or b""
            *lines, held = held.split(b"\n")
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                if event.get("ready"):
                    self._note_ready()
                    end = time.monotonic() + (3600.0 if ask else 5.0)
                elif "index" in event:
                    self.replies.append(msgspec.convert(event, Reply))
                elif event.get("done"):
                    self.outcome = "served"
                    return
                elif event.get("never_ready") or event.get("error"):
                    self._note_never_ready()
                    return
            if "command" in self.exits and self.ready_s is None:
                self._note_never_ready()
                return
            if "probe" in self.exits and not lines:
                break
        if self.ready_s is None:
            self._note_never_ready()
        else:
            self.outcome, self.note = "served", "the requests were cut short"

    def _note_ready(self) -> None:
        self.ready_s = time.monotonic() - self.began
        if self.plan.condition.returns and self.clock:
            self.clock.set_shift(real_shift_s=0.0)

    def _speed_up(self) -> None:
        """From now on the clocks run at the condition's rate; every wait in progress begins anew."""
        if self.clock and self.clock.rate != self.plan.condition.rate:
            self.clock.set_rate(self.plan.condition.rate)
            self.tracer.hurry()

    def _hurry(self) -> None:
        """Lets the sped-up clocks run for the planned wall time."""
        self._speed_up()
        end = time.monotonic() + self.plan.hurried_s
        while time.monotonic() < end and "command" not in self.exits:
            if not self._pause():
                return

    def _await_canaries(self) -> None:
        began = time.monotonic()
        end = began + self.plan.canary_s
        last = [canary.name for canary in self.plan.canaries]
        if self.plan.condition.rate != 1 and self.clock:
            end += (canaries.DELAY_S + 40) / self.clock.rate
        while time.monotonic() < end and not all(name in self.exits for name in last):
            self._listen()
            time.sleep(0.005)
            if self._only_silent_left() and time.monotonic() > began + 0.4:
                break
        for name, start in self._canary_start.items():
            self.canary_virtual_s[name] = self._now_virtual() - start
        time.sleep(0.1)

    def _only_silent_left(self) -> bool:
        """Whether the canaries that still run are those that this condition keeps waiting."""
        left = {canary.kind for canary in self.plan.canaries if canary.name not in self.exits}
        waiting = {"only-if-online"} | ({"delayed"} if self.plan.condition.rate == 1 else set[str]())
        return left <= waiting

    def _stop_command(self) -> None:
        if "command" in self.exits:
            return
        self._order({"do": "signal", "name": "command", "signal": int(signal.SIGTERM)})
        end = time.monotonic() + self.plan.workload.limits.grace_s
        while time.monotonic() < end and "command" not in self.exits:
            self._listen()
        if "command" not in self.exits:
            self.note = f"{self.note}; ignored SIGTERM, killed".removeprefix("; ")
            return
        if self.outcome != "served":
            del self.exits["command"]  # its exit is ours, not its own

    def _collect_stacks(self) -> None:
        path = Path(f"/proc/{self.init}/root{STACK_FILE}")
        if not path.is_file():
            return
        with path.open("rb") as lines:
            for line in lines:
                if len(self.stacks) >= _MOST_STACKS:
                    return
                with contextlib.suppress(ValueError, msgspec.ValidationError):
                    raw = json.loads(line)
                    raw["at_s"] = raw["at_s"] - self.began
                    self.stacks.append(msgspec.convert(raw, PythonStack))

    def record(
        self, *, flows: tuple[Flow, ...], calls: tuple[Call, ...], processes: tuple[Process, ...],
        counters: dict[str, int], lost: tuple[Lost, ...],
    ) -> RunRecord:  # fmt: skip
        """The run's record from everything that was gathered."""
        tail = self.pump.tail("stderr") or self.pump.tail("stdout")
        code = self.exits.get("command")
        if code not in (0, None) and not self.plan.workload.terminal and _NO_TERMINAL.search(tail):
            self.note = f"{self.note}; it asks for a terminal (terminal = true gives it one)".removeprefix("; ")
        if "No space left on device" in tail:
            self.note = f"{self.note}; it filled its scratch space".removeprefix("; ")
        return RunRecord(
            index=self.plan.index, repeat=self.plan.repeat, condition=self.plan.condition, outcome=self.outcome,
            note=self.note, exit_code=code, ready_s=self.ready_s, wall_s=self.wall_s,
            watched_virtual_s=self.virtual_s, left_running=self.left_running, stdout_digest=self.pump.digest("stdout"),
            stdout_bytes=self.pump.size_bytes["stdout"], stderr_tail=tail[-1500:],
            replies=tuple(sorted(self.replies, key=lambda reply: reply.index)), flows=flows, calls=calls,
            processes=processes, stacks=tuple(self.stacks), mapped=tuple(sorted(self.mapped)), lost=lost,
            canaries=self._judge_canaries(flows, calls, processes),
            counters=counters | {"peak_processes": self._peak},
            facts={"began_unix_s": time.time() - time.monotonic() + self.began},
        )  # fmt: skip

    def _judge_canaries(
        self, flows: tuple[Flow, ...], calls: tuple[Call, ...], images: tuple[Process, ...]
    ) -> tuple[CanaryOutcome, ...]:
        by_key = {image.key: image.canary for image in images}
        out: list[CanaryOutcome] = []
        for canary in self.plan.canaries:
            lived = self.canary_virtual_s.get(canary.name, 0.0)
            expected = canaries.is_expected(canary, self.plan.condition, virtual_s=lived)
            mine = [flow for flow in flows if (flow.dst, flow.dst_port) in canary.targets
                    or (flow.dst, -1) in canary.targets
                    or any(flow.name.endswith(name) for name, port in canary.targets if port == 53)]  # fmt: skip
            told = [call for call in calls if call.canary == canary.name and _is_proof(canary.kind, call)]
            by_call = (
                canary.channel == "call" or canary.kind == "io-uring" or (canary.kind == "raw-frame" and not self.raw)
            )
            seen = bool(mine) or (bool(told) and by_call)
            named = any(by_key.get(flow.process) == canary.name for flow in mine) or (bool(told) and not mine)
            detail = "" if seen or not expected else self._why_missed(canary.name)
            out.append(CanaryOutcome(name=canary.name, kind=canary.kind, expected=expected, seen=seen,
                                     attributed=seen and named, detail=detail))  # fmt: skip
        return tuple(out)

    def _why_missed(self, name: str) -> str:
        if name not in self._canary_start:
            return "it could not be started"
        code = self.exits.get(name)
        return "it still ran when the run ended" if code is None else f"it ended with {code} and was not seen"


def _is_proof(kind: str, call: Call) -> bool:
    return call.family == {"io-uring": "io_uring", "unix-broker": "unix", "raw-frame": "packet"}.get(kind, "")


def _is_canary(pid: int) -> bool:
    return any(word.startswith(processes.CANARY_DIR) for word in processes.read_command(pid)[:4])


def _count_processes(init: int) -> int:
    try:
        return sum(1 for name in os.listdir(f"/proc/{init}/root/proc") if name.isdigit())
    except OSError:
        return 0
