"""What a drill's sandbox costs a request-heavy loopback server: requests per second bare, timed and attributed.

The command serves HTTP on loopback to itself, once with one connection per request and once with kept connections. It
reaches for nothing outside, so it may also run bare.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
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
    start, count, link = time.monotonic(), 0, None
    while time.monotonic() - start < 2.0:
        link = link or http.client.HTTPConnection(*server.server_address)
        link.request("GET", "/"); link.getresponse().read(); count += 1
        if not kept: link.close(); link = None
    return count / (time.monotonic() - start)
print(json.dumps([rate(False), rate(True)]))
"""


def sandboxed(watching: str) -> list[float]:
    """New-connection and kept-connection requests per second inside a sandbox."""
    folder = Path(tempfile.mkdtemp(prefix="overhead-"))
    workload = check(Workload(start=(sys.executable, "-c", LOAD), name="load", cwd="/"), where="load")
    condition = Condition(id="accept", watching="calls" if watching == "calls" else "odd")
    program = find_program(workload)
    plan = RunPlan(index=0, repeat=0, folder=folder, condition=condition, workload=workload, program=program)
    keeper.execute(plan)
    return json.loads((folder / "stdout.log").read_text())


def bare() -> list[float]:
    """The same without a sandbox."""
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Five rounds in turn; prints medians and ratios."""
    rounds: dict[str, list[list[float]]] = {"bare": [], "timed": [], "attributed": []}
    for _ in range(5):
        rounds["bare"].append(bare())
        rounds["timed"].append(sandboxed("odd"))
        rounds["attributed"].append(sandboxed("calls"))
        time.sleep(0.1)
    base = [statistics.median(row[i] for row in rounds["bare"]) for i in (0, 1)]
    for name, rows in rounds.items():
        values = [statistics.median(row[i] for row in rows) for i in (0, 1)]
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        print(
            f"{name}: {values[0]:.0f} req/s new connections ({ratios[0]:.2f}x), {values[1]:.0f} kept ({ratios[1]:.2f}x)"
        )


if __name__ == "__main__":
    main()
