"""Hypothesis strategies for messages: every type of both directions, within the bounds of ``messages.py``."""

from __future__ import annotations

from typing import get_args

from chatd_protocol import messages as m
from hypothesis import strategies as st
from msgspec import UNSET, Struct

naturals = st.one_of(st.integers(0, 300), st.integers(0, m.MAX_INTEGER))
positives = st.one_of(st.integers(1, 300), st.integers(1, m.MAX_INTEGER))
names = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=32)
texts = st.text(max_size=300)
convs = st.text(min_size=1, max_size=64)
bodies = st.one_of(texts, st.binary(max_size=300))
name_lists = st.lists(names, max_size=5)
users = st.lists(names, min_size=1, max_size=5)
_TURNING = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
_shown = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=_TURNING)


def shown(size: int) -> st.SearchStrategy[str]:
    """What people are shown: no control characters, and not of white space alone."""
    return st.text(_shown, min_size=1, max_size=size).filter(lambda text: bool(text.strip()))


titles, emojis, devices = shown(200), shown(32), shown(64)
roles = st.sampled_from(["owner", "admin", "member"])
flags = st.booleans()


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    """A value, or none."""
    return st.one_of(st.just(UNSET), strategy)


_kinds = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("message"), "type": names, "body": bodies}, optional={"reply_to": positives, "mentions": name_lists}
    ),
    st.fixed_dictionaries({"kind": st.just("edit"), "body": bodies, "target": positives}),
    st.fixed_dictionaries({"kind": st.just("delete"), "target": positives}),
    st.fixed_dictionaries(
        {"kind": st.just("reaction"), "target": positives, "emoji": emojis}, optional={"removed": st.just(True)}
    ),
    st.fixed_dictionaries({"kind": st.just("created"), "title": titles, "members": name_lists}),
    st.fixed_dictionaries({"kind": st.sampled_from(["joined", "left"]), "user": names}),
    st.fixed_dictionaries({"kind": st.just("role"), "user": names, "role": roles}),
    st.fixed_dictionaries({"kind": st.just("renamed"), "title": titles}),
    st.fixed_dictionaries({"kind": st.just("pinned"), "target": positives}, optional={"removed": st.just(True)}),
)

heads = st.fixed_dictionaries({"conv": convs, "seq": positives, "at": naturals, "sender": names})
"""What every event has."""
kind_keys = _kinds
"""``kind`` and the keys that belong to it, in the order of ``messages.Event``."""

entries = st.builds(
    lambda head, keys: {("from" if key == "sender" else key): value for key, value in (head | keys).items()}, heads, _kinds
)
items = st.fixed_dictionaries(
    {"conv": convs, "kind": st.sampled_from(["dm", "group"]), "title": texts, "last": naturals, "read": naturals,
     "delivered": naturals, "unread": naturals},
    optional={"members": name_lists, "event": entries, "mentions": naturals, "muted": naturals},
)  # fmt: skip
_members = st.fixed_dictionaries(
    {"user": names, "role": roles, "joined": naturals}, optional={"delivered": naturals, "read": naturals}
)
_found = st.fixed_dictionaries(
    {"conv": convs, "kind": st.sampled_from(["dm", "group"]), "title": texts}, optional={"members": name_lists}
)
_devices = st.fixed_dictionaries({"device": convs, "used": naturals, "online": flags}, optional={"agent": texts})
_limits = st.fixed_dictionaries({"scope": names, "limit": naturals, "remaining": naturals, "reset_ms": naturals})

STRATEGIES: dict[type[Struct], st.SearchStrategy] = {
    m.Hello: st.builds(
        m.Hello, token=st.text(min_size=1, max_size=300), device=devices,
        positions=maybe(st.dictionaries(convs, naturals, max_size=5)), agent=maybe(st.just("") | shown(200)),
    ),
    m.Send: st.builds(
        m.Send, cseq=positives, to=convs, body=bodies, type=names, reply_to=maybe(positives), mentions=maybe(name_lists)
    ),
    m.Edit: st.builds(m.Edit, cseq=positives, conv=convs, seq=positives, body=bodies),
    m.Delete: st.builds(m.Delete, cseq=positives, conv=convs, seq=positives),
    m.React: st.builds(m.React, cseq=positives, conv=convs, seq=positives, emoji=emojis, remove=flags),
    m.Delivered: st.builds(m.Delivered, conv=convs, seq=positives),
    m.Read: st.builds(m.Read, conv=convs, seq=positives),
    m.Typing: st.builds(m.Typing, conv=convs, on=flags),
    m.Heartbeat: st.builds(m.Heartbeat, active=maybe(flags)),
    m.Watch: st.builds(m.Watch, users=name_lists),
    m.History: st.builds(
        m.History, id=naturals, conv=convs, before=maybe(positives), after=maybe(naturals), thread=maybe(positives),
        limit=st.integers(1, m.MAX_PAGE),
    ),
    m.Conversations: st.builds(
        m.Conversations, id=naturals, cursor=maybe(st.text(max_size=200)), limit=st.integers(1, m.MAX_PAGE)
    ),
    m.Create: st.builds(
        m.Create, id=naturals, title=titles, members=name_lists, history=st.sampled_from(["since_join", "all"])
    ),
    m.Members: st.builds(m.Members, id=naturals, conv=convs),
    m.Add: st.builds(m.Add, id=naturals, conv=convs, users=users),
    m.Remove: st.builds(m.Remove, id=naturals, conv=convs, users=users),
    m.Leave: st.builds(m.Leave, id=naturals, conv=convs),
    m.SetRole: st.builds(m.SetRole, id=naturals, conv=convs, user=names, role=roles),
    m.Rename: st.builds(m.Rename, id=naturals, conv=convs, title=titles),
    m.Block: st.builds(m.Block, id=naturals, user=names, on=flags),
    m.Blocked: st.builds(m.Blocked, id=naturals),
    m.Pin: st.builds(m.Pin, id=naturals, conv=convs, seq=positives, on=flags),
    m.Pins: st.builds(m.Pins, id=naturals, conv=convs, after=maybe(naturals)),
    m.Mute: st.builds(m.Mute, id=naturals, conv=convs, until=naturals),
    m.Search: st.builds(
        m.Search, id=naturals, query=titles, conv=maybe(convs), sender=maybe(names), before=maybe(naturals),
        after=maybe(naturals), order=st.sampled_from(["newest", "ranked"]), cursor=maybe(st.text(max_size=200)),
        limit=st.integers(1, m.MAX_PAGE),
    ),
    m.Find: st.builds(m.Find, id=naturals, text=titles, conv=maybe(convs), limit=st.integers(1, m.MAX_PAGE)),
    m.Devices: st.builds(m.Devices, id=naturals),
    m.SignOut: st.builds(m.SignOut, id=naturals, device=convs),
    m.Privacy: st.builds(m.Privacy, id=naturals, presence=maybe(flags), last_seen=maybe(flags)),
    m.RateLimit: st.builds(m.RateLimit, id=naturals),
    m.Welcome: st.builds(
        m.Welcome, user=names, device=devices, session=texts, cseq=naturals, time=naturals, heartbeat_ms=positives,
        limits=st.dictionaries(names, naturals, max_size=5),
    ),
    m.Event: st.builds(lambda head, keys: m.Event(**head, **keys), heads, _kinds),
    m.Live: st.just(m.Live()),
    m.Ack: st.builds(m.Ack, cseq=positives, conv=convs, seq=positives, at=naturals, repeat=flags),
    m.Receipt: st.builds(m.Receipt, conv=convs, user=names, delivered=naturals, read=naturals, seq=maybe(positives)),
    m.TypingNotice: st.builds(m.TypingNotice, conv=convs, user=names, on=flags),
    m.Presence: st.builds(
        m.Presence, user=names, status=st.sampled_from(["online", "away", "offline"]), last_seen=maybe(naturals)
    ),
    m.HeartbeatAnswer: st.builds(m.HeartbeatAnswer, time=naturals),
    m.Ok: st.one_of(
        st.builds(m.Ok, id=naturals, conv=maybe(convs)),
        st.builds(m.Ok, id=naturals, conv=convs, events=st.lists(entries, max_size=3), last=naturals, more=flags),
        st.builds(m.Ok, id=naturals, conv=convs, events=st.lists(entries, max_size=3), more=flags),
        st.builds(m.Ok, id=naturals, items=st.lists(items, max_size=3), cursor=maybe(texts)),
        st.builds(m.Ok, id=naturals, conv=convs, members=st.lists(_members, max_size=3)),
        st.builds(m.Ok, id=naturals, users=name_lists),
        st.builds(m.Ok, id=naturals, events=st.lists(entries, max_size=3), cursor=maybe(texts)),
        st.builds(m.Ok, id=naturals, users=name_lists, items=st.lists(_found, max_size=3)),
        st.builds(m.Ok, id=naturals, devices=st.lists(_devices, max_size=3)),
        st.builds(m.Ok, id=naturals, privacy=st.fixed_dictionaries({"presence": flags, "last_seen": flags})),
        st.builds(m.Ok, id=naturals, limits=st.lists(_limits, max_size=3)),
    ),
    m.Error: st.builds(
        m.Error, code=st.sampled_from(["bad_message", "cseq_gap", "internal"]), message=texts, id=maybe(naturals),
        cseq=maybe(positives), expected=maybe(positives), retry_after_ms=maybe(naturals),
    ),
    m.Bye: st.builds(m.Bye, code=st.integers(4000, 4299), reason=texts, retry_after_ms=maybe(naturals)),
}  # fmt: skip

client_messages = st.one_of(*(STRATEGIES[kind] for kind in get_args(m.ClientMessage)))
server_messages = st.one_of(*(STRATEGIES[kind] for kind in get_args(m.ServerMessage)))
