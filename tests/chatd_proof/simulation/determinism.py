"""What makes a run depend on its seed alone: time, chance, threads, and the order in which tasks run.

Trio shuffles the tasks that are ready, by a generator that may be seeded (``trio._core._run``, as its own plug-in for Hypothesis
does). The order of sets of strings depends on PYTHONHASHSEED, which only a new process can have set: see ``campaign.run_seeds``.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

T = TypeVar("T")
EPOCH_NS = 1_700_000_000 * 10**9


async def run_inline(
    function: Callable[..., T], *values: object, limiter: trio.CapacityLimiter | None = None, **_: object
) -> T:
    """In the place of ``trio.to_thread.run_sync``: a thread would run while the clock does not, and beside the tasks."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if limiter is None:
        return function(*values)
    async with limiter:
        return function(*values)


@contextmanager
def _patched(random: Random) -> Iterator[None]:
    def wall_ns() -> int:
        return EPOCH_NS + int(trio.current_time() * 10**9)

    named = [module for name, module in sys.modules.items() if name.startswith("chatd.") and hasattr(module, "time_ns")]
    patches: list[Any] = [
        *(patch.object(module, "time_ns", wall_ns) for module in named),
        patch.object(trio.to_thread, "run_sync", run_inline),
        patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        patch.object(os, "urandom", random.randbytes),
        patch.object(secrets, "token_bytes", random.randbytes),
        patch.object(secrets, "token_hex", lambda size: random.randbytes(size).hex()),
        patch.object(secrets, "choice", random.choice),
    ]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()


def run_seeded(seed: int, main: Callable[[Random], Awaitable[T]]) -> T:
    """Run ``main`` to its end under a clock that jumps, with everything that is left to chance drawn from ``seed``. Raises what
    it raises."""
    random = Random(seed)
    before: Any = trio_run._r.getstate()
    trio_run._r.seed(random.getrandbits(64))
    try:
        with _patched(Random(random.getrandbits(64))):
            return trio.run(main, random, clock=MockClock(autojump_threshold=0))
    finally:
        trio_run._r.setstate(before)
