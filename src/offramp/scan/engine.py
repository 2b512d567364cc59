"""Runs the detectors over a tree: several processes, a cache by content, one bad file never stops the rest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from offramp import __version__
from offramp.core.record import Record
from offramp.core.workers import Workers
from offramp.scan import symbols
from offramp.scan.cpp import scan_cpp
from offramp.scan.finding import FileNote, FileScan
from offramp.scan.lines import scan_lines
from offramp.scan.notebook import scan_notebook
from offramp.scan.pyscan import scan_python
from offramp.scan.suppress import drop_suppressed
from offramp.scan.target import DATA, Target, load_target
from offramp.scan.tree import Item, is_generated, read_text, walk_tree

CHUNK_BYTES: Final = 400_000
SERIAL_BYTES: Final = 1_500_000
"""Below this much text a second process costs more than it saves."""


class Scan(Record):
    """All files of a tree, as scanned."""

    files: tuple[FileScan, ...]
    notes: tuple[FileNote, ...]
    reused: int = 0


class _Cache(Record):
    key: str
    files: dict[str, tuple[str, FileScan]]


def scan_tree(root: Path, *, target: Target, jobs: int = 0, cache: Path | None = None) -> Scan:
    """Every file of the tree, scanned for the target.

    Args:
        jobs: processes; 0 means as many as there are cores, at most 8.
        cache: folder of the incremental cache; None keeps none.
    """
    notes: list[FileNote] = []
    items = list(walk_tree(root, notes))
    local = local_packages(items)
    known = _load_cache(root, target, cache)
    workers = jobs or min(os.cpu_count() or 1, 8)
    scans = _run(root, items, target=target, known=known, workers=workers, local=local)
    reused = sum(1 for _, _, fresh in scans if not fresh)
    files = _resolve_across(root, {scan.path: scan for _, scan, _ in scans}, target, local=local)
    if cache is not None:
        _save_cache(root, target, cache, {scan.path: (digest, scan) for digest, scan, _ in scans if digest})
    ordered = tuple(files[path] for path in sorted(files))
    all_notes = [*notes, *(note for scan in ordered for note in scan.notes)]
    return Scan(files=ordered, notes=tuple(sorted(all_notes, key=lambda note: (note.path, note.kind))), reused=reused)


def local_packages(items: list[Item]) -> frozenset[str]:
    """Top-level import names that the tree itself provides (folders with modules, at the root or below src)."""
    found: set[str] = set()
    for item in items:
        if item.kind != "python":
            continue
        parts = item.path.removesuffix(".py").split("/")
        while len(parts) > 1 and parts[0] in ("src", "python", "lib"):
            parts = parts[1:]
        if parts[0] not in ("setup", "conftest", "tests", "test"):
            found.add(parts[0])
    return frozenset(found)


Outcome = tuple[str, FileScan, bool]


def _run(
    root: Path,
    items: list[Item],
    *,
    target: Target,
    known: dict[str, tuple[str, FileScan]],
    workers: int,
    local: frozenset[str],
) -> list[Outcome]:
    total = sum(min(item.size, 4_000_000) for item in items)
    if workers <= 1 or total < SERIAL_BYTES:
        return _scan_chunk(
            str(root), items, target.chip, {item.path: known[item.path] for item in items if item.path in known}, local
        )
    chunks = list(_chunks(items))
    wanted = [
        (
            i,
            (
                str(root),
                chunk,
                target.chip,
                {item.path: known[item.path] for item in chunk if item.path in known},
                local,
            ),
        )
        for i, chunk in enumerate(chunks)
    ]
    done: dict[int, list[Outcome]] = {}
    with Workers(workers) as crew:
        for unit in crew.do(_scan_chunk, wanted):
            chunk = chunks[unit.i]
            lost = [("", _failed(item, "the process that read it died"), True) for item in chunk] if unit.lost else None
            done[unit.i] = unit.value if lost is None else lost
    return [outcome for i in range(len(chunks)) for outcome in done[i]]


def _chunks(items: list[Item]) -> Iterable[list[Item]]:
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += item.size
        if size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _scan_chunk(
    root: str, items: list[Item], chip: str, known: dict[str, tuple[str, FileScan]], local: frozenset[str]
) -> list[Outcome]:
    target = load_target(chip)
    found: list[Outcome] = []
    for item in items:
        notes: list[FileNote] = []
        text, raw = read_text(Path(root), item, notes)
        digest = hashlib.blake2b(raw, digest_size=16).hexdigest() if raw else ""
        old = known.get(item.path)
        if old and digest and old[0] == digest:
            found.append((digest, old[1], False))
            continue
        scan = scan_item(item, text, target=target, local=local) if text else _empty(item)
        if notes:
            scan = msgspec.structs.replace(scan, notes=(*scan.notes, *notes))
        found.append((digest, scan, True))
    return found


def scan_item(
    item: Item,
    text: str,
    *,
    target: Target,
    extra: dict[str, str] | None = None,
    local: frozenset[str] = frozenset(),
) -> FileScan:
    """What one file holds; whatever goes wrong inside becomes a note on that file."""
    role = "generated" if item.role == "source" and is_generated(text) else item.role
    try:
        if item.kind == "python":
            scan = scan_python(item.path, text, role=role, target=target, extra=extra, local=local)
        elif item.kind == "notebook":
            scan = scan_notebook(item.path, text, role=role, target=target, local=local)
        elif item.kind == "cpp":
            scan = scan_cpp(item.path, text, role=role, target=target)
        else:
            scan = scan_lines(item.path, text, kind=item.kind, role=role, target=target)
    except Exception as error:
        return _failed(item, f"could not be analysed: {type(error).__name__}: {error}")
    python = item.kind in ("python", "notebook")
    hits = [hit for hit in scan.hits if python or symbols.needed(hit.kind, target, python=False)]
    hits = [hit for hit in hits if hit.kind not in ("op.limited", "numerics") or symbols.lacks(hit.symbol, target)]
    return drop_suppressed(msgspec.structs.replace(scan, hits=tuple(hits), snippets=_kept(scan, hits)), text)


def _kept(scan: FileScan, hits: list) -> tuple[str, ...]:
    kept = {id(hit) for hit in hits}
    return tuple(text for hit, text in zip(scan.hits, scan.snippets, strict=True) if id(hit) in kept)


def _empty(item: Item) -> FileScan:
    return FileScan(path=item.path, kind=item.kind, role=item.role, lines=0)


def _failed(item: Item, why: str) -> FileScan:
    return msgspec.structs.replace(_empty(item), notes=(FileNote(path=item.path, kind="unreadable", text=why),))


def _resolve_across(
    root: Path, files: dict[str, FileScan], target: Target, *, local: frozenset[str]
) -> dict[str, FileScan]:
    """Reads again the files that import a CUDA alias from another module of the tree."""
    modules: dict[str, dict[str, str]] = {}
    for scan in files.values():
        if scan.exports:
            name = scan.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            modules[name] = scan.exports
    if not modules:
        return files
    tails = {tail: exports for name, exports in modules.items() for tail in _tails(name)}
    again: dict[str, dict[str, str]] = {}
    for scan in files.values():
        extra = {
            local: tails[module][name]
            for local, (module, name) in scan.wants.items()
            if module in tails and name in tails[module]
        }
        if extra:
            again[scan.path] = extra
    for path, extra in again.items():
        old = files[path]
        notes: list[FileNote] = []
        size = (root if root.is_file() else root / path).stat().st_size
        item = Item(path, old.kind, old.role, size)
        text, _ = read_text(root, item, notes)
        if text:
            files[path] = scan_item(item, text, target=target, extra=extra, local=local)
    return files


def _tails(name: str) -> list[str]:
    """A module and its names below source roots ("src.acme.dev" -> also "acme.dev")."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts)) if len(parts) - start >= 1]


def rules_key(target: Target) -> str:
    """Changes when the code's version, the data or the target change; cached scans of another key are dropped."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{__version__}|{target.chip}".encode())
    for entry in sorted(DATA.iterdir(), key=lambda entry: entry.name):
        digest.update(entry.name.encode())
        digest.update(entry.read_bytes())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _cache_file(root: Path, target: Target, cache: Path) -> Path:
    name = hashlib.blake2b(f"{root.resolve()}|{target.chip}".encode(), digest_size=10).hexdigest()
    return cache / f"{name}.msgpack"


def _load_cache(root: Path, target: Target, cache: Path | None) -> dict[str, tuple[str, FileScan]]:
    if cache is None:
        return {}
    try:
        stored = msgspec.msgpack.decode(_cache_file(root, target, cache).read_bytes(), type=_Cache)
    except (OSError, msgspec.MsgspecError):
        return {}
    return stored.files if stored.key == rules_key(target) else {}


def _save_cache(root: Path, target: Target, cache: Path, files: dict[str, tuple[str, FileScan]]) -> None:
    path = _cache_file(root, target, cache)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.msgpack.encode(_Cache(key=rules_key(target), files=files)))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
