"""The numbers (``cseq``) of each device: one for each change, none passed over, and as its welcomes say. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate

from chatd_proof.observed import Device, Observed, Send, Welcome, few, gaps, name_of
from chatd_proof.placement import Placement

Numbers = dict[int, Send]


def judge_numbers(observed: Observed, placement: Placement) -> None:
    """What was before a device's first welcome in the history is not judged: that says where its numbers begin."""
    by_device: dict[Device, Numbers] = defaultdict(dict)
    acked = (send for send, attempt in observed.attempts.items() if attempt.acked is not None)
    for send in dict.fromkeys([*acked, *placement.sure]):
        observed.verdict.looked_at["numbers"] += 1
        other = by_device[send.sender].setdefault(send.cseq, send)
        if other != send:
            observed.fault("numbers", f"{name_of(send)} is stored, and so is {name_of(other)}")
    for device, welcomes in observed.welcomes.items():
        stored = by_device.get(device, {})
        _judge_device(observed, device, stored, placement.perhaps.get(device, set()) | stored.keys())
        _judge_too_high(observed, stored, welcomes)
        _judge_too_low(observed, stored, welcomes)


def _judge_device(observed: Observed, device: Device, stored: Numbers, known: set[int]) -> None:
    """Numbers that were passed over, and welcomes that say of what is not stored that it is."""
    began = observed.welcomes[device][0].cseq
    missing = gaps((number for number in known if number > began), began)
    last = max(stored, default=began)
    passed = [(first, end) for first, end in missing if first < last]
    if passed:
        observed.fault("numbers", f"{'/'.join(device)} has cseq {last} stored, and nothing under {few(passed)}")
    reached = missing[0][0] - 1 if missing else max(known, default=began)
    for welcome in observed.welcomes[device]:
        observed.verdict.looked_at["welcome"] += 1
        if welcome.cseq > max(reached, began):
            text = f"session {welcome.session} was told that cseq {welcome.cseq} is stored, and {reached + 1} is not"
            observed.fault("welcome", text)


def _judge_too_high(observed: Observed, stored: Numbers, welcomes: list[Welcome]) -> None:
    """What is first asked for after a welcome has a number beyond it."""
    numbers = sorted(number for number in stored if number > welcomes[0].cseq)
    asked = [observed.attempts[stored[number]].asked for number in numbers]
    latest = list(accumulate(asked, max))
    for welcome in welcomes:
        place = bisect_right(numbers, welcome.cseq) - 1
        if place >= 0 and latest[place] > welcome.moment:
            send = stored[numbers[asked.index(latest[place])]]
            text = f"session {welcome.session} was told that cseq {welcome.cseq} is stored, before {name_of(send)} was sent"
            observed.fault("welcome", text)


def _judge_too_low(observed: Observed, stored: Numbers, welcomes: list[Welcome]) -> None:
    """What was acknowledged before a welcome, it tells. So it does of what was asked for in sessions before alone: whatever
    of that it does not tell is never stored."""
    attempts = observed.attempts
    moments = sorted((min(attempts[send].known, attempts[send].last_in.over), number) for number, send in stored.items())
    at, most = 0, 0
    for welcome in welcomes:
        while at < len(moments) and moments[at][0] < welcome.moment:
            most, at = max(most, moments[at][1]), at + 1
        if welcome.cseq < most:
            text = f"session {welcome.session} was told that {welcome.cseq} is the last, and {name_of(stored[most])} is stored"
            observed.fault("welcome", text)
