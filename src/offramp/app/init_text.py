"""The text of a generated study: TOML with a comment on where each value comes from and on what is not known."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from offramp.app.init_draft import Draft, FleetPart, WorkPart
    from offramp.intake import Bench, Traffic
    from offramp.intake.metrics import Spread

UNKNOWN: Final = "UNKNOWN"
_MARK: Final = "# generated, unchanged: "


def render(draft: Draft) -> str:
    """The whole file; it is valid TOML whatever was missing."""
    parts = [_header(draft), _organisation(), *_sites(draft), *(_fleet(part) for part in draft.fleet)]
    parts += [_work(work, draft.quarter) for work in draft.works]
    parts += [_rows("order", draft.orders, ("count",), ()), _rows("price", draft.prices, (), ())]
    parts.append(_candidates(draft))
    body = "\n".join(part.strip("\n") + "\n" for part in parts if part.strip())
    return body + seal(body) + "\n"


def seal(body: str) -> str:
    """The last line: a digest by which an unchanged file is known."""
    return _MARK + hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


def quoted(text: str) -> str:
    """A TOML basic string (JSON's escapes are TOML's), non-ASCII kept."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def said(text: str) -> str:
    """Text for a comment: one line, no control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _header(draft: Draft) -> str:
    lines = ["# A study drafted from:", *(f"#   {said(source)}" for source in draft.sources), "#"]
    lines.append(
        f'# {UNKNOWN} marks what no source said. "offramp check" names what is still wrong, "offramp schema study"'
    )
    lines.append(
        "# lists every key. Values with a comment were measured or counted; change them where you know better."
    )
    lines += [f"# Note: {said(note)}" for note in draft.notes]
    lines += ["", "[study]", f"name = {quoted(draft.name)}"]
    if draft.currency:
        lines.append(f"currency = {quoted(draft.currency)}   # of the price list")
    else:
        lines.append(f'# currency = "EUR"   # {UNKNOWN}: USD is shown until you name one')
    return "\n".join(lines)


def _organisation() -> str:
    return (
        "[organisation]\n"
        f'# headquarters = "DE"   # {UNKNOWN}: country of the ultimate parent; decides which rules bind. No rule is\n'
        "#                        applied until you name one, and a plan asks for it.\n"
        f'# kind = "private"      # {UNKNOWN}: private | state-owned | state-funded | university'
    )


def _sites(draft: Draft) -> list[str]:
    out: list[str] = []
    for site, region in draft.sites:
        lines = ["[[site]]", f"id = {quoted(site)}" + (f"   # region {said(region)} of the nodes" if region else "")]
        lines.append(f'# country = "DE"                   # {UNKNOWN}')
        lines.append(f'# power_price = "0.15 EUR/kWh"     # {UNKNOWN}: assumed and marked so until given')
        lines.append(f"# pue = 1.3                        # {UNKNOWN}: assumed and marked so until given")
        lines.append(f'# power = "2 MW"                   # {UNKNOWN}: no limit until given')
        out.append("\n".join(lines))
    return out


def _fleet(part: FleetPart) -> str:
    note = f"   # {said(part.product)}: {said(part.source)}"
    lines = ["[[fleet]]"]
    if part.chip and part.count:
        lines += [f"chip = {quoted(part.chip)}{note}", f"count = {part.count}", f"site = {quoted(part.site)}"]
        lines.append(f'# bought = "2025Q1"   # {UNKNOWN}: for what is left of its value')
        return "\n".join([*lines, *(f"# {said(text)}" for text in part.notes)])
    lines += [f'chip = "?"{note}', f"count = {part.devices}", f"site = {quoted(part.site)}"]
    why = [f"{UNKNOWN}: which chip this is; it is left out until you say so", *part.notes]
    return "\n".join([*(f"# {line}" for line in lines), *(f"#   {said(text)}" for text in why)])


def _work(work: WorkPart, quarter: str) -> str:
    lines = ["[[workload]]", f"id = {quoted(work.id)}", 'kind = "serve"']
    if work.model:
        same = "" if work.model == work.published else f"   # served as {said(work.published)}"
        lines.append(f"model = {quoted(work.model)}{same}")
    else:
        name = work.published or "without a name"
        lines.append(
            f'model = "?"   # {UNKNOWN}: served as {said(name)}; give a preset of "offramp models" or a config.json'
        )
    lines += [_synthetic(work), *_demand(work, quarter), *_observed(work), *_ran(work)]
    lines.append(
        f'# slo = {{ ttft_p90 = "2 s", tpot_p90 = "50 ms" }}   # {UNKNOWN}: what you promise, not what users get now'
    )
    lines.append(f"# availability = {{ spare_replicas = 1, min_replicas = 2 }}   # {UNKNOWN}: none and one until given")
    if not work.missing:
        return "\n".join(lines)
    body = [f"# Left out until it is known: {', '.join(work.missing)}."]
    return "\n".join([*body, *(line if line.startswith("#") else f"# {line}" for line in lines)])


def _synthetic(work: WorkPart) -> str:
    traffic, bench = work.traffic, work.bench
    if traffic and traffic.isl_mean and traffic.osl_mean:
        keys, why = _measured(traffic)
    elif bench and bench.isl and bench.osl:
        keys = [f"isl_mean = {bench.isl:.6g}", f"osl_mean = {bench.osl:.6g}"]
        why = f"lengths of a benchmark ({said(bench.tool)}), not of users; their spread is {UNKNOWN} (taken as equal)"
    else:
        keys, why = ["isl_mean = 1000", "osl_mean = 200"], f"{UNKNOWN}: these two numbers are placeholders"
    return f"synthetic = {{ {', '.join(keys)} }}   # {why}"


def _measured(traffic: Traffic) -> tuple[list[str], str]:
    keys = [f"isl_mean = {traffic.isl_mean:.6g}"]
    unknown: list[str] = []
    spreads: list[tuple[str, Spread | None]] = [("isl", traffic.isl), ("osl", traffic.osl)]
    for name, spread in spreads:
        if name == "osl":
            keys.append(f"osl_mean = {traffic.osl_mean:.6g}")
        if spread is not None and spread.cv is not None:
            keys.append(f"{name}_cv = {min(spread.cv, 10.0):.3g}")
        else:
            unknown.append(f"{name} spread (taken as all equal)")
    if traffic.prefix_share is not None:
        keys.append(f"prefix_share = {traffic.prefix_share:.3g}")
    else:
        unknown.append("prefix reuse")
    why = "means from the engine's counters, spread from its buckets"
    return keys, why + (f"; {UNKNOWN}: {', '.join(unknown)}" if unknown else "")


def _demand(work: WorkPart, quarter: str) -> list[str]:
    traffic = work.traffic
    if traffic is None or not traffic.requests_per_s:
        return [f'demand = [{{ quarter = "{quarter}", mean_requests_per_s = 0 }}]   # {UNKNOWN}: 0 is a placeholder']
    span = f"{traffic.requests:.6g} requests in {_span(traffic.window_s)}"
    lines = [
        f'demand = [{{ quarter = "{quarter}", mean_requests_per_s = {traffic.requests_per_s:.4g} }}]   '
        f"# {span}; growth is {UNKNOWN}"
    ]
    if traffic.peak_to_mean is not None and traffic.peak_to_mean >= 1.0:
        lines.append(f"peak_to_mean = {traffic.peak_to_mean:.3g}   # busiest five minutes of {_span(traffic.window_s)}")
    else:
        lines.append(f"# peak_to_mean = 2.0   # {UNKNOWN}: {_span(traffic.window_s)} is too short to see a day's peak")
    return lines


def _span(seconds: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} seconds"


def _observed(work: WorkPart) -> list[str]:
    """Latencies of today, as comments: they are not what was promised."""
    traffic = work.traffic
    if traffic is None:
        return _bench_latency(work.bench)
    spreads: list[tuple[str, Spread | None]] = [
        ("TTFT", traffic.ttft),
        ("TPOT", traffic.tpot),
        ("ITL", traffic.itl),
        ("E2E", traffic.e2e),
    ]
    found: list[str] = []
    for name, spread in spreads:
        if spread is not None:
            tail = "".join(
                f", {key} {_time(spread.quantiles[key])}" for key in ("p50", "p90") if key in spread.quantiles
            )
            found.append(f"{name} mean {'' if spread.exact else 'about '}{_time(spread.mean)}{tail}")
    return [f"# observed: {'; '.join(found)}"] if found else []


def _bench_latency(bench: Bench | None) -> list[str]:
    if bench is None:
        return []
    found = [f"{name.upper()} mean {bench.metrics[f'{name}_ms_mean']:.4g} ms" for name in ("ttft", "tpot", "e2e")
             if f"{name}_ms_mean" in bench.metrics]  # fmt: skip
    return [f"# measured in a benchmark: {'; '.join(found)}"] if found else []


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1.0 else f"{seconds * 1e3:.3g} ms"


def _ran(work: WorkPart) -> list[str]:
    lines: list[str] = []
    for item in work.deployments:
        degrees = " ".join(f"{name.upper()}{value}" for name, value in item.degrees.items())
        parts = [
            f"{item.replicas} replicas",
            f"{item.devices} x {item.resource}" if item.devices else "no accelerators asked for",
            f"{item.engine or 'unknown engine'} {item.engine_version}".strip(),
            degrees,
        ]
        lines.append(f"# runs as {said(item.name)}: {said(', '.join(part for part in parts if part))}")
    return lines


def _rows(table: str, rows: tuple[dict[str, str], ...], numbers: tuple[str, ...], skip: tuple[str, ...]) -> str:
    out: list[str] = []
    bare = {*numbers, "delivery_probability"}
    for row in rows:
        lines = [f"[[{table}]]"]
        for key, value in row.items():
            if key not in skip and value:
                plain = key in bare and "%" not in value
                lines.append(f"{key} = {value if plain else quoted(value)}")
        out.append("\n".join(lines))
    return "\n\n".join(out)


def _candidates(draft: Draft) -> str:
    if not draft.baseline:
        return f'# [candidates]\n# baseline = "nvidia/h20"   # {UNKNOWN}: the chip in use\n# chips = []'
    lines = ["[candidates]", f"baseline = {quoted(draft.baseline)}   # most of the fleet"]
    lines.append("chips = [   # SUGGESTED, not known: the newest chip of other vendors that can be computed; edit it")
    lines += [f"  {quoted(chip)}," for chip in draft.suggested]
    return "\n".join([*lines, "]"])
