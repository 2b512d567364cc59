"""Feed-forward parts of each layer, from the fields of a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from offramp.arch.dialect import Dialect
from offramp.arch.fields import Fields
from offramp.arch.kinds import block_config, nemotron_blocks
from offramp.arch.record import Mlp
from offramp.core.errors import InputError

MLP_TYPES = {"dense": "dense", "sparse": "moe", "moe": "moe", "hash_moe": "hash", "none": "none"}


def _first_dense(f: Fields, d: Dialect, n: int) -> list[str]:
    """Leading dense layers, then experts every ``moe_layer_freq`` layers (or as that list says)."""
    first = f.count(*d.first_dense, default=d.first_dense_default)
    if first > n:
        raise InputError(f"{first} dense layers among {n}", where=f.at(d.first_dense[0]))
    raw = f.raw("moe_layer_freq")
    if isinstance(raw, list):
        listed: list[Any] = f.items("moe_layer_freq", length=n) or []
        return ["moe" if entry else "dense" for entry in listed]
    every = f.count("moe_layer_freq", default=1, least=1)
    return ["moe" if i >= first and i % every == 0 else "dense" for i in range(n)]


def _qwen(f: Fields, d: Dialect, n: int) -> list[str]:
    step = f.count("decoder_sparse_step", default=1, least=1)
    dense = {f.whole("mlp_only_layers", entry) for entry in f.items("mlp_only_layers") or []}
    return ["moe" if i not in dense and (i + 1) % step == 0 else "dense" for i in range(n)]


def _llama4(f: Fields, d: Dialect, n: int) -> list[str]:
    listed = f.items("moe_layers")
    step = f.count("interleave_moe_layer_step", default=1, least=1)
    if listed is None:
        return ["moe" if (i + 1) % step == 0 else "dense" for i in range(n)]
    chosen = {f.whole("moe_layers", entry) for entry in listed}
    return ["moe" if i in chosen else "dense" for i in range(n)]


def _jamba(f: Fields, d: Dialect, n: int) -> list[str]:
    period, offset = f.count("expert_layer_period", default=2, least=1), f.count("expert_layer_offset", default=1)
    experts = f.count(*d.experts, default=1)
    return ["moe" if experts > 1 and i % period == offset else "dense" for i in range(n)]


def _ernie(f: Fields, d: Dialect, n: int) -> list[str]:
    start, last = f.count("moe_layer_start_index", default=0), f.raw("moe_layer_end_index")
    end = n - 1 if last in (None, -1) else f.whole("moe_layer_end_index", last)
    every = f.count("moe_layer_interval", default=1, least=1)
    return ["moe" if start <= i <= end and (i + 1) % every == 0 else "dense" for i in range(n)]


def _nemotron_h(f: Fields, d: Dialect, n: int) -> list[str]:
    return [{"-": "dense", "E": "moe"}.get(block, "none") for block in nemotron_blocks(f)]


def _deepseek_v4(f: Fields, d: Dialect, n: int) -> list[str]:
    first = f.count("num_hash_layers", default=3)
    return ["hash" if i < first else "moe" for i in range(n)]


def _arctic(f: Fields, d: Dialect, n: int) -> list[str]:
    every = f.count("moe_layer_frequency", default=2, least=1)
    return ["moe" if (i + 1) % every == 0 else "dense" for i in range(n)]


def _step3(f: Fields, d: Dialect, n: int) -> list[str]:
    raw = f.raw("moe_layers_enum")
    first = f.count("first_k_dense_replace", default=3)
    if isinstance(raw, str):
        chosen = {int(part) for part in raw.split(",") if part.strip().isdigit()}
    else:
        chosen = {f.whole("moe_layers_enum", entry) for entry in f.items("moe_layers_enum") or range(first, n)}
    return ["moe" if i in chosen else "dense" for i in range(n)]


_RULES: dict[str, Callable[[Fields, Dialect, int], list[str]]] = {
    "dense": lambda f, d, n: ["dense"] * n,
    "moe": lambda f, d, n: ["moe"] * n,
    "none": lambda f, d, n: ["none"] * n,
    "longcat": lambda f, d, n: ["moe"] * n,
    "dbrx": lambda f, d, n: ["moe"] * n,
    "gemma4": lambda f, d, n: ["moe" if f.flag("enable_moe_block") else "dense"] * n,
    "first-k-dense": _first_dense,
    "qwen-sparse-step": _qwen,
    "llama4": _llama4,
    "jamba": _jamba,
    "ernie": _ernie,
    "nemotron-h": _nemotron_h,
    "deepseek-v4": _deepseek_v4,
    "arctic": _arctic,
    "nemotron-nas": lambda f, d, n: ["none" if block_config(f, i, "ffn").flag("no_op") else "dense" for i in range(n)],
    "step3": _step3,
}
# Fields that a `mlp_layer_types` list makes redundant.
_SAID_BY_LIST = (
    "first_k_dense_replace", "moe_layer_freq", "decoder_sparse_step", "mlp_only_layers", "num_hash_layers",
    "moe_layers", "interleave_moe_layer_step", "num_dense_layers", "moe_layer_start_index", "moe_layer_end_index",
    "moe_layer_interval",
)  # fmt: skip


def mlp_kinds(f: Fields, d: Dialect, n: int) -> list[str]:
    """The kind of each of ``n`` layers' feed-forward part: dense, moe, hash or none."""
    listed = f.items("mlp_layer_types", length=n) if d.mlps != "dense" else None
    if listed is not None:
        f.read.update((*_SAID_BY_LIST, *d.first_dense))
        return [f.choice("mlp_layer_types", str(entry), MLP_TYPES) for entry in listed]
    kinds = _RULES[d.mlps](f, d, n)
    if d.expert_optional and not f.count(*d.experts, default=0):
        kinds = ["dense"] * n
    return kinds


def _one(f: Fields, names: Sequence[str], i: int, *, least: int = 1, default: int | None = None) -> int:
    """A whole number, or the entry of layer ``i`` where the config gives a list."""
    raw = f.raw(*names)
    if not isinstance(raw, list):
        return f.count(*names, least=least, default=default)
    entries: list[Any] = list(raw)  # pyright: ignore[reportUnknownVariableType]
    if not entries or (i >= len(entries) and len(set(map(str, entries))) > 1):
        raise InputError(f"{len(entries)} entries, none for layer {i}", where=f.at(names[0]))
    return f.whole(names[0], entries[min(i, len(entries) - 1)], least=least)


def _dense_width(f: Fields, d: Dialect, hidden: int, i: int) -> int:
    """Width of a dense MLP."""
    if d.mlps == "nemotron-nas":
        mult = block_config(f, i, "ffn").number("ffn_mult", default=0.0)
        return 256 * -(-int(2 * mult * hidden / 3) // 256)
    if d.expansion:
        factor = f.number(*d.expansion, default=4.0)
        if factor <= 0:
            raise InputError(f"a factor of {factor:g}", where=f.at(d.expansion[0]))
        return round(factor * hidden)
    names = d.dense_width or d.intermediate
    default = round(d.intermediate_default * hidden) if d.intermediate_default else None
    width = round(_one(f, names, i, default=default) * d.intermediate_factor)
    return _lfm2(f, width) if d.intermediate_rule == "lfm2" else width


def _lfm2(f: Fields, width: int) -> int:
    """LFM2 trims the stated width to two thirds and rounds it up."""
    if not f.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = int(2 * width / 3)
    width = int(f.number("block_ffn_dim_multiplier", default=1.0) * width)
    multiple = f.count("block_multiple_of", default=256, least=1)
    return multiple * -(-width // multiple)


def _shared(f: Fields, d: Dialect, i: int) -> tuple[int, int]:
    """Number of shared experts and the width of all of them."""
    if d.shared_width:
        width = f.count(*d.shared_width, default=0)
        count = f.count("n_shared_experts", "num_shared_experts", default=1) if width else 0
        return (count, width) if d.mlps != "nemotron-h" or count else (0, 0)
    if not d.shared_count or (d.shared_count_if and not f.flag(d.shared_count_if, default=True)):
        return 0, 0
    count = _one(f, d.shared_count, i, least=0, default=0)
    return count, count * _one(f, d.shared_unit, i) if count else 0


def _dbrx(f: Fields) -> Mlp:
    table = f.table("ffn_config")
    if table is None:
        raise InputError("missing field ffn_config", where=f.at("ffn_config"))
    return Mlp(
        kind="moe", experts=table.count("moe_num_experts", least=1),
        experts_per_token=table.count("moe_top_k", least=1),
        expert_intermediate=table.count("ffn_hidden_size", least=1),
    )  # fmt: skip


def mlp_of(f: Fields, d: Dialect, kind: str, hidden: int, i: int) -> Mlp:
    """The feed-forward part of layer ``i``."""
    bias = d.on(d.mlp_bias, f)
    if kind == "none":
        return Mlp(kind="none")
    if kind == "dense":
        return Mlp(kind="dense", intermediate=_dense_width(f, d, hidden, i), gated=d.gated, bias=bias)
    if d.mlps == "dbrx":
        return _checked(f, d, _dbrx(f))
    experts = _one(f, d.experts, i)
    count, shared = _shared(f, d, i)
    router_bias = f.flag(d.router_bias_field, default=d.router_bias_default) if d.router_bias_field else d.router_bias
    beside = d.mlps in ("gemma4", "arctic", "longcat")
    used = _one(f, d.topk, i)
    idle = f.count(*d.router_extra, default=0) if d.router_extra else 0
    used = max(1, round(used * experts / (experts + idle)))  # choices that fall on experts without weights cost nothing
    mlp = Mlp(
        kind="moe", experts=experts, experts_per_token=used, gated=d.gated,
        expert_intermediate=_one(f, d.expert_width, i), shared_experts=count, shared_intermediate=shared,
        expert_hidden=f.count(*d.expert_hidden, default=0) if d.expert_hidden else 0,
        intermediate=_beside(f, d, hidden, i) if beside else 0, bias=bias and not d.expert_bias,
        router_bias=router_bias, shared_gate=d.shared_gate and shared > 0, expert_bias=d.expert_bias,
        hash_routed=kind == "hash",
    )  # fmt: skip
    return _checked(f, d, mlp)


def _beside(f: Fields, d: Dialect, hidden: int, i: int) -> int:
    """Width of a dense MLP that runs beside the experts."""
    if d.mlps == "arctic":
        return hidden if f.flag("use_residual", default=True) else 0
    return 2 * _dense_width(f, d, hidden, i) if d.mlps == "longcat" else _dense_width(f, d, hidden, i)


def _checked(f: Fields, d: Dialect, mlp: Mlp) -> Mlp:
    if mlp.experts_per_token > mlp.experts:
        where = d.topk[0] if d.topk else "ffn_config.moe_top_k"
        raise InputError(f"{mlp.experts_per_token} experts per token of {mlp.experts}", where=f.at(where))
    return mlp
