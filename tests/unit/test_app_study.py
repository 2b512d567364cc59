"""Study files: includes, overrides, relative paths."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from offramp.app.schema import schema
from offramp.app.study import Study
from offramp.app.studyfile import apply_override, load_study, merge, read_study
from offramp.core.errors import InputError

BASE = """
[study]
name = "A"
[[site]]
id = "one"
power_price = "0.40 CNY/kWh"
pue = 1.25
power = "20 MW"
[[workload]]
id = "chat"
kind = "serve"
model = "qwen/qwen3-32b"
trace = "trace.csv"
demand = [{ quarter = "2026Q4", mean_requests_per_s = 9 }]
slo = { ttft_p90 = "2 s" }
[candidates]
baseline = "nvidia/h20"
chips = ["huawei/ascend-910c"]
"""


@pytest.fixture
def study_path(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(BASE)
    return path


def test_quantities_paths_and_defaults(study_path: Path) -> None:
    study = load_study(study_path).study
    assert study.site[0].power_w == 20e6
    assert study.workload[0].slo == {"ttft_p90": 2.0}
    assert study.workload[0].trace == str(study_path.parent / "trace.csv")
    assert study.workload[0].model == "qwen/qwen3-32b"
    assert study.site_of("").id == "one"


def test_include_is_a_base_that_own_keys_win_over(tmp_path: Path, study_path: Path) -> None:
    child = tmp_path / "sub" / "child.toml"
    child.parent.mkdir()
    child.write_text('[study]\nname = "B"\ninclude = "../study.toml"\n[[workload]]\nid = "chat"\npeak_to_mean = 3.0\n')
    loaded = load_study(child)
    assert loaded.study.study.name == "B"
    assert loaded.study.workload[0].peak_to_mean == 3.0
    assert loaded.study.workload[0].slo == {"ttft_p90": 2.0}
    assert Path(loaded.study.workload[0].trace).resolve() == (tmp_path / "trace.csv").resolve()
    assert len(loaded.inputs) == 2


def test_a_study_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[study]\nname = "A"\ninclude = ["b.toml"]\n')
    (tmp_path / "b.toml").write_text('[study]\nname = "B"\ninclude = ["a.toml"]\n')
    with pytest.raises(InputError, match=r"includes itself \(a.toml -> b.toml -> a.toml\)"):
        read_study(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("override", "get"),
    [
        ("workload.chat.peak_to_mean=3", lambda s: s.workload[0].peak_to_mean == 3),
        ("$.workload[0].slo.ttft_p90=1 s", lambda s: s.workload[0].slo["ttft_p90"] == 1.0),
        ('workload.chat.slo.tpot_p90="50 ms"', lambda s: s.workload[0].slo["tpot_p90"] == 0.05),
        ("candidates.chips=['amd/mi300x']", lambda s: s.candidates.chips == ("amd/mi300x",)),
        ("search.simulate=1", lambda s: s.search.simulate == 1),
    ],
)
def test_overrides(study_path: Path, override: str, get) -> None:
    assert get(load_study(study_path, overrides=[override]).study)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nothing", "path=value"),
        ("workload.chatt.slo.ttft_p90=1 s", "Near matches: chat"),
        ("workload[4].id=x", "1 entries"),
        ("study.name.deeper=1", "not a table"),
        ("workload.chat.speed=1", "unknown key"),
        ("=3", "path=value"),
    ],
)
def test_bad_overrides(study_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_study(study_path, overrides=[override])


def test_a_trace_takes_the_place_of_generated_traffic(tmp_path: Path, study_path: Path) -> None:
    child = tmp_path / "child.toml"
    child.write_text(
        '[study]\nname = "B"\ninclude = "study.toml"\n[[workload]]\nid = "chat"\nsynthetic = { isl_mean = 9 }\n'
    )
    assert load_study(child).study.workload[0].trace == ""
    changed = load_study(child, overrides=["workload.chat.trace=other.csv"]).study.workload[0]
    assert changed.synthetic is None
    assert changed.trace == str(tmp_path / "other.csv")


def test_override_changes_the_inputs(study_path: Path) -> None:
    assert load_study(study_path).inputs != load_study(study_path, overrides=["study.seed=1"]).inputs
    data = {"a": [1]}
    assert apply_override(data, "b=1") == {"a": [1], "b": 1}
    assert data == {"a": [1]}


def test_error_counts_the_rest(study_path: Path) -> None:
    study_path.write_text(BASE.replace("pue", "pew").replace("power =", "powr ="))
    with pytest.raises(InputError, match=r"1 more: .offramp check"):
        load_study(study_path)


def test_merge_does_not_touch_its_inputs() -> None:
    base = {"workload": [{"id": "a", "x": 1}], "t": {"y": 1}}
    over = {"workload": [{"id": "b"}, {"id": "a", "x": 2}], "t": {"z": 2}}
    assert merge(base, over) == {"workload": [{"id": "a", "x": 2}, {"id": "b"}], "t": {"y": 1, "z": 2}}
    assert base == {"workload": [{"id": "a", "x": 1}], "t": {"y": 1}}


def test_schema_accepts_what_the_program_accepts() -> None:
    import tomllib

    spec = schema("study")
    jsonschema.Draft202012Validator.check_schema(spec)
    data = json.loads(json.dumps(tomllib.loads(BASE), default=str))
    jsonschema.validate(data, spec)
    bad = {**data, "sites": []}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, spec)
    jsonschema.Draft202012Validator.check_schema(schema("result"))


def test_every_key_of_the_study_is_explained() -> None:
    bare = [
        f"{name}.{key}"
        for name, body in schema("study")["$defs"].items()
        if name not in ("Study",)
        for key, value in body.get("properties", {}).items()
        if not value.get("description") and "$ref" not in value
    ]
    assert bare == []
    assert msgspec.structs.fields(Study)
