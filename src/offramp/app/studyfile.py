"""Reads a study file: includes, overrides, relative paths, and every structural problem at once."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp.app.study import Study, StudyFile
from offramp.core.document import (
    Problem,
    child_path,
    conform,
    decode_text,
    parse_toml,
    read_bytes,
)
from offramp.core.errors import InputError, near_miss_hint

PATH_KEYS: Final = ("trace", "model")
INSTEAD: Final = {"trace": "synthetic", "synthetic": "trace"}
"""A key that is set on top of a base takes the place of this other one."""
MOST_INCLUDES: Final = 50


class Draft(msgspec.Struct, kw_only=True):
    """A study on its way: what could be understood, and what is wrong with it.

    Attributes:
        path: the file that the user named.
        data: converted plain data; parts that could not be understood are left out.
        problems: structural problems.
        inputs: content of every file read.
    """

    path: Path
    data: dict[str, Any]
    problems: list[Problem]
    inputs: dict[str, bytes]

    def study(self) -> Study:
        """The record; only when no problem is an error."""
        return msgspec.convert(self.data, Study)


def read_study(path: str | Path, *, overrides: Sequence[str] = ()) -> Draft:
    """A draft of the study, with all structural problems.

    Args:
        path: the TOML file.
        overrides: "path=value" settings, as of ``--set``.

    Raises:
        InputError: the file cannot be read at all (missing, not UTF-8, not TOML, includes itself).
    """
    file = Path(path)
    inputs: dict[str, bytes] = {}
    raw = _read_tree(file, inputs, chain=())
    for override in overrides:
        raw = apply_override(raw, override)
    _rebase(raw, file.resolve().parent)
    if overrides:
        inputs["--set"] = "\n".join(overrides).encode()
    data, problems = conform(raw, Study)
    return Draft(path=file, data=data if isinstance(data, dict) else {}, problems=problems, inputs=inputs)


def load_study(path: str | Path, *, overrides: Sequence[str] = ()) -> StudyFile:
    """The study; the first structural error is raised, with how many more there are.

    Raises:
        InputError: anything structural is wrong.
    """
    draft = read_study(path, overrides=overrides)
    errors = [problem for problem in draft.problems if problem.level == "error"]
    if errors:
        raise problem_error(draft.path, errors)
    return StudyFile(study=draft.study(), path=draft.path, inputs=draft.inputs)


def problem_error(path: Path, errors: Sequence[Problem]) -> InputError:
    """The first of several problems as an error that says how to see them all."""
    first = errors[0]
    more = f' {len(errors) - 1} more: "offramp check {path}" lists all.' if len(errors) > 1 else ""
    return InputError(first.what, where=f"{path}:{first.path}", mend=f"{first.mend}{more}".strip())


def _read_tree(file: Path, inputs: dict[str, bytes], *, chain: tuple[Path, ...]) -> dict[str, Any]:
    """Tables of a file over those of the files that it includes."""
    key = file.resolve()
    if key in chain:
        loop = " -> ".join(str(item.name) for item in (*chain, key))
        raise InputError(f"includes itself ({loop})", where=f"{file}:$.study.include", mend="Break the circle.")
    if len(inputs) >= MOST_INCLUDES:
        raise InputError(f"includes more than {MOST_INCLUDES} files", where=f"{file}:$.study.include")
    blob = read_bytes(file)
    inputs[str(file)] = blob
    own = parse_toml(decode_text(blob, where=str(file)), where=str(file))
    _rebase(own, file.resolve().parent)
    header = own.get("study")
    names: Any = header.get("include", ()) if isinstance(header, dict) else ()
    listed: list[Any] = [names] if isinstance(names, str) else names if isinstance(names, list) else []
    merged: dict[str, Any] = {}
    for i, name in enumerate(listed):
        if not isinstance(name, str) or not name:
            raise InputError("expected a file name", where=f"{file}:$.study.include[{i}]")
        merged = merge(merged, _read_tree(file.parent / name, inputs, chain=(*chain, key)))
    return merge(merged, own)


def _rebase(data: dict[str, Any], folder: Path) -> None:
    """Makes relative file names of workloads relative to the study file, in place."""
    works = data.get("workload")
    for work in works if isinstance(works, list) else ():
        for key in PATH_KEYS if isinstance(work, dict) else ():
            value = work.get(key)
            if isinstance(value, str) and value and is_file_name(value, folder):
                work[key] = str(folder / value)


def is_file_name(value: str, folder: Path) -> bool:
    """Whether a model or trace names a file rather than a preset id."""
    looks = value.startswith((".", "/", "~")) or value.endswith((".json", ".csv", ".jsonl", ".parquet", ".gz"))
    return looks or (folder / value).exists()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``: tables key by key, lists of tables by their ids, everything else replaced."""
    out = dict(copy.deepcopy(base))
    for key, other in INSTEAD.items():
        if key in over and other not in over:
            out.pop(other, None)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            out[key] = merge(old, value)
        elif isinstance(value, list) and isinstance(old, list) and _have_ids(value) and _have_ids(old):
            out[key] = _merge_lists(old, value)
        else:
            out[key] = value
    return out


def _have_ids(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and isinstance(item.get("id"), str) for item in items)


def _merge_lists(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out = list(old)
    known = {item["id"] for item in old}
    for item in new:
        if item["id"] in known:
            at = next(i for i, have in enumerate(out) if have["id"] == item["id"])
            out[at] = merge(out[at], item)
        else:
            out.append(item)
    return out


_STEP: Final = re.compile(r'\.?([A-Za-z_][\w-]*)|\[(\d+)\]|\["([^"]+)"\]|\.([\w./-]+)')


def apply_override(data: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The data with one "path=value" applied; entries of lists are named by index or by id.

    ``workload.chat.slo.ttft_p90=1 s`` and ``$.workload[0].slo.ttft_p90="1 s"`` mean the same.

    Raises:
        InputError: no "=", or the path leads nowhere.
    """
    name, sign, value_text = text.partition("=")
    where = f"--set {text}"
    if not sign or not name.strip():
        raise InputError('is not "path=value"', where=where, mend='Write it as in "workload.chat.peak_to_mean=3".')
    steps = _steps(name.strip().removeprefix("$").lstrip("."), where)
    out = copy.deepcopy(dict(data))
    node: Any = out
    path = "$"
    for step in steps[:-1]:
        node, path = _descend(node, step, path, where)
    last = steps[-1]
    if isinstance(node, list):
        node[_index(node, last, path, where)] = override_value(value_text)
    elif isinstance(node, dict):
        node.pop(INSTEAD.get(str(last), ""), None)
        node[str(last)] = override_value(value_text)
    else:
        raise InputError(f"{path} is not a table", where=where)
    return out


def _steps(name: str, where: str) -> list[str | int]:
    """Steps of a dotted path with [0] and ["a.b"]."""
    steps: list[str | int] = []
    at = 0
    while at < len(name):
        match = _STEP.match(name, at)
        if not match or match.end() == at:
            raise InputError(f'cannot read the path at "{name[at:]}"', where=where)
        key, index, quoted, loose = match.groups()
        steps.append(int(index) if index is not None else (key or quoted or loose))
        at = match.end()
    return steps


def _descend(node: Any, step: str | int, path: str, where: str) -> tuple[Any, str]:
    if isinstance(node, list):
        at = _index(node, step, path, where)
        return node[at], child_path(path, at)
    if not isinstance(node, dict):
        raise InputError(f"{path} is not a table", where=where)
    return node.setdefault(str(step), {}), child_path(path, str(step))


def _index(node: list[Any], step: str | int, path: str, where: str) -> int:
    if isinstance(step, int) or str(step).isdigit():
        at = int(step)
        if at < len(node):
            return at
        raise InputError(f"{path} has {len(node)} entries, no [{at}]", where=where)
    ids = [str(item.get("id", item.get("chip", ""))) if isinstance(item, dict) else "" for item in node]
    if step in ids:
        return ids.index(step)
    raise InputError(f'{path} has no entry "{step}"', where=where, mend=near_miss_hint(str(step), filter(None, ids)))


def override_value(text: str) -> Any:
    """A TOML value; text that is none is taken as a string."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
