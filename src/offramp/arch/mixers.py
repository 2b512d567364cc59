"""Token mixers of each layer, from the fields of a config."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from offramp.arch.dialect import Dialect
from offramp.arch.fields import Fields
from offramp.arch.record import Attention
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
    if listed is not None:
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
    listed = f.items("attention_types") or [[["global"], n]]
    kinds: list[str] = []
    for pattern, times in listed:
        kinds += [f.choice("attention_types", str(entry), LAYER_TYPES) for entry in pattern] * int(times)
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
        if len(listed) < n or (len(listed) > n and d.mixers != "deepseek-v4"):
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
    f.read.update(("sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_size"))
    has_window = f.has("sliding_window", "sliding_window_size", "window_size")
    if d.window == "all" and has_window and "sliding" not in kinds:
        return ["sliding" if kind == "full" else kind for kind in kinds]
    if d.window == "qwen":
        on = f.flag("use_sliding_window") and has_window
        first = f.count("max_window_layers", default=0)
        return ["sliding" if kind == "full" and on and i >= first else kind for i, kind in enumerate(kinds)] if on else [
            "full" if kind == "sliding" else kind for kind in kinds
        ]  # fmt: skip
    if "sliding" in kinds and not has_window and d.mixers != "deepseek-v4":
        return ["full" if kind == "sliding" else kind for kind in kinds]
    return kinds


def _per_layer(f: Fields, i: int) -> Fields:
    """Overrides of one layer (``per_layer_config``)."""
    table = f.table("per_layer_config")
    if table is None:
        return Fields({}, f.file, f.path)
    for key in (f"{i:02d}", str(i), f"{i:03d}"):
        if table.has(key):
            return table.table(key) or Fields({}, f.file)
    return Fields({}, f.file, f.path)


def heads_of(f: Fields, d: Dialect, hidden: int, *, prefix: str = "") -> tuple[int, int, int, int]:
    """Query heads, KV heads, key and value width; checks that they fit.

    Args:
        f: the config.
        d: its dialect.
        hidden: model width.
        prefix: "swa_" reads the sliding layers' own sizes first.
    """
    heads = f.count(*(prefix + name for name in d.heads), *d.heads, least=1, default=d.defaults.get("heads"))
    kv = _kv_heads(f, d, heads, prefix)
    width_fields = tuple(prefix + name for name in d.head_dim_fields)
    width = f.count(*width_fields, *d.head_dim_fields, default=d.head_dim, least=0)
    if not width:
        if hidden % heads:
            raise InputError(
                f"{heads} heads do not divide the model width {hidden}", where=f.at(d.heads[0]), mend="Give head_dim."
            )
        width = hidden // heads
    if kv > heads or heads % kv:
        raise InputError(f"{kv} KV heads do not fit {heads} heads", where=f.at(d.kv_heads[0]))
    value = f.count(f"{prefix}v_head_dim", "v_head_dim", default=width, least=1)
    return heads, kv, width, value


def _kv_heads(f: Fields, d: Dialect, heads: int, prefix: str) -> int:
    if d.kv_rule == "multi-query":
        return 1 if f.flag("multi_query", default=True) else heads
    if d.kv_rule == "falcon":
        own = f.count(*d.kv_heads, default=0)
        if f.flag("new_decoder_architecture"):
            return own or heads
        return 1 if f.flag("multi_query", default=True) else (own or heads)
    if d.kv_rule == "chatglm":
        grouped = f.flag("multi_query_attention")
        return f.count("multi_query_group_num", default=heads, least=1) if grouped else heads
    if d.kv_rule in ("dbrx", "mpt"):
        table = f.table("attn_config")
        return table.count("kv_n_heads", default=heads, least=1) if table is not None else heads
    names = (*(prefix + name for name in d.kv_heads), *d.kv_heads)
    return f.count(*names, default=d.defaults.get("kv_heads", heads), least=1)


def _gate(f: Fields, d: Dialect, heads: int, value: int) -> int:
    if d.output_gate == "q":
        return heads * value if f.flag("attn_output_gate", default=True) else 0
    if d.output_gate == "separate":
        return heads * value
    if d.output_gate == "headwise":
        f.read.add("gating")
        return heads * (1 if f.raw("gating") in (None, True, "per-head") else value)
    return 0


def _gqa(f: Fields, d: Dialect, kind: str, hidden: int, i: int) -> Attention:
    sliding = kind in ("sliding", "chunk")
    over = _per_layer(f, i)
    heads, kv, width, value = heads_of(f, d, hidden, prefix="swa_" if sliding else "")
    by_layer = f.items("num_attention_heads_per_layer")
    if by_layer is not None and i < len(by_layer):
        heads = f.whole("num_attention_heads_per_layer", by_layer[i], least=kv)
    width = over.count("head_dim", default=width, least=1)
    kv = over.count("num_key_value_heads", default=kv, least=1)
    value = width if over.has("head_dim") else value
    k_eq_v = False
    if kind == "full" and f.has("global_head_dim"):
        width = value = f.count("global_head_dim", least=1)
    if kind == "full" and f.flag("attention_k_eq_v"):
        k_eq_v = True
        kv = f.count("num_global_key_value_heads", default=kv, least=1)
    if d.kv_rule == "nemotron-nas":
        kv = heads // block_config(f, i, "attention").count("n_heads_in_group", default=1, least=1)
    norm_on = f.flag(d.qk_norm_if, default=d.qk_norm_if_default) if d.qk_norm_if else True
    f.read.update(("num_global_key_value_heads", "attention_k_eq_v", "global_head_dim", "attn_output_gate"))
    gate = _gate(f, d, heads, value)
    return Attention(
        kind="gqa", heads=heads, kv_heads=kv, head_dim=width, v_head_dim=value,
        window_tokens=_window(f, kind) if sliding else 0, shared_k_v=k_eq_v,
        output_gate=bool(gate), output_gate_dim=gate,
        qkv_bias=d.on(d.qkv_bias, f), out_bias=d.on(d.out_bias, f),
        qk_norm="" if not norm_on or not d.qk_norm else "full" if d.qk_norm == "full" else "head",
        sinks=_sinks(f, d, kind),
        block_parameters=4 * width if d.qk_norm == "head2" and norm_on else 0,
    )  # fmt: skip


def _sinks(f: Fields, d: Dialect, kind: str) -> bool:
    if d.mixers == "mimo":
        f.read.update(("add_full_attention_sink_bias", "attention_sink_bias"))
        name = "add_swa_attention_sink_bias" if kind == "sliding" else "add_full_attention_sink_bias"
        return f.flag(name, default=kind == "sliding")
    return d.sinks


def _window(f: Fields, kind: str) -> int:
    if kind == "chunk":
        return f.count("attention_chunk_size", default=8192, least=1)
    return f.count("sliding_window", "sliding_window_size", "window_size", least=1)


def _mla(f: Fields, d: Dialect, kind: str, hidden: int, i: int) -> Attention:
    heads = f.count(*d.heads, least=1)
    kv = f.count(*d.kv_heads, default=heads, least=1)
    if kv != heads:
        raise InputError(f"latent attention has as many KV heads as heads, not {kv}", where=f.at(d.kv_heads[0]))
    rope, nope = f.count("qk_rope_head_dim", least=1), f.count("qk_nope_head_dim", least=0)
    value = f.count("v_head_dim", default=hidden // heads if d.v_head_dim_default else None, least=1)
    gate = heads if d.linear == "kda-bailing" else heads * value if d.output_gate == "separate" else 0
    a = Attention(
        kind="mla", heads=heads, kv_heads=heads, head_dim=rope + nope, rope_head_dim=rope, nope_head_dim=nope,
        v_head_dim=value, q_lora_rank=f.count("q_lora_rank", default=0),
        kv_lora_rank=f.count("kv_lora_rank", least=1), window_tokens=_window(f, kind) if kind == "sliding" else 0,
        output_gate=gate > 0, output_gate_dim=gate, out_bias=f.flag("attention_bias"), sinks=d.sinks,
    )  # fmt: skip
    return with_indexer(a, f, i) if d.indexer == "dsa" else a


def with_indexer(a: Attention, f: Fields, i: int) -> Attention:
    """The attention with the sparse indexer that the config describes for layer ``i``."""
    import msgspec

    types = f.items("indexer_types")
    shared = False
    if types is not None and i < len(types):
        shared = f.choice("indexer_types", str(types[i]), {"full": False, "shared": True})
    heads, width = f.count("index_n_heads", least=1), f.count("index_head_dim", least=1)
    return msgspec.structs.replace(
        a, sparse_topk=f.count("index_topk", least=1), index_heads=heads, index_head_dim=width, index_shared=shared,
        block_parameters=a.block_parameters + (0 if shared else 2 * width),
    )  # fmt: skip


def _block_sparse(f: Fields, d: Dialect, kind: str, hidden: int, i: int) -> Attention:
    """MiniMax-M3: grouped-query attention over the blocks of keys that a small indexer chose."""
    import msgspec

    a = _gqa(f, d, "full", hidden, i)
    own = f.table("sparse_attention_config")
    listed = own.items("sparse_attention_freq") if own is not None else None
    f.read.update(("index_n_heads", "index_head_dim", "index_block_size", "index_topk_blocks", "index_local_blocks"))
    sparse = kind == "block" or (listed is not None and i < len(listed) and bool(listed[i]))
    if not sparse:
        return a
    table = own or f
    heads = table.count("sparse_num_index_heads", "index_n_heads", default=4, least=1)
    width = table.count("sparse_index_dim", "index_head_dim", default=128, least=1)
    block = table.count("sparse_block_size", "index_block_size", default=128, least=1)
    blocks = table.count("sparse_topk_blocks", "index_topk_blocks", default=16, least=1)
    return msgspec.structs.replace(
        a, sparse_topk=block * blocks, index_heads=heads, index_head_dim=width,
        block_parameters=a.block_parameters + 2 * width,
    )  # fmt: skip


def _compressed(f: Fields, d: Dialect, kind: str, hidden: int, i: int) -> Attention:
    """DeepSeek-V4: shared-KV MQA over the last window and compressed entries before it."""
    heads, kv, width, _ = heads_of(f, d, hidden)
    if kv != 1:
        raise ModelRangeError(f"compressed attention with {kv} KV heads is not understood", where=f.at(d.kv_heads[0]))
    ratio = {"csa": 4, "hca": 128}.get(kind, 1)
    rates = f.table("compress_rates")
    if rates is not None:
        ratio = {"csa": rates.count("compressed_sparse_attention", default=4, least=1),
                 "hca": rates.count("heavily_compressed_attention", default=128, least=1)}.get(kind, 1)  # fmt: skip
    groups, rank = f.count("o_groups", least=1), f.count("o_lora_rank", least=1)
    if heads % groups:
        raise InputError(f"{groups} groups do not divide {heads} heads", where=f.at("o_groups"))
    index = f.count("index_head_dim", least=1)
    indexed, twice = kind == "csa", 2 if kind == "csa" else 1
    bias = (ratio * twice + 1) * width if ratio > 1 else 0
    return Attention(
        kind="gqa", heads=heads, kv_heads=1, head_dim=width, v_head_dim=width, q_lora_rank=f.count("q_lora_rank", least=1),
        kv_lora_rank=0, shared_k_v=True, kv_cache_shared=True, compress_ratio=ratio,
        window_tokens=f.count("sliding_window", least=1), o_groups=groups, o_lora_rank=rank, sinks=True,
        sparse_topk=f.count("index_topk", least=1) if indexed else 0,
        index_heads=f.count("index_n_heads", least=1) if indexed else 0, index_head_dim=index if indexed else 0,
        block_parameters=width + bias + ((ratio * twice + 1) * index if indexed else 0),
    )  # fmt: skip


def _linear(f: Fields, d: Dialect, hidden: int) -> Attention:
    heads = f.count(*d.heads, least=1)
    if d.linear == "lightning":
        width = f.count("head_dim", default=hidden // heads, least=1)
        return Attention(
            kind="linear", linear_style="lightning", linear_k_heads=heads, linear_v_heads=heads, linear_k_dim=width,
            linear_v_dim=width, output_gate=True, output_gate_dim=heads * width, block_parameters=heads * width,
        )  # fmt: skip
    if d.linear.startswith("kda"):
        own = f.table("linear_attn_config")
        names = ("linear_num_heads", "linear_head_dim") if own is None else ("num_heads", "head_dim")
        own = own or f
        count = own.count(names[0], default=heads, least=1)
        width = own.count(names[1], default=128, least=1)
        taps = own.count("short_conv_kernel_size", "linear_conv_kernel_dim", default=4, least=1)
        f.read.update(("linear_num_heads", "linear_head_dim", "short_conv_kernel_size", "linear_conv_kernel_dim"))
        return Attention(
            kind="linear", linear_style="kda", linear_k_heads=count, linear_v_heads=count, linear_k_dim=width,
            linear_v_dim=width, conv_kernel=taps, output_gate=True, output_gate_dim=count * width,
            gate_lora_rank=0 if d.linear == "kda-bailing" else width, block_parameters=count * width,
        )  # fmt: skip
    return Attention(
        kind="linear", linear_style="gated-delta", linear_k_heads=f.count("linear_num_key_heads", least=1),
        linear_v_heads=f.count("linear_num_value_heads", least=1), linear_k_dim=f.count("linear_key_head_dim", least=1),
        linear_v_dim=f.count("linear_value_head_dim", least=1), output_gate=True,
        conv_kernel=f.count("linear_conv_kernel_dim", default=4, least=1), state_bytes_per_element=_state_bytes(f),
    )  # fmt: skip


def _state_bytes(f: Fields) -> float:
    return {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}.get(
        f.text("mamba_ssm_dtype", "mamba_ssm_cache_dtype", default="float32"), 4.0
    )


def _ssm(f: Fields, d: Dialect, hidden: int) -> Attention:
    if d.ssm == "conv":
        taps = f.count("conv_L_cache", "conv_kernel", default=3, least=1)
        return Attention(kind="ssm", ssm_style="conv", conv_kernel=taps, out_bias=f.flag("conv_bias"))
    state = f.count("ssm_state_size", "mamba_d_state", "state_size", default=16 if d.ssm == "mamba" else 128, least=1)
    taps = f.count("conv_kernel", "mamba_d_conv", "conv_kernel_size", default=4, least=1)
    expand: Any = f.count("expand", "mamba_expand", default=2, least=1)
    inner = f.count("mamba_d_ssm", "intermediate_size_note", default=expand * hidden, least=1)
    if d.ssm == "mamba":
        rank = f.raw("mamba_dt_rank", "time_step_rank")
        rank = math.ceil(hidden / 16) if rank in (None, "auto") else f.whole("mamba_dt_rank", rank, least=1)
        return Attention(
            kind="ssm", ssm_style="mamba", ssm_heads=1, ssm_head_dim=inner, ssm_state=state, ssm_dt_rank=rank,
            conv_kernel=taps, block_parameters=inner + (rank + 2 * state if d.mixers == "jamba" else 0),
        )  # fmt: skip
    heads = f.count("mamba_num_heads", "mamba_n_heads", "num_heads", default=128, least=1)
    width_raw = f.raw("mamba_head_dim", "mamba_d_head", "head_dim" if d.name == "mamba2" else "mamba_head_dim")
    width = inner // heads if width_raw in (None, "auto") else f.whole("mamba_head_dim", width_raw, least=1)
    groups = f.count("mamba_n_groups", "n_groups", default=8 if d.name in ("mamba2", "nemotron_h") else 1, least=1)
    bias = heads * width + 2 * groups * state
    return Attention(
        kind="ssm", ssm_style="mamba2", ssm_heads=heads, ssm_head_dim=width, ssm_state=state, ssm_groups=groups,
        conv_kernel=taps, state_bytes_per_element=_state_bytes(f), block_parameters=bias,
    )  # fmt: skip


def _step3(f: Fields, d: Dialect, hidden: int) -> Attention:
    heads = f.count(*d.heads, least=1)
    width = f.count("head_dim", least=1)
    return Attention(
        kind="gqa", heads=heads, kv_heads=f.count("num_attention_groups", "num_key_value_heads", default=1, least=1),
        head_dim=width, v_head_dim=width, q_lora_rank=f.count("share_q_dim", least=1),
    )  # fmt: skip


def mixer_of(f: Fields, d: Dialect, kind: str, hidden: int, i: int) -> tuple[Attention, ...]:
    """The token mixers of layer ``i``: one, or attention and SSM side by side."""
    if kind == "none":
        return (Attention(kind="none"),)
    if kind == "hybrid":
        return (_gqa(f, d, "full", hidden, i), _ssm(f, d, hidden))
    if kind == "state":
        return (_linear(f, d, hidden) if d.linear else _ssm(f, d, hidden),)
    if d.mixers == "deepseek-v4":
        return (_compressed(f, d, kind, hidden, i),)
    if d.mixer == "mla":
        return (_mla(f, d, kind, hidden, i),)
    if d.indexer == "minimax-m3":
        return (_block_sparse(f, d, kind, hidden, i),)
    return (_step3(f, d, hidden) if d.mixer == "step3" else _gqa(f, d, kind, hidden, i),)
