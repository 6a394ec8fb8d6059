"""What the limits need of a server that all nodes share: token buckets that are lent in parts, and counters in windows.

The contract of an implementation:

* **Atomic.** Each entry of a call is carried out whole, by the server's own clock.
* **Conserving.** For a bucket with rate r and burst b: the tokens in the bucket and those of all leases on record never
  add up to more than b, but for what a lowered b left over. The bucket gains at most r a second.
* **Forgetting.** What is not used expires. Everything may be lost at any moment: a bucket not known is full, a counter
  not known is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

LEASE_SECONDS = 60.0
"""A node of which nothing was heard for so long has lost its leases. Nodes themselves stop at a tenth before it."""
REST_SECONDS = 600.0
"""The same for a lease of which nothing was spent since the last report. Every user who is there has two leases, which have
to be renewed though nobody spends anything: with a minute that cost more than their heartbeats. What it is paid with: after
a node was killed, its users who had nothing to say have a quarter of their burst on other nodes, and their whole rate, so long.
"""


class Rule(Struct, frozen=True):
    """``burst`` at once, and ``rate_per_s`` from then on; as a window: ``burst`` in any ``window_ms``."""

    rate_per_s: float
    burst: int

    @property
    def window_ms(self) -> int:
        """The time in which the rate gives the burst once."""
        return max(1, round(self.burst * 1000 / self.rate_per_s))


class Report(Struct, frozen=True, gc=False):
    """One node's word on one bucket: ``balance`` unspent tokens that it keeps, ``give`` that it hands back, ``want`` more.

    ``release``: the node is done with the bucket. ``seconds``: how long the lease is to last.
    """

    key: str
    rule: Rule
    balance: int
    give: int
    want: int
    release: bool
    seconds: float = LEASE_SECONDS


class Grant(Struct, frozen=True, gc=False):
    """The answer to a Report. ``kept``: the balance counts; otherwise its lease had expired, or a later report came first,
    and these tokens are void. ``left``: tokens in the bucket; ``holders``: nodes with a lease, this one included;
    ``seconds``: how long it lasts."""

    kept: bool
    granted: int
    left: float
    holders: int
    seconds: float = LEASE_SECONDS


class Counted(Struct, frozen=True, gc=False):
    """One attempt, counted if ``allowed``. ``remaining`` in the window, ``retry_ms`` until one more is allowed (0 if it is
    now), ``reset_ms`` until the window is empty."""

    allowed: bool
    remaining: int
    retry_ms: int
    reset_ms: int


class SharedDown(Exception):
    """The server did not answer, or not with what was asked for; whether it was carried out is unknown."""


class SharedLimits(Protocol):
    """Cancelling a call leaves its effect unknown; that errs to the safe side, as a lost answer does."""

    @property
    def up(self) -> bool:
        """Whether there is a connection."""

    async def lease(self, node: str, number: int, reports: Sequence[Report]) -> list[Grant]:
        """Carry out ``reports``, in order, one Grant each. ``number`` rises from call to call of one node: what comes
        late, on a connection that has ended, must not undo what came after it. Raises SharedDown."""

    async def count(self, key: str, rule: Rule, n: int) -> Counted:
        """Count ``n`` attempts (0: only look) in the window of ``rule``, all or none. Raises SharedDown."""

    async def peek(self, buckets: Sequence[tuple[str, Rule]]) -> list[float]:
        """The tokens of each bucket, those on record as lent included; nothing changes. Raises SharedDown."""
