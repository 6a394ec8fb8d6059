"""Who may change what in a conversation: pure judgements, made inside the store's transaction (I8).

Each takes facts and returns the refusal, or None. "Not yours" and "not there" are one answer, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from chatd_protocol.codes import ErrorCode

from chatd.conversations.operations import Refused, Role

NOT_FOUND = Refused(ErrorCode.NOT_FOUND, "no such conversation")
NO_SUCH_EVENT = Refused(ErrorCode.NOT_FOUND, "reply_to: no such message in this conversation")
REPLACED = Refused(ErrorCode.OUT_OF_PLACE, "a newer session of this device has begun")
SIGNED_OUT = Refused(ErrorCode.OUT_OF_PLACE, "this device was signed out")
TOKEN_REVOKED = Refused(ErrorCode.UNAUTHENTICATED, "the token was taken back")
NO_SUCH_DEVICE = Refused(ErrorCode.NOT_FOUND, "device: you have no such device")
PASSWORD_CHANGED = Refused(ErrorCode.UNAUTHENTICATED, "name or password is wrong")
NO_SUCH_MESSAGE = Refused(ErrorCode.NOT_FOUND, "seq: no such message in this conversation")
MAX_REACTION_KINDS = 50
MAX_PINS = 50
MAX_EDITS = 200
"""Of one message. All of them lose their bodies in one transaction when it is deleted, which has to stay short."""

_STEWARDS = ("owner", "admin")


class Target(NamedTuple):
    """A message that somebody would change: of theirs or not, and how long it has been there in ms."""

    own: bool
    age_ms: int


def no_such_user(name: str) -> Refused:
    return Refused(ErrorCode.NOT_FOUND, f"no such user: {name}")


def may_send(role: Role | None, *, blocked: bool) -> Refused | None:
    """A member may write; in a 1:1 conversation only while the other does not block them, which they are not told."""
    if role is None:
        return NOT_FOUND
    return Refused(ErrorCode.FORBIDDEN, "you may not write here") if blocked else None


def may_edit(
    role: Role | None, target: Target | None, *, blocked: bool, window_ms: int, edits: int
) -> Refused | None:
    """Only what one said oneself, within the window. ``target``: None unless it is a message that one may see and that
    is not deleted; ``edits``: how many it has. A blocked user reaches nobody by edits either."""
    if (refusal := may_send(role, blocked=blocked)) is not None:
        return refusal
    if target is None:
        return NO_SUCH_MESSAGE
    if not target.own:
        return Refused(ErrorCode.FORBIDDEN, "only who wrote a message may edit it")
    if edits >= MAX_EDITS:
        return Refused(ErrorCode.FORBIDDEN, f"a message may be edited {MAX_EDITS} times")
    return _in_time(target, window_ms)


def may_delete(role: Role | None, kind: str, target: Target | None, *, window_ms: int) -> Refused | None:
    """One's own within the window; a group's stewards any, at any time. A blocked user, too: it says nothing."""
    if role is None:
        return NOT_FOUND
    if target is None:
        return NO_SUCH_MESSAGE
    if kind == "group" and role in _STEWARDS:
        return None
    if not target.own:
        return Refused(ErrorCode.FORBIDDEN, "only who wrote a message may delete it, and a group's owner and admins")
    return _in_time(target, window_ms)


def _in_time(target: Target, window_ms: int) -> Refused | None:
    if target.age_ms < window_ms:
        return None
    return Refused(ErrorCode.TOO_LATE, "the time for edits and deletes is over")


def may_react(
    role: Role | None, target: Target | None, *, blocked: bool, mine: bool, kinds: int, remove: bool
) -> Refused | None:
    """``mine``: whether one has this reaction there; ``kinds``: how many kinds there would be with it."""
    if (refusal := may_send(role, blocked=blocked)) is not None:
        return refusal
    if target is None:
        return NO_SUCH_MESSAGE
    if remove:
        return None if mine else Refused(ErrorCode.NOT_FOUND, "emoji: no such reaction of yours")
    if kinds <= MAX_REACTION_KINDS:
        return None
    return Refused(ErrorCode.TOO_MANY_REACTIONS, f"emoji: at most {MAX_REACTION_KINDS} kinds on a message")


def may_pin(role: Role | None, kind: str, target: Target | None, *, blocked: bool, pins: int) -> Refused | None:
    """A group's stewards; in a 1:1 conversation both. ``pins``: how many there would be."""
    if (refusal := may_send(role, blocked=blocked)) is not None:
        return refusal
    if kind == "group" and (refusal := may_steward(role, kind, "pin")) is not None:
        return refusal
    if target is None:
        return NO_SUCH_MESSAGE
    return None if pins <= MAX_PINS else Refused(ErrorCode.TOO_MANY_PINS, f"at most {MAX_PINS} in a conversation")


def may_steward(role: Role | None, kind: str, what: str) -> Refused | None:
    """Add, remove and rename are the owner's and the admins', in groups only."""
    if role is None:
        return NOT_FOUND
    if kind != "group":
        return Refused(ErrorCode.FORBIDDEN, f"a 1:1 conversation has no owner, and nobody may {what}")
    return None if role in _STEWARDS else Refused(ErrorCode.FORBIDDEN, f"only the owner and admins may {what}")


def may_remove(role: Role | None, kind: str, me: str, targets: Mapping[str, Role | None]) -> Refused | None:
    """Anyone may leave; stewards remove members, and only the owner removes admins. ``targets``: role by name."""
    if role is None:
        return NOT_FOUND
    if kind != "group":
        return Refused(ErrorCode.FORBIDDEN, "a 1:1 conversation has nobody to remove")
    if set(targets) == {me}:
        return None
    if (refusal := may_steward(role, kind, "remove")) is not None:
        return refusal
    for name, target in targets.items():
        if target is None:
            return Refused(ErrorCode.NOT_FOUND, f"not a member: {name}")
        if name != me and target in _STEWARDS and role != "owner":
            return Refused(ErrorCode.FORBIDDEN, f"only the owner may remove an admin: {name}")
    return None


def may_set_role(role: Role | None, kind: str, me: str, name: str, target: Role | None) -> Refused | None:
    """Roles are the owner's to give; who gives the ownership away becomes an admin."""
    if role is None:
        return NOT_FOUND
    if kind != "group":
        return Refused(ErrorCode.FORBIDDEN, "a 1:1 conversation has no roles")
    if role != "owner":
        return Refused(ErrorCode.FORBIDDEN, "only the owner may change roles")
    if target is None:
        return Refused(ErrorCode.NOT_FOUND, f"not a member: {name}")
    if name == me:
        return Refused(ErrorCode.FORBIDDEN, "to give up the ownership, make another member the owner")
    return None


def may_hold(members: int, bound: int) -> Refused | None:
    """A group's size."""
    if members <= bound:
        return None
    return Refused(ErrorCode.TOO_MANY_MEMBERS, f"members: at most {bound} in a group")


def heir(members: Mapping[int, tuple[Role, int]]) -> int | None:
    """Who becomes the owner when the owner leaves: the longest-standing admin, else member. (role, joined) by user."""
    ranked = sorted(members.items(), key=lambda item: (item[1][0] != "admin", item[1][1], item[0]))
    return ranked[0][0] if ranked else None
