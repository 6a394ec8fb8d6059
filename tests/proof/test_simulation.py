"""The simulation: kept seeds and new ones hold, a seed replays exactly, and every guard that is switched off is caught."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import pytest
import trio
from chatd_proof.simulation.campaign import run_seed
from chatd_proof.verdict import QUESTIONS
from msgspec.structs import replace
from structlog.testing import capture_logs

from chatd.adapters.sqlite.commit import Commit
from chatd.delivery.hub import Hub
from chatd.delivery.repair import Repair
from chatd.delivery.topic import Topic

KEPT = 16
NEW = 4
ENOUGH = 100
"""Seeds that are tried, from the one on in which a guard that was switched off was caught when this was written."""


def proof(*words: str) -> str:
    """The command, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "chatd_proof", *words], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kept_seeds_and_new_ones_hold() -> None:
    """Prints the new ones, to be tried again."""
    said = proof("simulate", "--seeds", str(KEPT), "--new", str(NEW), "--jobs", "1")
    print(said)
    assert said.endswith("\nholds\n")


def test_a_seed_is_one_run() -> None:
    """The same twice, to the last record; no two seeds are the same, and none is left out."""
    once, again = (proof("simulate", "--seeds", "6", "--traces", "--jobs", "1").splitlines()[:6] for _ in range(2))
    assert once == again
    seeds, digests = zip(*map(str.split, once), strict=True)
    assert seeds == tuple("012345"), "none is left out"
    assert len(set(digests)) == 6


# --- guards, switched off -------------------------------------------------------------------------


def _stored_again(self: Any, sent: Any) -> Any:
    """Under no number, or the table's own index would refuse it."""
    return self._acts[type(sent)](replace(sent, cseq=0))


def _never_fenced(apply: Any) -> Callable[..., Any]:
    def carry_out(self: Any, operation: Any) -> Any:
        author = getattr(operation, "author", None)
        if author is None:
            return apply(self, operation)
        now = self._cache.device(author.device_no).epoch
        return apply(self, replace(operation, author=replace(author, epoch=now)))

    return carry_out


def _any_number(self: Any, sent: Any, device: Any, act: Any) -> Any:
    outcome = act(sent)
    if hasattr(outcome, "events"):
        device.cseq = max(device.cseq, sent.cseq)
        self._devices[device.no] = device
    return outcome


def _stored_late(repeat: Any) -> Callable[..., Any]:
    def carry_out(self: Any, sent: Any) -> Any:
        try:
            return repeat(self, sent)
        except TypeError:  # its number was passed over
            return self._acts[type(sent)](sent)

    return carry_out


def _as_it_comes(self: Any, event: Any) -> Iterable[Any]:
    if self.head is None:
        return ()
    self.head = self.seen = max(event.seq, self.head)
    return (event,)


def _without_repeats(self: Any, event: Any) -> Iterable[Any]:
    if self.head is None or event.seq <= self.head:
        return ()
    self.head = self.seen = event.seq
    return (event,)


async def _never(self: Any) -> None:
    await trio.sleep_forever()


def _not_detached(self: Any, topic: Any, event: Any) -> None:
    return None


GUARDS: dict[str, tuple[Any, dict[str, Any], str, int]] = {
    "a repeat is told from a new message": (Commit, {"_repeat": _stored_again}, "twice", 12),
    "a session that was replaced is fenced off": (Commit, {"apply": _never_fenced(Commit.apply)}, "unasked", 12),
    "numbers are taken one after the other": (
        Commit, {"_numbered": _any_number, "_repeat": _stored_late(Commit._repeat)}, "senders", 58,
    ),
    "a topic waits for what is missing": (Topic, {"offer": _without_repeats}, "order", 16),
    "a topic lets nothing through twice": (Topic, {"offer": _as_it_comes}, "order", 12),
    "repair looks for what the bus lost": (Repair, {"run": _never}, "unseen", 12),
    "who was removed is detached": (Hub, {"_detach": _not_detached}, "non_member", 17),
}  # fmt: skip
"""Whose methods are replaced, by which; the question that finds it; and a seed in which it does."""


@pytest.mark.parametrize("guard", GUARDS)
def test_switching_a_guard_off_is_caught(guard: str) -> None:
    """By the question that it is about, in a run in which nothing is found with the guard on."""
    owner, instead, question, first = GUARDS[guard]
    assert question in QUESTIONS
    with capture_logs():  # what the nodes say of what is done to them
        with patch.multiple(owner, **instead):
            seed = next((seed for seed in range(first, first + ENOUGH) if run_seed(seed).broken[question]), None)
        print(f"found with seed {seed}")
        assert seed is not None, f"{ENOUGH} seeds, and nobody caught that {guard}"
        control = run_seed(seed)
    assert not control.text, control.text


