"""What binds a run: what each limit costs, and why a chip takes longer than the one in use."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from offramp.app.train_cells import BINDS, Setting, quantiles
from offramp.train.outlook import Outlook, Question, fitted_task, peak_of, reference_draws

HARD: Final = ("tp", "expert", "context", "gather", "hop", "bubble", "end")
SMALL: Final = 0.002


def levers(setting: Setting, q: Question, out: Outlook) -> list[dict[str, Any]]:
    """What would shorten the run if it did not bind, as a share of its time, largest first.

    Memory is the best layout with as much memory as it likes, against the best that fits. Software is the same
    layout with the efficiencies of the stack that was measured best, against the stack that runs here. The rest are
    the parts of a day that are no arithmetic.
    """
    good = float(np.median(out.goodput))
    shares = {name: float(value[0]) * good for name, value in out.step.shares().items()}
    parts = {name: shares[name] for name in HARD}
    parts |= {"failures": max(1.0 - good - sum(out.lost_shares.values()), 0.0), **out.lost_shares}
    found: list[dict[str, Any]] = [
        {"part": name, "what": BINDS[name], "share": share, "p10": None, "p90": None, "note": ""}
        for name, share in parts.items()
    ]
    free = 1.0 - out.found.seconds_without_limit / out.found.seconds[0]
    found.append({"part": "memory", "what": "memory of the device: a layout that it forces", "share": free * good,
                  "p10": None, "p90": None, "note": f"with any memory: {out.found.layout_without_limit.words}"})  # fmt: skip
    found.append(_software(setting, q, out))
    return sorted((item for item in found if item["share"] > SMALL), key=lambda item: -float(item["share"]))


def _software(setting: Setting, q: Question, out: Outlook) -> dict[str, Any]:
    """Time that software costs against the stack that was measured best, with its interval."""
    task = fitted_task(q.task, out.active * q.devices_per_chip)
    ratio, name = reference_draws(q, setting.posterior, task, out.found.layouts[0])
    share = quantiles(np.maximum(1.0 - ratio, 0.0))
    measured = f"stack|stack:{q.stack.framework}/{q.stack.family}" in setting.posterior.names
    note = f"against the efficiencies of {name}" + ("" if measured else "; no run of this stack was published")
    return {"part": "software", "what": "software support: kernels and overlap behind the best measured stack",
            "share": share["p50"], "p10": share["p10"], "p90": share["p90"], "note": note}  # fmt: skip


def why_slower(q: Question, out: Outlook, base_q: Question, base: Outlook) -> list[dict[str, Any]]:
    """Factors whose product is the exchange rate at the medians: chip-days of this chip over those of the chip in use.

    Above 1 the chip is behind in this respect.
    """

    def peak(one: Question) -> float:
        return peak_of(one.device, one.task.dtype) * one.devices_per_chip

    def kernels(one: Outlook) -> float:
        return float(np.median(one.mfu)) / float(one.step.shares()["compute"][0])

    def busy(one: Outlook) -> float:
        return float(one.step.shares()["compute"][0])

    def good(one: Outlook) -> float:
        return float(np.median(one.goodput))

    def trains(one: Outlook) -> float:
        return one.active / one.chips

    dtypes = f"{base_q.task.dtype} there, {q.task.dtype} here"
    pairs = {
        f"peak arithmetic ({dtypes})": (peak(base_q), peak(q)),
        "share of that peak while computing": (kernels(base), kernels(out)),
        "time that messages, idle stages and the end of a step leave for computing": (busy(base), busy(out)),
        "failures, restarts and planned stops": (good(base), good(out)),
        "spares": (trains(base), trains(out)),
    }
    return [{"cause": name, "base": one, "ours": other, "factor": one / other} for name, (one, other) in pairs.items()]
