"""Version order of Python packages, Debian packages and drivers, and ranges as advisories write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

_PEP440: Final = re.compile(
    r"^v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?P<pre_n>\d*))?"
    r"(?P<post>(?:[-_.]?(?:post|rev|r)[-_.]?(?P<post_n>\d*))|-(?P<post_i>\d+))?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_n>\d*))?(?:\+[a-z0-9._-]+)?$",
    re.IGNORECASE,
)
_PRE: Final = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
Key = tuple[Any, ...]


def pep440_key(text: str) -> Key | None:
    """Sort key of a Python version (PEP 440, local part ignored); None where it is none."""
    match = _PEP440.match(text.strip())
    if not match:
        return None
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    pre: tuple[int, int] = (3, 0)
    if match["pre"]:
        pre = (_PRE[match["pre"].lower()], int(match["pre_n"] or 0))
    elif match["dev"] and not match["post"]:
        pre = (-1, 0)
    post = int(match["post_n"] or match["post_i"] or 0) if match["post"] else -1
    dev = int(match["dev_n"] or 0) if match["dev"] else 1 << 30
    return int(match["epoch"] or 0), tuple(release), pre, post, dev


def debian_key(text: str) -> Key:
    """Sort key of a Debian version (Debian Policy 5.6.12)."""
    epoch, colon, rest = text.partition(":")
    if not colon:
        epoch, rest = "0", text
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch) if epoch.isdigit() else 0, _debian_part(upstream), _debian_part(revision)


def _debian_part(text: str) -> Key:
    out: list[Any] = []
    for words, digits in re.findall(r"([^\d]*)(\d*)", text):
        if not words and not digits:
            continue
        weights = (-1 if c == "~" else (ord(c) if c.isalpha() else ord(c) + 256) for c in words)
        out.append((*weights, 0))
        out.append(int(digits or 0))
    return (*out, (0,))


def plain_key(text: str) -> Key:
    """Sort key of dotted numbers (drivers, firmware)."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def key_for(ecosystem: str) -> Callable[[str], Key | None]:
    """The order that an ecosystem uses."""
    base = ecosystem.split(":")[0]
    return {"PyPI": pep440_key, "Debian": debian_key, "Ubuntu": debian_key}.get(base, plain_key)


def in_events(version: str, events: Iterable[dict[str, str]], order: Callable[[str], Key | None]) -> bool | None:
    """Whether a version lies in an OSV range; None where the versions cannot be ordered."""
    mine = order(version)
    if mine is None:
        return None
    inside = False
    for event in events:
        kind, text = next(iter(event.items()))
        other = order(text) if text != "0" else None
        if text == "0":
            inside = inside or kind == "introduced"
        elif other is None:
            return None
        elif kind == "introduced" and mine >= other:
            inside = True
        elif (kind == "fixed" and mine >= other) or (kind == "last_affected" and mine > other):
            inside = False
    return inside


def in_text_range(version: str, text: str) -> bool | None:
    """Whether a driver version lies in a range as CSAF writes it ("vers:.../<1.2", "prior to 1.2", "1.2").

    None where the text is not understood.
    """
    mine = plain_key(version)
    if not mine:
        return None
    lowered = text.lower().strip()
    if lowered.startswith("vers:"):
        return _in_vers(mine, lowered.partition("/")[2])
    if match := re.search(r"(?:prior to|before|earlier than|up to but not including|<)\s*v?([\d.]+)", lowered):
        branch = plain_key(match.group(1))
        return mine < branch
    if match := re.search(r"(?:up to and including|<=|through)\s*v?([\d.]+)", lowered):
        return mine <= plain_key(match.group(1))
    if re.fullmatch(r"all( driver)?( versions)?", lowered) or lowered == "*":
        return True
    if re.fullmatch(r"v?[\d.]+", lowered):
        return mine == plain_key(lowered)
    return None


def _in_vers(mine: Key, constraints: str) -> bool | None:
    tests: list[bool] = []
    for part in constraints.split("|"):
        match = re.match(r"(<=|>=|<|>|=|!=)?\s*v?([\d.]+)$", part.strip())
        if part.strip() == "*":
            return True
        if not match:
            return None
        other = plain_key(match.group(2))
        sign = match.group(1) or "="
        tests.append({"<=": mine <= other, ">=": mine >= other, "<": mine < other, ">": mine > other,
                      "=": mine == other, "!=": mine != other}[sign])  # fmt: skip
    equals = [part for part in constraints.split("|") if re.match(r"=?\s*v?\d", part.strip())]
    return any(tests) if len(equals) == len(tests) else all(tests)
