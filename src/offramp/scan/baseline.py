"""Baseline: findings that are known and accepted, by fingerprint; only what is new is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from offramp.core.errors import BackendError, InputError
from offramp.scan.finding import Finding

FORMAT = "offramp-scan-baseline/1"


def read_baseline(path: Path) -> frozenset[str]:
    """Fingerprints in a baseline file, or in the JSON of an earlier scan.

    Raises:
        InputError: not such a file.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        rows = (
            content["fingerprints"]
            if "fingerprints" in content
            else [row["fingerprint"] for row in (content["places"] if "places" in content else content["findings"])]
        )
        return frozenset(str(row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"is not a baseline: {error}",
            where=str(path),
            mend="Delete it and scan again with --baseline to write a new one.",
        ) from None


def write_baseline(path: Path, findings: list[Finding], *, target: str) -> None:
    """Writes the fingerprints of these findings, sorted, one a line, so that version control shows what changed."""
    content = {
        "format": FORMAT,
        "target": target,
        "fingerprints": sorted(finding.fingerprint for finding in findings),
    }
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BackendError(f"cannot be written: {error.strerror}", where=str(path)) from None
