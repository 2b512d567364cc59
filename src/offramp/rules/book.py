"""Rulebook: all rules, named lists and chip facts of the rules, read and checked in one place."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from offramp.core.document import conform
from offramp.core.errors import CatalogError, InputError, near_miss_hint
from offramp.core.record import Record
from offramp.rules.chips import ChipBook, read_chips
from offramp.rules.consistency import check_consistency
from offramp.rules.environment import ATTRIBUTES
from offramp.rules.expr import ExpressionError, Node, Vocabulary, limits_used, parse
from offramp.rules.fire import ParsedClause
from offramp.rules.places import DATA, header_line, key_line, problem_line, shown
from offramp.rules.records import Rule

_LISTS, _CHIPS = "lists.toml", "chips.toml"


class NamedList(Record):
    """Words that conditions refer to by name, with their source."""

    title: str
    source: str
    as_of: dt.date
    url: str = ""
    members: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()


class _RuleFile(Record):
    rule: tuple[Rule, ...] = ()


class _ListFile(Record):
    list: dict[str, NamedList] = {}


class Rulebook(Record):
    """Rules by id with their parsed clauses, named lists and chip facts. Treat it as immutable.

    Attributes:
        tests: every clause, in the order of the files (the order has no effect).
        version: digest of every file read.
    """

    rules: dict[str, Rule]
    tests: tuple[ParsedClause, ...]
    lists: dict[str, NamedList]
    members: dict[str, tuple[str, ...]]
    chips: ChipBook
    version: str

    def rule(self, rule_id: str, where: str = "") -> Rule:
        """A rule by id.

        Raises:
            CatalogError: unknown; names near matches.
        """
        found = self.rules.get(rule_id) or self.rules.get(rule_id.upper())
        if found is None:
            hint = near_miss_hint(rule_id, self.rules)
            raise CatalogError(
                f'unknown rule "{rule_id}"', where=where, mend=f'{hint} "offramp rules list" lists all.'.strip()
            )
        return found

    def horizon(self, known: dt.date | None = None) -> dt.date:
        """Newest day on which anything in the rulebook became public, up to ``known``."""
        days = [state.known_since for rule in self.rules.values() for state in rule.states]
        return max((day for day in days if known is None or day <= known), default=dt.date.min)


@functools.cache
def load(extra: Path | None = None) -> Rulebook:
    """The shipped rulebook: ``lists.toml``, ``chips.toml`` and every other ``*.toml`` as rules.

    Args:
        extra: a folder whose files are read as well; one of the same name takes the place of the shipped one.

    Raises:
        CatalogError: anything is wrong, with file and line.
    """
    paths = {path.name: path for folder in (DATA, extra) if folder for path in sorted(folder.glob("*.toml"))}
    texts = {name: _text(path) for name, path in paths.items()}
    lists = _read_lists(texts[_LISTS], paths[_LISTS])
    members = {name: _members(name, lists, paths[_LISTS], ()) for name in lists}
    chips = read_chips(texts[_CHIPS], shown(paths[_CHIPS]))
    rules: dict[str, Rule] = {}
    tests: list[ParsedClause] = []
    place: dict[str, tuple[Path, str, int]] = {}
    for name, text in texts.items():
        if name in (_LISTS, _CHIPS):
            continue
        for index, rule in enumerate(_read_rules(text, paths[name])):
            if rule.id in rules:
                where = f"{shown(paths[name])}:{header_line(text, index)}"
                raise CatalogError(f'rule "{rule.id}" is given twice', where=where)
            rules[rule.id] = rule
            place[rule.id] = (paths[name], text, index)
            tests += _parse_rule(rule, members, paths[name], text, index)
    check_consistency(rules, tests, place)
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(texts):
        digest.update(f"{name}\x1f{texts[name]}".encode())
    return Rulebook(
        rules=rules, tests=tuple(tests), lists=lists, members=members, chips=chips, version=digest.hexdigest()
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot be read ({error})", where=shown(path)) from None


def _tables(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"is not TOML: {error}", where=shown(path), mend="Mend that line.") from None


def _read_lists(text: str, path: Path) -> dict[str, NamedList]:
    if not text:
        return {}
    data, problems = conform(_tables(text, path), _ListFile)
    if problems:
        first = problems[0]
        raise CatalogError(first.what, where=f"{shown(path)}:{first.path}", mend=first.mend)
    return msgspec.convert(data, _ListFile).list


def _members(name: str, lists: Mapping[str, NamedList], path: Path, chain: tuple[str, ...]) -> tuple[str, ...]:
    if name in chain:
        raise CatalogError(f'list "{name}" includes itself ({" -> ".join((*chain, name))})', where=shown(path))
    if name not in lists:
        raise CatalogError(f'unknown list "{name}"', where=shown(path), mend=near_miss_hint(name, lists))
    inner = [word for other in lists[name].includes for word in _members(other, lists, path, (*chain, name))]
    return tuple(dict.fromkeys((*lists[name].members, *inner)))


def _read_rules(text: str, path: Path) -> Sequence[Rule]:
    data, problems = conform(_tables(text, path), _RuleFile)
    if problems:
        first = problems[0]
        raise CatalogError(
            first.what, where=f"{shown(path)}:{problem_line(text, first.path)}", mend=f"{first.path}: {first.mend}"
        )
    return msgspec.convert(data, _RuleFile).rule


def _parse_rule(
    rule: Rule, members: dict[str, tuple[str, ...]], path: Path, text: str, index: int
) -> Iterable[ParsedClause]:
    vocabulary = Vocabulary(
        kinds={name: item.kind for name, item in ATTRIBUTES.items()},
        words={name: item.words for name, item in ATTRIBUTES.items() if item.words},
        lists=members,
        limits=rule.limits,
    )
    applies = _parse(rule.applies, vocabulary, f"{shown(path)}", text, key_line(text, index, "applies"))
    nodes: dict[str, Node] = {"applies": applies}
    tests: list[ParsedClause] = []
    for number, clause in enumerate(rule.clause):
        line = key_line(text, index, "when", number)
        when = _parse(clause.when, vocabulary, shown(path), text, line)
        nodes[str(number)] = when
        if clause.relieves and not clause.verdict:
            raise CatalogError("a clause that relieves needs a verdict", where=f"{shown(path)}:{line}")
        if clause.verdict == "indeterminate":
            raise CatalogError("a rule cannot state indeterminate", where=f"{shown(path)}:{line}")
        tests.append(ParsedClause(key=f"{rule.id}#{number}", rule=rule, clause=clause, applies=applies, when=when))
    unused = set(rule.limits) - limits_used(nodes)
    if unused:
        line = key_line(text, index, "limits")
        raise CatalogError(
            f'limit "{min(unused)}" of {rule.id} is never used',
            where=f"{shown(path)}:{line}",
            mend=f"Write limit.{min(unused)} in a condition, or remove it.",
        )
    return tests


def _parse(condition: str, vocabulary: Vocabulary, shown_path: str, text: str, line: int) -> Node:
    try:
        return parse(condition, vocabulary)
    except ExpressionError as error:
        raw = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
        starts_below = raw.rstrip().endswith(('"""', "'''"))
        below = condition.count("\n", 0, error.offset) + (1 if starts_below else 0)
        at = condition[: error.offset].rpartition("\n")[2]
        raise CatalogError(
            f"{error.what} (after '{at.strip()[-40:]}')" if at.strip() else error.what,
            where=f"{shown_path}:{line + below}",
            mend=error.mend,
        ) from None


def rulebook_of(folder: str | Path | None) -> Rulebook:
    """The shipped rulebook, with the files of a folder that the user names.

    Raises:
        InputError: not a folder, or one without rule files.
        CatalogError: its files are broken.
    """
    if folder is None or folder == "":
        return load()
    path = Path(folder)
    if not path.is_dir() or not any(path.glob("*.toml")):
        raise InputError("is not a folder with rule files (*.toml)", where=str(folder))
    return load(path)
