"""When a run is done: step-time draws, failures and goodput put together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from offramp.arch.record import Model
from offramp.core.errors import InfeasibleError
from offramp.core.seeds import derive_seed
from offramp.core.units import DAY_S, HOUR_S
from offramp.cost.device import Device
from offramp.train.assumed import constant
from offramp.train.cases import usable_devices
from offramp.train.features import features
from offramp.train.goodput import Reliability, best_interval_s, corruption_factor, goodput, slow_factor
from offramp.train.layout import Layout, Task, grid_of
from offramp.train.parameters import Posterior, Stack, draw, residual_of
from offramp.train.search import Found, Limits, search
from offramp.train.step import StepTime, step_time
from offramp.train.work import model_flop, model_work

F8 = npt.NDArray[np.float64]
Z90: Final = 1.2815515594
DRAWS: Final = 400


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A positive number with its 10 to 90 % range."""

    low: float
    mid: float
    high: float

    def draws(self, count: int, seed: int, name: str) -> F8:
        """Lognormal draws around ``mid``; the same name gives the same draws. [count]"""
        if self.mid <= 0 or self.high <= self.low:
            return np.full(count, self.mid)
        rng = np.random.default_rng(derive_seed(seed, "train-prior", name))
        half = rng.standard_normal((count + 1) // 2)
        z = rng.permutation(np.concatenate([half, -half])[:count])
        up, down = np.log(self.high / self.mid) / Z90, np.log(self.mid / max(self.low, 1e-300)) / Z90
        return self.mid * np.exp(np.where(z > 0, up, down) * z)


NEVER_SLOW: Final = Spread(low=1.0, mid=1.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Failing:
    """How the cluster fails, before it is known how large it is.

    Attributes:
        hazard_per_chip_hour: unexpected stops.
        restart_s, stall_s, lag_s, repair_s: see :class:`~offramp.train.goodput.Reliability`.
        planned: share of wall time in planned stops.
        spares: hot spares beside the chips that train, as a share of them.
        interval_s: between checkpoints; None takes the best.
        elastic: shrink when spares run out.
        slow_per_node_hour, slow_factor, slow_notice_s: nodes that turn slow, step time while one is, until it is noticed.
        corruption_per_chip_hour, corruption_notice_s: silent data corruption, and until it is noticed.
    """

    hazard_per_chip_hour: Spread
    restart_s: Spread
    stall_s: Spread
    lag_s: Spread
    repair_s: Spread
    planned: Spread
    spares: float = 0.01
    interval_s: float | None = None
    elastic: bool = True
    slow_per_node_hour: float = 0.0
    slow_factor: Spread = NEVER_SLOW
    slow_notice_s: Spread = NEVER_SLOW
    corruption_per_chip_hour: float = 0.0
    corruption_notice_s: Spread = NEVER_SLOW


@dataclass(frozen=True, kw_only=True)
class Question:
    """One run on one kind of chip.

    Attributes:
        model, device, task: what runs on what.
        chips_per_device: packages of one torch device (0.5 for two dies in a package).
        packages_per_node: of a server.
        tokens: of the whole run.
        stack: which fitted effects apply.
        failing: reliability.
        limits: of the layout search.
        seed: of everything drawn.
        name: of streams that two questions should not share; chips of one study share the model's own errors.
    """

    model: Model
    device: Device
    task: Task
    devices_per_chip: int
    packages_per_node: int
    tokens: float
    stack: Stack
    failing: Failing
    limits: Limits | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A run on a cluster, as draws.

    Attributes:
        chips: packages paid for; ``active`` of them train, the others are hot spares.
        found: layouts, best first.
        step: parts of the step at the centre.
        step_s, mfu, goodput, days: draws.
        lost_shares: of wall time at the median: slow nodes, silent corruption, and nodes in repair.
        interval_s: between checkpoints, at the centre.
        failures: expected stops over the run, draws.
        compute_share, memory_share: of a step, for energy.
    """

    chips: int
    active: int
    found: Found
    step: StepTime
    step_s: F8
    mfu: F8
    goodput: F8
    days: F8
    interval_s: float
    failures: F8
    compute_share: float
    lost_shares: Mapping[str, float] = field(default_factory=dict[str, float])


def spare_chips(chips: int, spares: float, per_node: int) -> int:
    """Packages that stand by, in whole nodes, beside those that train."""
    return math.ceil(chips * spares / per_node) * per_node if spares > 0 else 0


def best_cluster(question: Question, posterior: Posterior, chips: int) -> tuple[int, Found]:
    """The count of training packages, ``chips`` or up to 5 % below, that gives the highest throughput, and its
    layouts.
    """
    q = question
    values = draw(posterior, q.stack)
    best: tuple[float, int, Found] | None = None
    error: InfeasibleError | None = None
    counts = dict.fromkeys((chips, usable_devices(chips)))
    for count in counts:
        task = fitted_task(q.task, count * q.devices_per_chip)
        try:
            found = search(q.model, q.device, task, devices=count * q.devices_per_chip, values=values, limits=q.limits)
        except InfeasibleError as problem:
            error = problem
            continue
        rate = task.step_tokens / found.seconds[0]
        if best is None or rate > best[0]:
            best = (rate, count, found)
    if best is None:
        raise error or InfeasibleError("no layout divides the cluster", where="layout")
    return best[1], best[2]


def fitted_task(task: Task, devices: int) -> Task:
    """The task with its batch rounded, within 5 %, to a count that divides well over so many devices."""
    batch = task.batch_sequences
    odd = devices // ((devices & -devices) or 1)
    if odd > 1 and batch % odd and batch >= 20 * odd:
        batch = round(batch / odd) * odd
        step = odd * 16
        nearest = round(task.batch_sequences / step) * step
        if nearest and abs(nearest - task.batch_sequences) <= constant("count_slack") * task.batch_sequences:
            batch = nearest
    return Task(**{name: getattr(task, name) for name in Task.__struct_fields__ if name != "batch_sequences"},
                batch_sequences=batch)  # fmt: skip


def step_draws(
    question: Question, posterior: Posterior, task: Task, layout: Layout, draws: int = DRAWS
) -> tuple[F8, StepTime]:
    """Step times of a layout as draws, and the parts at the centre.

    The residual is that of a deployment, shared by chips of one family and framework so that it cancels between them,
    and that of a configuration, each chip's own.
    """
    q = question
    work = model_work(q.model, mtp=task.mtp)
    f = features(work, q.device, task, grid_of([layout]))
    center = step_time(f, draw(posterior, q.stack))
    drawn = step_time(f, draw(posterior, q.stack, draws=draws, seed=q.seed)).total[:, 0]
    drawn = drawn * (center.total[0] / np.median(drawn))  # the median is that of the most probable parameters
    left = residual_of(posterior, q.stack)
    shared = _normal(draws, derive_seed(q.seed, "train-residual", q.stack.framework, q.stack.family))
    own = _normal(draws, derive_seed(q.seed, "train-residual", q.stack.chip, q.model.id, q.stack.dtype))
    return drawn * np.exp(left.group_sd * shared + left.row_sd * own), center


def _normal(draws: int, seed: int) -> F8:
    """Normal draws whose mean and median are nil. [draws]"""
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((draws + 1) // 2)
    return rng.permutation(np.concatenate([half, -half])[:draws])


REFERENCE: Final = "megatron-bridge"
"""Framework with the most published runs: what mature software reaches. Its newest release with rows is taken."""


def reference_draws(
    question: Question, posterior: Posterior, task: Task, layout: Layout, draws: int = DRAWS
) -> tuple[F8, str]:
    """Step time with the best measured software over that of the stack in use, on the same device; and its name.

    Valid for: a comparison, not a forecast; that software does not run on every chip. [draws]
    """
    q = question
    release = posterior.releases.get(REFERENCE, ("",))[-1]
    best = q.stack._replace(framework=REFERENCE, release=release)
    f = features(model_work(q.model, mtp=task.mtp), q.device, task, grid_of([layout]))
    own, other = (
        step_time(f, draw(posterior, stack, draws=draws, seed=q.seed)).total[:, 0] for stack in (q.stack, best)
    )  # fmt: skip
    return other / own, f"{REFERENCE} {release}".strip()


def outlook(question: Question, posterior: Posterior, chips: int, *, draws: int = DRAWS) -> Outlook:
    """When a run on ``chips`` packages is done.

    Raises:
        InfeasibleError: nothing divides or fits.
    """
    q = question
    active, found = best_cluster(q, posterior, chips)
    devices = active * q.devices_per_chip
    task = fitted_task(q.task, devices)
    layout = found.layouts[0]
    step_s, center = step_draws(q, posterior, task, layout, draws)
    spare = spare_chips(active, q.failing.spares, max(q.packages_per_node, 1))
    reliability = cluster_reliability(q, active, spare, layout, draws)
    interval = np.full(draws, q.failing.interval_s) if q.failing.interval_s else best_interval_s(reliability)
    planned = q.failing.planned.draws(draws, q.seed, "planned")
    good = goodput(reliability, interval) * (1.0 - np.minimum(planned, 0.5))
    steps = np.ceil(q.tokens / task.step_tokens)
    days = steps * step_s / np.maximum(good, 1e-12) / DAY_S
    work = model_work(q.model, mtp=False)
    flop = model_flop(work, task.sequence_tokens, causal=True)
    peak = peak_of(q.device, q.task.dtype)
    return Outlook(
        chips=active + spare, active=active, found=found, step=center, step_s=step_s,
        mfu=flop * task.step_tokens / step_s / peak / devices, goodput=good, days=days,
        interval_s=float(np.median(interval)), failures=np.asarray(reliability.failures_per_s) * days * DAY_S,
        compute_share=float((center.compute / center.total)[0]), lost_shares=_lost_shares(reliability, interval),
    )  # fmt: skip


def _lost_shares(r: Reliability, interval_s: F8) -> dict[str, float]:
    """Share of wall time that slow nodes and silent corruption cost, at the median."""
    return {
        "slow": float(np.median(1.0 - slow_factor(r))),
        "corruption": float(np.median(1.0 - corruption_factor(r, interval_s))),
    }


def peak_of(device: Device, dtype: str) -> float:
    """Peak FLOP/s of one torch device in the dtype that MFU is over."""
    return float(np.mean(device.peak_flop_per_s.get(dtype, device.peak_flop_per_s["bf16"])))


def cluster_reliability(q: Question, active: int, spare: int, layout: Layout, draws: int) -> Reliability:
    """Rates and times of a cluster, as draws."""
    f = q.failing

    def drawn(spread: Spread, name: str) -> F8:
        return spread.draws(draws, q.seed, name)

    nodes = max(active // max(q.packages_per_node, 1), 1)
    return Reliability(
        failures_per_s=drawn(f.hazard_per_chip_hour, f"hazard {q.device.vendor}") * active / HOUR_S,
        restart_s=drawn(f.restart_s, f"restart {q.device.vendor}"), stall_s=drawn(f.stall_s, "stall"),
        lag_s=drawn(f.lag_s, "lag"), repair_s=f.repair_s.mid, nodes=nodes,
        spare_nodes=spare // max(q.packages_per_node, 1), replicas=layout.dp, elastic=f.elastic,
        slow_per_s=f.slow_per_node_hour * nodes / HOUR_S, slow_notice_s=drawn(f.slow_notice_s, "slow notice"),
        slow_factor=drawn(f.slow_factor, "slow factor"),
        corruptions_per_s=f.corruption_per_chip_hour * active / HOUR_S,
        corruption_s=drawn(f.corruption_notice_s, "corruption notice"),
    )  # fmt: skip


def chips_for(
    question: Question,
    posterior: Posterior,
    deadline_days: float,
    *,
    probability: float,
    most: int = 131_072,
    chance: dict[int, float] | None = None,
) -> tuple[int | None, Mapping[int, float]]:
    """Smallest of the usual cluster sizes that meets the deadline with ``probability``; and the chance at each
    size tried.

    Sizes are powers of two and half-way between, in whole nodes. ``chance`` passes on what was tried before.
    """
    node = max(question.packages_per_node, 1)
    sizes = sorted({int(node * 2**k * m) for k in range(18) for m in (1.0, 1.5) if node * 2**k * m <= most})
    chance = {} if chance is None else chance

    def meets(size: int) -> bool:
        if size not in chance:
            try:
                days = outlook(question, posterior, size, draws=200).days
                chance[size] = float(np.mean(days <= deadline_days))
            except InfeasibleError:
                chance[size] = 0.0
        return chance[size] >= probability

    # the smallest size could meet it only at full peak: start where peak arithmetic would
    work = model_work(question.model, mtp=False)
    flop = model_flop(work, question.task.sequence_tokens, causal=True) * question.tokens
    least = flop / (peak_of(question.device, question.task.dtype) * question.devices_per_chip * deadline_days * DAY_S)
    tried = [size for size in sizes if size >= least]
    low = 0
    while low < len(tried) and not meets(tried[low]):
        now = chance[tried[low]]
        low += 2 if now < 0.02 and low + 2 < len(tried) else 1
    if low >= len(tried):
        return None, chance
    while low > 0 and meets(tried[low - 1]):
        low -= 1
    return tried[low], chance
