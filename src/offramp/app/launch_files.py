"""Files that start a layout: a script, a Kubernetes manifest, llm-d values, a KServe service, MindIE's config."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from offramp.app.launch import Launch

PORT: Final = 8000
MINDIE_HOME: Final = "/usr/local/Ascend/mindie/latest/mindie-service"
"""Where MindIE's run package puts its server. Source: MindIE-LLM documentation, quick start and service parameters."""
_PLAIN: Final = re.compile(r"^[A-Za-z_./][A-Za-z0-9_./@-]*$")
_WORDS: Final = ("true", "false", "yes", "no", "on", "off", "null", "~", "y", "n")


def files_of(one: Launch, kubernetes: Mapping[str, Any]) -> dict[str, str]:
    """Every file of one workload, by name."""
    files = {"launch.sh": _script(one)}
    if one.style == "mindie":
        files["config.json"] = json.dumps(mindie_config(one), indent=2, ensure_ascii=False) + "\n"
    name = "leaderworkerset.yaml" if one.nodes > 1 else "deployment.yaml"
    documents = [manifest(one, kubernetes), service(one)]
    if one.style == "mindie":
        documents.insert(0, config_map(one))
    files[name] = _head(one, kubernetes) + _documents(documents)
    if one.style == "vllm" and one.vendor in kubernetes["llm_d"]["accelerators"]:
        files["llm-d-values.yaml"] = _head(one, kubernetes["llm_d"]) + yaml(llm_d_values(one, kubernetes))
    if one.style == "vllm":
        files["kserve.yaml"] = _head(one, kubernetes["kserve"]) + yaml(kserve(one))
    return files


def _head(one: Launch, source: Mapping[str, Any]) -> str:
    version = f" {one.version}" if one.version else ""
    return (
        f"# {one.workload} on {one.chip}, {one.engine}{version}: {one.layout['words']}, {one.replicas} replicas.\n"
        f"# Form: {source['source']} ({source['url']}).\n" + "".join(f"# Check: {note}.\n" for note in one.notes)
    )


def _script(one: Launch) -> str:
    lines = ["#!/bin/sh", f"# {one.workload} on {one.chip}, {one.engine} {one.version}: {one.layout['words']}."]
    lines += [f"# Check: {note}." for note in one.notes]
    lines += [
        f"# Not confirmed for {one.engine} {one.version}: {flag.name} ({flag.note})."
        for flag in one.flags
        if not flag.confirmed
    ]
    lines.append("set -eu")
    if one.nodes > 1:
        lines += [
            f"# Run on each of {one.nodes} nodes; give the first one's address and this node's number.",
            'LEADER="$1"',
            'RANK="$2"',
        ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in one.env.items()]
    if one.style == "mindie":
        lines += ["# Copy config.json to conf/config.json of the installation first.", f"cd {MINDIE_HOME}"]
    words = _shell([*one.command, *spread_flags(one, "$LEADER", "$RANK")])
    if one.nodes > 1 and one.style == "vllm":
        lines.append(f'if [ "$RANK" != 0 ]; then exec {words} \\\n  --headless; fi')
    lines.append("exec " + words)
    return "\n".join(lines) + "\n"


def _shell(words: Sequence[str]) -> str:
    text = shlex.quote(words[0])
    for word in words[1:]:
        text += (" \\\n  " if word.startswith("--") else " ") + (
            f'"{word}"' if word.startswith("$") else shlex.quote(word)
        )
    return text


def spread_flags(one: Launch, leader: str, rank: str) -> list[str]:
    """What each of several nodes is told besides: who leads and which one it is."""
    if one.nodes <= 1 or one.style == "mindie":
        return []
    if one.style == "sglang":
        return ["--nnodes", str(one.nodes), "--node-rank", rank, "--dist-init-addr", f"{leader}:5000"]
    local, rest = divmod(int(one.layout["dp"]), one.nodes)
    if local and not rest and one.layout["dp"] > 1:
        start = f"$(({rank.strip('$')} * {local}))"
        return ["--data-parallel-size-local", str(local), "--data-parallel-start-rank", start,
                "--data-parallel-address", leader, "--data-parallel-rpc-port", "13389"]  # fmt: skip
    return ["--nnodes", str(one.nodes), "--node-rank", rank, "--master-addr", leader]


def mindie_config(one: Launch) -> dict[str, Any]:
    """MindIE's config.json: every key that its documentation calls required; what a layout does not decide has its default.

    The address is the pod's (MIES_CONTAINER_IP stands before ``ipAddress``).
    """
    value = {flag.name: flag.value for flag in one.flags}
    model: dict[str, Any] = {
        "modelInstanceType": "Standard",
        "modelName": one.served_name,
        "modelWeightPath": f"/models/{one.model.rpartition('/')[2]}",
        "worldSize": int(value["worldSize"]),
        "cpuMemSize": 5,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
        **{name: int(value[name]) for name in ("tp", "dp", "moe_tp", "moe_ep") if name in value},
    }
    return {
        "Version": "1.0.0",
        "ServerConfig": {
            "ipAddress": "127.0.0.1",
            "managementIpAddress": "127.0.0.2",
            "port": PORT,
            "managementPort": PORT + 1,
            "metricsPort": PORT + 2,
            "allowAllZeroIpListening": False,
            "maxLinkNum": 1000,
            "httpsEnabled": False,
            "inferMode": "standard",
            "openAiSupport": "vllm",
            "distDPServerEnabled": False,
        },
        "BackendConfig": {
            "backendName": "mindieservice_llm_engine",
            "modelInstanceNumber": 1,
            "npuDeviceIds": [list(range(one.per_node))],
            "tokenizerProcessNumber": 8,
            "multiNodesInferEnabled": one.nodes > 1,
            "ModelDeployConfig": {
                "maxSeqLen": int(value["maxSeqLen"]),
                "maxInputTokenLen": int(value["maxInputTokenLen"]),
                "truncation": 0,
                "ModelConfig": [model],
            },
            "ScheduleConfig": {
                "templateType": "Standard",
                "templateName": "Standard_LLM",
                "cacheBlockSize": 128,
                "maxPrefillBatchSize": int(value["maxBatchSize"]),
                "maxPrefillTokens": int(value["maxPrefillTokens"]),
                "maxBatchSize": int(value["maxBatchSize"]),
                "maxIterTimes": int(value["maxIterTimes"]),
                "maxPreemptCount": 0,
                "supportSelectBatch": False,
                "prefillTimeMsPerReq": 150,
                "prefillPolicyType": 0,
                "decodeTimeMsPerReq": 50,
                "decodePolicyType": 0,
                "maxQueueDelayMicroseconds": 5000,
            },
        },
    }


def _name(one: Launch) -> str:
    """A DNS label made of the workload's id; it begins with a letter, as a Service's must."""
    label = re.sub(r"[^a-z0-9]+", "-", one.workload.lower())[:48].strip("-")
    return label if label[:1].isalpha() else f"w-{label}".strip("-")


def _container(one: Launch, kubernetes: Mapping[str, Any], *, leads: bool) -> dict[str, Any]:
    words = list(one.command)
    if one.nodes > 1:
        behind = ["--headless"] if one.style == "vllm" and not leads else []
        spread = spread_flags(one, kubernetes["leader_address"], kubernetes["rank"])
        words = ["sh", "-c", "exec " + _shell([*one.command, *spread, *behind])]
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in one.env.items()]
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]
    if one.style == "mindie":
        env.append({"name": "MIES_CONTAINER_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        mounts.append({"name": "config", "mountPath": f"{MINDIE_HOME}/conf/config.json", "subPath": "config.json"})
    container: dict[str, Any] = {
        "name": "engine", "image": one.image or "REPLACE-WITH-YOUR-IMAGE", "command": words,
        "ports": [{"containerPort": PORT, "name": "http"}],
        "resources": {"limits": {one.resource: str(one.per_node)}, "requests": {one.resource: str(one.per_node)}},
        "volumeMounts": mounts,
    }  # fmt: skip
    if one.style == "mindie":
        container["workingDir"] = MINDIE_HOME
    return {**container, "env": env} if env else container


def _pod(one: Launch, kubernetes: Mapping[str, Any], *, leads: bool) -> dict[str, Any]:
    container = _container(one, kubernetes, leads=leads)
    if leads:
        container["readinessProbe"] = {
            "httpGet": {"path": "/health", "port": PORT},
            "periodSeconds": 10,
            "failureThreshold": 3,
        }
        container["startupProbe"] = {
            "httpGet": {"path": "/health", "port": PORT},
            "periodSeconds": 10,
            "failureThreshold": 360,
        }
        if one.style == "mindie":
            container["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 10}
            del container["startupProbe"]
    else:
        del container["ports"]
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}}]
    if one.style == "mindie":
        volumes.append({"name": "config", "configMap": {"name": f"{_name(one)}-mindie"}})
    return {"containers": [container], "volumes": volumes}


def config_map(one: Launch) -> dict[str, Any]:
    """MindIE's configuration as Kubernetes mounts it."""
    text = json.dumps(mindie_config(one), indent=2, ensure_ascii=False) + "\n"
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{_name(one)}-mindie"},
            "data": {"config.json": text}}  # fmt: skip


def manifest(one: Launch, kubernetes: Mapping[str, Any]) -> dict[str, Any]:
    """A Deployment, or a LeaderWorkerSet where one replica spans several servers."""
    name = _name(one)
    labels = {"app": name, "offramp/workload": name}
    if one.nodes == 1:
        return {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": one.replicas, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": labels}, "spec": _pod(one, kubernetes, leads=True)}},
        }  # fmt: skip
    workers = {"metadata": {"labels": {**labels, "role": "worker"}}, "spec": _pod(one, kubernetes, leads=False)}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": one.replicas,
            "leaderWorkerTemplate": {
                "size": one.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {
                    "metadata": {"labels": {**labels, "role": "leader"}},
                    "spec": _pod(one, kubernetes, leads=True),
                },
                "workerTemplate": workers,
            },
        },
    }


def service(one: Launch) -> dict[str, Any]:
    """The address of all replicas."""
    name = _name(one)
    selector = {"app": name} if one.nodes == 1 else {"app": name, "role": "leader"}
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": PORT, "targetPort": PORT}]},
    }  # fmt: skip


def _own_args(one: Launch) -> list[str]:
    """Flags that a chart does not set itself."""
    taken = ("--tensor-parallel-size", "--data-parallel-size", "--port", "--host")
    out: list[str] = []
    for flag in one.flags:
        if flag.name not in taken:
            out += [flag.name, flag.value] if flag.value else [flag.name]
    return out


def llm_d_values(one: Launch, kubernetes: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the llm-d-modelservice chart."""
    local = max(int(one.layout["dp"]) // one.nodes, 1)
    return {
        "modelArtifacts": {
            "name": one.model,
            "uri": f"hf://{one.model}",
            "size": "1Ti",
            "labels": {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": _name(one)},
        },
        "multinode": one.nodes > 1,
        "accelerator": {"type": kubernetes["llm_d"]["accelerators"][one.vendor], "dra": False},
        "routing": {"servicePort": PORT, "proxy": {"enabled": False, "targetPort": PORT}},
        "decode": {
            "create": True,
            "replicas": one.replicas,
            "parallelism": {
                "tensor": int(one.layout["tp"]),
                "data": int(one.layout["dp"]),
                "dataLocal": local,
                "workers": one.nodes,
            },
            "containers": [
                {
                    "name": "vllm",
                    "image": one.image or "REPLACE-WITH-YOUR-IMAGE",
                    "modelCommand": "vllmServe",
                    "args": _own_args(one),
                    "mountModelVolume": True,
                    "resources": {
                        "limits": {one.resource: str(one.per_node)},
                        "requests": {one.resource: str(one.per_node)},
                    },
                }
            ],
        },
        "prefill": {"create": False},
    }


def kserve(one: Launch) -> dict[str, Any]:
    """An LLMInferenceService of KServe."""
    parallelism: dict[str, Any] = {"tensor": int(one.layout["tp"])}
    if one.layout["pp"] > 1:
        parallelism["pipeline"] = int(one.layout["pp"])
    if one.layout["dp"] > 1:
        parallelism |= {"data": int(one.layout["dp"]), "dataLocal": max(int(one.layout["dp"]) // one.nodes, 1)}
    if one.layout["ep"] > 1:
        parallelism["expert"] = True
    container = {
        "name": "main",
        "image": one.image or "REPLACE-WITH-YOUR-IMAGE",
        "env": [
            {"name": "VLLM_ADDITIONAL_ARGS", "value": shlex.join(_own_args(one))},
            *({"name": k, "value": v} for k, v in one.env.items()),
        ],
        "resources": {"limits": {one.resource: str(one.per_node)}, "requests": {one.resource: str(one.per_node)}},
    }
    spec: dict[str, Any] = {
        "model": {"uri": f"hf://{one.model}", "name": one.model}, "replicas": one.replicas, "parallelism": parallelism,
        "template": {"containers": [container]}, "router": {"route": {}, "gateway": {}, "scheduler": {}},
    }  # fmt: skip
    if one.nodes > 1:
        spec["worker"] = {"containers": [container]}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {"name": _name(one)},
        "spec": spec,
    }


def _documents(items: Sequence[Mapping[str, Any]]) -> str:
    return "---\n".join(yaml(item) for item in items)


def yaml(value: Any, depth: int = 0) -> str:
    """Plain data as YAML; every text that could be read as something else is quoted."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        if not value:
            return f"{pad}{{}}\n"
        return "".join(f"{pad}{_scalar(key)}:{_under(item, depth)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "".join(f"{pad}-{_item(item, depth)}" for item in value) or f"{pad}[]\n"
    return f"{pad}{_scalar(value)}\n"


def _under(value: Any, depth: int) -> str:
    if isinstance(value, Mapping) and not value:
        return " {}\n"
    if isinstance(value, (list, tuple)) and not value:
        return " []\n"
    if isinstance(value, (Mapping, list, tuple)):
        return "\n" + yaml(value, depth + 1)
    return f" {_scalar(value)}\n"


def _item(value: Any, depth: int) -> str:
    if isinstance(value, (Mapping, list, tuple)) and value:
        body = yaml(value, depth + 1)
        return " " + body[2 * (depth + 1) :]
    return _under(value, depth)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    return (
        text
        if _PLAIN.match(text) and text.lower() not in _WORDS and not text.startswith("--")
        else json.dumps(text, ensure_ascii=False)
    )
