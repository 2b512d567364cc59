"""What the catalogue and the rules know of a chip, joined."""

from __future__ import annotations

import datetime as dt

import pytest

from offramp import catalog
from offramp.app.chipfacts import chip_facts, from_catalog, known_chips, launch_date, log_facts, resolver
from offramp.core.errors import InputError
from offramp.core.result import FigureLog
from offramp.rules import load
from offramp.rules.facts import buyer_of, country_of, gb_per_s, route_of, use_of


def test_links_of_the_catalogue_are_counted_in_both_directions() -> None:
    chip = catalog.load().chip("huawei/ascend-910b2")
    facts = from_catalog(chip)
    assert facts.io_bandwidth is not None
    assert gb_per_s(facts.io_bandwidth) == pytest.approx(2 * chip.require("scaleup_bandwidth").si / 1e9)
    assert facts.datacenter is True


def test_every_chip_of_the_catalogue_has_facts_and_an_origin() -> None:
    book = load()
    for chip in known_chips(book):
        facts = chip_facts(chip, book=book)
        assert facts is not None
        assert facts.id
        assert facts.vendor in book.chips.vendors, chip
    assert chip_facts("cambricon/mlu590", book=book).prc_designed  # type: ignore[union-attr]
    assert not chip_facts("nvidia/h20", book=book).prc_designed  # type: ignore[union-attr]


def test_rules_complete_the_catalogue_and_it_completes_them() -> None:
    facts = chip_facts("nvidia/gb200", book=load())
    assert facts is not None
    assert facts.die_area is not None  # only the rules know
    assert facts.peaks  # only the catalogue knows
    assert facts.dram_bandwidth is not None


def test_an_unknown_chip_keeps_its_vendor() -> None:
    found = resolver(load())("", "Huawei Ascend 999")
    assert (found.vendor, found.prc_designed) == ("huawei", True)
    assert chip_facts("huawei/ascend-999", book=load()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-Q1", dt.date(2024, 1, 1)), ("2025-H2", dt.date(2025, 7, 1)), ("2020-05", dt.date(2020, 5, 1)),
        ("2026-03-20", dt.date(2026, 3, 20)), ("2024/25", dt.date(2024, 1, 1)), ("2022", dt.date(2022, 1, 1)),
        ("never", None), ("2024-13", dt.date(2024, 1, 1)), ("2026-02-31", dt.date(2026, 2, 1)),
    ],
)  # fmt: skip
def test_launch_dates_as_printed(text: str, expected: dt.date | None) -> None:
    assert launch_date(text) == expected


def test_used_figures_say_whose_they_are() -> None:
    log = FigureLog()
    facts = chip_facts("nvidia/gb200", book=load())
    assert facts is not None
    log_facts(facts, log)
    ids = {figure.id for figure in log.figures}
    assert "rules/nvidia/gb200#die_area" in ids
    assert "chips/nvidia/gb200#memory_bandwidth" in ids
    assert "rules/nvidia/gb200#io_bandwidth" in ids


def test_words_as_people_write_them() -> None:
    assert buyer_of("SOE") == "state-owned"
    assert buyer_of("State Funded") == "state-funded"
    assert buyer_of("") == "private"
    assert use_of("use") == "operate"
    assert use_of("analysis") == "analyse"
    assert route_of("reexport") == "re-export"
    assert country_of("China") == "CN"
    assert country_of("cn") == "CN"
    with pytest.raises(InputError, match="platform"):
        buyer_of("platfrom")
