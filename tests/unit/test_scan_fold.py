"""What a reader meets together is one finding that keeps the lines of each place; words that speak of GPUs."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from offramp.app.scan import scan, to_sarif
from offramp.cli import main
from offramp.scan.judge import judge
from offramp.scan.refresh import lacking, read_lists
from offramp.scan.refresh import main as refresh
from offramp.scan.spoken import knows, spoken_names, spoken_text
from offramp.scan.target import load_target

TARGET = "huawei/ascend-910b2"
MODULE = """
import torch


def first(x):
    torch.cuda.synchronize()
    y = x + 1
    print(y)
    z = y * 2
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    return z


def second(x):
    torch.cuda.synchronize()
    return x
"""


def places_of(folder: Path, target: str = TARGET) -> list[dict[str, Any]]:
    return scan(folder, target=target).answer["places"]


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip("\n"))
    return path


class TestFindings:
    def test_one_finding_for_a_class_in_a_function(self, tmp_path: Path) -> None:
        put(tmp_path, "a.py", MODULE)
        found = [f for f in scan(tmp_path, target=TARGET).answer["findings"] if f["class"] == "torch.cuda"]
        assert [f["context"] for f in found] == ["first", "second"]
        assert [place["line"] for place in found[0]["places"]] == [5, 9]

    def test_places_are_all_there_and_none_twice(self, tmp_path: Path) -> None:
        put(tmp_path, "a.py", MODULE)
        put(tmp_path, "tests/test_a.py", "import torch\nx = torch.ones(1).cuda()\n\n\ny = torch.ones(1).cuda()\n")
        answer = scan(tmp_path, target=TARGET).answer
        inside = [place["fingerprint"] for finding in answer["findings"] for place in finding["places"]]
        assert sorted(inside) == sorted(place["fingerprint"] for place in answer["places"])
        assert len(set(inside)) == len(inside)
        assert answer["findings_count"] == len(answer["findings"]) < answer["places_count"] == len(inside)

    def test_a_test_file_is_one_finding(self, tmp_path: Path) -> None:
        put(tmp_path, "tests/test_a.py", "import torch\nx = torch.ones(1).cuda()\n\n\ntorch.cuda.synchronize()\n")
        found = scan(tmp_path, target=TARGET).answer["findings"]
        assert len(found) == 1
        assert {place["class"] for place in found[0]["places"]} >= {"device.method", "torch.cuda"}

    def test_guarded_and_unguarded_stay_apart(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            "a.py",
            """
            import torch

            def f(x):
                torch.cuda.synchronize()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                    torch.cuda.synchronize()
        """,
        )
        found = scan(tmp_path, target=TARGET).answer["findings"]
        lone = [f for f in found if f["symbol"] == "torch.cuda.synchronize" and not f["guarded"]]
        assert [[place["line"] for place in f["places"]] for f in lone] == [[4]]
        assert any(place["line"] == 6 and place["guarded"] for f in found for place in f["places"])

    def test_further_symbols_have_their_lines(self, tmp_path: Path) -> None:
        put(
            tmp_path, "a.py", "import torch\n\n\ndef f():\n    torch.cuda.set_device(0)\n    torch.cuda.synchronize()\n"
        )
        place = next(p for p in places_of(tmp_path) if p["symbol"] == "torch.cuda.set_device")
        assert dict(zip(place["also"], place["also_lines"], strict=True)) == {"torch.cuda.synchronize": 6}

    def test_sarif_points_at_every_place(self, tmp_path: Path) -> None:
        put(tmp_path, "a.py", MODULE)
        results = to_sarif(scan(tmp_path, target=TARGET))["runs"][0]["results"]
        first = next(r for r in results if r["locations"][0]["physicalLocation"]["region"]["startLine"] == 5)
        lines = {place["physicalLocation"]["region"]["startLine"] for place in first["relatedLocations"]}
        assert 9 in lines


class TestWords:
    def test_names_are_read_by_words(self) -> None:
        assert spoken_names("max_cuda_memory = 1") == ("name.cuda", "max_cuda_memory", ())
        assert spoken_names("n_gpus = gpu_count()") == ("name.cuda", "names that say GPU", ("n_gpus", "gpu_count"))
        assert spoken_names("barracuda = occupy + gpuless") is None

    def test_texts(self) -> None:
        assert spoken_text("# distributed on multiple GPUs") == ("text.mention", "GPU", ())
        assert spoken_text("# distributed") is None

    def test_a_line_that_names_the_target_is_left(self, tmp_path: Path) -> None:
        assert knows("# not CUDA or NPU", load_target(TARGET).words)
        put(tmp_path, "a.py", 'import torch\nx = torch.ones(1, device="cuda")\n# runs on CUDA\n# runs on CUDA or NPU\n')
        assert [p["line"] for p in places_of(tmp_path) if p["class"] == "text.mention"] == [3]

    def test_words_alone_are_no_finding(self, tmp_path: Path) -> None:
        put(tmp_path, "a.py", "# GPU prices\nn_gpus = 3\n")
        put(tmp_path, "b.yaml", "gpu: none\n")
        assert places_of(tmp_path) == []

    def test_names_in_c(self, tmp_path: Path) -> None:
        put(tmp_path, "a.h", "int open_cuda_handle(int gpu_id);\nint amd64;\n")
        assert [(p["line"], p["symbol"]) for p in places_of(tmp_path)] == [(1, "open_cuda_handle")]


class TestLists:
    def test_vendors_on_a_line(self, tmp_path: Path) -> None:
        put(tmp_path, "values.yaml", "# one of nvidia, amd, cpu\naccelerator: nvidia\nplatform: linux/amd64\n")
        assert min((p["line"], p["class"]) for p in places_of(tmp_path)) == (1, "branch.list")

    def test_vendors_as_keys(self, tmp_path: Path) -> None:
        put(tmp_path, "values.yaml", "images:\n  nvidia: a\n  amd: b\n  intel: c\n")
        found = [p for p in places_of(tmp_path) if p["class"] == "branch.list"]
        assert [(p["line"], p["end_line"]) for p in found] == [(2, 4)]

    def test_a_list_with_the_target_is_left(self, tmp_path: Path) -> None:
        put(tmp_path, "values.yaml", "# one of nvidia, amd, ascend\nimages:\n  nvidia: a\n  npu: b\n")
        assert [p for p in places_of(tmp_path) if p["class"] == "branch.list"] == []


class TestDevices:
    @pytest.mark.parametrize(
        "code", ["m.to(local_rank)", "torch.device(0)", 'load("x", device_map={"": 0})', "wrap(m, device_ids=[rank])"]
    )
    def test_bare_numbers(self, tmp_path: Path, code: str) -> None:
        put(tmp_path, "a.py", f"import torch\n{code}\n")
        assert [p["class"] for p in places_of(tmp_path) if p["class"] != "import.site"] == ["device.index"]

    @pytest.mark.parametrize("code", ["m.to(dtype)", 'torch.device("cpu")', "x.to(torch.int8)", "m.to(device)"])
    def test_other_arguments_are_left(self, tmp_path: Path, code: str) -> None:
        put(tmp_path, "a.py", f"import torch\n{code}\n")
        assert places_of(tmp_path) == []

    def test_a_module_named_after_cuda(self, tmp_path: Path) -> None:
        put(tmp_path, "a.py", "from acme.utils.cuda import get_current_device\n")
        assert [(p["class"], p["symbol"]) for p in places_of(tmp_path)] == [("name.cuda", "acme.utils.cuda")]

    def test_cuda_source_is_one_place_from_end_to_end(self, tmp_path: Path) -> None:
        put(tmp_path, "k.cu", "#include <cuda.h>\n\n__global__ void f(int *x) { *x = 1; }\n\nint y;\n")
        place = places_of(tmp_path)[0]
        assert (place["line"], place["class"]) == (1, "cuda.source")
        assert place["end_line"] >= 5


PAGE = """# torch

### torch.fine

| a | b |
| ---- | :----: |
| <term>Atlas A2 x</term> | ✔ |
| <term>Atlas A3 x</term> | ✔ |
| <term>Ascend 950DT</term> | ✘ |

### <code><i>class</i></code> torch.Thing

| a | b |
| ---- | :----: |
| <term>Atlas A2 x</term> | ✘ |
| <term>Atlas A3 x</term> | ✘ |

> <font size="3">method()</font>
> | <term>Atlas A2 x</term> | ✔ |
"""


class TestOperators:
    def test_pages_with_a_table_for_each_api(self, tmp_path: Path) -> None:
        (tmp_path / "torch.md").write_text(PAGE)
        found = read_lists(tmp_path)
        assert found == {"torch.fine": "A2:yes|A3:yes|950:no", "torch.Thing": "A2:no|A3:no"}
        assert lacking(found) == {"torch.Thing": "A2:no|A3:no"}

    def test_write(self, tmp_path: Path) -> None:
        (tmp_path / "torch.md").write_text(PAGE)
        goal = tmp_path / "operators.csv"
        assert refresh([str(tmp_path), "--write", str(goal)]) == 0
        assert "torch.Thing,A2:no|A3:no," in goal.read_text()

    def test_operators_of_the_list(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            "a.py",
            "import torch\n\n\ndef f(x, i):\n    return torch.scatter_reduce(x, 0, i, x, reduce='sum')\n",
        )
        place = places_of(tmp_path)[0]
        assert (place["line"], place["class"]) == (5, "op.limited")
        assert "A2:no" in place["evidence"]
        assert places_of(tmp_path, "cambricon/mlu590") == []


class TestSemantics:
    def test_compile_as_a_decorator(self, tmp_path: Path) -> None:
        put(tmp_path, "a.py", "import torch\n\n\n@torch.compile\ndef f(x):\n    return x\n")
        assert [(p["line"], p["class"]) for p in places_of(tmp_path)] == [(4, "compile")]

    def test_inf_and_nan_differ_on_ascend_only(self, tmp_path: Path) -> None:
        put(tmp_path, "a.py", "import torch\n\n\ndef f(x):\n    return torch.isinf(x).any(), torch.isfinite(x)\n")
        assert [(p["symbol"], p["class"]) for p in places_of(tmp_path)] == [("torch.isinf", "numerics")]
        assert places_of(tmp_path, "cambricon/mlu590") == []


def test_narrow_terminal_gets_whole_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    put(tmp_path, "a.py", MODULE)
    main(["scan", str(tmp_path), "--target", TARGET])
    out = capsys.readouterr().out
    assert "torch.cuda: torch.cuda.synchronize" in out
    assert "a.py:5" in out
    assert max(len(line.rstrip()) for line in out.split("\n")) <= 80


def test_groups_follow_what_ports_touch(tmp_path: Path) -> None:
    put(tmp_path, "a.py", MODULE + "\n\ndef third(gpu_id):\n    n_gpu = gpu_id\n    return n_gpu\n")
    groups = scan(tmp_path, target=TARGET).answer["groups"]
    assert groups[0]["class"] == "torch.cuda"
    assert groups[-1]["class"] in ("name.cuda", "text.mention", "import.site")


def test_judged_hits_keep_as_many_lines_as_symbols(tmp_path: Path) -> None:
    from offramp.scan.engine import scan_tree

    put(tmp_path, "a.py", MODULE)
    target = load_target(TARGET)
    for file in scan_tree(tmp_path, target=target, jobs=1).files:
        for place in judge(file, target=target, torch=(2, 9)):
            assert len(place.also) == len(place.also_lines)


def test_a_folder_without_anything_to_read_gets_no_verdict(tmp_path: Path) -> None:
    put(tmp_path, "a.rs", "fn main() {}\n")
    answer = scan(tmp_path, target=TARGET).answer
    assert answer["can_run_today"] is None
    assert "nothing is known" in answer["verdict"]


def test_a_link_to_a_folder_around_it_is_noted(tmp_path: Path) -> None:
    put(tmp_path, "deep/a.py", "x = 1\n")
    (tmp_path / "deep" / "again").symlink_to(tmp_path)
    noted = scan(tmp_path, target=TARGET).answer["files_noted"]
    assert [(note["path"], note["kind"]) for note in noted] == [("deep/again", "symlink-loop")]
