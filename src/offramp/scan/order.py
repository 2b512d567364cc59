"""The order of a report: effort x reach x how often real first ports touched such a place.

Reach is what a change serves: the places that a finding joins, and the modules of the tree that import its file. A
device module that forty others import is ported before a script, whatever stands in either.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final

from offramp.scan.finding import Finding
from offramp.scan.target import read_rows
from offramp.scan.words import OTHER_WORDS, words_of

EFFORT_WEIGHT: Final = {"L0": 1.0, "L1": 2.0, "L2": 4.0, "L3": 8.0, "L4": 12.0}
STAGE_WEIGHT: Final = {"first-run": 3.0, "full-speed": 1.5, "later": 0.4}
STAGE_IN_ORDER: Final = {"first-run": 1.0, "full-speed": 0.8, "later": 0.6}
"""The same for single findings, milder: how often ports touched a class says part of it already."""
ROLE_WEIGHT: Final = {
    "source": 1.0, "build": 1.0, "infra": 0.8, "example": 0.3, "benchmark": 0.2, "test": 0.15, "doc": 0.05,
    "vendored": 0.1, "generated": 0.1,
}  # fmt: skip
"""How much one occurrence counts for the rank, by what the file is for. Assumed."""
GUARDED_SHARE: Final = 0.3
"""Work at a guarded place against an unguarded one: often a branch beside it. Assumed."""
PRODUCT: Final = frozenset({"source", "build", "infra"})
SHRINK: Final = 20.0
"""Places that a class is given beside the counted ones, one of them touched: rare classes stay in the middle."""
PEERED: Final = ("branch.", "device.", "import.")
"""Classes that are counted apart where they name another accelerator beside CUDA: there a port has been before."""


def touch_key(kind: str, symbol: str) -> str:
    """The row of touch.csv that a place belongs to."""
    return kind + ":peers" if kind.startswith(PEERED) and words_of(symbol) & OTHER_WORDS else kind


@lru_cache(maxsize=1)
def _touched() -> dict[str, tuple[int, int]]:
    return {row["class"]: (int(row["places"]), int(row["touched"])) for row in read_rows("touch.csv")}


def share_touched(kind: str, symbol: str) -> float:
    """Share of a class's findings in product code that a repository's first port to a chip changed, slightly shrunk.

    Source: scan/touch.csv, counted on real ports by bench/scan_recall.py; low for what ports leave to later ones.
    """
    places, touched = _touched().get(touch_key(kind, symbol), (0, 0))
    return (touched + 1) / (places + SHRINK)


def breadth(count: int) -> float:
    """Weight of something that ``count`` others share: 1 for none, then with the logarithm."""
    return 1.0 + math.log2(1 + count)


def importers(graph: Mapping[str, set[str]]) -> Counter[str]:
    """By path, how many modules of the tree import it."""
    return Counter(goal for goals in graph.values() for goal in goals)


def by_priority(by_path: Mapping[str, int]) -> Callable[[Finding], tuple[bool, bool, float, str, int]]:
    """Sort key of findings: unguarded ones of product code first, then by effort x reach x share touched.

    Args:
        by_path: how many modules import a file.
    """

    def key(finding: Finding) -> tuple[bool, bool, float, str, int]:
        reach = breadth(len(finding.places) - 1) * breadth(by_path.get(finding.path, 0))
        score = EFFORT_WEIGHT[finding.effort] * reach * share_touched(finding.kind, finding.symbol)
        score *= STAGE_IN_ORDER[finding.stage]
        return finding.guarded, finding.role not in PRODUCT, -score, finding.path, finding.line

    return key


def in_order(findings: Iterable[Finding], by_path: Mapping[str, int]) -> list[Finding]:
    """Findings as a porter meets them."""
    return sorted(findings, key=by_priority(by_path))
