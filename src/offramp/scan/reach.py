"""Entry points and what they import: which findings a run of one script or package meets."""

from __future__ import annotations

import tomllib
from collections import deque
from pathlib import Path
from typing import Final

from offramp.scan.finding import FileScan

MOST_NAMED: Final = 5
"""Entry points named on one finding; the rest are counted in the entry-point table."""


def module_index(files: tuple[FileScan, ...]) -> dict[str, str]:
    """Dotted module -> path, under every source root that it could be imported from."""
    index: dict[str, str] = {}
    for scan in sorted(files, key=lambda scan: scan.path.count("/")):
        if scan.kind != "python" or not scan.path.endswith(".py"):
            continue
        parts = scan.path.removesuffix(".py").removesuffix("/__init__").split("/")
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if start == 0 or len(parts) - start >= 2 or parts[0] in ("src", "python"):
                index.setdefault(name, scan.path)
    return index


def import_graph(files: tuple[FileScan, ...]) -> dict[str, set[str]]:
    """Path -> paths of the modules of the tree that it imports."""
    index = module_index(files)
    graph: dict[str, set[str]] = {}
    for scan in files:
        folder = scan.path.rsplit("/", 1)[0].replace("/", ".") if "/" in scan.path else ""
        goals: set[str] = set()
        for name in scan.imports:
            for candidate in (name, f"{folder}.{name}" if folder else name):
                path = index.get(candidate)
                if path and path != scan.path:
                    goals.add(path)
                    break
        graph[scan.path] = goals
    return graph


def entry_points(root: Path, files: tuple[FileScan, ...]) -> dict[str, str]:
    """Entry point -> path: scripts with a main block, console scripts, top-level packages."""
    index = module_index(files)
    entries: dict[str, str] = {}
    for name, module in _console_scripts(root).items():
        if module in index:
            entries[f"command {name}"] = index[module]
    for scan in files:
        if (
            scan.kind == "python"
            and scan.role in ("source", "example", "benchmark")
            and (scan.is_entry or scan.path == "train.py")
        ):
            entries[scan.path] = scan.path
    for scan in files:
        parts = scan.path.split("/")
        if (
            parts[-1] == "__init__.py"
            and scan.role == "source"
            and len(parts) == (3 if parts[0] in ("src", "python") else 2)
        ):
            entries[f"package {parts[-2]}"] = scan.path
    return entries


def _console_scripts(root: Path) -> dict[str, str]:
    """[project.scripts] of pyproject.toml; a broken or hostile file has none."""
    path = root / "pyproject.toml"
    try:
        if not path.is_file() or path.is_symlink() or path.stat().st_size > 1_000_000:
            return {}
        scripts = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}).get("scripts", {})
        return {str(name): str(goal).split(":")[0] for name, goal in scripts.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Paths that importing ``start`` loads, itself included; packages load their ``__init__``."""
    seen = {start}
    queue = deque([start])
    while queue:
        for goal in graph.get(queue.popleft(), ()):
            if goal not in seen:
                seen.add(goal)
                queue.append(goal)
    return seen
