"""Every constant that stands in for a figure which a chip lacks is a sourced figure of the answer, marked assumed."""

from __future__ import annotations

import pytest

from offramp import catalog
from offramp.core.errors import CatalogError
from offramp.core.figure import check_figure
from offramp.core.result import FigureLog
from offramp.cost.hardware import DEFAULTS, device_of, system_of

FACTS = catalog.load()


def used(chip: catalog.Chip) -> tuple[set[str], FigureLog] | None:
    log = FigureLog()
    try:
        device_of(chip, system_of(FACTS, chip), log=log)
    except CatalogError:
        return None
    return {figure.id for figure in log.figures}, log


def test_defaults_obey_the_rules_of_figures():
    for name, figure in DEFAULTS.items():
        assert check_figure(figure, where=name).confidence == "assumed"


@pytest.mark.parametrize(("default", "figure"), [("idle_share", "idle_power"), ("driver_share", "usable_memory")])
def test_a_default_shows_exactly_where_the_figure_is_missing(default, figure):
    seen = 0
    for chip in FACTS.chips.values():
        found = used(chip)
        if found is None:
            continue
        ids, _ = found
        missing = chip.figure(figure) is None
        assert (f"cost/default/{default}" in ids) is missing, chip.id
        seen += missing
    assert seen > 5


def test_a_chip_without_links_shows_the_assumed_pcie_bandwidth():
    ids, log = used(FACTS.chip("biren/br104"))
    assert "cost/default/pcie_bandwidth" in ids
    shown = next(f for f in log.figures if f.id == "cost/default/pcie_bandwidth")
    assert (shown.confidence, shown.low, shown.high) == ("assumed", 16.0, 64.0)


def test_a_chip_without_a_system_shows_the_assumed_port():
    log = FigureLog()
    chip = FACTS.chip("nvidia/h20")
    device_of(chip, None, log=log)
    own = chip.figure("scaleout_bandwidth") is not None
    assert any(f.id == "cost/default/nic_bandwidth" for f in log.figures) is not own
