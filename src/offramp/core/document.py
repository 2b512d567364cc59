"""Reading a document (TOML, JSON) against a Record and naming *every* problem in it, not only the first."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import inspect as mi

from offramp.core import units
from offramp.core.errors import InputError, near_miss_hint
from offramp.core.record import Record

MOST_BYTES: Final = 64 * 2**20
_BAD: Final = object()


class Problem(Record):
    """One thing wrong, or worth knowing, in a document.

    Attributes:
        path: where, as a JSON path ("$.workload[0].model").
        what: what is wrong, a sentence without the final full stop.
        mend: how to mend it, a sentence.
        level: "error" stops every command; "warning" does not.
    """

    path: str
    what: str
    mend: str = ""
    level: Literal["error", "warning"] = "error"


def quantity(dimension: units.Dimension, example: str, *, keep_text: bool = False, **limits: float) -> msgspec.Meta:
    """Annotation of a quantity: written as text with a unit in the file, a float in SI units in the record.

    Args:
        dimension: what :func:`offramp.core.units.parse` must find.
        example: shown in the JSON Schema.
        keep_text: keep the text (money, whose currency must survive) and only check it.
        limits: ge, gt, le, lt in SI units.
    """
    bare = dimension in ("count", "share", "count/s", "any")
    schema: dict[str, Any] = {"x-written-as": ["string", "number"] if bare else "string", "examples": [example]}
    return msgspec.Meta(
        description=f"{dimension}, e.g. {example}",
        extra_json_schema=schema,
        extra={"dimension": dimension, "keep_text": keep_text, "limits": limits},
    )


def read_bytes(path: Path, *, where: str = "") -> bytes:
    """The bytes of a file.

    Raises:
        InputError: not there, not a file, unreadable, or larger than 64 MiB.
    """
    where = where or str(path)
    try:
        if path.is_dir():
            raise InputError("is a folder, not a file", where=where)
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"is larger than {MOST_BYTES // 2**20} MiB", where=where)
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=where, mend=_sibling_hint(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=where) from None


def _sibling_hint(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "Check the path."
    return near_miss_hint(path.name, names) or "Check the path."


def decode_text(raw: bytes, *, where: str) -> str:
    """UTF-8 text; a byte-order mark is dropped.

    Raises:
        InputError: not UTF-8 (with the offset of the first bad byte).
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"is not UTF-8 (byte {error.start}, line {line})", where=where, mend="Save the file as UTF-8."
        ) from None


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        InputError: empty, or not TOML (with line and column).
    """
    if not text.strip():
        raise InputError("is empty", where=where, mend='"offramp schema study" prints what it may hold.')
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not TOML: {error}", where=where) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=where) from None


def child_path(path: str, key: str | int) -> str:
    """The JSON path of a key or an index below ``path``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if re.fullmatch(r"[A-Za-z_][\w-]*", key) else f"{path}[{json.dumps(key)}]"


def conform(data: Any, kind: Any) -> tuple[Any, list[Problem]]:
    """Plain data brought to what ``kind`` expects (quantities as SI floats), and every problem found.

    The data can be handed to ``msgspec.convert(data, kind)`` when no problem is an error; otherwise it holds
    what could be understood, for further checks.
    """
    problems: list[Problem] = []
    value = _walk(data, mi.type_info(kind), "$", problems)
    return (None if value is _BAD else value), problems


def _walk(value: Any, kind: mi.Type, path: str, problems: list[Problem]) -> Any:
    if isinstance(kind, mi.Metadata):
        if kind.extra and "dimension" in kind.extra:
            return _quantity(value, kind.extra, path, problems)
        before = len(problems)
        done = _walk(value, kind.type, path, problems)
        if done is _BAD and len(problems) > before:
            problems[-1] = _with_hint(problems[-1], kind.extra_json_schema or {})
        return done
    if isinstance(kind, mi.UnionType):
        return _union(value, kind, path, problems)
    if isinstance(kind, mi.StructType):
        return _struct(value, kind, path, problems)
    if isinstance(kind, (mi.ListType, mi.VarTupleType, mi.SetType, mi.FrozenSetType)):
        return _items(value, kind, path, problems)
    if isinstance(kind, mi.DictType):
        return _mapping(value, kind, path, problems)
    return _scalar(value, kind, path, problems)


def _with_hint(problem: Problem, schema: dict[str, Any]) -> Problem:
    """The problem with what the annotation says about the value, where the problem has no hint of its own."""
    if problem.mend or not schema:
        return problem
    examples = ", ".join(f'"{item}"' for item in schema.get("examples", ()))
    parts = [schema.get("description", ""), f"e.g. {examples}" if examples else ""]
    text = ", ".join(part for part in parts if part)
    return msgspec.structs.replace(problem, mend=f"Expected: {text}." if text else "")


def _quantity(value: Any, extra: dict[str, Any], path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        problems.append(Problem(path=path, what=f"{_show(value)} is not a quantity", mend="Write a number and a unit."))
        return _BAD
    try:
        si = units.parse(value, extra["dimension"])
        if extra["keep_text"] and isinstance(value, str):
            units.currency_of(value)
    except InputError as error:
        problems.append(Problem(path=path, what=error.what, mend=error.mend))
        return _BAD
    for name, limit in extra["limits"].items():
        good = {"ge": si >= limit, "gt": si > limit, "le": si <= limit, "lt": si < limit}[name]
        if not good:
            problems.append(Problem(path=path, what=f"{value} must be {_LIMIT_WORDS[name]} {limit:g}"))
            return _BAD
    return str(value) if extra["keep_text"] else si


_LIMIT_WORDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _union(value: Any, kind: mi.UnionType, path: str, problems: list[Problem]) -> Any:
    variants = [variant for variant in kind.types if not isinstance(variant, mi.NoneType)]
    if value is None and len(variants) < len(kind.types):
        return None
    if len(variants) > 1:
        fitting = [variant for variant in variants if _takes(variant, value)]
        if not fitting:
            wanted = " or ".join(_kind_words(variant) for variant in variants)
            problems.append(Problem(path=path, what=f"expected {wanted}, found {_show(value)}"))
            return _BAD
        variants = fitting
    return _walk(value, variants[0], path, problems)


def _bare(kind: mi.Type) -> mi.Type:
    while isinstance(kind, mi.Metadata):
        kind = kind.type
    return kind


def _takes(kind: mi.Type, value: Any) -> bool:
    if isinstance(kind, mi.Metadata) and kind.extra and "dimension" in kind.extra:
        return isinstance(value, (str, int, float)) and not isinstance(value, bool)
    kind = _bare(kind)
    if isinstance(kind, (mi.StructType, mi.DictType)):
        return isinstance(value, dict)
    if isinstance(kind, (mi.ListType, mi.VarTupleType, mi.SetType, mi.FrozenSetType)):
        return isinstance(value, list)
    if isinstance(kind, mi.LiteralType):
        return value in kind.values
    if isinstance(kind, mi.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, (mi.IntType, mi.FloatType)):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(kind, mi.DateType):
        return isinstance(value, (dt.date, str))
    return isinstance(value, str) if isinstance(kind, mi.StrType) else True


def _struct(value: Any, kind: mi.StructType, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        problems.append(Problem(path=path, what=f"expected a table, found {_show(value)}"))
        return _BAD
    fields = {field.encode_name: field for field in kind.fields}
    out: dict[str, Any] = {}
    for key, item in value.items():
        if key not in fields:
            hint = near_miss_hint(str(key), fields) or f"Known keys: {', '.join(fields)}."
            problems.append(Problem(path=child_path(path, str(key)), what=f'unknown key "{key}"', mend=hint))
            continue
        done = _walk(item, fields[key].type, child_path(path, key), problems)
        if done is not _BAD:
            out[key] = done
    for name, field in fields.items():
        if field.required and name not in value:
            problems.append(Problem(path=path, what=f'"{name}" is missing'))
    return out


def _items(value: Any, kind: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, (list, tuple)):
        problems.append(Problem(path=path, what=f"expected a list, found {_show(value)}"))
        return _BAD
    if kind.min_length is not None and len(value) < kind.min_length:
        problems.append(Problem(path=path, what=f"needs at least {kind.min_length} entries, found {len(value)}"))
    done = [_walk(item, kind.item_type, child_path(path, i), problems) for i, item in enumerate(value)]
    return [None if item is _BAD else item for item in done]


def _mapping(value: Any, kind: mi.DictType, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        problems.append(Problem(path=path, what=f"expected a table, found {_show(value)}"))
        return _BAD
    out: dict[str, Any] = {}
    key_kind = _bare(kind.key_type)
    for name, item in value.items():
        key = str(name)
        if isinstance(key_kind, mi.LiteralType) and key not in key_kind.values:
            names = [str(name) for name in key_kind.values]
            hint = near_miss_hint(key, names) or f"Known keys: {', '.join(names)}."
            problems.append(Problem(path=child_path(path, key), what=f'unknown key "{key}"', mend=hint))
            continue
        done = _walk(item, kind.value_type, child_path(path, key), problems)
        if done is not _BAD:
            out[key] = done
    return out


def _scalar(value: Any, kind: mi.Type, path: str, problems: list[Problem]) -> Any:
    if isinstance(kind, mi.AnyType):
        return value
    if isinstance(kind, mi.LiteralType):
        if value in kind.values:
            return value
        names = [str(name) for name in kind.values]
        hint = near_miss_hint(str(value), names)
        problems.append(Problem(path=path, what=f"{_show(value)} is not one of {', '.join(names)}", mend=hint))
        return _BAD
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(path=path, what=f"{value} is not a finite number"))
        return _BAD
    try:
        return msgspec.convert(value, _PLAIN[type(kind)](kind), strict=not isinstance(kind, mi.DateType))
    except msgspec.ValidationError as error:
        what = str(error).split(" - at")[0]
        what = what[:1].lower() + what[1:]
        problems.append(Problem(path=path, what=_in_words(what, value)))
        return _BAD


def _in_words(what: str, value: Any) -> str:
    match = re.match(r"expected `(\w+)`, got `\w+`", what)
    if match:
        return f"expected {_TYPE_WORDS.get(match.group(1), match.group(1))}, found {_show(value)}"
    match = re.match(r"expected `(?:int|float)` (>=|>|<=|<) (.+)", what)
    if match:
        return f"{_show(value)} must be {_SIGN_WORDS[match.group(1)]} {match.group(2).removesuffix('.0')}"
    if "length" in what and value == "":
        return "is empty"
    if "regex" in what:
        return f"{_show(value)} is not written as expected"
    return f"{_show(value)}: {what.replace('`', '')}"


_SIGN_WORDS: Final = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


def _limited(base: type, kind: Any, names: tuple[str, ...]) -> Any:
    limits = {name: getattr(kind, name) for name in names if getattr(kind, name) is not None}
    from typing import Annotated

    return Annotated[base, msgspec.Meta(**limits)] if limits else base


_NUMBERS: Final = ("ge", "gt", "le", "lt", "multiple_of")
_PLAIN: Final[dict[type, Any]] = {
    mi.StrType: lambda kind: _limited(str, kind, ("min_length", "max_length", "pattern")),
    mi.IntType: lambda kind: _limited(int, kind, _NUMBERS),
    mi.FloatType: lambda kind: _limited(float, kind, _NUMBERS),
    mi.BoolType: lambda kind: bool,
    mi.DateType: lambda kind: dt.date,
    mi.NoneType: lambda kind: type(None),
}
_TYPE_WORDS: Final = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "date": "a date",
    "array": "a list", "object": "a table", "null": "nothing",
}  # fmt: skip


def _kind_words(kind: mi.Type) -> str:
    if isinstance(kind, mi.Metadata) and kind.extra and "dimension" in kind.extra:
        return f"a quantity ({kind.extra['dimension']})"
    kind = _bare(kind)
    if isinstance(kind, mi.LiteralType):
        return " or ".join(f'"{value}"' for value in kind.values)
    words: dict[type[mi.Type], str] = {
        mi.StrType: "text", mi.IntType: "a whole number", mi.FloatType: "a number", mi.BoolType: "true or false",
        mi.DateType: "a date", mi.StructType: "a table", mi.DictType: "a table",
    }  # fmt: skip
    return words.get(type(kind), "a list")


def _show(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value[:60]}"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
