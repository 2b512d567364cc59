"""Triton kernels that needed a version of their own on the target: flagged, and for the right reason?

Repositories that support Ascend keep, beside a generic module of kernels, a module of the same name written for it. Each
such twin is a kernel that needed changes; how the two texts differ says why (a grid over the cores, smaller tiles, launch
options gone). The generic module is scanned as it was before the twin came. Right: a place of one of these classes lies in
the kernel or in what launches it.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


def units_of(text: str) -> list[tuple[int, int, str, bool]]:
    """First and last line, name, and whether it is a kernel, of each kernel and launcher of a module."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    found: list[tuple[int, int, str, bool]] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
        jit = any("triton" in ast.unparse(item) and "jit" in ast.unparse(item) for item in node.decorator_list)
        launches = any(
            isinstance(item, ast.Call)
            and isinstance(item.func, ast.Subscript)
            and isinstance(item.func.value, ast.Name)
            and "kernel" in item.func.value.id.lower()
            for item in ast.walk(node)
        )
        if jit or launches:
            found.append((first, node.end_lineno or first, node.name, jit))
    return found


TWIN = re.compile(r"(?:^|/)_?(?:triton_)?ascend(?:/|$)", re.IGNORECASE)
GONE = {
    "triton.options": r"num_warps|num_stages",
    "triton.autotune": r"triton\.autotune|autotune\(",
    "triton.block_ptr": r"make_block_ptr",
    "triton.atomic": r"atomic_",
    "triton.libdevice": r"libdevice|tl\.math\.(?:rsqrt|tanh|erf)",
    "triton.tf32": r"allow_tf32|input_precision",
    "triton.pointer": r"\w*(?:_ptr|ptr)\s*\+=",
    "triton.asm": r"inline_asm",
    "triton.dtype": r"float64|uint32|uint64|float8",
    "triton.index": r"int64",
}
COME = {
    "triton.grid": r"num_programs|num_cores|core_num|core_count|NUM_CORES|aicore|vectorcore|65535|tl\.range\(pid",
    "triton.tile": r"tiling|UB\b|ub_|_UB|SUB_BLOCK|BLOCK_\w*SUB|MAX_FUSED|multi_block",
}
"""How a vendor's own version of a kernel differs: words that are gone from it, words that have come."""


@dataclass
class Twin:
    """A kernel for which the repository later got a version for the target."""

    path: str
    kernel: str
    reasons: set[str]
    classes: set[str]

    @property
    def right(self) -> bool:
        return bool(self.reasons & self.classes)


def twin_reasons(generic: str, own: str) -> set[str]:
    """Why a vendor wrote its own version, by the words in which the two modules differ."""
    gone = {kind for kind, words in GONE.items() if re.search(words, generic) and not re.search(words, own)}
    come = {kind for kind, words in COME.items() if re.search(words, own) and not re.search(words, generic)}
    return gone | come


def twin_kernels(path: str, generic: str, own: str, places: Iterable[tuple[int, int, str]]) -> list[Twin]:
    """The kernels of a generic module, with the classes of the places in them and in what launches them."""
    reasons = twin_reasons(generic, own)
    spots = [row for row in places if row[2].startswith("triton.")]
    units = units_of(generic)
    lines = generic.split("\n")

    def classes(first: int, last: int) -> set[str]:
        return {kind for a, b, kind in spots if a <= last and b >= first}

    found: list[Twin] = []
    for first, last, name, is_kernel in units:
        if not is_kernel or not re.search(rf"\b{name}\s*\[", generic):
            continue
        mine = classes(first, last)
        for start, end, _, kernel in units:
            if not kernel and re.search(rf"\b{name}\b", "\n".join(lines[start - 1 : end])):
                mine |= classes(start, end)
        found.append(Twin(path, name, reasons, mine))
    return found


REPOSITORIES = (
    ("linkedin/Liger-Kernel", "tuned"),
    ("fla-org/flash-linear-attention", "tuned"),
    ("FlagOpen/FlagGems", "held-out"),
)
CLASSES = (*GONE, *COME)


def twins_of(repo: Path) -> list[Twin]:
    """Every kernel of a repository that has a version for Ascend today."""
    from scan_recall import git

    from offramp.scan.pyscan import scan_python
    from offramp.scan.target import load_target

    target = load_target("huawei/ascend-910b2")
    names = [name for name in git(repo, "ls-tree", "-r", "--name-only", "HEAD").split("\n") if name.endswith(".py")]
    names = [name for name in names if not re.search(r"(^|/)(tests?|benchmarks?)/", name)]
    generic: dict[str, list[str]] = {}
    for name in names:
        if not re.search(r"(?:^|/)(?:_\w+|backends?)/", name):
            generic.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    found: list[Twin] = []
    for name in names:
        leaf = name.rsplit("/", 1)[-1]
        if not TWIN.search(name) or leaf == "__init__.py" or leaf not in generic:
            continue
        added = git(repo, "log", "--diff-filter=A", "--format=%H", "--", name).split()
        if not added:
            continue
        path = max(generic[leaf], key=lambda other: len({*other.split("/")} & {*name.split("/")}))
        before = git(repo, "show", f"{added[-1]}^:{path}")
        own = git(repo, "show", f"{added[-1]}:{name}")
        hits = scan_python(path, before, role="source", target=target).hits if "jit" in before else ()
        found += twin_kernels(path, before, own, [(hit.line, hit.end_line, hit.kind) for hit in hits])
    return found


def kernel_report(clones: Path) -> list[str]:
    """A section of docs/recall.md on Triton kernels."""
    from scan_recall import find_clone, share

    out = [
        "## Triton kernels, one by one", "",
        "Kernels of which the repository later got a version for Ascend; how the two differ says why (bench/scan_triton.py).",
        "*Right*: the kernel or its launch carries a finding of one of these reasons. *Pairs*: each reason of each kernel by",
        "itself. *Said in vain*: classes on such kernels that were no reason.", "",
        "| repository | set | kernels | without a readable reason | flagged | right | pairs found | said in vain |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    by_class: Counter[tuple[str, str]] = Counter()
    for name, split in REPOSITORIES:
        repo = find_clone(clones, name)
        twins = twins_of(repo) if repo is not None else []
        told = [twin for twin in twins if twin.reasons]
        pairs = sum(len(twin.reasons) for twin in told)
        hits = sum(len(twin.reasons & twin.classes) for twin in told)
        said = sum(len(twin.classes & set(CLASSES)) for twin in told)
        for twin in told:
            by_class.update(("needed", kind) for kind in twin.reasons)
            by_class.update(("found", kind) for kind in twin.reasons & twin.classes)
        flagged, right = sum(bool(twin.classes) for twin in told), sum(twin.right for twin in told)
        out.append(
            f"| {name} | {split} | {len(twins)} | {len(twins) - len(told)} | {share(flagged, len(told))} "
            f"| {share(right, len(told))} | {share(hits, pairs)} of {pairs} | {share(said - hits, said)} |"
        )
    out += ["", "| reason | kernels that needed it | found |", "|---|---|---|"]
    for kind in CLASSES:
        needed = by_class["needed", kind]
        if needed:
            out.append(f"| {kind} | {needed} | {share(by_class['found', kind], needed)} |")
    return [*out, ""]
