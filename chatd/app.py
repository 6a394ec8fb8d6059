"""The composition root: the whole object graph on one screen, and the order in which it starts and ends.

Start: data directory, key, store, Valkey, bus, then the sockets. End (SIGTERM, SIGINT): not ready any more, no new
connections, every session told to come back elsewhere (spread over ``drain_seconds``), everything in flight stored,
then the rest is cancelled. One of the two modules that know which adapters stand behind the ports.
"""

from __future__ import annotations

import errno
import gc
import resource
import secrets
import signal
import ssl
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import SystemRandom
from time import time_ns
from urllib.parse import quote, urlsplit, urlunsplit

import structlog
import trio

from chatd import __version__
from chatd.accounts.passwords import Passwords, hasher_of
from chatd.accounts.service import Accounts
from chatd.accounts.setup import load_outside_issuers, load_tokens
from chatd.accounts.signing_key import BadKeyFile, load_key
from chatd.accounts.tokens import BadIssuer
from chatd.adapters.redis.address import BadAddress
from chatd.adapters.redis.bus import RedisBus
from chatd.adapters.redis.limits import RedisLimits
from chatd.adapters.redis.presence import RedisBoard
from chatd.adapters.sqlite.database import FILE_NAME as STORE
from chatd.adapters.sqlite.store import open_store
from chatd.adapters.valkey import EmbeddedValkey, ProgramNotFound, ValkeyUnavailable
from chatd.adapters.valkey.program import UnsafeDirectory
from chatd.assembly import Assembly
from chatd.config import Config, data_dir_of, split_address
from chatd.delivery.envelope import NODE_BYTES
from chatd.listener.accepting import accept_all, open_listeners
from chatd.listener.http import serve_http
from chatd.listener.listener import Listener
from chatd.listener.routes import Api, OpsPages
from chatd.logs import configure_logging
from chatd.ops.health import Readiness
from chatd.ops.metrics import Metrics
from chatd.precautions import warnings_of
from chatd.store.port import StoreError
from chatd.wire.link import LINGER_SECONDS
from chatd.wire.poller import Poller

LAST_WORDS_SECONDS = LINGER_SECONDS + 1
"""How long the drained sessions may take to read their goodbye after the last one was told."""

log = structlog.get_logger()


_START_FAULTS = (
    BadAddress, BadIssuer, BadKeyFile, ProgramNotFound, StoreError, UnsafeDirectory, ValkeyUnavailable, OSError,
)  # fmt: skip
"""What the operator can mend: one line, not a traceback."""


class StartFailed(Exception):
    """The server cannot start; the text is one line for the operator."""


def run(config: Config, *, ops_asked: bool) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises StartFailed. ``ops_asked``: the operators' address is the
    user's own wish, so that a port already taken is an error and not a reason to take another."""
    configure_logging(config.log.level, config.log.format)
    _raise_file_limit()
    try:
        trio.run(partial(serve, config, ops_asked=ops_asked))
    except* (StartFailed, *_START_FAULTS) as faults:
        fault = _first(faults)
        if isinstance(fault, OSError) and fault.filename:
            raise StartFailed(f"{fault.filename}: {fault.strerror}") from faults
        raise StartFailed(str(fault)) from faults


def check_files(config: Config) -> None:
    """Read the files that the configuration names, as a start would; nothing is made. Raises StartFailed."""
    _tls(config)
    _redis_url(config)
    try:
        load_outside_issuers(config)
        if config.auth.key_file:
            load_key(Path(config.auth.key_file))
    except (BadKeyFile, BadIssuer) as fault:
        raise StartFailed(str(fault)) from fault


def unsafe(config: Config) -> list[str]:
    """See ``precautions``."""
    return warnings_of(config, STORE)


def _first(fault: BaseException) -> BaseException:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


async def serve(config: Config, *, ops_asked: bool) -> None:
    """The server's life. Cancelling ends it hard: what was acknowledged is stored, nobody is told goodbye.

    Longer than functions are here, and whole: it is the list of what there is, in the order in which it must start, and does
    nothing else.
    """
    tls, redis_url = _tls(config), _redis_url(config)  # what may be wrong, before anything is made or started
    for sentence in unsafe(config):
        log.warning("server.unsafe", what=sentence)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        public = await _listen(config.server.listen, config.server.backlog)
        for accepting in public:
            stack.push_async_callback(accepting.aclose)
        data = data_dir_of(config)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        tokens = load_tokens(config, data)
        poller = Poller(lambda: metrics.stored + metrics.requests)
        stack.callback(poller.close)  # after the services: the poller's own task is one of them
        store = await stack.enter_async_context(
            open_store(
                data / STORE, max_members=config.limits.group_members, max_devices=config.limits.devices_per_user,
                busy_seconds=config.store.busy_seconds, new_device_events=config.delivery.replay_new_device_events,
                window_ms=int(config.limits.edit_hours * 3_600_000),
            )
        )  # fmt: skip
        services = await stack.enter_async_context(trio.open_nursery())
        stack.callback(services.cancel_scope.cancel)
        url = redis_url
        if not url:
            valkey = EmbeddedValkey(data)
            await services.start(valkey.run)
            url = valkey.url
        name = secrets.token_bytes(NODE_BYTES)
        core = Assembly(
            config, store, metrics, poller.cork, name=name, bus_key=tokens.bus_key, wall_ms=_wall_ms, random=SystemRandom(),
            verify=lambda token: tokens.verify(token, _wall_ms()),
        )  # fmt: skip
        hub, node, limiter, presence, limits = core.hub, core.node, core.limiter, core.presence, config.limits
        bus = RedisBus(url, partial(_corked, poller, hub.bus_message), core.repair.bus_lost)
        board = RedisBoard(url, name.hex(), presence.heard_of, presence.board_lost, expiry=config.presence.expiry_seconds)
        shared = RedisLimits(url, on_up=limiter.link_up, on_down=limiter.link_down)
        core.connect(bus, board, shared)
        for actor in (bus.run, board.run, shared.run, poller.run, *core.actors()):
            services.start_soon(actor)
        await services.start(node.roll.run)
        accounts = Accounts(
            store, core.writer.call, Passwords(threads=config.auth.hash_workers, hasher=hasher_of(config.auth)), tokens,
            open_registration=config.auth.open_registration, wall_ms=_wall_ms, on_ended=hub.sign_out,
        )  # fmt: skip
        readiness = Readiness()
        readiness.add("store", lambda: core.writer.healthy)
        readiness.add("bus", lambda: bus.up, required=False)
        api = Api(accounts, readiness, limiter, origins=config.server.allowed_origins)
        listener = Listener(
            node, poller, api.respond, metrics, max_connections=limits.connections,
            max_per_address=limits.connections_per_address, handshake_seconds=config.server.handshake_seconds,
            outbox_bytes=limits.outbox_bytes, outbox_frames=limits.outbox_frames,
            allowed_origins=config.server.allowed_origins, tls=tls,
        )  # fmt: skip
        _watch(metrics, core, listener, bus, poller)
        ops = OpsPages(metrics.exposition, readiness)
        await _serve_sockets(config, ops_asked, public, core, readiness, listener, ops)
        services.cancel_scope.cancel()
    log.info("server.stopped")


def _watch(metrics: Metrics, core: Assembly, listener: Listener, bus: RedisBus, poller: Poller) -> None:
    node, writer, limiter, signals = core.node, core.writer, core.limiter, core.signals
    metrics.watch("sessions", "Sessions open now", lambda: len(node.sessions))
    metrics.watch("connections", "Connections open now, WebSocket or HTTP", lambda: listener.connections)
    metrics.watch("presence_people", "Users that this node says are there", lambda: node.presence.people)
    metrics.watch("presence_watched", "Users watched by sessions of this node", lambda: node.presence.watched)
    metrics.watch("outbox_bytes", "Bytes waiting in all outboxes", node.waiting_bytes)
    metrics.watch("writer_mailbox", "Operations waiting for a commit", lambda: len(writer))
    metrics.watch("topics", "Conversations that sessions of this node follow", lambda: len(node.hub.topics))
    metrics.watch("gapped_topics", "Conversations in which an event is missing", lambda: len(node.hub.gapped))
    metrics.watch("held_bytes", "Bytes of events that wait behind a missing one", lambda: node.hub.held_bytes)
    metrics.watch("bus_waiting_bytes", "Bytes that the bus has taken and Redis has not", lambda: bus.waiting_bytes)
    metrics.watch("link_faults", "Links ended by a fault that was not the peer's", lambda: poller.faults, counter=True)
    metrics.watch("bus_published", "Messages handed to the bus", lambda: bus.published, counter=True)
    metrics.watch("bus_received", "Messages received from the bus", lambda: bus.received, counter=True)
    metrics.watch("bus_dropped", "Messages let go while the bus was down or full", lambda: bus.dropped, counter=True)
    metrics.watch("signals_waiting", "Typing and receipts that wait, leases of typing among them", lambda: signals.waiting)
    metrics.watch("limit_leases", "Users' rate limits held here, one for each operation", lambda: limiter.leases)
    metrics.watch("limit_reports", "Reports of leases to Redis", lambda: limiter.reports, counter=True)
    metrics.watch("limit_failures", "Calls about rate limits that Redis did not answer", lambda: limiter.failures, counter=True)
    metrics.watch("limit_redis_skipped", "1 while Redis is left alone after failures", lambda: float(limiter.skipping))
    metrics.watch("search_behind", "Events that are stored and that search does not find yet", lambda: core.indexer.behind)
    metrics.watch("bus_reconnects", "Times that a link of the bus was made anew", lambda: bus.reconnects, counter=True)


def _collect_seldom() -> None:
    """What lives as long as the server is not looked at again, and the rest seldom: messages are no cyclic garbage.

    With the interpreter's 700 new objects between collections, six runs in turn: 17 % fewer 1:1 messages a second. With 50,000
    nothing is gained over 10,000, and when thousands log in, whose objects stay, everybody waits longer at a time: up to 48 ms
    for the youngest and 220 ms for the next generation, instead of 12 and 40. The oldest, all that sessions hold, is
    all but never looked through: who ends is freed by the counts of references (15,779 objects of 300 were not, as rings).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 1000)


async def _serve_sockets(
    config: Config, ops_asked: bool, public: list[trio.SocketListener], core: Assembly, readiness: Readiness,
    listener: Listener, ops: OpsPages,
) -> None:  # fmt: skip
    operators = await _listen_ops(config.server.ops, asked=ops_asked)
    async with trio.open_nursery() as connections:
        serve_ops = partial(_serve_ops, ops)  # to the very end: who drains a node wants to watch it
        connections.start_soon(partial(trio.serve_listeners, serve_ops, operators, handler_nursery=connections))
        async with trio.open_nursery() as acceptors:
            for accepting in public:
                acceptors.start_soon(accept_all, accepting, listener.admit, partial(listener.serve, connections), connections)
            _collect_seldom()
            _announce(config, public, operators)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    break
                core.node.draining = readiness.draining = True
                acceptors.cancel_scope.cancel()
        for accepting in public:
            await accepting.aclose()
        await _drain(config, core)
        connections.cancel_scope.cancel()


async def _drain(config: Config, core: Assembly) -> None:
    node = core.node
    with trio.move_on_after(config.server.drain_seconds + LAST_WORDS_SECONDS):
        await node.drain(config.server.drain_seconds)
    with trio.move_on_after(LAST_WORDS_SECONDS):
        while node.presence.store_seen():
            await node.writer.settled()
        await node.roll.sign_off()
    node.writer.close()
    with trio.move_on_after(config.store.busy_seconds + LAST_WORDS_SECONDS) as scope:
        await core.writer_ended.wait()
    log.info("node.drained", stored_all=not scope.cancelled_caught)


def _corked(poller: Poller, receive: Callable[[bytes, bytes], None], channel: bytes, payload: bytes) -> None:
    with poller.cork:
        receive(channel, payload)


async def _serve_ops(ops: OpsPages, stream: trio.SocketStream) -> None:
    try:
        await serve_http(stream, b"", ops.respond)
    except Exception:
        log.exception("connection.failed")
    finally:
        await trio.aclose_forcefully(stream)


async def _listen(address: str, backlog: int) -> list[trio.SocketListener]:
    host, port = split_address(address)
    try:
        return await open_listeners(host, port, backlog)
    except OSError as fault:
        raise StartFailed(f"cannot listen on {address}: {fault.strerror or fault}") from fault


async def _listen_ops(address: str, *, asked: bool) -> list[trio.SocketListener]:
    host, port = split_address(address)
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as fault:
        if asked or fault.errno not in (None, errno.EADDRINUSE):
            raise StartFailed(f"cannot listen on {address} for operators: {fault.strerror or fault}") from fault
        return await trio.open_tcp_listeners(0, host=host)


def _announce(config: Config, public: list[trio.SocketListener], operators: list[trio.SocketListener]) -> None:
    scheme = "https" if config.server.tls_certificate else "http"
    url = f"{scheme}://{_address_of(public[0])}"
    program = Path(sys.argv[0])
    command = "chatd"
    if program.name == "chatd" and program.exists():
        inside = program.resolve().is_relative_to(Path.cwd())
        command = str(program.resolve().relative_to(Path.cwd())) if inside else str(program)
    print(f"chatd {__version__} listening on {url}   (operators: http://{_address_of(operators[0])})")
    print(f"data in {data_dir_of(config)}")
    print("to chat, type in two other terminals:")
    print(f"  {command} chat {url} --user alice")
    print(f"  {command} chat {url} --user bob", flush=True)
    log.info("server.started", url=url, operators=_address_of(operators[0]), version=__version__)


def _address_of(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config.server.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.server.tls_certificate, config.server.tls_key)
    except (OSError, ssl.SSLError) as fault:
        why = fault.strerror if isinstance(fault, OSError) and not isinstance(fault, ssl.SSLError) else str(fault)
        names = f"server.tls_certificate = {config.server.tls_certificate!r}, server.tls_key = {config.server.tls_key!r}"
        raise StartFailed(f"{names}: {why or 'no certificate or key in it'}") from fault
    return context


def _redis_url(config: Config) -> str:
    """The configured address with the password from its own file, which is not the place where the address stands."""
    if not config.redis.url or not config.redis.password_file:
        return config.redis.url
    try:
        password = Path(config.redis.password_file).read_text().strip()
    except OSError as fault:
        raise StartFailed(f"redis.password_file = {config.redis.password_file!r}: {fault.strerror}") from fault
    parts = urlsplit(config.redis.url)
    user = quote(parts.username or "", safe="")
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wall_ms() -> int:
    return time_ns() // 1_000_000
