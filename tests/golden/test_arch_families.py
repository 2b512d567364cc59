"""Every family that is read gives the weights that its modelling code builds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offramp.arch import parse_config

FAMILIES = json.loads(Path(__file__).with_name("arch_families.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_parameters_equal_those_of_the_modelling_code(model_type: str) -> None:
    case = FAMILIES[model_type]
    model = parse_config(case["config"], where=model_type)
    assert model.parameters_total == pytest.approx(case["parameters"], rel=5e-4)


def test_many_families_are_covered() -> None:
    assert len(FAMILIES) >= 90


PUBLISHED = json.loads(Path(__file__).with_name("arch_published.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_configs_as_published_give_the_published_counts(name: str) -> None:
    """Configs with all their incidental fields; counts in 1e9 from model cards (active ones are often rounded)."""
    case = PUBLISHED[name]
    model = parse_config(case["config"], where="config.json")
    assert model.parameters_total / 1e9 == pytest.approx(case["total"], rel=0.02)
    if case["active"]:
        assert model.parameters_active / 1e9 == pytest.approx(case["active"], rel=0.06)
