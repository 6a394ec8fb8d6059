"""``slow``: some members of a group stop reading, while everybody else is measured."""

from __future__ import annotations

from chatd_bench.cast import groups
from chatd_bench.scenarios.stage import Options, Result, run_id, stage

NAMES = ("all read", "some read slowly")


def run_slow(options: Options, members: int, senders: int, slow: int, bytes_per_second: int) -> Result:
    """First everybody reads; then ``slow`` of them, who do not write, read so many bytes a second (0: nothing)."""
    cast = groups(run_id(), [members], senders, options.generators)
    with stage(options, cast) as on:
        on.set_up()
        on.call("read_slowly", [user.number for user in cast.users[members - slow :]], bytes_per_second)
        result = on.timed(spans=(options.seconds, options.seconds))
    for span, name in zip(result["spans"], NAMES, strict=True):
        span["name"] = name
    before, during = (span["latency_ms"]["delivery"] for span in result["spans"])
    if before and during:
        result["others_p99_factor"] = during["p99"] / before["p99"]
    return result
