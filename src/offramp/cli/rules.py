"""offramp rules: verdicts, differences, the rules themselves, case files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from offramp.cli._output import console, json_option, print_json, print_notices
from offramp.core.errors import InputError

if TYPE_CHECKING:
    from offramp.core.result import Result

NEAR = 0.25
"""A threshold is near, and shown in the terminal, within this share of it."""
_SET = click.option(
    "--set", "extra", multiple=True, metavar="KEY=VALUE",
    help="More of the question (site, project_complete, foreign_share, parent, jurisdiction, include_drafts, known, "
    "dense_tops_x_bits, die_mm2 ...) or a setting (tf32_bits, die_area, aggregation, offshore_review); repeatable.",
)  # fmt: skip
_RULES = click.option("--rules", default="", metavar="FOLDER", help="Read further rule files from this folder.")


@click.group("rules")
def command() -> None:
    """What export and import rules say of a chip, a buyer and a day. Not legal advice."""


def _pairs(extra: tuple[str, ...]) -> dict[str, str]:
    out: dict[str, str] = {}
    for item in extra:
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            raise InputError(f'"{item}" is not KEY=VALUE', where="--set")
        out[key.strip()] = value.strip()
    return out


@command.command("verdict")
@click.argument("chip")
@click.option("--as-of", required=True, metavar="DATE", help="Day of the act, as 2026-11-23.")
@click.option(
    "--buyer", default="",
    help="private (default), platform, state-owned, state-funded, university, government, military, listed-affiliate.",
)  # fmt: skip
@click.option("--headquarters", default="", metavar="CC", help="Country of the organisation; CN when absent.")
@click.option(
    "--destination", default="", metavar="CC", help="Where the chip goes or stands; the headquarters' when absent."
)
@click.option("--route", default="", help="from-us (default), re-export, in-country.")
@click.option("--use", default="", help="buy (default), operate, analyse, rent.")
@_SET
@json_option
def verdict_command(chip: str, as_of: str, extra: tuple[str, ...], as_json: bool, **question: str) -> None:
    """May CHIP be bought or used, by whom, on that day, and under which conditions?

    CHIP is a catalogue id (nvidia/h20), an alias or a name; for a chip that the catalogue lacks, state its figures:

      offramp rules verdict "My chip" --as-of 2026-02-01 --set dense_tops_x_bits="FP8 600x8" --set die_mm2=700
    """
    from offramp.app.rules import verdict

    stated = {key: value for key, value in question.items() if value}
    result = verdict(chip, as_of=as_of, **{**stated, **_pairs(extra)})
    if as_json:
        print_json(result)
        return
    _show_verdict(result)


@command.command("diff")
@click.argument("first", metavar="DATE")
@click.argument("second", metavar="DATE")
@click.option(
    "--chip", "chips", multiple=True, metavar="ID", help="A chip of the fleet; repeatable. All chips when absent."
)
@click.option(
    "--study", type=click.Path(path_type=str), default=None, help="Take fleet, orders and buyer from a study."
)
@_SET
@_RULES
@json_option
def diff_command(
    first: str,
    second: str,
    chips: tuple[str, ...],
    study: str | None,
    extra: tuple[str, ...],
    rules: str,
    as_json: bool,
) -> None:
    """What changed between two days, chip by chip, and which rules did it."""
    from offramp.app.rules import diff

    result = diff(first, second, chips=chips, study=study, rules=rules, **_pairs(extra))
    if as_json:
        print_json(result)
        return
    rows = [row for row in result.answer["chips"] if row["changed"] or chips or study]
    cells = [(row["chip"], row["from"], row["to"] if row["changed"] else "unchanged", row["why"]) for row in rows]
    _table(f"Verdicts on {first} and {second}", ("chip", first, second, "rules"), cells)
    _table("Rules whose standing changed", ("rule", "from", "to", "title"),
           [(row["rule"], row["from"], row["to"], row["title"]) for row in result.answer["rules"]])  # fmt: skip
    click.echo(f"{result.answer['changed']} of {len(result.answer['chips'])} chips changed.")
    print_notices(result)


@command.command("list")
@click.option("--as-of", default=None, metavar="DATE", help="Standing on that day; the latest state when absent.")
@click.option("--jurisdiction", default="", metavar="US|CN")
@_RULES
@json_option
def list_command(as_of: str | None, jurisdiction: str, rules: str, as_json: bool) -> None:
    """Every rule with its standing, outcome, confidence and source."""
    from offramp.app.rules import listing

    result = listing(as_of=as_of, jurisdiction=jurisdiction, rules=rules)
    if as_json:
        print_json(result)
        return
    rows = [
        (row["rule"], f"{row['state']} since {row['since']}", row["outcome"], f"{row['source']} ({row['confidence']})")
        for row in result.answer["rules"]
    ]
    _table(f"{len(rows)} rules", ("rule", "standing", "outcome", "source"), rows)
    print_notices(result)


@command.command("check")
@click.argument("cases", type=click.Path(path_type=str))
@_RULES
@click.option("--json", "as_json", is_flag=True, help="Print {cases, agree, disagree} as JSON.")
def check_command(cases: str, rules: str, as_json: bool) -> None:
    """Runs a case file (CSV) and prints each disagreement.

    A row with an empty chip column is judged by its own figures and its chip_name.
    """
    from offramp.app.rules import check

    answer, _ = check(cases, rules=rules)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    for item in answer["disagree"]:
        click.echo(f"{item['case_id']}: {item['why']}")
    click.echo(f"{answer['agree']} of {answer['cases']} cases agree.")


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if not rows:
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name in ("says", "would say", "margin"))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def _show_verdict(result: Result) -> None:
    answer = result.answer
    parts = ", ".join(f"{side}: {verdict}" for side, verdict in answer["by_jurisdiction"].items())
    control = f" · {answer['control']}" if answer["control"] else ""
    measures = "".join(
        f" · {name.upper()} {answer[name]:,.{digits}f}"
        for name, digits in (("tpp", 0), ("pd", 2))
        if answer[name] is not None
    )
    click.echo(f"{answer['chip']} on {answer['as_of']}: {answer['verdict'].upper()} ({parts}){control}{measures}")
    if answer["verdict"] == "indeterminate":
        click.echo(f"Possible: {', '.join(answer['possible'])}. Missing: {', '.join(answer['missing'])}.")
    for item in answer["switches"]:
        click.echo(f"  {_switch_words(item)}")
    _table("Rules that apply", ("rule", "says", "why", "source"), [
        (row["rule"], row["verdict"] or "condition",
         f"{row['text']} (replaced by {row['relieved_by']})" if row["relieved_by"] else row["text"],
         f"{row['source']} ({row['confidence']})")
        for row in answer["rules"]
    ])  # fmt: skip
    _table(
        "Conditions",
        ("kind", "what", "rule"),
        [(row["kind"], row["text"], row["rule"]) for row in answer["conditions"]],
    )
    _table("Not in force, but would apply", ("rule", "standing", "would say", "what"),
           [(row["rule"], row["state"], row["verdict"], row["text"]) for row in answer["watch"]])  # fmt: skip
    near = _near(answer)
    _table("Distance to thresholds", ("rule", "test", "value", "margin"), [
        (row["rule"], f"{row['quantity']} {row['sign']} {row['threshold']:g} {row['unit']}", _number(row["value"]),
         _number(row["margin"]) + ("" if row["relative"] is None else f" ({row['relative']:+.1%})"))
        for row in near
    ])  # fmt: skip
    figures = [row for row in answer["inputs"] if row["unit"]]
    _table("Figures", ("fact", "value", "source"), [
        (row["name"], f"{row['value']} {row['unit']}".strip(), f"{row['source']} {row['url']}".strip())
        for row in figures
    ])  # fmt: skip
    said = [f"{row['name']} {row['value']}" for row in answer["inputs"] if row["source"] == "the question"]
    click.echo(f"Asked: {', '.join(said)}.")
    left = len(answer["margins"]) - len(near)
    if left:
        click.echo(f"{left} more thresholds, far away or of rules that do not apply, and all inputs: --json.")
    click.echo(f"Knowledge horizon: newest rule source {answer['horizon']}.")
    print_notices(result)


def _near(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Thresholds of the rules that apply, and those that are unknown or within a quarter."""
    apply = {row["rule"] for row in answer["rules"]}
    return [
        row for row in answer["margins"]
        if row["rule"] in apply or row["margin"] is None or (row["relative"] is not None and abs(row["relative"]) < NEAR)
    ]  # fmt: skip


def _switch_words(item: dict[str, Any]) -> str:
    below, above = " or ".join(item["below"]), " or ".join(item["above"])
    if item["at"] is None:
        return f"{item['fact']}: if not, {below}; if so, {above}"
    edge = "from" if item["included"] else "above"
    return f"{item['fact']}: {below} up to {item['at']:.6g} {item['unit']}, {above} {edge} there on"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.6g}"
