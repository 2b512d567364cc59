"""Missing branches: places that enumerate devices and leave the target out."""

from __future__ import annotations

import ast
from typing import Final

from offramp.scan import symbols
from offramp.scan.pyfile import Ctx, PyFile, resolve
from offramp.scan.pynamed import DISPATCHED, check_vendors, is_served
from offramp.scan.words import (
    ALL_WORDS,
    CUDA_WORDS,
    GPU_WORDS,
    device_name,
    device_words,
    is_host_name,
    library_word,
    needs_branch,
    words_of,
)

NONE: Final[frozenset[str]] = frozenset()
MOVERS: Final = frozenset({"cuda", "npu", "xpu", "mlu", "musa", "hpu", "mps"})
_PREDICATE: Final = frozenset(
    {"available", "supported", "support", "enabled", "is", "has", "require", "requires", "use", "get", "check"}
)
NEAR: Final = 3
LONG_CHAIN: Final = 25
"""A chain longer than this (lines) is shown by its headers only."""


def is_predicate(name: str) -> bool:
    """True for the name of a device test ("is_xpu_available", "IS_NPU_AVAILABLE", "require_cuda")."""
    words = words_of(name)
    return bool(words & ALL_WORDS) and bool(words & _PREDICATE)


def _node_words(file: PyFile, node: ast.AST) -> frozenset[str]:
    """Device words that one node of a condition contributes; plain variables that merely count GPUs do not."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            name = device_name(node.value)
            return frozenset(name.split("-")) & ALL_WORDS if name else NONE
        return NONE
    if isinstance(node, ast.Attribute):
        path = resolve(file, node)
        if path.startswith(("torch.cuda", "torch.version.cuda", "torch.backends.cuda")):
            return frozenset({"cuda"})
        words = _of_graphs(node.attr) or device_words(node.attr)
        if words <= GPU_WORDS and not (
            (node.attr.isupper() and len(words_of(node.attr)) <= 2) or node.attr.startswith(("is_", "has_"))
        ):
            return NONE
        return words
    if isinstance(node, ast.Name):
        path = file.aliases.get(node.id, "")
        if path.startswith("torch.cuda"):
            return frozenset({"cuda"})
        words = _of_graphs(node.id) or device_words(node.id)
        if words <= GPU_WORDS and not node.id.lower().startswith(("is_", "has_")):
            return NONE
        return words
    return NONE


def _of_graphs(name: str) -> frozenset[str]:
    """The word of a name that speaks of CUDA graphs ("use_cuda_graph"): a feature, no kind of device; else none."""
    words = words_of(name)
    return GRAPHS if words & CUDA_WORDS and words & {"graph", "graphs"} else NONE


GRAPHS: Final = frozenset({"cudagraph"})


def expression_words(file: PyFile, node: ast.AST) -> frozenset[str]:
    """All device words of an expression."""
    last = getattr(node, "end_lineno", None)
    if last is not None and not file.touches(node.lineno, last):  # type: ignore[attr-defined]
        return NONE
    found: frozenset[str] = NONE
    stack: list[ast.AST] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, (ast.Constant, ast.Attribute, ast.Name)):
            found |= _node_words(file, item)
        if not isinstance(item, (ast.Lambda, ast.expr_context)):
            stack.extend(ast.iter_child_nodes(item))
    return found


def has_predicate(file: PyFile, node: ast.AST) -> bool:
    """True when the expression asks for a device, not merely mentions one."""
    for item in ast.walk(node):
        if isinstance(item, ast.Compare) and not isinstance(item.ops[0], (ast.Is, ast.IsNot)):
            return True
        name = item.attr if isinstance(item, ast.Attribute) else item.id if isinstance(item, ast.Name) else ""
        if name and (is_predicate(name) or name == "is_available"):
            return True
    return False


def chain_of(node: ast.If) -> list[ast.If]:
    """The links of an if/elif chain."""
    links = [node]
    while len(links[-1].orelse) == 1 and isinstance(links[-1].orelse[0], ast.If):
        inner = links[-1].orelse[0]
        if inner.col_offset != node.col_offset:
            break
        links.append(inner)
    return links


def check_chain(file: PyFile, chain: list[ast.If], ctx: Ctx) -> tuple[frozenset[str], bool]:
    """Device words of a chain's tests, and whether it was reported as lacking the target."""
    words: frozenset[str] = NONE
    for link in chain:
        words |= expression_words(file, link.test)
    if not words or ctx.covered or not any(has_predicate(file, link.test) for link in chain):
        return words, False
    if file.target.covers(words):
        check_target_branch(file, chain, ctx)
        check_borrowed_chain(file, chain, words, ctx)
        return words, False
    if not needs_branch(words):
        if words == GRAPHS:
            for link in chain:
                _graphs(file, link.test, ctx)
        check_trait(file, chain, words, ctx)
        return words, words == GRAPHS
    words -= GRAPHS
    head, last = chain[0], chain[-1]
    headers = [link.lineno for link in chain]
    end = head.end_lineno or head.lineno
    if last.orelse:
        headers.append(max(last.body[-1].end_lineno or last.lineno, last.orelse[0].lineno - 1))
    if end - head.lineno > LONG_CHAIN:
        end = max(headers[-1], head.test.end_lineno or head.lineno)
    if ctx.guard and len(chain) == 1 and words <= CUDA_WORDS:
        return words, False
    file.add(
        head,
        "branch.missing",
        "if " + "/".join(sorted(words)),
        ctx=ctx._replace(guard=False),
        span=(head.lineno, end),
        note=f"{len(chain)} device branch{'es' if len(chain) > 1 else ''}",
    )
    if len(chain) > 1 and headers[-1] - head.lineno > NEAR:
        spot = headers[-1]
        symbol = "if " + "/".join(sorted(words))
        file.add(
            last, "branch.missing", symbol, ctx=ctx._replace(guard=False), span=(spot, spot), note="where it belongs"
        )
    return words, True


def _graphs(file: PyFile, node: ast.expr, ctx: Ctx) -> None:
    """Records a condition on CUDA graphs: the target has graphs of its own, or runs without them."""
    if expression_words(file, node) == GRAPHS:
        span = (node.lineno, node.end_lineno or node.lineno)
        file.add(node, "torch.stream", "CUDA graphs", ctx=ctx._replace(guard=False), span=span)


def check_trait(file: PyFile, chain: list[ast.If], words: frozenset[str], ctx: Ctx) -> None:
    """Records a condition that treats one other accelerator apart: the target may share what it is for."""
    for link in chain:
        if expression_words(file, link.test) & TRAITS and has_predicate(file, link.test):
            span = (link.test.lineno, link.test.end_lineno or link.test.lineno)
            file.add(link, "branch.trait", "if " + "/".join(sorted(words)), ctx=ctx._replace(guard=False), span=span)


def check_borrowed_chain(file: PyFile, chain: list[ast.If], words: frozenset[str], ctx: Ctx) -> None:
    """Records a chain in which the target takes CUDA's branch, where others have their own or only CUDA has the parts."""
    if not file.target.answers_as_cuda(words):
        return
    for link in chain:
        own = expression_words(file, link.test)
        if "cuda" in own and (words & DISPATCHED or _takes_cuda_parts(file, link.body)):
            span = (link.test.lineno, link.test.end_lineno or link.test.lineno)
            _borrowed(file, link, words, ctx, span=span)
    spot = chain[-1].test.lineno
    if words & DISPATCHED and len(chain) > 1 and "cuda" not in expression_words(file, chain[-1].test):
        _borrowed(file, chain[-1], words, ctx, span=(spot, spot))


def check_borrowed(file: PyFile, node: ast.BoolOp, words: frozenset[str], ctx: Ctx) -> None:
    """Records a condition on CUDA together with a compute capability or a version of CUDA: the target has neither."""
    if ctx.covered or not file.target.answers_as_cuda(words):
        return
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and (item.attr == "major" or resolve(file, item) in symbols.CUDA_ALONE):
            _borrowed(file, node, words, ctx, span=(node.lineno, node.end_lineno or node.lineno))
            return


def _borrowed(file: PyFile, node: ast.AST, words: frozenset[str], ctx: Ctx, *, span: tuple[int, int]) -> None:
    file.add(
        node, "branch.trait", "CUDA's branch in " + "/".join(sorted(words)), ctx=ctx._replace(guard=False), span=span
    )


def _takes_cuda_parts(file: PyFile, body: list[ast.stmt]) -> bool:
    """True when a branch imports what CUDA alone has: a package, a module named after it."""
    for stmt in body:
        for alias in stmt.names if isinstance(stmt, (ast.Import, ast.ImportFrom)) else ():
            path = f"{stmt.module or ''}.{alias.name}" if isinstance(stmt, ast.ImportFrom) else alias.name
            package = symbols.package_of(path)
            if (package and package != "triton") or any(words_of(part) & CUDA_WORDS for part in path.split(".")):
                return not path.startswith("torch.")
    return False


TRAITS: Final = frozenset({"mps", "hpu", "tpu", "xla", "xpu", "neuron", "neuronx"})


def is_switch(name: str) -> bool:
    """True for a function that turns an implementation on or off, or asks for it."""
    return name.startswith(("set_", "enable_", "disable_", "use_", "is_", "has_", "_set_", "_is_", "check_"))


def check_library_chain(file: PyFile, chain: list[ast.If], ctx: Ctx) -> None:
    """Reports a chain that chooses among implementations and names a CUDA-only one ("if args.enable_xformers")."""
    if ctx.guard or ctx.covered:
        return
    named = ""
    for link in chain:
        for item in ast.walk(link.test):
            name = item.attr if isinstance(item, ast.Attribute) else item.id if isinstance(item, ast.Name) else ""
            if name and file.target.covers(device_words(name)):
                return
            named = named or (library_word(name) if name else "")
    if named:
        last = chain[-1].test.end_lineno or chain[-1].lineno
        file.add(chain[0], "lib.option", f"if {named}", ctx=ctx, note=named, span=(chain[0].lineno, last))


def _refuses(body: list[ast.stmt]) -> bool:
    """True for a body that only gives up: pass, return False, return a NotImplemented thing, raise."""
    real = [stmt for stmt in body if not (isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Constant))]
    if not real or len(real) > 2:
        return not real
    last = real[-1]
    if isinstance(last, ast.Pass):
        return True
    if isinstance(last, ast.Return):
        value = last.value
        if value is None or (isinstance(value, ast.Constant) and value.value in (False, None)):
            return len(real) == 1
        return "NotImplemented" in ast.dump(value)
    return isinstance(last, ast.Raise) and last.exc is not None and "NotImplemented" in ast.dump(last.exc)


def check_stub(file: PyFile, node: ast.FunctionDef | ast.AsyncFunctionDef, ctx: Ctx) -> None:
    """Reports functions of the target's own module that give up: a port has begun and stops here."""
    if file.is_target_file and _refuses(node.body) and not ctx.covered:
        file.add(
            node,
            "branch.stub",
            f"{node.name} gives up",
            ctx=ctx._replace(guard=False),
            span=(node.lineno, node.end_lineno or node.lineno),
        )


def check_host_chain(file: PyFile, chain: list[ast.If], ctx: Ctx) -> None:
    """Reports a condition that tells only the host from the rest, where the rest is CUDA's ("if device != 'cpu'")."""
    if ctx.guard or ctx.covered or file.target.torch_cuda_api:
        return
    for link in chain:
        hosts = any(
            isinstance(item, ast.Compare)
            and any(isinstance(part, ast.Constant) and is_host_name(str(part.value)) for part in item.comparators)
            for item in ast.walk(link.test)
        )
        if hosts and any(_calls_cuda(file, stmt) for stmt in (*link.body, *link.orelse)):
            span = (link.test.lineno, link.test.end_lineno or link.test.lineno)
            file.add(link, "device.compare", "the host against CUDA", ctx=ctx, span=span)


def _calls_cuda(file: PyFile, stmt: ast.stmt) -> bool:
    """True for a simple statement that calls torch.cuda or moves to it."""
    if not isinstance(stmt, (ast.Expr, ast.Assign, ast.Return, ast.AugAssign)) or not file.touches(
        stmt.lineno, stmt.end_lineno or stmt.lineno
    ):
        return False
    return any(
        isinstance(item, ast.Attribute) and (item.attr == "cuda" or resolve(file, item).startswith("torch.cuda"))
        for item in ast.walk(stmt)
    )


def check_target_branch(file: PyFile, chain: list[ast.If], ctx: Ctx) -> None:
    """Reports a branch for the target that only refuses ("if is_npu_available(): return False")."""
    for link in chain:
        words = expression_words(file, link.test)
        if words and file.target.covers(words) and _refuses(link.body):
            file.add(
                link,
                "branch.stub",
                "if " + "/".join(sorted(words)) + " gives up",
                ctx=ctx._replace(guard=False),
                span=(link.lineno, link.body[-1].end_lineno or link.lineno),
            )


def report(file: PyFile, node: ast.AST, words: frozenset[str], *, ctx: Ctx) -> bool:
    """Records a condition that leaves the target out; False when it knows the target."""
    if words == GRAPHS:
        file.add(node, "torch.stream", "CUDA graphs", ctx=ctx._replace(guard=False))
        return True
    if not file.target.covers(words) and not needs_branch(words) and words & TRAITS and has_predicate(file, node):
        file.add(node, "branch.trait", "condition on " + "/".join(sorted(words)), ctx=ctx._replace(guard=False))
    if file.target.covers(words) or not needs_branch(words):
        return False
    file.add(node, "branch.missing", "condition on " + "/".join(sorted(words)), ctx=ctx._replace(guard=False))
    return True


def _element_words(file: PyFile, node: ast.AST) -> frozenset[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        name = device_name(node.value)
        if name:
            return frozenset(name.split("-")) & ALL_WORDS or frozenset({name})
        if is_predicate(node.value) and node.value.isidentifier():
            return device_words(node.value)
        return NONE
    if isinstance(node, ast.Attribute) and node.attr in ("value", "name"):
        node = node.value
    if isinstance(node, ast.Attribute) and node.attr.isupper():
        return device_words(node.attr)
    if isinstance(node, ast.Name) and (is_predicate(node.id) or device_words(node.id) - GPU_WORDS):
        return device_words(node.id)
    return NONE


def check_collection(file: PyFile, node: ast.Tuple | ast.List | ast.Set, ctx: Ctx, *, compared: bool) -> bool:
    """Reports a list of devices without the target; True when it was one (reported or complete)."""
    members = [(item, _element_words(file, item)) for item in node.elts]
    named = [(item, words) for item, words in members if words]
    if not named or ctx.covered:
        return bool(named)
    words = frozenset[str]().union(*(found for _, found in named))
    hosts = any(
        isinstance(item, ast.Constant) and isinstance(item.value, str) and is_host_name(item.value)
        for item in node.elts
    )
    if len(named) < 2 and not hosts and not compared:
        return False
    if len(words) < 2 and all(isinstance(item, ast.Name) and not is_predicate(item.id) for item, _ in named):
        return False
    if file.target.answers_as_cuda(words) and words & DISPATCHED:
        _borrowed(file, node, words, ctx, span=(node.lineno, node.end_lineno or node.lineno))
    if file.target.covers(words) or not needs_branch(words):
        return True
    first, last = named[0][0], named[-1][0]
    file.add(
        node,
        "branch.list",
        "list of " + ", ".join(sorted(words)),
        ctx=ctx._replace(guard=False),
        span=(first.lineno if last.lineno - node.lineno > LONG_CHAIN else node.lineno, last.end_lineno or last.lineno),
    )  # type: ignore[attr-defined]
    return True


def check_dict(file: PyFile, node: ast.Dict, ctx: Ctx) -> bool:
    """Reports a table keyed by device without the target."""
    named = [(key, _element_words(file, key)) for key in node.keys if key is not None]
    named = [(key, words) for key, words in named if words]
    if not named or ctx.covered:
        return False
    words = frozenset[str]().union(*(found for _, found in named))
    hosts = any(
        isinstance(key, ast.Constant) and isinstance(key.value, str) and is_host_name(key.value) for key in node.keys
    )
    if (len(named) < 2 and not hosts) or file.target.covers(words):
        return len(named) >= 2
    first, last = named[0][0], named[-1][0]
    file.add(
        node,
        "branch.list",
        "table keyed by " + ", ".join(sorted(words)),
        ctx=ctx._replace(guard=False),
        span=(first.lineno, last.end_lineno or last.lineno),
    )
    return True


def check_import(file: PyFile, node: ast.ImportFrom, ctx: Ctx) -> bool:
    """Reports an import of other devices' predicates without the target's; the line is where it would sort."""
    named = [alias for alias in node.names if is_predicate(alias.name) or alias.name in symbols.PLUGINS]
    leaf = (node.module or "").rsplit(".", 1)[-1].strip("_")
    if not named and file.path.endswith("__init__.py") and leaf in ("device", "devices", "accelerator", "platform"):
        named = [alias for alias in node.names if not file.target.covers(device_words(alias.name))]
        if len(named) == len(node.names):
            file.add(node, "branch.import", f"re-export of {leaf}", ctx=ctx._replace(guard=False))
        return True
    if not named:
        return False
    words = frozenset[str]().union(*(device_words(alias.name) for alias in named))
    if is_served(file, words) or not words:
        return True
    wanted = f"is_{file.target.name.lower() if file.target.torch_cuda_api else file.target.device}_available"
    group = [alias for alias in node.names if alias.name == alias.name.lower()]  # constants and classes sort apart
    names = [alias.name for alias in group]
    before = [alias for alias in group if alias.name <= wanted]
    after = [alias for alias in group if alias.name > wanted]
    if names == sorted(names) and len(names) > 1:
        spot = before[-1] if before else after[0]
    else:
        spot = named[-1]
    last = after[0] if after and names == sorted(names) else spot
    file.add(
        node,
        "branch.import",
        ", ".join(alias.name for alias in named),
        ctx=ctx._replace(guard=False),
        span=(spot.lineno, max(spot.lineno, last.lineno)),
    )
    return True


def check_class(file: PyFile, node: ast.ClassDef, ctx: Ctx) -> None:
    """Reports enums of devices and classes with device movers that leave the target out."""
    if check_vendors(file, node, ctx):
        return
    members: list[tuple[ast.stmt, frozenset[str]]] = []
    movers: list[ast.FunctionDef] = []
    for stmt in node.body:
        if isinstance(stmt, ast.FunctionDef) and stmt.name in MOVERS:
            movers.append(stmt)
        if isinstance(stmt, ast.Assign) and len(stmt.targets) == 1 and isinstance(stmt.targets[0], ast.Name):
            name = stmt.targets[0].id
            words = device_words(name) if name.isupper() else NONE
            if words:
                members.append((stmt, words))
    names = frozenset(stmt.name for stmt in movers)
    if names and not file.target.covers(names):
        spot = movers[-1]
        first = spot.decorator_list[0].lineno if spot.decorator_list else spot.lineno
        file.add(
            spot,
            "branch.missing",
            f"def {'/'.join(sorted(names))} in {node.name}",
            ctx=ctx._replace(guard=False),
            span=(first, spot.end_lineno or spot.lineno),
            note="device mover",
        )
    words = frozenset[str]().union(*(found for _, found in members)) if members else NONE
    if "dlpack" in node.name.lower():  # constants of a protocol, not a choice
        return
    if words and len(members) >= 2 and not file.target.covers(words):
        file.add(
            members[0][0],
            "branch.list",
            f"members of {node.name}: " + ", ".join(sorted(words)),
            ctx=ctx._replace(guard=False),
            span=(members[0][0].lineno, members[-1][0].end_lineno or members[-1][0].lineno),
        )


def check_module(file: PyFile) -> None:
    """Reports a module that defines device predicates (is_xpu_available ...) but not the target's."""
    defs = [stmt for stmt in file.tree.body if isinstance(stmt, ast.FunctionDef) and _defines_predicate(stmt.name)]
    if not defs:
        return
    words = frozenset[str]().union(*(device_words(stmt.name) for stmt in defs))
    if is_served(file, words):
        return
    spot = defs[-1]
    first = spot.decorator_list[0].lineno if spot.decorator_list else spot.lineno
    file.add(
        spot,
        "branch.missing",
        "def " + ", ".join(stmt.name for stmt in defs[:4]),
        ctx=Ctx(),
        span=(max(1, first - 2), spot.end_lineno or spot.lineno),
        note="device helper module",
    )


def _defines_predicate(name: str) -> bool:
    words = words_of(name)
    return (
        bool(words & ALL_WORDS)
        and name.startswith(("is_", "has_", "_is_"))
        and bool(words & {"available", "supported"})
    )
