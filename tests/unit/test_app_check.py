"""check: every problem of a study file, in one go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.app.check import check, find_problems, require_sound
from offramp.cli import root
from offramp.core.errors import InputError

SOUND = """
[study]
name = "A"
as_of = 2026-11-23
[organisation]
headquarters = "DE"
[[site]]
id = "one"
power_price = "0.40 CNY/kWh"
pue = 1.25
[[fleet]]
chip = "nvidia/h20"
count = 16
site = "one"
[[workload]]
id = "chat"
kind = "serve"
model = "Qwen/Qwen3-32B"
synthetic = { preset = "reasoning" }
demand = [{ quarter = "2026Q4", mean_requests_per_s = 9 }]
slo = { ttft_p90 = "2 s" }
[candidates]
baseline = "nvidia/h20"
chips = ["huawei/ascend-910c"]
"""


def problems(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "study.toml"
    path.write_text(text)
    found, _ = find_problems(path)
    return {problem.path: f"{problem.level}: {problem.what} {problem.mend}" for problem in found}


def test_a_sound_study_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, SOUND) == {}


CHANGES = [
    ('count = 16', 'count = "16"', "$.fleet[0].count", "whole number"),
    ('chip = "nvidia/h20"', 'chip = "nvidia/h2O"', "$.fleet[0].chip", "nvidia/h20"),
    ('site = "one"', 'site = "on"', "$.fleet[0].site", "Near matches: one"),
    ('model = "Qwen/Qwen3-32B"', 'model = "Qwen/Qwen3-32"', "$.workload[0].model", "Qwen3-32B"),
    ('preset = "reasoning"', 'preset = "reasonin"', "$.workload[0].synthetic", "reasoning"),
    ('synthetic = { preset = "reasoning" }', 'trace = "nowhere.csv"', "$.workload[0].trace", "nowhere.csv"),
    ('synthetic = { preset = "reasoning" }', "", "$.workload[0]", "neither trace nor synthetic"),
    ("requests_per_s = 9", "requests_per_s = -9", "$.workload[0].demand[0].mean_requests_per_s", "at least 0"),
    ("mean_requests_per_s = 9", "mean_requests_per_s = 0", "$.workload[0].demand", "warning: demand is zero"),
    ("mean_requests_per_s = 9 }", "mean_requests_per_s = 9, low = 12 }", "$.workload[0].demand[0]", "low <="),
    ('}]\nslo', '}, { quarter = "2026Q3", mean_requests_per_s = 9 }]\nslo', "$.workload[0].demand[1].quarter", "order"),
    ('}]\nslo', '}, { quarter = "2026Q4", mean_requests_per_s = 9 }]\nslo', "$.workload[0].demand[1].quarter", "twice"),
    ('slo = { ttft_p90 = "2 s" }', "", "$.workload[0]", "warning: no slo"),
    ('{ ttft_p90 = "2 s" }', '{ ttft_p90 = "2" }', "$.workload[0].slo.ttft_p90", "no unit"),
    ('{ ttft_p90 = "2 s" }', '{ ttft_p92 = "2 s" }', "$.workload[0].slo.ttft_p92", "ttft_p90"),
    ('{ ttft_p90 = "2 s" }', '{ ttft_p90 = "2 s", e2e_p90 = "1 s" }', "$.workload[0].slo.ttft_p90", "looser than"),
    ('baseline = "nvidia/h20"', 'baseline = "nvidia/x"', "$.candidates.baseline", "unknown chip"),
    ('chips = ["huawei/ascend-910c"]', "", "$.candidates", "no chips to compare"),
    ('chips = ["huawei/ascend-910c"]', 'chips = ["nvidia/h20"]', "$.candidates.chips[0]", "is the baseline"),
    ("[candidates]", "[candidate]", "$.candidate", "Near matches: candidates"),
    ("as_of = 2026-11-23", "as_of = 2019-01-01", "$.candidates.baseline", "not yet known on 2019-01-01"),
    ('kind = "serve"', 'kind = "train"', "$.workload[0].synthetic", "means nothing"),
    ("[candidates]", '[[workload]]\nid = "chat"\nkind = "train"\nmodel = "Qwen/Qwen3-32B"\ntokens = 1e12\n[candidates]',
     "$.workload[1].id", "already the id"),
    ("[candidates]", '[[scenario]]\nid = "b"\nban = { from = "2027Q1", until = "2026Q4" }\n[candidates]',
     "$.scenario[0].ban.until", "not after"),
    ("[candidates]", '[[scenario]]\nid = "b"\nban = { from = "2025Q1", chips = ["nvidea/*"] }\n[candidates]',
     "$.scenario[0].ban.chips", "matches no chip"),
    ("[candidates]", '[economics]\nfx = { USX = 7.0 }\n[candidates]', "$.economics.fx.USX", "unknown currency"),
    ("[candidates]", '[[price]]\nchip = "nvidia/h20"\n[candidates]', "$.price[0]", "gives no price"),
    ('power_price = "0.40 CNY/kWh"', 'power_price = "0.40 kWh"', "$.site[0].power_price", "expected money/J"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "path", "text"), CHANGES)
def test_each_mistake_is_named(tmp_path: Path, old: str, new: str, path: str, text: str) -> None:
    assert old in SOUND
    found = problems(tmp_path, SOUND.replace(old, new, 1))
    assert path in found, found
    assert text in found[path]


def test_all_mistakes_in_one_go(tmp_path: Path) -> None:
    text = SOUND
    wanted = set()
    for index in (0, 2, 3, 13, 16):
        old, new, path, _ = CHANGES[index]
        text = text.replace(old, new, 1)
        wanted.add(path)
    assert wanted <= set(problems(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xfe[study]", "not UTF-8"), (b"[study\n", "not TOML"), (b"a = 1\n" * 2, "not TOML")],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    (row,) = check(path).answer["problems"]
    assert message in row["what"]


def test_command_exits_2_and_prints_json(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(SOUND.replace("pue = 1.25", "pue = 0.5"))
    done = CliRunner().invoke(root, ["check", str(path), "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["answer"]["problems"][0]["path"] == "$.site[0].pue"
    done = CliRunner().invoke(root, ["check", str(path), "--set", "site.one.pue=1.2"])
    assert done.exit_code == 0, done.output


def test_a_national_study_is_checked_as_one(tmp_path):
    good = Path(__file__).resolve().parents[2] / "examples" / "china-2025" / "study-2025-08.toml"
    assert check(good).answer["ok"]
    bad = tmp_path / "n.toml"
    bad.write_text(good.read_text("utf-8").replace('"china.toml"', '"none.toml"'), encoding="utf-8")
    answer = check(bad).answer
    assert not answer["ok"] and answer["problems"][0]["path"] == "$.national.facts"
    with pytest.raises(InputError, match="whole country"):
        require_sound(good)
