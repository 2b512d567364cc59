"""Finds ports in repositories' logs by rule, so that nobody picks them: prints rows of bench/scan_corpus.csv.

``python bench/scan_find_ports.py FOLDER`` reads every clone in FOLDER. A port is a commit, no merge, whose subject has a
word of adding and a vendor's word, that changed at least two code files which were there before, eight lines and hunks
together, at most 250 hunks; the first four of a repository and vendor are taken, of later work (see below) the first two
of domestic chips and Intel's GPUs. Repositories named after a vendor are back ends themselves and are left out. A
repository is held out when the first byte of a hash of its name is odd: its diffs are not read while rules are made. A
port is the *first* of its vendor when the vendor's words stand in at most five files of its parent; the others are later
work on a back end that is there, which old code rarely announces.

``--drawing 2`` keeps every row and adds repositories that have none, under a stricter rule that was set before any of
them was measured: the commit must add a line with a word of that vendor's own (an "NPU" may be a telephone's), and
its parent must name CUDA in at least as many files as other accelerators (else it leaves something else). ``--drawing 3``
does the same with the rows of a third set of repositories, picked for C, C++ and ROCm before any was measured.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from scan_recall import HERE, find_clone, git, hunks_of

VENDORS = (
    ("huawei/ascend-910b2", r"npu|npus|ascend|cann|hccl"),
    ("cambricon/mlu590", r"mlu|mlus|cambricon"),
    ("moore-threads/s5000", r"musa|mthreads|moore threads"),
    ("agnostic", r"device[- ]agnostic|torch\.accelerator|accelerator[- ]agnostic|agnosticism|3rd-party backend|"
                 r"third[- ]party backend|custom backend|out-of-tree|privateuse1?"),
    ("xpu", r"xpu|intel gpu|ipex|oneapi|level[- ]zero|ze"),
    ("intel/gaudi3", r"hpu|gaudi|synapseai"),
    ("amd/mi300x", r"rocm|hip|amd gpus?|amd"),
    ("aws/trainium2", r"neuron|trainium"),
)  # fmt: skip
IN_CODE = {
    "huawei/ascend-910b2": "npu|npus|ascend|torch_npu|hccl", "cambricon/mlu590": "mlu|torch_mlu|cambricon",
    "moore-threads/s5000": "musa|torch_musa|mthreads", "xpu": "xpu|xpus|ipex|sycl|level_zero",
    "intel/gaudi3": "hpu|hpus|gaudi|habana", "amd/mi300x": "rocm|hip|amd",
    "aws/trainium2": "neuron|neuronx|trainium|inferentia", "agnostic": "npu|mlu|musa|xpu",
}  # fmt: skip
ADDS = re.compile(
    r"\b(add|adds|added|support|supports|supported|enable|enables|enabling|port|adapt|adapts|adaptation|introduce|initial|"
    r"implement|make|init|compat\w*|extend|allow)\b|feat",
    re.IGNORECASE,
)
NOT = re.compile(
    r"\b(revert|bump|typo|docs?|readme|fix|bugfix|hotfix|update|refactor|clean|remove|drop|disable|ci|test|tests|UT|image|"
    r"dockerfile|workflow|skip)\b|\[ci\]|\[doc",
    re.IGNORECASE,
)
KINDS = ("*.py", "*.cpp", "*.cc", "*.h", "*.hpp", "*.cu", "*.c", "*.txt", "*.cmake", "*.am", "*.m4", "*.toml", "*.yml",
         "*.yaml", "*.sh")  # fmt: skip
CXX = re.compile(r"\.(c|cc|cpp|cu|cuh|h|hpp|cmake|ac|am|m4)$|CMakeLists|Makefile|meson")
FIRST_FILES = 5
MOST = 4
MOST_LATER = 2
FOREIGN = ("amd/", "intel/", "aws/")
OWN = re.compile(r"ascend|gaudi|musa|mlu|metax|kunlun|hygon|npu|mindie", re.IGNORECASE)


def vendor_of(subject: str) -> str:
    """The vendor that a subject names; "" for none."""
    for vendor, words in VENDORS:
        if re.search(rf"(?<![a-z])({words})(?![a-z])", subject, re.IGNORECASE):
            return vendor
    return ""


def known_files(repo: Path, vendor: str, commit: str) -> int:
    """Files of a commit that name the vendor."""
    pattern = f"(^|[^a-z])({IN_CODE.get(vendor, IN_CODE['agnostic'])})([^a-z]|$)"
    command = ["git", "-C", str(repo), "grep", "-i", "-l", "-E", pattern, commit, "--", *KINDS]
    done = subprocess.run(command, capture_output=True, check=False)
    return len([line for line in done.stdout.split(b"\n") if line])


def ports_of(repo: Path, name: str) -> list[dict[str, str]]:
    """The ports of one repository, oldest first."""
    held = hashlib.blake2b(name.encode(), digest_size=2).digest()[0] % 2
    rows: list[dict[str, str]] = []
    taken: dict[str, int] = {}
    later = 0
    for line in reversed(git(repo, "log", "--no-merges", "--format=%H%x09%s").strip().split("\n")):
        commit, _, subject = line.partition("\t")
        vendor = vendor_of(subject) if ADDS.search(subject) and not NOT.search(subject) else ""
        if not vendor or taken.get(vendor, 0) >= MOST:
            continue
        if git(repo, "diff", "--numstat", "-M", f"{commit}^", commit).count("\n") > 200:
            continue
        hunks = hunks_of(repo, f"{commit}^", commit)
        if len({hunk.path for hunk in hunks}) < 2 or len(hunks) > 250:
            continue
        if sum(len(hunk.minus) for hunk in hunks) + len(hunks) < 8:
            continue
        known = known_files(repo, vendor, f"{commit}^")
        if known > FIRST_FILES:
            later += 1
            if later > MOST_LATER or vendor.startswith(FOREIGN):
                continue
        taken[vendor] = taken.get(vendor, 0) + 1
        cxx = sum(bool(CXX.search(hunk.path)) for hunk in hunks)
        rows.append(
            {"repo": name, "commit": commit[:10], "wave": "C" if cxx * 2 > len(hunks) else "A",
             "target": "huawei/ascend-910b2" if vendor == "agnostic" else vendor,
             "split": "held-out" if held else "tuned", "source": "found in the log by rule",
             "known_files": str(known)}
        )  # fmt: skip
    return rows


OTHERS = "npu|torch_npu|ascend|hccl|mlu|musa|xpu|hpu|gaudi"
SURE = {"huawei/ascend-910b2": r"torch_npu|ascend|hccl|aclrt|cann|[\"']npu", "xpu": r"xpu|ipex|sycl|intel|level.?zero"}


def leaves_cuda(repo: Path, row: dict[str, str]) -> bool:
    """Whether a commit of the second drawing adds lines with its vendor's words to a tree that stands on CUDA."""
    words = SURE.get(row["target"], IN_CODE.get(row["target"], IN_CODE["agnostic"]))
    diff = git(repo, "show", "--no-color", "--format=", "-U0", row["commit"])
    added = [line for line in diff.split("\n") if line.startswith("+") and not line.startswith("+++")]
    if not any(re.search(rf"(?<![a-z])({words})", line, re.IGNORECASE) for line in added):
        return False
    counts = [
        git(repo, "grep", "-i", "-l", "-w", "-E", pattern, f"{row['commit']}^", "--", *KINDS).count("\n")
        for pattern in ("cuda|nvidia|nccl", OTHERS)
    ]
    return counts[0] >= max(1, counts[1])


def further(clones: Path, drawing: int) -> list[dict[str, str]]:
    """The rows of the corpus, and those of repositories that have none."""
    with (HERE / "scan_corpus.csv").open(newline="") as handle:
        kept = list(csv.DictReader(handle))
    known = {row["repo"] for row in kept}
    for folder in sorted(path for path in clones.iterdir() if path.is_dir() and "+" in path.name):
        name = folder.name.replace("+", "/", 1)
        repo = find_clone(clones, name)
        if repo is None or name in known or OWN.search(name):
            continue
        kept += [
            {**row, "split": f"{row['split']}-{drawing}"} for row in ports_of(repo, name) if leaves_cuda(repo, row)
        ]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clones", type=Path)
    parser.add_argument("--drawing", type=int, choices=(1, 2, 3), default=1)
    options = parser.parse_args()
    if options.drawing > 1:
        show(further(options.clones, options.drawing))
        return
    with (HERE / "scan_corpus.csv").open(newline="") as handle:
        kept = [row for row in csv.DictReader(handle) if "by rule" not in row["source"]]
    read = {row["repo"] for row in kept}
    for row in kept:
        repo = find_clone(options.clones, row["repo"])
        if repo is not None:
            row["known_files"] = str(known_files(repo, row["target"], f"{row['commit']}^"))
    seen = {(row["repo"], row["commit"][:7]) for row in kept}
    for folder in sorted(path for path in options.clones.iterdir() if path.is_dir() and "+" in path.name):
        name = folder.name.replace("+", "/", 1)
        repo = find_clone(options.clones, name)
        if repo is None or OWN.search(name):
            continue
        new = [row for row in ports_of(repo, name) if (row["repo"], row["commit"][:7]) not in seen]
        kept += [{**row, "split": "tuned" if name in read else row["split"]} for row in new]
    show(kept)


def show(rows: list[dict[str, str]]) -> None:
    """The corpus on the standard output."""
    writer = csv.DictWriter(
        sys.stdout, ["repo", "commit", "wave", "target", "split", "source", "known_files"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
