"""Sourced facts about chips, systems, engines and prices; :func:`load` is the only reader.

catalog = load(as_of)                      # cached; as_of hides what was not yet known
chip = catalog.chip("nvidia/h20")          # aliases work; unknown ids name near matches
chip.require("memory_bandwidth").si        # bytes per second
"""

from __future__ import annotations

from offramp.catalog.chips import NEEDED, Bin, Chip
from offramp.catalog.engines import Engine, EngineVersion, Support, SupportFact
from offramp.catalog.figures import FIGURE_DIMENSIONS
from offramp.catalog.loader import Catalog, data_version, load
from offramp.catalog.prices import ExchangeRate, MarketFigure, Price, Prices
from offramp.catalog.systems import System, Topology

__all__ = [
    "FIGURE_DIMENSIONS", "NEEDED", "Bin", "Catalog", "Chip", "Engine", "EngineVersion", "ExchangeRate",
    "MarketFigure", "Price", "Prices", "Support", "SupportFact", "System", "Topology", "data_version", "load",
]  # fmt: skip
