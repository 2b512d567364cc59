"""The attributes that conditions may name, and their values for one chip, act and day."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from offramp.core.figure import Figure
from offramp.core.record import Record
from offramp.rules.expr import Compare, Flag, Group, Member, Node, Not
from offramp.rules.facts import BUYERS, ROUTES, USES, ChipFacts, Context, Settings, gb_per_s
from offramp.rules.formulas import DERIVED, combine, performance_density, total_processing_performance
from offramp.rules.span import UNKNOWN, Span, Truth, exactly, opposite

Value = Span | str | tuple[str, ...] | dt.date | bool | None
Values = Mapping[str, Value]


class Attribute(Record):
    """An attribute that conditions may name.

    Attributes:
        kind: "number", "flag", "text", "texts" (several words) or "date".
        words: admissible words; () where any goes.
    """

    kind: str
    meaning: str
    unit: str = ""
    words: tuple[str, ...] = ()


_CLASSES: Final = ("unstated", "3A090", "3A090.a", "3A090.b", "not-3A090")
ATTRIBUTES: Final[dict[str, Attribute]] = {
    "chip": Attribute(kind="text", meaning="catalogue id; * in a list stands for any letters"),
    "vendor": Attribute(kind="text", meaning="vendor part of the id (nvidia, amd, huawei)"),
    "item": Attribute(kind="text", meaning="what is traded", words=("ic", "hbm", "wafer", "computer")),
    "datacenter": Attribute(kind="flag", meaning="designed or marketed for data centres"),
    "prc_designed": Attribute(kind="flag", meaning="designed by a firm headquartered in mainland China, HK or Macau"),
    "foreign": Attribute(kind="flag", meaning="not designed in China"),
    "classification": Attribute(kind="text", meaning="stated by an authority or the vendor", words=_CLASSES),
    "launched": Attribute(kind="date", meaning="commercially available since; unknown makes every comparison false"),
    "tpp": Attribute(kind="number", meaning="total processing performance", unit="TOPS x bit"),
    "pd": Attribute(kind="number", meaning="performance density", unit="TOPS x bit/mm2"),
    "die_mm2": Attribute(kind="number", meaning="applicable die area", unit="mm2"),
    "dram_bw": Attribute(kind="number", meaning="memory bandwidth", unit="GB/s"),
    "io_bw": Attribute(kind="number", meaning="I/O bandwidth, both directions together", unit="GB/s"),
    "dram_plus_io": Attribute(kind="number", meaning="memory plus I/O bandwidth", unit="GB/s"),
    "hbm_density": Attribute(kind="number", meaning="bandwidth per area of an HBM stack", unit="GB/s/mm2"),
    "app_wt": Attribute(kind="number", meaning="adjusted peak performance of a computer", unit="WT"),
    "node_nm": Attribute(kind="number", meaning="process node of a wafer", unit="nm"),
    "transistors_bn": Attribute(kind="number", meaning="transistors of the packaged chip", unit="bn"),
    "has_hbm": Attribute(kind="flag", meaning="the package holds HBM"),
    "attested": Attribute(kind="flag", meaning="an approved designer or packager attests that it is below 3A090.a"),
    "packaged_outside_d5": Attribute(kind="flag", meaning="packaged outside Macau and country group D:5"),
    "destination": Attribute(kind="text", meaning="country that the chip goes to or stands in"),
    "headquarters": Attribute(kind="text", meaning="country of the buyer's or user's headquarters"),
    "parent": Attribute(kind="text", meaning="country of the ultimate parent"),
    "countries": Attribute(kind="texts", meaning="destination, headquarters and ultimate parent: any of them"),
    "buyer": Attribute(kind="text", meaning="class of the buyer", words=BUYERS),
    "route": Attribute(kind="text", meaning="way of the chip", words=ROUTES),
    "use": Attribute(kind="text", meaning="what is done with the chip", words=USES),
    "site": Attribute(kind="text", meaning="province or city, lower case"),
    "project_complete": Attribute(kind="number", meaning="share of the project that is built", unit="share"),
    "foreign_share": Attribute(kind="number", meaning="share of foreign chips after the act", unit="share"),
    "listed_ownership": Attribute(kind="number", meaning="share owned by listed parties", unit="share"),
    "us_nexus": Attribute(kind="flag", meaning="US persons or US-controlled firms are involved"),
    "offshore_as_china": Attribute(kind="flag", meaning="setting offshore_review is as-china"),
    "as_of": Attribute(kind="date", meaning="the day asked about"),
}
"""Every attribute that a condition may name."""
SHARES: Final = ("project_complete", "foreign_share", "listed_ownership")
STATE_FUNDED: Final = ("state-funded", "state-owned", "government")


def environment(facts: ChipFacts, context: Context, as_of: dt.date, settings: Settings) -> dict[str, Value]:
    """Value of every attribute; what nobody knows is an open Span, or None for a yes/no."""
    values: dict[str, Value] = {
        "chip": facts.id, "vendor": facts.vendor, "item": facts.item, "datacenter": facts.datacenter,
        "prc_designed": facts.prc_designed, "foreign": not facts.prc_designed,
        "classification": facts.statement.value if facts.statement else "unstated",
        "launched": facts.launched, "has_hbm": facts.has_hbm, "attested": facts.attested,
        "packaged_outside_d5": facts.packaged_outside_d5, "us_nexus": context.us_nexus,
        "destination": context.destination_country, "headquarters": context.headquarters,
        "parent": context.parent_country, "buyer": context.buyer, "route": context.route, "use": context.use,
        "countries": (context.destination_country, context.headquarters, context.parent_country),
        "site": context.site.strip().lower().replace(" ", "-"), "as_of": as_of,
        "offshore_as_china": settings.offshore_review == "as-china",
        "tpp": tpp_span(facts, settings), "die_mm2": die_span(facts, settings),
        "dram_bw": _bandwidth(facts.dram_bandwidth), "io_bw": _bandwidth(facts.io_bandwidth),
        "app_wt": _plain(facts.app_wt), "node_nm": _plain(facts.node_nm),
        "transistors_bn": _plain(facts.transistors),
        "project_complete": _share(_project(context)), "foreign_share": _share(context.foreign_share),
        "listed_ownership": exactly(_ownership(context)),
    }  # fmt: skip
    return with_derived(values)


def with_derived(values: Values) -> dict[str, Value]:
    """The values with PD, bandwidth density and the bandwidth sum computed from them."""
    out = dict(values)
    for name, (first, second) in DERIVED.items():
        a, b = number(values, first), number(values, second)
        if UNKNOWN in (a, b) or (name != "dram_plus_io" and b.low <= 0):
            out[name] = UNKNOWN if name != "dram_plus_io" else Span(low=a.low + b.low)
            continue
        sum_ = name == "dram_plus_io"
        low = combine(name, a.low, b.low if sum_ else b.high)
        high = combine(name, a.high, b.high if sum_ else b.low)
        out[name] = Span(low=low, high=high, open_high=a.open_high or (sum_ and b.open_high))
    return out


def number(values: Values, name: str) -> Span:
    """The span of a numeric attribute."""
    value = values[name]
    return value if isinstance(value, Span) else UNKNOWN


def tpp_span(facts: ChipFacts, settings: Settings) -> Span:
    """TPP from the peaks, else as stated, else what its bound allows."""
    if facts.peaks:
        peaks = [(peak.dtype, peak.figure.si, settings.bits(peak)) for peak in facts.peaks]
        return exactly(total_processing_performance(peaks, aggregation=settings.aggregation))
    if facts.tpp is not None:
        return exactly(facts.tpp.value)
    return UNKNOWN if facts.tpp_below is None else Span(high=facts.tpp_below, open_high=True)


def die_span(facts: ChipFacts, settings: Settings) -> Span:
    """Applicable die area in mm2."""
    if facts.die_area is None:
        return UNKNOWN
    extra = facts.io_die_area.si if facts.io_die_area and settings.die_area == "all-logic" else 0.0
    return exactly(facts.die_area.si + extra)


def density(facts: ChipFacts, settings: Settings) -> float | None:
    """PD, where TPP and die area are known."""
    tpp, die = tpp_span(facts, settings), die_span(facts, settings)
    return performance_density(tpp.low, die.low) if tpp.known and die.known and die.low > 0 else None


def _bandwidth(figure: Figure | None) -> Span:
    return UNKNOWN if figure is None else exactly(gb_per_s(figure))


def _plain(figure: Figure | None) -> Span:
    return UNKNOWN if figure is None else exactly(figure.value)


def _share(value: float | None) -> Span:
    return Span(high=1.0) if value is None else exactly(value)


def _project(context: Context) -> float | None:
    if context.project_complete is None and context.use == "buy" and context.buyer in STATE_FUNDED:
        return 0.0
    return context.project_complete


def _ownership(context: Context) -> float:
    if context.listed_ownership is not None:
        return context.listed_ownership
    return 1.0 if context.buyer == "listed-affiliate" else 0.0


def truth(node: Node, values: Values, unsure: set[str] | None = None) -> Truth:
    """Kleene value of a condition; where it is unknown, ``unsure`` gets the attributes that it hangs on."""
    if isinstance(node, Group):
        return _group(node, values, unsure)
    if isinstance(node, Not):
        return opposite(truth(node.inner, values, unsure))
    if isinstance(node, Member):
        return _member(node, values)
    found = _flag(node, values) if isinstance(node, Flag) else compare(node, values)
    if found is None and unsure is not None:
        unsure.add(node.attribute)
    return found


def _group(node: Group, values: Values, unsure: set[str] | None) -> Truth:
    decisive = node.kind == "any"
    own: set[str] = set()
    found: Truth = not decisive
    for part in node.parts:
        here = truth(part, values, own)
        if here is decisive:
            return decisive
        if here is None:
            found = None
    if found is None and unsure is not None:
        unsure |= own
    return found


def _flag(node: Flag, values: Values) -> Truth:
    value = values[node.attribute]
    return value if isinstance(value, bool) else None


def _member(node: Member, values: Values) -> bool:
    value = values[node.attribute]
    words = value if isinstance(value, tuple) else (value,)
    exact, globs = _patterns(node.patterns)
    return any(
        word in exact or any(fnmatchcase(word, glob) for glob in globs) for word in words if isinstance(word, str)
    )


@functools.cache
def _patterns(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Plain words, and patterns with an asterisk."""
    return frozenset(patterns), tuple(pattern for pattern in patterns if "*" in pattern)


def compare(node: Compare, values: Values) -> Truth:
    """Kleene value of one comparison."""
    value = values[node.attribute]
    if isinstance(node.limit, dt.date):
        return _compare_dates(node.sign, value, node.limit)
    span = value if isinstance(value, Span) else UNKNOWN
    if node.sign == ">=":
        return span.at_least(node.limit)
    if node.sign == "<":
        return opposite(span.at_least(node.limit))
    if node.sign == ">":
        return span.more_than(node.limit)
    return opposite(span.more_than(node.limit))


def _compare_dates(sign: str, value: Value, limit: dt.date) -> bool:
    if not isinstance(value, dt.date):
        return False
    return {">=": value >= limit, ">": value > limit, "<=": value <= limit, "<": value < limit}[sign]


def show(name: str, value: Value) -> str:
    """A value in words."""
    if isinstance(value, Span):
        if value.known:
            return f"{value.low:.6g}"
        if value.high == UNKNOWN.high:
            return "unknown" if value.low <= 0 else f"at least {value.low:.6g}"
        return f"{'below' if value.open_high else 'at most'} {value.high:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(dict.fromkeys(word for word in value if word))
    return "unknown" if value is None else str(value) or "none"


def shares_in_range(context: Context) -> str:
    """Name of the first share of the context that is not between 0 and 1; "" when all are."""
    for name in SHARES:
        value = getattr(context, name)
        if value is not None and not 0.0 <= value <= 1.0:
            return name
    return ""
