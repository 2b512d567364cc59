"""What a card does in the national question: the mix of work, bounds, judged chips, prices, readiness."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import numpy as np
import pytest

from offramp.app import national_facts as facts
from offramp.app.national_rates import inference, prices, ready
from offramp.core.errors import InputError
from offramp.core.figure import Figure
from offramp.core.result import FigureLog

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "china-2025" / "study-2026-11.toml"
SURE = {"unit": "ratio", "source": "x", "as_of": dt.date(2025, 1, 1), "confidence": "assumed"}


def _sure(value: float) -> Figure:
    return Figure(value=value, low=value, high=value, **SURE)


def _question(rates: list[facts.Rate], chips: list[facts.Chip], shares: dict[str, float]) -> facts.Question:
    question = facts.load(EXAMPLE, ["national.draws=50"])
    dated = facts.Dated(as_of=dt.date(2026, 1, 1), data="x", rate=tuple(rates))
    exchange = facts.Exchange(tool="t", parameters="p", made=dt.date(2026, 11, 1), dated=(dated,))
    mix = tuple(facts.MixShare(workload=name, share=_sure(share)) for name, share in shares.items())
    new = msgspec.structs.replace(question.facts, chip=tuple(chips), mix=mix)
    return msgspec.structs.replace(question, facts=new, exchange=exchange)


def _rate(chip: str, workload: str, low: float, mid: float | None, high: float | None) -> facts.Rate:
    return facts.Rate(chip=chip, workload=workload, mode="computed" if mid else "bounds", low=low, mid=mid, high=high)


def _run(question: facts.Question) -> tuple[np.ndarray, np.ndarray]:
    return inference(question, np.ones(len(question.facts.chip), dtype=bool), FigureLog())


def test_a_card_takes_the_mix_as_it_comes():
    """Half the work needs 1 card per H20, half needs 4: 2.5 cards replace an H20, so a card is worth 0.4."""
    question = _question([_rate("a/b", "one", 1.0, 1.0, 1.0), _rate("a/b", "two", 4.0, 4.0, 4.0)],
                         [facts.Chip(id="nvidia/h20", ready="cuda"), facts.Chip(id="a/b", ready="cuda")],
                         {"one": 0.5, "two": 0.5})  # fmt: skip
    rate, best = _run(question)
    assert rate[:, 0] == pytest.approx(1.0)
    assert rate[:, 1] == pytest.approx(0.4) and best[:, 1] == pytest.approx(0.4)


def test_a_kind_that_a_card_cannot_do_is_left_out_of_its_mix():
    question = _question([_rate("a/b", "one", 2.0, 2.0, 2.0), _rate("c/d", "two", 1.0, 1.0, 1.0)],
                         [facts.Chip(id="a/b", ready="cuda")], {"one": 0.5, "two": 0.5})  # fmt: skip
    assert _run(question)[0][:, 0] == pytest.approx(0.5)


def test_a_judged_card_follows_the_one_it_is_like_within_its_bounds():
    rates = [_rate("a/b", "one", 1.0, 2.0, 4.0), _rate("j/k", "one", 2.5, None, 3.5)]
    like = facts.Chip(id="j/k", ready="cuda", like="a/b", factor=_sure(1.0))
    rate, best = _run(_question(rates, [like], {"one": 1.0}))
    assert rate.min() >= 1 / 3.5 - 1e-9 and rate.max() <= 1 / 2.5 + 1e-9
    assert np.ptp(rate) > 0
    assert best == pytest.approx(1 / 2.5)
    free = facts.Chip(id="x/y", ready="cuda", like="a/b", factor=_sure(2.0))
    assert np.median(1 / _run(_question(rates, [free], {"one": 1.0}))[0]) == pytest.approx(4.0, rel=0.35)


def test_shipped_rates_are_known_and_a_chip_without_one_is_asked_for(tmp_path: Path):
    question = facts.load(EXAMPLE)
    assert question.exchange is not None and question.exchange.on(dt.date(2025, 1, 1)) is None
    for name in ("china.toml", "exchange.toml"):
        text = (EXAMPLE.parent / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace('like = "huawei/ascend-910b2"', ""), "utf-8")
    path = tmp_path / "study.toml"
    path.write_text(EXAMPLE.read_text("utf-8"), "utf-8")
    with pytest.raises(InputError, match="exchange rate"):
        facts.load(path)


def test_prices_implied_by_revenue_win_once_they_are_known():
    late, early = facts.load(EXAMPLE), facts.load(EXAMPLE.parent / "study-2025-08.toml")
    column = [chip.id for chip in late.facts.chip].index("huawei/ascend-910b2")
    domestic = np.ones(len(late.facts.chip), dtype=bool)
    after = prices(late, ["2026Q4", "2027Q1"], domestic, FigureLog())[:, 0, column]
    before = prices(early, ["2025Q3", "2025Q4"], domestic, FigureLog())[:, 0, column]
    assert 5500 < np.median(after) < 9000 < np.median(before)


def test_readiness_grows_and_is_certain_where_it_is_one_or_nil():
    question = facts.load(EXAMPLE)
    found = ready(question, ["2026Q4", "2028Q4"], FigureLog())
    ids = [chip.id for chip in question.facts.chip]
    assert found[:, :, ids.index("nvidia/h20")].all()
    assert not found[:, :, ids.index("nvidia/l20"), 1].any()
    huawei = found[:, :, ids.index("huawei/ascend-910c-752"), 1].mean(axis=0)
    assert 0.3 < huawei[0] < 0.7 and huawei[1] > huawei[0]
    assert (found[..., 0] >= found[..., 1]).all()
