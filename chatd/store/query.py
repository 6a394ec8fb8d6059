"""What people type to find something, as data. Pure.

``parse`` makes of a search's text the terms that a message must hold; ``fold`` and ``by_words`` are completion's idea of a
match. No engine's query syntax goes in or out: an engine writes its own from the terms.
"""

from __future__ import annotations

import re
import unicodedata

from msgspec import Struct

MAX_TERMS = 16
MAX_PREFIXES = 3
MIN_PREFIX = 2
"""What one search may cost: an engine reads the list of each term, and for a prefix the lists of all that begin so."""

_WORD_MARK = "\n"
_TERM = re.compile(r'"(?P<phrase>[^"]*)"?(?P<star>\**)|(?P<word>[^\s"]+)')


class BadQuery(ValueError):
    """Nothing to search for, or too much of it; the text names the field and the limit."""


class Term(Struct, frozen=True):
    """Words that stand one after another; with ``prefix`` the last of them may go on.

    ``text`` is as it was typed, but for control characters: how it is cut into words is the engine's, as for messages.
    It holds at least one letter or digit.
    """

    text: str
    prefix: bool = False


def parse(query: str) -> tuple[Term, ...]:
    """The terms of a query, all of which must be there: words, ``"a phrase"``, ``pre*``. Raises BadQuery."""
    terms: dict[Term, None] = {}
    for found in _TERM.finditer(_without_controls(query)):
        word = found["word"]
        text, stars = (found["phrase"], found["star"]) if word is None else (word.rstrip("*"), word[len(word.rstrip("*")) :])
        if any(map(_counts, text)):
            terms[Term(text.strip(), bool(stars) and unicodedata.category(text[-1])[0] in "LNM")] = None
    if not terms:
        raise BadQuery("query: at least one word")
    if len(terms) > MAX_TERMS:
        raise BadQuery(f"query: at most {MAX_TERMS} words and phrases")
    prefixes = [term for term in terms if term.prefix]
    if len(prefixes) > MAX_PREFIXES:
        raise BadQuery(f"query: at most {MAX_PREFIXES} prefixes")
    if any(_width(term.text) < MIN_PREFIX for term in prefixes):
        raise BadQuery(f"query: a prefix has at least {MIN_PREFIX} characters")
    return tuple(terms)


def fold(text: str) -> str:
    """Without case and accents."""
    # Each may give something to do to the other: ℠ is SM apart, and ΐ is folded into parts.
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(character for character in apart if not unicodedata.combining(character))


def by_words(text: str) -> str:
    """Folded, with a mark before each word: what this makes of a text stands in what it makes of a title exactly where a word
    of the title begins so. So a store keeps it of each title, and an engine need not know what a word is."""
    marked, within = [], False
    for character in fold(text).strip():
        counts = _counts(character)
        marked.append(_WORD_MARK + character if counts and not within else character)
        within = counts
    return "".join(marked)


def _without_controls(text: str) -> str:
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


def _counts(character: str) -> bool:
    """Letters and digits of any script make words; all else divides them."""
    return unicodedata.category(character)[0] in "LN"


def _width(text: str) -> int:
    """Of its last word; where each character is a syllable or a word, one says as much as two letters elsewhere."""
    width = 0
    for character in reversed(text):
        if unicodedata.category(character)[0] not in "LNM":
            break
        width += 2 if unicodedata.east_asian_width(character) == "W" else _counts(character)
    return width
