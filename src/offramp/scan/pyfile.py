"""One Python file on its way through the detectors: tree, aliases, lines worth a look, hits so far."""

from __future__ import annotations

import ast
import bisect
from functools import lru_cache
from typing import Final, NamedTuple

from offramp.scan.finding import FileNote, Hit
from offramp.scan.target import Target, read_rows
from offramp.scan.words import words_of

TOKENS: Final = tuple(
    (
        b"cuda gpu nccl nvidia nvtx nvml nvcc cudnn cublas nvlink rocm hip xpu npu mlu musa hpu tpu mps xla ascend "
        b"hccl cncl ipex triton tl. flash xformers apex amp_c transformer_engine bitsandbytes deep_gemm deepgemm "
        b"deep_ep deepep cupy numba tensorrt dali faiss gptq awq mamba causal_conv liger sgl_kernel nvshmem "
        b"modelopt spconv tilelang cutlass cudf cuml warp float64 double complex float8 channels_last tf32 "
        b"matmul_precision dataparallel cpp_extension jit. compile reduceop embedding_bag gumbel pdist torch.func "
        b"dlpack distributedtype accelerator inductor h100 a100 h20 h800 v100 a800 sm_ extension collective "
        b"block_size max_fused [grid] rank device_map device_ids torch.device( isinf isnan linalg. torch.sign( "
    ).split()
)
"""Lower-case tokens of a cheap first look: only subtrees that touch a line with one of these are walked."""


@lru_cache(maxsize=1)
def operator_tokens() -> tuple[bytes, ...]:
    """The last names of operators that a vendor's list calls unsupported, where they are no common words."""
    leaves = {row["symbol"].rsplit(".", 1)[-1].lower() for row in read_rows("operators.csv")}
    return tuple(sorted(leaf.encode() for leaf in leaves if "_" in leaf or len(leaf) > LONG_NAME))


LONG_NAME: Final = 8
"""Shorter names without an underscore are words that stand everywhere ("load", "enable")."""


def has_token(text: str) -> bool:
    """True when a text holds any of the tokens."""
    low = text.encode("utf-8", "surrogatepass").lower()
    return any(token in low for token in TOKENS) or (
        b"torch" in low and any(token in low for token in operator_tokens())
    )


def token_lines(text: str, tokens: tuple[bytes, ...]) -> list[int]:
    """Lines that hold one of the tokens, ascending. Plain searches: far faster than one large alternation."""
    low = text.encode("utf-8", "surrogatepass").lower()
    offsets: set[int] = set()
    for token in tokens:
        at = low.find(token)
        while at >= 0:
            offsets.add(at)
            end = low.find(b"\n", at)
            at = low.find(token, end) if end >= 0 else -1
    lines: list[int] = []
    line, done = 1, 0
    for at in sorted(offsets):
        line += low.count(b"\n", done, at)
        done = at
        if not lines or lines[-1] != line:
            lines.append(line)
    return lines


LONGEST_SYMBOL: Final = 200
"""A longer name is shown by its beginning."""


def short(symbol: str) -> str:
    """The symbol, cut where no one would read on."""
    return symbol if len(symbol) <= LONGEST_SYMBOL else symbol[:LONGEST_SYMBOL] + "..."


class Ctx(NamedTuple):
    """Where the walker stands.

    Attributes:
        guard: inside a device check or behind one.
        scope: qualified name of the function or class.
        role: what the parent does with the value ("compare", "test", "docstring" ...).
        trying: inside a try whose handlers catch a failed import.
        covered: inside a chain or list that was already reported, or that knows the target.
    """

    guard: bool = False
    scope: str = ""
    role: str = ""
    trying: bool = False
    covered: bool = False


class PyFile:
    """Working state for one module. Lines are 1-based throughout.

    ``local`` holds the top-level packages of the tree itself: importing those is no dependency.
    """

    def __init__(
        self, path: str, text: str, *, target: Target, tree: ast.Module, local: frozenset[str] = frozenset()
    ) -> None:
        self.path = path
        self.text = text
        self.target = target
        self.tree = tree
        self.local = local
        self.is_target_file = not target.torch_cuda_api and bool(words_of(path) & target.words)
        self.aliases: dict[str, str] = {}
        self.imports: list[str] = []
        self.exports: dict[str, str] = {}
        self.wants: dict[str, tuple[str, str]] = {}
        self.hits: list[Hit] = []
        self.docstrings: list[tuple[int, int]] = []
        self.notes: list[FileNote] = []
        self.last_import = 0
        self.has_entry = False
        self.triggers = token_lines(text, (*TOKENS, *operator_tokens()) if "torch" in text else TOKENS)

    def add_triggers(self, names: list[str]) -> None:
        """Makes lines that speak of these names worth a look (aliases of CUDA modules)."""
        if names:
            tokens = tuple(name.lower().encode() for name in names)
            self.triggers = sorted({*self.triggers, *token_lines(self.text, tokens)})

    def touches(self, first: int, last: int) -> bool:
        """True when a line worth a look lies between the two."""
        at = bisect.bisect_left(self.triggers, first)
        return at < len(self.triggers) and self.triggers[at] <= last

    def has_word(self, word: str) -> bool:
        """True when the module imports this top-level package."""
        return any(name == word or name.startswith(word + ".") for name in self.imports)

    def add(
        self,
        node: ast.AST,
        kind: str,
        symbol: str,
        *,
        ctx: Ctx,
        note: str = "",
        hint: str = "",
        span: tuple[int, int] | None = None,
    ) -> None:
        """Records a hit at the node, or at ``span``."""
        first = span[0] if span else getattr(node, "lineno", 1)
        last = span[1] if span else (getattr(node, "end_lineno", None) or first)
        column = 0 if span else getattr(node, "col_offset", 0)
        self.hits.append(
            Hit(
                line=first,
                end_line=max(first, last),
                column=column,
                kind=kind,
                symbol=short(symbol),
                guarded=ctx.guard,
                note=note,
                context=ctx.scope,
                hint=hint,
            )
        )


def line_starts(text: str) -> list[int]:
    """Offsets at which lines begin."""
    starts = [0]
    at = text.find("\n")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


def dotted(node: ast.AST) -> str:
    """The source form of a name or attribute chain ("self.model.cuda"), or ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
        return ".".join(reversed(parts))
    return ""


def resolve(file: PyFile, node: ast.AST) -> str:
    """The dotted path that a name, attribute chain or getattr stands for, aliases undone; "" where unknown."""
    parts: list[str] = []
    while True:
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Call):
            inner = _called_module(file, node)
            if not inner:
                return ""
            parts.append(inner)
            return ".".join(reversed(parts))
        elif isinstance(node, ast.Name):
            base = file.aliases.get(node.id, "")
            if not base:
                return ""
            parts.append(base)
            return ".".join(reversed(parts))
        else:
            return ""


def _called_module(file: PyFile, call: ast.Call) -> str:
    """The module behind getattr(torch, "cuda"), import_module("torch.cuda") or __import__("torch")."""
    name = dotted(call.func)
    texts = [arg.value if isinstance(arg, ast.Constant) and isinstance(arg.value, str) else None for arg in call.args]
    if name == "getattr" and len(call.args) >= 2 and texts[1]:
        base = resolve(file, call.args[0])
        return f"{base}.{texts[1]}" if base else ""
    if name in ("importlib.import_module", "import_module", "__import__") and texts and texts[0]:
        return texts[0]
    return ""
