"""Run store: atomic, resumable, survives kill -9 and a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offramp.app import runs
from offramp.core.errors import BackendError, InputError
from offramp.core.result import Result, table_of


def result_of(number: int = 1) -> Result:
    table = table_of([{"a": number, "b": "x"}], columns=("a", "b"))
    return Result(command="assess", answer={"n": number}, inputs_hash="0" * 32, data_version="d", tables={"t": table})


def test_a_finished_run_is_found_and_listed(tmp_path: Path) -> None:
    store = runs.RunStore(tmp_path)
    run = runs.Run(store, "assess", "ab" * 16, title="Leaving")
    assert run.start() is None
    run.finish(result_of())
    again = runs.Run(runs.RunStore(tmp_path), "assess", "ab" * 16)
    assert again.start() == result_of()
    listed = runs.runs(tmp_path)
    (row,) = listed.answer["runs"]
    assert (row["id"], row["status"], row["title"]) == (run.id, "complete", "Leaving")
    assert runs.read_result(tmp_path, run.id[:9]) == result_of()
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / run.id / "t.parquet").to_pylist() == [{"a": 1, "b": "x"}]


def test_units_are_computed_once_across_runs(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, float]:
        calls.append(1)
        return {"x": 1.5}

    for _ in range(2):
        store = runs.RunStore(tmp_path)
        key = store.key("layout", {"chip": "nvidia/h20", "slo": {"ttft": 1.0}})
        assert store.unit(key, dict[str, float], compute) == {"x": 1.5}
    assert len(calls) == 1
    assert store.key("layout", {"chip": "nvidia/h20", "slo": {"ttft": 2.0}}) != key


def test_a_damaged_unit_is_computed_again(tmp_path: Path) -> None:
    store = runs.RunStore(tmp_path)
    key = store.key("x", {"a": 1})
    store.keep(key, {"v": 1})
    path = next((tmp_path / ".units").rglob("*.json"))
    path.write_bytes(path.read_bytes()[:-3])
    assert store.unit(key, dict[str, int], lambda: {"v": 2}) == {"v": 2}


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "result.json"
    runs.write_atomic(target, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match=r"disk is full.*Free some space"):
        runs.write_atomic(target, b"new" * 1000)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_failure_is_noted_and_resumable(tmp_path: Path) -> None:
    run = runs.Run(runs.RunStore(tmp_path), "assess", "cd" * 16)
    run.start()
    with pytest.raises(InputError), runs.failing(run):
        raise InputError("bad", where="x")
    manifest = runs.read_manifest(tmp_path / run.id)
    assert manifest is not None
    assert (manifest.status, manifest.error) == ("failed", "x: bad.")
    with pytest.raises(InputError, match="no Result yet"):
        runs.read_result(tmp_path, run.id)
    assert runs.Run(runs.RunStore(tmp_path), "assess", "cd" * 16).start() is None


def test_names_do_not_leave_the_root(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "precious").mkdir()
    with pytest.raises(InputError):
        runs.remove_run(tmp_path / "runs", "../precious")
    with pytest.raises(InputError):
        runs.read_result(tmp_path / "runs", "nothing*")


PROGRAM = """
import sys
from pathlib import Path
from offramp.app import runs
from offramp.core.result import Result

root = Path(sys.argv[1])
store = runs.RunStore(root)
run = runs.Run(store, "assess", "ef" * 16, title="killed")
done = run.start()
total = 0
for i in range(400):
    key = store.key("square", {"i": i})
    total += store.unit(key, int, lambda i=i: i * i)
    print(i, store.hits, flush=True)
result = Result(command="assess", answer=total, inputs_hash="ef" * 16, data_version="d")
run.finish(result)
print("done", store.hits, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.01, 0.15])
def test_kill_dash_nine_loses_at_most_the_unit_in_progress(tmp_path: Path, delay_s: float) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        seen = 1 + sum(1 for _ in process.stdout)
    assert seen < 400
    manifest = runs.read_manifest(tmp_path / "assess-efefefefefef")
    assert manifest is not None
    assert manifest.status == "running"
    second = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    hits = int(second[-1].split()[1])
    assert seen - 1 <= hits <= seen + 1
    assert runs.read_result(tmp_path, "assess-ef").answer == sum(i * i for i in range(400))


@pytest.mark.parametrize("name", ["/no/such/folder", "../..", "no/such", "**", "."])
def test_a_name_that_is_no_run_is_said(tmp_path, name):
    with pytest.raises(InputError, match="no such run"):
        runs.read_result(tmp_path / "runs", name)
