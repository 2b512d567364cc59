"""Which kind of token mixer each layer has, from the patterns that configs use to say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from offramp.arch.dialect import Dialect
from offramp.arch.fields import Fields
from offramp.core.errors import InputError, ModelRangeError

# What a layer's entry in `layer_types` (and the like) means.
LAYER_TYPES = {
    "full_attention": "full", "attention": "full", "global": "full", "indexed_attention": "full",
    "deepseek_sparse_attention": "full", "sliding_attention": "sliding", "sliding_window_attention": "sliding",
    "local": "sliding", "chunked_attention": "chunk", "linear_attention": "state", "mamba": "state", "mamba2": "state",
    "conv": "state", "kda": "state", "compressed_sparse_attention": "csa", "heavily_compressed_attention": "hca",
    "mlp": "none", "moe": "none", "hybrid": "hybrid", "minimax_m3_sparse": "block",
}  # fmt: skip
NEMOTRON_BLOCKS = {"M": "state", "*": "full", "-": "none", "E": "none"}


def _period(f: Fields, d: Dialect) -> int:
    return f.count(*d.period_fields, default=d.period, least=1) if d.period_fields else d.period


def _every_nth_full(f: Fields, d: Dialect, n: int) -> list[str]:
    period, off = _period(f, d), LAYER_TYPES[d.off_period]
    kinds = ["full" if (i + 1) % period == 0 else off for i in range(n)]
    if d.last_full and n:
        kinds[-1] = "full"
    return kinds


def _exaone4(f: Fields, d: Dialect, n: int) -> list[str]:
    pattern = f.raw("sliding_window_pattern")
    if not f.has("sliding_window"):
        return ["full"] * n
    if isinstance(pattern, str) and pattern:
        return ["full" if i == n - 1 or pattern[i % len(pattern)] == "G" else "sliding" for i in range(n)]
    period = f.count("sliding_window_pattern", default=4, least=1)
    return ["full" if (i + 1) % period == 0 else "sliding" for i in range(n)]


def _nemotron_h(f: Fields, d: Dialect, n: int) -> list[str]:
    return [NEMOTRON_BLOCKS[block] for block in nemotron_blocks(f)]


def nemotron_blocks(f: Fields) -> str:
    """The pattern of a Nemotron-H stack, one letter a block: M mamba, * attention, - MLP, E experts."""
    letters = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E"}
    listed = f.items("layers_block_type")
    if listed:
        return "".join(f.choice("layers_block_type", str(entry), letters) for entry in listed)
    pattern = f.text("hybrid_override_pattern")
    if not pattern:
        raise InputError("missing field hybrid_override_pattern", where=f.at("hybrid_override_pattern"))
    for letter in pattern:
        f.choice("hybrid_override_pattern", letter, NEMOTRON_BLOCKS)
    return pattern


def _kimi_linear(f: Fields, d: Dialect, n: int) -> list[str]:
    table = f.table("linear_attn_config")
    if table is None:
        raise InputError("missing field linear_attn_config", where=f.at("linear_attn_config"))
    full = {table.whole("full_attn_layers", i, least=1) for i in table.items("full_attn_layers") or []}
    return ["full" if i + 1 in full else "state" for i in range(n)]


def _listed(names: tuple[str, ...]) -> Callable[[Fields, Dialect, int], list[str]]:
    def rule(f: Fields, d: Dialect, n: int) -> list[str]:
        entries = f.items(*names)
        if entries is None and names[0] != "attn_layer_indices":
            raise InputError(f"missing field {names[0]}", where=f.at(names[0]))
        full = {f.whole(names[0], entry) for entry in entries or []}
        return ["full" if i in full else "state" for i in range(n)]

    return rule


def _block_types(f: Fields, d: Dialect, n: int) -> list[str]:
    entries = f.items("layers_block_type", length=n)
    if entries is None:
        raise InputError("missing field layer_types", where=f.at("layer_types"))
    return [f.choice("layer_types", str(entry), LAYER_TYPES) for entry in entries]


def _jamba(f: Fields, d: Dialect, n: int) -> list[str]:
    period = f.count("attn_layer_period", default=8, least=1)
    offset = f.count("attn_layer_offset", default=4)
    return ["full" if i % period == offset else "state" for i in range(n)]


def _minimax(f: Fields, d: Dialect, n: int) -> list[str]:
    listed = f.items("attn_type_list", length=n)
    if listed is None:
        return ["full" if i % 2 == 0 else "state" for i in range(n)]
    return ["full" if f.whole("attn_type_list", entry) == 1 else "state" for entry in listed]


def _llama4(f: Fields, d: Dialect, n: int) -> list[str]:
    listed = f.items("no_rope_layers") or None
    if listed is not None:
        if len(listed) != n:
            raise InputError(f"{len(listed)} entries for {n} layers", where=f.at("no_rope_layers"))
        return ["chunk" if entry else "full" for entry in listed]
    period = f.count("no_rope_layer_interval", default=4, least=1)
    return ["full" if (i + 1) % period == 0 else "chunk" for i in range(n)]


def block_config(f: Fields, i: int, part: str) -> Fields:
    """One part of a layer's own block of a searched architecture (Nemotron-NAS)."""
    blocks = f.items("block_configs")
    block = blocks[i] if blocks is not None and i < len(blocks) else None
    if not isinstance(block, dict) or not isinstance(block.get(part), dict):
        raise InputError(f"no {part} for layer {i}", where=f.at("block_configs"))
    table = Fields(block[part], f.file, f"{f.path}.block_configs[{i}].{part}")
    if table.flag("replace_with_linear") or table.has("sparsify", "window_length", "num_sink_tokens"):
        raise ModelRangeError("a replaced or sparse block is not understood", where=table.path)
    return table


def _nemotron_nas(f: Fields, d: Dialect, n: int) -> list[str]:
    return ["none" if block_config(f, i, "attention").flag("no_op") else "full" for i in range(n)]


def _gpt_neo(f: Fields, d: Dialect, n: int) -> list[str]:
    listed: list[Any] = f.items("attention_types") or [[["global"], n]]
    kinds: list[str] = []
    for part in listed:
        if not isinstance(part, list) or len(part) != 2 or not isinstance(part[0], list):  # pyright: ignore[reportUnknownArgumentType]
            raise InputError(f"{str(listed)[:40]} is no list of patterns and numbers", where=f.at("attention_types"))
        pattern: list[Any] = part[0]
        times = f.whole("attention_types", part[1], least=1)  # pyright: ignore[reportUnknownArgumentType]
        if times > n:
            raise InputError(f"{times} repetitions in {n} layers", where=f.at("attention_types"))
        kinds += [f.choice("attention_types", str(entry), LAYER_TYPES) for entry in pattern] * times
    if len(kinds) != n:
        raise InputError(f"{len(kinds)} entries for {n} layers", where=f.at("attention_types"))
    return kinds


def _mimo(f: Fields, d: Dialect, n: int) -> list[str]:
    listed = f.items("hybrid_layer_pattern", length=n)
    if listed is None:
        raise InputError("missing field hybrid_layer_pattern", where=f.at("hybrid_layer_pattern"))
    return ["sliding" if entry else "full" for entry in listed]


def _deepseek_v4(f: Fields, d: Dialect, n: int) -> list[str]:
    ratios = f.items("compress_ratios")
    if ratios is None:
        return ["hca" if i < 2 or i % 2 == 0 else "csa" for i in range(n)]
    if len(ratios) < n:
        raise InputError(f"{len(ratios)} entries for {n} layers", where=f.at("compress_ratios"))
    names = {0: "sliding", 4: "csa", 128: "hca"}
    for ratio in ratios:
        if ratio not in names:
            raise ModelRangeError(f"compression ratio {ratio} is not understood", where=f.at("compress_ratios"))
    return [names[ratio] for ratio in ratios[:n]]


_RULES: dict[str, Callable[[Fields, Dialect, int], list[str]]] = {
    "uniform": lambda f, d, n: ["full"] * n,
    "mamba-only": lambda f, d, n: ["state"] * n,
    "falcon-h1": lambda f, d, n: ["hybrid"] * n,
    "every-nth-full": _every_nth_full,
    "exaone4": _exaone4,
    "nemotron-h": _nemotron_h,
    "kimi-linear": _kimi_linear,
    "lfm2": _listed(("full_attn_idxs",)),
    "bamba": _listed(("attn_layer_indices",)),
    "granite-hybrid": _block_types,
    "jamba": _jamba,
    "minimax": _minimax,
    "llama4": _llama4,
    "gpt-neo": _gpt_neo,
    "nemotron-nas": _nemotron_nas,
    "mimo": _mimo,
    "deepseek-v4": _deepseek_v4,
}


def layer_kinds(f: Fields, d: Dialect, n: int) -> list[str]:
    """The kind of each of ``n`` layers: full, sliding, chunk, state, csa, hca, hybrid or none."""
    listed = f.items("layer_types") if d.mixers != "nemotron-h" and "layer_types" not in d.ignore else None
    if listed is not None:
        spare = f.count(*d.mtp_fields, default=d.mtp_default)  # some lists go on with the MTP layers
        if len(listed) not in (n, n + spare):
            raise InputError(f"{len(listed)} entries for {n} layers", where=f.at("layer_types"))
        f.read.update(("full_attn_idxs", "attn_layer_indices", "sliding_window_pattern", "_sliding_window_pattern",
                       "hybrid_layer_pattern", "no_rope_layers", "attn_type_list", "compress_ratios", *d.period_fields,
                       "attn_layer_period", "attn_layer_offset", "layers_block_type", "attention_types"))  # fmt: skip
        kinds = [f.choice("layer_types", str(entry), LAYER_TYPES) for entry in listed[:n]]
    else:
        kinds = _RULES[d.mixers](f, d, n)
    if "state" in kinds and not (d.linear or d.ssm):
        raise ModelRangeError(
            "linear attention layers of this model_type are not understood", where=f.at("layer_types")
        )
    return _windowed(f, d, kinds)


def _windowed(f: Fields, d: Dialect, kinds: list[str]) -> list[str]:
    """Turns full layers into sliding ones, or back, as the window fields say."""
    if d.window == "none" and "sliding" not in kinds:
        return kinds
    f.read.update(("use_sliding_window", "max_window_layers"))
    has_window = f.has("sliding_window", "sliding_window_size", "window_size")
    if d.window == "all" and has_window and "sliding" not in kinds:
        return ["sliding" if kind == "full" else kind for kind in kinds]
    if d.window == "qwen":
        on = f.flag("use_sliding_window") and has_window
        first = f.count("max_window_layers", default=0)
        if not on:
            return ["full" if kind == "sliding" else kind for kind in kinds]
        return ["sliding" if kind == "full" and i >= first else kind for i, kind in enumerate(kinds)]
    if "sliding" in kinds and not has_window and d.mixers != "deepseek-v4":
        return ["full" if kind == "sliding" else kind for kind in kinds]
    return kinds
