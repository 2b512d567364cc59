"""Model architectures: the shipped ones, and what one model's structure amounts to."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from offramp import __version__, arch
from offramp.catalog import data_version
from offramp.core.result import Column, Notice, Result, Table, hash_inputs, table_of
from offramp.core.units import GIGA

DTYPES = ("bf16", "fp8", "int8", "int4", "fp4")
_CONTEXTS = (1024, 8192, 32768, 131072)


def models(spec: str = "") -> Result:
    """All shipped models, or the structure and sizes of one.

    Args:
        spec: preset id, published name, or path of a config.json or its folder; "" lists the presets.

    Raises:
        CatalogError: no such model.
        InputError: the file contradicts itself.
        ModelRangeError: a structure that is not understood, named by its field.
    """
    return _one(spec) if spec else _all()


def _all() -> Result:
    rows: list[dict[str, Any]] = []
    newest: dt.date | None = None
    for model_id in arch.presets():
        model, facts = arch.load(model_id), arch.preset(model_id)
        quant = model.quantization
        day = dt.date.fromisoformat(facts.as_of)
        newest = day if newest is None else max(newest, day)
        rows.append({
            "id": model_id, "parameters_total": model.parameters_total, "parameters_active": model.parameters_active,
            "layers": model.layer_count, "attention": _kinds(model), "kv_bytes_per_token": model.kv_bytes_per_token(),
            "weight_bytes": model.weight_bytes(), "dtype": quant.weights_dtype if quant else "bf16",
            "max_context_tokens": model.max_context_tokens, "as_of": facts.as_of,
        })  # fmt: skip
    columns = (
        Column(name="id", title="model"), Column(name="parameters_total"), Column(name="parameters_active"),
        Column(name="layers"), Column(name="attention"), Column(name="kv_bytes_per_token", unit="B", title="BF16 KV"),
        Column(name="weight_bytes", unit="B"), Column(name="dtype", title="of the checkpoint"),
        Column(name="max_context_tokens", unit="tokens"), Column(name="as_of"),
    )  # fmt: skip
    return Result(
        command="models", answer={"models": rows}, tables={"models": table_of(rows, columns=columns)},
        inputs_hash=hash_inputs({"spec": ""}), data_version=data_version(), knowledge_horizon=newest,
        offramp_version=__version__,
    )  # fmt: skip


def _kinds(model: arch.Model) -> str:
    names: dict[str, int] = {}
    for group in model.layers:
        names[kind_name(group.attention)] = names.get(kind_name(group.attention), 0) + group.count
    return " + ".join(f"{count} {name}" for name, count in names.items())


def kind_name(a: arch.Attention) -> str:
    """A short name of a token mixer ("GQA 64/8", "MLA + sparse 2048", "window 128")."""
    if a.kind == "none":
        return "no mixer"
    if a.kind in ("linear", "ssm"):
        return {"gated-delta": "gated delta", "kda": "KDA", "lightning": "lightning", "conv": "short convolution"}.get(
            a.linear_style or a.ssm_style, a.ssm_style or "linear"
        )
    name = "MLA" if a.kind == "mla" else f"GQA {a.heads}/{a.kv_heads}"
    if a.compress_ratio > 1:
        name += f" compressed {a.compress_ratio}x"
    if a.sparse_topk:
        name += f" sparse {a.sparse_topk}"
    if a.window_tokens:
        name += f" window {a.window_tokens}"
    return name


def _one(spec: str) -> Result:
    model = arch.load(spec, where="MODEL")
    facts = arch.preset(model.id) if model.id in arch.presets() else None
    answer = describe(model)
    if facts is not None:
        answer["published"] = {
            "parameters_total": facts.published_total * GIGA or None,
            "parameters_active": facts.published_active * GIGA or None,
            "source": facts.published_source, "url": facts.url, "as_of": facts.as_of, "note": facts.note,
        }  # fmt: skip
    tables = {"layers": _layer_table(model), "parameters": _parameter_table(model)}
    warnings = tuple(Notice(kind="model-note", text=note, where=model.id) for note in model.notes)
    return Result(
        command="models", answer=answer, tables=tables, inputs_hash=hash_inputs({"model": msgspec.json.encode(model)}),
        data_version=data_version(), warnings=warnings, offramp_version=__version__,
        knowledge_horizon=dt.date.fromisoformat(facts.as_of) if facts is not None else None,
    )  # fmt: skip


def describe(model: arch.Model) -> dict[str, Any]:
    """A model's structure and sizes as plain data."""
    quant = model.quantization
    return {
        "id": model.id, "architecture": model.architecture, "model_type": model.model_type,
        "parameters_total": model.parameters_total, "parameters_active": model.parameters_active,
        "parameters_active_matmul": model.parameters_active_matmul, "active_counts": model.active_counts,
        "parameter_breakdown": model.parameter_breakdown,
        "kv_bytes_per_token": model.kv_bytes_per_token(), "kv_bytes_per_token_fp8": model.kv_bytes_per_token(1.0),
        "kv_bytes_fixed_per_sequence": model.kv_bytes_fixed_per_sequence(),
        "kv_bytes_by_context": {str(n): model.kv_bytes(n) for n in _CONTEXTS},
        "weight_bytes": model.weight_bytes(), "weight_bytes_by_dtype": {d: model.weight_bytes(d) for d in DTYPES},
        "weights_dtype": quant.weights_dtype if quant else "bf16",
        "quantization": msgspec.to_builtins(quant) if quant else None,
        "hidden": model.hidden, "vocab": model.vocab, "layers": model.layer_count, "mtp_layers": model.mtp_layers,
        "max_context_tokens": model.max_context_tokens, "tied_embeddings": model.tied_embeddings,
        "layer_groups": [msgspec.to_builtins(group) for group in model.layers], "source": model.source,
        "notes": list(model.notes),
    }  # fmt: skip


def _layer_table(model: arch.Model) -> Table:
    rows: list[dict[str, Any]] = []
    for group in model.layers:
        a, m = group.attention, group.mlp
        experts = f"{m.experts} x {m.expert_intermediate}, {m.experts_per_token} used" if m.kind == "moe" else ""
        parameters = sum(matrix.parameters for matrix in arch.layer_matrices(group, model.hidden))
        rows.append({
            "count": group.count, "mixer": kind_name(a), "heads": a.heads or None, "kv_heads": a.kv_heads or None,
            "head_dim": a.head_dim or None, "mlp": m.intermediate or None, "experts": experts or None,
            "shared": m.shared_intermediate or None, "parameters": parameters,
        })  # fmt: skip
    columns = [Column(name=name) for name in rows[0]]
    return table_of(rows, columns=columns, title="Layers")


def _parameter_table(model: arch.Model) -> Table:
    dtypes = {**arch.part_dtypes(model), "mtp": "as its parts"}
    own = model.weight_bytes_by_part()
    rows: list[dict[str, Any]] = [
        {"part": part, "parameters": count, "dtype": dtypes[part], "bytes": own[part]}
        for part, count in model.parameter_breakdown.items() if count
    ]  # fmt: skip
    columns = (Column(name="part"), Column(name="parameters"), Column(name="dtype"), Column(name="bytes", unit="B"))
    return table_of(rows, columns=columns, title="Weights (MTP is not in the total)")
