"""offramp next."""

from __future__ import annotations

import click

from offramp.cli._output import console, json_option, print_json, print_notices


@click.command("next")
@click.argument("study", type=click.Path())
@click.option("--most", default=3, show_default=True, help="How many measurements to name.")
@click.option("--calibration", default="", help="Parameter file; the shipped one if absent.")
@json_option
def command(study: str, most: int, calibration: str, as_json: bool) -> None:
    """The few measurements that would shrink STUDY's decision most.

    The decision is how many chips of each candidate replace one of the baseline. Measure what is named, put the rows
    into a CSV in the serving schema, and refine with "offramp calibrate --from".
    """
    from offramp.app.next import next_measurements

    result = next_measurements(study, most=most, calibration=calibration)
    if as_json:
        print_json(result)
        return
    out = console()
    for m in result.answer["measurements"]:
        load = f"{m['isl']} in, {m['osl']} out, {m['concurrency']} in flight"
        head = f"{m['rank']}. {m['workload']} on {m['chip']}: {m['engine']}, TP{m['tp']}, {load}"
        out.print(head, style="bold", markup=False)
        out.print(
            f"   narrows the exchange rate's p90/p10 from {m['width_before']:.2f} to {m['width_after']:.2f}",
            markup=False,
        )
        out.print(f"   {m['command']}", markup=False)
    print_notices(result)
