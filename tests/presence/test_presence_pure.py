"""The parts of presence that only decide: merging, the roster of a node, what is known of the watched, timers."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from chatd.presence.roster import Roster, shown
from chatd.presence.status import NOWHERE, PresenceState, Status, device_status, merge, merge_states, public_part
from chatd.presence.watched import Watched
from chatd.timers import Timers

AWAY, RENEW, EXPIRY = 300.0, 30.0, 60.0
states = st.builds(PresenceState, st.sampled_from([Status.AWAY, Status.ONLINE]), st.integers(0, 5))


@dataclass(eq=False)
class Device:
    last_active: float
    inactive: bool = False
    idle: bool = False


@given(st.lists(states), st.randoms())
def test_the_order_of_nodes_does_not_matter(found: list[PresenceState], random: object) -> None:
    """Merged in any order, and in any grouping, it is the same: two devices never make it flip-flop."""
    mixed = list(found)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert merge_states(mixed) == merge_states(found)
    assert merge(state.status for state in found) == merge([merge([state.status]) for state in found[::-1]])
    if any(state.seen == 0 for state in found):
        assert merge_states(found).seen == 0


def test_who_is_away() -> None:
    """After 5 minutes of nothing but heartbeats, or at the word of the last one."""
    assert device_status(Device(0.0), 299.9, AWAY) is Status.ONLINE
    assert device_status(Device(0.0), 300.0, AWAY) is Status.AWAY
    assert device_status(Device(0.0, inactive=True), 1.0, AWAY) is Status.AWAY
    assert public_part(PresenceState(Status.ONLINE, 5)) == PresenceState(Status.ONLINE, 0)
    assert public_part(PresenceState(Status.AWAY, 5)) == PresenceState(Status.AWAY, 5)


actions = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "act", "sleep", "wake", "wait", "wait"]), st.integers(0, 2), st.floats(0, 90)),
    max_size=40,
)


@given(actions)
def test_the_roster_against_a_model(run: list[tuple[str, int, float]]) -> None:
    """At every moment at which it is looked at, the status is what the rule says of all devices; leases never lapse."""
    roster = Roster(away=AWAY, renew=RENEW, expiry=EXPIRY)
    devices: dict[int, Device] = {}
    now, left, status, leased = 0.0, -1e9, Status.OFFLINE, 0.0
    for action, number, pause in run:
        for _ in range(int(pause * 10)):
            now += 0.1
            status, leased = _look(roster, now, status, leased)
        if action == "enter" and number not in devices:
            devices[number] = Device(now)
            roster.enter("ann", devices[number], now)
        elif action == "leave" and number in devices:
            roster.leave("ann", devices.pop(number), now)
            left = now
        elif number in devices and action in ("act", "sleep", "wake"):
            if action == "act":
                devices[number].last_active = now
            else:
                devices[number].inactive = action == "sleep"
            roster.look("ann", now)
        status, leased = _look(roster, now, status, leased)
        if devices:
            assert status is max(device_status(device, now, AWAY) for device in devices.values())
            assert now - leased < RENEW + 0.2
        elif now - left > EXPIRY + 0.2:
            assert status is Status.OFFLINE
            assert len(roster) == 0


def _look(roster: Roster, now: float, status: Status, leased: float) -> tuple[Status, float]:
    for user, person, renew in roster.due(now):
        status = person.status
        leased = now if renew else leased
        roster.forget(user)
    return status, leased


def test_who_comes_back_was_never_gone() -> None:
    """A reconnect within the expiry changes nothing that others see."""
    roster = Roster(away=AWAY, renew=RENEW, expiry=EXPIRY)
    first = Device(0.0)
    roster.enter("ann", first, 0.0)
    roster.due(0.0)
    roster.leave("ann", first, 10.0)
    seen = [person.status for _, person, _ in roster.due(40.0)]
    roster.enter("ann", Device(69.0), 69.0)
    seen += [person.status for _, person, _ in roster.due(80.0)]
    assert set(seen) == {Status.ONLINE}


def test_what_is_hidden_is_not_shown() -> None:
    """Nothing before the node knows what the user hides; no status and no time of who hides presence."""
    roster = Roster(away=AWAY, renew=RENEW, expiry=EXPIRY)
    roster.enter("ann", Device(2.0), 2.0)
    ((_, person, _),) = roster.due(2.0)
    assert shown(person, 1000.0) == NOWHERE
    person.shows = (True, True)
    assert shown(person, 1000.0) == shown(person, 1000.9) == PresenceState(Status.ONLINE, 3000)
    person.shows = (True, False)
    assert shown(person, 1000.0) == PresenceState(Status.ONLINE, 0)
    person.shows = (False, True)
    assert shown(person, 1000.0) == NOWHERE


def test_leases_of_other_nodes_run_out_and_own_ones_do_not() -> None:
    """``expire`` lets go of what is over; ``extend`` gives more time; the last known moment stays known."""
    watched: Watched[object] = Watched()
    watched.hold("a", PresenceState(Status.ONLINE, 7), 60.0)
    watched.hold("b", PresenceState(Status.AWAY, 5), 30.0)
    assert watched.state() == PresenceState(Status.ONLINE, 0)
    assert watched.look_at(0.0, 45.0) == 30.0
    watched.extend(50.0)
    watched.expire(49.0, "")
    assert set(watched.leases) == {"a", "b"}
    watched.expire(60.0, "")
    assert watched.state() == PresenceState(Status.OFFLINE, 7)
    watched.hold("", PresenceState(Status.AWAY, 9), 0.0)
    watched.expire(100.0, "")
    assert watched.state() == PresenceState(Status.AWAY, 9)
    watched.hold("", PresenceState(Status.OFFLINE, 0), 0.0)
    assert watched.state() == NOWHERE


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "due"]), st.integers(0, 5), st.integers(0, 20)), max_size=200))
def test_timers_against_a_model(run: list[tuple[str, int, int]]) -> None:
    """What is due is due once, earliest first, at the moment that was said last; memory is bounded by the keys."""
    timers, model = Timers[int](), dict[int, int]()
    for action, key, at in run:
        if action == "set":
            timers.set(key, at)
            model[key] = at
        elif action == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            due = timers.due(at)
            assert sorted(due) == sorted(key for key, when in model.items() if when <= at)
            assert [model[key] for key in due] == sorted(model[key] for key in due)
            for gone in due:
                del model[gone]
        assert len(timers) == len(model)
        assert len(timers._heap) <= 2 * len(model) + 65
