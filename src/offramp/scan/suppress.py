"""Inline suppressions: ``# offramp: ignore`` or ``# offramp: ignore[torch.cuda, env]`` on the line or above it."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from offramp.scan.finding import FileScan

_MARK: Final = re.compile(r"(?:#|//|/\*|--|;)\s*offramp:\s*ignore(?:-file)?(?:\[([^\]]*)\])?", re.IGNORECASE)
_FILE: Final = re.compile(r"offramp:\s*ignore-file(?:\[([^\]]*)\])?", re.IGNORECASE)


def drop_suppressed(scan: FileScan, text: str) -> FileScan:
    """The scan without the hits that the file itself suppresses."""
    if "offramp:" not in text or not scan.hits:
        return scan
    lines = text.split("\n")
    whole = _FILE.search(text[:4000])
    kept = []
    for hit, snippet in zip(scan.hits, scan.snippets, strict=True):
        if whole and _names(whole.group(1), hit.kind):
            continue
        if not _suppressed(lines, hit.line, hit.kind):
            kept.append((hit, snippet))
    return msgspec.structs.replace(scan, hits=tuple(hit for hit, _ in kept), snippets=tuple(text for _, text in kept))


def _suppressed(lines: list[str], line: int, kind: str) -> bool:
    here = lines[line - 1] if line <= len(lines) else ""
    above = lines[line - 2] if line >= 2 else ""
    for text, alone in ((here, False), (above, True)):
        match = _MARK.search(text)
        if match and (not alone or not text[: match.start()].strip()) and _names(match.group(1), kind):
            return True
    return False


def _names(listed: str | None, kind: str) -> bool:
    if listed is None:
        return True
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return any(kind == name or kind.startswith(name + ".") for name in names)
