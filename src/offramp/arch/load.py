"""Where models come from: presets, published names, and config.json files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from offramp.arch.config import parse_config
from offramp.arch.quant import read_quant_sidecar
from offramp.arch.record import Model, Quantization
from offramp.core.errors import CatalogError, InputError, OfframpError, near_miss_hint
from offramp.core.record import Record

_LARGEST_BYTES = 64 * 1024 * 1024  # the largest published config.json is under 1 MB


class Preset(Record):
    """A shipped model: the fields of its config that matter, and what its publisher says.

    Attributes:
        id: publisher/name as published.
        like: preset whose config this one shares, with ``config`` on top.
        config: fields of config.json.
        source: where the config was read.
        url: repository:path@commit, or arXiv id.
        as_of: date of the source.
        published_total, published_active: parameters that the publisher states, in 1e9; 0 = not stated.
        published_source: where they are stated.
        aliases: other names of the same weights' structure.
    """

    id: str
    source: str
    url: str
    as_of: str
    config: dict[str, Any] = {}
    like: str = ""
    published_total: float = 0.0
    published_active: float = 0.0
    published_source: str = ""
    aliases: tuple[str, ...] = ()
    note: str = ""


class Alias(NamedTuple):
    """What a published name stands for: a preset, and the dtype of its weights where the name tells ("" if not)."""

    preset: str
    weights_dtype: str


@cache
def _presets() -> dict[str, Preset]:
    found: dict[str, Preset] = {}
    folder = resources.files("offramp.data").joinpath("models")
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.name.startswith("presets") and entry.name.endswith(".toml"):
            for table in tomllib.loads(entry.read_text(encoding="utf-8")).get("model", []):
                preset = msgspec.convert(table, Preset)
                found[preset.id] = preset
    return found


def presets() -> list[str]:
    """Ids of all shipped models."""
    return sorted(_presets(), key=str.lower)


def preset(model_id: str) -> Preset:
    """The facts of a shipped model.

    Raises:
        CatalogError: unknown.
    """
    if model_id not in _presets():
        raise CatalogError(f'unknown model "{model_id}"', mend=near_miss_hint(model_id, presets()))
    return _presets()[model_id]


def preset_config(model_id: str) -> dict[str, Any]:
    """The config of a preset, with that of the one it is like below it."""
    entry = preset(model_id)
    below = preset_config(entry.like) if entry.like else {}
    merged = {**below, **entry.config}
    return {key: value for key, value in merged.items() if value != "absent"}


@cache
def _model(model_id: str) -> Model:
    entry = preset(model_id)
    return parse_config(
        preset_config(model_id), where=model_id, model_id=model_id, source=f"{entry.source} ({entry.url})"
    )


def load(spec: str | Path, where: str = "") -> Model:
    """The model of a preset id, a published name, a config.json or the folder that holds one.

    Args:
        spec: id ("deepseek-ai/DeepSeek-R1", any case, with or without the publisher), or a path.
        where: address of the value in the user's input, for messages.

    Raises:
        CatalogError: no such preset, and no such file.
        InputError: the file cannot be read as a config.json, or contradicts itself.
        ModelRangeError: a structure that is not understood.
    """
    text = str(spec).strip()
    path = Path(text).expanduser()
    if isinstance(spec, Path) or text.endswith(".json") or text.startswith((".", "/", "~")) or path.is_dir():
        return _load_path(path, where)
    found = find_preset(text)
    if found is not None:
        return _model(found)
    if path.is_file():
        return _load_path(path, where)
    alias = resolve_alias(text)
    if alias is not None:
        model = _model(alias.preset)
        return _requantized(model, alias.weights_dtype, text)
    hint = near_miss_hint(text, presets())
    raise CatalogError(
        f'unknown model "{text}"',
        where=where,
        mend=f'{hint} "offramp models" lists all; a path to a config.json works too.'.strip(),
    )


def _requantized(model: Model, dtype: str, name: str) -> Model:
    """The model with the weights dtype that its name tells; the scheme is the usual one for that dtype."""
    own = model.quantization.weights_dtype if model.quantization else "bf16"
    if not dtype or dtype == own:
        return model
    note = f'"{name}" is read as {model.id} with {dtype} weights; the scheme is assumed'
    return msgspec.structs.replace(model, quantization=_USUAL.get(dtype), notes=(*model.notes, note))


# The common scheme of each dtype: block-scaled FP8 (DeepSeek, Qwen), W8A8 per channel, AWQ, ModelOpt NVFP4.
_USUAL: dict[str, Quantization] = {
    "fp8": Quantization(weights_dtype="fp8", scheme="fp8-block", activation_dtype="fp8", block=(128, 128)),
    "int8": Quantization(weights_dtype="int8", scheme="w8a8", activation_dtype="int8"),
    "int4": Quantization(weights_dtype="int4", scheme="awq", group_size=128),
    "fp4": Quantization(weights_dtype="fp4", scheme="nvfp4", activation_dtype="fp4", group_size=16),
}


def _load_path(path: Path, where: str) -> Model:
    file = path / "config.json" if path.is_dir() else path
    data = read_json(file, where=where)
    model = parse_config(data, where=file.name, model_id=str(path), source=str(file))
    side = file.with_name(file.name.replace("config.json", "hf_quant_config.json"))
    if model.quantization is None and side != file and side.is_file():
        quant = read_quant_sidecar(read_json(side, where=where), side.name, model.layer_count)
        model = msgspec.structs.replace(model, quantization=quant)
    return model


def read_json(file: Path, *, where: str = "") -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: missing, unreadable, not UTF-8, not JSON, not an object, a key twice, NaN.
    """
    at = where or str(file)
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{file.name} is larger than 64 MiB", where=at, mend="Give a config.json.")
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no file {file}", where=at, mend="Check the path.") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}", where=at) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=at, mend="Save the file as UTF-8.") from None
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} in line {error.lineno}", where=at, mend="Is it complete?") from None
    except RecursionError:
        raise InputError("nested too deeply", where=at) from None
    except OfframpError as error:
        raise InputError(error.what, where=at) from None
    if not isinstance(data, dict):
        raise InputError("not a JSON object", where=at, mend="Give a model's config.json.")
    return data  # pyright: ignore[reportUnknownVariableType]


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f'field "{twice}" stands twice')
    return found


def _no_constant(name: str) -> float:
    """Infinity is a legal limit in some configs; NaN is never one."""
    if name == "NaN":
        raise InputError("NaN is not a number")
    return float(name.replace("Infinity", "inf"))


def fold(name: str) -> str:
    """A name without publisher, case and punctuation: "Qwen/Qwen3.6_27B" becomes "qwen3-6-27b"."""
    return re.sub(r"[^a-z0-9]+", "-", name.rsplit("/", 1)[-1].lower()).strip("-")


@cache
def _index() -> dict[str, str | None]:
    """Folded names to preset ids; None where two presets share one."""
    found: dict[str, str | None] = {}
    for entry in _presets().values():
        for name in (entry.id, *entry.aliases):
            key = fold(name)
            found[key] = entry.id if found.get(key, entry.id) == entry.id else None
    return found


def find_preset(name: str) -> str | None:
    """The preset id that equals a name, in any case, with or without the publisher."""
    lowered = {known.lower(): known for known in _presets()}
    if name.lower() in lowered:
        return lowered[name.lower()]
    return _index().get(fold(name)) if "/" not in name or fold(name) in _alias_folds(name) else None


def _alias_folds(name: str) -> set[str]:
    """Folded names of aliases that carry the same publisher."""
    owner = name.split("/")[0].lower()
    names = [name for entry in _presets().values() for name in entry.aliases if "/" in name]
    return {fold(alias) for alias in names if alias.split("/")[0].lower() == owner}


# Endings of published names that change precision, tuning or packaging and leave the structure alone.
_DTYPES: tuple[tuple[str, str], ...] = (
    (r"w8a8c8|w8a8sc?|w8a8|int8|gptq-int8", "int8"),
    (r"awq-int4|gptq-int4|w4a8c8|w4a8|w4a16|w4afp8|awq|gptq|int4|4bit", "int4"),
    (r"nvfp4-v2|nvfp4|mxfp4|fp4", "fp4"),
    (r"fp8-dynamic|fp8-kv|fp8-block|fp8", "fp8"),
    (r"bf16", "bf16"),
)
_TUNING = (
    r"instruct|chat|hf|it|pt|base|latest|exp|preview|mtp|quarot|kv|dynamic|per-channel|per-tensor|static|quark"
    r"|\d{4}|\d{6}|v\d(\.\d)?-instruct|310-vllm-tp\d|vllm-tp\d|lora|tokendrop|finetune|pretrain"
)


def resolve_alias(published_name: str) -> Alias | None:
    """The preset that a name in a publication stands for, and the dtype it tells; None when unsure.

    Rules: the publisher and the path go; what stands in brackets, precision and tuning endings are taken off one by
    one from the end until a preset or one of its aliases is left.
    """
    name = published_name.strip().strip("`").strip()
    brackets = " ".join(re.findall(r"\(([^)]*)\)", name))
    name = re.sub(r"\([^)]*\)", "", name).strip().strip("`").strip()
    if re.search(r"(fp8|fp4)/(fp8|fp4)", name.lower()):
        name, ambiguous = re.sub(r"(?i)[-_]?(fp8|fp4)/(fp8|fp4)", "", name), True
    else:
        ambiguous = False
    if not _harmless_brackets(brackets):
        return None
    key, hint = fold(name), "" if ambiguous else _bracket_dtype(brackets)
    for _ in range(8):
        found = _index().get(key)
        if found is not None:
            return Alias(found, hint)
        shorter, dtype = _without_ending(key)
        if shorter == key:
            return None
        hint, key = hint or ("" if ambiguous else dtype), shorter
    return None


def _harmless_brackets(text: str) -> bool:
    """Whether a remark in brackets speaks of precision, tuning or hardware only ("8 layers only" does not)."""
    known = (
        "|".join(pattern for pattern, _ in _DTYPES) + f"|{_TUNING}|on|blackwell|hopper|w|o|mtp|slightly|larger|vocab"
    )
    rest = re.sub(rf"(?<![a-z0-9])({known})(?![a-z0-9])", "", fold(text))
    return not rest.strip("-")


def _bracket_dtype(text: str) -> str:
    for pattern, dtype in _DTYPES:
        if re.search(rf"(?<![a-z0-9])({pattern})(?![a-z0-9])", fold(text)):
            return dtype
    return ""


def _without_ending(key: str) -> tuple[str, str]:
    for pattern, dtype in _DTYPES:
        match = re.search(rf"-({pattern})$", key)
        if match:
            return key[: match.start()], dtype
    match = re.search(rf"-({_TUNING})$", key)
    return (key[: match.start()], "") if match else (key, "")
