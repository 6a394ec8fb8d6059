"""Plain mode: lines in, JSON lines out, for pipes and scripts.

Two tasks around the client library: one reads lines and does what they say, in their order; one writes facts. Standard
input is read no faster than messages are stored (MAX_WAITING), and facts are written no faster than somebody reads
them; both wait in threads, for pipes and files alike. Ends at the end of the input, once everything is stored or
TIMEOUT is over, or with ``follow`` when the server ends the session or the reader goes away. What was not stored by
then is in the outbox, and goes out with the next start; but what this run queued and could not send because it was not
admitted is taken back, for whoever runs the script again gives it again.
"""

from __future__ import annotations

import os
import sys
from contextlib import aclosing
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import trio
from chatd_client import (
    ClientError,
    Disconnected,
    MessageRejected,
    OutboxFull,
    Refused,
    SendRefused,
    SessionEnded,
    StateInUse,
    Stored,
    open_client,
    sign_in,
)
from chatd_protocol import codes
from chatd_protocol.codec import Malformed

from chatd_terminal.place import MAX_TERMINALS, own_devices
from chatd_terminal.plain_lines import (
    MAX_LINE_BYTES,
    Order,
    error_line,
    fact_line,
    json_line,
    read_line,
    wire_keys,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from chatd_client import Client, Queued

MAX_WAITING = 512
TIMEOUT_S = 60.0
READ_BYTES = 64 * 1024


class Exit(IntEnum):
    """The exit status. 2 is a command line that cannot be used, 130 an interrupt."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    NOT_ADMITTED = 3
    ENDED = 4
    REFUSED = 5
    NOT_STORED = 6
    NO_READER = 141


class Plain:
    """One run. ``status`` is what it comes to."""

    def __init__(self, client: Client, to: str | None, timeout_s: float) -> None:
        self._client, self._to, self._timeout_s = client, to, timeout_s
        self._lines: dict[str, int] = {item.key: 0 for item in client.pending()}
        self._settled = trio.Event()
        self._output = trio.Lock()
        self.status = Exit.DONE

    async def run(self, *, follow: bool) -> Exit:
        """Until the end; see the module's docstring."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_facts, nursery.cancel_scope)
            quits = await self._do_lines()
            with trio.move_on_after(self._timeout_s):
                while self._lines:
                    await self._settled.wait()
            if self._lines:
                self.status = Exit.NOT_STORED
                await self._say(json_line({"t": "waiting", "messages": len(self._lines)}))
            if quits or not follow:
                nursery.cancel_scope.cancel()
        return self.status

    # --- out ----------------------------------------------------------------------------------------

    async def _write_facts(self, all_of_it: trio.CancelScope) -> None:
        try:
            async for fact in self._client.events():
                line = None
                if isinstance(fact, Stored | SendRefused):
                    line = self._lines.get(fact.item.key) or None
                    self._failed(isinstance(fact, SendRefused))
                await self._say(fact_line(fact, line) or "")
                if isinstance(fact, Stored | SendRefused):
                    self._lines.pop(fact.item.key, None)
                    self._settle()
        except SessionEnded as ended:
            self.status = Exit.NOT_ADMITTED if _is_refusal(ended) else Exit.ENDED
            if self.status is Exit.NOT_ADMITTED:
                await self._take_back()
            await self._say(json_line({"t": "end", "code": ended.code, "reason": ended.reason}))
            all_of_it.cancel()

    async def _take_back(self) -> None:
        """What this run queued goes out of the outbox, unless it was sent; what earlier runs queued stays."""
        for item in self._client.pending():
            number = self._lines.get(item.key)
            if number and self._client.withdraw(item):
                await self._say(error_line(number, "not_admitted", "not sent, and not kept"))
        if kept := len(self._client.pending()):
            await self._say(json_line({"t": "waiting", "messages": kept}))

    def _settle(self) -> None:
        self._settled.set()
        self._settled = trio.Event()

    def _failed(self, failed: bool = True) -> None:
        if failed and self.status is Exit.DONE:
            self.status = Exit.REFUSED

    async def _say(self, line: str) -> None:
        data = memoryview(line.encode())
        async with self._output:
            while data:
                written = await trio.to_thread.run_sync(os.write, 1, data, abandon_on_cancel=True)
                data = data[written:]

    # --- in -----------------------------------------------------------------------------------------

    async def _do_lines(self) -> bool:
        """Until the end of the input (False), or ``/quit`` (True)."""
        number = 0
        async with aclosing(_lines_of_input()) as lines:
            async for line in lines:
                number += 1
                while len(self._lines) >= MAX_WAITING:
                    await self._settled.wait()
                if line is None:
                    await self._refuse(number, "too_large", f"a line of more than {MAX_LINE_BYTES} bytes")
                elif line.strip() == b"/quit":
                    return True
                elif line:  # an empty line is no message
                    await self._do_line(line, number)
        return False

    async def _do_line(self, line: bytes, number: int) -> None:
        try:
            await self._do(read_line(line.decode()), number)
        except UnicodeDecodeError:
            await self._refuse(number, "bad_line", "this is not UTF-8")
        except SessionEnded as ended:
            await self._refuse(number, "not_admitted" if _is_refusal(ended) else "ended", str(ended))
            await trio.sleep_forever()  # the other task says why, and ends this one
        except Refused as refused:
            await self._refuse(number, refused.code, refused.message)
        except MessageRejected as rejected:
            await self._refuse(number, "bad_message", str(rejected))
        except (ValueError, Malformed) as error:
            await self._refuse(number, "bad_line", str(error))
        except Disconnected as lost:
            await self._refuse(number, "disconnected", str(lost))

    async def _refuse(self, number: int, code: str, message: str) -> None:
        self._failed()
        await self._say(error_line(number, code, message))

    async def _do(self, order: Order, number: int) -> None:
        if order.name == "to":
            self._to = order.text
            await self._say(json_line({"t": "ok"}, number))
        elif (item := await self._posted(order)) is not None:
            self._lines[item.key] = number
        else:
            with trio.move_on_after(self._timeout_s) as waited:
                await self._say(json_line(await self._ask(order), number))
            if waited.cancelled_caught:
                await self._refuse(number, "timeout", f"no answer within {self._timeout_s:.0f} s")

    async def _posted(self, order: Order) -> Queued | None:
        """``_post``, as soon as there is room. No task runs between the return and the caller's next step."""
        while True:
            try:
                return self._post(order)
            except OutboxFull:
                await self._settled.wait()

    def _post(self, order: Order) -> Queued | None:
        """What goes through the outbox; None for what does not."""
        client, seq = self._client, order.seq
        match order.name:
            case "send":
                return client.post(self._target(), order.text)
            case "reply":
                return client.post(self._target(), order.text, reply_to=seq)
            case "edit":
                return client.post_edit(self._conv(), seq, order.text)
            case "delete":
                return client.post_delete(self._conv(), seq)
            case "react" | "unreact":
                return client.post_reaction(self._conv(), seq, order.text, remove=order.name == "unreact")
        return None

    async def _ask(self, order: Order) -> dict[str, Any]:
        match order.name:
            case "read":
                self._client.read(self._conv(), order.seq)
                return {"t": "ok"}
            case "history":
                page = await self._client.history(self._conv(), before=order.seq or None)
                events = [wire_keys(event) for event in page.events]
                return {"t": "ok", "conv": page.conv, "events": events, "last": page.last, "more": page.more}
            case "search":
                hits = await self._client.search(order.text)
                found = [wire_keys(hit.event) | ({"edited": hit.edited} if hit.edited else {}) for hit in hits.messages]
                return {"t": "ok", "events": found}
            case "members":
                members = await self._client.members(self._conv())
                return {"t": "ok", "members": [{"user": one.user, "role": one.role} for one in members]}
        return {"t": "ok", "items": [item async for item in self._conversations()]}

    async def _conversations(self) -> AsyncIterator[dict[str, Any]]:
        cursor = None
        while True:
            page = await self._client.conversations(cursor=cursor)
            for one in page.items:
                yield {
                    "conv": one.conv,
                    "kind": one.kind,
                    "title": one.title,
                    "members": list(one.members),
                    "last": one.last,
                    "unread": one.unread,
                }
            cursor = page.cursor
            if cursor is None:
                return

    def _target(self) -> str:
        if self._to is None:
            raise ValueError("to whom? --to @NAME or --to CONV, or a line /to @NAME")
        return self._to

    def _conv(self) -> str:
        target = self._target()
        if target.startswith("@"):
            raise ValueError("this needs a conversation's id, as it stands in `conv` of events and acks: /to CONV")
        return target


def _is_refusal(ended: SessionEnded) -> bool:
    return ended.code == codes.BAD_TOKEN.code


async def _lines_of_input() -> AsyncGenerator[bytes | None, None]:
    """Lines of standard input; None for one that is too long."""
    rest, skipping = b"", False
    while data := await trio.to_thread.run_sync(os.read, 0, READ_BYTES, abandon_on_cancel=True):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield None if skipping or len(line) > MAX_LINE_BYTES else line.removesuffix(b"\r")
            skipping = False
        if len(rest) > MAX_LINE_BYTES:
            rest, skipping = b"", True
    if rest or skipping:
        yield None if skipping else rest


async def chat_plainly(
    url: str, user: str, password: str, directory: Path, *, to: str | None, follow: bool, timeout_s: float
) -> Exit:
    """Open a client and run. Raises ClientError (StateInUse), OSError, ValueError."""

    async def token() -> str:
        return (await sign_in(url, user, password)).token

    for name in own_devices(directory, "plain"):
        try:
            async with open_client(
                url, token_source=token, device=name, state_dir=directory, agent="chatd-plain"
            ) as client:
                return await Plain(client, to, timeout_s).run(follow=follow)
        except StateInUse:
            continue
    raise StateInUse(f"{MAX_TERMINALS} plain clients of {user} run already")


def run_plainly(
    url: str,
    user: str,
    password: str,
    directory: Path,
    *,
    to: str | None = None,
    follow: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """Run until the end, and return the exit status; problems are told on standard error."""
    if to is not None:
        read_line(f"/to {to}")
    try:
        return trio.run(lambda: chat_plainly(url, user, password, directory, to=to, follow=follow, timeout_s=timeout_s))
    except BaseException as error:  # noqa: BLE001 - told apart below; what is not known there is raised again
        return _status_of(error)


def _status_of(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BrokenPipeError):
        # Or the interpreter would complain when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Exit.NO_READER
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, ClientError | OSError):
        print(f"chatd chat: {error}", file=sys.stderr)
        return Exit.FAILED
    raise error
