"""Speed of the scan: lines per second on a generated tree of a mixed code base, cold and from the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from offramp.scan.engine import scan_tree
from offramp.scan.target import load_target

PLAIN = "def add(first, second):\n    '''Adds.'''\n    total = first + second\n    return {'sum': total, 'parts': [first, second]}\n\n\n"
DEVICE = "import torch\n\n\ndef step(model, batch):\n    batch = batch.cuda()\n    torch.cuda.synchronize()\n    return model(batch)\n\n\n"
LINES = 100_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    body = (PLAIN * 60) + DEVICE
    size = body.count("\n")
    for at in range(LINES // size + 1):
        (root / f"m{at % 20}").mkdir(exist_ok=True)
        (root / f"m{at % 20}" / f"f{at}.py").write_text(body)
    return root


def test_cold(benchmark: object, tree: Path) -> None:
    target = load_target("huawei/ascend-910b2")
    found = benchmark(lambda: scan_tree(tree, target=target, jobs=2))  # type: ignore[operator]
    assert sum(file.lines for file in found.files) >= LINES


def test_from_the_cache(benchmark: object, tree: Path, tmp_path: Path) -> None:
    target = load_target("huawei/ascend-910b2")
    scan_tree(tree, target=target, jobs=2, cache=tmp_path)
    found = benchmark(lambda: scan_tree(tree, target=target, jobs=2, cache=tmp_path))  # type: ignore[operator]
    assert found.reused == len(found.files)
