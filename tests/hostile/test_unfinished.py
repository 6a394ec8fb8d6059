"""Crowds that begin and do not go on: half a request, half a TLS handshake, no hello, a byte now and then. They are
held to the bound of their address and cut in the end; whoever comes from elsewhere is served meanwhile."""

from __future__ import annotations

import resource
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from chatd_proof.verdict import percentile

from tests.client_frames import KEY
from tests.conftest import ReportFigures
from tests.e2e.certificate import make_certificate
from tests.e2e.cluster import Cluster, Peer, metric
from tests.e2e.http_client import HOME, other_addresses

pytestmark = pytest.mark.usefixtures("no_stream_left")
DEADLINE_SECONDS = 120.0
CROWD, LARGE_CROWD, BOUND = 500, 5000, 300
SETTINGS = """
[server]
handshake_seconds = 3
hello_seconds = 3
[limits]
connections_per_address = {bound}
connections_per_minute = 100000
"""
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chatd.v1.cbor\r\n\r\n"
)
BEGINNINGS = {
    "silent": (b"", b""),
    "half a request": (b"GET /ws HTTP/1.1\r\nX: ", b"x"),
    "no hello": (UPGRADE, b""),
    "half a hello": (UPGRADE + b"\x82\xfe\x10\x00" + KEY, b"\0"),
}
"""What is sent at once, and what is sent then, now and then."""
MORE_BEGINNINGS = {**BEGINNINGS, "half a body": (b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", b" ")}
"""A body has a deadline of its own, 10 s."""
TLS_BEGINNINGS = {"silent": (b"", b""), "half a greeting": (b"\x16\x03\x01\x02\x00\x01", b"\0"), "no TLS": (UPGRADE, b"x")}


class Crowd:
    """``count`` sockets from ``source``; ``ends`` counts how each was ended, by its last word."""

    def __init__(self, port: int, source: str, count: int, beginnings: dict[str, tuple[bytes, bytes]], pause: float) -> None:
        self._port, self._source, self._count, self._pause = port, source, count, pause
        self._beginnings = list(beginnings.values())
        self.here = 0
        self.all_here = trio.Event()
        self.ends: Counter[str] = Counter()

    async def run(self) -> None:
        """Until the last one was ended."""
        async with trio.open_nursery() as nursery:
            for number in range(self._count):
                nursery.start_soon(self._begin, *self._beginnings[number % len(self._beginnings)])

    async def _begin(self, first: bytes, then: bytes) -> None:
        stream = await trio.open_tcp_stream(HOME, self._port, local_address=self._source)
        async with stream, trio.open_nursery() as nursery:
            self.here += 1
            if self.here == self._count:
                self.all_here.set()
            nursery.start_soon(self._drip, stream, first, then)
            self.ends[await self._last_word(stream)] += 1
            nursery.cancel_scope.cancel()

    async def _drip(self, stream: trio.SocketStream, first: bytes, then: bytes) -> None:
        try:
            await stream.send_all(first)
            while then:
                await trio.sleep(self._pause)
                await stream.send_all(then)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _last_word(self, stream: trio.SocketStream) -> str:
        said = b""
        try:
            while data := await stream.receive_some(4096):
                said += data
        except trio.BrokenResourceError:
            pass
        status = said[9:12].decode() if said.startswith(b"HTTP/1.1 ") else "nothing said"
        return "no hello" if status == "101" and b"hello_expected" in said else status


async def served(cluster: Cluster, number: int) -> float:
    """Somebody comes from elsewhere, says something and goes; seconds until they were answered."""
    began = time.perf_counter()
    peer = await Peer.open(cluster, 0, f"guest{number}")
    assert (await peer.say(f"@guest{number}", "to myself"))["t"] == "ack"
    taken = time.perf_counter() - began
    await peer.close()
    return taken


async def besieged(cluster: Cluster, crowd: Crowd) -> tuple[list[float], float]:
    """How long guests took while the crowd was there, and how many connections there were at most."""
    times: list[float] = []
    most, over = 0.0, trio.Event()

    async def run() -> None:
        await crowd.run()
        over.set()

    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await crowd.all_here.wait()
            while not over.is_set():
                times.append(await served(cluster, len(times)))
                most = max(most, await trio.to_thread.run_sync(metric, cluster.server(0), "chatd_connections"))
    return times, most


def made(directory: Path, settings: str, *, tls: bool = False) -> Cluster:
    if not tls:
        return Cluster(directory, 1, settings)
    certificate, key = make_certificate(directory)
    secured = settings.replace("[server]", f"[server]\ntls_certificate = '{certificate}'\ntls_key = '{key}'")
    return Cluster(directory, 1, secured, tls=ssl.create_default_context(cafile=str(certificate)))


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Cluster, dict[str, tuple[bytes, bytes]]]]:
    """A node with short deadlines, and how a crowd begins there."""
    cluster = made(tmp_path, SETTINGS.format(bound=BOUND), tls=request.param)
    yield cluster, TLS_BEGINNINGS if request.param else BEGINNINGS
    cluster.stop()


async def test_a_crowd_is_bounded_and_cut(
    node: tuple[Cluster, dict[str, tuple[bytes, bytes]]], report_figures: ReportFigures
) -> None:
    """500 from one address where 300 may be: the others are turned away, guests from the next address are served, and in the end
    nobody of the crowd is left."""
    cluster, beginnings = node
    (source,) = other_addresses(1)
    crowd = Crowd(cluster.server(0).port, source, CROWD, beginnings, pause=0.3)
    times, most = await besieged(cluster, crowd)
    assert times, "somebody was served while they were there"
    assert most <= BOUND + 2
    assert crowd.ends.total() == CROWD
    if beginnings is BEGINNINGS:
        assert crowd.ends["408"] and crowd.ends["no hello"] and crowd.ends["503"], crowd.ends
    assert metric(cluster.server(0), "chatd_connections_refused_total") >= 1
    assert metric(cluster.server(0), "chatd_connection_faults_total") == 0
    again = Crowd(cluster.server(0).port, source, 1, {"no hello": (UPGRADE, b"")}, pause=1)
    if beginnings is BEGINNINGS:
        await again.run()
        assert again.ends == {"no hello": 1}, "their places are free again"
    guests = f"{len(times)} guests, the slowest {max(times) * 1000:.0f} ms"
    report_figures(f"{CROWD} from one address, {most:.0f} connections at most; {guests}")


@pytest.mark.long
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_large_crowd(tmp_path: Path, report_figures: ReportFigures, tls: bool) -> None:
    """5000 at once, each of which the bound lets in, and the deadlines that are the default; what guests wait before and during
    is told."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cluster = made(tmp_path, SETTINGS.format(bound=6000).replace("handshake_seconds = 3\nhello_seconds = 3\n", ""), tls=tls)
    try:
        alone = Counter([await served(cluster, number) for number in range(100)])
        (source,) = other_addresses(1)
        began = trio.current_time()
        crowd = Crowd(cluster.server(0).port, source, LARGE_CROWD, TLS_BEGINNINGS if tls else MORE_BEGINNINGS, pause=5.0)
        times, most = await besieged(cluster, crowd)
        over = trio.current_time() - began
    finally:
        cluster.stop()
    assert times
    assert crowd.ends.total() == LARGE_CROWD
    before, during = percentile(alone, 0.99) * 1000, percentile(Counter(times), 0.99) * 1000
    report_figures(
        f"{'TLS' if tls else 'plain'}: {most:.0f} held at most, all cut after {over:.0f} s; guests p99 "
        f"{before:.0f} ms before, {during:.0f} ms during ({len(times)} of them)"
    )
