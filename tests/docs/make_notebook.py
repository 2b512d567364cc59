"""Writes docs/python.ipynb from docs/python.md: text becomes cells of text, Python blocks become cells of code."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def cells():
    """Pairs of kind and text."""
    text = (DOCS / "python.md").read_text("utf-8")
    for i, part in enumerate(re.split(r"```python\n(.*?)```\n", text, flags=re.DOTALL)):
        if part.strip():
            yield ("code" if i % 2 else "markdown", part.strip("\n"))


def notebook():
    """The notebook as JSON text."""
    made = []
    for number, (kind, text) in enumerate(cells()):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        made.append({**cell, "execution_count": None, "outputs": []} if kind == "code" else cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DOCS / "python.ipynb").write_text(notebook(), encoding="utf-8")
