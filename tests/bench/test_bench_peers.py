"""The anchors are really started and loaded; other peers only where CHATD_BENCH_PEERS names them (`all`, or a,b,c), for they are
installed first. What dialects say is judged without a server."""

from __future__ import annotations

import os
import shutil

import pytest
from chatd_bench.dialects.dialect import Channel, Delivery, Field, Session, User
from chatd_bench.dialects.registry import make_dialect
from chatd_bench.faults import RunFailed
from chatd_bench.scenarios.flow import run_dm, run_group
from chatd_bench.scenarios.stage import Options
from chatd_bench.servers.registry import server_names

ANCHORS = ("anchor-c", "anchor-c-gather", "anchor-py")
PEERS = [name for name in server_names() if name not in (*ANCHORS, "chatd")]
WANTED = os.environ.get("CHATD_BENCH_PEERS", "")
XMPP = {"domain": "localhost", "rooms": "rooms.localhost", "path": "/ws", "password": "p"}

ONE, OTHER, THIRD = (User(number, f"b-{number}") for number in range(3))
PAIR = Channel(0, "pair", "b-p0", (ONE, OTHER))
GROUP = Channel(1, "group", "b-g1", (ONE, OTHER, THIRD))


def options(server: str) -> Options:
    """As short as a run can be."""
    return Options(server=server, warmup=0.1, seconds=0.4)


def check(result, members):
    """Every message came to every other member, and nothing failed on the way; being slow or void is no fault here."""
    checks = result["checks"]
    assert checks["messages_checked"] > 0
    assert checks["deliveries_checked"] in (checks["messages_checked"] * (members - 1), checks["messages_checked"] * members)
    assert result["server_versions"]


def load(server):
    """Both scenarios."""
    check(run_dm(options(server), 10), 2)
    check(run_group(options(server), 12, 4), 12)


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
@pytest.mark.parametrize("server", ANCHORS)
def test_the_anchors_relay_everything(server):
    load(server)


@pytest.mark.parametrize("server", PEERS)
def test_a_peer_relays_everything(server):
    if WANTED != "all" and server not in WANTED.split(","):
        pytest.skip(f"CHATD_BENCH_PEERS does not name {server}")
    load(server)


def test_an_anchor_takes_frames_as_they_are_cut():
    """A byte at a time, a lot at once, a long one, a ping: what TCP makes of frames is nobody's business."""
    import socket

    from chatd_bench.servers.anchor import Anchor
    from chatd_bench.servers.server import Needs
    from chatd_bench.websocket import client_frame, upgrade_request

    for name in ("anchor-c", "anchor-c-gather", "anchor-py"):
        if name != "anchor-py" and not shutil.which("cc"):
            continue
        with Anchor(name).start(Needs()) as running:
            sock = socket.create_connection((running.endpoints[0].host, running.endpoints[0].port), timeout=30)
            with sock, sock.makefile("rb") as reader:
                key = b"\x01\x02\x03\x04"
                login = client_frame(b"l7", key, 0x81)
                to_oneself = [b"d7,%d," % count + b"b" * size for count, size in ((1, 3), (2, 300), (3, 60_000), (4, 0))]
                sent = upgrade_request("h", 1, "/", None) + login
                for byte in sent:
                    sock.sendall(bytes((byte,)))
                while reader.readline() != b"\r\n":
                    pass
                assert message(reader) == b"ok"
                sock.sendall(b"".join(client_frame(each, key, 0x81) for each in to_oneself) + client_frame(b"?", key, 0x89))
                for count, size in ((1, 3), (2, 300), (3, 60_000), (4, 0)):
                    assert message(reader) == b"m7," + b"b" * size
                    assert message(reader) == b"a%d" % count
                assert message(reader) == b"?"


def message(reader):
    """The payload of the next frame."""
    _, size = reader.read(2)
    return reader.read(int.from_bytes(reader.read(2), "big") if size == 126 else size)


def talked(talk, session, *answers):
    """What a client has said when a talk has ended, which it must with the last answer; and the talk's result."""
    said = []
    next(talk)
    for answer in answers:
        said += session.out
        session.out.clear()
        try:
            talk.send(answer)
        except StopIteration as end:
            assert answer is answers[-1]
            return said, end.value
    raise AssertionError("the talk has not ended")


def written(dialect, session, channel, address, body):
    """A message as the engine sends it."""
    session.cseq += 1
    filled = {Field.BODY: body, Field.CSEQ_DECIMAL: str(session.cseq).encode()}
    program = dialect.send_program(session, channel, address, len(body))
    return b"".join(part if isinstance(part, bytes) else filled[part] for part in program)


def test_engineio_connects_joins_and_counts_its_acks_on():
    dialect, session = make_dialect("engineio", {}), Session(ONE)
    said, _ = talked(dialect.login(session), session, b'0{"sid":"s"}', b"2", b'40{"sid":"s"}')
    assert said == [b'40{"user":"b-0"}', b"3"]
    said, position = talked(dialect.join(session, GROUP, "b-g1"), session, b"42[]", b"431[]")
    assert (said, position) == ([b'421["join","b-g1"]'], 0)
    assert written(dialect, session, GROUP, "b-g1", b"~") == b'422["group","b-g1","~"]'
    assert written(dialect, session, PAIR, "b-p0", b"~") == b'423["dm","b-1","~"]'


def test_engineio_is_refused_in_the_servers_words():
    session = Session(ONE)
    with pytest.raises(RunFailed, match="who"):
        talked(make_dialect("engineio", {}).login(session), session, b"0{}", b'44{"message":"who?"}')


def test_xmpp_logs_in_and_enters_a_room_once():
    dialect, session = make_dialect("xmpp", XMPP), Session(ONE)
    features = b"<stream:features/>"
    said, _ = talked(
        dialect.login(session), session, b"<open/>", features, b"<success/>", b"<open/>", features,
        b"<iq type='result'><bind><jid>b-0@localhost/b</jid></bind></iq>", b"<presence/>",
    )  # fmt: skip
    assert [each.split()[0] for each in said] == [b"<open", b"<auth", b"<open", b"<iq", b"<presence"]
    said, room = talked(dialect.found(session, GROUP), session, b"<presence/>", b"<message><subject/></message>")
    assert room == "b-g1@rooms.localhost"
    assert b"maxstanzas" in said[0]
    with pytest.raises(StopIteration):
        next(dialect.join(session, GROUP, room))  # the founder is in it


@pytest.mark.parametrize("refusal", [b"<failure><not-authorized/></failure>", b"<presence type='error'/>", b"<close/>"])
def test_xmpp_is_refused_in_the_servers_words(refusal):
    session = Session(ONE)
    with pytest.raises(RunFailed, match=refusal.decode().split()[0].strip("</>")):
        talked(make_dialect("xmpp", XMPP).login(session), session, refusal)


def deliveries(kind):
    """By dialect: its credentials, a delivery from ONE to OTHER as the server writes it, and one changed in each respect."""
    group = kind == "group"
    room = "b-g1@rooms.localhost/b-0" if group else "b-0@localhost/b"
    stanza = (
        f"<message xmlns='jabber:client' type='{'groupchat' if group else 'chat'}' id='3' from='{room}' to='b-1@localhost/b'>"
        "<body>BODY</body></message>"
    )
    event = '42["group","b-g1","b-0","BODY"]' if group else '42["dm","b-0","BODY"]'
    return {"relay": ({}, "m0,BODY"), "engineio": ({}, event), "xmpp": (XMPP, stanza)}


@pytest.mark.parametrize("kind", ["pair", "group"])
@pytest.mark.parametrize("name", ["relay", "engineio", "xmpp"])
def test_a_delivery_is_judged_in_all_it_says(name, kind):
    credentials, message = deliveries(kind)[name]
    channel = PAIR if kind == "pair" else GROUP
    address = "b-g1@rooms.localhost" if name == "xmpp" else "b-g1"
    dialect, delivery = make_dialect(name, credentials), Delivery(ONE, OTHER, channel, address, "BODY")
    assert dialect.judge(message.encode(), delivery) is None
    for wrong in ("BODY", "b-0", "b-1", "m0", "group"):
        if wrong in message:
            assert dialect.judge(message.replace(wrong, "b-9").encode(), delivery), wrong
