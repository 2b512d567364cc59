"""Report: a Result as one self-contained HTML file that opens offline, in light and dark, and prints.

``write(result, folder)`` picks the module of the Result's command (``offramp.report.assess`` for "assess"); a command
without one gets a plain page of its tables. A module defines one function::

    from offramp.report import charts
    from offramp.report.html import Page, decision, section, stat, table, Col, number, spread, paragraph

    def page(result: Result) -> Page:
        lead = decision(
            "910C carries chat from 2027Q1; code completion must stay",     # the finding, one sentence
            stats=[stat("chips needed", number(4120, evidence="chat-910c"), "910C packages, 3,300 to 5,020")],
            points=["What moves ...", "What cannot, and why ..."],          # short sentences, Html or text
        )
        return Page(
            title="Leaving the H20", question="Which chips can carry the work?", lead=lead,
            sections=[section("Exchange rates", charts.ranges(...), table([...], rows))],
            evidence={"chat-910c": ("chat on 910C", ["chips/huawei/ascend-910c#memory_bandwidth", ...])},
        )

Rules: the first screen is the decision; a chart's title states the finding, its axes their units; every number made
with :func:`number` or :func:`spread` links to its evidence (a group of figure ids), which the page lists with their
sources, assumed ones first. Warnings, the knowledge horizon, hashes and the whole Result as JSON are added to every
page by :func:`render`. Nothing is loaded from anywhere: charts are Vega-Lite specs drawn to inline SVG here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.core.errors import BackendError, InputError

if TYPE_CHECKING:
    from offramp.core.result import Result

__all__ = ["of_this_release", "render", "write"]


def render(result: Result, *, lang: str = "en") -> str:
    """The whole HTML text of a Result.

    Args:
        result: of any command.
        lang: "en" or "zh".

    Raises:
        InputError: unknown language, or a Result whose form is not that of this release.
        BackendError: the [report] extra is not installed.
    """
    for needed in ("jinja2", "vl_convert"):
        if importlib.util.find_spec(needed) is None:
            raise BackendError(f"reports need {needed}", where="report", mend='Install "offramp[report]".')
    from offramp.report.html import Page, assemble, plain_page
    from offramp.report.lang import speaking, translate

    name = f"offramp.report.{result.command}"
    own = importlib.util.find_spec(name)
    with speaking(lang), of_this_release(result):
        page: Page = importlib.import_module(name).page(result) if own is not None else plain_page(result)
    return translate(assemble(page, result), lang)


@contextlib.contextmanager
def of_this_release(result: Result) -> Generator[None]:
    """Names a Result, read from a file, that lacks what documents of this release show.

    Raises:
        InputError: a key of the answer is missing.
    """
    try:
        yield
    except KeyError as error:
        raise InputError(
            f"the Result holds no {error}, which this release shows", where=f"report of {result.command}",
            mend="It was made by another release: run the command again.",
        ) from error  # fmt: skip


def write(result: Result, folder: str | Path, *, name: str = "report.html") -> Path:
    """Writes the report, whole or not at all, and says where.

    Raises:
        BackendError: the folder cannot be written.
    """
    text = render(result).encode()
    path = Path(folder) / name
    part = path.with_name(f".{name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(text)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise BackendError(
            f"cannot be written ({error.strerror})", where=str(path), mend="Free space or name another folder."
        ) from None
    return path
