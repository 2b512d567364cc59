"""Workers: every unit once, whoever is killed and when; nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from offramp.core.errors import BackendError
from offramp.core.workers import Workers


def square(number: int) -> int:
    return number * number


def weighty(number: int, wait_s: float) -> bytes:
    """A long answer, so that a kill may fall into its sending."""
    time.sleep(wait_s)
    return bytes([number % 256]) * 3_000_000


def fails(number: int) -> int:
    if number == 3:
        raise KeyError("three")
    return number


def odd_error(_: int) -> int:
    class Local(Exception):
        pass

    raise Local("cannot be sent")


def no_answer(_: int) -> object:
    return threading.Lock()


def dies(number: int) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_each_unit_is_done_once() -> None:
    with Workers(3) as workers:
        for _ in range(2):  # the same workers serve again
            units = list(workers.do(square, [(i, (i,)) for i in range(20)]))
            assert sorted(unit.i for unit in units) == list(range(20))
            assert all(unit.value == unit.i**2 and not unit.lost for unit in units)
        assert len(multiprocessing.active_children()) == 3
    assert not multiprocessing.active_children()


def test_no_more_workers_than_units() -> None:
    with Workers(8) as workers:
        assert [unit.value for unit in workers.do(square, [(0, (5,))])] == [25]
        assert len(multiprocessing.active_children()) == 1
        assert list(workers.do(square, [])) == []


def test_a_lost_worker_costs_its_unit_alone() -> None:
    with Workers(2) as workers:
        units = {unit.i: unit for unit in workers.do(dies, [(i, (i,)) for i in range(7)])}
    assert {i for i, unit in units.items() if unit.lost} == {1, 3, 5}
    assert {i: unit.value for i, unit in units.items() if not unit.lost} == {0: 0, 2: 2, 4: 4, 6: 6}


def test_what_a_task_raises_is_raised_here_and_ends_the_workers() -> None:
    with Workers(2) as workers:
        with pytest.raises(KeyError, match="three"):
            list(workers.do(fails, [(i, (i,)) for i in range(9)]))
        assert not multiprocessing.active_children()
        assert len(list(workers.do(square, [(i, (i,)) for i in range(4)]))) == 4
    with Workers(2) as workers, pytest.raises(RuntimeError, match="Local: cannot be sent"):
        list(workers.do(odd_error, [(0, (0,)), (1, (1,))]))
    with Workers(2) as workers, pytest.raises(RuntimeError, match="answer of no_answer cannot be sent"):
        list(workers.do(no_answer, [(0, (0,)), (1, (1,))]))


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_any_moment_never_hang(seed: int) -> None:
    chance = random.Random(seed)
    stop = threading.Event()

    def killer() -> None:
        while not stop.wait(chance.uniform(0.0, 0.02)):
            victims = multiprocessing.active_children()
            if victims:
                os.kill(chance.choice(victims).pid or 0, signal.SIGKILL)

    with Workers(2) as workers:
        left = {i: (i, chance.uniform(0.0, 0.004)) for i in range(30)}
        rounds = workers.do(weighty, list(left.items()))
        first = next(rounds)  # workers are forked before there is a thread beside
        left = left if first.lost else {i: args for i, args in left.items() if i != first.i}
        thread = threading.Thread(target=killer)
        thread.start()
        try:
            until = time.monotonic() + 1.0
            for unit in rounds:
                if not unit.lost:
                    assert unit.value == bytes([unit.i % 256]) * 3_000_000
                    left.pop(unit.i)
                if time.monotonic() > until:
                    stop.set()
        finally:
            stop.set()
            thread.join()
        while left:
            for unit in workers.do(weighty, list(left.items())):
                assert not unit.lost
                left.pop(unit.i)
    assert not multiprocessing.active_children()


def dies_once(number: int, folder: str) -> int:
    mark = Path(folder) / str(number)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_what_is_lost_is_done_again_but_not_for_ever(tmp_path: Path) -> None:
    losses: list[int] = []
    with Workers(2) as workers:
        units = [(i, (i, str(tmp_path))) for i in range(5)]
        found = list(workers.surely(dies_once, units, told=lambda: losses.append(1)))
        assert sorted((unit.i, unit.value) for unit in found) == [(i, i) for i in range(5)]
        assert len(losses) == 5
        with pytest.raises(BackendError, match="killed 3 times at the same work"):
            list(workers.surely(dies, [(0, (1,)), (1, (2,))]))
    assert not multiprocessing.active_children()
