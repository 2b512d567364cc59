"""Tables as Arrow: every type, missing values, and no pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from offramp.core.result import Column, table_of

ROWS = [
    {"n": 2**40, "x": 2.5, "t": "é", "b": True},
    {"n": None, "x": 1, "t": None, "b": None},
    {"n": -1, "x": None, "t": "", "b": False},
] * 7  # more than eight rows, so that flags fill more than a byte


def test_columns_are_what_arrow_itself_would_make_of_them() -> None:
    table = table_of(ROWS, columns=["n", Column(name="x", unit="s"), "t", "b", "none"])
    made = table.to_arrow()
    made.validate(full=True)
    assert made.equals(pa.table({name: [row.get(name) for row in ROWS] for name in ("n", "x", "t", "b", "none")}))
    assert made.schema.field("x").metadata[b"unit"] == b"s"
    assert table_of([], columns=["a"]).to_arrow().num_rows == 0


def test_a_table_is_written_without_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from offramp.app.runs import write_table; "
        "from offramp.core.result import table_of; "
        "write_table(Path(sys.argv[1]), table_of([{'a': 1, 'b': None}], columns=['a', 'b'])); "
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "one.parquet")], check=True)
    assert (tmp_path / "one.parquet").stat().st_size > 0
