"""Token mixers of each layer, from the fields of a config."""

from __future__ import annotations

import math
from typing import Any

from offramp.arch.dialect import Dialect
from offramp.arch.fields import Fields
from offramp.arch.kinds import block_config
from offramp.arch.record import Attention
from offramp.core.errors import InputError, ModelRangeError


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
    if sliding and (f.has("attention_other_setting") or f.has("num_sliding_attention_heads")):
        other = f.table("attention_other_setting") or f
        heads = other.count("num_sliding_attention_heads", "num_attention_heads", default=heads, least=1)
    heads = over.count("num_attention_heads", default=heads, least=1)
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
        kind="gqa", heads=heads, kv_heads=1, head_dim=width, v_head_dim=width,
        q_lora_rank=f.count("q_lora_rank", least=1), shared_k_v=True, kv_cache_shared=True, compress_ratio=ratio,
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
    inner = f.count("mamba_d_ssm", default=expand * hidden, least=1)
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
    if d.mixer == "mla" and f.flag("use_mla", default=True):
        return (_mla(f, d, kind, hidden, i),)
    if d.indexer == "minimax-m3":
        return (_block_sparse(f, d, kind, hidden, i),)
    return (_step3(f, d, hidden) if d.mixer == "step3" else _gqa(f, d, kind, hidden, i),)
