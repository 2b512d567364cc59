"""Python files to FileScan: parse, resolve, walk; a tokenised reading where the parser gives up."""

from __future__ import annotations

import ast
import warnings
from typing import Final

import msgspec

from offramp.scan import pybranch, pydetect, pynamed, pytokens, pytriton, symbols
from offramp.scan.finding import FileNote, FileScan, Hit, Role, also_of
from offramp.scan.pyalias import collect_imports
from offramp.scan.pyfile import PyFile, has_token
from offramp.scan.target import Target
from offramp.scan.words import words_of


def scan_python(
    path: str,
    text: str,
    *,
    role: Role,
    target: Target,
    extra: dict[str, str] | None = None,
    local: frozenset[str] = frozenset(),
) -> FileScan:
    """What one Python module holds.

    Args:
        local: top-level packages of the tree itself.
        extra: aliases that other modules of the tree give to names imported here ("dev": "torch.cuda").
    """
    lines = text.count("\n") + 1
    if not extra and not has_token(text) and not words_of(path) & target.words:
        names, wants = _quick_imports(path, text)
        return FileScan(path=path, kind="python", role=role, lines=lines, imports=names, wants=wants)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _by_tokens(path, text, role=role, target=target, error=error)
    file = PyFile(path, text, target=target, tree=tree, local=local)
    collect_imports(file)
    if extra:
        file.aliases.update(extra)
        file.exports.update(extra)
        file.add_triggers(list(extra))
    try:
        pydetect.walk(file)
        pybranch.check_module(file)
        pynamed.check_families(file)
        pynamed.check_sibling_imports(file)
        pytriton.check(file)
    except RecursionError as error:  # ast.dump and ast.walk on hostile nesting
        return _by_tokens(path, text, role=role, target=target, error=error)
    builds = role == "build" or bool(symbols.BUILDS.search(text))
    hits = merge_runs(merge_lines([hit for hit in file.hits if symbols.wanted(hit, target, builds=builds)]))
    return FileScan(
        path=path,
        kind="python",
        role=role,
        lines=lines,
        hits=tuple(hits),
        snippets=snippets(text, hits),
        notes=tuple(file.notes),
        imports=tuple(dict.fromkeys(file.imports)),
        exports=file.exports,
        wants=file.wants,
        is_entry="__main__" in text and "__name__" in text,
        census=pytriton.census(file),
    )


def _by_tokens(path: str, text: str, *, role: Role, target: Target, error: BaseException) -> FileScan:
    deep = isinstance(error, (RecursionError, MemoryError)) or "too many nested" in str(error)
    python2 = pytokens.looks_like_python2(text)
    kind = "deep-nesting" if deep else "python2" if python2 else "syntax-error"
    said = "nested too deeply for the parser" if deep else "Python 2" if python2 else f"does not parse: {error}"
    hits = merge_lines(pytokens.scan_tokens(text, target=target))
    return FileScan(
        path=path,
        kind="python",
        role=role,
        lines=text.count("\n") + 1,
        hits=tuple(hits),
        snippets=snippets(text, hits),
        notes=(FileNote(path=path, kind=kind, text=f"{said}; read by tokens, without aliases and guards"),),
    )


def _quick_imports(path: str, text: str) -> tuple[tuple[str, ...], dict[str, tuple[str, str]]]:
    """Imports of a module without a word on devices, by lines: enough for the import graph, no parse."""
    found: list[str] = []
    wants: dict[str, tuple[str, str]] = {}
    package = path.removesuffix(".py").removesuffix("/__init__").split("/")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith("import "):
            found.extend(part.split(" as ")[0].strip() for part in stripped[7:].split("#")[0].split(","))
        elif stripped.startswith("from ") and " import " in stripped:
            module, _, names = stripped[5:].partition(" import ")
            module = module.strip()
            dots = len(module) - len(module.lstrip("."))
            if dots:
                module = ".".join([*package[: len(package) - dots + 1], *filter(None, [module.lstrip(".")])])
            found.append(module)
            for part in names.split("#")[0].split(","):
                name, _, alias = part.strip(" ()").partition(" as ")
                if name:
                    found.append(f"{module}.{name.strip()}")
                    wants[(alias or name).strip()] = (module, name.strip())
    return tuple(dict.fromkeys(name for name in found if name)), wants


PRIORITY = {
    "branch.missing": 0, "branch.stub": 0, "branch.list": 1, "branch.import": 2, "lib.import": 3, "build.ext": 3,
    "cuda.source": 3, "triton": 3,
    "torch.cuda": 4, "torch.memory": 4, "torch.stream": 4, "torch.amp": 4, "torch.backends": 4, "dist.backend": 5,
    "device.compare": 5, "device.method": 6, "device.string": 7, "env": 7, "numerics": 8, "name.cuda": 9,
    "branch.trait": 8, "import.site": 10, "device.index": 10, "text.mention": 11,
}  # fmt: skip


def merge_lines(hits: list[Hit]) -> list[Hit]:
    """One hit a line: the most telling symbol, the others in ``also``."""
    by_line: dict[int, list[Hit]] = {}
    for hit in hits:
        by_line.setdefault(hit.line, []).append(hit)
    merged: list[Hit] = []
    for line in sorted(by_line):
        group = sorted(by_line[line], key=lambda hit: (PRIORITY.get(hit.kind.split(":")[0], 6), hit.column, hit.symbol))
        head = group[0]
        also, also_lines = also_of(head, group[1:])
        merged.append(
            Hit(
                line=head.line,
                end_line=max(hit.end_line for hit in group) if head.end_line - head.line < 30 else head.end_line,
                column=head.column,
                kind=head.kind,
                symbol=head.symbol,
                guarded=all(hit.guarded for hit in group),
                note=head.note,
                context=head.context,
                also=also,
                hint=head.hint,
                related=head.related,
                also_lines=also_lines,
            )
        )
    return merged


RUNS: Final = frozenset(
    {
        "torch.cuda", "torch.memory", "torch.stream", "torch.amp", "device.method", "device.string", "name.cuda", "env",
        "numerics", "torch.backends", "lib.import", "text.mention",
    }
)  # fmt: skip


def merge_runs(hits: list[Hit]) -> list[Hit]:
    """Joins neighbouring lines of one class in one function into one place with its span."""
    merged: list[Hit] = []
    for hit in hits:
        last = merged[-1] if merged else None
        if (
            last is not None
            and hit.kind == last.kind in RUNS
            and hit.guarded == last.guarded
            and hit.context == last.context
            and hit.line - last.end_line <= (4 if hit.kind == "text.mention" else 2)
        ):
            also, also_lines = also_of(last, [hit])
            merged[-1] = msgspec.structs.replace(
                last, end_line=max(last.end_line, hit.end_line), also=also, also_lines=also_lines
            )
        else:
            merged.append(hit)
    return merged


def snippets(text: str, hits: list[Hit]) -> tuple[str, ...]:
    """The stripped source line of each hit, cut at 160 characters."""
    lines = text.split("\n")
    return tuple(lines[hit.line - 1].strip()[:160] if hit.line <= len(lines) else "" for hit in hits)
