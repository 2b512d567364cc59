"""Result: what every command returns, with the evidence that it rests on."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from offramp.core.figure import Confidence, Figure
from offramp.core.record import Record

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from offramp.core.chart import Chart

Cell = str | int | float | bool | None


class UsedFigure(Record):
    """One figure that an answer rests on.

    Attributes:
        id: stable address, ``chips/huawei/ascend-910b2#hbm_bandwidth``.
    """

    id: str
    value: float
    unit: str
    source: str
    url: str
    as_of: dt.date
    confidence: Confidence
    low: float | None = None
    high: float | None = None
    note: str = ""


class Notice(Record):
    """Something that the reader must know before using the answer.

    Attributes:
        kind: machine-readable class ("extrapolation", "assumed-figure", "bounds-mode", "cut-short" ...).
        text: one sentence.
        where: what it is about ("workload chat on huawei/ascend-910c").
    """

    kind: str
    text: str
    where: str = ""


class Column(Record):
    """A column of a table: name, unit ("" for none), and what it is."""

    name: str
    unit: str = ""
    title: str = ""


class Table(Record):
    """Rows and columns of one answer table. ``to_arrow`` and ``to_pandas`` load those libraries when called."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def dicts(self) -> Iterator[dict[str, Cell]]:
        """Each row as a dict by column name."""
        names = [column.name for column in self.columns]
        for row in self.rows:
            yield dict(zip(names, row, strict=True))

    def to_arrow(self) -> pyarrow.Table:
        """The table as Arrow; units stand in the field metadata."""
        import pyarrow as pa

        arrays = [_array([row[i] for row in self.rows]) for i in range(len(self.columns))]
        fields = [
            pa.field(column.name, array.type, metadata={"unit": column.unit, "title": column.title})
            for column, array in zip(self.columns, arrays, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a pandas DataFrame (pandas must be installed)."""
        return self.to_arrow().to_pandas()


def _array(values: list[Cell]) -> pyarrow.Array[Any]:
    """A column as Arrow, laid out by hand: ``pyarrow.array`` would load pandas to ask whether a list is one of its own."""
    import array

    import pyarrow as pa

    n, kinds = len(values), {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(n)
    valid = None if None not in values else pa.py_buffer(_bits([value is not None for value in values]))
    missing = values.count(None)
    if kinds == {str}:
        texts = [str(value).encode() if value is not None else b"" for value in values]
        ends = array.array("i", [0, *itertools.accumulate(map(len, texts))])
        return pa.Array.from_buffers(
            pa.string(), n, [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))], missing
        )
    if kinds == {bool}:
        return pa.Array.from_buffers(pa.bool_(), n, [valid, pa.py_buffer(_bits(list(map(bool, values))))], missing)
    if kinds == {int}:
        whole = array.array("q", [int(value or 0) for value in values])
        return pa.Array.from_buffers(pa.int64(), n, [valid, pa.py_buffer(whole)], missing)
    numbers = array.array("d", [float(value or 0.0) for value in values])
    return pa.Array.from_buffers(pa.float64(), n, [valid, pa.py_buffer(numbers)], missing)


def _bits(flags: list[bool]) -> bytes:
    """Flags as bits, the first the lowest."""
    out = bytearray((len(flags) + 7) // 8)
    for i, flag in enumerate(flags):
        out[i // 8] |= flag << (i % 8)
    return bytes(out)


def table_of(rows: Iterable[Mapping[str, Cell]], *, columns: Iterable[Column | str], title: str = "") -> Table:
    """A table from dict rows; a key missing in a row becomes None."""
    cols = tuple(column if isinstance(column, Column) else Column(name=column) for column in columns)
    return Table(columns=cols, rows=tuple(tuple(row.get(col.name) for col in cols) for row in rows), title=title)


class Result(Record):
    """An answer and all that it rests on. Immutable; the same inputs and seed give the same Result.

    Attributes:
        command: "assess", "plan" ...
        status: "ok", or "partial" when parts could not be answered (the warnings say which).
        answer: the command's own answer as plain data (dicts, lists, numbers); its shape is the
            command's documented schema.
        tables: tables by name.
        inputs_hash: blake2b of every input file and setting.
        data_version: version of the shipped facts.
        knowledge_horizon: latest date of any fact used; None when no dated fact was used.
        seed: master seed of all random streams.
        figures: every sourced number used.
        warnings: what the reader must know.
        disclaimer: standing sentences ("not legal advice").
    """

    command: str
    answer: Any
    inputs_hash: str
    data_version: str
    status: Literal["ok", "partial"] = "ok"
    tables: dict[str, Table] = {}
    knowledge_horizon: dt.date | None = None
    seed: int = 0
    figures: tuple[UsedFigure, ...] = ()
    warnings: tuple[Notice, ...] = ()
    disclaimer: str = ""
    offramp_version: str = ""

    def chart(
        self,
        table: str,
        *,
        x: str,
        y: str,
        color: str = "",
        mark: Literal["bar", "line", "point"] = "bar",
        title: str = "",
    ) -> Chart:
        """A chart of one of the tables, for notebooks and files.

        Args:
            table: name of a table.
            x, y, color: names of its columns; a y that ends in "_mid" is drawn with its interval.
            mark: bar, line or point.
            title: the finding; the table's title where empty.

        Raises:
            InputError: no such table or column.
        """
        from offramp.core.chart import chart_of
        from offramp.core.errors import InputError, near_miss_hint

        if table not in self.tables:
            hint = near_miss_hint(table, self.tables) or f"There are: {', '.join(self.tables)}."
            raise InputError(f'no table "{table}"', where="chart", mend=hint)
        data = self.tables[table]
        titles = {
            c.name: f"{c.title or c.name.replace('_', ' ')}{f' [{c.unit}]' if c.unit else ''}" for c in data.columns
        }
        for name in filter(None, (x, y, color)):
            if name not in titles:
                hint = near_miss_hint(name, titles) or f"There are: {', '.join(titles)}."
                raise InputError(f'table "{table}" has no column "{name}"', where="chart", mend=hint)
        return chart_of(list(data.dicts()), titles, x=x, y=y, color=color, mark=mark, title=title or data.title)

    def to_json(self, *, indent: int = 2) -> str:
        """The Result as JSON text; NaN and infinities become null."""
        return msgspec.json.format(msgspec.json.encode(self), indent=indent).decode()


def result_from_json(text: str | bytes) -> Result:
    """The Result that :meth:`Result.to_json` wrote."""
    return msgspec.json.decode(text, type=Result)


class FigureLog:
    """Collects the figures that an analysis touched; the only mutable thing an app function passes down."""

    def __init__(self) -> None:
        self._used: dict[str, UsedFigure] = {}
        self._horizon: dt.date | None = None

    def use(self, figure_id: str, figure: Figure) -> Figure:
        """Records the figure under its id and returns it."""
        self._used[figure_id] = UsedFigure(
            id=figure_id, value=figure.value, unit=figure.unit, source=figure.source, url=figure.url,
            as_of=figure.as_of, confidence=figure.confidence, low=figure.low, high=figure.high, note=figure.note,
        )  # fmt: skip
        known = figure.known_since
        self._horizon = known if self._horizon is None else max(self._horizon, known)
        return figure

    def note_date(self, known: dt.date) -> None:
        """Moves the knowledge horizon for a dated fact that is not a figure (a rule, a fitted parameter)."""
        self._horizon = known if self._horizon is None else max(self._horizon, known)

    def merge(self, figures: Iterable[UsedFigure], horizon: dt.date | None) -> None:
        """Adds what another log (of a worker process, of an earlier run) collected."""
        for figure in figures:
            self._used[figure.id] = figure
        if horizon is not None:
            self.note_date(horizon)

    @property
    def figures(self) -> tuple[UsedFigure, ...]:
        """All figures used, by id."""
        return tuple(self._used[key] for key in sorted(self._used))

    @property
    def horizon(self) -> dt.date | None:
        """Latest date of any fact used."""
        return self._horizon


def hash_inputs(parts: Mapping[str, bytes | str | int | float | None]) -> str:
    """A hex digest of named inputs, independent of their order."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(parts):
        value = parts[name]
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        digest.update(f"{name}\x1f{len(raw)}\x1f".encode())
        digest.update(raw)
    return digest.hexdigest()
