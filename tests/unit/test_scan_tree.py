"""Bad input, cache, baseline, suppressions, SARIF, fixes and the answer on top."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from offramp.app.scan import fix, scan, to_json, to_sarif
from offramp.cli import main
from offramp.core.errors import CatalogError, InputError
from offramp.scan.engine import scan_tree
from offramp.scan.fix import apply_edits, edits_for
from offramp.scan.target import load_target

TARGET = "huawei/ascend-910b2"
TRAIN = """import torch
import torch.distributed as dist

from acme.model import build


def main():
    dist.init_process_group("nccl")
    torch.cuda.set_device(0)
    model = build()
    model.cuda()


if __name__ == "__main__":
    main()
"""
MODEL = """import torch
from flash_attn import flash_attn_func


def build():
    return torch.nn.Linear(3, 3, device="cuda")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "__init__.py").write_text("")
    (tmp_path / "acme" / "model.py").write_text(MODEL)
    (tmp_path / "acme" / "idle.py").write_text("x = 1\n")
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "requirements.txt").write_text("torch\nflash-attn\n")
    return tmp_path


def notes_of(root: Path) -> dict[str, str]:
    return {note.path: note.kind for note in scan_tree(root, target=load_target(TARGET), jobs=1).notes}


def test_answer_on_top(tree: Path) -> None:
    answer = scan(tree, target=TARGET).answer
    assert answer["can_run_today"] is False
    assert "does not run on Ascend today" in answer["verdict"]
    days = answer["engineer_days"]
    assert 0 < days["low"] < days["mid"] < days["high"]
    stages = [answer[key]["places"] for key in ("before_first_run", "for_full_speed", "later")]
    product = [f for f in answer["places"] if f["role"] in ("source", "build", "infra")]
    assert sum(stages) == len(product)
    assert answer["before_first_run"]["places"] >= 5


def test_engineer_days_rest_on_figures_that_are_marked_assumed(tree: Path) -> None:
    result = scan(tree, target=TARGET)
    assert result.figures
    assert {figure.confidence for figure in result.figures} == {"assumed"}


def test_every_place_has_what_a_reader_needs(tree: Path) -> None:
    for finding in scan(tree, target=TARGET).answer["places"]:
        lines = (tree / finding["path"]).read_text().split("\n")
        assert 1 <= finding["line"] <= finding["end_line"] <= len(lines)
        assert lines[finding["line"] - 1].strip()[:160] == finding["snippet"]
        assert finding["effort"] in ("L0", "L1", "L2", "L3", "L4")
        assert finding["replacement"]
        assert finding["target"] == TARGET
        assert isinstance(finding["guarded"], bool)


def test_entry_points_reach_through_imports(tree: Path) -> None:
    answer = scan(tree, target=TARGET).answer
    rows = {row["entry"]: row for row in answer["entry_points"]}
    assert rows["train.py"]["files"] == 2
    paths = {f["path"]: f["reachable_from"] for f in answer["findings"]}
    assert "train.py" in paths["acme/model.py"]


def test_group_order_is_effort_times_reach(tree: Path) -> None:
    groups = scan(tree, target=TARGET).answer["groups"]
    assert [group["rank"] for group in groups] == list(range(1, len(groups) + 1))
    assert [group["score"] for group in groups] == sorted((group["score"] for group in groups), reverse=True)
    assert sum(group["occurrences"] for group in groups) == len(scan(tree, target=TARGET).answer["places"])


def test_nothing_in_a_project_without_cuda(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import asyncio\n\n\nclass AsyncClient:\n    occupy = 1\n")
    answer = scan(tmp_path, target=TARGET).answer
    assert answer["findings"] == []
    assert answer["can_run_today"] is True


def test_alias_across_modules(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "dev.py").write_text("import torch\n\ndevice_module = torch.cuda\n")
    (tmp_path / "pkg" / "use.py").write_text("from pkg.dev import device_module as dm\n\n\n\ndm.synchronize()\n")
    found = {(f["path"], f["line"], f["symbol"]) for f in scan(tmp_path, target=TARGET).answer["findings"]}
    assert ("pkg/use.py", 5, "torch.cuda.synchronize") in found


class TestBadInput:
    def test_each_bad_file_is_noted_and_the_rest_is_scanned(self, tree: Path) -> None:
        (tree / "broken.py").write_text("import torch\ndef f(:\n    torch.cuda.synchronize()\n")
        (tree / "old.py").write_text('import torch\nprint "hello"\ntorch.cuda.synchronize()\n')
        (tree / "binary.py").write_bytes(b"cuda\0\1\2" * 100)
        (tree / "latin.py").write_bytes("# caf\xe9\nimport torch\ntorch.cuda.synchronize()\n".encode("latin-1"))
        (tree / "big.py").write_text("x = 'cuda'\n" * 500_000)
        (tree / "deep.py").write_text("import torch\nx = " + "(" * 5000 + "torch.cuda" + ")" * 5000 + "\n")
        (tree / "sum.py").write_text("import torch\nx = " + "+".join(["torch.cuda.device_count()"] * 20000) + "\n")
        (tree / "book.ipynb").write_text("{not json")
        (tree / "loop").symlink_to(tree / "loop")
        (tree / "out").symlink_to("/etc")
        notes = notes_of(tree)
        assert notes["broken.py"] == "syntax-error"
        assert notes["old.py"] == "python2"
        assert notes["binary.py"] == "binary"
        assert notes["latin.py"] == "encoding"
        assert notes["big.py"] == "too-large"
        assert notes["deep.py"] == "deep-nesting"
        assert notes["book.ipynb"] == "malformed"
        assert notes["loop"] == "symlink-loop"
        assert notes["out"] == "outside-tree"
        result = scan(tree, target=TARGET, jobs=1)
        assert result.status == "partial"
        paths = {f["path"] for f in result.answer["findings"]}
        assert {"train.py", "broken.py", "old.py", "latin.py", "deep.py", "sum.py"} <= paths
        assert "big.py" not in paths

    def test_alias_bomb_is_a_few_lines(self, tmp_path: Path) -> None:
        rows = ['a: &a ["lol"]'] + [
            f"{chr(98 + i)}: &{chr(98 + i)} [" + f"*{chr(97 + i)}," * 9 + "]" for i in range(20)
        ]
        (tmp_path / "bomb.yaml").write_text("\n".join(rows) + "\ndevice: cuda\n")
        assert [f["line"] for f in scan(tmp_path, target=TARGET).answer["findings"]] == [22]

    def test_names_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "good.py").write_text("import torch\ntorch.cuda.synchronize()\n")
        (tmp_path / os.fsdecode(b"x\xff.py")).write_text("import torch\n")
        result = scan(tmp_path, target=TARGET)
        assert [note["kind"] for note in result.answer["files_noted"]] == ["encoding"]
        assert to_json(result) and result.answer["places"]

    def test_nesting_that_kills_the_rewriter(self, tmp_path: Path) -> None:
        chain = " + ".join(["torch.cuda.device_count()"] * 5000)
        (tmp_path / "a.py").write_text(f"import torch\nx = {chain}\n")
        (tmp_path / "b.py").write_text("import torch\ntorch.cuda.synchronize()\n")
        log = to_sarif(scan(tmp_path, target=TARGET))
        assert {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in log["runs"][0]["results"]} == {
            "a.py", "b.py"
        }  # fmt: skip
        with pytest.raises(ValueError, match="nested"):
            edits_for(f"import torch\nx = {chain}\n", torch=(2, 9))

    def test_names_and_lines_without_end(self, tmp_path: Path) -> None:
        (tmp_path / "a.py").write_text("import torch\nx = torch" + ".cuda" * 50_000 + "\n")
        (tmp_path / "c.yaml").write_text("image: nvidia/cuda:" + "x" * 30_000 + "\ngpu: nvidia.com/gpu\n")
        result = scan(tmp_path, target=TARGET)
        assert max(len(place["symbol"]) for place in result.answer["places"]) < 300
        assert {note["kind"] for note in result.answer["files_noted"]} == {"deep-nesting", "malformed"}
        assert any(place["path"] == "c.yaml" for place in result.answer["places"])

    def test_hostile_toml(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("a = " + "[" * 20000 + "]" * 20000 + "\n")
        (tmp_path / "a.py").write_text("import torch\ntorch.cuda.synchronize()\n")
        assert "torch.cuda" in {f["class"] for f in scan(tmp_path, target=TARGET).answer["findings"]}

    def test_notebook_lines_are_those_of_the_file(self, tmp_path: Path) -> None:
        cells = [
            {"cell_type": "markdown", "source": ["torch.cuda is mentioned\n"]},
            {"cell_type": "code", "source": ["%pip install x\n", "import torch\n", "\n", "\n", "\n", 'm.to("cuda")']},
        ]
        text = json.dumps({"cells": cells, "nbformat": 4}, indent=1)
        (tmp_path / "a.ipynb").write_text(text)
        found = [f for f in scan(tmp_path, target=TARGET).answer["findings"] if f["class"] == "device.string"]
        assert len(found) == 1
        assert "m.to" in text.split("\n")[found[0]["line"] - 1]

    def test_no_python_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "values.yaml").write_text("resources:\n  limits:\n    nvidia.com/gpu: 1\n")
        assert [f["class"] for f in scan(tmp_path, target=TARGET).answer["findings"]] == ["infra.k8s"]

    def test_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            scan(tmp_path / "none", target=TARGET)

    def test_unknown_chip_and_bad_version(self, tree: Path) -> None:
        with pytest.raises(CatalogError, match="910"):
            scan(tree, target="huawei/ascend-910d9")
        with pytest.raises(CatalogError, match="chip to move to"):
            scan(tree, target="nvidia/h20")
        with pytest.raises(InputError, match="torch version"):
            scan(tree, target=TARGET, torch="new")

    def test_code_is_never_imported(self, tmp_path: Path) -> None:
        (tmp_path / "evil.py").write_text(
            "import torch, pathlib\npathlib.Path('ran').touch()\ntorch.cuda.synchronize()\n"
        )
        (tmp_path / "setup.py").write_text("open('ran', 'w')\nraise SystemExit('cuda')\n")
        here = Path.cwd()
        os.chdir(tmp_path)
        try:
            scan(tmp_path, target=TARGET)
        finally:
            os.chdir(here)
        assert not (tmp_path / "ran").exists()


def test_cache_reuses_unchanged_files_and_gives_the_same_answer(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    first = scan(tree, target=TARGET, cache=cache).answer
    again = scan(tree, target=TARGET, cache=cache).answer
    assert first["reused_from_cache"] == 0
    assert again["reused_from_cache"] >= 3
    assert again["findings"] == first["findings"]
    (tree / "acme" / "idle.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    third = scan(tree, target=TARGET, cache=cache).answer
    assert "acme/idle.py" in {f["path"] for f in third["findings"]}
    assert third["reused_from_cache"] < again["reused_from_cache"] + 1


def test_processes_give_the_same_answer(tree: Path) -> None:
    for at in range(40):
        (tree / f"m{at}.py").write_text(TRAIN + "\n" * 60_000)
    one = scan_tree(tree, target=load_target(TARGET), jobs=1)
    two = scan_tree(tree, target=load_target(TARGET), jobs=2)
    assert one.files == two.files


class TestBaseline:
    def test_written_then_silent_then_only_what_is_new(self, tree: Path) -> None:
        base = tree / "baseline.txt"
        assert scan(tree, target=TARGET, baseline=base).answer["findings"] == []
        assert base.exists()
        again = scan(tree, target=TARGET, baseline=base).answer
        assert again["findings"] == []
        assert again["known_in_baseline"] > 0
        (tree / "acme" / "model.py").write_text("\n\n" + MODEL + "\n\n\ntorch.cuda.empty_cache()\n")
        new = scan(tree, target=TARGET, baseline=base).answer["findings"]
        assert [f["symbol"] for f in new] == ["torch.cuda.empty_cache"]

    def test_json_of_a_scan_serves_as_a_baseline(self, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        base = tmp_path_factory.mktemp("base") / "b.json"
        base.write_text(to_json(scan(tree, target=TARGET)))
        assert scan(tree, target=TARGET, baseline=base).answer["findings"] == []

    def test_broken_baseline(self, tree: Path) -> None:
        (tree / "b.json").write_text("[1, 2]")
        with pytest.raises(InputError, match="not a baseline"):
            scan(tree, target=TARGET, baseline=tree / "b.json")


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("torch.cuda.synchronize()  # offramp: ignore", 0),
        ("torch.cuda.synchronize()  # offramp: ignore[torch.cuda]", 0),
        ("torch.cuda.synchronize()  # offramp: ignore[torch]", 0),
        ("torch.cuda.synchronize()  # offramp: ignore[env]", 1),
        ("# offramp: ignore\ntorch.cuda.synchronize()", 0),
    ],
)
def test_suppressions(tmp_path: Path, line: str, left: int) -> None:
    (tmp_path / "a.py").write_text(f"import torch\n\n\n\n{line}\n")
    found = [f for f in scan(tmp_path, target=TARGET).answer["findings"] if f["class"] == "torch.cuda"]
    assert len(found) == left


def test_whole_file_suppression(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("# offramp: ignore-file\nimport torch\ntorch.cuda.synchronize()\n")
    assert scan(tmp_path, target=TARGET).answer["findings"] == []


class TestFix:
    def test_amp_strings_and_calls(self) -> None:
        code = (
            "import torch\n\nwith torch.cuda.amp.autocast(dtype=torch.bfloat16):\n"
            '    x = torch.zeros(1, device="cuda")\ntorch.cuda.synchronize()\n'
        )
        fixed = apply_edits(code, edits_for(code, torch=(2, 9)))
        assert "torch.amp.autocast(_ACCELERATOR_TYPE, dtype=torch.bfloat16)" in fixed
        assert "device=_ACCELERATOR_TYPE" in fixed
        assert "torch.accelerator.synchronize()" in fixed
        compile(fixed, "fixed", "exec")

    def test_is_idempotent(self) -> None:
        once = apply_edits(TRAIN, edits_for(TRAIN, torch=(2, 9)))
        assert once != TRAIN
        assert edits_for(once, torch=(2, 9)) == []

    def test_torch_version_gates(self) -> None:
        code = "import torch\nif torch.cuda.is_available():\n    torch.cuda.empty_cache()\ntorch.cuda.set_device(0)\n"
        assert "accelerator" not in apply_edits(code, edits_for(code, torch=(2, 5)))
        middle = apply_edits(code, edits_for(code, torch=(2, 8)))
        assert "torch.accelerator.set_device_index(0)" in middle
        assert "torch.cuda.empty_cache()" in middle
        assert "torch.cuda.is_available()" in middle
        assert "torch.accelerator.empty_cache()" in apply_edits(code, edits_for(code, torch=(2, 9)))

    def test_a_check_stays_when_cuda_stays_behind_it(self) -> None:
        code = "import torch\nif torch.cuda.is_available():\n    import flash_attn\n    torch.cuda.manual_seed(0)\n"
        assert edits_for(code, torch=(2, 13)) == []

    def test_choice_of_device(self) -> None:
        code = 'import torch\n\ndevice = torch.device("cuda" if torch.cuda.is_available() else "cpu")\n'
        fixed = apply_edits(code, edits_for(code, torch=(2, 9)))
        assert 'torch.device(_ACCELERATOR_TYPE if torch.accelerator.is_available() else "cpu")' in fixed

    def test_defaults_and_comparisons_are_left(self) -> None:
        code = 'import torch\n\n\ndef f(device="cuda"):\n    return device == "cuda"\n'
        assert edits_for(code, torch=(2, 13)) == []

    def test_formatting_is_kept(self) -> None:
        code = "import torch\n\nx   =  [ 1,2 ,\n  3 ]   # odd\ntorch.cuda.synchronize( )\n"
        assert apply_edits(code, edits_for(code, torch=(2, 9))) == code.replace(
            "torch.cuda.sync", "torch.accelerator.sync"
        )

    def test_names_that_tests_replace_are_left(self, tmp_path: Path) -> None:
        (tmp_path / "a.py").write_text("import torch\nn = torch.cuda.device_count()\ntorch.cuda.synchronize()\n")
        (tmp_path / "test_a.py").write_text('@patch("torch.cuda.device_count")\ndef test(x): ...\n')
        patch = fix(tmp_path, target=TARGET).answer
        assert "device_count" not in [line for line in patch["patch"].split("\n") if line.startswith("+")].__str__()
        assert "accelerator.synchronize" in patch["patch"]

    def test_patch_by_default_files_on_request(self, tree: Path) -> None:
        before = (tree / "train.py").read_bytes()
        patch = fix(tree, target=TARGET).answer["patch"]
        assert patch.startswith("--- a/")
        assert (tree / "train.py").read_bytes() == before
        fix(tree, target=TARGET, write=True)
        assert b"torch.accelerator.set_device_index(0)" in (tree / "train.py").read_bytes()
        assert fix(tree, target=TARGET).answer["patch"] == ""

    def test_line_ends_and_mark_are_kept(self, tmp_path: Path) -> None:
        (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfimport torch\r\ntorch.cuda.synchronize()\r\n")
        fix(tmp_path, target=TARGET, write=True)
        assert (tmp_path / "a.py").read_bytes() == b"\xef\xbb\xbfimport torch\r\ntorch.accelerator.synchronize()\r\n"


class TestFormats:
    def test_json_has_the_places_on_top(self, tree: Path) -> None:
        content = json.loads(to_json(scan(tree, target=TARGET)))
        assert {"path", "line", "end_line", "symbol", "class", "effort", "replacement", "guarded", "target"} <= set(
            content["findings"][0]
        )
        assert content["groups"][0]["occurrences"] >= 1
        assert content["answer"]["can_run_today"] is False

    def test_sarif_obeys_the_standard(self, tree: Path) -> None:
        log = to_sarif(scan(tree, target=TARGET))
        run = log["runs"][0]
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert log["version"] == "2.1.0"
        assert len(rules) == len(set(rules))
        for result in run["results"]:
            assert rules[result["ruleIndex"]] == result["ruleId"]
            assert result["level"] in ("error", "warning", "note")
            region = result["locations"][0]["physicalLocation"]["region"]
            assert 1 <= region["startLine"] <= region["endLine"]
            assert any("evidence" in place["message"]["text"] for place in result["relatedLocations"])
        assert any("fixes" in result for result in run["results"])

    def test_sarif_fixes_are_the_patch(self, tree: Path) -> None:
        log = to_sarif(scan(tree, target=TARGET))
        texts = [
            change["replacements"][0]["insertedContent"]["text"]
            for result in log["runs"][0]["results"]
            for item in result.get("fixes", [])
            for change in item["artifactChanges"]
        ]
        assert "torch.accelerator.set_device_index" in texts

    def test_command(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["scan", str(tree), "--target", TARGET])
        out = capsys.readouterr().out
        assert "does not run on Ascend today" in out
        assert "engineer-days" in out
        main(["scan", str(tree), "--target", TARGET, "--format", "json"])
        assert json.loads(capsys.readouterr().out)["findings"]
        main(["scan", str(tree), "--target", TARGET, "--format", "sarif"])
        assert json.loads(capsys.readouterr().out)["version"] == "2.1.0"
        main(["scan", str(tree), "--target", TARGET, "--fix"])
        assert capsys.readouterr().out.startswith("--- a/")

    def test_new_findings_against_a_baseline_end_with_one(self, tree: Path) -> None:
        base = tree / "base.txt"
        main(["scan", str(tree), "--target", TARGET, "--baseline", str(base)])
        (tree / "new.py").write_text("import torch\ntorch.cuda.synchronize()\n")
        with pytest.raises(SystemExit) as stop:
            main(["scan", str(tree), "--target", TARGET, "--baseline", str(base)])
        assert stop.value.code == 1

    def test_html(self, tree: Path, tmp_path: Path) -> None:
        out = tmp_path / "page.html"
        main(["scan", str(tree), "--target", TARGET, "--format", "html", "--out", str(out)])
        text = out.read_text()
        assert "What a porter does first" in text
        assert "<script src" not in text
