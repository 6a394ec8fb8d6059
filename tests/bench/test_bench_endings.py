"""How a run ends before its time: somebody ends the harness, or a process of the server is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import chatd_bench
import pytest
from chatd_bench import endings
from chatd_bench.cast import Cast, make_users, pairs
from chatd_bench.dialects.chatd_cbor import ChatdCbor
from chatd_bench.dialects.dialect import Channel, Session
from chatd_bench.dialects.registry import must_offer
from chatd_bench.engine.native import Engine, Membership
from chatd_bench.faults import NotOffered, RunFailed
from chatd_bench.machine import Cpu, buses_of, family, is_running
from chatd_bench.scenarios import storm
from chatd_bench.scenarios.flow import run_dm
from chatd_bench.scenarios.history import run_catchup, run_history
from chatd_bench.scenarios.idle import run_idle
from chatd_bench.scenarios.stage import Options, Stage, run_id
from chatd_bench.servers.chatd import Chatd
from chatd_bench.servers.server import Needs, Running
from chatd_bench.traffic import Order, Traffic

HERE = Path(chatd_bench.__file__).parent.parent
DEADLINE_SECONDS = 60.0
LONG = ("dm", "--connections", "4", "--warmup", "0", "--seconds", "50")


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


@pytest.fixture
def harness(tmp_path: Path):
    """The command, as a terminal has it: a group of processes of its own, in which nothing is ignored."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    begin = "import signal,runpy,sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0]='x'; "
    command = (sys.executable, "-c", begin + "runpy.run_module('chatd_bench', run_name='__main__')", *LONG)
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, process_group=0) as process:
        yield process
        process.kill()


def lines_until(process: subprocess.Popen[str], beginning: str) -> str:
    """What it says, up to the line that begins so."""
    said = []
    for line in process.stderr or ():
        said.append(line)
        if line.startswith(beginning):
            return "".join(said)
    raise AssertionError(f"it ended, and said {said}")


def loaded(pid: int) -> bool:
    """Whether the server, its Valkey and the generator are there."""
    names = [Path(f"/proc/{each}/cmdline").read_bytes() for each in family([pid])]
    return len(buses_of([pid])) == 1 and any(b"spawn_main" in name for name in names)


@pytest.mark.parametrize(
    ("number", "group", "status"),
    [(signal.SIGTERM, False, 143), (signal.SIGHUP, False, 129), (signal.SIGINT, False, 130), (signal.SIGINT, True, 130)],
)
def test_who_ends_the_harness_ends_all_of_it(harness, tmp_path: Path, number: int, group: bool, status: int) -> None:
    """Server, Valkey, generator and directory are gone, and one line says why: also where a terminal tells all of the group."""
    said_before = lines_until(harness, "members")  # told last; what is next is the run
    assert loaded(harness.pid)
    everybody = family([harness.pid])
    assert any(tmp_path.iterdir())
    (os.killpg if group else os.kill)(harness.pid, number)
    _, said = harness.communicate(timeout=DEADLINE_SECONDS)
    assert harness.returncode == status
    assert "Traceback" not in said_before + said
    assert said.splitlines()[-1].startswith(f"interrupted by {signal.Signals(number).name}")
    until(lambda: not any(is_running(pid) for pid in everybody))
    assert not list(tmp_path.glob("chatd-bench-*"))


def test_who_ignores_a_signal_goes_on_ignoring_it() -> None:
    """``nohup`` is meant."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    term = signal.getsignal(signal.SIGTERM)
    try:
        with endings.told_to_end() as ending:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(DEADLINE_SECONDS)
        assert ending.status(130) == 143
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, term)


@pytest.mark.parametrize(("victim", "said"), [("server", "the server's process {pid} has ended with status -9"),
                                              ("valkey", "process {pid}, has ended during the run")])  # fmt: skip
def test_a_process_of_the_server_that_dies_is_named(victim: str, said: str) -> None:
    """And the run does not wait for its end, where the generator notices."""
    killed: list[int] = []

    def observe(running: Running, _: float) -> Callable[[], None]:
        [pid] = running.pids if victim == "server" else buses_of(running.pids)
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)
        return lambda: None

    seconds = 40.0 if victim == "server" else 1.0
    began = time.monotonic()
    with pytest.raises(RunFailed) as failed:
        run_dm(Options(warmup=0.2, seconds=seconds, observe=observe), 4)
    assert said.format(pid=killed[0]) in str(failed.value)
    assert time.monotonic() - began < 30


# --- storm ----------------------------------------------------------------------------------------------

def test_a_storm_is_timed_from_the_loss() -> None:
    """However long it takes until a user's turn to connect comes."""
    cast = pairs(run_id(), 4, 1)
    with Chatd("chatd").start(Needs()) as running:
        load = Traffic(Order("chatd-cbor", running.credentials, running.endpoints, cast, 0, 1, 120, "1"), lambda _: None)
        try:
            assert max(load.open(0, 4)["live_s"]) < 5
            load.join(load.found())
            load.arm()
            assert load.lose(0, 2) == 2
            time.sleep(0.5)
            assert min(load.open(0, 2)["live_s"]) > 0.5
        finally:
            load.close()


def test_the_process_that_reconnects_counts_as_a_generator() -> None:
    """A storm that its own process slowed down is void."""
    answers = {"lose": [2], "open": [{"live_s": [0.1, 0.1], "cpu_s": 1000.0}], "arm": [None]}

    class Fake(Stage):
        def call(self, name: str, *arguments: object, **_: object) -> list[object]:
            time.sleep(0.01)
            return answers[name]

    running = Running((), (1,), (1,), {}, {}, {})
    on = Fake(Options(), running, None, Cast(make_users("u", 2)))  # type: ignore[arg-type]
    storm._storm(on, 1, 0, 2)
    figures = {"sent": 1, "acked": 1, "delivered": 1, "latencies": {"delivery": {}, "ack": {}, "lag": {}}}
    part = {"cpu_s": 0.1, "seconds": 1.0, "sent_total": 1, "acked_total": 1, "counted": {}, "windows": [figures]}
    result = on._result([part], [(0.0, 1.0)], Cpu(0, 0, 0, 0, 0), Cpu(0, 0, 0, 0, 0))
    assert result["cpu"]["generator_load"] > 0.9
    assert "the generator was the limit" in result["void"][0]


# --- what cannot be run -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("body_bytes", "said"), [(42, "cannot hold the stamp"), (1 << 20, "the engine takes")])
def test_the_engine_refuses_bodies_that_it_cannot_make(private_key, body_bytes: int, said: str) -> None:
    """It would end without a word."""
    dialect = ChatdCbor({"private_key": private_key.decode(), "issuer": "i", "audience": "a"})
    one, other = make_users("u", 2)
    pair = Channel(0, "pair", "pair", (one, other))
    with pytest.raises(RunFailed, match=said):
        Engine(dialect, [one, other], {pair: (one,)}, body_bytes).add(
            os.open("/dev/null", os.O_RDONLY), b"", Session(one, facts={"heartbeat_ms": "1000"}), [Membership(pair, "c", 1, True)]
        )


def test_history_is_not_asked_of_those_who_keep_none() -> None:
    """Before anything is installed or started."""
    for server in ("prosody", "anchor-c"):
        with pytest.raises(NotOffered, match="not offered"):
            run_catchup(Options(server=server), 10, 1, 0, 10)
        with pytest.raises(NotOffered, match="not offered"):
            run_history(Options(server=server), [100], 10, 10, 10)
    must_offer("chatd-json", "page")


def test_servers_without_heartbeats_may_be_idle() -> None:
    """There is nothing to wait for; with heartbeats there is."""
    result = run_idle(Options(server="anchor-py"), [2, 4], 0.1)
    assert result["checks"] == {"connections": 4, "heartbeats_answered": 0}
    with pytest.raises(RunFailed, match="longer"):
        run_idle(Options(), [2], 0.1)
