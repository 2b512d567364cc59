"""offramp: whether, how and when AI workloads can leave one vendor's chips.

The public functions (``assess``, ``plan`` ...) live in :mod:`offramp.app` and are loaded when first used, so that
``import offramp`` stays instant.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> module of offramp.app that defines a function of that name
_PUBLIC = {
    "assess": "assess", "calibrate": "calibrate", "check": "check", "drill": "drill", "plan": "plan",
    "scan": "scan", "simulate": "simulate", "supply": "supply", "train": "train", "validate": "validate",
}  # fmt: skip
__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"offramp.app.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'offramp' has no attribute {name!r}")
