"""Nodes and deployments as ``kubectl get nodes,deploy -o json`` prints them."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from offramp.core.errors import InputError
from offramp.core.record import Record
from offramp.core.units import GIB, MIB
from offramp.intake.files import dig, json_objects, number, read_text, shaped

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "intake"
ZONES: Final = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
INSTANCE: Final = "node.kubernetes.io/instance-type"
WORKLOADS: Final = (
    "Deployment",
    "StatefulSet",
    "LeaderWorkerSet",
    "ReplicaSet",
    "Pod",
    "InferenceService",
    "LLMInferenceService",
    "Job",
)
_ACCELERATOR: Final = re.compile(r"/(gpu|npu|mlu|dcu|xpu|gcu|gaudi|tpu|neuron|ascend[\w-]*|mig-[\w.]+)", re.IGNORECASE)


class NodeGroup(Record):
    """Devices of one kind at one place.

    Attributes:
        chip: catalogue id; "" where the labels do not say, or name something the catalogue lacks.
        product: as the labels say; "" where there are none.
        resource: of the device plugin.
        devices: as the device plugin counts them, sharing undone.
        counts: "package", or "device" where a package may hold several.
        nodes: how many.
        region: label of the nodes; "".
        notes: what is doubtful.
    """

    chip: str
    product: str
    resource: str
    devices: int
    counts: str
    nodes: int
    region: str
    notes: tuple[str, ...] = ()


class Deployment(Record):
    """One deployment of a model server.

    Attributes:
        name: namespace/name.
        kind: of the Kubernetes object.
        engine: catalogue id; "" where the image and command do not say.
        engine_version: from the image's tag, where it is a version.
        image: as written.
        model: as given to the engine; "" where it is not in the command.
        served_name: name under which it is served.
        replicas: as asked for.
        devices: accelerators of one replica.
        resource: they are counted in.
        degrees: tp, pp, dp, ep where the command states them.
        notes: what is doubtful.
    """

    name: str
    kind: str
    engine: str
    image: str
    engine_version: str = ""
    model: str = ""
    served_name: str = ""
    replicas: int = 1
    devices: int = 0
    resource: str = ""
    degrees: dict[str, int] = {}
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    return tomllib.loads((DATA / "devices.toml").read_text("utf-8"))


def _items(path: str | Path) -> list[dict[str, Any]]:
    """Kubernetes objects of a file, lists unrolled.

    Raises:
        InputError: not JSON, or no Kubernetes object in it.
    """
    found: list[dict[str, Any]] = []
    for item in json_objects(read_text(path), str(path)):
        if isinstance(item.get("items"), list):
            found += [entry for entry in item["items"] if isinstance(entry, dict)]
        elif "kind" in item and isinstance(item.get("metadata"), dict):
            found.append(item)
        else:
            keys = ", ".join(list(item)[:5]) or "none"
            raise InputError(
                f"is JSON, but nothing that kubectl prints (keys: {keys})", where=str(path),
                mend='Write it with "kubectl get nodes,deploy -A -o json".',
            )  # fmt: skip
    return found


def nodes_of(path: str | Path) -> tuple[list[NodeGroup], list[str]]:
    """Accelerators by chip and region, and what was seen but not understood.

    Raises:
        InputError: no Node in the file.
    """
    nodes = [item for item in _items(path) if item.get("kind") == "Node"]
    if not nodes:
        raise InputError("holds no node", where=str(path), mend='Write it with "kubectl get nodes -o json".')
    groups: dict[tuple[str, str, str, str], list[tuple[int, str, tuple[str, ...]]]] = {}
    notes: list[str] = []
    bare = 0
    for node in nodes:
        name = str(dig(node, "metadata", "name") or "?")
        with shaped(f"{path}: node {name}", "a node of Kubernetes"):
            found = list(_devices(node))
            strange = _strange(node, name)
        bare += not found and not strange
        if len({entry["name"] for entry, _, _ in found}) > 1:
            kinds = ", ".join(entry["name"] for entry, _, _ in found)
            notes.append(f"node {name} has accelerators of {len(found)} kinds: {kinds}; all are counted")
        for entry, count, about in found:
            chip, product, doubts = _product(entry, _labels(node))
            region = next((str(_labels(node)[key]) for key in ZONES if _labels(node).get(key)), "")
            key = (chip, product, entry["name"], region)
            groups.setdefault(key, []).append((count, name, (*about, *doubts)))
        notes += strange
    out = [
        NodeGroup(
            chip=chip, product=product, resource=resource, devices=sum(count for count, _, _ in held),
            counts=str(_entry(resource).get("devices", "package")), nodes=len(held), region=region,
            notes=tuple(dict.fromkeys(note for _, _, about in held for note in about)),
        )
        for (chip, product, resource, region), held in groups.items()
    ]  # fmt: skip
    if bare == len(nodes):
        notes.append(f"none of {bare} nodes offers an accelerator: is the device plugin installed there?")
    return sorted(out, key=lambda group: -group.devices), list(dict.fromkeys(notes))


def _labels(node: Mapping[str, Any]) -> dict[str, Any]:
    labels = dig(node, "metadata", "labels")
    return labels if isinstance(labels, dict) else {}


def _entry(resource: str) -> dict[str, Any]:
    return next(entry for entry in _data()["resource"] if entry["name"] == resource)


def _devices(node: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int, tuple[str, ...]]]:
    """Known resources of a node with their number, sharing undone."""
    capacity = dig(node, "status", "capacity") or dig(node, "status", "allocatable") or {}
    allocatable = dig(node, "status", "allocatable") or capacity
    labels = _labels(node)
    name = str(dig(node, "metadata", "name") or "?")
    for entry in _data()["resource"]:
        count = int(number(capacity.get(entry["name"])) or 0)
        if count <= 0:
            continue
        notes: list[str] = []
        shared = int(number(labels.get(entry.get("shared", ""))) or 1)
        real = int(number(labels.get(entry.get("count", ""))) or 0)
        if shared > 1 and count % shared == 0:
            notes.append(
                f"{entry['name']} is shared {shared} ways: {count} shares are {real or count // shared} devices"
            )
            count = real or count // shared
        part = str(labels.get(entry.get("partition", "")) or "").partition("_")[0].lower()
        parts = int(entry.get("parts", {}).get(part, 1))
        if parts > 1 and count % parts == 0:
            notes.append(f"{entry['name']} counts {part} partitions: {count} of them are {count // parts} packages")
            count //= parts
        usable = number(allocatable.get(entry["name"]))
        if usable is not None and usable < count and shared <= 1 and parts <= 1:
            notes.append(f"node {name} can allocate {usable:g} of {count} devices (the others are unhealthy)")
        if not _ready(node):
            notes.append(f"node {name} is not ready; its devices are counted")
        if dig(node, "spec", "unschedulable"):
            notes.append(f"node {name} is cordoned; its devices are counted")
        yield entry, count, tuple(notes)


def _ready(node: Mapping[str, Any]) -> bool:
    conditions = dig(node, "status", "conditions") or []
    return all(c.get("status") == "True" for c in conditions if isinstance(c, dict) and c.get("type") == "Ready")


def _strange(node: Mapping[str, Any], name: str) -> list[str]:
    """Accelerator resources that are not understood: of a vendor that is known, or called like one."""
    known = {entry["name"] for entry in _data()["resource"]}
    vendors = {resource.partition("/")[0] for resource in known}
    capacity = dig(node, "status", "capacity") or {}
    return [
        f"node {name} offers {resource}, which is not understood: it is not counted"
        for resource, count in capacity.items()
        if resource not in known and (number(count) or 0) > 0
        and (_ACCELERATOR.search(str(resource)) or str(resource).partition("/")[0] in vendors)
    ]  # fmt: skip


def _fold(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def chip_of_product(vendor: str, product: str, *, memory_gib: float | None = None) -> tuple[str, str]:
    """The catalogue id of a product name, and what is doubtful about it; "" where it is not known."""
    folded = _fold(product.removesuffix("-SHARED"))  # how GPU feature discovery marks a chip that pods share
    for entry in _data()["product"]:
        if entry["vendor"] != vendor or not any(fnmatchcase(folded, pattern) for pattern in entry["match"]):
            continue
        if any(fnmatchcase(folded, pattern) for pattern in entry.get("without", [])):
            continue
        span = entry.get("memory_gib")
        if span and (memory_gib is None or not span[0] <= memory_gib <= span[1]):
            continue
        return str(entry.get("chip", "")), str(entry.get("note", entry.get("unknown", "")))
    return "", ""


def vendor_chip(product: str) -> str:
    """The catalogue id of a product name whose vendor is not stated; "" where it is not known or not clear."""
    found = {
        chip
        for vendor in {entry["vendor"] for entry in _data()["product"]}
        if (chip := chip_of_product(vendor, product)[0])
    }
    return found.pop() if len(found) == 1 else ""


def _product(entry: Mapping[str, Any], labels: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    memory = number(labels.get(entry.get("memory_mib", "")))
    gib = memory * MIB / GIB if memory else None
    first = ""
    for key in entry["product"]:
        value = str(labels.get(key) or "")
        first = first or value
        chip, doubt = chip_of_product(entry["vendor"], value, memory_gib=gib) if value else ("", "")
        if chip or doubt:
            told = [f"told by the instance type {value}"] if key == INSTANCE else []
            return chip, value, [f"{value}: {doubt}"] if doubt else told
    if entry.get("default"):
        return str(entry["default"]), first, []
    return (
        "",
        first,
        [f'no chip of the catalogue is called "{first}"' if first else "no label says which product it is"],
    )


def deployments_of(path: str | Path) -> list[Deployment]:
    """Model servers among the workloads of a file: whatever asks for accelerators or runs a known engine.

    Raises:
        InputError: no workload of Kubernetes in the file.
    """
    items = _items(path)
    kinds = {str(item.get("kind")) for item in items}
    mine = [item for item in items if item.get("kind") in WORKLOADS]
    if not mine:
        raise InputError(
            f"holds no deployment (kinds: {', '.join(sorted(kinds)) or 'none'})", where=str(path),
            mend='Write it with "kubectl get deploy,statefulset,leaderworkerset -A -o json".',
        )  # fmt: skip
    owned = [
        item
        for item in mine
        if not (item.get("kind") in ("ReplicaSet", "Pod") and dig(item, "metadata", "ownerReferences"))
    ]
    with shaped(str(path), "a workload of Kubernetes"):
        return [found for item in owned if (found := _deployment(item)) is not None]


def _deployment(item: Mapping[str, Any]) -> Deployment | None:
    spec = item.get("spec") or {}
    template = dig(spec, "template", "spec") or dig(spec, "leaderWorkerTemplate", "workerTemplate", "spec")
    template = template or dig(spec, "template") or spec
    size = int(number(dig(spec, "leaderWorkerTemplate", "size")) or 1)
    leader = dig(spec, "leaderWorkerTemplate", "leaderTemplate", "spec")
    predictor = dig(spec, "predictor")  # of KServe: containers, or a model that a runtime serves
    pods = [pod for pod in (leader, template, predictor) if isinstance(pod, dict)]
    containers = [c for pod in pods for c in pod.get("containers") or [] if isinstance(c, dict)]
    containers += [served] if isinstance(served := dig(predictor, "model"), dict) else []
    best: Deployment | None = None
    for container in containers:
        resource, devices = _asked(container)
        engine = _engine(container)
        if not devices and not engine:
            continue
        words = _words(container)
        found = Deployment(
            name=f"{dig(item, 'metadata', 'namespace') or 'default'}/{dig(item, 'metadata', 'name') or '?'}",
            kind=str(item.get("kind")),
            engine=engine,
            image=str(container.get("image") or ""),
            engine_version=_version(str(container.get("image") or "")),
            model=_model(words, container) or _uri(spec),
            served_name=_option(words, "--served-model-name", "--model-name"),
            replicas=_replicas(spec),
            devices=devices * size,
            resource=resource,
            degrees=_degrees(words),
        )
        best = found if best is None or (found.model and not best.model) else best
    return best


def _replicas(spec: Mapping[str, Any]) -> int:
    """As asked for; the least where a scaler decides; 1 where nothing is said, as Kubernetes takes it."""
    stated = [spec.get("replicas"), dig(spec, "predictor", "minReplicas")]
    found = next((value for value in stated if value is not None), 1)
    return int(number(found) or 0)


def _uri(spec: Mapping[str, Any]) -> str:
    """Model of a KServe object that names where its weights lie."""
    found = dig(spec, "model", "uri") or dig(spec, "predictor", "model", "storageUri") or ""
    return str(found).removeprefix("hf://")


def _asked(container: Mapping[str, Any]) -> tuple[str, int]:
    asked = {**(dig(container, "resources", "requests") or {}), **(dig(container, "resources", "limits") or {})}
    for entry in _data()["resource"]:
        count = int(number(asked.get(entry["name"])) or 0)
        if count:
            return str(entry["name"]), count
    return "", 0


_ENGINES: Final = (
    ("vllm-ascend", ("vllm-ascend",)),
    ("mindie", ("mindie",)),
    ("vllm-mlu", ("vllm-mlu", "vllm_mlu")),
    ("vllm-gaudi", ("vllm-gaudi", "vllm-hpu")),
    ("sglang", ("sglang", "lmsysorg")),
    ("tensorrt-llm", ("tensorrt-llm", "trtllm")),
    ("vllm", ("vllm",)),
)


def _engine(container: Mapping[str, Any]) -> str:
    image = str(container.get("image") or "").lower()
    command = " ".join(_words(container)).lower()
    for text in (image, command):
        for engine, marks in _ENGINES:
            if any(mark in text for mark in marks):
                return engine
    return ""


def _version(image: str) -> str:
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    match = re.match(r"v?(\d+\.\d+(?:\.\d+)?(?:\.?(?:post|rc)\d+)?)", tag)
    return match.group(1) if match else ""


def _words(container: Mapping[str, Any]) -> list[str]:
    """Command and arguments as words; shell scripts are split too."""
    words: list[str] = []
    for part in [*(container.get("command") or []), *(container.get("args") or [])]:
        text = str(part)
        if re.search(r"\s", text) and ("--" in text or "vllm" in text or "sglang" in text):
            try:
                words += shlex.split(text.replace("\\\n", " "), comments=True)
            except ValueError:
                words += text.split()
        else:
            words.append(text)
    return words


def _option(words: list[str], *names: str) -> str:
    for at, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name.replace("_", "-") in names:  # vLLM takes both spellings
            found = value if sign else (words[at + 1] if at + 1 < len(words) else "")
            if found and not found.startswith("-"):
                return found
    return ""


def _model(words: list[str], container: Mapping[str, Any]) -> str:
    names = ("--model", "--model-path", "--model-id")
    found = _option(words, *names, *(["-m"] if "vllm" in words else []))
    if not found and "serve" in words:
        after = words[words.index("serve") + 1 :]
        found = after[0] if after and not after[0].startswith("-") else ""
    reference = re.fullmatch(r"\$\(?\{?(\w+)\}?\)?", found)
    if reference:
        values = {
            str(e.get("name")): str(e.get("value") or "") for e in container.get("env") or [] if isinstance(e, dict)
        }
        found = values.get(reference.group(1), "")
    return found


_FLAGS: Final = {
    "tp": ("--tensor-parallel-size", "-tp", "--tp", "--tp-size"),
    "pp": ("--pipeline-parallel-size", "-pp", "--pp-size"),
    "dp": ("--data-parallel-size", "-dp", "--dp", "--dp-size"),
    "ep": ("--ep-size", "--ep", "--expert-parallel-size"),
}


def _degrees(words: list[str]) -> dict[str, int]:
    found = {name: int(number(_option(words, *flags)) or 0) for name, flags in _FLAGS.items()}
    return {name: value for name, value in found.items() if value > 0}


def regions(groups: Iterable[NodeGroup]) -> list[str]:
    """Regions in the order of their devices, each once."""
    return list(dict.fromkeys(group.region for group in groups))
