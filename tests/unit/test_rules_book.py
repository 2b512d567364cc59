"""Reading rules: what is wrong is refused with file and line."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from offramp.core.errors import CatalogError, InputError
from offramp.rules import Rulebook, load, rulebook_of
from offramp.rules.chips import normal

GOOD = """
[[rule]]
id = "CN-TEST-1"
title = "A test"
jurisdiction = "CN"
issuer = "nobody"
instrument = "none"
kind = "control"
binds = "nobody"
scope = "nothing"
outcome = "prohibited"
source = "made up"
url = "https://example.org"
confidence = "press"
states = [{ state = "in-force", since = 2026-12-01 }]
applies = "destination is CN and use is buy"
limits = { big = 100 }
[[rule.clause]]
when = "tpp >= limit.big"
verdict = "prohibited"
"""


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    (folder / name).write_text(text)
    return folder


def refused(folder: Path, text: str) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        rulebook_of(write(folder, text))
    return caught.value


def test_a_further_rule_is_read_beside_the_shipped_ones(tmp_path: Path) -> None:
    book = rulebook_of(write(tmp_path, GOOD))
    assert book.rule("CN-TEST-1").title == "A test"
    assert book.rules.keys() - {"CN-TEST-1"} == load().rules.keys()
    assert book.version != load().version


@pytest.mark.parametrize(
    ("old", "new", "line", "part"),
    [
        ('"tpp >= limit.big"', '"tppp >= limit.big"', 19, 'unknown attribute "tppp"'),
        ('"tpp >= limit.big"', '"tpp >= limit.bigger or tpp >= limit.big"', 19, 'unknown limit "bigger"'),
        ('"tpp >= limit.big"', '"tpp >= 3"', 17, 'limit "big" of CN-TEST-1 is never used'),
        ('"destination is CN', '"destination in chiina', 16, 'unknown list "chiina"'),
        ('verdict = "prohibited"', 'verdict = "forbidden"', 20, 'found "forbidden"'),
        ('kind = "control"', 'kind = "contrl"', 8, "is not one of"),
        ('issuer = "nobody"\n', "", 2, '"issuer" is missing'),
        ('issuer = "nobody"', 'issuer = "nobody"\nisuer = "x"', 7, 'unknown key "isuer"'),
        ('id = "CN-TEST-1"', 'id = "US-NAC"', 2, "is given twice"),
        ('verdict = "prohibited"', 'verdict = "prohibited"\nrelieves = ["US-NACC"]', 21, 'unknown rule "US-NACC"'),
        ('verdict = "prohibited"', 'verdict = "prohibited"\nrelieves = ["US-NAC"]', 21, "other jurisdiction"),
        (
            "since = 2026-12-01 }]",
            'since = 2026-12-01 }, { state = "suspended", since = 2026-11-01 }]',
            15,
            "suspended",
        ),
    ],
)
def test_a_broken_rule_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, part: str) -> None:
    assert old in GOOD
    error = refused(tmp_path, GOOD.replace(old, new))
    assert part in error.what
    place, number = error.where.rsplit(":", 1)
    assert place.endswith("mine.toml")
    assert int(number) == line, error


def test_a_condition_over_several_lines_names_its_own_line(tmp_path: Path) -> None:
    text = GOOD.replace('"tpp >= limit.big"', '"""tpp >= limit.big\n  and (datacenter\n  or pdd >= 3)"""')
    error = refused(tmp_path, text)
    assert error.where.endswith(":21")
    assert "pd" in error.mend


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD.replace('issuer = "nobody"', "issuer = nobody"))
    assert "line 6" in error.what


def test_circles_of_supersession_are_refused(tmp_path: Path) -> None:
    ended = GOOD.replace(
        'states = [{ state = "in-force", since = 2026-12-01 }]',
        'states = [{ state = "superseded", since = 2026-12-01 }]',
    )
    first = ended.replace("applies", 'supersedes = ["CN-TEST-2"]\napplies')
    other = ended.replace("CN-TEST-1", "CN-TEST-2").replace("applies", 'supersedes = ["CN-TEST-1"]\napplies')
    error = refused(tmp_path, first + other)
    assert "in a circle" in error.what
    assert "CN-TEST-1 -> CN-TEST-2 -> CN-TEST-1" in error.what


def test_circles_of_displacement_are_refused(tmp_path: Path) -> None:
    first = GOOD.replace("applies", 'displaces = ["CN-TEST-2"]\napplies')
    other = GOOD.replace("CN-TEST-1", "CN-TEST-2").replace("applies", 'displaces = ["CN-TEST-1"]\napplies')
    assert "in a circle" in refused(tmp_path, first + other).what


def test_a_superseded_rule_must_end(tmp_path: Path) -> None:
    other = GOOD.replace("CN-TEST-1", "CN-TEST-2").replace("tpp >=", "tpp >").replace(
        "applies", 'supersedes = ["CN-TEST-1"]\napplies'
    )  # fmt: skip
    error = refused(tmp_path, GOOD + other)
    assert "still in force on 2026-12-01" in error.what


def test_rules_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    other = GOOD.replace("CN-TEST-1", "CN-TEST-2").replace('verdict = "prohibited"', 'verdict = "notification"')
    error = refused(tmp_path, GOOD + other)
    assert "CN-TEST-2 says notification where CN-TEST-1 says prohibited" in error.what
    later = other.replace("2026-12-01 }]", '2026-12-01 }, { state = "superseded", since = 2026-12-01 }]')
    assert rulebook_of(write(tmp_path, GOOD + later)).rule("CN-TEST-2")


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        rulebook_of(tmp_path)


def test_unknown_rule_names_near_matches() -> None:
    with pytest.raises(CatalogError, match="US-3A090a-2023"):
        load().rule("US-3A090-2023")


def test_every_shipped_list_catches_what_it_says_and_nothing_else() -> None:
    from fnmatch import fnmatchcase

    book: Rulebook = load()
    ids = [*book.chips.chips, "nvidia/h200-nvl", "nvidia/h20-141gb", "huawei/ascend-910b3", "huawei/ascend-910c-752"]
    caught = {
        name: {chip for chip in ids if any(fnmatchcase(chip, pattern) for pattern in book.members[name])}
        for name in ("h20_family", "h200_family", "discouraged_class", "revenue_share", "gp10_named", "volume_capped")
    }
    assert caught["h20_family"] == {"nvidia/h20", "nvidia/h20-141gb"}
    assert caught["h200_family"] == {"nvidia/h200", "nvidia/h200-nvl"}
    assert caught["discouraged_class"] == {"nvidia/h20", "nvidia/h20-141gb", "nvidia/l20", "nvidia/l2", "amd/mi308x"}
    assert caught["revenue_share"] == {"nvidia/h20", "nvidia/h20-141gb", "amd/mi308x"}
    assert caught["volume_capped"] == {"nvidia/h200", "nvidia/h200-nvl", "amd/mi325x"}
    assert caught["gp10_named"] == {
        "huawei/ascend-910b2", "huawei/ascend-910b3", "huawei/ascend-910c", "huawei/ascend-910c-752",
    }  # fmt: skip


def test_every_rule_cites_a_source_and_is_dated() -> None:
    for rule in load().rules.values():
        assert rule.source and rule.url.startswith("http"), rule.id
        assert rule.announced <= dt.date(2026, 11, 23)


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        ("NVIDIA H800 PCIe", "nvidia/h800-pcie"), ("NVIDIA A100 SXM 80GB", "nvidia/a100"), ("AMD MI250X", "amd/mi250x"),
        ("NVIDIA GeForce RTX 4090 D", "nvidia/rtx-4090d"), ("NVIDIA GeForce RTX 4090", "nvidia/rtx-4090"),
        ("AMD MI309 (China variant of MI300)", "amd/mi309"), ("NVIDIA H20 96GB", "nvidia/h20"),
        ("Intel Gaudi 3 HL-328/HL-388 (China)", "intel/gaudi-3-china"), ("RTX 5090D V2", "nvidia/rtx-5090d-v2"),
    ],
)  # fmt: skip
def test_names_lead_to_chips(name: str, chip: str) -> None:
    found = load().chips.find("", name)
    assert found is not None
    assert found.id == chip


def test_a_longer_name_is_another_chip() -> None:
    assert load().chips.find("", "NVIDIA GeForce RTX 4090 Ti") is None
    assert normal("NVIDIA A100 SXM4 80 GB") == "a100 80gb"
