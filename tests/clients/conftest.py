"""The scripted server, on a port of its own."""

from __future__ import annotations

import pytest
import trio

from tests.clients.scripted_server import Server


@pytest.fixture
async def server(nursery: trio.Nursery) -> Server:
    """A scripted server on a free port of the loopback interface."""
    scripted = Server()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    scripted.port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, scripted.serve, listeners)
    return scripted
