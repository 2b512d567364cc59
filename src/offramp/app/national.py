"""national: what share of a country's work its own chips can do, by quarter; which part of a ban can be met when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from offramp import __version__, catalog
from offramp.app import national_facts as facts
from offramp.app import national_model as model
from offramp.app.national_facts import Question
from offramp.app.national_model import National
from offramp.app.plan_answer import frontier_part
from offramp.app.runs import Run, RunStore, code_version, failing, runs_root
from offramp.core.result import Column, FigureLog, Notice, Result, hash_inputs, table_of
from offramp.cost import load_calibration
from offramp.plan.analysis import MET, Cell
from offramp.plan.coverage import coverage, most_work
from offramp.supply import facts as supply_facts
from offramp.supply.buyer import buyer_figures
from offramp.supply.foundry import BINDING
from offramp.supply.sample import rank_correlation
from offramp.supply.summary import regime_rows

F8 = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]
STEP: Final = 2
FRONTIER_DRAWS: Final = 100
"""Draws that the ban frontier uses: the first of the study's."""
SOFTWARE: Final = "software"
"""Every domestic chip does as much as the better tenth of the cost model's draws, as with mature kernels and engines."""
FALL: Final = 0.02
"""A fall of the median share by this much is explained."""
LIFTED: Final = ("HBM", "yield", "wafers", "packaging", "training suitability", SOFTWARE)


def national(
    path: str | Path, *, overrides: Sequence[str] = (), root: str | Path | None = None, keep: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Result:  # fmt: skip
    """Answers a national study.

    Args:
        path: the study, with a [national] table.
        overrides: "path=value" settings.
        root: folder of runs.
        keep: whether the answer is kept there.
        progress: told what is being done.

    Raises:
        InputError: the study or its facts are wrong.
    """
    question = facts.load(path, overrides)
    inputs = hash_inputs(
        {**question.inputs, "data": catalog.load(question.header.as_of).version, "code": code_version()}
    )
    store = RunStore(runs_root(root) if keep else None)
    run = Run(store, "plan", inputs, title=question.header.name, seed=question.header.seed)
    done = run.start()
    if done is not None:
        if progress:
            progress(f"answered before: {run.folder}")
        return done
    with failing(run):
        return run.finish(_solve(question, inputs))


def _solve(question: Question, inputs_hash: str) -> Result:
    log = FigureLog()
    run = model.draw_all(question, log=log)
    shares = domestic_share(run)
    part, table = frontier_part(frontier(model.thinned(run, FRONTIER_DRAWS), log), "USD")
    years = year_rows(run)
    views, limits = view_rows(run, years), bottlenecks(question, run)
    finding = _finding(run, shares)
    rows, drivers = coverage_rows(run, shares), driver_rows(run, shares["all"])
    kinds, most, *by_year = _findings(rows, years, limits)
    why = [most, *_why_it_falls(run, rows, limits)]
    answer: dict[str, Any] = {
        "national": question.header.country, "study": question.header.name, "as_of": question.header.as_of.isoformat(),
        "finding": finding, "headline": f"{finding}. {part['headline']}", "findings": [kinds, *why, *by_year],
        "why": why, "by_year": by_year,
        "quarters": run.quarters, "scopes": ["all", "even", *(work.id for work in question.facts.workload)],
        "coverage": rows, "years": years, "views": views, "bottlenecks": limits, "drivers": drivers, "frontier": part,
        "bridge": _bridge(run), "charts": {"coverage": _chart(rows), "frontier": part["chart"]}, "currency": "USD",
    }  # fmt: skip
    tables = _tables(rows, years, limits, views)
    tables |= {"frontier": table, "drivers": _drivers_table(drivers), "regimes": _regimes(run)}
    return Result(
        command="plan", answer=answer, inputs_hash=inputs_hash,
        data_version=catalog.load(question.header.as_of).version, tables=tables, knowledge_horizon=log.horizon,
        seed=question.header.seed, figures=log.figures, warnings=_warnings(run, log), offramp_version=__version__,
    )  # fmt: skip


def _scopes(run: National) -> dict[str, Bool]:
    """Groups of workloads by name, the whole first. [W] each"""
    works = run.question.facts.workload
    found: dict[str, Bool] = {"all work": np.ones(len(works), dtype=np.bool_)}
    found["state-funded"] = np.asarray([work.state_funded for work in works])
    for name, kind in (("inference", "serve"), ("fine-tuning", "fine-tune"), ("pre-training", "pretrain")):
        found[name] = np.asarray([work.kind == kind for work in works])
    return {name: mask for name, mask in found.items() if mask.any()}


def domestic_share(run: National, *, step: int = 1) -> dict[str, F8]:
    """Share that domestic chips alone can do. [S, Q] each

    "all": of all work together, doing what they do best. "even": the same share of every kind of work. By workload: if
    that one were served first.
    """
    chips = model.capacity(run, step=step) * run.domestic
    rate, can, wanted = model.rates(run), model.usable(run, step=step), model.demand(run, step=step)
    found = {
        "all": most_work(chips, rate, wanted, usable=can), "even": coverage(chips, rate, wanted, usable=can)[0],
    }  # fmt: skip
    for column, work in enumerate(run.question.facts.workload):
        one = np.zeros(len(run.question.facts.workload), dtype=np.bool_)
        one[column] = True
        done = np.einsum("sqc,sc,sqc->sq", chips, rate[:, :, column], can[..., column])
        found[work.id] = np.minimum(done / np.maximum(wanted[..., column], 1e-12), 1.0)
    return found


def coverage_rows(run: National, shares: dict[str, F8]) -> list[dict[str, Any]]:
    """Quantiles by quarter."""
    return [
        {"quarter": quarter, **{name: _band(values[:, t]) for name, values in shares.items()}}
        for t, quarter in enumerate(run.quarters)
    ]


def _band(values: F8) -> dict[str, float]:
    p10, p50, p90 = (float(x) for x in np.quantile(values, (0.1, 0.5, 0.9)))
    return {"p10": p10, "p50": p50, "p90": p90}


def frontier(run: National, log: FigureLog) -> list[Cell]:
    """What every ban leaves of the work it touches, with the other work kept as it would be without it."""
    step = STEP if len(run.quarters) > 6 else 1
    at = model.grid(run, step)
    rate, can, wanted = model.rates(run), model.usable(run, step=step), model.demand(run, step=step)
    free = coverage(model.capacity(run, step=step), rate, wanted, usable=can)[0]
    life = log.use("supply/buyer#support_life", buyer_figures()["support_life"]).value / 3.0
    cells: list[Cell] = []
    for kind in ("buy", "use", "support"):
        for scope, mask in _scopes(run).items():
            for start in at[:-1] if at.size > 3 else at:
                ban = _Ban(kind, scope, mask, int(start))
                done = _under_ban(run, kind, mask, int(start), life, step=step, required=free)
                cells.append(_cell(run, ban, done, free[:, at >= start]))
    return cells


def _under_ban(
    run: National, kind: str, mask: Bool, start: int, life: float, *, step: int, required: F8
) -> F8:  # fmt: skip
    """Share of the scope's work done from the ban on. [S, columns from the ban on]

    Foreign cards that a ban of part of the work leaves to other work count as a second kind of chip that the scope
    may not use: those bought after a buying ban, all under a ban of use, those beyond what still runs without support.
    """
    at = model.grid(run, step)
    q = np.arange(len(run.quarters))
    left = np.where(q >= start, np.maximum(0.0, 1.0 - (q - start + 0.5) / life), 1.0)
    whole = model.capacity(run, step=step)
    if kind == "use":
        inside = whole * run.domestic
    elif kind == "buy":
        inside = model.capacity(run, foreign_from=start, step=step)
    else:
        inside = model.capacity(run, left=left, step=step)
    after = at >= start
    rate, can, wanted = model.rates(run), model.usable(run, step=step), model.demand(run, step=step)
    outside = np.zeros_like(whole) if mask.all() else whole - inside
    chips = np.concatenate([inside, outside], axis=2)[:, after]
    both = np.concatenate([can, can & ~mask], axis=2)[:, after]
    rates = np.concatenate([rate, rate], axis=1)
    done, _ = coverage(chips, rates, wanted[:, after], usable=both, scope=mask, required=required[:, after] * 0.999)
    return np.nan_to_num(done, nan=0.0)


class _Ban(NamedTuple):
    """What is banned, for which work, and from which quarter on."""

    kind: Literal["buy", "use", "support"]
    scope: str
    mask: Bool
    start: int


def _cell(run: National, ban: _Ban, done: F8, base: F8) -> Cell:
    """What a ban leaves: the share done under it beside the share done without, from its quarter on."""
    met = (done >= MET * base).all(axis=1)
    mean, before = done.mean(axis=1), base.mean(axis=1)
    kept = np.minimum(mean / np.maximum(before, 1e-12), 1.0)
    lost = np.maximum(base - done, 0.0).mean(axis=1)
    equivalents = (run.wanted[:, -1] * run.shares[:, ban.mask].sum(axis=1)) * lost
    price = run.span_price[:, -1]
    own = (price[:, run.domestic] / np.maximum(run.rate[:, run.domestic], 1e-12)).min(axis=1)
    return Cell(
        kind=ban.kind, scope=ban.scope, quarter=run.quarters[ban.start], probability_met=float(met.mean()),
        met_p10=float(np.quantile(mean, 0.1)), met_p50=float(np.quantile(mean, 0.5)), kept_p10=float(np.quantile(kept, 0.1)),
        extra_cost=float(np.median(equivalents * own)), baseline_met_p10=float(np.quantile(before, 0.1)),
    )  # fmt: skip


def year_rows(run: National) -> list[dict[str, Any]]:
    """Domestic supply over new demand by year, in money and in work: the two ratios that published views mix."""
    rows: list[dict[str, Any]] = []
    value, work = run.span_cards * run.span_price, run.span_cards * run.rate[:, None]
    for year in sorted({name[:4] for name in run.span}):
        at = [i for i, name in enumerate(run.span) if name.startswith(year)]
        if len(at) < 4:
            continue
        money, done = (part[:, at][:, :, run.domestic].sum(axis=(1, 2)) for part in (value, work))
        bought, wanted = run.span_money[:, at].sum(axis=1), run.span_new[:, at].sum(axis=1)
        rows.append({
            "year": int(year), "quarters": 4, "finished": run.span[at[-1]] < run.quarters[0],
            "money_ratio": _band(money / bought), "work_ratio": _band(done / wanted),
            "domestic_price": _band(money / np.maximum(done, 1e-9)), "wanted_price": _band(bought / wanted),
            "domestic_equivalents": _band(done), "wanted_equivalents": _band(wanted),
            "domestic_money": _band(money), "wanted_money": _band(bought),
        })  # fmt: skip
    return rows


def view_rows(run: National, years: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Published views beside ours for the same year, and why they differ."""
    ours = {row["year"]: row for row in years}
    rows: list[dict[str, Any]] = []
    for view in run.question.facts.view:
        known = view.known_since <= run.question.header.as_of
        mine = ours.get(view.year)
        text = f"{view.who}, {view.year}: {view.value:.0%} in {view.what}"
        text += "" if known else f" (published {view.as_of}, after this study's date)"
        if mine:
            money, work = mine["money_ratio"], mine["work_ratio"]
            text += (f"; here {money['p50']:.0%} in money ({money['p10']:.0%} to {money['p90']:.0%}) and "
                     f"{work['p50']:.0%} in work ({work['p10']:.0%} to {work['p90']:.0%}).")  # fmt: skip
        else:
            text += "; outside the years of this study."
        rows.append({"who": view.who, "year": view.year, "view": view.value, "known": known, "text": text,
                     "money_p50": mine["money_ratio"]["p50"] if mine else None,
                     "money_p10": mine["money_ratio"]["p10"] if mine else None,
                     "money_p90": mine["money_ratio"]["p90"] if mine else None,
                     "work_p50": mine["work_ratio"]["p50"] if mine else None})  # fmt: skip
    return rows


def driver_rows(run: National, share: F8, *, most: int = 8) -> list[dict[str, Any]]:
    """The inputs whose ranks move the share of all work at the end most, with that share at their low and high fifth."""
    end = np.asarray(share[:, -1], dtype=np.float64)
    rows: list[dict[str, Any]] = []
    for name, values in model.inputs_of(run).items():
        low, high = np.quantile(values, (0.2, 0.8))
        if high > low:
            rows.append({
                "input": name, "rank_correlation": rank_correlation(np.asarray(values, np.float64), end),
                "share_at_low": float(np.median(end[values <= low])), "share_at_high": float(np.median(end[values >= high])),
                "rests_on": _basis(run, name),
            })  # fmt: skip
    return sorted(rows, key=lambda row: -abs(row["rank_correlation"]))[:most]


_BASIS: Final = {
    "demand: yearly fall": "equivalent_growth", "demand: price of": "equivalent", "demand: growth": "demand_growth",
    "growth of readiness": "software_ready_growth",
}  # fmt: skip


def _basis(run: National, name: str) -> str:
    """What an input rests on: the confidence of its figure, or in words where it is no single figure."""
    facts = run.question.facts
    for start, field in _BASIS.items():
        if name.startswith(start):
            return str(getattr(facts, field).confidence).replace("-", " ")
    if name == "demand: money wanted over the plan":
        return "published forecasts, extrapolated"
    if name.endswith("which source is right"):
        return "published figures that disagree"
    if name.startswith(("H20-equivalents", "software of")):
        return "cost model, few domestic measurements"
    if name.startswith("share of "):
        return "judged shares of kinds of work"
    labels = {figure.id.rsplit("#", 1)[-1]: figure.confidence for figure in run.log.figures}
    return str(labels.get(name.removeprefix("supply: "), "supply model")).replace("-", " ")


def _why_it_falls(run: National, rows: list[dict[str, Any]], limits: list[dict[str, Any]]) -> list[str]:
    """Why the share falls after its best quarter, if it does: growth of work, of what chips can do, and HBM."""
    middle = [row["all"]["p50"] for row in rows]
    best = int(np.argmax(middle))
    if middle[best] - middle[-1] < FALL:
        return []
    done = np.einsum("sqc,sc->sq", model.capacity(run)[:, :, run.domestic], run.rate[:, run.domestic])
    more = [float(np.median(part[:, -1] / np.maximum(part[:, best], 1e-9))) for part in (run.wanted, done)]
    first, last = run.quarters[best], run.quarters[-1]
    text = f"From {first} to {last} the share falls: the work wanted grows {more[0]:.1f}-fold, "
    text += f"what domestic chips can do {more[1]:.1f}-fold"
    binding = run.supply.binding
    bound = {vendor: float((found[:, -1] == BINDING.index("HBM")).mean()) for vendor, found in binding.items()}
    if bound:
        vendor = max(bound, key=lambda name: bound[name])
        text += f". In {bound[vendor]:.0%} of the draws that follow the structure of supply the stock of HBM bought "
        text += f"until 2024 is used up by then and HBM limits {vendor.title()}"
    hbm = next((row for row in limits if row["lifted"] == "HBM"), None)
    if hbm is not None and hbm["gain"] > 0.005:
        was = hbm["share_p50"] - hbm["gain"]
        text += (
            f"; with enough HBM the share at the end would be {hbm['share_p50']:.0%}, not {was:.0%} (structure alone)"
        )
    return [text + "."]


def bottlenecks(question: Question, run: National) -> list[dict[str, Any]]:
    """Share of all work that domestic chips can do at the end of the plan if one limit were lifted."""
    data = supply_facts.load()
    bare = model.draw_all(question, data=model.structure_only(data))
    column = len(run.quarters) - 1
    rows = [{"lifted": "none", "share_p50": _end_share(run, column), "base": "full mixture of sources"},
            {"lifted": "none", "share_p50": _end_share(bare, column), "base": "structure only"}]  # fmt: skip
    for name in LIFTED:
        changed = _lifted(question, bare, name, data)
        rows.append({"lifted": name, "share_p50": _end_share(changed, column), "base": "structure only"})
    base = float(rows[1]["share_p50"])
    return [{**row, "gain": float(row["share_p50"]) - base if row["base"] == "structure only" else 0.0} for row in rows]


def _lifted(question: Question, bare: National, name: str, data: Any) -> National:
    from dataclasses import replace

    if name == "training suitability":
        return replace(bare, ready=np.ones_like(bare.ready))
    if name == SOFTWARE:
        return replace(bare, rate=np.where(bare.domestic, bare.best, bare.rate))
    return model.draw_all(question, data=model.relieved(model.structure_only(data), name))


def _end_share(run: National, column: int) -> float:
    chips = (model.capacity(run) * run.domestic)[:, [column]]
    wanted = model.demand(run)[:, [column]]
    done = most_work(chips, model.rates(run), wanted, usable=model.usable(run)[:, [column]])
    return float(np.median(done))


def _finding(run: National, shares: dict[str, F8]) -> str:
    """The answer in one sentence."""
    first, last = _band(shares["all"][:, 0]), _band(shares["all"][:, -1])
    return (
        f"Domestic chips alone can do {first['p50']:.0%} ({first['p10']:.0%} to {first['p90']:.0%}) of the work wanted in "
        f"{run.quarters[0]} and {last['p50']:.0%} ({last['p10']:.0%} to {last['p90']:.0%}) in {run.quarters[-1]}"
    )


def _findings(rows: list[dict[str, Any]], years: list[dict[str, Any]], limits: list[dict[str, Any]]) -> list[str]:
    best = max((row for row in limits if row["lifted"] != "none"), key=lambda row: row["gain"])
    found = [
        f"If every kind of work must get the same share, it is {rows[0]['even']['p50']:.0%} in {rows[0]['quarter']} and "
        f"{rows[-1]['even']['p50']:.0%} in {rows[-1]['quarter']}: pre-training is what few domestic chips carry.",
        f"What holds domestic chips back most is {best['lifted']}: lifting it would raise the share of work that they "
        f"can do at the end from {best['share_p50'] - best['gain']:.0%} to {best['share_p50']:.0%} (structure alone).",
    ]
    found += [
        f"{row['year']}: new domestic cards are worth {row['money_ratio']['p50']:.0%} of the money wanted and do "
        f"{row['work_ratio']['p50']:.0%} of the new work wanted: an H20's worth of domestic inference costs "
        f"{row['domestic_price']['p50']:,.0f} USD, of foreign {row['wanted_price']['p50']:,.0f}."
        for row in years
    ]
    return found


def _bridge(run: National) -> list[str]:
    price = run.span_money.sum(axis=1) / np.maximum(run.span_new.sum(axis=1), 1e-9)
    return [
        "wanted work = money wanted / price of an H20's worth of work "
        f"(median {np.median(price):,.0f} USD over the plan, falling by a drawn rate)",
        "supplied work = cards x H20-equivalents of a card: for inference the cost model's exchange rates over the mix "
        f"({_mix_words(run)}), for training peaks x utilisation x goodput",
        _rates_words(run),
        "a ban is judged by the share that every kind of work it touches gets alike, in every draw and quarter",
        f"work in use when the plan starts: {np.median(run.wanted[:, 0] - run.new[:, 0]):,.0f} H20-equivalents",
    ]


def _mix_words(run: National) -> str:
    return ", ".join(f"{item.workload} {item.share.value:.0%}" for item in run.question.facts.mix)


def _rates_words(run: National) -> str:
    made = run.question.exchange
    dated = made.on(run.question.header.as_of) if made else None
    if made is None or dated is None:
        return "exchange rates are stated in the facts file; none was computed"
    return (f"exchange rates were computed on {made.made} by {made.tool} with parameters {made.parameters}, from facts "
            f"known on {dated.as_of}; the parameters were fitted to all measurements, later ones too")  # fmt: skip


def _chart(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = [{"quarter": row["quarter"], **row["all"]} for row in rows]
    scale = {"field": "p10", "type": "quantitative", "title": "share of all work", "axis": {"format": ".0%"}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": "Share of all work that domestic chips alone can do: median, band 10 % to 90 %",
        "data": {"values": values}, "encoding": {"x": {"field": "quarter", "type": "ordinal"}},
        "layer": [
            {"mark": {"type": "area", "opacity": 0.3}, "encoding": {"y": scale, "y2": {"field": "p90"}}},
            {"mark": "line", "encoding": {"y": {"field": "p50", "type": "quantitative"}}},
        ],
    }  # fmt: skip


def _tables(rows: Any, years: Any, limits: Any, views: Any) -> dict[str, Any]:
    flat = [
        {"quarter": row["quarter"], "scope": scope, **band} for row in rows for scope, band in row.items()
        if scope != "quarter"
    ]  # fmt: skip
    yearly = [
        {"year": row["year"], **{f"{name}_{end}": row[name][end] for name in ("money_ratio", "work_ratio")
                                 for end in ("p10", "p50", "p90")}} for row in years
    ]  # fmt: skip
    share = [Column(name=name, unit="share") for name in ("p10", "p50", "p90")]
    names = [f"{name}_{end}" for name in ("money_ratio", "work_ratio") for end in ("p10", "p50", "p90")]
    return {
        "coverage": table_of(flat, columns=["quarter", "scope", *share], title="Work that domestic chips alone can do"),
        "years": table_of(yearly, columns=["year", *names], title="Domestic supply over new demand"),
        "bottlenecks": table_of(limits, columns=["lifted", "base", "share_p50", "gain"],
                                title="If one limit were lifted"),
        "views": table_of(views, columns=["who", "year", "view", "known", "money_p50", "work_p50"],
                          title="Published views beside this answer"),
    }  # fmt: skip


def _regimes(run: National) -> Any:
    """Share of the draws in which each kind of foreign chip is open, restricted or closed, by quarter."""
    rows = [row for row in regime_rows(run.supply) if row["quarter"] in run.quarters]
    columns = ["regime", "quarter", *(Column(name=state, unit="share") for state in ("open", "restricted", "closed"))]
    return table_of(rows, columns=columns, title="Policy regimes of foreign chips")


def _drivers_table(rows: list[dict[str, Any]]) -> Any:
    shares = [Column(name=name, unit="share") for name in ("share_at_low", "share_at_high")]
    columns = ["input", "rank_correlation", *shares, "rests_on"]
    return table_of(rows, columns=columns, title="What drives the share of all work at the end")


_PRIOR: Final = "the cost model was fitted to few domestic rows, and most domestic chips lack published figures: their rates are ranges"


def _warnings(run: National, log: FigureLog) -> tuple[Notice, ...]:
    stale: tuple[Notice, ...] = ()
    made, present = run.question.exchange, load_calibration().version
    if made is not None and made.parameters != present:
        text = f"exchange rates were computed with parameters {made.parameters}; the present ones are {present}"
        stale = (Notice(kind="stale", text=f'{text}: run "make exchange"', where=run.question.facts.exchange),)
    low = Notice(kind="supply", text="replayed forecasts of supply were too low on every day tried: see the back-test")
    assumed = sum(figure.confidence == "assumed" for figure in log.figures)
    own = sum("by the cost model" in figure.source for figure in log.figures)
    return (
        Notice(kind="assumed-figure", text=f"{assumed} of {len(log.figures)} figures are assumed and {own} are this tool's "
               "exchange rates; see the figures."),
        Notice(kind="horizon", text="a ban is judged from its quarter to the end of the plan, not beyond"),
        Notice(kind="scope", text="no chip retires before 2029"),
        Notice(kind="prior", text=_PRIOR),
        low, *stale,
    )  # fmt: skip
