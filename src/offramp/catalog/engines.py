"""Engine: serving software, its versions, and what it supports on which chip since when."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, Literal

from offramp.catalog.chips import Chip
from offramp.core.record import Record

Answer = Literal["yes", "no", "unknown"]
Kind = Literal["chip", "model", "dtype", "kv-dtype", "feature"]


class EngineVersion(Record):
    """One release.

    Attributes:
        version: as the project names it, without a leading "v".
        date: day of the release.
        stable: False for release candidates and previews.
    """

    version: str
    date: dt.date
    source: str
    url: str
    stable: bool = True
    note: str = ""


class SupportFact(Record):
    """One sourced statement about what an engine can do. Where several match, the last one in the file decides.

    Attributes:
        kind: what the names are: chips it runs on, model architectures, weight data types, KV-cache data types
            or features.
        names: architecture, data type or feature names; patterns with "*" are allowed. For kind "chip" they
            are left out: ``chips`` says it.
        chips: patterns over chip ids and chip families that the statement holds for.
        architectures: patterns over model architectures that the statement holds for.
        answer: "yes" or "no"; "unknown" marks a thing that was looked for and not found.
        since: first version; "" where the source states support without a version.
        seen: version in which a published run or document shows it, where the first one is not stated: older
            versions are then unknown.
        until: first version that no longer has it.
    """

    kind: Kind
    source: str
    url: str
    as_of: dt.date
    names: tuple[str, ...] = ("*",)
    chips: tuple[str, ...] = ("*",)
    architectures: tuple[str, ...] = ("*",)
    answer: Answer = "yes"
    since: str = ""
    seen: str = ""
    until: str = ""
    note: str = ""


class Support(Record):
    """Whether an engine does what was asked, and the evidence.

    Attributes:
        answer: "no" if any part is refused, else "unknown" if any part has no source, else "yes".
        since: first version that has the deciding part; "" if not stated.
        about: the deciding part ("feature mtp").
        why: one sentence.
        parts: the same for each part that was asked.
    """

    answer: Answer
    about: str
    why: str
    since: str = ""
    source: str = ""
    url: str = ""
    as_of: dt.date | None = None
    parts: tuple[Support, ...] = ()


class Engine(Record):
    """Serving software.

    Attributes:
        base: id of the engine it extends ("vllm" for vllm-ascend), "" if none.
        kind: "hardware-plugin", "fork", "engine" or "vendor".
    """

    id: str
    name: str
    vendor: str
    aliases: tuple[str, ...] = ()
    base: str = ""
    kind: str = "engine"
    open_source: bool = True
    url: str = ""
    known: dt.date | None = None
    notes: tuple[str, ...] = ()
    versions: tuple[EngineVersion, ...] = ()
    facts: tuple[SupportFact, ...] = ()

    def current(self, as_of: dt.date | None = None) -> EngineVersion | None:
        """The newest stable release on ``as_of`` (the newest of any kind if none is stable); None if unknown."""
        out = [v for v in self.versions if as_of is None or v.date <= as_of]
        stable = [v for v in out if v.stable] or out
        return max(stable, key=lambda v: (v.date, version_key(v.version)), default=None)

    def supports(
        self,
        chip: Chip | None = None,
        architecture: str = "",
        dtype: str = "",
        *,
        kv_dtype: str = "",
        feature: str = "",
        version: str = "",
    ) -> Support:
        """Whether this engine does all of what is asked for.

        Args:
            chip: the chip to run on; None asks about any chip.
            architecture: a class name of config.json ("DeepseekV3ForCausalLM").
            dtype: weight data type ("bf16", "fp8", "int8", "w4a16", "w4a8", "fp4").
            kv_dtype: KV-cache data type.
            feature: "chunked-prefill", "prefix-caching", "disaggregation", "mtp", "expert-parallel",
                "dp-attention", "graph", "pipeline-parallel", "eplb" ...
            version: version to judge; "" takes the current one.
        """
        release = self.current()
        version = version or (release.version if release else "")
        asked: list[tuple[Kind, str]] = []
        if chip is not None:
            asked.append(("chip", ""))
        kinds: tuple[tuple[Kind, str], ...] = (
            ("model", architecture), ("dtype", dtype), ("kv-dtype", kv_dtype), ("feature", feature),
        )  # fmt: skip
        asked.extend(pair for pair in kinds if pair[1])
        parts = tuple(self._judge(kind, name, chip, architecture, version) for kind, name in asked)
        return _worst(parts)

    def _judge(self, kind: Kind, name: str, chip: Chip | None, architecture: str, version: str) -> Support:
        about = f"{kind} {name or (chip.id if chip else '')}".strip()
        subject = name or (chip.id if chip else "")
        matching = [fact for fact in self.facts if _matches(fact, kind, name, chip, architecture)]
        if not matching:
            return Support(
                answer="unknown", about=about, why=f"no source says whether {self.name} {_DOES[kind]} {subject}"
            )
        fact = matching[-1]
        answer, why = _verdict(fact, self.name, version, subject)
        return Support(
            answer=answer, about=about, why=why, since=fact.since, source=fact.source, url=fact.url, as_of=fact.as_of
        )


_DOES: Final[dict[Kind, str]] = {
    "chip": "runs on", "model": "runs", "dtype": "takes weights in", "kv-dtype": "keeps the KV cache in",
    "feature": "has",
}  # fmt: skip
_DOES_NOT: Final[dict[Kind, str]] = {
    "chip": "does not run on", "model": "does not run", "dtype": "does not take weights in",
    "kv-dtype": "does not keep the KV cache in", "feature": "does not have",
}  # fmt: skip


def _verdict(fact: SupportFact, engine: str, version: str, subject: str) -> tuple[Answer, str]:
    note = f" ({fact.note})" if fact.note else ""
    does, does_not = f"{_DOES[fact.kind]} {subject}", f"{_DOES_NOT[fact.kind]} {subject}"
    if fact.answer == "no":
        return "no", f"{engine} {does_not}{note}"
    if fact.answer == "unknown":
        return "unknown", f"no source read says whether {engine} {does}{note}"
    if fact.since and version and version_key(version) < version_key(fact.since):
        return "no", f"{engine} {version} {does_not}; it does since {fact.since}{note}"
    if fact.seen and version and version_key(version) < version_key(fact.seen):
        return "unknown", f"{engine} {fact.seen} {does}; nothing is stated for {version}{note}"
    if fact.until and version and version_key(version) >= version_key(fact.until):
        return "no", f"{engine} {version} {does_not}; it did until {fact.until}{note}"
    when = f" since {fact.since}" if fact.since else f", seen in {fact.seen}" if fact.seen else ""
    return "yes", f"{engine} {does}{when}{note}"


def _matches(fact: SupportFact, kind: Kind, name: str, chip: Chip | None, architecture: str) -> bool:
    if fact.kind != kind or (kind != "chip" and not _any(fact.names, (name,))):
        return False
    if chip is not None and not _any(fact.chips, chip_keys(chip)):
        return False
    if kind == "model":
        return True
    return not architecture or _any(fact.architectures, (architecture,))


def holds_for(fact: SupportFact, chip: Chip) -> bool:
    """Whether the statement speaks about that chip."""
    return _any(fact.chips, chip_keys(chip))


def chip_keys(chip: Chip) -> tuple[str, ...]:
    """What a chip pattern may match: its id and its family; for a mixture also those of its bins."""
    return (chip.id, chip.family, *(bin_.chip for bin_ in chip.mixture))


def _any(patterns: Iterable[str], names: Iterable[str]) -> bool:
    lowered = [name.lower() for name in names]
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in lowered)


def _worst(parts: tuple[Support, ...]) -> Support:
    if not parts:
        return Support(answer="unknown", about="nothing", why="nothing was asked")
    rank = {"no": 0, "unknown": 1, "yes": 2}
    worst = min(parts, key=lambda part: rank[part.answer])
    since = worst.since
    if worst.answer == "yes":
        since = max((part.since for part in parts), key=version_key)
    return Support(
        answer=worst.answer, about=worst.about, why=worst.why, since=since, source=worst.source,
        url=worst.url, as_of=worst.as_of, parts=parts,
    )  # fmt: skip


def version_key(version: str) -> tuple[tuple[int, ...], int, int]:
    """A key that orders versions: numbers, then pre-releases before the release, post-releases after it."""
    match = re.match(r"v?(\d+(?:\.\d+)*)(.*)", version.strip())
    if match is None:
        return (0,), 0, 0
    numbers = tuple(int(part) for part in match.group(1).split("."))
    numbers += (0,) * (5 - len(numbers))
    tail = re.search(r"(dev|alpha|beta|rc|post)[.\-]?(\d*)", match.group(2).lower())
    rank = {"dev": -4, "alpha": -3, "beta": -2, "rc": -1, "post": 1}[tail.group(1)] if tail else 0
    return numbers, rank, int(tail.group(2) or 0) if tail else 0
