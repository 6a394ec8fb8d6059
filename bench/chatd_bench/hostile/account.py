"""Who the attacker is: one user, with tokens and messages like anybody else's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chatd_bench import websocket
from chatd_bench.dialects.chatd_cbor import ChatdCbor
from chatd_bench.dialects.dialect import Session, Talk, User
from chatd_bench.driver import ADDRESS_SHARE, Driver
from chatd_bench.faults import RunFailed
from chatd_bench.servers.server import Endpoint
from chatd_bench.wire import message_frame

HOST_NUMBER = 9
SOURCE = f"127.0.0.{HOST_NUMBER}"
"""An address of its own, with the limits of one; those who are measured come from others."""
NUMBER = (HOST_NUMBER - 1) * ADDRESS_SHARE
"""As a user of the harness, whose connections come from that address too."""
SIGN_IN_SECONDS = 30.0


class Account:
    """One user of the attacked server. Sans I/O, but for ``signed_in``."""

    def __init__(self, credentials: Mapping[str, str], endpoint: Endpoint, name: str) -> None:
        self._dialect = ChatdCbor(credentials)
        self._endpoint = endpoint
        self.name = name
        self.conv = ""
        """Its conversation with itself, where it has one."""
        self.key = websocket.random_key()
        self.request = websocket.upgrade_request(endpoint.host, endpoint.port)

    def frame(self, fields: Mapping[str, Any]) -> bytes:
        """One message, framed and masked."""
        return message_frame(dict(fields), self.key)

    def hello(self, device: str = "attacker", token: str | None = None) -> bytes:
        """All that a client says to be let in, in one piece."""
        said = {"t": "hello", "token": token or self._dialect.token(self.name), "device": device}
        return self.request + self.frame(said)

    @property
    def forged(self) -> str:
        """A token of its own whose signature is not good."""
        head, claims, signature = self._dialect.token(self.name).split(".")
        return f"{head}.{claims}.{signature[::-1]}"

    def signed_in(self, say: Sequence[Mapping[str, Any]], done: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Sign in, say these messages, and return what is answered until ``done``; then the connection is lost.

        Raises RunFailed.
        """

        def talk(session: Session) -> Talk[list[dict[str, Any]]]:
            yield from self._dialect.login(session)
            for message in say:
                session.send(self._dialect.encode(dict(message)))
            heard: list[dict[str, Any]] = []
            while not done(heard):
                heard.append(self._dialect.decode((yield)))
                if heard[-1]["t"] in ("bye", "error"):
                    raise RunFailed(f"{self.name}: the server said {heard[-1]}")
            return heard

        driver = Driver(self._dialect, (self._endpoint,), lambda: None)
        [line] = driver.open([Session(User(NUMBER, self.name))], SIGN_IN_SECONDS, lambda _: None, 1, talk)
        line.sock.close()
        answers: list[dict[str, Any]] = line.result
        return answers
