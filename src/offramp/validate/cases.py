"""Cases: a published row turned into deployments that the cost model can price, unknowns spelled out as variants."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from offramp.arch.count import active
from offramp.arch.record import Model
from offramp.catalog import Catalog
from offramp.core.errors import OfframpError
from offramp.cost.calibration import Stack, path_of, release_of
from offramp.cost.device import Device
from offramp.cost.hardware import device_of, system_of
from offramp.cost.memory import memory_table
from offramp.cost.operators import Shard
from offramp.cost.precision import Precision, choose
from offramp.validate.rows import Problem, Row, names

BATCH_TOKENS: Final = 8192.0
"""Token budget of a step. Source: defaults of vLLM (since 0.8), SGLang and TensorRT-LLM on data-centre chips."""
MAX_SEQS: Final = {
    "vllm": 256.0,
    "vllm-ascend": 256.0,
    "mindie": 256.0,
    "tensorrt-llm": 2048.0,
    "sglang": 1024.0,
    "chitu": 512.0,
}
"""Most sequences in a step. Source: defaults of vLLM (max_num_seqs 256 before 0.10) and TensorRT-LLM
(max_batch_size 2048); SGLang derives it from memory, 1024 is where its captured graphs end."""
SEPARATE_PREFILL: Final = frozenset({"sglang"})
"""Engines whose steps hold either prefill or decode by default. Source: SGLang enable_mixed_chunk = False."""
MAX_PLAIN_TP: Final = 16
"""Widest tensor-parallel attention that anyone runs; a wider decode group means attention data parallelism. Assumed."""
NO_GRAPH: Final = frozenset({"transformers"})
PEAK_LIMIT: Final = 0.65
"""Share of the peak arithmetic above which a row is not believed: of 4,000 closed rows, none of another two suspect runs passes 0.5."""
RESERVE: Final = 0.05
"""Share of memory that engines keep back in tuned benchmark runs. Assumed (0.03 to 0.12): published runs fit models that the
default of 0.1 would refuse (R1 in FP8 on 4 x 180 GB)."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way a row may have been run, with its probability.

    Attributes:
        weight: of all variants of a row they sum to 1.
        tp, pp, dp, ep: degrees in torch devices of one replica.
        replicas: of the decode (or only) pool.
        prefill_tp, prefill_dp, prefill_ep, prefill_replicas: of a prefill pool; 0 replicas where there is none.
        draft: draft tokens per step; ``accept`` mean tokens gained per step, with its 80 % range.
    """

    weight: float
    tp: int
    pp: int
    dp: int
    ep: int
    replicas: float
    prefill_tp: int = 0
    prefill_dp: int = 1
    prefill_ep: int = 1
    prefill_replicas: float = 0.0
    draft: int = 0
    accept: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def shard(self) -> Shard:
        """Degrees as arrays of one entry."""
        one = np.ones(1)
        return Shard(tp=one * self.tp, pp=one * self.pp, dp=one * self.dp, ep=one * self.ep)

    def prefill_shard(self) -> Shard:
        """Degrees of the prefill pool."""
        one = np.ones(1)
        return Shard(tp=one * self.prefill_tp, pp=one, dp=one * self.prefill_dp, ep=one * self.prefill_ep)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row ready to be predicted."""

    row: Row
    model: Model
    device: Device
    precision: Precision
    stack: Stack
    variants: tuple[Variant, ...]
    kv_tokens: tuple[float, ...]
    """KV tokens that one data-parallel rank of each variant holds."""

    @property
    def mixed(self) -> bool:
        """Whether prefill chunks ride along with decode."""
        return self.row.engine not in SEPARATE_PREFILL

    @property
    def graph(self) -> bool:
        """Whether decode runs from captured graphs."""
        return self.row.engine not in NO_GRAPH


Resolver = Callable[[str], tuple[Model, str] | None]


def build_case(row: Row, *, catalog: Catalog, resolve: Resolver) -> Case | Problem:
    """A row as a case, or why it cannot be predicted.

    Args:
        row: as parsed.
        catalog: chips, systems, engines.
        resolve: published model name -> (model, dtype hint), or None.
    """
    found = resolve(row.model)
    if found is None:
        return Problem(row.id, f"the model {row.model!r} is not known")
    model, hint = found
    try:
        chip = catalog.chip(row.chip)
    except OfframpError as error:
        return Problem(row.id, f"the chip {row.chip!r} is not known: {error.mend}".strip())
    if not chip.computable:
        return Problem(row.id, f"{chip.id} has no sourced {', '.join(chip.missing)}")
    try:
        device = device_of(chip, system_of(catalog, chip))
    except OfframpError as error:
        return Problem(row.id, error.what)
    weights = row.weights or hint
    if weights and model.quantization is not None and model.quantization.weights_dtype == weights:
        weights = ""
    precision = choose(model, device_dtypes=frozenset(device.peak_flop_per_s), weights=weights, kv=row.kv)
    devices = row.chips * chip.devices
    variants = _variants(row, model, device, precision, devices=devices, per_package=chip.devices)
    if isinstance(variants, str):
        return Problem(row.id, variants)
    capacity = tuple(_kv_tokens(model, precision, device, variant, row) for variant in variants)
    keep = [i for i, tokens in enumerate(capacity) if tokens >= row.isl]
    if not keep:
        return Problem(row.id, "the model does not fit the stated chips in any layout this tool knows")
    total = sum(variants[i].weight for i in keep)
    kept = tuple(replace(variants[i], weight=variants[i].weight / total) for i in keep)
    stack = Stack(
        chip=chip.id, family=chip.family, vendor=chip.vendor, engine=row.engine,
        release=release_of(row.engine_version, row.date), path=path_of(model, precision),
    )  # fmt: skip
    return Case(
        row=row, model=model, device=device, precision=precision, stack=stack, variants=kept,
        kv_tokens=tuple(capacity[i] for i in keep),
    )  # fmt: skip


def beyond_silicon(case: Case) -> str:
    """Why a row cannot have been a steady run: its latencies imply more arithmetic than the chips have; else "".

    Source: Little's law gives the request rate of a closed loop, 2 FLOP per weight and token the arithmetic. A sweep that
    stopped before its queue filled, or counted its load per something else, gives itself away here. Of a disaggregated row
    the prompts alone count, on its prefill chips: some rows state one of several prefill workers.
    """
    row, m = case.row, case.row.metrics
    ttft, tpot = (m.get(f"{name}_ms_mean") or m.get(f"{name}_ms_median") for name in ("ttft", "tpot"))
    chips = row.prefill_chips if row.disaggregated else row.chips
    if row.mode != "closed" or not (ttft and tpot and chips):
        return ""
    rate = row.concurrency / (ttft + tpot * max(row.osl - 1.0, 0.0)) * 1e3
    tokens = row.isl * (1.0 - row.prefix_hit) + (0.0 if row.disaggregated else row.osl)
    flop = 2.0 * active(case.model) * tokens
    stored = case.precision.experts_compute if case.stack.path.split("-")[1:2] == ["moe"] else case.precision.dense
    peaks = case.device.peak_flop_per_s
    peak = max(peaks.get(stored, 0.0), peaks["bf16"]) * chips * case.device.devices_per_package
    share = rate * flop / peak
    if share <= PEAK_LIMIT:
        return ""
    of = " of the prefill chips that it states" if row.disaggregated else ""
    return f"its latencies imply {rate:.1f} requests/s at a concurrency of {row.concurrency:.0f}, {share:.0%} of the peak arithmetic{of}"


def _kv_tokens(model: Model, precision: Precision, device: Device, variant: Variant, row: Row) -> float:
    table = memory_table(
        model, precision, variant.shard(), device, context_tokens=np.array([row.isl + row.osl / 2.0]),
        max_batch_tokens=np.array([BATCH_TOKENS / 4.0]), reserve_share=np.array([RESERVE]), mtp=variant.draft > 0,
    )  # fmt: skip
    return float(table["kv_capacity_tokens"][0])


def _variants(
    row: Row, model: Model, device: Device, precision: Precision, *, devices: float, per_package: int
) -> tuple[Variant, ...] | str:
    layouts = _layouts(row, model, device, precision, devices=devices, per_package=per_package)
    if isinstance(layouts, str):
        return layouts
    return tuple(
        replace(layout, draft=draft, accept=accept, weight=layout.weight * share)
        for layout in layouts
        for share, draft, accept in _speculation(row, model)
    )


def _speculation(row: Row, model: Model) -> list[tuple[float, int, tuple[float, float, float]]]:
    """Ways a row may have speculated: (probability, draft tokens, accept range)."""
    if row.mode == "prefill":
        return [(1.0, 0, (1.0, 1.0, 1.0))]
    facts = names()["speculation"]
    span = (facts["accept_low"], facts["accept_mid"], facts["accept_high"])
    draft = row.draft_tokens or int(facts["draft_tokens"])
    if row.spec == "on":
        limit = 1.0 + draft
        known = (row.accept, row.accept, row.accept) if row.accept else tuple(min(v, limit) for v in span)
        return [(1.0, draft, (known[0], known[1], known[2]))]
    if row.spec == "unknown" and model.architecture in facts["architectures"] and model.mtp_layers:
        hidden = float(facts["hidden_share"])
        return [(1.0 - hidden, 0, (1.0, 1.0, 1.0)), (hidden, draft, span)]
    return [(1.0, 0, (1.0, 1.0, 1.0))]


def _layouts(
    row: Row, model: Model, device: Device, precision: Precision, *, devices: float, per_package: int
) -> list[Variant] | str:
    """Layouts that agree with what the row states; an unstated degree is searched, not assumed."""
    if row.disaggregated:
        return _disaggregated(row, model, per_package=per_package)
    if devices <= 0:
        if row.tp <= 0:
            return "the number of chips is not stated"
        devices = float(row.tp * row.pp * max(row.dp if row.dp > 1 else 1, 1))
    moe = any(group.mlp.kind == "moe" for group in model.layers)
    if row.tp:
        return [_stated(row, devices=devices, moe=moe)]
    return _searched(row, model, device, precision, devices=int(max(devices, 1)), moe=moe)


def _stated(row: Row, *, devices: float, moe: bool) -> Variant:
    """The layout that a row states, reconciled with its number of chips.

    With attention data parallelism sources give tp either per rank or of the whole replica; the number of devices
    decides which.
    """
    tp, pp, dp = row.tp, row.pp, max(row.dp, 1)
    if row.dp_on and moe:
        tp, dp = 1, row.tp
    elif dp > 1 and tp * dp * pp > devices >= 1 and tp % dp == 0:
        tp = tp // dp
    group = tp * dp
    ep = min(row.ep, group) if row.ep > 1 and moe else 1
    if dp > 1 and not moe:
        return Variant(weight=1.0, tp=tp, pp=pp, dp=1, ep=1, replicas=max(devices / (tp * pp), 1.0))
    if dp > 1 and ep <= 1:
        ep = (
            group if "deepep" in row.raw.get("ep", "").lower() or row.raw.get("ep", "").lower() in ("yes", "on") else ep
        )
    return Variant(weight=1.0, tp=tp, pp=pp, dp=dp, ep=max(ep, 1), replicas=max(devices / (group * pp), 1.0))


def _searched(
    row: Row, model: Model, device: Device, precision: Precision, *, devices: int, moe: bool
) -> list[Variant]:
    """Unstated layout: every tensor-parallel degree that fits, the smallest and the whole likelier than the rest."""
    node = device.fabric.node_devices
    degrees = [d for d in (1, 2, 4, 8, 16, 32) if d <= min(devices, max(node, 1)) and devices % d == 0]
    heads = max((group.attention.heads for group in model.layers), default=1) or 1
    degrees = [d for d in degrees if heads % d == 0 or d == 1] or [1]
    found = [Variant(weight=1.0, tp=tp, pp=1, dp=1, ep=1, replicas=devices / tp) for tp in degrees]
    fitting = [v for v in found if _kv_tokens(model, precision, device, v, row) > 4 * (row.isl + row.osl)] or found[-1:]
    fitting = [fitting[0], fitting[-1]] if len(fitting) > 2 else fitting
    if moe and devices > 1 and row.dp_on:
        fitting = [Variant(weight=1.0, tp=1, pp=1, dp=devices, ep=devices, replicas=1.0)]
    return [replace(v, weight=1.0 / len(fitting)) for v in fitting]


def _disaggregated(row: Row, model: Model, *, per_package: int) -> list[Variant]:
    """Layouts of the decode pool that agree with the row.

    Sources often give the decode group as one tensor-parallel number and leave attention data parallelism out. A
    latent-attention model that wide, or that loaded, may as well have run one attention rank per device: both are kept.
    """
    moe = any(group.mlp.kind == "moe" for group in model.layers)
    decode, prefill = row.decode_chips * per_package, row.prefill_chips * per_package
    workers = _workers(row.raw.get("disagg", ""))
    group = int(max(decode / workers[1], 1.0)) if workers[1] else int(min(decode, max(row.tp * max(row.dp, 1), 1)))
    each = max(prefill / workers[0], 1.0) if workers[0] else float(row.prefill_tp or row.tp or 8)
    ep = min(max(row.ep, 1), group) if moe else 1
    width = int(max(min(each, 32), 1))
    ranks = width if moe and _prefill_ranks(row.raw.get("disagg", "")) else 1
    plain = Variant(
        weight=1.0, tp=group, pp=1, dp=1, ep=ep, replicas=max(decode / group, 1.0), prefill_tp=width // ranks,
        prefill_dp=ranks, prefill_ep=width if ranks > 1 else min(ep, width), prefill_replicas=max(prefill / width, 1.0),
    )  # fmt: skip
    if not moe:
        return [replace(plain, tp=min(row.tp or group, group), replicas=max(decode / min(row.tp or group, group), 1.0))]
    spread = replace(plain, tp=1, dp=group, ep=group)
    if row.dp_on or row.dp > 1:
        rank = max(row.tp, 1) if row.tp * max(row.dp, 1) <= group and row.dp > 1 else 1
        return [replace(spread, tp=rank, dp=max(group // rank, 1))]
    load = row.concurrency / max(decode, 1.0)
    if group > MAX_PLAIN_TP:
        return [spread]
    if "dp_attn=1 " in row.raw.get("disagg", "") and load >= 4.0 and group > 1:
        share = min(0.85, load / (load + 8.0))
        return [replace(plain, weight=1.0 - share), replace(spread, weight=share)]
    return [plain]


def _workers(text: str) -> tuple[int, int]:
    """Prefill and decode workers of "... x1; decode x3"; (0, 0) where unstated."""
    parts = [int(part) for part in _times(text)]
    return (parts[0], parts[1]) if len(parts) >= 2 else (0, 0)


def _prefill_ranks(text: str) -> bool:
    """Whether "pd prefill tp4 ep4 dp_attn=True x1; ..." runs prefill with attention data parallelism."""
    head = text.split(";", maxsplit=1)[0]
    mark = head.rpartition("dp_attn=")[2].split(" ", maxsplit=1)[0] if "dp_attn=" in head else ""
    return mark == "True" or (mark.isdigit() and int(mark) > 1)


def _times(text: str) -> list[str]:
    return [
        word[1:].rstrip(";")
        for word in text.split()
        if len(word) > 1 and word[0] == "x" and word[1:].rstrip(";").isdigit()
    ]


def batch_of(row: Row, variant: Variant) -> float:
    """Requests in flight on one virtual engine; infinite where nothing limits them."""
    engines = variant.replicas * variant.dp * variant.pp
    if row.concurrency <= 0:
        return math.inf
    return row.concurrency / engines
