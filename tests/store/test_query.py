"""What people type to find something: words, phrases, prefixes, and nothing else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.store.query import MAX_PREFIXES, MAX_TERMS, BadQuery, Term, by_words, fold, parse


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("lunch tomorrow", [Term("lunch"), Term("tomorrow")]),
        ('"at one" canteen*', [Term("at one"), Term("canteen", prefix=True)]),
        ('say "so', [Term("say"), Term("so")]),
        ('"so it go"* x', [Term("so it go", prefix=True), Term("x")]),
        ('a"b c"d', [Term("a"), Term("b c"), Term("d")]),
        ("don't e-mail", [Term("don't"), Term("e-mail")]),
        ("word word WORD", [Term("word"), Term("WORD")]),
        ("* ** !? word", [Term("word")]),
        ("AND OR NOT NEAR(x)", [Term("AND"), Term("OR"), Term("NOT"), Term("NEAR(x)")]),
        ("fo*o wo!*", [Term("fo*o"), Term("wo!")]),
        ("tab\there\0there", [Term("tab"), Term("here"), Term("there")]),
        ("你* cafe\u0301*", [Term("你", prefix=True), Term("cafe\u0301", prefix=True)]),
    ],
)
def test_what_a_query_asks_for(query: str, terms: list[Term]) -> None:
    """Quotation marks hold words together, a final star leaves a word open; all else is part of a word or divides them."""
    assert list(parse(query)) == terms


@pytest.mark.parametrize(
    ("query", "limit"),
    [("", "at least one"), ('"', "at least one"), ("!!! * \0", "at least one"), ("a*", "2 characters"), ('"b a"*', "2 char"),
     (" ".join(f"w{n}" for n in range(MAX_TERMS + 1)), f"at most {MAX_TERMS} "), ("aa* bb* cc* dd*", f"at most {MAX_PREFIXES} ")],
)  # fmt: skip
def test_what_is_refused(query: str, limit: str) -> None:
    """The text names the field and the limit."""
    with pytest.raises(BadQuery, match=limit) as refused:
        parse(query)
    assert str(refused.value).startswith("query: ")
    parse(" ".join(f"w{n}" for n in range(MAX_TERMS)))
    parse("aa* bb* cc*")


@given(st.text(max_size=200))
def test_any_text_is_terms_or_refused(query: str) -> None:
    """Nothing else is raised; each term has a letter or digit and no control character, and comes from the query."""
    try:
        terms = parse(query)
    except BadQuery:
        return
    assert 1 <= len(terms) <= MAX_TERMS
    for term in terms:
        assert any(unicodedata.category(character)[0] in "LN" for character in term.text)
        assert '"' not in term.text
        assert not any(unicodedata.category(character) == "Cc" for character in term.text)
        assert set(term.text) <= set(query) | {" "}


@pytest.mark.parametrize(
    ("text", "title", "begins"),
    [("off", "The Office", True), ("fice", "The Office", False), ("the of", "The Office", True), ("caf", "Le Café", True),
     ("CAFÉ", "le cafe", True), ("b", "a-b", True), ("b", "ab ba", True), ("b", "ab cb", False),
     ("strasse", "Kurze Straße", True), ("#", "x#y", True), ("ab", "aab ab", True)],
)  # fmt: skip
def test_completion_begins_words(text: str, title: str, begins: bool) -> None:
    """At the beginning of any word, without regard to case and accents."""
    assert (by_words(text) in by_words(title)) is begins


@given(st.text(), st.text())
def test_completion_takes_any_text(text: str, title: str) -> None:
    """Folding twice is folding once, and what a title begins with begins a word of it."""
    assert fold(fold(title)) == fold(title)
    assert by_words(text) in by_words(text + title) or fold(text + title) != fold(text) + fold(title)
