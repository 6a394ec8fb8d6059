"""Marked secrets go through two nodes that log all they can; then every place is searched where they may not be.

Passwords and tokens may be nowhere. What is said may be in the store, and pass over the bus; it is in no log, metric or key.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import trio

from chatd.accounts.signing_key import FILE_NAME, load_key
from tests.e2e.cluster import Cluster, Peer, Server
from tests.e2e.http_client import exchange, post, request
from tests.faults.injections import children_of
from tests.hostile.raw_redis import RawRedis, raw_redis

pytestmark = pytest.mark.usefixtures("no_stream_left")
SETTINGS = """
[log]
level = "debug"
[auth]
argon2_time_cost = 1
argon2_memory_kib = 1024
"""
NAMES = ("password", "second", "wrong", "token", "broken", "body", "title", "device", "agent", "query", "header", "path")
FORGED = '{"event": "forged_line", "level": "info"}'
LINE_BREAKS = ("\n", "\r\n", "\r", "\u2028", "\x85", "\x1b[2K", "\x00")


MARK = os.urandom(6).hex()
MARKS = {name: f"{name}.{MARK}" for name in NAMES}


@pytest.fixture
def loud(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes at the level debug, one that logs for programs and one for people."""
    made = Cluster(tmp_path, 1, SETTINGS)
    made.environ = {"CHATD_LOG_FORMAT": "console"}
    made.start()
    yield made
    made.stop()


class Heard:
    """What Valkey was told, as MONITOR shows it."""

    def __init__(self) -> None:
        self.text = b""

    async def listen(self, redis: RawRedis) -> None:
        while True:
            said = await redis.reply()
            self.text += said + b"\n" if isinstance(said, bytes) else b""


@asynccontextmanager
async def monitored(cluster: Cluster) -> AsyncIterator[Heard]:
    """Everything that nodes tell Valkey meanwhile."""
    heard = Heard()
    async with raw_redis(cluster) as monitor, raw_redis(cluster) as other, trio.open_nursery() as nursery:
        assert await monitor.command(b"MONITOR") == b"OK"
        nursery.start_soon(heard.listen, monitor)
        yield heard
        last = os.urandom(8).hex().encode()
        await other.command(b"ECHO", last)
        with trio.fail_after(30):
            while last not in heard.text:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


# --- a day with secrets ---------------------------------------------------------------------------------------


Answers = list[bytes]
"""Whatever was answered with an error."""


async def sent(server: Server, answers: Answers, *asked: bytes) -> None:
    """Each request on a connection of its own."""
    for data in asked:
        answers.append(await trio.to_thread.run_sync(exchange, server.port, data))


async def turned_away(server: Server, answers: Answers, *hellos: dict[str, Any]) -> None:
    """Each hello on a connection of its own, with a device unless it has one; most are refused."""
    for hello in hellos:
        peer = await Peer.bare(server)
        await peer.send({"t": "hello", "device": MARKS["device"], **hello})
        await peer.until(lambda m: m["t"] in ("bye", "welcome"))
        await peer.close()
        answers.append(repr(peer.seen).encode())


async def sign_up(cluster: Cluster, answers: Answers) -> str:
    """Accounts, sign-ins and passwords, right and wrong; the token at their end."""
    one, other = cluster.server(0), cluster.server(1)
    right, new, wrong = MARKS["password"], MARKS["second"], MARKS["wrong"]
    assert (await post(one, "/v1/accounts", name="ann", password=right)).status == 201
    bodies = (f'["{right}"]', f'{{"name": "{right}', f'{{"name": 1, "password": "{wrong}"}}')
    for server in (one, other):
        for path in ("/v1/tokens", "/v1/accounts", "/v1/password"):
            for name in ("ann", f"{right}!"):
                answers.append((await post(server, path, name=name, password=wrong, new_password=new)).body)
            await sent(server, answers, *[request("POST", path, body.encode()) for body in bodies])
    assert (await post(other, "/v1/password", name="ann", password=right, new_password=new, device="x")).status == 200
    token: str = (await post(one, "/v1/tokens", name="ann", password=new)).json["token"]
    return token


async def knock(cluster: Cluster, token: str, answers: Answers) -> None:
    """What a careless client puts where it does not belong, and a broken hello, on both nodes."""
    path, sealed = MARKS["path"], token.encode()
    for server in (cluster.server(0), cluster.server(1)):
        await sent(
            server, answers,
            request("GET", f"/{path}?token={token}"), request("GET", f"/ws?token={token}"), request("BREW", f"/{path}"),
            request("GET", "/v1/rate-limit", b"", b"Authorization: Bearer " + sealed + b"x"),
            request("GET", "/v1/rate-limit", b"", b"Authorization: Basic " + MARKS["password"].encode()),
            request("GET", "/x", b"", b"X-Mark: " + MARKS["header"].encode(), b"Cookie: " + sealed),
            request("GET", "/", b"", b"\xff: " + sealed), b"GET /" + sealed + b"\r\n\r\n",
        )  # fmt: skip
        await turned_away(
            server, answers,
            {"token": f"{MARKS['broken']}.{token.rpartition('.')[2]}.x"}, {"token": f"{token}x"}, {"token": token[:-4]},
            {"token": 5, "x": token}, {"token": token * 60}, {"token": token, "device": "\n" + MARKS["device"]},
            {"device": token},
        )  # fmt: skip


async def talk(cluster: Cluster, token: str, answers: Answers) -> None:
    """A conversation over both nodes, with everything that can be said wrongly in it."""
    body, query, title = MARKS["body"], MARKS["query"], MARKS["title"]
    bob = await Peer.open(cluster, 1, "bob")
    ann = await Peer.bare(cluster.server(0), "json")
    await ann.send({"t": "hello", "token": token, "device": MARKS["device"], "agent": MARKS["agent"]})
    await ann.until(lambda m: m["t"] == "live")
    conv = (await ann.ask("create", title=title, members=["bob"]))["conv"]
    assert (await ann.say(conv, body))["t"] == "ack"
    assert (await bob.event(conv, 2))["body"] == body
    assert (await ann.change("edit", conv=conv, seq=2, body=f"{body} again"))["t"] == "ack"
    await bob.event(conv, 3)
    for asked in (
        {"t": "search", "query": query}, {"t": "search", "query": f'"{query}'}, {"t": "find", "text": query},
        {"t": "search", "query": query, "cursor": query}, {"t": "history", "conv": body},
        {"t": "create", "title": title, "members": ["nobody-at-all"]}, {"t": "rename", "conv": conv, "title": title},
        {"t": "sign_out", "device": MARKS["device"] + "2"}, {"t": "conversations", "cursor": query},
    ):  # fmt: skip
        await ann.ask(**asked)
    for said in (
        json.dumps({"t": body, "token": token}), f'{{"t": "send", "body": "{body}', token,
        json.dumps({"t": "send", "cseq": body, "to": conv, "body": token}),
        json.dumps({"t": "send", "cseq": 99, "to": conv, "body": body}),
        json.dumps({"t": "hello", "token": token, "device": MARKS["device"]}),
    ):  # fmt: skip
        await ann.socket.send(said)
    await ann.ask("conversations")
    await bob.socket.send(b"\xff" + body.encode())
    await bob.ask("conversations")
    answers.extend(repr(message).encode() for peer in (ann, bob) for message in peer.seen if message["t"] == "error")


async def forge_lines(cluster: Cluster, token: str) -> None:
    """A line of a log in everything that somebody else may name, with what ends a line somewhere."""
    peer = await Peer.open(cluster, 0, "cem")
    for end in LINE_BREAKS:
        forged = f"x{end}{FORGED}{end}"
        for server in (cluster.server(0), cluster.server(1)):
            await post(server, "/v1/tokens", name=forged, password=forged)
            await post(server, "/v1/accounts", name=forged, password=forged)
            agent = f"User-Agent: {forged}".encode()
            await sent(server, [], request("GET", f"/{forged}"), request("GET", "/", b"", agent), request(forged, "/"))
            hello = {"token": token, "device": "d", "agent": "a"}
            await turned_away(server, [], *[hello | {key: forged} for key in hello])
        for asked, fields in (("create", {"title": forged, "members": []}), ("find", {"text": forged}), (forged, {})):
            await peer.ask(asked, **fields)


# --- where they are looked for --------------------------------------------------------------------------------


def logs_of(cluster: Cluster) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in cluster.data.glob("*.log")}
    assert len(found) >= len(cluster.servers) + 1, "of each node, and of Valkey"
    return found


def pages_of(server: Server) -> bytes:
    pages = b""
    for page in ("/metrics", "/readyz", "/healthz"):
        with urlopen(server.ops + page, timeout=60) as answer:
            pages += answer.read()
    return pages


def processes_of(cluster: Cluster) -> dict[str, bytes]:
    """What others on the machine may see of the nodes and of Valkey; nothing where there is no /proc."""
    pids = [server.process.pid for server in cluster.servers]
    pids += [child for server in cluster.running for child in children_of(server)]
    paths = [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ", "comm")]
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def files_of(cluster: Cluster) -> dict[str, bytes]:
    """The data directory without its logs, and without the key, which is in its file alone."""
    files = [path for path in cluster.data.rglob("*") if path.is_file() and path.suffix != ".log" and path.name != FILE_NAME]
    return {path.name: path.read_bytes() for path in files}


def in_parts(name: str, token: str) -> dict[str, bytes]:
    _, claims, signature = token.encode().split(b".")
    return {name: token.encode(), f"claims of {name}": claims, f"signature of {name}": signature}


def own_key(cluster: Cluster) -> dict[str, bytes]:
    key = load_key(cluster.data / FILE_NAME)
    return {"key": key, "key in hex": key.hex().encode(), "key in base64": base64.b64encode(key)}


def found_in(places: dict[str, bytes], secrets: dict[str, bytes]) -> list[tuple[str, str]]:
    return [(place, name) for place, text in places.items() for name, secret in secrets.items() if secret in text]


async def test_secrets_are_nowhere(loud: Cluster) -> None:
    """Planted by every way in, with everything done wrongly that can be; searched for in every place but the store's own."""
    answers: Answers = []
    outside = loud.token("eve")
    async with monitored(loud) as heard, raw_redis(loud) as redis:
        token = await sign_up(loud, answers)
        await knock(loud, token, answers)
        await talk(loud, token, answers)
        await talk(loud, outside, answers)
        kept = repr(await redis.kept()).encode()
    said = {name: MARKS[name].encode() for name in NAMES}
    secrets = {
        **in_parts("token", token), **in_parts("outside", outside), **own_key(loud),
        **{name: said[name] for name in ("password", "second", "wrong", "broken")},
    }  # fmt: skip
    pages = {f"pages of {number}": pages_of(server) for number, server in enumerate(loud.servers)}
    logs, stored = logs_of(loud), files_of(loud)
    assert found_in({**logs, **pages, **processes_of(loud), "keys": kept}, secrets | said) == []
    assert found_in({"bus": heard.text, **stored}, secrets | {"query": said["query"]}) == []
    assert len(answers) > 60
    assert found_in({f"answer {number}": answer for number, answer in enumerate(answers)}, secrets) == []
    # That a search finds what is there: what was said is on the bus and in the store, and who came in the logs.
    assert found_in({"bus": heard.text}, {"body": said["body"], "title": said["title"]}) == [("bus", "body"), ("bus", "title")]
    assert any(said["body"] in data for data in stored.values())
    assert b"chatd:" in kept
    assert any(b"ann" in log for log in logs.values())


async def test_nobody_forges_a_line_of_the_log(loud: Cluster) -> None:
    """Each line of the log for programs is one object with our own event; each of the log for people begins with its time."""
    await forge_lines(loud, loud.token("dan"))
    for_programs, for_people = (Path(server.log.name).read_bytes().decode() for server in loud.servers)
    lines = for_programs.splitlines()
    assert len(lines) > 20
    for line in lines:
        entry = json.loads(line)
        assert list(entry)[:3] == ["time", "level", "event"]
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", entry["event"]), line
    for line in re.split(r"[\n\r]", for_people.removesuffix("\n")):
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[\w+ *\] [a-z_]+\.[a-z_]+\b", line), line
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\x85\u2028]", for_people + for_programs)
