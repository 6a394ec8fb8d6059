"""The engine's checks, each of them failing: a server at the other end of a socket pair, which does one thing wrong."""

from __future__ import annotations

import json
import socket
import time
from array import array
from collections.abc import Iterator

import cbor2
import pytest
from chatd_bench.dialects.chatd_cbor import ChatdCbor
from chatd_bench.dialects.chatd_json import ChatdJson
from chatd_bench.dialects.dialect import Channel, Dialect, Field, Session, User
from chatd_bench.engine.native import Engine, Latency, Membership
from chatd_bench.engine.plan import Plan, make_plan
from chatd_bench.faults import RunFailed
from chatd_bench.websocket import server_frame_head

from chatd.wire.frames import FrameParser

BODY_BYTES = 60
DEADLINE_SECONDS = 60
ALICE, BOB = User(0, "alice"), User(1, "bob-x")
PAIR = Channel(0, "pair", "pair", (ALICE, BOB))
AT = 1795000000000


class Server:
    """What the server says, in one of the encodings."""

    def __init__(self, dialect: ChatdCbor) -> None:
        self.dialect = dialect

    def frame(self, message: dict[str, object], first: int | None = None) -> bytes:
        payload = self.dialect.encode(message)
        head = bytearray(server_frame_head(len(payload)))
        head[0] = first if first is not None else 0x81 if self.dialect.text else 0x82
        return bytes(head) + payload

    def event(self, seq: int, count: int, **changed: object) -> bytes:
        """The ``count``-th message that Bob got from Alice."""
        return self.frame({**event(seq, count), **changed})

    def ack(self, seq: int, cseq: int, **changed: object) -> bytes:
        return self.frame({"t": "ack", "cseq": cseq, "conv": "c", "seq": seq, "at": AT, **changed})


def event(seq: int, count: int, sent_us: int | None = None, **stamped: int) -> dict[str, object]:
    now = time.monotonic_ns() // 1000 if sent_us is None else sent_us
    numbers = {"slot": 0, "channel": 0, **stamped}
    stamp = f"~{numbers['slot']:06d}.{numbers['channel']:06d}.{count:010d}.{now:016d}~"
    body = stamp + "x" * (BODY_BYTES - len(stamp))
    return {"t": "event", "conv": "c", "seq": seq, "at": AT, "from": ALICE.name, "kind": "message", "type": "text", "body": body}


@pytest.fixture(params=[ChatdCbor, ChatdJson])
def dialect(request, private_key) -> ChatdCbor:
    return request.param({"private_key": private_key.decode(), "issuer": "i", "audience": "a"})


@pytest.fixture
def server(dialect) -> Server:
    return Server(dialect)


class Bench:
    """An engine with two users, who share a channel whose log stands at 1, and the server's ends of their sockets."""

    def __init__(self, dialect: Dialect) -> None:
        self.engine = Engine(dialect, [ALICE, BOB], {PAIR: (ALICE, BOB)}, BODY_BYTES)
        self.sockets = [socket.socketpair() for _ in range(2)]
        for user, (ours, theirs) in zip((ALICE, BOB), self.sockets, strict=True):
            ours.setblocking(False)
            theirs.settimeout(DEADLINE_SECONDS)
            session = Session(user, cseq=7, facts={"heartbeat_ms": "1000000"})
            self.engine.add(ours.fileno(), b"", session, [Membership(PAIR, "c", 1, writes=True)])
        self.alice, self.bob = (theirs for _, theirs in self.sockets)
        self.window = self.engine.window(0, 1e9)

    def run(self) -> None:
        """Until everything that was written has been read."""
        self.engine.run(time.monotonic() + 0.02)

    def send(self, places: list[int]) -> None:
        """By plan, at once: 0 is Alice, 1 is Bob."""
        self.engine.follow(Plan(array("q", [0] * len(places)), array("I", places)), time.monotonic())
        self.run()

    def close(self) -> None:
        for pair in self.sockets:
            for end in pair:
                end.close()


@pytest.fixture
def bench(dialect) -> Iterator[Bench]:
    made = Bench(dialect)
    yield made
    made.close()


def read_messages(dialect: ChatdCbor, peer: socket.socket, count: int) -> list[dict[str, object]]:
    """What the engine sent, through the server's own parser."""
    parser, frames = FrameParser(65536), []
    while len(frames) < count:
        frames += parser.feed(peer.recv(65536))
    return [dialect.decode(payload) for _, payload in frames]


def test_what_it_sends_is_what_the_server_reads(bench, dialect) -> None:
    """Frames, masks, stamps and numbers are those of the message; cseq goes on from the login's, counts begin at 1."""
    bench.send([0, 0, 1])
    first, second = read_messages(dialect, bench.alice, 2)
    [other] = read_messages(dialect, bench.bob, 1)
    assert (first["t"], first["to"], first["cseq"], second["cseq"], other["cseq"]) == ("send", "c", 8, 9, 8)
    assert str(first["body"]).startswith("~000000.000000.0000000001.")
    assert str(second["body"]).startswith("~000000.000000.0000000002.")
    assert str(other["body"]).startswith("~000001.000000.0000000001.")
    assert len(str(first["body"])) == BODY_BYTES
    assert bench.engine.totals().sent == 3


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_right_stream_passes_in_any_pieces(bench, server, step: int) -> None:
    """Deliveries and acks count the same in whatever pieces they come; latencies run from the stamp and the send."""
    bench.send([1])
    data = server.event(2, 1) + server.ack(3, 8) + server.event(4, 2) + server.frame({"t": "typing", "conv": "c", "on": True})
    for at in range(0, len(data), step):
        bench.bob.sendall(data[at : at + step])
        if at % 70 == 0:
            bench.run()
    bench.run()
    totals = bench.engine.totals()
    assert (totals.sent, totals.acked, totals.delivered) == (1, 1, 2)
    assert bench.engine.counted()["typing"] == 1
    assert [bench.engine.received(seat) for seat in bench.engine.seats] == [[0, 0], [2, 0]]
    assert sum(bench.engine.latencies(bench.window, Latency.DELIVERY).values()) == 2
    assert sum(bench.engine.latencies(bench.window, Latency.ACK).values()) == 1


WRONG = {
    "loss": (lambda s: s.event(2, 1) + s.event(3, 3), "a loss, or disorder"),
    "loss at the beginning": (lambda s: s.event(2, 2), "a loss, or disorder"),
    "repeat": (lambda s: s.event(2, 1) + s.event(3, 1), "a repeat, or disorder"),
    "disorder": (lambda s: s.event(2, 2) + s.event(3, 1), "disorder"),
    "gap in the log": (lambda s: s.event(3, 1), "a gap in the log"),
    "repeat in the log": (lambda s: s.event(2, 1) + s.event(2, 2), "a repeat, or disorder in the log"),
    "other filler": (lambda s: s.event(2, 1, body=str(event(2, 1)["body"])[:-1] + "y"), "not the body"),
    "body cut off": (lambda s: s.event(2, 1, body=str(event(2, 1)["body"])[:-1]), "not the body"),
    "body too long": (lambda s: s.event(2, 1, body=str(event(2, 1)["body"]) + "x"), "not the body"),
    "no stamp": (lambda s: s.event(2, 1, body="x" * BODY_BYTES), "not foreseen by the dialect"),
    "more than before": (lambda s: s.event(2, 1) + s.event(3, 2, more=1), "bytes beside the body"),
    "stamp of the future": (lambda s: s.frame(event(2, 1, 9 * 10**15)), "a time when nothing was sent"),
    "stamp of the past": (lambda s: s.frame(event(2, 1, 1)), "a time when nothing was sent"),
    "somebody else's": (lambda s: s.frame(event(2, 1, slot=9)), "writes nothing"),
    "one's own": (lambda s: s.frame(event(2, 1, slot=1)), "one's own message"),
    "another channel": (lambda s: s.frame(event(2, 1, channel=5)), "not a member"),
    "ack of nothing": (lambda s: s.ack(2, 8), "waits for none"),
    "refusal": (lambda s: s.frame({"t": "error", "cseq": 8, "code": "overloaded"}), "not foreseen by the dialect"),
    "goodbye": (lambda s: s.frame({"t": "bye", "code": 4100}), "not foreseen by the dialect"),
    "close": (lambda s: b"\x88\x02\x10\x04", "a frame 0x88"),
    "a fragment": (lambda s: s.frame({"t": "live"}, first=0x02), "a frame 0x2"),
    "a masked frame": (lambda s: b"\x82\x81abcd0", "masked"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_ends_the_run(bench, server, name: str) -> None:
    """Each fault of a server in Bob's stream is seen, and told with what it is."""
    said, text = WRONG[name]
    bench.bob.sendall(said(server))
    with pytest.raises(RunFailed, match=text):
        bench.run()


@pytest.mark.parametrize("ack", [{"seq": 3}, {"seq": 1}, {"cseq": 9}])
def test_an_ack_that_is_wrong_ends_the_run(bench, server, ack: dict[str, int]) -> None:
    """An ack takes its message's place in the log, and is of a message that waits for one."""
    bench.send([1])
    bench.bob.sendall(server.ack(**{"seq": 2, "cseq": 8, **ack}))
    with pytest.raises(RunFailed):
        bench.run()


def test_a_lost_connection_ends_the_run(bench) -> None:
    """Nobody has to say goodbye for it to be noticed."""
    bench.bob.shutdown(socket.SHUT_WR)
    with pytest.raises(RunFailed, match="ended the connection"):
        bench.run()


def test_two_orders_of_one_log_have_different_sums(bench, server) -> None:
    """Both have everything without gaps, but not under the same numbers (I4); with the same numbers the sums agree."""
    bench.send([0, 1])
    bench.alice.sendall(server.ack(2, 8) + server.frame(event(3, 1, slot=1)))
    bench.bob.sendall(server.ack(2, 8) + server.event(3, 1))
    bench.run()
    one, other = (bench.engine.order(seat) for seat in bench.engine.seats)
    assert one != other


def test_one_order_has_one_sum(bench, server) -> None:
    """An ack stands for the event in its sender's stream."""
    bench.send([0, 1])
    bench.alice.sendall(server.ack(2, 8) + server.frame(event(3, 1, slot=1)))
    bench.bob.sendall(server.event(2, 1) + server.ack(3, 8))
    bench.run()
    one, other = (bench.engine.order(seat) for seat in bench.engine.seats)
    assert one == other != 0


@pytest.mark.parametrize("changed", [{"from": "mallory"}, {"conv": "d"}, {"kind": "edit_me"}, {"type": "page"}], ids=str)
def test_a_sample_that_says_something_else_ends_the_run(bench, server, changed: dict[str, str]) -> None:
    """What the engine does not look at is decoded in every 64th delivery, and compared."""
    good = [server.event(seq, seq - 1) for seq in range(2, 65)]
    same_length = {key: value[: len(str(event(1, 1)[key]))] for key, value in changed.items()}
    bench.bob.sendall(b"".join(good) + server.event(65, 64, **same_length))
    for _ in range(3):
        try:
            bench.run()
        except RunFailed:
            return  # its length has betrayed it already
    with pytest.raises(RunFailed, match="not what was sent"):
        bench.engine.judge_samples()


def test_good_samples_pass(bench, server) -> None:
    """Two in 128."""
    bench.bob.sendall(b"".join(server.event(seq, seq - 1) for seq in range(2, 130)))
    bench.run()
    bench.run()
    assert bench.engine.totals().delivered == 128
    assert bench.engine.judge_samples() == 2


def test_marks_pings_and_windows(bench, server, dialect) -> None:
    """Twenty deliveries make one mark, a ping a pong; in a closed loop each ack makes room for the next send."""
    bench.bob.sendall(b"".join(server.event(seq, seq - 1) for seq in range(2, 22)) + b"\x89\x03abc")
    bench.run()
    parser, frames = FrameParser(65536), []
    while len(frames) < 2:
        frames += parser.feed(bench.bob.recv(65536))
    assert dialect.decode(frames[0][1]) == {"t": "delivered", "conv": "c", "seq": 21}
    assert frames[1] == (0xA, b"abc")
    bench.engine.fill(2, time.monotonic() + DEADLINE_SECONDS)
    bench.run()
    assert bench.engine.totals().sent == 4
    bench.bob.sendall(server.ack(22, 8))
    bench.run()
    assert (bench.engine.totals().sent, bench.engine.in_flight(1)) == (5, 2)


def test_a_slow_reader_may_be_sent_away(bench, server) -> None:
    """It is read so many bytes a second, counts no more, and its end is no fault."""
    bench.engine.read_slowly(1, 0, time.monotonic() + DEADLINE_SECONDS)
    bench.bob.sendall(server.event(2, 1))
    bench.run()
    assert bench.engine.totals().delivered == 0
    bench.engine.read_slowly(1, 10_000_000, time.monotonic() + DEADLINE_SECONDS)
    bench.bob.sendall(server.frame({"t": "bye", "code": 4100}))
    while not bench.engine.closed(1):
        bench.run()
    assert bench.engine.totals().sent_away == 1


def test_a_plan_is_the_same_for_the_same_seed() -> None:
    """And it has about the rate that was asked for; uniform arrivals are evenly spaced."""
    one, same, other = (make_plan([3, 4], 1000, 2.0, seed) for seed in ("a", "a", "b"))
    assert (one.due, one.places) == (same.due, same.places) != (other.due, other.places)
    assert 1700 < len(one.due) < 2300
    assert set(one.places) == {3, 4}
    assert list(one.due) == sorted(one.due)
    assert list(make_plan([1], 1000, 0.0045, "a", "uniform").due) == [1000, 2000, 3000, 4000]


def test_what_was_encoded_is_what_libraries_decode(dialect) -> None:
    """The two dialects' programs are written by hand: here they meet the libraries."""
    program = dialect.send_program(Session(ALICE), PAIR, "conv", 50)
    filled = {Field.BODY: b"x" * 50, Field.CSEQ_CBOR: b"\x07", Field.CSEQ_DECIMAL: b"7"}
    text = b"".join(filled[part] if isinstance(part, Field) else part for part in program)
    decoded = json.loads(text) if dialect.text else cbor2.loads(text)
    assert decoded == {"t": "send", "to": "conv", "body": "x" * 50, "cseq": 7}
