"""Places beside the code itself: where a device helper is imported, and texts that speak of CUDA."""

from __future__ import annotations

import ast
import re
from typing import Final

from offramp.scan.pyfile import Ctx, PyFile, token_lines


def import_site(file: PyFile) -> None:
    """The last import of a module whose device calls need a helper: a port adds its import there."""
    if not file.last_import or file.target.torch_cuda_api:
        return
    needs = (
        "branch.missing",
        "torch.cuda",
        "torch.memory",
        "torch.stream",
        "device.string",
        "device.method",
        "torch.amp",
        "dist.backend",
    )
    if any(hit.kind in needs and not hit.guarded for hit in file.hits):
        first, line = _local_imports(file)
        if not any(hit.line <= line <= hit.end_line or hit.kind == "branch.import" for hit in file.hits):
            file.add(ast.Pass(), "import.site", "import of the device helper", ctx=Ctx(), span=(first, line))


def mentions(file: PyFile) -> None:
    """Comments and docstrings that speak of CUDA or NCCL, in modules that have other findings."""
    if not file.hits or file.target.torch_cuda_api:
        return
    taken = {line for hit in file.hits if hit.end_line - hit.line < 12 for line in range(hit.line, hit.end_line + 1)}
    lines = file.text.split("\n")
    inside = {line for first, last in file.docstrings for line in range(first, last + 1)}
    for line in token_lines(file.text, (b"cuda", b"nccl")):
        text = lines[line - 1]
        if line not in inside:
            _, mark, text = text.partition("#")
            if not mark:
                continue
        found = _SPOKEN.search(text)
        if found and line not in taken:
            file.add(ast.Pass(), "text.mention", found.group(), ctx=Ctx(), span=(line, line))


_SPOKEN: Final = re.compile(r"\b(?:CUDA|NCCL)\b", re.IGNORECASE)


def _local_imports(file: PyFile) -> tuple[int, int]:
    """The block at the end of the imports that takes from the tree itself; its last line when there is none."""
    first = file.last_import
    for stmt in reversed(file.tree.body):
        if isinstance(stmt, ast.ImportFrom) and stmt.lineno <= first + 1:
            root = (stmt.module or "").split(".")[0]
            if stmt.level or root in file.local:
                first = min(first, stmt.lineno)
    return first, file.last_import
