"""The Redis user that ``docs/redis.acl`` makes: enough for everything that chatd does, and for nothing else."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hiredis
import pytest

from chatd.adapters.valkey.program import find_program
from tests.e2e.cluster import Cluster, Peer, metric

ACL = Path(__file__).parents[2] / "docs/redis.acl"
PASSWORD = "correct-horse-battery"
ADMIN = "admin"
NONE = b"*0\r\n"
Ask = Callable[..., bytes]


def _ask(path: Path, *words: str, user: str = "chatd") -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        for command in (("AUTH", user, PASSWORD), words):
            sock.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # the stub wants one word
            answer = sock.recv(65536)
    return answer


def _listens(path: Path) -> bool:
    """The socket's file is there a moment before anybody listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Path]:
    """A Valkey with these users, and one of the test's own; its socket."""
    users = ACL.read_text().replace("CHANGE-THIS-PASSWORD", PASSWORD)
    (tmp_path / "users.acl").write_text(f"{users.rstrip()}\nuser {ADMIN} on >{PASSWORD} +acl|log\n")
    path = tmp_path / "v.sock"
    command = [find_program(), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--aclfile", str(tmp_path / "users.acl")], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not _listens(path):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        yield path
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def test_chatd_does_with_these_rights(guarded: Path, tmp_path: Path) -> None:
    """Messages between nodes, presence and limits; no call is denied."""
    (tmp_path / "password").write_text(PASSWORD + "\n")
    settings = f"[redis]\nurl = 'unix://chatd:x@{guarded}'\npassword_file = '{tmp_path / 'password'}'\n"
    directory = tmp_path / "cluster"
    directory.mkdir()
    cluster = Cluster(directory, 2, settings)
    try:
        ann = await Peer.open(cluster, 0, "ann")
        ben = await Peer.open(cluster, 1, "ben")
        conv = (await ann.ask("create", title="g", members=["ben"]))["conv"]
        await ben.event(conv, 1)
        await ann.send({"t": "watch", "users": ["ben"]})
        told = await ann.until(lambda m: m["t"] == "presence" and m["status"] == "online")
        assert told["user"] == "ben"
        await ann.say(conv, "hello")
        await ben.event(conv, 2)
        assert (await ann.ask("search", query="hello"))["t"] == "ok"
        for server in cluster.servers:
            assert metric(server, "chatd_limit_failures_total") == 0
            assert metric(server, "chatd_bus_dropped_total") == 0
    finally:
        cluster.stop()
    assert _ask(guarded, "ACL", "LOG", user=ADMIN) == NONE, "calls that were denied"


@pytest.mark.parametrize(
    "words",
    [
        ("KEYS", "*"), ("CONFIG", "GET", "*"), ("FLUSHALL",), ("SHUTDOWN",), ("ACL", "LIST"), ("CLIENT", "LIST"), ("MONITOR",),
        ("GET", "other"), ("SET", "other", "x"), ("PUBLISH", "other", "x"), ("SUBSCRIBE", "other"), ("PSUBSCRIBE", "*"),
        ("EVAL", "return redis.call('GET', 'other')", "0"), ("EVAL", "return redis.call('KEYS', '*')", "0"), ("SAVE",),
        ("REPLICAOF", "127.0.0.1", "1"), ("FUNCTION", "FLUSH"), ("SCRIPT", "FLUSH"), ("CLUSTER", "RESET"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_and_with_no_others(guarded: Path, words: tuple[str, ...]) -> None:
    """And each call that is denied is seen where the test above looks for them."""
    answer = _ask(guarded, *words)
    assert _ask(guarded, "ACL", "LOG", user=ADMIN) != NONE
    assert answer.startswith(b"-"), answer
    assert b"permissions" in answer or b"can't run this command" in answer, answer
