"""The suites: command lines that can be run, one after another, and a report even where some fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from chatd_bench.cli import main
from chatd_bench.command_check import wrong
from chatd_bench.command_line import make_parser
from chatd_bench.faults import RunFailed
from chatd_bench.suite import HALF, Suite, run_suite

from tests.bench.test_bench_report import MACHINE, compared, flow


@pytest.mark.parametrize("name", ["short", "all"])
def test_every_step_is_a_command_line(name, tmp_path):
    steps = Suite(name, tmp_path, peers="prosody,anchor-c", keep_void=True).steps()
    for step in steps:
        assert wrong(make_parser().parse_args(["5" if word == HALF else word for word in step])) is None, step
    scenarios = {step[0] for step in steps}
    assert {"dm", "group", "mix", "idle"} <= scenarios
    others = {"storm", "slow", "hostile", "catchup", "history", "presence", "limits", "compare", "profile"}
    assert name == "short" or others <= scenarios


def test_the_steps_are_run_and_reported(tmp_path, capsys):
    """Half of saturation is what the step before it has found; a step that fails is told at the end."""
    asked = []

    def run(arguments):
        asked.append(arguments)
        options = make_parser().parse_args(arguments)
        if options.scenario == "group":
            return 1
        parameters = {"connections": options.connections, "nodes": options.nodes, "rate": options.open_loop}
        report = {"scenario": "dm", "server": options.server, "time": f"2026-01-01T00:00:0{len(asked)}Z",
                  "parameters": parameters, "result": flow(1000.0), "machine": MACHINE}  # fmt: skip
        (options.results / f"{len(asked)}.json").write_text(json.dumps(report))
        return 0

    assert run_suite(Suite("short", tmp_path / "it", only=("dm", "group")), run) == 1
    assert asked[1][:3] == ["dm", "--open-loop", "500"]
    assert "group --members 1000" in capsys.readouterr().err
    assert "500/s, 50% of saturation" in (tmp_path / "it" / "report.md").read_text()


@pytest.mark.parametrize(("void", "runs"), [([], 1), (["others used 50% of a core"], 3)])
def test_a_void_run_is_made_again(tmp_path, void, runs):
    """As often as is said, and no step fails for it."""
    asked = []

    def run(arguments):
        asked.append(arguments)
        report = {"scenario": "mix", "server": "chatd", "time": "2026-01-01T00:00:00Z", "parameters": {"nodes": 1, "rate": 1.0},
                  "result": flow(10.0, void=void), "machine": MACHINE}  # fmt: skip
        (tmp_path / f"{len(asked)}.json").write_text(json.dumps(report))
        return 0

    assert run_suite(Suite("short", tmp_path, tries=3, only=("mix",)), run) == 0
    assert len(asked) == runs


def test_a_run_that_failed_is_made_again(tmp_path):
    """Once it holds, its step has not failed."""
    asked = []

    def run(arguments):
        asked.append(arguments)
        if len(asked) == 1:
            raise RunFailed("overloaded")
        if len(asked) == 2:
            return 1
        report = {"scenario": "mix", "server": "chatd", "time": "2026-01-01T00:00:00Z", "parameters": {"nodes": 1, "rate": 1.0},
                  "result": flow(10.0), "machine": MACHINE}  # fmt: skip
        (tmp_path / "it.json").write_text(json.dumps(report))
        return 0

    assert run_suite(Suite("short", tmp_path, tries=3, only=("mix",)), run) == 0
    assert len(asked) == 3


def test_ctrl_c_ends_all_of_it(tmp_path, capsys):
    """And how to go on is told."""
    asked = []
    assert run_suite(Suite("all", tmp_path), lambda arguments: asked.append(arguments) or 130) == 130
    assert len(asked) == 1
    assert "suite all --resume" in capsys.readouterr().err


def recorder(asked, void=()):
    """Runs nothing, and leaves a result of the commit ``abc``."""

    def run(arguments):
        options = make_parser().parse_args(arguments)
        asked.append(options.step)
        report = {"scenario": options.scenario, "server": "chatd", "step": options.step,
                  "time": f"2026-01-01T00:00:0{len(asked)}Z",
                  "parameters": {"connections": 2, "nodes": 1, "rate": None},
                  "result": flow(10.0, void=void), "machine": MACHINE}  # fmt: skip
        (options.results / f"{len(asked)}-{options.scenario}.json").write_text(json.dumps(report))
        return 0

    return run


@pytest.mark.parametrize(
    ("machine", "void", "again"),
    [
        ({}, [], False),
        ({"cores": 64}, [], True),
        ({"commit": "def"}, [], True),
        ({"commit": "abc-dirty"}, [], True),
        ({}, ["others used 50% of a core"], True),
    ],
)
def test_what_is_done_is_not_made_again(tmp_path, monkeypatch, capsys, machine, void, again):
    """Where the result is of this machine and this very source, and counts; and only when that is asked for."""
    monkeypatch.setattr("chatd_bench.suite.describe", lambda: {**MACHINE, **machine})
    suite = Suite("short", tmp_path, only=("mix",), tries=1)
    first, second, third = [], [], []
    run_suite(suite, recorder(first, void))
    assert run_suite(replace(suite, resume=True), recorder(second)) == 0
    assert (second == first) is again
    assert ("done already" in capsys.readouterr().err) is not again
    run_suite(suite, recorder(third))
    assert third == first


@pytest.mark.parametrize("other", ["versions", "settings"])
def test_what_was_made_otherwise_is_made_again(tmp_path, monkeypatch, other):
    """Of this very source, but with other server settings, or with a Python or message path that is another."""
    machine = {**MACHINE, **({"versions": {"python": "3, compiled"}} if other == "versions" else {})}
    monkeypatch.setattr("chatd_bench.suite.describe", lambda: machine)
    monkeypatch.setenv(*(("CHATD_LOG_LEVEL", "debug") if other == "settings" else ("CHATD_BENCH_PEERS", "all")))
    suite = Suite("short", tmp_path, only=("mix",), tries=1, resume=True)
    first, second = [], []
    run_suite(suite, recorder(first))
    run_suite(suite, recorder(second))
    assert first == second


def test_a_step_that_is_refused_does_not_end_the_others(tmp_path):
    """As a command line is by argparse."""
    recorded = recorder([])

    def run(arguments):
        if arguments[0] == "idle":
            raise SystemExit(2)
        return recorded(arguments)

    assert run_suite(Suite("short", tmp_path, only=("mix", "idle")), run) == 1
    assert "- `idle`" in (tmp_path / "report.md").read_text()


def test_a_comparison_without_a_ratio_is_made_again(tmp_path, monkeypatch):
    """When the suite is resumed, and not before: it has had its tries within its rounds."""
    monkeypatch.setattr("chatd_bench.suite.describe", lambda: MACHINE)
    suite = Suite("all", tmp_path, only=("compare",), tries=3, resume=True)
    asked = []

    def run(arguments):
        options = make_parser().parse_args(arguments)
        asked.append(options.step)
        result = compared(chatd=1.0, anchor_c=1.0)
        if options.of == "dm":
            result["servers"][1]["delivered_per_s_ratio"] = None
        report = {"scenario": "compare", "server": options.of, "baseline": "chatd", "step": options.step,
                  "time": "2026-01-01T00:00:00Z",
                  "parameters": {"of": options.of, "connections": 200, "members": 100, "rounds": 5, "rate": None},
                  "result": result, "machine": MACHINE}  # fmt: skip
        (options.results / f"{len(asked)}.json").write_text(json.dumps(report))
        return 0

    assert run_suite(suite, run) == 0
    assert [step.split()[2] for step in asked] == ["dm", "group", "group"]
    assert run_suite(suite, run) == 0
    assert [step.split()[2] for step in asked[3:]] == ["dm"]


def test_what_failed_is_in_the_report(tmp_path):
    """What has no result is not missing in silence."""
    recorded = recorder([])
    assert run_suite(Suite("short", tmp_path, only=("mix", "idle")), lambda asked: asked[0] == "idle" or recorded(asked)) == 1
    assert "- `idle`" in (tmp_path / "report.md").read_text()


def test_a_mistake_in_a_step_does_not_end_the_others(tmp_path, capsys):
    """Whatever it is, it is shown, and hours of others go on."""
    recorded = recorder([])

    def run(arguments):
        if arguments[0] == "mix":
            raise ZeroDivisionError("a mistake")
        return recorded(arguments)

    assert run_suite(Suite("short", tmp_path, only=("mix", "dm")), run) == 1
    assert "ZeroDivisionError: a mistake" in capsys.readouterr().err
    assert "- `mix" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("words", [("--only", "foo"), ("--peers", "foo")])
def test_what_is_not_there_is_told_before_anything_runs(tmp_path, capsys, words):
    try:
        assert main(["suite", "all", "--results", str(tmp_path), *words]) == 1
    except SystemExit as end:
        assert end.code == 2
    said = capsys.readouterr().err
    assert "foo" in said
    assert "== 1 of" not in said
