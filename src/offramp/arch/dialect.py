"""Dialects: how each ``model_type`` of config.json names and arranges its parts, as data (a TOML table)."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Any, Literal

import msgspec

from offramp.arch.fields import Fields
from offramp.core.errors import ModelRangeError, near_miss_hint
from offramp.core.record import Record

BoolOrField = bool | str


class NormsIf(Record):
    """Another number of norms where a field is true."""

    field: str
    norms: int


class Dialect(Record):
    """One way to write a config. Field lists are synonyms in order of preference; see the head of dialects.toml.

    Attributes:
        defaults: values that the modelling code takes where the config is silent.
        ignore: fields that do not change the structure, or say again what others say.
    """

    name: str = ""
    source: str = "transformers 5.23.0"
    mixer: Literal["gqa", "mla", "step3"] = "gqa"
    mixers: str = "uniform"
    mlps: str = "dense"
    window: Literal["none", "all", "sliding", "qwen", "chunk"] = "none"
    period: int = 0
    period_fields: tuple[str, ...] = ()
    off_period: str = "sliding_attention"
    last_full: bool = False
    tie: bool = False
    norms: int = 2
    norms_if: NormsIf | None = None
    final_norm: bool = True
    final_norms: int = 1
    embedding_norms: int = 0
    positions: bool = False
    positions_offset: int = 0
    layers: tuple[str, ...] = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    hidden: tuple[str, ...] = ("hidden_size", "n_embd", "n_embed", "d_model")
    heads: tuple[str, ...] = ("num_attention_heads", "n_head", "n_heads", "num_heads")
    kv_heads: tuple[str, ...] = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
    vocab: tuple[str, ...] = ("vocab_size", "padded_vocab_size")
    context: tuple[str, ...] = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len",
                                "model_max_length", "max_sequence_length", "n_ctx")  # fmt: skip
    intermediate: tuple[str, ...] = ("intermediate_size", "ffn_hidden_size")
    intermediate_factor: float = 1.0
    intermediate_default: float = 0.0
    intermediate_rule: Literal["", "lfm2"] = ""
    expansion: tuple[str, ...] = ()
    embedding_dim: tuple[str, ...] = ()
    kv_rule: str = ""
    head_dim: int = 0
    head_dim_fields: tuple[str, ...] = ("head_dim", "attention_head_dim")
    v_head_dim_default: str = ""
    gated: bool = True
    qkv_bias: BoolOrField = False
    out_bias: BoolOrField = False
    mlp_bias: BoolOrField = False
    bias_default: bool = False
    head_bias: bool = False
    head_bias_field: str = ""
    qk_norm: Literal["", "head", "full", "head2"] = ""
    qk_norm_if: str = ""
    qk_norm_if_default: bool = False
    sinks: bool = False
    output_gate: Literal["", "q", "separate", "headwise"] = ""
    indexer: Literal["", "dsa", "minimax-m3"] = ""
    linear: Literal["", "gated-delta", "kda", "kda-bailing", "lightning"] = ""
    ssm: Literal["", "mamba", "mamba2", "conv"] = ""
    shared_kv_fields: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    topk: tuple[str, ...] = ()
    expert_width: tuple[str, ...] = ()
    expert_hidden: tuple[str, ...] = ()
    expert_optional: bool = False
    dense_width: tuple[str, ...] = ()
    shared_width: tuple[str, ...] = ()
    shared_count: tuple[str, ...] = ()
    shared_count_if: str = ""
    shared_unit: tuple[str, ...] = ()
    shared_gate: bool = False
    router_bias: bool = False
    router_bias_field: str = ""
    router_bias_default: bool = False
    expert_bias: bool = False
    first_dense: tuple[str, ...] = ("first_k_dense_replace",)
    first_dense_default: int = 0
    extras: str = ""
    mtp_fields: tuple[str, ...] = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
    mtp_if: str = ""
    mtp_default: int = 0
    router_extra: tuple[str, ...] = ()
    active_counts: Literal["head", "both", "none"] = "head"
    defaults: dict[str, int] = {}
    ignore: tuple[str, ...] = ()

    def on(self, rule: BoolOrField, fields: Fields) -> bool:
        """Whether a bias exists: a constant, or the field that the rule names."""
        return rule if isinstance(rule, bool) else fields.flag(rule, default=self.bias_default)


@cache
def _tables() -> dict[str, dict[str, Any]]:
    text = resources.files("offramp.data").joinpath("models").joinpath("dialects.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _merged(name: str) -> dict[str, Any]:
    table = dict(_tables()[name])
    parent = table.pop("like", None)
    table.pop("also", None)
    return {**(_merged(parent) if parent else {}), **table}


@cache
def _names() -> dict[str, str]:
    """model_type, and class name without its ending, to dialect; both folded to letters and digits."""
    found: dict[str, str] = {}
    for name, table in _tables().items():
        for alias in (name, *table.get("also", ())):
            found[_fold(alias)] = name
            found.setdefault(_fold(alias).removesuffix("text"), name)
    return found


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_ENDINGS = re.compile(r"(ForCausalLM|ForConditionalGeneration|LMHeadModel|HeadModel|LMHead|ForGeneration|Model)$")


def dialect_names() -> list[str]:
    """Every model_type that is understood."""
    return sorted({alias for name, table in _tables().items() for alias in (name, *table.get("also", ()))})


@cache
def dialect(name: str) -> Dialect:
    """The dialect of that table name."""
    return msgspec.convert({**_merged(name), "name": name}, Dialect)


def find_dialect(fields: Fields, *, outer_type: str = "") -> Dialect:
    """The dialect of a config, by model_type, then by class name.

    Raises:
        ModelRangeError: neither is known.
    """
    model_type = fields.text("model_type", default="")
    classes = [str(name) for name in fields.items("architectures") or []]
    candidates = [model_type, *(_ENDINGS.sub("", name) for name in classes), outer_type]
    for candidate in candidates:
        if candidate and _fold(candidate) in _names():
            return dialect(_names()[_fold(candidate)])
    said = model_type or (classes[0] if classes else "")
    if not said:
        raise ModelRangeError(
            "neither model_type nor architectures says what the model is",
            where=fields.at("model_type"),
            mend="Add the model_type that the publisher's config.json has.",
        )
    hint = near_miss_hint(said, dialect_names())
    raise ModelRangeError(
        f'model_type "{said}" is not understood',
        where=fields.at("model_type" if model_type else "architectures"),
        mend=f"{hint} If its structure equals a known one, set that model_type in a copy of the file.".strip(),
    )
