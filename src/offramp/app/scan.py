"""Scan: what in a code base ties it to CUDA, what replaces it on the target, how much work that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from offramp import __version__
from offramp.core.errors import InputError
from offramp.core.result import FigureLog, Notice, Result, hash_inputs, table_of

if TYPE_CHECKING:
    from offramp.scan.answer import Group
    from offramp.scan.finding import Finding
    from offramp.scan.fix import Edit
    from offramp.scan.target import Target

DEFAULT_TORCH = "2.9"


def scan(
    path: str | Path,
    *,
    target: str,
    torch: str = DEFAULT_TORCH,
    baseline: str | Path | None = None,
    cache: str | Path | None = None,
    jobs: int = 0,
) -> Result:
    """The Result of a scan.

    ``answer`` holds the summary, "findings" (what a reader meets together, each with its places), "places" (every
    place by itself), "groups" (all places of a symbol), "entry_points" and "files_noted".

    Args:
        path: file or folder of sources. Nothing in it is imported or executed.
        target: chip to move to ("huawei/ascend-910b2").
        torch: torch version that the port may rely on ("2.9").
        baseline: file of known findings; they are left out. It is written when it is not there.
        cache: folder of the incremental cache; None keeps none.
        jobs: processes; 0 chooses.
    """
    from offramp.scan.answer import entries, first_of, rank, summary, wording_last
    from offramp.scan.baseline import read_baseline, write_baseline
    from offramp.scan.engine import rules_key, scan_tree
    from offramp.scan.fold import fold
    from offramp.scan.judge import judge, version_of
    from offramp.scan.order import importers, in_order
    from offramp.scan.reach import import_graph

    if torch and not version_of(torch):
        raise InputError(f'"{torch}" is not a torch version', where="--torch", mend='Write it as "2.9".')
    root = Path(path)
    goal = _target(target)
    tree = scan_tree(root, target=goal, jobs=jobs, cache=Path(cache) if cache else None)
    log = FigureLog()
    findings = [finding for file in tree.files for finding in judge(file, target=goal, torch=version_of(torch))]
    warnings = _notices(findings, goal.chip)
    known = 0
    if baseline is not None:
        at = Path(baseline)
        if at.exists():
            accepted = read_baseline(at)
            total = len(findings)
            findings = [finding for finding in findings if finding.fingerprint not in accepted]
            known = total - len(findings)
        else:
            write_baseline(at, findings, target=goal.chip)
            warnings.append(Notice(kind="baseline-written", text=f"{len(findings)} findings accepted", where=str(at)))
            known = len(findings)
            findings = []
    graph = import_graph(tree.files)
    points, reached = entries(root, tree, findings, log, graph=graph)
    groups = rank(findings, log, importers=importers(graph))
    findings = [msgspec.structs.replace(f, reachable_from=reached.get(f.path, ())) for f in findings]
    findings.sort(key=first_of(groups))
    folded = in_order(fold(findings, order=first_of(groups)), importers(graph))
    groups = wording_last(groups)
    head = summary(tree, findings, groups, target=goal, torch=torch)
    if known and not findings:
        head["verdict"] = f"Nothing new: {known} known places are in the baseline."
        head["can_run_today"] = None
    answer: dict[str, Any] = {
        "path": str(path),
        **head,
        "known_in_baseline": known,
        "entry_points": points,
        "groups": [msgspec.to_builtins(group) for group in groups],
        "findings_count": len(folded),
        "findings": [msgspec.to_builtins(finding) for finding in folded],
        "places": [_plain_place(finding) for finding in findings],
        "files_noted": [msgspec.to_builtins(note) for note in tree.notes],
    }
    return Result(
        command="scan",
        answer=answer,
        inputs_hash=hash_inputs(
            {"path": str(path), "target": goal.chip, "torch": torch, "lines": head["lines"], "files": head["files"]}
        ),
        data_version=f"{__version__}+{rules_key(goal)[:8]}",
        status="partial" if tree.notes else "ok",
        tables=_tables(groups),
        knowledge_horizon=log.horizon,
        figures=log.figures,
        warnings=tuple(warnings),
        offramp_version=__version__,
    )


def _plain_place(finding: Finding) -> dict[str, Any]:
    """A place as plain data; it has no places of its own."""
    content: dict[str, Any] = msgspec.to_builtins(finding)
    del content["places"]
    return content


def _target(chip: str) -> Target:
    """The scan target; the chip's name is checked against the catalogue, aliases taken."""
    from offramp import catalog
    from offramp.scan.target import load_target

    return load_target(catalog.load().chip(chip).id)


def _notices(findings: list[Finding], target: str) -> list[Notice]:
    leads = sum(not finding.verified for finding in findings)
    notices: list[Notice] = []
    if leads:
        notices.append(
            Notice(
                kind="unverified",
                text=f"{leads} findings rest on replacements that nobody checked; they are marked",
                where=target,
            )
        )
    return notices


def _tables(groups: list[Group]) -> dict[str, Any]:
    rows = [
        {
            "rank": group.rank, "class": group.kind, "symbol": group.symbol, "effort": group.effort,
            "stage": group.stage,
            "occurrences": group.occurrences, "unguarded": group.unguarded, "files": group.files, "days": group.days,
            "replacement": group.replacement, "first": group.first[0] if group.first else "",
        }
        for group in groups
    ]  # fmt: skip
    columns = [
        "rank",
        "class",
        "symbol",
        "effort",
        "stage",
        "occurrences",
        "unguarded",
        "files",
        "days",
        "replacement",
        "first",
    ]
    return {"groups": table_of(rows, columns=columns, title="What to change, in the order of a porter")}


def to_json(result: Result) -> str:
    """The Result as JSON with "findings", "places", "groups", "entry_points" and "files_noted" on the top level."""
    content: dict[str, Any] = msgspec.to_builtins(result)
    answer: dict[str, Any] = content["answer"]
    for name in ("findings", "places", "groups", "entry_points", "files_noted"):
        content[name] = answer.pop(name)
    content["target"] = answer["target"]
    del content["tables"]
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode()


def to_sarif(result: Result) -> dict[str, Any]:
    """The findings of a scan as a SARIF 2.1.0 log, with the replacements that --fix would make."""
    from offramp.scan.finding import FileNote, Finding
    from offramp.scan.sarif import to_sarif as render

    findings = msgspec.convert(result.answer["findings"], list[Finding])
    notes = msgspec.convert(result.answer["files_noted"], list[FileNote])
    return render(findings, notes, replacements=_edits(result, findings))


def _edits(result: Result, findings: list[Finding]) -> dict[str, list[Edit]]:
    """The edits of each finding that --fix rewrites, with the constant that they need."""
    from offramp.scan.fix import edits_by_path
    from offramp.scan.fixable import CONSTANT
    from offramp.scan.judge import version_of
    from offramp.scan.target import load_target

    answer = result.answer
    root = Path(answer["path"])
    if not any(finding.fixable for finding in findings) or not root.exists():
        return {}
    edits = edits_by_path(root, target=load_target(answer["target"]), torch=version_of(answer["torch"]))
    found: dict[str, list[Edit]] = {}
    for finding in findings:
        names = (finding.symbol, *finding.also)
        spans = [(place.line, place.end_line) for place in finding.places] or [(finding.line, finding.end_line)]
        mine = [
            edit for edit in edits.get(finding.path, ())
            if any(first <= edit.line <= last for first, last in spans)
            and (edit.symbol in names or edit.symbol == "device type")
        ]  # fmt: skip
        if mine and any(CONSTANT in edit.text for edit in mine):
            mine += [edit for edit in edits[finding.path] if edit.symbol == CONSTANT]
        if mine:
            found[finding.fingerprint] = mine
    return found


def fix(path: str | Path, *, target: str, torch: str = DEFAULT_TORCH, write: bool = False) -> Result:
    """The mechanical fixes as a unified diff in ``answer["patch"]``; with ``write`` the files are changed."""
    from offramp.scan.fix import fix_tree
    from offramp.scan.judge import version_of

    goal = _target(target)
    patch = fix_tree(Path(path), target=goal, torch=version_of(torch), write=write)
    return Result(
        command="scan",
        answer={
            "patch": patch.text,
            "files": patch.files,
            "replacements": patch.replacements,
            "skipped": list(patch.skipped),
            "written": write,
        },
        inputs_hash=hash_inputs({"path": str(path), "target": goal.chip, "torch": torch, "patch": patch.text}),
        data_version=__version__,
        offramp_version=__version__,
    )
