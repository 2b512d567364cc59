"""offramp models: shipped model architectures, or the structure of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_notices

if TYPE_CHECKING:
    from offramp.core.result import Result


@click.command("models", short_help="Model architectures: the shipped ones, or one in detail.")
@click.argument("model", required=False, default="")
@json_option
def command(model: str, as_json: bool) -> None:
    """List the shipped models, or show one: parameters, KV cache, weights by dtype.

    MODEL is a preset id (deepseek-ai/DeepSeek-R1), a config.json, or the folder that holds one. With --json the
    fields of the answer also stand at the top level.
    """
    from offramp.app.models import models

    result = models(model)
    if as_json:
        _print_flat(result)
    elif model:
        _print_one(result)
    else:
        _print_list(result)


def _print_flat(result: Result) -> None:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(result)
    flat = {**plain, **result.answer}
    click.echo(msgspec.json.format(msgspec.json.encode(flat), indent=2).decode())


def _billions(value: float) -> str:
    from offramp.core.units import GIGA

    return f"{value / GIGA:,.3g} B" if value < 10 * GIGA else f"{value / GIGA:,.1f} B"


def _size(value: float) -> str:
    from offramp.core.units import GIGA, KILO, MEGA, TERA

    for unit, factor in (("TB", TERA), ("GB", GIGA), ("MB", MEGA), ("kB", KILO)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}" if value < 1000 * factor else f"{value / factor:,.0f} {unit}"
    return f"{value:.0f} B"


def _print_list(result: Result) -> None:
    from rich.table import Table

    out = console()
    left_out = {"active", "layers"} if out.width < 100 else set[str]()  # an id broken over two lines cannot be copied
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [
        name for name in ("model", "total", "active", "layers", "KV per token", "weights", "as") if name not in left_out
    ]
    for name in columns:
        table.add_column(name, justify="left" if name in ("model", "as") else "right", overflow="fold")
    for row in result.answer["models"]:
        cells = {
            "model": row["id"], "total": _billions(row["parameters_total"]), "active": _billions(row["parameters_active"]),
            "layers": str(row["layers"]), "KV per token": _size(row["kv_bytes_per_token"]),
            "weights": _size(row["weight_bytes"]), "as": row["dtype"],
        }  # fmt: skip
        table.add_row(*(cells[name] for name in columns))
    out.print(table)
    out.print('KV per token at BF16, beyond full windows. "offramp models ID" shows one.', style="dim", markup=False)


def _print_one(result: Result) -> None:
    from rich.table import Table

    answer, out = result.answer, console()
    out.print(f"{answer['id']}  ({answer['architecture'] or answer['model_type']})", style="bold", markup=False)
    total, active = _billions(answer["parameters_total"]), _billions(answer["parameters_active"])
    out.print(f"{total} parameters, {active} active per token, {answer['layers']} layers", markup=False)
    fixed = answer["kv_bytes_fixed_per_sequence"]
    also = f" and {_size(fixed)} per sequence whatever its length" if fixed else ""
    out.print(f"KV cache {_size(answer['kv_bytes_per_token'])} per token at BF16{also}", markup=False)
    sizes = ", ".join(f"{dtype} {_size(value)}" for dtype, value in answer["weight_bytes_by_dtype"].items())
    out.print(
        f"Weights {_size(answer['weight_bytes'])} as published ({answer['weights_dtype']}); {sizes}", markup=False
    )
    for name in ("layers", "parameters"):
        shown = result.tables[name]
        table = Table(title=shown.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in shown.columns:
            table.add_column(column.name, justify="right" if column.name not in ("mixer", "part", "dtype") else "left")
        for row in shown.rows:
            table.add_row(*(_cell(column.name, cell) for column, cell in zip(shown.columns, row, strict=True)))
        out.print()
        out.print(table)
    if answer["source"]:
        out.print(f"\nSource: {answer['source']}", style="dim", markup=False)
    print_notices(result)


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, (int, float)) or name not in ("parameters", "bytes"):
        return str(value)
    if name == "bytes":
        return _size(value)
    return _billions(value) if value >= 1e8 else f"{value:,.0f}"
