"""Writes docs/mixed.md: the mixed-pool way off the H20, from a run of examples/leave-h20 (``make mixed``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from offramp.app.assess import assess
from offramp.core.result import Result
from offramp.cost import load_calibration

ROOT: Final = Path(__file__).resolve().parents[1]
STUDY: Final = ROOT / "examples" / "leave-h20" / "study.toml"
PAGE: Final = ROOT / "docs" / "mixed.md"
WORKLOAD: Final = "chat"
MOST: Final = 10

HEAD: Final = """# Mixed pools: a first step off the H20

A chip with much bandwidth and little arithmetic, such as the H20, decodes well and prefills badly. So the first step off it
is often not to replace it but to relieve it: it keeps decoding, and a chip with more arithmetic prefills. This page works the
example through; its numbers come from a run (`make mixed`), not from a hand.

    offramp assess examples/leave-h20/study.toml

With `[search] disaggregate = true` every fully known chip is tried with prefill and decode on separate pools of its own, and
with either side on the chip in use. For each pair: the best layout of each side in closed form, the ratio of replicas that their
rates ask for and then more of the side that binds as long as that pays, both sides simulated together on the study's traffic
with the transfer of the cache over the slower of the two networks, and the rate bisected within the study's limits.
"""
TAIL: Final = """
## What to check before ordering

- Both engines must agree on who converts the cache. Nothing here proves that two do; ask for a demonstration. Between unlike
  chips or engines each cache is taken to be laid out anew by the servers of the smaller replica at 20 GB/s each (assumed, 5 to
  100 GB/s), one after the other; the table says how long a mean request's takes.
- The transfer takes 70 % of the slower network (assumed, 40 to 90 %) after 3 ms of set-up (assumed, 1 to 10 ms); transfers of
  one prefill replica queue behind one another.
- Chips are those of the median joint draw, p10 to p90 of all draws in brackets. Only the middle is simulated; the draws follow
  from the closed form of both sides, each bought by itself. Near a limit that is too kind: see `docs/assess.md`.
- Power is taken as in aggregated serving on the same chip.
- A fleet that keeps some H20 for decode still needs them repaired: a ban on *use* or on *support* ends this way, one on
  *buying* does not (`offramp plan` weighs that by quarter).
"""


def tidy(value: float) -> str:
    """Three digits, or whole from a hundred on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def page(result: Result) -> str:
    """The page of one answer."""
    work = next(item for item in result.answer["workloads"] if item["id"] == WORKLOAD)
    by_chip = {item["chip"]: item for item in work["chips"]}
    base = by_chip[work["baseline"]]
    demand, currency = work["demand"], result.answer["currency"]
    limits = ", ".join(f"{key.replace('_', ' ').upper()} {value * 1e3:,.0f} ms" for key, value in work["slo_s"].items())
    lines = [
        HEAD, "## The question", "",
        f"{work['model']}, {demand['mean_requests_per_s']:g} requests/s in the mean and {demand['peak_requests_per_s']:g} at "
        f"the peak of {work['quarter']}, prompts of {work['lengths']['isl_mean_tokens']:,.0f} and answers of "
        f"{work['lengths']['osl_mean_tokens']:,.0f} tokens in the mean; {limits}. In use: "
        + ", ".join(f"{entry['count']:,} {by_chip[entry['chip']]['short_name']}" for entry in result.answer["fleet"])
        + f". Without splitting, {tidy(base['chips']['mid'])} {base['short_name']} carry it "
        f"({tidy(base['chips']['low'])} to {tidy(base['chips']['high'])}).", "",
        "## The answer", "", f"> {work['first_step']} {work['first_step_why']}".rstrip(), "",
        "The sentence takes the mixed pair with the fewest chips among those whose new chip this organisation may buy without a"
        " licence. What one new chip is worth on each side explains it: it goes where it is worth more.", "",
        "## All pairs, cheapest first", "",
        "| prefill | decode | chips (p10 to p90) | TTFT p90, s | TPOT p90, ms | transfer, of it conversion, ms "
        f"| {currency} / M output tokens | layouts of a unit |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [_row(split) for split in work["splits"][:MOST]]
    lines += ["", f"Aggregated, for comparison: {_aggregated(work, currency)}."]
    lines.append(TAIL)
    lines.append(f"Made with data {result.data_version} and parameters {load_calibration().version}.")
    return "\n".join(lines) + "\n"


def _row(split: dict[str, Any]) -> str:
    cost = split["cost_per_million_output_tokens"]
    latency, moved, total = split["latency_s"], split["transfer"], split["interval"]["chips_total"]
    high = tidy(total["high"]) if total["high"] is not None else "no limit"
    return (
        f"| {split['prefill_chips']:,} {split['prefill_name']} | {split['decode_chips']:,} {split['decode_name']} "
        f"| {split['chips_total']:,} ({tidy(total['low'])} to {high}) | {latency['ttft_p90']:.2g} | {latency['tpot_p90'] * 1e3:.0f} "
        f"| {moved['mean_s'] * 1e3:.1f}, {moved['conversion_s'] * 1e3:.1f} "
        f"| {'-' if cost is None else tidy(cost)} | {split['prefill_layout']}; {split['decode_layout']} |"
    )


def _aggregated(work: dict[str, Any], currency: str) -> str:
    return ", ".join(
        f"{tidy(item['chips']['mid'])} {item['short_name']}"
        + (f" at {tidy(cost)} {currency}" if (cost := item["cost_per_million_output_tokens"]["mid"]) else "")
        for item in work["chips"] if item["status"] == "carries" and item["chips"]["mid"]
    )  # fmt: skip


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(assess(STUDY, keep=False)), encoding="utf-8")


if __name__ == "__main__":
    main()
