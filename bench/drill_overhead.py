"""What a drill's sandbox costs a request-heavy loopback server: requests per second bare, timed and attributed.

The command serves HTTP on loopback to itself, once with one connection per request and once with kept connections. It
reaches for nothing outside, so it may also run bare. Processor time per request is shown beside the rate: on a machine
that does other work, it is the steadier of the two.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from offramp.drill import keeper
from offramp.drill.plan import RunPlan
from offramp.drill.records import Condition
from offramp.drill.workload import Workload, check, find_program

LOAD = """
import http.client, http.server, json, threading, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"ok"); self.wfile.flush()
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H)
threading.Thread(target=server.serve_forever, daemon=True).start()
def rate(kept):
    start, used, count, link = time.monotonic(), time.process_time(), 0, None
    while time.monotonic() - start < 2.0:
        link = link or http.client.HTTPConnection(*server.server_address)
        link.request("GET", "/"); link.getresponse().read(); count += 1
        if not kept: link.close(); link = None
    return [count / (time.monotonic() - start), (time.process_time() - used) / count * 1e6]
print(json.dumps([rate(False), rate(True)]))
"""


def sandboxed(watching: str) -> list[list[float]]:
    """New-connection and kept-connection requests per second inside a sandbox."""
    folder = Path(tempfile.mkdtemp(prefix="overhead-"))
    workload = check(Workload(start=(sys.executable, "-c", LOAD), name="load", cwd="/"), where="load")
    condition = Condition(id="accept", watching="calls" if watching == "calls" else "odd")
    program = find_program(workload)
    plan = RunPlan(index=0, repeat=0, folder=folder, condition=condition, workload=workload, program=program)
    keeper.execute(plan)
    return json.loads((folder / "stdout.log").read_text())


def bare() -> list[list[float]]:
    """The same without a sandbox; in a session of its own, as the scheduler shares a busy machine by session."""
    words = [sys.executable, "-c", LOAD]
    done = subprocess.run(words, capture_output=True, text=True, check=True, start_new_session=True)
    return json.loads(done.stdout)


def main() -> None:
    """Seven rounds in turn; prints medians and ratios to the bare run."""
    rounds: dict[str, list[list[list[float]]]] = {"bare": [], "timed": [], "attributed": []}
    for _ in range(7):
        rounds["bare"].append(bare())
        rounds["timed"].append(sandboxed("odd"))
        rounds["attributed"].append(sandboxed("calls"))
    medians = {
        name: [[statistics.median(row[i][k] for row in rows) for k in (0, 1)] for i in (0, 1)]
        for name, rows in rounds.items()
    }
    for name, found in medians.items():
        for i, kind in enumerate(("a connection per request", "kept connections")):
            rate, cpu_us = found[i]
            base_rate, base_cpu = medians["bare"][i]
            print(
                f"{name}, {kind}: {rate:.0f} req/s ({base_rate / rate:.2f}x), "
                f"{cpu_us:.0f} us CPU ({cpu_us / base_cpu:.2f}x)"
            )


if __name__ == "__main__":
    main()
