"""The shipped facts: every figure obeys the rules, every id resolves, the physics adds up."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from offramp import catalog
from offramp.catalog.engines import version_key
from offramp.catalog.figures import spread
from offramp.core import units
from offramp.core.figure import Figure, check_figure

COMPUTABLE = [
    "nvidia/a100",
    "nvidia/a800",
    "nvidia/a800-40gb",
    "nvidia/h100",
    "nvidia/h800",
    "nvidia/h200",
    "nvidia/h20",
    "nvidia/h20-141gb",
    "nvidia/l20",
    "nvidia/l40s",
    "nvidia/b200",
    "nvidia/b300",
    "nvidia/gb200",
    "nvidia/gb300",
    "nvidia/rtx-pro-6000",
    "huawei/ascend-910b1",
    "huawei/ascend-910b2",
    "huawei/ascend-910b3",
    "huawei/ascend-910b4",
    "huawei/ascend-910b",
    "huawei/ascend-910c-752",
    "huawei/ascend-910c-560",
    "huawei/ascend-910c",
    "huawei/ascend-950pr-atlas350",
    "huawei/ascend-950pr-roadmap",
    "huawei/ascend-950pr",
    "cambricon/mlu370-x8",
    "hygon/k100-ai",
    "hygon/dcu-unstated",
    "moore-threads/s4000",
    "moore-threads/s5000",
    "amd/mi300x",
    "amd/mi308x",
    "amd/mi325x",
    "amd/mi350x",
    "amd/mi355x",
    "intel/gaudi-2",
    "intel/gaudi-3",
]
BOUNDS_MODE = ["cambricon/mlu590", "cambricon/mlu690", "kunlunxin/p800", "metax/c550", "metax/c600", "hygon/bw1000"]


def all_figures() -> Iterator[tuple[str, Figure]]:
    facts = catalog.load()
    for holder in (*facts.chips.values(), *facts.systems.values()):
        for name, sources in holder.figures.items():
            for index, figure in enumerate(sources):
                yield f"{holder.figure_id(name)}[{index}]", figure
    for chip in facts.chips.values():
        for name, figure in chip.bounds.items():
            yield f"{chip.figure_id(name)}~bounds", figure
        for bin_ in chip.mixture:
            yield f"chips/{chip.id}#weight:{bin_.chip}", bin_.weight
    for price in facts.prices.price:
        yield f"prices/{price.chip}#{price.kind}", price.figure
    for rate in facts.prices.rate:
        yield f"rates/{rate.base}-{rate.quote}", rate.figure
    for entry in facts.prices.market:
        yield f"market/{entry.id}", entry.figure


def test_every_shipped_figure_obeys_the_rules_and_none_lies_in_the_future():
    count = 0
    for where, figure in all_figures():
        check_figure(figure, where=where)
        assert figure.as_of <= dt.date(2026, 11, 23), where
        assert figure.known is None or figure.known <= figure.as_of, f"{where}: known after its source"
        assert figure.value > 0 or figure.unit == "%", where
        count += 1
    assert count > 800


def test_every_address_is_public():
    for where, figure in all_figures():
        assert not figure.url or figure.url.startswith(("https://", "http://", "github:", "arXiv:")), where


def test_disagreement_over_ten_percent_is_explained():
    facts = catalog.load()
    for holder in (*facts.chips.values(), *facts.systems.values()):
        for name, sources in holder.figures.items():
            if spread(sources) > 0.10:
                assert any(figure.note for figure in sources), holder.figure_id(name)


@pytest.mark.parametrize("chip_id", COMPUTABLE)
def test_chip_is_computable(chip_id: str):
    chip = catalog.load().chip(chip_id)
    assert chip.computable, chip.missing
    for name in catalog.NEEDED:
        assert (chip.figure(name) or chip.require("peak_fp16")).si > 0


@pytest.mark.parametrize("chip_id", BOUNDS_MODE)
def test_chip_goes_through_bounds_mode(chip_id: str):
    chip = catalog.load().chip(chip_id)
    assert chip.missing and chip.boundable
    low, mid, high = (chip.at_bounds(case) for case in ("low", "mid", "high"))
    assert low.computable and high.computable
    for name in chip.missing:
        a, b, c = (variant.require(name).si for variant in (low, mid, high))
        assert (a >= b >= c) if name == "tdp" else (a <= b <= c)
        assert a != c, f"{name} is a point, not a range"


def test_bounds_mode_ranges_over_weak_figures_too():
    facts = catalog.load()
    chip = facts.chip("cambricon/mlu590")
    assert {"scaleup_bandwidth", "peak_bf16", "memory_bandwidth", "memory_capacity"} <= set(chip.ranged)
    low, high = (chip.at_bounds(case).require("memory_bandwidth").si for case in ("low", "high"))
    assert (low, high) == chip.admissible("memory_bandwidth")
    assert facts.chip("nvidia/h20").ranged == ()
    assert facts.chip("nvidia/h20").at_bounds("low") == facts.chip("nvidia/h20")


def test_chips_without_an_arguable_range_say_what_is_missing():
    chip = catalog.load().chip("enflame/s60")
    assert set(chip.missing) == set(catalog.NEEDED) - {"memory_capacity"}
    assert not chip.boundable and chip.admissible("memory_bandwidth") is None


def test_ridge_points_of_the_migration():
    facts = catalog.load()
    ridge = {
        name: facts.chip(name).require("peak_bf16").si / facts.chip(name).require("memory_bandwidth").si
        for name in ("nvidia/h20", "huawei/ascend-910b2")
    }
    assert ridge["nvidia/h20"] == pytest.approx(37.0, abs=0.05)
    assert ridge["huawei/ascend-910b2"] == pytest.approx(221.2, abs=0.1)


def test_a_910c_package_is_two_910b_dies():
    facts = catalog.load()
    package, die = facts.chip("huawei/ascend-910c-752"), facts.chip("huawei/ascend-910b2")
    assert package.devices == package.dies == 2
    for name in ("peak_bf16", "peak_fp16", "peak_int8", "memory_capacity", "memory_bandwidth", "scaleup_bandwidth"):
        assert package.require(name).si == pytest.approx(2 * die.require(name).si, rel=1e-3), name


def test_meshes_have_as_much_bandwidth_as_their_links():
    facts = catalog.load()
    for chip in facts.chips.values():
        link = chip.figure("scaleup_bandwidth")
        for system_id in chip.systems:
            system = facts.system(system_id)
            assert chip.id in system.chips, f"{system_id} does not list {chip.id}"
            if system.topology == "full-mesh" and link is not None and not chip.mixture and "roadmap" not in chip.id:
                assert system.link_bandwidth is not None
                mesh = system.links_per_device * system.link_bandwidth.si
                assert mesh == pytest.approx(link.si, rel=0.02), (chip.id, system_id)


def test_derived_vendors_keep_the_compute_of_their_parent():
    facts = catalog.load()
    for cut, parent in (("nvidia/a800", "nvidia/a100"), ("nvidia/h800", "nvidia/h100")):
        assert facts.chip(cut).require("peak_bf16").si == facts.chip(parent).require("peak_bf16").si
        assert facts.chip(cut).require("scaleup_bandwidth").si < facts.chip(parent).require("scaleup_bandwidth").si


def test_a_dtype_without_units_has_no_peak():
    for chip in catalog.load().chips.values():
        for dtype in ("fp8", "fp4", "int8"):
            if f"peak_{dtype}" in chip.figures:
                assert dtype in chip.dtypes, f"{chip.id} has a peak but no {dtype}"
    for chip_id in ("huawei/ascend-910b2", "huawei/ascend-910c", "nvidia/a100", "moore-threads/s4000"):
        assert catalog.load().chip(chip_id).figure("peak_fp8") is None


def test_lower_precision_is_never_slower():
    for chip in catalog.load().chips.values():
        order = [chip.figure(f"peak_{d}") for d in ("fp32", "tf32", "bf16", "fp8", "fp4")]
        values = [figure.si for figure in order if figure is not None]
        assert values == sorted(values), chip.id


def test_usable_memory_is_near_the_capacity_sold():
    for chip in catalog.load().chips.values():
        usable, sold = chip.figure("usable_memory"), chip.figure("memory_capacity")
        if usable is not None and sold is not None:
            assert 0.93 < usable.si / (sold.value * units.GIB) < 1.02 or 0.93 < usable.si / sold.si < 1.08, chip.id


def test_back_test_hides_what_was_not_yet_known():
    then = catalog.load(dt.date(2025, 8, 20))
    assert "huawei/ascend-950dt" not in then.chips, "announced in September 2025"
    assert then.chip("huawei/ascend-910c").computable
    assert then.chip("nvidia/h20").computable
    assert all(p.figure.known_since <= dt.date(2025, 8, 20) for p in then.prices.price)
    assert then.engine("vllm-ascend").current() is not None
    assert version_key(then.engine("vllm-ascend").current().version) < version_key("0.10.1rc1")
    early = catalog.load(dt.date(2024, 6, 1))
    assert "huawei/ascend-910c" not in early.chips and "nvidia/b300" not in early.chips
    assert not early.chip("huawei/ascend-910b2").missing


def test_every_accelerator_of_the_research_table_is_listed(shared: Path):
    facts = catalog.load()
    with (shared / "facts" / "accelerators.csv").open(encoding="utf-8") as stream:
        ids = [row["chip"] for row in csv.DictReader(stream)]
    assert len(ids) >= 60
    assert [chip_id for chip_id in ids if chip_id not in facts.chips] == []


def test_every_measured_chip_and_engine_label_resolves(shared: Path):
    facts = catalog.load()
    with (shared / "measurements" / "serving.csv").open(encoding="utf-8") as stream:
        chips = {row["chip"] for row in csv.DictReader(stream)}
    for chip_id in chips:
        assert facts.chip(chip_id).computable or chip_id == "kunlunxin/p800", chip_id


def test_prices_convert_and_name_their_market():
    facts = catalog.load()
    h20 = facts.price("nvidia/h20", "CNY")[0]
    assert h20.value == pytest.approx(110_000) and h20.unit == "CNY"
    in_usd = facts.price("nvidia/h20", "USD")[0]
    assert in_usd.value == pytest.approx(110_000 / facts.exchange_rate("USD", "CNY").value)
    assert "converted" in in_usd.note
    label, member = facts.price("huawei/ascend-910b", "CNY"), facts.price("huawei/ascend-910b2", "CNY")
    assert label and [f.value for f in member] == [f.value for f in label]
    assert facts.rent("nvidia/h100", "USD")[0].unit == "USD/h"
    assert facts.price("biren/br100", "CNY") == []
