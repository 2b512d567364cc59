"""Series from a Prometheus server, an API answer, a ``promtool tsdb dump`` or a ``/metrics`` page."""

from __future__ import annotations

import base64
import json
import math
import re
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from offramp.core.errors import BackendError, InputError
from offramp.core.record import Record
from offramp.core.units import DAY_S, HOUR_S, MILLI
from offramp.intake.files import number, parse_json, read_text, shaped

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "intake"
WINDOW_S: Final = 7 * DAY_S
RAW_SAMPLES: Final = 300_000
"""Up to so many samples are fetched as they are; above, one value per step."""
STEPS: Final = 1000
TIMEOUT_S: Final = 20.0
MOST_BYTES: Final = 256 * 2**20
MS_STAMP: Final = 1e11
"""Timestamps above are milliseconds: as seconds they would lie after the year 5000."""

_SAMPLE: Final = re.compile(r"^([A-Za-z_:][\w:]*)?\s*(\{.*\})?\s+(\S+)(?:\s+(-?[\d.]+))?\s*(?:#.*)?$")
_LABEL: Final = re.compile(r'([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')


class Series(Record):
    """One time series: samples in order of time (seconds; 0 where the source has no time)."""

    name: str
    labels: dict[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]


@lru_cache(maxsize=1)
def metric_names() -> dict[str, dict[str, Any]]:
    """What is looked for, by topic."""
    return tomllib.loads((DATA / "metrics.toml").read_text("utf-8"))


def wanted_names() -> set[str]:
    """Every metric name that could be used, with the parts of histograms."""
    found: set[str] = set()
    for entry in metric_names().values():
        for name in entry["names"]:
            found |= (
                {f"{name}_{part}" for part in ("bucket", "sum", "count")} if entry["kind"] == "histogram" else {name}
            )
    return found


def metrics_of(source: str | Path) -> list[Series]:
    """Series of a dump or of the server at an address.

    Raises:
        InputError: the file is empty or nothing that Prometheus writes; no known metric is in it.
        BackendError: the server does not answer, or answers with an error.
    """
    text = without_login(str(source))
    if re.match(r"https?://", text):
        found = _from_server(str(source))
    else:
        found = parse_dump(read_text(text), text)
    known = wanted_names()
    useful = [series for series in found if series.name in known]
    if not useful:
        names = ", ".join(sorted({series.name for series in found})[:6]) or "no sample at all"
        raise InputError(
            f"holds no metric of a serving engine or accelerator (found: {names})",
            where=text,
            mend="Known: metrics that begin with vllm: and sglang:, DCGM's and the NPU exporter's.",
        )
    return useful


def without_login(source: str) -> str:
    """An address without the name and password in it, to be shown; a file's name as it is."""
    return re.sub(r"^(https?://)[^/?#]*@", r"\1", source)


def parse_dump(text: str, where: str) -> list[Series]:
    """Series of a dump, told by its first character.

    Raises:
        InputError: neither an API answer nor lines of samples.
    """
    head = text.lstrip()[:1]
    if head == "[" or (head == "{" and '"status"' in text[:4096]):
        answers = parse_json(text, where)
        with shaped(where, "an answer of Prometheus"):
            listed = answers if isinstance(answers, list) else [answers]
            return [one for answer in listed for one in _from_api(answer, where)]
    return _from_lines(text, where)


def _from_api(answer: Any, where: str) -> list[Series]:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
        raise InputError(
            "is JSON, but not an answer of Prometheus", where=where, mend="Give what /api/v1/query_range returned."
        )
    if answer.get("status") != "success":
        raise InputError(f"is an error answer of Prometheus: {answer.get('error', '')}", where=where)
    found: list[Series] = []
    for entry in answer["data"].get("result") or []:
        labels = {str(key): str(value) for key, value in (entry.get("metric") or {}).items()}
        pairs = entry.get("values") or ([entry["value"]] if "value" in entry else [])
        points = [(number(t), number(v)) for t, v in pairs]
        good = [(t, v) for t, v in points if t is not None and v is not None]
        name = labels.pop("__name__", "")
        if good:
            times, values = zip(*good, strict=True)
            found.append(Series(name=name, labels=labels, times=times, values=values))
    return found


def _from_lines(text: str, where: str) -> list[Series]:
    grouped: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, float]]] = {}
    bad = 0
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        value = _value(match.group(3)) if match else None
        if not match or value is None:
            bad += 1
            if bad > 20 and not grouped:
                raise InputError(
                    "is no text that Prometheus writes", where=where, mend="Give a dump, an API answer or a URL."
                )
            continue
        labels = {key: _unescaped(body) for key, body in _LABEL.findall(match.group(2) or "")}
        name = match.group(1) or labels.pop("__name__", "")
        stamp = float(match.group(4)) if match.group(4) else 0.0
        stamp = stamp * MILLI if stamp > MS_STAMP else stamp
        if math.isfinite(value):
            grouped.setdefault((name, tuple(sorted(labels.items()))), []).append((stamp, value))
    if not grouped:
        raise InputError("is no text that Prometheus writes", where=where, mend="Give a dump, an API answer or a URL.")
    return [_series(name, labels, points) for (name, labels), points in grouped.items()]


def _unescaped(body: str) -> str:
    """The value of a label: Prometheus escapes the backslash, the quote and the line feed, nothing else."""
    return re.sub(r"\\(.)", lambda found: "\n" if found.group(1) == "n" else found.group(1), body)


def _series(name: str, labels: Iterable[tuple[str, str]], points: list[tuple[float, float]]) -> Series:
    points = sorted(points)
    return Series(name=name, labels=dict(labels), times=tuple(t for t, _ in points), values=tuple(v for _, v in points))


def _value(text: str) -> float | None:
    try:
        return float(text.replace("Inf", "inf"))
    except ValueError:
        return None


def _from_server(address: str) -> list[Series]:
    try:
        parts = urllib.parse.urlsplit(address)
        _ = parts.port
    except ValueError as error:
        shown = without_login(address)
        raise InputError(f"is no address: {error}", where=shown, mend='Write it as "http://host:9090".') from None
    if parts.path.rstrip("/").endswith("/metrics"):
        return parse_dump(_get(address), without_login(address))
    options = dict(urllib.parse.parse_qsl(parts.query))
    hours = number(options.get("hours")) if "hours" in options else WINDOW_S / HOUR_S
    if hours is None or hours <= 0:
        raise InputError(
            f'"hours={options["hours"]}" is no span of time',
            where=without_login(address),
            mend="Write it as in ?hours=24.",
        )
    base = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    listed = _ask(base, "label/__name__/values", {})
    names = sorted(wanted_names() & {str(name) for name in listed if isinstance(name, str)})
    if not names:
        return []
    now = float(_ask(base, "query", {"query": "time()"})["result"][1])
    window = f"{round(hours * HOUR_S)}s"
    found: list[Series] = []
    for name in names:
        found += _fetch(base, name, window=window, start=now - hours * HOUR_S, end=now)
    return found


def _fetch(base: str, name: str, *, window: str, start: float, end: float) -> list[Series]:
    """All samples of a metric where they are few, else one value per step."""
    counted = _ask(base, "query", {"query": f"sum(count_over_time({{__name__={json.dumps(name)}}}[{window}]))"})
    samples = sum(number(entry["value"][1]) or 0.0 for entry in counted["result"])
    if samples <= RAW_SAMPLES:
        data = _ask(base, "query", {"query": f"{{__name__={json.dumps(name)}}}[{window}]"})
    else:
        step = max((end - start) / STEPS, 1.0)
        query = {
            "query": f"{{__name__={json.dumps(name)}}}",
            "start": f"{start:.0f}",
            "end": f"{end:.0f}",
            "step": f"{step:.0f}",
        }
        data = _ask(base, "query_range", query)
    return _from_api({"status": "success", "data": data}, without_login(base))


def _ask(base: str, what: str, query: Mapping[str, str]) -> Any:
    url = f"{base}/api/v1/{what}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    base = without_login(base)
    answer = parse_json(_get(url), base)
    if not isinstance(answer, dict) or answer.get("status") != "success":
        why = answer.get("error", "no status") if isinstance(answer, dict) else "no JSON object"
        raise BackendError(f"Prometheus answers with an error: {why}", where=base)
    return answer.get("data")


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirections on the host that the user named, and to no other."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).hostname != urllib.parse.urlsplit(req.full_url).hostname:
            return None  # reported as the HTTP code of the redirection
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _get(url: str) -> str:
    """The text at an address that the user named, login included; proxies of the environment are not used."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _SameHost())
    parts = urllib.parse.urlsplit(url)
    place = without_login(urllib.parse.urlunsplit((*parts[:3], "", "")))
    request = urllib.request.Request(without_login(url))
    if parts.username is not None:
        login = ":".join(urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            raw: bytes = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise BackendError(
            f"answers with HTTP {error.code}", where=place, mend="Is it the address of Prometheus?"
        ) from None
    except (urllib.error.URLError, TimeoutError, OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise BackendError(
            f"does not answer: {why}", where=place, mend="Check the address, or give a dump instead."
        ) from None
    if len(raw) > MOST_BYTES:
        raise BackendError(
            f"answers with more than {MOST_BYTES // 2**20} MiB", where=place, mend="Give a shorter ?hours=."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BackendError("does not answer with text", where=place) from None
