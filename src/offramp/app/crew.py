"""Crew: who does the units of work. This process, processes beside it, or a Ray cluster; the answers are the same.

A unit is a module-level function and its arguments; its seed is among them, and nothing else decides what it returns. A
worker that is lost (killed, out of memory, its node gone) takes at most the unit in progress with it, which is done again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from offramp.core.errors import BackendError, InputError, OfframpError
from offramp.core.workers import ATTEMPTS, Workers

Done = TypeVar("Done")
Task = Callable[..., Any]
Wanted = Sequence[tuple[Any, ...]]
Progress = Callable[[str], None]
CONNECT_S: Final = 5.0
"""A Ray address that does not accept a connection within this time does not answer."""
JOIN_S: Final = 20.0
"""A Ray address that accepts connections must let us join within this time."""


class Keep(Protocol):
    """Takes a finished unit: its number, its value, and where it was done."""

    def __call__(self, i: int, value: Any, where: str, /) -> None:
        """Keeps it."""


class Crew:
    """Does units of work; a context manager that ends its workers.

    Args:
        jobs: processes; or "auto" or an address, for a Ray cluster.
        progress: told what happens.
    """

    def __init__(self, jobs: int | str = 1, progress: Progress | None = None) -> None:
        self.jobs = jobs if isinstance(jobs, int) else 1
        self.address = jobs if isinstance(jobs, str) else ""
        self._say = progress or (lambda _: None)
        self._workers: Workers | None = None
        self._ray: Any = None
        self._shared: dict[int, tuple[Any, Any]] = {}
        self._stdout = contextlib.ExitStack()

    def __enter__(self) -> Crew:
        """The crew; workers start with the first work. A Ray cluster is joined at once, so that it fails early."""
        if self.address:
            self._ray = join(self.address)
            self._stdout.enter_context(contextlib.redirect_stdout(sys.stderr))  # Ray prints its remarks there
            nodes = [node for node in self._ray.nodes() if node["Alive"]]
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            self._say(f"Ray cluster: {len(nodes)} node{'s' * (len(nodes) != 1)}, {cpus} processors")
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the workers, without waiting for what they do."""
        if self._workers is not None:
            self._workers.end()
            self._workers = None
        if self._ray is not None:
            self._shared.clear()
            self._ray.shutdown()
            self._ray = None
            self._stdout.close()

    def do(self, task: Task, wanted: Wanted, missing: Sequence[int], keep: Keep) -> None:
        """Does the missing ones among the wanted; each is kept as soon as it is done, in any order.

        Raises:
            BackendError: workers are lost again and again.
        """
        if self._ray is not None:
            self._on_ray(task, wanted, missing, keep)
        elif self.jobs <= 1 or len(missing) <= 1:
            for i in missing:
                keep(i, task(*wanted[i]), "")
        else:
            self._in_processes(task, wanted, missing, keep)

    # -- processes of this machine

    def _in_processes(self, task: Task, wanted: Wanted, missing: Sequence[int], keep: Keep) -> None:
        if self._workers is None:
            self._workers = Workers(self.jobs)
        lost = "a worker process was lost; what it was doing is done again"
        for unit in self._workers.surely(task, [(i, wanted[i]) for i in missing], told=lambda: self._say(lost)):
            keep(unit.i, unit.value, "")

    # -- Ray

    def _on_ray(self, task: Task, wanted: Wanted, missing: Sequence[int], keep: Keep) -> None:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_on_node)
        version = versions()

        def send(i: int) -> Any:
            return remote.remote(task, version, *(self._put(value) for value in wanted[i]))

        under_way = {send(i): i for i in missing}
        lost: dict[int, int] = {}
        try:
            while under_way:
                ready, _ = ray.wait(list(under_way), num_returns=1, timeout=60.0)
                for ref in ready:
                    i = under_way.pop(ref)
                    try:
                        value, where = ray.get(ref)
                    except ray.exceptions.RayTaskError as error:
                        raise _cause(error, self.address) from None
                    except ray.exceptions.RayError as error:
                        lost[i] = lost.get(i, 0) + 1
                        if lost[i] >= ATTEMPTS:
                            raise _lost(error, self.address) from None
                        self._say("a worker of the cluster was lost; what it was doing is done again")
                        under_way[send(i)] = i
                        continue
                    keep(i, value, where)
        except BaseException:
            for ref in under_way:
                with contextlib.suppress(Exception):
                    ray.cancel(ref, force=True)
            raise

    def _put(self, value: Any) -> Any:
        """Small values as they are; others once into the cluster's store, however many units take them."""
        if isinstance(value, (str, int, float, bool, type(None))):
            return value
        if id(value) not in self._shared:
            self._shared[id(value)] = (value, self._ray.put(value))  # the value is held, so that its id stays its own
        return self._shared[id(value)][1]


def versions() -> tuple[str, str]:
    """Digests of the program and of its facts: a node with others would compute other numbers."""
    from offramp import catalog as facts
    from offramp.app.runs import code_version

    return code_version(), facts.load().version


def _on_node(task: Task, expected: tuple[str, str], *args: Any) -> tuple[Any, str]:
    """On a node: does a unit; its value and the node's name."""
    found = versions()
    if found != expected:
        what = "program" if found[0] != expected[0] else "facts"
        raise BackendError(
            f"node {socket.gethostname()} has another version of the {what}", where="--ray",
            mend="Install the same offramp on every node.",
        )  # fmt: skip
    return task(*args), socket.gethostname()


def join(address: str) -> Any:
    """The ray module, connected to a cluster.

    Args:
        address: "auto", "host:port", or "ray://host:port".

    Raises:
        BackendError: Ray is not installed, nothing answers, or the cluster does not let us in.
        InputError: not an address.
    """
    if address != "auto":
        _answers(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its remarks come back as errors
    try:
        import ray
    except ImportError:
        raise BackendError("Ray is not installed", where="--ray", mend='Install "offramp[ray]".') from None
    outcome: list[BaseException | None] = []

    def connect() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
            outcome.append(None)
        except BaseException as error:  # handed to the caller's thread
            outcome.append(error)

    with _quiet():
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(JOIN_S)
    if not outcome:
        raise BackendError(f"does not let us join within {JOIN_S:.0f} s", where=f"--ray {address}", mend=_MEND)
    if outcome[0] is not None:
        text = str(outcome[0]).strip().split("\n")[0][:200]
        raise BackendError(f"no Ray cluster can be joined ({text})", where=f"--ray {address}", mend=_MEND)
    return ray


_MEND: Final = 'Start one with "ray start --head" and name its address, or leave --ray out.'


def _answers(address: str) -> None:
    parts = urlsplit(address if "://" in address else f"gcs://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in ("gcs", "ray"):
        raise InputError(f'"{address}" is not an address', where="--ray", mend='As in "10.0.0.1:6379", or "auto".')
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return
    except OSError as error:
        text = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        raise BackendError(f"does not answer ({text})", where=f"--ray {address}", mend=_MEND) from None


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Ray's own remarks on joining go nowhere: what matters comes back as an error."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _cause(error: Any, address: str) -> OfframpError:
    """What went wrong inside a unit."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, OfframpError):
        return cause
    text = str(cause or error).strip().split("\n")[-1][:200]
    return BackendError(f"a node failed: {text}", where=f"--ray {address}", mend="Install the same offramp there.")


def _lost(error: Any, address: str) -> BackendError:
    text = str(error).strip().split("\n")[0][:200]
    return BackendError(
        f"workers of the cluster were lost {ATTEMPTS} times ({text})", where=f"--ray {address}",
        mend="What is finished is kept; the same command resumes, here or on another machine.",
    )  # fmt: skip
