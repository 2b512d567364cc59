"""init: a study file from what a cluster, its metrics and its benchmarks already know."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from offramp import __version__, arch, catalog, intake
from offramp.app.init_draft import Draft, FleetPart, Sources, Unknown, WorkPart
from offramp.app.init_text import render
from offramp.catalog import Catalog, Chip
from offramp.core.errors import InputError, OfframpError
from offramp.core.quarters import quarter_name, quarter_of
from offramp.core.result import Notice, Result, hash_inputs, table_of
from offramp.intake.kubectl import vendor_chip
from offramp.intake.prices import Listed

SUGGESTED: Final = 5
"""Most chips that are put up for comparison."""


def init(sources: Sources | None = None, *, out: str | Path | None = None, today: dt.date | None = None) -> Result:
    """A commented study file of what the sources say; what they do not say is marked.

    Args:
        sources: files of the cluster, address of its metrics.
        out: file to write; nothing is written where None. A file changed by hand is kept as ``<name>.old``.
        today: day of the demand, where metrics have no dates.

    Raises:
        InputError: no source, or one that cannot be read.
        BackendError: the server does not answer.
    """
    sources = sources or Sources()
    if not sources.named:
        raise InputError("nothing to start from", where="init", mend="Give --kubectl, --prometheus or --bench.")
    facts = catalog.load()
    draft = _draft(facts, sources, today)
    text = render(draft)
    notes = [Notice(kind="intake", text=note) for note in draft.notes]
    if out is not None:
        kept = write_study(Path(out), text)
        if kept:
            notes.append(Notice(kind="kept", text=f"the file that was there had been changed: it is kept as {kept}"))
    return _result(draft, text, out, facts.version, notes)


def _draft(facts: Catalog, given: Sources, today: dt.date | None) -> Draft:
    notes: list[str] = []
    groups, seen = intake.nodes_of(given.kubectl) if given.kubectl else ([], [])
    notes += seen
    served = _deployments(given.kubectl, given.deployments, notes)
    traffic, devices = intake.traffic_of(intake.metrics_of(given.prometheus)) if given.prometheus else ([], [])
    runs = [run for file in given.bench for run in intake.bench_of(file)]
    for run in runs:
        notes += [f"{run.where}: {text}" for text in (*run.notes, *run.definitions[2:])]
    for item in traffic:
        notes += [f"metrics of {item.model or 'the engine'}: {note}" for note in item.notes]
    sites = _sites([group.region for group in groups])
    fleet = _fleet(facts, groups, sites, notes) or _fleet_of_devices(facts, devices, sites)
    works = _works(traffic, served, runs, notes)
    priced = intake.price_rows(given.prices) if given.prices else None
    ordered = intake.order_rows(given.orders) if given.orders else None
    notes += [*(priced.notes if priced else ()), *(ordered.notes if ordered else ())]
    counts: dict[str, int] = {}
    for part in fleet:
        if part.chip and part.count:
            counts[part.chip] = counts.get(part.chip, 0) + part.count
    baseline = _baseline(counts, groups, served)
    price_list = _priced(facts, priced, list(counts), notes)
    draft = Draft(
        name="My cluster",
        sources=tuple(f"{what}: {_no_secret(source)}" for what, source in given.named),
        quarter=_quarter(traffic, today),
        sites=tuple((site, region) for region, site in sites.items()),
        fleet=tuple(fleet),
        works=tuple(works),
        baseline=baseline,
        suggested=_suggest(facts, baseline),
        prices=tuple(price_list),
        orders=tuple(_ordered(facts, ordered)),
        currency=_currency(price_list),
        unknown=(),
        notes=tuple(dict.fromkeys(notes)),
    )
    return msgspec.structs.replace(draft, unknown=tuple(_unknowns(draft, devices)))


def _baseline(counts: dict[str, int], groups: Sequence[intake.NodeGroup], served: Sequence[intake.Deployment]) -> str:
    """The chip that model servers ask for most; the most numerous one where that is not clear."""
    asked: dict[str, int] = {}
    for item in served:
        chips = {group.chip for group in groups if group.resource == item.resource and group.chip in counts}
        if len(chips) == 1:
            chip = chips.pop()
            asked[chip] = asked.get(chip, 0) + item.replicas * item.devices
    by = asked if any(asked.values()) else counts
    return max(by, key=lambda chip: by[chip]) if by else ""


def _no_secret(source: str) -> str:
    """An address without user, password and query, a file as it was named."""
    return intake.without_login(source).partition("?")[0] if "://" in source else source


def _deployments(kubectl: str, deployments: str, notes: list[str]) -> list[intake.Deployment]:
    found: list[intake.Deployment] = []
    for source, must in ((kubectl, False), (deployments, True)):
        if not source:
            continue
        try:
            found += intake.deployments_of(source)
        except InputError as error:
            if must or "holds no deployment" not in error.what:
                raise
    for item in found:
        if item.replicas == 0:
            notes.append(f"deployment {item.name} is scaled to zero")
        notes += [f"deployment {item.name}: {note}" for note in item.notes]
    return found


def _sites(regions: Sequence[str]) -> dict[str, str]:
    """Site ids by region; one site of an unknown place where nodes have no region."""
    out: dict[str, str] = {}
    for region in dict.fromkeys(regions or [""]):
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", region).strip("-.")
        plain = slug if slug and region.isascii() else ""
        out[region] = plain if plain and plain not in out.values() else f"site-{len(out) + 1}"
    return out


def _fleet(
    facts: Catalog, groups: Sequence[intake.NodeGroup], sites: dict[str, str], notes: list[str]
) -> list[FleetPart]:
    parts: list[FleetPart] = []
    for group in groups:
        notes += group.notes if group.chip else ()  # without a chip they stand behind what is missing
        chip = facts.chips.get(group.chip)
        count: int | None = group.devices
        about: list[str] = list(group.notes)
        if chip is not None and group.counts == "device" and chip.devices > 1:
            count = group.devices // chip.devices
            about.append(f"{group.devices} devices are {count} packages of {chip.devices}")
            if group.devices % chip.devices:
                count = None
                about.append(f"{group.devices} devices are no whole number of packages")
        nodes = "1 node" if group.nodes == 1 else f"{group.nodes} nodes"
        parts.append(
            FleetPart(chip=group.chip, product=group.product or group.resource, count=count, devices=group.devices,
                      site=sites[group.region], source=f"{nodes} with {group.resource}", notes=tuple(about))
        )  # fmt: skip
        if not group.chip:
            notes.append(
                f"{group.devices} devices of {group.resource} have no chip of the catalogue: {'; '.join(group.notes)}"
            )
    return parts


def _fleet_of_devices(facts: Catalog, devices: Sequence[Any], sites: dict[str, str]) -> list[FleetPart]:
    """Chips as an exporter names them, where no node list was given."""
    parts: list[FleetPart] = []
    for item in devices:
        chip = vendor_chip(item.product) if item.product else ""
        per = facts.chips[chip].devices if chip in facts.chips else 1
        parts.append(
            FleetPart(
                chip=chip,
                product=item.product or "unnamed devices",
                count=item.devices // per if item.devices % per == 0 else None,
                devices=item.devices,
                site=next(iter(sites.values())),
                source="devices that an exporter reported; others may exist",
            )
        )
    return parts


def _works(
    traffic: Sequence[intake.Traffic],
    served: Sequence[intake.Deployment],
    runs: Sequence[intake.Bench],
    notes: list[str],
) -> list[WorkPart]:
    """Served models from metrics, then deployments without metrics, then benchmarks of other models."""
    parts: list[WorkPart] = []
    taken: set[str] = set()
    bench_used: set[str] = set()
    for item in traffic:
        mine = [d for d in served if _same(item.model, d.served_name) or _same(item.model, d.model)]
        mine = mine or (list(served) if len(served) == 1 and len(traffic) == 1 else [])
        taken |= {d.name for d in mine}
        names = [item.model, *(d.model for d in mine)]
        run = next((r for r in runs if any(_same(r.model, name) for name in names)), None)
        bench_used |= {run.where} if run else set()
        parts.append(_work(parts, names, traffic=item, bench=run, deployments=tuple(mine)))
    by_model: dict[str, list[intake.Deployment]] = {}
    for deployment in served:
        if deployment.name not in taken:
            by_model.setdefault(deployment.model or deployment.name, []).append(deployment)
    for held in by_model.values():
        run = next((r for r in runs if _same(r.model, held[0].model)), None)
        bench_used |= {run.where} if run else set()
        parts.append(_work(parts, [held[0].model, held[0].served_name], bench=run, deployments=tuple(held)))
    for run in runs:
        if run.where not in bench_used and not any(_same(run.model, part.published) for part in parts if run.model):
            parts.append(_work(parts, [run.model], bench=run))
    if not parts:
        notes.append("no served model was found in the sources")
    return parts


def _same(one: str, other: str) -> bool:
    """Whether two names mean one model: their last parts without case and punctuation."""
    a, b = (re.sub(r"[^a-z0-9]", "", name.rstrip("/").rpartition("/")[2].lower()) for name in (one, other))
    return bool(a) and a == b


def _work(
    parts: Sequence[WorkPart], names: Sequence[str], *, traffic: intake.Traffic | None = None,
    bench: intake.Bench | None = None, deployments: tuple[intake.Deployment, ...] = (),
) -> WorkPart:  # fmt: skip
    names = [name for name in names if name]
    model = next((found for name in names if (found := preset_of(name))), "")
    published = names[0] if names else ""
    missing: list[str] = []
    if not model:
        missing.append("model")
    if not (traffic and traffic.isl_mean and traffic.osl_mean) and not (bench and bench.isl and bench.osl):
        missing.append("lengths")
    if not (traffic and traffic.requests_per_s):
        missing.append("demand")
    return WorkPart(
        id=_id([part.id for part in parts], published or (deployments[0].name if deployments else "")), model=model,
        published=published, traffic=traffic, bench=bench, deployments=deployments, missing=tuple(missing),
    )  # fmt: skip


def preset_of(name: str) -> str:
    """The preset that a served name or path means; "" when unsure."""
    for text in (name, name.rstrip("/").rpartition("/")[2]):
        try:
            found = arch.resolve_alias(text)
        except OfframpError:
            continue
        if found is not None:
            return found[0]
    return ""


def _id(used: Sequence[str], published: str) -> str:
    base = re.sub(r"[^a-z0-9.]+", "-", published.rstrip("/").rpartition("/")[2].lower()).strip("-.") or "workload"
    name, number = base, 2
    while name in used:
        name, number = f"{base}-{number}", number + 1
    return name


def _quarter(traffic: Sequence[intake.Traffic], today: dt.date | None) -> str:
    days = [dt.date.fromisoformat(item.last_day) for item in traffic if item.last_day]
    return quarter_name(quarter_of(max(days) if days else today or dt.datetime.now(dt.UTC).date()))


def _suggest(facts: Catalog, baseline: str) -> tuple[str, ...]:
    """The newest chip of each other vendor that can be computed and has a server and an engine."""
    vendor = baseline.partition("/")[0]
    best: dict[str, Chip] = {}
    for chip in facts.chips.values():
        if chip.id.partition("/")[0] == vendor:
            continue
        if not chip.computable or not chip.engines or not chip.systems or chip.id.endswith(("-unstated", "-roadmap")):
            continue
        held = best.get(chip.id.partition("/")[0])
        if held is None or (chip.known or dt.date.min) > (held.known or dt.date.min):
            best[chip.id.partition("/")[0]] = chip
    newest = sorted(best.values(), key=lambda chip: chip.known or dt.date.min, reverse=True)
    return tuple(sorted(chip.id for chip in newest[:SUGGESTED])) if baseline else ()


def _priced(facts: Catalog, listed: Listed | None, chips: Sequence[str], notes: list[str]) -> list[dict[str, str]]:
    out: list[dict[str, str]] = []
    for row, place in _placed(listed):
        name = row["chip"] or (chips[0] if len(chips) == 1 else "")
        if not name:
            notes.append(f"a rent of {row.get('rent', '')} names no chip and the fleet has several: left out")
            continue
        out.append({**row, "chip": _known(facts, name, place)})
    return out


def _ordered(facts: Catalog, listed: Listed | None) -> list[dict[str, str]]:
    return [{**row, "chip": _known(facts, row["chip"], place)} for row, place in _placed(listed)]


def _placed(listed: Listed | None) -> list[tuple[dict[str, str], str]]:
    """Rows with the line that each stands on; "" where a file has no lines."""
    if listed is None:
        return []
    return list(zip(listed.rows, listed.places or [""] * len(listed.rows), strict=True))


def _known(facts: Catalog, name: str, place: str) -> str:
    """The catalogue id of a chip.

    Raises:
        InputError: unknown, with the line of the list.
    """
    try:
        return facts.chip(name).id
    except OfframpError as error:
        raise InputError(error.what, where=f"{place} chip".strip(), mend=error.mend) from None


def _currency(prices: Sequence[dict[str, str]]) -> str:
    from offramp.core.units import currency_of

    found = [currency_of(row[key]) for row in prices for key in ("chip_price", "server_price", "rent") if key in row]
    return max(set(found), key=found.count) if found else ""


def _unknowns(draft: Draft, devices: Sequence[Any]) -> list[Unknown]:
    found: list[Unknown] = []

    def add(path: str, what: str, matters: str) -> None:
        found.append(Unknown(path=path, what=what, matters=matters))

    add(
        "organisation",
        "where the headquarters are and who owns the organisation",
        "decides which export and import rules bind",
    )
    for site, _ in draft.sites:
        add(
            f"site.{site}",
            "price of electricity, PUE, country, limit of power",
            "part of the cost; assumed and marked so until given",
        )
    if not draft.fleet:
        add("fleet", "which chips there are", "the baseline of the comparison")
    for part in draft.fleet:
        if not part.chip or part.count is None:
            add(
                "fleet",
                f"which chip {part.devices} devices called {part.product} are",
                "they are left out until it is said",
            )
    for work in draft.works:
        for name in work.missing:
            add(f"workload.{work.id}.{name}", _MISSING[name][0], _MISSING[name][1])
        add(
            f"workload.{work.id}.slo",
            "what latency is promised to users",
            "without it the highest throughput counts, at any latency",
        )
        if not (work.traffic and work.traffic.peak_to_mean):
            add(f"workload.{work.id}.peak_to_mean", "how much the busiest minutes exceed the mean", "sizes the fleet")
        add(f"workload.{work.id}.availability", "spare and least replicas", "many small models are sized by this alone")
    if not draft.works:
        add("workload", "which models are served, to how many requests", "there is nothing to assess without one")
    if not draft.prices:
        add("price", "what you pay for chips", "the catalogue's street prices are used, with their range")
    add("candidates.chips", "which chips you consider", "the list in the file is a suggestion")
    if not devices:
        add("power", "measured power of the chips", "modelled from idle to board power instead")
    return found


_MISSING: Final = {
    "model": (
        "which architecture is behind the served name",
        'give a preset of "offramp models" or the path of a config.json',
    ),
    "lengths": (
        "input and output lengths",
        "they decide both speed and memory: give metrics, a trace or a benchmark file",
    ),
    "demand": ("requests per second", "there is no number of chips without it"),
}


def write_study(path: Path, text: str) -> str:
    """Writes the file whole; a file there that was changed by hand is kept under the name that is returned."""
    kept = ""
    try:
        if path.is_file():
            old = path.read_text("utf-8", errors="replace")
            if old != text and not _untouched(old):
                backup = path.with_name(path.name + ".old")
                number = 2
                while backup.exists():
                    backup, number = path.with_name(f"{path.name}.old{number}"), number + 1
                path.replace(backup)
                kept = backup.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None
    return kept


def _untouched(old: str) -> bool:
    """Whether a file is as it was generated: its last line holds the digest of the rest."""
    from offramp.app.init_text import seal

    body, _, last = old.rstrip("\n").rpartition("\n")
    return seal(body + "\n").strip() == last.strip()


def _result(draft: Draft, text: str, out: str | Path | None, version: str, notes: list[Notice]) -> Result:
    plain = msgspec.to_builtins
    complete = [work.id for work in draft.works if not work.missing]
    answer = {
        "file": str(out) if out is not None else None, "text": text, "fleet": plain(draft.fleet),
        "workloads": [{"id": w.id, "model": w.model, "published": w.published, "complete": not w.missing,
                       "missing": list(w.missing), "traffic": plain(w.traffic), "bench": plain(w.bench),
                       "deployments": plain(w.deployments)} for w in draft.works],
        "baseline": draft.baseline, "suggested": list(draft.suggested), "unknown": plain(draft.unknown),
        "assessable": bool(complete and draft.baseline),
    }  # fmt: skip
    fleet = [
        {"chip": p.chip or "?", "product": p.product, "count": p.count, "site": p.site, "source": p.source}
        for p in draft.fleet
    ]
    works = [
        {
            "id": w.id,
            "model": w.model or "?",
            "requests_per_s": w.traffic.requests_per_s if w.traffic else None,
            "isl_mean": _length(w, "isl"),
            "osl_mean": _length(w, "osl"),
            "prefix_share": w.traffic.prefix_share if w.traffic else None,
            "missing": ", ".join(w.missing),
        }
        for w in draft.works
    ]
    unknown = [plain(item) for item in draft.unknown]
    return Result(
        command="init",
        answer=answer,
        inputs_hash=hash_inputs({"text": text}),
        data_version=version,
        status="ok" if answer["assessable"] else "partial",
        warnings=tuple(notes),
        offramp_version=__version__,
        tables={
            "fleet": table_of(fleet, columns=("chip", "product", "count", "site", "source"), title="Fleet"),
            "workloads": table_of(
                works,
                columns=("id", "model", "requests_per_s", "isl_mean", "osl_mean", "prefix_share", "missing"),
                title="Workloads",
            ),
            "unknown": table_of(unknown, columns=("path", "what", "matters"), title="What no source said"),
        },
    )


def _length(work: WorkPart, name: str) -> float | None:
    found = getattr(work.traffic, f"{name}_mean", None) if work.traffic else None
    return found or (getattr(work.bench, name) if work.bench else None)
