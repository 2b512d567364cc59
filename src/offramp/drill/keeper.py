"""One run: a process of its own that builds the sandbox, watches it, and writes down what it saw.

The caller forks; the child becomes the keeper, dies with its parent, and takes everything below with it:
the sandbox's first process is killed with the keeper, and with it every process, mount and namespace.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from offramp.core.errors import BackendError
from offramp.drill import bpf, sandbox, straced, sysabi
from offramp.drill.attribution import Attribution
from offramp.drill.canaries import BROKER
from offramp.drill.clock import VirtualClock
from offramp.drill.conductor import Conductor
from offramp.drill.mounts import DEVICES, MountPlan, named_paths
from offramp.drill.names import NameServer
from offramp.drill.netlink import HOST_V4
from offramp.drill.output import Pump
from offramp.drill.pcap import PcapWriter
from offramp.drill.peers import listening_paths
from offramp.drill.plan import RunPlan
from offramp.drill.processes import ProcessBook
from offramp.drill.records import Condition, Lost, RunRecord
from offramp.drill.sandbox import SandboxPlan
from offramp.drill.sink import Sink
from offramp.drill.tracer import Tracer
from offramp.drill.watcher import Watcher
from offramp.drill.workload import environment_of

_SLACK_S: Final = 60.0
_SET_UP_S: Final = 30.0


def execute(plan: RunPlan) -> RunRecord:
    """Runs one plan in a keeper of its own and returns its record.

    Raises:
        BackendError: the sandbox cannot be built here at all.
        KeyboardInterrupt: the user stopped it; the run is gone.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _be_keeper(plan, parent)
    deadline = time.monotonic() + plan.longest_s() + _SLACK_S
    try:
        status = _wait_for(child, deadline)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return _read_record(plan, status)


def _wait_for(child: int, deadline: float) -> int:
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


def _read_record(plan: RunPlan, status: int) -> RunRecord:
    path = plan.folder / "run.json"
    if status == 0 and path.is_file():
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    error = plan.folder / "keeper-error.txt"
    text = error.read_text().strip() if error.is_file() else f"the keeper ended with {status}"
    if plan.must_work:
        raise BackendError(
            f"the sandbox cannot be built: {text}", where="drill",
            mend="Run as root, or allow user namespaces (sysctl user.max_user_namespaces).",
        )  # fmt: skip
    record = RunRecord(index=plan.index, repeat=plan.repeat, condition=plan.condition, outcome="lost", note=text)
    path.write_bytes(msgspec.json.encode(record))
    return record


def _be_keeper(plan: RunPlan, parent: int) -> None:
    status = 1
    try:
        sysabi.prctl(sysabi.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        record = Keeper(plan).run()
        (plan.folder / "run.json").write_bytes(msgspec.json.encode(record))
        status = 0
    except BaseException as error:
        import traceback

        (plan.folder / "keeper-error.txt").write_text(f"{type(error).__name__}: {error}")
        (plan.folder / "keeper-trace.txt").write_text(traceback.format_exc())
    finally:
        os._exit(status)


@dataclass
class Keeper:
    """Builds the parts of one run and lets them work together."""

    plan: RunPlan
    lost: list[Lost] = field(default_factory=list)
    init: int = 0
    cable: int = -1
    _broker: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))

    def run(self) -> RunRecord:
        """The record of the run."""
        condition = self.plan.condition
        rootless = not sandbox.is_privileged()
        if rootless:
            sandbox.become_user_namespace()
            effect = "peers of unix sockets outside have no name; device nodes keep their owner's rights"
            why = "run by an ordinary user, in a user namespace"
            self.lost.append(Lost(what="root", why=why, effect=effect))
            effect = "an attempt to open one is seen, frames through one cannot be"
            self.lost.append(Lost(what="raw sockets", why="an ordinary user may not open them", effect=effect))
        clock = self._make_clock(condition)
        pump = Pump(self.plan.folder, self.plan.workload.limits.output_bytes, terminal=self.plan.workload.terminal)
        control = self._start_first(pump, clock, rootless)
        began = time.monotonic()
        book = ProcessBook(self.init)
        tracer = Tracer(book, clock=clock if self._answers(condition) else None)
        strace = condition.watching == "calls" and not bpf.can_listen() and straced.is_here()
        if not strace:
            self._seize(tracer)
        watcher = Watcher(book, began=began, clock=clock if self._answers(condition) else None,
                          deny_io_uring=condition.watching == "calls")  # fmt: skip
        sink, attribution = self._make_sink(watcher, book, began)
        conductor = Conductor(
            plan=self.plan, control=control, init=self.init, watcher=watcher, tracer=tracer, clock=clock, pump=pump,
            began=began,
            raw=not rootless,
            strace=strace,
        )  # fmt: skip
        threads = [threading.Thread(target=work, daemon=True) for work in (watcher.serve, pump.serve, conductor.work)]
        if sink:
            threads.append(threading.Thread(target=sink.serve, daemon=True))
        for thread in threads:
            thread.start()
        tracer.loop(self.init)
        conductor.over.set()
        threads[2].join(5)
        watcher.stopping = pump.stopping = True
        if sink:
            sink.stopping = True
        for thread in threads:
            thread.join(3)
        (self.plan.folder / "broker.sock").unlink(missing_ok=True)
        return self._record(conductor, watcher, attribution, sink)

    @staticmethod
    def _answers(condition: Condition) -> bool:
        """Whether the watcher answers clock reads (a pure shift of the uptime is the kernel's own affair)."""
        return condition.clock and (condition.rate != 1 or condition.real_shift_s != 0 or not condition.uptime_shift_s)

    def _make_clock(self, condition: Condition) -> VirtualClock | None:
        if not condition.clock:
            return None
        return VirtualClock(
            real_shift_s=condition.real_shift_s, uptime_shift_s=condition.uptime_shift_s, rate=1.0,
            covers_uptime=condition.rate != 1,
        )  # fmt: skip

    def _start_first(self, pump: Pump, clock: VirtualClock | None, rootless: bool) -> socket.socket:
        """Forks the sandbox's first process and waits until it stands; the control socket."""
        condition = self.plan.condition
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sandbox_plan = self._sandbox_plan(pump, rootless)
        if clock is not None and condition.rate == 1:
            sandbox_plan.uptime_shift_s = condition.uptime_shift_s
        keeper = os.getpid()
        self.init = sysabi.fork_into(sysabi.CLONE_NEWPID)
        if self.init == 0:
            ours.close()
            sandbox.be_first_process(theirs, sandbox_plan, keeper)
        theirs.close()
        pump.close_far_ends()
        ours.settimeout(_SET_UP_S)
        raw, handles, _, _ = socket.recv_fds(ours, 1 << 20, 4)
        answer: dict[str, Any] = json.loads(raw) if raw else {"failed": "the first process died"}
        if "failed" in answer:
            raise BackendError(answer["failed"])
        self.lost += [Lost(what=what, why=why, effect=effect) for what, why, effect in answer["lost"]]
        if handles:
            self.cable = handles[0]
            os.set_blocking(self.cable, False)
        return ours

    def _sandbox_plan(self, pump: Pump, rootless: bool) -> SandboxPlan:
        plan, condition = self.plan, self.plan.condition
        workload = plan.workload
        environment = environment_of(workload)
        words = [*workload.start, *workload.pass_paths, plan.program]
        shown = MountPlan(
            cwd=workload.cwd, home=environment.get("HOME", "/"), scratch_bytes=workload.limits.scratch_bytes,
            passed=named_paths(words, environment, workload.cwd), devices=(*DEVICES, *workload.devices),
            hidden=tuple(listening_paths()) if condition.watching == "odd" else (), rootless=rootless,
            own_network=condition.mode == "host",
            own_address=HOST_V4 if condition.mode != "none" else "127.0.1.1",
            binds={BROKER: self._open_broker()},
        )  # fmt: skip
        listens = bpf.can_listen()
        if not listens:
            by = "strace and socket tables" if straced.is_here() else "socket tables alone"
            effect = f"senders are found by {by}; calls cannot be refused; calendar clocks stay as they are"
            self.lost.append(Lost(what="seccomp user notification", why="not in this kernel", effect=effect))
        filter_clock: bpf.Clock = "none"
        if self._answers(condition):
            filter_clock = "all" if condition.rate != 1 else "real"
        watch: bpf.Watch = "all" if condition.watching == "calls" else "odd"
        return SandboxPlan(
            mounts=shown, cable=condition.mode not in ("none", "host"),
            program=bpf.build_filter(watch, filter_clock) if listens else [],
            listen=listens, keep_network=condition.mode == "host", files=plan.private_files(), stdout=pump.stdout,
            stderr=pump.stderr, terminal=pump.terminal,
        )  # fmt: skip

    def _open_broker(self) -> str:
        """A listener outside the sandbox, for the canary that looks for one; its path."""
        path = self.plan.folder / "broker.sock"
        path.unlink(missing_ok=True)
        folder = os.open(self.plan.folder, os.O_PATH)
        self._broker = socket.socket(socket.AF_UNIX)
        self._broker.bind(f"/proc/self/fd/{folder}/broker.sock")
        self._broker.listen(1)
        os.close(folder)
        return str(path)

    def _seize(self, tracer: Tracer) -> None:
        condition = self.plan.condition
        if condition.watching != "calls" and not self._answers(condition):
            return
        try:
            tracer.seize(self.init)
        except OSError as error:
            effect = "family trees by sampling" if condition.watching == "calls" else "clocks could not be moved"
            self.lost.append(Lost(what="ptrace", why=str(error), effect=effect))

    def _make_sink(self, watcher: Watcher, book: ProcessBook, began: float) -> tuple[Sink | None, Attribution]:
        attribution = Attribution(watcher, book, self.init, self.plan.canary_targets())
        if self.cable < 0:
            return None, attribution
        condition = self.plan.condition
        blocked = self.plan.blocked_host

        def refuse(name: str) -> bool:
            return condition.mode == "nxdomain" or (condition.blocked == "licence" and blocked(name))

        tap = PcapWriter(self.plan.folder / "tap.pcap", limit_bytes=self.plan.workload.limits.tap_bytes)
        mode = condition.mode
        sink = Sink(self.cable, mode, NameServer(refuse), tap=tap, began=began, on_new=attribution.note)
        return sink, attribution

    def _record(self, conductor: Conductor, watcher: Watcher, attribution: Attribution, sink: Sink | None) -> RunRecord:
        calls, images = conductor.logged
        watcher.calls += calls
        attribution.add_images(images)
        flows = attribution.finish(sink.book.flows if sink else [])
        counters = {"notices": watcher.notices, "calls_left_out": watcher.left_out,
                    "frames_housekeeping": sink.book.housekeeping if sink else 0,
                    "flows_left_out": sink.book.left_out if sink else 0,
                    **{f"stops_{kind}": count for kind, count in conductor.tracer.stops.items()}}  # fmt: skip
        if sink:
            sink.close()
        return conductor.record(
            flows=tuple(flows), calls=tuple(watcher.calls), processes=attribution.processes(), counters=counters,
            lost=tuple(self.lost),
        )  # fmt: skip
