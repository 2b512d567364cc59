"""Documents: every problem at once, quantities as SI floats."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import msgspec
import pytest

from offramp.core.document import conform, decode_text, parse_toml, quantity, read_bytes
from offramp.core.errors import InputError
from offramp.core.record import Record


class Inner(Record):
    name: str
    size: Annotated[float, quantity("bytes", "80 GiB", gt=0.0)] = 1.0


class Outer(Record):
    inner: Inner
    day: dt.date | None = None
    kind: Literal["serve", "train"] = "serve"
    many: tuple[Inner, ...] = ()
    either: tuple[str, ...] | str = ()
    share: Annotated[float, quantity("share", "10 %", ge=0.0, le=1.0)] = 0.0
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    by_name: dict[Literal["aa", "bb"], int] = {}


def paths(data: object) -> dict[str, str]:
    return {problem.path: f"{problem.what} {problem.mend}" for problem in conform(data, Outer)[1]}


def test_quantities_become_si_and_dates_are_read() -> None:
    data, problems = conform({"inner": {"name": "a", "size": "2 GiB"}, "day": "2026-11-23", "share": "10 %"}, Outer)
    assert not problems
    outer = msgspec.convert(data, Outer)
    assert outer.inner.size == 2 * 2**30
    assert outer.day == dt.date(2026, 11, 23)
    assert outer.share == pytest.approx(0.1)


def test_all_problems_are_named_at_once() -> None:
    found = paths(
        {
            "inner": {"nam": "a", "size": "2 TB/s"}, "kind": "serv", "many": [{"name": 3}, 7], "count": 0,
            "share": "150 %", "by_name": {"ab": 1}, "extra": True, "day": "yesterday", "either": 4,
        }
    )  # fmt: skip
    assert set(found) == {
        "$.inner.nam", "$.inner", "$.inner.size", "$.kind", "$.many[0].name", "$.many[1]", "$.count", "$.share",
        "$.by_name.ab", "$.extra", "$.day", "$.either",
    }  # fmt: skip
    assert "Near matches: name" in found["$.inner.nam"]
    assert "Near matches: serve" in found["$.kind"]
    assert "bytes/s" in found["$.inner.size"]
    assert "at least 1" in found["$.count"]
    assert "at most 1" in found["$.share"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), True, "fast", None, []])
def test_what_is_no_quantity_is_refused(bad: object) -> None:
    assert "$.inner.size" in paths({"inner": {"name": "a", "size": bad}})


def test_union_takes_either_form() -> None:
    for value in ("a.toml", ["a.toml", "b.toml"]):
        assert not conform({"inner": {"name": "a"}, "either": value}, Outer)[1]


def test_text_must_be_utf8(tmp_path) -> None:
    with pytest.raises(InputError, match=r"not UTF-8 .byte 2, line 2"):
        decode_text(b"a\n\xff", where="study.toml")
    assert decode_text(b"\xef\xbb\xbfa", where="") == "a"


def test_toml_errors_name_the_line() -> None:
    with pytest.raises(InputError, match="line 2"):
        parse_toml("a = 1\nb = = 2\n", where="study.toml")
    with pytest.raises(InputError, match="is empty"):
        parse_toml("  \n", where="study.toml")


def test_missing_file_names_its_neighbour(tmp_path) -> None:
    (tmp_path / "study.toml").write_text("x = 1")
    with pytest.raises(InputError, match=r"study\.toml"):
        read_bytes(tmp_path / "studdy.toml")
    with pytest.raises(InputError, match="folder"):
        read_bytes(tmp_path)
