"""offramp calibrate."""

from __future__ import annotations

import click

from offramp.cli._output import console, json_option, print_json, print_notices, say


@click.command("calibrate")
@click.option(
    "--from",
    "rows",
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="CSV in the serving schema, or a benchmark file.",
)
@click.option("--out", required=True, type=click.Path(), help="Parameter file to write (.json).")
@click.option("--base", type=click.Path(), help="Parameter file to refine; the shipped one if absent.")
@click.option("--chip", help="Chip of rows that do not name one.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="What the file does not say; repeatable.")
@click.option("--fit-all", is_flag=True, help="Fit from the priors and cross-validate, instead of refining.")
@click.option("--seed", default=0, show_default=True)
@json_option
def command(
    rows: str, out: str, base: str | None, chip: str | None, settings: tuple[str, ...], fit_all: bool, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Refine the cost model with your own measurements.

    Rows of your cluster narrow the intervals of its chips and engines; use the file with "assess --calibration". Of a
    benchmark file --set says what the tool does not record: chips=8, layout="TP8", engine="vllm 0.11.0", weights=FP8,
    model=Qwen/Qwen3-32B.
    """
    from offramp.app.calibrate import Fitting, calibrate

    fitting = Fitting(own=not fit_all, seed=seed)
    result = calibrate(rows, out, base=base, chip=chip, settings=settings, fitting=fitting, progress=say)
    if as_json:
        print_json(result)
        return
    out_console = console()
    answer = result.answer
    out_console.print(f"{answer['file']}: {answer['version']}, {answer['rows_used']} rows, {answer['draws']} draws")
    for group in answer["after"]:
        name = ", ".join(group["group"].values())
        if group["median_ape"] is not None:
            text = f"  {name}: median error {group['median_ape']:.1%}, interval p90/p10 {group['width']:.2f}, {group['rows']} rows"
            out_console.print(text, markup=False)
    for entry in answer["unpredicted"]:
        out_console.print(f"not used, {entry['rows']}: {entry['reason']}", markup=False)
    print_notices(result)
