"""Loaded by Python workloads in attribution runs as ``sitecustomize``: reports the stack of network calls.

Only the standard library, no import of this project, silent where anything is missing.
"""

import json
import os
import sys
import threading
import time

_FILE = "/run/offramp/stacks/frames.jsonl"
_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"}
_MOST_FRAMES = 40
_busy = threading.local()


def _report(event: str, args: tuple) -> None:
    """Audit hook: one JSON line per network call with the frames that led to it."""
    if event not in _EVENTS or getattr(_busy, "now", False):
        return
    _busy.now = True
    try:
        frames = []
        frame = sys._getframe(1)
        while frame is not None and len(frames) < _MOST_FRAMES:
            frames.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        target = args[1] if event in ("socket.connect", "socket.sendto", "socket.sendmsg") else args[:2]
        line = {
            "inner_pid": os.getpid(), "thread": threading.get_native_id(), "at_s": time.monotonic(), "event": event,
            "target": repr(target)[:300], "frames": frames,
        }  # fmt: skip
        handle = os.open(_FILE, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, json.dumps(line).encode() + b"\n")
        finally:
            os.close(handle)
    except Exception:
        pass
    finally:
        _busy.now = False


def _chain() -> None:
    """Gives the next sitecustomize on the path its turn."""
    import importlib

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ImportError:
        if ours is not None:
            sys.modules["sitecustomize"] = ours


if os.path.exists(_FILE):
    sys.addaudithook(_report)
    _chain()
