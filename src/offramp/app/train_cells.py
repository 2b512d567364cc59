"""One run on one chip: the question from the study, its outlook, what binds, energy and cost."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp import arch
from offramp.app.economics import Ledger
from offramp.app.study import Study, Workload
from offramp.arch.record import Model
from offramp.catalog import Catalog, Chip
from offramp.core.errors import InfeasibleError, InputError
from offramp.core.figure import Figure, check_figure
from offramp.core.result import FigureLog, Notice
from offramp.core.units import DAY_S, HOUR_S, KWH_J
from offramp.cost.energy import device_power_w
from offramp.cost.hardware import system_of
from offramp.train.assumed import DATA, constant, constants
from offramp.train.cases import chip_device, shape_of
from offramp.train.goodput import NEVER, Reliability, break_even_rate
from offramp.train.layout import Schedule, Task
from offramp.train.outlook import Failing, Outlook, Question, Spread, chips_for, outlook, peak_of
from offramp.train.parameters import Posterior, Stack, beliefs
from offramp.train.rows import FrameworkName, names, routing_of
from offramp.train.search import Limits

F8 = npt.NDArray[np.float64]
USUAL: Final = {"nvidia": "megatron-bridge", "amd": "mlperf-rocm", "huawei": "mindspeed"}
"""Framework where a study names none, by vendor of the chip."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every cell of one answer shares; ``asked`` collects workload and question of each run that has one."""

    study: Study
    catalog: Catalog
    ledger: Ledger
    posterior: Posterior
    log: FigureLog
    notices: list[Notice]
    where: str
    asked: list[tuple[str, Question]] = field(default_factory=list[tuple[str, Question]])


@lru_cache(maxsize=1)
def _failures() -> dict[str, Any]:
    return tomllib.loads((DATA / "failures.toml").read_text())


def prior(setting: Setting, kind: str, vendor: str = "") -> Spread:
    """A sourced or assumed reliability figure in SI units, noted. Rates stay per hour."""
    table = _failures()[kind]
    name = vendor if vendor in table else "default" if "default" in table else ""
    raw = table[name] if name else table
    figure = msgspec.convert(raw, Figure) if raw["unit"] != "1/h" else msgspec.convert({**raw, "unit": "1"}, Figure)
    check_figure(figure, where=f"train/failures.toml#{kind}")
    setting.log.use(
        f"train/{kind}" + (f"/{name}" if name else "") + ("~per-hour" if raw["unit"] == "1/h" else ""), figure
    )
    low, high = figure.si_range
    return Spread(low=low, mid=figure.si, high=high)


def note_model(setting: Setting) -> None:
    """Every constant and every belief that the step model rests on, among the figures of the answer."""
    for name, figure in constants().items():
        setting.log.use(f"train/model/{name}", figure)
    for name, belief in beliefs().items():
        figure = Figure(
            value=belief.median, unit="s" if name.endswith("_s") else "1", source=belief.source, confidence="assumed",
            as_of=setting.posterior.created, low=belief.low, high=belief.high,
            note="belief before any row; the table of parameters has what rows made of it on each chip",
        )  # fmt: skip
        setting.log.use(f"train/parameter/{name}", figure)


def measured_hazard() -> float:
    """Unexpected stops per chip and hour of the one large cluster that was counted."""
    return float(_failures()["hazard"]["nvidia"]["value"])


def _exactly(value: float) -> Spread:
    return Spread(low=value, mid=value, high=value)


def failing_of(setting: Setting, chip: Chip) -> Failing:
    """Reliability of a cluster: the study's own numbers first, then sourced ones, then assumed ones."""
    own = setting.study.train
    vendor = chip.vendor.lower()

    def either(value: float | None, kind: str, of: str = "") -> Spread:
        return prior(setting, kind, of) if value is None else _exactly(value)

    sick: dict[str, Any] = {}
    if own.slow_per_node_hour:
        sick |= {"slow_per_node_hour": own.slow_per_node_hour, "slow_factor": either(own.slow_factor, "slow_factor"),
                 "slow_notice_s": either(own.slow_notice_s, "slow_notice")}  # fmt: skip
    if own.corruption_per_device_hour:
        sick |= {"corruption_per_chip_hour": own.corruption_per_device_hour,
                 "corruption_notice_s": either(own.corruption_notice_s, "corruption_notice")}  # fmt: skip
    return Failing(
        hazard_per_chip_hour=either(own.hazard_per_device_hour, "hazard", vendor),
        restart_s=either(own.restart_s, "restart", vendor), stall_s=either(own.stall_s, "stall"),
        lag_s=either(own.lag_s, "lag"), repair_s=either(own.repair_s, "repair"), planned=prior(setting, "planned"),
        spares=constant("spares") if own.spares is None else own.spares, interval_s=own.checkpoint_s, elastic=own.elastic, **sick,
    )  # fmt: skip


def framework_of(setting: Setting, chip: Chip) -> FrameworkName:
    """The framework on a chip: the study's where it runs there, else the usual one of the vendor."""
    asked = setting.study.train.framework
    known = {entry.id: entry for entry in names().framework}
    if asked and asked not in known:
        from offramp.core.errors import near_miss_hint

        raise InputError(f'unknown training framework "{asked}"', where=f"{setting.where}:$.train.framework",
                         mend=near_miss_hint(asked, known) or f"Known: {', '.join(sorted(known))}.")  # fmt: skip
    usual = USUAL.get(chip.vendor.lower(), "other")
    if not asked:
        return known[usual]
    measured = f"stack|stack:{asked}/{chip.family}" in setting.posterior.names
    same_vendor = any(n.startswith(f"stack|stack:{asked}/{chip.vendor.lower()}") for n in setting.posterior.names)
    return known[asked] if measured or same_vendor else known[usual]


def dtype_of(work: Workload, dtypes: frozenset[str], chip: str) -> str:
    """The dtype of the GEMMs.

    Raises:
        InfeasibleError: the study demands one that the chip has not.
    """
    if work.dtype is not None and work.dtype not in dtypes:
        raise InfeasibleError(
            f"{chip} has no {work.dtype.upper()} arithmetic", where="dtype",
            mend='Leave out "dtype" to train in the best that each chip has, or ask for bf16.',
        )  # fmt: skip
    if work.dtype is not None:
        return work.dtype
    return "fp8" if "fp8" in dtypes else "bf16"


def task_of(work: Workload, framework: FrameworkName, dtype: str, model: Model, skew: float) -> Task:
    """One optimiser step of a workload; experts are as uneven as real data makes them."""
    groups, most = routing_of(model.model_type)
    sequence = work.sequence_tokens or int(constant("sequence_tokens"))
    batch = max(round((work.batch_tokens or constant("batch_tokens")) / sequence), 1)
    return Task(
        sequence_tokens=sequence, batch_sequences=batch, dtype=dtype, skew=max(framework.skew, skew), groups=groups,
        group_limit=most, selective_gemm=framework.selective_gemm, grad_bytes=framework.grad_bytes, mtp=framework.mtp,
        async_sends=framework.async_sends,
        flash=framework.flash,
    )  # fmt: skip


def question_of(setting: Setting, work: Workload, model: Model, chip: Chip) -> Question:
    """The run of a workload on a chip.

    Raises:
        CatalogError: the chip lacks facts that computing needs.
        InfeasibleError: it lacks the dtype.
    """
    as_of = setting.study.study.as_of
    device = chip_device(chip, setting.catalog, log=setting.log, as_of=as_of)
    framework = framework_of(setting, chip)
    dtype = dtype_of(work, frozenset(device.peak_flop_per_s), chip.id)
    skew = prior(setting, "expert_skew").mid if any(g.mlp.kind == "moe" for g in model.layers) else 0.0
    task = task_of(work, framework, dtype, model, skew)
    releases = setting.posterior.releases.get(framework.id, ())
    stack = Stack(chip=chip.id, family=chip.family, framework=framework.id, release=releases[-1] if releases else "",
                  dtype=dtype, variant="mx" if dtype == "fp8" and chip.family == "nvidia-blackwell" else "",
                  shape=shape_of(model), core=framework.core)  # fmt: skip
    system = system_of(setting.catalog, chip)
    schedules: tuple[Schedule, ...] = ("1f1b", *(s.name for s in framework.schedules if not as_of or s.known <= as_of))
    return Question(
        model=model, device=device, task=task, devices_per_chip=chip.devices,
        packages_per_node=system.packages_per_node if system else 8, tokens=float(work.tokens or 0.0), stack=stack,
        failing=failing_of(setting, chip), limits=_limits(setting.study, schedules, framework),
        seed=setting.study.study.seed,
    )  # fmt: skip


def _limits(study: Study, schedules: tuple[Schedule, ...], framework: FrameworkName) -> Limits:
    """Degrees that the study's [search] names; free where it names none."""
    own, as_of = study.search, study.study.as_of
    since = framework.loose_groups
    loose = since is not None and (as_of is None or since <= as_of)
    return Limits(tp=own.tps, pp=own.pps, ep=own.eps, schedules=schedules, loose_groups=loose)


def load_model(work: Workload, where: str) -> Model:
    """The architecture of a workload."""
    return arch.load(work.model, where)


def quantiles(values: F8) -> dict[str, float]:
    """p10, p50 and p90 of draws."""
    low, mid, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {"p10": float(low), "p50": float(mid), "p90": float(high)}


BINDS: Final = {
    "compute": "arithmetic and memory of the chip", "tp": "links between tensor-parallel ranks",
    "expert": "all-to-all of experts", "context": "exchange of keys and values",
    "gather": "gathering of sharded weights",
    "hop": "sends between pipeline stages", "bubble": "idle pipeline stages and stragglers",
    "end": "gradient exchange and optimiser", "failures": "failures, restarts and planned stops",
    "slow": "slow nodes that nobody noticed yet", "corruption": "silent data corruption and rolling back",
}  # fmt: skip


def binding(out: Outlook) -> list[dict[str, Any]]:
    """What a day of wall time goes to, largest first."""
    good = float(np.median(out.goodput))
    shares = {name: float(value[0]) * good for name, value in out.step.shares().items()}
    lost = {name: value for name, value in out.lost_shares.items() if value > 0}
    shares |= lost
    shares["failures"] = max(1.0 - good - sum(lost.values()), 0.0)
    total = sum(shares.values())
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return [{"part": name, "what": BINDS[name], "share": value / total} for name, value in ordered if value > 0.002]


def energy_and_cost(setting: Setting, q: Question, chip: Chip, out: Outlook) -> dict[str, Any]:
    """Energy at the meter, and cost where a price is known; whole cluster, whole run."""
    site = setting.study.site_of("")
    pue, price = setting.ledger.pue(site), setting.ledger.power_price(site)
    system = system_of(setting.catalog, chip)
    as_of = setting.study.study.as_of
    host = 0.0
    for name in ("host_power", "network_power"):
        found = system.figure(name, as_of, setting.log) if system else None
        host += found.si / (system.packages_per_node if system else 8) if found else 0.0
    share = np.array([out.compute_share])
    seconds = out.days * DAY_S
    per_chip: list[float] = []
    for case in (0, 1, 2):
        watts = device_power_w(
            q.device, compute_share=share, memory_share=(1.0 - share) * constant("memory_activity"), case=case
        )
        per_chip.append((float(watts[0]) * q.devices_per_chip + host) * pue)
    mid = seconds * per_chip[1] * out.chips
    spread = np.linspace(per_chip[0], per_chip[2], len(seconds)) / per_chip[1]
    rng = np.random.default_rng(setting.study.study.seed)
    joules = mid * rng.permutation(spread)
    capital, rest = setting.ledger.capital_per_s(chip, system)
    answer: dict[str, Any] = {
        "energy_kwh": quantiles(joules / KWH_J),
        "power_mw": per_chip[1] * out.chips / 1e6,
        "cost": None,
        "cost_basis": "",
    }
    if capital is not None:
        extras = setting.ledger.extras_per_s(out.chips, out.chips // max(q.packages_per_node, 1), site)
        each = capital.draws(len(seconds), setting.study.study.seed, chip.id) + rest
        money = (each * out.chips + extras) * seconds + joules * price
        answer["cost"] = quantiles(money)
        answer["cost_basis"] = "rented" if setting.ledger.rent(chip) is not None else "bought"
    return answer


def never(q: Question, out: Outlook) -> dict[str, Any]:
    """Answer of a run that failures keep from ever finishing, with the hazard at which half its time would count."""
    layout = out.found.layouts[0]
    rate = break_even_rate(center_reliability(q, out), 0.5) * HOUR_S / out.active
    hazard = q.failing.hazard_per_chip_hour.mid
    return {
        "chip": q.device.chip, "status": "never finishes", "framework": q.stack.framework, "dtype": q.task.dtype,
        "why": f"{hazard:.3g} failures per chip-hour strike {out.active:,} chips faster than they restart; half of the "
               f"time would count below {rate:.2g} per chip-hour",
        "chips": out.chips, "active_chips": out.active, "layout_words": layout.words, "step_s": quantiles(out.step_s),
        "mfu": quantiles(out.mfu), "goodput": quantiles(out.goodput), "hazard_break_even_per_chip_hour": rate,
    }  # fmt: skip


def center_reliability(
    q: Question, out: Outlook, *, hazard: float | None = None, restart_s: float | None = None
) -> Reliability:
    """Rates and times of a cluster at the middle of every range, two of them replaced where given."""
    f = q.failing
    value = f.hazard_per_chip_hour.mid if hazard is None else hazard
    return Reliability(
        failures_per_s=value * out.active / HOUR_S, restart_s=f.restart_s.mid if restart_s is None else restart_s,
        stall_s=f.stall_s.mid, lag_s=f.lag_s.mid, repair_s=f.repair_s.mid,
        nodes=max(out.active // max(q.packages_per_node, 1), 1),
        spare_nodes=(out.chips - out.active) // max(q.packages_per_node, 1), replicas=out.found.layouts[0].dp,
        elastic=f.elastic,
        slow_per_s=f.slow_per_node_hour * (out.active // max(q.packages_per_node, 1)) / HOUR_S,
        slow_notice_s=f.slow_notice_s.mid, slow_factor=f.slow_factor.mid,
        corruptions_per_s=f.corruption_per_chip_hour * out.active / HOUR_S, corruption_s=f.corruption_notice_s.mid,
    )  # fmt: skip


def cell(
    setting: Setting, q: Question, chip: Chip, chips: int, deadline_s: float | None
) -> tuple[dict[str, Any], Outlook]:
    """Answer of one run on one chip, and its outlook."""
    out = outlook(q, setting.posterior, chips)
    layout = out.found.layouts[0]
    if float(np.median(out.goodput)) < NEVER:
        return never(q, out), out
    tokens_per_s = q.tokens / (out.days * DAY_S)
    answer: dict[str, Any] = {
        "chip": chip.id, "status": "ok", "why": "", "framework": q.stack.framework, "dtype": q.task.dtype,
        "chips": out.chips, "active_chips": out.active, "devices": out.active * q.devices_per_chip,
        "layout": msgspec.to_builtins(layout), "layout_words": layout.words,
        "layouts_tried": out.found.tried, "layouts_fitting": out.found.fitting,
        "memory_bytes": out.found.memory_bytes, "memory_capacity_bytes": q.device.memory_bytes,
        "step_s": quantiles(out.step_s), "mfu": quantiles(out.mfu), "mfu_of": q.task.dtype,
        "mfu_bf16": quantiles(out.mfu * peak_of(q.device, q.task.dtype) / peak_of(q.device, "bf16")),
        "goodput": quantiles(out.goodput),
        "tokens_per_s": quantiles(tokens_per_s), "checkpoint_interval_s": out.interval_s,
        "failures": quantiles(out.failures), "days": quantiles(out.days),
        "chip_hours": quantiles(out.days * DAY_S / HOUR_S * out.chips), "p_deadline": None, "chips_for_deadline": None,
        "binds": binding(out),
    }  # fmt: skip
    answer |= energy_and_cost(setting, q, chip, out)
    if deadline_s is not None:
        limit = deadline_s / DAY_S
        answer["p_deadline"] = float(np.mean(out.days <= limit))
        needed: dict[str, int | None] = {}
        tried: dict[int, float] = {}
        for label, chance in (("p50", 0.5), ("p90", 0.9)):
            needed[label], _ = chips_for(q, setting.posterior, limit, probability=chance, chance=tried)
        answer["chips_for_deadline"] = needed
    return answer, out
