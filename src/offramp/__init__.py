"""offramp: whether, how and when AI workloads can leave one vendor's chips.

The public functions (``assess``, ``plan`` ...) live in :mod:`offramp.app` and are loaded when first used, so that
``import offramp`` stays instant. Some share their name with a layer (``offramp.plan`` is a package, too): such a
package answers calls as the function does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = (
    "assess", "calibrate", "check", "chips", "diff", "drill", "engines", "export", "init", "launch", "models", "plan",
    "runs", "scan", "schema", "simulate", "sources", "supply", "train", "validate",
)  # fmt: skip
"""Each is a function of that name in the module of that name in offramp.app."""
__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def _public(name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.app.{name}"), name)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return _public(name)
    raise AttributeError(f"module 'offramp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Layer(ModuleType):
    """A package of a layer that is called like the public function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _public(self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Root(ModuleType):
    """This package; importing a layer sets it as an attribute here, over the function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _PUBLIC and type(value) is ModuleType:
            value.__class__ = _Layer
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
