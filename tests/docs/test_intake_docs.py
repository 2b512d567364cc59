"""The notebook is the page, and runs; published schemas are those of the code; stale facts are listed."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
from pathlib import Path

import pytest

from offramp import catalog
from offramp.app.check import check
from offramp.app.facts import every_figure, facts_check, facts_stale
from offramp.app.schema import schema
from offramp.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def maker():
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "tests" / "docs" / "make_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_the_page():
    assert (ROOT / "docs" / "python.ipynb").read_text("utf-8") == maker().notebook(), "run tests/docs/make_notebook.py"


@pytest.mark.slow
def test_the_notebook_runs(capsys):
    space = {}
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        for cell in json.loads((ROOT / "docs" / "python.ipynb").read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), space)
    finally:
        os.chdir(before)
    assert "amd/mi325x" in capsys.readouterr().out
    assert space["chart"].spec["data"]["values"]


@pytest.mark.parametrize("name", ["study", "result"])
def test_published_schemas(name):
    written = json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(schema(name))), f"offramp schema {name} > docs/schema/{name}.json"


def test_the_european_study_is_sound():
    assert check(ROOT / "examples" / "europe-200" / "study.toml").answer["problems"] == []


def test_stale_facts_are_listed():
    """Prints what to look up; fails only where the list itself is wrong."""
    found = facts_stale(today=dt.date(2026, 11, 23)).answer
    assert found["checked"] == sum(1 for _ in every_figure(catalog.load()))
    assert all(row["age_days"] > row["shelf_life_days"] for row in found["stale"])
    assert facts_stale(today=dt.date(2020, 1, 1)).answer["stale"] == []
    for row in found["stale"]:
        print(f"stale: {row['id']} of {row['as_of']} ({row['age_days']} days)")


FACT = """[chips."nvidia/h20".tdp]
value = {value}
unit = "{unit}"
source = "x"
url = "u"
as_of = {day}
confidence = "{kind}"
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"value": 900}, "the catalogue has"),
        ({"unit": "GB"}, "the catalogue's is in"),
        ({"day": "2031-01-01"}, "in the future"),
        ({"kind": "press"}, "needs low and high"),
        ({"kind": "rumour"}, "Invalid enum"),
        ({"unit": "horse"}, "unknown unit"),
    ],
)
def test_proposed_facts(tmp_path, changes, said):
    held = catalog.load().chip("nvidia/h20").figures["tdp"][0]
    text = FACT.format(
        **{"value": held.value, "unit": held.unit, "day": "2026-01-01", "kind": "vendor-claim", **changes}
    )
    path = tmp_path / "f.toml"
    path.write_text(text)
    answer = facts_check(path, today=dt.date(2026, 11, 23)).answer
    assert answer["ok"] is not bool(said)
    assert said in "".join(row["what"] for row in answer["problems"])


def test_no_fact_in_the_file(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("a = 1\n")
    with pytest.raises(InputError, match="holds no figure"):
        facts_check(path)


@pytest.mark.parametrize(
    ("head", "said", "ok"),
    [("[foo.bar]", "is no place of the catalogue", True), ('[systems."hgx-h2O".host_power]', "unknown system", False)],
)
def test_a_fact_that_stands_nowhere(tmp_path, head, said, ok):
    path = tmp_path / "f.toml"
    path.write_text(
        FACT.format(value=1, unit="W", day="2026-01-01", kind="vendor-claim").replace('[chips."nvidia/h20".tdp]', head)
    )
    answer = facts_check(path, today=dt.date(2026, 11, 23)).answer
    assert answer["ok"] is ok
    assert said in "".join(row["what"] for row in answer["problems"])
