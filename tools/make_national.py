"""Writes docs/national.md: the two national studies, their answers and how they compare (second half of ``make exchange``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from offramp.app.plan import plan
from offramp.core.result import Result

ROOT: Final = Path(__file__).resolve().parents[1]
STUDIES: Final = ("study-2025-08", "study-2026-11")
HEAD: Final = """# Could a country ban foreign accelerators? The national study

`examples/china-2025` asks it for China, with what was known on 2025-08-20, when the H20 was being discouraged, and again on
2026-11-23. The figures of this page are made by `make exchange`, which also renews the exchange rates from the present
parameters of the cost model.

```
offramp plan examples/china-2025/study-2025-08.toml --out DIR
offramp plan examples/china-2025/study-2026-11.toml --out DIR
```

## From money and cards to work

Work is counted in H20-equivalents: what one H20 does.

    work wanted   = work in use at the start + money wanted / price of an H20's worth of work (falling each year)
    work supplied = installed and arriving cards x H20-equivalents of a card

- **Inference.** `mix.toml` holds three kinds of serving (dense chat, dense reasoning, chat of a large mixture of experts).
  `offramp assess` prices them on every chip; `exchange.toml` keeps the answers with the date of the facts, the parameters and
  the day. A card takes the mix as it comes, so its rate is the harmonic mean over kinds. A chip whose facts were never
  published gets only a range there: it is judged beside the 910B2, and cut off at that range.
- **Training.** Peak x utilisation x goodput; whether software and links carry fine-tuning and pre-training is drawn for
  each vendor from its class (`[readiness]`), with the record that the class rests on.
- **Money.** A card's price is what revenue over cards implies once that was known, before that a mixture of price
  sources; it drifts over the quarters by one of two accounts (cheaper with age, dearer under scarcity).
- **Shares.** *All work* is the share of all work together when chips do what they do best. *Every kind alike* is the
  largest share that every kind of work gets; pre-training decides it. A ban is judged by the second, within the work it
  touches, while other work keeps what it would have without the ban. So a ban of one kind alone may keep less of that kind than
  a ban of all work keeps of each: there all kinds share the loss.
- Medians with the band from 10 % to 90 % of the draws.

## The answer
"""
TAIL: Final = """
## Where this differs from the published views, and why

- The views divide the money of a year's domestic supply by the money of that year's demand. So do the columns "money" above, and
  for the years whose outcome is known they come near. *Work* is lower, because a domestic card does less for its price, and
  because an H20's worth of foreign work gets cheaper each year while the price of domestic work falls more slowly.
- A year's flow is not the stock. A country keeps the foreign cards that it has, so a ban of *buying* keeps nearly all work, and
  a ban of *using* most of the loss.
- For later years the views expect domestic supply to multiply. Here HBM, wafers and yield limit it in the draws that follow the
  structure of supply; a vendor's published totals are the other voices. Who believes the totals should read the upper end of
  the band. Huawei's totals for 2027 and 2028 are derived from money that the same houses
  published, so nearness to them is no independent confirmation.
- As of August 2025 the answer is too low: [every replay of the supply forecasts was](backtest.md). What was reported for 2025
  lies in the upper half of what could be expected then.

## What to doubt

- The price of an H20's worth of work and how fast it falls is the bridge from money to work; it is assumed, and it leads or nearly
  leads the list of drivers.
- Few domestic rows stand behind the cost model, and none behind most domestic chips.
- The shares of kinds of work, the installed stock of 2025 other than the H20, and readiness for training are judged.
- No card retires before 2029; work divides freely between cards; demand does not answer to price.
"""


def main() -> None:
    """Runs both studies and writes the page."""
    parts = [HEAD]
    for name in STUDIES:
        result = plan(ROOT / "examples" / "china-2025" / f"{name}.toml", keep=False)
        parts.append(page_of(result))
    (ROOT / "docs" / "national.md").write_text("".join(parts) + TAIL, "utf-8")


def page_of(result: Result) -> str:
    """The section of one study."""
    answer = result.answer
    out = [f"\n### As of {answer['as_of']}\n\n{answer['finding']}. {_reasons(answer)}\n"]
    out.append(_table(("quarter", "all work", "every kind alike"), [
        (row["quarter"], _band(row["all"]), _band(row["even"])) for row in _thin(answer["coverage"])
    ]))  # fmt: skip
    out.append("Bans: from when one can be met with 90 % probability, else the most of the work that is kept.\n")
    out.append(_bans(answer["frontier"]["summary"]))
    views = {row["year"]: [] for row in answer["years"]}
    for view in answer["views"]:
        later = "" if view["known"] else ", later"
        views.setdefault(view["year"], []).append(f"{view['who']} {view['view']:.0%}{later}".replace("%", " %"))
    out.append("Domestic supply of a year over the demand added in it, beside published views (in money).\n")
    out.append(_table(("year", "views", "money", "work"), [
        (row["year"], "; ".join(views[row["year"]]), _band(row["money_ratio"]), _band(row["work_ratio"]))
        for row in answer["years"]
    ]))  # fmt: skip
    out.append("If one limit were lifted (structure of supply alone): share of all work at the end.\n")
    out.append(_table(("lifted", "share"), [
        (row["lifted"], _share(row["share_p50"])) for row in answer["bottlenecks"] if row["base"] == "structure only"
    ]))  # fmt: skip
    out.append(
        "What drives the share of all work at the end: its median in the lowest and highest fifth of the input.\n"
    )
    out.append(_table(("input", "low fifth", "high fifth", "rests on"), [
        (row["input"], _share(row["share_at_low"]), _share(row["share_at_high"]), row["rests_on"])
        for row in answer["drivers"]
    ]))  # fmt: skip
    assumed = sum(figure.confidence == "assumed" for figure in result.figures)
    out.append(f"{answer['bridge'][2][0].upper()}{answer['bridge'][2][1:]}. {assumed} of {len(result.figures)} figures are "
               "assumed.\n")  # fmt: skip
    return "\n".join(out)


def _reasons(answer: dict[str, Any]) -> str:
    """What holds the share back, and why it falls where it does."""
    return " ".join(answer["why"])


def _thin(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every second quarter, the first and the last."""
    return [row for i, row in enumerate(rows) if i in (0, len(rows) - 1) or (len(rows) - 1 - i) % 2 == 0]


def _bans(summary: list[dict[str, Any]]) -> str:
    scopes = list(dict.fromkeys(item["scope"] for item in summary))
    cell = {
        (item["scope"], item["what"]): f"from {item['met_from']}" if item["met_from"] else
        f"no, keeps {_share(min(item['best_kept_p10'], 0.994))}" for item in summary
    }  # fmt: skip
    kinds = ("buy", "use", "support")
    return _table(
        ("for", "buying", "using", "support"), [(scope, *(cell[scope, kind] for kind in kinds)) for scope in scopes]
    )


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _band(band: dict[str, float]) -> str:
    return f"{100 * band['p50']:.0f} % ({100 * band['p10']:.0f} to {100 * band['p90']:.0f})"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
