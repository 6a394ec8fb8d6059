"""``dm``, ``group`` and ``mix``: messages flow, to one, to many, or as the mission has it; open loop or closed."""

from __future__ import annotations

from chatd_bench.cast import groups, pairs
from chatd_bench.scenarios.stage import Options, Result, run_id, stage

MIX_RATE = 11_574.0
"""Messages a second: a thousand million a day."""
MIX_MEMBERS = 11
"""Ten recipients, the mission's mean."""


def run_dm(options: Options, connections: int) -> Result:
    """Pairs that write to each other."""
    with stage(options, pairs(run_id(), connections, options.generators)) as on:
        on.set_up()
        return on.timed()


def run_group(options: Options, members: int, senders: int) -> Result:
    """One group, all members connected, some of whom write."""
    with stage(options, groups(run_id(), [members], senders, options.generators)) as on:
        on.set_up()
        return on.timed()


def run_mix(options: Options, count: int) -> Result:
    """Groups of eleven, everybody of whom writes."""
    with stage(options, groups(run_id(), [MIX_MEMBERS] * count, MIX_MEMBERS, options.generators)) as on:
        on.set_up()
        return on.timed()
