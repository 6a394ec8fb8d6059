"""The pace of logins: so many steps in a turn of the loop, those that have begun before new ones."""

from __future__ import annotations

import trio
import trio.testing

from chatd.sessions.pace import STEPS_A_TURN, Pace


class Turns(trio.abc.Instrument):
    """Counts the turns of the loop."""

    number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


class Crowd:
    """Some who wait for their step; in which turn each had it, and in which order."""

    def __init__(self, pace: Pace, nursery: trio.Nursery) -> None:
        self.pace = pace
        self.nursery = nursery
        self.turns = Turns()
        self.order: list[str] = []
        self.when: list[int] = []

    async def new(self, name: str) -> None:
        await self.pace.begin()
        self._came(name)

    async def going_on(self, name: str) -> None:
        await self.pace.step()
        self._came(name)

    def _came(self, name: str) -> None:
        self.order.append(name)
        self.when.append(self.turns.number)

    async def all_through(self) -> None:
        self.nursery.start_soon(self.pace.run)
        await trio.testing.wait_all_tasks_blocked()


async def test_so_many_a_turn(nursery: trio.Nursery) -> None:
    """However many are due at one moment, no turn has more steps than it may, and none is idle meanwhile."""
    crowd = Crowd(Pace(), nursery)
    trio.lowlevel.add_instrument(crowd.turns)
    for number in range(5 * STEPS_A_TURN):
        nursery.start_soon(crowd.new if number % 2 else crowd.going_on, str(number))
    await trio.testing.wait_all_tasks_blocked()
    assert len(crowd.pace) == 5 * STEPS_A_TURN
    await crowd.all_through()
    assert [crowd.when.count(turn) for turn in sorted(set(crowd.when))] == [STEPS_A_TURN] * 5
    assert max(crowd.when) - min(crowd.when) == 4


async def test_who_has_begun_goes_first(nursery: trio.Nursery) -> None:
    """And each in the order of coming."""
    crowd = Crowd(Pace(), nursery)
    for number in range(2 * STEPS_A_TURN):
        nursery.start_soon(crowd.new, f"new {number}")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(crowd.going_on, f"begun {number}")
        await trio.testing.wait_all_tasks_blocked()
    await crowd.all_through()
    turn = STEPS_A_TURN  # within one, Trio draws the order by lot
    parts = [set(crowd.order[at : at + turn]) for at in range(0, 4 * turn, turn)]
    assert parts == [
        {f"{kind} {number}" for number in range(at, at + turn)} for kind in ("begun", "new") for at in (0, turn)
    ]


async def test_who_gives_up_takes_nobodys_step(nursery: trio.Nursery) -> None:
    """A connection that is lost while it waits is not waited for."""
    crowd = Crowd(Pace(), nursery)
    with trio.CancelScope() as scope:
        nursery.start_soon(crowd.new, "stays")
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await crowd.new("goes")
    await crowd.all_through()
    assert crowd.order == ["stays"]
    assert len(crowd.pace) == 0
