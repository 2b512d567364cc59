"""Which runs a drill makes, in which order."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable
from functools import cache

import msgspec

from offramp.core.errors import CatalogError, InputError, near_miss_hint
from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.core.units import DAY_S
from offramp.drill.endpoints import read_data
from offramp.drill.records import Condition, Mode
from offramp.drill.workload import Workload


class ProfileSettings(Record):
    """How long and how often a profile looks; times in seconds of wall clock.

    Attributes:
        repeats, repeats_other: timed runs of baseline and accept, and of the other network conditions.
        run_s: limit of one run; service_window_s where the command turns out not to end.
        linger_s: how long survivors of the command are watched.
        hurried_s: sped-up wall time, at ``rate``.
        budget_s: once so much is spent, repeats are left out (each condition still gets its first run).
    """

    repeats: int
    repeats_other: int
    run_s: float
    service_window_s: float
    linger_s: float
    hurried_s: float
    rate: float
    budget_s: float
    conditions: tuple[str, ...]


class PlannedRun(Record):
    """One run of the schedule."""

    condition: Condition
    repeat: int


@cache
def load_profiles() -> dict[str, ProfileSettings]:
    """The shipped profiles by name."""
    try:
        return msgspec.convert(tomllib.loads(read_data("profiles.toml").decode()), dict[str, ProfileSettings])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CatalogError(str(error), where="data/drill/profiles.toml") from None


_MODES: dict[str, Mode] = {
    "accept": "accept", "refuse": "refuse", "drop": "drop", "nxdomain": "nxdomain", "licence-blocked": "accept",
}  # fmt: skip
KNOWN = ("baseline", *_MODES, "clock+Nd", "clock-Nd", "clock-return", "uptime+Nd", "hurried", "hurried-start")


def _moved(name: str, settings: ProfileSettings) -> Condition | None:
    """A condition that moves clocks, from its name; None where the name is none."""
    if name == "hurried":
        return Condition(id=name, watching="calls", clock=True, rate=settings.rate)
    if name == "hurried-start":
        return Condition(id=name, watching="calls", clock=True, rate=settings.rate, from_start=True)
    if name == "clock-return":
        return Condition(id=name, watching="calls", clock=True, real_shift_s=90 * DAY_S, returns=True)
    for prefix in ("clock", "uptime"):
        digits = name.removeprefix(prefix)
        if digits != name and digits.endswith("d") and digits[:-1].lstrip("+-").isdigit():
            shift = int(digits[:-1]) * DAY_S
            real, uptime = (shift, 0.0) if prefix == "clock" else (0.0, shift)
            return Condition(id=name, watching="calls", clock=True, real_shift_s=real, uptime_shift_s=uptime)
    return None


def conditions_named(names: Iterable[str], settings: ProfileSettings, baseline: str) -> list[tuple[Condition, int]]:
    """Conditions with how many runs each gets.

    Raises:
        InputError: an unknown condition.
    """
    out: list[tuple[Condition, int]] = []
    for name in names:
        if name == "baseline":
            mode: Mode = "host" if baseline == "host" else "none"
            out.append((Condition(id=name, mode=mode), settings.repeats))
        elif name in _MODES:
            blocked = "licence" if name == "licence-blocked" else ""
            count = settings.repeats if name == "accept" else settings.repeats_other
            out.append((Condition(id=name, mode=_MODES[name], watching="calls", blocked=blocked), 1))
            out.append((Condition(id=name, mode=_MODES[name], blocked=blocked), count))
        elif (moved := _moved(name, settings)) is not None:
            out.append((moved, 1))
        else:
            hint = near_miss_hint(name, KNOWN) or f"Known: {', '.join(KNOWN)}."
            raise InputError(f'unknown condition "{name}"', where="$.conditions", mend=hint)
    return out


def make_schedule(workload: Workload, settings: ProfileSettings, seed: int) -> list[PlannedRun]:
    """Every run of a drill: first the one that shows whether a sandbox can be built, the others in random order."""
    names = workload.conditions or settings.conditions
    if workload.repeats:
        settings = msgspec.structs.replace(settings, repeats=workload.repeats, repeats_other=workload.repeats)
    runs = [PlannedRun(condition=condition, repeat=repeat)
            for condition, count in conditions_named(names, settings, workload.baseline)
            for repeat in range(count)]  # fmt: skip
    random.Random(derive_seed(seed, "order")).shuffle(runs)
    runs.sort(
        key=lambda run: (run.condition.watching != "calls" or run.condition.id != "accept", run.condition.rate != 1)
    )
    return runs
