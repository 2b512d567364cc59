"""Files read by lines: Docker, compose, Kubernetes, Helm, Slurm, CI, shell, CMake, requirements, configuration.

Nothing here is parsed into a tree: an alias bomb stays a few lines of text, a template stays readable.
"""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from typing import Final, NamedTuple

from offramp.scan.cpp import TRANSPORTS, merge_near
from offramp.scan.finding import FileNote, FileScan, Hit, Role
from offramp.scan.pyscan import merge_lines, snippets
from offramp.scan.siblings import function_ends, sibling_hits
from offramp.scan.spoken import GPU_NAMES, SPOKEN, knows, lines_of, spoken_names, spoken_text
from offramp.scan.symbols import distributions, needed, normal
from offramp.scan.target import DATA, Target
from offramp.scan.words import ALL_WORDS, words_of

TRIGGER: Final = re.compile(
    r"cuda|nccl|nvidia|gpu|cudnn|cublas|nvcc|nvcr|dcgm|nsys|\bncu\b|triton|flash|xformers|apex|transformer|bitsandbytes|deep_?-?gemm|deep_?-?ep|"
    r"cupy|numba|tensorrt|trt|dali|faiss|gptq|awq|mamba|causal|liger|sgl|nvshmem|pynvml|modelopt|spconv|-cu1|cu1\d|fp8|quant|SBATCH|gencode|sm_|"
    r"load_in_|attn|USE_|ENABLE_|WITH_|rapids|cudf|cuml|warp|\bhip\b|rocm|nvtx|TRANSPORT",
    re.IGNORECASE,
)
_COMMENT: Final = re.compile(r"(?:^|\s)#(?!SBATCH).*$")
_REQUIREMENT: Final = re.compile(r"^\s*[\"']?([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:[<>=!~;@,\"']|$)")
_PIP: Final = re.compile(r"\b(?:pip3?|uv pip|conda|mamba|poetry)\s+(?:install|add)\b(.*)")
_CMAKE_IF: Final = re.compile(r"^\s*(if|elseif|else|endif|option)\s*\(([^)]*)\)?", re.IGNORECASE)
_WORDS: Final = ALL_WORDS | TRANSPORTS


SOFT: Final = frozenset({"shm", "ib"})
"""Transports that alone say nothing of devices."""


class Rule(NamedTuple):
    """One row of lines.toml, compiled."""

    kind: str
    pattern: re.Pattern[str]
    effort: str
    replacement: str


@lru_cache(maxsize=1)
def rules_by_file() -> dict[str, tuple[Rule, ...]]:
    """The rules of lines.toml by file kind."""
    table = tomllib.loads((DATA / "lines.toml").read_text(encoding="utf-8"))
    found: dict[str, list[Rule]] = {}
    for row in table["rule"]:
        rule = Rule(row["class"], re.compile(row["pattern"]), row["effort"], row["replacement"])
        for kind in row["files"]:
            found.setdefault(kind, []).append(rule)
    return {kind: tuple(rules) for kind, rules in found.items()}


def scan_lines(path: str, text: str, *, kind: str, role: Role, target: Target) -> FileScan:
    """What one infrastructure, build or configuration file holds."""
    total = text.count("\n") + 1
    if not TRIGGER.search(text):
        return FileScan(path=path, kind=kind, role=role, lines=total)
    hits: list[Hit] = []
    long = 0
    rules = rules_by_file().get(kind, ())
    for number, raw in enumerate(text.split("\n"), start=1):
        if len(raw) > LONGEST_LINE:
            long = number
            continue
        if not TRIGGER.search(raw):
            continue
        line = raw if kind == "json" else _COMMENT.sub("", raw)
        hits += _line_hits(line, number, rules=rules, target=target)
        hits += _packages(line, number, kind=kind, path=path)
    if kind == "cmake":
        hits += _cmake_blocks(text, target) + function_ends(text, target=target)
    hits += _vendors(text, target)
    if kind in BUILD:
        taken = lines_of((hit.line, hit.end_line) for hit in hits)
        hits += sibling_hits(path, text, target=target, taken=taken)
    said = _mentions(text, hits, words=target.words)
    if hits or kind in (*BUILD, "shell"):
        hits += said if hits else [hit for hit in said if hit.kind == "name.cuda" and hit.symbol != GPU_NAMES]
    hits = [hit for hit in merge_near(merge_lines(hits)) if needed(hit.kind, target, python=False)]
    skipped = f"line {long} is longer than {LONGEST_LINE:,} characters; not read"
    notes = (FileNote(path=path, kind="malformed", text=skipped),) if long else ()
    return FileScan(
        path=path, kind=kind, role=role, lines=total, hits=tuple(hits), snippets=snippets(text, hits), notes=notes
    )  # fmt: skip


BUILD: Final = frozenset({"cmake", "make"})
LONGEST_LINE: Final = 20_000
"""Longer lines are data."""


def _line_hits(line: str, number: int, *, rules: tuple[Rule, ...], target: Target) -> list[Hit]:
    hits: list[Hit] = []
    for rule in rules:
        match = rule.pattern.search(line)
        if not match:
            continue
        if rule.kind == "branch.missing" and words_of(line) & target.native_words:
            continue
        symbol = re.sub(r"[\s\"]+", " ", match.group(match.lastindex or 0)).strip(" '=:,")[:60]
        hits.append(
            Hit(
                line=number,
                end_line=number,
                column=match.start(),
                kind=rule.kind,
                symbol=symbol,
                hint=rule.effort,
                note=rule.replacement,
            )
        )
    return hits


_VENDOR: Final = re.compile(
    r"(?<![a-z])(nvidia|cuda|intel|xpu|gaudi|hpu|habana|amd(?!64)|rocm|google|tpu|npu|ascend|mlu|musa|neuron|mps)(?![a-z])",
    re.IGNORECASE,
)
_SAME: Final = {"cuda": "nvidia", "xpu": "intel", "gaudi": "hpu", "habana": "hpu", "rocm": "amd", "google": "tpu"}
_KEY: Final = re.compile(r"^\s*[\"']?([A-Za-z][\w.-]*)[\"']?\s*:")


def _named(text: str) -> frozenset[str]:
    """The vendors that a line names, one word each."""
    low: list[str] = [word.lower() for word in _VENDOR.findall(text)]
    return frozenset(_SAME.get(word, word) for word in low)


def _vendors(text: str, target: Target) -> list[Hit]:
    """Lists of vendors without the target: several on a line ("nvidia, amd, cpu"), or keys one below the other."""
    hits: list[Hit] = []
    keys: list[tuple[int, frozenset[str]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > LONGEST_LINE or not _VENDOR.search(line):
            continue
        words = _named(line)
        if len(words) >= 2 and "nvidia" in words and not words & target.native_words:
            symbol = "list of " + ", ".join(sorted(words))
            hits.append(Hit(line=number, end_line=number, column=0, kind="branch.list", symbol=symbol))
        key = _KEY.match(line)
        named = _named(key.group(1)) if key else frozenset[str]()
        if named:
            keys.append((number, named))
    return hits + _key_lists(keys, target)


def _key_lists(keys: list[tuple[int, frozenset[str]]], target: Target) -> list[Hit]:
    hits: list[Hit] = []
    group: list[tuple[int, frozenset[str]]] = []
    for item in [*keys, (10**9, frozenset[str]())]:
        if group and item[0] - group[-1][0] > KEY_GAP:
            words = frozenset[str]().union(*(found for _, found in group))
            if len(words) >= 2 and "nvidia" in words and not words & target.native_words:
                symbol = "keys of " + ", ".join(sorted(words))
                hits.append(Hit(line=group[0][0], end_line=group[-1][0], column=0, kind="branch.list", symbol=symbol))
            group = []
        group.append(item)
    return hits


KEY_GAP: Final = 6
"""Keys of one table stand at most this many lines apart."""


def _mentions(text: str, hits: list[Hit], *, words: frozenset[str]) -> list[Hit]:
    """Names, values and comments that speak of CUDA or GPUs, in files that are tied to it elsewhere."""
    taken = lines_of((hit.line, hit.end_line) for hit in hits)
    found: list[Hit] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if number in taken or len(line) > LONGEST_LINE or not _SAID.search(line) or knows(line, words):
            continue
        said = spoken_names(_COMMENT.sub("", line)) or (spoken_text(line) if SPOKEN.search(line) else None)
        if said:
            found.append(
                Hit(line=number, end_line=number, column=0, kind=said.kind, symbol=said.symbol, also=said.also)
            )
    return found


_SAID: Final = re.compile(r"cuda|nccl|gpu|nvidia", re.IGNORECASE)


def _packages(line: str, number: int, *, kind: str, path: str) -> list[Hit]:
    """CUDA-only distributions in requirement files, pyproject, pip and conda lines."""
    names: list[str] = []
    pip = _PIP.search(line)
    if pip:
        names = re.findall(r"(?:^|\s)[\"']?([A-Za-z][A-Za-z0-9._-]+)", pip.group(1))
    elif kind in ("requirements", "toml", "ini") or "environment" in path or "conda" in path:
        match = _REQUIREMENT.match(line.lstrip(" -"))
        names = [match.group(1)] if match else []
    known = distributions()
    return [
        Hit(line=number, end_line=number, column=0, kind="infra.deps", symbol=normal(name), note="package")
        for name in dict.fromkeys(names)
        if normal(name) in known
    ]


def _cmake_blocks(text: str, target: Target) -> list[Hit]:
    """option(USE_CUDA), if(USE_CUDA) ... endif() without the target beside them."""
    hits: list[Hit] = []
    options: list[tuple[int, frozenset[str]]] = []
    stack: list[tuple[list[int], frozenset[str]]] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        match = _CMAKE_IF.match(_COMMENT.sub("", raw))
        if not match:
            continue
        word = match.group(1).lower()
        words = frozenset(w for name in re.findall(r"\w+", match.group(2)) for w in words_of(name)) & _WORDS
        if word == "option":
            if words:
                options.append((number, words))
        elif word == "if":
            stack.append(([number], words))
        elif word in ("elseif", "else") and stack:
            stack[-1] = ([*stack[-1][0], number], stack[-1][1] | (words if word == "elseif" else frozenset()))
        elif word == "endif" and stack:
            spots, words = stack.pop()
            if words and words - SOFT and not words & target.native_words:
                places = [spots[0], spots[-1], number] if number - spots[0] > 3 else [spots[0]]
                places = list(dict.fromkeys(places))
                hits += [
                    Hit(
                        line=at,
                        end_line=number if len(places) == 1 else at,
                        column=0,
                        kind="branch.missing",
                        symbol="if(" + "/".join(sorted(words)) + ")",
                    )
                    for at in places
                ]
    known = frozenset[str]().union(*(words for _, words in options)) if options else frozenset()
    if options and not known & target.native_words:
        hits += [
            Hit(line=at, end_line=at, column=0, kind="branch.list", symbol="option of " + "/".join(sorted(words)))
            for at, words in options
        ]
    return hits
