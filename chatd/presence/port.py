"""The board's port: where nodes leave word of who is there. It may be emptied or lost at any moment.

Implementation: ``chatd.adapters.redis.presence``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """What this node says of a user: status 0 offline, 1 away, 2 online; ``seen`` in ms, 0 for nothing."""

    user: str
    status: int
    seen: int


class Lease(NamedTuple):
    """What some node says; ``left``: for how many more seconds it holds."""

    node: str
    status: int
    seen: int
    left: float


OnHeard = Callable[[str, Lease], None]
"""Called with (user, lease) when another node says something of a user whom this one listens for; may not raise."""

OnLost = Callable[[], None]
"""Called when the board is there again after it was away, or was found empty: what was on it may be missing."""


class BoardDown(Exception):
    """The board cannot be had now; what was asked for may or may not be done."""


class Board(Protocol):
    """``up``: whether it can be had, and everything that is listened for is confirmed.

    A call is given up, as BoardDown, when an answer has not come in a second: presence waits for some of them.
    """

    @property
    def up(self) -> bool: ...

    async def put(self, entries: Sequence[Entry], *, tell: bool) -> None:
        """Make or renew this node's leases, and with ``tell`` tell who listens. Raises BoardDown.

        One that says offline replaces the one before, and is read as long.
        """

    async def read(self, users: Sequence[str]) -> list[list[Lease]]:
        """The leases of each user, of all other nodes. Raises BoardDown."""

    async def listen(self, users: Collection[str]) -> None:
        """Return when ``OnHeard`` will be called for them, or as soon as an answer has not come in time: what is read after
        that was listened for. At once while the board is away."""

    def unlisten(self, users: Collection[str]) -> None:
        """Never waits."""

    async def run(self) -> None:
        """Hold the link. Ends only when cancelled."""
