"""Launch files against what LeaderWorkerSet, llm-d, KServe and MindIE accept (golden/make_launch_schemas.py says how)."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from offramp.app.launch import Launch
from offramp.app.launch_engines import data
from offramp.app.launch_files import files_of

SCHEMAS = json.loads((Path(__file__).parents[1] / "golden" / "launch_schemas.json").read_text("utf-8"))
LAYOUTS = [
    {"tp": 8, "pp": 1, "dp": 1, "ep": 1}, {"tp": 8, "pp": 2, "dp": 1, "ep": 1}, {"tp": 1, "pp": 1, "dp": 16, "ep": 16},
    {"tp": 2, "pp": 1, "dp": 8, "ep": 16}, {"tp": 4, "pp": 4, "dp": 1, "ep": 1}, {"tp": 1, "pp": 1, "dp": 1, "ep": 1},
]  # fmt: skip
NAMES = ["chat", "聊天", "1st", "A_very.long-" + "x" * 80, "-"]
MINDIE = {"worldSize": "16", "npuDeviceIds": "[]", "tp": "8", "dp": "2", "moe_ep": "16", "moe_tp": "1", "maxSeqLen": "163840",
          "maxInputTokenLen": "163839", "maxPrefillTokens": "163839", "maxBatchSize": "64", "maxIterTimes": "163840"}  # fmt: skip


def made(style, layout, nodes, *, name="chat", vendor="nvidia"):
    from offramp.app.launch import Flag

    names = MINDIE if style == "mindie" else {"--max-num-seqs": "256", "--enable-expert-parallel": ""}
    flags = tuple(Flag(name=n, value=v, why="", source="s", url="u", confirmed=True) for n, v in names.items())
    devices = layout["tp"] * layout["pp"] * layout["dp"]
    return Launch(
        workload=name, chip=f"{vendor}/x", vendor=vendor, engine=style, version="0.28.0", style=style,
        model="deepseek-ai/DeepSeek-R1", served_name="deepseek-r1", replicas=3, devices=devices, nodes=nodes,
        per_node=max(devices // nodes, 1), command=("vllm", "serve", "deepseek-ai/DeepSeek-R1"), env={"A": "true"}, flags=flags,
        image="", resource="nvidia.com/gpu", layout={**layout, "words": "w"}, context=163840, mean_isl=1000.0, notes=("n",),
    )  # fmt: skip


def documents(files):
    for name, text in files.items():
        if name.endswith(".yaml"):
            yield from ((name, document) for document in yaml.safe_load_all(text))


def schema(name):
    return SCHEMAS[name]["schema"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("style", ["vllm", "sglang", "mindie"])
def test_manifests_are_what_the_projects_accept(style, layout, nodes):
    files = files_of(
        made(style, layout, nodes, vendor="huawei" if style == "mindie" else "nvidia"), data()["kubernetes"]
    )
    kinds = set()
    for name, document in documents(files):
        kind = document.get("kind", name)
        kinds.add(kind)
        if kind == "LeaderWorkerSet":
            jsonschema.validate(document, schema("lws"))
        elif kind == "Deployment":
            jsonschema.validate(document["spec"]["template"], schema("lws")["properties"]["spec"]["properties"][
                "leaderWorkerTemplate"]["properties"]["workerTemplate"])  # fmt: skip
        elif kind == "LLMInferenceService":
            jsonschema.validate(document, schema("kserve"))
        elif kind == "llm-d-values.yaml":
            jsonschema.validate(document, schema("llm-d"))
    assert ("LeaderWorkerSet" in kinds) is (nodes > 1) and "Service" in kinds
    assert ({"LLMInferenceService", "llm-d-values.yaml"} <= kinds) is (style == "vllm")
    if style == "mindie":
        config = json.loads(files["config.json"])
        jsonschema.validate(config, schema("mindie"))
        mounted = next(document for _, document in documents(files) if document["kind"] == "ConfigMap")
        assert json.loads(mounted["data"]["config.json"]) == config


def test_the_schemas_refuse_what_is_wrong():
    one = made("vllm", LAYOUTS[1], 2)
    found = {d.get("kind", n): d for n, d in documents(files_of(one, data()["kubernetes"]))}
    wrong = copy.deepcopy(found["LeaderWorkerSet"])
    wrong["spec"]["leaderWorkerTemplate"]["sizes"] = 2
    wrong_pod = copy.deepcopy(found["LeaderWorkerSet"])
    wrong_pod["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]["comand"] = []
    wrong_kserve = copy.deepcopy(found["LLMInferenceService"])
    wrong_kserve["spec"]["parallelism"]["tensor"] = 0
    wrong_values = copy.deepcopy(found["llm-d-values.yaml"])
    wrong_values["decode"]["parallelism"]["tensor"] = "eight"
    config = json.loads(files_of(made("mindie", LAYOUTS[0], 1), data()["kubernetes"])["config.json"])
    del config["ServerConfig"]["maxLinkNum"]
    for name, document in (
        ("lws", wrong), ("lws", wrong_pod), ("kserve", wrong_kserve), ("llm-d", wrong_values), ("mindie", config),
    ):  # fmt: skip
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema(name))


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_workload_is_a_label(name):
    import re

    for _, document in documents(files_of(made("vllm", LAYOUTS[0], 1, name=name), data()["kubernetes"])):
        label = document.get("metadata", {}).get("name", "w")
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", label), label
