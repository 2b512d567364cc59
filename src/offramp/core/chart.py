"""Chart: a Vega-Lite specification of a table, shown by notebooks and drawn to SVG or PNG on request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from offramp.core.errors import BackendError, InputError
from offramp.core.record import Record

Mark = Literal["bar", "line", "point"]
SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v5.json"


class Chart(Record):
    """A chart that holds its data; loads a drawing library only to be drawn.

    Attributes:
        spec: Vega-Lite specification with its data.
    """

    spec: dict[str, Any]

    def to_json(self) -> str:
        """The specification as JSON, for any Vega-Lite editor."""
        return json.dumps(self.spec, ensure_ascii=False)

    def to_svg(self) -> str:
        """The drawn chart.

        Raises:
            BackendError: the [report] extra is not installed.
        """
        try:
            import vl_convert
        except ImportError:
            mend = 'Install "offramp[report]".'
            raise BackendError("charts are drawn by vl-convert", where="chart", mend=mend) from None
        return str(vl_convert.vegalite_to_svg(self.spec))

    def save(self, path: str | Path) -> Path:
        """Writes the chart: .json (specification), .svg or .png.

        Raises:
            InputError: another ending.
        """
        file = Path(path)
        if file.suffix == ".json":
            file.write_text(self.to_json(), encoding="utf-8")
        elif file.suffix == ".svg":
            file.write_text(self.to_svg(), encoding="utf-8")
        elif file.suffix == ".png":
            import vl_convert

            file.write_bytes(vl_convert.vegalite_to_png(self.spec, scale=2))
        else:
            raise InputError(f'cannot draw "{file.suffix}"', where=str(path), mend="End it in .json, .svg or .png.")
        return file

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"application/vnd.vegalite.v5+json": self.spec, "text/plain": f"Chart({self.spec.get('title', '')})"}


def chart_of(
    rows: list[Mapping[str, Any]], titles: Mapping[str, str], *, x: str, y: str, color: str = "", mark: Mark = "bar",
    title: str = "",
) -> Chart:  # fmt: skip
    """A chart of rows.

    Args:
        rows: by column name.
        titles: axis title by column name, with units.
        x, y, color: column names; y with "_low", "_mid", "_high" beside it gets an interval.
        mark: bar, line or point.
        title: the finding.
    """
    numeric = {name for name in titles if any(isinstance(row.get(name), (int, float)) for row in rows)}

    def channel(name: str) -> dict[str, Any]:
        return {
            "field": name,
            "type": "quantitative" if name in numeric else "nominal",
            "title": titles.get(name, name),
        }

    encoding: dict[str, Any] = {"x": channel(x), "y": channel(y)}
    if color:
        encoding["color"] = channel(color)
        if mark == "bar" and x not in numeric:
            encoding["xOffset"] = {"field": color}
    layers: list[dict[str, Any]] = [{"mark": mark, "encoding": encoding}]
    low, high = (y.removesuffix("_mid") + end for end in ("_low", "_high"))
    if low in numeric and high in numeric:
        band = {key: value for key, value in encoding.items() if key != "y"}
        y_range = {"y": {"field": low, "type": "quantitative", "title": titles.get(y, y)}, "y2": {"field": high}}
        layers.append({"mark": {"type": "rule", "color": "#1c2126"}, "encoding": {**band, **y_range}})
    data = {"values": [dict(row) for row in rows]}
    return Chart(spec={"$schema": SCHEMA, "title": title, "data": data, "layer": layers})
