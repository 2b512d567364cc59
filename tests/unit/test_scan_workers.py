"""Worker processes of a scan: a killed one costs its own chunk, and says so."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from offramp.core import workers
from offramp.scan import engine
from offramp.scan.target import load_target

ASCEND = load_target("huawei/ascend-910b2")


def test_a_killed_worker_costs_its_chunk_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        (tmp_path / f"m{i}.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    real = engine.scan_item

    def scan_item(item, text, **options):
        if item.path == "m3.py":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(item, text, **options)

    monkeypatch.setattr(engine, "scan_item", scan_item)
    forking = multiprocessing.get_context("fork")  # so that the patched function reaches the workers
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda _: forking)
    monkeypatch.setattr(engine, "SERIAL_BYTES", 0)
    monkeypatch.setattr(engine, "CHUNK_BYTES", 1)
    found = engine.scan_tree(tmp_path, target=ASCEND, jobs=2)
    assert [note.path for note in found.notes] == ["m3.py"]
    assert "died" in found.notes[0].text
    assert [file.path for file in found.files if file.hits] == [f"m{i}.py" for i in range(8) if i != 3]
