"""Layouts of a training run: parallel degrees, recompute and schedule, one by one and as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.core.record import Record
from offramp.train.assumed import constant

F8 = npt.NDArray[np.float64]
Recompute = Literal["none", "selective", "full"]
Schedule = Literal["1f1b", "zero-bubble", "dualpipe", "dualpipe-v"]


class Layout(Record):
    """How a run is spread over torch devices.

    Attributes:
        tp, pp, dp, cp, ep: tensor, pipeline, data, context and expert parallel degree. ``ep`` is taken out of
            ``tp * cp * dp``: the experts of a layer are spread over ``ep`` of those ranks.
        vp: model chunks per pipeline rank; above 1 the 1F1B schedule is interleaved.
        micro_batch: sequences per micro-batch of one data-parallel rank.
        zero: what data-parallel ranks share: 0 nothing, 1 optimiser states, 2 also gradients, 3 also weights (FSDP).
        recompute: activations computed again in the backward pass.
        sequence_parallel: norms and residuals are split over the TP ranks as well.
        schedule: of the pipeline.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    vp: int = 1
    micro_batch: int = 1
    zero: int = 1
    recompute: Recompute = "none"
    sequence_parallel: bool = True
    schedule: Schedule = "1f1b"

    @property
    def devices(self) -> int:
        """Torch devices of the layout."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def words(self) -> str:
        """The layout as people write it."""
        parts = [f"TP{self.tp}", f"PP{self.pp}"]
        parts += [f"VP{self.vp}"] * (self.vp > 1) + [f"CP{self.cp}"] * (self.cp > 1) + [f"EP{self.ep}"] * (self.ep > 1)
        parts += [f"DP{self.dp}", f"micro-batch {self.micro_batch}", f"ZeRO-{self.zero}"]
        parts += [f"{self.recompute} recompute"] if self.recompute != "none" else []
        parts += [self.schedule] if self.schedule != "1f1b" else []
        return " ".join(parts)


class Task(Record):
    """What one optimiser step has to do.

    Attributes:
        sequence_tokens: tokens of a sequence.
        batch_sequences: sequences of the global batch.
        dtype: of the GEMMs: "bf16", "fp16", "fp8" or "fp4".
        lora: base weights are frozen: no weight gradients, no optimiser states for them.
        skew: standard deviation of an expert's rows over their mean; 0 is forced balance.
        groups, group_limit: groups of experts that routing knows, and most of them that one token uses (0 = any).
        selective_gemm: share of the dense matrices' forward pass that selective recompute repeats.
        async_tp: tensor-parallel messages are cut up and run beside their matrices.
        async_sends: interleaved stages send while another chunk computes.
        flash: attention is one kernel that keeps no score matrix.
        grad_bytes: of one gradient as it is summed over data-parallel ranks.
        mtp: multi-token-prediction layers of the checkpoint are trained too.
    """

    sequence_tokens: int
    batch_sequences: int
    dtype: str = "bf16"
    lora: bool = False
    skew: float = 0.0
    groups: int = 0
    group_limit: int = 0
    selective_gemm: float = 0.0
    async_tp: bool = False
    async_sends: bool = False
    flash: bool = True
    grad_bytes: float = 4.0
    mtp: bool = False

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.sequence_tokens * self.batch_sequences


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Layouts as arrays of one length; flags are 0 or 1. [layouts]"""

    tp: F8
    pp: F8
    dp: F8
    cp: F8
    ep: F8
    vp: F8
    micro_batch: F8
    zero: F8
    full: F8
    selective: F8
    sequence_parallel: F8
    bubble: F8
    hidden: F8
    doubled: F8

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Grid:
        """The layouts at ``index``."""
        return Grid(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


BUBBLES: Final = {"zero-bubble": "bubble_zero", "dualpipe": "bubble_dualpipe", "dualpipe-v": "bubble_dualpipe_v"}
"""Constants that hold what a schedule leaves of the bubble of 1F1B."""
HIDES: Final = frozenset({"dualpipe", "dualpipe-v"})
"""Schedules that run the forward pass of one micro-batch beside the backward pass of another, and hide messages so."""
DOUBLES: Final = frozenset({"dualpipe"})
"""Schedules that hold the weights of two stages on each device (arXiv 2412.19437, table 2)."""
DEEP: Final = frozenset({"zero-bubble", "dualpipe", "dualpipe-v"})
"""Schedules that need two micro-batches for each stage to fill their gaps, and run at most one chunk from each end."""


def bubble_of(schedule: Schedule) -> float:
    """Share of the 1F1B bubble that a schedule leaves."""
    return constant(BUBBLES[schedule]) if schedule in BUBBLES else 1.0


def grid_of(layouts: list[Layout]) -> Grid:
    """The layouts as arrays."""

    def column(name: str) -> F8:
        return np.array([float(getattr(layout, name)) for layout in layouts])

    plain = {name: column(name) for name in ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "zero")}
    return Grid(
        **plain, sequence_parallel=column("sequence_parallel") * (plain["tp"] > 1),
        full=np.array([float(layout.recompute == "full") for layout in layouts]),
        selective=np.array([float(layout.recompute == "selective") for layout in layouts]),
        bubble=np.array([bubble_of(layout.schedule) for layout in layouts]),
        hidden=np.array([float(layout.schedule in HIDES) for layout in layouts]),
        doubled=np.array([float(layout.schedule in DOUBLES) for layout in layouts]),
    )  # fmt: skip


def schedule_at(grid: Grid, at: int) -> Schedule:
    """The schedule of one layout of a grid."""
    if grid.hidden[at]:
        return "dualpipe" if grid.doubled[at] else "dualpipe-v"
    return "1f1b" if grid.bubble[at] == 1.0 else "zero-bubble"


def layout_at(grid: Grid, at: int) -> Layout:
    """One layout of a grid as a record."""
    whole = {
        name: round(float(getattr(grid, name)[at]))
        for name in ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "zero")
    }
    schedule = schedule_at(grid, at)
    recompute: Recompute = "full" if grid.full[at] else "selective" if grid.selective[at] else "none"
    return Layout(
        **whole, recompute=recompute, sequence_parallel=bool(grid.sequence_parallel[at]), schedule=schedule
    )  # fmt: skip


def layout_problems(layout: Layout, model: Model, task: Task, devices: int) -> list[str]:
    """Why a layout cannot be; empty when it can."""
    found: list[str] = []
    if layout.devices != devices:
        found.append(f"TP x PP x DP x CP = {layout.devices} is not the {devices} devices of the cluster")
    attention = [group.attention for group in model.layers if group.attention.heads]
    uneven = sorted({a.heads for a in attention if a.heads % layout.tp})
    found += [f"TP {layout.tp} does not divide {heads} heads" for heads in uneven]
    experts = max((group.mlp.experts for group in model.layers), default=0)
    if layout.ep > 1 and not experts:
        found.append(f"EP {layout.ep}, but the model has no experts")
    elif layout.ep > 1 and experts % layout.ep:
        found.append(f"EP {layout.ep} does not divide {experts} experts")
    ranks = layout.tp * layout.cp * layout.dp
    if ranks % layout.ep:
        found.append(f"EP {layout.ep} does not divide TP x CP x DP = {ranks}")
    if layout.schedule != "1f1b" and (layout.pp == 1 or layout.vp > 1):
        found.append(f"{layout.schedule} needs PP above 1 and VP 1")
    elif layout.schedule in DEEP and task.batch_sequences < 2 * layout.pp * layout.dp * layout.micro_batch:
        found.append(f"{layout.schedule} needs two micro-batches for each of {layout.pp} stages")
    if layout.pp * layout.vp > model.layer_count:
        found.append(f"PP {layout.pp} x VP {layout.vp} is more than {model.layer_count} layers")
    if task.batch_sequences % (layout.dp * layout.micro_batch):
        found.append(
            f"DP {layout.dp} x micro-batch {layout.micro_batch} does not divide the batch of "
            f"{task.batch_sequences} sequences"
        )
    if task.sequence_tokens % (layout.cp * (layout.tp if layout.sequence_parallel else 1)):
        found.append(f"CP x TP does not divide {task.sequence_tokens} tokens of a sequence")
    return found
