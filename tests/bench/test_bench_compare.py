"""Comparisons: rounds, ratios and what has no part in them; with made-up runs."""

from __future__ import annotations

from chatd_bench.compare import PER_CPU, RATE, Match, compare, compare_rows, never_well, spread
from chatd_bench.faults import RunFailed

FOREIGN = "others used 50% of a core meanwhile"
LIMIT = "the generator was the limit: 95% of a core"


def run(rate, void=(), others_s=0.0, generator_load=0.5):
    """What a run gives."""
    cpu = {"server_s": 5.0, "bus_s": 0.0, "generators_s": 2.0, "others_s": others_s, "stolen_s": 0.0}
    return {
        RATE: rate, PER_CPU: rate / 2, "seconds": 10.0, "cpu": {**cpu, "generator_load": generator_load}, "void": list(void),
        "latency_ms": {"delivery": {"p50": 1.0, "p99": 2.0}}, "server_versions": {"it": "1"},
    }  # fmt: skip


def compared(match, results):
    """``results``: by server, what its runs give, one after another."""
    left = {name: iter(some) for name, some in results.items()}
    asked = []

    def measure(name):
        asked.append(name)
        result = next(left[name])
        if isinstance(result, Exception):
            raise result
        return result

    result = compare(match, measure)
    return result, {server["server"]: server for server in result["servers"]}, asked


def test_a_ratio_is_taken_within_a_round():
    match = Match("chatd", ("prosody", "socketio"), 3)
    rates = {"chatd": (100.0, 200.0, 400.0), "prosody": (50.0, 100.0, 100.0), "socketio": (100.0, 100.0, 100.0)}
    result, servers, asked = compared(match, {name: [run(rate) for rate in some] for name, some in rates.items()})
    assert servers["prosody"][f"{RATE}_ratio"]["each"] == [2.0, 2.0, 4.0]
    assert servers["prosody"][f"{PER_CPU}_ratio"]["median"] == 2.0
    assert servers["chatd"][f"{RATE}_ratio"]["each"] == [1.0, 1.0, 1.0]
    assert servers["socketio"][RATE] == 100.0
    assert [sorted(asked[at : at + 3]) for at in (0, 3, 6)] == [["chatd", "prosody", "socketio"]] * 3
    assert not any(servers[name]["keeps_history"] for name in ("prosody", "socketio"))
    lines = compare_rows(match, result, {"ejabberd": "no apt-get"})
    assert lines[-1].startswith("ejabberd: not compared")
    assert "2.00 (2.00 to 4.00)" in next(line for line in lines if line.startswith("prosody"))


def test_the_order_of_a_round_is_drawn_by_lot_and_by_the_seed():
    def order(seed):
        rates = {name: [run(1.0)] * 8 for name in ("chatd", "prosody", "socketio", "ejabberd")}
        return compared(Match("chatd", ("prosody", "socketio", "ejabberd"), 8, seed=seed), rates)[2]

    assert order("1") == order("1")
    assert order("1") != order("2")
    assert len({tuple(order("1")[at : at + 4]) for at in range(0, 32, 4)}) > 1


def test_a_void_run_is_tried_again_and_then_left_out():
    bad = run(1.0, [FOREIGN], others_s=5.0)
    match = Match("chatd", ("prosody",), 2)
    result, servers, asked = compared(match, {"chatd": [run(10.0)] * 2, "prosody": [bad, run(5.0), bad, bad]})
    prosody = servers["prosody"]
    assert asked.count("prosody") == 4
    assert prosody[f"{RATE}_ratio"]["each"] == prosody[f"{PER_CPU}_ratio"]["each"] == [2.0]
    assert prosody["void"] == 3
    assert prosody["void_reasons"] == [f"{FOREIGN} (and 2 like it)"]
    assert any("3 runs left out" in line for line in compare_rows(match, result, {}))


def test_on_a_machine_that_is_never_quiet_void_runs_count():
    bad = run(5.0, [FOREIGN], others_s=5.0)
    match = Match("chatd", ("prosody",), 1, keep_void=True)
    result, servers, asked = compared(match, {"chatd": [run(10.0)], "prosody": [bad]})
    assert len(asked) == 2
    assert servers["prosody"][f"{RATE}_ratio"]["each"] == [2.0]
    assert any("void, and counted all the same" in line for line in compare_rows(match, result, {}))


def test_where_the_generator_was_the_limit_the_servers_cpu_time_still_counts():
    fast = run(20.0, [LIMIT], generator_load=0.95)
    _, servers, _ = compared(Match("chatd", ("anchor-c",), 1), {"chatd": [run(10.0)], "anchor-c": [fast, fast]})
    assert servers["anchor-c"][f"{RATE}_ratio"] is None
    assert servers["anchor-c"][f"{PER_CPU}_ratio"]["median"] == 0.5


def test_who_fails_has_no_ratio_and_the_others_go_on():
    failure = RunFailed("a message was lost")
    match = Match("chatd", ("prosody", "socketio"), 1)
    rates = {"chatd": [run(10.0)], "prosody": [failure, failure], "socketio": [run(5.0)]}
    result, servers, _ = compared(match, rates)
    assert servers["prosody"][f"{RATE}_ratio"] is None
    assert servers["prosody"]["failed"] == ["a message was lost"]
    assert servers["socketio"][f"{RATE}_ratio"]["median"] == 2.0
    assert any(line.startswith("prosody: 2 runs left out: it failed") for line in compare_rows(match, result, {}))


def test_a_server_each_of_whose_runs_has_failed_is_named():
    """One good run is enough, and a void one is none that failed."""
    failure = RunFailed("a message was lost")
    void = run(5.0, [FOREIGN])
    rates = {"chatd": [run(10.0)] * 2, "prosody": [failure] * 2, "socketio": [failure, run(5.0)], "ejabberd": [void] * 2}
    result, _, _ = compared(Match("chatd", ("prosody", "socketio", "ejabberd"), 2, tries=1), rates)
    assert never_well(result) == ["prosody"]


def test_the_interval_holds_the_median_and_narrows_with_agreement():
    wide, narrow = spread([1.0, 2.0, 3.0, 4.0, 5.0], "1"), spread([2.9, 3.0, 3.0, 3.0, 3.1], "1")
    assert wide["low"] <= wide["median"] == 3.0 <= wide["high"]
    assert narrow["high"] - narrow["low"] < wide["high"] - wide["low"]
    assert spread([], "1") is None
