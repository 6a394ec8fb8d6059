"""HTTP as bytes, from an address of one's choice."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio

from tests.e2e.cluster import Server

DEADLINE_SECONDS = 60.0
HOME = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    """``headers``: in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def told(self) -> tuple[int, bytes, dict[str, str]]:
        """What is the same for all who are answered alike: without the time, and what is left of the limit."""
        moving = ("date", "x-ratelimit-remaining", "x-ratelimit-reset")
        return self.status, self.body, {key: value for key, value in self.headers.items() if key not in moving}


def exchange(port: int, data: bytes, source: str = HOME) -> bytes:
    """Everything that is answered, to the end."""
    with socket.create_connection((HOME, port), timeout=DEADLINE_SECONDS, source_address=(source, 0)) as sock:
        answer = b""
        try:
            sock.sendall(data)
            while part := sock.recv(65536):
                answer += part
        except ConnectionError:
            return answer
        return answer


def request(method: str, path: str, body: bytes = b"", *lines: bytes) -> bytes:
    """One request on a connection of its own. ``lines``: more headers, as they are."""
    head = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", b"Connection: close", *lines]
    if body:
        head += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, b"", body])


def parsed(answer: bytes) -> Answer:
    top, _, body = answer.partition(b"\r\n\r\n")
    first, *fields = top.decode().split("\r\n")
    headers = {key.lower(): value for key, value in (field.split(": ", 1) for field in fields)}
    return Answer(int(first.split()[1]), headers, body)


def post_now(server: Server, path: str, source: str = HOME, **body: str) -> Answer:
    """From a thread that may wait."""
    return parsed(exchange(server.port, request("POST", path, json.dumps(body).encode()), source))


async def post(server: Server, path: str, source: str = HOME, **body: str) -> Answer:
    return await trio.to_thread.run_sync(partial(post_now, server, path, source, **body))


async def get(server: Server, path: str, *lines: bytes, source: str = HOME) -> Answer:
    """``lines``: more headers, as they are."""
    return parsed(await trio.to_thread.run_sync(exchange, server.port, request("GET", path, b"", *lines), source))


def other_addresses(count: int) -> list[str]:
    """More addresses of this machine's own; skips the test where the loopback has one only."""
    found = [f"127.0.0.{number}" for number in range(2, 2 + count)]
    for address in found:
        try:
            socket.create_server((address, 0)).close()
        except OSError:
            pytest.skip("the loopback interface has one address only")
    return found
