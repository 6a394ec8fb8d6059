"""Who may change what in a conversation: pure judgements, made inside the store's transaction (I8).

Each takes facts and returns the refusal, or None. "Not yours" and "not there" are one answer, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping

from chatd_protocol.codes import ErrorCode

from chatd.conversations.operations import Refused, Role

NOT_FOUND = Refused(ErrorCode.NOT_FOUND, "no such conversation")
NO_SUCH_EVENT = Refused(ErrorCode.NOT_FOUND, "reply_to: no such event in this conversation")
REPLACED = Refused(ErrorCode.OUT_OF_PLACE, "cseq: a newer session of this device has begun")
_STEWARDS = ("owner", "admin")


def no_such_user(name: str) -> Refused:
    return Refused(ErrorCode.NOT_FOUND, f"no such user: {name}")


def may_send(role: Role | None, *, blocked: bool) -> Refused | None:
    """A member may write; in a 1:1 conversation only while the other does not block them, which they are not told."""
    if role is None:
        return NOT_FOUND
    return Refused(ErrorCode.FORBIDDEN, "you may not write here") if blocked else None


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
