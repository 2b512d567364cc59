"""SARIF 2.1.0: results with rules, fingerprints, fixes and the evidence row as a related location."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from offramp import __version__
from offramp.scan.finding import FileNote, Finding
from offramp.scan.judge import classes

if TYPE_CHECKING:
    from offramp.scan.fix import Edit

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
LEVEL: Final = {"first-run": "error", "full-speed": "warning", "later": "note"}


def to_sarif(
    findings: list[Finding],
    notes: list[FileNote],
    *,
    replacements: dict[str, list[Edit]] | None = None,
) -> dict[str, Any]:
    """A SARIF log of one run.

    Args:
        replacements: fingerprint -> edits that belong together, for findings that --fix rewrites.
    """
    kinds = sorted({finding.kind for finding in findings})
    index = {kind: at for at, kind in enumerate(kinds)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "offramp",
                        "semanticVersion": __version__,
                        "version": __version__,
                        "rules": [_rule(kind) for kind in kinds],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"SRCROOT": {"description": {"text": "The scanned folder."}}},
                "invocations": [
                    {"executionSuccessful": True, "toolExecutionNotifications": [_note(note) for note in notes]}
                ],
                "results": [
                    _result(finding, index[finding.kind], (replacements or {}).get(finding.fingerprint))
                    for finding in findings
                ],
            }
        ],
    }


def _rule(kind: str) -> dict[str, Any]:
    row = classes()[kind]
    return {
        "id": kind,
        "name": "".join(part.title() for part in kind.replace(".", "_").split("_")),
        "shortDescription": {"text": row["title"]},
        "fullDescription": {
            "text": row["message"]
            .replace("{symbol}", "it")
            .replace("{name}", "the target")
            .replace("{note}", "see the place")
        },
        "help": {"text": f"Replace it by: {row['replacement']}. docs/scan/{kind}.md has examples."},
        "defaultConfiguration": {"level": LEVEL[row["stage"]]},
        "properties": {"effort": row["effort"], "tags": ["portability", kind.split(".")[0]]},
    }


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe="/-._~")


def _place(path: str, line: int, end_line: int) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(path), "uriBaseId": "SRCROOT"},
            "region": {"startLine": line, "endLine": max(line, end_line)},
        }
    }


def _result(finding: Finding, rule_index: int, edits: list[Edit] | None) -> dict[str, Any]:
    related: list[dict[str, Any]] = []
    for at, line in enumerate(finding.related):
        place = _place(finding.path, line, line)
        related.append({"id": at + 1, "message": {"text": "belongs to it"}, **place})
    for place in finding.places:
        if place.line != finding.line:
            text = f"{place.symbol} ({place.kind}{', guarded' if place.guarded else ''})"
            related.append(
                {"id": len(related) + 1, "message": {"text": text}, **_place(finding.path, place.line, place.end_line)}
            )
    evidence = finding.evidence + ("" if finding.verified else " (unverified lead)")
    related.append(
        {
            "id": len(related) + 1,
            "message": {"text": f"evidence: {evidence}"},
            **_place(finding.path, finding.line, finding.line),
        }
    )
    result: dict[str, Any] = {
        "ruleId": finding.kind,
        "ruleIndex": rule_index,
        "level": LEVEL[finding.stage],
        "message": {"text": f"{finding.message}. Instead: {finding.replacement}. [{finding.effort}]"},
        "locations": [_place(finding.path, finding.line, finding.end_line)],
        "relatedLocations": related,
        "partialFingerprints": {"offramp/v1": finding.fingerprint},
        "properties": {
            "symbol": finding.symbol, "effort": finding.effort, "guarded": finding.guarded, "role": finding.role,
            "target": finding.target, "places": max(1, len(finding.places)), "stage": finding.stage,
            "replacement": finding.replacement, "evidence": evidence,
        },
    }  # fmt: skip
    if edits:
        result["fixes"] = [
            {
                "description": {"text": f"Use {finding.replacement}"},
                "artifactChanges": [
                    {
                        "artifactLocation": {"uri": _uri(finding.path), "uriBaseId": "SRCROOT"},
                        "replacements": [_replacement(edit) for edit in sorted(edits)],
                    }
                ],
            }
        ]
    return result


def _replacement(edit: Edit) -> dict[str, Any]:
    return {
        "deletedRegion": {
            "startLine": edit.line, "startColumn": edit.column + 1,
            "endLine": edit.end_line, "endColumn": edit.end_column + 1,
        },
        "insertedContent": {"text": edit.text},
    }  # fmt: skip


def _note(note: FileNote) -> dict[str, Any]:
    return {
        "level": "warning",
        "message": {"text": f"{note.kind}: {note.text}"},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": _uri(note.path or "."), "uriBaseId": "SRCROOT"}}}
        ],
    }
