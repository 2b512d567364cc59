"""Recall of the scan on real ports: ``make scan-recall CLONES=<folder>`` writes docs/recall.md.

``CLONES`` holds one clone a repository, as ``<owner>+<name>/repo``, ``<owner>+<name>`` or ``<name>``. Every port of
bench/scan_corpus.csv whose clone is there is measured: the parent commit is scanned, the diff of the port is the truth.
A hunk (three lines of context) is found when a finding lies on a line that it takes away or, if it only adds, on its
context. Lines are the old lines that it takes away. Documents and new files are left out, blank lines too.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from offramp.core.result import FigureLog
from offramp.scan.answer import rank
from offramp.scan.engine import scan_tree
from offramp.scan.judge import judge
from offramp.scan.target import load_target

HERE = Path(__file__).resolve().parent
GREP = re.compile(r"cuda|nccl|nvidia|gpu", re.IGNORECASE)
CODE = re.compile(
    r"(\.(py|pyi|cpp|cc|cu|cuh|h|hpp|sh|cmake|toml|cfg|ya?ml|txt|json|ipynb)$|Dockerfile|CMakeLists|Makefile|requirements)"
)
WAVES = {
    "A": "Wave A: device strings, APIs, branches",
    "B": "Wave B: semantics",
    "C": "C++ and transport",
    "T": "Triton kernels",
}
PRODUCT = ("source", "build", "infra")
TOPS = (20, 50, 100)


@dataclass
class Hunk:
    """One hunk of a port, in lines of the parent commit."""

    path: str
    minus: list[tuple[int, str]] = field(default_factory=list)
    context: list[tuple[int, str]] = field(default_factory=list)
    plus: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[int]:
        return [line for line, _ in (self.minus or self.context)]


@dataclass
class Score:
    """Counts of one port."""

    name: str
    wave: str
    split: str
    target: str
    hunks: int = 0
    hunks_found: int = 0
    hunks_grep: int = 0
    lines: int = 0
    lines_found: int = 0
    lines_grep: int = 0
    files: int = 0
    files_found: int = 0
    findings: int = 0
    product: int = 0
    groups: int = 0
    grep_lines: int = 0
    tops: dict[int, int] = field(default_factory=dict)
    misses: list[tuple[str, str]] = field(default_factory=list)


def git(repo: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, check=False)
    return done.stdout.decode("utf8", "replace")


def find_clone(clones: Path, repository: str) -> Path | None:
    owner, name = repository.split("/")
    for folder in (clones / f"{owner}+{name}" / "repo", clones / f"{owner}+{name}", clones / name):
        if folder.is_dir():
            return folder
    return None


def hunks_of(repo: Path, parent: str, commit: str) -> list[Hunk]:
    """The hunks of a port in code files that were there before."""
    diff = git(repo, "diff", "-M", "--unified=3", "--no-color", parent, commit)
    found: list[Hunk] = []
    for part in re.split(r"^diff --git ", diff, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n@@")
        names = re.search(r"^a/(.*?) b/(.*?)$", part.split("\n", 1)[0])
        if not names or any(word in head for word in ("new file mode", "deleted file", "Binary")):
            continue
        path = names.group(2)
        if (
            not CODE.search(path)
            or path.lower().startswith(("doc", "examples/npu", "readme"))
            or re.search(r"(^|/)docs?/", path)
        ):
            continue
        for text in re.split(r"^@@", "@@" + body, flags=re.MULTILINE)[1:]:
            hunk = _hunk(names.group(1), text)
            if hunk and (hunk.minus or hunk.plus):
                found.append(hunk)
    return found


def _hunk(path: str, text: str) -> Hunk | None:
    header, *rows = text.split("\n")
    start = re.match(r" -(\d+)", header)
    if not start:
        return None
    line, hunk = int(start.group(1)), Hunk(path)
    for row in rows:
        if row.startswith("-"):
            if row[1:].strip():
                hunk.minus.append((line, row[1:]))
            line += 1
        elif row.startswith("+"):
            if row[1:].strip():
                hunk.plus.append(row[1:])
        elif row.startswith(" "):
            hunk.context.append((line, row[1:]))
            line += 1
    return hunk


def check_out(repo: Path, commit: str, folder: Path) -> None:
    """The files of a commit; blobs that the clone lacks are left out."""
    listing = git(repo, "ls-tree", "-r", "-z", commit).split("\0")
    items = [
        (meta.split()[2], path)
        for meta, _, path in (row.partition("\t") for row in listing if row)
        if not meta.startswith("120000")
    ]
    with subprocess.Popen(
        ["git", "-C", str(repo), "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as pipe:
        assert pipe.stdin and pipe.stdout
        for sha, path in items:
            pipe.stdin.write(f"{sha}\n".encode())
            pipe.stdin.flush()
            head = pipe.stdout.readline().split()
            if len(head) < 3 or head[1] != b"blob":
                continue
            data = pipe.stdout.read(int(head[2]))
            pipe.stdout.read(1)
            goal = folder / path
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(data)
        pipe.stdin.close()


def measure(row: dict[str, str], repo: Path) -> Score:
    """The score of one port."""
    score = Score(f"{row['repo']} {row['commit'][:9]}", row["wave"], row["split"], row["target"])
    hunks = hunks_of(repo, row["commit"] + "^", row["commit"])
    target = load_target(row["target"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        check_out(repo, row["commit"] + "^", folder)
        tree = scan_tree(folder, target=target)
        findings = [
            finding
            for file in tree.files
            for finding in judge(file, target=target, torch=(2, 9))
            if finding.role not in ("doc", "vendored")
        ]
        for path in folder.rglob("*"):
            if path.is_file() and CODE.search(path.name) and path.stat().st_size < 2_000_000:
                score.grep_lines += sum(
                    bool(GREP.search(text)) for text in path.read_text("utf8", "replace").split("\n")
                )
    groups = rank(findings, FigureLog())
    order = {(group.kind, group.symbol): group.rank for group in groups}
    findings.sort(key=lambda f: (f.guarded, order[f.kind, f.symbol], f.path, f.line))
    score.findings, score.groups = len(findings), len(groups)
    score.product = sum(finding.role in PRODUCT for finding in findings)
    covered: dict[str, set[int]] = defaultdict(set)
    for finding in findings:
        covered[finding.path].update(range(finding.line, finding.end_line + 1))
    _count(score, hunks, covered)
    touched = {(hunk.path, line) for hunk in hunks for line in hunk.lines}
    for top in TOPS:
        score.tops[top] = sum(
            any((f.path, line) in touched for line in range(f.line, f.end_line + 1)) for f in findings[:top]
        )
    return score


def _count(score: Score, hunks: list[Hunk], covered: dict[str, set[int]]) -> None:
    files: dict[str, bool] = {}
    for hunk in hunks:
        lines = covered.get(hunk.path, set())
        found = any(line in lines for line in hunk.lines)
        files[hunk.path] = files.get(hunk.path, False) or found
        score.hunks += 1
        score.hunks_found += found
        score.hunks_grep += bool(GREP.search("\n".join(text for _, text in (hunk.minus or hunk.context))))
        score.lines += len(hunk.minus)
        score.lines_found += sum(line in lines for line, _ in hunk.minus)
        score.lines_grep += sum(bool(GREP.search(text)) for _, text in hunk.minus)
        if not found:
            score.misses.append((why(hunk), f"{hunk.path}:{hunk.lines[0] if hunk.lines else 0}"))
    score.files, score.files_found = len(files), sum(files.values())


def why(hunk: Hunk) -> str:
    """A rough reason for a miss, from the hunk itself."""
    old = "".join(re.sub(r"\s", "", text) for _, text in hunk.minus)
    new = "".join(re.sub(r"\s", "", text) for text in hunk.plus)
    plus = [text.strip() for text in hunk.plus]
    if old and old == new:
        return "formatting only"
    if hunk.minus and all(text.strip().startswith(("#", "//", "*", '"""')) for _, text in hunk.minus):
        return "comment"
    if plus and all(text.startswith(("import ", "from ", "#include", ")", "is_")) for text in plus):
        return "import of a helper in a module without device calls"
    if not hunk.minus and re.search(r"device(_name|_type)?\s*=|device_name", "\n".join(plus)):
        return "a device handed through constructors and calls"
    if not hunk.minus and any(text.startswith(("def ", "class ", "@", "async def ")) for text in plus):
        return "a new function or class with no trace in the old code"
    if re.search(r"(^|/)tests?/|(^|/)test_", hunk.path):
        return "tests: fixtures, shapes and expectations"
    if not hunk.minus:
        return "new statements with no trace in the old code"
    return "a change of behaviour without a device name"


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def total(scores: list[Score], name: str) -> int:
    return sum(getattr(score, name) for score in scores)


def table_row(label: str, scores: list[Score]) -> str:
    lines = max(total(scores, "lines"), 1)
    cells = [
        label, str(len(scores)), str(total(scores, "hunks")),
        share(total(scores, "hunks_found"), total(scores, "hunks")),
        share(total(scores, "hunks_grep"), total(scores, "hunks")),
        share(total(scores, "lines_found"), total(scores, "lines")),
        share(total(scores, "lines_grep"), total(scores, "lines")),
        share(total(scores, "files_found"), total(scores, "files")),
        f"{total(scores, 'groups') / lines:.1f}", f"{total(scores, 'product') / lines:.1f}",
        f"{total(scores, 'findings') / lines:.1f}",
        f"{total(scores, 'grep_lines') / lines:.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| set | ports | hunks | hunk recall | grep | line recall | grep | file recall "
    "| groups per true line | places per true line, "
    "product code | places per true line, all | grep lines per true line |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def write(scores: list[Score], missing: list[str], goal: Path) -> None:
    """The page."""
    out = [(HERE / "scan_recall_head.md").read_text("utf8"), HEAD]
    for wave, title in WAVES.items():
        mine = [score for score in scores if score.wave == wave]
        if mine:
            out.append(table_row(f"**{title}**", mine))
        for split, label in (
            ("tuned", "rules were tuned on these"),
            ("seen", "misses were read once"),
            ("held-out", "never looked at"),
        ):
            part = [score for score in mine if score.split == split]
            if part and len(part) < len(mine):
                out.append(table_row(f"{label}", part))
    out += ["", "## Precision of the first findings", "",
            "Share of the first N places, in the order of the report, that lie in a hunk of the port.",
            "",
            "| set | 20 | 50 | 100 |", "|---|---|---|---|"]  # fmt: skip
    for wave, title in WAVES.items():
        mine = [score for score in scores if score.wave == wave]
        if mine:
            out.append(
                f"| {title} | "
                + " | ".join(
                    share(sum(score.tops[top] for score in mine), sum(min(top, score.findings) for score in mine))
                    for top in TOPS
                )
                + " |"
            )
    out += [
        "",
        "## By port",
        "",
        "| port | wave | set | target | hunks | found | lines | found | groups | places |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        found = share(score.hunks_found, score.hunks)
        out.append(f"| {score.name} | {score.wave} | {score.split} | {score.target} | {score.hunks} | {found} "
                   f"| {score.lines} | {share(score.lines_found, score.lines)} "
                   f"| {score.groups} | {score.findings} |")  # fmt: skip
    reasons = Counter(reason for score in scores for reason, _ in score.misses)
    out += [
        "",
        "## What is missed, and why",
        "",
        f"{sum(reasons.values())} hunks. The reason is guessed from the hunk.",
        "",
        "| reason | hunks |",
        "|---|---|",
    ]
    out += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    out += ["", "<details><summary>Every missed hunk</summary>", ""]
    for score in scores:
        out += (
            [f"- {score.name}: " + "; ".join(f"`{place}` ({reason})" for reason, place in score.misses)]
            if score.misses
            else []
        )
    out += ["", "</details>", ""]
    if missing:
        out += [f"Left out, no clone at hand: {', '.join(sorted(set(missing)))}.", ""]
    goal.write_text("\n".join(out), encoding="utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clones", type=Path, help="folder with clones")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "recall.md")
    parser.add_argument("--only", default="", help="only ports whose name holds this")
    options = parser.parse_args()
    with (HERE / "scan_corpus.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if options.only in f"{row['repo']} {row['commit']}"]
    scores: list[Score] = []
    missing: list[str] = []
    for row in rows:
        repo = find_clone(options.clones, row["repo"])
        if repo is None:
            missing.append(row["repo"])
            continue
        score = measure(row, repo)
        scores.append(score)
        print(
            f"{score.name}: hunks {score.hunks_found}/{score.hunks}, lines {score.lines_found}/{score.lines}, "
            f"{score.findings} places",
            file=sys.stderr,
        )
    if not scores:
        sys.exit(f"No clone of any port in {options.clones}.")
    write(scores, missing, options.out)


if __name__ == "__main__":
    main()
