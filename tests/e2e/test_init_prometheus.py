"""A real Prometheus server scrapes a replayed vLLM-like endpoint; the study made of it is accepted by assess."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from offramp import intake
from offramp.app.assess import assess
from offramp.app.check import check
from offramp.app.init import Sources, init
from offramp.core.errors import BackendError

EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
"""A real exporter serves the devices' metrics where it is installed; else the replayed endpoint does."""
DEVICES = """DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="a",modelName="NVIDIA H20"} 310
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="b",modelName="NVIDIA H20"} 330
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="a",modelName="NVIDIA H20"} 60
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="b",modelName="NVIDIA H20"} 80
"""
RATE = 40.0
BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Replay(http.server.BaseHTTPRequestHandler):
    """Counters of a server with a constant rate; every prompt has 400 tokens, every answer 80."""

    started = time.monotonic()

    def do_GET(self):
        seconds = time.monotonic() - self.started
        done = int(RATE * seconds)
        body = (metrics_page(done) + ("" if EXPORTER else DEVICES)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def histogram(name, done, value, labels):
    lines = [f'{name}_bucket{{le="{bound}",{labels}}} {done if value <= bound else 0}' for bound in BOUNDS]
    lines.append(f'{name}_bucket{{le="+Inf",{labels}}} {done}')
    return [*lines, f"{name}_sum{{{labels}}} {done * value}", f"{name}_count{{{labels}}} {done}"]


def metrics_page(done):
    labels = 'model_name="qwen3-8b",engine="0"'
    lines = [
        f'vllm:request_success_total{{finished_reason="stop",{labels}}} {done}',
        f"vllm:prompt_tokens_total{{{labels}}} {done * 400}",
        f"vllm:generation_tokens_total{{{labels}}} {done * 80}",
        f"vllm:prefix_cache_queries_total{{{labels}}} {done * 400}",
        f"vllm:prefix_cache_hits_total{{{labels}}} {done * 100}",
        f"vllm:num_requests_running{{{labels}}} {RATE * 2}",
        f"vllm:num_requests_waiting{{{labels}}} 0",
        *histogram("vllm:request_prompt_tokens", done, 400, labels),
        *histogram("vllm:request_generation_tokens", done, 80, labels),
        *histogram("vllm:e2e_request_latency_seconds", done, 2, labels),
    ]
    return "\n".join(lines) + "\n"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def prometheus_address(tmp_path_factory):
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("needs a Prometheus server on the PATH (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replay)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    targets = [f"127.0.0.1:{served.server_address[1]}"]
    running = []
    if EXPORTER:
        (folder / "devices.prom").write_text(DEVICES)
        targets.append(f"127.0.0.1:{free_port()}")
        flags = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder}"]
        running.append(start([EXPORTER, *flags, f"--web.listen-address={targets[-1]}"]))
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: vllm\n    static_configs:\n"
        f"      - targets: {targets}\n"
    )
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    running.append(start([binary, *flags]))
    try:
        wait_for_samples(f"http://{address}", 9)
        Replay.started = time.monotonic()  # the process was restarted: every counter begins at zero again
        wait_for_samples(f"http://{address}", 16)
        yield f"http://{address}"
    finally:
        for process in running:
            process.terminate()
            process.wait(10)
        served.shutdown()
        served.server_close()


def start(command):
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_samples(address, count, limit_s=60.0):
    query = f"{address}/api/v1/query?query=count_over_time(vllm:prompt_tokens_total[5m])"
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(query, timeout=2) as answer:
                found = json.load(answer)["data"]["result"]
            if found and float(found[0]["value"][1]) >= count:
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError("Prometheus has no samples")


@pytest.mark.slow
def test_prometheus_to_an_assessed_study(prometheus_address, tmp_path):
    out = tmp_path / "study.toml"
    result = init(Sources(prometheus=f"{prometheus_address}?hours=1"), out=out)
    work = result.answer["workloads"][0]
    seen = work["traffic"]
    assert work["model"] == "Qwen/Qwen3-8B"
    assert seen["requests_per_s"] == pytest.approx(RATE, rel=0.25)  # what a restart hides is lost
    assert seen["isl_mean"] == pytest.approx(400, rel=1e-6)
    assert seen["osl_mean"] == pytest.approx(80, rel=1e-6)
    assert seen["prefix_share"] == pytest.approx(0.25, rel=1e-6)
    assert any("reset" in notice.text for notice in result.warnings)
    assert result.answer["fleet"][0]["chip"] == "nvidia/h20"
    assert result.answer["fleet"][0]["count"] == 2  # from the exporter of the devices
    assert result.answer["assessable"]
    problems = check(out).answer
    assert not [p for p in problems["problems"] if p["level"] == "error"]
    settings = ['candidates.chips=["amd/mi300x"]', "workload.qwen3-8b.synthetic.requests=400", "search.simulate=1"]
    answer = assess(out, overrides=settings, jobs=1, keep=False).answer
    chips = {item["chip"]: item for item in answer["workloads"][0]["chips"]}
    assert chips["nvidia/h20"]["chips"]["mid"] >= 1
    assert chips["amd/mi300x"]["chips"]["mid"] >= 1


def test_a_metrics_page_of_a_live_engine_has_lengths_but_no_rate():
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replay)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        found, _ = intake.traffic_of(intake.metrics_of(f"http://127.0.0.1:{served.server_address[1]}/metrics"))
    finally:
        served.shutdown()
        served.server_close()
    assert found[0].requests_per_s is None
    assert any("rates are not" in note for note in found[0].notes)


def test_an_address_that_does_not_answer_is_named(tmp_path: Path):
    with pytest.raises(BackendError, match="does not answer") as caught:
        init(Sources(prometheus=f"http://127.0.0.1:{free_port()}"), out=tmp_path / "s.toml")
    assert "127.0.0.1" in caught.value.where
    assert not (tmp_path / "s.toml").exists()


class Gate(http.server.BaseHTTPRequestHandler):
    """A metrics page behind a login; another path leads to another host."""

    def do_GET(self):
        if self.path == "/away/metrics":
            self.send_response(302)
            self.send_header("Location", "http://localhost:1/metrics")
            self.end_headers()
            return
        allowed = self.headers.get("Authorization") == "Basic dXNlcjpwQHNz"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(metrics_page(100).encode() if allowed else b"")

    def log_message(self, *args):
        pass


def test_a_login_is_used_and_never_shown_and_other_hosts_are_not_followed():
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    port = served.server_address[1]
    try:
        assert intake.metrics_of(f"http://user:p%40ss@127.0.0.1:{port}/metrics")
        with pytest.raises(BackendError, match="HTTP 401") as refused:
            intake.metrics_of(f"http://user:wrong@127.0.0.1:{port}/metrics")
        assert "wrong" not in str(refused.value)
        with pytest.raises(BackendError, match="HTTP 302"):
            intake.metrics_of(f"http://127.0.0.1:{port}/away/metrics")
    finally:
        served.shutdown()
        served.server_close()
