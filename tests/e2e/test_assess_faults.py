"""Kills at random moments and a disk that is really full: a clear outcome, and a resumed answer that is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offramp.app.assess import assess

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "Faults"
as_of = 2026-11-23
currency = "CNY"
[[site]]
id = "one"
country = "CN"
power_price = "0.40 CNY/kWh"
[[workload]]
id = "chat"
kind = "serve"
model = "Qwen/Qwen3-8B"
synthetic = { isl_mean = 700, isl_cv = 0.6, osl_mean = 120, osl_cv = 0.8, requests = 1500 }
demand = [{ quarter = "2026Q4", mean_requests_per_s = 20 }]
peak_to_mean = 2.0
slo = { ttft_p90 = "2 s", tpot_p90 = "60 ms" }
[search]
trace_requests = 1000
simulate = 2
disaggregate = true
[candidates]
baseline = "nvidia/h20"
chips = ["huawei/ascend-910b2", "huawei/ascend-910c", "nvidia/h200"]
"""


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def answer(study_path: Path) -> Any:
    return json.loads(json.dumps(assess(study_path, jobs=1, keep=False).answer))


def command(study_path: Path, runs: Path) -> list[str]:
    return [sys.executable, "-m", "offramp", "assess", str(study_path), "--root", str(runs), "--jobs", "2", "--json"]


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in path.read_text().split()]
    return found


@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_moments(seed: int, study_path: Path, tmp_path: Path, answer: Any) -> None:
    chance = random.Random(seed)
    killed = 0
    for _ in range(6):
        printed = (
            tmp_path / "printed.json"
        )  # not a pipe: who waits for the first line of one must not let the other fill
        with printed.open("w") as stdout:
            run = subprocess.Popen(command(study_path, tmp_path), stdout=stdout, stderr=subprocess.PIPE, text=True)
        assert run.stderr is not None
        if killed < 3:
            run.stderr.readline()  # it has begun to compute, or is about to answer
            time.sleep(chance.uniform(0.0, 1.5))
            workers = children(run.pid) if chance.random() < 0.5 else []
            for pid in workers[:1] or [run.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
        _, errors = run.communicate(timeout=300)
        if run.returncode == 0:
            assert json.loads(printed.read_text())["answer"] == answer
            break
        assert run.returncode == -signal.SIGKILL, errors
        assert "Traceback" not in errors
    else:
        raise AssertionError("never finished")
    assert not list(tmp_path.glob("**/.*.tmp")) or killed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(where)], check=True)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.root
def test_a_full_disk_is_said_and_costs_nothing(study_path: Path, small_disk: Path, answer: Any) -> None:
    full = subprocess.run(command(study_path, small_disk), capture_output=True, text=True, check=False)
    assert full.returncode == 6
    assert "the disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list(small_disk.glob("assess-*/result.json"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    done = subprocess.run(command(study_path, small_disk), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["answer"] == answer
