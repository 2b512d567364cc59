"""Workers: processes that do units of work, each fed over a pipe of its own.

concurrent.futures lets its workers share one queue and the locks of it: a worker that is killed while it holds one stops the
others for good, and the program hangs at its end. Here the end of a worker's own pipe tells that it is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from offramp.core.errors import BackendError

WATCH_S: Final = 2.0
"""How often a worker looks whether its parent is still there while it computes."""
ATTEMPTS: Final = 3
"""How often a unit may lose its worker where it is done again."""
END_S: Final = 0.5
"""How long idle workers may take to end by themselves."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What became of a unit of work.

    Args:
        i: its number.
        value: what the task returned; None where it was lost.
        lost: its worker ended before it answered (killed, out of memory).
    """

    i: int
    value: Any = None
    lost: bool = False


@dataclass(slots=True)
class _Worker:
    process: Any
    pipe: Connection[Any, Any]
    unit: int | None = None


class Workers:
    """Processes beside this one; a context manager that ends them.

    Args:
        count: how many; they start with the first work.
    """

    def __init__(self, count: int) -> None:
        self.count = max(count, 1)
        self._crew: list[_Worker] = []

    def __enter__(self) -> Workers:
        """The workers."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends them; what they are doing is given up."""
        self.end()

    def do(self, task: Callable[..., Any], units: Sequence[tuple[int, tuple[Any, ...]]]) -> Generator[Unit]:
        """Does the units, each once, and gives each as soon as it is done or lost, in any order.

        Args:
            task: a module-level function.
            units: number and arguments of each.

        Raises:
            Exception: what the task raised; the rest is given up.
        """
        waiting = deque(units)
        finished = False
        try:
            while waiting or any(worker.unit is not None for worker in self._crew):
                self._hand_out(task, waiting)
                yield from self._collect()
            finished = True
        finally:
            if not finished:
                self.end()

    def surely(
        self, task: Callable[..., Any], units: Sequence[tuple[int, tuple[Any, ...]]], *, told: Callable[[], None] | None = None
    ) -> Generator[Unit]:  # fmt: skip
        """As :meth:`do`, but a unit whose worker was lost is done again; none is given as lost.

        Args:
            told: called at each loss.

        Raises:
            BackendError: the same unit lost its worker again and again.
            Exception: what the task raised.
        """
        left, losses = dict(units), dict.fromkeys((i for i, _ in units), 0)
        while left:
            for unit in self.do(task, list(left.items())):
                if not unit.lost:
                    del left[unit.i]
                    yield unit
                    continue
                losses[unit.i] += 1
                if losses[unit.i] >= ATTEMPTS:
                    raise BackendError(
                        f"worker processes were killed {ATTEMPTS} times at the same work", where=f"jobs = {self.count}",
                        mend="Often memory runs out: try fewer. What a run has finished is kept; the same command resumes.",
                    )  # fmt: skip
                if told is not None:
                    told()

    def end(self) -> None:
        """Ends all workers: the idle ones by themselves, the others by force."""
        for worker in self._crew:
            worker.pipe.close()
        until = time.monotonic() + END_S
        for worker in self._crew:
            if worker.unit is None:
                worker.process.join(max(until - time.monotonic(), 0.0))
            worker.process.kill()
        for worker in self._crew:
            _close(worker.process)
        self._crew.clear()

    def _hand_out(self, task: Callable[..., Any], waiting: deque[tuple[int, tuple[Any, ...]]]) -> None:
        busy = sum(worker.unit is not None for worker in self._crew)
        for _ in range(min(self.count, busy + len(waiting)) - len(self._crew)):
            self._crew.append(_start([worker.pipe for worker in self._crew]))
        for worker in self._crew:
            if worker.unit is None and waiting:
                i, args = waiting.popleft()
                worker.unit = i
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed when it is read
                    worker.pipe.send((task, args))

    def _collect(self) -> Generator[Unit]:
        """Waits until a worker answers or ends."""
        ready = set(wait([worker.pipe for worker in self._crew]))
        for worker in [worker for worker in self._crew if worker.pipe in ready]:
            i = worker.unit
            try:
                value, error = worker.pipe.recv()
            except (OSError, EOFError, pickle.UnpicklingError):  # it ended, perhaps half-way through its answer
                self._bury(worker)
                if i is not None:
                    yield Unit(i, lost=True)
                continue
            worker.unit = None
            if error is not None:
                raise error
            assert i is not None
            yield Unit(i, value)

    def _bury(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.pipe.close()
        worker.process.kill()
        _close(worker.process)


def _close(process: Any) -> None:
    """Waits for the end of a process that was killed and frees what it held."""
    process.join()
    with contextlib.suppress(ValueError):  # another thread took its end at the same moment, so that it seems to run
        process.close()


def _start(others: Sequence[Connection[Any, Any]]) -> _Worker:
    """A worker: a copy of this process where it has a single thread, which starts at once; else a fresh one."""
    alone = sys.platform == "linux" and threading.active_count() == 1
    context: Any = multiprocessing.get_context("fork" if alone else "spawn")  # typed per method, so as Any
    mine, theirs = context.Pipe()
    inherited = [mine, *others] if alone else []
    process = context.Process(target=_serve, args=(theirs, inherited, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, mine)


def _serve(pipe: Connection[Any, Any], inherited: Sequence[Connection[Any, Any]], parent: int) -> None:
    """In a worker: does what comes until the pipe ends. Interrupts are left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:  # else a worker would keep the pipes of its siblings open
        other.close()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    while True:
        try:
            task, args = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = (task(*args), None)
        except BaseException as error:  # raised in the parent
            answer = (None, error)
        try:
            pipe.send(_sendable(answer))
        except (BrokenPipeError, ConnectionResetError):
            return
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            pipe.send((None, RuntimeError(f"the answer of {task.__name__} cannot be sent: {error}")))


def _sendable(answer: tuple[Any, BaseException | None]) -> tuple[Any, BaseException | None]:
    """The answer, or what it says where it cannot be pickled back and forth."""
    if answer[1] is None:
        return answer
    try:
        pickle.loads(pickle.dumps(answer[1]))
    except Exception:  # whatever an exception's own pickling does
        return None, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")
    return answer


def _follow(parent: int) -> None:
    """Ends this worker when the parent is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)
