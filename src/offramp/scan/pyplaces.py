"""Places beside the code itself: where a device helper is imported, and texts that speak of CUDA."""

from __future__ import annotations

import ast
import re
from typing import Final

from offramp.scan.finding import Hit
from offramp.scan.pyfile import Ctx, PyFile, token_lines
from offramp.scan.pynamed import is_device_module
from offramp.scan.spoken import TOKENS, Spoken, knows, lines_of, spoken_names, spoken_text
from offramp.scan.symbols import BUILDS
from offramp.scan.words import device_words


def import_site(file: PyFile) -> None:
    """The last import of a module whose device calls need a helper: a port adds its import there."""
    if not file.last_import or file.target.torch_cuda_api:
        return
    if file.hits:
        helper_imports(file)
    if any(hit.kind in _NEEDS for hit in file.hits):
        first, line = _local_imports(file)
        if not any(hit.line <= line <= hit.end_line or hit.kind == "branch.import" for hit in file.hits):
            file.add(ast.Pass(), "import.site", "import of the device helper", ctx=Ctx(), span=(first, line))


def helper_imports(file: PyFile) -> None:
    """Imports from modules that choose devices: where a port takes the next helper from."""
    for stmt in file.tree.body:
        if isinstance(stmt, ast.ImportFrom) and is_device_module(file, stmt):
            names = frozenset[str]().union(*(device_words(alias.name) for alias in stmt.names))
            if not file.target.covers(names):
                leaf = (stmt.module or "").rsplit(".", 1)[-1]
                file.add(stmt, "import.site", f"import from {leaf}", ctx=Ctx())


_NEEDS: Final = frozenset(
    {
        "branch.missing", "torch.cuda", "torch.memory", "torch.stream", "device.string", "device.method", "torch.amp",
        "dist.backend", "device.compare", "device.mark", "device.index", "branch.list",
    }
)  # fmt: skip
"""Classes whose replacement needs a device helper."""


def mentions(file: PyFile) -> None:
    """Names, messages, comments and docstrings that speak of CUDA or GPUs, in modules that have other findings."""
    if not file.hits or (file.target.torch_cuda_api and not BUILDS.search(file.text)):
        return
    taken = lines_of((hit.line, hit.end_line) for hit in file.hits)
    lines = file.text.split("\n")
    inside = lines_of(file.docstrings, longest=len(lines) + 1)
    for line in token_lines(file.text, TOKENS):
        if line in taken or knows(lines[line - 1], file.target.words):
            continue
        found = _spoken(lines[line - 1], is_text=line in inside)
        if found:
            file.hits.append(
                Hit(line=line, end_line=line, column=0, kind=found.kind, symbol=found.symbol, also=found.also)
            )


def _spoken(text: str, *, is_text: bool) -> Spoken | None:
    if is_text:
        return spoken_text(text)
    code, _, comment = _STRINGS.sub(_blank, text).partition("#")
    return spoken_names(code) or spoken_text(text[: len(code)]) or (spoken_text(comment) if comment else None)


def _blank(match: re.Match[str]) -> str:
    return match.group()[0] + " " * (len(match.group()) - 2) + match.group()[-1]


_STRINGS: Final = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")


def _local_imports(file: PyFile) -> tuple[int, int]:
    """The block at the end of the imports that takes from the tree itself; its last line when there is none."""
    first = file.last_import
    for stmt in reversed(file.tree.body):
        if isinstance(stmt, ast.ImportFrom) and stmt.lineno <= first + 1:
            root = (stmt.module or "").split(".")[0]
            if stmt.level or root in file.local:
                first = min(first, stmt.lineno)
    return first, file.last_import
