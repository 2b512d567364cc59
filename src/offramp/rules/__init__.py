"""Dated rules of two jurisdictions and the engine that evaluates them.

``load()`` reads the rulebook, ``verdict(facts, context, as_of)`` evaluates it for one chip, act and day.
"""

from offramp.rules.book import Rulebook, load, rulebook_of
from offramp.rules.engine import verdict
from offramp.rules.facts import ChipFacts, Context, Peak, Settings
from offramp.rules.records import RANK, VERDICTS, Rule, Verdict

__all__ = [
    "RANK", "VERDICTS", "ChipFacts", "Context", "Peak", "Rule", "Rulebook", "Settings", "Verdict", "load",
    "rulebook_of", "verdict",
]  # fmt: skip
