"""The decision on one page (A4): what would run where, at what cost, what would turn it around, what it rests on."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from markupsafe import Markup as Html

from offramp.core.errors import InputError
from offramp.core.result import Result
from offramp.report.html import digits, join
from offramp.report.lang import FONTS, TAGS, words

MOST_FLIPS: Final = 4
MOST_RISKS: Final = 5
_STYLE: Final = """
@page{size:A4;margin:14mm}
*{box-sizing:border-box}
body{font:10.5pt/1.45 Arial,Helvetica,"Liberation Sans",FONTS;color:#1c2126;max-width:182mm;margin:0 auto;padding:6mm 0}
h1{font-size:17pt;margin:0 0 1mm}h2{font-size:11.5pt;margin:4.5mm 0 1mm;color:#0b6e99}
p,ul{margin:1mm 0}ul{padding-left:5mm}.soft{color:#5c6670;font-size:9pt}
.finding{font-size:13pt;font-weight:bold;margin:3mm 0;padding:3mm;background:#eef5f8;border-left:1.2mm solid #0b6e99}
table{border-collapse:collapse;width:100%;font-size:9.5pt}th,td{text-align:left;padding:1mm 1.5mm;
border-bottom:.2mm solid #dde2e6;vertical-align:top}th{color:#5c6670;font-weight:normal}.r{text-align:right}
.sign{display:flex;gap:6mm;margin-top:6mm}.sign div{flex:1;border-top:.2mm solid #1c2126;padding-top:1mm;font-size:9pt}
section{break-inside:avoid-page}
""".replace("FONTS", FONTS).strip()


def document(title: str, body: Html, *, lang: str) -> str:
    """A whole HTML text for printing; it loads nothing."""
    return Html(
        '<!DOCTYPE html>\n<html lang="{}"><head><meta charset="utf-8"><title>{}</title>'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"><style>{}</style></head>\n<body>{}</body></html>\n"
    ).format(TAGS[lang], title, Html(_STYLE), body)


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
    parts = [
        Html("<h1>{}</h1><p class='soft'>{}: {} {} · {} {}</p>").format(
            answer["study"],
            word["decision"],
            word["as_of"],
            answer["as_of"] or word["today"],
            word["newest"],
            result.knowledge_horizon or "–",
        ),
        Html("<p class='finding'>{}</p>").format(finding.format(moves=", ".join(moves), stays=", ".join(stays))),
        _table(answer, word),
        _flips(answer, word),
        _risks(answer, word, lang),
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
    return document(f"{answer['study']}: {word['decision']}", join(parts), lang=lang)


def span(value: dict[str, float | None]) -> str:
    """A value with its interval, or the interval alone."""
    low, mid, high = value["low"], value["mid"], value["high"]
    if low is None and mid is None and high is None:
        return "–"
    if mid is None:
        return f"{digits(low)} – {digits(high)}"
    return digits(mid) if digits(low) == digits(high) else f"{digits(mid)} ({digits(low)} – {digits(high)})"


def chip_of(work: dict[str, Any], name: str | None) -> dict[str, Any] | None:
    """The part of a workload's answer that is about one chip."""
    return next((item for item in work["chips"] if item["chip"] == name), None)


def _table(answer: dict[str, Any], word: dict[str, Any]) -> Html:
    heads = [word["workload"], word["model"], word["now"], word["becomes"], word["per_chip"],
             word["cost"].format(currency=answer["currency"]), word["change"], word["rules"]]  # fmt: skip
    rows = [_row(work, word) for work in answer["workloads"]]
    return Html("<section><h2>{}</h2><table><tr>{}</tr>{}</table><p class='soft'>{}</p></section>").format(
        word["table"], join(Html("<th>{}</th>").format(head) for head in heads), join(rows), word["interval"]
    )


def _row(work: dict[str, Any], word: dict[str, Any]) -> Html:
    base, best = chip_of(work, work["baseline"]), chip_of(work, work["recommended"])
    now = (
        f"{digits(base['chips']['mid'])} {base['name']}"
        if base and base["chips"]["mid"]
        else (base["name"] if base else "–")
    )
    if best is None:
        cells: list[str] = [word["stays"], "–", "–", "–", "–"]
    else:
        cost = best["cost_per_million_output_tokens"]
        own = base["cost_per_million_output_tokens"]["mid"] if base else None
        change = f"{cost['mid'] / own - 1:+.0%}".replace("-", "−") if cost["mid"] and own else "–"
        cells = [
            f"{span(best['chips'])} {best['name']}",
            span(best["exchange_rate"]),
            span(cost),
            change,
            verdict(best, word),
        ]
    name = work["model"].rpartition("/")[2]
    return Html("<tr>{}</tr>").format(
        join(Html("<td>{}</td>").format(cell) for cell in (work["id"], name, now, *cells))
    )


def verdict(item: dict[str, Any], word: dict[str, Any]) -> str:
    """The rules' verdict in words."""
    said = item["rules"]["verdict"]
    return str(word["verdicts"].get(said, said.replace("-", " ")))


def _flips(answer: dict[str, Any], word: dict[str, Any]) -> Html:
    lines: list[str] = []
    for flip in answer["flips"][:MOST_FLIPS]:
        assumption = word["assumptions"].get(flip["assumption"], flip["assumption"])
        work = next((w for w in answer["workloads"] if w["id"] == flip["workload"]), None)
        item = chip_of(work, flip["chip"]) if work else None
        unit = flip["unit"] if flip["unit"] not in ("chips",) else word["chips"]
        lines.append(
            word["flip"].format(
                workload=flip["workload"],
                chip=item["name"] if item else flip["chip"],
                assumption=assumption,
                now=digits(flip["now"]),
                at=digits(flip["flips_at"]),
                unit=unit,
            )
        )
    return _list(word["flips"], lines or [word["none"]])


def _list(title: str, lines: list[str]) -> Html:
    return Html("<section><h2>{}</h2><ul>{}</ul></section>").format(
        title, join(Html("<li>{}</li>").format(line) for line in lines)
    )


def _risks(answer: dict[str, Any], word: dict[str, Any], lang: str) -> Html:
    """Obstacles of the recommended chips that do not stop them, and rules that are not plainly in favour."""
    from offramp.report.lang import phrase

    lines: list[str] = []
    for work in answer["workloads"]:
        best = chip_of(work, work["recommended"])
        if best is None:
            continue
        if best["rules"]["verdict"] != "allowed":
            lines.append(f"{work['id']}: {word['rules']}: {verdict(best, word)}")
        lines += [f"{work['id']}: {phrase(blocker['text'], lang) or blocker['text']}" for blocker in best["blockers"]]
    lines = list(dict.fromkeys(lines))
    return _list(word["risks"], lines[:MOST_RISKS] or [word["none"]])


def kinds(result: Result, word: dict[str, Any]) -> list[tuple[str, int]]:
    """Kinds of evidence with the number of figures, most first."""
    counted = Counter(figure.confidence for figure in result.figures)
    return [(str(word["kinds"].get(kind, kind)), count) for kind, count in counted.most_common()]


def _evidence(result: Result, word: dict[str, Any]) -> Html:
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds(result, word))
    assumed = sum(figure.confidence == "assumed" for figure in result.figures)
    lines = [word["figures"].format(count=len(result.figures), kinds=listed)]
    lines += [word["assumed"].format(count=assumed)] if assumed else []
    return _list(word["evidence"], lines)
