"""The command, end to end: against a real server, and where it has to say no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import chatd_bench
import pytest
from chatd_bench.connection import RunFailed
from chatd_bench.machine import read_cpu, read_memory
from chatd_bench.server import own_server

HERE = Path(chatd_bench.__file__).parent.parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        (sys.executable, "-m", "chatd_bench", *arguments), capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.parametrize("generators", ["1", "2"])
def test_quick_runs_and_its_checks_hold(tmp_path: Path, generators: str) -> None:
    """All three scenarios against a server of their own: every check holds, and what is saved says on what it ran."""
    done = bench("quick", "--generators", generators, "--save", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    saved = {report["scenario"]: report for report in map(json.loads, map(Path.read_text, tmp_path.iterdir()))}
    assert set(saved) == {"dm", "group", "idle"}
    for report in saved.values():
        assert report["machine"]["versions"]["python"]
        assert report["result"]["cpu"]["server_s"] >= 0
    dm, group = saved["dm"]["result"], saved["group"]["result"]
    assert dm["checks"]["messages_checked"] == dm["acked_total"] == dm["checks"]["deliveries_checked"] > 0
    assert group["checks"]["deliveries_checked"] == group["acked_total"] * 19 > 0
    assert saved["idle"]["result"]["checks"]["heartbeats_answered"] > 0


TIMED = ("--warmup", "0.2", "--seconds", "0.5")
SCENARIOS = {
    "mix": ("--groups", "3", "--open-loop", "300", "--nodes", "2", "--encoding", "json", "--generators", "2", *TIMED),
    "storm": ("--connections", "20", "--others", "4", "--open-loop", "100", "--during", "1", *TIMED),
    "slow": ("--members", "10", "--senders", "3", "--open-loop", "100", *TIMED),
    "hostile": (
        "--connections", "20", "--rounds", "1", "--open-loop", "100", "--attack", "bombs", "--attack", "half-hellos",
        "--attack", "deaf", "--attack", "pages", *TIMED,
    ),
    "catchup": ("--missed", "200", "--repeats", "2", "--stored", "500", "--users", "50"),
    "history": ("--stored", "300,2000", "--users", "50", "--requests", "10"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_runs_and_its_checks_hold(tmp_path: Path, name: str) -> None:
    """Each of those that are not in quick, as small as can be: it ends well, and says what it checked."""
    done = bench(name, *SCENARIOS[name], "--save", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (saved,) = (json.loads(file.read_text()) for file in tmp_path.iterdir())
    result = saved["result"]
    assert result["server_versions"]["python"]
    match name:
        case "mix":
            assert result["checks"]["deliveries_checked"] == result["checks"]["messages_checked"] * 10 > 0
            assert result["latency_ms"]["delivery"]["count"] == result["latency_ms"]["ack"]["count"] * 10
        case "storm":
            assert result["storm"]["connections"] == result["storm"]["live_ms"]["count"] == 20
            assert [span["name"] for span in result["spans"]] == ["before", "during", "after"]
        case "slow":
            before, during = result["spans"]
            assert before["delivered"] > 0 < during["delivered"]
        case "hostile":
            assert [one["attack"] for one in result["attacks"]] == ["bombs", "half-hellos", "deaf", "pages"]
            for one in result["attacks"]:
                [only] = one["rounds"]
                assert only["calm"]["p99"] > 0 < only["attacked"]["p99"]
                assert only["attacker"]["attempts"] > 0 < only["attacker"]["connections"]
            assert only["attacker"]["received"] > 100_000, "pages, and not refusals"
        case "catchup":
            assert result["catch_up"]["messages"] == result["checks"]["messages_checked"] == 200
        case "history":
            assert [page["messages"] for page in result["pages"]] == [300, 300, 2000, 2000]
            assert result["checks"]["pages"] == 40


def test_search_makes_an_archive_and_asks_it(tmp_path: Path) -> None:
    """Each kind of request is answered with what was asked for, and some of each find something."""
    sizes = ("--users", "120", "--messages", "3000", "--requests", "30", "--searchers", "2")
    done = bench("search", *sizes, "--save", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "3,000 in" in done.stderr
    (saved,) = (json.loads(file.read_text()) for file in tmp_path.iterdir())
    assert len(saved["result"]["kinds"]) == 10
    for name, kind in saved["result"]["kinds"].items():
        assert kind["requests"] == 30
        assert kind["answers"] > 0, name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dm", "--connections", "7"), "must be even"),
        (("dm", "--body-bytes", "5"), "from 48 to"),
        (("storm", "--others", "3"), "must be even"),
        (("slow", "--members", "4", "--senders", "4"), "more than there are members"),
        (("group", "--members", "5000"), "from 2 for each generator to 1001"),
        (("group", "--members", "5", "--senders", "6"), "more than there are members"),
        (("idle", "--steps", "5,5"), "invalid"),
        (("search", "--requests", "3"), "at least one for each searcher"),
        (("dm", "--url", "http://127.0.0.1:1"), "--key-file"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: tuple[str, ...], said: str) -> None:
    """What cannot be run exits with 2 and names the option, before anything is started."""
    done = bench(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_server_that_does_not_start_is_told_with_its_own_words() -> None:
    """The server's complaint is in the error, and not only that there was one."""
    with pytest.raises(RunFailed, match=r"limits\.connections"), own_server({"CHATD_LIMITS_CONNECTIONS": "0"}):
        pass


def test_cpu_and_memory_are_those_of_the_process() -> None:
    """A process's own figures are seen to grow with what it does."""
    before = read_cpu([os.getpid()], [])
    kept = bytearray(64 * 2**20)
    while sum(os.times()[:2]) < before.server + 0.1:
        kept[::4096] = b"x" * len(kept[::4096])
    assert read_cpu([os.getpid()], []).server > before.server
    assert read_memory(os.getpid()).rss > 64 * 2**10


def test_limits_are_measured(tmp_path: Path) -> None:
    """All three measurements run against a Valkey of their own, and what is printed is what is saved."""
    done = bench("limits", "--seconds", "0.3", "--nodes", "2", "--save", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.iterdir()
    result = json.loads(file.read_text())["result"]
    assert result["in_process"]["checks"] > 0
    assert result["through_redis"]["latency_ms"]["p99"] > 0
    assert len(result["over_nodes"]["by_node"]) == 2
    assert f"{result['over_nodes']['passed']:,} of " in done.stdout
