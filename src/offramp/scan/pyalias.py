"""Imports and aliases of a Python module, relative imports made absolute where the package is known."""

from __future__ import annotations

import ast

from offramp.scan.pyfile import PyFile, resolve

CUDA_ROOTS = ("torch.cuda", "torch.backends.cuda", "torch.backends.cudnn", "torch.utils.cpp_extension", "numba.cuda")


def module_name(path: str) -> str:
    """The dotted module of a path in the tree ("src/acme/run.py" -> "src.acme.run")."""
    stem = path[:-3] if path.endswith(".py") else path
    stem = stem.removesuffix("/__init__")
    return stem.replace("/", ".")


def collect_imports(file: PyFile) -> None:
    """Fills aliases, imports, wants and the last top-level import line."""
    package = module_name(file.path).split(".")
    if not file.path.endswith("__init__.py"):
        package = package[:-1]
    for node in _statements(file.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                file.imports.append(alias.name)
                file.aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            _import_from(file, node, package=package)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            path = resolve(file, node.value)
            if path.startswith(CUDA_ROOTS):
                file.aliases[node.targets[0].id] = path
                file.exports[node.targets[0].id] = path
    for stmt in file.tree.body:
        if isinstance(stmt, (ast.Import, ast.ImportFrom)) and not _is_future(stmt):
            file.last_import = max(file.last_import, stmt.end_lineno or stmt.lineno)
    file.exports.update({name: path for name, path in file.aliases.items() if path.startswith(CUDA_ROOTS)})
    file.add_triggers([name for name, path in file.aliases.items() if path.startswith(CUDA_ROOTS)])


def _is_future(node: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _import_from(file: PyFile, node: ast.ImportFrom, *, package: list[str]) -> None:
    if node.level:
        base = package[: len(package) - node.level + 1]
        module = ".".join([*base, *([node.module] if node.module else [])])
    else:
        module = node.module or ""
    file.imports.append(module)
    for alias in node.names:
        local = alias.asname or alias.name
        file.imports.append(f"{module}.{alias.name}")
        file.aliases[local] = f"{module}.{alias.name}"
        if not module.startswith("torch"):
            file.wants[local] = (module, alias.name)


def _statements(tree: ast.Module) -> list[ast.stmt]:
    """Every statement of the module, in order of lines; does not recurse into expressions."""
    found: list[ast.stmt] = []
    stack: list[ast.stmt] = list(reversed(tree.body))
    while stack:
        stmt = stack.pop()
        found.append(stmt)
        for field in ("finalbody", "orelse", "handlers", "body", "cases"):
            for inner in reversed(getattr(stmt, field, None) or []):
                if isinstance(inner, ast.stmt):
                    stack.append(inner)
                elif isinstance(inner, (ast.ExceptHandler, ast.match_case)):
                    stack.extend(reversed(inner.body))
    return found
