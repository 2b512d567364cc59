"""Whole drills of small planted programs, in namespaces that the drill makes itself. Nothing leaves the machine:
targets are documentation addresses and .test names, and the sandbox's only cable ends in the drill's own sink."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from offramp.app.drill import drill, exit_code, replay
from offramp.core.errors import BackendError, InputError
from offramp.core.result import Result
from offramp.drill import bpf, canaries, keeper, netlink
from offramp.drill.plan import RunPlan
from offramp.drill.records import Condition, RunRecord
from offramp.drill.workload import Limits, Workload, check, find_program

pytestmark = pytest.mark.root
PYTHON = sys.executable
PLANTS = """
import os, socket, subprocess, sys, threading, time, urllib.request
def udp(port): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"planted", ("192.0.2.10", port))
def http(name):
    try: urllib.request.urlopen(f"http://{name}:8080/r", timeout=3).read(); return True
    except OSError: return False
server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=lambda: server.accept()[0].sendall(b"own"), daemon=True).start()
own = socket.create_connection(server.getsockname()); assert own.recv(3) == b"own"
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("203.0.113.9", 80))
http("by-name.planted.test")
if time.time() > DATE: udp(3001)
if time.monotonic() > UPTIME: udp(3002)
if http("gate.planted.test"): udp(3003)
try: socket.socket(socket.AF_UNIX).connect("BROKER")
except OSError: pass
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    sys.stdout.close(); os.close(1); os.close(2); time.sleep(0.2); udp(3004)
    while True: time.sleep(200); udp(3005)
os.wait(); print("done")
"""


def _plan(folder: Path, workload: Workload, condition: Condition, **more: Any) -> RunPlan:
    planted = canaries.make(3, python=PYTHON, now_s=int(time.time()), uptime_s=int(time.monotonic()))
    return RunPlan(index=0, repeat=0, folder=folder, condition=condition, workload=workload, must_work=True,
                   program=find_program(workload), canaries=more.pop("canaries", planted), **more)  # fmt: skip


def _workload(tmp_path: Path, *words: str, **more: Any) -> Workload:
    return check(Workload(start=words, name="t", cwd=str(tmp_path), **more), where="t")


@pytest.fixture(scope="module")
def sandbox_here(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """One run that shows whether a sandbox can be built; the tests below are left out, and listed, where it cannot."""
    folder = tmp_path_factory.mktemp("probe")
    try:
        return keeper.execute(
            _plan(folder / "run", _workload(folder, "true"), Condition(id="accept", watching="calls"))
        )
    except BackendError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, sandbox_here: RunRecord) -> tuple[Result, Path]:
    """One drill of a program with six planted senders."""
    folder = tmp_path_factory.mktemp("planted")
    broker = folder / "outside.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(broker))
    listener.listen(1)
    text = PLANTS.replace("DATE", str(time.time() + 20 * 86400)).replace("BROKER", str(broker))
    script = folder / "plants.py"
    script.write_text(text.replace("UPTIME", str(time.monotonic() + 200 * 86400)))
    settings = (
        'conditions=["accept","refuse","clock+30d","uptime+365d","hurried"]',
        "repeats=1",
        "limits.linger_s=1.5",
        "limits.hurried_s=14",
    )
    result = drill((PYTHON, str(script)), out=str(folder / "out"), overrides=settings, seed=5)
    listener.close()
    return result, folder


def _finding(result: Result, part: str) -> dict[str, Any]:
    found = [f for f in result.answer["findings"] if part in f["destination"]]
    assert len(found) == 1, (part, [f["destination"] for f in result.answer["findings"]])
    return found[0]


def test_every_canary_is_caught_and_named(sandbox_here: RunRecord) -> None:
    expected = [canary for canary in sandbox_here.canaries if canary.expected]
    assert len(expected) >= 9
    assert [c.name for c in expected if not (c.seen and c.attributed)] == []


@pytest.mark.parametrize(
    ("destination", "kind"),
    [("by-name.planted.test:8080", "plain-socket"), (":3001", "date-bomb"), (":3002", "uptime-bomb"),
     (":3003", "only-if-online"), ("outside.sock", "unix-broker"), (":3004", "double-fork"), (":3005", "delayed")],
)  # fmt: skip
def test_planted_senders_are_found_with_their_process(
    planted: tuple[Result, Path], destination: str, kind: str
) -> None:
    finding = _finding(planted[0], destination)
    assert kind in finding["classes"]
    assert "plants.py" in " ".join(finding["process"]["command"])
    assert finding["verdict"] == "OBSERVED"
    assert finding["documented"] == ""


def test_own_traffic_and_route_look_ups_are_no_findings(planted: tuple[Result, Path]) -> None:
    shown = " ".join(f["destination"] for f in planted[0].answer["findings"])
    assert "127.0.0.1" not in shown
    assert "203.0.113.9" not in shown
    assert {run["outcome"] for run in planted[0].answer["runs"]} == {"finished"}


def test_python_frames_and_heartbeat(planted: tuple[Result, Path]) -> None:
    frames = _finding(planted[0], "by-name")["python_frames"]
    assert any("plants.py" in frame for frame in frames)
    period = _finding(planted[0], ":3005")["period_s"]
    assert period == pytest.approx(200, rel=0.1)


def test_classes_time_and_blind_spots(planted: tuple[Result, Path]) -> None:
    answer = planted[0].answer
    verdicts = {c["class"]: c["verdict"] for c in answer["classes"]}
    assert verdicts["date-bomb"] == "OBSERVED"
    assert verdicts["icmp-payload"] == "NOT OBSERVED"
    assert exit_code(planted[0]) == 0
    timers = {timer["id"]: timer["covered"] for timer in answer["timers"]["known"]}
    assert timers["vllm-usage"]
    assert not timers["fleet-agent"]
    assert len(answer["blind_spots"]) >= 6
    assert "backdoor" not in planted[0].to_json().lower()


def test_bundle_replays_and_notices_tampering(planted: tuple[Result, Path]) -> None:
    out = planted[1] / "out"
    again = replay(out).answer
    assert again["replay"]["files_wrong"] == []
    assert again["replay"]["captures_wrong"] == []
    assert again["replay"]["parts_different"] == []
    bill = json.loads((out / "sbom.cdx.json").read_text())
    assert bill["specVersion"] == "1.6"
    log = next(out.glob("runs/*/stdout.log"))
    log.write_bytes(b"something else")
    broken = replay(out)
    assert any("stdout.log: changed" in line for line in broken.answer["replay"]["files_wrong"])
    assert exit_code(broken) == 6


def test_report_page(planted: tuple[Result, Path]) -> None:
    from offramp.report import render

    text = render(planted[0])
    assert "Blind spots" in text
    assert "by-name.planted.test" in text
    assert "src=" not in text.replace('src="data:', "")


def test_server_requests_and_changed_output(tmp_path: Path, sandbox_here: RunRecord) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "import http.server, json, socket\n"
        "try: socket.create_connection(('gate.planted.test', 80), timeout=2); online = True\n"
        "except OSError: online = False\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def do_GET(self): self.answer({})\n"
        "    def do_POST(self): self.answer(json.loads(self.rfile.read(int(self.headers['Content-Length']))))\n"
        "    def answer(self, body):\n"
        "        data = json.dumps({'text': f'{body} {online}'}).encode()\n"
        "        self.send_response(200); self.send_header('Content-Length', str(len(data)))\n"
        "        self.end_headers(); self.wfile.write(data)\n"
        "    def log_message(self, *a): pass\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', 8731), H).serve_forever()\n"
    )
    (tmp_path / "w.toml").write_text(
        f'start = ["{PYTHON}", "server.py"]\nconditions = ["accept", "refuse"]\nrepeats = 1\n'
        '[ready]\nhttp = "http://127.0.0.1:8731/"\nwithin_s = 20\n'
        '[ask]\nurl = "http://127.0.0.1:8731/x"\nbody = { prompt = "{i}" }\njson_field = "text"\ncount = 5\n'
    )
    result = drill((str(tmp_path / "w.toml"),), out=str(tmp_path / "out"))
    effects = {e["condition"]: e["verdicts"] for e in result.answer["effects"]}
    assert effects["refuse"] == ["CHANGES OUTPUT"]
    assert all(run["requests"] == 5 and run["outcome"] == "served" for run in result.answer["runs"])


@pytest.mark.parametrize(
    ("code", "outcome", "note"),
    [
        ("import os\nwhile True: os.fork()", "too-many-processes", "over the limit"),
        ("import signal as s,time\ns.signal(15, s.SIG_IGN)\nwhile True: time.sleep(1)", "stopped-at-limit", "ignored"),
        ("f=open('/tmp/x','wb')\nwhile True: f.write(bytes(1<<20))", "finished", "filled its scratch space"),
        ("open('/dev/tty')", "finished", "asks for a terminal"),
    ],
)  # fmt: skip
def test_bad_commands_end_clearly(tmp_path: Path, sandbox_here: RunRecord, code: str, outcome: str, note: str) -> None:
    limits = Limits(grace_s=0.5, processes=60, scratch_bytes=64 << 20)
    workload = _workload(tmp_path, PYTHON, "-c", code, limits=limits)
    record = keeper.execute(_plan(tmp_path / "run", workload, Condition(id="accept"), canaries=(), run_limit_s=2.0))
    assert record.outcome == outcome
    assert note in record.note


def test_never_ready(tmp_path: Path, sandbox_here: RunRecord) -> None:
    (tmp_path / "w.toml").write_text(
        'start = ["sleep", "50"]\nconditions = ["accept"]\nrepeats = 1\n[ready]\ntcp = "127.0.0.1:9"\nwithin_s = 0.5\n'
    )
    result = drill((str(tmp_path / "w.toml"),), out=str(tmp_path / "out"))
    assert {run["outcome"] for run in result.answer["runs"]} == {"never-ready"}
    assert "ended never-ready" in result.answer["headline"]


def test_what_the_kernel_does_not_offer_is_said(
    tmp_path: Path, sandbox_here: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(netlink, "open_tap", refuse)
    monkeypatch.setattr(netlink, "add_veth", refuse)
    monkeypatch.setattr(bpf, "can_listen", lambda: False)
    settings = ('conditions=["accept"]', "repeats=1")
    result = drill(("true",), out=str(tmp_path / "out"), overrides=settings)
    lost = {item["what"] for item in result.answer["lost_coverage"]}
    assert {"network sink", "seccomp user notification"} <= lost
    assert result.answer["missed_canary"]
    assert exit_code(result) == 6
    assert result.status == "partial"


def test_cable_by_veth_where_there_is_no_tap(
    tmp_path: Path, sandbox_here: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(2, "no /dev/net/tun")

    monkeypatch.setattr(netlink, "open_tap", refuse)
    record = keeper.execute(
        _plan(tmp_path / "run", _workload(tmp_path, "true"), Condition(id="accept", watching="calls"))
    )
    assert [c.name for c in record.canaries if c.expected and not c.seen] == []


def test_nothing_is_left_after_kill_9(tmp_path: Path, sandbox_here: RunRecord) -> None:
    mark = f"4{os.getpid()}.5"
    words = [
        PYTHON,
        "-m",
        "offramp",
        "drill",
        "--out",
        str(tmp_path / "out"),
        "--",
        "sh",
        "-c",
        f"setsid sleep {mark} & sleep {mark}",
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as director:
        end = time.monotonic() + 20
        while time.monotonic() < end and len(_running(mark)) < 2:
            time.sleep(0.05)
        assert len(_running(mark)) >= 2
        director.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while time.monotonic() < end and _running(mark):
        time.sleep(0.05)
    assert _running(mark) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def _running(mark: str) -> list[str]:
    out = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "cmdline").read_text():
                    out.append(entry.name)
            except OSError:
                continue
    return out


def test_wrong_targets_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to drill"):
        drill(())
    with pytest.raises(InputError, match="no program"):
        drill(("/no/such/program",), out=str(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").touch()
    with pytest.raises(InputError, match="is not empty"):
        drill(("true",), out=str(tmp_path / "b"))
    with pytest.raises(InputError, match=r"no manifest\.json"):
        drill((str(tmp_path / "b"),))
