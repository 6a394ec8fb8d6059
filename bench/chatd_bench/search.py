"""``search``: how long searching and completing take over the wire, in a store with a long history (``archive``).

Closed loop: a few users at once, each with one request under way. One kind after another, so that a slow one does not make
the others look slow. What comes back is checked: each message holds what was asked for, each name begins so.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import cbor2
import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chatd_bench import websocket
from chatd_bench.archive import BEGAN_MS, Archive
from chatd_bench.connection import RunFailed
from chatd_bench.histogram import Histogram
from chatd_bench.server import Target
from chatd_bench.wire import message_frame

Result = dict[str, Any]
Ask = tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]

USERS_AT_A_TIME = 25
"""Requests of one user before the next one comes; of a user's first, SQLite has read nothing yet."""
BUSY = 5
"""The groups in which a quarter of all messages are. Half of the users who ask are in one of them."""
COMMON, USUAL = 10, 2000
"""Words by rank: the ten most frequent are in most messages, people look for any of the first two thousand."""

SETTINGS = {
    "CHATD_LIMITS_SEARCHES_PER_SECOND": "1000000",
    "CHATD_LIMITS_SEARCHES_BURST": "1000000",
    "CHATD_DELIVERY_REPLAY_NEW_DEVICE_EVENTS": "0",
}


class Searcher:
    """One connection of one user, with blocking calls. Raises RunFailed."""

    def __init__(self, target: Target, user: str) -> None:
        self._socket = socket.create_connection((target.host, target.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(websocket.upgrade_request(target.host, target.port))
        self._data = b""
        self._id = 0
        self._key = websocket.random_key()
        while not (end := websocket.answer_end(self._data)):
            self._read()
        self._data = self._data[end:]
        claims = {"iss": target.issuer, "aud": target.audience, "sub": user, "iat": int(time.time()),
                  "exp": int(time.time()) + 3600}  # fmt: skip
        key: Any = load_pem_private_key(target.private_key, None)
        token = jwt.encode(claims, key, algorithm="EdDSA")
        self._send({"t": "hello", "token": token, "device": secrets.token_hex(8)})
        while self._receive()["t"] != "live":
            pass

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        self._id += 1
        self._send({**message, "id": self._id})
        while (answer := self._receive()).get("id") != self._id:
            pass
        if answer["t"] != "ok":
            raise RunFailed(f"search: {message} was answered with {answer}")
        return answer

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(message_frame(message, self._key))

    def _read(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise RunFailed("search: the server closed the connection")
        self._data += data

    def _receive(self) -> dict[str, Any]:
        while (frame := websocket.find_frame(self._data, 0)) is None:
            self._read()
        start, stop = frame
        payload, self._data = self._data[start:stop], self._data[stop:]
        message = cbor2.loads(payload)
        if not isinstance(message, dict) or message.get("t") == "bye":
            raise RunFailed(f"search: the server said {message}")
        return message


def run_search(target: Target, archive: Archive, requests: int, searchers: int) -> Result:
    """``requests`` of each kind, ``searchers`` at once. Raises RunFailed."""
    kinds: Result = {}
    checked = 0
    for name in _KINDS:
        latencies, answers = _one_kind(target, archive, name, requests, searchers)
        kinds[name] = {
            "requests": latencies.total, "answers": answers,
            "latency_ms": {f"p{percent:g}": latencies.percentile_ms(percent) for percent in (50, 90, 99, 100)},
        }  # fmt: skip
        checked += answers
    return {"kinds": kinds, "checks": {"answers": checked}}


def _one_kind(target: Target, archive: Archive, name: str, requests: int, searchers: int) -> tuple[Histogram, int]:
    latencies, answers = Histogram(), 0
    lock = threading.Lock()
    faults: list[BaseException] = []

    def work(number: int) -> None:
        nonlocal answers
        random = Random(f"{name} {number}")
        try:
            for begun in range(0, requests // searchers, USERS_AT_A_TIME):
                count = min(USERS_AT_A_TIME, requests // searchers - begun)
                for seconds, length in _ask_as(target, archive, name, random, count):
                    with lock:
                        latencies.record(int(seconds * 1e6))
                        answers += length
        except BaseException as fault:  # noqa: BLE001 - raised in the thread that waits
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(searchers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return latencies, answers


def _ask_as(
    target: Target, archive: Archive, name: str, random: Random, count: int
) -> Iterator[tuple[float, int]]:
    """As one user; for each request its seconds, and how much the answer holds."""
    group = random.choice(archive.groups[:BUSY] if random.random() < 0.5 else archive.groups)
    searcher = Searcher(target, archive.users[random.choice(group.members)])
    try:
        for _ in range(count):
            message, fits = _KINDS[name](archive, random, group.conv)
            began = time.perf_counter()
            answer = searcher.ask(message)
            seconds = time.perf_counter() - began
            if not fits(answer):
                raise RunFailed(f"search: {message} was answered with what it did not ask for")
            yield seconds, len(answer.get("events", ())) + len(answer.get("users", ())) + len(answer.get("items", ()))
    finally:
        searcher.close()


def _search(words: list[str], query: str, **narrow: Any) -> Ask:
    def fits(answer: dict[str, Any]) -> bool:
        return all(any(said.startswith(word) for said in event["body"].split()) for event in answer["events"] for word in words)

    return {"t": "search", "query": query, **narrow}, fits


def _find(text: str, **narrow: Any) -> Ask:
    def fits(answer: dict[str, Any]) -> bool:
        return all(user.startswith(text) for user in answer["users"])

    return {"t": "find", "text": text, **narrow}, fits


def _word(archive: Archive, random: Random, ranks: int = USUAL) -> str:
    return random.choice(archive.words[:ranks])


def _usual(archive: Archive, random: Random, _: str) -> Ask:
    word = _word(archive, random)
    return _search([word], word)


def _common(archive: Archive, random: Random, _: str) -> Ask:
    word = _word(archive, random, COMMON)
    return _search([word], word)


def _two(archive: Archive, random: Random, _: str) -> Ask:
    words = [_word(archive, random, COMMON), _word(archive, random)]
    return _search(words, " ".join(words))


def _phrase(archive: Archive, random: Random, _: str) -> Ask:
    said = random.choice(archive.bodies).split()
    at = random.randrange(len(said) - 1)
    return _search(said[at : at + 2], f'"{said[at]} {said[at + 1]}"')


def _prefix(archive: Archive, random: Random, _: str) -> Ask:
    begin = _word(archive, random)[: random.choice((2, 3, 4))]
    return _search([begin], f"{begin}*")


def _ranked(archive: Archive, random: Random, _: str) -> Ask:
    words = [_word(archive, random, COMMON), _word(archive, random)]
    asked = words[: random.choice((1, 2))]
    return _search(asked, " ".join(asked), order="ranked")


def _narrow(archive: Archive, random: Random, conv: str) -> Ask:
    word = _word(archive, random, COMMON)
    return _search([word], word, conv=conv, before=BEGAN_MS + random.randrange(archive.took_ms))


def _names(archive: Archive, random: Random, _: str) -> Ask:
    return _find(random.choice(archive.users)[: random.randrange(1, 6)])


def _titles(archive: Archive, random: Random, _: str) -> Ask:
    return _find(random.choice(archive.words)[: random.randrange(1, 6)])


def _members(archive: Archive, random: Random, conv: str) -> Ask:
    return _find(random.choice(archive.users)[: random.randrange(1, 4)], conv=conv)


_KINDS: dict[str, Callable[[Archive, Random, str], Ask]] = {
    "search word": _usual, "search common word": _common, "search two words": _two, "search phrase": _phrase,
    "search prefix": _prefix, "search ranked": _ranked, "search in conv": _narrow, "find user": _names, "find title": _titles,
    "find member": _members,
}  # fmt: skip


def search_rows(result: Result) -> list[tuple[str, str]]:
    """The result as lines."""
    rows = []
    for name, kind in result["kinds"].items():
        latencies = "   ".join(f"{key} {value:7.2f}" for key, value in kind["latency_ms"].items() if value is not None)
        rows.append((name, f"{kind['requests']:>6} requests   {latencies}   ms   {kind['answers'] / kind['requests']:.1f} found"))
    rows.append(("checked", f"{result['checks']['answers']} answers"))
    return rows
