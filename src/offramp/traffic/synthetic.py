"""Synthetic traffic: arrivals, lengths and shared prefixes from published statistics, reproducible by seed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import msgspec
import numpy as np

from offramp.core.errors import CatalogError, InputError, near_miss_hint
from offramp.core.record import Record
from offramp.core.seeds import derive_seed
from offramp.core.units import DAY_S
from offramp.traffic.prefix import Prefix, add_prefix
from offramp.traffic.trace import F8, I8, Trace

_Z90 = 1.2815515655446004  # standard normal quantile of 0.90
MOST_REQUESTS = 50_000_000


class Lengths(Record):
    """A distribution of token counts.

    Attributes:
        mean: mean in tokens.
        cv: standard deviation over mean of a lognormal; used where no quantiles are given.
        p50, p90: of a lognormal that is pinned by them instead; 0 = not given.
        quantiles: (percent, tokens) pairs, ascending, first 0 and last 100; lengths are drawn between them on a
            logarithmic scale, and the mean is met by scaling.
        most: largest length that is drawn.
    """

    mean: float = 0.0
    cv: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    quantiles: tuple[tuple[float, float], ...] = ()
    most: int = 1_000_000

    def draw(self, uniform: F8) -> I8:
        """Whole token counts, at least 1, of uniform numbers in (0, 1)."""
        if self.quantiles:
            percent, tokens = np.array(self.quantiles, dtype=np.float64).T
            values = np.exp(np.interp(uniform * 100.0, percent, np.log(np.maximum(tokens, 1.0))))
            values *= self.mean / _mean_of(percent, tokens) if self.mean else 1.0
        else:
            mu, sigma = self._lognormal()
            values = np.exp(mu + sigma * _normal_quantile(uniform))
        return np.clip(np.rint(values), 1, self.most).astype(np.int64)

    def _lognormal(self) -> tuple[float, float]:
        if self.p50 > 0 and self.p90 > 0:
            return math.log(self.p50), math.log(self.p90 / self.p50) / _Z90
        sigma = math.sqrt(math.log1p(self.cv**2))
        return math.log(self.mean) - sigma**2 / 2, sigma

    def scaled(self, mean: float) -> Lengths:
        """The same shape with another mean."""
        factor = mean / self.expected
        most = round(self.most * max(1.0, factor))
        return msgspec.structs.replace(self, mean=mean, p50=self.p50 * factor, p90=self.p90 * factor, most=most)

    @property
    def expected(self) -> float:
        """The mean that is drawn, rounding aside."""
        if self.mean:
            return self.mean
        if self.quantiles:
            percent, tokens = np.array(self.quantiles, dtype=np.float64).T
            return _mean_of(percent, tokens)
        mu, sigma = self._lognormal()
        return math.exp(mu + sigma**2 / 2)


def _mean_of(percent: F8, tokens: F8) -> float:
    """Mean of values that are log-linear between quantiles: each piece has the logarithmic mean of its ends."""
    low, high = np.maximum(tokens[:-1], 1.0), np.maximum(tokens[1:], 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        piece = np.where(high > low, (high - low) / np.log(high / low), low)
    return float((np.diff(percent) / 100.0 * piece).sum())


def _normal_quantile(uniform: F8) -> F8:
    """Standard normal quantiles by Acklam's rational approximation (relative error below 1.2e-9).

    Source: P. J. Acklam, "An algorithm for computing the inverse normal cumulative distribution function" (2003).
    """
    a = (-3.969683028665376e1, 2.209460984245205e2, -2.759285104469687e2, 1.383577518672690e2, -3.066479806614716e1,
         2.506628277459239)  # fmt: skip
    b = (-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1)
    c = (-7.784894002430293e-3, -3.223964580411365e-1, -2.400758277161838, -2.549732539343734, 4.374664141464968,
         2.938163982698783)  # fmt: skip
    d = (7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416)
    p = np.clip(uniform, 1e-12, 1.0 - 1e-12)
    tail = np.minimum(p, 1.0 - p)
    q = np.sqrt(-2.0 * np.log(tail))
    outer = np.polyval(c, q) / np.polyval((*d, 1.0), q)
    centre = p - 0.5
    r = centre * centre
    inner = centre * np.polyval(a, r) / np.polyval((*b, 1.0), r)
    return np.where(tail < 0.02425, np.where(p < 0.5, outer, -outer), inner)


class Params(Record):
    """Everything that synthetic traffic is made of.

    Attributes:
        isl, osl: input and output lengths.
        arrivals: "poisson" (gaps independent, CV 1), "gamma" (bursts: CV of gaps is ``cv``) or "uniform" (even).
        cv: coefficient of variation of the gaps of gamma arrivals.
        correlation: rank correlation of input and output length (Gaussian copula).
        prefix: how prompts share prefixes; None = they share none.
        diurnal: relative rate in equal parts of ``period_s``; () = constant.
        period_s: length of the diurnal curve.
    """

    isl: Lengths
    osl: Lengths
    arrivals: Literal["poisson", "gamma", "uniform"] = "poisson"
    cv: float = 1.0
    correlation: float = 0.0
    prefix: Prefix | None = None
    diurnal: tuple[float, ...] = ()
    period_s: float = DAY_S


class TrafficPreset(Record):
    """Shipped parameters with where they come from.

    Attributes:
        rate: mean requests per second of the source, for reference (0 = not stated).
        requests: how many requests the statistics were taken over (0 = not stated).
        diurnal_curve: relative hourly rate of the source, used when asked for.
    """

    id: str
    title: str
    params: Params
    source: str
    url: str
    as_of: str
    confidence: str
    rate: float = 0.0
    requests: int = 0
    diurnal_curve: tuple[float, ...] = ()
    note: str = ""


@cache
def _presets() -> dict[str, TrafficPreset]:
    found: dict[str, TrafficPreset] = {}
    folder = resources.files("offramp.data").joinpath("traffic")
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".toml"):
            for table in tomllib.loads(entry.read_text(encoding="utf-8"))["preset"]:
                preset = msgspec.convert(table, TrafficPreset)
                found[preset.id] = preset
    return found


def traffic_presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(_presets())


def traffic_preset(name: str, where: str = "") -> TrafficPreset:
    """A shipped preset with its sources.

    Raises:
        CatalogError: unknown.
    """
    if name not in _presets():
        hint = near_miss_hint(name, traffic_presets())
        raise CatalogError(
            f'unknown traffic preset "{name}"',
            where=where,
            mend=f"{hint} Known: {', '.join(traffic_presets())}.".strip(),
        )
    return _presets()[name]


def params_of(preset: str = "", overrides: Mapping[str, Any] | None = None, *, where: str = "") -> Params:
    """Parameters of a preset with some of them changed.

    Args:
        preset: name; "" begins from Poisson arrivals without lengths.
        overrides: any of arrivals, cv, isl_mean, osl_mean, isl_cv, osl_cv, correlation, prefix_share, diurnal; a mean
            alone stretches the preset's shape, a cv makes it lognormal.
        where: address for messages.

    Raises:
        CatalogError: unknown preset.
        InputError: unknown key, a value out of range, or no lengths at all.
    """
    values = {key: value for key, value in (overrides or {}).items() if value is not None}
    known = ("arrivals", "cv", "isl_mean", "osl_mean", "isl_cv", "osl_cv", "correlation", "prefix_share", "diurnal")
    for key in values:
        if key not in known:
            raise InputError(f'unknown key "{key}"', where=f"{where}.{key}", mend=near_miss_hint(key, known))
    base = traffic_preset(preset, where).params if preset else None
    isl = _lengths(base.isl if base else None, "isl", values, where)
    osl = _lengths(base.osl if base else None, "osl", values, where)
    cv = float(values.get("cv", base.cv if base else 1.0))
    arrivals = values.get("arrivals") or ("gamma" if "cv" in values else base.arrivals if base else "poisson")
    prefix = base.prefix if base else None
    if "prefix_share" in values:
        # without a preset's blocks: engines' own 16 tokens, coarser where prompts are long
        block = 16 if isl.expected < 2048 else 128
        prefix = prefix or Prefix(block_tokens=block)
        prefix = prefix.with_share(float(values["prefix_share"]), where=f"{where}.prefix_share")
    built = Params(
        isl=isl, osl=osl, arrivals=arrivals, cv=cv, prefix=prefix,
        correlation=float(values.get("correlation", base.correlation if base else 0.0)),
        diurnal=tuple(values.get("diurnal", base.diurnal if base else ())),
    )  # fmt: skip
    return check_params(built, where=where)


def _lengths(base: Lengths | None, name: str, values: Mapping[str, Any], where: str) -> Lengths:
    mean, cv = values.get(f"{name}_mean"), values.get(f"{name}_cv")
    if mean is None and cv is None:
        if base is None:
            raise InputError(f"no {name}_mean", where=f"{where}.{name}_mean", mend="Give it, or name a preset.")
        return base
    if cv is None and base is not None:
        return base.scaled(_positive(mean, f"{where}.{name}_mean"))
    expected = float(mean) if mean is not None else base.expected if base is not None else 0.0
    return Lengths(mean=_positive(expected, f"{where}.{name}_mean"), cv=float(cv) if cv is not None else 1.0)


def _positive(value: object, where: str) -> float:
    number = float(value)  # pyright: ignore[reportArgumentType]
    if not math.isfinite(number) or number <= 0:
        raise InputError(f"{number:g} is not above zero", where=where)
    return number


def check_params(params: Params, *, where: str = "") -> Params:
    """The parameters, if they can be drawn from.

    Raises:
        InputError: a mean, cv, correlation, quantile or curve out of range.
    """
    for name, lengths in (("isl", params.isl), ("osl", params.osl)):
        _check_lengths(lengths, f"{where}.{name}")
    if not 0 < params.cv <= 50 or not math.isfinite(params.cv):
        raise InputError(f"a cv of {params.cv:g} for arrivals", where=f"{where}.cv", mend="Give one of 0 to 50.")
    if not -0.99 <= params.correlation <= 0.99:
        raise InputError(f"a correlation of {params.correlation:g}", where=f"{where}.correlation")
    curve = params.diurnal
    if curve and (min(curve) < 0 or not all(map(math.isfinite, curve)) or sum(curve) <= 0):
        raise InputError("the diurnal curve is negative or zero", where=f"{where}.diurnal")
    if params.period_s <= 0:
        raise InputError(f"a period of {params.period_s:g} s", where=f"{where}.period_s")
    return params


def _check_lengths(lengths: Lengths, where: str) -> None:
    if lengths.quantiles:
        percent = [pair[0] for pair in lengths.quantiles]
        tokens = [pair[1] for pair in lengths.quantiles]
        if percent[0] != 0 or percent[-1] != 100 or sorted(set(percent)) != percent or sorted(tokens) != tokens:
            raise InputError("quantiles do not ascend from 0 to 100 percent", where=f"{where}.quantiles")
        return
    pinned = lengths.p50 > 0 and lengths.p90 >= lengths.p50
    if not pinned and not (math.isfinite(lengths.mean) and lengths.mean > 0):
        raise InputError(f"a mean length of {lengths.mean:g} tokens", where=f"{where}.mean")
    if lengths.cv < 0 or not math.isfinite(lengths.cv):
        raise InputError(f"a cv of {lengths.cv:g}", where=f"{where}.cv")


def _gaps(params: Params, n: int, rng: np.random.Generator) -> F8:
    """Gaps before each request, mean 1; the first is 0."""
    if params.arrivals == "uniform":
        gaps = np.ones(n)
    elif params.arrivals == "poisson":
        gaps = rng.exponential(1.0, n)
    else:
        shape = 1.0 / params.cv**2
        gaps = rng.gamma(shape, 1.0 / shape, n)
    gaps[0] = 0.0
    return gaps


def _through_the_day(work: F8, params: Params, rate: float) -> F8:
    """Times at which the integral of the diurnal rate reaches ``work`` requests, in seconds.

    Args:
        work: cumulated gaps in units of the mean gap. [n]
        params: with the curve.
        rate: mean requests per second over a period.
    """
    curve = np.array(params.diurnal, dtype=np.float64)
    curve = curve / curve.mean()
    step_s = params.period_s / len(curve)
    edges = np.concatenate(([0.0], np.cumsum(curve))) * step_s * rate
    periods, rest = np.divmod(work, edges[-1])
    # where the rate is zero two edges are equal, and interpolation jumps over the gap
    return periods * params.period_s + np.interp(rest, edges, np.arange(len(edges)) * step_s)


def synthetic(preset_or_params: str | Params, rate: float, n: int, seed: int, *, where: str = "") -> Trace:
    """``n`` requests at a mean rate; equal arguments give equal traces.

    Args:
        preset_or_params: name of a shipped preset, or parameters (:func:`params_of` makes them).
        rate: mean requests per second.
        n: how many.
        seed: master seed; arrivals, lengths and prefixes take streams of their own.
        where: address for messages.

    Raises:
        CatalogError: unknown preset.
        InputError: a rate, number or parameter out of range.
    """
    params = traffic_preset(preset_or_params, where).params if isinstance(preset_or_params, str) else preset_or_params
    check_params(params, where=where)
    if not math.isfinite(rate) or rate <= 0:
        raise InputError(f"a mean rate of {rate:g} requests/s", where=where, mend="Give a positive rate.")
    if not 1 <= n <= MOST_REQUESTS:
        raise InputError(f"{n} requests", where=where, mend=f"Give 1 to {MOST_REQUESTS:,}.")
    work = np.cumsum(_gaps(params, n, np.random.default_rng(derive_seed(seed, "arrivals"))))
    arrival = _through_the_day(work, params, rate) if params.diurnal else work / rate
    if n > 1 and not params.diurnal and arrival[-1] > 0:
        arrival *= (n - 1) / rate / arrival[-1]  # the mean rate is met exactly, whatever the draw
    rng = np.random.default_rng(derive_seed(seed, "lengths"))
    isl, osl = _draw_lengths(params, n, rng)
    name = preset_or_params if isinstance(preset_or_params, str) else "synthetic"
    trace = Trace(arrival_s=arrival, isl_tokens=isl, osl_tokens=osl, source=name, notes=(f"synthetic, seed {seed}",))
    return add_prefix(trace, params.prefix, seed=derive_seed(seed, "prefix")) if params.prefix else trace


def _draw_lengths(params: Params, n: int, rng: np.random.Generator) -> tuple[I8, I8]:
    first, second = rng.random(n), rng.random(n)
    if params.correlation:
        # Pearson correlation of the normals that gives this rank correlation. Source: Kruskal (1958).
        rho = 2.0 * math.sin(math.pi * params.correlation / 6.0)
        x = _normal_quantile(first)
        y = rho * x + math.sqrt(1.0 - rho**2) * _normal_quantile(second)
        rank = np.empty(n)
        rank[np.argsort(y, kind="stable")] = (np.arange(n) + 0.5) / n
        second = rank
    return params.isl.draw(first), params.osl.draw(second)
