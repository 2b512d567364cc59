"""Run store: folders that hold an answer, written so that a kill, a crash or a full disk never leaves half a thing.

    <root>/<command>-<hash>/manifest.json     what ran, on what, how far it is (written last)
                            result.json       the Result
                            <table>.parquet   its tables
    <root>/.units/<xx>/<key>.json             finished units of work, addressed by the hash of their inputs

A unit that is there is never computed again, whichever run made it: a killed run resumes, and a second run of an
edited study recomputes only what changed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import functools
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from offramp import __version__
from offramp.core.errors import BackendError, InputError
from offramp.core.record import Record
from offramp.core.result import Column, Result, Table, hash_inputs, result_from_json, table_of

T = TypeVar("T")
UNIT_FORMAT: Final = 1
_COMPUTING: Final = ("core", "arch", "catalog", "traffic", "cost", "serve", "search")
MANIFEST: Final = "manifest.json"
_UNIT: Final = re.compile(r"^[0-9a-f]{32}$")


class Manifest(Record):
    """What a run folder holds.

    Attributes:
        id: name of the folder.
        command: "assess", "plan" ...
        title: name of the study, or what was asked.
        status: "running" until the Result is there; "failed" with ``error`` when the command ended in one.
        created, updated: UTC.
        inputs_hash, data_version, offramp_version, seed: what decides the answer.
        tables: names of the Parquet files.
        units: keys of the units of work that it used.
        error: last error, if any.
    """

    id: str
    command: str
    title: str
    status: Literal["running", "complete", "failed"]
    created: dt.datetime
    updated: dt.datetime
    inputs_hash: str
    data_version: str = ""
    offramp_version: str = __version__
    seed: int = 0
    tables: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    error: str = ""


def runs_root(root: str | Path | None = None) -> Path:
    """The folder of runs: the argument, else ``OFFRAMP_RUNS``, else ``./runs``."""
    return Path(root or os.environ.get("OFFRAMP_RUNS") or "runs")


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """Digest of the program's own source: a unit that older code computed is not taken for a new one."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).resolve().parents[1]
    files = [path for layer in _COMPUTING for path in sorted((root / layer).rglob("*.py"))]
    for path in [*files, *(root / "app" / name for name in ("cells.py", "splits.py", "workload.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    Raises:
        BackendError: the disk is full or the folder cannot be written.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if name:
            with contextlib.suppress(OSError):
                Path(name).unlink(missing_ok=True)
        raise _disk_error(error, path) from None


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename is still atomic
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _disk_error(error: OSError, path: Path) -> BackendError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    mend = "Free some space and run the same command again: finished parts are kept." if full else "Check the folder."
    return BackendError(
        "the disk is full" if full else f"cannot be written ({error.strerror})", where=str(path), mend=mend
    )


class RunStore:
    """Finished units of work below a root folder, shared by all runs.

    Args:
        root: the folder of runs; None keeps nothing and computes everything.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.used: list[str] = []
        self.hits = 0

    def key(self, kind: str, parts: dict[str, Any]) -> str:
        """The address of a unit: hash of its kind, its inputs and the program's version."""
        texts: dict[str, bytes | str | int | float | None] = {
            name: value if isinstance(value, (bytes, str, int, float)) else msgspec.json.encode(value, order="sorted")
            for name, value in parts.items()
        }
        return hash_inputs({**texts, "\x00kind": kind, "\x00format": UNIT_FORMAT, "\x00code": code_version()})

    def find(self, key: str, kind: type[T]) -> T | None:
        """The finished unit of that key, or None. A unit that cannot be read counts as not there."""
        if self.root is None:
            return None
        try:
            value = msgspec.json.decode(self._path(key).read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError):
            return None
        self._note(key)
        self.hits += 1
        return value

    def keep(self, key: str, value: Any) -> None:
        """Keeps a finished unit."""
        if self.root is not None:
            write_atomic(self._path(key), msgspec.json.encode(value))
            self._note(key)

    def unit(self, key: str, kind: type[T], compute: Callable[[], T]) -> T:
        """The unit of that key: found, or computed and kept."""
        found = self.find(key, kind)
        if found is not None:
            return found
        value = compute()
        self.keep(key, value)
        return value

    def _note(self, key: str) -> None:
        if key not in self.used:
            self.used.append(key)

    def _path(self, key: str) -> Path:
        if self.root is None or not _UNIT.match(key):
            raise ValueError(key)
        return self.root / ".units" / key[:2] / f"{key}.json"


class Run:
    """One run folder, open while a command works.

    Args:
        store: where units are kept.
        command: of the Result.
        inputs_hash: names the folder, so that the same question resumes in the same place.
        title: shown by ``offramp runs``.
    """

    def __init__(self, store: RunStore, command: str, inputs_hash: str, *, title: str = "", seed: int = 0) -> None:
        self.store = store
        self.id = f"{command}-{inputs_hash[:12]}"
        now = _now()
        self._manifest = Manifest(
            id=self.id, command=command, title=title, status="running", created=now, updated=now,
            inputs_hash=inputs_hash, seed=seed,
        )  # fmt: skip

    @property
    def folder(self) -> Path | None:
        """Where it is kept; None when nothing is kept."""
        return self.store.root / self.id if self.store.root is not None else None

    def start(self) -> Result | None:
        """Begins the run; the Result, if this very question was answered before."""
        folder = self.folder
        if folder is None:
            return None
        old = read_manifest(folder)
        if old is not None and old.status == "complete" and old.inputs_hash == self._manifest.inputs_hash:
            try:
                return result_from_json((folder / "result.json").read_bytes())
            except (OSError, msgspec.MsgspecError):
                pass  # damaged from outside: answered again below
        if old is not None:
            self._manifest = msgspec.structs.replace(self._manifest, created=old.created)
        sweep(folder)
        self._write()
        return None

    def finish(self, result: Result) -> Result:
        """Writes tables, then the Result, then the manifest that makes it count."""
        folder = self.folder
        if folder is None:
            return result
        for name, table in result.tables.items():
            write_table(folder / f"{name}.parquet", table)
        write_atomic(folder / "result.json", result.to_json().encode())
        self._manifest = msgspec.structs.replace(
            self._manifest, status="complete", data_version=result.data_version, tables=tuple(sorted(result.tables)),
            units=tuple(self.store.used), error="",
        )  # fmt: skip
        self._write()
        return result

    def fail(self, error: BaseException) -> None:
        """Notes that the command ended in an error; what is finished stays."""
        self._manifest = msgspec.structs.replace(
            self._manifest, status="failed", error=str(error)[:500], units=tuple(self.store.used)
        )
        with contextlib.suppress(BackendError):  # the first error is the one to report
            self._write()

    def _write(self) -> None:
        if self.folder is not None:
            self._manifest = msgspec.structs.replace(self._manifest, updated=_now())
            write_atomic(self.folder / MANIFEST, msgspec.json.format(msgspec.json.encode(self._manifest), indent=1))


@contextlib.contextmanager
def failing(run: Run) -> Generator[None]:
    """Marks the run as failed when the block ends in an error."""
    try:
        yield
    except BaseException as error:
        run.fail(error)
        raise


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def sweep(folder: Path) -> None:
    """Removes temporary files that a killed process left in a run folder."""
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            path.unlink()


def write_table(path: Path, table: Table) -> None:
    """The table as Parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table.to_arrow(), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a run folder, or None when there is none that can be read."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def read_result(root: str | Path | None, name: str) -> Result:
    """The Result of a run, by id, unique beginning of an id, or folder.

    Raises:
        InputError: no such run, several, or it has no Result yet.
    """
    base = runs_root(root)
    plain = Path(name).name == name  # an id, not a path
    begun = sorted(base.glob(f"{glob_safe(name)}*")) if plain else []
    folders = [Path(name)] if (Path(name) / MANIFEST).is_file() else begun
    folders = [folder for folder in folders if (folder / MANIFEST).is_file()]
    exact = [folder for folder in folders if folder.name == name]
    folders = exact or folders
    if len(folders) != 1:
        what = "no such run" if not folders else f"{len(folders)} runs begin so"
        where = f"{base}/{name}" if plain else name
        raise InputError(what, where=where, mend='"offramp runs" lists all.')
    try:
        return result_from_json((folders[0] / "result.json").read_bytes())
    except (OSError, msgspec.MsgspecError):
        raise InputError(
            "has no Result yet", where=str(folders[0]), mend="Run the same command again; it resumes."
        ) from None


def glob_safe(text: str) -> str:
    """The text with glob signs taken literally."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def runs(root: str | Path | None = None) -> Result:
    """Lists the runs below the root, newest first, through DuckDB."""
    base = runs_root(root)
    folders = [folder for folder in sorted(base.iterdir()) if read_manifest(folder)] if base.is_dir() else []
    rows = _list_with_duckdb(folders) if folders else []
    columns = (
        Column(name="id"), Column(name="command"), Column(name="title", title="study"), Column(name="status"),
        Column(name="updated", title="UTC"), Column(name="units", title="units of work"),
        Column(name="size_bytes", unit="B"), Column(name="data_version"),
    )  # fmt: skip
    table = table_of(rows, columns=columns, title="Runs")
    unreadable = [
        path.name for path in (sorted(base.iterdir()) if base.is_dir() else ())
        if path.is_dir() and not path.name.startswith(".") and path not in folders
    ]  # fmt: skip
    return Result(
        command="runs", answer={"root": str(base), "runs": list(table.dicts()), "unreadable": unreadable},
        inputs_hash=hash_inputs({"root": str(base)}), data_version="", tables={"runs": table},
        offramp_version=__version__,
    )  # fmt: skip


def _list_with_duckdb(folders: list[Path]) -> list[dict[str, Any]]:
    import duckdb

    with duckdb.connect(":memory:") as database:
        database.execute("SET enable_progress_bar = false")
        cursor = database.execute(
            "SELECT id, command, title, status, CAST(updated AS VARCHAR) AS updated, len(units) AS units, data_version "
            "FROM read_json(?, columns = {id: 'VARCHAR', command: 'VARCHAR', title: 'VARCHAR', status: 'VARCHAR', "
            "updated: 'TIMESTAMP', units: 'VARCHAR[]', data_version: 'VARCHAR'}) ORDER BY updated DESC, id",
            [[str(folder / MANIFEST) for folder in folders]],
        )
        names = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    sizes = {folder.name: sum(f.stat().st_size for f in folder.glob("*") if f.is_file()) for folder in folders}
    return [{**row, "size_bytes": sizes.get(str(row["id"]), 0)} for row in rows]


def remove_run(root: str | Path | None, name: str) -> Path:
    """Deletes one run folder (its units stay, they may serve others)."""
    base = runs_root(root)
    folder = base / name
    if Path(name).name != name or read_manifest(folder) is None:
        raise InputError("no such run", where=str(folder), mend='"offramp runs" lists all.')
    shutil.rmtree(folder)
    return folder
