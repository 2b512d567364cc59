"""``--fix``: mechanical rewrites to device-agnostic torch, as text edits at the places that libcst finds.

An edit is made only where the program does the same as before on CPU and on CUDA: the accelerator's type falls back to
"cuda", and ``is_available`` is rewritten only when everything behind it is rewritten too.
"""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, ParentNodeProvider, PositionProvider

from offramp.core.errors import BackendError
from offramp.core.record import Record
from offramp.scan.finding import FileNote
from offramp.scan.fixable import AMP, BACKEND, CALLS, CONSTANT, DEFINITION, RAISES_ON_HOST, STRINGS
from offramp.scan.target import Target
from offramp.scan.tree import read_text, walk_tree

_DEVICE_KEYWORDS: Final = frozenset({"device", "device_type", "map_location"})
_DEVICE_FUNCTIONS: Final = frozenset({"torch.device", "torch.autocast", "torch.amp.autocast", "torch.amp.GradScaler"})
_LEFT: Final = re.compile(r"cuda|nccl|nvidia|nvtx|flash_attn|triton|pynvml|apex|xformers|\bgpu\b", re.IGNORECASE)
_MOCK: Final = re.compile(
    r"[\"']torch\.cuda\.(\w+)[\"']|(?:setattr|patch\.object)\(\s*torch\.cuda\s*,\s*[\"'](\w+)[\"']"
)


class Edit(NamedTuple):
    """Replace the text between two places (lines from 1, columns from 0)."""

    line: int
    column: int
    end_line: int
    end_column: int
    text: str
    symbol: str


class Patch(Record):
    """All fixes of a tree.

    Attributes:
        text: unified diff, to be applied with ``patch -p1`` or ``git apply``.
        skipped: why some files or symbols were left alone.
    """

    text: str
    files: int
    replacements: int
    skipped: tuple[str, ...] = ()


def fix_tree(root: Path, *, target: Target, torch: tuple[int, ...], write: bool = False) -> Patch:
    """The patch for every Python file of the tree; with ``write`` the files are changed too."""
    texts, mocked, skipped = _readable(root)
    parts: list[str] = []
    count = 0
    for path, (text, raw) in sorted(texts.items()):
        if target.torch_cuda_api:
            break
        try:
            edits = edits_for(text, torch=torch, mocked=mocked)
        except (cst.ParserSyntaxError, RecursionError, ValueError) as error:
            skipped.append(f"{path}: not parsed ({type(error).__name__})")
            continue
        if not edits:
            continue
        fixed = apply_edits(text, edits)
        parts.append(diff_of(path, text, fixed))
        count += len(edits)
        if write:
            _write(root if root.is_file() else root / path, fixed, raw)
    return Patch(text="".join(parts), files=len(parts), replacements=count, skipped=tuple(skipped))


def edits_by_path(root: Path, *, target: Target, torch: tuple[int, ...]) -> dict[str, list[Edit]]:
    """The edits that :func:`fix_tree` would make, by file."""
    texts, mocked, _ = _readable(root)
    if target.torch_cuda_api:
        return {}
    found: dict[str, list[Edit]] = {}
    for path, (text, _) in texts.items():
        try:
            found[path] = edits_for(text, torch=torch, mocked=mocked)
        except (cst.ParserSyntaxError, RecursionError, ValueError):
            continue
    return found


def _readable(root: Path) -> tuple[dict[str, tuple[str, bytes]], frozenset[str], list[str]]:
    """Python files that may be rewritten, names that tests replace, and what is left alone for that."""
    notes: list[FileNote] = []
    texts: dict[str, tuple[str, bytes]] = {}
    for item in walk_tree(root, notes):
        if item.kind == "python" and item.role not in ("vendored", "generated", "doc"):
            text, raw = read_text(root, item, notes)
            if "cuda" in text or "nccl" in text:
                texts[item.path] = (text, raw)
    mocked = {name for text, _ in texts.values() for match in _MOCK.finditer(text) for name in match.groups() if name}
    skipped = [
        f"torch.cuda.{name}: tests replace it by name" for name in sorted(mocked) if f"torch.cuda.{name}" in CALLS
    ]
    return texts, frozenset(mocked), skipped


def _write(path: Path, text: str, raw: bytes) -> None:
    """Writes the text with the line ends and the byte-order mark that the file had."""
    if b"\r\n" in raw:
        text = text.replace("\n", "\r\n")
    data = text.encode("utf-8")
    try:
        path.write_bytes(b"\xef\xbb\xbf" + data if raw.startswith(b"\xef\xbb\xbf") else data)
    except OSError as error:
        raise BackendError(f"cannot be written: {error.strerror}", where=str(path)) from None


def diff_of(path: str, before: str, after: str) -> str:
    """A unified diff of one file, with git's path prefixes."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), fromfile=f"a/{path}", tofile=f"b/{path}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text after all edits; they do not overlap."""
    lines = text.split("\n")
    for edit in sorted(edits, reverse=True):
        head = lines[edit.line - 1][: edit.column]
        tail = lines[edit.end_line - 1][edit.end_column :]
        lines[edit.line - 1 : edit.end_line] = (head + edit.text + tail).split("\n")
    return "\n".join(lines)


def edits_for(text: str, *, torch: tuple[int, ...], mocked: frozenset[str] = frozenset()) -> list[Edit]:
    """The edits of one module; empty when nothing can be rewritten safely.

    Raises:
        libcst.ParserSyntaxError: the module does not parse.
        ValueError: it nests too deeply, or its lines are too long, for libcst's parser, which dies of such files.
    """
    if not is_plain(text):
        raise ValueError("nested too deeply to be rewritten")
    wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    finder = _Finder(wrapper.resolve(PositionProvider), wrapper.resolve(ParentNodeProvider), torch=torch, mocked=mocked)
    wrapper.module.visit(finder)
    if not finder.torch_line:
        return []
    edits = finder.settle(text.split("\n"))
    if any(CONSTANT in edit.text for edit in edits) and not finder.has_constant:
        at = finder.insert_line
        edits = [edit for edit in edits if CONSTANT not in edit.text or edit.line > at]
        if any(CONSTANT in edit.text for edit in edits):
            edits.append(Edit(at + 1, 0, at + 1, 0, f"\n{DEFINITION}\n", CONSTANT))
    return edits


DEEPEST: Final = 200
LONGEST_LINE: Final = 20_000


def is_plain(text: str) -> bool:
    """Whether a module parses, no deeper than code that people write, on lines of a length that they write."""
    if max(map(len, text.split("\n"))) > LONGEST_LINE:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            level: list[ast.AST] = [ast.parse(text)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return True
    return False


def _path(node: cst.BaseExpression) -> str:
    """Dotted source form of a name or attribute chain; ""."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    if isinstance(node, cst.Name):
        parts.append(node.value)
        return ".".join(reversed(parts))
    return ""


class _Finder(cst.CSTVisitor):
    """Collects edits, and the checks that hold only if everything behind them is rewritten."""

    def __init__(self, positions: Any, parents: Any, *, torch: tuple[int, ...], mocked: frozenset[str]) -> None:
        super().__init__()
        self.positions = positions
        self.parents = parents
        self.torch = torch
        self.mocked = mocked
        self.torch_line = 0
        self.insert_line = 0
        self.has_constant = False
        self.dist = frozenset({"torch.distributed"})
        self.edits: list[Edit] = []
        self.checks: list[tuple[Edit, tuple[CodeRange, ...]]] = []
        self.inner: list[tuple[Edit, cst.CSTNode]] = []

    def _range(self, node: cst.CSTNode) -> CodeRange:
        return cast(CodeRange, self.positions[node])

    def _edit(self, node: cst.CSTNode, text: str, symbol: str) -> Edit:
        place = self._range(node)
        return Edit(place.start.line, place.start.column, place.end.line, place.end.column, text, symbol)

    def visit_Module(self, node: cst.Module) -> None:
        """Where torch is imported at the top level, and where a constant can stand."""
        for stmt in node.body:
            if not isinstance(stmt, cst.SimpleStatementLine):
                continue
            for small in stmt.body:
                line = self._range(stmt).end.line
                if isinstance(small, cst.Import):
                    self.insert_line = line
                    for alias in small.names:
                        name = _path(alias.name)
                        if name == "torch" and alias.asname is None:
                            self.torch_line = line
                        if name == "torch.distributed" and alias.asname is not None:
                            self.dist |= {cst.ensure_type(alias.asname.name, cst.Name).value}
                elif isinstance(small, cst.ImportFrom):
                    self.insert_line = line
                elif isinstance(small, cst.Assign) and _path(small.targets[0].target) == CONSTANT:
                    self.has_constant = True

    def visit_Assign(self, node: cst.Assign) -> bool:
        """Our own constant stays as it is."""
        return _path(node.targets[0].target) != CONSTANT

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        """torch.cuda.X, as far as this torch has an agnostic form."""
        path = _path(node)
        if path not in CALLS or path.rsplit(".", 1)[-1] in self.mocked or self.torch < CALLS[path][1]:
            return path not in CALLS
        parent = self.parents.get(node)
        edit = self._edit(node, f"torch.{CALLS[path][0]}", path)
        if path == "torch.cuda.OutOfMemoryError":
            self.edits.append(edit)
        elif isinstance(parent, cst.Call) and parent.func is node and self._plain(parent):
            if path == "torch.cuda.is_available":
                self.checks.append((edit, self._guarded(parent)))
            elif path in RAISES_ON_HOST:
                self.inner.append((edit, parent))
            else:
                self.edits.append(edit)
        return False

    def _plain(self, call: cst.Call) -> bool:
        """True when the arguments mean the same to the agnostic function (positional only there)."""
        return all(arg.keyword is None and arg.star == "" for arg in call.args)

    def _guarded(self, call: cst.Call) -> tuple[CodeRange, ...]:
        """The ranges of what runs if the check holds, body first; empty when the check's value goes elsewhere."""
        node: cst.CSTNode = call
        parent = self.parents.get(node)
        while isinstance(parent, cst.BooleanOperation) and isinstance(parent.operator, cst.And):
            node, parent = parent, self.parents.get(parent)
        if isinstance(parent, (cst.If, cst.IfExp)) and parent.test is node:
            return (self._range(parent.body), self._range(parent.test))
        return ()

    def visit_Call(self, node: cst.Call) -> None:
        """Device names in the arguments of calls, mixed precision, init_process_group."""
        path = _path(node.func)
        if path in AMP and self.torch >= STRINGS:
            self.edits.append(self._edit(node.func, "torch.amp." + path.rsplit(".", 1)[-1], path))
            place = self._range(node.func).end
            self.edits.append(self._first_argument(node, place.line))
            return
        strings = self.torch >= STRINGS
        for at, arg in enumerate(node.args):
            value = arg.value
            if not isinstance(value, cst.SimpleString):
                continue
            name = arg.keyword.value if arg.keyword else ""
            literal = value.evaluated_value
            takes = name in _DEVICE_KEYWORDS or (
                not name and at == 0 and (path in _DEVICE_FUNCTIONS or path.endswith(".to"))
            )
            if literal == "cuda" and takes and strings:
                self.edits.append(self._edit(value, CONSTANT, '"cuda"'))
            base, _, leaf = path.rpartition(".")
            first = (not name and at == 0) or name == "backend"
            if (
                literal == "nccl"
                and leaf == "init_process_group"
                and base in self.dist
                and first
                and self.torch >= BACKEND
            ):
                self.edits.append(self._edit(value, f"{base}.get_default_backend_for_device({CONSTANT})", '"nccl"'))

    def _first_argument(self, node: cst.Call, line: int) -> Edit:
        if node.args:
            place = self._range(node.args[0]).start
            return Edit(place.line, place.column, place.line, place.column, f"{CONSTANT}, ", "device type")
        end = self._range(node).end
        return Edit(end.line, end.column - 1, end.line, end.column - 1, CONSTANT, "device type")

    def visit_IfExp(self, node: cst.IfExp) -> None:
        """``"cuda" if torch.cuda.is_available() else "cpu"``."""
        is_cuda = isinstance(node.body, cst.SimpleString) and node.body.evaluated_value == "cuda"
        checked = isinstance(node.test, cst.Call) and _path(node.test.func) == "torch.cuda.is_available"
        if is_cuda and checked and self.torch >= STRINGS and "is_available" not in self.mocked:
            self.edits.append(self._edit(node.body, CONSTANT, '"cuda"'))

    def settle(self, lines: list[str]) -> list[Edit]:
        """The edits that may stand: checks only where nothing of CUDA is left behind them."""
        tentative = [*self.edits, *(edit for edit, _ in self.inner)]
        kept = list(self.edits)
        open_ranges: list[CodeRange] = []
        tentative += [edit for edit, _ in self.checks]
        for edit, places in self.checks:
            if places and not any(_leftover(lines, place, tentative) for place in places):
                kept.append(edit)
                open_ranges.append(places[0])
        for edit, _ in self.inner:
            if any(_inside(edit, place) for place in open_ranges):
                kept.append(edit)
        dropped = [edit for edit in self.edits if edit.symbol == '"cuda"' and not self._stands(edit, kept)]
        return [edit for edit in dict.fromkeys(kept) if edit not in dropped]

    def _stands(self, edit: Edit, kept: list[Edit]) -> bool:
        """A device name behind ``torch.cuda.is_available`` changes only together with the check."""
        return not any(places and _inside(edit, places[0]) and check not in kept for check, places in self.checks)


def _inside(edit: Edit, place: CodeRange) -> bool:
    start, end = (place.start.line, place.start.column), (place.end.line, place.end.column)
    return start <= (edit.line, edit.column) and (edit.end_line, edit.end_column) <= end


def _leftover(lines: list[str], place: CodeRange, edits: list[Edit]) -> bool:
    """True when something of CUDA stays in a range after the edits."""
    for number in range(place.start.line, min(place.end.line, len(lines)) + 1):
        text = lines[number - 1]
        low = place.start.column if number == place.start.line else 0
        high = place.end.column if number == place.end.line else len(text)
        for match in _LEFT.finditer(text.split("#")[0], low, high):
            covered = any(
                edit.line == number == edit.end_line and edit.column <= match.start() and match.end() <= edit.end_column
                for edit in edits
            )
            if not covered:
                return True
    return False
