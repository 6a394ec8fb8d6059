"""Taking connections: all that have come, and on after the system had no room for one."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from chatd.listener import accepting
from chatd.listener.accepting import AT_ONCE, KERNEL_BYTES, REFUSALS_FOR_ONE, accept_all, open_listeners


class Server:
    """A listening socket whose connections are greeted, but for the first ``refused``; ``full`` is set when there is no room for
    one more."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.listener = listener
        self.address = listener.socket.getsockname()
        self.full = trio.Event()
        self.peers: list[object] = []
        self.refused = 0

    async def greet(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"hello")

    def error(self, event: str, **_: object) -> None:
        """In the place of the log."""
        assert event == "listener.full"
        self.full.set()

    def admit(self, peer: object) -> bool:
        self.peers.append(peer)
        return len(self.peers) > self.refused

    async def run(self, nursery: trio.Nursery) -> None:
        await accept_all(self.listener, self.admit, self.greet, nursery)

    def connected(self) -> socket.socket:
        """A client whose connection waits to be taken."""
        return socket.create_connection(self.address)


@pytest.fixture
async def server() -> Server:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return Server(listener)


@pytest.fixture
def limit() -> Iterator[None]:
    """What is changed about open files is undone."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def greeting(client: socket.socket) -> bytes:
    with client, trio.fail_after(10):
        return await trio.SocketStream(trio.socket.from_stdlib_socket(client)).receive_some()


async def test_all_that_have_come_are_taken(server: Server, nursery: trio.Nursery) -> None:
    """More than are taken at once, and the listening socket stays its owner's to close."""
    clients = [server.connected() for _ in range(3 * AT_ONCE + 1)]
    nursery.start_soon(server.run, nursery)
    assert [await greeting(client) for client in clients] == [b"hello"] * len(clients)
    nursery.cancel_scope.cancel()
    assert server.listener.socket.fileno() >= 0
    await trio.aclose_forcefully(server.listener)


async def test_the_kernel_keeps_so_much_of_a_connection() -> None:
    """I9: in either direction, and no more however fast one sends or slowly one reads."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    client = socket.create_connection(listener.socket.getsockname())
    taken = await listener.accept()
    for option, name in ((socket.SO_RCVBUF, "rmem_max"), (socket.SO_SNDBUF, "wmem_max")):
        most = min(KERNEL_BYTES, int(Path(f"/proc/sys/net/core/{name}").read_text()))
        assert taken.getsockopt(socket.SOL_SOCKET, option) == 2 * most, "Linux doubles it: what a buffer is taken to occupy"
    client.close()
    await trio.aclose_forcefully(taken)
    await trio.aclose_forcefully(listener)


async def test_who_is_not_admitted_is_closed(server: Server, nursery: trio.Nursery) -> None:
    """By its address, without a word, and also if they are more than are taken at once; who comes behind them is greeted."""
    server.refused = 3 * AT_ONCE * REFUSALS_FOR_ONE
    clients = [server.connected() for _ in range(server.refused + 1)]
    names = [client.getsockname() for client in clients]
    nursery.start_soon(server.run, nursery)
    assert [await greeting(client) for client in clients] == [b""] * server.refused + [b"hello"]
    assert server.peers == names
    nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(server.listener)


async def test_no_room_is_no_end(
    server: Server, nursery: trio.Nursery, limit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process may open no more files, the connection is taken when it may again (EMFILE)."""
    monkeypatch.setattr(accepting, "log", server)
    monkeypatch.setattr(accepting, "CAPACITY_PAUSE", 0.001)
    client = server.connected()
    nursery.start_soon(server.run, nursery)
    spare = os.dup(0)
    os.close(spare)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))  # one more, with which the listening socket is copied
    with trio.fail_after(10):
        await server.full.wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await greeting(client) == b"hello"
    nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(server.listener)
