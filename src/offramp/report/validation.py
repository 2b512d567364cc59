"""docs/validation.md: the table of errors, generated from left-out predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from offramp.calibrate.operators import Anchor
from offramp.cost.calibration import Calibration
from offramp.validate.exchange import Pair
from offramp.validate.judge import GroupError, binomial_band, floor_holds, judge, series_coverage
from offramp.validate.predict import KIND, Prediction

SHOWN = ("output", "tpot", "ttft")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _family(prediction: Prediction) -> str:
    return KIND.get(prediction.metric, "output")


def split_section(name: str, predictions: Sequence[Prediction]) -> list[str]:
    """Errors of one split, macro-averaged over deployments, with the coverage of the intervals."""
    targets = [p for p in predictions if p.grade in ("A", "B")]
    coverage, series = series_coverage(targets)
    low, high = binomial_band(series)
    lines = [f"### {name}", ""]
    lines.append(
        f"{len(targets):,} predictions of rows that the fit did not see, {series} series. 80 % intervals hold "
        f"{coverage:.0%} (averaged over series; {low:.0%} to {high:.0%} would agree with 80 %)."
    )
    lines.append("")
    rows: list[list[str]] = []
    for chip in sorted({p.chip for p in targets}):
        for family in SHOWN:
            mine = [p for p in targets if p.chip == chip and _family(p) == family]
            if len(mine) >= 5:
                rows.append(_split_row(chip, family, mine))
    header = (
        "chip",
        "quantity",
        "rows",
        "deployments",
        "median",
        "macro median",
        "p90",
        "bias",
        "held",
        "p90/p10",
        "roofline",
    )
    return [*lines, *_table(header, rows)]


def _split_row(chip: str, family: str, mine: Sequence[Prediction]) -> list[str]:
    groups: dict[str, list[float]] = {}
    for p in mine:
        groups.setdefault(p.deployment, []).append(abs(p.p50 / p.measured - 1.0))
    whole: GroupError = judge(mine, ("grade",))[0] if len({p.grade for p in mine}) == 1 else _merged(mine)
    macro = float(np.median([np.median(errors) for errors in groups.values()]))
    return [
        chip, family, str(len(mine)), str(len(groups)), _percent(whole.median_ape), _percent(macro), _percent(whole.p90_ape),
        f"{whole.bias:+.2f}" if whole.bias is not None else "", _percent(whole.coverage),
        f"{whole.width:.2f}" if whole.width else "", _percent(whole.roofline_ape),
    ]  # fmt: skip


def _merged(mine: Sequence[Prediction]) -> GroupError:
    return judge(mine, ("chip",))[0]


TARGETS = (
    ("H100, H200, B200 (grade A), TPOT", ("nvidia/h100", "nvidia/h200", "nvidia/b200"), ("tpot",), "A", 0.10, 0.05),
    ("H100, H200, B200 (grade A), output", ("nvidia/h100", "nvidia/h200", "nvidia/b200"), ("output",), "A", 0.10, 0.05),
    ("H20, output and prefill", ("nvidia/h20",), ("output", "prefill"), "AB", 0.10, 0.06),
    ("MI300X, MI325X, MI355X, output", ("amd/mi300x", "amd/mi325x", "amd/mi355x"), ("output",), "AB", 0.20, 0.08),
    ("MI300X, MI325X, MI355X, TPOT", ("amd/mi300x", "amd/mi325x", "amd/mi355x"), ("tpot",), "AB", 0.20, 0.08),
    ("Ascend 910B, 910C, output", ("huawei/ascend-910",), ("output",), "AB", 0.25, 0.12),
)
"""Group of chips, ids (beginnings), quantities, grades, targets on an unseen deployment and after ten of its rows."""


def targets_section(
    splits: Mapping[str, Sequence[Prediction]], quiet: frozenset[str], again: Sequence[Sequence[Prediction]] = ()
) -> list[str]:
    """What was aimed at beside what came out, macro-averaged over deployments.

    Args:
        splits: left-out predictions by split, with residuals.
        quiet: ids of rows at a concurrency of at most 16, for TTFT.
        again: the split by deployment with other seeds.
    """
    unseen, own, apart = (splits.get(name, ()) for name in ("new deployment", "after 10 own rows", "new chip"))
    chosen = [(name, _of(chips, kinds, grades), goal, near) for name, chips, kinds, grades, goal, near in TARGETS]

    def calm(p: Prediction) -> bool:
        return p.metric in ("ttft_ms_mean", "ttft_ms_median") and p.id in quiet and p.grade in ("A", "B")

    chosen.append(("TTFT at a concurrency of 16 or less", calm, 0.30, 0.15))
    rows: list[list[str]] = []
    for name, wanted, goal, _ in chosen:
        others = [_against(seed, wanted, goal)[1] for seed in again]
        rows.append([name, *_against(unseen, wanted, goal), ", ".join(others)])
    for name, kind, goal in (("a chip left out wholly, output", "output", 0.25), ("the same, TPOT", "tpot", 0.30)):
        rows.append([name, *_against(apart, _of(("",), (kind,), "AB"), goal), ""])
    header = ("group", "deployments", "median", "p90 of rows", "p90/p10", "roofline", "target", "other seeds")
    lines = ["### What was aimed at: deployments never seen", "", *_table(header, rows)]
    told = {(p.id, p.metric) for p in own}
    before = [p for p in unseen if (p.id, p.metric) in told]
    nearer: list[list[str]] = []
    for name, wanted, _, near in chosen:
        first, then = _against(before, wanted, near), _against(own, wanted, near)
        nearer.append([name, then[0], first[1], then[1], first[3], then[3], then[5]])
    header = ("group", "deployments", "median before", "after ten rows", "p90/p10 before", "after", "target")
    text = "Deployments with at least twenty rows: ten of them, drawn at random, are given, the others predicted."
    return [*lines, "### What was aimed at: after ten rows of one's own", "", text, "", *_table(header, nearer)]


def _of(chips: Sequence[str], kinds: Sequence[str], grades: str) -> Callable[[Prediction], bool]:
    return lambda p: p.chip.startswith(tuple(chips)) and _family(p) in kinds and p.grade in tuple(grades)


def _against(predictions: Sequence[Prediction], wanted: Callable[[Prediction], bool], goal: float) -> list[str]:
    """Deployments, median over them, p90 of rows, width, roofline, target."""
    groups: dict[str, list[Prediction]] = {}
    for p in predictions:
        if wanted(p):
            groups.setdefault(p.deployment, []).append(p)
    if not groups:
        return ["0", "", "", "", "", f"{goal:.0%}"]
    errors = [np.array([abs(p.p50 / p.measured - 1.0) for p in group]) for group in groups.values()]
    roof = [np.median([abs(p.roofline / p.measured - 1.0) for p in group]) for group in groups.values()]
    widths = [np.median([p.p90 / p.p10 for p in group]) for group in groups.values()]
    return [
        str(len(groups)), f"{np.median([np.median(e) for e in errors]):.0%}", f"{np.quantile(np.concatenate(errors), 0.9):.0%}",
        f"{np.median(widths):.2f}", f"{np.median(roof):.0%}", f"{goal:.0%}",
    ]  # fmt: skip


def played_section(plain: Sequence[Prediction], played: Sequence[Prediction]) -> list[str]:
    """The closed form beside the simulator that plays the harness, on the same rows and parameters."""
    known = {(p.id, p.metric): p for p in played}
    rows: list[list[str]] = []
    for family in SHOWN:
        pairs = [
            (p, known[p.id, p.metric])
            for p in plain
            if _family(p) == family and p.grade in ("A", "B") and (p.id, p.metric) in known
        ]
        if len(pairs) < 5:
            continue
        ratio = np.array([b.p50 / a.p50 for a, b in pairs])
        errors = [np.median([abs(p.p50 / p.measured - 1.0) for p in side]) for side in zip(*pairs, strict=True)]
        low, mid, high = np.quantile(ratio, [0.1, 0.5, 0.9])
        rows.append([family, str(len(pairs)), f"{mid:.2f}", f"{low:.2f} to {high:.2f}", *(f"{e:.0%}" for e in errors)])
    text = (
        "`offramp validate --simulate` plays each run in the serving simulator (start burst, number of requests, lengths drawn "
        "from the stated range, batches as the scheduler forms them) and corrects the closed form by what differs. Rows that the "
        "fit saw, so the errors here say how the two agree, not how good either is on unseen rows."
    )
    header = (
        "quantity",
        "predictions",
        "simulated / closed form",
        "10 to 90 %",
        "error closed form",
        "error simulated",
    )
    return ["## Closed form against simulator", "", text, "", *_table(header, rows)]


OPERATOR_FAMILIES = {
    "gemm_compute": "GEMM, BF16", "gemm_compute_8": "GEMM, 8 bit", "gemm_compute_4": "GEMM, 4 bit",
    "grouped_compute": "grouped GEMM (experts)", "prefill_compute": "prefill attention",
    "prefill_mla_compute": "MLA prefill", "decode_memory": "decode attention", "decode_mla_compute": "MLA decode",
    "link_efficiency": "all-reduce",
}  # fmt: skip
OPERATOR_GOAL = 0.15


def operators_section(anchors: Sequence[Anchor]) -> list[str]:
    """Errors of the kernel curves on shapes that they were not fitted to.

    Args:
        anchors: parameters fitted to tables, with their errors.
    """
    rows: list[list[str]] = []
    for parameter, family in OPERATOR_FAMILIES.items():
        mine = [one for one in anchors if one.parameter == parameter]
        if not mine:
            continue
        errors = np.array([one.median_error for one in mine])
        worst = mine[int(errors.argmax())]
        met = float(np.mean(errors <= OPERATOR_GOAL))
        shapes = sum(one.rows for one in mine)
        rows.append([
            family, str(len(mine)), f"{shapes:,}", f"{np.median(errors):.0%}", f"{met:.0%}",
            f"{errors.max():.0%} ({worst.chip}, {worst.source.rsplit('/', 1)[-1]})",
        ])  # fmt: skip
    text = (
        "Tables of single kernels (one per chip and engine) anchor the fit. Each family has three numbers per table: a share of "
        "peak, a share of bandwidth, a floor; fitted to two thirds of the shapes, judged on the third. Aimed at: 15 %. What three "
        "numbers leave out is tile and wave quantisation (GEMM), the choice among kernels by batch (grouped GEMM), and the "
        "switch between one-shot and ring algorithms (all-reduce)."
    )
    header = ("family", "tables", "shapes", "median error, left-out shapes", "tables within 15 %", "worst table")
    return ["## Kernels on left-out shapes", "", text, "", *_table(header, rows)]


def floors_section(predictions: Sequence[Prediction]) -> list[str]:
    """Regression floors judged as bounds."""
    floors = [p for p in predictions if p.grade == "floor"]
    if not floors:
        return []
    held = [floor_holds(p) for p in floors]
    rows = []
    for engine in sorted({p.engine for p in floors}):
        mine = [h for p, h in zip(floors, held, strict=True) if p.engine == engine]
        rows.append([engine, str(len(mine)), f"{np.mean(mine):.0%}"])
    text = (
        "Regression floors of continuous-integration suites are lower bounds on throughput and upper bounds on latency. A "
        "floor holds when the optimistic end of the prediction reaches it."
    )
    return ["## Floors as bounds", "", text, "", *_table(("engine", "floors", "hold"), rows)]


def pairs_section(pairs: Sequence[Pair]) -> list[str]:
    """Exchange rates, measured and predicted."""
    if not pairs:
        return []
    groups: dict[tuple[str, str, str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.base, pair.other, pair.engine, pair.model), []).append(pair)
    rows: list[list[str]] = []
    for (base, other, engine, model), members in sorted(groups.items()):
        error = float(np.median([abs(p.p50 / p.measured - 1.0) for p in members]))
        held = float(np.mean([p.p10 <= p.measured <= p.p90 for p in members]))
        measured = [p.measured for p in members]
        predicted = [p.p50 for p in members]
        rows.append(
            [f"{base} : {other}", engine, model, str(len(members)), f"{min(measured):.2f} to {max(measured):.2f}",
             f"{min(predicted):.2f} to {max(predicted):.2f}", _percent(error), _percent(held),
             f"{np.median([p.p90 / p.p10 for p in members]):.2f}"]
        )  # fmt: skip
    text = (
        "Chips of the second kind that do the work of one chip of the first, with the same engine, model, lengths and load on "
        "both. Both sides of a ratio use the same draws, so that what they have in common cancels."
    )
    header = ("chips", "engine", "model", "pairs", "measured", "predicted p50", "median error", "held", "p90/p10")
    return ["## Exchange rates", "", text, "", *_table(header, rows)]


def rows_section(predictions: Sequence[Prediction], chips: Sequence[str], *, most: int = 8) -> list[str]:
    """Grade A rows one by one, evenly spaced over each chip's rows."""
    rows: list[list[str]] = []
    for chip in chips:
        mine = [
            p
            for p in predictions
            if p.chip == chip and p.grade in ("A", "B", "floor") and _family(p) in ("output", "tpot")
        ]
        mine = sorted(mine, key=lambda p: (p.grade != "A", p.id, p.metric))
        best = [p for p in mine if p.grade == "A"] or mine
        step = max(len(best) // most, 1)
        rows += [
            [p.chip, p.engine, p.model, p.grade, p.metric, f"{p.measured:.4g}", f"{p.p10:.4g}", f"{p.p50:.4g}",
             f"{p.p90:.4g}", f"{p.p50 / p.measured - 1.0:+.0%}"]
            for p in best[::step][:most]
        ]  # fmt: skip
    header = ("chip", "engine", "model", "grade", "metric", "measured", "p10", "p50", "p90", "error")
    text = "Predictions of rows by a fit that did not see their source on that chip."
    return ["## Rows one by one", "", text, "", *_table(header, rows)]


def reliability(predictions: Sequence[Prediction]) -> list[tuple[float, float]]:
    """Nominal and held share of central intervals, from the log-normal shape of each prediction."""
    z = []
    for p in predictions:
        if p.grade in ("A", "B"):
            sd = (math.log(p.p90) - math.log(p.p10)) / 2.5631
            z.append(abs(math.log(p.measured / p.p50)) / max(sd, 1e-6))
    quantile = {0.2: 0.2533, 0.4: 0.5244, 0.5: 0.6745, 0.6: 0.8416, 0.7: 1.0364, 0.8: 1.2816, 0.9: 1.6449, 0.95: 1.96}
    return [(share, float(np.mean(np.array(z) <= limit))) for share, limit in quantile.items()] if z else []


def residual_section(calibration: Calibration) -> list[str]:
    """What the model leaves unexplained, by metric family."""
    rows = [
        [name, f"{r.group_sd:.2f}", f"{r.row_sd:.2f}", f"{r.bias:+.2f}", str(r.groups), str(r.rows)]
        for name, r in sorted(calibration.residuals.items())
    ]
    text = (
        "Standard deviations of the logarithm: of a deployment that nobody measured (source, chip, model, engine version, "
        "dtype), and of a row within one. An unseen deployment carries both, one that you calibrated only the second."
    )
    header = ("metric family", "deployment", "row", "bias", "deployments", "rows")
    return ["## Residuals", "", text, "", *_table(header, rows)]


def charts(predictions: Sequence[Prediction]) -> dict[str, dict[str, Any]]:
    """Vega-Lite specs: predicted against measured, and the reliability diagram."""
    points = [
        {"measured": p.measured, "predicted": p.p50, "chip": p.chip, "quantity": _family(p)}
        for p in predictions
        if p.grade in ("A", "B") and _family(p) in SHOWN
    ][::12]
    log = {"type": "log"}
    scatter = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": points},
        "facet": {"column": {"field": "quantity", "type": "nominal", "title": None}},
        "spec": {
            "width": 260, "height": 260, "mark": {"type": "point", "size": 8, "opacity": 0.35},
            "encoding": {
                "x": {"field": "measured", "type": "quantitative", "scale": log, "title": "measured (column's unit)"},
                "y": {"field": "predicted", "type": "quantitative", "scale": log, "title": "predicted p50"},
                "color": {"field": "chip", "type": "nominal"},
            },
        },
        "resolve": {"scale": {"x": "independent", "y": "independent"}},
        "title": "Rows that the fit did not see: predicted against measured",
    }  # fmt: skip
    curve = [{"nominal": a, "held": b, "what": "intervals"} for a, b in reliability(predictions)]
    line = [{"nominal": v, "held": v, "what": "ideal"} for v in (0.2, 0.95)]
    diagram = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": curve + line}, "width": 320,
        "height": 280, "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "nominal", "type": "quantitative", "axis": {"format": "%"}, "title": "promised share"},
            "y": {"field": "held", "type": "quantitative", "axis": {"format": "%"}, "title": "share held"},
            "color": {"field": "what", "type": "nominal", "title": None},
        },
        "title": "Reliability of intervals on left-out groups",
    }  # fmt: skip
    return {"validation-scatter": scatter, "validation-reliability": diagram}
