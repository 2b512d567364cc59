"""Python that does not parse (Python 2, templates, broken files): strings and comments are told apart, nothing more."""

from __future__ import annotations

import re
from typing import Final

from offramp.scan import symbols
from offramp.scan.finding import Hit
from offramp.scan.pyfile import short
from offramp.scan.target import Target
from offramp.scan.words import device_name

_TOKEN: Final = re.compile(
    r"(?P<comment>\#[^\n]*)"
    r"|(?P<triple>[rRbBuUfF]{0,2}(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''))"
    r"|(?P<string>[rRbBuUfF]{0,2}(?:\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'))"
    r"|(?P<chain>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)",
    re.DOTALL,
)
_PY2: Final = re.compile(
    r"^\s*(?:print\s+[^(=\s]|exec\s+['\"]|raise\s+\w+\s*,|except\s+\w+\s*,\s*\w+\s*:)", re.MULTILINE
)


def looks_like_python2(text: str) -> bool:
    """True when print, exec, raise or except are written the Python 2 way."""
    return bool(_PY2.search(text))


def scan_tokens(text: str, *, target: Target) -> list[Hit]:
    """Hits by tokens: dotted torch.cuda paths, ``.cuda``, device strings, environment names, imports."""
    hits: list[Hit] = []
    line, at = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        kind = match.lastgroup
        found: tuple[str, str] | None = None
        if kind == "chain":
            found = _chain(re.sub(r"\s", "", match.group()))
        elif kind == "string":
            found = _string(match.group().lstrip("rRbBuUfF")[1:-1])
        if found and symbols.needed(found[0], target):
            hits.append(
                Hit(line=line, end_line=line, column=0, kind=found[0], symbol=short(found[1]), note="by tokens")
            )
    return hits


def _chain(path: str) -> tuple[str, str] | None:
    kind = symbols.kind_of(path)
    if kind:
        return kind, path
    if path.endswith(".cuda"):
        return "device.method", ".cuda()"
    if path.endswith(".is_cuda"):
        return "device.compare", "is_cuda"
    root = path.split(".")[0]
    if root in symbols.packages() and root not in ("triton", "nvtx", "warp", "awq", "fla", "cutlass"):
        return "lib.import", root
    return None


def _string(text: str) -> tuple[str, str] | None:
    if device_name(text) == "cuda":
        return "device.string", f'"{text}"'
    if text.lower() == "nccl":
        return "dist.backend", '"nccl"'
    if symbols.ENV_NAME.match(text):
        return "env", text
    return None
