"""Writes the reference pages that come from the code: docs/study.md, docs/commands.md and docs/schema (``make docs``)."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

import click

from offramp.app.schema import schema
from offramp.cli import root

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
NOTE: Final = "This page is made from the code by `make docs`."
STUDY_HEAD: Final = f"""# The study file

One TOML file holds the question. `offramp check STUDY.toml` names every mistake in a file with its path, its reason and
the nearest key; `offramp schema study` prints what follows as a JSON Schema for editors; `offramp init` drafts a file
from what a cluster already knows; `examples/` holds files to start from. {NOTE}

- Quantities are text with a unit (`"20 MW"`, `"50 ms"`, `"0.40 CNY/kWh"`, `"10 %"`); quarters are `"2027Q1"`.
- File names (`trace`, `model`, `include`) are relative to the study file.
- `include = ["base.toml"]` builds on other files: tables are merged key by key, lists of tables by their `id`.
- `--set path=value` changes one value for one run: `--set workload.chat.peak_to_mean=3`.
"""
COMMANDS_HEAD: Final = f"""# Commands

Every command prints its answer to stdout and its progress to stderr, and explains itself with `--help`. `--json`
prints the Result as `offramp schema result` describes it. Exit codes are in [errors.md](errors.md). {NOTE}
"""


def study_page() -> str:
    """The page on every key of the study file."""
    definitions = schema("study")["$defs"]
    parts = [STUDY_HEAD]
    for key, value in definitions["Study"]["properties"].items():
        many = value.get("type") == "array"
        parts += _section(f"[[{key}]]" if many else f"[{key}]", _target(value), definitions, prefix=key)
    return "\n".join(parts)


def _section(title: str, name: str, definitions: dict[str, Any], *, prefix: str) -> list[str]:
    """A heading and a table for one record, then those of the records inside it."""
    body = definitions[name]
    about = body["description"].split(": ", 1)[-1] if body["description"].startswith("[") else body["description"]
    lines = [f"## `{title}`", "", about[:1].upper() + about[1:], ""]
    lines += ["| key | value | without it | meaning |", "|---|---|---|---|"]
    required = body.get("required", [])
    inner: list[str] = []
    for key, value in body["properties"].items():
        below = _target(value)
        if below:
            inner += _section(f"{prefix}.{key}", below, definitions, prefix=f"{prefix}.{key}")
        meaning = value.get("description") or (f"see `{prefix}.{key}`" if below else "")
        default = "must be given" if key in required else _default(value, nested=bool(below))
        lines.append(f"| `{key}` | {_cell(_kind(value))} | {_cell(default)} | {_cell(_clean(meaning))} |")
    return [*lines, "", *inner]


def _target(value: dict[str, Any]) -> str:
    """The record that a key holds, or a list of, or empty."""
    for part in (value, value.get("items", {}), *value.get("anyOf", ())):
        if "$ref" in part:
            return part["$ref"].rsplit("/", 1)[-1]
    return ""


def _kind(value: dict[str, Any]) -> str:
    """What may stand there, in a few words."""
    if "anyOf" in value:
        kinds = [_kind(part) for part in value["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in value:
        return "table"
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    if value.get("type") == "array":
        return f"list of {_kind(value.get('items', {}))}"
    if isinstance(extra := value.get("additionalProperties"), dict):
        return f"table of {_kind(extra)}"
    if examples := value.get("examples"):
        return f"as `{json.dumps(examples[0], ensure_ascii=False)}`"
    return _plain_kind(value)


def _plain_kind(value: dict[str, Any]) -> str:
    """The kind of a plain value, with its range."""
    kind = value.get("type")
    names = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    if value.get("format") == "date":
        return "date"
    if value.get("pattern") == "^[A-Z]{2}$":
        return "two-letter country code"
    low = value.get("minimum", value.get("exclusiveMinimum"))
    high = value.get("maximum")
    more = f" above {low:g}" if "exclusiveMinimum" in value else f" from {low:g}" if low is not None else ""
    return f"{names.get(str(kind), str(kind))}{more}{f' to {high:g}' if high is not None else ''}"


def _default(value: dict[str, Any], *, nested: bool) -> str:
    """What holds where the key is left out."""
    default = value.get("default")
    if nested or default is None or default in ("", [], (), {}):
        return ""
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _clean(text: str) -> str:
    """A docstring's sentence without the words that are for programmers."""
    if text.startswith('(key "'):
        text = text.split(")", 1)[1].strip()
    elif text.startswith('(train; key "'):
        text = "(train) " + text.split(")", 1)[1].strip()
    return text.replace("``", "`").replace("None is no limit", "no limit where absent")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def commands_page() -> str:
    """The page on every command with all its arguments and options."""
    parts = [COMMANDS_HEAD]
    context = click.Context(root, info_name="offramp")
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if command is not None:
            parts += _command(command, f"offramp {name}", context)
    return "\n".join(parts)


def _command(command: click.Command, title: str, parent: click.Context) -> list[str]:
    """Usage, help and options of a command, then of the commands inside it."""
    context = click.Context(command, info_name=title.rsplit(" ", 1)[-1], parent=parent)
    usage = " ".join([title, *command.collect_usage_pieces(context)])
    lines = [f"## {title}", "", f"    {usage}", "", *_paragraphs(command.help or ""), ""]
    records = [record for param in command.params if (record := param.get_help_record(context)) and record[1]]
    lines += [f"- `{names}`: {about}" for names, about in records]
    lines += [""] if records else []
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                lines += _command(below, f"{title} {name}", context)
    return lines


def _paragraphs(text: str) -> list[str]:
    """The help text; parts that click leaves as they are written become indented blocks."""
    lines: list[str] = []
    for block in inspect.cleandoc(text).split("\n\n"):
        kept = block.startswith("\b")
        lines += [f"    {line.strip()}" if kept else line for line in block.replace("\b", "").strip("\n").splitlines()]
        lines.append("")
    return lines[:-1]


def main() -> None:
    """Writes both pages and both schemas."""
    for name, page in (("study.md", study_page()), ("commands.md", commands_page())):
        (DOCS / name).write_text(page.rstrip() + "\n", encoding="utf-8")
    for name in ("study", "result"):
        text = json.dumps(schema(name), indent=2)
        (DOCS / "schema" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
