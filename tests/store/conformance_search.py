"""The store's contract about searching and completing. As ``conformance``: an engine's own file inherits
``SearchConformance`` and gives it its fixtures.
"""

from __future__ import annotations

import re
from typing import Any

import cbor2
import msgspec
import pytest
import trio
from chatd_protocol import messages
from chatd_protocol.codec import message_payload
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.conversations.operations import (
    AddMembers,
    Author,
    CreateGroup,
    RemoveMembers,
    Rename,
    Send,
)
from chatd.store.port import RANKED, SearchTerms, Store
from chatd.store.query import Term, parse
from tests.store.conformance import NOW, Engine, do, group, message, people
from tests.store.conformance_changes import delete, edit

BIG = 2**40
WORDS = ("ant", "antler", "bee", "cow")


async def indexed(store: Store) -> None:
    """As the actor does it, until nothing is left."""
    while await store.index():
        pass


def wanted(query: str, **narrow: Any) -> SearchTerms:
    return SearchTerms(terms=parse(query), **narrow)


async def found(store: Store, who: Author, query: str, **narrow: Any) -> list[str]:
    """The bodies, all pages of which there are."""
    answer = await store.search(who.user_no, wanted(query, **narrow), cursor=None, limit=200, max_bytes=BIG)
    assert answer is not None
    events, cursor = answer
    assert cursor is None
    return [cbor2.loads(event.payload)["body"] for event in events]


async def pages(store: Store, who: Author, search: SearchTerms, limit: int, max_bytes: int = BIG) -> list[list[int]]:
    """The ``seq`` of what each page holds."""
    listed: list[list[int]] = []
    cursor = None
    while not listed or cursor is not None:
        answer = await store.search(who.user_no, search, cursor=cursor, limit=limit, max_bytes=max_bytes)
        assert answer is not None
        events, cursor = answer
        listed.append([event.seq for event in events])
    return listed


def sent(author: Author, cseq: int, to: str, body: Any, **more: Any) -> Send:
    """With the payload that a send of the wire gets."""
    wire = messages.Send(cseq=cseq, to=to, body=body, **more)
    return Send(author=author, cseq=cseq, to=to, payload=message_payload(wire))


class SearchConformance:
    """Every clause of ``search``, ``index`` and ``find``."""

    async def test_words_phrases_and_prefixes(self, engine: Engine) -> None:
        """All words in any order, phrases in theirs, prefixes; without regard to case, accents and punctuation."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            said = ["Lunch at one", "at one: lunch?", "One lunch, at the Café", "LUNCHEON", "ångström's naïve", "nul\0byte"]
            await do(store, *[message(a, n, "@b", body) for n, body in enumerate(said, 1)])
            await indexed(store)

            async def which(query: str) -> set[int]:
                return {said.index(body) for body in await found(store, b, query)}

            assert await which("lunch") == {0, 1, 2}
            assert await which("LUNCH at") == {0, 1, 2}
            assert await which('"at one"') == {0, 1}
            assert await which('"lunch at" one') == {0, 2}
            assert await which("lunch*") == {0, 1, 2, 3}
            assert await which('"at the ca"*') == {2}
            assert await which("cafe") == await which("CAFÉ") == await which("cafe\u0301") == {2}
            assert await which("angstrom NAIVE") == await which("ångström's") == {4}
            assert await which("byte") == await which("nul") == {5}
            assert await which("lunch tea") == await which("unch") == await which('"one at"') == set()

    @pytest.mark.parametrize("more", [{}, {"reply_to": 1}, {"mentions": ["a"]}, {"reply_to": 70000, "mentions": ["a", "b"]}])
    async def test_bodies_of_any_size(self, engine: Engine, more: dict[str, Any]) -> None:
        """To the last word and not beyond, at every size that a length is written differently, and with keys behind it."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            sizes = (2, 23, 24, 25, 100, 255, 256, 257, 5000, 65400)
            bodies = [("é" + " y" * size)[: size - 4] + f" z{n}" if size > 2 else f"z{n}" for n, size in enumerate(sizes)]
            assert [len(body.encode()) for body in bodies] == list(sizes)
            await do(store, *[sent(a, n, "@b", body, **more) for n, body in enumerate(bodies, 1)])
            await indexed(store)
            for n, body in enumerate(bodies):
                assert await found(store, b, f"z{n}") == [body]
            assert await found(store, b, "reply_to") == await found(store, b, "mentions") == []

    async def test_texts_only(self, engine: Engine) -> None:
        """Not other types, not bytes, not what is no message; and nothing of a body's but its words is a word."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b")
            await do(
                store, sent(a, 1, conv, "body text"), sent(a, 2, conv, "caption", type="image"), sent(a, 3, conv, b"bytes"),
                sent(a, 4, conv, "cipher", type="encrypted"), Rename(author=a, conv=conv, title="renamed"), sent(a, 5, conv, ""),
            )  # fmt: skip
            await indexed(store)
            assert await found(store, b, "body") == ["body text"]
            for word in ("caption", "bytes", "cipher", "renamed", "type", "image", "c1", "u1", "u2"):
                assert await found(store, b, word) == []

    async def test_members_only_and_only_what_they_may_see(self, engine: Engine) -> None:
        """I8: nothing to strangers and former members; to a new member from ``joined`` on, or all with ``history: all``."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            since, whole = await group(store, a, "b"), await group(store, a, "b", history="all")
            await do(store, message(a, 1, since, "word one"), message(a, 2, whole, "word two"))
            await do(store, *[AddMembers(author=a, conv=conv, users=("c",)) for conv in (since, whole)])
            await do(store, message(a, 3, since, "word three"))
            await indexed(store)
            assert await found(store, b, "word") == ["word three", "word two", "word one"]
            assert await found(store, c, "word") == ["word three", "word two"]
            await do(store, RemoveMembers(author=a, conv=since, users=("b",)), RemoveMembers(author=c, conv=whole, users=("c",)))
            assert await found(store, b, "word") == ["word two"]
            assert await found(store, c, "word") == ["word three"]
            await do(store, AddMembers(author=a, conv=since, users=("b",)), message(a, 4, since, "word four"))
            await indexed(store)
            assert await found(store, b, "word") == ["word four", "word three", "word two", "word one"]
            for conv in (since, "absent"):
                d = (await people(store, "d"))[0]
                assert await store.search(d.user_no, wanted("word", conv=conv), cursor=None, limit=9, max_bytes=BIG) is None
            assert await found(store, d, "word") == []

    async def test_narrowed(self, engine: Engine) -> None:
        """By conversation, sender and time, alone and together; bounds of time are exclusive."""
        async with engine() as store:
            a, b, _ = await people(store, "a", "b", "c")
            club = await group(store, a, "b")
            for n, (author, cseq, to) in enumerate([(a, 1, "@b"), (b, 1, "@a"), (a, 2, club), (b, 2, club), (a, 3, "@c")]):
                await do(store, message(author, cseq, to, f"word {n}"), now=NOW + n)
            await indexed(store)

            async def which(**narrow: Any) -> str:
                return "".join(body[-1] for body in await found(store, a, "word", **narrow))

            assert await which() == "43210"
            assert await which(conv=club) == "32"
            assert await which(sender="b") == "31"
            assert await which(sender="nobody") == ""
            assert await which(conv=club, sender="a") == "2"
            assert await which(before=NOW + 3) == "210"
            assert await which(after=NOW + 1) == "432"
            assert await which(after=NOW, before=NOW + 3, sender="a") == "2"
            assert await which(before=NOW) == await which(after=NOW + 4) == ""

    @pytest.mark.parametrize("ranked", [False, True])
    async def test_pages(self, engine: Engine, ranked: bool) -> None:
        """Together they leave nothing out and repeat nothing, by number and by bytes, also while more is written."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            conv = await group(store, a, "b")
            await do(store, *[message(a, n, conv, "word " + "y" * 1000) for n in range(1, 8)])
            await indexed(store)
            search = wanted("word", ranked=ranked)
            assert await pages(store, a, search, 3) == [[8, 7, 6], [5, 4, 3], [2]]
            assert await pages(store, a, search, 7) == [[8, 7, 6, 5, 4, 3, 2]]
            assert await pages(store, a, search, 9, 2400) == [[8, 7], [6, 5], [4, 3], [2]]
            assert await pages(store, a, search, 9, 1) == [[8], [7], [6], [5], [4], [3], [2]]
            _, cursor = await store.search(a.user_no, search, cursor=None, limit=3, max_bytes=BIG) or ([], None)
            await do(store, message(a, 8, conv, "word " + "y" * 1000))
            await indexed(store)
            events, _ = await store.search(a.user_no, search, cursor=cursor, limit=3, max_bytes=BIG) or ([], None)
            assert [event.seq for event in events] == [5, 4, 3]

    async def test_ranked(self, engine: Engine) -> None:
        """The better match first, whether newer or older; the same messages as newest first."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            said = ["ant ant ant", "ant " + "bee " * 50, "cow", "an ant is an ant"]
            await do(store, *[message(a, n, "@b", body) for n, body in enumerate(said, 1)])
            await indexed(store)
            assert await found(store, b, "ant", ranked=True) == [said[0], said[3], said[1]]
            assert await found(store, b, "ant") == [said[3], said[1], said[0]]

    @pytest.mark.parametrize("ranked", [False, True])
    @pytest.mark.parametrize("gone", ["shown", "to come", "neither"])
    async def test_pages_of_what_changes_meanwhile(self, engine: Engine, ranked: bool, gone: str) -> None:
        """Between two pages messages are deleted, and others written, which changes how often a word is said and how long
        messages are: nothing that is left is skipped, and nothing comes twice."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            conv = await group(store, a, "b")
            lengths = [(n % 4, n % 3) for n in range(1, 31)]
            await do(store, *[message(a, n, conv, "ant " * (1 + x) + "bee " * y) for n, (x, y) in enumerate(lengths, 1)])
            await indexed(store)
            search = wanted("ant", ranked=ranked)
            (expected,) = await pages(store, a, search, 200)
            shown: list[int] = []
            cursor, cseq = None, 31
            while not shown or cursor is not None:
                events, cursor = await store.search(a.user_no, search, cursor=cursor, limit=7, max_bytes=BIG) or ([], None)
                shown += [event.seq for event in events]
                away = {"shown": shown[-3:], "to come": expected[len(shown) :][-3:], "neither": []}[gone]
                expected = [seq for seq in expected if seq in shown or seq not in away]
                await do(store, *[delete(a, cseq + n, conv, seq) for n, seq in enumerate(away)])
                await do(store, *[message(a, cseq + 3 + n, conv, "ant " * 9 + "cow " * 200) for n in range(3)])
                cseq += 6
                await indexed(store)
            assert shown == expected

    async def test_ranked_looks_at_a_bounded_number(self, engine: Engine) -> None:
        """I9: the best of the newest RANKED; of what lies before them nothing, and its pages have an end."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            await do(store, *[message(a, n, "@b", "word") for n in range(1, RANKED + 6)])
            await indexed(store)
            listed = await pages(store, a, wanted("word", ranked=True), 200)
            assert sorted(seq for page in listed for seq in page) == list(range(6, RANKED + 6))

    @pytest.mark.parametrize("cursor", ["x", "", "1.2", "-1", "1.", ".1", "1 ", "٣", "9" * 200])
    async def test_cursors_are_the_stores_own(self, engine: Engine, cursor: str) -> None:
        """One that nobody gave out is a ValueError, or a number like any other."""
        async with engine() as store:
            (a,) = await people(store, "a")
            for ranked in (False, True):
                try:
                    answer = await store.search(
                        a.user_no, wanted("word", ranked=ranked), cursor=cursor, limit=9, max_bytes=BIG
                    )
                except ValueError:
                    continue
                assert answer == ([], None)
                assert cursor.replace(".", "").isdigit()

    async def test_a_deleted_message_is_never_found(self, engine: Engine) -> None:
        """Not from the moment that its delete is committed, whether it was in the index or not, edited or not."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            said = ["secret one", "secret two", "secret three"]
            (first, *_) = await do(store, *[message(a, n, "@b", body) for n, body in enumerate(said, 1)])
            await do(store, edit(a, 4, first.conv, 2, "secret edited"))
            await indexed(store)
            await do(store, message(a, 5, first.conv, "secret late"), delete(a, 6, first.conv, 5))
            await do(store, delete(a, 7, first.conv, 1), delete(a, 8, first.conv, 2))
            for _ in range(2):
                assert await found(store, b, "secret") == ["secret three"]
                assert await found(store, b, "one") == await found(store, b, "edited") == await found(store, b, "late") == []
                await indexed(store)

    async def test_an_edited_message_is_found_as_it_is_now(self, engine: Engine) -> None:
        """By its new words alone, at its own place; by its old ones not from the moment that the edit is committed."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            (first, *_) = await do(store, message(a, 1, "@b", "old word"), message(a, 2, "@b", "word"))
            await indexed(store)
            await do(store, edit(a, 3, first.conv, 1, "new word"), now=NOW + 100)
            assert await found(store, b, "old") == []
            assert await found(store, b, "word") == ["word"]
            await indexed(store)
            assert await found(store, b, "old") == []
            assert await found(store, b, "word", before=NOW + 1) == ["word", "new word"]
            await do(store, edit(a, 4, first.conv, 1, "newest"), edit(a, 5, first.conv, 1, "newest of all"))
            await indexed(store)
            ((event,), _) = await store.search(b.user_no, wanted("newest"), cursor=None, limit=9, max_bytes=BIG) or ([], None)
            assert (event.seq, event.kind, event.at) == (1, "message", NOW)
            assert cbor2.loads(event.payload) == {"type": "text", "body": "newest of all", "edited": 5}
            assert await found(store, b, "new") == []

    async def test_an_edit_keeps_the_type(self, engine: Engine) -> None:
        """What is no text does not become one by an edit, and a text whose body becomes bytes is none any more."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            (first, *_) = await do(store, sent(a, 1, "@b", "x", type="image"), sent(a, 2, "@b", "word"))
            of_bytes = msgspec.structs.replace(
                edit(a, 4, first.conv, 2), payload=cbor2.dumps({"body": b"word", "target": 2}), digest=b"b"
            )
            await do(store, edit(a, 3, first.conv, 1, "caption"), of_bytes)
            await indexed(store)
            assert await found(store, b, "caption") == await found(store, b, "word") == []

    async def test_indexed_from_two_processes(self, engine: Engine) -> None:
        """Each message once, whoever does it; a search of either finds what the other wrote and indexed."""
        async with engine() as one, engine() as other:
            a, b = await people(one, "a", "b")
            for n in range(1, 41):
                await do(one if n % 2 else other, message(a, n, "@b", f"word w{n}"))
                await (other if n % 3 else one).index()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(indexed, one)
                nursery.start_soon(indexed, other)
            await indexed(one)
            for store in (one, other):
                assert len(await found(store, b, "word")) == 40
                assert await found(store, b, "w17") == ["word w17"]
                assert await store.index() == 0

    @given(st.text(max_size=200))
    @settings(max_examples=150, deadline=None)
    def test_no_text_is_a_fault(self, shared_store: Any, text: str) -> None:
        """Whatever people type is never the engine's syntax: with its own marks, with none, in any script."""

        async def ask(store: Store, who: Author) -> None:
            for prefix in (False, True):
                search = SearchTerms(terms=(Term(text, prefix), Term("word")), ranked=prefix)
                assert await store.search(who.user_no, search, cursor=None, limit=9, max_bytes=BIG) is not None
            await store.find(who.user_no, text, conv=None, limit=9)

        shared_store(ask)

    @given(
        st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), max_size=8),
        st.lists(st.tuples(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2), st.booleans()), min_size=1, max_size=3),
    )
    @settings(max_examples=40, deadline=None)
    def test_against_a_plain_model(
        self, shared_store: Any, said: list[list[str]], asked: list[tuple[list[str], bool]]
    ) -> None:
        """Any words, phrases and prefixes: exactly the messages in which a regular expression finds them."""

        async def ask(store: Store, who: Author) -> None:
            conv = await group(store, who)
            bodies = [" ".join(words) for words in said]
            sends = [message(who, shared_store.cseq + n, conv, body) for n, body in enumerate(bodies)]
            shared_store.cseq += len(sends)
            await do(store, *sends)
            await indexed(store)
            terms = tuple(dict.fromkeys(Term(" ".join(words), prefix) for words, prefix in asked))
            rules = [rf"\b{term.text}{'' if term.prefix else chr(92) + 'b'}" for term in terms]
            expected = [body for body in bodies if all(re.search(rule, body) for rule in rules)]
            answer = await store.search(
                who.user_no, SearchTerms(terms=terms, conv=conv), cursor=None, limit=200, max_bytes=BIG
            )
            assert answer is not None
            assert [cbor2.loads(event.payload)["body"] for event in answer[0]] == expected[::-1]

        shared_store(ask)

    async def test_find(self, engine: Engine) -> None:
        """Names that begin so, ascending; one's own groups by a word of the title and dms by the other one, latest first."""
        async with engine() as store:
            bob, *_ = await people(store, "bob", "bo", "bea", "carl", "b.o")

            async def made(title: str, *members: str) -> str:
                return str((await do(store, CreateGroup(author=bob, title=title, members=members, history="all")))[0].conv)

            office, cafe = await made("The Office"), await made("Le Café des Bons", "carl")
            theirs = await people(store, "carl")
            await do(store, CreateGroup(author=theirs[0], title="Boats", members=(), history="all"))
            (dm, *_) = await do(store, message(bob, 1, "@bo"), message(bob, 2, "@carl"))
            (me,) = await do(store, message(bob, 3, "@bob"))

            async def which(text: str, **where: Any) -> tuple[list[str], list[str]]:
                matches = await store.find(bob.user_no, text, **({"conv": None, "limit": 9} | where))
                assert matches is not None
                return matches.users, [item.conv for item in matches.items]

            assert await which("bo") == (["bo", "bob"], [me.conv, dm.conv, cafe])
            assert await which("BÓ") == await which(" bo ") == await which("bo")
            assert await which("b") == (["b.o", "bea", "bo", "bob"], [me.conv, dm.conv, cafe])
            assert await which("b", limit=1) == (["b.o"], [me.conv])
            assert await which("off") == await which("the off") == ([], [office])
            assert await which("cafe") == await which("CAFÉ d") == ([], [cafe])
            assert await which("fice") == await which("x") == await which("\u0301") == await which("%") == ([], [])
            await do(store, Rename(author=bob, conv=office, title="Home"), RemoveMembers(author=bob, conv=cafe, users=("bob",)))
            assert await which("off") == await which("cafe") == ([], [])
            matches = await store.find(bob.user_no, "bo", conv=None, limit=9)
            assert matches is not None
            assert [(item.kind, item.title, item.members) for item in matches.items] == [
                ("dm", "", ["bob"]), ("dm", "", ["bo", "bob"])
            ]  # fmt: skip

    async def test_find_members(self, engine: Engine) -> None:
        """With a conversation: who is in it now, and to who is not in it, it is not there."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            await people(store, "bea", "bo")
            conv = await group(store, a, "b", "bea")

            async def which(who: Author, text: str, where: str = conv) -> Any:
                matches = await store.find(who.user_no, text, conv=where, limit=9)
                return matches and (matches.users, matches.items)

            assert await which(a, "b") == (["b", "bea"], [])
            assert await which(a, "be") == (["bea"], [])
            await do(store, RemoveMembers(author=a, conv=conv, users=("b",)))
            assert await which(a, "b") == (["bea"], [])
            for who, where in ((b, conv), (c, conv), (a, "absent")):
                assert await which(who, "b", where) is None
