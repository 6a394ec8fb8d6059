"""Rate limits on Redis or Valkey: one function library, on a link of its own.

Of its own, because a burst of publishes must not stand before a sign-in that waits for its answer. Waits for the server,
with a deadline of CALL_SECONDS for each call. The library is loaded when the link comes up, and again when the server says
that it does not know it (somebody flushed the functions). ``run`` ends only when cancelled.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import blake2b
from importlib.resources import files

import structlog
import trio

from chatd.adapters.redis.address import parse_address
from chatd.adapters.redis.link import Argument, CommandRefused, Link, LinkDown, Refusal, Reply
from chatd.limits.port import Counted, Grant, Report, Rule, SharedDown

CALL_SECONDS = 0.5
PREFIX = "chatd:limits:1:"
"""With a number that changes with the form of what is stored: nodes of two versions may run side by side."""

log = structlog.get_logger()


def _library() -> tuple[str, str]:
    """The text of the library, and the digest that its names end with."""
    text = (files(__package__) / "limits.lua").read_text()
    digest = blake2b(text.encode(), digest_size=6).hexdigest()
    return text.replace("@", digest), digest


class RedisLimits:
    """Implements ``chatd.limits.port.SharedLimits``."""

    def __init__(
        self, url: str, *, on_up: Callable[[], None] = lambda: None, on_down: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """``url``: redis://, rediss:// or unix://. ``on_up`` and ``on_down`` must not wait. Raises BadAddress."""
        self._text, self._digest = _library()
        self._on_up = on_up
        self._link = Link(
            parse_address(url), name="chatd-limits", jitter=jitter, on_push=_ignore_push, on_up=self._greet, on_down=on_down
        )

    @property
    def up(self) -> bool:
        """See the port."""
        return self._link.up

    async def run(self) -> None:
        """Keep the link. Ends only when cancelled."""
        await self._link.run()

    async def lease(self, node: str, number: int, reports: Sequence[Report]) -> list[Grant]:
        """See the port."""
        arguments: list[Argument] = [node, number]
        for r in reports:
            length = int(r.seconds * 1000)
            arguments += (r.rule.rate_per_s, r.rule.burst, r.balance, r.give, r.want, int(r.release), length)
        numbers = await self._call("lease", [r.key for r in reports], arguments, 4 * len(reports))
        return [
            Grant(bool(numbers[at]), numbers[at + 1], numbers[at + 2] / 1000, numbers[at + 3], report.seconds)
            for at, report in zip(range(0, len(numbers), 4), reports, strict=True)
        ]

    async def count(self, key: str, rule: Rule, n: int) -> Counted:
        """See the port."""
        allowed, *rest = await self._call("count", [key], [rule.burst, rule.window_ms, n], 4)
        return Counted(bool(allowed), *rest)

    async def peek(self, buckets: Sequence[tuple[str, Rule]]) -> list[float]:
        """See the port."""
        arguments = [number for _, rule in buckets for number in (rule.rate_per_s, rule.burst)]
        numbers = await self._call("peek", [key for key, _ in buckets], arguments, len(buckets))
        return [number / 1000 for number in numbers]

    async def _call(self, name: str, keys: list[str], arguments: Sequence[Argument], answers: int) -> list[int]:
        command = (
            "FCALL", f"chatd_{name}_{self._digest}", len(keys), *(PREFIX + key for key in keys), *arguments
        )  # fmt: skip
        try:
            with trio.fail_after(CALL_SECONDS):
                try:
                    reply = await self._link.call(*command)
                except CommandRefused as refused:
                    if refused.refusal is not Refusal.NO_SCRIPT:
                        raise
                    await self._load()
                    reply = await self._link.call(*command)
        except (LinkDown, CommandRefused, trio.TooSlowError) as fault:
            raise SharedDown(str(fault) or type(fault).__name__) from fault
        return _integers(reply, answers)

    async def _load(self) -> None:
        await self._link.call("FUNCTION", "LOAD", "REPLACE", self._text)

    async def _greet(self) -> None:
        try:
            await self._load()
        except CommandRefused as refused:
            if refused.refusal is Refusal.NOT_READY:
                raise  # it is loading its data: the link is dropped, and tried again after a pause
            # Not dropped for good reason: it would come back and be refused again, for ever. The calls will fail.
            log.warning("limits.library_refused", reason=str(refused))
            return
        self._on_up()


def _integers(reply: Reply, answers: int) -> list[int]:
    if not isinstance(reply, list) or len(reply) != answers or not all(type(number) is int for number in reply):
        raise SharedDown("an answer of another form")
    return reply


def _ignore_push(_push: list[Reply]) -> None:
    """Expect none: this link subscribes to nothing."""
