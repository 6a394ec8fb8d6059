"""A whole run against a real server with a proxy before it, which does one thing wrong: every check ends it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from chatd_bench import traffic
from chatd_bench.cast import groups, pairs
from chatd_bench.faults import RunFailed
from chatd_bench.scenarios.stage import run_id
from chatd_bench.servers.chatd import Chatd
from chatd_bench.servers.server import Endpoint, Needs, Running
from chatd_bench.traffic import Order, Traffic
from chatd_bench.websocket import find_frame

BAD_FROM = 30
"""The delivery at which a faulty proxy begins to be one."""

Fault = Callable[[int, bytes], list[bytes]]
"""What becomes of a connection's deliveries: their number and frame, and the frames that are passed on instead."""


class Proxy:
    """Between clients and one server: what clients say is passed on, and what the server says goes through a fault."""

    def __init__(self, server: Endpoint, fault: Fault) -> None:
        self._server = server
        self._fault = fault
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
                    if b"~0" in frame:
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
