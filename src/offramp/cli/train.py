"""offramp train."""

from __future__ import annotations

from typing import Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices, say


@click.command("train")
@click.argument("study", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a key of the study.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for report.html and result.json.")
@json_option
def command(study: str, overrides: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Would the training runs of STUDY finish on those chips: when, how surely, what binds, at what cost.

    Every [[workload]] of kind "train" is laid out on the chip in use and on each candidate.
    """
    from offramp.app.train import train

    result = train(study, overrides=overrides, progress=say)
    if out:
        from pathlib import Path

        from offramp.report import write

        say(f"report: {write(result, out)}")
        (Path(out) / "result.json").write_text(result.to_json())
    if as_json:
        print_json(result)
        return
    for run in result.answer["runs"]:
        show_run(run, result.answer["currency"])
    print_notices(result)


def show_run(run: dict[str, Any], currency: str) -> None:
    """Prints one training run: a line for each chip, its layout, and what would have to be true."""
    from rich.table import Table

    out = console()
    deadline = "" if run["deadline_days"] is None else f", deadline {run['deadline_days']:.0f} d"
    out.print(
        f"{run['workload']}: {run['model']}, {run['tokens'] / 1e12:.4g} T tokens on {run['chips']:,} chips{deadline}",
        style="bold", markup=False,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in (
        "chip",
        "days p10 | p50 | p90",
        "on time",
        "MFU",
        "goodput",
        "per baseline chip",
        f"cost M{currency}",
        "binds",
    ):
        table.add_column(name, justify="left" if name in ("chip", "binds") else "right", overflow="fold")
    for entry in run["cells"]:
        if "days" in entry:
            table.add_row(*_cells(entry))
    out.print(table)
    for entry in run["cells"]:
        if "days" in entry:
            out.print(
                f"  {entry['chip']}: {entry['dtype']}, {entry['framework']}, {entry['layout_words']}", markup=False
            )
            gains = ", ".join(f"{item['part']} {item['share']:.0%}" for item in entry["levers"][:4])
            out.print(f"    would be shorter without: {gains}", markup=False)
            served = entry.get("inference")
            if served and served["exchange_rate"] and entry["chip"] != run["baseline"]:
                one, other = entry["exchange_rate"], served["exchange_rate"]
                out.print(
                    f"    for one chip in use: training {one['p50']:.2g} ({one['p10']:.2g} to {one['p90']:.2g}), "
                    f"inference {other['p50']:.2g} ({other['p10']:.2g} to {other['p90']:.2g}), {served['traffic']}",
                    markup=False,
                )
            if entry["chips_for_deadline"]:
                needed = entry["chips_for_deadline"]
                shown = ", ".join(f"{key}: {value:,}" if value else f"{key}: none" for key, value in needed.items())
                out.print(f"    chips for the deadline, {shown}", markup=False)
        if entry["why"]:
            out.print(f"  {entry['chip']}: {entry['status']}: {entry['why']}", markup=False)
    for entry in run["break_even"]:
        goal = _short(entry["base_days"])
        out.print(
            f"  {entry['chip']} would need an MFU of {entry['mfu_needed_without_failures']:.0%} without any "
            f"failure to finish in "
            f"{goal} d (model: {entry['mfu_p50']:.0%})", markup=False,
        )  # fmt: skip
        for stage in entry["trying"]:
            out.print(f"    trying first, {stage['stage']}: {_trying(stage, currency)}", markup=False)


def _cells(entry: dict[str, Any]) -> list[str]:
    days, mfu, rate, cost = entry["days"], entry["mfu"], entry.get("exchange_rate"), entry["cost"]
    top = [part for part in entry["binds"] if part["share"] > 0.08][:3]
    return [
        entry["chip"], " | ".join(_short(days[key]) for key in ("p10", "p50", "p90")),
        "" if entry["p_deadline"] is None else f"{entry['p_deadline']:.0%}",
        f"{mfu['p10']:.0%}-{mfu['p90']:.0%}", f"{entry['goodput']['p10']:.0%}-{entry['goodput']['p90']:.0%}",
        "" if not rate else f"{rate['p10']:.2f} | {rate['p50']:.2f} | {rate['p90']:.2f}",
        "" if cost is None else f"{cost['p10'] / 1e6:.3g}-{cost['p90'] / 1e6:.3g}",
        ", ".join(f"{part['part']} {part['share']:.0%}" for part in top),
    ]  # fmt: skip


def _short(days: float) -> str:
    return f"{days:,.0f}" if days >= 10.0 else f"{days:.2g}"


def _trying(stage: dict[str, Any], currency: str) -> str:
    """Whether trying pays, with the chance that was taken."""
    chance = f"chance {stage['success']['mid']:.0%}"
    even, value = stage["break_even_success"], stage["option_value_to_break_even"]
    if stage["worth_trying"]:
        return f"pays ({chance}, break-even {even or 0.0:.0%})"
    words = f"does not pay at a {chance}; it would if being able to were worth {value / 1e6:.3g} M{currency}"
    return words if even is None else f"{words}, or from a chance of {even:.0%}"
