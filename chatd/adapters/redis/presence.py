"""The presence board on Redis or Valkey: one hash per user with a lease for each node, and a channel of the same name.

A hash and not a key per lease, so that who is where is one read; a lease's end stands in it by the server's own clock, which
all nodes share, and the hash itself expires with its last lease. ``offline`` is left there as long, for a node that did not
hear it said: a lease that is only missing might not be back yet. Each batch is one small script: leases are made, told
and judged at one moment. A random key, the *board*, says whether everything was lost since: FLUSHALL, or another server.

Owns one link, for commands and subscriptions: an answer to a read then stands in order among what is told. Waits for the
server, CALL_SECONDS for each command. ``run`` ends only when cancelled.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import structlog
import trio

from chatd.adapters.redis.address import parse_address
from chatd.adapters.redis.link import CommandRefused, Link, LinkDown, Reply
from chatd.presence.port import BoardDown, Entry, Lease, OnHeard, OnLost

BATCH = 100
"""Users in one script: half a millisecond of the server's only thread."""
CALL_SECONDS = 1.0
"""More than the limits' link has: nobody's message waits for it, and a node that is late for a moment is no reason to say
everything again."""
MAX_LEASES = 100
"""Of one user in one answer; more nodes than that are not looked at."""
_BOARD = b"chatd:presence"
_PREFIX = b"chatd:p:"

_PUT = """
local time = redis.call('TIME')
local ends = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
for i = 2, #KEYS do
  local said = ARGV[i + 3]
  redis.call('HSET', KEYS[i], ARGV[1], ends .. ':' .. said)
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
  if ARGV[4] == '1' then
    redis.call('PUBLISH', KEYS[i], ARGV[1] .. ':' .. ARGV[2] .. ':' .. said)
  end
end
redis.call('SET', KEYS[1], ARGV[3], 'NX')
return redis.call('GET', KEYS[1])
"""
_READ = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {redis.call('GET', KEYS[1]) or ''}
for i = 2, #KEYS do
  local found, all = {}, redis.call('HGETALL', KEYS[i])
  for j = 1, #all, 2 do
    local ends, said = string.match(all[j + 1], '^(%d+):(.*)$')
    if ends and tonumber(ends) > now then
      found[#found + 1] = all[j] .. ':' .. string.format('%.0f', ends - now) .. ':' .. said
    else
      redis.call('HDEL', KEYS[i], all[j])
    end
  end
  answer[i] = found
end
return answer
"""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class RedisBoard:
    """Implements ``chatd.presence.port.Board``."""

    def __init__(
        self, url: str, node: str, on_heard: OnHeard, on_lost: OnLost, *, expiry: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """``node``: this one's name, hexadecimal. ``expiry``: of a lease, in seconds. Raises BadAddress."""
        self._node = node
        self._expiry_ms = int(expiry * 1000)
        self._on_heard = on_heard
        self._on_lost = on_lost
        self._users: set[str] = set()
        self._listening = False
        self._board = b""
        self.forged = 0
        self._link = Link(
            parse_address(url), name="chatd-presence", jitter=jitter, on_push=self._take, on_up=self._listen_again,
            on_down=self._lose,
        )  # fmt: skip

    @property
    def up(self) -> bool:
        """See the port."""
        return self._link.up and self._listening

    async def run(self) -> None:
        """See the port."""
        await self._link.run()

    # --- leases ---------------------------------------------------------------------------------

    async def put(self, entries: Sequence[Entry], *, tell: bool) -> None:
        """See the port."""
        fixed = (self._node, self._expiry_ms, secrets.token_hex(8), int(tell))
        for batch in _batches(entries):
            keys = [_key(entry.user) for entry in batch]
            said = [f"{entry.status}:{entry.seen}" for entry in batch]
            self._see_board(await self._call("EVAL", _PUT, len(keys) + 1, _BOARD, *keys, *fixed, *said))

    async def read(self, users: Sequence[str]) -> list[list[Lease]]:
        """See the port."""
        found: list[list[Lease]] = []
        for batch in _batches(users):
            keys = [_key(user) for user in batch]
            answer = await self._call("EVAL", _READ, len(keys) + 1, _BOARD, *keys)
            if not isinstance(answer, list) or len(answer) != len(batch) + 1:
                raise BoardDown("not an answer")
            self._see_board(answer[0])
            found += [[lease for lease in _leases(said) if lease.node != self._node] for said in answer[1:]]
        return found

    async def _call(self, *command: bytes | str | int) -> Reply:
        try:
            with trio.fail_after(CALL_SECONDS):
                return await self._link.call(*command)
        except (LinkDown, CommandRefused, trio.TooSlowError) as fault:
            raise BoardDown(str(fault) or "no answer in time") from fault

    def _see_board(self, board: Reply) -> None:
        before, self._board = self._board, board if isinstance(board, bytes) else b""
        if before and self._board != before:
            log.warning("presence.board_lost")
            self._on_lost()

    # --- what is told ---------------------------------------------------------------------------

    async def listen(self, users: Collection[str]) -> None:
        """See the port."""
        wanted = [user for user in users if user not in self._users]
        self._users.update(wanted)
        *others, last = [*_batches(wanted)] or [()]
        if not last or not self._link.up:
            await trio.lowlevel.checkpoint()
            return  # subscribed when it is back
        for batch in others:  # sent before anything is waited for, which may be given up
            if not self._link.post_confirmed(b"SUBSCRIBE", *map(_key, batch)):
                self._link.drop("the outbox is full")
        with trio.move_on_after(CALL_SECONDS):
            try:
                await self._link.confirm(b"SUBSCRIBE", *map(_key, last))
            except LinkDown:
                return
            except CommandRefused as refused:
                self._link.drop(f"SUBSCRIBE {refused}")

    def unlisten(self, users: Collection[str]) -> None:
        """See the port."""
        unwanted = sorted(self._users.intersection(users))
        self._users.difference_update(unwanted)
        for batch in _batches(unwanted):
            if self._link.up and not self._link.post_confirmed(b"UNSUBSCRIBE", *map(_key, batch)):
                self._link.drop("the outbox is full")

    async def _listen_again(self) -> None:
        for batch in _batches(sorted(self._users)):
            if wanted := [user for user in batch if user in self._users]:
                await self._link.confirm(b"SUBSCRIBE", *map(_key, wanted))
        self._listening = True
        self._on_lost()

    def _lose(self) -> None:
        self._listening = False

    def _take(self, push: list[Reply]) -> None:
        if len(push) != 3 or push[0] != b"message" or not isinstance(push[1], bytes):
            return
        lease = _lease(push[2])
        if lease is None:
            self.forged += 1
        elif lease.node != self._node:
            self._on_heard(push[1].removeprefix(_PREFIX).decode("ascii", "replace"), lease)


def _key(user: str) -> bytes:
    return _PREFIX + user.encode()


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))


def _leases(said: Reply) -> list[Lease]:
    found = [_lease(one) for one in said[:MAX_LEASES]] if isinstance(said, list) else []
    return [lease for lease in found if lease is not None]


def _lease(said: Reply) -> Lease | None:
    """``node:left:status:seen``, or None for what is not ours."""
    parts = said.split(b":") if isinstance(said, bytes) and len(said) < 100 else []
    if len(parts) != 4 or not all(part.isdigit() for part in parts[1:]) or parts[2] not in (b"0", b"1", b"2"):
        return None
    seen = int(parts[3])
    return Lease(parts[0].decode("ascii", "replace"), int(parts[2]), seen, int(parts[1]) / 1000) if seen < 2**53 else None
