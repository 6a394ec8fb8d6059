"""``outage``: users on two nodes who chat, type, mark and watch each other, while the nodes lose Redis and get it back.

This generator's share: groups of ``group_size``, numbered through, every other user on the other node; within a group 1:1
conversations, half of them across the nodes. Open loop: each message is due at a moment of its own, whatever the server
does, and its latency counts from then. One in four groups has one who is gone when the outage comes, one who leaves in it,
one who leaves the screen in it, and one who returns to it; these four only read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

from chatd_bench.connection import Connection, Loop, RunFailed
from chatd_bench.load import DRAIN_SECONDS, Load, Plan
from chatd_bench.participant import TYPING_SECONDS, Conversation, Part, Participant, Phase, Room

OPEN_SECONDS = 300.0
GROUPS_AT_ONCE = 10
ACTING_GROUPS = 4
"""One in so many has all parts."""
TYPES_FOR_SECONDS = 1.0
"""From ``typing`` to the message."""
NEVER_SPEAKS = 5
"""One in so many who begin to type sends nothing."""
HEAL_SECONDS = 10.0
"""From Redis' return until everything from before it has reached everybody: two looks of repair (``delivery.repair_seconds``)."""
SHOWN = 5
"""Faults of one kind that are told."""


class OpenLoop(Loop):
    """A loop that calls ``work`` at each moment of a plan. ``late``: by how much it was late, at most, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.late = 0.0
        self._due = float("inf")
        self._every = 1.0
        self._work: Callable[[float], None] = _nothing

    def begin(self, every: float, work: Callable[[float], None]) -> None:
        """From now on, every so many seconds."""
        self._due, self._every, self._work = time.monotonic(), every, work

    def cease(self) -> None:
        """No more."""
        self._due = float("inf")

    def turn(self, timeout_s: float) -> None:
        now = time.monotonic()
        while self._due <= now:
            self.late = max(self.late, now - self._due)
            self._work(self._due)
            self._due += self._every
        super().turn(max(0.0, min(timeout_s, self._due - now)))


def _nothing(_due: float) -> None:
    """Until the plan begins."""


class OutageLoad(Load):
    """This generator's groups. Its steps return at once, and the load goes on between them."""

    def __init__(self, plan: Plan, progress: Callable[[int], None]) -> None:
        super().__init__(plan)
        self.loop: OpenLoop = OpenLoop()
        self._room = Room(plan.parameters["body_bytes"])
        self._random = Random(plan.generator)
        self._groups: list[list[Participant]] = []
        self._conversations: list[Conversation] = []
        self._numbers: dict[Connection, int] = {}
        self._about_to_speak: deque[tuple[float, Participant, Conversation]] = deque()
        self._turns = 0
        self._pauses = True
        size = plan.parameters["group_size"]
        for group in range(plan.generator, plan.parameters["connections"] // size, plan.generators):
            self._make_group(group, range(group * size, (group + 1) * size))
        self._speakers = [member for member in self._everyone() if member.part is Part.CHATS]

    def _make_group(self, group: int, numbers: range) -> None:
        whole = Conversation(base=1)
        # Of four in a row, two are on each node: (0, 1), (2, 3) are pairs across, (0, 2), (1, 3) on one node.
        apart = (0, 0, 1, 1) if group % 2 else (0, 1, 0, 1)
        pairs: dict[tuple[int, int], Conversation] = {}
        # Which node they are on alternates, too.
        parts = _parts(len(numbers), group // ACTING_GROUPS % 2) if group % ACTING_GROUPS == 0 else {}
        members = []
        for place, number in enumerate(numbers):
            pair = pairs.setdefault((place // 4, apart[place % 4]), Conversation(base=0))
            part = parts.get(place, Part.CHATS)
            members.append(Participant(f"{self.plan.run_id}-{number}", part, whole, pair, self._room))
            self._numbers[members[-1]] = number
        self._groups.append(members)
        self._conversations += [whole, *pairs.values()]

    def _everyone(self) -> Iterator[Participant]:
        return (member for group in self._groups for member in group if member.open)

    # --- before it begins -----------------------------------------------------------------------

    def open(self) -> None:
        """Connect everybody, make the groups, and begin the 1:1 conversations."""
        self.phase("opening", time.monotonic())
        self.loop.open(self._everyone(), lambda one: self.connect(one, self._numbers[one]), OPEN_SECONDS)
        for at in range(0, len(self._groups), GROUPS_AT_ONCE):
            batch = self._groups[at : at + GROUPS_AT_ONCE]
            for owner, *others in batch:
                owner.tell({"t": "create", "id": 1, "title": "outage", "members": [other.name for other in others]})
                owner.flush()
            self.loop.turn_until(partial(_all_have, batch, 1), DRAIN_SECONDS, "groups")
            for member in [member for members in batch for member in members if member is member.dm.members[0]]:
                member.speak(member.dm, time.monotonic_ns() // 1000)
            self.loop.turn_until(partial(_all_have, batch, 2), DRAIN_SECONDS, "1:1 conversations")

    def watch(self) -> None:
        """Who returns later leaves the screen; everybody watches everybody else of the group."""
        for member in self._everyone():
            if member.part is Part.RETURNS:
                member.be_at_screen(False)
                member.status = "away"
        for member in self._everyone():
            member.watch()
            self.loop.turn(0)
        self.loop.turn_until(lambda: not self._wrongly_shown(), DRAIN_SECONDS, "who is there")

    def begin(self) -> None:
        """From now on messages are due."""
        self._room.strict = True
        self.phase("warmup", time.monotonic())
        self.loop.begin(self.plan.generators / self.plan.parameters["rate"], self._turn)

    def _turn(self, due: float) -> None:
        """One begins to type; who did so a moment ago speaks; now and then one types and says nothing."""
        self._turns += 1
        while self._about_to_speak and self._about_to_speak[0][0] <= due:
            _, member, conversation = self._about_to_speak.popleft()
            member.speak(conversation, int(due * 1e6))
        member, conversation = self._somebody()
        member.type(conversation)
        self._about_to_speak.append((due + TYPES_FOR_SECONDS, member, conversation))
        if self._pauses and self._turns % NEVER_SPEAKS == 0:
            member, conversation = self._somebody()
            member.type(conversation)

    def _somebody(self) -> tuple[Participant, Conversation]:
        member = self._random.choice(self._speakers)
        return member, member.group if self._random.random() < 0.5 else member.dm

    # --- what the parent orders -----------------------------------------------------------------

    def phase(self, name: str, since: float) -> None:
        """Messages that are due from ``since`` (monotonic) on are counted under this name."""
        if name == "before":
            self.loop.late = 0.0
        self._room.phases.append(Phase(name, int(since * 1e6)))

    def leave(self, part: str) -> None:
        """Those with this part close their connections."""
        for member in [member for member in self._everyone() if member.part is Part(part)]:
            member.open = False
            member.status = None  # until the server's time for that is over
            self.loop.drop(member)

    def gone(self, part: str) -> None:
        """From now on they must be shown as offline."""
        for group in self._groups:
            for member in group:
                if member.part is Part(part):
                    member.status = "offline"

    def act(self) -> None:
        """In the middle of the outage: who has a part in it."""
        self.leave(Part.LEAVES.value)
        for member in self._everyone():
            if member.part in (Part.GOES_AWAY, Part.RETURNS):
                member.be_at_screen(member.part is Part.RETURNS)
                member.status = "online" if member.part is Part.RETURNS else "away"

    def note_acks(self) -> None:
        """Remember every ack from now on, until ``acks``."""
        self._room.acked = []

    def acks(self) -> list[tuple[str, int]]:
        """(conv, seq) of what was acknowledged since ``note_acks``."""
        acked, self._room.acked = self._room.acked or [], None
        return acked

    def presence_right(self, since: float, seconds: float) -> float:
        """Wait until everybody is shown as they are, at most to ``since + seconds``; how long after ``since`` it came about."""
        while wrong := self._wrongly_shown():
            if time.monotonic() > since + seconds:
                raise RunFailed(f"{len(wrong)} times shown wrongly {seconds:.1f} s after the return: {'; '.join(wrong[:SHOWN])}")
            self.loop.turn(0.05)
        return max(0.0, self._room.presence_moved - since)

    def _wrongly_shown(self) -> list[str]:
        return [
            f"{member.name} ({member.part.value}) as {watcher.shown.get(member.name)}, not {member.status}, to {watcher.name}"
            for group in self._groups for watcher in group if watcher.open
            for member in group
            if member is not watcher and member.status is not None and watcher.shown.get(member.name) != member.status
        ]  # fmt: skip

    def healed(self, since: float) -> float:
        """Wait until everything from before ``since`` has come to everybody; how long after it the last of it came."""
        heads = [(conversation, conversation.head) for conversation in self._conversations]
        while behind := _behind(heads):
            if time.monotonic() > since + HEAL_SECONDS:
                late = f"{len(behind)} times not everything {HEAL_SECONDS:.0f} s after the return"
                raise RunFailed(f"{late}: {'; '.join(behind[:SHOWN])}")
            self.loop.turn(0.05)
        during = next(phase for phase in self._room.phases if phase.name == "during")
        return max(0.0, during.last_arrival / 1e6 - since)

    def speak_only(self) -> None:
        """From the return on nobody begins to type who then says nothing: who is still shown so is shown wrongly."""
        self._pauses = False

    # --- the end --------------------------------------------------------------------------------

    def rest(self) -> None:
        """Say no more; wait for the acks, the deliveries, and the end of all typing."""
        self.loop.cease()
        everyone = list(self._everyone())
        self.loop.turn_until(lambda: not any(member.sent for member in everyone), DRAIN_SECONDS, "acks of what was sent")
        last = [(conversation, conversation.head) for conversation in self._conversations]
        self.loop.turn_until(lambda: not _behind(last), HEAL_SECONDS, "deliveries of what was acked")
        self.loop.turn_until(lambda: not any(member.typists for member in everyone), TYPING_SECONDS, "the end of typing")
        self.loop.turn(0.2)  # for what may come too often

    def check(self) -> dict[str, int]:
        """Everything once, to everybody, and nothing else."""
        for conversation in self._conversations:
            messages = conversation.head - conversation.base if conversation.head else 0
            if not len(conversation.log) == conversation.acked == messages:
                raise RunFailed(
                    f"{conversation.conv}: {conversation.acked} acks, {len(conversation.log)} messages seen, up to seq "
                    f"{conversation.head}"
                )
        if behind := _behind([(conversation, conversation.head) for conversation in self._conversations]):
            raise RunFailed(f"not everything was delivered: {'; '.join(behind[:SHOWN])}")
        if wrong := self._wrongly_shown():
            raise RunFailed(f"{len(wrong)} times shown wrongly at the end: {'; '.join(wrong[:SHOWN])}")
        everyone = list(self._everyone())
        answered = lambda: all(member.answers == member.beats for member in everyone)  # noqa: E731
        self.loop.turn_until(answered, DRAIN_SECONDS, "answers to heartbeats")
        phases = self._room.phases
        return {
            "messages_acked": sum(phase.acked for phase in phases), "deliveries": sum(phase.delivered for phase in phases),
            "conversations": len(self._conversations), "presences": self._room.presences,
            "heartbeats": sum(member.beats for member in everyone), "receipts": self.loop.others,
        }  # fmt: skip

    def tallies(self) -> dict[str, Any]:
        """What happened in each phase."""
        phases = {
            phase.name: {
                "sent": phase.sent, "acked": phase.acked, "delivered": phase.delivered,
                "ack_latency": phase.ack_latency.counts, "delivery_latency": phase.delivery_latency.counts,
            } for phase in self._room.phases
        }  # fmt: skip
        return {"phases": phases, "longest_typing_s": self._room.longest_typing, "late_s": self.loop.late}


def _parts(size: int, first: int) -> dict[int, Part]:
    acting = (Part.LEFT, Part.LEAVES, Part.GOES_AWAY, Part.RETURNS)
    return {(1 + first + 2 * number) % size: part for number, part in enumerate(acting)}


def _all_have(groups: list[list[Participant]], conversations: int) -> bool:
    return all(len(member.position) == conversations for group in groups for member in group)


def _behind(heads: list[tuple[Conversation, int]]) -> list[str]:
    """Who of those that are there has not got what."""
    return [
        f"{member.name} has {conversation.conv} up to {member.position.get(conversation.conv, 0)} of {head}"
        for conversation, head in heads
        for member in conversation.members
        if member.open and member.position.get(conversation.conv, 0) < head
    ]
