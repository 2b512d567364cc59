"""Launch artefacts and exports of a hand-made assessment: flags exist, manifests add up, formulas are harmless."""

from __future__ import annotations

import copy
import csv
import datetime as dt
import json
import subprocess

import openpyxl
import pyarrow.parquet as pq
import pytest
import yaml

from offramp.app.export import csv_text, export, neutral
from offramp.app.launch import launch
from offramp.app.launch_engines import data, image_of
from offramp.app.launch_files import yaml as to_yaml
from offramp.catalog.engines import version_key
from offramp.core.errors import InputError, ModelRangeError
from offramp.core.result import Column, Notice, Result, Table, UsedFigure, table_of
from offramp.report import decision, exitplan
from offramp.report.lang import LANGUAGES, translate, untranslated, words

SPAN = {"low": 80.0, "mid": 96.0, "high": 128.0}


def item(chip, name, *, engine="vllm", baseline=False, fallback="", **layout):
    whole = {
        "words": f"{engine} TP4",
        "engine": engine,
        "system": "hgx-h20",
        "tp": 4,
        "pp": 1,
        "dp": 1,
        "ep": 1,
        "devices": 4,
        "weights_dtype": "checkpoint",
        "max_batch_tokens": 8192,
        "max_seqs": 256,
        **layout,
    }
    return {
        "chip": chip,
        "name": name,
        "status": "carries",
        "is_baseline": baseline,
        "chips": SPAN,
        "layout": whole,
        "exchange_rate": {"low": 0.8, "mid": 1.0, "high": 1.3},
        "cost_per_million_output_tokens": {"low": 1.0, "mid": 2.0, "high": 3.0},
        "fleet": {"replicas": 12, "servers": 6, "chips": 48},
        "precision_fallback": fallback,
        "figures": ["chips/a#tdp"],
        "blockers": [
            {
                "kind": "fallback",
                "text": "FP8 weights run as W8A8 INT8: accuracy must be checked before moving",
                "stops": False,
            }
        ],
        "rules": {"verdict": "licence-case-by-case"},
        "missing_facts": [],
    }


def assessment(**chips):
    listed = list(chips.values()) or [
        item("nvidia/h20", "H20", baseline=True),
        item("amd/mi300x", "MI300X", system="mi300x-platform"),
    ]
    work = {
        "id": "chat",
        "model": "Qwen/Qwen3-32B",
        "baseline": listed[0]["chip"],
        "recommended": listed[-1]["chip"],
        "chips": listed,
        "lengths": {"isl_mean_tokens": 1000.0},
    }
    quarters = [{"workload": "chat", "quarter": "2026Q4", "chip": listed[-1]["chip"], "mean_requests_per_s": 4.0,
                 "chips_low": 1.0, "chips_mid": 2.0, "chips_high": 3.0}]  # fmt: skip
    names = ("workload", "quarter", "chip", "mean_requests_per_s", "chips_low", "chips_mid", "chips_high")
    figure = UsedFigure(
        id="chips/a#tdp", value=1.0, unit="W", source="=cmd", url="u", as_of=dt.date(2026, 1, 1), confidence="assumed"
    )
    answer = {
        "study": "Studie <ü>",
        "as_of": "2026-11-23",
        "currency": "CNY",
        "workloads": [work],
        "fleet": [{"chip": "nvidia/h20", "count": 75}, {"chip": "amd/mi300x", "count": 25}],
        "flips": [
            {
                "workload": "chat",
                "chip": listed[-1]["chip"],
                "assumption": "chip price",
                "now": 1.0,
                "flips_at": 2.0,
                "unit": "CNY/chip",
            }
        ],
    }
    return Result(command="assess", answer=answer, inputs_hash="h" * 20, data_version="d", figures=(figure,),
                  tables={"quarters": table_of(quarters, columns=names)})  # fmt: skip


def save(folder, result):
    path = folder / "r.json"
    path.write_text(result.to_json(), encoding="utf-8")
    return path


def test_every_flag_that_is_printed_is_in_the_data(tmp_path):
    made = launch(save(tmp_path, assessment())).answer["workloads"][0]
    flags = data()["style"]["vllm"]["flags"]
    printed = [word for word in made["command"] if word.startswith("--")]
    assert printed and set(printed) <= set(flags)
    assert all(flag["source"] and flag["url"] for flag in made["flags"])


def test_spans_of_flags_are_ordered_and_have_sources():
    for style in data()["style"].values():
        for name, flag in style["flags"].items():
            assert version_key(flag["first"]) <= version_key(flag["last"]), name
            assert set(flag["sources"]) <= set(style["sources"])


def test_a_deployment_asks_for_the_layouts_devices(tmp_path):
    result = launch(save(tmp_path, assessment()), out=tmp_path / "out")
    text = (tmp_path / "out" / "chat" / "deployment.yaml").read_text()
    made, served = yaml.safe_load_all(text)
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert made["spec"]["replicas"] == 12
    assert container["resources"]["limits"] == {"amd.com/gpu": "4"}
    assert container["command"][:3] == ["vllm", "serve", "Qwen/Qwen3-32B"]
    assert served["spec"]["selector"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
    values = yaml.safe_load((tmp_path / "out" / "chat" / "llm-d-values.yaml").read_text())
    assert values["decode"]["parallelism"]["tensor"] == 4 and values["accelerator"]["type"] == "amd"
    assert result.answer["workloads"][0]["nodes"] == 1


def test_a_replica_over_two_servers_is_a_leader_worker_set(tmp_path):
    wide = item(
        "huawei/ascend-910b2",
        "910B2",
        engine="vllm-ascend",
        system="atlas-800-a2",
        tp=1,
        dp=16,
        ep=16,
        devices=16,
        fallback="FP8 weights run as W8A8 INT8",
    )
    result = launch(
        save(tmp_path, assessment(a=item("nvidia/h20", "H20", baseline=True), b=wide)), out=tmp_path / "out"
    )
    made = next(yaml.safe_load_all((tmp_path / "out" / "chat" / "leaderworkerset.yaml").read_text()))
    template = made["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    leader, worker = (template[name]["spec"]["containers"][0] for name in ("leaderTemplate", "workerTemplate"))
    assert leader["resources"]["limits"] == {"huawei.com/Ascend910": "8"}
    assert "--headless" in worker["command"][2] and "--headless" not in leader["command"][2]
    assert "--data-parallel-size-local 8" in leader["command"][2]
    assert "--quantization ascend" in leader["command"][2]
    subprocess.run(["sh", "-n", str(tmp_path / "out" / "chat" / "launch.sh")], check=True)
    assert any("quantised to int8" in notice.text for notice in result.warnings)


def test_two_dies_of_a_package_are_two_devices(tmp_path):
    pod = item("huawei/ascend-910c", "910C", engine="vllm-ascend", system="atlas-800-a3", tp=16, devices=16)
    made = launch(save(tmp_path, assessment(a=pod))).answer["workloads"][0]
    assert (made["nodes"], made["per_node"]) == (1, 16)


def test_sglang_counts_all_ranks(tmp_path):
    ranks = item("nvidia/h20", "H20", engine="sglang", tp=2, dp=4, ep=8, devices=8, max_batch_tokens=2048, max_seqs=64)
    command = launch(save(tmp_path, assessment(a=ranks))).answer["workloads"][0]["command_line"]
    for part in (
        "--tp-size 8",
        "--dp-size 4",
        "--enable-dp-attention",
        "--ep-size 8",
        "--chunked-prefill-size 8192",
        "--max-running-requests 256",
    ):
        assert part in command


def test_sglang_on_ascend_names_the_method_of_quantised_weights(tmp_path):
    pod = item("huawei/ascend-910c", "910C", engine="sglang", system="atlas-800-a3", tp=16, devices=16)
    pod["precision_fallback"] = "FP8 weights run as W8A8 INT8"
    made = launch(save(tmp_path, assessment(a=pod)))
    assert "--quantization modelslim" in made.answer["workloads"][0]["command_line"]
    assert any("quantised to int8" in notice.text for notice in made.warnings)
    gpu = item("nvidia/h20", "H20", engine="sglang", tp=8, devices=8)
    assert "--quantization" not in launch(save(tmp_path, assessment(a=gpu))).answer["workloads"][0]["command_line"]


def test_mindie_config_has_documented_keys_only(tmp_path):
    made = launch(
        save(tmp_path, assessment(a=item("huawei/ascend-910b2", "910B2", engine="mindie", system="atlas-800-a2")))
    )
    config = json.loads(made.answer["workloads"][0]["files"]["config.json"])
    deploy = config["BackendConfig"]["ModelDeployConfig"]
    assert deploy["ModelConfig"][0]["worldSize"] == 4 == len(config["BackendConfig"]["npuDeviceIds"][0])
    assert config["BackendConfig"]["ScheduleConfig"]["maxPrefillTokens"] >= deploy["maxInputTokenLen"]


def test_launch_refuses_what_it_does_not_know(tmp_path):
    path = save(tmp_path, assessment())
    with pytest.raises(InputError, match='no workload "chut"'):
        launch(path, workload="chut")
    with pytest.raises(InputError, match="was not assessed on"):
        launch(path, chip="nvidia/b200")
    with pytest.raises(ModelRangeError, match="no launch command"):
        launch(save(tmp_path, assessment(a=item("nvidia/h20", "H20", engine="tensorrt-llm"))))
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="is no Result"):
        launch(tmp_path / "x.json")


def test_our_yaml_reads_back():
    value = {
        "a": ["1", 1, True, "true", "--x", "no", "a: b", "é", [], {}, [1, [2]], {"k": [{"x": 1, "y": {"z": None}}]}],
        "b": {},
        "c/d": "0.0.0.0",
    }
    assert yaml.safe_load(to_yaml(value)) == value


def test_exports_carry_sources_and_no_formulas(tmp_path):
    data = Table(columns=(Column(name="workload"), Column(name="chip"), Column(name="x", unit="W")),
                 rows=(("=1+1", "nvidia/h20", -3.0), ("聊天", "@a", None)))  # fmt: skip
    result = Result(
        **{**{name: getattr(assessment(), name) for name in Result.__struct_fields__}, "tables": {"t": data}}
    )
    made = export(result, tmp_path)
    assert sorted(made.answer["files"]) == ["assess.xlsx", "sources.csv", "sources.parquet", "t.csv", "t.parquet"]
    rows = list(csv.reader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[1][0] == "'=1+1" and rows[1][2] == "-3.0" and rows[2][0] == "聊天" and rows[2][1] == "'@a"
    book = openpyxl.load_workbook(tmp_path / "assess.xlsx")
    assert book.sheetnames == ["About", "t", "sources"]
    assert not [cell for sheet in book for row in sheet for cell in row if cell.data_type == "f"]
    assert json.loads(pq.read_schema(tmp_path / "t.parquet").metadata[b"offramp"])["inputs"] == "h" * 20


def test_rows_name_their_sources(tmp_path):
    export(assessment(), tmp_path, ["csv"])
    rows = list(csv.DictReader((tmp_path / "quarters.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0]["sources"] == "1"


def test_csv_header_is_harmless_too():
    assert csv_text(Table(columns=(Column(name="=b"),), rows=())) == "'=b\n"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_decision_and_exit_plan(lang):
    page, annex = decision.page(assessment(), lang=lang), exitplan.page(assessment(), lang=lang)
    assert "Studie &lt;ü&gt;" in page and "MI300X" in page
    assert words(lang)["becomes"] in page and "0.62" in annex  # 0.75^2 + 0.25^2
    assert "://" not in page


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_decision_on_many_workloads_shows_the_largest_and_counts_the_rest(lang):
    result = assessment()
    first = result.answer["workloads"][0]
    works = []
    for number in range(decision.MOST_SHOWN + 3):
        work = copy.deepcopy(first)
        work["id"] = f"work-with-a-very-long-name-that-says-it-all-{number}"
        next(c for c in work["chips"] if c["chip"] == work["baseline"])["chips"]["mid"] = 8.0 * (number + 1)
        works.append(work)
    result.answer["workloads"] = works
    page = decision.page(result, lang=lang)
    assert "<body class='dense tiny'>" in page
    shown = [work["id"] for work in works if decision.brief(work["id"]) in page]
    assert shown == [work["id"] for work in works[3:]]  # those with most chips, in the study's order
    assert words(lang)["more"].format(count=3, chips="48", left=0 if first["recommended"] else 3) in page


def test_both_languages_say_the_same_things():
    def keys(part, path=""):
        return {
            path + key: keys(value, f"{path}{key}.") if isinstance(value, dict) else None for key, value in part.items()
        }

    english, chinese = keys(words("en")), keys(words("zh"))
    english.pop("assumptions"), chinese.pop("assumptions")
    assert english == chinese


def test_chinese_decision_has_no_english_sentence():
    page = decision.page(assessment(), lang="zh")
    assert untranslated(page, "zh") == []


def test_translation_leaves_markup_numbers_and_scripts():
    page = '<html lang="en"><style>a{}</style><script>var chips = "Nothing.";</script>'
    page += '<p title="chips">What stands in the way</p><b>1,472</b></html>'
    made = translate(page, "zh")
    assert 'lang="zh-CN"' in made and "迁移障碍" in made and 'var chips = "Nothing.";' in made and "1,472" in made
    assert translate(page, "en") == page


def test_a_workload_whose_name_leads_out_of_the_folder_is_refused(tmp_path):
    result = assessment()
    result.answer["workloads"][0]["id"] = "../../outside"
    with pytest.raises(InputError, match="leads out of the folder"):
        launch(save(tmp_path, result), out=tmp_path / "deep" / "out")
    assert not (tmp_path / "outside").exists()


EVIL = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", '=HYPERLINK("http://x","y")', "a\x00\x07b"]


@pytest.mark.parametrize("text", [" =1+1", "\u3000@SUM(A1)", "\u00a0+1", "＝cmd"])
def test_blanks_before_a_formula_do_not_hide_it(text):
    assert neutral(text) == "'" + text


def test_numbers_without_an_end_are_not_empty_cells(tmp_path):
    table = table_of([{"high": float("inf")}], columns=("high",), title="t")
    export(Result(command="x", answer={}, inputs_hash="h", data_version="d", tables={"t": table}), tmp_path, ["xlsx"])
    assert openpyxl.load_workbook(tmp_path / "x.xlsx")["t"]["A2"].value == "inf"


def test_tables_of_a_hostile_result_stay_in_the_folder_and_hold_no_formula(tmp_path):
    """Names of tables and columns, texts and warnings may come from files that others wrote."""
    data = table_of(
        [{"a": text} for text in EVIL], columns=[Column(name="=cmd", unit="=u", title="=t"), Column(name="a")]
    )
    tables = {"=evil/[x]": data, "=EVIL/[X]": data, "../../etc": data}
    warning = Notice(kind="k", text="=w", where="=x")
    result = Result(
        command="assess", answer={}, inputs_hash="=h", data_version="=d", tables=tables, warnings=(warning,)
    )
    export(result, tmp_path / "deep" / "out")
    written = sorted(path.name for path in (tmp_path / "deep" / "out").iterdir())
    assert written == sorted(["evil_x.csv", "EVIL_X_2.csv", "etc.csv", "sources.csv", "evil_x.parquet", "EVIL_X_2.parquet",
                              "etc.parquet", "sources.parquet", "assess.xlsx"])  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    for path in (tmp_path / "deep" / "out").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as handle:
            assert not [cell for row in csv.reader(handle) for cell in row if cell[:1] in tuple("=+-@\t\r＝") and cell]
    book = openpyxl.load_workbook(tmp_path / "deep" / "out" / "assess.xlsx")
    assert not [cell.coordinate for sheet in book for row in sheet for cell in row if cell.data_type == "f"]


def test_an_export_takes_the_form_that_a_scan_prints(tmp_path):
    """A scan's JSON holds its lists beside the answer."""
    from offramp.app.launch import result_of

    raw = json.loads(assessment().to_json())
    findings = [{"a": 1, "many": [1, 2]}, {"a": 2, "b": "x"}]
    raw |= {"command": "scan", "answer": {"path": "p"}, "tables": {}}
    raw |= {"findings": findings, "groups": [], "target": "huawei/ascend-910b2"}
    path = tmp_path / "scan.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    found = result_of(path, None)
    assert found.answer == {"path": "p", "findings": findings, "groups": []}
    assert list(found.tables["findings"].dicts()) == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    assert "groups" not in found.tables


@pytest.mark.parametrize(
    ("engine", "chip", "image"),
    [
        ("vllm-ascend", "huawei/ascend-910b2", "quay.io/ascend/vllm-ascend:v0.1"),
        ("vllm-ascend", "huawei/ascend-910c", "quay.io/ascend/vllm-ascend:v0.1-a3"),
        ("vllm-ascend", "nvidia/h20", ""),
        ("sglang", "huawei/ascend-910c-752", "quay.io/ascend/sglang:main-cann8.5.0-a3"),
        ("vllm", "amd/mi300x", "vllm/vllm-openai-rocm:v0.1"),
        ("mindie", "huawei/ascend-910b2", ""),
    ],
)
def test_images_are_those_of_the_chip(engine, chip, image):
    assert image_of(data()["engine"][engine], chip, "0.1") == image


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_study_of_training_runs_only_does_not_say_that_every_workload_can_move(lang):
    result = assessment()
    said = (
        "pretrain (training) takes 101 (65 to 167) days on 2,072 Ascend 910C against 56 (48 to 68) days on 2,072 H800."
    )
    answer = {**result.answer, "workloads": [], "flips": [],
              "decision": {"headline": "Training that cannot: pretrain", "training": [said]}}  # fmt: skip
    only = Result(command="assess", answer=answer, inputs_hash="h" * 20, data_version="d")
    for page in (decision.page(only, lang=lang), exitplan.page(only, lang=lang)):
        assert words(lang)["finding_all"] not in page
        assert "2,072" in page and words(lang)["training"] in page
    assert ("不能迁移的训练" if lang == "zh" else "Training that cannot") in decision.page(only, lang=lang)
