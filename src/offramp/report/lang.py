"""Languages of documents: words of the short documents, and translation of a finished page text by text.

A page is translated after it is made: every text between tags (and every title, label and alternative text) that the
phrase book knows is replaced: whole, by a template with slots, sentence by sentence, or item by item of a list. Numbers,
ids, layouts, names and titles of sources (``<cite>``) are left alone; a sentence that the book does not know stays in
English.

A phrase book is a folder of TOML files. ``[phrase]`` holds whole texts, ``[term]`` words that also stand inside others,
``[template]`` texts with slots: ``{n}`` a number, ``{w}`` one word, ``{i}`` a name,
``{x}`` a text without semicolons that is kept, ``{z}`` any
text that is kept, ``{t}`` any text that is translated again (``{g}`` as much of it as fits); the translation names
them in order as ``{1}``, ``{2}`` ...
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from html import escape, unescape
from pathlib import Path
from typing import Any, Final, NamedTuple

from offramp.core.errors import InputError

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "lang"
LANGUAGES: Final = ("en", "zh")
TAGS: Final = {"en": "en", "zh": "zh-CN"}
FONTS: Final = '"Noto Sans CJK SC","Source Han Sans SC","Microsoft YaHei","PingFang SC",sans-serif'

_TOKEN: Final = re.compile(
    r"(<script\b.*?</script>|<style\b.*?</style>|<!--.*?-->|<(?!wbr>)[^>]+>)", re.DOTALL | re.IGNORECASE
)
_BREAK: Final = "<wbr>"
"""Where a long name may break: part of its text, no tag."""
_ATTRIBUTE: Final = re.compile(r'\b(title|aria-label|alt)="([^"]*)"')
_WORD: Final = re.compile(r"[A-Za-z]{2,}")
_HAN: Final = re.compile(r"[\u4e00-\u9fff]")
_GAP: Final = re.compile(r"(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])")
"""A blank between two characters, where a slot was filled with a word of the language: none is written there."""
_NUMBER: Final = r"[+−–-]?(?:\d(?:[\d., ]*\d)?(?:e[+-]?\d+)?(?: ?%)?|∞)"
_SLOTS: Final = {
    "n": rf"({_NUMBER})",
    "w": r"([^\s,;]+)",
    "i": r"([A-Za-z\u4e00-\u9fff][^\s,;]*)",
    "x": r"((?:(?!\. [A-Z])[^;])+?)",
    "t": r"(.+?)",
    "g": r"(.+)",
    "z": r"(.+?)",
}
_OPAQUE: Final = re.compile(
    r"(?:[a-z][a-z-]*(?: (?:TP|PP|DP|EP|CP|VPP|ZeRO)-?\d+)+)|(?:(?:TP|PP|VP|DP|EP|CP|VPP|ZeRO)-?\d+ ?)+"
    r"|(?:= )?[+−–-]?[\d.,\u202f ]+ (?:[TGMkP]?(?:FLOP/s|OPS|B/s|B|bit/s|b/s|W|Wh|iB)|[GMT]iB|CNY|USD|EUR|CNY/\w+|min|ms|h|s|d|m)"
    r"|[A-Za-z]\w*_\w*(?:\(\))?"
    r"|[\w./~-]+#.+|(?:from |import )?[\w-]+(?:\.[\w*()\[\]-]+)+|[\w.~%+@:-]*[/#][^\s]*|[A-Z]{2}-[A-Z0-9-]+|[\w.-]+:\d+"
)
MOST_ITEMS: Final = 24
"""Longest list that is translated item by item."""


_language: ContextVar[str] = ContextVar("language", default="en")


@contextmanager
def speaking(lang: str) -> Generator[None]:
    """Charts that are drawn inside carry their texts in that language, so that legends have room for them."""
    token = _language.set(check_language(lang))
    try:
        yield
    finally:
        _language.reset(token)


def said(text: str) -> str:
    """The text in the language that is spoken; itself where the phrase book does not know it."""
    return phrase(text, _language.get()) or text


def check_language(lang: str) -> str:
    """The language, if it is known.

    Raises:
        InputError: it is not.
    """
    if lang not in LANGUAGES:
        raise InputError(f'unknown language "{lang}"', where="--lang", mend=f"Known: {', '.join(LANGUAGES)}.")
    return lang


@lru_cache(maxsize=4)
def words(lang: str) -> dict[str, Any]:
    """Words of the short documents."""
    return tomllib.loads((DATA / "words.toml").read_text("utf-8"))[check_language(lang)]


class Template(NamedTuple):
    """A text with slots: what it looks like, its translation, the kind of each slot, how much of it is literal."""

    match: re.Pattern[str]
    to: str
    kinds: str
    weight: int


class Book(NamedTuple):
    """Phrases, words and templates of one language."""

    phrases: dict[str, str]
    templates: list[Template]


@lru_cache(maxsize=2)
def _book(lang: str) -> Book:
    phrases: dict[str, str] = {}
    templates: list[Template] = []
    for file in sorted((DATA / lang).glob("*.toml")):
        data = tomllib.loads(file.read_text("utf-8"))
        for name in ("term", "phrase"):
            phrases |= {_squeeze(key): value for key, value in data.get(name, {}).items()}
        templates += [_template(_squeeze(key), to) for key, to in data.get("template", {}).items()]
    # the most literal text first: "{x} on {x}, chips" before "{x} on {x}"
    return Book(phrases, sorted(templates, key=lambda item: -item.weight))


def _template(text: str, to: str) -> Template:
    pieces = re.split(r"(\{[nwixtgz]\})", text)
    slots = [piece[1] for piece in pieces if re.fullmatch(r"\{[nwixtgz]\}", piece)]
    parts = [_SLOTS[piece[1]] if re.fullmatch(r"\{[nwixtgz]\}", piece) else re.escape(piece) for piece in pieces]
    weight = len(text) - 3 * len(slots)
    return Template(re.compile("".join(parts), re.DOTALL), to, "".join(slots), weight)


def _squeeze(text: str) -> str:
    return " ".join(text.split())


@lru_cache(maxsize=20_000)
def phrase(text: str, lang: str) -> str | None:
    """The translation of one text; None where the phrase book does not know it."""
    if lang == "en":
        return text
    plain = _squeeze(text)
    if not _WORD.search(plain):
        return plain
    exact = _book(lang).phrases.get(plain)
    if exact is not None or is_opaque(plain):
        return exact or plain
    return _known(plain, lang) or _sentences(plain, lang) or _listed(plain, lang)


def _known(plain: str, lang: str) -> str | None:
    """A whole text of the book, or one of its templates; the full stop may be there or not."""
    book = _book(lang)
    for form in (plain, plain.removesuffix("."), plain + ".", plain[:1].lower() + plain[1:]):
        if form in book.phrases:
            return _stop(book.phrases[form], plain)
    for template in book.templates:
        match = template.match.fullmatch(plain.removesuffix(".")) or template.match.fullmatch(plain)
        if match:
            filled = _fill(template, match, lang)
            if filled is not None:
                return _stop(filled, plain)
    return None


def _stop(made: str, plain: str) -> str:
    """The translation with a full stop exactly where the original has one (or ends a sentence of its own)."""
    body = made.removesuffix("。")
    return body + "。" if plain.endswith(".") and not body.endswith(("？", "！", "：")) else body


def _fill(template: Template, match: re.Match[str], lang: str) -> str | None:
    """The translation with the groups of a match put in; None where a group that needs translation is not known."""
    parts: list[str] = []
    for kind, value in zip(template.kinds, match.groups(), strict=True):
        inner = phrase(value, lang) if kind in "tg" else value
        if inner is None:
            return None
        parts.append(inner.removesuffix("。"))
    made = _squeeze(re.sub(r"\{(\d+)\}", lambda slot: parts[int(slot.group(1)) - 1], template.to))
    return _GAP.sub("", made)


def _sentences(plain: str, lang: str) -> str | None:
    """Sentence by sentence, where the book knows each of them."""
    parts = re.split(r"(?<=[A-Za-z0-9%)\]][.?!]) +(?=[A-Z0-9])", plain)
    if len(parts) < 2:
        return None
    made = [phrase(part, lang) for part in parts]
    return None if any(part is None for part in made) else "".join(str(part) for part in made)


def _listed(plain: str, lang: str) -> str | None:
    """Item by item, where the book knows each item of a list."""
    for mark, joint in (("; ", "；"), (", ", "，")):
        parts = plain.removesuffix(".").split(mark)
        if len(parts) < 2 or len(parts) > MOST_ITEMS:
            continue
        made = [phrase(part, lang) for part in parts]
        if all(part is not None for part in made):
            return _stop(joint.join(str(part).removesuffix("。") for part in made), plain)
    return None


def is_opaque(text: str) -> bool:
    """Whether a text is an id, a layout, a file, a version or a value with its unit, which no language changes."""
    return _OPAQUE.fullmatch(text) is not None or all(
        _OPAQUE.fullmatch(part) or not _WORD.search(part)
        for part in re.split(r"[;,]? +x +|[;,] |(?<=\d) (?=[a-z])", text)
    )


def translate(page: str, lang: str) -> str:
    """A finished HTML page in another language."""
    if check_language(lang) == "en":
        return page
    return "".join(
        _text(token, lang) if kind == "text" else _tag(token, lang) if kind == "tag" else _raw(token, lang)
        for kind, token in _tokens(page)
    )


def _tokens(page: str) -> Iterator[tuple[str, str]]:
    """Tags, texts, and parts that are left alone (scripts, styles, code, titles of sources)."""
    cited = False
    for token in _TOKEN.split(page):
        if not token:
            continue
        if token.startswith(("<script", "<style", "<!--", "<!DOCTYPE")):
            yield "raw", token
        elif token.startswith("<"):
            cited = token.startswith(("<cite", "<code")) or (cited and token not in ("</cite>", "</code>"))
            yield "tag", token
        else:
            yield ("raw" if cited else "text"), token


def _raw(token: str, lang: str) -> str:
    return token.replace("</style>", _style(lang) + "</style>") if token.startswith("<style") else token


def _style(lang: str) -> str:
    return f":lang({lang}) body,:lang({lang}) svg text{{font-family:{FONTS}}}body:lang({lang}){{line-height:1.7}}"


def _tag(token: str, lang: str) -> str:
    def put(match: re.Match[str]) -> str:
        said = phrase(unescape(match.group(2)), lang)
        return match.group(0) if said is None else f'{match.group(1)}="{escape(said)}"'

    token = re.sub(r'^<html lang="en"', f'<html lang="{TAGS[lang]}"', token)
    return _ATTRIBUTE.sub(put, token)


def _text(token: str, lang: str) -> str:
    body = token.strip()
    plain = _squeeze(unescape(body.replace(_BREAK, "")))
    if not plain or not _WORD.search(plain):
        return token
    said = phrase(plain, lang)
    if said is None or said == plain:
        return token
    lead = token[: len(token) - len(token.lstrip())]
    tail = token[len(token.rstrip()) :]
    return f"{lead}{escape(said, quote=False)}{tail}"


def untranslated(page: str, lang: str, *, least: int = 3) -> list[str]:
    """Texts of an English page with at least so many words that the phrase book does not know, each once."""
    found = [_squeeze(unescape(token.replace(_BREAK, ""))) for kind, token in _tokens(page) if kind == "text"]
    return [
        text for text in dict.fromkeys(found)
        if len(_WORD.findall(text)) >= least and not _HAN.search(text) and phrase(text, lang) is None
    ]  # fmt: skip
