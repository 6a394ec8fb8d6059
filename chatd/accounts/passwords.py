"""Passwords: argon2id, off the event loop, a few at a time.

Owns the hashing threads' limiter and the count of those who wait for it. A hash costs about 30 ms and 19 MiB, so the
work at once is bounded (``threads``) and so is the queue (``max_waiting``); beyond it the caller is told to come back.
"""

from __future__ import annotations

import secrets
import unicodedata
from typing import Protocol

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_CHARS = 8
MAX_CHARS = 256
"""NIST SP 800-63B asks for at least 64; the bound keeps hashing's input small."""


class Overloaded(Exception):
    """Too many sign-ins wait for a hashing thread; nothing was done."""


class BadPassword(ValueError):
    """Not acceptable as a new password; the text names the field and the limit, never the password."""


class HashCost(Protocol):
    """What a hash costs, as the configuration has it (``auth.argon2_...``)."""

    @property
    def argon2_time_cost(self) -> int: ...
    @property
    def argon2_memory_kib(self) -> int: ...
    @property
    def argon2_parallelism(self) -> int: ...


def hasher_of(cost: HashCost) -> PasswordHasher:
    """An argon2id hasher of the configured cost.

    The configuration's default is OWASP's for servers (19 MiB, 2 passes, 1 lane), not the library's (RFC 9106: 64 MiB,
    4 lanes): that takes four times the memory and CPU of a node whose other work is messages.
    """
    return PasswordHasher(
        time_cost=cost.argon2_time_cost, memory_cost=cost.argon2_memory_kib, parallelism=cost.argon2_parallelism
    )


class Passwords:
    """Hashes and verifies. Stored hashes carry their own parameters, so older ones keep working after a change, and are
    replaced at the next sign-in."""

    def __init__(self, *, hasher: PasswordHasher, threads: int = 1, max_waiting: int = 256) -> None:
        self._hasher = hasher
        self._limiter = trio.CapacityLimiter(threads)
        self._places = threads + max_waiting
        self._taken = 0
        self._nobodys_hash = self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """The encoded argon2id hash of a new password.

        Raises BadPassword and Overloaded. Cancelling is safe; it waits for a hash already begun (30 ms).
        """
        secret = prepared(password)
        self._take_place()
        try:
            return await trio.to_thread.run_sync(self._hasher.hash, secret, limiter=self._limiter)
        finally:
            self._taken -= 1

    async def verify(self, password_hash: str, password: str) -> bool:
        """Whether ``password`` is the one that was hashed; False, at the same cost, for an empty ``password_hash``.

        The empty hash stands for a user who is not there or has no password: the time of the answer must not tell
        which names exist. Raises Overloaded. Cancelling is safe.
        """
        try:
            secret = prepared(password)
        except BadPassword:
            # No account has such a password, whoever asks: answering early tells nothing about the name.
            return False
        self._take_place()
        try:
            return await trio.to_thread.run_sync(self._matches, password_hash, secret, limiter=self._limiter)
        finally:
            self._taken -= 1

    def outdated(self, password_hash: str) -> bool:
        """Whether a hash that ``verify`` took was made with other parameters than new ones are. A few us."""
        return self._hasher.check_needs_rehash(password_hash)

    def _take_place(self) -> None:
        if self._taken >= self._places:
            raise Overloaded
        self._taken += 1

    def _matches(self, password_hash: str, secret: bytes) -> bool:
        try:
            self._hasher.verify(password_hash or self._nobodys_hash, secret)
        except (VerificationError, InvalidHashError):
            return False
        return bool(password_hash)


def prepared(password: str) -> bytes:
    """What is hashed: the UTF-8 of the NFC form, as RFC 8265 (OpaqueString) has it, so that the same password typed
    on two systems is the same. Raises BadPassword."""
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        raise BadPassword(f"password: {MIN_CHARS}-{MAX_CHARS} characters")
    try:
        return unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise BadPassword("password: must be valid Unicode") from None
