"""Up-to marks on their way to the store: merged, forward only, and bounded."""

from __future__ import annotations

from chatd.conversations.operations import Author, Mark
from chatd.sessions.marks import MAX_CONVERSATIONS, Marks

AUTHOR = Author(1, "ann", 1, 1)


def test_marks_are_merged_and_never_move_back() -> None:
    """However many come before the next flush, it is one write a conversation."""
    marks = Marks()
    for delivered, read in [(3, 0), (2, 2), (1, 1)]:
        assert marks.move("c", delivered, read)
    assert marks.take(AUTHOR) == [Mark(author=AUTHOR, conv="c", delivered=3, read=2)]
    assert not marks


def test_marks_are_of_so_many_conversations() -> None:
    """I9: a client may name what conversations it likes; those that wait are still moved."""
    marks = Marks()
    assert all(marks.move(f"c{number}", 1, 0) for number in range(MAX_CONVERSATIONS))
    assert not marks.move("one more", 1, 0)
    assert marks.move("c7", 2, 0)
    assert len(marks.take(AUTHOR)) == MAX_CONVERSATIONS
