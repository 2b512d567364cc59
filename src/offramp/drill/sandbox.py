"""The sandbox's first process: makes the namespaces and the cable, then starts and reaps what it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from offramp.drill import bpf, mounts, netlink, sysabi
from offramp.drill.mounts import MountPlan
from offramp.drill.records import Lost

KEPT_CAPABILITIES: Final = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 14, 18, 29, 31})
"""Chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw (reaches the sink
only), ipc_lock, sys_chroot, audit_write, setfcap: what container engines leave a root process."""
NO_FILTER: Final = -3
"""Told instead of a listener when the child failed before it could become the program."""
_PIDS_PER_CPU: Final = 256
_LEAST_PIDS: Final = 8192


@dataclass(kw_only=True)
class SandboxPlan:
    """How to build one sandbox.

    Attributes:
        mounts: the file system view.
        cable: whether the sandbox has a device to the sink.
        program: seccomp filter of what is started inside; empty for none.
        listen: whether the filter tells a listener.
        keep_network: stay in the machine's own network namespace (the user's explicit wish).
        files: private files by path, with their mode.
        stdout, stderr: descriptors that the command writes to.
        terminal: descriptor of a pseudo terminal, or -1.
        most_tasks: limit on tasks of the process namespace.
        uptime_shift_s: added to the monotonic clocks of everything that is started, by a time namespace.
    """

    mounts: MountPlan
    cable: bool
    program: list[bpf.Instruction]
    listen: bool
    keep_network: bool = False
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    stdout: int = -1
    stderr: int = -1
    terminal: int = -1
    most_tasks: int = 0
    uptime_shift_s: float = 0.0


def be_first_process(control: socket.socket, plan: SandboxPlan, keeper: int) -> NoReturn:
    """Runs as process 1 of the new process namespace; never returns."""
    status = 1
    try:
        sysabi.prctl(sysabi.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() not in (0, keeper):
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _set_up(control, plan)
        _Spawner(control, plan).serve()
        status = 0
    except OSError as error:
        _tell(control, {"failed": str(error)})
    except BaseException as error:
        _tell(control, {"failed": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(status)


def _tell(control: socket.socket, message: dict[str, Any], handles: list[int] | None = None) -> None:
    with contextlib.suppress(OSError):
        socket.send_fds(control, [json.dumps(message).encode()], handles or [])


def _set_up(control: socket.socket, plan: SandboxPlan) -> None:
    flags = sysabi.CLONE_NEWNS | sysabi.CLONE_NEWIPC | sysabi.CLONE_NEWUTS
    sysabi.unshare(flags)
    with contextlib.suppress(OSError):
        sysabi.unshare(sysabi.CLONE_NEWCGROUP)
    _shift_uptime(plan)
    cable = -1
    if not plan.keep_network:
        cable = _make_network(plan)
    mounts.build(plan.mounts)
    if not plan.keep_network:
        netlink.allow_ping()
    _limit_tasks(plan)
    mounts.mask_proc()
    for path, (data, mode) in plan.files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chmod(os.path.dirname(path), 0o1777 if path.endswith(".keep") else 0o755)
        Path(path).write_bytes(data)
        os.chmod(path, mode)
    lost = [[item.what, item.why, item.effect] for item in plan.mounts.lost]
    _tell(control, {"up": True, "lost": lost}, [cable] if cable >= 0 else [])
    if cable >= 0:
        os.close(cable)


def _shift_uptime(plan: SandboxPlan) -> None:
    if not plan.uptime_shift_s:
        return
    try:
        sysabi.unshare(sysabi.CLONE_NEWTIME)
        shift = int(plan.uptime_shift_s)
        Path("/proc/self/timens_offsets").write_text(f"monotonic {shift} 0\nboottime {shift} 0\n")
    except OSError as error:
        effect = "the uptime could not be moved"
        plan.mounts.lost.append(Lost(what="time namespace", why=str(error), effect=effect))


def _make_network(plan: SandboxPlan) -> int:
    """Loopback, and the cable where the plan wants one; its far end's descriptor, or -1."""
    lost = plan.mounts.lost
    if not plan.cable:
        sysabi.unshare(sysabi.CLONE_NEWNET)
        netlink.bring_up("lo")
        return -1
    sysabi.unshare(sysabi.CLONE_NEWNET)
    try:
        cable = netlink.open_tap(netlink.DEVICE)
    except OSError as tap_error:
        try:
            cable = _cable_by_veth()
        except OSError as error:
            why = f"TAP: {tap_error}; veth: {error}"
            lost.append(Lost(what="network sink", why=why, effect="no frame can leave or be seen; calls only"))
            netlink.bring_up("lo")
            return -1
    netlink.bring_up("lo")
    netlink.configure(netlink.DEVICE)
    return cable


def _cable_by_veth() -> int:
    """A virtual cable whose far end lies in a second namespace that only a packet socket keeps alive."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            sysabi.unshare(sysabi.CLONE_NEWNET)
            here.close()
            there.send(b"made")
            if there.recv(16) != b"go":
                os._exit(1)
            netlink.write_sysctl("net/ipv6/conf/all/disable_ipv6", "1")
            netlink.bring_up("sink1")
            socket.send_fds(there, [b"cable"], [netlink.open_packet_socket("sink1")])
        finally:
            os._exit(0)
    there.close()
    try:
        here.settimeout(5)
        here.recv(16)
        netlink.add_veth(netlink.DEVICE, "sink1", child)
        here.send(b"go")
        _, handles, _, _ = socket.recv_fds(here, 16, 1)
        if not handles:
            raise OSError("the far end of the cable could not be opened")
        return handles[0]
    finally:
        here.close()
        os.waitpid(child, 0)


def _limit_tasks(plan: SandboxPlan) -> None:
    """A process namespace has its own number limit since Linux 6.14; elsewhere the keeper counts and kills."""
    most = plan.most_tasks or max(_LEAST_PIDS, _PIDS_PER_CPU * (os.cpu_count() or 1))
    release = os.uname().release.split(".")
    if (int(release[0]), int(release[1].split("-")[0])) >= (6, 14):
        netlink.write_sysctl("kernel/pid_max", str(most))


class _Spawner:
    """Obeys the keeper: spawn, go, signal, quit; reports exits."""

    def __init__(self, control: socket.socket, plan: SandboxPlan) -> None:
        self._control = control
        self._plan = plan
        self._names: dict[int, str] = {}
        self._go: dict[str, int] = {}
        self._wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until told to quit or the keeper is gone."""
        while True:
            ready, _, _ = select.select([self._control, self._wake], [], [], 5.0)
            self._reap()
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            if self._control in ready:
                raw, handles, _, _ = socket.recv_fds(self._control, 1 << 20, 4)
                if not raw:
                    return
                if not self._obey(json.loads(raw), handles):
                    return

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._names:
                _tell(self._control, {"exited": self._names.pop(pid), "code": os.waitstatus_to_exitcode(status)})

    def _obey(self, order: dict[str, Any], handles: list[int]) -> bool:
        kind = order["do"]
        if kind == "spawn":
            self._spawn(order)
        elif kind == "probe":
            self._probe(order, handles[0])
        elif kind == "go":
            handle = self._go.pop(order["name"], -1)
            if handle >= 0:
                with contextlib.suppress(OSError):
                    os.write(handle, b"g")
                os.close(handle)
        elif kind == "signal":
            for pid, name in self._names.items():
                if name == order["name"]:
                    with contextlib.suppress(OSError):
                        os.killpg(pid, order["signal"])
        return kind != "quit"

    def _spawn(self, order: dict[str, Any]) -> None:
        told_r, told_w = os.pipe2(os.O_CLOEXEC)
        go_r, go_w = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(told_r)
            os.close(go_w)
            _become(order, self._plan, told_w, go_r)
        os.close(told_w)
        os.close(go_r)
        self._names[pid] = order["name"]
        self._go[order["name"]] = go_w
        raw = os.read(told_r, 4)
        listener = struct.unpack("i", raw)[0] if len(raw) == 4 else -2
        _tell(self._control, {"spawned": order["name"], "pid": pid, "listener": listener}, [told_r])
        os.close(told_r)

    def _probe(self, order: dict[str, Any], out: int) -> None:
        pid = os.fork()
        if pid == 0:
            from offramp.drill import probe

            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            probe.run(order, out)
            os._exit(0)
        os.close(out)
        self._names[pid] = "probe"


def _become(order: dict[str, Any], plan: SandboxPlan, told: int, go: int) -> NoReturn:
    """In the child: gives up what the workload must not have, waits for the word, becomes the command."""
    listening = False
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        _set_streams(order, plan)
        os.chdir(order["cwd"])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sysabi.drop_capabilities(KEPT_CAPABILITIES)
        sysabi.prctl(sysabi.PR_SET_NO_NEW_PRIVS, 1)
        listener = bpf.install(plan.program, listen=plan.listen) if plan.program else -1
        os.write(told, struct.pack("i", listener))
        listening = True
        os.read(go, 1)
        if listener >= 0:
            os.close(listener)
        _close_others(told)
        os.execve(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(told, b"" if listening else struct.pack("i", NO_FILTER))
            os.write(told, str(error).encode())
    finally:
        os._exit(127)


def _set_streams(order: dict[str, Any], plan: SandboxPlan) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    quiet = order["name"] != "command"
    if plan.terminal >= 0 and not quiet:
        import fcntl
        import termios

        fcntl.ioctl(plan.terminal, termios.TIOCSCTTY, 0)
        streams = (plan.terminal, plan.terminal, plan.terminal)
    else:
        streams = (null, null, null) if quiet else (null, plan.stdout, plan.stderr)
    for number, handle in enumerate(streams):
        os.dup2(handle, number)


def _close_others(keep: int) -> None:
    """Closes every inherited descriptor except the three streams and ``keep`` (which closes at exec)."""
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 16)


def become_user_namespace() -> None:
    """Enters a user namespace in which the caller keeps its own numbers and holds every capability."""
    uid, gid = os.getuid(), os.getgid()
    sysabi.unshare(sysabi.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def is_privileged() -> bool:
    """Whether namespaces can be made without a user namespace (CAP_SYS_ADMIN)."""
    return bool(sysabi.effective_capabilities() >> 21 & 1)


def python_path_of_this() -> str:
    """The interpreter that runs us, for canaries written in Python."""
    return sys.executable
