"""Inside the sandbox, beside the workload: waits until it is ready, sends the requests, times the replies."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
import time
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from offramp.drill.workload import Ask, Ready

_PAUSE_S: Final = 0.05
_MOST_REPLY_BYTES: Final = 1 << 26


def run(order: dict[str, Any], out: int) -> None:
    """Does what an order says and writes one JSON line per event to ``out``.

    Args:
        order: "ready" and "ask" as plain data, either may be None; "log" names a file to look into.
        out: descriptor to write to.
    """
    ready = msgspec.convert(order["ready"], Ready) if order.get("ready") else None
    ask = msgspec.convert(order["ask"], Ask) if order.get("ask") else None
    try:
        if ready and not ready.log and not wait_until_ready(ready):
            _say(out, {"never_ready": True})
            return
        _say(out, {"ready": True})
        if ask:
            os.read(int(order.get("go", 0)), 1) if order.get("go") else None
            send_all(ask, lambda event: _say(out, event))
        _say(out, {"done": True})
    except OSError as error:
        _say(out, {"error": str(error)})


def _say(out: int, event: dict[str, Any]) -> None:
    os.write(out, json.dumps(event).encode() + b"\n")


def wait_until_ready(ready: Ready) -> bool:
    """Whether the probe was answered in time."""
    end = time.monotonic() + ready.within_s
    while time.monotonic() < end:
        if _is_ready(ready):
            return True
        time.sleep(_PAUSE_S)
    return False


def _is_ready(ready: Ready) -> bool:
    try:
        if ready.http:
            status, _ = _exchange(ready.http, "GET", b"", {}, 5.0, None)
            return 200 <= status < 300
        host, _, port = ready.tcp.rpartition(":")
        with socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout=5.0):
            return True
    except (OSError, http.client.HTTPException, ValueError):
        return False


def _exchange(
    url: str, method: str, body: bytes, headers: dict[str, str], timeout_s: float, kept: list[Any] | None
) -> tuple[int, bytes]:
    """Status and body of one exchange; ``kept`` holds a connection for reuse."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = kept.pop() if kept else http.client.HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s)  # fmt: skip
    connection.request(method, path, body=body or None, headers=headers)
    reply = connection.getresponse()
    data = reply.read(_MOST_REPLY_BYTES)
    if kept is not None and not reply.will_close:
        kept.append(connection)
    else:
        connection.close()
    return reply.status, data


def pick(data: bytes, field: str) -> bytes:
    """The text at a dotted path of a JSON reply; the whole reply where ``field`` is empty or not there."""
    if not field:
        return data
    try:
        value = json.loads(data)
        for step in field.split("."):
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (ValueError, KeyError, IndexError, TypeError):
        return data
    return value.encode() if isinstance(value, str) else json.dumps(value, sort_keys=True).encode()


def request_body(ask: Ask, index: int) -> bytes:
    """The bytes of request number ``index``."""
    text = ask.body if isinstance(ask.body, str) else json.dumps(ask.body)
    return text.replace("{i}", str(index)).encode()


def send_all(ask: Ask, say: Any) -> None:
    """Sends every request, ``concurrency`` at a time, and says each reply."""
    lock = threading.Lock()
    numbers = iter(range(-ask.warm_up, ask.count))
    began = time.monotonic()

    def work() -> None:
        kept: list[Any] = []
        while True:
            with lock:
                index = next(numbers, None)
            if index is None:
                break
            event = _ask_once(ask, index, began, kept)
            if index >= 0:
                with lock:
                    say(event)
        for connection in kept:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(ask.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ask_once(ask: Ask, index: int, began: float, kept: list[Any]) -> dict[str, Any]:
    headers = dict(ask.headers)
    if not isinstance(ask.body, str):
        headers.setdefault("Content-Type", "application/json")
    start = time.monotonic()
    event: dict[str, Any] = {"index": index, "sent_s": start - began, "status": 0, "digest": "", "size_bytes": 0}
    try:
        status, data = _exchange(ask.url, ask.method, request_body(ask, max(index, 0)), headers, ask.timeout_s, kept)
        digest = hashlib.sha256(pick(data, ask.json_field)).hexdigest()
        event |= {"status": status, "digest": digest, "size_bytes": len(data)}
    except (OSError, http.client.HTTPException) as error:
        kept.clear()
        event["error"] = f"{type(error).__name__}: {error}"
    return event | {"latency_s": time.monotonic() - start}
