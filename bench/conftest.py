"""Every benchmark also states its case, its size, its phase and its own peak memory (``--benchmark-json`` keeps them)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb() -> float | None:
    """Highest resident memory of this process since it was last reset, in MB; None where the system does not say."""
    if not STATUS.is_file():
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return int(found[1]) / 1024.0 if found else None


@pytest.fixture(autouse=True)
def registry(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fills the registry's columns."""
    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")  # the peak counts from here
    before = peak_mb()
    yield
    if benchmark is None:
        return
    call = getattr(request.node, "callspec", None)
    benchmark.extra_info |= {
        "case": request.node.originalname, "size": dict(call.params) if call else {},
        "phase": (benchmark.group or request.module.__name__).split(":")[0], "before_mb": before, "peak_mb": peak_mb(),
    }  # fmt: skip
