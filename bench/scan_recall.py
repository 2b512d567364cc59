"""Recall of the scan on real ports: ``make scan-recall CLONES=<folder>`` writes docs/recall.md.

``CLONES`` holds one clone a repository, as ``<owner>+<name>/repo``, ``<owner>+<name>`` or ``<name>``. Every port of
bench/scan_corpus.csv whose clone is there is measured: the parent commit is scanned, the diff of the port is the truth.
A hunk (three lines of context) is found when a finding lies on a line that it takes away or, if it only adds, on its
context. Lines are the old lines that it takes away. Documents and new files are left out, blank lines too.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import msgspec

from offramp.core.result import FigureLog
from offramp.core.workers import Workers
from offramp.scan.answer import first_of, rank
from offramp.scan.engine import scan_tree
from offramp.scan.finding import Finding
from offramp.scan.fold import fold
from offramp.scan.judge import judge
from offramp.scan.order import PRODUCT, importers, in_order, touch_key
from offramp.scan.reach import import_graph
from offramp.scan.target import Target, load_target
from offramp.scan.words import ALL_WORDS, words_of

HERE = Path(__file__).resolve().parent
GREP = re.compile(r"cuda|nccl|nvidia|gpu", re.IGNORECASE)
CODE = re.compile(
    r"(\.(py|pyi|c|cpp|cc|cxx|cu|cuh|h|hpp|sh|cmake|am|ac|m4|toml|cfg|ya?ml|txt|json|ipynb)$|Dockerfile|CMakeLists|Makefile"
    r"|requirements)"
)
WAVES = {
    "A": "Wave A: device strings, APIs, branches",
    "B": "Wave B: semantics",
    "C": "C++ and transport",
    "T": "Triton kernels",
}
TOPS = (20, 50, 100)
FIRST_FILES = 5
"""A port is its vendor's first when at most this many files of the parent name the vendor."""
CUDA_STACKS = ("amd/",)
PORTING = (
    r"(^|[^a-z])(npu|npus|ascend|mlu|cambricon|musa|xpu|hpu|gaudi|rocm|device[- ]agnostic|torch\.accelerator)([^a-z]|$)"
)


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
    kinds: dict[str, list[int]] = field(default_factory=dict)
    files: int = 0
    files_found: int = 0
    given: bool = False
    known_files: int = 0
    findings: int = 0
    places: int = 0
    groups: int = 0
    covered: int = 0
    grep_lines: int = 0
    days: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spent: int = 0
    tops: dict[int, int] = field(default_factory=dict)
    ever: dict[int, int] = field(default_factory=dict)
    chance: dict[int, float] = field(default_factory=dict)
    best: dict[int, int] = field(default_factory=dict)
    touched: dict[str, list[int]] = field(default_factory=dict)
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


def target_of(name: str) -> Target:
    """A target of the catalogue, or Intel's GPUs, which stand in for accelerators that have none there."""
    if name != "xpu":
        return load_target(name)
    words = frozenset({"xpu", "ipex", "oneapi", "intel", "ze", "sycl"})
    return msgspec.structs.replace(
        load_target("huawei/ascend-910b2"), device="xpu", words=words, plugin="intel_extension_for_pytorch",
        dist_backend="ccl",
    )  # fmt: skip


@lru_cache(maxsize=2)
def ported_lines(repo: Path) -> dict[str, set[str]]:
    """By path, the lines that any commit whose subject names a vendor took away, or added beside."""
    log = git(repo, "log", "-E", "-i", f"--grep={PORTING}", "--no-merges", "-U1", "-M", "--no-color", "--format=", "-p")
    found: dict[str, set[str]] = defaultdict(set)
    path = ""
    context: list[str] = []
    for row in log.split("\n"):
        if row.startswith("--- "):
            path = row[6:] if row.startswith("--- a/") else ""
        elif row.startswith("@@"):
            context = []
        elif row.startswith("-") and path and row[1:].strip():
            found[path].add(row[1:].strip())
        elif row.startswith(" ") and path and row.strip():
            context.append(row.strip())
        elif row.startswith("+") and path and context and not row.startswith("+++"):
            found[path].add(context[-1])
    return found


def measure(row: dict[str, str], repo: Path) -> Score:
    """The score of one port."""
    score = Score(f"{row['repo']} {row['commit'][:9]}", row["wave"], row["split"], row["target"])
    score.known_files = int(row["known_files"])
    hunks = hunks_of(repo, row["commit"] + "^", row["commit"])
    target = target_of(row["target"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        check_out(repo, row["commit"] + "^", folder)
        tree = scan_tree(folder, target=target, jobs=1)
        texts = {file.path: read_lines(folder / file.path) for file in tree.files if file.hits}
        for path in folder.rglob("*"):
            if path.is_file() and CODE.search(path.name) and path.stat().st_size < 2_000_000:
                score.grep_lines += sum(bool(GREP.search(text)) for text in read_lines(path))
    places = [place for file in tree.files for place in judge(file, target=target, torch=(2, 9)) if place.role != "doc"]
    importing = importers(import_graph(tree.files))
    groups = rank(places, FigureLog(), importers=importing)
    findings = in_order(fold(places, order=first_of(groups)), importing)
    score.findings, score.places, score.groups = len(findings), len(places), len(groups)
    score.days = tuple(sum(getattr(group, name) for group in groups) for name in ("days_low", "days", "days_high"))
    score.spent = author_days(repo, row)
    covered: dict[str, set[int]] = defaultdict(set)
    for place in places:
        covered[place.path].update(range(place.line, place.end_line + 1))
    score.covered = sum(len(lines) for lines in covered.values())
    _count(score, hunks, covered)
    _precision(score, hunks, findings, ported=ported_lines(repo), texts=texts)
    touched = {(hunk.path, line) for hunk in hunks for line in hunk.lines}
    for finding in findings:
        if finding.role in PRODUCT:
            pair = score.touched.setdefault(touch_key(finding.kind, finding.symbol), [0, 0])
            pair[0] += 1
            pair[1] += any((finding.path, line) in touched for line in spans(finding))
    return score


def spans(finding: Finding) -> list[int]:
    """Every line of a finding's places."""
    return [line for place in finding.places for line in range(place.line, place.end_line + 1)]


SPAN_S = (200 * 86400, 180 * 86400)
"""Before and after a first port: the span in which its author-days are counted."""


def author_days(repo: Path, row: dict[str, str]) -> int:
    """Pairs of author and day with a commit whose subject names the vendor, around the port; a bound from below."""
    from scan_find_ports import VENDORS

    words = dict(VENDORS).get(row["target"])
    if not words or int(row["known_files"]) > FIRST_FILES:
        return 0
    at = int(git(repo, "log", "-1", "--format=%at", row["commit"]).strip() or 0)
    days: set[tuple[str, int]] = set()
    for line in git(repo, "log", "--no-merges", "--all", "--format=%at%x09%ae%x09%s").split("\n"):
        when, _, rest = line.partition("\t")
        author, _, subject = rest.partition("\t")
        if not when or not at - SPAN_S[0] <= int(when) <= at + SPAN_S[1]:
            continue
        if re.search(rf"(?<![a-z])({words})(?![a-z])", subject, re.IGNORECASE):
            days.add((author, int(when) // 86400))
    return len(days)


def effort(scores: list[Score]) -> list[str]:
    """Estimated engineer-days beside the author-days that the logs show."""
    seen: set[tuple[str, str]] = set()
    mine: list[Score] = []
    for score in scores:
        key = (score.name.split()[0], score.target)
        if is_first(score) and score.spent and key not in seen:
            seen.add(key)
            mine.append(score)
    if len(mine) < MOST_TOPS:
        return []
    inside = sum(score.days[0] <= score.spent * PER_AUTHOR_DAY <= score.days[2] for score in mine)
    pairs = [
        (s.name.split()[0], math.log(max(s.days[1], LEAST_DAYS)), math.log(s.spent * PER_AUTHOR_DAY)) for s in mine
    ]
    ratios = sorted(spent - guess for _, guess, spent in pairs)
    low, middle, high = (math.exp(part_of(ratios, part)) for part in (0.1, 0.5, 0.9))
    power = statistics.linear_regression([guess for _, guess, _ in pairs], [spent for _, _, spent in pairs]).slope
    out = [
        "## Engineer-days beside the logs", "",
        "The days of a scan are assumed. What repositories show of a port is a bound from below: author-days, the pairs of an",
        "author and a day with a commit whose subject names the vendor, from 200 days before the first port to 180 days after;",
        "work on a branch shows as one day. The scan counts everything that ties the product's code to CUDA, the ports a part.",
        f"On {len(mine)} first ports, taking {PER_AUTHOR_DAY} engineer-days for an author-day (assumed), the logs hold {middle:.1f} times "
        f"the middle estimate (median; 80 % between {low:.2f} and {high:.1f}).",
        f"The range of the scan holds them on {inside} of {len(mine)}. Its ends were set on such logs; set each time on the other",
        f"repositories alone, such a range holds {100 * left_out(pairs):.0f} %. What a first port takes grows with the estimate",
        f"only as its power {power:.2f}: people port what they need of a large repository, and a small one has its first weeks too. A",
        "small estimate is rather too low, a large one the price of everything; read the range, not the middle.", "",
        "| first port | target | author-days | estimate | low | high |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    out += [
        f"| {s.name} | {s.target} | {s.spent} | {s.days[1]:.0f} | {s.days[0]:.0f} | {s.days[2]:.0f} |" for s in mine
    ]
    return [*out, ""]


def part_of(values: list[float], part: float) -> float:
    """The value below which that part of the sorted values lies."""
    return values[min(len(values) - 1, int(len(values) * part))]


def left_out(pairs: list[tuple[str, float, float]]) -> float:
    """Share of ports inside the range that the other repositories' ports would set."""
    inside = 0
    for name, guess, spent in pairs:
        others = sorted(theirs - mine for other, mine, theirs in pairs if other != name)
        inside += part_of(others, 0.1) <= spent - guess <= part_of(others, 0.9)
    return inside / len(pairs)


MOST_TOPS = 10
"""Ports that a statement on days needs."""
LEAST_DAYS = 0.3
"""Smaller estimates are taken for this much."""
PER_AUTHOR_DAY = 2.5
"""Engineer-days behind a day on which a commit shows. Assumed."""


def read_lines(path: Path) -> list[str]:
    return path.read_text("utf8", "replace").split("\n")


def _precision(
    score: Score,
    hunks: list[Hunk],
    findings: list[Finding],
    *,
    ported: dict[str, set[str]],
    texts: dict[str, list[str]],
) -> None:
    """How many of the first findings this port touched, any port of the repository touched, and chance would."""
    touched = {(hunk.path, line) for hunk in hunks for line in hunk.lines}

    now = [any((f.path, line) in touched for line in spans(f)) for f in findings]
    ever: list[bool] = []
    for f, hit in zip(findings, now, strict=True):
        lines = texts.get(f.path, [])
        said = ported.get(f.path, set())
        ever.append(hit or any(line <= len(lines) and lines[line - 1].strip() in said for line in spans(f)))
    for top in TOPS:
        score.tops[top] = sum(now[:top])
        score.ever[top] = sum(ever[:top])
        score.best[top] = min(top, sum(now))
        score.chance[top] = min(top, len(ever)) * sum(ever) / max(1, len(ever))


def _count(score: Score, hunks: list[Hunk], covered: dict[str, set[int]]) -> None:
    files: dict[str, bool] = {}
    for hunk in hunks:
        lines = covered.get(hunk.path, set())
        found = any(line in lines for line in hunk.lines)
        files[hunk.path] = files.get(hunk.path, False) or found
        score.hunks += 1
        score.hunks_found += found
        pair = score.kinds.setdefault(trace_of(hunk), [0, 0])
        pair[0] += 1
        pair[1] += found
        score.hunks_grep += bool(GREP.search("\n".join(text for _, text in (hunk.minus or hunk.context))))
        score.lines += len(hunk.minus)
        score.lines_found += sum(line in lines for line, _ in hunk.minus)
        score.lines_grep += sum(bool(GREP.search(text)) for _, text in hunk.minus)
        if not found:
            score.misses.append((why(hunk), f"{hunk.path}:{hunk.lines[0] if hunk.lines else 0}"))
    score.files, score.files_found = len(files), sum(files.values())


DEVICE = ALL_WORDS | {"device", "devices", "accelerator", "accelerators", "backend", "backends"}
TRACES = {
    "trace": "the old lines speak of a device",
    "new": "only what was added does",
    "unrelated": "neither does",
}


def speaks(lines: list[str]) -> bool:
    """Whether a name or a word of the lines is a device's, or says device, accelerator or backend."""
    return any(words_of(name) & DEVICE for text in lines for name in re.findall(r"\w+", text))


def trace_of(hunk: Hunk) -> str:
    """What the old code says of a hunk, by its words alone; the scan has no part in it."""
    if speaks([text for _, text in (hunk.minus or hunk.context)]):
        return "trace"
    return "new" if speaks([*(text for _, text in hunk.minus), *hunk.plus]) else "unrelated"


def ceiling(scores: list[Score]) -> list[str]:
    """How many hunks any reading of the old code could find, and how many of those were."""
    out = [
        "| set | ports | hunks | recall of all | share with a trace | recall of those | share only in what was added "
        "| recall of those | share unrelated |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for wave, title in WAVES.items():
        for split, label in (("", "all"), *SPLITS):
            mine = [score for score in scores if score.wave == wave and (not split or score.split == split)]
            hunks = total(mine, "hunks")
            if not hunks:
                continue
            sums = {name: [sum(s.kinds.get(name, [0, 0])[at] for s in mine) for at in (0, 1)] for name in TRACES}
            cells = [
                f"**{title}**" if not split else label, str(len(mine)), str(hunks), share(total(mine, "hunks_found"), hunks),
                share(sums["trace"][0], hunks), share(sums["trace"][1], sums["trace"][0]),
                share(sums["new"][0], hunks), share(sums["new"][1], sums["new"][0]), share(sums["unrelated"][0], hunks),
            ]  # fmt: skip
            out.append("| " + " | ".join(cells) + " |")
    return out


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
        f"{total(scores, 'findings') / lines:.1f}", f"{total(scores, 'groups') / lines:.1f}",
        f"{total(scores, 'places') / lines:.1f}", f"{total(scores, 'grep_lines') / lines:.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| set | ports | hunks | hunk recall | grep | line recall | grep | file recall "
    "| findings per true line | groups per true line | places per true line | grep lines per true line |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
SPLITS = (
    ("tuned", "rules were tuned on these"),
    ("seen", "misses were read once"),
    ("held-out", "never looked at"),
    ("tuned-2", "second drawing, rules were tuned on these"),
    ("held-out-2", "second drawing, never looked at"),
    ("tuned-3", "third drawing, rules were tuned on these"),
    ("held-out-3", "third drawing, never looked at"),
)


def tables(scores: list[Score]) -> list[str]:
    """Recall by wave and set."""
    out = [HEAD]
    for wave, title in WAVES.items():
        mine = [score for score in scores if score.wave == wave]
        if mine:
            out.append(table_row(f"**{title}**", mine))
        for split, label in SPLITS:
            part = [score for score in mine if score.split == split]
            if part and len(part) < len(mine):
                out.append(table_row(label, part))
    return out


def precision(scores: list[Score]) -> list[str]:
    """Precision of the first findings by wave."""
    out = ["| set | measure | 20 | 50 | 100 |", "|---|---|---|---|---|"]
    for wave, title in WAVES.items():
        mine = [score for score in scores if score.wave == wave]
        shown = {top: max(1, sum(min(top, score.findings) for score in mine)) for top in TOPS}
        for label, name in MEASURES:
            cells = [share(sum(getattr(score, name)[top] for score in mine), shown[top]) for top in TOPS]
            if mine:
                out.append(f"| {title} | {label} | " + " | ".join(cells) + " |")
        for split, label in SPLITS:
            part = [score for score in mine if score.split == split]
            seen = {top: max(1, sum(min(top, score.findings) for score in part)) for top in TOPS}
            for said, name in MEASURES[:2]:
                cells = [share(sum(getattr(score, name)[top] for score in part), seen[top]) for top in TOPS]
                if part and len(part) < len(mine):
                    out.append(f"| {label} | {said} | " + " | ".join(cells) + " |")
    return out


MEASURES = (
    ("this port", "tops"), ("any port of it", "ever"), ("any order, any port", "chance"), ("best order, this port", "best"),
)  # fmt: skip


def corpus_line(scores: list[Score]) -> str:
    """What the tool's own target is measured on: the given corpus, wave A."""
    mine = [score for score in scores if score.given and score.wave == "A"]
    lines = max(1, total(mine, "lines"))
    return (
        f"On the {len(mine)} ports of wave A of the given corpus: hunks "
        f"{share(total(mine, 'hunks_found'), total(mine, 'hunks'))} of {total(mine, 'hunks')}, lines "
        f"{share(total(mine, 'lines_found'), total(mine, 'lines'))} of {total(mine, 'lines')}, "
        f"{total(mine, 'findings') / lines:.1f} findings, {total(mine, 'groups') / lines:.1f} groups and "
        f"{total(mine, 'places') / lines:.1f} places per true line (grep: {total(mine, 'grep_lines') / lines:.1f} lines)."
    )


def aims(scores: list[Score]) -> list[str]:
    """The targets, and what was reached on ports of each kind; misses are explained below."""
    unseen = [s for s in scores if s.split.startswith("held-out")]
    wave = lambda part, name: [s for s in part if s.wave == name]  # noqa: E731
    first = [s for s in unseen if is_first(s) and not s.target.startswith(CUDA_STACKS)]
    rows = [
        ("wave A, given corpus", 85, [s for s in wave(scores, "A") if s.given]),
        ("wave A, first ports, never looked at", 85, wave(first, "A")),
        ("of these the second drawing", 85, [s for s in wave(first, "A") if s.split.endswith("-2")]),
        ("wave B, given corpus", 40, [s for s in wave(scores, "B") if s.given]),
        ("wave B, never looked at", 40, wave(unseen, "B")),
        ("C++ and transport, first ports, never looked at", 60, wave(first, "C")),
        ("ROCm's Python, never looked at", 85, [s for s in wave(unseen, "A") if s.target.startswith(CUDA_STACKS)]),
        ("C++ and transport of ROCm, never looked at", 60, [s for s in wave(unseen, "C") if s.target.startswith(CUDA_STACKS)]),
    ]  # fmt: skip
    out = [
        "| ports | target | hunks | hunk recall | of hunks with a trace | findings per true line |",
        "|---|---|---|---|---|---|",
    ]
    for label, goal, mine in rows:
        traced = [sum(s.kinds.get("trace", [0, 0])[at] for s in mine) for at in (0, 1)]
        if mine:
            out.append(
                f"| {label} | {goal} % | {total(mine, 'hunks')} | {share(total(mine, 'hunks_found'), total(mine, 'hunks'))} "
                f"| {share(traced[1], traced[0])} | {total(mine, 'findings') / max(1, total(mine, 'lines')):.1f} |"
            )
    return out


def is_first(score: Score) -> bool:
    return score.known_files <= FIRST_FILES


def by_port(scores: list[Score]) -> list[str]:
    """One row a port."""
    out = [
        "| port | wave | set | target | vendor known in files | hunks | found | lines | found | findings | places |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    out += [
        f"| {score.name} | {score.wave} | {score.split} | {score.target} | {score.known_files} | {score.hunks} "
        f"| {share(score.hunks_found, score.hunks)} | {score.lines} | {share(score.lines_found, score.lines)} "
        f"| {score.findings} | {score.places} |"
        for score in scores
    ]
    return out


def misses(scores: list[Score]) -> list[str]:
    """What is missed: by reason, and each one on ports that were read."""
    read = [score for score in scores if not score.split.startswith("held-out")]
    reasons = Counter(reason for score in scores for reason, _ in score.misses)
    out = [
        f"{sum(reasons.values())} hunks. The reason is guessed from the hunk.",
        "",
        "| reason | hunks |",
        "|---|---|",
    ]
    out += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    out += ["", "<details><summary>Every missed hunk of the ports that were read</summary>", ""]
    for score in read:
        if score.misses and score.given:
            places = "; ".join(f"`{place}` ({reason})" for reason, place in score.misses)
            out.append(f"- {score.name}: {places}")
    return [*out, "", "</details>", ""]


def write(scores: list[Score], missing: list[str], goal: Path, *, kernels: list[str]) -> None:
    """The page."""
    vendors = [score for score in scores if not score.target.startswith(CUDA_STACKS)]
    first = [score for score in vendors if is_first(score)]
    later = [score for score in vendors if not is_first(score)]
    amd = [score for score in scores if score.target.startswith(CUDA_STACKS)]
    out = [
        (HERE / "scan_recall_head.md").read_text("utf8").rstrip(), "", corpus_line(scores), "",
        "## Beside the targets", "",
        "Where the old code leaves a trace (see below), most of it is found; the rest of a port is what its authors added or tidied",
        "beside it. Wave B and Triton ports are few. Triton kernels are judged one by one further down (target 60 % right).", "",
        *aims(scores), "",
        "## First ports of a vendor", "",
        f"At most {FIRST_FILES} files of the parent name the vendor. This is what a scan is for.", "", *tables(first), "",
        "## Later work on a back end that is there", "",
        "New operators, tuning, repairs: old code rarely announces them.", "", *tables(later), "",
        "## ROCm, whose PyTorch answers to CUDA's names", "",
        "Mostly .cu files that hipify translates; a Python line with torch.cuda in it is no obstacle there. What ports change in Python",
        "is mostly not found: a check for CUDA that is true on ROCm and chooses a kernel or package that CUDA alone has.", "",
        *tables(amd), "",
        "## What can be found at all", "",
        "Each hunk by its words alone, the scan has no part in it: do the old lines (those taken away or, where it only added,",
        "the three of context on each side) hold a word of a device (cuda, gpu, nccl, npu, xpu, rocm ... as a word of a name), or",
        "device, accelerator or backend? Then the old code leaves a *trace*. Where only the lines that it wrote hold one, it is",
        "something new in a place that says nothing; where neither does, it is other work in the same commit (formatting, a",
        "feature, versions). No reading of the old code can find the last, and hardly the second: the share with a trace is",
        "the ceiling. All ports, later work and ROCm too.", "", *ceiling(scores), "",
        "First ports, ROCm left out:", "", *ceiling(first), "",
        "## Precision of the first findings", "",
        "First ports. *This port*: share of the first N findings, in their order in the JSON form, with a place on a line that",
        "this port touched. *Any port of it*: that any commit of the repository whose subject names a vendor took away or",
        "added beside (a port is partial; others finish it). *Any order*: the second, had the order been drawn. *Best order*:",
        "what an order that knew the port would reach, for many ports touch fewer than N findings.", "",
        *precision(first), "",
        *kernels,
        *effort(scores),
        "## By port", "", *by_port(scores), "",
        "## What is missed, and why", "", *misses(scores),
    ]  # fmt: skip
    if missing:
        out += [f"Left out, no clone at hand: {', '.join(sorted(set(missing)))}.", ""]
    goal.write_text("\n".join(out), encoding="utf8")


def write_touch(scores: list[Score], goal: Path) -> None:
    """Per class how many places of product code first ports touched, on ports that rules were made with."""
    table: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    mine = [
        s for s in scores if not s.split.startswith("held-out") and is_first(s) and not s.target.startswith(CUDA_STACKS)
    ]
    for score in mine:
        for kind, (places, hits) in score.touched.items():
            table[kind][0] += places
            table[kind][1] += hits
    rows = [f"{kind},{places},{hits}" for kind, (places, hits) in sorted(table.items())]
    goal.write_text("class,places,touched\n" + "\n".join(rows) + "\n", encoding="utf8")


def measure_row(row: dict[str, str], clones: Path) -> Score | None:
    """The score of one row; None where the clone is missing."""
    repo = find_clone(clones, row["repo"])
    if repo is None:
        return None
    score = measure(row, repo)
    score.given = row["source"] == "porting corpus"
    return score


def main() -> None:
    from scan_triton import kernel_report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clones", type=Path, help="folder with clones")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "recall.md")
    parser.add_argument("--only", default="", help="only ports whose name holds this")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--touch", type=Path, help="write there how often ports touch each class (scan/touch.csv)")
    options = parser.parse_args()
    with (HERE / "scan_corpus.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if options.only in f"{row['repo']} {row['commit']}"]
    missing: list[str] = []
    done: dict[int, Score] = {}
    with Workers(options.jobs) as crew:
        for unit in crew.do(measure_row, [(i, (row, options.clones)) for i, row in enumerate(rows)]):
            if unit.lost:
                sys.exit(f"The process that measured {rows[unit.i]['repo']} died.")
            if unit.value is None:
                missing.append(rows[unit.i]["repo"])
                continue
            score = done[unit.i] = unit.value
            print(
                f"{score.name}: hunks {score.hunks_found}/{score.hunks}, lines {score.lines_found}/{score.lines}, "
                f"{score.findings} findings, {score.places} places",
                file=sys.stderr,
                flush=True,
            )
    scores = [done[i] for i in sorted(done)]
    if not scores:
        sys.exit(f"No clone of any port in {options.clones}.")
    if options.touch:
        write_touch(scores, options.touch)
    write(scores, missing, options.out, kernels=kernel_report(options.clones))


if __name__ == "__main__":
    main()
