"""simulate: what users feel of one layout of a model on a chip, under a trace, a rate, or a fixed concurrency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from offramp import __version__
from offramp import catalog as facts
from offramp.app.runs import code_version
from offramp.app.study import Synthetic
from offramp.app.studyfile import override_value
from offramp.app.workload import load_model, requests_of, synthetic_trace
from offramp.arch.record import Model
from offramp.catalog import Catalog
from offramp.core.document import conform
from offramp.core.errors import CatalogError, InfeasibleError, InputError, near_miss_hint
from offramp.core.record import Record
from offramp.core.result import FigureLog, Notice, Result, hash_inputs, table_of
from offramp.cost import Pool, Setting, blockers, build_setting, load_calibration, memory_for
from offramp.cost.hardware import system_of
from offramp.search import Limits, Replica, evaluate, middle, mix_of
from offramp.search.grid import pools
from offramp.serve import PoolSpec, Requests, ServeConfig, ServeMetrics
from offramp.serve import Slo as ServeSlo
from offramp.serve import simulate as run_serving
from offramp.traffic import Trace, load, parse_slo

MOST_REQUESTS: Final = 50_000_000
"""More would take gigabytes."""
CASES: Final = {"low": 0.1, "mid": 0.5, "high": 0.9}
REFUSALS: Final = {
    "no-input": "without input", "no-output": "without output", "context": "longer than the context of the model",
    "kv-capacity": "longer than the KV cache of a replica", "no-pool": "of a class that no pool takes",
}  # fmt: skip


class Layout(Record):
    """``--set layout.KEY=VALUE``: one pool; what is left out is chosen.

    Attributes:
        system, engine, engine_version: catalogue ids.
        weights_dtype, kv_dtype: precision; the checkpoint's own and BF16 where empty.
        tp, pp, dp, ep: parallel degrees; 0 takes the smallest replica that fits.
        replicas: identical replicas behind one router.
        max_batch_tokens, max_seqs: limits of one step.
    """

    system: str = ""
    engine: str = ""
    engine_version: str = ""
    weights_dtype: str = ""
    kv_dtype: str = ""
    tp: int = 0
    pp: int = 0
    dp: int = 0
    ep: int = 0
    replicas: int = 1
    max_batch_tokens: int = 8192
    max_seqs: int = 256


class Load(Record):
    """``--set load.KEY=VALUE``: how requests come.

    Attributes:
        concurrency: requests in flight (closed loop); 0 sends them at their times (open loop).
        spec_accept: accepted draft tokens per step.
        router: round-robin, least-requests, least-tokens or prefix-aware.
        prefix_cache: share cached prefixes; on by default where the trace has block hashes.
        warmup: first requests left out of the statistics.
        seed: of generated traffic.
    """

    concurrency: int = 0
    spec_accept: float = 0.0
    router: str = "round-robin"
    prefix_cache: bool | None = None
    warmup: int = 0
    seed: int = 0


class Settings(Record):
    """Everything that ``--set`` may reach."""

    layout: Layout = Layout()
    load: Load = Load()
    traffic: Synthetic = Synthetic()
    slo: dict[str, str | float] = {}


def simulate(
    model: str, chip: str, *, trace: str = "", requests: int = 0, rate: float = 0.0, overrides: Sequence[str] = (),
    calibration: str = "",
) -> Result:  # fmt: skip
    """Simulates one layout.

    Args:
        model: preset id or config.json.
        chip: catalogue id.
        trace: file of requests; generated ones where empty.
        requests: how many (the whole trace, or 2,000 generated ones, where 0).
        rate: mean requests per second; a trace keeps its own where 0.
        overrides: "layout.tp=2", "load.concurrency=64", "traffic.isl_mean=1024", "slo.ttft_p90=2 s".
        calibration: parameter file; the shipped one where empty.

    Raises:
        InputError: settings that contradict one another. InfeasibleError: the model does not fit.
    """
    settings = read_settings(overrides)
    catalog = facts.load()
    found = catalog.chip(chip, where="--chip")
    made = load_model(model)
    sent = traffic_of(settings, trace=trace, requests=requests, rate=rate)
    if settings.load.warmup >= len(sent):
        raise InputError(
            f"leaves none of {len(sent):,} requests to measure", where=f"--set load.warmup={settings.load.warmup}",
            mend="Take fewer, or more requests (--requests).",
        )  # fmt: skip
    log = FigureLog()
    pool = pool_of(settings, made, found.id, catalog, sent)
    setting = build_setting(
        made, pool, catalog=catalog, calibration=load_calibration(calibration or None), log=log
    )  # fmt: skip
    obstacles = blockers(made, pool, catalog=catalog, setting=setting, context_tokens=mix_of(requests_of(sent)).context)
    if any(item.kind == "memory" for item in obstacles):
        text = next(item.text for item in obstacles if item.kind == "memory")
        raise InfeasibleError(f"{made.id} on {found.id}, {_words(pool)}: {text}", where="--set layout",
                              mend="Use a larger tp, pp or ep, or a smaller precision.")  # fmt: skip
    metrics = {name: _run(settings, one, pool, made, sent) for name, one in _cases(setting, made, pool, sent).items()}
    return _result(_Done(
        chip=found.id, model=made, pool=pool, settings=settings, trace=sent, setting=setting, metrics=metrics,
        obstacles=obstacles, log=log, catalog=catalog,
    ))  # fmt: skip


def read_settings(overrides: Sequence[str]) -> Settings:
    """The settings of "path=value" texts, every problem in one error."""
    data: dict[str, Any] = {}
    for text in overrides:
        path, sign, value = text.partition("=")
        parts = path.strip().split(".")
        if not sign or len(parts) != 2:
            raise InputError('is not "group.key=value"', where=f"--set {text}", mend='As in "layout.tp=2".')
        data.setdefault(parts[0], {})[parts[1]] = override_value(value)
    done, problems = conform(data, Settings)
    if problems:
        first = problems[0]
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise InputError(f"{first.what}{more}", where=f"--set {first.path.removeprefix('$.')}", mend=first.mend)
    return msgspec.convert(done, Settings)


def traffic_of(settings: Settings, *, trace: str, requests: int, rate: float) -> Trace:
    """The requests to send.

    Raises:
        InputError: no rate and no trace, or nothing is left.
    """
    if requests < 0 or not np.isfinite(rate) or rate < 0:
        raise InputError("requests and rate are not negative", where="--requests, --rate")
    if requests > MOST_REQUESTS:
        raise InputError(f"{requests:,} requests do not fit in memory", where="--requests",
                         mend=f"At most {MOST_REQUESTS:,}; more in chunks, by offramp.serve.simulate_stream.")  # fmt: skip
    _check_counts(settings)
    if trace:
        read = load(trace, max_requests=requests, where="--trace")
        return read.scaled_to(rate) if rate > 0 else read
    if rate <= 0 and settings.load.concurrency <= 0:
        raise InputError("neither a trace nor a rate is given", where="--rate",
                         mend='Give --rate R, --trace FILE, or --set load.concurrency=N.')  # fmt: skip
    own = settings.traffic
    if not own.preset and own.isl_mean is None and own.osl_mean is None:
        own = msgspec.structs.replace(own, preset="azure-2023-chat", arrivals=own.arrivals or "poisson")
    own = msgspec.structs.replace(own, requests=requests or 2000)
    return synthetic_trace(own, seed=settings.load.seed, where="--set traffic").scaled_to(rate or 1.0)


def _check_counts(settings: Settings) -> None:
    """Refuses counts that no deployment has.

    Raises:
        InputError: the first of them, by its path.
    """
    layout, sent = settings.layout, settings.load
    bounds = (
        ("layout.replicas", layout.replicas, 1, 100_000), ("layout.max_batch_tokens", layout.max_batch_tokens, 1, 1 << 24),
        ("layout.max_seqs", layout.max_seqs, 1, 1 << 20), ("load.concurrency", sent.concurrency, 0, 1 << 30),
        ("load.warmup", sent.warmup, 0, 1 << 40), ("load.spec_accept", sent.spec_accept, 0, 64),
    )  # fmt: skip
    for path, value, least, most in bounds:
        if not least <= value <= most:
            raise InputError(f"{value:,g} is not between {least:,} and {most:,}", where=f"--set {path}")


def pool_of(settings: Settings, model: Model, chip_id: str, catalog: Catalog, trace: Trace) -> Pool:
    """The stated pool; degrees that are left out are those of the smallest replica that fits.

    Raises:
        CatalogError: an engine or a system that the chip does not have.
    """
    own = settings.layout
    chip = catalog.chip(chip_id)
    engine = catalog.engine(own.engine).id if own.engine else (chip.engines[0] if chip.engines else "vllm")
    system = catalog.system(own.system).id if own.system else (chip.systems[0] if chip.systems else "")
    if system and chip.id not in catalog.system(system).chips:
        hint = near_miss_hint(own.system, chip.systems) or f"Known: {', '.join(chip.systems)}."
        raise CatalogError(f"{system} is not sold with {chip.id}", where="--set layout.system", mend=hint)
    fixed = {key: getattr(own, key) for key in ("tp", "pp", "dp", "ep") if getattr(own, key)}
    _check_degrees(fixed, model)
    rest: dict[str, Any] = {"chip": chip.id, "system": system, "engine": engine, "engine_version": own.engine_version,
            "weights_dtype": own.weights_dtype, "kv_dtype": own.kv_dtype, "replicas": max(own.replicas, 1),
            "max_batch_tokens": own.max_batch_tokens, "max_seqs": own.max_seqs}  # fmt: skip
    if "tp" in fixed:
        stated: dict[str, Any] = {**rest, "pp": 1, "dp": 1, "ep": 1, **fixed}
        return Pool(**stated)
    limits = Limits(pps=(fixed["pp"],) if "pp" in fixed else (1, 2, 4))
    listed = pools(model, chip, catalog, limits, engine=engine, dtype=own.weights_dtype)
    listed = [pool for pool in listed if all(getattr(pool, key) == value for key, value in fixed.items())]
    listed = [msgspec.structs.replace(pool, **{k: v for k, v in rest.items() if k != "chip"}) for pool in listed]
    if not listed:
        raise InputError("no layout divides the model so", where="--set layout", mend="State layout.tp.")
    setting = middle(build_setting(model, listed[0], catalog=catalog, calibration=load_calibration()))
    grid = evaluate(setting, listed, mix_of(requests_of(trace), context_limit=model.max_context_tokens))
    fits = [i for i in range(len(listed)) if grid.fits[grid.pool_index == i].any()]
    best = min(fits or range(len(listed)), key=lambda i: (listed[i].devices if fits else -listed[i].devices, i))
    return listed[best]


def _check_degrees(fixed: Mapping[str, int], model: Model) -> None:
    for key, value in fixed.items():
        if value < 0:
            raise InputError(f"{value} is negative", where=f"--set layout.{key}")
    heads = [group.attention.heads for group in model.layers if group.attention.heads]
    tp = fixed.get("tp", 1)
    if any(count % tp for count in heads):
        raise InputError(f"tp {tp} does not divide {max(heads)} attention heads", where="--set layout.tp")
    if fixed.get("pp", 1) > model.layer_count:
        raise InputError(f"pp {fixed['pp']} exceeds {model.layer_count} layers", where="--set layout.pp")
    ranks = tp * fixed.get("dp", 1)
    if ranks % fixed.get("ep", 1):
        raise InputError(f"ep {fixed['ep']} does not divide tp x dp = {ranks}", where="--set layout.ep")


def _cases(setting: Setting, model: Model, pool: Pool, trace: Trace) -> dict[str, Setting]:
    """The middle parameters, and the draws at the 10th and 90th percentile of speed (low is the slow one)."""
    from dataclasses import replace

    mix = mix_of(requests_of(trace), context_limit=model.max_context_tokens)
    grid = evaluate(setting, [pool], mix, batches=np.array([16.0]))
    order = np.argsort(grid.rate[:, 0], kind="stable")
    found: dict[str, Setting] = {}
    for name, quantile in CASES.items():
        draw = int(order[round(quantile * (len(order) - 1))])
        taken = replace(setting, parameters=setting.parameters.take([draw]))
        found[name] = middle(setting) if name == "mid" else taken
    return found


def _run(settings: Settings, setting: Setting, pool: Pool, model: Model, trace: Trace) -> ServeMetrics:
    load_ = settings.load
    requests: Requests = requests_of(trace)
    replica = Replica(
        setting=setting, pool=pool, mix=mix_of(requests, context_limit=model.max_context_tokens),
        context_limit=model.max_context_tokens, accept_tokens=1.0 + load_.spec_accept,
        decode_tokens=1 + int(np.ceil(load_.spec_accept)),
    )  # fmt: skip
    prefix = requests.hash_ids is not None if load_.prefix_cache is None else load_.prefix_cache
    limits = parse_slo(settings.slo, where="--set slo")
    routers = ("round-robin", "least-requests", "least-tokens", "prefix-aware")
    if load_.router not in routers:
        raise InputError(f'unknown router "{load_.router}"', where="--set load.router",
                         mend=near_miss_hint(load_.router, routers) or f"Known: {', '.join(routers)}.")  # fmt: skip
    each = {limit.metric: limit.seconds for limit in limits.limits}
    slo = ServeSlo(**{f"{name}_s": each[name] for name in ("ttft", "tpot", "e2e") if name in each})
    config = ServeConfig(
        mode="closed" if load_.concurrency else "open", concurrency=load_.concurrency, warmup=load_.warmup,
        router=load_.router, prefix_cache=prefix, slo=(slo,) if each else (),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return run_serving([PoolSpec(table=replica.table(), replicas=pool.replicas)], requests, config=config)


def _words(pool: Pool) -> str:
    from offramp.app.answer import layout_words

    return layout_words(pool)


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A finished simulation and all that it rests on.

    Attributes:
        chip: catalogue id.
        model, pool, settings, trace, setting: what was simulated.
        metrics: by case.
        obstacles: what stands in the way.
        log, catalog: evidence.
    """

    chip: str
    model: Model
    pool: Pool
    settings: Settings
    trace: Trace
    setting: Setting
    metrics: Mapping[str, ServeMetrics]
    obstacles: Sequence[Any]
    log: FigureLog
    catalog: Catalog


def _result(done: _Done) -> Result:
    chip, made, pool, settings, trace = done.chip, done.model, done.pool, done.settings, done.trace
    metrics, setting, catalog = done.metrics, done.setting, done.catalog
    mix = mix_of(requests_of(trace), context_limit=made.max_context_tokens)
    rows = [_row(name, one) for name, one in metrics.items()]
    trace_named = not any(note.startswith("synthetic") for note in trace.notes)
    notes = [Notice(kind="traffic", text=note, where=trace.source) for note in trace.notes if trace_named]
    notes += [Notice(kind=item.kind, text=item.text, where=chip) for item in done.obstacles]
    refused = metrics["mid"].rejected
    if refused:
        why = ", ".join(f"{count:,} {REFUSALS.get(reason, reason)}" for reason, count in refused.items())
        text = f"{sum(refused.values()):,} of {len(trace):,} requests are refused: {why}"
        notes.append(Notice(kind="refused", text=text, where=chip))
    if not metrics["mid"].stable:
        head = metrics["mid"].headroom
        share = f" (capacity is {head:.2f} of the load)" if head else ""
        text = f"unstable: requests come faster than they are served{share}, and the queue grows as long as they do"
        notes.append(Notice(kind="unstable", text=text, where=chip))
    system = system_of(catalog, catalog.chip(chip), pool.system)
    answer = {
        "model": made.id, "chip": chip, "system": system.id if system else "", "layout": msgspec.to_builtins(pool),
        "layout_words": _words(pool), "devices": pool.devices * pool.replicas,
        "chips": pool.devices * pool.replicas / catalog.chip(chip).devices,
        "requests": len(trace), "lengths": {"isl_mean_tokens": mix.isl, "osl_mean_tokens": mix.osl},
        "memory_bytes": msgspec.to_builtins(memory_for(setting, pool, context_tokens=mix.context)),
        "interval": "mid: median parameters; low and high: draws at the 10th and 90th percentile of speed",
        **{name: msgspec.to_builtins(one) for name, one in metrics.items()},
    }  # fmt: skip
    inputs = {"model": msgspec.json.encode(made), "chip": chip, "settings": msgspec.json.encode(settings),
              "code": code_version(), "arrivals": trace.arrival_s.tobytes(), "isl": trace.isl_tokens.tobytes(),
              "osl": trace.osl_tokens.tobytes(), "data": catalog.version}  # fmt: skip
    return Result(
        command="simulate", answer=answer, inputs_hash=hash_inputs(inputs), data_version=catalog.version,
        seed=settings.load.seed, figures=done.log.figures, knowledge_horizon=done.log.horizon, warnings=tuple(notes),
        offramp_version=__version__,
        tables={"metrics": table_of(rows, columns=tuple(rows[0]), title=f"{made.id} on {chip}")},
    )  # fmt: skip


def _row(name: str, one: ServeMetrics) -> dict[str, Any]:
    row: dict[str, Any] = {"case": name, "stable": one.stable, "requests_per_s": one.request_req_per_s,
                           "output_tokens_per_s": one.output_tokens_per_s, "capacity_req_per_s": one.capacity_req_per_s,
                           "headroom": one.headroom}  # fmt: skip
    for metric in ("ttft", "tpot", "itl", "e2e"):
        found = getattr(one, f"{metric}_s")
        for stat in ("mean", "p50", "p90", "p99"):
            row[f"{metric}_{stat}_s"] = getattr(found, stat) if found else None
    return {**row, "goodput_req_per_s": one.goodput_req_per_s, "mean_batch": one.mean_batch, "kv_mean": one.kv_mean,
            "preemptions": one.preemptions, "utilisation": one.utilisation}  # fmt: skip


__all__ = ["Layout", "Load", "Settings", "simulate"]
