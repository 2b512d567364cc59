"""The page of a drill: what was observed, what was not and under which conditions, what could not be assessed."""

from __future__ import annotations

from typing import Any, Final

from offramp.core.result import Result
from offramp.report.html import (
    Col,
    Html,
    Page,
    Section,
    badge,
    bullets,
    decision,
    details,
    join,
    paragraph,
    section,
    stat,
    table,
)  # fmt: skip

_MOST_FRAMES: Final = 40
_MINUTE_S: Final = 60
_KIND: Final[dict[str, Any]] = {
    "OBSERVED": "warn", "NOT OBSERVED": "plain", "NOT ASSESSED": "bad", "STOPS": "bad", "DEGRADES": "warn",
    "CHANGES OUTPUT": "warn", "NO CHANGE": "plain",
}  # fmt: skip


def page(result: Result) -> Page:
    """The page of a drill's Result."""
    answer = result.answer
    sections = [
        _findings(answer), _effects(answer), _classes(answer), _timers(answer), _blind(answer), _lost(answer),
        _inventory(answer), *_optional(answer), _runs(answer), _bundle(answer),
    ]  # fmt: skip
    workload = answer["workload"]
    return Page(
        title=f"Drill: {workload['name']}", question="Does it phone home, or stop, when it is cut off?",
        subtitle=f"{' '.join(workload['command'])[:160]} · profile {answer['profile']}", lead=_lead(answer),
        sections=sections,
    )  # fmt: skip


def _lead(answer: dict[str, Any]) -> Html:
    findings = answer["findings"]
    unknown = [f for f in findings if not f["documented"] and not f["accepted"]]
    stops = [e["condition"] for e in answer["effects"] if "STOPS" in e["verdicts"]]
    gaps = [c["class"] for c in answer["classes"] if c["verdict"] == "NOT ASSESSED"]
    stats = [
        stat("undocumented senders", str(len(unknown)), "OBSERVED, no documentation known here"),
        stat("documented senders", str(len(findings) - len(unknown)), "OBSERVED, with a known purpose"),
        stat("conditions that stop it", str(len(stops)), ", ".join(stops) or "none of those tried"),
        stat("classes not assessed", str(len(gaps)), ", ".join(gaps) or "every canary was caught"),
    ]
    points: list[Any] = [_one_line(f) for f in findings[:6]]
    points += [f"DEPENDENCY: {', '.join(d['endpoints'])}, {d['reason']}" for d in answer["dependencies"]]
    text = f"{answer['headline'][:1].upper()}{answer['headline'][1:]}."
    note = paragraph(
        "Not observed means: not seen under these conditions, in this time, on this machine, by the means named below. "
        "It never means that nothing is there."
    )
    return decision(text, stats=stats, points=points, after=note)


def _one_line(finding: dict[str, Any]) -> str:
    process = finding["process"] or {}
    name = finding["endpoint"] or (f"accepted: {finding['accepted']}" if finding["accepted"] else "undocumented")
    linkage = process.get("linkage", "")
    who = linkage.removeprefix("script:") if linkage.startswith("script:") else process.get("exe", "unknown process")
    packages = finding["python_packages"]
    via = f" through {' < '.join(packages)}" if packages else ""
    return f"{who}{via} to {finding['destination']} ({name}): {finding['meaning']}"


def _findings(answer: dict[str, Any]) -> Section:
    if not answer["findings"]:
        return section("Senders", "No attempt to reach anything outside was observed in any run.", anchor="senders")
    return section("Senders", *(_finding(f) for f in answer["findings"]), anchor="senders")


def _finding(finding: dict[str, Any]) -> Html:
    process = finding["process"] or {}
    known = finding["endpoint"] or finding["accepted"]
    title = join([badge(finding["verdict"], "plain" if known else "warn"), " ", _one_line(finding)])
    rows: list[list[Any]] = [
        ["what it does", finding["meaning"]], ["classes", ", ".join(finding["classes"])],
        ["destination", finding["destination"]],
        ["documented as", finding["endpoint"] or "nothing known"],
        ["switch", finding["switch"] or "none known"],
        ["seen under", ", ".join(finding["conditions"])], ["silent under", ", ".join(finding["silent_in"]) or "none"],
        ["flows", f"{finding['flows']}, {finding['size_bytes']} bytes; the first after {finding['first_s']:.1f} s"],
        ["program", process.get("exe", "unknown")], ["command line", " ".join(process.get("command", ()))[:400]],
        ["SHA-256", process.get("exe_hash", "")], ["package", process.get("owner", "") or "no package owns it"],
        ["built as", process.get("linkage", "")], ["found by", ", ".join(finding["matched_by"])],
    ]  # fmt: skip
    for label, key in (("TLS server name", "server_name"), ("HTTP request", "request"), ("listener outside", "peer")):
        if finding[key]:
            rows.append([label, finding[key]])
    if finding["period_s"]:
        rows.append(["repeats every", f"{finding['period_s']:.0f} s of the workload's own time"])
    if finding["python_packages"]:
        rows.append(["Python packages", " < ".join(finding["python_packages"])])
    parts: list[Any] = [table([Col(title=""), Col(title="")], rows, compact=True)]
    if process.get("lineage"):
        parts += [paragraph("Started by, nearest first:"), bullets(process["lineage"])]
    if finding["python_frames"]:
        parts += [paragraph("Python frames, innermost first:"), bullets(finding["python_frames"][:_MOST_FRAMES])]
    parts.append(paragraph(f"Evidence: {'; '.join(finding['evidence'])}."))
    return details(title, *parts, anchor=f"finding-{finding['id']}")


def _effects(answer: dict[str, Any]) -> Section:
    rows = [
        [e["condition"], join([join([badge(v, _KIND.get(v, "plain")), " "]) for v in e["verdicts"]]), e["against"],
         e["reason"], "; ".join(sorted(set(e["outcomes"])))]
        for e in answer["effects"]
    ]  # fmt: skip
    columns = [Col(title=name) for name in ("condition", "verdict", "compared with", "why", "outcomes of its runs")]
    measured = [
        [e["condition"], c["metric"], c["reference"], c["value"], f"{(c['ratio'] - 1) * 100:+.0f} %", _interval(c),
         f"{c['runs']} / {c['reference_runs']}"]
        for e in answer["effects"] for c in e["changes"]
    ]  # fmt: skip
    names = ("condition", "metric", "reference", "here", "change", "95 % interval", "runs / reference")
    numbers = table([Col(title=name) for name in names], measured, compact=True)
    return section(
        "What being cut off does", table(columns, rows), *(_dependency(d) for d in answer["dependencies"]),
        details("Every measured change", numbers), anchor="effects",
    )  # fmt: skip


def _interval(change: dict[str, Any]) -> str:
    if change["low"] is None:
        return "one run, no interval"
    return f"{(change['low'] - 1) * 100:+.0f} to {(change['high'] - 1) * 100:+.0f} %"


def _dependency(item: dict[str, Any]) -> Html:
    costs = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in item["cost_s"].items()) or "it fails"
    switch = " ".join(f"{name}={value}" for name, value in item["switch"].items())
    tail = f" With {switch}" if switch else " No switch is documented here."
    if switch:
        tail += (
            f" it took {item['without_s']:.1f} s (run and confirmed)." if item["confirmed"] else " was not confirmed."
        )
    return paragraph(
        badge("DEPENDENCY", "warn"), f" {', '.join(item['endpoints'])}: being cut off costs {costs} until ready.", tail
    )


def _classes(answer: dict[str, Any]) -> Section:
    rows = [
        [c["class"], badge(c["verdict"], _KIND.get(c["verdict"], "plain")), c["canaries"], c["named"],
         ", ".join(c["conditions"]), f"{c['watched_s']:.0f} s / {c['virtual_s']:.0f} s", c["reason"]]
        for c in answer["classes"]
    ]  # fmt: skip
    names = ("class", "verdict", "canaries caught", "process named", "conditions", "watched, wall / virtual", "note")
    text = (
        "In every run, planted programs of each class tried to get out in the same sandbox. A class counts as assessed "
        "only where each of them was caught."
    )
    return section("Classes of senders", text, table([Col(title=name) for name in names], rows), anchor="classes")


def _timers(answer: dict[str, Any]) -> Section:
    rows = [[t["name"], _span(t["after_s"]), "yes" if t["covered"] else "no", f"{t['source']} ({t['evidence']})"]
            for t in answer["timers"]["known"]]  # fmt: skip
    covered = _span(answer["timers"]["longest_covered_s"])
    columns = [Col(title=name) for name in ("known timer", "after", "would have gone off", "source")]
    return section(
        "Time", f"The longest run covered {covered} of the workload's own time.", table(columns, rows), anchor="time"
    )


def _span(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (_MINUTE_S, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"


def _blind(answer: dict[str, Any]) -> Section:
    return section(
        "Blind spots", "No drill of this kind sees the following; they need other means.",
        bullets(f"{spot['where']}: {spot['why']}" for spot in answer["blind_spots"]), anchor="blind-spots",
    )  # fmt: skip


def _lost(answer: dict[str, Any]) -> Section:
    if not answer["lost_coverage"]:
        return section("Lost coverage", "This machine offered everything that the drill uses.", anchor="lost")
    rows = [[item["what"], item["why"], item["effect"]] for item in answer["lost_coverage"]]
    return section("Lost coverage", table([Col(title=n) for n in ("what", "why", "effect")], rows), anchor="lost")


def _inventory(answer: dict[str, Any]) -> Section:
    stock = answer["inventory"]
    feeds = [[f["name"], f["state"], f["advisories"], f["newest"] or "–", f["components"]] for f in stock["feeds"]]
    flaws = [
        [v["id"], v["component"], v["version"], v["status"], v["fixed"], v["summary"]] for v in stock["vulnerabilities"]
    ]
    parts: list[Any] = [
        paragraph(
            f"{stock['os']}, Linux {stock['kernel']}, {stock['machine']}: {stock['files']} files mapped "
            f"({stock['files_with_network_symbols']} import network functions), {stock['packages']} packages "
            f"({stock['packages_mapped']} in use), {stock['kernel_modules']} kernel modules, {stock['firmware_files']} "
            "accelerator firmware files. The full list is sbom.cdx.json and inventory.json in the bundle."
        ),
        table([Col(title=n) for n in ("advisories for", "state", "advisories", "newest", "components")], feeds),
    ]
    if flaws:
        names = ("advisory", "component", "version", "status", "fixed in", "summary")
        parts.append(table([Col(title=n) for n in names], flaws))
    parts += [bullets(stock["notes"])] if stock["notes"] else []
    parts.append(
        details("Hosts written into the mapped files", paragraph(", ".join(stock["embedded_hosts"]) or "none"))
    )
    parts.append(details("Mapped files that no package owns", bullets(stock["unowned_files"])))
    return section("Inventory", *parts, anchor="inventory")


def _optional(answer: dict[str, Any]) -> list[Section]:
    out: list[Section] = []
    if upstream := answer.get("upstream"):
        rows = [[f["layer"], f["src"], f"{f['dst']}:{f['dst_port']}", f["name"], f["during"], f["same_as"]]
                for f in upstream["flows"] if f["during"] >= 0][:100]  # fmt: skip
        text = (
            f"{upstream['frames']} frames in {upstream['file']}; it covers {upstream['covers_runs']} of "
            f"{upstream['runs']} runs. {upstream['during_runs']} flows fell into runs, from the rest of the machine. "
            f"{upstream['escaped']} carry the sandbox's own addresses."
        )
        names = ("layer", "from", "to", "name", "during run", "same as finding")
        out.append(section("Upstream tap", text, table([Col(title=n) for n in names], rows), anchor="upstream"))
    if change := answer.get("difference"):
        lists = [f"{key.replace('_', ' ')}: {', '.join(values[:20])}" for key, values in change.items() if values]
        out.append(section("Since the earlier drill", bullets(lists or ["nothing changed"]), anchor="difference"))
    return out


def _runs(answer: dict[str, Any]) -> Section:
    rows = [
        [r["index"], r["condition"], "attributed" if r["watching"] == "calls" else "timed", r["outcome"], r["note"],
         r["exit_code"], r["wall_s"], r["virtual_s"], r["flows"], f"{r['canaries_caught']} of {r['canaries_expected']}"]
        for r in answer["runs"]
    ]  # fmt: skip
    names = ("run", "condition", "kind", "outcome", "note", "exit", "wall, s", "virtual, s", "flows", "canaries")
    slower = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in answer["overhead"].items()) or "not measured"
    text = f"Attributed against timed runs under accept: {slower}. Effects are judged on timed runs only."
    return section("Runs", text, table([Col(title=name) for name in names], rows, compact=True), anchor="runs")


def _bundle(answer: dict[str, Any]) -> Section:
    where = answer.get("bundle")
    if not where:
        return section("Evidence", "Not written.", anchor="evidence-bundle")
    return section(
        "Evidence", f"SHA-256 of the manifest: {where['manifest_sha256']}.",
        "offramp drill FOLDER checks every file against it, parses the captures anew and judges again.",
        anchor="evidence-bundle",
    )  # fmt: skip
