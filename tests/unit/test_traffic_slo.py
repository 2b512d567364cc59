"""SLOs as studies write them."""

from __future__ import annotations

import pytest

from offramp import traffic
from offramp.core.errors import InputError


def test_limits_are_read_with_units() -> None:
    slo = traffic.parse_slo({"ttft_p90": "2 s", "tpot_mean": "50 ms", "itl_p99": "0.2 s", "e2e_p50": "1 min"})
    assert slo.seconds("ttft", "p90") == 2.0
    assert slo.seconds("tpot", "mean") == pytest.approx(0.05)
    assert slo.seconds("e2e", "p50") == 60.0
    assert slo.seconds("ttft", "p99") is None
    assert str(slo).startswith("ttft_p90 <= 2 s")


def test_violations_are_named() -> None:
    slo = traffic.parse_slo({"ttft_p90": "2 s", "tpot_mean": "50 ms"})
    assert [limit.name for limit in slo.violated({"ttft_p90": 2.5, "tpot_mean": 0.04})] == ["ttft_p90"]
    assert slo.violated({"ttft_p90": 2.0, "tpot_mean": 0.05}) == ()


def test_seconds_that_a_study_has_read_already() -> None:
    assert traffic.slo_of_seconds({"ttft_p90": 1e-05}).seconds("ttft", "p90") == 1e-05


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("ttft_p91", "2 s", "ttft_p90"), ("latency", "2 s", "Write one of"), ("ttft_p90", 2, "no unit"),
        ("ttft_p90", "2", "no unit"), ("ttft_p90", "2 GB", "expected s"), ("ttft_p90", "0 s", "above zero"),
        ("ttft_p90", "-1 s", "above zero"), ("ttft_p90", "fast", "not a quantity"),
    ],
)  # fmt: skip
def test_refusals_have_the_path(name: str, value: str | float, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        traffic.parse_slo({name: value}, where="study.toml:$.workload[0].slo")
    assert caught.value.where == f"study.toml:$.workload[0].slo.{name}"


def test_every_name_is_accepted() -> None:
    assert len(traffic.parse_slo(dict.fromkeys(traffic.slo_names(), "1 s")).limits) == 20
