"""Layouts to consider: every way to put a model on a chip in its system that divides evenly."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from offramp.arch.record import Model
from offramp.catalog import Catalog, Chip, System
from offramp.core.record import Record
from offramp.cost import Pool
from offramp.cost.hardware import system_of

POWERS = (1, 2, 4, 8, 16, 32, 64, 128)
CHUNKS = (256, 512, 1024, 2048, 8192)
MOST_SCALE_OUT = 4
"""Servers that one replica may span where the scale-up domain ends at the server."""


class Limits(Record):
    """What the search may try.

    Attributes:
        most_devices: largest replica in torch devices; 0 takes what the system offers.
        engines: engine ids; empty takes those of the chip.
        tps, pps, eps: degrees; empty takes powers of two.
        dtypes: weight precisions that are acceptable; empty keeps the checkpoint's own.
        chunks: token budgets of a step.
    """

    most_devices: int = 0
    engines: tuple[str, ...] = ()
    tps: tuple[int, ...] = ()
    pps: tuple[int, ...] = ()
    eps: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    chunks: tuple[int, ...] = CHUNKS


def candidate_engines(chip: Chip, limits: Limits) -> tuple[str, ...]:
    """Engines to try on a chip, best supported first."""
    if not limits.engines:
        return chip.engines[:2] or ("vllm",)
    return tuple(name for name in limits.engines if not chip.engines or name in chip.engines) or chip.engines[:1]


def speculations(model: Model, chip: Chip, catalog: Catalog, engine: str, accept: float) -> tuple[float, ...]:
    """Accepted draft tokens per step to try: none, and those stated unless a source says that the engine cannot.

    Drafting pays where steps are bound by memory and costs where they are bound by arithmetic, so both are priced.
    """
    if accept <= 0.0:
        return (0.0,)
    feature = "mtp" if model.mtp_layers else "speculative-decoding"
    able = catalog.engine(engine).supports(chip, feature=feature).parts[-1].answer != "no"
    return (0.0, accept) if able else (0.0,)


def weight_dtypes(limits: Limits) -> tuple[str, ...]:
    """Weight precisions to try; "" is the checkpoint's own."""
    known = tuple(
        name.replace("mxfp4", "fp4").replace("nvfp4", "fp4").replace("fp16", "bf16") for name in limits.dtypes
    )
    return tuple(dict.fromkeys(known)) or ("",)


def domain_devices(chip: Chip, system: System | None) -> tuple[int, int]:
    """Torch devices of one server and of one scale-up domain."""
    if system is None:
        return chip.devices, chip.devices
    return system.packages_per_node * chip.devices, system.packages_per_domain * chip.devices


def degrees(model: Model, chip: Chip, system: System | None, limits: Limits) -> list[tuple[int, int, int, int]]:
    """(tp, pp, dp, ep) that divide heads and experts and fit the system.

    Tensor parallelism stays inside the scale-up domain; replicas that need more servers use pipeline stages or, for
    mixtures of experts, data-parallel attention with expert parallelism.
    """
    node, domain = domain_devices(chip, system)
    most = limits.most_devices or max(domain if domain <= 64 else 64, node * MOST_SCALE_OUT)
    tps = [tp for tp in limits.tps or POWERS if tp <= min(domain, 64, most) and _divides_heads(model, tp)]
    pps = [pp for pp in limits.pps or (1, 2, 4) if pp <= model.layer_count]
    experts = max((group.mlp.experts for group in model.layers), default=0)
    dps = POWERS if experts else (1,)
    found = [
        (tp, pp, dp, ep)
        for tp, pp, dp in itertools.product(tps, pps, dps)
        if tp * pp * dp <= most and (dp == 1 or pp == 1) and _whole(tp * pp * dp, node)
        for ep in _expert_degrees(experts, tp * dp, limits)
        if dp == 1 or ep > 1
    ]
    return list(dict.fromkeys(found))


def _divides_heads(model: Model, tp: int) -> bool:
    heads = [group.attention.heads for group in model.layers if group.attention.heads]
    return all(count % tp == 0 for count in heads)


def _whole(devices: int, node: int) -> bool:
    """Whether replicas tile servers: several fit in one, or one fills several."""
    return node % devices == 0 if devices <= node else devices % node == 0


def _expert_degrees(experts: int, ranks: int, limits: Limits) -> Iterable[int]:
    options = [1] if not experts else [1, ranks]
    wanted = [ep for ep in limits.eps if ranks % ep == 0] if limits.eps else options
    return [ep for ep in dict.fromkeys(wanted) if ep == 1 or (experts and experts % ep == 0)]


def pools(
    model: Model, chip: Chip, catalog: Catalog, limits: Limits, *, engine: str, dtype: str
) -> list[Pool]:  # fmt: skip
    """All pools of one engine and precision, aggregated serving."""
    system = system_of(catalog, chip)
    return list(_pools(chip, system, engine, dtype, degrees(model, chip, system, limits), limits.chunks))


def _pools(
    chip: Chip, system: System | None, engine: str, dtype: str, parts: Sequence[tuple[int, int, int, int]],
    chunks: Sequence[int],
) -> Iterator[Pool]:  # fmt: skip
    for (tp, pp, dp, ep), chunk in itertools.product(parts, chunks):
        yield Pool(
            chip=chip.id, system=system.id if system else "", engine=engine, weights_dtype=dtype, tp=tp, pp=pp, dp=dp,
            ep=ep, max_batch_tokens=chunk,
        )  # fmt: skip
