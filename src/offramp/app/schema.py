"""schema: JSON Schema of the study file and of the Result, made from the records."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from offramp import __version__
from offramp.app.study import Study
from offramp.core.result import Result

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(name: Literal["study", "result"] = "study") -> dict[str, Any]:
    """The JSON Schema of the study file, or of the Result that every command returns."""
    kind = Study if name == "study" else Result
    body = _as_written(msgspec.json.schema(kind))
    title = "offramp study" if name == "study" else "offramp Result"
    top: dict[str, Any] = {"$schema": DIALECT, "title": title, "x-offramp-version": __version__, **body}
    if name == "study":
        top["$defs"] = {key: _documented(key, value) for key, value in body["$defs"].items()}
    return top


def _as_written(node: Any) -> Any:
    """The schema with quantities as they are written in the file (text), not as they are kept (numbers)."""
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _as_written(value) for key, value in node.items() if key != "x-written-as"}
    if "x-written-as" in node:
        out = {key: value for key, value in out.items() if not key.lower().endswith(("minimum", "maximum"))}
        out["type"] = node["x-written-as"]
    return out


def _documented(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """A record's schema with the docstring's sentence on each of its keys."""
    from offramp.app import study, study_settings

    record = getattr(study, name, None) or getattr(study_settings, name, None)
    text = (record.__doc__ or "") if record is not None else ""
    head, _, listing = text.partition("Attributes:")
    said = _attribute_lines(listing)
    names = {f.encode_name: f.name for f in msgspec.structs.fields(record)} if record is not None else {}
    properties = {
        key: {**value, "description": said[names[key]]} if names.get(key) in said and "$ref" not in value else value
        for key, value in body.get("properties", {}).items()
    }
    return {**body, "description": " ".join(head.split()), "properties": properties}


def _attribute_lines(listing: str) -> dict[str, str]:
    """Sentence by attribute name from the Attributes part of a docstring."""
    found: dict[str, str] = {}
    current: list[str] = []
    for line in listing.splitlines():
        stripped = line.strip()
        names, colon, text = stripped.partition(":")
        if colon and line.startswith("        ") and not line.startswith("         "):
            current = [name.strip() for name in names.split(",")]
            found.update(dict.fromkeys(current, text.strip()))
        elif stripped and current:
            found.update({name: f"{found[name]} {stripped}" for name in current})
    return found
