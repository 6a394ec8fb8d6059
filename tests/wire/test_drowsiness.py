"""Naps: only where many are served and nobody says anything. Pure but for its counter."""

from __future__ import annotations

from chatd.wire.poller import NAPS_FROM, Drowsiness


class Server:
    """Clients have said so many things; ``hear`` is one look at so many sockets."""

    def __init__(self) -> None:
        self.said = 0
        self._drowsiness = Drowsiness(lambda: self.said)

    def hear(self, served: int, now: float) -> bool:
        return self._drowsiness.after(served, now)


def test_many_heartbeats_and_nothing_else_make_drowsy() -> None:
    """From the first second in which there were so many."""
    server = Server()
    assert not server.hear(NAPS_FROM - 1, 10.0)
    assert not server.hear(NAPS_FROM, 10.5)
    assert server.hear(1, 11.0)
    assert server.hear(NAPS_FROM, 11.5)


def test_a_few_heartbeats_do_not() -> None:
    """Naps would save nothing there."""
    server = Server()
    for second in range(5):
        assert not server.hear(NAPS_FROM - 1, 10.0 + second)


def test_whoever_says_something_ends_the_naps() -> None:
    """At once, and for a second at least."""
    server = Server()
    server.hear(NAPS_FROM, 10.0)
    assert server.hear(NAPS_FROM, 11.0)
    server.said += 1
    assert not server.hear(NAPS_FROM, 11.1)
    assert not server.hear(NAPS_FROM, 12.0)
    assert server.hear(0, 12.1)
