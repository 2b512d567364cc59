"""The workload file: what to start, how to see that it is ready, what to ask it, and within which limits."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from offramp.core.errors import InputError, near_miss_hint
from offramp.core.record import Record
from offramp.core.units import GIB

Profile = Literal["quick", "standard", "soak"]
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class Ready(Record):
    """How to see that a server is ready; the first that is given counts.

    Attributes:
        http: address on loopback that answers 2xx ("http://127.0.0.1:8000/health").
        tcp: "host:port" on loopback that accepts.
        log: regular expression in what it prints.
        within_s: longest wait.
    """

    http: str = ""
    tcp: str = ""
    log: str = ""
    within_s: float = 300.0


class Ask(Record):
    """Requests with fixed contents.

    Attributes:
        url: on loopback.
        body: sent as it is; a table or list becomes JSON. "{i}" is replaced by the request's number.
        json_field: path of the field whose text is digested ("choices.0.text"); "" digests the whole reply.
        expect_sha256: digest of the concatenated outputs; "" compares runs with each other only.
        warm_up: requests that are sent first and not counted.
    """

    url: str
    method: Literal["GET", "POST"] = "POST"
    body: str | dict | list = ""
    headers: dict[str, str] = {}
    count: int = 20
    concurrency: int = 1
    warm_up: int = 2
    timeout_s: float = 60.0
    json_field: str = ""
    expect_sha256: str = ""


class Limits(Record):
    """What one run may use.

    Attributes:
        run_s: wall time of one run of a command that ends by itself; 0 takes the profile's.
        grace_s: between SIGTERM and SIGKILL.
        linger_s: how long processes that outlive the command are watched; -1 takes the profile's.
        hurried_s: wall time of the sped-up part; 0 takes the profile's.
        processes: more than these end the run.
        scratch_bytes: room for what the workload writes, in memory.
        output_bytes: of stdout and stderr that are kept; the rest is counted and digested only.
    """

    run_s: float = 0.0
    grace_s: float = 5.0
    linger_s: float = -1.0
    hurried_s: float = 0.0
    processes: int = 1000
    scratch_bytes: int = int(2 * GIB)
    output_bytes: int = 16 * 2**20
    tap_bytes: int = 64 * 2**20


class Workload(Record):
    """What is drilled.

    Attributes:
        start: the command.
        environment: set on top of the caller's.
        seed: handed to the workload as PYTHONHASHSEED and OFFRAMP_SEED.
        baseline: "isolated" (loopback alone) or "host": the machine's own network, where it may reach the world.
        expect_sha256: of stdout, for a command without requests.
        terminal: give it a pseudo terminal.
        devices: more device nodes (globs).
        pass_paths: files and directories below /tmp, /run, /var/tmp or /dev/shm that it needs.
        licence_hosts: more hosts that the licence condition cuts off (globs).
        allow: destinations that the user knows and accepts, with the reason ("pypi.example" = "our mirror").
        conditions: run only these.
    """

    start: tuple[str, ...]
    name: str = ""
    cwd: str = ""
    environment: dict[str, str] = {}
    seed: int = 0
    ready: Ready | None = None
    ask: Ask | None = None
    limits: Limits = Limits()
    baseline: Literal["isolated", "host"] = "isolated"
    expect_sha256: str = ""
    terminal: bool = False
    devices: tuple[str, ...] = ()
    pass_paths: tuple[str, ...] = ()
    licence_hosts: tuple[str, ...] = ()
    allow: dict[str, str] = {}
    conditions: tuple[str, ...] = ()
    repeats: int = 0


def from_command(words: tuple[str, ...]) -> Workload:
    """The workload of ``offramp drill -- CMD...``."""
    return Workload(start=words, name=Path(words[0]).name, cwd=os.getcwd())


def load(path: Path) -> Workload:
    """The workload of a TOML file; relative paths are relative to it.

    Raises:
        InputError: not TOML, an unknown key, a wrong type, a request that would leave the machine.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not TOML: {error}", where=str(path)) from None
    return decode(raw, where=path.name, base=path.resolve().parent)


def decode(raw: dict[str, object], *, where: str, base: Path) -> Workload:
    """A workload from plain data."""
    _refuse_unknown(raw, Workload, where, "$")
    for key, kind in (("ready", Ready), ("ask", Ask), ("limits", Limits)):
        part = raw.get(key)
        if isinstance(part, dict):
            _refuse_unknown(part, kind, where, f"$.{key}")
    try:
        workload = msgspec.convert(raw, Workload)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at ")
        raise InputError(text.lower(), where=f"{where}:{at.strip('`') or '$'}") from None
    cwd = str((base / workload.cwd).resolve()) if workload.cwd else str(base)
    return check(msgspec.structs.replace(workload, cwd=cwd, name=workload.name or Path(where).stem), where=where)


def _refuse_unknown(raw: dict[str, object], kind: type[Record], where: str, at: str) -> None:
    known = kind.__struct_fields__
    for key in raw:
        if key not in known:
            hint = near_miss_hint(key, known) or f"Known: {', '.join(known)}."
            raise InputError(f'unknown key "{key}"', where=f"{where}:{at}", mend=hint)


def check(workload: Workload, *, where: str) -> Workload:
    """The workload itself if it can be started and stays on this machine.

    Raises:
        InputError: no such command, not executable, requests to another host, senseless limits.
    """
    if not workload.start:
        raise InputError("no command to start", where=f"{where}:$.start", mend='Write start = ["program", "argument"].')
    if not os.path.isdir(workload.cwd):
        raise InputError(f'no directory "{workload.cwd}"', where=f"{where}:$.cwd")
    find_program(workload, where=where)
    for at, url in (("ready.http", workload.ready.http if workload.ready else ""),
                    ("ask.url", workload.ask.url if workload.ask else "")):  # fmt: skip
        if url and urlsplit(url).hostname not in _LOOPBACK:
            raise InputError(f'"{url}" is not on loopback', where=f"{where}:$.{at}", mend="Use http://127.0.0.1:PORT/.")
    if workload.ready and not (workload.ready.http or workload.ready.tcp or workload.ready.log):
        raise InputError("no readiness probe", where=f"{where}:$.ready", mend="Give http, tcp or log.")
    if workload.ask and (workload.ask.count < 1 or workload.ask.concurrency < 1):
        raise InputError("count and concurrency must be at least 1", where=f"{where}:$.ask")
    limits = workload.limits
    if min(limits.run_s, limits.grace_s) < 0 or limits.processes < 8 or limits.scratch_bytes < 2**20:
        raise InputError("a limit is too small", where=f"{where}:$.limits", mend="At least 8 processes and 1 MiB.")
    return workload


def find_program(workload: Workload, *, where: str = "command") -> str:
    """Absolute path of the program to start.

    Raises:
        InputError: there is no such program, or it cannot be executed.
    """
    word = workload.start[0]
    path = os.path.join(workload.cwd, word) if "/" in word else None
    found = path or shutil.which(word, path=workload.environment.get("PATH") or os.environ.get("PATH"))
    if found is None or not os.path.isfile(found):
        raise InputError(f'no program "{word}"', where=where, mend="Give its path, or install it.")
    if not os.access(found, os.X_OK):
        raise InputError(f'"{word}" is not executable', where=where, mend="chmod +x, or name its interpreter.")
    return found


def environment_of(workload: Workload) -> dict[str, str]:
    """The variables that the workload starts with."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    base |= {"PYTHONHASHSEED": str(workload.seed % (1 << 32)), "OFFRAMP_SEED": str(workload.seed)}
    return base | workload.environment
