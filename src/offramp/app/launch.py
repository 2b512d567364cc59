"""launch: command lines and manifests that start the layouts which an assessment chose."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from offramp import __version__, arch, catalog
from offramp.app.launch_engines import DATA, SETTINGS, data, effective_dtype, image_of
from offramp.app.launch_files import files_of
from offramp.app.runs import read_result
from offramp.catalog import Catalog, Chip
from offramp.catalog.engines import version_key
from offramp.core.errors import InputError, ModelRangeError, OfframpError, near_miss_hint
from offramp.core.record import Record
from offramp.core.result import Notice, Result, Table, hash_inputs, result_from_json, table_of


class Flag(Record):
    """One setting of an engine.

    Attributes:
        name: flag, or key of a configuration file.
        value: as written; "" for a switch.
        why: what it sets.
        source, url: where it was read that the engine has it.
        confirmed: whether the engine's version lies among those in which it was read.
        note: remark where it does not.
    """

    name: str
    value: str
    why: str
    source: str
    url: str
    confirmed: bool
    note: str = ""


class Launch(Record):
    """How one workload is started.

    Attributes:
        workload, chip, engine, version: what runs where.
        model: as the engine is told.
        replicas: identical deployments.
        devices: torch devices of one replica; ``per_node`` of them on each of ``nodes`` servers.
        command: of the first node, as words.
        env: environment variables.
        flags: settings with their evidence.
        image: container image; "" where no source names one.
        resource: of the device plugin.
        layout: as the assessment gave it.
        notes: what to check before use.
    """

    workload: str
    chip: str
    vendor: str
    engine: str
    version: str
    style: str
    model: str
    served_name: str
    replicas: int
    devices: int
    nodes: int
    per_node: int
    command: tuple[str, ...]
    env: dict[str, str]
    flags: tuple[Flag, ...]
    image: str
    resource: str
    layout: dict[str, Any]
    context: int
    mean_isl: float
    notes: tuple[str, ...] = ()


def launch(
    source: str | Path,
    *,
    chip: str = "",
    workload: str = "",
    out: str | Path | None = None,
    root: str | Path | None = None,
) -> Result:
    """Launch artefacts of every workload of an assessment.

    Args:
        source: a study (assessed where that was not done before), a run, or the JSON of an assess Result.
        chip: instead of the recommended one.
        workload: only this one.
        out: folder to write the files to.
        root: folder of runs.

    Raises:
        InputError: no such study, run, workload or chip.
        ModelRangeError: nothing carries the workload on that chip.
    """
    result = result_of(source, root, command="assess")
    facts = catalog.load()
    wanted = [item for item in result.answer["workloads"] if workload in ("", item["id"])]
    if not wanted:
        names = [item["id"] for item in result.answer["workloads"]]
        if not names:
            raise InputError("nothing is served: training runs have a layout, not a launch command", where=str(source))
        raise InputError(
            f'no workload "{workload}"',
            where="--workload",
            mend=near_miss_hint(workload, names) or f"There are: {', '.join(names)}.",
        )
    made: list[Launch] = []
    notices: list[Notice] = []
    for item in wanted:
        try:
            made.append(_launch(item, facts, chip))
        except OfframpError as error:
            if len(wanted) == 1:
                raise
            notices.append(Notice(kind="no-launch", text=str(error), where=item["id"]))
    files = {
        f"{one.workload}/{name}": text for one in made for name, text in files_of(one, data()["kubernetes"]).items()
    }
    if out is not None:
        write_files(Path(out), files)
    for one in made:
        notices += [Notice(kind="launch", text=note, where=one.workload) for note in one.notes]
        notices += _unconfirmed(one)
    return _result(result, made, files, notices, out)


def _unconfirmed(one: Launch) -> list[Notice]:
    """One notice for all flags with the same remark."""
    by_note: dict[str, list[str]] = {}
    for flag in one.flags:
        if not flag.confirmed:
            by_note.setdefault(flag.note, []).append(flag.name)
    return [
        Notice(kind="unconfirmed-flag", text=f"{', '.join(names)}: {note}", where=one.workload)
        for note, names in by_note.items()
    ]


def result_of(source: str | Path, root: str | Path | None, *, command: str = "") -> Result:
    """The Result of a study, a run folder, a run id or a Result file.

    Raises:
        InputError: nothing of that name, or a Result of another command.
    """
    path = Path(source)
    if path.is_dir():
        path = path / "result.json"
    if path.suffix == ".toml" and path.is_file():
        from offramp.app.assess import assess

        return assess(path, root=root)
    if path.is_file():
        try:
            found = result_from_json(_whole(path.read_bytes()))
        except (msgspec.DecodeError, OSError, RecursionError) as error:
            raise InputError(
                f"is no Result: {error}", where=str(source), mend="Give a study, a run or what --json printed."
            ) from None
    else:
        found = read_result(root, str(source))
    if command and found.command != command:
        raise InputError(f'is a Result of "{found.command}"', where=str(source), mend=f'Give one of "{command}".')
    return found


def _whole(raw: bytes) -> bytes:
    """A Result as JSON; a scan's form, which holds its lists beside the answer, is put together again."""
    read = msgspec.json.decode(raw)
    if not isinstance(read, dict) or read.get("command") != "scan" or not isinstance(read.get("answer"), dict):
        return raw
    beside = {name: read.pop(name) for name in list(read) if name not in Result.__struct_fields__ and name != "target"}
    read.pop("target", None)
    tables = {name: msgspec.to_builtins(_listed(name, rows)) for name, rows in beside.items() if rows}
    return msgspec.json.encode({**read, "answer": {**read["answer"], **beside}, "tables": tables})


def _listed(name: str, rows: list[dict[str, Any]]) -> Table:
    """A list of records as a table; what is no single value is left out."""
    plain = [{key: value for key, value in row.items() if not isinstance(value, (list, dict))} for row in rows]
    columns = dict.fromkeys(key for row in plain for key in row)
    return table_of(plain, columns=columns, title=name.replace("_", " ").capitalize())


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Writes text files below a folder.

    Raises:
        InputError: it cannot be written.
    """
    try:
        for name, text in files.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise InputError(f'"{name}" leads out of the folder', where=str(folder), mend="Rename the workload.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if path.suffix == ".sh":
                path.chmod(0o755)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(folder)) from None


def _launch(item: dict[str, Any], facts: Catalog, chip_name: str) -> Launch:
    by_chip = {entry["chip"]: entry for entry in item["chips"]}
    name = facts.chip(chip_name).id if chip_name else item["recommended"] or item["baseline"]
    entry = by_chip.get(name)
    if entry is None:
        raise InputError(
            f"{item['id']} was not assessed on {name}", where="--chip", mend=f"It was on: {', '.join(by_chip)}."
        )
    layout, fleet = entry["layout"], entry["fleet"]
    if not layout or not fleet:
        raise ModelRangeError(f"{item['id']} has no layout on {name} ({entry['status']})", where=item["id"])
    chip = facts.chip(name)
    engine = facts.engine(layout["engine"])
    known = data()["engine"].get(engine.id)
    if known is None:
        mend = f"Launch files exist for: {', '.join(sorted(data()['engine']))}."
        raise ModelRangeError(f"no launch command is known for {engine.name}", where=item["id"], mend=mend)
    version = engine.current(None)
    return _compose(item, entry, chip, known, facts, version.version if version else "")


def _compose(
    item: dict[str, Any], entry: dict[str, Any], chip: Chip, known: dict[str, Any], facts: Catalog, version: str
) -> Launch:
    system = facts.systems.get(entry["layout"]["system"])
    per_server = (system.packages_per_node if system else 8) * chip.devices
    layout: dict[str, Any] = {**entry["layout"], "weights_dtype": effective_dtype(entry), "per_server": per_server}
    nodes = max(-(-int(layout["devices"]) // per_server), 1)
    style = known["style"]
    model = arch.load(item["model"]) if not Path(item["model"]).is_file() else None
    context = model.max_context_tokens if model else 0
    settings, notes = SETTINGS[style](layout, known, item, chip, context, model)
    flags = tuple(_flag(name, value, why, style, version, chip) for name, value, why in settings)
    command = _command(style, item["model"], flags)
    served = re.sub(r"[^a-z0-9.-]+", "-", item["model"].rpartition("/")[2].lower()).strip("-.")
    image = image_of(known, chip.id, version)
    if not image:
        notes.append(f"no source names a container image of {layout['engine']} for {chip.name}: fill it in")
    if ":main" in image:
        notes.append("the image's tag moves with every build: pin its digest")
    if chip.id.startswith("huawei/"):
        notes.append("the nodes need Ascend's container runtime, which brings the driver into the pod")
    if entry["precision_fallback"]:
        notes.append(f"{entry['precision_fallback']}: check accuracy before moving")
    return Launch(
        workload=item["id"],
        chip=chip.id,
        vendor=chip.id.partition("/")[0],
        engine=layout["engine"],
        version=version,
        style=style,
        model=item["model"],
        served_name=served,
        replicas=int(entry["fleet"]["replicas"]),
        devices=int(layout["devices"]),
        nodes=nodes,
        per_node=-(-int(layout["devices"]) // nodes),
        command=command,
        env=dict(known.get("env", {})),
        flags=flags,
        image=image,
        resource=resource_of(chip),
        layout=layout,
        context=context,
        mean_isl=item["lengths"]["isl_mean_tokens"],
        notes=tuple(notes),
    )


def resource_of(chip: Chip) -> str:
    """The device-plugin resource of a chip's vendor.

    Raises:
        ModelRangeError: none is known.
    """
    file = DATA.parent / "intake" / "devices.toml"
    vendor = chip.id.partition("/")[0]
    for entry in tomllib.loads(file.read_text("utf-8"))["resource"]:
        if entry["vendor"] == vendor and entry.get("default", chip.id) == chip.id:
            return str(entry["name"])
    raise ModelRangeError(f"no device-plugin resource is known for {chip.name}", where=chip.id)


def _flag(name: str, value: str, why: str, style: str, version: str, chip: Chip) -> Flag:
    del chip
    entry = data()["style"][style]["flags"][name]
    source = data()["style"][style]["sources"][entry["sources"][-1]]
    first, last = version_key(str(entry["first"])), version_key(str(entry["last"]))
    confirmed = bool(version) and first <= version_key(version) <= last
    span = entry["first"] if entry["first"] == entry["last"] else f"{entry['first']} to {entry['last']}"
    note = (
        "" if confirmed else f"read in the documentation of {span}; not checked for {version or 'an unknown version'}"
    )
    return Flag(
        name=name, value=value, why=why, source=source["source"], url=source["url"], confirmed=confirmed, note=note
    )


def _command(style: str, model: str, flags: Sequence[Flag]) -> tuple[str, ...]:
    words = [part.format(model=model) for part in data()["style"][style]["command"]]
    if style == "mindie":
        return tuple(words)
    for flag in flags:
        words += [flag.name, flag.value] if flag.value else [flag.name]
    return tuple(words)


def shell(words: Sequence[str]) -> str:
    """Words as one command, a line for each flag."""
    text = shlex.quote(words[0])
    for word in words[1:]:
        text += (" \\\n  " if word.startswith("--") else " ") + (word if word.startswith("$") else shlex.quote(word))
    return text


def _result(
    source: Result, made: Sequence[Launch], files: dict[str, str], notices: list[Notice], out: str | Path | None
) -> Result:
    rows = [
        {
            "workload": one.workload,
            "chip": one.chip,
            "engine": one.engine,
            "version": one.version,
            **msgspec.to_builtins(flag),
        }
        for one in made
        for flag in one.flags
    ]
    columns = ("workload", "chip", "engine", "version", "name", "value", "why", "confirmed", "note", "source", "url")
    answer = {
        "study": source.answer["study"],
        "folder": str(out) if out is not None else None,
        "workloads": [
            {
                **msgspec.to_builtins(one),
                "command_line": shell(one.command),
                "files": {
                    name.partition("/")[2]: text for name, text in files.items() if name.startswith(f"{one.workload}/")
                },
            }
            for one in made
        ],
    }
    return Result(
        command="launch",
        answer=answer,
        inputs_hash=hash_inputs({"assess": source.inputs_hash, "files": repr(sorted(files.items()))}),
        data_version=source.data_version,
        status="ok" if not any(n.kind == "no-launch" for n in notices) else "partial",
        tables={"flags": table_of(rows, columns=columns, title="Flags and their sources")},
        knowledge_horizon=source.knowledge_horizon,
        seed=source.seed,
        warnings=tuple(dict.fromkeys(notices)),
        offramp_version=__version__,
    )
