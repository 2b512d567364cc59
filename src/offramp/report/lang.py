"""Languages of documents: words of the short documents, and translation of a finished page text by text.

A page is translated after it is made: every text between tags (and every title, label and alternative text) that the
phrase book knows is replaced, whole or by pattern; what it does not know stays in English, marked so. Numbers, ids and
names are left alone.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from functools import lru_cache
from html import escape, unescape
from pathlib import Path
from typing import Any, Final

from offramp.core.errors import InputError

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "lang"
LANGUAGES: Final = ("en", "zh")
TAGS: Final = {"en": "en", "zh": "zh-CN"}
FONTS: Final = '"Noto Sans CJK SC","Source Han Sans SC","Microsoft YaHei","PingFang SC",sans-serif'

_TOKEN: Final = re.compile(r"(<script\b.*?</script>|<style\b.*?</style>|<!--.*?-->|<[^>]+>)", re.DOTALL | re.IGNORECASE)
_ATTRIBUTE: Final = re.compile(r'\b(title|aria-label|alt)="([^"]*)"')
_WORD: Final = re.compile(r"[A-Za-z]{2,}")
_HAN: Final = re.compile(r"[\u4e00-\u9fff]")


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


@lru_cache(maxsize=2)
def _book(lang: str) -> tuple[dict[str, str], list[tuple[re.Pattern[str], str]], dict[str, str]]:
    """Phrases, patterns with their translation, and terms that may stand inside patterns."""
    data = tomllib.loads((DATA / f"{lang}.toml").read_text("utf-8"))
    patterns = [(re.compile(entry["match"], re.DOTALL), entry["to"]) for entry in data.get("pattern", [])]
    return {_squeeze(key): value for key, value in data["phrase"].items()}, patterns, data["term"]


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def phrase(text: str, lang: str) -> str | None:
    """The translation of one text; None where the phrase book does not know it."""
    if lang == "en":
        return text
    phrases, patterns, terms = _book(lang)
    plain = _squeeze(text)
    if plain in phrases:
        return phrases[plain]
    if plain in terms:
        return terms[plain]
    for pattern, to in patterns:
        match = pattern.fullmatch(plain)
        if match:
            return _fill(to, match, lambda part: phrase(part, lang) or part)
    return None


def _fill(to: str, match: re.Match[str], inner: Callable[[str], str]) -> str:
    """The template with the groups of a match; "{1}" translates the group, "{=1}" takes it as it is."""

    def put(slot: re.Match[str]) -> str:
        value = match.group(int(slot.group(2))) or ""
        return value if slot.group(1) else inner(value)

    return re.sub(r"\{(=?)(\d)\}", put, to)


def translate(page: str, lang: str) -> str:
    """A finished HTML page in another language."""
    if check_language(lang) == "en":
        return page
    out: list[str] = []
    for token in _TOKEN.split(page):
        if not token:
            continue
        if token.startswith(("<script", "<style", "<!--", "<!DOCTYPE")):
            out.append(token.replace("</style>", _style(lang) + "</style>") if token.startswith("<style") else token)
        elif token.startswith("<"):
            out.append(_tag(token, lang))
        else:
            out.append(_text(token, lang))
    return "".join(out)


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
    if not body or not _WORD.search(unescape(body)):
        return token
    said = phrase(unescape(body), lang)
    if said is None:
        return token
    lead = token[: len(token) - len(token.lstrip())]
    tail = token[len(token.rstrip()) :]
    return f"{lead}{escape(said, quote=False)}{tail}"


def untranslated(page: str, lang: str) -> list[str]:
    """Texts of an English page with at least three words that the phrase book does not know, each once."""
    found: list[str] = []
    for token in _TOKEN.split(page):
        if token.startswith("<") or not token.strip():
            continue
        body = _squeeze(unescape(token))
        if len(_WORD.findall(body)) >= 3 and not _HAN.search(body) and phrase(body, lang) is None:
            found.append(body)
    return list(dict.fromkeys(found))
