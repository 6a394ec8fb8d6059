"""Disks that fill up under a running server, and the same server behind TLS."""

from __future__ import annotations

import os
import resource
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.certificate import make_certificate
from tests.e2e.cluster import Cluster, Peer

BODY = os.urandom(30_000)


async def test_a_file_that_may_not_grow(own_cluster: Cluster) -> None:
    """Nothing is acknowledged that the disk refused, all is retryable, and the server recovers when the disk does."""
    ann = await Peer.open(own_cluster, 0, "ann")
    conv = (await ann.ask("create", title="g", members=[]))["conv"]
    size = (own_cluster.data / "chatd.db-wal").stat().st_size
    for server in own_cluster.servers:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    refused = await _fill(ann, conv)
    assert refused["code"] == "unavailable"
    assert refused["retry_after_ms"] > 0
    for server in own_cluster.servers:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await _is_whole(own_cluster, ann, conv)


async def test_a_read_mark_waits_for_the_disk(own_cluster: Cluster) -> None:
    """I10: a mark that the store refused is stored when it can be, and unread is right on every device."""
    ann = await Peer.open(own_cluster, 0, "ann")
    ben = await Peer.open(own_cluster, 0, "ben")
    conv = (await ann.ask("create", title="g", members=["ben"]))["conv"]
    for _ in range(3):
        await ann.say(conv, "x")
    await ben.event(conv, 4)
    size = (own_cluster.data / "chatd.db-wal").stat().st_size
    for server in own_cluster.servers:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    assert (await _fill(ann, conv))["code"] == "unavailable"
    await ben.send({"t": "read", "conv": conv, "seq": 3})
    # The request hands the marks over and waits for the writer: what it shows is that the store has refused them.
    refused = (await ben.ask("conversations"))["items"][0]
    for server in own_cluster.servers:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    healed = (await ben.ask("conversations"))["items"][0]
    assert healed["unread"] == refused["unread"] - 2
    other = await Peer.open(own_cluster, 1, "ben", "other")
    assert (await other.ask("conversations"))["items"][0]["unread"] == healed["unread"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    (tmp_path / "data").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "chatd-test", str(tmp_path / "data")], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a file system; the test above limits the file instead")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path / "data")], check=True)


async def test_a_full_file_system(small_disk: Path) -> None:
    """The same where no byte is left for anybody, the server's own log and Valkey's included."""
    cluster = Cluster(small_disk, 1)
    try:
        ann = await Peer.open(cluster, 0, "ann")
        conv = (await ann.ask("create", title="g", members=[]))["conv"]
        free = os.statvfs(cluster.data)
        ballast = cluster.data / "ballast"
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 400_000))
        refused = await _fill(ann, conv)
        assert refused["code"] == "unavailable"
        ballast.unlink()
        await _is_whole(cluster, ann, conv)
    finally:
        cluster.stop()


async def _fill(peer: Peer, conv: str) -> dict[str, Any]:
    """Send until a send is refused; return the refusal."""
    for _ in range(500):
        answer = await peer.say(conv, BODY)
        if answer["t"] == "error":
            return answer
    raise AssertionError("the disk took 15 MB")


async def _is_whole(cluster: Cluster, peer: Peer, conv: str) -> None:
    """What was acknowledged is the log, no more and no less, and the same cseq goes through now."""
    acknowledged = [m["seq"] for m in peer.seen if m["t"] == "ack"]
    answer = await peer.say(conv, "well again")
    while answer["t"] == "error":
        assert answer["code"] == "unavailable"
        answer = await peer.say(conv, "well again")
    assert answer["seq"] == len(acknowledged) + 2
    other = await Peer.open(cluster, 1, peer.welcome["user"], "other", positions={conv: 0})
    assert other.stream(conv) == list(range(1, answer["seq"] + 1))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that vouches for itself, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_cluster(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Cluster]:
    """One node behind TLS, with a small outbox."""
    cert, key = certificate
    settings = f"[server]\ntls_certificate = '{cert}'\ntls_key = '{key}'\n"
    settings += "[limits]\noutbox_bytes = 262144\nmessages_per_second = 10000\nmessages_burst = 10000\n"
    made = Cluster(tmp_path, 1, settings, tls=ssl.create_default_context(cafile=str(cert)))
    yield made
    made.stop()


async def test_a_conversation_over_tls(tls_cluster: Cluster) -> None:
    """The other kind of link keeps the same promises: live, replayed, and pages of every size."""
    ann = await Peer.open(tls_cluster, 0, "ann")
    bob = await Peer.open(tls_cluster, 0, "bob", encoding="json")
    conv = (await ann.ask("create", title="g", members=["bob"]))["conv"]
    for number in range(50):
        await (ann, bob)[number % 2].say(conv, "x" * number * 100)
    await ann.event(conv, 51)
    await bob.event(conv, 51)
    assert ann.stream(conv) == bob.stream(conv) == list(range(1, 52))
    back = await Peer.open(tls_cluster, 0, "bob", "new", positions={conv: 0})
    assert back.stream(conv) == list(range(1, 52))


async def test_a_client_over_tls_that_stops_reading_is_cut(tls_cluster: Cluster) -> None:
    """I9 over TLS: cut at its bound; the others' streams go on, and it comes back for the rest."""
    talker = await Peer.open(tls_cluster, 0, "talker")
    slow = await Peer.open(tls_cluster, 0, "slow")
    conv = (await talker.ask("create", title="g", members=["slow"]))["conv"]
    for _ in range(400):
        await talker.say(conv, BODY)
    await slow.closed()
    got = slow.stream(conv)
    assert got == list(range(1, len(got) + 1))
    assert len(got) < 400
    back = await Peer.open(tls_cluster, 0, "slow", positions={conv: len(got)})
    assert back.stream(conv) == list(range(len(got) + 1, 402))


async def test_who_stalls_in_the_tls_handshake_stops_nobody(tls_cluster: Cluster) -> None:
    """Silence, half a greeting and plain HTTP on the TLS port: the next client is served."""
    port = tls_cluster.server(0).port
    stalled = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
    await stalled[0].send_all(b"\x16\x03\x01\x02\x00\x01")
    await stalled[1].send_all(b"GET / HTTP/1.1\r\n\r\n")
    ann = await Peer.open(tls_cluster, 0, "ann")
    assert (await ann.say("@ann", "to myself"))["t"] == "ack"
    for stream in stalled:
        await trio.aclose_forcefully(stream)


async def test_sigterm_drains_over_tls(tls_cluster: Cluster) -> None:
    """The goodbye reaches a TLS client whole, and the process ends with 0."""
    ann = await Peer.open(tls_cluster, 0, "ann")
    assert (await ann.say("@ann", "to myself"))["t"] == "ack"
    assert await trio.to_thread.run_sync(tls_cluster.server(0).terminate) == 0
    assert await ann.closed() == 4000
    assert ann.seen[-1]["reason"] == "draining"
