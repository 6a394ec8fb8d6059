"""Devices, the sessions on them, and what lets them in: tokens and passwords. Part of a transaction (``commit.Commit``).

A session is fenced by its device's epoch: whoever opens a device, or signs it out, makes the epoch greater. Sessions
that were signed out are told from those that were replaced by ``ended``, and stand in ``endings`` for the nodes to find.

The row of a device that was signed out stays, for its ``cseq``: without it a repeat would be stored twice, "however late" (I3).
Their number has no bound but the rate of hellos and requests, so no query of a user's devices may walk over them: each goes
by the name, or by ``devices_here``, which leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import apsw
from chatd_protocol.codes import ErrorCode

from chatd.adapters.sqlite.cache import CommitCache, Conversation, Device
from chatd.adapters.sqlite.memberships import entered
from chatd.conversations import rules
from chatd.conversations.operations import (
    Author,
    CreateAccount,
    DeviceOpened,
    Done,
    OpenDevice,
    Refused,
    Rehash,
    RollCall,
    SessionsEnded,
    SetPassword,
    SetTier,
    SignOut,
)
from chatd.store.port import ENDINGS_KEPT_MS, MAX_DEVICE_TOKENS

EXPIRED_KEPT_MS = 3600 * 1000
"""Tokens are good a little beyond their end, and clocks differ."""

NODE_KEPT_MS = 24 * 3600 * 1000


class Access:
    """Serves one batch. ``changed`` and ``moved``: the devices and conversations whose rows the batch will write at its end."""

    def __init__(
        self, connection: apsw.Connection, cache: CommitCache, now: int, changed: dict[int, Device],
        moved: dict[int, Conversation], *, max_devices: int, new_device_events: int,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._cache = cache
        self._now = now
        self._changed = changed
        self._moved = moved
        self._max_devices = max_devices
        self._new_device_events = new_device_events

    # --- opening --------------------------------------------------------------------------------

    def open(self, opening: OpenDevice) -> DeviceOpened | Refused:
        user = self._cache.user(opening.user)
        if user is None:
            if not opening.create_user:
                return Refused(ErrorCode.UNAUTHENTICATED, "no such user")
            self._connection.execute("INSERT INTO users (name, password_hash) VALUES (?, '')", (opening.user,))
            user = self._connection.last_insert_rowid()
        elif not self._is_good(user, opening):
            return rules.TOKEN_REVOKED
        row = self._cache.one("SELECT no FROM devices WHERE user = ? AND name = ?", user, opening.device)
        device = None if row is None else self._cache.device(row[0])
        if device is None or device.gone:
            if self._cache.one("SELECT count(*) FROM devices WHERE user = ? AND NOT gone", user)[0] >= self._max_devices:
                return Refused(ErrorCode.TOO_MANY_DEVICES, f"devices: at most {self._max_devices} a user")
            device = device or self._make(user, opening.device)
            self._begin_cursors(user, device.no)
        device.epoch += 1
        device.gone = False
        self._changed[device.no] = device
        self._use_token(user, device, opening)
        self._connection.execute(
            "UPDATE devices SET gone = 0, token = ?, agent = ?, used = ?, node = ? WHERE no = ?",
            (device.token, opening.agent, self._now, opening.node, device.no),
        )
        tier: str = self._cache.one("SELECT tier FROM users WHERE no = ?", user)[0]
        return DeviceOpened(Author(user, opening.user, device.no, device.epoch), device.cseq, tier)

    def _is_good(self, user: int, opening: OpenDevice) -> bool:
        """Whether the token still is: its password's, or an outside issuer's after the last change of the password."""
        generation, after = self._cache.one("SELECT generation, tokens_after FROM users WHERE no = ?", user)
        good = opening.issued >= after if opening.create_user else opening.generation == generation
        return good and self._cache.one("SELECT 1 FROM revoked WHERE token = ?", opening.token) is None

    def _make(self, user: int, name: str) -> Device:
        self._connection.execute("INSERT INTO devices (user, name) VALUES (?, ?)", (user, name))
        return self._cache.device(self._connection.last_insert_rowid())

    def _begin_cursors(self, user: int, device: int) -> None:
        rows = self._connection.execute(
            f"SELECT m.conv, m.read, min(m.first, {entered('m.conv', 'm.user', 'm.joined')}), m.left, c.head"  # noqa: S608
            " FROM members m"
            " JOIN conversations c ON c.no = m.conv WHERE m.user = ?",
            (user,),
        ).fetchall()
        self._connection.executemany(
            "INSERT INTO cursors (device, conv, seq) VALUES (?, ?, ?)",
            [
                (device, conv, max(read, self._last(conv, left, head) - self._new_device_events, first - 1))
                for conv, read, first, left, head in cast("list[tuple[int, int, int, int | None, int]]", rows)
            ],
        )

    def _last(self, conv: int, left: int | None, head: int) -> int:
        """The newest event that a user may see: of a former member the own ``left``, whatever came later."""
        if left is not None:
            return left
        moved = self._moved.get(conv)  # by this batch, and not written yet
        return head if moved is None else moved.head

    def _use_token(self, user: int, device: Device, opening: OpenDevice) -> None:
        """Remember which tokens a device used, each once. One that is used all the time costs nothing here."""
        if opening.token == device.token:
            return
        device.token = opening.token
        execute = self._connection.execute
        execute("DELETE FROM device_tokens WHERE device = ? AND expires < ?", (device.no, self._now - EXPIRED_KEPT_MS))
        if not opening.token:
            return
        execute(
            "INSERT INTO device_tokens (device, token, expires, used) VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT (device, token) DO UPDATE SET used = ?4",
            (device.no, opening.token, opening.expires, self._now),
        )
        surplus = execute(
            "SELECT token, expires FROM device_tokens WHERE device = ? AND token <> ? ORDER BY used DESC LIMIT -1 OFFSET ?",
            (device.no, opening.token, MAX_DEVICE_TOKENS - 1),
        ).fetchall()
        if surplus:
            self._end(self._take_back(user, device.no, cast("list[tuple[bytes, int]]", surplus)))

    # --- ending ---------------------------------------------------------------------------------

    def sign_out(self, asked: SignOut) -> SessionsEnded | Refused:
        user = asked.author.user_no
        row = self._cache.one("SELECT no FROM devices WHERE user = ? AND name = ? AND NOT gone", user, asked.device)
        if row is None:
            return rules.NO_SUCH_DEVICE
        device = self._cache.device(row[0])
        execute = self._connection.execute
        tokens = execute("SELECT token, expires FROM device_tokens WHERE device = ?", (device.no,)).fetchall()
        sharing = self._take_back(user, device.no, cast("list[tuple[bytes, int]]", tokens))
        ended = self._end([device, *sharing])
        execute("DELETE FROM cursors WHERE device = ?", (device.no,))
        execute("UPDATE devices SET gone = 1, token = x'', agent = '' WHERE no = ?", (device.no,))
        device.gone, device.token = True, b""
        execute("DELETE FROM revoked WHERE expires < ?", (self._now - EXPIRED_KEPT_MS,))
        return SessionsEnded(asked.author.user, ended)

    def _take_back(self, user: int, device: int, tokens: list[tuple[bytes, int]]) -> list[Device]:
        """Revoke tokens that a device used; the user's other devices whose newest session began with one of them."""
        sharing: list[Device] = []
        execute = self._connection.execute
        for token, expires in tokens:
            execute("INSERT OR IGNORE INTO revoked (token, expires) VALUES (?, ?)", (token, expires))
            execute("DELETE FROM device_tokens WHERE device = ? AND token = ?", (device, token))
            found = execute(  # by the index of those that are not gone, as many as a user may have
                "SELECT no FROM devices WHERE user = ? AND NOT gone AND token = ? AND no <> ?", (user, token, device)
            )
            sharing += [self._cache.device(cast("int", no)) for (no,) in found.fetchall()]
        return sharing

    def _end(self, devices: Iterable[Device]) -> tuple[tuple[int, int], ...]:
        ended = []
        for device in devices:
            device.epoch += 1
            device.ended = device.epoch
            self._changed[device.no] = device
            ended.append((device.no, device.epoch))
        self._connection.executemany(
            "UPDATE devices SET node = x'', ended = ?2 WHERE no = ?1", ended
        )
        self._connection.executemany(
            "INSERT INTO endings (device, epoch, at) VALUES (?, ?, ?)", [(*one, self._now) for one in ended]
        )
        self._connection.execute("DELETE FROM endings WHERE at < ?", (self._now - ENDINGS_KEPT_MS,))
        return tuple(ended)

    def set_password(self, change: SetPassword) -> SessionsEnded | Refused:
        row = self._cache.one("SELECT no, password_hash, generation FROM users WHERE name = ?", change.user)
        if row is None or change.old_hash not in (None, row[1]):
            return rules.PASSWORD_CHANGED
        user, _, generation = row
        execute = self._connection.execute
        execute(
            "UPDATE users SET password_hash = ?, generation = ?, tokens_after = max(tokens_after, ?) WHERE no = ?",
            (change.new_hash, generation + 1, self._now, user),
        )
        others = execute(
            "SELECT no FROM devices WHERE user = ? AND NOT gone AND name <> ?", (user, change.keep)
        ).fetchall()
        ended = self._end([self._cache.device(cast("int", no)) for (no,) in others])
        return SessionsEnded(change.user, ended, generation + 1)

    # --- accounts and nodes ---------------------------------------------------------------------

    def create_account(self, create: CreateAccount) -> Done | Refused:
        if self._cache.user(create.user) is not None:
            return Refused(ErrorCode.NAME_TAKEN, "name: taken")
        self._connection.execute(
            "INSERT INTO users (name, password_hash) VALUES (?, ?)", (create.user, create.password_hash)
        )
        return Done()

    def set_tier(self, change: SetTier) -> Done | Refused:
        user = self._cache.user(change.user)
        if user is None:
            return rules.no_such_user(change.user)
        self._connection.execute("UPDATE users SET tier = ? WHERE no = ?", (change.tier, user))
        return Done()

    def rehash(self, change: Rehash) -> Done:
        self._connection.execute(
            "UPDATE users SET password_hash = ?3 WHERE name = ?1 AND password_hash = ?2",
            (change.user, change.old_hash, change.new_hash),
        )
        return Done()

    def roll_call(self, call: RollCall) -> Done:
        execute = self._connection.execute
        execute(
            "INSERT INTO nodes (id, until) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET until = ?2",
            (call.node, self._now + call.lease_ms),
        )
        execute("DELETE FROM nodes WHERE until < ?", (self._now - NODE_KEPT_MS,))
        over = [(no,) for no, epoch in call.left if self._cache.device(no).epoch == epoch]
        self._connection.executemany("UPDATE devices SET node = x'' WHERE no = ?", over)
        return Done()
