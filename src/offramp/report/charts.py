"""Charts: Vega-Lite specs drawn to inline SVG when the report is made. No script, no network.

Each function returns a ``<figure>``: the title states the finding, the note says what bands and marks cover, axes carry
units. Colours are those of the page (:mod:`page.css` swaps ink, lines and paper in dark mode) and of :data:`PALETTE`,
which is safe for colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup as Html

from offramp.report.lang import said

INK: Final = "#1c2126"
SOFT: Final = "#5c6670"
LINE: Final = "#dde2e6"
PALETTE: Final = (
    "#0b6e99", "#d5790b", "#3a9a6b", "#b0518f", "#7a6fc2", "#a68a2d", "#4aa3c7", "#c4543a", "#6d7d3b", "#8a8f96",
)  # fmt: skip
WIDTH: Final = 680
_PROBABILITY: Final = ["#a3341f", "#f3e3b0", "#1f6f4f"]
"""From never to always."""
_FONT: Final = "Arial, Helvetica, Liberation Sans, sans-serif"
_VL_VERSION: Final = "5.20"

Row = Mapping[str, Any]


def _config() -> dict[str, Any]:
    label = {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "background": "transparent", "font": _FONT, "view": {"stroke": None},
        "axis": {**label, "gridColor": LINE, "domainColor": SOFT, "tickColor": SOFT, "labelLimit": 260},
        "legend": {**label, "orient": "top", "title": None, "labelLimit": 260},
        "header": {**label, "labelFontWeight": "bold", "labelColor": INK, "title": None},
        "text": {"color": INK, "fontSize": 12}, "range": {"category": list(PALETTE)},
        "point": {"filled": True, "size": 70}, "rule": {"color": SOFT},
    }  # fmt: skip


def svg(spec: Mapping[str, Any]) -> Html:
    """The inline SVG of a Vega-Lite spec; the page's fonts and colours are added."""
    import vl_convert

    whole = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", **_spoken(spec), "config": _config()}
    text: str = vl_convert.vegalite_to_svg(_finite(whole), vl_version=_VL_VERSION)
    return Html(text[text.index("<svg") :])


_TEXTS: Final = ("title", "values", "sort", "text")
"""Keys of a spec below which texts are for readers."""


def _spoken(value: Any, *, text: bool = False, key: str = "") -> Any:
    """The spec with its titles, names and legends in the language that is spoken."""
    if isinstance(value, Mapping):
        return {str(k): _spoken(v, text=(text and k != "field") or k in _TEXTS, key=str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spoken(item, text=text, key=key) for item in value]
    return said(value) if text and isinstance(value, str) and key not in ("type", "field") else value


def _finite(value: Any) -> Any:
    """NaN and infinities as null, which JSON and Vega understand."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def figure(spec: Mapping[str, Any], *, title: str, note: str = "", alt: str = "") -> Html:
    """A chart with its finding as title.

    Args:
        spec: Vega-Lite; no title of its own.
        title: the finding, one sentence.
        note: what bands, marks and colours cover.
        alt: text for readers who cannot see it; the title where empty.
    """
    label = Html(' role="img" aria-label="{}"').format(alt or title)
    drawn = Html("<svg") + label + Html(str(svg(spec)).removeprefix("<svg"))
    small = Html('<span class="where">{}</span>').format(note) if note else Html("")
    return Html("<figure><figcaption>{}{}</figcaption>{}</figure>").format(title, small, drawn)


def ranges(
    rows: Sequence[Row], *, title: str, x_title: str, note: str = "", reference: float | None = None,
    reference_label: str = "", log: bool = False,
) -> Html:  # fmt: skip
    """One line per name with low, mid and high.

    Args:
        rows: dicts with name, low, high, mid (or None: an open range); optionally group (a panel each), kind (colour).
        title, note: as of :func:`figure`.
        x_title: of the axis, with its unit.
        reference: a vertical line to compare with, with its label.
        log: logarithmic axis.
    """
    data = [{"group": "", "kind": "", **row} for row in rows]
    order = list(dict.fromkeys(str(row["name"]) for row in data))
    groups = list(dict.fromkeys(str(row["group"]) for row in data))
    kinds = list(dict.fromkeys(str(row["kind"]) for row in data))
    scale: dict[str, Any] = {"type": "log"} if log else {"zero": True, "nice": True}
    y: dict[str, Any] = {"field": "name", "type": "nominal", "sort": order, "title": None}
    colour: dict[str, Any] = {"value": PALETTE[0]}
    if len(kinds) > 1:
        colour = {"field": "kind", "type": "nominal", "sort": kinds}
    x = {"field": "low", "type": "quantitative", "title": x_title, "scale": scale}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "bar", "height": 8, "opacity": 0.35, "cornerRadius": 4},
         "encoding": {"y": y, "x": x, "x2": {"field": "high"}, "color": colour}},
        {"transform": [{"filter": "isValid(datum.mid)"}], "mark": {"type": "point", "opacity": 1},
         "encoding": {"y": y, "x": {**x, "field": "mid"}, "color": colour}},
    ]  # fmt: skip
    if reference is not None:
        line = {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": {"datum": reference}}}
        text = {
            "mark": {"type": "text", "align": "left", "dx": 4, "dy": -4, "baseline": "bottom", "color": SOFT},
            "encoding": {"x": {"datum": reference}, "y": {"value": 0}, "text": {"value": reference_label}},
        }
        layers += [line, text] if reference_label and groups == [""] else [line]
    height = {"step": 26}
    spec: dict[str, Any] = {"data": {"values": data}, "width": WIDTH - 190, "height": height, "layer": layers}
    if groups != [""]:
        panel = {"layer": layers, "width": WIDTH - 190, "height": height}
        facet = {"row": {"field": "group", "type": "nominal", "sort": groups, "title": None,
                         "header": {"labelOrient": "top", "labelAnchor": "start", "labelAngle": 0}}}  # fmt: skip
        spec = {"data": {"values": data}, "facet": facet, "spec": panel, "resolve": {"scale": {"y": "independent"}}}
    return figure(spec, title=title, note=note)


def bars(
    rows: Sequence[Row], *, title: str, x_title: str, stack: bool = True, note: str = "", order: Sequence[str] = ()
) -> Html:
    """Horizontal bars of parts: dicts with name, part, value; optional group (one panel each)."""
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    parts = list(order) or list(dict.fromkeys(str(row["part"]) for row in rows))
    data = [{**row, "order": parts.index(str(row["part"]))} for row in rows]
    encoding: dict[str, Any] = {
        "y": {"field": "name", "type": "nominal", "sort": names, "title": None},
        "x": {"field": "value", "type": "quantitative", "title": x_title, "stack": "zero" if stack else None},
        "color": {"field": "part", "type": "nominal", "sort": parts},
        "order": {"field": "order"},
    }
    totals: dict[str, float] = {}
    for row in rows:
        totals[str(row["name"])] = totals.get(str(row["name"]), 0.0) + float(row["value"] or 0.0)
    if stack and totals and all(99.0 < total < 100.5 for total in totals.values()):
        encoding["x"]["scale"] = {"domain": [0, 100]}  # parts of a whole end where the whole does
    mark = {"type": "bar", "height": 14, "clip": True}
    if not stack:
        encoding["yOffset"] = {"field": "part", "sort": parts}
        mark = {"type": "bar"}
    spec = {"data": {"values": data}, "width": WIDTH - 190, "height": {"step": 26}, "mark": mark, "encoding": encoding}
    return figure(spec, title=title, note=note)


def lines(
    rows: Sequence[Row], *, title: str, x_title: str, y_title: str, note: str = "", log_y: bool = False
) -> Html:  # fmt: skip
    """Lines with optional bands: dicts with x (a name, as of a quarter), y, and optionally series, low, high.

    Args:
        rows: the points, x in the order given.
        title, note: as of :func:`figure`.
        x_title, y_title: of the axes, with units.
        log_y: logarithmic axis.
    """
    data = [{"series": "", **row} for row in rows]
    xs = list(dict.fromkeys(row["x"] for row in data))
    series = list(dict.fromkeys(str(row["series"]) for row in data))
    x: dict[str, Any] = {"field": "x", "title": x_title, "type": "ordinal", "sort": xs}
    x |= {"axis": {"labelAngle": 0, "labelOverlap": True}}
    y: dict[str, Any] = {"field": "y", "type": "quantitative", "title": y_title}
    y |= {"scale": {"type": "log"}} if log_y else {}
    colour: dict[str, Any] = {"value": PALETTE[0]}
    if len(series) > 1:
        colour = {"field": "series", "type": "nominal", "sort": series}
    layers: list[dict[str, Any]] = []
    if any("low" in row for row in rows):
        band = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
        layers.append({"mark": {"type": "area", "opacity": 0.22}, "encoding": {"x": x, **band, "color": colour}})
    drawn = {"x": x, "y": y, "color": colour}
    layers += [
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": drawn},
        {"mark": {"type": "point", "size": 36}, "encoding": drawn},
    ]
    spec = {"data": {"values": data}, "width": WIDTH - 90, "height": 260, "layer": layers}
    return figure(spec, title=title, note=note)


def heatmap(
    rows: Sequence[Row], *, title: str, x_title: str, y_title: str, value_title: str, note: str = "",
    shares: bool = False,
) -> Html:  # fmt: skip
    """A grid: dicts with x, y, value and optionally label (shown in the cell); x and y in the order given.

    ``shares`` are values from 0 to 1, coloured from red to green. No ``value_title``, no legend: the labels say the values.
    """
    xs = list(dict.fromkeys(str(row["x"]) for row in rows))
    ys = list(dict.fromkeys(str(row["y"]) for row in rows))
    values = [float(row["value"]) for row in rows if row["value"] is not None]
    low, high = (0.0, 1.0) if shares else (min(values, default=0.0), max(values, default=1.0))
    middle = low + 0.6 * (high - low)
    data = [{"label": row.get("label") or _short(row["value"]), **row} for row in rows]
    place: dict[str, Any] = {
        "x": {"field": "x", "type": "ordinal", "sort": xs, "title": x_title, "axis": {"labelAngle": 0}},
        "y": {"field": "y", "type": "ordinal", "sort": ys, "title": y_title},
    }
    scale = {"scheme": "redyellowgreen" if shares else "teals", "domain": [low, high]}
    colour = {
        "field": "value",
        "type": "quantitative",
        "scale": scale,
        "legend": {"title": value_title} if value_title else None,
    }
    layers: list[dict[str, Any]] = [{"mark": {"type": "rect"}, "encoding": {**place, "color": colour}}]
    # fixed inks: the cell's own colour decides what can be read on it, in light and in dark mode
    ink = {"condition": {"test": f"datum.value > {middle}", "value": "#fefefe"}, "value": "#111417"}
    layers.append({"mark": {"type": "text"}, "encoding": {**place, "text": {"field": "label"}, "color": ink}})
    spec = {"data": {"values": data}, "width": {"step": 62}, "height": {"step": 30}, "layer": layers}
    return figure(spec, title=title, note=note)


def heatmaps(rows: Sequence[Row], *, title: str, x_title: str, value_title: str, note: str = "") -> Html:
    """Grids of shares beside each other: dicts with panel, x, y, value (0 to 1) and label, in the order given."""
    xs, ys, panels = (list(dict.fromkeys(str(row[name]) for row in rows)) for name in ("x", "y", "panel"))
    step = max(30, min(56, (WIDTH - 110) // max(len(xs) * len(panels), 1)))
    place: dict[str, Any] = {
        "x": {"field": "x", "type": "ordinal", "sort": xs, "title": x_title, "axis": {"labelAngle": -45}},
        "y": {"field": "y", "type": "ordinal", "sort": ys, "title": None},
    }
    # light in the middle, dark at both ends: the ink follows the cell, in light and in dark mode
    colour = {"field": "value", "type": "quantitative", "scale": {"domain": [0, 0.5, 1], "range": _PROBABILITY},
              "legend": {"title": value_title, "format": ".0%", "gradientLength": 200, "titleLimit": 400}}  # fmt: skip
    ink = {"condition": {"test": "datum.value < 0.2 || datum.value > 0.85", "value": "#fefefe"}, "value": "#111417"}
    text = {"text": {"field": "label"}, "color": ink}
    spec = {
        "data": {"values": [dict(row) for row in rows]},
        "facet": {"column": {"field": "panel", "type": "nominal", "sort": panels, "title": None}}, "spacing": 14,
        "spec": {"width": {"step": step}, "height": {"step": 30}, "layer": [
            {"mark": {"type": "rect"}, "encoding": {**place, "color": colour}},
            {"mark": {"type": "text", "fontSize": 11}, "encoding": {**place, **text}},
        ]},
    }  # fmt: skip
    return figure(spec, title=title, note=note)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def scatter(
    rows: Sequence[Row], *, title: str, x_title: str, y_title: str, note: str = "", log: bool = False,
    diagonal: bool = False,
) -> Html:  # fmt: skip
    """Points: dicts with x, y, and optionally series, label; ``diagonal`` draws y = x."""
    data = [{"series": "", "label": "", **row} for row in rows]
    series = list(dict.fromkeys(str(row["series"]) for row in data))
    scale = {"type": "log"} if log else {"zero": False}
    place = {
        "x": {"field": "x", "type": "quantitative", "title": x_title, "scale": scale},
        "y": {"field": "y", "type": "quantitative", "title": y_title, "scale": scale},
    }
    colour: dict[str, Any] = {"value": PALETTE[0]}
    if len(series) > 1:
        colour = {"field": "series", "type": "nominal", "sort": series}
    layers: list[dict[str, Any]] = [{"mark": {"type": "point", "opacity": 0.8}, "encoding": {**place, "color": colour}}]
    if any(row["label"] for row in data):
        layers.append({"mark": {"type": "text", "align": "left", "dx": 7, "fontSize": 11},
                       "encoding": {**place, "text": {"field": "label"}}})  # fmt: skip
    if diagonal and data:
        ends = [f(float(row[key]) for row in data for key in "xy") for f in (min, max)]
        layers.append({"data": {"values": [{"x": end, "y": end} for end in ends]},
                       "mark": {"type": "line", "strokeDash": [4, 3], "color": SOFT}, "encoding": place})  # fmt: skip
    spec = {"data": {"values": data}, "width": WIDTH - 120, "height": 340, "layer": layers}
    return figure(spec, title=title, note=note)


def steps(rows: Sequence[Row], *, title: str, x_title: str, y_title: str, note: str = "", height: int = 260) -> Html:
    """Stacked areas by quarter: dicts with x, series, y; x in the order given."""
    xs = list(dict.fromkeys(str(row["x"]) for row in rows))
    series = list(dict.fromkeys(str(row["series"]) for row in rows))
    encoding = {
        "x": {"field": "x", "type": "ordinal", "sort": xs, "title": x_title,
              "axis": {"labelAngle": 0, "labelOverlap": True}},
        "y": {"field": "y", "type": "quantitative", "title": y_title, "stack": "zero"},
        "color": {"field": "series", "type": "nominal", "sort": series},
        "order": {"field": "rank"},
    }  # fmt: skip
    data = [{**row, "rank": series.index(str(row["series"]))} for row in rows]
    spec = {"data": {"values": data}, "width": WIDTH - 90, "height": height,
            "mark": {"type": "bar"}, "encoding": encoding}  # fmt: skip
    return figure(spec, title=title, note=note)
