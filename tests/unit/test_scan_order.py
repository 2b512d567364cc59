"""The order of findings: effort, reach, and what first ports touched."""

from __future__ import annotations

from pathlib import Path

from offramp.app.scan import scan
from offramp.scan.order import breadth, share_touched, touch_key

TARGET = "huawei/ascend-910b2"
CHECK = "import torch\n\n\ndef kind():\n    return 'cuda' if torch.cuda.is_available() else 'cpu'\n"


def paths(tmp_path: Path, **files: str) -> list[str]:
    """Paths of the findings of a package, in the order of the report."""
    for name, text in files.items():
        goal = tmp_path / (name.replace("__", "/") + ".py")
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_text(text)
    return [finding["path"] for finding in scan(tmp_path, target=TARGET).answer["findings"]]


def test_what_many_modules_import_comes_first(tmp_path: Path) -> None:
    users = {f"pkg__use{number}": "from pkg.zebra import kind\n" for number in range(6)}
    found = paths(tmp_path, pkg____init__="", pkg__alone=CHECK, pkg__zebra=CHECK, **users)
    assert found[0] == "pkg/zebra.py"


def test_product_code_comes_before_tests(tmp_path: Path) -> None:
    tests = {f"tests__test_{number}": CHECK for number in range(5)}
    assert (
        paths(tmp_path, pkg____init__="", pkg__run="import torch\nx = torch.cuda.synchronize()\n", **tests)[0]
        == "pkg/run.py"
    )


def test_places_where_another_port_has_been_are_counted_apart() -> None:
    assert touch_key("branch.list", "list of cuda, xpu") == "branch.list:peers"
    assert touch_key("branch.list", "list of cuda") == "branch.list"
    assert touch_key("torch.cuda", "torch.cuda.synchronize") == "torch.cuda"
    assert share_touched("branch.list", "list of cuda, xpu") > share_touched("branch.list", "list of cuda")
    assert breadth(0) == 1.0
    assert breadth(3) == 3.0
