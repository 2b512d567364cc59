"""Writes launch_schemas.json: what LeaderWorkerSet, llm-d, KServe and MindIE accept, reduced to what is needed to check us.

Of each schema the types, required keys, enumerations, patterns and all key names are kept along the paths that our
manifests touch; below other keys anything goes. Descriptions are left out. Needs checkouts of the four projects:

    python tests/golden/make_launch_schemas.py LWS LLM_D KSERVE MINDIE
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

KEPT = (
    "type",
    "required",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "x-kubernetes-int-or-string",
)
TARGET = Path(__file__).with_name("launch_schemas.json")
LWS = "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml"
LLM_D = "charts/llm-d-modelservice/values.schema.json"
KSERVE = "config/crd/full/llmisvc/serving.kserve.io_llminferenceservices.yaml"
MINDIE = "docs/zh/user_guide/user_manual/service_parameter_configuration.md"

CONTAINER = {
    name: {} for name in ("name", "image", "command", "args", "workingDir")
} | {
    "env": {"name": {}, "value": {}, "valueFrom": {"fieldRef": {"fieldPath": {}}}},
    "ports": {"containerPort": {}, "name": {}},
    "resources": {"limits": {}, "requests": {}},
    "volumeMounts": {"name": {}, "mountPath": {}, "subPath": {}},
    "readinessProbe": {"httpGet": {"path": {}, "port": {}}, "tcpSocket": {"port": {}}, "periodSeconds": {}, "failureThreshold": {}},
    "startupProbe": {"httpGet": {"path": {}, "port": {}}, "periodSeconds": {}, "failureThreshold": {}},
}  # fmt: skip
POD = {
    "containers": CONTAINER,
    "volumes": {"name": {}, "emptyDir": {"medium": {}, "sizeLimit": {}}, "configMap": {"name": {}}},
}
TEMPLATE = {"metadata": {}, "spec": POD}
LWS_PATHS = {
    "spec": {
        "replicas": {},
        "leaderWorkerTemplate": {
            "size": {},
            "restartPolicy": {},
            "leaderTemplate": TEMPLATE,
            "workerTemplate": TEMPLATE,
        },
    }
}
PARALLEL = {name: {} for name in ("tensor", "data", "dataLocal", "workers", "pipeline", "expert")}
LLM_D_PATHS = {
    "modelArtifacts": {"name": {}, "uri": {}, "size": {}, "labels": {}}, "multinode": {},
    "accelerator": {"type": {}, "dra": {}}, "routing": {"servicePort": {}, "proxy": {"enabled": {}, "targetPort": {}}},
    "decode": {"create": {}, "replicas": {}, "parallelism": PARALLEL,
               "containers": {**CONTAINER, "modelCommand": {}, "mountModelVolume": {}}},
    "prefill": {"create": {}},
}  # fmt: skip
KSERVE_PATHS = {
    "spec": {
        "model": {"uri": {}, "name": {}}, "replicas": {}, "parallelism": PARALLEL, "template": POD, "worker": POD,
        "router": {"route": {}, "gateway": {}, "scheduler": {}},
    }
}  # fmt: skip


def show(repository: str, path: str) -> tuple[str, str]:
    """A file of a checkout (or bare repository) and its commit."""
    git = ["git", "-C", repository]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    text = subprocess.run([*git, "show", f"HEAD:{path}"], capture_output=True, text=True, check=True).stdout
    return text, commit


def reduced(schema: dict[str, Any], wanted: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema along the wanted keys; other keys are named and free, unknown ones refused."""
    while "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    out = {name: schema[name] for name in KEPT if name in schema}
    if "items" in schema:
        out["items"] = reduced(schema["items"], wanted, root) if wanted else {}
    if "properties" in schema and wanted:
        known = schema["properties"]
        out["properties"] = {n: reduced(s, wanted[n], root) if n in wanted else {} for n, s in sorted(known.items())}
        out["additionalProperties"] = schema.get("additionalProperties", False) is True
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = reduced(schema["additionalProperties"], {}, root)
    if out.pop("x-kubernetes-int-or-string", False):
        out["type"] = ["integer", "string"]
    return out


def custom_resource(text: str, version: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The reduced schema of one version of a custom resource."""
    found = next(v for v in yaml.safe_load(text)["spec"]["versions"] if v["name"] == version)
    schema = found["schema"]["openAPIV3Schema"]
    return reduced(schema, wanted, schema)


MINDIE_TYPES = {"int": "integer", "uint": "integer", "bool": "boolean", "std::string": "string", "string": "string"}
MINDIE_PLACES = {
    "ServerConfig": ("ServerConfig",), "BackendConfig": ("BackendConfig",),
    "ModelDeployConfig": ("BackendConfig", "ModelDeployConfig"),
    "ModelConfig": ("BackendConfig", "ModelDeployConfig", "ModelConfig"),
    "ScheduleConfig": ("BackendConfig", "ScheduleConfig"),
}  # fmt: skip
MINDIE_MORE = {
    "ScheduleConfig": ("supportSelectBatch",),
    "ModelConfig": ("tp", "dp", "sp", "cp", "pp", "moe_tp", "moe_ep", "models", "async_scheduler_wait_time"),
}
"""Keys of the configuration that is shipped with it (src/server/conf/config.json), and of expert_parallel.md."""


def mindie(text: str) -> dict[str, Any]:
    """Keys, types, ranges and required keys from the tables of MindIE's documentation."""
    sections: dict[str, dict[str, Any]] = {}
    for title, body in re.findall(r"^##+ (\w+)参数说明\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE):
        if title not in MINDIE_PLACES:
            continue
        keys: dict[str, Any] = {}
        required: list[str] = []
        for row in re.findall(r"^\|([A-Za-z_]+)\|([^|]*)\|([^|]*)\|(.*)\|$", body, re.MULTILINE):
            name, kind, span, about = row
            entry: dict[str, Any] = {}
            plain = next((t for prefix, t in MINDIE_TYPES.items() if kind.strip().startswith(prefix)), "")
            if plain:
                entry["type"] = plain
            limits = re.match(r"\[(\d+), ?(\d+)\]", span)
            if limits and plain == "integer":
                entry |= {"minimum": int(limits.group(1)), "maximum": int(limits.group(2))}
            keys[name] = entry
            if about.startswith("必填"):
                required.append(name)
        keys |= {name: {} for name in MINDIE_MORE.get(title, ())}
        sections[title] = {"type": "object", "properties": keys, "required": required, "additionalProperties": False}
    sections["ModelDeployConfig"]["properties"]["ModelConfig"] = {"type": "array", "items": sections["ModelConfig"]}
    backend = sections["BackendConfig"]["properties"]
    backend |= {name: sections[name] for name in ("ModelDeployConfig", "ScheduleConfig")}
    top = {"Version": {"enum": ["1.0.0"]}, "ServerConfig": sections["ServerConfig"], "BackendConfig": sections["BackendConfig"],
           "LogConfig": {}, "EnableDynamicAdjustTimeoutConfig": {"type": "boolean"}}  # fmt: skip
    return {"type": "object", "properties": top, "required": ["Version", "ServerConfig", "BackendConfig"],
            "additionalProperties": False}  # fmt: skip


def main(lws: str, llm_d: str, kserve: str, mindie_repository: str) -> None:
    texts = {"lws": show(lws, LWS), "llm-d": show(llm_d, LLM_D), "kserve": show(kserve, KSERVE),
             "mindie": show(mindie_repository, MINDIE)}  # fmt: skip
    values = json.loads(texts["llm-d"][0])
    made = {
        "lws": ("kubernetes-sigs/lws", LWS, custom_resource(texts["lws"][0], "v1", LWS_PATHS)),
        "llm-d": ("llm-d-incubation/llm-d-modelservice", LLM_D, reduced(values, LLM_D_PATHS, values)),
        "kserve": ("kserve/kserve", KSERVE, custom_resource(texts["kserve"][0], "v1alpha1", KSERVE_PATHS)),
        "mindie": ("verylucky01/MindIE-LLM", MINDIE, mindie(texts["mindie"][0])),
    }
    whole = {
        name: {"source": f"{repository}:{path}@{texts[name][1]}", "schema": schema}
        for name, (repository, path, schema) in made.items()
    }
    TARGET.write_text(
        json.dumps(whole, separators=(",", ":"), ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
