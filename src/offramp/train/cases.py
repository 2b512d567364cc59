"""From a published row to what the step model prices: model, device, task and the layouts that it may have had."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from offramp import arch, catalog
from offramp.arch.record import Attention, LayerGroup, Mlp, Model
from offramp.core.errors import CatalogError, ModelRangeError
from offramp.core.result import FigureLog
from offramp.cost.device import Device
from offramp.cost.hardware import default, device_of, system_of
from offramp.train.assumed import constant
from offramp.train.layout import Grid, Layout, Recompute, Task, grid_of
from offramp.train.parameters import Stack, age
from offramp.train.rows import NewerDtype, Rejected, TrainRow, preset_of, routing_of
from offramp.train.search import Limits, enumerate_grid
from offramp.train.work import ModelWork, model_flop, model_work

RECOMPUTES: Final[tuple[Recompute, ...]] = ("none", "selective", "full")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row ready to be priced.

    Attributes:
        row: as published.
        work, device, task, grid: the layouts that it may have had (one where all is stated).
        stack: which effects apply.
        devices: torch devices.
        packages_per_device: to bring devices to chips.
        flop_per_token: credited model FLOP, full attention square; ``flop_causal`` half of it.
        peak: FLOP/s of one device in the dtype of the run.
        group: deployment, for the residual and for leaving out.
        stated: whether the layout was.
        assumed: what had to be assumed, in words.
        other: the same row in another dtype, where it states none and two are likely; ``weight`` is this one's.
        unknown: "b" where the batch is not stated.
    """

    row: TrainRow
    work: ModelWork
    device: Device
    task: Task
    grid: Grid
    stack: Stack
    devices: int
    devices_per_chip: int
    flop_per_token: float
    flop_causal: float
    peak: float
    group: str
    stated: bool
    assumed: tuple[str, ...]
    other: Case | None = None
    weight: float = 1.0
    unknown: str = ""


def shape_of(model: Model) -> str:
    """Kind of a model: "moe", "hybrid" (recurrent layers), "sparse" (indexed attention) or "dense"."""
    if any(g.attention.kind in ("linear", "ssm") for g in model.layers):
        return "hybrid"
    if any(g.attention.index_heads or g.attention.compress_ratio > 1 for g in model.layers):
        return "sparse"
    return "moe" if any(g.mlp.kind == "moe" for g in model.layers) else "dense"


def model_from_shape(name: str, shape: dict[str, float]) -> Model | None:
    """A GPT of the printed widths; None where they are not enough."""
    if not all(shape.get(key) for key in ("hidden", "layers", "heads")):
        return None
    hidden, heads = int(shape["hidden"]), int(shape["heads"])
    width = int(shape.get("head_dim") or hidden // heads)
    attention = Attention(kind="gqa", heads=heads, kv_heads=heads, head_dim=width, v_head_dim=width, qkv_bias=True)
    mlp = Mlp(kind="dense", intermediate=int(shape.get("feedforward") or 4 * hidden), gated=False, bias=True)
    return Model(
        id=name, architecture="GPT", model_type="gpt", hidden=hidden, vocab=int(shape.get("vocab") or 51200),
        layers=(LayerGroup(count=int(shape["layers"]), attention=attention, mlp=mlp),), tied_embeddings=True,
        notes=("widths as printed in the row",),
    )  # fmt: skip


def model_of(row: TrainRow) -> Model:
    """The architecture that a row names.

    Raises:
        ModelRangeError: unknown, and no widths are printed.
    """
    own = model_from_shape(row.model, row.shape)
    if own is not None:
        return own
    alias = arch.resolve_alias(row.model)
    if alias is None:
        cleaned = row.model.split("(")[0].strip()
        alias = arch.resolve_alias(cleaned) or arch.resolve_alias(cleaned.split(" RL ")[0].split(" full")[0])
    preset = alias.preset if alias is not None else preset_of(row.model)
    if preset is None:
        raise ModelRangeError(f'unknown model "{row.model}"', where=row.id)
    return arch.load(preset)


def row_device(row: TrainRow, book: catalog.Catalog, log: FigureLog | None = None) -> Device:
    """The torch device of a row.

    Raises:
        CatalogError: unknown chip, or one without the facts that computing needs.
    """
    if row.chip is None:
        raise CatalogError(f'unknown chip "{row.published_chip}"', where=row.id)
    return chip_device(row.chip.id, book, log=log, figures=dict(row.chip.figures), clock=row.chip.clock)


def chip_device(
    chip_id: str | catalog.Chip, book: catalog.Catalog, *, log: FigureLog | None = None, figures: dict[str, float] | None = None,
    clock: float = 1.0, as_of: dt.date | None = None,
) -> Device:  # fmt: skip
    """A torch device of a catalogue chip (or of one given with its figures filled in) in its usual system."""
    chip = book.chip(chip_id) if isinstance(chip_id, str) else chip_id
    found = device_of(chip, system_of(book, chip), as_of=as_of, log=log, overrides=dict(figures or {}))
    peaks = {dtype: value * clock for dtype, value in found.peak_flop_per_s.items()}
    capacity = (figures or {}).get("memory_capacity")  # replaces what the driver reports of the usual variant, too
    memory = found.memory_bytes if capacity is None else capacity * default("driver_share", log) / chip.devices
    return replace(found, peak_flop_per_s=peaks, memory_bytes=memory)


def _task(row: TrainRow, model: Model, devices: int, assumed: list[str]) -> Task:
    style = row.framework
    sequence = row.sequence_tokens
    if not sequence:
        sequence = int(constant("sequence_tokens"))
        assumed.append(f"sequences of {sequence} tokens")
    batch = row.batch_sequences
    if not batch:
        batch = _plain_batch(devices, sequence)
        assumed.append(f"a batch of {batch} sequences")
    mtp = style.mtp and "w/o mtp" not in row.model.lower() and row.release != "25.09"
    groups, most = routing_of(model.model_type)
    return Task(
        sequence_tokens=sequence, batch_sequences=batch, dtype=row.dtype, lora=row.lora, flash=style.flash,
        grad_bytes=style.grad_bytes, mtp=mtp, skew=style.skew, groups=groups, group_limit=most,
        selective_gemm=style.selective_gemm, async_tp=row.async_tp, async_sends=style.async_sends,
    )  # fmt: skip


def _plain_batch(devices: int, sequence: int) -> int:
    """A batch that divides well: about 63 M tokens (arXiv 2412.19437, section 4.2) on a cluster, 32 sequences a device on a server."""
    per_device = max(int(constant("batch_tokens")) // sequence // devices, 1) if devices >= 64 else 32
    return devices * max(per_device, 1)


def _stated_grid(row: TrainRow, model: Model, task: Task, devices: int, assumed: list[str]) -> Grid | None:
    """The one layout that a row states, or None."""
    sharded = row.framework.id in ("llm-foundry", "torchtitan")
    if not (row.tp and row.pp) and not sharded:
        return None
    tp, pp, cp = max(row.tp, 1), max(row.pp, 1), max(row.cp, 1)
    dp = devices // (tp * pp * cp)
    if dp < 1 or dp * tp * pp * cp != devices:
        return None
    experts = max((g.mlp.experts for g in model.layers), default=0)
    ep = max(row.ep, 1) if experts and (tp * cp * dp) % max(row.ep, 1) == 0 else 1
    share = task.batch_sequences / dp
    micros = [row.micro_batch] if row.micro_batch else [m for m in (1, 2, 4) if share % m == 0 or m == 1]
    if not row.micro_batch:
        assumed.append("the best micro-batch")
    per_rank = -(-model.layer_count // pp)
    chunks = [max(row.vp, 1)] if row.vp_stated or pp == 1 else [v for v in (1, 2, 4, 8, per_rank) if v <= per_rank]
    kinds: tuple[Recompute, ...] = (row.recompute,) if row.recompute else RECOMPUTES if sharded else ("none",)
    if len(kinds) > 1:
        assumed.append("the recompute that memory allows")
    return grid_of([
        Layout(
            tp=tp, pp=pp, cp=cp, dp=dp, ep=ep, vp=vp if pp > 1 else 1, micro_batch=int(min(micro, max(share, 1))),
            zero=row.zero if row.zero >= 0 else 1, recompute=kind,
            sequence_parallel=tp > 1 if row.sequence_parallel is None else row.sequence_parallel,
            schedule=row.framework.schedule if pp > 1 else "1f1b",
        )
        for micro in micros for vp in chunks for kind in kinds
    ])  # fmt: skip


def build(row: TrainRow, book: catalog.Catalog, log: FigureLog | None = None) -> Case | Rejected:
    """A case of a row, or why its own numbers cannot be.

    Raises:
        CatalogError, ModelRangeError: it cannot be predicted.
    """
    if "RL post-training" in row.note:
        raise ModelRangeError("reinforcement learning spends its time generating, which a training step does not model")
    device = row_device(row, book, log)
    if not row.dtype_stated and row.dtype not in device.peak_flop_per_s:
        row = replace(row, dtype="bf16")
    newer = None if row.dtype_stated else _newer(row, device)
    if newer is None:
        return _build(row, book, device)
    first = _build(replace(row, dtype=newer.dtype), book, device)
    second = _build(row, book, device)
    if isinstance(first, Rejected) or isinstance(second, Rejected):
        return first
    return replace(first, other=second, weight=newer.weight)


def _newer(row: TrainRow, device: Device) -> NewerDtype | None:
    for entry in row.framework.newer:
        old = not row.release or age(row.release) < age(entry.release)
        if not old and re.search(entry.families, device.family) and entry.dtype in device.peak_flop_per_s:
            return entry
    return None


def usable_devices(devices: int) -> int:
    """The most divisible count within 5 % below: "about 10,000" means one that parallel degrees divide."""
    if devices < 256:
        return devices
    return max(
        range(int((1.0 - constant("count_slack")) * devices), devices + 1), key=lambda n: ((n & -n).bit_length(), n)
    )


def _build(row: TrainRow, book: catalog.Catalog, device: Device) -> Case | Rejected:
    assumed: list[str] = []
    model = model_of(row)
    chips = row.chips
    chip = book.chip(row.chip.id) if row.chip else None
    per_chip = chip.devices if chip else 1
    if not chips:
        chips = _least_chips(model, device) // per_chip or 1
        assumed.append(f"{chips} chips")
    devices = chips * per_chip
    if not row.batch_sequences and not (row.tp and row.pp and row.dp):
        devices = usable_devices(devices)
    task = _task(row, model, devices, assumed)
    work = model_work(model, mtp=task.mtp)
    if row.dtype not in device.peak_flop_per_s and row.dtype in ("fp8", "fp4"):
        raise ModelRangeError(f"{device.chip} has no {row.dtype}", where=row.id)
    peak = float(np.mean(device.peak_flop_per_s.get(row.dtype, device.peak_flop_per_s["bf16"])))
    flop = model_flop(work, task.sequence_tokens, causal=False)
    causal = model_flop(work, task.sequence_tokens, causal=True)
    rate = row.metrics.get("tokens_per_s_per_chip", 0.0)
    scale = 0.66 if row.lora else 1.0
    if rate and rate / per_chip * causal * scale > peak:
        return Rejected(id=row.id, why=f"{rate:g} tokens per second and chip need more than the chip's peak")
    grid = _stated_grid(row, model, task, devices, assumed)
    stated = grid is not None
    if grid is None:
        grid = enumerate_grid(model, device, task, devices, _limits(row))
        assumed.append("the best layout of those that divide")
    if grid is None:
        raise ModelRangeError(f"no layout divides {devices} devices and {task.batch_sequences} sequences", where=row.id)
    shape = "lora" if row.lora else shape_of(model)
    stack = Stack(chip=device.chip, family=device.family, framework=row.framework.id, release=row.release,
                  dtype=row.dtype, variant=row.variant, shape=shape, core=row.framework.core)  # fmt: skip
    return Case(
        row=row, work=work, device=device, task=task, grid=grid, stack=stack, devices=devices,
        devices_per_chip=per_chip,
        flop_per_token=causal if row.framework.causal else flop, flop_causal=causal, peak=peak,
        group="|".join((row.framework.id, device.chip, row.model, row.release)), stated=stated,
        unknown="" if row.batch_sequences else "b", assumed=tuple(assumed),
    )  # fmt: skip


def _limits(row: TrainRow) -> Limits:
    def only(value: int) -> tuple[int, ...]:
        return (value,) if value else ()

    schedule = row.framework.schedule
    return Limits(
        tp=only(row.tp), pp=only(row.pp), cp=only(row.cp), ep=only(row.ep), micro_batch=only(row.micro_batch),
        recompute=(row.recompute,) if row.recompute else (),
        schedules=("1f1b",) if schedule == "1f1b" else ("1f1b", schedule),
        loose_groups=row.framework.loose_groups is not None,
    )  # fmt: skip


def _least_chips(model: Model, device: Device) -> int:
    """Smallest power of two of devices, at least 8, that holds weights, gradients and states (18 bytes each)."""
    need = 18.0 * model.parameters_total * 1.3
    count = 8
    while count * device.memory_bytes < need:
        count *= 2
    return count
