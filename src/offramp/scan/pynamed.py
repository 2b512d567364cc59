"""Choices of devices that are no condition and no literal list: answers of functions, exports, members of vendors."""

from __future__ import annotations

import ast
import re
from typing import Final

from offramp.scan.pyfile import Ctx, PyFile
from offramp.scan.words import (
    ALL_WORDS,
    CUDA_WORDS,
    GPU_WORDS,
    device_name,
    device_words,
    is_host_name,
    needs_branch,
    words_of,
)

NONE: Final[frozenset[str]] = frozenset()
VENDORS: Final = {
    "nvidia": "cuda", "amd": "rocm", "intel": "xpu", "apple": "mps", "huawei": "npu", "ascend": "npu", "hygon": "dcu",
    "iluvatar": "corex", "cambricon": "mlu", "mthreads": "musa", "moorethreads": "musa", "metax": "maca",
    "google": "tpu", "habana": "hpu",
}  # fmt: skip
"""Firms by the device that stands for them: an enum of firms is a list of devices."""
DEVICE_MODULES: Final = frozenset(
    {"device", "devices", "device_utils", "device_util", "accelerator", "accelerators", "platform", "platforms",
     "device_type", "dev_utils", "torch_device", "get_device"}
)  # fmt: skip
"""Last names of a tree's own modules that choose a device."""
_TEXT: Final = re.compile(
    r"(?<![A-Za-z0-9])(cuda|nvidia|rocm|amd|xpu|intel|npu|ascend|huawei|mlu|cambricon|musa|moore threads|hpu|gaudi|mps|apple|"
    r"tpu|dcu|hygon|corex|iluvatar|maca|metax|gcu)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SAME: Final = {**VENDORS, "moore threads": "musa", "gaudi": "hpu"}


def answer_words(node: ast.AST) -> frozenset[str]:
    """Device words of a value that names one device ("corex", DeviceType.ROCM, DeviceType.ROCM.value)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        name = device_name(node.value)
        return (frozenset(name.split("-")) & ALL_WORDS or frozenset({name})) if name else NONE
    if isinstance(node, ast.Attribute) and node.attr in ("value", "name"):
        node = node.value
    if isinstance(node, ast.Attribute) and node.attr.isupper():
        return device_words(node.attr)
    return NONE


def check_answers(file: PyFile, node: ast.FunctionDef | ast.AsyncFunctionDef, ctx: Ctx) -> None:
    """Reports a function that answers with names of devices and never with the target's; the place is its last one."""
    found: list[tuple[ast.Return, frozenset[str]]] = []
    hosts = False
    stack: list[ast.AST] = list(node.body)
    while stack:
        item = stack.pop()
        if isinstance(item, ast.Return) and item.value is not None:
            words = answer_words(item.value)
            hosts |= isinstance(item.value, ast.Constant) and is_host_name(str(item.value.value))
            if words:
                found.append((item, words))
        elif isinstance(item, (ast.If, ast.For, ast.While, ast.Try, ast.With, ast.ExceptHandler)):
            stack.extend(
                child for child in ast.iter_child_nodes(item) if isinstance(child, (ast.stmt, ast.ExceptHandler))
            )
    words = NONE.union(*(said for _, said in found))
    if len(words) + hosts < 2 or file.target.covers(words) or not needs_branch(words):
        return
    last = max((item for item, _ in found), key=lambda item: item.lineno)
    file.add(
        last, "branch.missing", "answers " + ", ".join(sorted(words)), ctx=ctx._replace(guard=False),
        span=(last.lineno, (last.end_lineno or last.lineno) + 1), note="function that names devices",
    )  # fmt: skip


def check_exports(file: PyFile, node: ast.Assign) -> None:
    """Reports an ``__all__`` that exports classes or tests of other devices and none of the target's."""
    if not (len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"):
        return
    if not isinstance(node.value, (ast.List, ast.Tuple)):
        return
    named: list[tuple[ast.expr, frozenset[str]]] = []
    for item in node.value.elts:
        words = device_words(item.value) if isinstance(item, ast.Constant) and isinstance(item.value, str) else NONE
        if words:
            named.append((item, words))
    words = NONE.union(*(said for _, said in named))
    if not named or file.target.covers(words) or not (words - GPU_WORDS):
        return
    spot = named[-1][0]
    file.add(
        spot, "branch.import", "exports for " + "/".join(sorted(words)), ctx=Ctx(), span=(spot.lineno, spot.lineno)
    )


def check_vendors(file: PyFile, node: ast.ClassDef, ctx: Ctx) -> bool:
    """Reports an enum of firms that leaves the target's out ("class Vendor(Enum): NVIDIA, AMD, Intel")."""
    if not any("enum" in ast.dump(base).lower() or "str" in ast.dump(base) for base in node.bases):
        return False
    members: list[tuple[ast.Assign, str]] = []
    for stmt in node.body:
        if isinstance(stmt, ast.Assign) and len(stmt.targets) == 1 and isinstance(stmt.targets[0], ast.Name):
            said = VENDORS.get(stmt.targets[0].id.lower().replace("_", ""))
            if said:
                members.append((stmt, said))
    words = frozenset(said for _, said in members)
    if len(words) < 2 or "cuda" not in words or file.target.covers(words):
        return False
    first, last = members[0][0], members[-1][0]
    file.add(
        first, "branch.list", f"members of {node.name}: " + ", ".join(sorted(words)), ctx=ctx._replace(guard=False),
        span=(first.lineno, last.end_lineno or last.lineno),
    )  # fmt: skip
    return True


def listed_devices(text: str, file: PyFile) -> str:
    """The devices that a message or a help text lists without the target ("cuda, rocm, npu"), or ""."""
    named: list[str] = _TEXT.findall(text)
    said = {_SAME.get(word.lower(), word.lower()) for word in named}
    if len(said) < 2 or not said & CUDA_WORDS or file.target.covers(frozenset(said)):
        return ""
    return ", ".join(sorted(said))


def is_device_module(file: PyFile, node: ast.ImportFrom) -> bool:
    """True for an import from a module of the tree that chooses devices ("from acme.utils.device import get_device")."""
    module = node.module or ""
    leaf = module.rsplit(".", 1)[-1].strip("_")
    return leaf in DEVICE_MODULES and bool(node.level or module.split(".")[0] in file.local)


def check_sibling_imports(file: PyFile) -> None:
    """Reports runs of imports that gather what is named after other accelerators, and nothing of the target's."""
    run: list[tuple[ast.Import | ast.ImportFrom, frozenset[str]]] = []
    for stmt in [*file.tree.body, None]:
        if isinstance(stmt, (ast.Import, ast.ImportFrom)):
            run.append((stmt, _gathered(file, stmt)))
            continue
        words = NONE.union(*(said for _, said in run))
        if words and not words & file.target.words and file.target.device not in words:
            symbol = "imports for " + "/".join(sorted(words))
            for item, said in run:
                if said:
                    first, last = _named_lines(item, said)
                    file.add(item, "branch.import", symbol, ctx=Ctx(), span=(first, last), note="siblings")
        run = []


def _gathered(file: PyFile, stmt: ast.Import | ast.ImportFrom) -> frozenset[str]:
    """Words of accelerators beside CUDA in what a statement takes from the tree itself."""
    if isinstance(stmt, ast.Import):
        return NONE
    module = stmt.module or ""
    if not stmt.level and module.split(".")[0] not in file.local:
        return NONE
    words = NONE.union(*(device_words(part) for part in [*module.split("."), *(alias.name for alias in stmt.names)]))
    return words - CUDA_WORDS - GPU_WORDS - _HOSTLY


def _named_lines(stmt: ast.Import | ast.ImportFrom, words: frozenset[str]) -> tuple[int, int]:
    """The lines of the names that speak of the accelerators; the statement's where its module does."""
    lines = [alias.lineno for alias in stmt.names if device_words(alias.name) & words]
    return (lines[0], lines[-1]) if lines else (stmt.lineno, stmt.end_lineno or stmt.lineno)


_HOSTLY: Final = frozenset({"openvino", "vulkan"})


def check_keywords(file: PyFile, node: ast.Call, ctx: Ctx) -> None:
    """Reports ``dict(ascend=..., maca=...)`` without the target."""
    words = NONE.union(*(device_words(keyword.arg) for keyword in node.keywords if keyword.arg))
    if len(words) < 2 or file.target.covers(words) or not needs_branch(words):
        return
    file.add(
        node, "branch.list", "table keyed by " + ", ".join(sorted(words)), ctx=ctx._replace(guard=False),
        span=(node.lineno, node.end_lineno or node.lineno),
    )  # fmt: skip


def check_families(file: PyFile) -> None:
    """Reports functions and classes that differ by the device in their name; the last one's end is where one more goes."""
    bodies = [file.tree.body, *(stmt.body for stmt in file.tree.body if isinstance(stmt, ast.ClassDef))]
    for body in bodies:
        families: dict[str, list[tuple[ast.stmt, str]]] = {}
        for stmt in body:
            if isinstance(stmt, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                word, stem = _stem(stmt.name)
                if word:
                    families.setdefault(stem, []).append((stmt, word))
        for stem, members in families.items():
            words = frozenset(word for _, word in members)
            if len(words) < 2 or not words & ALL_WORDS or is_served(file, words) or words & file.target.words:
                continue
            symbol = f"{stem} for {'/'.join(sorted(words))}"
            for stmt, _ in members:
                end = stmt.end_lineno or stmt.lineno
                file.add(stmt, "branch.missing", symbol, ctx=Ctx(), span=(end, end), note="family")


def _stem(name: str) -> tuple[str, str]:
    """The device word of a name and the name without it ("_detect_local_cuda" -> "cuda", "_detect_local_*")."""
    low = name.lower()
    found = sorted(device_words(name) - GPU_WORDS) or (["cpu"] if "cpu" in words_of(name) else [])
    return (found[0], low.replace(found[0], "*", 1)) if len(found) == 1 and low != found[0] else ("", "")


def is_served(file: PyFile, words: frozenset[str]) -> bool:
    """True when a choice knows the target; one that tells vendors apart needs the target's own name."""
    return file.target.covers(words) and not (file.target.answers_as_cuda(words) and words & DISPATCHED)


DISPATCHED: Final = frozenset(
    {"vulkan", "xpu", "npu", "mlu", "musa", "hpu", "gcu", "ascend", "maca", "xla", "tpu", "neuron"}
)
"""Accelerators whose branch beside CUDA's shows a choice by vendor."""
