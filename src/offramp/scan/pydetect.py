"""Walks one Python tree and records what ties it to CUDA. Iterative: nesting depth is no limit here."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Final

from offramp.scan import pybranch, pynamed, symbols
from offramp.scan.pyfile import Ctx, PyFile, dotted, resolve
from offramp.scan.pyplaces import import_site, mentions
from offramp.scan.pystrings import long_string, string_hit
from offramp.scan.words import GPU_WORDS, device_name, device_words, is_cuda_name, library_word

Push = list[tuple[ast.AST, Ctx]]
_METHODS: Final = frozenset({"cuda"})
_SKIP_NAMES: Final = frozenset({"cuda_graph", "cudagraph"})


def walk(file: PyFile) -> None:
    """Records every hit of the tree in ``file.hits``."""
    stack: Push = []
    push_body(file, file.tree.body, Ctx(), stack=stack)
    while stack:
        node, ctx = stack.pop()
        handler = HANDLERS.get(type(node))
        if handler is None or not handler(file, node, ctx, stack):
            push_children(file, node, ctx, stack=stack)
    import_site(file)
    mentions(file)


def push_children(file: PyFile, node: ast.AST, ctx: Ctx, *, stack: Push) -> None:
    """Pushes the children that touch a line worth a look."""
    if ctx.role:
        ctx = ctx._replace(role="")
    for field in node._fields:
        value = getattr(node, field, None)
        if isinstance(value, list):
            if value and isinstance(value[0], ast.stmt):
                push_body(file, value, ctx, stack=stack)
            else:
                for item in value:
                    push(file, item, ctx, stack=stack)
        elif isinstance(value, ast.AST):
            push(file, value, ctx, stack=stack)


def push(file: PyFile, node: object, ctx: Ctx, *, stack: Push) -> None:
    """Pushes one node if a line worth a look lies in it."""
    if not isinstance(node, ast.AST):
        return
    first = getattr(node, "lineno", 0)
    if first:
        for decorator in getattr(node, "decorator_list", ()):
            first = min(first, decorator.lineno)
        if not file.touches(first, getattr(node, "end_lineno", None) or first):
            return
    stack.append((node, ctx))


def push_body(file: PyFile, body: list[ast.stmt], ctx: Ctx, *, stack: Push) -> None:
    """Pushes statements; what follows ``if not torch.cuda.is_available(): return`` counts as guarded."""
    for stmt in body:
        push(file, stmt, ctx, stack=stack)
        if isinstance(stmt, ast.If) and not stmt.orelse and not ctx.guard and _leaves(stmt.body):
            words = pybranch.expression_words(file, stmt.test)
            if words:
                ctx = ctx._replace(guard=True)


def _leaves(body: list[ast.stmt]) -> bool:
    last = body[-1]
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        return dotted(last.value.func).split(".")[-1] in ("skip", "exit", "skipTest")
    return isinstance(last, (ast.Return, ast.Raise, ast.Continue))


def on_import(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """``import x``: CUDA-only packages and other vendors' plugins."""
    assert isinstance(node, ast.Import)
    for alias in node.names:
        if not _imported(file, node, alias.name, ctx=ctx) and is_cuda_name(alias.name) and not ctx.covered:
            file.add(node, "name.cuda", alias.name, ctx=ctx, note=symbols.MODULE)
    return True


def on_import_from(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """``from x import y``: packages, torch.cuda names, device predicates."""
    assert isinstance(node, ast.ImportFrom)
    module = node.module or ""
    if not node.level:
        for alias in node.names:
            if _imported(file, node, f"{module}.{alias.name}", ctx=ctx):
                break
    if not pybranch.check_import(file, node, ctx) and not module.startswith("torch"):
        leaf = module.rsplit(".", 1)[-1]
        if (
            (is_cuda_name(leaf) or device_words(leaf) & GPU_WORDS)
            and not symbols.package_of(module)
            and not ctx.covered
        ):
            file.add(node, "name.cuda", module, ctx=ctx, note=symbols.MODULE)
            return True
        for alias in node.names:
            if is_cuda_name(alias.name) or device_words(alias.name) & GPU_WORDS:
                file.add(alias, "name.cuda", alias.name, ctx=ctx)
            elif library_word(alias.name) and alias.name.startswith(("is_", "has_", "_is_")):
                file.add(alias, "lib.option", alias.name, ctx=ctx, note=library_word(alias.name))
    return True


def _imported(file: PyFile, node: ast.AST, path: str, *, ctx: Ctx) -> bool:
    kind = symbols.kind_of(path)
    root = path.split(".")[0]
    package = "" if root == "torch" or root in file.local else symbols.package_of(path)
    optional = ctx.trying or ctx.guard
    if package == "triton":
        package = ""
    if package:
        file.add(node, "lib.import", package, ctx=ctx._replace(guard=optional), note="optional" if ctx.trying else "")
        return True
    if kind:
        file.add(node, kind, path, ctx=ctx)
        return True
    if root in symbols.PLUGINS and not ctx.covered and (root in symbols.PEER_PLUGINS or (ctx.guard and not ctx.scope)):
        if file.target.plugin and not file.has_word(file.target.plugin.split(".")[0]):
            file.add(node, "branch.missing", f"import {root}", ctx=ctx._replace(guard=False), note="plugin")
        return True
    return False


def on_attribute(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Attribute chains: torch.cuda.*, x.is_cuda, enum members."""
    assert isinstance(node, ast.Attribute)
    path = resolve(file, node)
    kind = symbols.kind_of(path) if path else ""
    if kind:
        file.add(node, kind, path, ctx=ctx)
        return True
    if node.attr in ("is_cuda", "is_nccl_available"):
        file.add(node, "device.compare", node.attr, ctx=ctx)
        return path != ""
    if path:
        return _named(file, node, path, ctx=ctx)
    words = device_words(node.attr) if node.attr.isupper() and ctx.role == "compare" and not ctx.covered else None
    if words and not file.target.covers(words):
        file.add(node, "device.compare", dotted(node) or node.attr, ctx=ctx)
    return False


def _named(file: PyFile, node: ast.Attribute, path: str, *, ctx: Ctx) -> bool:
    if ctx.role == "compare" and not ctx.covered and node.attr.isupper():
        words = device_words(node.attr)
        if words and not file.target.covers(words):
            file.add(node, "device.compare", path.rsplit(".", 2)[-2] + "." + node.attr, ctx=ctx)
    return True


def on_name(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Bare names bound to CUDA symbols (``from torch.cuda import synchronize``)."""
    assert isinstance(node, ast.Name)
    path = file.aliases.get(node.id, "")
    kind = symbols.kind_of(path) if path else ""
    if kind and path not in ("numba.cuda",) and isinstance(node.ctx, ast.Load):
        file.add(node, kind, path, ctx=ctx)
    return True


def on_call(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Calls: ``x.cuda()``, getattr, ray resources, argparse options."""
    assert isinstance(node, ast.Call)
    func = node.func
    if isinstance(func, ast.Attribute) and func.attr in _METHODS and not resolve(file, func):
        line = func.end_lineno or node.lineno
        file.add(node, "device.method", ".cuda()", ctx=ctx, span=(line, line))
    path = resolve(file, node)
    kind = symbols.kind_of(path) if path else ""
    if kind:
        file.add(node, kind, path, ctx=ctx)
        return True
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    if name == "dict" and len(node.keywords) > 1 and not ctx.covered:
        pynamed.check_keywords(file, node, ctx)
    if (
        name == "double"
        and not node.args
        and isinstance(func, ast.Attribute)
        and file.target.no_fp64
        and file.has_word("torch")
    ):
        file.add(func, "numerics", ".double()", ctx=ctx)
    if file.has_word("torch"):
        _index(file, node, name, ctx=ctx)
    if file.has_word("ray"):
        for keyword in node.keywords:
            if keyword.arg in ("num_gpus", "use_gpu"):
                file.add(keyword, "infra.ray", keyword.arg, ctx=ctx)
    return False


def _index(file: PyFile, node: ast.Call, name: str, *, ctx: Ctx) -> None:
    """A bare number or rank where a device belongs: ``.to(rank)``, ``torch.device(0)``, ``device_map={"": 0}``."""
    goals: list[ast.expr] = []
    if node.args and (name == "to" or resolve(file, node.func) == "torch.device"):
        goals.append(node.args[0])
    for keyword in node.keywords:
        if keyword.arg in ("device", "map_location", "device_ids", "output_device"):
            goals.append(keyword.value)
        elif keyword.arg == "device_map" and isinstance(keyword.value, ast.Dict):
            goals += keyword.value.values
    for goal in goals:
        if isinstance(goal, (ast.List, ast.Tuple)) and goal.elts:
            goal = goal.elts[0]
        number = isinstance(goal, ast.Constant) and type(goal.value) is int
        if isinstance(goal, ast.Call):
            goal = goal.func
        if number or dotted(goal).rsplit(".", 1)[-1].lower() in _RANKS:
            file.add(goal, "device.index", "a number as device", ctx=ctx)
            return


_RANKS: Final = frozenset(
    {"rank", "local_rank", "gpu", "gpu_id", "device_id", "local_process_index", "get_local_rank", "get_rank", "gpu_rank"}
)  # fmt: skip


def on_constant(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """String literals."""
    assert isinstance(node, ast.Constant)
    text = node.value
    if not isinstance(text, str) or ctx.role == "docstring" or not text:
        return True
    if len(text) > 400:
        long_string(file, node, text, ctx=ctx)
        return True
    found = string_hit(file, text, ctx=ctx)
    if found:
        file.add(node, found[0], found[1], ctx=ctx, note=found[2])
    return True


def on_joined(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """f-strings: ``f"cuda:{rank}"``."""
    assert isinstance(node, ast.JoinedStr)
    text = "".join(
        part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "{}" for part in node.values
    )
    if device_name(text) == "cuda":
        file.add(node, "device.string", f'f"{text}"', ctx=ctx)
    elif "nvidia-smi" in text:
        file.add(node, "monitor", "nvidia-smi", ctx=ctx)
    elif "CUDA_VISIBLE_DEVICES" in text:
        file.add(node, "env", "CUDA_VISIBLE_DEVICES", ctx=ctx)
    elif pynamed.listed_devices(text, file):
        file.add(node, "text.mention", "list of " + pynamed.listed_devices(text, file), ctx=ctx)
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            push(file, part.value, ctx, stack=stack)
    return True


def on_expr(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Docstrings are no code; what they say of CUDA is noted at the end."""
    assert isinstance(node, ast.Expr)
    if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        file.docstrings.append((node.lineno, node.end_lineno or node.lineno))
        return True
    return False


def on_compare(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Comparisons with device names."""
    assert isinstance(node, ast.Compare)
    covered = ctx.covered
    if not covered:
        words = pybranch.expression_words(file, node)
        covered = bool(words) and file.target.covers(words)
    inner = ctx._replace(role="compare", covered=covered)
    for child in (node.left, *node.comparators):
        if isinstance(child, (ast.Tuple, ast.List, ast.Set)):
            pybranch.check_collection(file, child, inner, compared=True)
            for item in child.elts:
                push(file, item, inner._replace(covered=True), stack=stack)
        else:
            push(file, child, inner, stack=stack)
    return True


def on_collection(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Lists of devices."""
    assert isinstance(node, (ast.Tuple, ast.List, ast.Set))
    listed = pybranch.check_collection(file, node, ctx, compared=False)
    inner = ctx._replace(covered=ctx.covered or listed)
    for item in node.elts:
        push(file, item, inner, stack=stack)
    return True


def on_dict(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Dispatch tables keyed by device."""
    assert isinstance(node, ast.Dict)
    listed = pybranch.check_dict(file, node, ctx)
    for key in node.keys:
        if key is not None:
            push(file, key, ctx._replace(role="key", covered=ctx.covered or listed), stack=stack)
    for value in node.values:
        push(file, value, ctx._replace(role=""), stack=stack)
    return True


def on_if(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """if/elif chains: the whole chain is judged once, its bodies are guarded."""
    assert isinstance(node, ast.If)
    chain = pybranch.chain_of(node)
    words, listed = pybranch.check_chain(file, chain, ctx)
    inner = ctx._replace(guard=True, covered=False) if words else ctx
    if not words:
        pybranch.check_library_chain(file, chain, ctx)
        pybranch.check_host_chain(file, chain, ctx)
    for link in chain:
        push(file, link.test, ctx._replace(role="test", covered=ctx.covered or listed), stack=stack)
        push_body(file, link.body, inner, stack=stack)
    if chain[-1].orelse:
        push_body(file, chain[-1].orelse, inner, stack=stack)
    return True


def on_if_exp(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """``"cuda" if torch.cuda.is_available() else "cpu"``."""
    assert isinstance(node, ast.IfExp)
    words = pybranch.expression_words(file, node.test)
    known = words | pybranch.expression_words(file, node.body) | pybranch.expression_words(file, node.orelse)
    listed = False
    if words and not ctx.covered and not ctx.guard:
        listed = pybranch.report(file, node, known, ctx=ctx)
    inner = ctx._replace(guard=ctx.guard or bool(words), covered=ctx.covered)
    push(file, node.test, ctx._replace(covered=ctx.covered or listed), stack=stack)
    push(file, node.body, inner, stack=stack)
    push(file, node.orelse, inner, stack=stack)
    return True


def on_bool(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """``torch.cuda.is_available() and ...``: what follows the check is guarded by it."""
    assert isinstance(node, ast.BoolOp)
    words = pybranch.expression_words(file, node)
    pybranch.check_borrowed(file, node, words, ctx)
    listed = False
    if words and ctx.role != "test" and not ctx.covered and pybranch.has_predicate(file, node):
        listed = pybranch.report(file, node, words, ctx=ctx)
    inner = ctx._replace(covered=ctx.covered or listed or (bool(words) and file.target.covers(words)))
    for value in node.values:
        push(file, value, inner, stack=stack)
        if isinstance(node.op, ast.And) and pybranch.expression_words(file, value):
            inner = inner._replace(guard=True)
    return True


def on_assert(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """``assert torch.cuda.is_available()`` stops the target at once."""
    assert isinstance(node, ast.Assert)
    words = pybranch.expression_words(file, node.test)
    if words and not ctx.covered and not file.target.covers(words):
        pybranch.report(file, node, words, ctx=ctx)
        return True
    return False


def on_try(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """try/except ImportError makes an import optional."""
    assert isinstance(node, ast.Try)
    catches = any(
        handler.type is None
        or any(word in ast.dump(handler.type) for word in ("ImportError", "ModuleNotFound", "'Exception'", "OSError"))
        for handler in node.handlers
    )
    imports = any(isinstance(stmt, (ast.Import, ast.ImportFrom)) for stmt in node.body)
    push_body(file, node.body, ctx._replace(trying=ctx.trying or (catches and imports)), stack=stack)
    for handler in node.handlers:
        push_body(file, handler.body, ctx, stack=stack)
    push_body(file, node.orelse, ctx, stack=stack)
    push_body(file, node.finalbody, ctx, stack=stack)
    return True


def on_function(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Functions: decorators may guard, names may speak of CUDA."""
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    guard = ctx.guard
    for decorator in node.decorator_list:
        words = pybranch.expression_words(file, decorator)
        if words:
            guard = True
            if not file.target.covers(words):
                file.add(decorator, "device.mark", "@" + "/".join(sorted(words)), ctx=ctx)
        push(file, decorator, ctx._replace(covered=bool(words)), stack=stack)
    scope = f"{ctx.scope}.{node.name}" if ctx.scope else node.name
    if is_cuda_name(node.name) and node.name not in _METHODS and not ctx.covered:
        file.add(node, "name.cuda", node.name, ctx=ctx, span=(node.lineno, node.lineno))
    elif library_word(node.name) and not ctx.guard and pybranch.is_switch(node.name):
        file.add(
            node,
            "lib.option",
            f"def {node.name}",
            ctx=ctx,
            note=library_word(node.name),
            span=(node.lineno, node.lineno),
        )
    pynamed.check_answers(file, node, ctx._replace(scope=scope))
    inner = Ctx(guard=guard, scope=scope)
    push(file, node.args, inner, stack=stack)
    push(file, node.returns, inner, stack=stack)
    push_body(file, node.body, inner, stack=stack)
    pybranch.check_stub(file, node, ctx)
    return True


def on_class(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Classes: enums of devices, movers (``def cuda``), CUDA-named classes."""
    assert isinstance(node, ast.ClassDef)
    pybranch.check_class(file, node, ctx)
    for decorator in node.decorator_list:
        push(file, decorator, ctx, stack=stack)
    for base in node.bases:
        push(file, base, ctx, stack=stack)
    scope = f"{ctx.scope}.{node.name}" if ctx.scope else node.name
    push_body(file, node.body, ctx._replace(scope=scope, guard=ctx.guard or is_cuda_name(node.name)), stack=stack)
    return True


def on_assign(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Module-level registries named after NCCL or CUDA."""
    assert isinstance(node, ast.Assign)
    if not ctx.scope and not ctx.guard:
        pynamed.check_exports(file, node)
        for target in node.targets:
            if isinstance(target, ast.Name) and is_cuda_name(target.id):
                file.add(target, "name.cuda", target.id, ctx=ctx)
    return False


def on_arg(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Parameters named after CUDA, or that count GPUs for Ray."""
    assert isinstance(node, ast.arg)
    if is_cuda_name(node.arg):
        file.add(node, "name.cuda", node.arg, ctx=ctx)
    elif file.has_word("ray") and node.arg in ("num_gpus", "use_gpu"):
        file.add(node, "infra.ray", node.arg, ctx=ctx)
    return False


def on_keyword(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """Keyword arguments named after CUDA."""
    assert isinstance(node, ast.keyword)
    if node.arg and is_cuda_name(node.arg):
        file.add(node, "name.cuda", node.arg, ctx=ctx)
    return False


def on_global(file: PyFile, node: ast.AST, ctx: Ctx, stack: Push) -> bool:
    """``global nccl_backend``."""
    assert isinstance(node, ast.Global)
    for name in node.names:
        if is_cuda_name(name):
            file.add(node, "name.cuda", name, ctx=ctx)
            break
    return True


HANDLERS: Final[dict[type, Callable[[PyFile, ast.AST, Ctx, Push], bool]]] = {
    ast.Import: on_import,
    ast.ImportFrom: on_import_from,
    ast.Attribute: on_attribute,
    ast.Name: on_name,
    ast.Call: on_call,
    ast.Constant: on_constant,
    ast.JoinedStr: on_joined,
    ast.Expr: on_expr,
    ast.Compare: on_compare,
    ast.Tuple: on_collection,
    ast.List: on_collection,
    ast.Set: on_collection,
    ast.Dict: on_dict,
    ast.If: on_if,
    ast.IfExp: on_if_exp,
    ast.BoolOp: on_bool,
    ast.Assert: on_assert,
    ast.Try: on_try,
    ast.FunctionDef: on_function,
    ast.AsyncFunctionDef: on_function,
    ast.ClassDef: on_class,
    ast.Assign: on_assign,
    ast.Global: on_global,
    ast.arg: on_arg,
    ast.keyword: on_keyword,
}
