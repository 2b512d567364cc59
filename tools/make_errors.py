"""Writes docs/errors.md from core/errors.py and from every place of the code that raises one (``make docs``)."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Final, NamedTuple

from offramp.core import errors

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "errors.md"
CLASSES: Final = ("InputError", "CatalogError", "ModelRangeError", "InfeasibleError", "BackendError")
HEAD: Final = """# Errors and exit codes

An error is one line: where it is, what is wrong, how to mend it. No traceback is shown.

    offramp: study.toml:$.workload[0].slo.ttft_p92: unknown key "ttft_p92". Near matches: ttft_p99, ttft_p95, ttft_p90, ttft_p50.

| exit code | class | meaning |
|---|---|---|
| 0 | | answered; warnings are part of the answer (`warnings` in `--json`) |
{rows}
| 130 | | stopped with Ctrl-C |

`offramp check STUDY.toml` lists every problem of a study at once, each with its path, reason and near miss; it exits with 2
when one of them is an error and with 0 when all are warnings.

A chip on which a workload cannot run is not an error: it is an answer, with its blockers. The Result's `status` is "partial"
when part of the question could not be answered at all.

A full disk, a kill or a crash leaves no half-written file. Finished parts are kept, and the same command goes on from there.

## Every error

This list is made from the code by `make docs`. "…" stands for what your file or value says.
"""


class Said(NamedTuple):
    """One error of the code: its class, the layer that raises it, what it says and how to mend it."""

    kind: str
    layer: str
    what: str
    mend: str


def found() -> list[Said]:
    """Every error whose text stands in the code, once."""
    out: list[Said] = []
    for file in sorted((ROOT / "src" / "offramp").rglob("*.py")):
        layer = file.relative_to(ROOT / "src" / "offramp").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES and node.args:
                what = _text(node.args[0])
                mend = next((_text(word.value) for word in node.keywords if word.arg == "mend"), "")
                if re.search(r"[a-z]{3}", what):
                    out.append(Said(node.func.id, layer, what, mend))
    return sorted(set(out), key=lambda said: (CLASSES.index(said.kind), said.layer, said.what))


def _text(node: ast.expr) -> str:
    """A text of the code with "…" for everything that is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.BoolOp):
        return " or ".join(dict.fromkeys(filter(None, (_text(part) for part in node.values))))
    if isinstance(node, ast.IfExp):
        return " or ".join(dict.fromkeys(filter(None, (_text(node.body), _text(node.orelse)))))
    return "…"


def page() -> str:
    """The whole page."""
    kinds = [errors.OfframpError, *(getattr(errors, name) for name in CLASSES)]
    rows = "\n".join(f"| {kind.exit_code} | {kind.__name__} | {_meaning(kind)} |" for kind in kinds)
    parts = [HEAD.format(rows=rows)]
    said = found()
    for name in CLASSES:
        mine = [entry for entry in said if entry.kind == name]
        parts.append(f"\n### {name} ({getattr(errors, name).exit_code})\n")
        for layer in dict.fromkeys(entry.layer for entry in mine):
            parts.append(f"\n#### {layer}\n\n")
            parts += [f"- {_line(entry)}\n" for entry in mine if entry.layer == layer]
    return "".join(parts)


def _meaning(kind: type[errors.OfframpError]) -> str:
    if kind is errors.OfframpError:
        return "any other error that offramp raises on purpose"
    text = inspect.getdoc(kind) or ""
    return text[:1].lower() + text[1:].rstrip(".").replace(
        "the user's file, flag or value", "a file, flag or value of yours"
    )


def _line(entry: Said) -> str:
    mend = f" *{entry.mend.strip()}*" if re.search(r"[A-Za-z]{3}", entry.mend) else ""
    return re.sub(
        r"\s+", " ", f"{entry.what.strip()}.{mend}".replace("<", "&lt;").replace("..", ".").replace("?.", "?")
    )


if __name__ == "__main__":
    PAGE.write_text(page().rstrip() + "\n", encoding="utf-8")
