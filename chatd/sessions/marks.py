"""A session's up-to marks on their way to the store: merged, so that a burst of ``delivered`` is one write. Pure."""

from __future__ import annotations

from chatd.conversations.operations import Author, Mark

MAX_CONVERSATIONS = 5000


class Marks:
    """Per conversation the highest ``delivered`` and ``read`` since the last flush."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: dict[str, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._marks)

    def move(self, conv: str, delivered: int, read: int) -> bool:
        """Merge one mark in. False when so many conversations wait that the caller must flush first."""
        before = self._marks.get(conv)
        if before is None:
            if len(self._marks) >= MAX_CONVERSATIONS:
                return False
            self._marks[conv] = (delivered, read)
        else:
            self._marks[conv] = (max(before[0], delivered), max(before[1], read))
        return True

    def take(self, author: Author) -> list[Mark]:
        """What is to be stored; the marks are empty afterwards."""
        marks, self._marks = self._marks, {}
        return [Mark(author=author, conv=conv, delivered=d, read=r) for conv, (d, r) in marks.items()]
