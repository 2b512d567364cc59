"""What one run leaves behind, as records: flows, calls, processes, outcomes. The verdicts are a function of these."""

from __future__ import annotations

from typing import Any, Literal

from offramp.core.record import Record

Mode = Literal["none", "accept", "refuse", "drop", "nxdomain", "host"]
"""How the sink answers; none: loopback alone; host: the machine's own network, on the user's explicit wish."""
Watching = Literal["calls", "odd"]
"""calls: every connect and send is attributed; odd: only unusual calls, so that timing is not disturbed."""
Outcome = Literal["finished", "stopped-at-limit", "never-ready", "served", "too-many-processes", "not-started", "lost"]


class Flow(Record):
    """What left towards one peer.

    Attributes:
        id: number within the run.
        layer: tcp, udp, dns, icmp, icmp6, ip, arp or raw.
        source_port: local port (ICMP identifier); with ``layer`` the key to the sending socket.
        dst, dst_port: where to; ICMP type for ``icmp``; MAC and ethertype for raw frames.
        name: the DNS name that stands for ``dst``, or the name asked for.
        server_name, host, request: TLS SNI, HTTP Host, HTTP request line.
        first_s, last_s: since the run began, host clock.
        frames, size_bytes: frames and payload bytes towards the peer.
        head_hex: first 64 payload bytes.
        query_type: of a DNS question.
        call: id of the call that it was matched to, -1 without one.
        process: key of the sending process, "" when unknown.
        matched_by: "socket", "content", "address", "socket-table", "device" or "".
        canary: name of the canary that sent it, "" for the workload's own.
    """

    id: int
    layer: str
    source_port: int
    dst: str
    dst_port: int
    first_s: float
    name: str = ""
    server_name: str = ""
    host: str = ""
    request: str = ""
    last_s: float = 0.0
    frames: int = 0
    size_bytes: int = 0
    head_hex: str = ""
    query_type: str = ""
    call: int = -1
    process: str = ""
    matched_by: str = ""
    canary: str = ""


class Call(Record):
    """One system call that could send, name a peer or leave the sandbox.

    Attributes:
        entry: "native" or "int-0x80".
        family: "inet", "inet6", "unix", "packet", "vsock", "raw", "netlink" or a number.
        decision: what the watcher let it do ("allowed", "denied").
        peer: for path unix sockets: who listens outside.
        sent: whether bytes were part of the call; a UDP connect alone sends nothing.
    """

    id: int
    at_s: float
    process: str
    name: str
    entry: str = "native"
    family: str = ""
    kind: str = ""
    dst: str = ""
    dst_port: int = 0
    decision: str = "allowed"
    peer: str = ""
    sent: bool = False
    head_hex: str = ""
    thread: int = 0
    canary: str = ""


class Process(Record):
    """One program image of one process.

    Attributes:
        key: "pid.serial", unique in the run.
        pid: as the host sees it.
        inner_pid: as the workload sees it.
        exe, exe_hash: path inside the sandbox and SHA-256.
        linkage: "dynamic", "static" or "script:<file>".
        lineage: ancestors, nearest first, as "exe (command line)".
        detached: whether its parent was gone when it acted.
        owner: package that owns the executable or the script ("pip torch 2.13.0", "dpkg curl 8.5").
    """

    key: str
    pid: int
    inner_pid: int
    parent: str = ""
    exe: str = ""
    exe_hash: str = ""
    command: tuple[str, ...] = ()
    linkage: str = ""
    lineage: tuple[str, ...] = ()
    detached: bool = False
    owner: str = ""
    canary: str = ""


class PythonStack(Record):
    """Python frames at the moment of a network call, as the interpreter itself reported them."""

    inner_pid: int
    thread: int
    at_s: float
    event: str
    target: str
    frames: tuple[str, ...]
    owner: str = ""


class Reply(Record):
    """One request of the workload file and what came back."""

    index: int
    sent_s: float
    latency_s: float
    status: int
    digest: str
    size_bytes: int
    error: str = ""


class Lost(Record):
    """Coverage that this machine, kernel or privilege did not give."""

    what: str
    why: str
    effect: str


class CanaryOutcome(Record):
    """One planted canary in one run.

    Attributes:
        kind: class of the canary.
        expected: whether this run's condition should have made it speak.
        seen: whether the tap or the watcher saw it.
        attributed: whether the right process was named.
        detail: why not, in words.
    """

    name: str
    kind: str
    expected: bool
    seen: bool
    attributed: bool
    detail: str = ""


class Condition(Record):
    """Under what one run takes place.

    Attributes:
        id: "baseline", "accept", "clock+30d" ...
        mode: the sink's answers.
        watching: how much is attributed.
        blocked: "" or "licence": only hosts of that kind do not exist.
        real_shift_s, uptime_shift_s: added to calendar time and to uptime.
        rate: speed of every clock once the workload is ready (or from the start, without a readiness probe).
        clock: whether clocks are answered by the watcher at all (a control has shift 0).
        returns: the shift is taken back once the workload is ready.
        from_start: ``rate`` holds from the start, so that timers armed early are sped up, too.
        environment: extra variables (documented off-switches).
    """

    id: str
    mode: Mode = "accept"
    watching: Watching = "odd"
    blocked: str = ""
    real_shift_s: float = 0.0
    uptime_shift_s: float = 0.0
    rate: float = 1.0
    clock: bool = False
    returns: bool = False
    from_start: bool = False
    environment: dict[str, str] = {}


class RunRecord(Record):
    """Everything that one run showed; times in seconds since its start on the host's clock."""

    index: int
    repeat: int
    condition: Condition
    outcome: Outcome
    note: str = ""
    exit_code: int | None = None
    ready_s: float | None = None
    wall_s: float = 0.0
    watched_virtual_s: float = 0.0
    left_running: int = 0
    stdout_digest: str = ""
    stdout_bytes: int = 0
    stderr_tail: str = ""
    replies: tuple[Reply, ...] = ()
    flows: tuple[Flow, ...] = ()
    calls: tuple[Call, ...] = ()
    processes: tuple[Process, ...] = ()
    stacks: tuple[PythonStack, ...] = ()
    canaries: tuple[CanaryOutcome, ...] = ()
    lost: tuple[Lost, ...] = ()
    counters: dict[str, int] = {}
    mapped: tuple[str, ...] = ()
    facts: dict[str, Any] = {}
