"""Reports in Chinese: every command's page is Chinese but for names, ids and titles of sources; charts are drawn in it."""

from __future__ import annotations

import re
import tomllib
from html import unescape
from pathlib import Path

import pytest

from offramp.report import charts, render
from offramp.report.lang import DATA, phrase, speaking, translate, untranslated

ROOT = Path(__file__).resolve().parents[2]
LEFT = 0.05
"""Share of the texts of a page that may be new in English: sentences change faster than their translation."""


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("What stands in the way", "迁移障碍"),
        ("TTFT p90 at peak", "峰值 TTFT p90"),
        ("vllm TP8 PP2", "vllm TP8 PP2"),
        ("chips/huawei/ascend-910b2#tdp", "chips/huawei/ascend-910b2#tdp"),
        ("= 1 979 TFLOP/s", "= 1 979 TFLOP/s"),
        ("1,472", "1,472"),
        ("licence case by case (US licence case by case, CN discouraged)",
         "须许可（逐案审查）（美国：须许可（逐案审查）；中国：不鼓励）"),
        ("Every workload can move: chat to 896 Ascend 910C at -37% cost; code to 224 Ascend 910C at -49% cost.",
         "全部工作负载均可迁移：chat 迁至 896 颗 Ascend 910C，成本变化 -37%；code 迁至 224 颗 Ascend 910C，成本变化 -49%。"),
        ("chat: Ascend 910C stops being cheaper than H20 above 187,802 CNY/chip (now 110,000, a factor of 1.71)",
         "chat：Ascend 910C 价格高于 187,802 CNY/颗时不再比 H20 便宜（当前 110,000，1.71 倍）"),
        ("A sentence that nobody translated yet.", None),
        ("What stands in the way of a sentence that nobody translated", None),
    ],
)  # fmt: skip
def test_texts(english, chinese):
    assert phrase(english, "zh") == chinese


def test_books_can_be_read_and_their_slots_agree():
    for file in sorted((DATA / "zh").glob("*.toml")):
        data = tomllib.loads(file.read_text("utf-8"))
        for english, chinese in data.get("template", {}).items():
            slots = len(re.findall(r"\{[nwixtgz]\}", english))
            used = {int(number) for number in re.findall(r"\{(\d+)\}", chinese)}
            assert used <= set(range(1, slots + 1)), f"{file.name}: {english}"
            assert len(used) >= slots - 1 or slots > 3, f"{file.name}: {english} loses a slot"
        for name in ("term", "phrase"):
            for english, chinese in data.get(name, {}).items():
                assert chinese.strip(), f"{file.name}: {english}"


def test_numbers_survive():
    """Whatever a template does with the words, each number of the English stands in the Chinese."""
    for english in (
        "With no failure at all it would need 52%; the model gives it 30%.",
        "A ban of using for state-funded can be met from 2028Q2 on with 90 % probability; from 2026Q4 on, 72% could be "
        "done with that probability.",
        "Bernstein, 2027: 57% in money; here 46% in money (28% to 82%) and 34% in work (12% to 116%).",
    ):
        chinese = phrase(english, "zh")
        assert chinese is not None
        assert set(re.findall(r"\d+", english)) <= set(re.findall(r"\d+", chinese))


def test_titles_of_sources_and_code_stay():
    page = '<html lang="en"><p>workload</p><cite>workload</cite><code>workload</code></html>'
    assert (
        translate(page, "zh") == '<html lang="zh-CN"><p>工作负载</p><cite>workload</cite><code>workload</code></html>'
    )


def test_names_of_code_are_no_texts():
    """A symbol that is renamed needs no translation; a place where it may break does not split a text."""
    assert untranslated("<p>my_very_own_name</p><code>device import get_device</code><p>a_b_c()</p>", "zh") == []
    assert translate("<p>what, and its <wbr>first place</p>", "zh") == "<p>内容及首处位置</p>"
    assert translate("<p>scan_find_ports.<wbr>py</p>", "zh") == "<p>scan_find_ports.<wbr>py</p>"


def test_charts_are_drawn_in_the_language():
    rows = [{"name": "a", "part": "compute", "value": 1.0}]
    with speaking("zh"):
        drawn = str(charts.bars(rows, title="t", x_title="days"))
    assert "计算" in drawn and "天数" in drawn
    assert "计算" not in str(charts.bars(rows, title="t", x_title="days"))


def share_left(result):
    """Share of the page's texts of three and more words that are not known, and those texts."""
    page = render(result).replace("<wbr>", "")
    texts = {unescape(text) for text in re.findall(r">([^<>]+)<", page) if len(re.findall(r"[A-Za-z]{2,}", text)) >= 3}
    left = untranslated(page, "zh")
    return len(left) / len(texts), left


def results():
    import offramp
    from offramp.app.scan import scan

    yield offramp.assess(ROOT / "examples" / "europe-200" / "study.toml", keep=False, overrides=[
        'candidates.chips=["amd/mi325x"]', "search.simulate=1", "search.trace_requests=400"])  # fmt: skip
    yield offramp.train(ROOT / "examples" / "train-v3" / "study.toml")
    yield offramp.plan(ROOT / "examples" / "leave-h20" / "plan.toml", overrides=["plan.scenarios=4"], keep=False)
    yield offramp.plan(
        ROOT / "examples" / "china-2025" / "study-2026-11.toml", overrides=["national.draws=20"], keep=False
    )
    yield scan(ROOT / "bench", target="huawei/ascend-910b2", torch="2.9")


@pytest.mark.slow
def test_every_report_is_chinese():
    for result in results():
        share, left = share_left(result)
        assert share <= LEFT, f"{result.command}: {share:.0%} of the texts are not in data/lang/zh: {left}"
        page = render(result, lang="zh")
        assert '<html lang="zh-CN">' in page and len(re.findall(r"[\u4e00-\u9fff]", page)) > 300
