"""The report: which runs count, what is reached, and that everything that was measured is told and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chatd_bench.cli import main
from chatd_bench.faults import RunFailed
from chatd_bench.report import render
from chatd_bench.reporting.goals import AIM, LEAST, NONE, NOT, VOID, goals
from chatd_bench.reporting.markdown import write_report
from chatd_bench.reporting.results import Results, read

MACHINE = {"cpu": "a CPU", "cores": 2, "memory_mib": 8000, "kernel": "Linux", "versions": {"python": "3"}, "commit": "abc"}
CPU = {"server_s": 9.0, "bus_s": 1.0, "generators_s": 5.0, "others_s": 0.0, "stolen_s": 0.0, "generator_load": 0.5}
CURVE = {"delivery": [[0.0, 1.0], [50.0, 2.0], [99.0, 9.0], [100.0, 50.0]], "ack": []}
BUSY = "others used 50% of a core"


def latency(p99=10.0):
    return {"p50": 2.0, "p90": 5.0, "p99": p99, "p99.9": 2 * p99, "max": 50.0, "count": 100}


def flow(rate, p99=10.0, void=(), per_cpu=None):
    """The result of a run in which messages flow."""
    return {
        "acked_per_s": rate, "delivered_per_s": rate, "delivered_per_cpu_s": per_cpu or rate, "seconds": 10.0, "acked": 10 * rate,
        "latency_ms": {"delivery": latency(p99), "ack": latency(p99), "lag": None}, "curve_ms": CURVE, "cpu": CPU,
        "checks": {"deliveries_checked": 100}, "void": list(void),
    }  # fmt: skip


@pytest.fixture
def put(tmp_path):
    """Saves a result; the later ones are the newer."""
    saved = []

    def save(scenario, result, server="chatd", machine=MACHINE, baseline="", absent=None, made=None, **parameters):
        saved.append(scenario)
        report = {
            "scenario": scenario, "server": server, "time": f"2026-01-01T00:00:{len(saved):02d}Z", "baseline": baseline,
            "absent": absent, **(made or {}),
            "dialect": "chatd-cbor", "result": result, "machine": machine,
            "parameters": {"nodes": 1, "seconds": 10.0, **parameters},
        }  # fmt: skip
        (tmp_path / f"{len(saved):02d}.json").write_text(json.dumps(report))
        return tmp_path

    return save


def verdicts(directory: Path):
    """By the beginning of the goal's name."""
    return {goal.what: goal for goal in goals(Results(read([directory])))}


def compared(**medians):
    """A comparison's result."""
    ratio = {name: {"median": value, "low": value, "high": value, "each": [value] * 3} for name, value in medians.items()}
    servers = [
        {"server": name.replace("_", "-"), "keeps_history": "archive" in name, "versions": {"it": "1"}, "void": 1,
         "void_reasons": [BUSY], "failed": [], "delivered_per_s": 5.0, "delivered_per_cpu_s": 5.0,
         "latency_ms": {"p50": 1.0, "p99": 2.0},
         "delivered_per_s_ratio": ratio[name], "delivered_per_cpu_s_ratio": ratio[name]}
        for name in medians
    ]  # fmt: skip
    runs = [{"server": name.replace("_", "-"), "void": [], **flow(5.0)} for name in medians]
    return {"servers": servers, "runs": runs}


def test_the_newest_run_that_counts_is_taken(put):
    put("dm", flow(40_000.0), connections=200, seed="1")
    put("dm", flow(31_000.0), connections=200, seed="2")
    directory = put("dm", flow(90_000.0, void=[BUSY]), connections=200)
    goal = verdicts(directory)["1:1 stored, acked, delivered, saturated"]
    assert (goal.verdict, goal.measured) == (LEAST, "31,000/s over 200 connections")


@pytest.mark.parametrize(("rate", "verdict", "told"), [
    (29_000.0, VOID, "void"), (31_000.0, LEAST, "reached in a void run"), (61_000.0, AIM, "reached in a void run"),
])  # fmt: skip
def test_a_void_run_misses_nothing_and_may_reach(put, rate, verdict, told):
    """What makes it void only makes it worse."""
    directory = put("dm", flow(rate, void=[BUSY]), connections=200)
    goal = verdicts(directory)["1:1 stored, acked, delivered, saturated"]
    assert (goal.verdict, goal.void) == (verdict, (BUSY,))
    write_report([directory], directory)
    lines = [line for line in (directory / "report.md").read_text().splitlines() if line.endswith(BUSY)]
    assert any(line.startswith(f"- 1:1 stored, acked, delivered, saturated: {told}") for line in lines)


@pytest.mark.parametrize(("void", "verdict"), [({"one"}, VOID), ({"two"}, LEAST), (set(), LEAST)])
def test_what_is_held_against_a_void_run_reaches_nothing(put, void, verdict):
    """The one that was disturbed makes the other look better than it is."""
    put("dm", flow(10_000.0, void=[BUSY] if "one" in void else []), connections=200)
    directory = put("dm", flow(20_000.0, void=[BUSY] if "two" in void else []), connections=200, nodes=2)
    assert verdicts(directory)["two processes against one"].verdict == verdict


def test_half_of_a_saturation_that_was_void_may_be_less_than_half(put):
    put("dm", flow(40_000.0, void=[BUSY]), connections=200)
    directory = put("dm", flow(20_000.0, p99=1.0), connections=200, rate=20_000.0)
    goal = "1:1 at half of saturation, p99 / p99.9"
    assert verdicts(directory)[goal].verdict == VOID
    put("dm", flow(40_000.0), connections=200)
    assert verdicts(directory)[goal].verdict == AIM


def test_figures_of_another_machine_are_left_out(put):
    put("dm", flow(90_000.0), connections=200, machine={**MACHINE, "cores": 64})
    results = Results(read([put("group", flow(1.0), members=100)]))
    assert [one.scenario for one in results.all] == ["group"]
    assert results.left_out == 1


@pytest.mark.parametrize(("rate", "verdict"), [(29_000.0, NOT), (31_000.0, LEAST), (61_000.0, AIM)])
def test_a_figure_is_held_against_both_bounds(put, rate, verdict):
    assert verdicts(put("dm", flow(rate), connections=100))["1:1 stored, acked, delivered, saturated"].verdict == verdict


def test_groups_are_held_against_the_anchor(put):
    put("group", flow(160_000.0), members=100)
    directory = put("group", flow(200_000.0), server="anchor-c", members=100)
    assert verdicts(directory)["group of 100, deliveries/s"].verdict == AIM
    limit = flow(300_000.0, void=["the generator was the limit: 95%"], per_cpu=400_000.0)
    put("group", flow(160_000.0, per_cpu=200_000.0), members=1000)
    directory = put("group", limit, server="anchor-c", members=1000)
    goal = verdicts(directory)["group of 1,000, deliveries/s"]
    assert (goal.verdict, "50% of the anchor's 400,000 per CPU-second" in goal.measured) == (LEAST, True)


def test_ratios_are_those_of_the_comparison(put):
    result = compared(chatd=1.0, socketio_redis=1.5, prosody_archive=11.0)
    directory = put("compare", result, server="dm", baseline="chatd", of="dm", connections=200, rounds=3)
    found = verdicts(directory)
    assert found["the same against Socket.IO + Redis (stores nothing)"].verdict == LEAST
    assert found["the same against Prosody with archive"].verdict == NOT
    assert found["the same against ejabberd with archive"].verdict == NONE


def test_a_peer_without_a_ratio_is_told_with_the_reason(put):
    """It could not be installed; or all its runs failed; it is never missing in silence."""
    result = compared(chatd=1.0, prosody_archive=1.0)
    result["servers"][1] |= {"delivered_per_s_ratio": None, "failed": ["a message was lost\nlog"], "void_reasons": ["it failed"]}
    absent = {"ejabberd-archive": "no apt-get\nadvice"}
    directory = put("compare", result, server="dm", baseline="chatd", of="dm", connections=200, rounds=3, absent=absent)
    found = verdicts(directory)
    missing, failed = found["the same against ejabberd with archive"], found["the same against Prosody with archive"]
    assert (missing.verdict, missing.measured) == (NONE, "it could not be installed")
    assert (failed.verdict, failed.void) == (VOID, ("a message was lost", "it failed"))
    write_report([directory], directory)
    text = (directory / "report.md").read_text()
    assert "- ejabberd-archive: could not be installed: no apt-get advice\n" in text
    assert "- prosody-archive failed: a message was lost\n" in text


def test_a_comparison_of_some_does_not_take_the_place_of_one_of_all(put):
    """The newest one that has a server is taken for it."""
    told = {"server": "dm", "baseline": "chatd", "of": "dm", "connections": 200, "rounds": 3}
    put("compare", compared(chatd=1.0, socketio_redis=1.5, prosody_archive=30.0), **told)
    found = verdicts(put("compare", compared(chatd=1.0, prosody_archive=11.0), **told))
    assert found["the same against Socket.IO + Redis (stores nothing)"].verdict == LEAST
    assert found["the same against Prosody with archive"].verdict == NOT


def pages(p50):
    """Of ``history``, in a small store and in a large one that takes ``p50`` ms."""
    return [
        {"what": what, "messages": count, "requests": 9, "latency_ms": {**latency(), "p50": time}}
        for what in ("newest", "anywhere") for count, time in ((10_000, 2.0), (10_000_000, p50))
    ]  # fmt: skip


def test_a_void_look_at_history_reaches_nothing(put):
    """And never stands in for one that counts."""
    directory = put("history", {"pages": pages(2.0), "void": [BUSY]}, stored=[10_000, 10_000_000])
    goal = "history page, newest, with 10 M messages"
    assert (verdicts(directory)[goal].verdict, verdicts(directory)[goal].void) == (VOID, (BUSY,))
    put("history", {"pages": pages(9.0), "void": []}, stored=[10_000, 10_000_000])
    directory = put("history", {"pages": pages(2.0), "void": [BUSY]}, stored=[10_000, 10_000_000], requests=7)
    assert verdicts(directory)[goal].verdict == NOT


def test_nothing_delivered_reaches_no_bound(put):
    run = flow(0.0)
    run["latency_ms"]["delivery"] = None
    directory = put("mix", run, groups=200, rate=11_574.0, seconds=60.0)
    assert verdicts(directory)["the mission's mix, open loop for 60 s"].verdict == NOT


def test_half_of_saturation_is_half(put):
    put("dm", flow(40_000.0), connections=200)
    directory = put("dm", flow(8_000.0, p99=4.0), connections=200, rate=8_000.0)
    assert verdicts(directory)["1:1 at half of saturation, p99 / p99.9"].verdict == NONE
    directory = put("dm", flow(20_000.0, p99=4.0), connections=200, rate=20_000.0)
    assert verdicts(directory)["1:1 at half of saturation, p99 / p99.9"].verdict == AIM


def test_a_mix_of_less_than_a_minute_is_not_the_missions(put):
    directory = put("mix", flow(115_740.0, p99=20.0), groups=200, rate=11_574.0)
    assert verdicts(directory)["the mission's mix, open loop for 60 s"].verdict == NONE
    directory = put("mix", flow(115_740.0, p99=20.0), groups=200, rate=11_574.0, seconds=60.0)
    assert verdicts(directory)["the mission's mix, open loop for 60 s"].verdict == AIM


def everything(put) -> Path:
    """One of each kind of result."""
    for connections in (100, 1000):
        put("dm", flow(40_000.0), connections=connections)
    put("dm", flow(66_000.0), connections=100, nodes=2)
    put("mix", flow(115_740.0), groups=200, rate=11_574.0, seconds=60.0)
    steps = [
        {"connections": count, "rss_kib": 40_000 + 6 * count, "pss_kib": 30_000 + 5 * count, "share_of_core": 0.01}
        for count in (2000, 10_000)
    ]
    put("idle", {"steps": steps, "void": [], "cpu": CPU}, steps=[2000, 10_000])
    pages = [
        {"what": what, "messages": count, "requests": 9, "latency_ms": latency()}
        for what in ("newest", "anywhere") for count in (10_000, 10_000_000)
    ]  # fmt: skip
    put("history", {"pages": pages, "void": []}, stored=[10_000, 10_000_000])
    for stored in (0, 10_000_000):
        caught = {"messages": 10_000, "seconds": 0.5, "stored": stored}
        put("catchup", {"catch_up": caught, "void": []}, missed=10_000, stored=stored)
    spans = [{"name": name, **flow(1000.0)} for name in ("before", "during", "after")]
    storm = {"connections": 5000, "seconds": 8.0, "live_ms": latency(), "others_p99_factor": 1.5}
    put("storm", {"spans": spans, "storm": storm, "void": [], "cpu": CPU}, connections=5000, rate=1000.0, during=10.0)
    put("presence", {"share": 0.03}, server="")
    profile = {"functions": [{"function": "f", "file": "a.py", "self_us": 1.5, "total_us": 2.5}], "samples": 10}
    put("profile", {**flow(30_000.0), **profile, "us_per_message": 30.0, "us_per_delivery": 30.0}, of="dm", connections=100)
    return put("compare", compared(chatd=1.0, ejabberd_archive=25.0, socketio=0.8), server="dm", baseline="chatd", of="dm",
               connections=200, rounds=3, rate=None)  # fmt: skip


def test_everything_is_told_and_drawn(put, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["report", str(everything(put)), "--to", str(out)]) == 0, capsys.readouterr().err
    text = (out / "report.md").read_text()
    assert {file.name for file in out.iterdir()} == {
        "report.md", "throughput.png", "latency.png", "memory.png", "growth.png",
    }  # fmt: skip
    for said in ("6.00 KiB", "25.00 x", "8.0 s; the others' p99 1.50 times", "1.65 x", "3.00% of one core"):
        assert said in text, said
    assert "| `f` | a.py | 1.50 | 2.50 |" in text
    assert all(f"({name}.png)" in text for name in ("throughput", "latency", "memory", "growth"))
    assert NONE in text


def broken(**parts):
    """A saved result of ``dm`` with some of its parts spoilt."""
    whole = {"scenario": "dm", "time": "2026-01-01T00:00:00Z", "parameters": {"nodes": 1}, "result": flow(1.0)}
    return json.dumps({**whole, "machine": MACHINE, **parts})


BROKEN = ["{", "[]", '{"scenario": "dm"}', broken(machine="x"), broken(machine={}), broken(result={}), broken(parameters=[])]


@pytest.mark.parametrize("content", [*BROKEN, broken(scenario="idle"), broken(scenario=[])])
def test_what_is_no_result_is_told(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(RunFailed, match=r"a\.json: no result"):
        read([tmp_path])


def test_nothing_to_report_is_told(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "--save" in capsys.readouterr().err


def test_a_mix_that_was_refused_is_not_reached_and_what_was_held_of_it_is_told(put):
    put("mix", flow(2_894.0, p99=40.0), rate=2_894.0, seconds=10.0)
    directory = put("mix", flow(5_787.0, p99=90.0), rate=5_787.0, seconds=10.0)
    [goal] = [one for one in goals(Results(read([directory]), ["mix --seconds 60"])) if one.what.startswith("the mission's mix")]
    assert goal.verdict == NOT
    assert goal.measured == "not all was taken (see what failed); at 2,894/s p99 40.0 ms; at 5,787/s p99 90.0 ms"
    assert verdicts(directory)[goal.what].verdict == NONE


SATURATED = "1:1 stored, acked, delivered, saturated"


@pytest.mark.parametrize(
    ("machine", "made", "told"),
    [
        ({}, {"settings": {"CHATD_LOG_LEVEL": "debug"}}, "(CHATD_LOG_LEVEL=debug)"),
        ({}, {"external": True}, "(it ran already)"),
        ({"versions": {"python": "3, message path as Python"}}, {}, "`dm` chatd (other versions)"),
    ],
)
def test_what_was_made_otherwise_is_shown_and_reaches_nothing(put, machine, made, told):
    """It does not take the place of a result of the same parameters, nor has it a part in a goal."""
    put("dm", flow(90_000.0), connections=200, machine={**MACHINE, **machine}, made=made)
    directory = put("dm", flow(31_000.0), connections=200)
    goal = verdicts(directory)[SATURATED]
    assert (goal.verdict, goal.measured) == (LEAST, "31,000/s over 200 connections")
    write_report([directory], directory)
    text = (directory / "report.md").read_text()
    assert "- 1 results have no part in this table" in text
    assert "90,000" in text
    assert told in text


def test_where_all_was_made_otherwise_nothing_is_reached(put):
    directory = put("dm", flow(90_000.0), connections=200, made={"external": True})
    assert verdicts(directory)[SATURATED].verdict == NONE


@pytest.mark.parametrize("parameters", [{"window": 50, "body_bytes": 120}, {"window": 5, "body_bytes": 1000}])
def test_only_the_standard_window_and_body_reach_a_goal(put, parameters):
    put("dm", flow(90_000.0), connections=200, **parameters)
    directory = put("dm", flow(31_000.0), connections=200, window=5, body_bytes=120)
    assert verdicts(directory)[SATURATED].measured == "31,000/s over 200 connections"
    write_report([directory], directory)
    text = (directory / "report.md").read_text()
    assert ("body bytes 1000" in text) is (parameters["body_bytes"] == 1000)
    assert ("window 50" in text) is (parameters["window"] == 50)


@pytest.mark.parametrize(("beats", "verdict"), [(49_999, NONE), (50_000, LEAST)])
def test_idle_connections_count_where_each_had_a_heartbeat(put, beats, verdict):
    steps = [{"connections": 50_000, "rss_kib": 1, "pss_kib": 1, "share_of_core": 0.1}]
    result = {"steps": steps, "void": [], "cpu": CPU, "checks": {"connections": 50_000, "heartbeats_answered": beats}}
    goal = verdicts(put("idle", result, nodes=4))["50,000 idle connections with heartbeats, 4 processes"]
    assert goal.verdict == verdict
    assert ("49,999 heartbeats only" in goal.measured) is (verdict == NONE)


@pytest.mark.parametrize(("server", "row", "cells"), [("chatd", "stored", "| 7 |  |"), ("socketio", "acknowledged", "|  | 7 |")])
def test_only_who_keeps_history_has_stored(put, server, row, cells):
    directory = put("dm", flow(7.0), server=server, connections=200)
    write_report([directory], directory)
    assert cells in (directory / "report.md").read_text()
    lines = render({"scenario": "dm", "server": server, "parameters": {}, "result": flow(7.0)}).splitlines()
    assert sum(line.startswith(("stored", "acknowledged")) for line in lines) == 1
    assert any(line.startswith(row) for line in lines)
