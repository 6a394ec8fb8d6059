"""The mailbox's owner: woken by what comes, and let go by a cancellation, whichever is first."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from chatd_protocol import messages

from chatd.sessions.mailbox import EVERYTHING, MAX_BEGAN, REQUESTS_BYTES, Mailbox

REQUEST = messages.Blocked(id=1)


async def test_who_waits_is_woken_once(nursery: trio.Nursery) -> None:
    """By the first of two that come in one turn; both are there."""
    mailbox, woken = Mailbox(4), trio.Event()

    async def wait() -> None:
        await mailbox.changed()
        woken.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    mailbox.put(REQUEST, 10)
    mailbox.conversation_began("c")
    await woken.wait()
    assert [mailbox.take() for _ in range(3)] == ["c", REQUEST, None]


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_cancellation_and_a_wake_in_one_turn(nursery: trio.Nursery, *, cancelled_first: bool) -> None:
    """Neither order schedules the task twice, and nothing is lost; the next wait is as any other."""
    mailbox, scope = Mailbox(4), trio.CancelScope()

    async def wait() -> None:
        with scope:
            await mailbox.changed()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    for step in (scope.cancel, mailbox.wake) if cancelled_first else (mailbox.wake, scope.cancel):
        step()
    await trio.testing.wait_all_tasks_blocked()
    mailbox.wake()
    mailbox.put(REQUEST, 1)
    assert mailbox.take() is REQUEST
    with trio.move_on_after(0) as later:
        await mailbox.changed()
    assert later.cancelled_caught


def test_it_is_full_by_number_and_by_bytes_and_has_room_again() -> None:
    """And conversations beyond MAX_BEGAN stand for all."""
    mailbox = Mailbox(2)
    mailbox.put(REQUEST, 1)
    assert not mailbox.full
    mailbox.put(REQUEST, 1)
    assert mailbox.full
    mailbox.take()
    assert not mailbox.full
    mailbox.put(REQUEST, 10**6)
    mailbox.take()
    mailbox.take()
    assert not mailbox.full
    for number in range(MAX_BEGAN + 1):
        mailbox.conversation_began(f"c{number}")
    assert [mailbox.take(), mailbox.take()] == [EVERYTHING, None]


def test_it_is_full_by_bytes() -> None:
    """However few the requests are."""
    mailbox = Mailbox(100)
    mailbox.put(REQUEST, REQUESTS_BYTES - 1)
    assert not mailbox.full
    mailbox.put(REQUEST, 1)
    assert mailbox.full
    mailbox.take()
    assert not mailbox.full
