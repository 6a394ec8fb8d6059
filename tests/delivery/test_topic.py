"""The topic: order, repeats and holes (I4, I6), as properties over any arrival."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatd.conversations.operations import Event
from chatd.delivery.topic import HeldBytes, Topic

HELD = 8


def event(seq: int) -> Event:
    return Event("c", seq, 0, "alice", "message", b"\xa0", 1, seq)


def anchored(position: int = 0) -> Topic[str]:
    topic: Topic[str] = Topic("c", group=True, held_bound=HELD, held_bytes=HeldBytes(1 << 20))
    topic.follow("s")
    assert topic.join("s", position)
    return topic


@given(st.lists(st.integers(1, 12), max_size=60))
def test_releases_are_the_prefix_in_order_each_once(arrivals: list[int]) -> None:
    """However events arrive, what is released is 1, 2, 3 ... without hole or repeat, as far as it is there."""
    topic = anchored()
    released = [e.seq for seq in arrivals for e in topic.offer(event(seq))]
    assert released == list(range(1, len(released) + 1))
    whole = 0
    while whole + 1 in arrivals:
        whole += 1
    assert len(released) <= whole
    if len(set(arrivals)) <= HELD:  # beyond the bound an event is dropped, and repair reads it
        assert len(released) == whole
    assert topic.gapped == (max(arrivals, default=0) > len(released))


@given(st.permutations(range(1, 30)))
def test_repair_fills_what_was_not_held(arrivals: list[int]) -> None:
    """Beyond the bound events are not held; reading the log from ``head`` releases the rest (I6)."""
    topic = anchored()
    for seq in arrivals:
        list(topic.offer(event(seq)))
    while topic.gapped:
        assert topic.head is not None
        list(topic.offer(event(topic.head + 1)))
    assert topic.head == 29


def test_the_last_event_lost_is_noticed_by_its_announcement() -> None:
    """``note`` alone (the store's head) makes the topic gapped: nothing need follow the lost event."""
    topic = anchored(3)
    assert not topic.gapped
    topic.note(4)
    assert topic.gapped


def test_a_follower_behind_cannot_join() -> None:
    """I6: who has not read what the topic has released would miss it."""
    topic = anchored(5)
    topic.follow("late")
    assert not topic.join("late", 4)
    assert topic.join("late", 5)
    assert topic.live == ["s", "late"]


@given(st.permutations([6, 7, 8, 9]))
def test_a_follower_ahead_skips_what_it_has(order: list[int]) -> None:
    """I6: who has read beyond the topic gets nothing twice, also when one arrival releases a whole run."""
    topic = anchored(5)
    topic.follow("ahead")
    assert topic.join("ahead", 7)
    assert topic.gapped
    got = []
    for seq in order:
        for released in topic.offer(event(seq)):
            if "ahead" in topic.live:
                got.append(released.seq)
            topic.admit_ahead(released.seq)
    assert got == [8, 9]


def test_nobody_live_counts_but_releases_nothing() -> None:
    """While the first session still reads, events are only noted, and it may not join before it has them."""
    topic: Topic[str] = Topic("c", group=False, held_bound=HELD, held_bytes=HeldBytes(1 << 20))
    topic.follow("s")
    assert list(topic.offer(event(9))) == []
    assert not topic.join("s", 8)
    assert topic.join("s", 9)
    assert [e.seq for e in topic.offer(event(10))] == [10]


def test_who_left_cannot_join() -> None:
    """I8: a subscriber that was removed while it read the store is not made live by its own reading."""
    topic = anchored(5)
    topic.follow("gone")
    topic.leave("gone")
    assert not topic.join("gone", 5)


def test_a_repeat_is_dropped_and_not_held() -> None:
    """The bus may say a thing as often as it likes: it is not released again, and takes no room of what waits."""
    topic = anchored()
    assert [e.seq for e in topic.offer(event(1))] == [1]
    for _ in range(100):
        assert list(topic.offer(event(1))) == []
    assert not topic._held
    assert topic._held_bytes.left == 1 << 20


def test_what_waits_behind_a_hole_is_bounded() -> None:
    """I9: so many events of a topic, and so many bytes of all topics together; what is let go is read from the store."""
    topic = anchored()
    for seq in range(2, 40):
        list(topic.offer(event(seq)))
    assert topic._held is not None
    assert len(topic._held) == HELD
    room = HeldBytes(10)
    topics: list[Topic[str]] = [Topic("c", group=True, held_bound=HELD, held_bytes=room) for _ in range(2)]
    for one in topics:
        one.follow("s")
        assert one.join("s", 0)
        for seq in (2, 3, 4):
            list(one.offer(Event("c", seq, 0, "alice", "message", b"1234", 1, seq)))
    assert [len(one._held or ()) for one in topics] == [2, 0]
    assert room.left == 2
    for one in topics:
        one.leave("s")
    assert room.left == 10
