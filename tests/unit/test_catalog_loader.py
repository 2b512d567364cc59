"""The reader: broken files are refused with file and path; ids, aliases and versions behave."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from offramp import catalog
from offramp.catalog.engines import version_key
from offramp.core.errors import CatalogError
from offramp.core.result import FigureLog

FIGURE = """
[[figures.memory_bandwidth]]
value = 1.0
unit = "TB/s"
source = "a page"
url = "https://example.org"
as_of = 2026-01-01
confidence = "vendor-claim"
"""
CHIP = 'id = "acme/one"\nname = "One"\nvendor = "Acme"\nfamily = "acme"\n'


def tree(root: Path, chip: str, name: str = "acme/one") -> Path:
    for folder in ("chips", "systems", "engines", "prices"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    path = root / "chips" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(chip, encoding="utf-8")
    return root


def refused(tmp_path: Path, chip: str) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        catalog.load(root=tree(tmp_path, chip))
    return caught.value


def test_a_good_file_loads(tmp_path: Path):
    facts = catalog.load(root=tree(tmp_path, CHIP + FIGURE))
    assert facts.chip("acme/one").require("memory_bandwidth").si == 1e12
    assert not facts.chip("acme/one").computable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CHIP + "[figures]\nmemory_bandwidth = 4.0\n", "bare number"),
        (CHIP + FIGURE.replace('unit = "TB/s"', 'unit = "TB/fortnight"'), "unknown unit"),
        (CHIP + FIGURE.replace('unit = "TB/s"', 'unit = "W"'), "needs bytes/s"),
        (CHIP + FIGURE.replace('source = "a page"', 'sourze = "a page"'), "sourze"),
        (CHIP + FIGURE.replace('url = "https://example.org"\n', ""), "no url"),
        (CHIP + FIGURE.replace("vendor-claim", "press"), "needs low and high"),
        (CHIP + FIGURE.replace("vendor-claim", "gossip"), "gossip"),
        (CHIP + FIGURE.replace("memory_bandwidth", "memory_bandwith"), "unknown figure name"),
        (CHIP + FIGURE.replace("value = 1.0", "value = -1.0"), "negative"),
        (CHIP + FIGURE.replace("value = 1.0", 'value = "1.0"'), "expected"),
        (CHIP + "colour = 3\n", "colour"),
        (CHIP.replace("acme/one", "acme/two") + FIGURE, "file name"),
        (CHIP + "[[figures.tdp]\n", "not a readable TOML file"),
        (CHIP.replace('vendor = "Acme"\n', ""), "vendor"),
        (CHIP + 'systems = ["nowhere"]\n' + FIGURE, "nowhere"),
    ],
)
def test_broken_data_is_refused_with_file_and_path(tmp_path: Path, text: str, said: str):
    error = refused(tmp_path, text)
    assert said in str(error)
    assert "chips/acme/one.toml" in error.where
    assert "\n" not in str(error)


def test_not_utf8_is_refused(tmp_path: Path):
    root = tree(tmp_path, CHIP)
    (root / "chips" / "acme" / "one.toml").write_bytes(b'id = "\xff\xfe"')
    with pytest.raises(CatalogError, match="not a readable TOML file"):
        catalog.load(root=root)


def test_one_alias_for_two_chips_is_refused(tmp_path: Path):
    tree(tmp_path, CHIP + 'aliases = ["x"]\n')
    text = CHIP.replace("acme/one", "acme/two") + 'aliases = ["X"]\n'
    with pytest.raises(CatalogError, match="names both"):
        catalog.load(root=tree(tmp_path, text, "acme/two"))


def test_mixture_weights_must_sum_to_one(tmp_path: Path):
    bin_ = (
        '[[mixture]]\nchip = "acme/one"\n[mixture.weight]\nvalue = 0.5\nunit = "share"\nsource = "guess"\n'
        'as_of = 2026-01-01\nconfidence = "assumed"\nlow = 0.1\nhigh = 0.9\n'
    )
    tree(tmp_path, CHIP + FIGURE)
    text = CHIP.replace("acme/one", "acme/label") + bin_
    with pytest.raises(CatalogError, match=r"sum to 0\.5"):
        catalog.load(root=tree(tmp_path, text, "acme/label"))


def test_lookup_takes_aliases_in_any_case_and_offers_near_misses():
    facts = catalog.load()
    assert facts.chip("H20").id == facts.chip("nvidia/H20-96GB").id == "nvidia/h20"
    with pytest.raises(CatalogError) as caught:
        facts.chip("huawei/ascend-910d", where="study.toml:$.fleet[2].chip")
    assert str(caught.value).startswith('study.toml:$.fleet[2].chip: unknown chip "huawei/ascend-910d"')
    assert "huawei/ascend-910" in caught.value.mend
    assert facts.engine("trtllm").id == "tensorrt-llm"
    assert facts.system("cm384").packages_per_domain == 384
    with pytest.raises(CatalogError):
        facts.engine("vlmm")


def test_require_says_what_to_do_when_a_figure_is_missing():
    with pytest.raises(CatalogError, match=r"no sourced scaleup_bandwidth.*bounds mode"):
        catalog.load().chip("cambricon/mlu590").require("scaleup_bandwidth")


def test_using_a_figure_is_logged_with_a_stable_address():
    log = FigureLog()
    catalog.load().chip("nvidia/h20").require("tdp", log=log)
    catalog.load().chip("cambricon/mlu590").admissible("scaleup_bandwidth", log)
    assert [used.id for used in log.figures] == [
        "chips/cambricon/mlu590#scaleup_bandwidth~bounds", "chips/nvidia/h20#tdp",
    ]  # fmt: skip


def test_mixture_takes_the_likeliest_bin_and_the_spread_of_all():
    facts = catalog.load()
    label = facts.chip("huawei/ascend-910b")
    figure = label.require("peak_bf16")
    assert (figure.value, figure.low, figure.high) == pytest.approx((353.9, 245.8, 353.9))
    assert figure.confidence == "assumed"
    assert label.require("memory_capacity") == facts.chip("huawei/ascend-910b2").require("memory_capacity")
    dcu = facts.chip("hygon/dcu-unstated").require("tdp")
    bounds = facts.chip("hygon/bw1000").bounds["tdp"]
    assert dcu.high == pytest.approx(bounds.si_range[1])


def test_data_version_follows_the_data(tmp_path: Path):
    first = catalog.data_version(tree(tmp_path / "a", CHIP + FIGURE))
    same = catalog.data_version(tree(tmp_path / "b", CHIP + FIGURE))
    other = catalog.data_version(tree(tmp_path / "c", CHIP + FIGURE.replace("1.0", "1.1")))
    assert first == same != other and len(first) == 12
    assert catalog.load().version == catalog.data_version()


def test_as_of_hides_figures_and_leaves_the_chip_incomputable(tmp_path: Path):
    root = tree(tmp_path, CHIP + "known = 2020-01-01\n" + FIGURE)
    assert catalog.load(dt.date(2025, 12, 31), root=root).chip("acme/one").figure("memory_bandwidth") is None
    assert catalog.load(dt.date(2026, 1, 1), root=root).chip("acme/one").figure("memory_bandwidth") is not None
    chip = catalog.load(root=root).chip("acme/one")
    assert chip.figure("memory_bandwidth", dt.date(2025, 1, 1)) is None


def test_exchange_rates_invert_cross_and_refuse():
    facts = catalog.load()
    there, back = facts.exchange_rate("USD", "CNY"), facts.exchange_rate("CNY", "USD")
    assert there.value * back.value == pytest.approx(1.0)
    assert back.low == pytest.approx(1 / there.high)
    assert facts.exchange_rate("CNY", "EUR").value == pytest.approx(
        back.value * facts.exchange_rate("USD", "EUR").value
    )
    assert facts.exchange_rate("CNY", "CNY").value == 1.0
    assert facts.exchange_rate("USD", "CNY", dt.date(2025, 6, 1)).value > there.value
    with pytest.raises(CatalogError, match="unknown currency"):
        facts.exchange_rate("USD", "XYZ")
    with pytest.raises(CatalogError, match="no exchange rate"):
        facts.exchange_rate("USD", "CNY", dt.date(2019, 1, 1))


def test_versions_are_ordered_as_releases_are():
    ordered = [
        "0.9.1rc1",
        "0.9.1rc3",
        "0.9.1",
        "0.9.2rc1",
        "0.10.0rc1",
        "0.10.1.1",
        "0.11.0rc0",
        "0.11.0",
        "0.11.0.post1",
        "v1.0",
    ]
    assert sorted(ordered, key=version_key) == ordered


@pytest.mark.parametrize("day", [dt.date(2023, 6, 1), dt.date(2025, 8, 20), dt.date(2026, 1, 1)])
def test_a_chip_names_no_engine_that_was_not_yet_known(day: dt.date) -> None:
    """A study of a past day failed on the first chip that lists an engine which came later."""
    known = catalog.load(day)
    for chip in known.chips.values():
        for name in chip.engines:
            known.engine(name)
