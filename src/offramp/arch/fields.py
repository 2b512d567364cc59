"""Typed access to the fields of a config.json, and what was left unread.

Values of the wrong kind are refused where they are read; fields that nobody read are sorted at the end by
:func:`unread_structural` into harmless ones and ones that may change the structure, which are refused by name.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, TypeVar

from offramp.core.errors import InputError, ModelRangeError, near_misses

T = TypeVar("T")


@cache
def _harmless() -> re.Pattern[str]:
    """What the names of fields look like that say nothing about weights, cache or work."""
    text = resources.files("offramp.data").joinpath("models", "fields.toml").read_text(encoding="utf-8")
    patterns = [pattern for group in tomllib.loads(text).values() for pattern in group]
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


# What a field that shapes the network tends to be called.
_STRUCTURAL = re.compile(
    r"num|size|dim|rank|layer|head|expert|mlp|moe|attn|attention|hidden|kv|ratio|window|topk|index|share|"
    r"block|group|state|conv|ssm|mamba|inter|width|depth|pattern|hybrid|memory|gate|latent|mtp|nextn|engram|loop|hc_"
)

# Names that always speak of structure, whatever else they contain.
_STRONG = re.compile(
    r"lora_rank|n_routed|num_experts|num_local_experts|(qk|kv|v|q)_.*head_dim|^num_.*_heads$|_topk$|^use_(cla|mla)$"
)


class Fields:
    """One JSON object of a config with its path; remembers which fields were read."""

    def __init__(self, data: Mapping[str, Any], where: str, path: str = "$") -> None:
        self.data = data
        self.file = where
        self.path = path
        self.read: set[str] = set()

    def at(self, name: str) -> str:
        """The address of a field for an error message."""
        return f"{self.file}:{self.path}.{name}"

    def has(self, *names: str) -> bool:
        """Whether one of the names is present with a value that is not null."""
        self.read.update(names)
        return any(self.data.get(name) is not None for name in names)

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        self.read.update(names)
        for name in names:
            value = self.data.get(name)
            if value is not None:
                return name, value
        return names[0], None

    def raw(self, *names: str) -> Any:
        """The first value that is present, unchecked; None where there is none."""
        return self._first(names)[1]

    def count(self, *names: str, default: int | None = None, least: int = 0) -> int:
        """A whole number.

        Args:
            names: synonyms, the first is named in errors.
            default: where it is absent; None = required.
            least: smallest that makes sense.
        """
        name, value = self._first(names)
        if value is None:
            if default is not None:
                return default
            raise InputError(
                f"missing field {name}", where=self.at(name), mend=self._hint(names) or "The structure needs it."
            )
        return self.whole(name, value, least=least)

    def whole(self, name: str, value: object, *, least: int = 0) -> int:
        """The value as a whole number, or a refusal at the field's address."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            kind = "text" if isinstance(value, str) else type(value).__name__
            raise InputError(f"{value!r} is {kind}, expected a whole number", where=self.at(name))
        if not math.isfinite(value) or value != int(value):
            raise InputError(f"{value} is not a whole number", where=self.at(name))
        if value < least:
            raise InputError(f"{int(value)} is below {least}", where=self.at(name))
        return int(value)

    def number(self, *names: str, default: float) -> float:
        """A finite number."""
        name, value = self._first(names)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"{value!r} is not a finite number", where=self.at(name))
        return float(value)

    def flag(self, *names: str, default: bool = False) -> bool:
        """True or false."""
        name, value = self._first(names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"{value!r} is neither true nor false", where=self.at(name))
        return value

    def text(self, *names: str, default: str = "") -> str:
        """A string."""
        name, value = self._first(names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"{value!r} is not a text", where=self.at(name))
        return value

    def items(self, *names: str, length: int = 0) -> list[Any] | None:
        """A list, or None where absent.

        Args:
            names: synonyms.
            length: entries that it must have (0 = any).
        """
        name, value = self._first(names)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InputError(f"{value!r} is not a list", where=self.at(name))
        found: list[Any] = list(value)  # pyright: ignore[reportUnknownVariableType]
        if length and len(found) != length:
            raise InputError(f"{len(found)} entries for {length} layers", where=self.at(name))
        return found

    def table(self, name: str) -> Fields | None:
        """A nested object, or None where absent."""
        self.read.add(name)
        value = self.data.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise InputError(f"{name} is not an object", where=self.at(name))
        return Fields(value, self.file, f"{self.path}.{name}")  # pyright: ignore[reportUnknownArgumentType]

    def choice(self, name: str, value: str, known: Mapping[str, T]) -> T:
        """What ``value`` stands for, or a refusal by the field's name."""
        if value in known:
            return known[value]
        near = near_misses(value, known)
        raise ModelRangeError(
            f'"{value}" is not a structure that offramp knows',
            where=self.at(name),
            mend=f"Known: {', '.join(near or sorted(known))}.",
        )

    def _hint(self, names: Iterable[str]) -> str:
        for name in names:
            near = [other for other in near_misses(name, self.data) if other not in self.read]
            if near:
                return f"Did you mean {near[0]}?"
        return ""


# Names of one and the same number in different dialects; one that agrees with another that was read adds nothing.
_SAME = (
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k", "top_k_experts"),
    ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    ("hidden_size", "n_embd", "d_model"),
    ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"),
    ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
)


def _said_again(fields: Fields, name: str, value: object) -> bool:
    for names in _SAME:
        if name in names:
            return any(other != name and other in fields.read and fields.data.get(other) == value for other in names)
    return False


def unread_structural(fields: Fields) -> list[str]:
    """Fields that nobody read, that are switched on, and whose name speaks of structure."""
    found: list[str] = []
    for name, value in fields.data.items():
        if isinstance(value, str) and not re.search(r"(attn|attention|layer|mixer|block).*(type|pattern)", name):
            continue
        if _said_again(fields, name, value):
            continue
        if name in fields.read or value is None or value is False or value in (0, "", [], {}):
            continue
        if _STRONG.search(name) or (_STRUCTURAL.search(name) and not _harmless().fullmatch(name)):
            found.append(name)
    return found


def refuse_unread(fields: Fields) -> None:
    """Raises for the first field that may change the structure and was not understood."""
    left = unread_structural(fields)
    if left:
        others = f" (also {', '.join(left[1:5])})" if left[1:] else ""
        value = str(fields.data[left[0]])[:60]
        raise ModelRangeError(
            f"field {left[0]} = {value} may change the structure and is not understood{others}",
            where=fields.at(left[0]),
            mend="Remove it from a copy of the file if it changes neither weights nor attention.",
        )
