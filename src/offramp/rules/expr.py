"""The language of conditions: ``datacenter and (tpp >= limit.tpp or pd >= 5.92)``, read with exact error places.

condition   = choice
choice      = both { "or" both }
both        = negation { "and" negation }
negation    = [ "not" ] ( "(" choice ")" | test )
test        = attribute                                   a yes/no attribute
            | attribute ("<" | "<=" | ">" | ">=") number   number, limit.<name>, or a date
            | attribute "is" [ "not" ] word
            | attribute [ "not" ] "in" ( list-name | "[" word { "," word } "]" )
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal, cast

from offramp.core.errors import near_miss_hint
from offramp.core.record import Record

Sign = Literal["<", "<=", ">", ">="]
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<date>\d{4}-\d\d-\d\d)|(?P<text>\"[^\"]*\"|'[^']*')"
    r"|(?P<word>(?:[A-Za-z_]|\d+[A-Za-z])[\w.*/-]*)|(?P<number>\d[\d_]*\.?\d*)|(?P<sign><=|>=|<|>|\(|\)|\[|\]|,))"
)
_RESERVED: Final = ("and", "or", "not", "is", "in")


class Compare(Record):
    """``attribute sign limit``; the limit's name is kept for the margins."""

    attribute: str
    sign: Sign
    limit: float | dt.date
    limit_name: str = ""


class Member(Record):
    """``attribute in [...]``: any of the patterns matches (any value of a set-valued attribute)."""

    attribute: str
    patterns: tuple[str, ...]
    list_name: str = ""


class Flag(Record):
    """A yes/no attribute."""

    attribute: str


class Not(Record):
    """The opposite."""

    inner: Node


class Group(Record):
    """All of, or any of, several conditions."""

    kind: Literal["all", "any"]
    parts: tuple[Node, ...]


Node = Compare | Member | Flag | Not | Group
ALWAYS: Final = Group(kind="all", parts=())


class ExpressionError(Exception):
    """A condition that cannot be read.

    Args:
        what: what is wrong.
        offset: characters into the text.
        mend: how to mend it.
    """

    def __init__(self, what: str, offset: int, mend: str = "") -> None:
        super().__init__(what)
        self.what, self.offset, self.mend = what, offset, mend


class Vocabulary(Record):
    """What a condition may name.

    Attributes:
        kinds: attribute -> "number", "flag", "text", "texts" or "date".
        words: attribute -> admissible words; absent where any word goes.
        lists: named lists.
        limits: thresholds of the rule at hand.
    """

    kinds: dict[str, str]
    words: dict[str, tuple[str, ...]] = {}
    lists: dict[str, tuple[str, ...]] = {}
    limits: dict[str, float] = {}


def parse(text: str, vocabulary: Vocabulary) -> Node:
    """The condition as a tree; an empty text is always true.

    Raises:
        ExpressionError: with the offset of the first character that cannot be understood.
    """
    if not text.strip():
        return ALWAYS
    return _Parser(text, vocabulary).parse()


class _Parser:
    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.tokens = list(_tokens(text))
        self.at = 0
        self.end = len(text)

    def parse(self) -> Node:
        node = self.choice()
        if self.at < len(self.tokens):
            _kind, value, offset = self.tokens[self.at]
            raise ExpressionError(f'"{value}" is not expected here', offset, 'Join conditions with "and" or "or".')
        return node

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self) -> tuple[str, str, int]:
        if self.at >= len(self.tokens):
            raise ExpressionError("the condition ends too early", self.end)
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, value: str) -> None:
        _kind, found, offset = self.take()
        if found != value:
            raise ExpressionError(f'expected "{value}", found "{found}"', offset)

    def choice(self) -> Node:
        return self.joined("or", "any")

    def joined(self, word: str, kind: Literal["all", "any"]) -> Node:
        deeper = self.negation if kind == "all" else lambda: self.joined("and", "all")
        parts = [deeper()]
        while self.peek() == word:
            self.take()
            parts.append(deeper())
        return parts[0] if len(parts) == 1 else Group(kind=kind, parts=tuple(parts))

    def negation(self) -> Node:
        if self.peek() == "not":
            self.take()
            return Not(inner=self.negation())
        if self.peek() == "(":
            self.take()
            node = self.choice()
            self.expect(")")
            return node
        return self.test()

    def test(self) -> Node:
        kind, name, offset = self.take()
        if kind != "word" or name in _RESERVED:
            raise ExpressionError(f'expected the name of an attribute, found "{name}"', offset)
        if name not in self.vocabulary.kinds:
            hint = near_miss_hint(name, self.vocabulary.kinds) or "docs/rules.md lists the attributes."
            raise ExpressionError(f'unknown attribute "{name}"', offset, hint)
        sort = self.vocabulary.kinds[name]
        nxt = self.peek()
        if nxt in ("<", "<=", ">", ">="):
            return self.compare(name, sort, offset)
        if nxt in ("is", "in") or (nxt == "not" and self.at + 1 < len(self.tokens)):
            return self.membership(name, sort, offset)
        if sort != "flag":
            raise ExpressionError(f'"{name}" is a {sort}, not yes or no', offset, "Compare it with something.")
        return Flag(attribute=name)

    def compare(self, name: str, sort: str, offset: int) -> Node:
        sign = cast("Sign", self.take()[1])
        kind, value, place = self.take()
        if sort == "date" and kind == "date":
            try:
                return Compare(attribute=name, sign=sign, limit=dt.date.fromisoformat(value))
            except ValueError:
                raise ExpressionError(f'"{value}" is not a date', place) from None
        if sort != "number":
            raise ExpressionError(f'"{name}" is a {sort} and cannot be compared with "{value}"', offset)
        if kind == "number":
            return Compare(attribute=name, sign=sign, limit=float(value.replace("_", "")))
        short = value.removeprefix("limit.")
        if kind == "word" and value.startswith("limit."):
            if short not in self.vocabulary.limits:
                hint = near_miss_hint(short, self.vocabulary.limits) or "Add it under [rule.limits]."
                raise ExpressionError(f'unknown limit "{short}"', place, hint)
            return Compare(attribute=name, sign=sign, limit=self.vocabulary.limits[short], limit_name=short)
        raise ExpressionError(f'expected a number or limit.<name>, found "{value}"', place)

    def membership(self, name: str, sort: str, offset: int) -> Node:
        if sort not in ("text", "texts"):
            raise ExpressionError(f'"{name}" is a {sort}; "is" and "in" are for words', offset)
        word = self.take()[1]
        negated = word == "not"
        if negated:
            word = self.take()[1]
        if word == "is":
            if self.peek() == "not":
                self.take()
                negated = not negated
            node: Node = Member(attribute=name, patterns=(self.word(name),))
        elif word == "in":
            node = self.listed(name)
        else:
            raise ExpressionError(f'expected "is" or "in" after "{name}", found "{word}"', offset)
        return Not(inner=node) if negated else node

    def listed(self, name: str) -> Node:
        if self.peek() != "[":
            _kind, list_name, offset = self.take()
            if list_name not in self.vocabulary.lists:
                hint = near_miss_hint(list_name, self.vocabulary.lists) or "Add it to lists.toml."
                raise ExpressionError(f'unknown list "{list_name}"', offset, hint)
            return Member(attribute=name, patterns=self.vocabulary.lists[list_name], list_name=list_name)
        self.take()
        words = [self.word(name)]
        while self.peek() == ",":
            self.take()
            words.append(self.word(name))
        self.expect("]")
        return Member(attribute=name, patterns=tuple(words))

    def word(self, name: str) -> str:
        kind, value, offset = self.take()
        if kind not in ("word", "text", "number"):
            raise ExpressionError(f'expected a word, found "{value}"', offset)
        value = value.strip("\"'")
        known = self.vocabulary.words.get(name)
        if known is not None and value not in known:
            hint = near_miss_hint(value, known) or f"Known: {', '.join(known)}."
            raise ExpressionError(f'"{name}" is never "{value}"', offset, hint)
        return value


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    at = 0
    while at < len(text):
        if not text[at:].strip():
            return
        match = _TOKEN.match(text, at)
        if not match or match.lastgroup is None:
            offset = at + len(text[at:]) - len(text[at:].lstrip())
            raise ExpressionError(f'cannot read "{text[offset : offset + 12]}"', offset)
        yield match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup)
        at = match.end()


def compares(node: Node) -> Iterator[Compare]:
    """Every comparison in a condition, left to right."""
    if isinstance(node, Compare):
        yield node
    elif isinstance(node, Not):
        yield from compares(node.inner)
    elif isinstance(node, Group):
        for part in node.parts:
            yield from compares(part)


def attributes(node: Node) -> set[str]:
    """Every attribute that a condition reads."""
    if isinstance(node, (Compare, Member, Flag)):
        return {node.attribute}
    if isinstance(node, Not):
        return attributes(node.inner)
    return {name for part in node.parts for name in attributes(part)}


def limits_used(nodes: Mapping[str, Node]) -> set[str]:
    """Names of the limits that some condition uses."""
    return {test.limit_name for node in nodes.values() for test in compares(node) if test.limit_name}
