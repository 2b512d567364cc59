"""Triton kernels and their launches: what the target's compiler or memory does not take.

A kernel is a function under ``triton.jit``; its launcher is the function that calls ``kernel[grid](...)``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from offramp.core.units import KIB
from offramp.scan.pyfile import Ctx, PyFile, dotted, resolve
from offramp.scan.target import read_rows

LARGE_TILE: Final = 12_288
"""Elements: four FP32 tiles of this size fill a local memory of 192 KiB."""
FP32_BYTES: Final = 4
LIVE_TILES: Final = 4
"""Tiles of one kernel that are live at once, in a row-wise kernel (input, gradient, two temporaries). Assumed."""
_OPTIONS: Final = frozenset({"num_warps", "num_stages", "num_ctas", "maxnreg", "waves_per_eu"})
_UNSUPPORTED: Final = frozenset(
    {"float64", "uint16", "uint32", "uint64", "float8e4nv", "float8e5", "float8e4b15", "float8_e4m3fn", "fp64"}
)
_SHORT: Final = {"fp64": "float64"}


@lru_cache(maxsize=1)
def op_limits() -> dict[str, tuple[frozenset[str], str]]:
    """Per Triton operator: dtypes that Ascend's compiler lacks, and the limit in words."""
    return {
        row["op"]: (frozenset(row["missing_dtypes"].split("|")) - {""}, row["limit"])
        for row in read_rows("triton_ascend.csv")
    }


def check(file: PyFile) -> None:
    """Records what stands in the way of this module's Triton kernels."""
    if file.target.torch_cuda_api or not file.has_word("triton"):
        return
    kernels = [node for node in _functions(file.tree) if is_kernel(file, node)]
    for kernel in kernels:
        _kernel(file, kernel)
    names = frozenset(kernel.name for kernel in kernels)
    for function in _functions(file.tree):
        if function.name not in names:
            _launcher(file, function, names=names)
    _module(file)


def census(file: PyFile) -> dict[str, int]:
    """Number of Triton kernels in the module."""
    if not file.has_word("triton"):
        return {}
    count = sum(1 for node in _functions(file.tree) if is_kernel(file, node))
    return {"triton_kernels": count} if count else {}


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    stack: list[ast.stmt] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef):
            yield node
        for field in ("body", "orelse", "finalbody"):
            stack.extend(item for item in getattr(node, field, None) or [] if isinstance(item, ast.stmt))


def is_kernel(file: PyFile, node: ast.FunctionDef) -> bool:
    """True for a function under triton.jit, with or without autotune and heuristics around it."""
    for decorator in node.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        path = resolve(file, call) or dotted(call)
        if path in ("triton.jit", "triton.runtime.jit.jit", "triton.experimental.gluon.jit"):
            return True
    return False


def _put(file: PyFile, node: ast.AST, kind: str, symbol: str, *, scope: str, note: str = "", hint: str = "") -> None:
    line = getattr(node, "lineno", 1)
    file.add(
        node,
        kind,
        symbol,
        ctx=Ctx(scope=scope),
        note=note,
        hint=hint,
        span=(line, getattr(node, "end_lineno", line) or line),
    )


def _kernel(file: PyFile, node: ast.FunctionDef) -> None:
    """Findings inside one kernel."""
    args = {arg.arg for arg in node.args.args if not _is_constexpr(arg)}
    pointers = _pointers(node, args)
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and (resolve(file, decorator.func) or "").endswith("autotune"):
            _put(file, decorator, "triton.autotune", f"autotune of {node.name}", scope=node.name)
    for item in ast.walk(node):
        if isinstance(item, ast.Call):
            _operator(file, item, kernel=node.name)
        elif isinstance(item, ast.AugAssign) and isinstance(item.target, ast.Name) and item.target.id in pointers:
            _put(file, item, "triton.pointer", f"{item.target.id} +=", scope=node.name)
        elif (
            isinstance(item, ast.Attribute)
            and item.attr in _UNSUPPORTED
            and dotted(item).startswith(("tl.", "triton."))
        ):
            _put(file, item, "triton.dtype", dotted(item), scope=node.name)
        elif isinstance(item, ast.BinOp) and isinstance(item.op, ast.Mult) and _narrow_product(item):
            _put(file, item, "triton.index", ast.unparse(item)[:60], scope=node.name)


def _is_constexpr(arg: ast.arg) -> bool:
    return arg.annotation is not None and "constexpr" in dotted(arg.annotation)


def _pointers(node: ast.FunctionDef, args: set[str]) -> set[str]:
    """Parameters that the kernel loads from or stores to."""
    found: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Call) and dotted(item.func).split(".")[-1] in ("load", "store") and item.args:
            found |= {name.id for name in ast.walk(item.args[0]) if isinstance(name, ast.Name)} & args
    return found | {name for name in args if name.lower().endswith("ptr")}


def _narrow_product(node: ast.BinOp) -> bool:
    """A program id times a stride without a cast to int64: overflows past 2**31 elements."""
    sides = [node.left, node.right]
    text = [dotted(side) or (dotted(side.func) if isinstance(side, ast.Call) else "") for side in sides]
    return any("stride" in name.lower() for name in text) and any(
        name.endswith("program_id") or name in ("pid", "program_id", "row_idx", "row_block_id") for name in text
    )


def _operator(file: PyFile, call: ast.Call, *, kernel: str) -> None:
    path = resolve(file, call.func) or dotted(call.func)
    leaf = path.rsplit(".", 1)[-1]
    if not path.startswith(("tl.", "triton.")):
        return
    if leaf.startswith("atomic_"):
        missing, limit = op_limits().get(leaf, (frozenset[str](), ""))
        lacks = f"no {', '.join(sorted(missing))}" if missing else ""
        _put(file, call, "triton.atomic", f"tl.{leaf}", scope=kernel, note="; ".join(filter(None, [lacks, limit])))
    elif leaf in ("inline_asm_elementwise", "inline_asm"):
        _put(file, call, "triton.asm", f"tl.{leaf}", scope=kernel)
    elif leaf in ("make_block_ptr", "advance"):
        _put(file, call, "triton.block_ptr", f"tl.{leaf}", scope=kernel, note=op_limits().get(leaf, (0, ""))[1])
    elif "libdevice" in path:
        _put(file, call, "triton.libdevice", path, scope=kernel)
    elif leaf == "dot":
        for keyword in call.keywords:
            text = ast.unparse(keyword.value).lower()
            if (keyword.arg == "allow_tf32" and text != "false") or (
                keyword.arg == "input_precision" and "tf32" in text
            ):
                _put(file, keyword.value, "triton.tf32", f"tl.dot({keyword.arg})", scope=kernel)
    elif leaf in (
        "dot_scaled",
        "sort",
        "make_tensor_descriptor",
        "load_tensor_descriptor",
        "store_tensor_descriptor",
        "device_print",
        "umulhi",
    ):
        missing, limit = op_limits().get(leaf, (frozenset[str](), ""))
        _put(file, call, "triton.op", f"tl.{leaf}", scope=kernel, note=limit or f"no {', '.join(sorted(missing))}")
    elif leaf == "program_id" and call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value in (1, 2):
        _put(
            file,
            call,
            "triton.grid",
            f"program_id({call.args[0].value})",
            scope=kernel,
            note="grid of more than one dimension",
        )


def _launches(file: PyFile, function: ast.FunctionDef, names: frozenset[str]) -> list[ast.Call]:
    """Calls of the form kernel[grid](...) in a function."""
    found: list[ast.Call] = []
    for item in ast.walk(function):
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Subscript):
            name = dotted(item.func.value).split(".")[-1]
            keywords = {keyword.arg or "" for keyword in item.keywords}
            if (
                name in names
                or "kernel" in name.lower()
                or keywords & _OPTIONS
                or any(key.isupper() for key in keywords)
            ):
                found.append(item)
    return found


def _launcher(file: PyFile, function: ast.FunctionDef, *, names: frozenset[str]) -> None:
    """The launcher: where a port dispatches to the target's own launch, and sizes grid and tiles."""
    if not file.touches(function.lineno, function.end_lineno or function.lineno) and not names:
        return
    launches = _launches(file, function, names)
    if not launches:
        return
    kernels = list(dict.fromkeys(dotted(call.func.value) for call in launches if isinstance(call.func, ast.Subscript)))
    first = function.decorator_list[0].lineno if function.decorator_list else function.lineno
    head = function.body[0].lineno - 1
    file.add(
        function, "triton.launch", f"{function.name} launches {', '.join(kernels)[:60]}", ctx=Ctx(scope=function.name),
        span=(max(1, first - 1), max(first, min(head, first + 12))), note="place for a backend dispatch",
    )  # fmt: skip
    for call in launches:
        grid = call.func.slice if isinstance(call.func, ast.Subscript) else call
        options = [keyword for keyword in call.keywords if keyword.arg in _OPTIONS]
        if options:
            _put(
                file,
                options[0],
                "triton.options",
                ", ".join(keyword.arg or "" for keyword in options),
                scope=function.name,
            )
        text = ast.unparse(grid)
        if not text.replace("(", "").replace(")", "").replace(",", "").strip().isdigit():
            limit = file.target.triton_grid_max
            note = f"grid {text[:40]} is bound by data" + (f"; the limit is {limit}" if limit else "")
            _put(file, call.func, "triton.grid", f"{dotted(call.func.value)}[grid]", scope=function.name, note=note)  # type: ignore[attr-defined]
    _tiles(file, function)


def _tiles(file: PyFile, function: ast.FunctionDef) -> None:
    """Tiles as wide as a row of the tensor: next_power_of_2(n_cols) and helpers that wrap it."""
    for item in ast.walk(function):
        if isinstance(item, ast.Call):
            leaf = (resolve(file, item.func) or dotted(item.func)).rsplit(".", 1)[-1]
            if leaf in ("next_power_of_2", "calculate_settings"):
                limit = file.target.triton_local_bytes
                note = (
                    f"a tile as wide as the row; {limit / KIB:.0f} KiB of local memory"
                    if limit
                    else "a tile as wide as the row"
                )
                _put(file, item, "triton.tile", f"{leaf}()", scope=function.name, note=note)


def _module(file: PyFile) -> None:
    """Module level: large tile constants and libdevice imports."""
    limit = file.target.triton_local_bytes
    largest = limit // (FP32_BYTES * LIVE_TILES) if limit else LARGE_TILE
    stack: list[ast.stmt] = list(file.tree.body)
    while stack:
        stmt = stack.pop()
        if isinstance(stmt, ast.Assign) and len(stmt.targets) == 1 and isinstance(stmt.targets[0], ast.Name):
            size = _constant(stmt.value)
            name = stmt.targets[0].id
            if size >= largest and any(word in name.upper() for word in ("BLOCK", "FUSED", "TILE", "CHUNK")):
                _put(file, stmt, "triton.tile", f"{name} = {size}", scope="", note=f"over {largest} elements")
        elif (
            isinstance(stmt, ast.ImportFrom)
            and stmt.module
            and "libdevice" in stmt.module + "".join(a.name for a in stmt.names)
        ):
            if stmt.module.startswith("triton"):
                _put(file, stmt, "triton.libdevice", f"{stmt.module}", scope="")
        elif isinstance(stmt, ast.If) and any(
            "libdevice" in (getattr(item, "module", "") or "") for item in ast.walk(stmt)
        ):
            file.add(
                stmt,
                "triton.libdevice",
                "choice of libdevice",
                ctx=Ctx(),
                span=(stmt.lineno, stmt.end_lineno or stmt.lineno),
            )
            continue
        for field in ("body", "orelse", "handlers", "finalbody"):
            for item in getattr(stmt, field, None) or []:
                if isinstance(item, ast.ExceptHandler):
                    stack.extend(item.body)
                elif isinstance(item, ast.stmt) and not isinstance(stmt, (ast.FunctionDef, ast.ClassDef)):
                    stack.append(item)


def _constant(node: ast.AST) -> int:
    """Value of a small integer expression (65536 // 2, 2**16); 0 where it is none."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp):
        left, right = _constant(node.left), _constant(node.right)
        if isinstance(node.op, ast.FloorDiv) and right:
            return left // right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Pow) and 0 < right <= 32 and 0 < left <= 16:
            return left**right
        if isinstance(node.op, ast.LShift) and 0 < right <= 32:
            return left << right
    return 0
