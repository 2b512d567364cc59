"""What must hold for any chip, buyer and day."""

from __future__ import annotations

import datetime as dt
import math
import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.errors import InputError
from offramp.rules import RANK, ChipFacts, Context, Peak, Settings, load, verdict
from offramp.rules.cases import parse_performance
from offramp.rules.environment import ATTRIBUTES, environment
from offramp.rules.expr import ExpressionError, Vocabulary, parse
from offramp.rules.facts import BUYERS, ROUTES, USES
from offramp.rules.facts import given as stated
from offramp.rules.fire import fire
from offramp.rules.formulas import DERIVED, combine, performance_density, solve, total_processing_performance
from offramp.rules.unknowns import explore

DAY = dt.date(2024, 1, 1)
FACTS = ("die_area", "dram_bandwidth", "io_bandwidth", "peaks", "datacenter")

numbers = st.floats(min_value=1.0, max_value=20_000.0, allow_nan=False)
days = st.dates(dt.date(2022, 8, 1), dt.date(2029, 1, 1))
countries = st.sampled_from(["CN", "HK", "MO", "US", "DE", "SG", "MY", "AE", "RU", "IN"])
shares = st.none() | st.floats(min_value=0.0, max_value=1.0)


def chip(
    tops: float,
    die: float,
    dram: float,
    io: float,
    *,
    datacenter: bool = True,
    vendor: str = "nvidia",
    prc: bool = False,
) -> ChipFacts:
    return ChipFacts(
        id=f"{vendor}/any", vendor=vendor, datacenter=datacenter, prc_designed=prc,
        peaks=(Peak(dtype="fp8", figure=stated(tops, "TOPS", "test", DAY)),), die_area=stated(die, "mm2", "test", DAY),
        dram_bandwidth=stated(dram, "GB/s", "test", DAY), io_bandwidth=stated(io, "GB/s", "test", DAY),
    )  # fmt: skip


chips = st.builds(
    chip, numbers, st.floats(min_value=50.0, max_value=2000.0), numbers, numbers, datacenter=st.booleans(),
    vendor=st.sampled_from(["nvidia", "amd", "huawei", "google"]), prc=st.booleans(),
)  # fmt: skip
contexts = st.builds(
    Context, headquarters=countries, parent=st.just("") | countries, destination=st.just("") | countries,
    buyer=st.sampled_from(BUYERS), route=st.sampled_from(ROUTES), use=st.sampled_from(USES),
    site=st.sampled_from(["", "shanghai", "beijing", "guiyang"]), project_complete=shares, foreign_share=shares,
    listed_ownership=shares, us_nexus=st.booleans(), jurisdiction=st.sampled_from(["US", "CN", "both"]),
    include_drafts=st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(facts=chips, context=contexts, day=days, hidden=st.sets(st.sampled_from(FACTS), min_size=1, max_size=3))
def test_what_a_missing_fact_may_turn_out_to_be_is_among_the_possible(
    facts: ChipFacts, context: Context, day: dt.date, hidden: set[str]
) -> None:
    full = verdict(facts, context, day)
    blind = verdict(
        msgspec.structs.replace(facts, **{name: () if name == "peaks" else None for name in hidden}), context, day
    )
    assert set(full.possible) <= set(blind.possible)
    if blind.verdict != "indeterminate":
        assert full.verdict == blind.verdict
    else:
        assert blind.missing


@settings(max_examples=60, deadline=None)
@given(
    tops=st.floats(min_value=200.0, max_value=599.0),
    context=contexts,
    day=st.dates(dt.date(2023, 11, 17), dt.date(2026, 1, 1)),
)
def test_an_indeterminate_verdict_switches_exactly_at_the_solved_threshold(
    tops: float, context: Context, day: dt.date
) -> None:
    context = msgspec.structs.replace(context, jurisdiction="US")
    facts = chip(tops, 1.0, 500.0, 100.0, vendor="google")
    answer = verdict(msgspec.structs.replace(facts, die_area=None), context, day)
    for switch in (item for item in answer.switches if item.fact == "die_mm2"):
        assert switch.at is not None

        def at(die: float) -> set[str]:
            found = verdict(msgspec.structs.replace(facts, die_area=stated(die, "mm2", "t", DAY)), context, day)
            return set(found.possible)

        assert at(switch.at * (1 - 1e-6)) == set(switch.below)
        assert at(switch.at * (1 + 1e-6)) == set(switch.above)
        assert at(switch.at) == set(switch.above if switch.included else switch.below)


@settings(max_examples=60, deadline=None)
@given(facts=chips, more=st.floats(min_value=1.0, max_value=10.0), context=contexts, day=days)
def test_more_compute_is_never_freer_under_the_us_rules(
    facts: ChipFacts, more: float, context: Context, day: dt.date
) -> None:
    context = msgspec.structs.replace(context, jurisdiction="US", listed_ownership=0.0)
    peak = facts.peaks[0]
    faster = msgspec.structs.replace(
        facts, peaks=(Peak(dtype="fp8", figure=msgspec.structs.replace(peak.figure, value=peak.figure.value * more)),)
    )
    slow, fast = verdict(facts, context, day), verdict(faster, context, day)
    assert RANK[fast.possible[-1]] >= RANK[slow.possible[-1]]
    assert RANK[fast.possible[0]] >= RANK[slow.possible[0]]


@settings(max_examples=60, deadline=None)
@given(facts=chips, more=st.floats(min_value=1.0, max_value=10.0), context=contexts, day=days)
def test_more_bandwidth_is_never_freer_under_the_us_rules(
    facts: ChipFacts, more: float, context: Context, day: dt.date
) -> None:
    context = msgspec.structs.replace(context, jurisdiction="US", listed_ownership=0.0)
    wider = msgspec.structs.replace(
        facts,
        dram_bandwidth=msgspec.structs.replace(facts.dram_bandwidth, value=facts.dram_bandwidth.value * more),  # type: ignore[union-attr,type-var]
        io_bandwidth=msgspec.structs.replace(facts.io_bandwidth, value=facts.io_bandwidth.value * more),  # type: ignore[union-attr,type-var]
    )
    assert RANK[verdict(wider, context, day).possible[-1]] >= RANK[verdict(facts, context, day).possible[-1]]


@settings(max_examples=40, deadline=None)
@given(facts=chips, context=contexts, day=days, seed=st.integers(0, 10_000))
def test_the_order_of_rules_has_no_effect(facts: ChipFacts, context: Context, day: dt.date, seed: int) -> None:
    book = load()
    mixed = list(book.tests)
    random.Random(seed).shuffle(mixed)
    other = msgspec.structs.replace(book, tests=tuple(mixed))
    first, second = verdict(facts, context, day, rulebook=book), verdict(facts, context, day, rulebook=other)
    assert first.possible == second.possible
    assert first.control == second.control
    assert [hit.rule for hit in first.rules] == [hit.rule for hit in second.rules]
    assert set(first.conditions) == set(second.conditions)


@settings(max_examples=40, deadline=None)
@given(facts=chips, context=contexts, day=days)
def test_both_is_the_stricter_of_the_two(facts: ChipFacts, context: Context, day: dt.date) -> None:
    replace = msgspec.structs.replace
    each = [verdict(facts, replace(context, jurisdiction=side), day) for side in ("US", "CN")]
    both = verdict(facts, replace(context, jurisdiction="both"), day)
    assert RANK[both.possible[-1]] == max(RANK[answer.possible[-1]] for answer in each)
    assert RANK[both.possible[0]] == max(RANK[answer.possible[0]] for answer in each)


@settings(max_examples=40, deadline=None)
@given(facts=chips, context=contexts, day=days)
def test_knowing_everything_up_to_today_is_knowing_everything(facts: ChipFacts, context: Context, day: dt.date) -> None:
    assert verdict(facts, context, day, known=dt.date(2026, 11, 23)).possible == verdict(facts, context, day).possible


@settings(max_examples=40, deadline=None)
@given(facts=chips, context=contexts, day=days)
def test_settled_questions_have_one_leaf_and_fire_gives_its_verdict(
    facts: ChipFacts, context: Context, day: dt.date
) -> None:
    context = msgspec.structs.replace(context, project_complete=0.5, foreign_share=0.5, listed_ownership=0.0)
    values = environment(facts, context, day, Settings())
    active = [
        test for test in load().tests
        if (state := test.rule.state_on(day)) and state.state == "in-force" and test.rule.jurisdiction == "US"
    ]  # fmt: skip
    found = explore(active, values, frozenset())
    assert len(found.leaves) == 1
    assert found.possible == (fire(active, values, {}).verdict,)
    assert not found.switches


@given(quantity=st.sampled_from(sorted(DERIVED)), limit=numbers, other=numbers, side=st.sampled_from([0, 1]))
def test_solving_is_the_inverse_of_the_formula(quantity: str, limit: float, other: float, side: int) -> None:
    unknown = DERIVED[quantity][side]
    value = solve(quantity, unknown, limit, other)
    pair = (value, other) if side == 0 else (other, value)
    assert math.isclose(combine(quantity, *pair), limit, rel_tol=1e-9, abs_tol=1e-6)


@given(peaks=st.lists(st.tuples(st.sampled_from(["fp4", "fp8", "bf16", "fp32"]), numbers), min_size=1, max_size=4))
def test_tpp_is_the_largest_product_and_the_sum_reading_is_never_smaller(peaks: list[tuple[str, float]]) -> None:
    bits = {"fp4": 4, "fp8": 8, "bf16": 16, "fp32": 32}
    listed = [(dtype, tops * 1e12, float(bits[dtype])) for dtype, tops in peaks]
    best = max(tops * bits[dtype] for dtype, tops in peaks)
    assert math.isclose(total_processing_performance(listed), best, rel_tol=1e-9)
    assert total_processing_performance(listed, aggregation="sum") >= best * (1 - 1e-9)
    assert performance_density(best, 800.0) == best / 800.0


_PIECES = st.sampled_from(
    ["tpp", "datacenter", "destination", "and", "or", "not", "(", ")", "[", "]", ",", ">=", "<", "is", "in", "CN",
     "china", "limit.tpp", "4800", "2026-01-15", "as_of", "buyer", "private", '"x"', "@", "buyers"]
)  # fmt: skip


@given(pieces=st.lists(_PIECES, max_size=12))
def test_any_condition_is_read_or_refused_with_a_place(pieces: list[str]) -> None:
    vocabulary = Vocabulary(
        kinds={name: item.kind for name, item in ATTRIBUTES.items()},
        words={name: item.words for name, item in ATTRIBUTES.items() if item.words},
        lists={"china": ("CN",)}, limits={"tpp": 1.0},
    )  # fmt: skip
    text = " ".join(pieces)
    try:
        parse(text, vocabulary)
    except ExpressionError as error:
        assert 0 <= error.offset <= len(text)
        assert error.what


@given(text=st.text(alphabet="INTFPB0123456789x .,()<=belowTOPSbit-", max_size=40))
def test_any_cell_of_performance_is_read_or_refused(text: str) -> None:
    try:
        peaks, tpp, below = parse_performance(text.strip(), "here")
    except InputError:
        return
    assert all(value >= 0 for _, value, _ in peaks)
    assert tpp is None or tpp >= 0
    assert below is None or below >= 0
