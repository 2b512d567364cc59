"""plan: what to order now, buy and place each quarter, what a ban breaks, and what part of it can be met when."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from offramp import __version__
from offramp import catalog as facts
from offramp.app import plan_answer as answers
from offramp.app import plan_bans as bans
from offramp.app import plan_question as question
from offramp.app.assess import job_of
from offramp.app.cells import run_cells
from offramp.app.check import ASK_HEADQUARTERS, require_sound
from offramp.app.chipfacts import chip_facts
from offramp.app.economics import Ledger, check_currency
from offramp.app.national_facts import is_national
from offramp.app.plan_question import Setting
from offramp.app.plan_work import Horizon, Work, serve_work, stated_rates, train_work, work_notices
from offramp.app.runs import Run, RunStore, code_version, failing, runs_root
from offramp.app.study import Study
from offramp.core.errors import InputError
from offramp.core.result import FigureLog, Notice, Result, hash_inputs, table_of
from offramp.plan import analysis, words
from offramp.plan.again import Again
from offramp.plan.apart import solve_in_time, thinned
from offramp.plan.problem import PlanProblem
from offramp.plan.solution import Plan, solve
from offramp.rules import rulebook_of
from offramp.rules.records import DISCLAIMER

Progress = Callable[[str], None]
SCOPES: Final = ("serve", "fine-tune", "pretrain", "all")
SCOPE_WORDS: Final = {"serve": "inference", "fine-tune": "fine-tuning", "pretrain": "pre-training", "all": "all work"}
SWEEP_DRAWS: Final = 24
SWEEP_QUARTERS: Final = 6
FEWEST_FUTURES: Final = 10
MOST_CELLS: Final = 40_000
"""Futures x quarters x chips x workloads over which plans without one vendor are compared; larger plans take fewer futures."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Flags of one run.

    Attributes:
        scenarios: futures drawn; the study's number where None.
        ban: a hypothetical ban of foreign chips in every future, "2027Q1" or "use:2027Q1".
        sweep: also compute the ban frontier over scope and quarter.
        strict: limits are hard; contradictions are named instead of priced.
    """

    scenarios: int | None = None
    ban: str = ""
    sweep: bool = False
    strict: bool = False


def plan(
    path: str | Path, *, options: Options | None = None, overrides: Sequence[str] = (), jobs: int | None = None,
    root: str | Path | None = None, progress: Progress | None = None, keep: bool = True,
) -> Result:  # fmt: skip
    """Plans a study, or a whole country where the file holds a [national] table.

    Args:
        path: study file.
        options: flags; the defaults where None.
        overrides: "path=value" settings.
        jobs: processes for pricing workloads on chips.
        root: folder of runs.
        progress: told what is being done.
        keep: whether the answer is kept in the folder of runs.

    Raises:
        InputError: the study is wrong, or a ban lies before the plan.
        InfeasibleError: strict, and the limits contradict each other.
    """
    options = options or Options()
    if is_national(path):
        from offramp.app.national import national

        return national(path, overrides=overrides, root=root, keep=keep, progress=progress)
    draft, problems = require_sound(path, overrides)
    study = draft.study()
    catalog = facts.load(study.study.as_of)
    check_currency(study, catalog)
    if study.candidates is None:
        raise InputError("no [candidates]", where=f"{path}:$", mend="Name the chip in use as baseline.")
    if not study.workload:
        raise InputError("no [[workload]]", where=f"{path}:$", mend="A plan needs work to place.")
    if not study.organisation.headquarters:
        raise InputError("no headquarters", where=f"{path}:$.organisation.headquarters", mend=ASK_HEADQUARTERS)
    inputs: dict[str, bytes | str | int | float | None] = {
        **draft.inputs, "data": catalog.version, "code": code_version(), "options": msgspec.json.encode(options),
    }  # fmt: skip
    run = Run(RunStore(runs_root(root) if keep else None), "plan", hash_inputs(inputs), title=study.study.name,
              seed=study.study.seed)  # fmt: skip
    done = run.start()
    if done is not None:
        if progress:
            progress(f"answered before: {run.folder}")
        return done
    with failing(run):
        notices = [Notice(kind="study", text=f"{p.what}. {p.mend}".strip(), where=p.path) for p in problems]
        ledger = Ledger(study=study, catalog=catalog, log=FigureLog(), notices=notices)
        setting = prepare(study, ledger, options, RunStore(runs_root(root) if keep else None),
                          jobs=jobs or os.cpu_count() or 1, progress=progress)  # fmt: skip
        return run.finish(_answer(setting, options, hash_inputs(inputs), progress))


def prepare(
    study: Study, ledger: Ledger, options: Options, store: RunStore, *, jobs: int, progress: Progress | None
) -> Setting:
    """Chips, futures and how much work each chip does."""
    chips = question.chip_ids(study, ledger)
    count = options.scenarios or study.plan.scenarios
    futures, weight = question.futures(study, count)
    book = rulebook_of("")
    origin = {chip.id: _origin(chip.id, book) for chip in chips}
    setting = Setting(
        study=study, ledger=ledger, chips=chips, origin=origin, quarters=question.horizon(study), futures=futures,
        weight=weight,
    )  # fmt: skip
    setting.works = _works(setting, store, jobs=jobs, progress=progress)
    return setting


def _origin(chip: str, book: Any) -> str:
    """Country of the designer, as far as the rules need it."""
    known = chip_facts(chip, book=book)
    return "CN" if known is not None and known.prc_designed else "US"


def _works(setting: Setting, store: RunStore, *, jobs: int, progress: Progress | None) -> list[Work]:
    study, ledger, chips = setting.study, setting.ledger, setting.chips
    site = study.site_of(study.fleet[0].site if study.fleet else "")
    served = [(work, job_of(work, study)) for work in study.workloads_of("serve")]
    ids = [chip.id for chip in chips]
    asked = [(job, chip) for work, job in served for chip in ids if chip not in stated_rates(study, work.id, ids)]
    cells = run_cells(asked, store, jobs=jobs, progress=progress) if asked else []
    by_key = {(id(job), chip): cell for (job, chip), cell in zip(asked, cells, strict=True)}
    horizon, found = Horizon(setting.quarters, len(setting.futures)), dict[str, Work]()
    for work, job in served:
        mine = [by_key.get((id(job), chip)) for chip in ids]
        found[work.id] = serve_work(work, job, mine, chips, horizon=horizon, ledger=ledger, site=site)
    for cell in cells:
        ledger.log.merge(cell.figures, cell.horizon)
    for work in study.workloads_of("train"):
        found[work.id] = train_work(work, chips, setting.origin, horizon=horizon, ledger=ledger)
    works = [found[work.id] for work in study.workload]
    ledger.notices.extend(work_notices(works, study))
    return works


def _answer(setting: Setting, options: Options, inputs_hash: str, progress: Progress | None) -> Result:
    study, currency = setting.study, setting.ledger.currency
    base = question.build(setting, strict=options.strict)
    problem = bans.with_scenarios(setting, base)
    if options.ban:
        problem = bans.hypothetical(setting, problem, options.ban)
    if progress:
        s, q, c, w, _, _ = problem.sizes
        progress(f"solving {s} futures x {q} quarters x {c} chips x {w} workloads")
    found = solve_in_time(problem, study.plan.time_limit_s)
    body: dict[str, Any] = {
        "study": study.study.name, "as_of": study.study.as_of.isoformat() if study.study.as_of else None,
        "currency": currency, "hypothetical_ban": options.ban or None,
        **answers.answer(found, currency, setting.origin, study.organisation.headquarters),
        "scenarios": _scenario_rows(setting, found),
        "rules": setting.allowed.rows if setting.allowed else [],
    }  # fmt: skip
    tables = answers.tables(found, currency)
    if setting.allowed:
        columns = ("chip", "act", "buyer", "site", "from", "verdict", "rules", "conditions")
        tables["rules"] = table_of(setting.allowed.rows, columns=columns, title="What the rules say")
    _warn_of_bounds(setting, body["order_now"])
    body |= _comparisons(setting, base, found, options)
    if options.sweep:
        if progress:
            progress("sweeping bans over scope and quarter")
        cells = analysis.frontier(*_sweep(setting, base))
        body["frontier"], tables["frontier"] = answers.frontier_part(cells, currency)
        body["headline"] = f"{body['headline']}. {body['frontier']['headline']}"
    if found.status != "optimal":
        text = (f"the solver ran into its time limit. This plan costs {words.money(found.objective, currency)}; none can cost "
                f"less than {words.money(found.bound, currency)} (best bound, {found.gap:.1%} away). Shadow prices, "
                "waiting, regret and alternatives are left out")  # fmt: skip
        setting.note("cut-short", text, "$.plan.time_limit")
    log = setting.ledger.log
    return Result(
        command="plan", answer=body, inputs_hash=inputs_hash, data_version=setting.ledger.catalog.version,
        status="ok" if found.status == "optimal" else "partial", tables=tables, knowledge_horizon=log.horizon,
        seed=study.study.seed, figures=log.figures, warnings=tuple(dict.fromkeys(setting.ledger.notices)),
        disclaimer=DISCLAIMER, offramp_version=__version__,
    )  # fmt: skip


def _warn_of_bounds(setting: Setting, orders: list[dict[str, Any]]) -> None:
    """Orders of chips that nobody has published enough about are bets on bounds."""
    ordered = {item["chip"] for item in orders}
    for chip in sorted(ordered & {chip for work in setting.works for chip in work.bounded}):
        text = "it is ordered on bounds, not on published figures: measure it on this work before ordering"
        setting.note("bounds-mode", text, chip)


def _scenario_rows(setting: Setting, found: Plan) -> list[dict[str, Any]]:
    """Weight, mean cost and mean shortfall of each of the study's futures."""
    names = [future.id if future else "as-is" for future in setting.futures]
    short = analysis.short_shares(found)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(names):
        inside = np.asarray([other == name for other in names])
        weight = found.problem.weight * inside
        share = weight / weight.sum()
        rows.append({
            "scenario": name, "hypothetical": name != "as-is", "probability": float(weight.sum()),
            "draws": int(inside.sum()), "mean_cost": float(share @ found.scenario_cost),
            "mean_short": float(share @ short),
        })  # fmt: skip
    return rows


def _comparisons(setting: Setting, base: PlanProblem, found: Plan, options: Options) -> dict[str, Any]:
    """Value of ordering now, regret of ignoring the bans, plans without one vendor, the plan carried out step by step."""
    if options.strict or base.integer or found.status != "optimal":
        return {}
    again = Again(found)
    waiting = analysis.value_of_waiting(found, again=again)
    most = max(FEWEST_FUTURES, MOST_CELLS // max(found.problem.demand[0].size * len(found.problem.chips), 1))
    part = thinned(found.problem, most)
    fewer = found if part is found.problem else solve(part)
    if fewer is not found:
        text = f"plans without a vendor and the regret are judged over {len(part.scenarios)} of the futures"
        setting.note("alternatives", text)
    shared = again if fewer is found else Again(fewer)
    body: dict[str, Any] = {
        "waiting": {"ordering_now_saves": waiting.ordering_now_saves, "cost_if_waiting": waiting.cost_waiting},
        "alternatives": [
            {"without": item.family, "bought_in_plan": item.bought, "cost_rises_by": item.extra_without,
             "short_without": item.short_without, "short_in_plan": analysis.short_share(fewer),
             "least_bought_within_gap": item.least_bought, "gap": item.gap}
            for item in analysis.alternatives(fewer, gap=setting.study.plan.gap, again=shared)
        ],
    }  # fmt: skip
    if setting.study.plan.rolling:
        body["rolling"] = answers.rolling_part(found, setting.study.plan.rolling)
    if options.ban or any(scenario.bans for scenario in setting.study.scenario):
        body["regret_of_ignoring_the_ban"] = analysis.regret(fewer, thinned(base, most), again=shared)
    return body


def _sweep(setting: Setting, base: PlanProblem) -> tuple[PlanProblem, list[analysis.Ban]]:
    """The problem with fewer futures, and every ban of the frontier."""
    problem = thinned(base, SWEEP_DRAWS)
    chips = np.asarray([chip in bans.foreign(setting) for chip in problem.chips])
    months = setting.study.plan.support_life_s
    life = months / bans.QUARTER_S if months else setting.judged("support_life").value / 3.0
    groups: list[tuple[str, Any]] = [
        (SCOPE_WORDS[scope], bans.scope_mask(setting.study, problem.workloads, (scope,))) for scope in SCOPES
    ]
    groups.insert(0, ("state-funded", bans.scope_mask(setting.study, problem.workloads, ("all",), state_only=True)))
    q = len(problem.quarters)
    last = max(q - 3, 0)  # later bans would be judged over too few quarters
    starts = sorted({round(i) for i in np.linspace(0, last, min(last + 1, SWEEP_QUARTERS))})
    listed = [
        analysis.Ban(kind=kind, scope=name, workloads=mask, chips=chips, start=start, support_quarters=life)
        for kind in ("buy", "use", "support") for name, mask in groups if mask.any() for start in starts
    ]  # fmt: skip
    return problem, listed


__all__ = ["Options", "plan"]
