"""Typing leases and paced receipts, against plain models."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chatd.delivery.receipts import Paced, merged, widened
from chatd.delivery.typing import ELSEWHERE, LEASE_SECONDS, TELL_AGAIN_SECONDS, Asked, Typists

CONVS, USERS, SOURCES = ["c", "d"], ["ann", "bob"], [ELSEWHERE, 1, 2]
steps = st.lists(
    st.tuples(
        st.sampled_from(["renew", "renew", "end", "expire"]), st.sampled_from(CONVS), st.sampled_from(USERS),
        st.sampled_from(SOURCES), st.floats(0, 4),
    ),
    max_size=60,
)  # fmt: skip


@given(steps)
def test_leases_against_a_model(run: list[tuple[str, str, str, int, float]]) -> None:
    """A lease lives for 6 s from its last renewal; who is told that somebody stopped is told once, at the last of them."""
    typists, leases, now = Typists(), dict[tuple[str, str, int], float](), 0.0
    for step, conv, user, source, pause in run:
        now += pause
        run_out = {lease for lease, until in leases.items() if until <= now}
        expired = typists.expired(now)
        assert {lease for lease, _ in expired} == run_out
        for lease in run_out:
            del leases[lease]
        typing = {(conv, user) for conv, user, _ in leases}
        assert {lease[:2] for lease, last in expired if last} == {lease[:2] for lease in run_out} - typing
        if step == "renew":
            typists.renew(conv, user, source, now)
            leases[conv, user, source] = now + LEASE_SECONDS
        elif step == "end":
            others = [lease for lease in leases if lease[:2] == (conv, user) and lease[2] != source]
            assert typists.end(conv, user, source) == (leases.pop((conv, user, source), None) is not None and not others)
        assert len(typists) == len(leases)
        assert set(typists.convs) == {conv for conv, _, _ in leases}
        assert all(typists.types(*lease) for lease in leases)
        assert typists.types_here(conv, user) == any(
            lease[:2] == (conv, user) and lease[2] != ELSEWHERE for lease in leases
        )
        assert sorted(typists.of_source(source)) == sorted(lease[:2] for lease in leases if lease[2] == source)


def test_a_renewal_is_told_now_and_then() -> None:
    """At once, and again for those who came meanwhile, but not with every renewal."""
    typists = Typists()
    told = [typists.renew("c", "ann", 1, now) for now in (0.0, 1.0, TELL_AGAIN_SECONDS, 3.0)]
    assert told == [True, False, True, False]


def test_leases_are_bounded() -> None:
    """Beyond the bound nobody begins; who has begun goes on, and whoever stops makes room."""
    typists = Typists(bound=2)
    assert [typists.renew("c", user, 1, 0.0) for user in ("ann", "bob", "eve")] == [True, True, None]
    assert typists.renew("c", "ann", 1, 3.0) is True
    typists.end("c", "bob", 1)
    assert typists.renew("c", "eve", 1, 3.0) is True


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100), st.floats(0, 0.7)), max_size=60), st.booleans()
)
def test_receipts_are_paced_and_right_in_the_end(run: list[tuple[str, int, float]], paced: bool) -> None:
    """Paced: at most one a second for each key. In the end the highest mark of each key has been told, and told once."""
    waiting: Paced[str, tuple[int, int, int]] = Paced()
    highest: dict[str, int] = defaultdict(int)
    told: dict[str, list[tuple[float, int]]] = defaultdict(list)
    now = 0.0
    for key, mark, pause in [*run, *[("z", 1, 1.0)] * 3]:
        now += pause
        highest[key] = max(highest[key], mark)
        assert waiting.put(key, merged(waiting.get(key), (mark, 0, 7)), paced=paced)
        for name, (delivered, _, _) in waiting.take(now, 100):
            told[name].append((now, delivered))
    for name, times in told.items():
        if paced:
            assert all(later >= earlier + 1.0 for (earlier, _), (later, _) in pairwise(times))
        if name != "z":
            assert max(mark for _, mark in times) == highest[name]
    assert set(told) == set(highest)


class Looked:
    """A key that counts how often somebody looked at it."""

    looks = 0

    def __hash__(self) -> int:
        Looked.looks += 1
        return id(self)


def test_what_was_told_lately_costs_the_others_nothing() -> None:
    """1000 paced keys wait for their second: taking what is due, ten at a time, looks at none of them."""
    waiting: Paced[Looked, int] = Paced()
    early = [Looked() for _ in range(1000)]
    assert all(waiting.put(key, 1, paced=True) for key in early)
    assert len(waiting.take(0.0, 1000)) == 1000
    assert all(waiting.put(key, 2, paced=True) for key in early)
    for _ in range(100):
        waiting.put(Looked(), 1, paced=False)
    Looked.looks = 0
    assert sum(len(waiting.take(0.5, 10)) for _ in range(11)) == 100
    assert Looked.looks <= 200
    assert [key for key, _ in waiting.take(1.0, 2000)] == early


class Read(str):
    """The name of a conversation that counts how often it is compared."""

    __slots__ = ()
    looks = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Read.looks += 1
        return str.__eq__(self, other)


def test_what_others_asked_for_costs_a_message_nothing() -> None:
    """1000 devices type elsewhere: to drop what one has asked for compares its conversation with none of theirs."""
    asked: Asked[str] = Asked()
    for number in range(1000):
        assert asked.put(f"c{number}", number, "ann", True)
    assert asked.put("here", 7, "bob", True)
    asked.drop(Read("here"), 7)
    asked.drop(Read("nowhere"), 7)
    assert Read.looks <= 4
    assert len(asked) == len(asked.convs) == 1000


def test_what_is_asked_for_is_bounded_and_the_last_word_holds() -> None:
    """Beyond the bound nobody new is heard; who is heard already may say otherwise."""
    asked: Asked[str] = Asked(bound=2)
    assert [asked.put("c", source, "ann", True) for source in (1, 2, 3)] == [True, True, False]
    assert asked.put("c", 2, "ann", False)
    assert asked.take("c") == [("ann", True), ("ann", False)]
    assert asked.put("c", 3, "ann", True)
    assert (len(asked), asked.take("d")) == (1, [])


def test_what_waits_is_bounded() -> None:
    """A new key beyond the bound is refused; one that waits is still merged."""
    waiting: Paced[str, int] = Paced(bound=2)
    assert [waiting.put(key, 1, paced=True) for key in "aabc"] == [True, True, True, False]
    assert waiting.take(0.0, 1) == [("a", 1)]
    assert waiting.put("c", 1, paced=True)


def test_merging() -> None:
    """The highest of each mark; whose device is not known any more where there were two; ranges hold both."""
    assert merged((3, 1, 7), (2, 2, 7)) == (3, 2, 7)
    assert merged((3, 1, 7), (2, 2, 8)) == (3, 2, -1)
    assert widened(None, (2, 3)) == (2, 3)
    assert widened((1, 2), (4, 5)) == (1, 5)
