"""Trying as a decision: a port that may fail, the fallback to the chip in use, and what the delay costs."""

from __future__ import annotations

from offramp.core.record import Record


class Stage(Record):
    """What a stage of training puts at stake.

    Attributes:
        name: "fine-tune", "post-train" or "pretrain".
        success: probability that the port works in the end.
        port_s: work before the run can start on the new chip, when it works.
        failed_s: time until it is given up, when it does not.
        run_s: the run on the chip in use. ``new_run_s`` on the new chip.
        cost, new_cost: of the run on either.
        delay_cost_per_s: what a second of delay of the result costs.
        attempt_cost: engineers and machine time of the attempt itself, spent either way.
        option_value: worth of being able to run there afterwards (later runs, a ban that comes), if it works.
    """

    name: str
    success: float
    port_s: float
    failed_s: float
    run_s: float
    new_run_s: float
    cost: float
    new_cost: float
    delay_cost_per_s: float
    attempt_cost: float = 0.0
    option_value: float = 0.0


class Verdict(Record):
    """Whether to try.

    Attributes:
        gain: expected gain of trying over staying, in money.
        break_even_success: probability of success from which trying pays; None where it never does,
        0 where it always does.
        expected_delay_s: of the result, over staying.
        worth_trying: gain > 0.
    """

    stage: str
    gain: float
    break_even_success: float | None
    expected_delay_s: float
    worth_trying: bool


def judge(stage: Stage) -> Verdict:
    """Expected gain of trying first and falling back, against staying.

    Success: the new chip's cost, its run time and the port's, and the option. Failure: the old cost,
    after the time lost.
    """
    late_if_works = stage.port_s + stage.new_run_s - stage.run_s
    saved = stage.cost - stage.new_cost + stage.option_value - stage.delay_cost_per_s * late_if_works
    lost = -stage.delay_cost_per_s * stage.failed_s
    gain = stage.success * saved + (1.0 - stage.success) * lost - stage.attempt_cost
    slope = saved - lost
    even: float | None = None
    if slope > 0:
        needed = (stage.attempt_cost - lost) / slope
        even = max(needed, 0.0) if needed <= 1.0 else None
    delay = stage.success * late_if_works + (1.0 - stage.success) * stage.failed_s
    return Verdict(
        stage=stage.name, gain=gain, break_even_success=even, expected_delay_s=delay, worth_trying=gain > 0.0
    )  # fmt: skip


def staged_success(success: float, *, after_smaller: float) -> float:
    """Chance of a stage when the smaller one before it worked: what is learned there removes part of what can fail.

    Args:
        success: chance without trying the smaller stage first.
        after_smaller: share of the remaining risk that a working smaller stage removes (0-1).
    """
    return success + (1.0 - success) * after_smaller
