"""An assessment on a real Ray cluster of two nodes on this machine: the same answer, workers and drivers killed half-way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offramp.app.assess import assess
from offramp.app.crew import Crew
from offramp.core.errors import BackendError, InputError

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "Cluster"
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
synthetic = { isl_mean = 800, isl_cv = 0.6, osl_mean = 150, osl_cv = 0.8, requests = 1500 }
demand = [{ quarter = "2026Q4", mean_requests_per_s = 20 }]
peak_to_mean = 2.0
slo = { ttft_p90 = "2 s", tpot_p90 = "60 ms" }
[search]
trace_requests = 1200
simulate = 2
[candidates]
baseline = "nvidia/h20"
chips = ["huawei/ascend-910b2", "huawei/ascend-910c", "nvidia/h200", "amd/mi300x", "nvidia/h100", "hygon/k100-ai"]
"""


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def alone(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return assess(study_path, jobs=1, root=tmp_path_factory.mktemp("alone")).answer


def ray_command(*words: str) -> None:
    subprocess.run(
        [str(Path(sys.executable).with_name("ray")), *words], check=True, capture_output=True, timeout=120,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"},
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of two nodes with one processor each; ended by their own processes, not by name."""
    pytest.importorskip("ray")
    port = free_port()
    temp = Path("/tmp") / f"ray-{os.getpid()}"  # paths of sockets must be short
    before = set(raylets())
    common = ("--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", f"--temp-dir={temp}")
    ray_command("start", "--head", f"--port={port}", "--include-dashboard=false", *common)
    ray_command("start", f"--address=127.0.0.1:{port}", *common[:-1])
    mine = set(raylets()) - before
    yield f"127.0.0.1:{port}"
    mine |= {pid for pid, (_, words) in processes().items() if str(temp) in words}
    for pid in mine:
        for one in [*descendants(pid), pid]:
            kill(one)
    shutil.rmtree(temp, ignore_errors=True)


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    found: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "stat").read_text().rsplit(")", 1)[1].split()
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found[int(path.name)] = (int(status[1]), words)
    return found


def raylets() -> list[int]:
    return [pid for pid, (_, words) in processes().items() if "/raylet/raylet " in words or "/gcs/gcs_server " in words]


def descendants(root: int) -> list[int]:
    table = processes()
    found = [pid for pid, (parent, _) in table.items() if parent == root]
    return [pid for one in found for pid in (*descendants(one), one)]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def start(study_path: Path, runs: Path, cluster: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "offramp",
        "assess",
        str(study_path),
        "--root",
        str(runs),
        "--ray",
        cluster,
        "--json",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(run: subprocess.Popen[str], words: str) -> list[str]:
    """Lines of progress until one holds the words."""
    assert run.stderr is not None
    lines: list[str] = []
    for line in run.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError("".join(lines))


def test_a_worker_killed_half_way_changes_nothing(study_path: Path, tmp_path: Path, cluster: str, alone: Any) -> None:
    run = start(study_path, tmp_path / "runs", cluster)
    said = wait_for(run, "[2/7]")
    assert any("2 nodes, 2 processors" in line for line in said)
    workers = [pid for pid, (_, words) in processes().items() if words.startswith("ray::_on_node")]
    assert workers
    kill(workers[0])
    out, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert json.loads(out)["answer"] == json.loads(json.dumps(alone))
    assert f"({socket.gethostname()})" in errors  # progress says where


def test_a_killed_run_resumes_on_another_machine(study_path: Path, tmp_path: Path, cluster: str, alone: Any) -> None:
    first = tmp_path / "first"
    run = start(study_path, first, cluster)
    wait_for(run, "[3/7]")
    run.kill()
    run.communicate()
    shutil.copytree(first, tmp_path / "second")
    said: list[str] = []
    result = assess(study_path, jobs=1, root=tmp_path / "second", progress=said.append)
    assert result.answer == alone
    before = int(said[0].split(": ")[1].split()[0])
    assert before >= 3


def test_an_address_that_does_not_answer_is_a_clear_error_fast(study_path: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(BackendError, match="does not answer"):
        assess(study_path, jobs=f"127.0.0.1:{free_port()}", root=tmp_path)
    with pytest.raises(InputError, match="is not an address"):
        assess(study_path, jobs="nonsense", root=tmp_path)
    assert time.perf_counter() - began < 30


def poison(number: int, folder: str) -> int:
    """A unit that kills its worker the first time that it is done."""
    mark = Path(folder) / str(number)
    if not mark.exists():
        mark.write_text("")
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def deadly(_: int, __: str) -> int:
    """A unit that always kills its worker."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize("jobs", [2, 3])
def test_lost_processes_cost_their_unit_in_progress(jobs: int, tmp_path: Path) -> None:
    done: dict[int, int] = {}
    said: list[str] = []
    wanted = [(i, str(tmp_path)) for i in range(8)]
    with Crew(jobs, said.append) as crew:
        crew.do(poison, wanted, range(8), lambda i, value, _: done.update({i: value}))
    assert done == {i: i * i for i in range(8)}
    assert any("was lost" in line for line in said)


def test_workers_that_always_die_end_in_a_clear_error(tmp_path: Path) -> None:
    with Crew(2) as crew, pytest.raises(BackendError, match="killed 3 times"):
        crew.do(deadly, [(i, str(tmp_path)) for i in range(3)], range(3), lambda *_: None)


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom offramp.app.crew import Crew\nfrom test_assess_ray import sleepy\n"
        "with Crew(2) as crew: crew.do(sleepy, [(0,), (1,), (2,)], range(3), print)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(children := descendants(run.pid)) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    assert len(children) >= 2
    run.kill()
    run.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def sleepy(number: int) -> int:
    """A long unit."""
    time.sleep(60)
    return number
