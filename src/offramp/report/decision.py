"""The decision on one page (A4): what would run where, at what cost, what would turn it around, what it rests on."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from markupsafe import Markup as Html

from offramp.core.errors import InputError
from offramp.core.result import Result
from offramp.report.html import digits, join
from offramp.report.lang import FONTS, TAGS, phrase, words

MOST_FLIPS: Final = 3
MOST_RISKS: Final = 5
LARGE: Final = 100.0
MOST_ROOMY: Final = 2
"""Workloads that fit one page in the larger type."""
MOST_SHOWN: Final = 6
"""Workloads that have lines of their own; the annex and the full report have all of them."""
LONG_FINDING: Final = 260
"""Letters from which on the finding names no chips: the table does."""
LONG_NAME: Final = 40
"""Letters of a workload's name from which on its middle is left out."""
MOST_QUARTERS: Final = 8
FREE: Final = ("allowed", "discouraged", "notification", "conditional", "quota", "unknown", "indeterminate")
"""Verdicts of the rules that do not keep a buyer from buying."""
_STYLE: Final = """
@page{size:A4;margin:14mm;@bottom-right{content:counter(page) " / " counter(pages);font-size:8pt;color:#5c6670}}
*{box-sizing:border-box}
body{font:10.5pt/1.45 Arial,Helvetica,"Liberation Sans",FONTS;color:#1c2126;max-width:182mm;margin:0 auto;padding:6mm 0}
h1{font-size:17pt;margin:0 0 1mm}h2{font-size:11.5pt;margin:4.5mm 0 1mm;color:#0b6e99}
p,ul{margin:1mm 0}ul{padding-left:5mm}.soft{color:#5c6670;font-size:9pt}
.finding{font-size:13pt;font-weight:bold;margin:3mm 0;padding:3mm;background:#eef5f8;border-left:1.2mm solid #0b6e99}
table{border-collapse:collapse;width:100%;font-size:9.5pt}th,td{text-align:left;padding:1mm 1.5mm;
border-bottom:.2mm solid #dde2e6;vertical-align:top}th{color:#5c6670;font-weight:normal}.r{text-align:right}
:lang(zh) td:not(:last-child),:lang(zh) th{word-break:keep-all;overflow-wrap:break-word}
.sign{display:flex;gap:6mm;margin-top:6mm}.sign div{flex:1;border-top:.2mm solid #1c2126;padding-top:1mm;font-size:9pt}
h2{break-after:avoid}tr,li{break-inside:avoid}@media print{body{padding:0}}
.dense{font-size:9.5pt;line-height:1.35}.dense table{font-size:9pt}.dense h2{margin-top:3mm}.dense .finding{font-size:11.5pt}
.tiny{font-size:8.5pt;line-height:1.3}.tiny table{font-size:8pt}.tiny th,.tiny td{padding:.5mm 1.5mm}.tiny h2{margin-top:2.5mm}
.tiny .finding{font-size:10.5pt;padding:2mm}.tiny .sign{margin-top:4mm}
""".replace("FONTS", FONTS).strip()


def document(title: str, body: Html, *, lang: str, size: str = "") -> str:
    """A whole HTML text for printing; it loads nothing. ``size`` is a class of the style."""
    return Html(
        '<!DOCTYPE html>\n<html lang="{}"><head><meta charset="utf-8"><title>{}</title>'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"><style>{}</style></head>\n<body class='{}'>{}</body></html>\n"
    ).format(TAGS[lang], title, Html(_STYLE), size, body)


def page(result: Result, *, lang: str = "en") -> str:
    """The one-page decision of an assessment.

    Raises:
        InputError: a Result of another command, or an unknown language.
    """
    if result.command != "assess":
        raise InputError(
            f'a one-page decision is made of an assessment, not of "{result.command}"', where="--format decision"
        )
    word = words(lang)
    answer = result.answer
    moves = [work["id"] for work in answer["workloads"] if work["recommended"]]
    stays = [work["id"] for work in answer["workloads"] if not work["recommended"]]
    finding = word["finding_all"] if not stays else word["finding_some"] if moves else word["finding_none"]
    finding = finding.format(moves=word["comma"].join(moves), stays=word["comma"].join(stays))
    headline = answer["decision"]["headline"] + "." if answer.get("decision") else ""
    if headline and (len(headline) <= LONG_FINDING or not answer["workloads"]):
        finding = phrase(headline, lang) or (finding if answer["workloads"] else headline)
    elif len(finding) > LONG_FINDING:
        finding = word["finding_count"].format(moves=len(moves), count=len(moves) + len(stays))
    shown, rest = largest(answer)
    parts = [
        Html("<h1>{}</h1><p class='soft'>{}{}{} {} · {} {}</p>").format(
            answer["study"],
            word["decision"],
            word["colon"],
            word["as_of"],
            answer["as_of"] or word["today"],
            word["newest"],
            result.knowledge_horizon or "–",
        ),
        Html("<p class='finding'>{}</p>").format(finding),
        _table(shown, rest, word) if answer["workloads"] else Html(""),
        training(answer, word, lang),
        _when(result, shown, word),
        _others(shown, word, lang),
        _flips(shown, word, lang),
        _risks(shown, word, lang),
        _evidence(result, word),
        Html("<div class='sign'><div>{}</div><div>{}</div><div>{}</div></div>").format(
            word["decide"], word["date"], word["signed"]
        ),
        Html("<p class='soft'>{}</p>").format(
            word["hash"].format(
                inputs=result.inputs_hash[:16],
                data=result.data_version,
                version=result.offramp_version,
                seed=result.seed,
            )
        ),
    ]
    count = len(answer["workloads"])
    size = "" if count <= MOST_ROOMY else "dense" if count <= 2 * MOST_ROOMY else "dense tiny"
    return document(f"{answer['study']}: {word['decision']}", join(parts), lang=lang, size=size)


def largest(answer: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The answer with the workloads that hold most chips, in the study's order, and the workloads left out."""

    def held(work: dict[str, Any]) -> float:
        base = chip_of(work, work["baseline"])
        return float((base["chips"]["mid"] if base else None) or 0.0)

    works = answer["workloads"]
    kept = sorted(works, key=held, reverse=True)[:MOST_SHOWN]
    ids = {work["id"] for work in kept}
    shown = [work for work in works if work["id"] in ids]
    flips = [flip for flip in answer["flips"] if flip["workload"] in ids]
    return {**answer, "workloads": shown, "flips": flips}, [work for work in works if work["id"] not in ids]


def brief(name: str) -> str:
    """A name that fits a column: the middle of a long one is left out."""
    return name if len(name) <= LONG_NAME else f"{name[:24]}…{name[-14:]}"


def training(answer: dict[str, Any], word: dict[str, Any], lang: str) -> Html:
    """What the assessment says of training runs; nothing where the study has none."""
    said = (answer.get("decision") or {}).get("training", ())
    return _list(word["training"], [phrase(text, lang) or text for text in said]) if said else Html("")


def span(value: dict[str, float | None], *, whole: bool = False) -> str:
    """A value with its interval, or the interval alone; ``whole`` for things that are counted."""
    show = counted if whole else digits
    low, mid, high = value["low"], value["mid"], value["high"]
    if low is None and mid is None and high is None:
        return "–"
    end = show(high) if high is not None else "∞"
    if mid is None:
        return f"{show(low)} – {end}"
    return show(mid) if show(low) == end else f"{show(mid)} ({show(low)} – {end})"


def counted(value: float | None) -> str:
    """A number of things: never a fraction of one."""
    return "–" if value is None else digits(value) if value >= LARGE else f"{value:.0f}"


def chip_of(work: dict[str, Any], name: str | None) -> dict[str, Any] | None:
    """The part of a workload's answer that is about one chip."""
    return next((item for item in work["chips"] if item["chip"] == name), None)


def _table(answer: dict[str, Any], rest: list[dict[str, Any]], word: dict[str, Any]) -> Html:
    heads = [word["workload"], word["model"], word["now"], word["becomes"], word["per_chip"],
             word["cost"].format(currency=answer["currency"]), word["change"], word["rules"]]  # fmt: skip
    rows = [_row(work, word) for work in answer["workloads"]]
    if rest:
        bases = [chip_of(work, work["baseline"]) for work in rest]
        chips = sum(float((base["chips"]["mid"] if base else None) or 0.0) for base in bases)
        left = sum(work["recommended"] is None for work in rest)
        text = word["more"].format(count=len(rest), chips=counted(chips), left=left)
        rows.append(Html("<tr><td colspan='{}'>{}</td></tr>").format(len(heads), text))
    return Html("<section><h2>{}</h2><table><tr>{}</tr>{}</table><p class='soft'>{}</p></section>").format(
        word["table"], join(Html("<th>{}</th>").format(head) for head in heads), join(rows), word["interval"]
    )


def _row(work: dict[str, Any], word: dict[str, Any]) -> Html:
    base, best = chip_of(work, work["baseline"]), chip_of(work, work["recommended"])
    now = (
        f"{counted(base['chips']['mid'])} {_short(base)}"
        if base and base["chips"]["mid"]
        else (_short(base) if base else "–")
    )
    if best is None:
        cells: list[str] = [word["stays"], "–", "–", "–", "–"]
    else:
        cost = best["cost_per_million_output_tokens"]
        own = base["cost_per_million_output_tokens"]["mid"] if base else None
        change = f"{cost['mid'] / own - 1:+.0%}".replace("-", "−") if cost["mid"] and own else "–"
        cells = [
            f"{span(best['chips'], whole=True)} {_short(best)}",
            span(best["exchange_rate"]),
            span(cost),
            change,
            verdict(best, word),
        ]
    name = work["model"].rpartition("/")[2]
    return Html("<tr>{}</tr>").format(
        join(Html("<td>{}</td>").format(cell) for cell in (brief(work["id"]), name, now, *cells))
    )


def verdict(item: dict[str, Any], word: dict[str, Any]) -> str:
    """The rules' verdict in words."""
    said = item["rules"]["verdict"]
    return str(word["verdicts"].get(said, said.replace("-", " ")))


def _flips(answer: dict[str, Any], word: dict[str, Any], lang: str) -> Html:
    """What would turn the recommendations around, the nearest first."""
    chosen = {(work["id"], work["recommended"]) for work in answer["workloads"]}
    mine = [flip for flip in answer["flips"] if (flip["workload"], flip["chip"]) in chosen]
    near = sorted(mine or answer["flips"], key=distance)[:MOST_FLIPS]
    return _list(word["flips"], [_flip(flip, answer, word, lang) for flip in near] or [word["none"]])


def distance(flip: dict[str, Any]) -> float:
    """How far a flip is from where things stand, as a ratio less one; large where it is not a matter of degree."""
    now, at = flip["now"], flip["flips_at"]
    ratio = at / now if now and at else 0.0
    return max(ratio, 1.0 / ratio) - 1.0 if ratio > 0 else 9.0


def _flip(flip: dict[str, Any], answer: dict[str, Any], word: dict[str, Any], lang: str) -> str:
    """The flip's own sentence, or one made of its numbers where the language lacks it."""
    own = phrase(flip["text"], lang) if flip.get("text") else None
    if own is not None:
        return own
    work = next((w for w in answer["workloads"] if w["id"] == flip["workload"]), None)
    item = chip_of(work, flip["chip"]) if work else None
    return str(word["flip"]).format(
        workload=flip["workload"], chip=item["name"] if item else flip["chip"],
        assumption=word["assumptions"].get(flip["assumption"], flip["assumption"]), now=digits(flip["now"]),
        at=digits(flip["flips_at"]), unit=word["chips"] if flip["unit"] == "chips" else flip["unit"],
    )  # fmt: skip


def _others(answer: dict[str, Any], word: dict[str, Any], lang: str) -> Html:
    """Chips that were assessed and not chosen, with the reason, a line each workload."""
    said: list[tuple[str, str]] = []
    for work in answer["workloads"]:
        best = chip_of(work, work["recommended"])
        parts = [
            word["because"].format(what=_short(item), why=_why_not(item, best, word, lang))
            for item in work["chips"] if not item["is_baseline"] and item is not best
        ]  # fmt: skip
        if parts:
            said.append((brief(work["id"]), word["comma"].join(parts)))
    return _list(word["others"], _together(said, word)) if said else Html("")


def _short(item: dict[str, Any]) -> str:
    return str(item.get("short_name") or item["name"])


def _together(said: list[tuple[str, str]], word: dict[str, Any]) -> list[str]:
    """One line for all workloads of which the same is said."""
    by_text: dict[str, list[str]] = {}
    for name, text in said:
        by_text.setdefault(text, [])
        if name not in by_text[text]:
            by_text[text].append(name)
    return [f"{word['comma'].join(names)}{word['colon']}{text}" for text, names in by_text.items()]


def _why_not(item: dict[str, Any], best: dict[str, Any] | None, word: dict[str, Any], lang: str) -> str:
    cost = item["cost_per_million_output_tokens"]
    own = best["cost_per_million_output_tokens"]["mid"] if best else None
    stops = [blocker["text"].partition(":")[0] for blocker in item["blockers"] if blocker["stops"]]
    if stops:
        return phrase(stops[0], lang) or stops[0]
    if item["status"] == "range":
        return str(word["other_range"])
    if item["rules"]["verdict"] not in FREE:
        return f"{word['rules']}{word['colon']}{verdict(item, word)}"
    if cost["mid"] and own and cost["mid"] > own:
        return str(word["other_dearer"]).format(times=f"{cost['mid'] / own:.2g}")
    if cost["mid"] is None:
        return str(word["other_unpriced"])
    return str(word["statuses"].get(item["status"], item["status"]))


def _when(result: Result, answer: dict[str, Any], word: dict[str, Any]) -> Html:
    """Chips of the recommendation by quarter."""
    if "quarters" not in result.tables:
        return Html("")
    best = {work["id"]: work["recommended"] for work in answer["workloads"] if work["recommended"]}
    held: dict[str, dict[str, str]] = {name: {} for name in best}
    for row in result.tables["quarters"].dicts():
        name = str(row["workload"])
        if row["chip"] == best.get(name) and isinstance(row["chips_mid"], (int, float)):
            held[name][str(row["quarter"])] = counted(row["chips_mid"])
    quarters = sorted({quarter for row in held.values() for quarter in row})[:MOST_QUARTERS]
    if len(quarters) < 2:
        return Html("")
    heads = join(Html("<th class='r'>{}</th>").format(quarter) for quarter in quarters)
    rows = join(
        Html("<tr><td>{}</td>{}</tr>").format(
            brief(name), join(Html("<td class='r'>{}</td>").format(row.get(quarter, "–")) for quarter in quarters)
        )
        for name, row in held.items()
        if len(row) > 1
    )
    return Html("<section><h2>{}</h2><table><tr><th>{}</th>{}</tr>{}</table></section>").format(
        word["when"], word["workload"], heads, rows
    )


def _list(title: str, lines: list[str]) -> Html:
    return Html("<section><h2>{}</h2><ul>{}</ul></section>").format(
        title, join(Html("<li>{}</li>").format(line) for line in lines)
    )


def _risks(answer: dict[str, Any], word: dict[str, Any], lang: str) -> Html:
    """Obstacles of the recommended chips that do not stop them, and rules that are not plainly in favour."""
    said: list[tuple[str, str]] = []
    for work in answer["workloads"]:
        best = chip_of(work, work["recommended"])
        if best is None:
            continue
        if best["rules"]["verdict"] != "allowed":
            said.append((brief(work["id"]), f"{word['rules']}{word['colon']}{verdict(best, word)}"))
        said += [(brief(work["id"]), phrase(blocker["text"], lang) or blocker["text"]) for blocker in best["blockers"]]
    return _list(word["risks"], _together(said, word)[:MOST_RISKS] or [word["none"]])


def kinds(result: Result, word: dict[str, Any]) -> list[tuple[str, int]]:
    """Kinds of evidence with the number of figures, most first."""
    counted = Counter(figure.confidence for figure in result.figures)
    return [(str(word["kinds"].get(kind, kind)), count) for kind, count in counted.most_common()]


def _evidence(result: Result, word: dict[str, Any]) -> Html:
    listed = word["comma"].join(
        word["kind_count"].format(count=count, kind=kind) for kind, count in kinds(result, word)
    )
    assumed = sum(figure.confidence == "assumed" for figure in result.figures)
    lines = [word["figures"].format(count=len(result.figures), kinds=listed)]
    lines += [word["assumed"].format(count=assumed)] if assumed else []
    return _list(word["evidence"], lines)
