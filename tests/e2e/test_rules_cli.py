"""The command line of the rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from offramp.cli import root
from offramp.core.errors import CatalogError, InputError

CASES = """case_id,chip,chip_name,as_of,jurisdiction,headquarters,destination,buyer,route,use,datacenter,dense_tops_x_bits,die_mm2,expect_tpp,expect_pd,expect_control,expect_verdict
X1,nvidia/h20,,2025-08-20,CN,CN,CN,platform,,buy,yes,,,,,,discouraged
X2,,Some chip,2024-02-01,US,CN,CN,private,from-us,buy,yes,INT8 624x8,826,4992,6.04,3A090.a,licence-presumption-of-denial
X3,nvidia/h20,,2025-08-20,CN,CN,CN,platform,,buy,yes,,,,,,prohibited
"""  # noqa: E501


def run(*args: str) -> Result:
    found = CliRunner().invoke(root, ["rules", *args])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_verdict_as_json_is_the_result() -> None:
    data = json.loads(run("verdict", "nvidia/h20", "--as-of", "2025-11-20", "--buyer", "state-funded", "--json").stdout)
    assert data["command"] == "rules verdict"
    assert data["answer"]["verdict"] == "prohibited"
    assert data["answer"]["by_jurisdiction"] == {"US": "licence", "CN": "prohibited"}
    assert {hit["rule"] for hit in data["answer"]["rules"]} >= {"CN-STATEDC-2025", "US-ISINF-2025-04"}
    assert "legal advice" in data["disclaimer"]
    assert data["figures"]
    assert data["knowledge_horizon"] >= "2026-06-09"


def test_verdict_in_words() -> None:
    text = run("verdict", "My chip", "--as-of", "2024-06-01", "--set", "dense_tops_x_bits=FP8 300x8", "--set",
               "datacenter=yes", "--headquarters", "CN").stdout  # fmt: skip
    assert "INDETERMINATE" in text
    assert "licence-presumption-of-denial up to 405.405 mm2" in text
    assert "Not legal advice" in text


def test_diff_says_what_changed_and_why() -> None:
    data = json.loads(
        run("diff", "2025-04-08", "2025-04-09", "--chip", "nvidia/h20", "--chip", "nvidia/l20", "--json").stdout
    )
    rows = {row["chip"]: row for row in data["answer"]["chips"]}
    assert rows["nvidia/h20"]["verdict_from"] == "allowed"
    assert rows["nvidia/h20"]["verdict_to"] == "licence"
    assert rows["nvidia/h20"]["why"] == "+ US-ISINF-2025-04"
    assert rows["nvidia/l20"]["changed"] is False
    assert [item["rule"] for item in data["answer"]["rules"]] == ["US-ISINF-2025-04"]


def test_diff_of_a_study(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    text = '[study]\nname = "x"\n[organisation]\nkind = "state-funded"\n[[fleet]]\nchip = "nvidia/h20"\ncount = 8\n'
    study.write_text(text)
    with pytest.raises(InputError, match="headquarters"):
        run("diff", "2025-11-04", "2025-11-05", "--study", str(study))
    study.write_text(text.replace("kind =", 'headquarters = "CN"\nkind ='))
    data = json.loads(run("diff", "2025-11-04", "2025-11-05", "--study", str(study), "--json").stdout)
    assert [(row["chip"], row["verdict_to"]) for row in data["answer"]["chips"]] == [("nvidia/h20", "prohibited")]


def test_list_by_day_and_jurisdiction() -> None:
    data = json.loads(run("list", "--as-of", "2026-01-01", "--jurisdiction", "us", "--json").stdout)
    states = {row["rule"]: row["state"] for row in data["answer"]["rules"]}
    assert states["US-AFFIL50-2025"] == "suspended"
    assert states["US-DIFFUSION-2025"] == "never-enforced"
    assert "US-H200-CBC-2026" not in states
    assert all(row["jurisdiction"] == "US" and row["source"] for row in data["answer"]["rules"])
    assert "US-NAC" in run("list").stdout


def test_check_prints_exactly_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(CASES)
    data = json.loads(run("check", str(path), "--json").stdout)
    assert set(data) == {"cases", "agree", "disagree"}
    assert (data["cases"], data["agree"]) == (3, 2)
    assert set(data["disagree"][0]) == {"case_id", "expected", "got", "why"}
    assert data["disagree"][0]["case_id"] == "X3"
    assert data["disagree"][0]["expected"] == {"verdict": "prohibited"}
    assert data["disagree"][0]["got"] == {"verdict": "discouraged"}
    text = run("check", str(path)).stdout
    assert "X3: verdict is discouraged instead of prohibited" in text
    assert "2 of 3 cases agree." in text


@pytest.mark.parametrize(
    ("args", "kind", "part"),
    [
        (("verdict", "nvidia/h2O0", "--as-of", "2026-01-01"), CatalogError, "nvidia/h200"),
        (("verdict", "nvidia/h20", "--as-of", "2026-1-1"), InputError, "not a date"),
        (("verdict", "nvidia/h20", "--as-of", "2026-01-01", "--buyer", "statefunded"), InputError, "state-funded"),
        (("verdict", "nvidia/h20", "--as-of", "2026-01-01", "--set", "sitee=x"), InputError, "site"),
        (("verdict", "nvidia/h20", "--as-of", "2026-01-01", "--set", "tf32_bits=24"), InputError, "32, 19"),
        (("verdict", "nvidia/h20", "--as-of", "2026-01-01", "--set", "site"), InputError, "KEY=VALUE"),
        (("verdict", "nvidia/h20", "--as-of", "2026-01-01", "--set", "foreign_share=30"), InputError, "not a share"),
        (("verdict", "nvidia/h20", "--as-of", "2026-01-01", "--headquarters", "Chinaa"), InputError, "two-letter"),
        (("diff", "2026-01-02", "2026-01-01"), InputError, "not before"),
        (("diff", "2026-01-01", "2026-01-02", "--chip", "nvidia/h2O"), CatalogError, "unknown chip"),
        (("list", "--jurisdiction", "EU"), InputError, "Known: US, CN"),
        (("check", "nothing-there.csv"), InputError, "no such file"),
    ],
)
def test_mistakes_are_answered_in_one_line(args: tuple[str, ...], kind: type[Exception], part: str) -> None:
    with pytest.raises(kind, match=part):
        run(*args)


def test_rules_of_my_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[[rule]]\nid = 3\n")
    with pytest.raises(CatalogError, match=r"mine\.toml"):
        run("list", "--rules", str(tmp_path))
