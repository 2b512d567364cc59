"""launch: command lines and manifests that start the layouts which an assessment chose."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp import __version__, arch, catalog
from offramp.app.launch_files import files_of
from offramp.app.runs import read_result
from offramp.catalog import Catalog, Chip
from offramp.catalog.engines import version_key
from offramp.core.errors import InputError, ModelRangeError, OfframpError, near_miss_hint
from offramp.core.record import Record
from offramp.core.result import Notice, Result, hash_inputs, result_from_json, table_of

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "launch"
PORT: Final = 8000


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


@lru_cache(maxsize=1)
def data() -> dict[str, Any]:
    """Engines, flags and manifests."""
    return tomllib.loads((DATA / "engines.toml").read_text("utf-8"))


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
            found = result_from_json(path.read_bytes())
        except (msgspec.DecodeError, OSError) as error:
            raise InputError(
                f"is no Result: {error}", where=str(source), mend="Give a study, a run or what --json printed."
            ) from None
    else:
        found = read_result(root, str(source))
    if command and found.command != command:
        raise InputError(f'is a Result of "{found.command}"', where=str(source), mend=f'Give one of "{command}".')
    return found


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Writes text files below a folder.

    Raises:
        InputError: it cannot be written.
    """
    try:
        for name, text in files.items():
            path = folder / name
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
    layout = {**entry["layout"], "weights_dtype": effective_dtype(entry)}
    system = facts.systems.get(layout["system"])
    per_server = (system.packages_per_node if system else 8) * chip.devices
    nodes = max(-(-int(layout["devices"]) // per_server), 1)
    style = known["style"]
    model = arch.load(item["model"]) if not Path(item["model"]).is_file() else None
    context = model.max_context_tokens if model else 0
    settings, notes = _SETTINGS[style](layout, known, item, chip, context, model)
    flags = tuple(_flag(name, value, why, style, version, chip) for name, value, why in settings)
    command = _command(style, item["model"], flags)
    served = re.sub(r"[^a-z0-9.-]+", "-", item["model"].rpartition("/")[2].lower()).strip("-.")
    image = known.get("image", {}).get(chip.id.partition("/")[0], "").format(version=version)
    if not image:
        notes.append(f"no source names a container image of {layout['engine']} for {chip.name}: fill it in")
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


def effective_dtype(entry: dict[str, Any]) -> str:
    """The precision that the weights need: the layout's, or what the chip falls back to."""
    dtype, fallback = str(entry["layout"]["weights_dtype"]), str(entry["precision_fallback"])
    if dtype in ("checkpoint", ""):
        for mark, name in (("INT8", "int8"), ("BF16", "bf16"), ("INT4", "int4")):
            if f"as {mark}" in fallback or f"as W8A8 {mark}" in fallback or f"as W4A16 {mark}" in fallback:
                return name
    return dtype


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


Setting = tuple[str, str, str]


def _vllm(
    layout: dict[str, Any], known: dict[str, Any], item: dict[str, Any], chip: Chip, context: int, model: Any
) -> tuple[list[Setting], list[str]]:
    notes: list[str] = []
    out: list[Setting] = [("--host", "0.0.0.0", "listens on every address of the pod"), ("--port", str(PORT), "port")]
    out.append(("--tensor-parallel-size", str(layout["tp"]), "tensor parallel degree of the layout"))
    if layout["pp"] > 1:
        out.append(("--pipeline-parallel-size", str(layout["pp"]), "pipeline parallel degree of the layout"))
    if layout["dp"] > 1:
        out.append(("--data-parallel-size", str(layout["dp"]), "data-parallel attention ranks of the layout"))
    if layout["ep"] > 1:
        out.append(("--enable-expert-parallel", "", f"experts over all {layout['tp'] * layout['dp']} ranks"))
        if layout["ep"] != layout["tp"] * layout["dp"]:
            notes.append(
                f"the layout has EP {layout['ep']}; vLLM's expert parallel degree is always TP x DP = "
                f"{layout['tp'] * layout['dp']}"
            )
    out.append(
        ("--max-num-batched-tokens", str(layout["max_batch_tokens"]), "token budget of a step, per data-parallel rank")
    )
    out.append(
        ("--max-num-seqs", str(layout["max_seqs"] * layout["pp"]), "sequences in flight, per data-parallel rank")
    )
    if context:
        out.append(
            ("--max-model-len", str(context), "longest context that the model allows; lower it to what users need")
        )
    precision, about = _vllm_precision(layout["weights_dtype"], known, model, item["model"])
    return [*out, *precision], [*notes, *about]


def _vllm_precision(dtype: str, known: dict[str, Any], model: Any, name: str) -> tuple[list[Setting], list[str]]:
    stored = stored_dtype(model)
    special = known.get("quantization", {}).get(dtype)
    if special:
        return [("--quantization", special, f"{dtype} weights")], [
            f"needs a checkpoint of {name} quantised to {dtype} for this engine"
        ]
    if dtype in ("checkpoint", "", stored):
        return [], []
    if dtype == "fp8" and stored == "bf16":
        return [("--quantization", "fp8", "weights are quantised to FP8 on loading")], []
    if dtype in ("bf16", "fp16"):
        word = "bfloat16" if dtype == "bf16" else "float16"
        about = [f"{name} is stored in {stored}: needs a checkpoint in {dtype}"] if stored not in ("bf16", "") else []
        return [("--dtype", word, f"weights in {dtype}")], about
    return [], [f"needs a checkpoint of {name} quantised to {dtype}; the engine reads the method from its config.json"]


def stored_dtype(model: Any) -> str:
    """The weight precision of the checkpoint; "" where the model is not known."""
    if model is None:
        return ""
    return str(model.quantization.weights_dtype) if model.quantization is not None else "bf16"


def _sglang(
    layout: dict[str, Any], known: dict[str, Any], item: dict[str, Any], chip: Chip, context: int, model: Any
) -> tuple[list[Setting], list[str]]:
    del known
    ranks = layout["tp"] * layout["dp"]
    out: list[Setting] = [("--host", "0.0.0.0", "listens on every address of the pod"), ("--port", str(PORT), "port")]
    out.append(("--tp-size", str(ranks), "all ranks of a pipeline stage: TP x DP of the layout"))
    if layout["pp"] > 1:
        out.append(("--pp-size", str(layout["pp"]), "pipeline parallel degree of the layout"))
    if layout["dp"] > 1:
        out.append(("--dp-size", str(layout["dp"]), "data-parallel attention ranks of the layout"))
        out.append(("--enable-dp-attention", "", "attention is data parallel inside the ranks of --tp-size"))
    if layout["ep"] > 1:
        out.append(("--ep-size", str(layout["ep"]), "expert parallel degree of the layout"))
    out.append(
        (
            "--chunked-prefill-size",
            str(layout["max_batch_tokens"] * layout["dp"]),
            "token budget of a step, divided over data-parallel ranks",
        )
    )
    out.append(
        (
            "--max-running-requests",
            str(layout["max_seqs"] * layout["dp"] * layout["pp"]),
            "sequences in flight, divided over data-parallel ranks",
        )
    )
    if context:
        out.append(
            ("--context-length", str(context), "longest context that the model allows; lower it to what users need")
        )
    if chip.id.startswith("huawei/"):
        out.append(("--device", "npu", "Ascend backend"))
    stored, dtype = stored_dtype(model), layout["weights_dtype"]
    notes: list[str] = []
    if dtype == "fp8" and stored == "bf16":
        out.append(("--quantization", "fp8", "weights are quantised to FP8 on loading"))
    elif dtype in ("bf16", "fp16") and dtype != stored:
        out.append(("--dtype", "bfloat16" if dtype == "bf16" else "float16", f"weights in {dtype}"))
        notes += [f"{item['model']} is stored in {stored}: needs a checkpoint in {dtype}"] if stored else []
    elif dtype not in ("checkpoint", "", stored):
        notes.append(
            f"needs a checkpoint of {item['model']} quantised to {dtype}; the engine reads the method from its "
            "config.json"
        )
    return out, notes


def _mindie(
    layout: dict[str, Any], known: dict[str, Any], item: dict[str, Any], chip: Chip, context: int, model: Any
) -> tuple[list[Setting], list[str]]:
    del known, chip
    longest = context or 32768
    out: list[Setting] = [("worldSize", str(layout["devices"]), "devices of one replica")]
    out.append(("npuDeviceIds", str([list(range(layout["devices"]))]), "devices of the node"))
    out += [
        ("tp", str(layout["tp"]), "tensor parallel degree"),
        ("dp", str(layout["dp"]), "data-parallel attention ranks"),
    ]
    if layout["ep"] > 1 or (model is not None and getattr(model, "experts", 0)):
        ranks = layout["tp"] * layout["dp"]
        out += [
            ("moe_ep", str(layout["ep"]), "expert parallel degree"),
            ("moe_tp", str(max(ranks // layout["ep"], 1)), "tensor parallel degree of experts"),
        ]
    out.append(("maxSeqLen", str(longest), "longest context"))
    out.append(("maxInputTokenLen", str(longest - 1), "longest prompt"))
    out.append(
        (
            "maxPrefillTokens",
            str(max(layout["max_batch_tokens"], longest - 1)),
            "tokens of a prefill batch; at least maxInputTokenLen",
        )
    )
    out.append(("maxBatchSize", str(layout["max_seqs"]), "sequences of a decode batch"))
    out.append(("maxIterTimes", str(longest), "longest answer"))
    notes = [
        "MindIE takes prompts and answers in separate batches unless templateType is Mix; the assessment priced "
        "chunked prefill"
    ]
    if layout["weights_dtype"] == "int8":
        notes.append(f"needs a W8A8 checkpoint of {item['model']} made with MindStudio ModelSlim")
    if layout["pp"] > 1:
        notes.append("MindIE's configuration has no pipeline parallel degree: this layout cannot be started as it is")
    return out, notes


_SETTINGS: Final = {"vllm": _vllm, "sglang": _sglang, "mindie": _mindie}


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
