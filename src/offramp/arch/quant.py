"""Quantization of a checkpoint, from ``quantization_config``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from offramp.arch.fields import Fields
from offramp.arch.record import Part, Quantization, WeightsDtype
from offramp.core.errors import ModelRangeError

# Modules by the part that they belong to; the first pattern that matches an entry of an exclusion list decides.
# A name of a whole class of modules counts; one layer's ("layers.0.") does not move the bytes and is left aside.
_PROBES: dict[Part, tuple[str, ...]] = {
    "attention": ("model.layers.30.self_attn.q_proj", "model.layers.30.self_attn.o_proj",
                  "model.layers.30.self_attn.q_b_proj", "model.layers.30.self_attn.kv_b_proj"),
    "dense_mlp": ("model.layers.30.mlp.gate_proj", "model.layers.30.mlp.down_proj"),
    "experts": ("model.layers.30.mlp.experts.7.gate_proj", "model.layers.30.mlp.experts.7.down_proj"),
    "shared": ("model.layers.30.mlp.shared_experts.gate_proj", "model.layers.30.mlp.shared_experts.down_proj",
               "model.layers.30.mlp.shared_expert.down_proj"),
    "lm_head": ("lm_head",),
    "router": ("model.layers.30.mlp.gate",),
}  # fmt: skip
# Never quantised by any scheme that checkpoints use.
_ALWAYS: tuple[Part, ...] = ("embedding", "norm", "router")


def _matches(entry: str, module: str) -> bool:
    """Whether an entry of an exclusion list covers a module: "re:" patterns, globs, exact names, or inner segments."""
    if entry.startswith("re:"):
        try:
            return re.search(entry[3:], module) is not None
        except re.error:
            return False
    if "*" in entry:
        glob = ".*".join(re.escape(part) for part in entry.split("*"))
        return re.search(rf"(^|\.){glob}($|\.)", module) is not None
    entry = re.sub(r"^.*?layers\.\d+\.", "model.layers.30.", entry)
    entry = entry.replace("block_sparse_moe", "mlp")
    entry = re.sub(r"\.experts\.\d+\.", ".experts.7.", entry)
    return re.search(rf"(^|\.){re.escape(entry)}($|\.)", module) is not None


def part_of(module: str) -> Part | None:
    """The part that a module's name belongs to; None for what is not told apart (vision towers)."""
    signs: tuple[tuple[str, Part], ...] = (
        (r"vision|visual|audio|mm_proj|multi_modal", "norm"), (r"(^|\.)mtp", "mtp"), (r"shared_expert", "shared"),
        (r"\.experts(\.|$)", "experts"), (r"attn|attention", "attention"), (r"lm_head", "lm_head"),
        (r"embed", "embedding"), (r"mlp|feed_forward|ffn", "dense_mlp"),
    )  # fmt: skip
    for sign, part in signs:
        if re.search(sign, module):
            return None if part == "norm" else part
    return None


def _layer_share(entries: Sequence[str], layers: int) -> list[str]:
    """Entries that name single layers count only where at least half of the layers are named."""
    named: dict[str, set[str]] = {}
    whole: list[str] = []
    for entry in entries:
        found = re.search(r"(?:^|\.)layers\.(\d+)(\.|$)", entry)
        if found is None or entry.startswith("re:"):
            whole.append(entry)
        else:
            named.setdefault(re.sub(r"^.*?layers\.\d+", "model.layers.30", entry), set()).add(found.group(1))
    return whole + [entry for entry, seen in named.items() if len(seen) >= max(layers / 2, 1)]


def excluded_parts(entries: Sequence[str], layers: int) -> tuple[Part, ...]:
    """Parts that a list of unquantised modules keeps in BF16.

    Args:
        entries: module names, globs or "re:" patterns.
        layers: of the model.
    """
    kept = _layer_share(entries, layers)
    found: list[Part] = list(_ALWAYS)
    for part, probes in _PROBES.items():
        hits = sum(any(_matches(entry, probe) for entry in kept) for probe in probes)
        if part not in found and hits >= max(1, (len(probes) + 1) // 2):
            found.append(part)
    return tuple(found)


def _strings(f: Fields, *names: str) -> list[str]:
    return [str(entry) for entry in f.items(*names) or []]


def _fp8(f: Fields, layers: int) -> Quantization:
    block = tuple(f.whole("weight_block_size", side, least=1) for side in f.items("weight_block_size") or [])
    excluded = excluded_parts([*_strings(f, "modules_to_not_convert", "ignored_layers"), "lm_head"], layers)
    expert = f.text("expert_dtype", default="")
    return Quantization(
        weights_dtype="fp8", scheme="fp8-block" if block else "fp8-tensor", activation_dtype="fp8", block=block,
        excluded=excluded, expert_dtype="fp4" if expert == "fp4" else "", group_size=32 if expert == "fp4" else 0,
    )  # fmt: skip


def _weights_of(bits: int, kind: str, where: str) -> WeightsDtype:
    known: dict[tuple[int, str], WeightsDtype] = {
        (8, "int"): "int8", (4, "int"): "int4", (8, "float"): "fp8", (4, "float"): "fp4",
    }  # fmt: skip
    if (bits, kind) not in known:
        raise ModelRangeError(f"{bits}-bit {kind} weights are not understood", where=where)
    return known[bits, kind]


def _compressed_tensors(f: Fields, layers: int) -> Quantization:
    groups = f.table("config_groups")
    group = groups.table(next(iter(groups.data), "group_0")) if groups is not None else None
    weights = group.table("weights") if group is not None else None
    if group is None or weights is None:
        raise ModelRangeError("no weight scheme in config_groups", where=f.at("config_groups"))
    dtype = _weights_of(weights.count("num_bits"), weights.text("type", default="int"), weights.at("num_bits"))
    activations = group.table("input_activations")
    act = "bf16"
    if activations is not None:
        bits, kind = activations.count("num_bits"), activations.text("type", default="int")
        act = _weights_of(bits, kind, activations.at("num_bits"))
    strategy = weights.text("strategy", default="tensor")
    size = weights.count("group_size", default=0) if strategy in ("group", "tensor_group") else 0
    raw_block = weights.items("block_structure") if strategy == "block" else None
    block = tuple(weights.whole("block_structure", side, least=1) for side in raw_block or [])
    scheme = {"int8": "w8a8", "fp8": "fp8-block" if block else f"fp8-{strategy}", "fp4": "nvfp4", "int4": "w4a16"}[
        dtype
    ]
    if dtype == "int4" and act in ("int8", "fp8"):
        scheme = "w4a8"
    return Quantization(
        weights_dtype=dtype, scheme=scheme, activation_dtype=act, group_size=size, block=block,
        excluded=excluded_parts(_strings(f, "ignore"), layers), kv_dtype=_kv(f),
    )  # fmt: skip


def _kv(f: Fields) -> str:
    scheme = f.table("kv_cache_scheme") if isinstance(f.raw("kv_cache_scheme"), dict) else None
    if scheme is None:
        name = f.text("kv_cache_quant_algo", default="")
        return {"FP8": "fp8", "INT8": "int8"}.get(name.upper(), "")
    bits = scheme.count("num_bits", default=8)
    return {"float": "fp8", "int": "int8"}.get(scheme.text("type", default="float"), "fp8") if bits == 8 else ""


def _grouped(f: Fields, layers: int, scheme: str) -> Quantization:
    bits = f.count("bits", "w_bit", "num_bits", default=4)
    dtype = _weights_of(bits, "int", f.at("bits"))
    excluded = excluded_parts([*_strings(f, "modules_to_not_convert"), "lm_head"], layers)
    raw_size = f.raw("group_size", "q_group_size")
    size = 0 if raw_size == -1 else f.count("group_size", "q_group_size", default=128)
    return Quantization(weights_dtype=dtype, scheme=scheme, group_size=size, excluded=excluded)


def _mxfp4(f: Fields, layers: int) -> Quantization:
    entries = _strings(f, "modules_to_not_convert") or ["model.layers.*.self_attn", "lm_head"]
    excluded = excluded_parts(entries, layers)
    return Quantization(weights_dtype="fp4", scheme="mxfp4", activation_dtype="bf16", group_size=32, excluded=excluded)


def _mixed(f: Fields) -> Quantization:
    """ModelOpt's table of quantised modules: what is not in it stays; the experts or the MLP name the dtype."""
    table = f.table("quantized_layers")
    named: dict[str, str] = {}
    for name in table.data if table is not None else ():
        entry = table.table(name) if table is not None else None
        named[name] = entry.text("quant_algo") if entry is not None else ""
    entries: dict[str, list[str]] = {}
    for name, algo in named.items():
        entries.setdefault("fp4" if "FP4" in algo else "fp8" if "FP8" in algo else algo, []).append(name)
    covered: dict[str, set[Part]] = {}
    for dtype, names in entries.items():
        covered[dtype] = {part for part in map(part_of, names) if part is not None}
    unknown = set(covered) - {"fp4", "fp8"}
    if unknown or not any(covered.values()):
        raise ModelRangeError(f"mixed precision of {sorted(unknown)} is not understood", where=f.at("quantized_layers"))
    dtypes: dict[Part, WeightsDtype] = {}
    both: tuple[WeightsDtype, ...] = ("fp8", "fp4")
    for dtype in both:  # a part that is both counts at the smaller, which is its bulk in practice
        for part in covered.get(dtype, set()):
            dtypes[part] = dtype
    main: WeightsDtype = dtypes.get("experts") or dtypes.get("dense_mlp") or next(iter(dtypes.values()))
    kept: tuple[Part, ...] = tuple(part for part in (*_ALWAYS, *_PROBES) if part not in dtypes)
    return Quantization(
        weights_dtype=main, scheme="nvfp4" if main == "fp4" else "fp8-tensor", excluded=tuple(dict.fromkeys(kept)),
        activation_dtype="bf16" if any("A16" in algo for algo in named.values()) else main, kv_dtype=_kv(f),
        part_dtypes={part: dtype for part, dtype in dtypes.items() if dtype != main},
        group_size=16 if main == "fp4" else 0,
    )  # fmt: skip


def _modelopt(f: Fields, layers: int) -> Quantization:
    inner = f.table("quantization") or f
    algo = inner.text("quant_algo", "quant_method", default="").upper()
    excluded = excluded_parts(_strings(inner, "exclude_modules", "ignore"), layers)
    if "NVFP4" in algo or "FP4" in algo:
        return Quantization(
            weights_dtype="fp4", scheme="nvfp4", activation_dtype="fp4", excluded=excluded, kv_dtype=_kv(inner),
            group_size=inner.count("group_size", default=16),
        )  # fmt: skip
    if "FP8" in algo or algo == "MODELOPT":
        return Quantization(
            weights_dtype="fp8", scheme="fp8-tensor", activation_dtype="fp8", excluded=excluded, kv_dtype=_kv(inner)
        )
    if algo == "MIXED_PRECISION":
        return _mixed(inner)
    if algo.startswith("W4A"):
        return Quantization(weights_dtype="int4", scheme="awq", group_size=128, excluded=excluded)
    raise ModelRangeError(f'quant_algo "{algo}" is not understood', where=inner.at("quant_algo"))


def _quark(f: Fields, layers: int) -> Quantization:
    table = f.table("global_quant_config")
    weight = table.table("weight") if table is not None else None
    excluded = excluded_parts([*_strings(f, "exclude"), "lm_head"], layers)
    kind = weight.text("dtype", default="fp8_e4m3") if weight is not None else "fp8_e4m3"
    known: dict[str, WeightsDtype] = {"fp8_e4m3": "fp8", "fp4": "fp4", "int8": "int8", "int4": "int4", "uint4": "int4"}
    if kind not in known:
        raise ModelRangeError(f'dtype "{kind}" is not understood', where=f.at("global_quant_config.weight.dtype"))
    dtype = known[kind]
    scheme = {"fp8": "fp8-tensor", "fp4": "mxfp4", "int8": "w8a8", "int4": "awq"}[dtype]
    size = 32 if dtype == "fp4" else 128 if dtype == "int4" else 0
    act = dtype if dtype in ("fp8", "int8", "fp4") else "bf16"
    return Quantization(weights_dtype=dtype, scheme=scheme, activation_dtype=act, group_size=size, excluded=excluded)


def _bitsandbytes(f: Fields, layers: int) -> Quantization:
    excluded = excluded_parts([*_strings(f, "llm_int8_skip_modules"), "lm_head"], layers)
    if f.flag("load_in_8bit", "_load_in_8bit"):
        return Quantization(weights_dtype="int8", scheme="bnb-int8", excluded=excluded)
    return Quantization(weights_dtype="int4", scheme="bnb-nf4", group_size=64, excluded=excluded)


def read_quantization(f: Fields, layers: int) -> Quantization | None:
    """The quantization of a checkpoint; None where its weights are BF16.

    Args:
        f: the config; ``quantization_config`` or ``compression_config`` inside it.
        layers: of the model.

    Raises:
        ModelRangeError: a method that is not understood.
    """
    table = f.table("quantization_config") or f.table("compression_config")
    if table is None or not table.data:
        return None
    table_data = dict(table.data)
    if f.has("expert_dtype"):
        table_data.setdefault("expert_dtype", f.raw("expert_dtype"))
    q = Fields(table_data, table.file, table.path)
    found = _by_method(q, layers)
    if found is not None and f.flag("enable_moe_block") and not _names_experts(q):
        # Gemma 4 keeps its experts beside the dense MLP, not inside it.
        import msgspec

        kept = tuple(part for part in found.excluded if part != "experts")
        found = msgspec.structs.replace(found, excluded=kept)
    return found


def _names_experts(q: Fields) -> bool:
    return any("experts" in str(q.raw(name)) for name in ("ignore", "exclude_modules", "modules_to_not_convert"))


def _by_method(q: Fields, layers: int) -> Quantization | None:
    """The rule of a quant_method."""
    method = q.text("quant_method", default="modelopt" if q.has("quantization") or q.has("quant_algo") else "")
    if method == "compressed-tensors" or (not method and q.has("config_groups")):
        return _compressed_tensors(q, layers)
    rules = {
        "fp8": _fp8, "fbgemm_fp8": _fp8, "mxfp4": _mxfp4, "modelopt": _modelopt, "modelopt_fp4": _modelopt,
        "modelopt_mixed": _modelopt, "quark": _quark, "bitsandbytes": _bitsandbytes,
    }  # fmt: skip
    if method in rules:
        return rules[method](q, layers)
    if method.split("_")[0].split("-")[0] in ("awq", "gptq") or method == "auto-round":
        return _grouped(q, layers, "gptq" if method.startswith(("gptq", "auto")) else "awq")
    if method in ("ascend", "w8a8", "compressed_tensors_w8a8"):
        return Quantization(weights_dtype="int8", scheme="w8a8", activation_dtype="int8")
    raise ModelRangeError(
        f'quant_method "{method}" is not understood',
        where=q.at("quant_method"),
        mend="Known: fp8, compressed-tensors, awq, gptq, mxfp4, modelopt, quark, bitsandbytes.",
    )


def read_quant_sidecar(data: dict[str, object], where: str, layers: int) -> Quantization | None:
    """The quantization of a checkpoint that states it in hf_quant_config.json beside its config.

    Args:
        data: the decoded side file.
        where: its name for messages.
        layers: of the model.
    """
    f = Fields(data, where)
    return _modelopt(f, layers) if f.has("quantization") or f.has("quant_algo") else None
