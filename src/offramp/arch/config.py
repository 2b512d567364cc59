"""A Hugging Face config.json as a :class:`~offramp.arch.record.Model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.arch.dialect import Dialect, find_dialect
from offramp.arch.fields import Fields, refuse_unread
from offramp.arch.kinds import layer_kinds, nemotron_blocks
from offramp.arch.mixers import mixer_of
from offramp.arch.mlps import mlp_kinds, mlp_of
from offramp.arch.quant import read_quantization
from offramp.arch.record import Attention, LayerGroup, Mlp, Model, Part
from offramp.core.errors import InputError, ModelRangeError

# Where multimodal configs keep the language model.
_INNER = ("text_config", "llm_config", "language_config", "thinker_config")
_MOST_LAYERS = 100_000  # a larger number is a broken file, and would only fill memory


def _inner(outer: Fields) -> tuple[Fields, bool]:
    """The language model's own object inside a multimodal config."""
    for name in _INNER:
        if isinstance(outer.data.get(name), dict) and outer.data[name]:
            table = outer.table(name)
            if table is not None:
                deeper, _ = _inner(table)
                return deeper, True
    return outer, False


def _inherit(outer: Fields, inner: Fields) -> Fields:
    """The inner object with what only the outer one says: quantization, tying, the class."""
    data = dict(inner.data)
    for name in ("quantization_config", "compression_config", "tie_word_embeddings", "architectures", "expert_dtype"):
        if data.get(name) is None and outer.data.get(name) is not None:
            data[name] = outer.data[name]
    return Fields(data, inner.file, inner.path)


def _extras(f: Fields, d: Dialect, hidden: int, n: int) -> tuple[int, int, dict[Part, int]]:
    """Further weights of each layer, further norms of each layer, and weights outside the layers."""
    if d.extras == "deepseek-v4":
        mult = f.count("hc_mult", default=4, least=1)
        mixed = (2 + mult) * mult
        one = mixed * mult * hidden + mixed + 3
        return 2 * one, 0, {"attention": mult * mult * hidden + mult + 1}
    if d.extras == "hy-v4":
        mult = f.count("hc_mult", default=4, least=1)
        one = 2 * mult * mult * hidden + 2 * mult + 2
        return 2 * one, 0, {"attention": mult * mult * hidden + mult + 1}
    if d.extras in ("gemma3n", "gemma4"):
        width = f.count("hidden_size_per_layer_input", default=0)
        table = f.count("vocab_size_per_layer_input", default=0)
        per_layer = 2 * hidden * width + (hidden if width else 0)
        outside: dict[Part, int] = {"embedding": table * width * n} if width else {}
        if width:
            outside["attention"] = hidden * width * n + width
        if d.extras == "gemma3n":
            return _gemma3n(f, hidden, per_layer, outside)
        return per_layer + (1 if f.has("hidden_size_per_layer_input") else 0), 0, outside
    return 0, 0, {}


def _gemma3n(f: Fields, hidden: int, per_layer: int, outside: dict[Part, int]) -> tuple[int, int, dict[Part, int]]:
    """AltUp keeps several residual streams, LAuReL adds a low-rank path."""
    streams, rank = f.count("altup_num_inputs", default=4, least=1), f.count("laurel_rank", default=64, least=1)
    per_layer += 2 * hidden * rank + hidden + streams * hidden + 2 * hidden + streams**2 + streams**3
    outside["attention"] = outside.get("attention", 0) + 2 * (streams - 1) * hidden * hidden
    return per_layer, 0, outside


def _layers(f: Fields, d: Dialect, hidden: int, n: int) -> tuple[list[tuple[Attention, Mlp, int]], int]:
    """Mixer, MLP and norms of every block in order, and the further weights of each."""
    kinds, mlps = layer_kinds(f, d, n), mlp_kinds(f, d, n)
    norms = d.norms
    if d.norms_if is not None and f.flag(d.norms_if.field):
        norms = d.norms_if.norms
    shared_from = n - (f.count(*d.shared_kv_fields, default=0) if d.shared_kv_fields else 0)
    blocks: list[tuple[Attention, Mlp, int]] = []
    for i, (kind, mlp_kind) in enumerate(zip(kinds, mlps, strict=True)):
        mixers = mixer_of(f, d, kind, hidden, i)
        if i >= shared_from:
            mixers = tuple(_sharing(mixer) for mixer in mixers)
        mlp = mlp_of(f, d, mlp_kind, hidden, i)
        if d.mlps == "gemma4" and i >= shared_from and f.flag("use_double_wide_mlp"):
            mlp = _wider(mlp)
        extra_norms = 3 if d.mlps == "gemma4" and mlp.kind == "moe" else 0
        blocks.extend((mixer, Mlp(kind="none"), 0) for mixer in mixers[:-1])
        blocks.append((mixers[-1], mlp, norms + extra_norms))
    return blocks, n


def _sharing(a: Attention) -> Attention:
    import msgspec

    return msgspec.structs.replace(a, shared_kv=True)


def _wider(mlp: Mlp) -> Mlp:
    import msgspec

    return msgspec.structs.replace(mlp, intermediate=2 * mlp.intermediate)


def _double(blocks: list[tuple[Attention, Mlp, int]]) -> list[tuple[Attention, Mlp, int]]:
    """LongCat: each layer holds two attentions and two dense MLPs, and one set of experts beside them."""
    import msgspec

    found: list[tuple[Attention, Mlp, int]] = []
    for attention, mlp, norms in blocks:
        half = mlp.intermediate // 2
        found.append((attention, msgspec.structs.replace(mlp, intermediate=half), norms))
        found.append((attention, Mlp(kind="dense", intermediate=half, gated=mlp.gated), norms))
    return found


def _grouped(blocks: list[tuple[Attention, Mlp, int]], per_layer: int) -> tuple[LayerGroup, ...]:
    counts: dict[tuple[Attention, Mlp, int], int] = {}
    for block in blocks:
        counts[block] = counts.get(block, 0) + 1
    return tuple(
        LayerGroup(count=count, attention=attention, mlp=mlp, norms=norms, layer_parameters=per_layer if norms else 0)
        for (attention, mlp, norms), count in counts.items()
    )


def _mtp(
    f: Fields, d: Dialect, groups: tuple[LayerGroup, ...], last: tuple[Attention, Mlp, int]
) -> tuple[int, LayerGroup | None]:
    """Number of MTP layers and what one of them is: like the last layer of the stack."""
    count = f.count(*d.mtp_fields, default=d.mtp_default)
    if d.mtp_if and not f.flag(d.mtp_if):
        count = 0
    if not count or d.mixers == "nemotron-h":
        return 0, None
    attention, mlp, norms = last
    full = [group for group in groups if group.attention.kind in ("gqa", "mla")]
    if attention.kind not in ("gqa", "mla") and full:
        attention = full[-1].attention
    return count, LayerGroup(count=1, attention=attention, mlp=mlp, norms=norms)


def _outside(f: Fields, d: Dialect, hidden: int, vocab: int, outside: dict[Part, int]) -> dict[Part, int]:
    found = dict(outside)
    norms = (d.final_norms if d.final_norm else 0) - 1 + d.embedding_norms
    if norms:
        found["norm"] = found.get("norm", 0) + norms * hidden
    if d.head_bias or (d.head_bias_field and f.flag(d.head_bias_field)):
        found["lm_head"] = found.get("lm_head", 0) + vocab
    return found


def _positions(f: Fields, d: Dialect, context: int) -> int:
    if not d.positions:
        return 0
    return context + d.positions_offset


def parse_config(data: Mapping[str, Any], *, where: str, model_id: str = "", source: str = "") -> Model:
    """The model that a config.json describes.

    Args:
        data: the decoded JSON object.
        where: file name for messages.
        model_id: id of the model; the file name where empty.
        source: where the config comes from.

    Raises:
        InputError: a field is missing, of the wrong kind, or contradicts another.
        ModelRangeError: a structure that is not understood, named by its field.
    """
    outer = Fields(data, where)
    if outer.data.get("is_encoder_decoder") is True:
        raise ModelRangeError("encoder-decoder models are not modelled", where=outer.at("is_encoder_decoder"))
    inner, nested = _inner(outer)
    f = _inherit(outer, inner) if nested else outer
    d = find_dialect(f, outer_type=outer.text("model_type", default="") if nested else "")
    f = Fields({**d.defaults, **{k: v for k, v in f.data.items() if v is not None}}, f.file, f.path)
    f.read.update((*d.ignore, "model_type", "architectures"))
    hidden, vocab = f.count(*d.hidden, least=1), f.count(*d.vocab, least=1)
    n = len(nemotron_blocks(f)) if d.mixers == "nemotron-h" else f.count(*d.layers, least=1)
    if n > _MOST_LAYERS:
        raise InputError(f"{n} layers", where=f.at(d.layers[0]), mend="Check the number of layers.")
    _check_count(f, d, n)
    blocks, _ = _layers(f, d, hidden, n)
    last = blocks[-1]
    if d.mlps == "longcat":
        blocks = _double(blocks)
    per_layer, _, outside = _extras(f, d, hidden, n)
    groups = _grouped(blocks, per_layer)
    mtp_layers, mtp = _mtp(f, d, groups, last)
    context = f.count(*d.context, default=0)
    notes = _notes(outer, nested)
    counts = d.active_counts if any(mlp.kind == "moe" for _, mlp, _ in blocks) else "both"
    model = Model(
        id=model_id or where, hidden=hidden, vocab=vocab, layers=groups,
        architecture=str((outer.items("architectures") or f.items("architectures") or [""])[0]),
        model_type=f.text("model_type", default="") or outer.text("model_type", default=d.name),
        tied_embeddings=f.flag("tie_word_embeddings", default=d.tie), mtp_layers=mtp_layers, mtp=mtp,
        max_context_tokens=context, position_embeddings=_positions(f, d, context),
        embedding_dim=_embedding_dim(f, d, hidden), extra_parameters=_outside(f, d, hidden, vocab, outside),
        active_counts=counts, quantization=read_quantization(f, n), source=source, notes=notes,
    )  # fmt: skip
    f.read.update((*d.experts, *d.topk, *d.expert_width, *d.shared_count, *d.kv_heads, *d.intermediate, *d.dense_width,
                   *d.layers, *d.heads, *d.hidden, *d.vocab, *d.context))  # fmt: skip
    refuse_unread(f)
    return model


def _check_count(f: Fields, d: Dialect, n: int) -> None:
    """A Nemotron-H stack states its depth twice."""
    if d.mixers == "nemotron-h":
        said = f.count("num_hidden_layers", default=n)
        if said != n:
            raise InputError(f"{said} layers but {n} blocks in the pattern", where=f.at("num_hidden_layers"))


def _embedding_dim(f: Fields, d: Dialect, hidden: int) -> int:
    width = f.count(*d.embedding_dim, default=hidden) if d.embedding_dim else hidden
    return 0 if width == hidden else width


def _notes(outer: Fields, nested: bool) -> tuple[str, ...]:
    towers = [name for name in ("vision_config", "audio_config", "visual") if outer.data.get(name)]
    if not towers:
        return ()
    return (f"language model only; weights and work of {', '.join(towers)} are left out",)
