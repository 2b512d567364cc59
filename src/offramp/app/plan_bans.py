"""Bans of a study's scenarios and of the command line, as a plan's."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from offramp.app.plan_question import Setting
from offramp.app.plan_work import QUARTER_S
from offramp.app.study import Ban, Study
from offramp.core.errors import InputError
from offramp.core.quarters import parse_quarter
from offramp.plan.analysis import Ban as PlanBan
from offramp.plan.analysis import banned
from offramp.plan.problem import PlanProblem


def scope_mask(study: Study, works: Sequence[str], scope: Sequence[str], *, state_only: bool = False) -> Any:
    """Which workloads a ban touches. [W]"""
    by_id = {work.id: work for work in study.workload}
    stage = [by_id[name].stage or ("serve" if by_id[name].kind == "serve" else "pretrain") for name in works]
    hit = [("all" in scope or kind in scope) and (by_id[name].state_funded or not state_only)
           for kind, name in zip(stage, works, strict=True)]  # fmt: skip
    return np.asarray(hit, dtype=np.bool_)


def ban_of(setting: Setting, problem: PlanProblem, ban: Ban) -> PlanBan:
    """A study's ban as the plan's."""
    start = parse_quarter(ban.from_quarter) - setting.quarters[0]
    if start < 0:
        raise InputError(
            f"the ban starts in {ban.from_quarter}, before the plan", where="$.scenario.ban.from",
            mend="A ban in force belongs to the rules; a hypothetical one starts in the plan's first quarter or later.",
        )  # fmt: skip
    chips = np.asarray([any(fnmatchcase(chip, pattern) for pattern in ban.chips) for chip in problem.chips])
    life = setting.study.plan.support_life_s
    months = setting.judged("support_life").value if life is None and ban.what == "support" else 36.0
    return PlanBan(
        kind=ban.what, scope="+".join(ban.scope), start=start, chips=chips,
        workloads=scope_mask(setting.study, problem.workloads, ban.scope, state_only=ban.state_funded_only),
        support_quarters=life / QUARTER_S if life is not None else months / 3.0,
    )  # fmt: skip


def with_scenarios(setting: Setting, problem: PlanProblem) -> PlanProblem:
    """The problem with each future's own bans; bans of part of the workloads touch only their own scenarios."""
    for future in dict.fromkeys(f.id for f in setting.futures if f is not None):
        inside = np.asarray([f is not None and f.id == future for f in setting.futures])
        scenario = next(s for s in setting.study.scenario if s.id == future)
        for ban in scenario.bans:
            if parse_quarter(ban.from_quarter) > setting.quarters[-1]:
                setting.note("ban", f"its ban starts after the plan ends ({problem.quarters[-1]})", future)
                continue
            problem = banned(problem, ban_of(setting, problem, ban), scenarios=inside)
    return problem


def hypothetical(setting: Setting, problem: PlanProblem, text: str) -> PlanProblem:
    """The problem with a ban of foreign chips in every scenario, written "2027Q1" or "use:2027Q1".

    Raises:
        InputError: it is not written so, or lies before the plan.
    """
    what, _, quarter = text.rpartition(":")
    if what not in ("", "buy", "use", "support"):
        raise InputError(f'"{what}" is not buy, use or support', where="--ban", mend='Write "use:2027Q1".')
    parse_quarter(quarter, where="--ban")
    ban = Ban(from_quarter=quarter, what=what or "buy", chips=foreign(setting))  # pyright: ignore[reportArgumentType]
    if parse_quarter(quarter) < setting.quarters[0]:
        mend = f"A ban in force belongs to the rules; first quarter of the plan: {problem.quarters[0]}."
        raise InputError(f"the ban starts in {quarter}, before the plan", where="--ban", mend=mend)
    if parse_quarter(quarter) > setting.quarters[-1]:
        raise InputError(f"{quarter} lies after the plan", where="--ban", mend=f"Last: {problem.quarters[-1]}.")
    return banned(problem, ban_of(setting, problem, ban))


def foreign(setting: Setting) -> tuple[str, ...]:
    """Ids of chips designed outside the organisation's own country."""
    home = setting.study.organisation.headquarters
    return tuple(chip for chip in setting.ids if setting.origin[chip] != home)
