"""Traffic, latencies and power from series of serving engines and device exporters."""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Final

from offramp.core.record import Record
from offramp.core.units import DAY_S
from offramp.intake.prometheus import Series, metric_names

PEAK_WINDOW_S: Final = 300.0
PEAK_NEEDS_S: Final = DAY_S
"""A shorter window says nothing of the peak of a day."""
LITTLE_GAP: Final = 0.25


class Spread(Record):
    """A histogram's content.

    Attributes:
        count: observations.
        mean: from sum and count; from the buckets where no sum is exported (:attr:`exact` is False).
        cv: standard deviation over mean, from the buckets (values spread evenly inside one); None without buckets.
        quantiles: by "p50", "p90", "p99"; interpolated inside a bucket; empty without buckets.
        open_share: share of observations above the last finite bucket bound.
        exact: whether the mean comes from the sum.
    """

    count: float
    mean: float
    cv: float | None = None
    quantiles: dict[str, float] = {}
    open_share: float = 0.0
    exact: bool = True


class Traffic(Record):
    """What one served model saw.

    Attributes:
        model: name under which it is served ("" where the series have none).
        window_s: from first to last sample; 0 for a single scrape.
        requests: finished in the window (since the start of the process, for a single scrape).
        requests_per_s: mean; None without a window.
        peak_to_mean: highest five minutes over the mean; None where the window is shorter than a day.
        isl, osl: lengths in tokens.
        isl_mean, osl_mean: means where no histogram has them.
        prefix_share: share of prompt tokens found in the prefix cache.
        ttft, tpot, itl, e2e: in seconds.
        in_flight: mean of running plus waiting requests.
        replicas: distinct instances.
        notes: resets, contradictions, what is missing.
    """

    model: str
    window_s: float
    requests: float
    requests_per_s: float | None
    peak_to_mean: float | None = None
    isl: Spread | None = None
    osl: Spread | None = None
    isl_mean: float | None = None
    osl_mean: float | None = None
    prefix_share: float | None = None
    ttft: Spread | None = None
    tpot: Spread | None = None
    itl: Spread | None = None
    e2e: Spread | None = None
    in_flight: float | None = None
    replicas: int = 0
    first_day: str = ""
    last_day: str = ""
    notes: tuple[str, ...] = ()


class Devices(Record):
    """What exporters say of the devices of one product.

    Attributes:
        product: as the exporter names it.
        devices: distinct devices.
        power_w: mean per device; None where not exported.
        utilisation: mean share 0-1; None where not exported.
    """

    product: str
    devices: int
    power_w: float | None
    utilisation: float | None


def traffic_of(series: Sequence[Series]) -> tuple[list[Traffic], list[Devices]]:
    """Traffic by served model, most requests first, and devices by product."""
    by_name: dict[str, list[Series]] = {}
    for one in series:
        by_name.setdefault(one.name, []).append(one)
    engine_names = {
        name
        for topic, entry in metric_names().items()
        if topic not in ("power", "utilisation")
        for base in entry["names"]
        for name in (base, f"{base}_bucket", f"{base}_sum", f"{base}_count")
    }
    mine = [one for one in series if one.name in engine_names]
    models = list(dict.fromkeys(_model(one) for one in mine))
    found = [_traffic(model, [one for one in mine if _model(one) == model]) for model in models]
    return sorted(found, key=lambda item: -item.requests), _devices(by_name)


def _model(one: Series) -> str:
    return one.labels.get("model_name") or one.labels.get("model") or one.labels.get("served_model_name") or ""


def increase(one: Series) -> tuple[float, int]:
    """How much a counter rose over its samples, and how often it was reset; its value where there is one sample."""
    if len(one.values) == 1:
        return one.values[0], 0
    total, resets = 0.0, 0
    for before, after in zip(one.values, one.values[1:], strict=False):
        if after < before:
            resets += 1
            total += after
        else:
            total += after - before
    return total, resets


class _View:
    """Series of one model by topic."""

    def __init__(self, series: Sequence[Series]) -> None:
        self.series = series
        self.resets = 0

    def named(self, topic: str, suffix: str = "") -> list[Series]:
        """Series of a topic; where an instance publishes it under several names, those of the first."""
        taken: dict[tuple[str, ...], str] = {}
        found: list[Series] = []
        for name in metric_names()[topic]["names"]:
            named = [one for one in self.series if one.name == name + suffix]
            found += [one for one in named if taken.setdefault(_instance(one), name) == name]
        return found

    def counter(self, topic: str) -> tuple[float | None, list[Series]]:
        found = self.named(topic)
        rises = [increase(one) for one in found]
        self.resets += sum(resets for _, resets in rises)
        return sum(rise for rise, _ in rises) if found else None, found

    def gauge(self, topic: str, *, share: bool = False) -> float | None:
        """Sum over instances of the mean over time; their mean for a share."""
        means = [statistics.fmean(one.values) for one in self.named(topic)]
        if not means:
            return None
        return statistics.fmean(means) if share else sum(means)

    def spread(self, topic: str) -> Spread | None:
        count = sum(increase(one)[0] for one in self.named(topic, "_count"))
        total = sum(increase(one)[0] for one in self.named(topic, "_sum"))
        return _spread(count, total, self.named(topic, "_bucket")) if count > 0 else None


def _merged(buckets: Sequence[Series]) -> dict[float, float]:
    """Observations at most each bound, over instances whose bounds may differ.

    Engines choose bounds by the longest context, so two servers of one model need not share them: where an instance
    lacks a bound of another, its own count between its neighbours is taken as evenly spread.
    """
    held: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    for one in buckets:
        try:
            bound = float(one.labels.get("le", "").replace("Inf", "inf"))
        except ValueError:
            continue
        key = (("", one.name), *sorted((k, v) for k, v in one.labels.items() if k != "le"))
        held.setdefault(key, {})[bound] = held.get(key, {}).get(bound, 0.0) + increase(one)[0]
    bounds = sorted({bound for own in held.values() for bound in own})
    return {bound: sum(_up_to(own, bound) for own in held.values()) for bound in bounds}


def _up_to(own: dict[float, float], bound: float) -> float:
    """Observations of one histogram at most ``bound``; those beyond its last finite bound lie above every finite one."""
    if bound in own:
        return own[bound]
    finite = sorted(edge for edge in own if math.isfinite(edge))
    if not math.isfinite(bound) or not finite:
        return max(own.values(), default=0.0)
    at = bisect.bisect_left(finite, bound)
    if at == len(finite):
        return own[finite[-1]]
    low, high = (finite[at - 1] if at else 0.0), finite[at]
    below = own[low] if at else 0.0
    return below + (own[high] - below) * (bound - low) / (high - low)


def _spread(count: float, total: float, buckets: Sequence[Series]) -> Spread | None:
    """What a histogram holds; None where neither sum nor buckets give a mean. ``total`` is 0 where no sum is exported."""
    bounds = _merged(buckets)
    finite = sorted(bound for bound in bounds if math.isfinite(bound))
    if not finite:
        return Spread(count=count, mean=total / count) if total > 0 else None
    edges = [0.0, *finite]
    held = [0.0, *(bounds[bound] for bound in finite)]
    inside = [max(b - a, 0.0) for a, b in itertools.pairwise(held)]
    whole = max(count, sum(inside))
    above = whole - sum(inside)
    second = sum(n * (a * a + a * b + b * b) / 3.0 for n, a, b in zip(inside, edges, edges[1:], strict=False))
    first = sum(n * (a + b) / 2.0 for n, a, b in zip(inside, edges, edges[1:], strict=False))
    closed = sum(inside)
    cv = None
    if closed > 0 and above <= 0.01 * whole and first > 0:
        variance = max(second / closed - (first / closed) ** 2, 0.0)
        cv = math.sqrt(variance) / (first / closed)
    quantiles: dict[str, float] = {}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        target = share * whole
        if target <= closed and closed > 0:
            quantiles[name] = _quantile(edges, held, target)
    if total <= 0 and cv is None:
        return None
    return Spread(
        count=count, mean=total / count if total > 0 else first / closed, cv=cv, quantiles=quantiles,
        open_share=above / whole if whole else 0.0, exact=total > 0,
    )  # fmt: skip


def _quantile(edges: Sequence[float], held: Sequence[float], target: float) -> float:
    at = max(bisect.bisect_left(held, target), 1)
    low, high = held[at - 1], held[at]
    part = (target - low) / (high - low) if high > low else 0.0
    return edges[at - 1] + part * (edges[at] - edges[at - 1])


def _traffic(model: str, series: Sequence[Series]) -> Traffic:
    view = _View(series)
    requests, counted = view.counter("requests")
    times = [t for one in counted for t in (one.times[0], one.times[-1]) if t > 0]
    window = max(times) - min(times) if times else 0.0
    rate = requests / window if requests is not None and window > 0 else None
    notes: list[str] = []
    means: dict[str, float | None] = {}
    for length, topic in (("isl", "prompt_tokens_total"), ("osl", "generation_tokens_total")):
        tokens, _ = view.counter(topic)
        means[length] = tokens / requests if tokens and requests else None
    isl, osl = view.spread("prompt_tokens"), view.spread("generation_tokens")
    for name, spread in (("prompt", isl), ("output", osl)):
        if spread is not None and not spread.quantiles:
            notes.append(f"the histogram of {name} lengths has no buckets: its mean is known, its spread is not")
        elif spread is not None and spread.open_share > 0.01:
            notes.append(
                f"{spread.open_share:.0%} of {name} lengths lie above the last bucket: their spread is not known"
            )
    e2e, flight = view.spread("e2e"), _flight(view)
    notes += _contradiction(rate, e2e, flight)
    peak = _peak(counted, rate) if window >= PEAK_NEEDS_S else None
    if view.resets:
        notes.append(
            f"counters were reset (restarts; {view.resets} times over all of them): what was counted between a restart's last sample "
            "and it is lost"
        )
    if not requests:
        notes.append("no request finished in the window")
    if rate is None and requests:
        notes.append("one scrape has totals but no time between two samples: lengths are known, rates are not")
    return Traffic(
        model=model,
        window_s=window,
        requests=requests or 0.0,
        requests_per_s=rate,
        peak_to_mean=peak,
        isl=isl,
        osl=osl,
        isl_mean=isl.mean if isl else means["isl"],
        osl_mean=osl.mean if osl else means["osl"],
        prefix_share=_prefix(view, notes),
        ttft=view.spread("ttft"),
        tpot=view.spread("tpot"),
        itl=view.spread("itl"),
        e2e=e2e,
        in_flight=flight,
        replicas=len({_instance(one) for one in counted}),
        notes=tuple(notes),
        first_day=_day(min(times)) if times else "",
        last_day=_day(max(times)) if times else "",
    )


def _instance(one: Series) -> tuple[str, ...]:
    return tuple(one.labels.get(key, "") for key in ("instance", "pod", "namespace", "engine"))


def _flight(view: _View) -> float | None:
    running, waiting = view.gauge("running"), view.gauge("waiting")
    return None if running is None else running + (waiting or 0.0)


def _contradiction(rate: float | None, e2e: Spread | None, flight: float | None) -> list[str]:
    """What Little's law says: requests in flight = requests/s x mean latency."""
    if not (rate and e2e and flight):
        return []
    implied = rate * e2e.mean
    if abs(implied - flight) <= LITTLE_GAP * max(implied, flight):
        return []
    return [
        f"rate x latency means {implied:.3g} requests in flight, the gauges show {flight:.3g}: one of them is "
        "incomplete"
    ]


def _prefix(view: _View, notes: list[str]) -> float | None:
    hits, _ = view.counter("prefix_hits")
    queries, _ = view.counter("prefix_queries")
    if queries is None and hits is not None:
        queries, _ = view.counter("prompt_tokens_total")
    if hits is not None and queries:
        share = hits / queries
        if share > 1.0:
            notes.append("more prefix-cache hits than queries: the share is not used")
            return None
        return share
    rate = view.gauge("prefix_rate", share=True)
    return rate if rate is not None and 0.0 <= rate <= 1.0 else None


def _peak(counted: Sequence[Series], rate: float | None) -> float | None:
    """The busiest five minutes over the mean."""
    if not rate:
        return None
    bins: dict[int, float] = {}
    widths: list[float] = []
    for one in counted:
        pairs = zip(one.times, one.values, one.times[1:], one.values[1:], strict=False)
        for t0, v0, t1, v1 in pairs:
            if t1 <= t0:
                continue
            widths.append(t1 - t0)
            rise = v1 - v0 if v1 >= v0 else v1
            at, end = int(t0 // PEAK_WINDOW_S), int(t1 // PEAK_WINDOW_S)
            for k in range(at, end + 1):
                overlap = min(t1, (k + 1) * PEAK_WINDOW_S) - max(t0, k * PEAK_WINDOW_S)
                bins[k] = bins.get(k, 0.0) + rise * max(overlap, 0.0) / (t1 - t0)
    return max(bins.values()) / PEAK_WINDOW_S / rate if bins else None


def _day(stamp: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(stamp, dt.UTC).date().isoformat()


_PRODUCT: Final = ("modelName", "model_name", "gpu_model", "card_series", "card_model", "series", "chip_name")
_SERIAL: Final = ("UUID", "uuid", "gpu_uuid", "vdie_id", "vdieID", "serial_number")
_PLACE: Final = ("gpu", "gpu_id", "id", "npuID", "device", "instance", "Hostname", "hostname")


def _device(one: Series) -> tuple[str, ...]:
    """What tells a device apart: its serial number, which outlives the exporter's address; else its place."""
    serial = next((one.labels[key] for key in _SERIAL if one.labels.get(key)), "")
    return (serial,) if serial else tuple(one.labels.get(key, "") for key in _PLACE)


def _devices(by_name: dict[str, list[Series]]) -> list[Devices]:
    found: dict[str, dict[str, dict[tuple[str, ...], list[float]]]] = {}
    for topic in ("power", "utilisation"):
        for name in metric_names()[topic]["names"]:
            for one in by_name.get(name, []):
                product = next((one.labels[key] for key in _PRODUCT if one.labels.get(key)), "")
                found.setdefault(product, {}).setdefault(topic, {}).setdefault(_device(one), []).extend(one.values)
    return [
        Devices(
            product=product, devices=len({*topics.get("power", {}), *topics.get("utilisation", {})}),
            power_w=_mean_of(topics.get("power")), utilisation=_mean_of(topics.get("utilisation"), scale=0.01),
        )
        for product, topics in sorted(found.items())
    ]  # fmt: skip


def _mean_of(held: dict[tuple[str, ...], list[float]] | None, *, scale: float = 1.0) -> float | None:
    """Mean over devices of the mean over time; None where nothing was exported."""
    return scale * statistics.fmean(statistics.fmean(values) for values in held.values()) if held else None
