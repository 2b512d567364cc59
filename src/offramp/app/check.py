"""check: everything that is wrong with a study file, in one go, without solving anything."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp import __version__
from offramp.app.national_facts import is_national
from offramp.app.national_facts import load as load_national
from offramp.app.study import Synthetic
from offramp.app.studyfile import Draft, read_study
from offramp.core import units
from offramp.core.document import Problem
from offramp.core.errors import InputError, OfframpError, near_miss_hint
from offramp.core.quarters import parse_quarter, quarter_of
from offramp.core.result import Result, hash_inputs, table_of

ASK_HEADQUARTERS: Final = (
    'Add [organisation] headquarters = "CN" (country of the ultimate parent); rules and supply hang on it.'
)
SERVE_ONLY: Final = ("trace", "synthetic", "demand", "peak_to_mean", "slo", "spec_accept", "availability")
TRAIN_ONLY: Final = ("tokens", "deadline", "sequence_tokens", "batch_tokens", "chips", "dtype", "start")


def check(path: str | Path, *, overrides: Sequence[str] = ()) -> Result:
    """Every problem of a study file; the answer holds ``ok`` and ``problems``.

    Args:
        path: the study file.
        overrides: "path=value" settings.
    """
    look = _national_problems if is_national(path) else find_problems
    problems, inputs = look(path, overrides=overrides)
    errors = sum(problem.level == "error" for problem in problems)
    rows = [{"level": p.level, "path": p.path, "what": p.what, "mend": p.mend} for p in problems]
    answer = {
        "study": str(path), "ok": errors == 0, "errors": errors, "warnings": len(problems) - errors, "problems": rows,
    }  # fmt: skip
    return Result(
        command="check", answer=answer, inputs_hash=hash_inputs(dict(inputs)), data_version=_data_version(),
        status="ok" if errors == 0 else "partial", offramp_version=__version__,
        tables={"problems": table_of(rows, columns=("level", "path", "what", "mend"), title="Problems")},
    )  # fmt: skip


def find_problems(path: str | Path, *, overrides: Sequence[str] = ()) -> tuple[list[Problem], dict[str, bytes]]:
    """All problems of a study, errors first, and the files that were read."""
    try:
        draft = read_study(path, overrides=overrides)
    except InputError as error:
        return [Problem(path=_inner_path(error.where), what=error.what, mend=error.mend)], {"path": str(path).encode()}
    problems = list(draft.problems)
    for look in _CHECKS:
        problems += look(draft.data)
    problems += _references(draft)
    return sorted(problems, key=lambda p: p.level != "error"), draft.inputs


def _national_problems(path: str | Path, *, overrides: Sequence[str] = ()) -> tuple[list[Problem], dict[str, bytes]]:
    """The first problem of a national study or of its facts, and the files that were read."""
    try:
        return [], load_national(path, overrides).inputs
    except InputError as error:
        return [Problem(path=_inner_path(error.where), what=error.what, mend=error.mend)], {"path": str(path).encode()}


def _inner_path(where: str) -> str:
    return where.rsplit(":", 1)[-1] if ":$" in where else "$"


def _data_version() -> str:
    from offramp import catalog

    return catalog.data_version()


def _tables(data: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and content of each entry of a list of tables."""
    entries: Sequence[Any] = data.get(name) or ()
    for i, entry in enumerate(entries):
        if isinstance(entry, dict):
            yield f"$.{name}[{i}]", entry


def _error(path: str, what: str, mend: str = "") -> Problem:
    return Problem(path=path, what=what, mend=mend)


def _warning(path: str, what: str, mend: str = "") -> Problem:
    return Problem(path=path, what=what, mend=mend, level="warning")


def _today(data: dict[str, Any]) -> dt.date | None:
    as_of = (data.get("study") or {}).get("as_of")
    return as_of if isinstance(as_of, dt.date) else None


def _headquarters(data: dict[str, Any]) -> Iterator[Problem]:
    if data.get("organisation", {}).get("headquarters") is None:
        yield _warning("$.organisation", "no headquarters is given: no rule is applied", ASK_HEADQUARTERS)


def _unique_ids(data: dict[str, Any]) -> Iterator[Problem]:
    for name in ("site", "workload", "scenario"):
        first: dict[str, str] = {}
        for path, entry in _tables(data, name):
            key = entry.get("id")
            if isinstance(key, str) and key in first:
                yield _error(f"{path}.id", f'"{key}" is already the id of {first[key]}', "Ids are unique.")
            elif isinstance(key, str):
                first[key] = path


def _something_to_do(data: dict[str, Any]) -> Iterator[Problem]:
    if not data.get("workload"):
        yield _error("$", "no [[workload]]", "Describe at least one model that is served or trained.")
    serves = any(entry.get("kind") == "serve" for _, entry in _tables(data, "workload"))
    candidates = data.get("candidates")
    if serves and not isinstance(candidates, dict):
        yield _error("$", "no [candidates]", "Name the chip in use as baseline, and the chips to compare.")
    elif isinstance(candidates, dict):
        chips = candidates.get("chips") or []
        if not chips:
            yield _warning(
                "$.candidates", "no chips to compare with the baseline", 'Add chips = ["huawei/ascend-910c"].'
            )
        for i, chip in enumerate(chips):
            if chip in chips[:i]:
                yield _warning(f"$.candidates.chips[{i}]", f'"{chip}" stands there twice', "It is assessed once.")
            if chip == candidates.get("baseline"):
                yield _warning(f"$.candidates.chips[{i}]", f'"{chip}" is the baseline', "It is assessed once.")


def _workloads(data: dict[str, Any]) -> Iterator[Problem]:
    for path, work in _tables(data, "workload"):
        kind = work.get("kind")
        other = TRAIN_ONLY if kind == "serve" else SERVE_ONLY if kind == "train" else ()
        for key in other:
            if key in work:
                yield _error(f"{path}.{key}", f'means nothing for kind = "{kind}"', "Take it out, or change the kind.")
        if kind == "serve":
            yield from _serve(path, work)
        elif kind == "train":
            yield from _train(path, work)


def _serve(path: str, work: dict[str, Any]) -> Iterator[Problem]:
    has_trace, has_synthetic = bool(work.get("trace")), work.get("synthetic") is not None
    if has_trace and has_synthetic:
        yield _error(path, "both trace and synthetic are given", "Give one.")
    if not has_trace and not has_synthetic:
        yield _error(
            path, "neither trace nor synthetic is given", 'Add synthetic = { preset = "reasoning" } or a trace.'
        )
    demand = [point for point in work.get("demand") or () if isinstance(point, dict)]
    if not demand:
        yield _error(path, "no demand", 'Add demand = [{ quarter = "2026Q4", mean_requests_per_s = 10 }].')
    yield from _quarters_rise(f"{path}.demand", demand)
    rates = [point.get("mean_requests_per_s", 0.0) for point in demand]
    if demand and not any(rates):
        mend = "Only min_replicas is bought then; cost per token is not defined."
        yield _warning(f"{path}.demand", "demand is zero throughout", mend)
    for i, point in enumerate(demand):
        mean = point.get("mean_requests_per_s")
        if mean is not None and not point.get("low", mean) <= mean <= point.get("high", mean):
            yield _error(f"{path}.demand[{i}]", "low <= mean_requests_per_s <= high does not hold")
    if not work.get("slo"):
        yield _warning(path, "no slo: the highest throughput counts, at any latency", 'Add slo = { ttft_p90 = "2 s" }.')
    yield from _slo(f"{path}.slo", work.get("slo") or {})


def _slo(path: str, slo: dict[str, float]) -> Iterator[Problem]:
    order = ("p50", "p90", "p95", "p99")
    for metric in ("ttft", "tpot", "itl", "e2e"):
        given = [(name, slo[f"{metric}_{name}"]) for name in order if f"{metric}_{name}" in slo]
        for (low, first), (high, second) in itertools.pairwise(given):
            if second < first:
                what = f"{metric}_{high} is tighter than {metric}_{low}, which can then never bind"
                yield _warning(f"{path}.{metric}_{low}", what)
    for name in (*order, "mean"):
        ttft, e2e = slo.get(f"ttft_{name}"), slo.get(f"e2e_{name}")
        if ttft is not None and e2e is not None and e2e < ttft:
            yield _warning(f"{path}.ttft_{name}", f"is looser than e2e_{name}, which includes it")


def _train(path: str, work: dict[str, Any]) -> Iterator[Problem]:
    if work.get("tokens") is None:
        yield _error(path, '"tokens" is missing', "Say how many tokens the run trains on, as in tokens = 14.8e12.")
    if work.get("deadline") is None and work.get("chips") is None:
        yield _warning(path, "neither deadline nor chips is given", "The answer is then a curve over cluster sizes.")


def _quarters_rise(path: str, points: list[dict[str, Any]]) -> Iterator[Problem]:
    names = [(i, point["quarter"]) for i, point in enumerate(points) if isinstance(point.get("quarter"), str)]
    for (_, before), (i, after) in itertools.pairwise(names):
        if parse_quarter(after) == parse_quarter(before):
            yield _error(f"{path}[{i}].quarter", f"{after} stands there twice")
        elif parse_quarter(after) < parse_quarter(before):
            yield _error(f"{path}[{i}].quarter", f"{after} comes after {before}", "Give quarters in order.")


def _places(data: dict[str, Any]) -> Iterator[Problem]:
    sites = [entry.get("id") for _, entry in _tables(data, "site") if isinstance(entry.get("id"), str)]
    for name in ("fleet", "order"):
        for path, entry in _tables(data, name):
            site = entry.get("site")
            if site and site not in sites:
                yield _error(f"{path}.site", f'unknown site "{site}"', near_miss_hint(site, filter(None, sites)))
    for path, entry in _tables(data, "fleet"):
        if entry.get("count") == 0:
            yield _warning(f"{path}.count", "is zero", "The entry changes nothing.")
    if not sites:
        yield _warning("$", "no [[site]]: power price and PUE are assumed", "Add [[site]] with id, power_price, pue.")


def _dates(data: dict[str, Any]) -> Iterator[Problem]:
    today = _today(data)
    now = quarter_of(today) if today else None
    for path, entry in _tables(data, "order"):
        due = entry.get("due")
        if now is not None and isinstance(due, str) and parse_quarter(due) < now:
            yield _warning(f"{path}.due", f"{due} lies before as_of", "It is taken as due now.")
    for path, entry in _tables(data, "scenario"):
        bans = entry.get("ban") or []
        single = isinstance(bans, dict)
        for i, ban in enumerate([bans] if single else bans):
            where = f"{path}.ban" if single else f"{path}.ban[{i}]"
            start, stop = ban.get("from"), ban.get("until")
            if not isinstance(start, str):
                continue
            if isinstance(stop, str) and parse_quarter(stop) <= parse_quarter(start):
                yield _error(f"{where}.until", f"{stop} is not after {start}", "The ban would never hold.")
            if now is not None and parse_quarter(start) < now:
                mend = "A ban in force belongs to the rules; a plan refuses one that starts before it."
                yield _warning(f"{where}.from", f"{start} lies before as_of", mend)
    plan = data.get("plan") or {}
    yield from _quarters_rise("$.plan.budget", plan.get("budget") or [])
    works = [entry.get("id") for _, entry in _tables(data, "workload") if isinstance(entry.get("id"), str)]
    for name in plan.get("rates") or {}:
        if name not in works:
            yield _error(
                f"$.plan.rates.{name}", f'unknown workload "{name}"', near_miss_hint(name, filter(None, works))
            )


def _weights(data: dict[str, Any]) -> Iterator[Problem]:
    given = [(path, entry["probability"]) for path, entry in _tables(data, "scenario") if "probability" in entry]
    total = sum(weight for _, weight in given)
    if total > 1.0 + 1e-9:
        yield _error("$.scenario", f"probabilities add up to {total:g}", "They may add up to 1 at most.")
    elif given and len(given) == len(data.get("scenario") or ()) and total < 1.0 - 1e-9:
        mend = f"The rest, {1 - total:g}, is a future in which none of them happens."
        yield _warning("$.scenario", f"probabilities add up to {total:g}", mend)


def _currencies(data: dict[str, Any]) -> Iterator[Problem]:
    for name in (data.get("economics") or {}).get("fx") or {}:
        if name not in units.CURRENCIES:
            hint = near_miss_hint(name, units.CURRENCIES) or f"Known: {', '.join(units.CURRENCIES)}."
            yield _error(f"$.economics.fx.{name}", f'unknown currency "{name}"', hint)
    for path, entry in _tables(data, "price"):
        if not any(entry.get(key) for key in ("chip_price", "server_price", "rent")):
            yield _error(path, "gives no price", "Add chip_price, server_price or rent.")


_CHECKS: Final[tuple[Callable[[dict[str, Any]], Iterator[Problem]], ...]] = (
    _headquarters, _unique_ids, _something_to_do, _workloads, _places, _dates, _weights, _currencies,
)  # fmt: skip


def _references(draft: Draft) -> Iterator[Problem]:
    """Chips, engines, models and traces that the study names."""
    from offramp import catalog

    data = draft.data
    facts = catalog.load(_today(data))
    everything = catalog.load(None)
    for path, name in _named_chips(data):
        problem = _try(path, lambda name=name: facts.chip(name))
        if problem is not None and _try(path, lambda name=name: everything.chip(name)) is None:
            problem = _error(path, f'"{name}" was not yet known on {_today(data)}', "Take it out, or move as_of.")
        if problem is not None:
            yield problem
    for i, name in enumerate((data.get("search") or {}).get("engines") or ()):
        problem = _try(f"$.search.engines[{i}]", lambda name=name: facts.engine(name))
        if problem is not None:
            yield problem
    yield from _patterns(data, sorted(facts.chips))
    for path, work in _tables(data, "workload"):
        yield from _files(draft, path, work)


def _try(path: str, look: Callable[[], object]) -> Problem | None:
    try:
        look()
    except OfframpError as error:
        return _error(path, error.what, error.mend)
    return None


def _named_chips(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    candidates = data.get("candidates")
    if isinstance(candidates, dict):
        if isinstance(candidates.get("baseline"), str):
            yield "$.candidates.baseline", candidates["baseline"]
        chips: Sequence[Any] = candidates.get("chips") or ()
        for i, chip in enumerate(chips):
            if isinstance(chip, str):
                yield f"$.candidates.chips[{i}]", chip
    for name in ("fleet", "order", "price"):
        for path, entry in _tables(data, name):
            if isinstance(entry.get("chip"), str):
                yield f"{path}.chip", entry["chip"]
    frozen: Sequence[Any] = (data.get("plan") or {}).get("frozen") or ()
    for i, entry in enumerate(frozen):
        if isinstance(entry, dict) and isinstance(entry.get("chip"), str):
            yield f"$.plan.frozen[{i}].chip", entry["chip"]


def _patterns(data: dict[str, Any], known: list[str]) -> Iterator[Problem]:
    named: list[tuple[str, str]] = [
        (f"{path}.chip", entry["chip"]) for path, entry in _tables(data, "supply") if isinstance(entry.get("chip"), str)
    ]
    for path, entry in _tables(data, "scenario"):
        bans = entry.get("ban") or []
        for ban in [bans] if isinstance(bans, dict) else bans:
            named += [(f"{path}.ban.chips", pattern) for pattern in ban.get("chips") or ()]
        named += [(f"{path}.{key}", pattern) for key in ("supply", "price") for pattern in entry.get(key) or {}]
    for work, rates in ((data.get("plan") or {}).get("rates") or {}).items():
        named += [(f"$.plan.rates.{work}", pattern) for pattern in rates or {}]
    for path, work in _tables(data, "workload"):
        named += [(f"{path}.port_engineer_months", pattern) for pattern in work.get("port_engineer_months") or {}]
    for path, pattern in named:
        if not any(fnmatchcase(chip, pattern) for chip in known):
            yield _warning(path, f'"{pattern}" matches no chip', near_miss_hint(pattern.rstrip("*"), known))


def _files(draft: Draft, path: str, work: dict[str, Any]) -> Iterator[Problem]:
    """Loads the model and the traffic, which name their own problems."""
    from offramp.app.workload import load_model, synthetic_trace
    from offramp.traffic import load

    if isinstance(work.get("model"), str) and work["model"]:
        problem = _try(f"{path}.model", lambda: load_model(work["model"]))
        if problem is not None:
            yield problem
    if work.get("kind") != "serve":
        return
    trace, settings = work.get("trace"), work.get("synthetic")
    if isinstance(trace, str) and trace:
        problem = _try(f"{path}.trace", lambda: load(trace))
    elif isinstance(settings, dict):
        problem = _try(
            f"{path}.synthetic",
            lambda: synthetic_trace(msgspec.convert({**settings, "requests": 1}, Synthetic), seed=0),
        )
    else:
        problem = None
    if problem is not None:
        yield problem


def require_sound(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Draft, list[Problem]]:
    """A draft without structural or semantic errors, and the warnings.

    Raises:
        InputError: the first error, with how many more there are.
    """
    from offramp.app.studyfile import problem_error

    if is_national(path):
        raise InputError(
            "asks for a whole country, not for an organisation", where=f"{path}:$.national",
            mend='"offramp plan" answers it.',
        )  # fmt: skip
    draft = read_study(path, overrides=overrides)
    problems = list(draft.problems)
    for look in _CHECKS:
        problems += look(draft.data)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        raise problem_error(Path(path), errors)
    return draft, problems
