"""What stands behind a verdict: the facts that the rules read, and how far each is from its thresholds."""

from __future__ import annotations

from collections.abc import Sequence

from offramp.core.figure import Figure
from offramp.rules.environment import ATTRIBUTES, Value, Values, compare, number, show, truth
from offramp.rules.expr import attributes, compares
from offramp.rules.facts import ChipFacts, Context, Settings
from offramp.rules.fire import ParsedClause
from offramp.rules.formulas import DERIVED, processing_performance
from offramp.rules.records import Input, Margin

_FIGURES = {
    "die_mm2": "die_area", "dram_bw": "dram_bandwidth", "io_bw": "io_bandwidth", "app_wt": "app_wt",
    "node_nm": "node_nm", "transistors_bn": "transistors",
}  # fmt: skip
_CONTEXT = ("headquarters", "parent", "destination", "buyer", "route", "use", "site", "us_nexus")
_SHARES = ("project_complete", "foreign_share", "listed_ownership")


def margins_of(tests: Sequence[ParsedClause], values: Values) -> tuple[Margin, ...]:
    """Distance to every threshold of the rules that reach this act, once each."""
    out: dict[tuple[str, str, str, float], Margin] = {}
    for test in tests:
        if truth(test.applies, values) is False:
            continue
        for item in (*compares(test.applies), *compares(test.when)):
            if not isinstance(item.limit, float):
                continue
            span = number(values, item.attribute)
            value = span.low if span.known else None
            gap = None if value is None else value - item.limit
            out.setdefault(
                (test.rule.id, item.attribute, item.sign, item.limit),
                Margin(
                    rule=test.rule.id, quantity=item.attribute, unit=ATTRIBUTES[item.attribute].unit, sign=item.sign,
                    threshold=item.limit, value=value, margin=gap,
                    relative=gap / item.limit if gap is not None and item.limit else None,
                    holds=compare(item, values),
                ),
            )  # fmt: skip
    return tuple(out.values())


def inputs_of(
    tests: Sequence[ParsedClause], values: dict[str, Value], facts: ChipFacts, context: Context, settings: Settings
) -> tuple[Input, ...]:
    """Every fact that some rule in reach read, with its source."""
    read: set[str] = {"chip", "headquarters", "destination", "buyer", "use"}
    for test in tests:
        if truth(test.applies, values) is not False:
            read |= attributes(test.applies) | attributes(test.when)
    for name in set(read) & set(DERIVED):
        read |= set(DERIVED[name])
    return tuple(
        _input(name, values, facts, context, settings) for name in ATTRIBUTES if name in read and name != "as_of"
    )


def _input(name: str, values: dict[str, Value], facts: ChipFacts, context: Context, settings: Settings) -> Input:
    text, unit = show(name, values[name]), ATTRIBUTES[name].unit
    if name == "tpp":
        return _tpp_input(text, unit, facts, settings)
    if name in DERIVED:
        return Input(name=name, value=text, unit=unit, source=f"computed from {' and '.join(DERIVED[name])}")
    if name in _FIGURES:
        figure: Figure | None = getattr(facts, _FIGURES[name])
        if figure is not None:
            return Input(name=name, value=text, unit=unit, source=figure.source, url=figure.url,
                         confidence=figure.confidence, note=figure.note)  # fmt: skip
        return Input(name=name, value="unknown", unit=unit, source="no source gives it")
    if name == "classification" and facts.statement is not None:
        return Input(name=name, value=text, source=f"{facts.statement.source} (stated by {facts.statement.by})",
                     url=facts.statement.url)  # fmt: skip
    if name == "project_complete" and context.project_complete is None and number(values, name).known:
        return Input(name=name, value=text, unit=unit, source="assumed: a purchase is for a new project",
                     confidence="assumed")  # fmt: skip
    if name == "listed_ownership" and context.listed_ownership is None:
        return Input(name=name, value=text, unit=unit, source="assumed from the buyer's class: not stated",
                     confidence="assumed")  # fmt: skip
    source = (
        "the question" if name in (*_CONTEXT, *_SHARES, "countries") else "chip facts of the catalogue and the rules"
    )
    return Input(name=name, value=text, unit=unit, source=source)


def _tpp_input(text: str, unit: str, facts: ChipFacts, settings: Settings) -> Input:
    if facts.peaks:
        best = max(facts.peaks, key=lambda peak: processing_performance(peak.figure.si, settings.bits(peak)))
        figure = best.figure
        source = f"{figure.value:g} {figure.unit} dense {best.dtype} x {settings.bits(best):g} bits: {figure.source}"
        return Input(name="tpp", value=text, unit=unit, source=source, url=figure.url, confidence=figure.confidence,
                     note=figure.note)  # fmt: skip
    if facts.tpp is not None:
        return Input(name="tpp", value=text, unit=unit, source=facts.tpp.source, url=facts.tpp.url,
                     confidence=facts.tpp.confidence, note=facts.tpp.note)  # fmt: skip
    source = "no source gives it" if facts.tpp_below is None else "only a bound is known"
    return Input(name="tpp", value=text, unit=unit, source=source)
