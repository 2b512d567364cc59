"""Verdicts: dates, exceptions, buyers, missing facts, knowledge, settings."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from offramp.core.errors import InputError
from offramp.rules import ChipFacts, Context, Peak, Settings, Verdict, load, verdict
from offramp.rules.facts import given
from offramp.rules.records import VERDICTS

DAY = dt.date(2024, 6, 1)
SOURCE = "made up for a test"


def chip(tops: float = 300.0, **numbers: float | bool | str | None) -> ChipFacts:
    """An FP8 chip: die in mm2, dram and io in GB/s."""
    units = {"die_area": "mm2", "io_die_area": "mm2", "dram_bandwidth": "GB/s", "io_bandwidth": "GB/s"}
    parts = {
        key: given(value, units[key], SOURCE, DAY) if key in units and isinstance(value, (int, float)) else value
        for key, value in numbers.items()
    }
    peaks = (Peak(dtype="fp8", figure=given(tops, "TOPS", SOURCE, DAY)),) if tops else ()
    return ChipFacts(**{"name": "test chip", "datacenter": True, "peaks": peaks, **parts})  # type: ignore[arg-type]


def shipped(name: str) -> ChipFacts:
    found = load().chips.find(name)
    assert found is not None
    return found


def ask(facts: ChipFacts | str, day: str, known: str | None = None, **context: object) -> Verdict:
    facts = shipped(facts) if isinstance(facts, str) else facts
    when = dt.date.fromisoformat
    return verdict(facts, Context(**context), when(day), known=when(known) if known else None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "day", "side", "context", "expected"),
    [
        # the day before and the day of each change
        ("nvidia/a100", "2022-08-25", "US", {}, "allowed"),
        ("nvidia/a100", "2022-08-26", "US", {}, "licence"),
        ("nvidia/a100", "2022-10-06", "US", {}, "licence"),
        ("nvidia/a100", "2022-10-07", "US", {}, "licence-presumption-of-denial"),
        ("nvidia/a800", "2023-10-22", "US", {}, "allowed"),
        ("nvidia/a800", "2023-10-23", "US", {}, "licence-presumption-of-denial"),
        ("amd/mi210", "2023-11-16", "US", {}, "allowed"),
        ("amd/mi210", "2023-11-17", "US", {}, "notification"),
        ("nvidia/h20", "2025-04-08", "US", {}, "allowed"),
        ("nvidia/h20", "2025-04-09", "US", {}, "licence"),
        ("nvidia/h200", "2026-01-14", "US", {}, "licence-presumption-of-denial"),
        ("nvidia/h200", "2026-01-15", "US", {}, "licence-case-by-case"),
        ("memory/hbm3", "2024-12-30", "US", {}, "allowed"),
        ("memory/hbm3", "2024-12-31", "US", {}, "licence-presumption-of-denial"),
        ("nvidia/h20", "2025-08-11", "CN", {}, "allowed"),
        ("nvidia/h20", "2025-08-12", "CN", {}, "discouraged"),
        ("nvidia/rtx-pro-6000d", "2025-09-14", "CN", {"buyer": "platform"}, "allowed"),
        ("nvidia/rtx-pro-6000d", "2025-09-15", "CN", {"buyer": "platform"}, "prohibited"),
        ("nvidia/b200", "2025-11-04", "CN", {"buyer": "state-funded"}, "discouraged"),
        ("nvidia/b200", "2025-11-05", "CN", {"buyer": "state-funded"}, "prohibited"),
        ("nvidia/h200", "2026-01-12", "CN", {"buyer": "platform"}, "discouraged"),
        ("nvidia/h200", "2026-01-13", "CN", {"buyer": "platform"}, "prohibited"),
        ("nvidia/h200", "2026-01-28", "CN", {"buyer": "platform"}, "conditional"),
        ("nvidia/h200", "2026-01-28", "CN", {"buyer": "private"}, "prohibited"),
        ("nvidia/h200", "2026-01-28", "CN", {"buyer": "university"}, "conditional"),
        ("nvidia/rtx-5090d-v2", "2026-05-14", "CN", {}, "allowed"),
        ("nvidia/rtx-5090d-v2", "2026-05-15", "CN", {}, "prohibited"),
        # routes, places and parents
        ("nvidia/h200", "2026-02-01", "US", {"route": "re-export"}, "licence-presumption-of-denial"),
        ("nvidia/h200", "2026-02-01", "US", {"destination": "MY"}, "licence-presumption-of-denial"),
        ("nvidia/h100", "2024-02-01", "US", {"headquarters": "SG", "parent": "CN"}, "licence-presumption-of-denial"),
        ("nvidia/h100", "2022-12-01", "US", {"headquarters": "CN", "destination": "SG"}, "allowed"),
        ("nvidia/h100", "2024-02-01", "US", {"headquarters": "AE"}, "licence"),
        ("nvidia/h100", "2024-02-01", "US", {"headquarters": "DE"}, "allowed"),
        ("amd/mi210", "2024-04-03", "US", {"headquarters": "AE"}, "allowed"),
        ("amd/mi210", "2024-04-04", "US", {"headquarters": "AE"}, "allowed"),
        ("amd/mi210", "2024-04-04", "US", {"buyer": "military"}, "licence"),
        ("nvidia/h100", "2025-03-01", "US", {"headquarters": "SG"}, "allowed"),
        # using what is installed
        ("nvidia/h20", "2026-11-23", "US", {"use": "operate"}, "allowed"),
        ("nvidia/h20", "2026-11-23", "CN", {"use": "operate"}, "allowed"),
        ("nvidia/h20", "2026-11-23", "CN", {"use": "operate", "buyer": "state-funded", "project_complete": 0.29},
         "prohibited"),
        ("nvidia/h20", "2026-11-23", "CN", {"use": "operate", "buyer": "state-funded", "project_complete": 0.3},
         "conditional"),
        # Chinese chips
        ("huawei/ascend-910c", "2025-05-12", "US", {"headquarters": "DE"}, "allowed"),
        ("huawei/ascend-910c", "2025-05-13", "US", {"headquarters": "DE"}, "licence-presumption-of-denial"),
        ("huawei/ascend-910c", "2025-05-13", "US", {"headquarters": "DE", "use": "analyse"}, "allowed"),
        ("huawei/ascend-910c", "2025-05-13", "US", {}, "allowed"),
        ("huawei/ascend-910c", "2025-05-13", "US", {"us_nexus": True}, "licence-presumption-of-denial"),
        # drafts and quotas
        ("nvidia/h20", "2028-06-01", "CN", {"buyer": "state-owned", "foreign_share": 0.3}, "prohibited"),
        ("nvidia/h20", "2028-06-01", "CN", {"buyer": "state-owned", "foreign_share": 0.3, "include_drafts": True},
         "quota"),
        ("nvidia/h20", "2028-06-01", "CN", {"buyer": "state-owned", "foreign_share": 0.2, "include_drafts": True},
         "discouraged"),
        ("nvidia/h20", "2027-06-01", "CN", {"buyer": "state-owned", "foreign_share": 0.3, "include_drafts": True},
         "prohibited"),
        ("nvidia/h20", "2027-12-31", "CN", {"site": "Beijing", "foreign_share": 0.01}, "quota"),
        ("nvidia/h20", "2027-12-31", "CN", {"site": "Shanghai", "foreign_share": 0.3}, "discouraged"),
        ("nvidia/h20", "2025-08-20", "CN", {"buyer": "state-owned", "foreign_share": 0.51}, "quota"),
        ("nvidia/h20", "2025-08-20", "CN", {"buyer": "state-owned", "foreign_share": 0.5}, "discouraged"),
        ("nvidia/h100", "2026-04-01", "US", {"headquarters": "DE", "include_drafts": True}, "licence"),
        ("nvidia/h100", "2026-04-01", "US", {"use": "rent", "include_drafts": True}, "licence"),
        ("nvidia/h100", "2026-04-01", "US", {"use": "rent"}, "allowed"),
    ],
)  # fmt: skip
def test_verdict(name: str, day: str, side: str, context: dict[str, object], expected: str) -> None:
    assert ask(name, day, jurisdiction=side, **context).verdict == expected


def test_the_lattice_is_in_the_documented_order() -> None:
    assert VERDICTS == (
        "allowed", "discouraged", "notification", "conditional", "quota", "licence", "licence-case-by-case",
        "licence-presumption-of-denial", "prohibited",
    )  # fmt: skip


def test_both_jurisdictions_give_the_stricter_and_each_its_own() -> None:
    answer = ask("nvidia/h20", "2025-11-20", buyer="state-funded")
    assert answer.verdict == "prohibited"
    assert answer.by_jurisdiction == {"US": "licence", "CN": "prohibited"}


def test_missing_die_area_is_indeterminate_and_names_where_it_decides() -> None:
    answer = ask(chip(300.0), "2024-06-01", jurisdiction="US")
    assert answer.verdict == "indeterminate"
    assert answer.missing == ("die_mm2",)
    assert [(switch.fact, switch.below, switch.above) for switch in answer.switches] == [
        ("die_mm2", ("licence-presumption-of-denial",), ("notification",)),
        ("die_mm2", ("notification",), ("allowed",)),
    ]
    assert [switch.at for switch in answer.switches] == pytest.approx([2400 / 5.92, 2400 / 1.6])
    assert [switch.included for switch in answer.switches] == [False, False]


def test_a_missing_fact_that_cannot_matter_is_not_asked_for() -> None:
    assert ask(chip(700.0), "2024-06-01", jurisdiction="US").verdict == "licence-presumption-of-denial"
    assert ask(chip(100.0, datacenter=None), "2024-06-01", jurisdiction="US").verdict == "allowed"


def test_missing_marketing_class_is_a_yes_or_no_switch() -> None:
    answer = ask(chip(700.0, datacenter=None), "2024-06-01", jurisdiction="US")
    assert answer.missing == ("datacenter",)
    assert answer.switches[0].below == ("notification",)
    assert answer.switches[0].above == ("licence-presumption-of-denial",)


def test_missing_tpp_and_die_area() -> None:
    answer = ask(chip(0.0, datacenter=True), "2024-06-01", jurisdiction="US")
    assert answer.possible == ("allowed", "notification", "licence-presumption-of-denial")
    assert answer.missing == ("tpp", "die_mm2")
    assert [switch.at for switch in answer.switches if switch.fact == "tpp"] == [1600, 4800]


def test_missing_bandwidth_decides_between_review_policies() -> None:
    answer = ask(chip(1000.0, die_area=800.0, launched=dt.date(2024, 1, 1)), "2026-02-01", jurisdiction="US")
    assert answer.possible == ("licence-case-by-case", "licence-presumption-of-denial")
    assert [(switch.fact, switch.at, switch.included) for switch in answer.switches] == [("dram_bw", 6500, True)]


def test_a_bound_is_enough_where_it_decides() -> None:
    facts = chip(0.0, tpp_below=1600.0)
    assert ask(facts, "2024-06-01", jurisdiction="US").verdict == "allowed"


@pytest.mark.parametrize("day", ["2026-11-10", "2027-06-01"])
def test_nobody_knows_whether_the_affiliates_rule_returned(day: str) -> None:
    answer = ask("nvidia/l20", day, jurisdiction="US", listed_ownership=0.5)
    assert answer.verdict == "indeterminate"
    assert answer.possible == ("allowed", "licence-presumption-of-denial")
    assert answer.missing == ("in-force:US-AFFIL50-2025",)
    assert any("No source says whether US-AFFIL50-2025 is in force" in note for note in answer.notes)


@pytest.mark.parametrize(
    ("day", "share", "expected"),
    [
        ("2025-09-28", 0.5, "allowed"), ("2025-09-29", 0.5, "licence-presumption-of-denial"),
        ("2025-09-29", 0.49, "allowed"), ("2025-11-10", 0.5, "allowed"), ("2026-11-09", 0.9, "allowed"),
        ("2026-11-10", 0.49, "allowed"),
    ],
)  # fmt: skip
def test_affiliates_rule_while_its_standing_is_known(day: str, share: float, expected: str) -> None:
    assert ask("nvidia/l20", day, jurisdiction="US", listed_ownership=share).verdict == expected


def test_before_the_suspension_was_announced_the_rule_held_on() -> None:
    kept = ask("nvidia/l20", "2026-11-20", known="2025-10-15", jurisdiction="US", listed_ownership=0.6)
    assert kept.verdict == "licence-presumption-of-denial"


def test_what_became_public_later_is_hidden_from_earlier_knowledge() -> None:
    assert ask("nvidia/h200", "2026-02-01", jurisdiction="US").verdict == "licence-case-by-case"
    early = ask("nvidia/h200", "2026-02-01", known="2025-08-20", jurisdiction="US")
    assert early.verdict == "licence-presumption-of-denial"
    assert early.horizon <= dt.date(2025, 8, 20)
    late = ask("nvidia/rtx-pro-6000d", "2025-09-16", jurisdiction="CN", buyer="platform")
    assert late.verdict == "prohibited"
    assert any("became public on 2025-09-17" in note for note in late.notes)
    then = ask("nvidia/rtx-pro-6000d", "2025-09-16", known="2025-09-16", jurisdiction="CN", buyer="platform")
    assert then.verdict == "allowed"


def test_facts_that_became_public_later_are_hidden() -> None:
    facts = msgspec.structs.replace(
        chip(0.0), peaks=(Peak(dtype="fp8", figure=given(900.0, "TOPS", SOURCE, dt.date(2025, 3, 1))),)
    )
    assert ask(facts, "2025-06-01", known="2025-04-01", jurisdiction="US").verdict == "licence-presumption-of-denial"
    assert ask(facts, "2025-06-01", known="2025-02-01", jurisdiction="US").verdict == "indeterminate"


def test_conditions_of_a_licence() -> None:
    kinds = {item.kind: item.value for item in ask("nvidia/h20", "2025-08-20", jurisdiction="US").conditions}
    assert kinds["revenue-share"] == 0.15
    found = {item.kind: item.value for item in ask("nvidia/h200", "2026-03-01", jurisdiction="US").conditions}
    assert found["duty"] == 0.25
    assert found["volume-cap"] == 75_000
    assert found["volume-share"] == 0.5
    nvl = {item.kind for item in ask("nvidia/h200-nvl", "2026-03-01", jurisdiction="US").conditions}
    assert "duty" not in nvl
    assert "volume-cap" in nvl


def test_margins_reach_every_threshold() -> None:
    margins = {(item.rule, item.quantity, item.threshold): item for item in ask("nvidia/l20", "2024-06-01").margins}
    close = margins[("US-3A090b-2023", "pd", 3.2)]
    assert close.margin == pytest.approx(1912 / 609 - 3.2)
    assert close.relative == pytest.approx((1912 / 609 - 3.2) / 3.2)
    assert close.holds is False


def test_inputs_name_their_sources() -> None:
    inputs = {item.name: item for item in ask("nvidia/h20", "2024-06-01", jurisdiction="US").inputs}
    assert "296 TFLOP/s dense fp8 x 8 bits" in inputs["tpp"].source
    assert inputs["tpp"].url
    assert inputs["project_complete"].confidence == "assumed" if "project_complete" in inputs else True
    state = ask("nvidia/h20", "2025-11-20", jurisdiction="CN", buyer="state-funded").inputs
    assert next(item for item in state if item.name == "project_complete").confidence == "assumed"


def test_rules_that_are_not_in_force_are_watched() -> None:
    diffusion = ask("nvidia/h100", "2025-03-01", jurisdiction="US", headquarters="SG")
    assert [(hit.rule, hit.state) for hit in diffusion.watch] == [("US-DIFFUSION-2025", "announced")]
    later = ask("nvidia/h100", "2025-06-01", jurisdiction="US", headquarters="SG")
    assert [(hit.rule, hit.state) for hit in later.watch] == [("US-DIFFUSION-2025", "never-enforced")]


def test_an_organisation_outside_both_jurisdictions_gets_a_short_answer() -> None:
    answer = ask("nvidia/h100", "2026-06-01", headquarters="DE")
    assert answer.verdict == "allowed"
    assert not answer.rules
    assert not answer.conditions
    assert any("Neither jurisdiction's rules" in note for note in answer.notes)
    assert {item.name for item in answer.inputs} <= {
        "chip", "headquarters", "destination", "buyer", "use", "countries", "listed_ownership",
    }  # fmt: skip


def test_thin_sources_are_said() -> None:
    assert not any("thin out" in note for note in ask("nvidia/h100", "2026-06-30").notes)
    assert any("thin out after 2026-06-30" in note for note in ask("nvidia/h100", "2026-07-01").notes)


def test_a_weak_source_is_said() -> None:
    assert any("weak source" in note for note in ask("nvidia/rtx-5090d-v2", "2026-06-01").notes)


def test_stated_classification_beats_the_formula() -> None:
    assert ask("amd/mi309", "2024-03-05", jurisdiction="US").verdict == "licence"
    assert ask("amd/mi309", "2024-03-05", jurisdiction="US").control == "3A090 (per Commerce)"
    assert ask("nvidia/rtx-pro-6000d", "2025-08-15", jurisdiction="US").verdict == "allowed"


def test_an_estimate_whose_range_changes_the_verdict_is_said() -> None:
    die = msgspec.structs.replace(given(500.0, "mm2", SOURCE, DAY), low=350.0, high=600.0)
    answer = ask(msgspec.structs.replace(chip(300.0), die_area=die), "2024-06-01")
    assert any("at 350 the verdict would be licence-presumption-of-denial" in note for note in answer.notes)


def test_settings_change_the_reading() -> None:
    wide = verdict(shipped("nvidia/rtx-4090d"), Context(jurisdiction="US"), dt.date(2024, 4, 10))
    summed = verdict(
        shipped("nvidia/rtx-4090d"),
        Context(jurisdiction="US"),
        dt.date(2024, 4, 10),
        settings=Settings(aggregation="sum"),
    )
    assert wide.verdict == "allowed"
    assert wide.tpp == pytest.approx(4707)
    assert summed.verdict == "notification"
    assert summed.tpp == pytest.approx(7060, abs=1)
    tf32 = ChipFacts(datacenter=True, peaks=(Peak(dtype="tf32", figure=given(160.0, "TFLOP/s", SOURCE, DAY)),))
    answers = [
        verdict(tf32, Context(jurisdiction="US"), DAY, settings=Settings(tf32_bits=bits)).tpp for bits in (32, 19)
    ]
    assert answers == pytest.approx([5120, 3040])
    dies = msgspec.structs.replace(chip(300.0, die_area=400.0, io_die_area=1200.0))
    readings = [
        verdict(dies, Context(jurisdiction="US"), DAY, settings=Settings(die_area=reading)).verdict
        for reading in ("as-published", "all-logic")
    ]
    assert readings == ["licence-presumption-of-denial", "allowed"]
    offshore = verdict(
        shipped("nvidia/h200"), Context(jurisdiction="US", destination="MY"), dt.date(2026, 6, 15),
        settings=Settings(offshore_review="as-china"),
    )  # fmt: skip
    assert offshore.verdict == "licence-case-by-case"


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(InputError, match="not a share"):
        ask("nvidia/h20", "2026-01-01", foreign_share=30.0)


def test_the_letters_need_an_addressee() -> None:
    other = chip(200.0, die_area=800.0, dram_bandwidth=4000.0, io_bandwidth=900.0)
    assert ask(other, "2025-06-01", jurisdiction="US").verdict == "allowed"
    assert ask(msgspec.structs.replace(other, vendor="nvidia"), "2025-06-01", jurisdiction="US").verdict == "licence"


@pytest.mark.parametrize(
    ("dram", "io", "expected"),
    [(1399, 300, "allowed"), (1400, 0, "licence"), (599, 1100, "licence"), (599, 1099, "allowed"),
     (600, 1100, "licence"), (1000, 700, "licence"), (1000, 699, "allowed")],
)  # fmt: skip
def test_the_three_tests_of_the_letters(dram: float, io: float, expected: str) -> None:
    facts = chip(190.0, die_area=800.0, vendor="intel", dram_bandwidth=float(dram), io_bandwidth=float(io))
    assert ask(facts, "2025-06-01", jurisdiction="US").verdict == expected


def test_both_limits_of_the_case_by_case_review_are_needed() -> None:
    assert ask("intel/gaudi-3", "2026-02-01", jurisdiction="US").verdict == "licence-presumption-of-denial"
    late = chip(1000.0, die_area=800.0, dram_bandwidth=4000.0, launched=dt.date(2026, 1, 16))
    assert ask(late, "2026-02-01", jurisdiction="US").verdict == "licence-presumption-of-denial"


def test_wafers_of_advanced_logic_are_presumed_controlled() -> None:
    wafer = ChipFacts(item="wafer", node_nm=given(7, "", SOURCE, DAY), transistors=given(40, "", SOURCE, DAY))
    assert ask(wafer, "2025-03-01", jurisdiction="US").verdict == "licence"
    assert ask(msgspec.structs.replace(wafer, attested=True), "2025-03-01", jurisdiction="US").verdict == "allowed"
    small = msgspec.structs.replace(wafer, transistors=given(34, "", SOURCE, DAY), packaged_outside_d5=True)
    assert ask(small, "2026-12-31", jurisdiction="US").verdict == "licence"
    assert ask(small, "2027-01-01", jurisdiction="US").verdict == "allowed"


def test_the_test_of_computers_never_catches_a_card() -> None:
    assert "US-4A003-APP-2024" not in {hit.rule for hit in ask("nvidia/h20", "2024-06-01").rules}
    computer = ChipFacts(item="computer", app_wt=given(71, "", SOURCE, DAY))
    assert ask(computer, "2024-06-01", jurisdiction="US").verdict == "licence"


def test_operating_without_a_known_completion_switches_at_thirty_percent() -> None:
    answer = ask("nvidia/h20", "2026-01-01", jurisdiction="CN", use="operate", buyer="state-funded")
    assert answer.possible == ("conditional", "prohibited")
    assert [(item.fact, item.at, item.below, item.above, item.included) for item in answer.switches] == [
        ("project_complete", 0.3, ("prohibited",), ("conditional",), True)
    ]


def test_an_unstated_foreign_share_is_a_quota_or_a_condition() -> None:
    city = ask("nvidia/h20", "2028-01-01", jurisdiction="CN", site="Shanghai")
    assert city.verdict == "quota"
    reported = ask("nvidia/h20", "2025-08-20", jurisdiction="CN", buyer="state-funded")
    assert reported.verdict == "discouraged"
    assert {item.kind for item in reported.conditions} >= {"unless-quota", "domestic-share"}


def test_classification_is_open_while_a_deciding_fact_is_missing() -> None:
    assert ask(chip(300.0), "2024-06-01", jurisdiction="US").control == ""
    assert ask(chip(700.0), "2024-06-01", jurisdiction="US").control == "3A090.a"
