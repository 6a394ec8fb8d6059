"""The command line: what is refused before anything is started, in one line that says why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from chatd_bench import cli
from chatd_bench.cli import main
from chatd_bench.command_line import common_of, make_parser
from chatd_bench.faults import RunFailed
from chatd_bench.scenarios.stage import Options
from chatd_bench.servers.server import Running

URL = ("--url", "http://127.0.0.1:1", "--key-file", "k.pem")
PLAN = "--window is of a closed loop: give --closed-loop too"
REFUSED = [
    (("catchup", "--stored", "5", *URL), "the store of a server that runs already cannot be filled"),
    (("history", *URL), "the store of a server that runs already cannot be filled"),
    (("dm", "--nodes", "2", *URL), "nodes are not started"),
    (("dm", "--server", "anchor-c", *URL), "only a chatd that runs already"),
    (("dm", "--pid", "4194999", *URL), "there is no such process"),
    (("idle", *URL), "needs --pid"),
    (("profile", "dm", *URL), "needs --pid"),
    (("dm", "--pid", "1"), "give --url too"),
    *((("dm", "--open-loop", value), value) for value in ("0", "-1", "nan", "inf", "x")),
    (("compare", "--open-loop", "0"), "must be above 0"),
    (("dm", "--seconds", "0"), "must be above 0"),
    (("dm", "--seconds", "inf"), "must be a finite number"),
    (("dm", "--warmup", "-1"), "must not be negative"),
    (("idle", "--hold", "0"), "must be above 0"),
    (("idle", "--hold", "nan"), "must be above 0"),
    (("storm", "--during", "0"), "must be above 0"),
    (("presence", "--away-minutes", "0"), "must be above 0"),
    (("outage", "--away", "-1"), "must be above 0"),
    (("suite", "short", "--seconds", "0"), "must be above 0"),
    (("catchup", "--stored", "-1"), "a whole number from 0 on"),
    (("slow", "--bytes-per-second", "-1"), "a whole number from 0 on"),
    (("dm", "--closed-loop", "--open-loop", "5"), "one or the other"),
    (("dm", "--window", "5", "--open-loop", "5"), PLAN),
    (("compare", "--window", "5", "--open-loop", "5"), PLAN),
    *(((name, "--window", "5"), PLAN) for name in ("mix", "storm", "slow", "hostile")),
    (("profile", "mix", "--window", "5"), PLAN),
    (("hostile", "--closed-loop"), "hostile follows a plan"),
    (("hostile", "--server", "anchor-c"), "hostile is of one chatd that is started here"),
    (("hostile", *URL), "hostile is of one chatd that is started here"),
    (("hostile", "--connections", "25"), "must be groups of 10"),
    (("hostile", "--rounds", "21"), "20 at most"),
    (("hostile", "--attack", "everybody"), "invalid choice"),
    (("compare", "--body-bytes", "5"), "from 48 to 60000"),
    (("compare", "--body-bytes", "60001"), "from 48 to 60000"),
    (("compare", "--connections", "7"), "must be even"),
    (("compare", "--members", "5", "--senders", "6"), "more than there are members"),
    (("compare", "--members", "5000"), "from 2 for each generator"),
    (("compare", "--peers", "socketio,chatd"), "--peers chatd"),
    (("compare", "--peers", "socketio,socketio"), "named twice"),
    (("suite", "all", "--peers", "chatd"), "--peers chatd"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_what_cannot_be_run_is_refused(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit status 2, and the reason in the last line."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "rate", "window"),
    [
        (("dm",), None, 5),
        (("dm", "--window", "7"), None, 7),
        (("dm", "--open-loop", "50"), 50.0, 5),
        (("mix",), 11_574.0, 5),
        (("mix", "--closed-loop", "--window", "7"), None, 7),
        (("storm", "--closed-loop"), None, 5),
    ],
)
def test_a_run_is_a_plan_or_a_closed_loop(arguments: tuple[str, ...], rate: float | None, window: int) -> None:
    """With five sends in flight, where nothing else is asked for."""
    common = common_of(make_parser().parse_args(arguments))
    assert (common.rate, common.window) == (rate, window)


@pytest.mark.parametrize(
    "arguments",
    [("dm", "--save", "--results"), ("report", "--to"), ("suite", "short", "--results"), ("limits", "--save", "--results")],
)
def test_a_place_that_takes_no_results_is_told_before_the_run(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, whatever would have been run."""
    monkeypatch.setattr(cli, "_runs", lambda *_: pytest.fail("it has begun"))
    (tmp_path / "file").write_text("")
    assert main([*arguments, str(tmp_path / "file" / "below")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "results cannot be written there" in line


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://127.0.0.1:x", "ws://127.0.0.1:1"])
def test_an_address_that_is_none_is_told(address: str, tmp_path: Path) -> None:
    """It is the user's mistake, and ends in no traceback."""
    (tmp_path / "k.pem").write_text("key")
    options = make_parser().parse_args(["dm", "--url", address, "--key-file", str(tmp_path / "k.pem")])
    with pytest.raises(RunFailed):
        common_of(options)


def test_a_tiny_look_at_a_server_that_ran_already_waits_for_no_heartbeat() -> None:
    """Its own interval is not that of the tiny look."""
    running = Running((), (1,), (1,), {}, {}, {})
    options = make_parser().parse_args(["quick"])
    for server, scenarios in ((None, ["dm", "group", "idle"]), (running, ["dm", "group"])):
        assert [name for name, *_ in cli._runs(options, Options(running=server))] == scenarios


def test_a_result_of_a_server_that_ran_already_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has no settings, for what was given here was not given to that one; others have what was given."""
    monkeypatch.setenv("CHATD_LOG_LEVEL", "debug")
    for place, url in (("own", ()), ("other", (*URL, "--pid", str(os.getpid())))):
        options = make_parser().parse_args(["dm", "--save", "--results", str(tmp_path / place), *url])
        cli._save(options, {"scenario": "dm", "server": "chatd"})
    own, other = (json.loads(next((tmp_path / place).iterdir()).read_text()) for place in ("own", "other"))
    assert (own.get("external"), own["settings"]["CHATD_LOG_LEVEL"]) == (None, "debug")
    assert (other["external"], other.get("settings")) == (True, None)


def test_a_comparison_in_which_a_server_always_fails_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its table and its saved result all the same."""

    def run_dm(to: object, *_: object) -> dict[str, object]:
        raise RunFailed("a message was lost")

    monkeypatch.setattr(cli, "run_dm", run_dm)
    monkeypatch.setattr("chatd_bench.compare.install_all", lambda match: (match, {}))
    words = ("compare", "--scenario", "dm", "--peers", "anchor-py", "--rounds", "1", "--tries", "1", "--save")
    assert main([*words, "--results", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "anchor-py FAILED: a message was lost" in said.out
    assert "every run of dm on chatd, dm on anchor-py has failed" in said.err
    [file] = tmp_path.iterdir()
    assert json.loads(file.read_text())["parameters"]["window"] == 5
