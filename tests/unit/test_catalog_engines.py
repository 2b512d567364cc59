"""Engine support: dated answers, never a guess."""

from __future__ import annotations

import datetime as dt

import pytest

from offramp import catalog

MLA, V32, V4, DENSE = "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "Qwen3ForCausalLM"


def ask(engine: str, chip: str, *args: str, **kwargs: str) -> catalog.Support:
    facts = catalog.load()
    return facts.engine(engine).supports(facts.chip(chip), *args, **kwargs)


def test_fp8_is_refused_on_chips_without_it_and_the_way_out_is_named():
    answer = ask("vllm-ascend", "huawei/ascend-910b2", MLA, "fp8")
    assert (answer.answer, answer.about) == ("no", "dtype fp8")
    assert "W8A8" in answer.why and answer.url
    assert ask("vllm-ascend", "huawei/ascend-910b2", MLA, "int8").answer == "yes"
    assert ask("vllm-ascend", "huawei/ascend-950pr", V4, "fp8").answer == "yes"


def test_a_model_is_missing_before_the_version_that_brought_it():
    late = ask("vllm-ascend", "huawei/ascend-910b2", V32, version="0.11.0")
    early = ask("vllm-ascend", "huawei/ascend-910b2", V32, version="0.10.2rc1")
    assert late.answer == "yes" and early.answer == "no"
    assert early.since == "0.11.0rc0" and "since 0.11.0rc0" in early.why


def test_a_chip_is_missing_before_the_version_that_brought_it():
    assert ask("vllm-ascend", "huawei/ascend-910c", MLA, version="0.9.1").about.startswith("chip ")
    assert ask("vllm-ascend", "huawei/ascend-910c", MLA).answer == "yes"


def test_an_engine_for_other_hardware_says_no():
    assert ask("tensorrt-llm", "huawei/ascend-910c").answer == "no"
    assert ask("vllm", "huawei/ascend-910b2", DENSE).answer == "no"
    assert ask("vllm-kunlun", "nvidia/h20").answer == "no"


def test_what_no_source_says_is_unknown_not_yes():
    assert ask("vllm", "nvidia/h20", "NeverHeardOfForCausalLM").answer == "unknown"
    assert ask("vllm-mlu", "cambricon/mlu590", MLA).answer == "unknown"
    assert ask("sglang", "nvidia/h20", MLA, feature="mtp", version="0.4.1").answer == "unknown"


def test_the_worst_part_decides_and_all_parts_are_kept():
    answer = ask("vllm-ascend", "huawei/ascend-310p", DENSE, "int8", feature="disaggregation")
    assert answer.answer == "no" and answer.about == "feature disaggregation"
    assert [part.answer for part in answer.parts] == ["yes", "yes", "yes", "no"]


def test_since_of_a_full_yes_is_the_latest_of_its_parts():
    assert ask("vllm-ascend", "huawei/ascend-910c", V4).since == "0.20.2rc1"


def test_every_model_of_the_first_path_is_judged_on_every_main_engine():
    for engine, chip in (("vllm", "nvidia/h20"), ("vllm-ascend", "huawei/ascend-910b2"), ("vllm", "amd/mi300x"),
                         ("sglang", "nvidia/h200"), ("vllm-ascend", "huawei/ascend-910c")):  # fmt: skip
        for model in (MLA, DENSE, "Qwen3MoeForCausalLM", "LlamaForCausalLM"):
            assert ask(engine, chip, model).answer == "yes", (engine, chip, model)


@pytest.mark.parametrize("engine_id", sorted(catalog.load().engines))
def test_current_is_the_newest_stable_release_and_moves_with_the_date(engine_id: str):
    engine = catalog.load().engine(engine_id)
    current = engine.current()
    if not engine.versions:
        assert current is None
        return
    assert current is not None
    stable = [version for version in engine.versions if version.stable] or list(engine.versions)
    assert current.date == max(version.date for version in stable)
    first = min(version.date for version in engine.versions)
    assert engine.current(first - dt.timedelta(days=1)) is None
    assert engine.current(first) is not None


def test_patterns_name_known_chips_families_or_wildcards():
    facts = catalog.load()
    known = set(facts.chips) | {chip.family for chip in facts.chips.values()}
    for engine in facts.engines.values():
        for fact in engine.facts:
            for pattern in fact.chips:
                assert "*" in pattern or pattern in known, (engine.id, pattern)
