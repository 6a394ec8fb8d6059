"""A client of the library on the scripted server, which reconnects at once, and what it tells."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from chatd_client import Client, open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Quick(random.Random):
    """Chance that always says: at once."""

    def uniform(self, a: float, b: float) -> float:
        return a


@asynccontextmanager
async def connected(server: Any, **more: Any) -> AsyncIterator[Client]:
    """A client for at most 20 s; ``more`` goes before what is given here."""
    given = {"token": "t", "device": "laptop", "rng": Quick(), **more}
    with trio.fail_after(20):
        async with open_client(server.url, **given) as client:
            yield client


async def take(client: Client, wanted: Callable[[Any], bool]) -> list[Any]:
    """Facts up to and including the first that is wanted."""
    facts: list[Any] = []
    async for fact in client.events():
        facts.append(fact)
        if wanted(fact):
            break
    return facts
