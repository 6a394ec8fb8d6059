"""A whole run against a real server with a proxy before it, which does one thing wrong: every check ends it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from chatd_bench import traffic
from chatd_bench.archive import Archive, build
from chatd_bench.cast import Cast, groups, pairs
from chatd_bench.dialects.dialect import User
from chatd_bench.faults import RunFailed
from chatd_bench.scenarios.history import EVENTS_AT_LOGIN, check_page, last_of
from chatd_bench.scenarios.stage import run_id
from chatd_bench.servers.chatd import Chatd
from chatd_bench.servers.server import Endpoint, Needs, Running
from chatd_bench.traffic import Order, Traffic
from chatd_bench.websocket import find_frame, server_frame_head

BAD_FROM = 30
"""The delivery at which a faulty proxy begins to be one."""

Fault = Callable[[int, bytes], list[bytes]]
"""What becomes of a connection's deliveries: their number and frame, and the frames that are passed on instead."""


class Proxy:
    """Between clients and one server: what clients say is passed on, and what the server says goes through a fault."""

    def __init__(self, server: Endpoint, fault: Fault, sign: bytes = b"~0") -> None:
        """What has ``sign`` in it is a delivery."""
        self._server = server
        self._fault = fault
        self._sign = sign
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._server.host, self._server.port))
                self._sockets += [client, server]
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        data, head, deliveries = b"", False, 0
        with suppress(OSError):
            while more := server.recv(65536):
                data += more
                if not head and (end := data.find(b"\r\n\r\n") + 4) > 3:
                    client.sendall(data[:end])
                    data, head = data[end:], True
                while head and (found := find_frame(data, 0)) is not None:
                    frame, data = data[: found[1]], data[found[1] :]
                    passed = [frame]
                    if self._sign in frame:
                        deliveries += 1
                        passed = self._fault(deliveries, frame)
                    client.sendall(b"".join(passed))

    def close(self) -> None:
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Chatd("chatd").start(Needs()) as running:
        yield running


@pytest.fixture
def run(server, monkeypatch: pytest.MonkeyPatch):
    """Runs a little traffic through a proxy with that fault, in this process; returns what was checked."""
    monkeypatch.setattr(traffic, "DRAIN_SECONDS", 5.0)

    def run_with(fault: Fault, kind: str) -> dict[str, object]:
        cast = pairs(run_id(), 4, 1) if kind == "dm" else groups(run_id(), [5], 2, 1)
        proxy = Proxy(server.endpoints[0], fault)
        order = Order("chatd-cbor", server.credentials, (proxy.endpoint,), cast, 0, 1, 120, "1")
        load = Traffic(order, lambda _: None)
        try:
            load.open(0, len(cast.users))
            load.join(load.found())
            load.arm()
            begin = time.monotonic() + 0.05
            load.plan(400, 0.5, "poisson")
            load.timed(begin, [(begin, begin + 0.5)], begin + 0.5, 0)
            return load.settle(load.sent())
        finally:
            load.close()
            proxy.close()

    return run_with


@pytest.mark.parametrize("kind", ["dm", "group"])
def test_a_proxy_without_a_fault_passes(run, kind: str) -> None:
    """It is the fault that ends the runs below, not the proxy."""
    checks = run(lambda _, frame: [frame], kind)
    assert checks["messages_checked"] > 100
    assert checks["deliveries_checked"] == checks["messages_checked"] * (1 if kind == "dm" else 4)
    assert checks["deliveries_decoded"] > 0


def swapped() -> Fault:
    held: dict[int, bytes] = {}

    def fault(number: int, frame: bytes) -> list[bytes]:
        if number == BAD_FROM:
            held[0] = frame
            return []
        return [frame, held.pop(0)] if number == BAD_FROM + 1 and held else [frame]

    return fault


def from_there(change: Callable[[bytes], list[bytes]]) -> Fault:
    return lambda number, frame: change(frame) if number >= BAD_FROM else [frame]


def only_there(change: Callable[[bytes], list[bytes]]) -> Fault:
    return lambda number, frame: change(frame) if number == BAD_FROM else [frame]


FAULTS: dict[str, tuple[Callable[[], Fault], str]] = {
    "loss": (lambda: only_there(lambda frame: []), "loss|gap"),
    "loss of the last": (lambda: from_there(lambda frame: []), "lost|gap"),
    "repeat": (lambda: only_there(lambda frame: [frame, frame]), "repeat"),
    "disorder": (swapped, "disorder|loss|gap"),
    "a wrong byte": (lambda: only_there(lambda frame: [frame[:-20] + b"?" + frame[-19:]]), "not the body"),
    "cut short": (lambda: only_there(lambda frame: [frame[:3] + bytes((frame[3] - 1,)) + frame[4:-1]]), "not the body"),
    "another sender": (lambda: from_there(lambda frame: [frame.replace(b"~00000", b"~00001", 1)]), "writes nothing"),
}


@pytest.mark.parametrize("kind", ["dm", "group"])
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_ends_the_run(run, name: str, kind: str) -> None:
    """What one recipient gets too little, too much, too early or otherwise fails the whole run, and is named."""
    made, text = FAULTS[name]
    with pytest.raises(RunFailed, match=text):
        run(made(), kind)


# --- what was missed, and pages -----------------------------------------------------------------------

def changed(frame: bytes, **fields: object) -> bytes:
    """The same message, but for these fields."""
    start, stop = find_frame(frame, 0) or (0, 0)
    payload = cbor2.dumps({**cbor2.loads(frame[start:stop]), **fields})
    return server_frame_head(len(payload)) + payload


def told(frame: bytes) -> dict[str, Any]:
    start, stop = find_frame(frame, 0) or (0, 0)
    message: dict[str, Any] = cbor2.loads(frame[start:stop])
    return message


@pytest.fixture
def caught_up(server):
    """One is away while messages come, and gets them through a proxy with that fault; how many were checked."""

    def catch_up(fault: Fault) -> int:
        cast = pairs(run_id(), 2, 1)
        cast = replace(cast, writers=(cast.users[:1],))
        proxy = Proxy(server.endpoints[0], fault)
        load = Traffic(Order("chatd-cbor", server.credentials, (proxy.endpoint,), cast, 0, 1, 120, "1"), lambda _: None)
        try:
            load.open(0, 2)
            load.join(load.found())
            load.arm()
            load.lose(1, 2)
            begin = time.monotonic() + 0.05
            load.plan(400, 0.201, "uniform")
            load.timed(begin, [(begin, begin + 0.201)], begin + 0.201, 0)
            load.catch_up(1)
            load.catch_up(1)
            return load.check_caught(80)
        finally:
            load.close()
            proxy.close()

    return catch_up


def test_what_was_missed_passes_through_a_proxy_without_a_fault(caught_up) -> None:
    """All of it is checked, each time."""
    assert caught_up(lambda _, frame: [frame]) == 160


MISSED: dict[str, tuple[Callable[[], Fault], str]] = {
    "all at once": (lambda: lambda _, frame: [changed(frame, seq=1, kind="edit", body="", **{"from": "x"})], "gap or repeat"),
    "body cut": (lambda: only_there(lambda frame: [changed(frame, body=told(frame)["body"][:-1])]), "number 30 .*: body"),
    "only a stamp": (lambda: from_there(lambda frame: [changed(frame, body=told(frame)["body"][:43])]), "number 30 .*: body"),
    "another time": (
        lambda: only_there(lambda frame: [changed(frame, body=told(frame)["body"].replace(".000", ".001"))]), "body"
    ),
    "another sender": (lambda: only_there(lambda frame: [changed(frame, **{"from": "x"})]), "from"),
    "another kind": (lambda: only_there(lambda frame: [changed(frame, kind="edit")]), "kind"),
    "another conversation": (lambda: only_there(lambda frame: [changed(frame, conv="x")]), "conv"),
    "seq always 1": (lambda: lambda _, frame: [changed(frame, seq=1)], "gap or repeat"),
    "no seq": (lambda: only_there(lambda frame: [changed(frame, seq="1")]), "no seq"),
    "loss": (lambda: only_there(lambda frame: []), "gap or repeat"),
    "loss of the last": (lambda: from_there(lambda frame: []), "lost: 29 of 80"),
    "loss of the first": (lambda: lambda number, frame: [frame] if number > 1 else [], "gap or repeat"),
    "repeat": (lambda: only_there(lambda frame: [frame, frame]), "gap or repeat"),
    "disorder": (swapped, "gap or repeat"),
    "one too many": (
        lambda: lambda number, frame: [frame, changed(frame, seq=told(frame)["seq"] + 1)] if number == 80 else [frame], "too many"
    ),
}


@pytest.mark.parametrize("name", MISSED)
def test_each_fault_in_what_was_missed_ends_the_run(caught_up, name: str) -> None:
    """Body, sender, kind, conversation, and place in the log: all of each message."""
    made, text = MISSED[name]
    with pytest.raises(RunFailed, match=text):
        caught_up(made())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Archive]]:
    """A server with an archive."""
    made: list[Archive] = []

    def prepare(data: Path) -> None:
        made.append(build(data / "chatd.db", 50, 2000, indexed=False))

    with Chatd("chatd").start(Needs(prepare=prepare, settings=EVENTS_AT_LOGIN)) as running:
        yield running, made[0]


@pytest.fixture
def pages(stored):
    """Asks for pages through a proxy with that fault, and checks them; how many."""

    def ask(fault: Fault) -> int:
        running, archive = stored
        group = max(archive.groups, key=last_of)
        cast = Cast((User(0, archive.users[group.members[0]]),), homes=(0,))
        proxy = Proxy(running.endpoints[0], fault, b"fevents")
        load = Traffic(Order("chatd-cbor", running.credentials, (proxy.endpoint,), cast, 0, 1, 120, "1"), lambda _: None)
        try:
            load.open(0, 1)
            for deep in (False, True):
                load.pages({0: (group.conv, last_of(group))}, 20, 10, deep)
            answered = load.answered()
        finally:
            load.close()
            proxy.close()
        for _, before, events in answered:
            check_page(archive, group, before, 10, events)
        return len(answered)

    return ask


def test_pages_pass_through_a_proxy_without_a_fault(pages) -> None:
    """The newest and those from anywhere are what the archive says."""
    assert pages(lambda _, frame: [frame]) == 40


def of_page(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], at: int = 1) -> Fault:
    return lambda number, frame: [changed(frame, events=change(told(frame)["events"]))] if number == at else [frame]


def one_other(**fields: object) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda events: [*events[:4], {**events[4], **fields}, *events[5:]]


PAGES: dict[str, tuple[Fault, str]] = {
    "nothing": (of_page(lambda events: []), "has the seqs"),
    "nothing, of an old one": (of_page(lambda events: [], at=25), "has the seqs"),
    "one too few": (of_page(lambda events: events[1:]), "has the seqs"),
    "ends too early": (of_page(lambda events: events[:-1]), "has the seqs"),
    "one left out": (of_page(lambda events: [*events[:3], *events[4:]]), "has the seqs"),
    "turned round": (of_page(lambda events: events[::-1]), "has the seqs"),
    "further back": (of_page(lambda events: [{**event, "seq": event["seq"] - 1} for event in events]), "has the seqs"),
    "another conversation": (of_page(one_other(conv="x")), "address='x'"),
    "another sender": (of_page(one_other(**{"from": "x"})), "sender='x'"),
    "another kind": (of_page(one_other(kind="edit")), "kind='edit'"),
    "another body": (of_page(one_other(body="x")), "body='x'"),
    "two bodies changed over": (
        of_page(lambda events: [{**event, "body": other["body"]} for event, other in zip(events, events[::-1], strict=True)]),
        "Event",
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_each_fault_in_a_page_ends_the_run(pages, name: str) -> None:
    """Which entries it has, and what they say."""
    fault, text = PAGES[name]
    with pytest.raises(RunFailed, match=text):
        pages(fault)
