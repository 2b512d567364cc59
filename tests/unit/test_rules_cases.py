"""Case files: cells as people write them, expectations, disagreements."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from offramp.core.errors import InputError
from offramp.rules import ChipFacts, Settings, load
from offramp.rules.cases import check_case, complete, inline_facts, parse_performance, read_cases

HEADER = (
    "case_id,chip,chip_name,as_of,jurisdiction,datacenter,dense_tops_x_bits,"
    "die_mm2,expect_tpp,expect_pd,expect_control,expect_verdict\n"
)


def resolve(chip: str, name: str) -> ChipFacts:
    book = load()
    return complete(book.chips.find(chip, name) or ChipFacts(), book, chip, name)


def outcome(row: str) -> tuple[bool, str]:
    rows = read_cases(HEADER + row, "cases.csv")
    found = check_case(rows[0], resolve, load(), Settings(), "cases.csv:2")
    return found.agrees, found.why


@pytest.mark.parametrize(
    ("text", "peaks", "tpp", "below"),
    [
        ("INT8 624x8", [("int8", 624.0, 8.0)], None, None),
        ("FP4 9000x4 = FP8 4500x8", [("fp4", 9000.0, 4.0), ("fp8", 4500.0, 8.0)], None, None),
        ("BF16 1835x16 (= FP8 rate)", [("bf16", 1835.0, 16.0)], None, None),
        ("FP8 3,958x8 (sparse)", [("fp8", 1979.0, 8.0)], None, None),
        ("FP8 1,979 × 8", [("fp8", 1979.0, 8.0)], None, None),
        ("PC Gamer: 5,286 (10,570 counting sparsity)", [], 5286.0, None),
        ("below 4800 by design (forum calc 4707)", [], 4707.0, 4800.0),
        ("<150 TFLOPS 16-bit per The Register", [], None, 2400.0),
        ("15832", [], 15832.0, None),
        ("", [], None, None),
    ],
)
def test_cells_of_performance(
    text: str, peaks: list[tuple[str, float, float]], tpp: float | None, below: float | None
) -> None:
    assert parse_performance(text, "here") == (peaks, tpp, below)


def test_a_cell_without_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="holds no performance"):
        parse_performance("secret", "cases.csv:2")
    with pytest.raises(InputError, match="not a number"):
        parse_performance("FP8 1.979.0x8", "cases.csv:2")


def test_the_row_beats_the_catalogue_and_the_catalogue_fills_its_gaps() -> None:
    row = {"chip": "nvidia/h20", "dense_tops_x_bits": "FP8 700x8"}
    from offramp.rules.chips import merge

    facts = merge(inline_facts(row, dt.date(2024, 6, 1), "x"), resolve("nvidia/h20", ""))
    assert [peak.dtype for peak in facts.peaks] == ["fp8"]
    assert facts.die_area is not None
    assert facts.die_area.value == 814


def test_agreement_with_rounded_values() -> None:
    row = "A,,NVIDIA A100 PCIe,2024-02-01,US,yes,INT8 624x8,826,4992,6.04,3A090.a (DC),licence-presumption-of-denial"
    assert outcome(row) == (True, "")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("licence-presumption-of-denial", "allowed"), "verdict is licence-presumption-of-denial instead of allowed"),
        (("4992", "5000"), "tpp is 4992.0 instead of 5000"),
        (("6.04", "6.06"), "pd is 6.04"),
        (("3A090.a", "3A090.b"), "control is 3A090.a instead of 3A090.b"),
        (("2024-02-01", "yesterday"), "is not a date"),
        (("INT8 624x8", "fast"), "holds no performance"),
    ],
)
def test_disagreements_say_why(change: tuple[str, str], part: str) -> None:
    row = "A,,NVIDIA A100 PCIe,2024-02-01,US,yes,INT8 624x8,826,4992,6.04,3A090.a,licence-presumption-of-denial"
    agrees, why = outcome(row.replace(*change))
    assert not agrees
    assert part in why


def test_a_chip_that_nobody_knows_is_judged_by_its_own_figures() -> None:
    assert outcome("A,,Nobody's chip,2024-02-01,US,yes,FP8 300x8,,2400,,,indeterminate")[0]
    assert outcome("A,,Nobody's chip,2024-02-01,US,yes,FP8 300x8,300,2400,8.0,3A090.a,licence-presumption-of-denial")[0]


def test_a_wrong_column_is_named_with_a_near_miss() -> None:
    with pytest.raises(InputError, match="expect_verdict"):
        read_cases("case_id,as_of,expect_verdct\nA,2024-01-01,allowed\n", "cases.csv")
    with pytest.raises(InputError, match='column "as_of" is missing'):
        read_cases("case_id,expect_verdict\nA,allowed\n", "cases.csv")
    with pytest.raises(InputError, match="no cases"):
        read_cases(HEADER, "cases.csv")


def test_a_byte_order_mark_and_blanks_do_no_harm() -> None:
    rows = read_cases("case_id, as_of ,expect_verdict\n A , 2024-01-01 , allowed \n", "cases.csv")
    assert rows == [{"case_id": "A", "as_of": "2024-01-01", "expect_verdict": "allowed"}]


@pytest.mark.parametrize(
    ("text", "peaks"),
    [
        ("FP16 280", [("fp16", 280.0, 16.0)]),
        ("280 TFLOPS FP16", [("fp16", 280.0, 16.0)]),
        ("FP8: 2 PFLOPS", [("fp8", 2000.0, 8.0)]),
        ("FP8 2000 TFLOPS (sparse)", [("fp8", 1000.0, 8.0)]),
        ("FP8 1000x8 with sparsity", [("fp8", 500.0, 8.0)]),
        ("INT8 624 TOPS; FP16 312 TFLOPS", [("int8", 624.0, 8.0), ("fp16", 312.0, 16.0)]),
        ("TF32 156", [("tf32", 156.0, 32.0)]),
    ],
)
def test_a_peak_without_bit_length_takes_its_types_and_sparse_ones_are_halved(text: str, peaks: object) -> None:
    """ "FP16 280" was once read as a TPP of 280, far below every threshold."""
    assert parse_performance(text, "here") == (peaks, None, None)


def test_a_stack_of_memory_is_no_accelerator() -> None:
    for name in ("HBM3 stack", "SK hynix HBM3E", "Samsung HBM2E 8-high", "Micron HBM3E"):
        facts = inline_facts({"chip_name": name, "die_mm2": "110", "dram_bw_GBps": "819"}, dt.date(2025, 1, 15), "here")
        assert facts.item == "hbm", name
    assert inline_facts({"chip_name": "X9 with HBM3E"}, dt.date(2025, 1, 15), "here").item == "ic"


def test_cases_worked_out_by_hand_from_the_texts_of_the_rules() -> None:
    """The day before, at and after each date, both sides of each threshold, routes, parents, quotas, suspension."""
    from offramp.app.rules import check

    answer, _ = check(Path(__file__).resolve().parents[1] / "golden" / "rule_cases_by_hand.csv")
    assert answer["disagree"] == []
    assert answer["cases"] > 100


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("4992,6.04,3A090.a,bananas", '"bananas" is not a verdict'),
        ("4992,6.04,3A090.a,", "no verdict is expected"),
        ("many,6.04,3A090.a,allowed", 'cases.csv:2: expect_tpp: "many" is not a number'),
    ],
)
def test_a_row_whose_expectation_cannot_be_read_is_told_and_does_not_stop_the_file(change: str, why: str) -> None:
    agrees, said = outcome(f"A,,NVIDIA A100 PCIe,2024-02-01,US,yes,INT8 624x8,826,{change}")
    assert not agrees
    assert why in said
