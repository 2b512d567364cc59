"""offramp plan: what to order, place and retire each quarter, and which part of a ban can be met when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices, say

if TYPE_CHECKING:
    from offramp.core.result import Result


@click.command("plan")
@click.argument("study", type=click.Path(path_type=str))
@click.option("--scenarios", type=click.IntRange(min=1), metavar="N", help="Futures drawn (the study's number).")
@click.option("--ban", default="", metavar="2027Q1", help='Hypothetical ban of foreign chips; "use:2027Q1" bans using.')
@click.option("--sweep-ban", is_flag=True, help="Which part of a ban can be met when: what x scope x quarter.")
@click.option("--strict", is_flag=True, help="Hard limits: name those that contradict each other.")
@click.option("--out", type=click.Path(path_type=str), metavar="DIR", help="Also write report.html there.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a setting; repeatable.")
@click.option("--root", type=click.Path(path_type=str), help="Folder of runs (else $OFFRAMP_RUNS, else ./runs).")
@json_option
def command(
    study: str, scenarios: int | None, ban: str, sweep_ban: bool, strict: bool, out: str | None,
    overrides: tuple[str, ...], root: str | None, as_json: bool,
) -> None:  # fmt: skip
    """What to order now and each quarter for STUDY.toml under rules, supply, budgets, power and bans; what it costs."""
    from offramp.app.plan import Options, plan

    options = Options(scenarios=scenarios, ban=ban, sweep=sweep_ban, strict=strict)
    result = plan(study, options=options, overrides=overrides, root=root, progress=say)
    where = None
    if out is not None:
        from offramp.report import write

        where = write(result, out)
    if as_json:
        print_json(result)
    else:
        show(result)
    if where is not None:
        say(f"Report: {where}")


def show(result: Result) -> None:
    """The plan in the terminal."""
    out, answer = console(), result.answer
    out.print(answer["finding"] + ".", style="bold", markup=False)
    if "national" in answer:
        _show_national(result)
    else:
        _show_plan(result)
    out.print()
    print_notices(result)


def _show_plan(result: Result) -> None:
    out, answer = console(), result.answer
    currency = answer["currency"]
    _frontier(answer)
    for item in answer["order_now"]:
        out.print(f"- Order {item['chips']:,.0f} {item['chip']} in {item['quarter']} for {item['site']}.", markup=False)
    for item in answer["open_orders"]:
        parts = ", ".join(f"{name} {item[name]:,.0f}" for name in ("keep", "defer", "cancel") if item[name] > 0.5)
        out.print(f"- Open order of {item['order']}: {parts or 'nothing'}.", markup=False)
    for item in answer["retire"]:
        out.print(f"- No future needs {item['chips']:,.0f} {item['chip']} from {item['quarter']} on.", markup=False)
    waiting = answer.get("waiting")
    if waiting:
        out.print(f"- Ordering now instead of next quarter saves {_money(waiting['ordering_now_saves'], currency)}.")
    if "rolling" in answer:
        out.print(_rolling(answer["rolling"], currency), markup=False)
    if "regret_of_ignoring_the_ban" in answer:
        regret = _money(answer["regret_of_ignoring_the_ban"], currency)
        out.print(f"- Ordering now as if no ban could come costs {regret} more.", markup=False)
    for item in answer.get("alternatives", []):
        out.print(_alternative(item), markup=False)
    for item in answer["broken_limits"]:
        out.print(f"! {item['limit']} is broken in {item['quarter']} by {item['by_mean']:,.0f}.", style="yellow")
    _table(result, "purchases", "Orders and arrivals, chips: mean (10 % to 90 %)", ("what", "quarter", "chip", "site"))
    _shortfall(result)
    _table(result, "spend", f"Money for chips, {currency}", ("quarter",))
    if answer["binding"]:
        out.print("\nWhat one more would save", style="bold")
        for item in answer["binding"][:6]:
            out.print(f"- {item['text']}", markup=False)


def _frontier(answer: dict[str, Any]) -> None:
    """Scope by kind of ban: from when it can be met with 90 % probability, or how much of the work is done at best."""
    from rich.table import Table

    if "frontier" not in answer:
        return
    words = {"buy": "buying", "use": "using", "support": "support"}
    title = "Bans that can be met with 90 % probability: from when, else the most work kept"
    table = Table(title=title, box=None, header_style="dim", title_justify="left", title_style="bold", min_width=79)
    table.add_column("a ban of ... for")
    for word in words.values():
        table.add_column(word)
    rows: dict[str, dict[str, str]] = {}
    for item in answer["frontier"]["summary"]:
        best = f"no, keeps {min(item['best_kept_p10'], 0.994):.0%}"
        rows.setdefault(item["scope"], {})[item["what"]] = f"from {item['met_from']}" if item["met_from"] else best
    for scope, cells in rows.items():
        table.add_row(scope, *(cells.get(kind, "") for kind in words))
    console().print(table)


def _rolling(item: dict[str, Any], currency: str) -> str:
    """What later orders that know their future hide."""
    return (f"- Solved again each quarter in {item['futures']} futures, without knowing them: cost "
            f"{_money(item['cost_rolled'], currency)}, planned {_money(item['cost_planned'], currency)}; "
            f"{item['short_rolled']:.1%} of the work undone, planned {item['short_planned']:.1%}.")  # fmt: skip


def _alternative(item: dict[str, Any]) -> str:
    text = f"- Without {item['without']} the cost {'rises' if item['cost_rises_by'] >= 0 else 'falls'} by "
    text += f"{abs(item['cost_rises_by']):.0%}"
    if abs(item["short_without"] - item["short_in_plan"]) > 0.005:
        text += f" and {item['short_without']:.0%} of the work stays undone, not {item['short_in_plan']:.0%}"
    least = item["least_bought_within_gap"]
    text += f"; within {item['gap']:.0%} of the cost its purchases can fall from {item['bought_in_plan']:,.0f}"
    return text + (f" to {least:,.0f} chips." if least is not None and least == least else ".")


def _table(result: Result, name: str, title: str, keys: tuple[str, ...]) -> None:
    from rich.table import Table

    rows = list(result.tables[name].dicts())
    rare = [row for row in rows if float(row["p90"] or 0.0) <= 0.0]
    rows = [row for row in rows if row not in rare]
    if not rows:
        return
    table = Table(title=title, box=None, header_style="dim", title_justify="left", title_style="bold")
    for key in keys:
        table.add_column(key)
    table.add_column("mean (10 % to 90 %)", justify="right")
    for row in rows:
        mean, low, high = (float(row[key] or 0.0) for key in ("mean", "p10", "p90"))
        table.add_row(*(str(row[key]) for key in keys), f"{_short(mean)} ({_short(low)} to {_short(high)})")
    console().print(table)
    if rare:
        text = f"and {len(rare)} more rows that fewer than one future in ten needs; --out and --json show all"
        console().print(text, style="dim", markup=False)


def _shortfall(result: Result) -> None:
    rows = [row for row in result.tables["shortfall"].dicts() if float(row["p90"] or 0.0) > 0.005]
    if not rows:
        console().print("\nAll work is done with 90 % probability in every quarter.", style="bold")
        return
    console().print("\nWork not done: mean, 90 % quantile", style="bold")
    for row in rows:
        console().print(f"- {row['quarter']} {row['workload']}: {row['mean']:.0%}, {row['p90']:.0%}", markup=False)


def _show_national(result: Result) -> None:
    from rich.table import Table

    out, answer = console(), result.answer
    for line in answer["findings"]:
        out.print(f"- {line}", markup=False)
    _frontier(answer)
    heads = {"all": "all work", "even": "every kind alike"}
    title = "Share of the work wanted that domestic chips can do, %: median (10 % to 90 %)\n"
    title += "By kind, if it were served first: median (reached with 90 % probability)"
    table = Table(
        title=title, box=None, title_justify="left", header_style="dim", title_style="bold", padding=(0, 1, 0, 0)
    )
    table.add_column("quarter")
    for key in answer["scopes"]:
        table.add_column(heads.get(str(key), str(key)), justify="right", overflow="fold")
    for row in answer["coverage"]:
        table.add_row(row["quarter"], *(_percent(row[key], whole=key in heads) for key in answer["scopes"]))
    out.print(table)
    out.print("\nWhat drives the share of all work at the end (at the low and high fifth of the input)", style="bold")
    for row in answer["drivers"][:5]:
        ends = f"{row['share_at_low']:.0%} to {row['share_at_high']:.0%}"
        out.print(f"- {row['input']}: {ends} ({row['rests_on']})", markup=False)
    out.print("\nPublished views", style="bold")
    for item in answer["views"]:
        out.print(f"- {item['text']}", markup=False)


def _percent(band: dict[str, float], *, whole: bool) -> str:
    text = f"{100 * band['p50']:.0f} ({100 * band['p10']:.0f}"
    return text + (f"-{100 * band['p90']:.0f})" if whole else ")")


def _money(value: float, currency: str) -> str:
    return f"{_short(value)} {currency}"


def _short(value: float) -> str:
    for factor, word in ((1e9, " bn"), (1e6, " m")):
        if abs(value) >= factor:
            return f"{value / factor:,.3g}{word}"
    return f"{value:,.0f}"
