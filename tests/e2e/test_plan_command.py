"""offramp plan and diff from files: rules, supply, bans, national question, bad input. No serving is priced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.app.plan import Options, plan
from offramp.cli.diff import command as diff_command
from offramp.cli.plan import command as plan_command
from offramp.core.errors import InfeasibleError, InputError
from offramp.core.result import result_from_json

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STUDY = """
[study]
name = "a training shop"
as_of = 2026-11-23
currency = "CNY"
seed = 5
[organisation]
headquarters = "CN"
[[site]]
id = "here"
power_price = "0.40 CNY/kWh"
pue = 1.25
power = "3 MW"
[[fleet]]
chip = "nvidia/h20"
count = 1024
site = "here"
[[workload]]
id = "pretrain"
kind = "train"
model = "Qwen/Qwen3-32B"
tokens = 3e12
deadline = "540 d"
start = "2027Q1"
[[order]]
chip = "nvidia/h20"
count = 128
due = "2027Q1"
cancel_fee = "5 %"
delivery_probability = 0.5
[candidates]
baseline = "nvidia/h20"
chips = ["huawei/ascend-910b2", "huawei/ascend-910c-752"]
[[scenario]]
id = "ban"
probability = 0.5
ban = { from = "2027Q3", what = "use", chips = ["nvidia/*"] }
[plan]
quarters = 6
scenarios = 16
engineers = 20
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY, "utf-8")
    return path


def _run(path: Path, *flags: str) -> dict:
    done = CliRunner().invoke(plan_command, [str(path), "--root", str(path.parent / "runs"), "--json", *flags],
                              catch_exceptions=False)  # fmt: skip
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_a_plan_answers_and_its_parts_agree(study: Path):
    result = _run(study)
    answer = result["answer"]
    assert answer["solver"]["status"] == "optimal" and answer["solver"]["largest_residual"] < 1e-6
    order = answer["open_orders"][0]
    assert order["keep"] + order["defer"] + order["cancel"] == pytest.approx(128)
    assert {row["scenario"]: round(row["probability"], 2) for row in answer["scenarios"]} == {"ban": 0.5, "as-is": 0.5}
    fleet = answer["concentration"]["fleet at the start"]
    assert fleet["nvidia"] == pytest.approx(1.0) and fleet["jurisdiction US"] == pytest.approx(1.0)
    assert result["disclaimer"].startswith("Not legal advice")
    assert result["knowledge_horizon"] <= "2026-11-23"
    power = result["tables"]["power"]["rows"]
    assert max(row[-1] for row in power) <= 3e6 * (1 + 1e-6)


def test_the_same_study_gives_the_same_answer_and_a_ban_does_not_make_it_cheaper(study: Path):
    one, two = _run(study), _run(study)
    assert one["answer"] == two["answer"]
    banned = _run(study, "--ban", "use:2027Q2")
    assert banned["answer"]["hypothetical_ban"] == "use:2027Q2"
    assert banned["answer"]["cost"]["mean"] >= one["answer"]["cost"]["mean"] - 1.0
    assert banned["answer"]["regret_of_ignoring_the_ban"] >= -1.0


def test_sweep_shows_the_frontier(study: Path):
    frontier = _run(study, "--sweep-ban", "--scenarios", "10")["answer"]["frontier"]
    scopes = {(cell["what"], cell["scope"]) for cell in frontier["cells"]}
    assert {("use", "pre-training"), ("buy", "all work"), ("support", "all work")} <= scopes
    for cell in frontier["cells"]:
        assert 0.0 <= cell["probability_met"] <= 1.0 and 0.0 <= cell["met_p10"] <= 1.0
    by_start = [c["met_p50"] for c in frontier["cells"] if (c["what"], c["scope"]) == ("use", "all work")]
    assert by_start[0] <= by_start[-1] + 1e-6


def test_terminal_and_report(study: Path, tmp_path: Path):
    done = CliRunner().invoke(
        plan_command, [str(study), "--root", str(tmp_path / "runs"), "--out", str(tmp_path / "out")],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0 and "Order " in done.stdout
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Dependence as a number" in html and "<svg" in html


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ban", "2026Q1"), "before the plan"),
        (("--ban", "2031Q1"), "after the plan"),
        (("--ban", "soon"), "not a quarter"),
        (("--ban", "eat:2027Q1"), "buy, use or support"),
        (("--scenarios", "1"), "scenarios for"),
        (("--set", "plan.start=2026Q1"), "before"),
        (("--set", "candidates.chips=[\"huawei/ascend-910x\"]"), "ascend-910"),
    ],
)  # fmt: skip
def test_bad_flags_are_refused(study: Path, flags: tuple[str, ...], message: str):
    with pytest.raises(InputError if "910x" not in str(flags) else Exception, match=message):
        _run(study, *flags)


def test_strict_names_what_contradicts(study: Path):
    with pytest.raises(InfeasibleError, match=r"work|porting|power"):
        plan(study, options=Options(strict=True), overrides=['site.here.power="1 kW"'], keep=False)


def test_diff_of_two_runs_says_what_changed(study: Path, tmp_path: Path):
    files = []
    for number, flags in enumerate(((), ("--ban", "use:2027Q2"))):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(_run(study, *flags)), "utf-8")
        files.append(str(path))
    done = CliRunner().invoke(diff_command, [*files, "--json"], catch_exceptions=False)
    answer = json.loads(done.stdout)["answer"]
    places = [row["where"] for row in answer["changes"]]
    assert "hypothetical_ban" in places and "cost.mean" in places and not answer["same_inputs"]
    same = CliRunner().invoke(diff_command, [files[0], files[0]], catch_exceptions=False)
    assert "Nothing changed" in same.stdout


@pytest.mark.parametrize("name", ["study-2025-08", "study-2026-11"])
def test_the_national_question(name: str, tmp_path: Path):
    result = plan(EXAMPLES / "china-2025" / f"{name}.toml", root=tmp_path, overrides=["national.draws=20"])
    answer = result.answer
    assert answer["coverage"][0]["all"]["p50"] < 1.0
    day = result.answer["as_of"]
    assert result.knowledge_horizon is not None and result.knowledge_horizon.isoformat() <= day
    for row in answer["coverage"]:
        for scope in answer["scopes"]:
            band = row[scope]
            assert 0.0 <= band["p10"] <= band["p50"] <= band["p90"] <= 1.0
    cells = {(c["what"], c["scope"], c["from"]): c for c in answer["frontier"]["cells"]}
    for (_, scope, start), cell in cells.items():
        assert cell["met_p50"] <= 1.0
        if ("use", scope, start) in cells and ("buy", scope, start) in cells:
            assert cells["use", scope, start]["met_p50"] <= cells["buy", scope, start]["met_p50"] + 1e-6
    assert {row["lifted"] for row in answer["bottlenecks"]} >= {"HBM", "yield", "training suitability", "software"}
    for row in answer["coverage"]:
        assert row["even"]["p50"] <= row["all"]["p50"] + 1e-9
    assert {row["year"] for row in answer["years"]} == {2025, 2026, 2027, 2028}
    generated = [figure for figure in result.figures if "by the cost model" in figure.source]
    assert {figure.id.rsplit(".", 1)[1] for figure in generated} == {"chat-dense", "reasoning-dense", "chat-moe"}
    assert "computed on" in " ".join(answer["bridge"])
    known = {row["who"] + str(row["year"]): row["known"] for row in answer["views"]}
    assert known["Bernstein2028"] == (name == "study-2026-11")
    assert result_from_json(result.to_json()).answer == json.loads(result.to_json())["answer"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('facts = "nowhere.toml"', "no such file"),
        ('last = "2025Q1"', "out of order"),
        ("draws = 1", "draws"),
        ('colour = "red"', "unknown key"),
    ],
)
def test_a_broken_national_study_is_refused(change: str, message: str, tmp_path: Path):
    text = (EXAMPLES / "china-2025" / "study-2026-11.toml").read_text("utf-8")
    key = change.split(" =")[0]
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
    path = tmp_path / "study.toml"
    path.write_text("\n".join([*lines, change]) + "\n", "utf-8")
    for name in ("china.toml", "exchange.toml"):
        (tmp_path / name).write_text((EXAMPLES / "china-2025" / name).read_text("utf-8"), "utf-8")
    with pytest.raises(InputError, match=message):
        plan(path, keep=False)
